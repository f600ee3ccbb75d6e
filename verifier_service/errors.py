"""Errors by whose fault they are. A completion's own failures are verdicts, never exceptions.

GradingError
├── TaskRefused     the task itself is unusable, seen at admission: 422, nothing is graded
└── CannotJudge     our side failed while judging: outcome `error`, reward null
CommandError        a command cannot go on: one line for its user, exit code 1
└── BadInput        ... because of its arguments, settings or files: exit code 2
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # not for `verifier --help`
    from pydantic import ValidationError


class GradingError(Exception):
    """Base of what the verdict path raises."""


class TaskRefused(GradingError):
    """The task cannot be graded by anyone; `field` names the offender within the task."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class CannotJudge(GradingError):
    """We could not judge, through no doing of the completion; `reason` is the verdict's one word."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.detail = detail


class CommandError(Exception):
    """The message is all that the user is told."""

    exit_code = 1


class BadInput(CommandError):
    """What was given cannot be used; the message says what to change."""

    exit_code = 2


def first_error(error: "ValidationError") -> str:
    """In one line: where, and what is wrong there."""
    first = error.errors()[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
