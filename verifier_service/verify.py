"""The verdict path: one task, one completion, one verdict. Everything that is graded anywhere passes through `verify`.

Here is the only broad `except` of the service. An exception that a verifier did not foresee is either our fault or the
completion's; a canary (the same task with a harmless answer) tells which: where even the canary raises, the grader is
broken and the verdict is `error`; where it passes, this answer broke it and earns 0.
"""

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

from sandbox.errors import SandboxError
from verifier_service.errors import CannotJudge
from verifier_service.extraction import after_thinking
from verifier_service.schemas import Outcome, Task, Verdict
from verifier_service.verifier import AnyVerifier, Judgement, Tools

log = logging.getLogger(__name__)

CANARY_ANSWER = "0"

SHARED_REASONS: Mapping[str, str] = {
    "no_think_end": "`thinking` is `require` and the completion has no `</think>`",
    "no_answer": "no answer was found in the completion",
    "unjudgeable_answer": "this answer broke the grader while a harmless one does not",
    "grader_limit": "grading this answer alone hit the grader's own limit or killed its worker, again and again",
    "grader_bug": "error: the grader is broken for this task",
    "sandbox": "error: the sandbox is unavailable on this worker",
    "deadline": "error: the deadline passed before the item was dispatched to a grader",
    "queue": "error: the queue lost the item",
    "cancelled": "error: the job was cancelled while its verdicts were streamed",
    "ground_truth": "error: the ground truth cannot be used",
}


def outcome_of(reward: float) -> Outcome:
    return Outcome.CORRECT if reward == 1.0 else Outcome.INCORRECT if reward == 0.0 else Outcome.PARTIAL


def verify(verifier: AnyVerifier, task: Task, completion: str, tools: Tools) -> Verdict:
    """Grade one completion. Never raises."""
    answer = find_answer(verifier, task, completion)
    if isinstance(answer, Judgement):
        return to_verdict(verifier.kind, verifier.version, answer)
    return verdict_on(verifier, task, answer, tools)


def find_answer(verifier: AnyVerifier, task: Task, completion: str) -> str | Judgement:
    """The answer in a completion, or the judgement that there is none. Never raises."""
    text = after_thinking(completion, task.thinking)
    if text is None:
        return Judgement(0.0, "no_think_end")
    answer = _extract(verifier, task, text)
    return Judgement(0.0, "no_answer") if answer is None else answer


def verdict_on(verifier: AnyVerifier, task: Task, answer: str, tools: Tools) -> Verdict:
    """Of an extracted answer. Never raises."""
    started = time.perf_counter()
    judgement = judge(verifier, task, answer, tools)
    return to_verdict(verifier.kind, verifier.version, judgement, answer, time.perf_counter() - started)


def judge(verifier: AnyVerifier, task: Task, answer: str, tools: Tools) -> Judgement | CannotJudge:
    """Judge an extracted answer; what went wrong on our side comes back as `CannotJudge`, not raised."""
    try:
        return _checked(verifier.judge(task, answer, tools))
    except CannotJudge as error:
        return error
    except SandboxError as error:
        return CannotJudge("sandbox", str(error))
    except Exception:
        log.exception("verifier %s raised on an answer of %d characters", verifier.kind, len(answer))
        return _whose_fault(verifier, task, tools)


def to_verdict(
    kind: str, version: str, judgement: Judgement | CannotJudge, answer: str | None = None, elapsed_s: float = 0.0
) -> Verdict:
    if isinstance(judgement, CannotJudge):
        outcome, reward = Outcome.ERROR, None
        components: dict[str, Any] = {"detail": judgement.detail} if judgement.detail else {}
    else:
        outcome, reward = outcome_of(judgement.reward), judgement.reward
        components = dict(judgement.components)
    return Verdict(
        outcome=outcome,
        reward=reward,
        reason=judgement.reason,
        extracted=answer,
        components=components,
        verifier=kind,
        verifier_version=version,
        elapsed_s=round(elapsed_s, 6),
    )


def _extract(verifier: AnyVerifier, task: Task, text: str) -> str | None:
    try:
        return verifier.extract(task, text)
    except Exception:
        # Extraction sees nothing but the completion and the task's format, so what it cannot read is no answer.
        log.exception("verifier %s cannot extract from %d characters", verifier.kind, len(text))
        return None


def _whose_fault(verifier: AnyVerifier, task: Task, tools: Tools) -> Judgement | CannotJudge:
    try:
        _checked(verifier.judge(task, CANARY_ANSWER, tools))
    except CannotJudge as error:
        return error
    except Exception as error:
        return CannotJudge("grader_bug", f"{type(error).__name__}: {error}")
    return Judgement(0.0, "unjudgeable_answer")


def _checked(judgement: Judgement) -> Judgement:
    if not (math.isfinite(judgement.reward) and 0.0 <= judgement.reward <= 1.0):
        raise ValueError(f"reward {judgement.reward} is not in [0, 1]")
    return judgement
