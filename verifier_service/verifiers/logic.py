"""Logic puzzles: every data set of Reasoning Gym, judged by the library's own scorer.

The answer stands between the last `<answer>` pair. Scorers that evaluate text or can be made to run away are called
in the sandbox (`puzzles.SANDBOXED`), and so is any scorer whose answer is unusually long.
"""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from sandbox.types import MIB, Limits, Status
from verifier_service import puzzles
from verifier_service.errors import CannotJudge, TaskRefused
from verifier_service.extraction import answer_tag
from verifier_service.schemas import LogicTask
from verifier_service.verifier import Judgement, Lane, Tools

SCORER = "verifier_service.puzzles:score"
LIMITS = Limits(cpu_time_s=2.0, memory_bytes=1024 * MIB)
"""The slowest right answer measured (an intermediate integration) takes 0.11 s."""

LONGEST_IN_PROCESS = 4000
"""Characters; a scorer outside the sandbox is at worst quadratic in the answer, which stays in milliseconds."""

_LIMIT_REASONS: Mapping[Status, str] = {
    Status.CPU_TIME_LIMIT: "cpu_time_limit",
    Status.WALL_TIME_LIMIT: "cpu_time_limit",
    Status.MEMORY_LIMIT: "memory_limit",
    Status.NONZERO_EXIT: "scorer_raised",
}
_BROKE = frozenset({*_LIMIT_REASONS.values(), "scorer_killed"})


class LogicVerifier:
    kind: ClassVar[str] = "logic"
    task_model: ClassVar = LogicTask
    version: ClassVar[str] = "4"
    description: ClassVar[str] = "Reasoning Gym puzzles, scored by the library; the answer between <answer> tags"
    lane: ClassVar[Lane] = "light"
    reasons: ClassVar[Mapping[str, str]] = {
        "solved": "the scorer pays in full",
        "partly_solved": "the scorer pays a part",
        "not_solved": "the scorer pays nothing",
        "code_in_answer": "the answer holds code where a value or an expression belongs; it was not run",
        "answer_too_long": "the answer is far longer than any right one",
        "scorer_raised": "the scorer cannot cope with this answer",
        "cpu_time_limit": "scoring this answer exceeds its CPU limit",
        "memory_limit": "scoring this answer exceeds its memory limit",
        "scorer_killed": "scoring this answer killed the scorer",
        "ground_truth": "error: the entry cannot be generated, or its scorer does not pay the entry's own answer",
    }

    def admit(self, task: LogicTask) -> None:
        puzzles.admit(task.dataset, _config(task))
        if task.entry is not None:
            _admit_entry(task)

    def extract(self, task: LogicTask, text: str) -> str | None:
        return answer_tag(text)

    def judge(self, task: LogicTask, answer: str, tools: Tools) -> Judgement:
        payload = _payload(task, answer)
        judgement = _scored(payload, tools)
        if judgement.reward < 1.0:  # the answer's doing, or the entry's
            key = json.dumps([payload["dataset"], payload["config"], payload["entry"]])
            tools.proofs.demand(key, lambda: _prove_usable(payload, tools))
        return judgement

    def oracle(self, task: LogicTask) -> str | None:
        payload = _payload(task, "")
        answer = puzzles.oracle(payload["dataset"], payload["entry"])
        return None if answer is None else f"<answer>{answer}</answer>"

    def info(self) -> Mapping[str, Any]:
        return {"datasets": list(puzzles.dataset_names())}


def _config(task: LogicTask) -> dict[str, Any]:
    """The library's own configs carry `seed` and `size`; which entry is meant is said by the task, not by them."""
    return {name: value for name, value in (task.config or {}).items() if name != "seed"}


def _admit_entry(task: LogicTask) -> None:
    assert task.entry is not None
    entry = task.entry.model_dump()
    try:
        name, _ = puzzles.scorer_of(task.dataset, _config(task), entry)
    except KeyError as error:
        raise TaskRefused("entry", str(error)) from error
    if entry["answer"] is None and puzzles.reads_answer(name):
        raise TaskRefused("entry.answer", f"{name} is scored by comparing with the entry's answer")


def _payload(task: LogicTask, answer: str) -> dict[str, Any]:
    """What `puzzles.score` is asked. Raises `CannotJudge` where the entry cannot be had."""
    config = _config(task)
    try:
        if task.entry is not None:
            entry = task.entry.model_dump()
        else:
            assert task.seed is not None
            assert task.index is not None
            entry = puzzles.entry_at(task.dataset, task.seed, task.index, config)
        name, config = puzzles.scorer_of(task.dataset, config, entry)
    except Exception as error:  # a generator raises what it likes, and no completion has a part in it
        raise CannotJudge("ground_truth", f"{type(error).__name__}: {error}") from error
    return {"dataset": name, "config": config, "entry": entry, "answer": answer, "mode": task.reward_mode}


def _scored(payload: dict[str, Any], tools: Tools) -> Judgement:
    """What the scorer says; an answer that it cannot cope with earns 0. Raises `CannotJudge` without a sandbox."""
    if payload["dataset"] in puzzles.SANDBOXED or len(payload["answer"]) > LONGEST_IN_PROCESS:
        called = tools.isolated(SCORER, fork_per_call=True).call(payload, limits=LIMITS)
        if called.status is Status.SANDBOX_ERROR:
            raise CannotJudge("sandbox", called.detail)
        if called.status is not Status.OK:
            return Judgement(0.0, _LIMIT_REASONS.get(called.status, "scorer_killed"))
        scored = called.value
    else:
        try:
            scored = puzzles.score(payload)
        except Exception:  # scorers raise what they like
            return Judgement(0.0, "scorer_raised")
    if "refused" in scored:
        return Judgement(0.0, str(scored["refused"]))
    reward = float(scored["score"])
    return Judgement(reward, "solved" if reward == 1.0 else "partly_solved" if reward > 0.0 else "not_solved")


def _prove_usable(payload: dict[str, Any], tools: Tools) -> None:
    """Many scorers pay 0 where they cannot read the entry. Raises `CannotJudge` where this one pays its proof (most
    often the entry's own answer) less than it must."""
    try:
        answer, least = puzzles.proof(payload["dataset"], payload["entry"])
    except (KeyError, TypeError) as error:
        raise CannotJudge("ground_truth", f"{type(error).__name__}: {error}") from error
    own = _scored({**payload, "answer": answer, "mode": "library"}, tools)
    if own.reward < least or own.reason in _BROKE:
        raise CannotJudge("ground_truth", f"the scorer pays {own.reward:g} for the entry's own answer ({own.reason})")
