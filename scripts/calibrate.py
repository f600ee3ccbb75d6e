"""Writes the calibration card: how often each verifier is wrong on labelled sets that nobody here made.

    python scripts/calibrate.py [FOLDER ...] [--output docs/calibration.md]

FOLDER holds sets as `NAME/*.jsonl` in the formats of `ADAPTERS` (default `../shared/cases`). The card names rows by id
only; their texts are not ours to publish.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts import rule_sets
from verifier_service.extraction import last_boxed
from verifier_service.registry import BUILT_IN, parse_task, verifier_for
from verifier_service.tools import WorkerTools
from verifier_service.verify import verify

DEFAULT_FOLDER = Path("../shared/cases")


@dataclass(frozen=True)
class Trial:
    """One labelled answer: what a verifier is asked, and what it should say."""

    id: str
    group: str
    task: dict[str, Any]
    completion: str
    expected: float
    """The reward it should earn."""
    baseline: Callable[[], float] | None = None
    """What the library earns it: a call, made in the main thread."""


_SAME_REWARD = 1e-6


@dataclass
class Score:
    """Counts of one judge on one group: paid too little of what deserves something, too much of what does not
    deserve all. For binary verdicts these are the false negatives and the false positives."""

    num_right: int = 0
    num_wrong: int = 0
    false_negatives: list[str] = field(default_factory=list)
    false_positives: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(self, trial: Trial, reward: float | None) -> None:
        self.num_right += trial.expected > 0
        self.num_wrong += trial.expected < 1
        if reward is None:
            self.errors.append(trial.id)
        elif reward < trial.expected - _SAME_REWARD:
            self.false_negatives.append(trial.id)
        elif reward > trial.expected + _SAME_REWARD:
            self.false_positives.append(trial.id)


def wilson(successes: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of a share (Wilson 1927)."""
    if total == 0:
        return 0.0, 1.0
    share = successes / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def math_verify_as_shipped(gold: str, answer: str) -> float:
    """math-verify with its defaults; text without mathematics in it is wrapped in dollars, as its README asks."""
    from math_verify import parse
    from math_verify import verify as compare

    marks = ("$", "\\boxed", "\\(", "\\[")
    texts = [text if any(mark in text for mark in marks) else f"${text}$" for text in (gold, answer)]
    return float(compare(parse(texts[0]), parse(texts[1])))


def _math(row: dict[str, Any], *, group: str) -> Trial | None:
    gold, answer = row["gold"], row.get("pred")
    golds = gold if isinstance(gold, list) else [gold]
    if answer is None or not all(golds) or not golds:
        return None
    boxed = f"\\boxed{{{answer}}}"
    whole = row.get("kind") == "response" or "\\boxed" in answer or last_boxed(boxed) is None
    completion = answer if whole else boxed
    task = {"kind": "math", "ground_truth": gold, "extract": "any"}
    expected = row["expected"]
    if expected is None:
        return None
    return Trial(
        row["id"], group, task, completion, float(expected),
        lambda: max(math_verify_as_shipped(one, answer) for one in golds),
    )  # fmt: skip


def math_pairs(row: dict[str, Any]) -> Trial | None:
    return _math(row, group=row["label_type"])


def math_attacks(row: dict[str, Any]) -> Trial | None:
    return _math(row, group=row["attack"])


def stem_pairs(row: dict[str, Any]) -> Trial | None:
    if row["kind"] == "needs_llm_judge" or not row["pred"] or row["pred"] == "None":
        return None
    gold, answer = row["gold"], row["pred"]
    if row["id"] == "stem-0218" or not gold:
        return None
    return Trial(
        row["id"], row["domain"], {"kind": "stem", "ground_truth": gold}, f"\\boxed{{{answer}}}", row["expected"],
        lambda: math_verify_as_shipped(gold, answer),
    )  # fmt: skip


def scibench(row: dict[str, Any]) -> Trial | None:
    unit, latex = (re.sub(r"^\$(.*)\$$", r"\1", row[name].strip()).strip() for name in ("unit", "answer_latex"))
    gold = f"{row['answer_number'].strip()} {unit}".strip()
    answer = latex if unit and latex.endswith(unit) else f"{latex} {unit}".strip()
    task = {"kind": "stem", "ground_truth": gold}
    return Trial(
        row["id"],
        row["gold_pair_check"],
        task,
        f"\\boxed{{{answer}}}",
        1.0,
        lambda: math_verify_as_shipped(gold, answer),
    )


