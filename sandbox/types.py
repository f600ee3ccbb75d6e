"""The sandbox's vocabulary: a request goes in, a result comes out.

ExecutionRequest(source="print(input())", stdin=b"7\\n") -> ExecutionResult(status=Status.OK, stdout=b"7\\n", ...)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

MIB = 1 << 20


class Status(StrEnum):
    """How a run ended. Everything but SANDBOX_ERROR is the program's own doing."""

    OK = "ok"
    NONZERO_EXIT = "nonzero_exit"
    SIGNALLED = "signalled"
    COMPILE_ERROR = "compile_error"
    CPU_TIME_LIMIT = "cpu_time_limit"
    WALL_TIME_LIMIT = "wall_time_limit"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    PROCESS_LIMIT = "process_limit"
    FORBIDDEN = "forbidden"
    SANDBOX_ERROR = "sandbox_error"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use. The CPU limit decides; the wall limit is several times larger, so that a busy host
    does not change a status."""

    cpu_time_s: float = 5.0
    wall_time_s: float | None = None
    """None: `4 * cpu_time_s + 5`."""
    memory_bytes: int = 512 * MIB
    output_bytes: int = 16 * MIB
    """Cap on stdout and on stderr, each."""
    disk_bytes: int = 32 * MIB
    """Size of the work directory's tmpfs, where the program has one."""

    @property
    def effective_wall_time_s(self) -> float:
        return 4 * self.cpu_time_s + 5 if self.wall_time_s is None else self.wall_time_s


@dataclass(frozen=True, slots=True)
class ExecutionRequest:
    """One program, run once."""

    source: str
    language: str = "python"
    stdin: bytes = b""
    limits: Limits = field(default_factory=Limits)
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Put into the work directory before the program starts; their names are its arguments, in this order."""


@dataclass(frozen=True, slots=True)
class CallRequest:
    """A Python program of which one function is called once."""

    source: str
    entry_point: str
    """A function, or a method of a class `Solution`."""
    args: Sequence[Any]
    """JSON."""
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class AssertRequest:
    """A Python program and a test's source, which runs in another isolated process and uses the program's names."""

    source: str
    test: str
    entry_point: str | None = None
    """What is tested, where that is known: the test then takes well-known names from nowhere else but itself."""
    limits: Limits = field(default_factory=Limits)
    """Of the program; the test's own process has the same."""


Request = ExecutionRequest | CallRequest | AssertRequest


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """What the program did, as seen from outside it."""

    status: Status
    exit_code: int | None = None
    """None when a signal ended it."""
    signal: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    cpu_time_s: float = 0.0
    wall_time_s: float = 0.0
    peak_memory_bytes: int = 0
    detail: str = ""
    """One line for people: a compiler's first message, what the sandbox could not do."""
    report: Mapping[str, Any] | None = None
    """What the harness of a call test (`calls`) or an assert test (`asserts`) wrote at its end; None where it did not
    come to that."""


class Runner(Protocol):
    """Runs programs. Safe to call from several threads; each call holds one slot."""

    def execute(self, request: Request) -> ExecutionResult:
        """Never raises for anything the program does. Raises `CannotIsolate`, `LanguageUnavailable`."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class CallResult:
    """How a call of an `IsolatedFunction` ended. `value` is what the function returned (JSON), when `status` is OK."""

    status: Status
    value: Any = None
    cpu_time_s: float = 0.0
    detail: str = ""


class IsolatedFunction(Protocol):
    """Trusted code over untrusted text: `package.module:name` in a process of its own that can reach nothing and is
    killed at its limits."""

    def call(self, payload: Any, *, limits: Limits | None = None) -> CallResult:
        """Call the function with one JSON value. A limit hit or a death is a status; the process is replaced.
        An exception of the function itself is NONZERO_EXIT with the exception in `detail`."""
        ...

    def close(self) -> None: ...
