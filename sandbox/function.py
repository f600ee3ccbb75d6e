"""Trusted code over untrusted text, in a warm process that can reach nothing.

    equivalent = open_isolated("verifier_service.verifiers.math_grader:equivalent")
    equivalent.call({"gold": "1/2", "answer": "0.5"}, limits=Limits(cpu_time_s=2)).value   # what it returned, as JSON
    equivalent.close()

The function takes one JSON value and returns one. Its module, and all packages that are installed, are imported once;
calls are answered by an isolated child: one for many calls, or, with `fork_per_call`, a new one for each (where the
function may `eval` what it is given, so that one answer cannot poison the next).
"""

import contextlib
import json
import os
import signal
from functools import partial
from typing import Any

from sandbox.errors import RunnerLost
from sandbox.frames import write_frame
from sandbox.launch import Launch
from sandbox.pool import Pool
from sandbox.profiles import Profile
from sandbox.slots import open_warm_process
from sandbox.types import CallResult, Limits, Status
from sandbox.warm import WarmProcess

_DRIVER = "sandbox.served:serve"
_CALLS_PER_CHILD = 1000
_DEATHS = {signal.SIGSYS: Status.FORBIDDEN, signal.SIGKILL: Status.MEMORY_LIMIT, signal.SIGXCPU: Status.CPU_TIME_LIMIT}


class _Child:
    """One isolated child that answers calls, one at a time."""

    def __init__(self, process: WarmProcess, target: str, limits: Limits) -> None:
        self.memory_bytes = limits.memory_bytes
        self.calls_left = _CALLS_PER_CHILD
        self._spent_s = 0.0
        calls_read, self._calls = os.pipe()
        self._replies, replies_write = os.pipe()
        launch = Launch(_DRIVER, pass_fds=(calls_read, replies_write), limits=limits, held_by_kernel=False)
        try:
            self._running = process.launch(launch)
        except RunnerLost:
            self._close_pipes()
            raise
        finally:
            os.close(calls_read)
            os.close(replies_write)
        self._send(target)

    def _send(self, value: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has died: the reply will say so
            write_frame(self._calls, json.dumps(value).encode())

    def call(self, payload: Any, limits: Limits) -> CallResult:
        """Raises `RunnerLost` where the warm process died."""
        self.calls_left -= 1
        self._running.start_allowance(limits, self._spent_s)
        self._send({"payload": payload})
        frame = self._read_frame(limits)
        if isinstance(frame, Status):
            return CallResult(frame, cpu_time_s=limits.cpu_time_s)
        if frame is None:
            return self._obituary()
        try:
            answer, peak_bytes, before_s, self._spent_s = json.loads(frame)
            return self._result(answer, self._spent_s - before_s, peak_bytes > limits.memory_bytes)
        except (ValueError, TypeError, LookupError, RecursionError):  # what the function evaluates may write here, too
            return CallResult(Status.FORBIDDEN, detail="the call forges its answer")

    def _result(self, answer: dict[str, Any], call_s: float, is_bloated: bool) -> CallResult:
        if is_bloated:
            self.calls_left = 0
        if "value" in answer:
            return CallResult(Status.OK, answer["value"], call_s)
        status = Status.MEMORY_LIMIT if answer["error"] == "MemoryError" else Status.NONZERO_EXIT
        return CallResult(status, cpu_time_s=call_s, detail=answer["error"])

    def _read_frame(self, limits: Limits) -> bytes | Status | None:
        """The reply; the limit that was hit; or None where the child died."""
        received = bytearray()
        while True:
            if (status := self._running.until_readable(self._replies)) is not None:
                return status
            part = os.read(self._replies, 1 << 20)
            received += part
            size = int.from_bytes(received[:4], "big")
            if not part:
                return None
            if len(received) - 4 > limits.output_bytes:
                return Status.OUTPUT_LIMIT
            if len(received) >= 4 and len(received) - 4 >= size:
                return bytes(received[4 : 4 + size])

    def _obituary(self) -> CallResult:
        self.calls_left = 0
        ended = self._running.wait()
        number = ended.wait_status & 0x7F
        status = _DEATHS.get(signal.Signals(number), Status.SIGNALLED) if number else Status.NONZERO_EXIT
        return CallResult(status, cpu_time_s=ended.cpu_time_s, detail=ended.stderr[-500:].decode(errors="replace"))

    def close(self) -> None:
        self._close_pipes()
        self._running.close()

    def _close_pipes(self) -> None:
        os.close(self._calls)
        os.close(self._replies)


class _Server:
    """A warm process that has imported the target, and the child of it that answers calls at present."""

    def __init__(self, target: str, fork_per_call: bool) -> None:
        self._target = target
        self._fork_per_call = fork_per_call
        self._process = open_warm_process(Profile(required=(target,), drivers=(_DRIVER,)))
        self._child: _Child | None = None

    def call(self, payload: Any, limits: Limits) -> CallResult:
        """Raises `RunnerLost` where the warm process died."""
        child = self.child(limits)
        result = child.call(payload, limits)
        alive = result.status in (Status.OK, Status.NONZERO_EXIT)
        if self._fork_per_call or not alive or child.calls_left <= 0:
            self._drop_child()
        return result

    def child(self, limits: Limits) -> _Child:
        """One that has the memory limit of `limits`. Raises `RunnerLost`."""
        if self._child is not None and self._child.memory_bytes != limits.memory_bytes:
            self._drop_child()
        if self._child is None:
            self._child = _Child(self._process, self._target, limits)
        return self._child

    def _drop_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def close(self) -> None:
        with contextlib.suppress(RunnerLost):
            self._drop_child()
        self._process.close()


class IsolatedProcess:
    """The `IsolatedFunction` of this package. Safe between threads: calls wait for one another."""

    def __init__(self, target: str, limits: Limits, fork_per_call: bool) -> None:
        self._limits = limits
        self._servers = Pool(partial(_Server, target, fork_per_call), 1)

    def call(self, payload: Any, *, limits: Limits | None = None) -> CallResult:
        """See `types.IsolatedFunction`. CPU seconds count from the dispatch of this call.
        Raises `CannotIsolate`, and `RunnerLost` where the module of the target does not import."""
        limits = limits or self._limits
        for _ in range(2):
            with contextlib.suppress(RunnerLost, OSError), self._servers.lend() as [server]:
                return server.call(payload, limits)
        with self._servers.lend() as [server]:
            server.child(limits)  # the canary: where even an idle child cannot be had, RunnerLost goes up
        return CallResult(Status.FORBIDDEN, detail="the call ends its warm process")

    def close(self) -> None:
        self._servers.close()


def open_isolated(target: str, *, limits: Limits | None = None, fork_per_call: bool = False) -> IsolatedProcess:
    """A warm, isolated process around the trusted function `package.module:name`. `limits`: of one call, where the call
    names none. Nothing is started before the first call."""
    return IsolatedProcess(target, limits or Limits(), fork_per_call)