def multiple_choice(row: dict[str, Any]) -> Trial | None:
    gold, meta, response = row["gold"], row.get("meta") or {}, row["response"]
    if not isinstance(gold, str) or response is None or meta.get("template_metadata") or not gold:
        return None
    task: dict[str, Any] = {"kind": "stem", "ground_truth": gold, "answer_type": "choice"}
    options = row.get("options") or (meta.get("metadata") or {}).get("choices")
    if isinstance(options, list) and len(options) > 1:
        texts = [next(iter(option.values())) if isinstance(option, dict) else option for option in options]
        task["choices"] = texts
    group = "strict" if "strict" in str(meta.get("grading_mode")) else "choice"
    return Trial(row["id"], group, task, response, float(row["expected"]))


_EXACT_GRADERS = ("puzzle_match", "string_match", "_grade_string_match", "_answers_match", "EquivalenceRule")


def short_answers(row: dict[str, Any]) -> Trial | None:
    meta = row.get("meta") or {}
    if not row["grader"].startswith(_EXACT_GRADERS) or True in meta.get("extra_args", []):
        return None
    if not row["gold"] or row["pred"] is None or row["pred"] == "None":
        return None
    task = {"kind": "stem", "ground_truth": row["gold"], "answer_type": "text"}
    return Trial(row["id"], "text", task, row["pred"], float(row["expected"]))


_GYM_MATH = {"prime_agent_math", "math_with_judge", "math_with_code", "ns_tools", "polymath"}
_GYM_CHOICE = {"mcqa", "gpqa_diamond", "bunsenbench_chemistry_mcq"}


def gym_rollouts(row: dict[str, Any]) -> Trial | None:
    """A peer's rewards on real rollouts: medium trust, so every disagreement is to be read."""
    fields = {**(row.get("task_fields") or {}), **(row.get("verifier_fields") or {})}
    gold, text = fields.get("expected_answer"), row["response_text"]
    if row["grader_kind"] != "rule" or not row["evaluable_from_text"] or not isinstance(gold, str) or not text:
        return None
    if row["server"] in _GYM_MATH:
        baseline = lambda: math_verify_as_shipped(gold, text)  # noqa: E731
        return Trial(row["id"], "math", {"kind": "math", "ground_truth": gold}, text, row["reward"], baseline)
    if row["server"] in _GYM_CHOICE and fields.get("options"):
        texts = [next(iter(option.values())) for option in fields["options"]]
        task = {"kind": "stem", "ground_truth": gold, "answer_type": "choice", "choices": texts}
        return Trial(row["id"], "choice", task, text, row["reward"])
    if row["server"] == "string_match":
        return Trial(row["id"], "text", {"kind": "stem", "ground_truth": gold}, text, row["reward"])
    return None


def gym_tests(row: dict[str, Any]) -> Trial | None:
    gold = (row.get("fields") or {}).get("expected_answer")
    if row["server"] not in {"polymath", "equivalence_rule"} or not gold or not row["fn"].endswith(".verify"):
        return None
    kind = "math" if row["server"] == "polymath" else "stem"
    return Trial(row["id"], kind, {"kind": kind, "ground_truth": gold}, row["response_text"], row["expected"])


def code_asserts(row: dict[str, Any]) -> Trial | None:
    if not row["verified_ok"]:
        return None
    task = {"kind": "code", "tests": [{"assert": f"{row['test']}\n{row['test_tail'] or ''}"}], "time_limit_s": 15}
    program = f"{row['preamble'] or ''}\n{row['solution']}"
    return Trial(row["id"], "assert", {**task, "total_time_limit_s": 15}, f"```python\n{program}\n```", row["label"])


ADAPTERS: dict[str, Callable[[dict[str, Any]], Trial | list[rule_sets.Fields] | None]] = {
    "math_equiv_pairs": math_pairs,
    "math_grader_attacks": math_attacks,
    "stem_equiv_pairs": stem_pairs,
    "scibench_gold": scibench,
    "mcq_extraction": multiple_choice,
    "short_answer_pairs": short_answers,
    "nemo_gym_rollouts": gym_rollouts,
    "nemo_gym_unit_tests": gym_tests,
    "reasoning_gym_unit_tests": rule_sets.puzzle_tests,
    "reasoning_gym_rollouts": rule_sets.puzzle_rollouts,
    "if_unit_tests": rule_sets.instruction_tests,
    "ifeval_responses": rule_sets.instruction_responses,
    "code_asserts": code_asserts,
}
"""By the name of the set; a set of another name is passed over."""


