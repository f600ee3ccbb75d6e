"""Trusted code over untrusted text: a warm, isolated process around one function."""

from dataclasses import dataclass
from typing import Any, Protocol

from sandbox.types import Limits, Status


@dataclass(frozen=True, slots=True)
class CallResult:
    """How a call ended. `value` is what the function returned (JSON), when `status` is OK."""

    status: Status
    value: Any = None
    cpu_time_s: float = 0.0
    detail: str = ""


class IsolatedFunction(Protocol):
    """`package.module:name` in a process of its own that can reach nothing and is killed at its limits."""

    def call(self, payload: Any, *, limits: Limits | None = None) -> CallResult:
        """Call the function with one JSON value. A limit hit or a death is a status; the process is replaced.
        An exception of the function itself is NONZERO_EXIT with the exception in `detail`."""
        ...

    def close(self) -> None: ...
