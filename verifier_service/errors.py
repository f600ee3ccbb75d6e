"""Errors of grading, by whose fault they are. A completion's own failures are verdicts, never exceptions.

GradingError
├── TaskRefused     the task itself is unusable, seen at admission: 422, nothing is graded
└── CannotJudge     our side failed while judging: outcome `error`, reward null
"""


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