def trials(folder: Path, name: str) -> Iterator[Trial]:
    """The trials of one set; rows that no rule-based verifier can be asked are passed over."""
    for path in sorted((folder / name).glob("*.jsonl")):
        if path.name.startswith("disputed"):
            continue
        for line in path.read_text().splitlines():
            found = ADAPTERS[name](json.loads(line))
            if isinstance(found, list):
                yield from (Trial(*fields) for fields in found)
            elif found is not None:
                yield found


def judge(trial: Trial, tools: WorkerTools) -> float | None:
    try:
        verifier, task = parse_task(trial.task)
    except Exception:  # a ground truth that admission refuses is no verdict, and is counted as an error
        return None
    return verify(verifier, task, trial.completion, tools).reward


def measure(folder: Path, name: str, tools: WorkerTools, *, with_baseline: bool) -> dict[str, tuple[Score, Score]]:
    """Per group of the set: ours, and the library's."""
    scores: dict[str, tuple[Score, Score]] = {}
    for trial in trials(folder, name):
        ours, theirs = scores.setdefault(trial.group, (Score(), Score()))
        ours.add(trial, judge(trial, tools))
        if with_baseline and trial.baseline is not None:
            theirs.add(trial, trial.baseline())
    return scores


def _share(wrong: list[str], total: int) -> str:
    if total == 0:
        return "–"
    low, high = wilson(len(wrong), total)
    return f"{len(wrong)}/{total} ({100 * low:.1f}–{100 * high:.1f}%)"


def card(folders: list[Path], tools: WorkerTools) -> str:
    lines = [
        "# Calibration",
        "",
        "Written by `make calibrate`. Labelled sets from other projects' tests and data; how far their labels can be",
        "trusted stands in each set's own README. Wrong verdicts / rows, with 95% Wilson intervals; *library* is",
        "math-verify 0.9.0 as shipped; for logic, instructions and code the labels are the library's own verdicts, so",
        "that a false negative is a reward below the library's, a false positive one above. Rows are named by id only.",
        "",
        f"Verifiers: {', '.join(f'{kind} {verifier_for(kind).version}' for kind in BUILT_IN)}.",
        "",
        "| set | group | false negatives | false positives | errors | library FN | library FP |",
        "|---|---|---|---|---|---|---|",
    ]
    disagreements: list[str] = []
    for folder in folders:
        for name in sorted(set(ADAPTERS) & {path.name for path in folder.iterdir()}):
            for group, (ours, theirs) in sorted(measure(folder, name, tools, with_baseline=True).items()):
                library = (theirs.false_negatives, theirs.num_right), (theirs.false_positives, theirs.num_wrong)
                cells = [_share(ours.false_negatives, ours.num_right), _share(ours.false_positives, ours.num_wrong)]
                cells += [str(len(ours.errors)), *(_share(*cell) for cell in library)]
                lines.append(f"| {name} | {group} | {' | '.join(cells)} |")
                disagreements += [f"* {name}, {group}, refused or error: {row}" for row in ours.errors]
                disagreements += [f"* {name}, {group}, not paid: {row}" for row in ours.false_negatives]
                disagreements += [f"* {name}, {group}, paid: {row}" for row in ours.false_positives]
    return "\n".join([*lines, "", "## Disagreements with the labels", "", *disagreements, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the calibration card.")
    parser.add_argument("folders", nargs="*", type=Path, default=[DEFAULT_FOLDER])
    parser.add_argument("--output", type=Path, default=Path("docs/calibration.md"))
    arguments = parser.parse_args()
    missing = [str(folder) for folder in arguments.folders if not folder.is_dir()]
    if missing:
        print(f"calibrate: no such folder: {', '.join(missing)}", file=sys.stderr)
        return 2
    tools = WorkerTools()
    try:
        arguments.output.write_text(card(arguments.folders, tools))
    finally:
        tools.close()
    print(f"wrote {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
