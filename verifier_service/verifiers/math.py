"""Mathematics: a strict judge of our own, and math-verify for what it cannot decide. Binary."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sandbox.types import MIB, Limits, Status
from verifier_service import extraction
from verifier_service.errors import CannotJudge, TaskRefused
from verifier_service.mathematics.equivalence import decide
from verifier_service.mathematics.reading import Reading, reading
from verifier_service.schemas import MathTask
from verifier_service.verifier import Judgement, Tools

SYMBOLIC = "verifier_service.mathematics.symbolic:compare"
# CPU seconds and memory of one symbolic comparison; SymPy itself takes 60 MiB.
SYMBOLIC_LIMITS = Limits(cpu_time_s=5.0, memory_bytes=1024 * MIB)

REASONS: Mapping[str, str] = {
    "exact": "the same text in another spelling",
    "number": "the same number",
    "equivalent": "the same value or structure, by the strict judge",
    "symbolic": "accepted by math-verify",
    "not_equivalent": "another answer",
    "not_evaluated": "the answer restates an operation (a sum, an integral, a factorial) instead of carrying it out",
    "inconsistent": "the answer is a chain of equations that do not hold",
    "comparison_limit": "comparing the answer hit its limit of CPU time or memory",
}


class MathVerifier:
    kind: ClassVar[str] = "math"
    task_model: ClassVar = MathTask
    version: ClassVar[str] = "4"
    description: ClassVar[str] = (
        "Mathematical answers in LaTeX or plain notation, equal by value and structure; binary."
    )
    lane: ClassVar = "light"
    reasons: ClassVar[Mapping[str, str]] = REASONS

    def admit(self, task: MathTask) -> None:
        for gold in task.golds:
            refuse_unusable(gold)

    def extract(self, task: MathTask, text: str) -> str | None:
        extract = extraction.boxed_answer if task.extract == "boxed" else extraction.any_answer
        return extract(text, several=asks_for_several(task.golds)) or None

    def judge(self, task: MathTask, answer: str, tools: Tools) -> Judgement:
        return judge_expression([gold_reading(gold) for gold in task.golds], answer, tools)

    def oracle(self, task: MathTask) -> str | None:
        return f"\\boxed{{{task.golds[0]}}}"

    def info(self) -> Mapping[str, Any]:
        return {"symbolic_cpu_limit_s": SYMBOLIC_LIMITS.cpu_time_s}


def asks_for_several(golds: Sequence[str]) -> bool:
    """Whether a ground truth is a list, so that several boxes may be one answer."""
    return any(mark in gold for gold in golds for mark in (",", ";", " and "))


def gold_reading(gold: str) -> Reading:
    """The reading of a ground truth, which may come as a box or a sentence around one."""
    return reading(extraction.boxed_answer(gold, several=True) or gold)


def refuse_unusable(gold: str) -> None:
    """Raises `TaskRefused` for a ground truth that says nothing, or is visibly cut off."""
    read = gold_reading(gold)
    if not read.text:
        raise TaskRefused("ground_truth", "the ground truth is empty")
    if read.node is None and read.words is None and read.text.count("{") != read.text.count("}"):
        raise TaskRefused("ground_truth", "the ground truth has unbalanced braces")


def judge_expression(golds: Sequence[Reading], answer: str, tools: Tools) -> Judgement:
    """Accepted where either judge accepts; what the strict judge proves is not asked again.

    Raises `CannotJudge("ground_truth")` where neither judge can read the ground truth.
    """
    decisions = [decide(gold, answer) for gold in golds]
    for decision in decisions:
        if decision.equal:
            return Judgement(1.0, decision.reason)
    undecided = [gold for gold, decision in zip(golds, decisions, strict=True) if decision.equal is None]
    if not undecided:
        _require_readable(golds, tools)
        return Judgement(0.0, decisions[0].reason)
    said = _second_judge(undecided, answer, tools)
    if said and said["equal"]:
        return Judgement(1.0, "symbolic")
    if said is None or len(said["unreadable"]) == len(undecided):
        _require_readable(undecided, tools)
    return Judgement(0.0, "not_equivalent" if said else "comparison_limit")


def _second_judge(golds: Sequence[Reading], answer: str, tools: Tools) -> dict[str, Any] | None:
    """What `symbolic.compare` says; None where it hits its limits. Raises `CannotJudge` without a sandbox."""
    payload = {"golds": [gold.bare for gold in golds], "answer": reading(answer).bare}
    result = tools.isolated(SYMBOLIC).call(payload, limits=SYMBOLIC_LIMITS)
    if result.status is Status.SANDBOX_ERROR:
        raise CannotJudge("sandbox", result.detail)
    return result.value if result.status is Status.OK else None


def _require_readable(golds: Sequence[Reading], tools: Tools) -> None:
    """What is refused without a look at the ground truth (an "or", a restated sum), or at the second judge's limit,
    earns 0 only where that can be read: else a completion could choose between 0 and `error`. Raises `CannotJudge`."""
    if any(gold.node or gold.number or gold.words for gold in golds):
        return
    said = _second_judge(golds, "0", tools)
    if said is None or len(said["unreadable"]) == len(golds):
        raise CannotJudge("ground_truth", "neither judge can read the ground truth")
