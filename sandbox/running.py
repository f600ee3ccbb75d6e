"""A child at work, seen from the supervisor: watch it, kill it at its limits, collect what it wrote."""

import contextlib
import fcntl
import json
import os
import select
import socket
import time
from typing import Any

from sandbox.cgroups import MemoryGroup
from sandbox.child import Job
from sandbox.errors import RunnerLost
from sandbox.frames import write_all
from sandbox.launch import Ended, Launch
from sandbox.types import Limits, Status

_DEATH_TIMEOUT_S = 20
_SHORTEST_LOOK_S = 0.005
_MAX_MESSAGE = 1 << 16
_NUM_CPUS = os.cpu_count() or 1
_READ_ONLY_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class Running(contextlib.AbstractContextManager["Running"]):
    """A child at work."""

    def __init__(self, control: socket.socket, launch: Launch, group: MemoryGroup | None = None) -> None:
        limits = launch.limits
        self._group = group
        self._control = control
        self._limits = limits
        self._started = time.monotonic()
        self._told_cpu_s = 0.0
        """What the warm process said when it was last asked: most programs end before."""
        self._spent_before_s = 0.0
        self._stopped_for: Status | None = None
        self._next_look = self._started + self._patience()
        self._over: dict[str, Any] = {}
        self._files: list[int] = []
        self._num_inputs = len(launch.inputs)
        job = Job(
            driver=launch.driver,
            cpu_s=limits.cpu_time_s if launch.held_by_kernel else 0,
            memory_bytes=limits.memory_bytes,
            file_bytes=max(limits.output_bytes + 1, limits.disk_bytes),
            disk_bytes=limits.disk_bytes,
            num_tasks=launch.num_tasks,
            may_exec=launch.may_exec,
            may_fork=launch.may_fork,
            data_only=launch.data_only,
        )
        try:
            for data in (launch.stdin, None, None, *launch.inputs, *(None for _ in range(launch.num_outputs))):
                self._files.append(os.memfd_create("out") if data is None else memory_file(data))
            socket.send_fds(control, [json.dumps(job).encode()], [*self._files, *launch.pass_fds])
        except OSError as error:
            self._close_files()
            raise RunnerLost(f"cannot start a program: {error}") from None

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leaves no child behind: what still runs is killed. Raises `RunnerLost` where the warm process is gone."""
        try:
            if not self._over:
                self.kill()
                self._until_over(_DEATH_TIMEOUT_S)
        finally:
            self._close_files()

    def wait(self) -> Ended:
        """Until it ends, by itself or at a limit of its launch. Raises `RunnerLost`."""
        return wait_for(self)[0]

    def _attend(self) -> None:
        """Hear what it says; when the time has come, look whether it is over a limit, and kill it."""
        if self._hears(0) or time.monotonic() < self._next_look:
            return
        if self._stopped_for is not None:
            raise RunnerLost("a killed program does not end")
        self._stopped_for = self._over_limit()
        if self._stopped_for is not None:
            self.kill()
        patience_s = self._patience() if self._stopped_for is None else _DEATH_TIMEOUT_S
        self._next_look = time.monotonic() + patience_s

    def until_readable(self, descriptor: int) -> Status | None:
        """Until the caller's end of a pipe to the child has something to read, or its end (the child is gone): None.
        At a limit the child is killed, and the limit is the answer."""
        events = select.poll()
        events.register(descriptor, select.POLLIN)
        while not events.poll(self._patience() * 1000):
            stopped_for = self._over_limit()
            if stopped_for is not None:
                self.kill()
                return stopped_for
        return None

    def start_allowance(self, limits: Limits, spent_before_s: float) -> None:
        """From here on `limits` count, from zero: for a child that serves many calls. `spent_before_s`: the CPU seconds
        that it says it has used until now; a lie can win it no more than the wall limit."""
        self._limits = limits
        self._spent_before_s = self._told_cpu_s = spent_before_s
        self._started = time.monotonic()

    def _patience(self) -> float:
        """Seconds until a limit can be reached at the earliest."""
        wall = self._started + self._limits.effective_wall_time_s - time.monotonic()
        spent = self._told_cpu_s - self._spent_before_s
        return max(min(wall, (self._limits.cpu_time_s - spent) / _NUM_CPUS), _SHORTEST_LOOK_S)

    def _over_limit(self) -> Status | None:
        if self.cpu_time_s() - self._spent_before_s >= self._limits.cpu_time_s:
            return Status.CPU_TIME_LIMIT
        if time.monotonic() - self._started >= self._limits.effective_wall_time_s:
            return Status.WALL_TIME_LIMIT
        return None

    def cpu_time_s(self) -> float:
        """CPU seconds that the child has used so far, over all its threads. Raises `RunnerLost`."""
        if not self._over:
            self._send(b"spent")
            if not self._hears(_DEATH_TIMEOUT_S):
                raise RunnerLost("the warm process does not answer")
        return self._told_cpu_s

    def kill(self) -> None:
        if not self._over:
            self._send(b"kill")

    def _send(self, message: bytes) -> None:
        try:
            self._control.send(message)
        except OSError as error:
            raise RunnerLost(f"the warm process is gone: {error}") from None

    def _until_over(self, timeout_s: float) -> bool:
        """Wait for the `ended` message; False after `timeout_s` without it."""
        return bool(self._over or (self._hears(timeout_s) and self._over))

    def _hears(self, timeout_s: float) -> bool:
        """Wait for a message and take it to heart; False after `timeout_s` without one."""
        events = select.poll()
        events.register(self._control, select.POLLIN)
        if not events.poll(timeout_s * 1000):
            return False
        try:
            data = self._control.recv(_MAX_MESSAGE)
        except OSError:
            data = b""
        if not data:
            raise RunnerLost("the warm process died under a program")
        message = json.loads(data)
        self._told_cpu_s = message["cpu_s"]
        if "trouble" in message:
            self._over = message
        return True

    def _result(self) -> Ended:
        if self._over["trouble"]:
            raise RunnerLost(self._over["trouble"])
        stopped_for = self._stopped_for
        if self._group is not None and self._group.has_killed():
            stopped_for = stopped_for or Status.MEMORY_LIMIT
        cap = self._limits.output_bytes
        (stdout, more_out), (stderr, more_err) = (_read(file, cap) for file in self._files[1:3])
        return Ended(
            wait_status=self._over["wait_status"],
            stopped_for=stopped_for,
            cpu_time_s=self._over["cpu_s"],
            wall_time_s=time.monotonic() - self._started,
            peak_memory_bytes=self._over["peak_bytes"],
            stdout=stdout,
            stderr=stderr,
            stdout_truncated=more_out,
            stderr_truncated=more_err,
            outputs=tuple(_read(file, cap)[0] for file in self._files[3 + self._num_inputs :]),
        )

    def _close_files(self) -> None:
        for descriptor in self._files:
            os.close(descriptor)
        self._files = []


def wait_for(*children: Running) -> list[Ended]:
    """Until all have ended, each by itself or at a limit of its launch. Raises `RunnerLost`."""
    events = select.poll()
    for child in children:
        events.register(child._control, select.POLLIN)
    while at_work := [child for child in children if not child._over]:
        events.poll(1000 * max(min(child._next_look for child in at_work) - time.monotonic(), 0))
        for child in at_work:
            child._attend()
    return [child._result() for child in children]


def memory_file(data: bytes) -> int:
    """A file in memory that holds `data`, at its start, and that nobody can change: a reader that never reads it, or
    closes it, costs nobody anything."""
    descriptor = os.memfd_create("in", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    write_all(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _READ_ONLY_SEALS)
    return descriptor


def _read(descriptor: int, cap: int) -> tuple[bytes, bool]:
    """What was written, up to `cap` bytes, and whether there was more."""
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, min(size, cap), 0), size > cap
