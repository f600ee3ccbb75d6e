"""The only place where an answer is taken out of a completion. Pure, linear time, never raises."""

from verifier_service.schemas import Thinking

THINK_END = "</think>"


def after_thinking(completion: str, thinking: Thinking) -> str | None:
    """The part of a completion that is judged; None where `thinking` is `require` and the thinking never ended."""
    if thinking == "keep":
        return completion
    _head, found, tail = completion.rpartition(THINK_END)
    if found:
        return tail
    return None if thinking == "require" else completion
