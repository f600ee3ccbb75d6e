"""What happens in the forked child, between fork and exit: isolate, then run the program as `__main__`.

This is the last trusted code before the program; everything the program could spoil here is its own process only.
"""

import atexit
import contextlib
import json
import os
import resource
import sys
import threading
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from sandbox import kernel, landlock, seccomp

NO_ROOM_EXIT_CODE = 71
"""The files of a request could not be put into the work directory: there is none, or it is too small."""
_MAX_OPEN_FILES = 128
STACK_BYTES = 128 << 20
_CPU_GRACE_S = 2
_ALL_DESCRIPTORS = 1 << 20  # one close_range call, whatever is open


@dataclass(frozen=True, slots=True)
class Jail:
    """What the warm process prepared for its children."""

    uid: int | None
    """The slot's own uid and gid; None: the uid stays."""
    ruleset: int | None
    """Landlock rule-set descriptor."""
    base_address_space: int
    """Bytes of address space that the warm interpreter has itself; the program's memory limit comes on top."""
    parent_pid: int
    own_metadata: bool
    """All files in sight are the program's own or on mounts that let nobody change modes and times."""
    signals_stay: bool
    """What may fork cannot signal anybody outside, whatever the filter lets through."""
    foreign_tasks: int
    """Tasks of other programs that count against this uid's RLIMIT_NPROC too, where the uid is not the slot's own: room
    is left for them, so that what they do is no limit here."""


class Job(NamedTuple):
    """What the warm process must know of a `launch.Launch`. Sent as a JSON list."""

    driver: str
    cpu_s: float
    """0: held by the supervisor alone."""
    memory_bytes: int
    file_bytes: int
    disk_bytes: int
    num_tasks: int
    may_exec: bool
    may_fork: bool
    data_only: bool


def prepare_limits() -> None:
    """In the warm process, once: the limits that are the same for every child."""
    limit(resource.RLIMIT_STACK, STACK_BYTES)
    limit(resource.RLIMIT_NOFILE, _MAX_OPEN_FILES)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_MEMLOCK, 0)
    with contextlib.suppress(ValueError):  # no such limit in gVisor; the filter refuses message queues everywhere
        limit(resource.RLIMIT_MSGQUEUE, 0)


def set_limits(job: Job, jail: Jail) -> None:
    if job.cpu_s:
        limit(resource.RLIMIT_CPU, int(job.cpu_s) + _CPU_GRACE_S)
    limit(resource.RLIMIT_DATA if job.data_only else resource.RLIMIT_AS, jail.base_address_space + job.memory_bytes)
    limit(resource.RLIMIT_FSIZE, job.file_bytes)
    limit(resource.RLIMIT_NPROC, job.num_tasks + jail.foreign_tasks)


def limit(what: int, value: int) -> None:
    """Soft and hard, or the present hard limit where that is lower."""
    hard = resource.getrlimit(what)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (value, value))


def isolate(job: Job, jail: Jail, received: list[int]) -> None:
    """What arrived with the job goes to descriptors 0, 1, 2 ..., all others are closed, and the walls go up. Raises
    OSError where the kernel refuses: then nothing may run."""
    os.setsid()
    if job.may_exec:
        _die_first()
    for target, descriptor in enumerate(received):  # each of a higher number than the targets until then
        os.dup2(descriptor, target)
    set_limits(job, jail)
    if jail.uid is not None:
        os.setgroups([])
        os.setresgid(jail.uid, jail.uid, jail.uid)
        os.setresuid(jail.uid, jail.uid, jail.uid)
    kernel.drop_capabilities()
    kernel.die_with_parent()
    if os.getppid() != jail.parent_pid:
        os._exit(1)
    if jail.ruleset is not None:
        landlock.enforce(jail.ruleset)
    os.closerange(len(received), _ALL_DESCRIPTORS)
    rights = {"allow_exec": job.may_exec, "allow_fork": job.may_fork, "allow_metadata": jail.own_metadata}
    kernel.install_filter(seccomp.build(os.getpid(), signals_stay=jail.signals_stay, **rights))


def _die_first() -> None:
    """Before the warm process, where both share a memory limit."""
    with contextlib.suppress(OSError):
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(descriptor, b"1000")
        os.close(descriptor)


def prepare_streams() -> None:
    """In the warm process, once: streams over descriptors 0-2, for each child to find its own files under. What they
    know of the files (no terminal, at the start, may seek) is true of /dev/null here and of the child's files."""
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False
    )


def read_all(descriptor: int) -> bytes:
    parts = []
    while part := os.read(descriptor, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def run_program() -> None:
    """The plain driver: descriptor 3 holds the program; run it as `python3 program.py` would."""
    source = read_all(3)
    os.close(3)
    run_source(source)


def run_with_files() -> None:
    """As `run_program`; descriptor 4 names the files that follow it, which become files in the work directory and the
    program's arguments."""
    source, names = read_all(3), json.loads(read_all(4))
    place_files(names, 5)
    os.closerange(3, 5 + len(names))
    sys.argv = ["program.py", *names]
    run_source(source)


def place_files(names: list[str], first_descriptor: int) -> None:
    """Write files into the work directory from as many descriptors; the end where there is no room."""
    try:
        for descriptor, name in enumerate(names, first_descriptor):
            with open(name, "wb") as file:
                file.write(read_all(descriptor))
    except OSError:
        os._exit(NO_ROOM_EXIT_CODE)


def run_source(source: bytes) -> dict[str, object]:
    """Compile and run `source` as `__main__`; returns its namespace. Whatever it raises goes up."""
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    namespace = main.__dict__
    namespace["__builtins__"] = __builtins__
    exec(compile(source, "<program>", "exec", dont_inherit=True), namespace)  # noqa: S102
    return namespace


def finish(driver: Callable[[], None]) -> int:
    """Run `driver` and end as Python does: print what it raised, join threads, run atexit, flush; the exit code."""
    code = 0
    try:
        driver()
    except SystemExit as stop:
        code = _exit_code(stop)
    except BaseException as error:  # whatever the program raises is printed, as Python does
        code = 1
        _report(error)
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # hooks and streams are the program's: 120 is what Python answers when they fail
        return code or 120
    return code


def _exit_code(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    print(stop.code, file=sys.stderr)
    return 1


def _report(error: BaseException) -> None:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    if isinstance(error, MemoryError):
        error.__traceback__ = trace = None  # gives back what the frames hold, or printing fails too
    try:
        traceback.print_exception(type(error), error, trace)
    except BaseException:  # the error's own methods are the program's
        os.write(2, type(error).__name__.encode("ascii", "replace") + b"\n")
