"""Warm processes for many callers: the level they get, whose fault a death was, and what an end means."""

import contextlib
import errno
import os
import re
import signal
import threading
from collections.abc import Callable
from functools import partial

from sandbox import kernel
from sandbox.child import NO_ROOM_EXIT_CODE
from sandbox.errors import CannotIsolate, RunnerLost
from sandbox.launch import Ended, Launch
from sandbox.pool import Pool
from sandbox.profiles import GVISOR_VARIABLE, Profile
from sandbox.types import ExecutionResult, Limits, Status
from sandbox.warm import WarmProcess

LEVELS = ("root_namespaces", "user_namespaces", "landlock")
"""From the strongest to the least that is accepted; a host gets the first that works."""
GVISOR = "gvisor"
"""What takes their place inside gVisor, where somebody said that this is enough."""

_OUT_OF_MEMORY = re.compile(rb"^(?:\w+\.)*\w*MemoryError\b")
_OUT_OF_TASKS = re.compile(rb"^RuntimeError: can't start new thread")
_NO_ROOM = os.strerror(errno.ENOSPC).encode()
CANARY = Launch(inputs=(b"print(input())",), stdin=b"canary\n")
_level_found: str | None = None
_level_lock = threading.Lock()


def open_warm_process(profile: Profile) -> WarmProcess:
    """A warm process at the best level this host allows. Raises `CannotIsolate` saying what each level lacked."""
    global _level_found
    if profile.level is not None:
        return WarmProcess(profile, profile.level)
    with _level_lock:
        levels = _levels() if _level_found is None else (_level_found,)
        missing = []
        for level in levels:
            try:
                process = WarmProcess(profile, level)
            except CannotIsolate as error:
                missing.append(str(error))
                continue
            _level_found = level
            return process
    raise CannotIsolate("; ".join(missing))


def _levels() -> tuple[str, ...]:
    """Those to be tried here. Raises `CannotIsolate` where gVisor and the setting that accepts it are not together."""
    accepted, inside = os.environ.get(GVISOR_VARIABLE) == "1", kernel.is_gvisor()
    if inside and not accepted:
        raise CannotIsolate(f"this is gVisor, which holds less than Linux does: {GVISOR_VARIABLE}=1 accepts that")
    if accepted and not inside:
        raise CannotIsolate(f"{GVISOR_VARIABLE}=1 is set, and this is not gVisor")
    return (GVISOR,) if inside else LEVELS


class Slots(Pool[WarmProcess]):
    """Warm processes of one profile."""

    def __init__(self, profile: Profile, num_slots: int) -> None:
        # Where not all can write, one that can goes first.
        super().__init__(partial(open_warm_process, profile), num_slots, prefer=lambda one: bool(one.hello["work_dir"]))

    def run_fairly(self, launch: Launch) -> Ended | None:
        """One child from start to end; `fairly`."""
        return self.fairly(lambda processes: _run(processes[0], launch))

    def fairly(self, run: Callable[[list[WarmProcess]], Ended], count: int = 1) -> Ended | None:
        """`run` with `count` processes. What a neighbour may have caused (memory or disk that ran out, the death of a
        warm process) is looked into: the program runs once more, alone; after a second death a known-good program
        decides. None: the program is at fault. Raises `RunnerLost`: we are."""
        with contextlib.suppress(RunnerLost):
            ended = self._lend_to(run, count)
            if not (killed_by_somebody(ended) or _without_room(ended)):
                return ended
        with contextlib.suppress(RunnerLost):
            return self._lend_to(run, count, alone=True)
        ended = self._lend_to(lambda processes: _run(processes[0], CANARY), 1)
        if ended.stdout != b"canary\n":
            raise RunnerLost("a known-good program fails in the sandbox")
        return None

    def _lend_to(self, run: Callable[[list[WarmProcess]], Ended], count: int, *, alone: bool = False) -> Ended:
        with self.lend(count, alone=alone) as processes:
            return run(processes)


def _run(process: WarmProcess, launch: Launch) -> Ended:
    with process.launch(launch) as running:
        return running.wait()


def killed_by_somebody(ended: Ended) -> bool:
    """SIGKILL that was not ours: the kernel ran out of memory, or the program killed itself."""
    return ended.stopped_for is None and ended.wait_status & 0x7F == signal.SIGKILL


def _without_room(ended: Ended) -> bool:
    """Work directories that an operator has mounted may share one disk."""
    return ended.wait_status != 0 and (_NO_ROOM in ended.stderr or ended.wait_status >> 8 == NO_ROOM_EXIT_CODE)


def result_of(ended: Ended | None, limits: Limits, *, files: bool = False) -> ExecutionResult:
    """Of how a program ended under `Slots.fairly`. `files`: it was to find some in its work directory."""
    if ended is None:
        return ExecutionResult(Status.FORBIDDEN, detail="the program ends its runner")
    no_room = files and ended.wait_status >> 8 == NO_ROOM_EXIT_CODE
    number = ended.wait_status & 0x7F
    return ExecutionResult(
        status=Status.SANDBOX_ERROR if no_room else status_of(ended, limits),
        detail="no room for files in the work directory" if no_room else "",
        exit_code=None if number else ended.wait_status >> 8,
        signal=number or None,
        stdout=ended.stdout,
        stderr=ended.stderr,
        stdout_truncated=ended.stdout_truncated,
        stderr_truncated=ended.stderr_truncated,
        cpu_time_s=ended.cpu_time_s,
        wall_time_s=ended.wall_time_s,
        peak_memory_bytes=ended.peak_memory_bytes,
    )


def status_of(ended: Ended, limits: Limits) -> Status:
    """What ended it, most telling first. A program can talk itself into a failure here, never out of one."""
    number = ended.wait_status & 0x7F
    if ended.stdout_truncated or ended.stderr_truncated:
        return Status.OUTPUT_LIMIT
    if number == signal.SIGXCPU or ended.cpu_time_s >= limits.cpu_time_s:
        return Status.CPU_TIME_LIMIT
    if ended.stopped_for is not None:
        return ended.stopped_for
    if number == signal.SIGSYS:
        return Status.FORBIDDEN
    if number == signal.SIGXFSZ:
        return Status.OUTPUT_LIMIT
    if number:
        return Status.MEMORY_LIMIT if number == signal.SIGKILL else Status.SIGNALLED
    if ended.wait_status == 0:
        return Status.OK
    last_line = ended.stderr.rstrip().rpartition(b"\n")[2]
    if _OUT_OF_MEMORY.match(last_line):
        return Status.MEMORY_LIMIT
    return Status.PROCESS_LIMIT if _OUT_OF_TASKS.match(last_line) else Status.NONZERO_EXIT
