"""The warm process: an interpreter that has imported everything and forks one isolated child a job.

Started by `warm.WarmProcess`, which is the supervisor. Talks over one SOCK_SEQPACKET socket:

    <- setup   JSON `Setup`, a list
    -> hello   JSON {"level", "landlock_abi", ...}, {"missing": what the host lacks} or {"broken": what did not import}
    <- job     JSON `child.Job`, a list, + descriptors [stdin, stdout, stderr, extra...]
    <- "spent" while a job runs: asks for the child's CPU seconds so far
    -> spent   JSON {"cpu_s"}
    <- "kill"  while a job runs: kill the child
    -> ended   JSON {"trouble", "cpu_s", "wait_status", "peak_bytes"}, the last two where it was started

The warm process never reads a byte that comes from a program: sources, input and output pass through descriptors.
"""

import contextlib
import fcntl
import gc
import importlib
import json
import mmap
import os
import random
import resource
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from sandbox import child, kernel, landlock, namespaces, seccomp, workdir
from sandbox.child import Jail, Job
from sandbox.workdir import WorkDir

_MAX_MESSAGE = 1 << 16
_MAX_DESCRIPTORS = 16
_FIRST_OWN_DESCRIPTOR = 500  # ours live high, so that what arrives with a job takes the low numbers in order
_READY = 1
_FOREIGN_TASKS = 4096
_THREAD_STACK_BYTES = 8 << 20
_LOOK_MS = 2
_UID_CAPABILITIES = 1 << 5 | 1 << 6 | 1 << 7  # KILL, SETGID, SETUID


class Setup(NamedTuple):
    """What a `profiles.Profile` comes to on this host. Sent as a JSON list."""

    level: str
    readable: list[str]
    executable: list[str]
    sys_path: list[str]
    preload: list[str]
    drivers: list[str]
    """Imported before the root is left."""
    required: list[str]
    """Imported in the new root."""
    work_dirs: list[str]
    uid_range: list[int]
    """First and one past the last; empty: no own uid."""


def main(descriptor: int, *, stack_grows: bool) -> None:
    if not stack_grows:
        _have_whole_stack()
    control = socket.socket(fileno=descriptor)
    setup = Setup(*json.loads(control.recv(_MAX_MESSAGE)))
    try:
        zygote = Zygote(control, setup)
    except OSError as error:
        _say(control, {"missing": f"{setup.level}: {error}"})
    except Exception as error:  # whatever a module of ours raises while it is imported
        _say(control, {"broken": f"{type(error).__name__}: {error}"})
    else:
        control.close()
        zygote.serve()


def _have_whole_stack() -> None:
    """In gVisor a stack keeps the size that its limit had when the program was started: start again, once."""
    if len(sys.argv) == 1:
        child.limit(resource.RLIMIT_STACK, child.STACK_BYTES)
        os.execv(sys.executable, [*sys.orig_argv, "again"])
    threading.stack_size(_THREAD_STACK_BYTES)  # which would follow that limit


def _say(control: socket.socket, message: dict[str, Any]) -> None:
    control.send(json.dumps(message).encode())


def _resolve(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


class Zygote:
    """Raises OSError while it is being made where the host lacks something, and what importing `required` raises."""

    def __init__(self, control: socket.socket, setup: Setup) -> None:
        self._drivers = {name: _resolve(name) for name in setup.drivers}
        uid, version = _slot_uid(setup), landlock.abi()
        alone, in_gvisor = setup.level == "landlock", setup.level == "gvisor"
        if not alone:
            namespaces.enter(user_namespace=setup.level != "root_namespaces")
            _continue_as_first_process()
        kernel.become_subreaper()
        kernel.hide_from_same_uid()
        kernel.set_no_new_privileges()
        statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        if not alone:
            places = [*setup.readable, *setup.executable]
            namespaces.build_root(places, with_proc=version > 0, fixed_devices=not in_gvisor)
        own_uid, own_gid = (os.getuid(), os.getgid()) if uid is None else (uid, uid)
        mounted = None if alone else workdir.MountedWorkDir(own_uid, own_gid, count_files=not in_gvisor)
        self._work: WorkDir | None = mounted or workdir.claim(setup.work_dirs, uid)
        self._control = socket.socket(fileno=fcntl.fcntl(control, fcntl.F_DUPFD_CLOEXEC, _FIRST_OWN_DESCRIPTOR))
        if alone and not version:
            raise OSError("no Landlock and no right to make a mount namespace")
        if not seccomp.supported():
            raise OSError(f"no system-call filter for {kernel.MACHINE}")
        own_metadata = not (alone or in_gvisor)  # there a read-only mount does not keep its modes and times
        signals_stay = not alone or uid is not None or version >= landlock.ABI_OF_SIGNALS
        seccomp.prepare(allow_metadata=own_metadata, signals_stay=signals_stay)
        _import(setup)
        ruleset = None
        if version:
            writable = [*namespaces.DEVICES, *([] if self._work is None else [self._work.landlock_path])]
            ruleset = landlock.create_ruleset(setup.readable, writable, setup.executable)
            ruleset = _move_up_descriptor(ruleset)
        self._shared = mmap.mmap(-1, mmap.PAGESIZE)
        child.prepare_limits()
        child.prepare_streams()
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it; a flood is to end at its limit
        self._has_pidfds = not in_gvisor
        base_bytes = int(os.pread(statm, 200, 0).split()[0]) * mmap.PAGESIZE
        os.close(statm)
        foreign_tasks = _FOREIGN_TASKS if (alone or in_gvisor) and uid is None else 0
        self._jail = Jail(uid, ruleset, base_bytes, os.getpid(), own_metadata, signals_stay, foreign_tasks)
        work_dir = None if self._work is None else self._work.path
        _say(self._control, {"level": setup.level, "landlock_abi": version, "slot_uid": uid, "work_dir": work_dir})

    def serve(self) -> None:
        """Fork a child a job until the supervisor hangs up."""
        random.seed(0)  # for every program the same numbers: it ends the same way whichever slot it is in
        gc.collect()
        gc.freeze()
        while True:
            message, descriptors, _, _ = socket.recv_fds(self._control, _MAX_MESSAGE, _MAX_DESCRIPTORS)
            if not message:
                return
            if message not in (b"spent", b"kill"):  # else: meant for a child that has just ended
                self._run(Job(*json.loads(message)), descriptors)

    def _run(self, job: Job, descriptors: list[int]) -> None:
        try:
            if self._work is not None:
                self._work.refresh(job.disk_bytes)
            pid = os.fork()
        except OSError as error:
            _say(self._control, {"trouble": f"cannot start a program: {error}", "cpu_s": 0.0})
            return
        if pid == 0:
            self._be_child(job, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        self._await(pid, job)

    def _be_child(self, job: Job, descriptors: list[int]) -> None:
        shared = self._shared
        try:
            child.isolate(job, self._jail, descriptors)
        except BaseException as error:  # nothing may run in a child that is not isolated, whatever the reason
            shared[1:] = str(error).encode()[: mmap.PAGESIZE - 1].ljust(mmap.PAGESIZE - 1, b"\0")
            os._exit(1)
        shared[0] = _READY
        shared.close()  # unmapped here: the program cannot claim that its isolation failed
        gc.enable()
        os._exit(child.finish(self._drivers[job.driver]))

    def _await(self, pid: int, job: Job) -> None:
        is_wanted = watch(self._control, pid, with_pidfd=self._has_pidfds)
        _, wait_status, usage = os.wait4(pid, 0)
        others_cpu_s = self._end_descendants() if job.may_fork else 0.0
        if not is_wanted:
            os._exit(0)
        said = self._shared[1:].rstrip(b"\0").decode(errors="replace") or "died before it was isolated"
        ended = {
            "wait_status": wait_status,
            "cpu_s": usage.ru_utime + usage.ru_stime + others_cpu_s,
            "peak_bytes": usage.ru_maxrss * 1024,
            "trouble": "" if self._shared[0] == _READY else said,
        }
        self._shared[0] = 0
        _say(self._control, ended)
        if isinstance(self._work, workdir.SlotDir):
            self._work.clear()  # at once: what is left takes of the container's memory until the next

    def _end_descendants(self) -> float:
        """Kill and reap all that the child left behind; the CPU seconds of those. They are this process's children now:
        it is the first of its pid namespace, or at least a subreaper. What forks meanwhile is met in the next turn."""
        cpu_s = 0.0
        while True:
            for pid in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                _, _, usage = os.wait4(-1, 0)
            except ChildProcessError:
                return cpu_s
            cpu_s += usage.ru_utime + usage.ru_stime


def watch(control: socket.socket, pid: int, *, with_pidfd: bool) -> bool:
    """Until the child has ended, which stays to be reaped: so its pid is nobody else's whenever it is killed. Answers
    the supervisor meanwhile; False where that has hung up."""
    is_wanted = True
    events = select.poll()
    events.register(control, select.POLLIN)
    pidfd = os.pidfd_open(pid) if with_pidfd else None
    if pidfd is not None:
        events.register(pidfd, select.POLLIN)
    while True:
        ready = dict(events.poll(_LOOK_MS if pidfd is None else None))
        if control.fileno() not in ready:
            if pidfd in ready or os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
                break
            continue
        message = control.recv(16)
        if message == b"spent":
            # The id of a process's CPU clock over all its threads: linux/posix-timers.h, CPUCLOCK_SCHED.
            _say(control, {"cpu_s": time.clock_gettime((~pid << 3) | 2)})
            continue
        os.kill(pid, signal.SIGKILL)
        if message == b"":
            is_wanted = False
            events.unregister(control)
    if pidfd is not None:
        os.close(pidfd)
    return is_wanted


def _continue_as_first_process() -> None:
    """Fork into the new pid namespace. The parent stays, to end when the child ends; dies with it as well."""
    pid = os.fork()
    if pid:
        os.closerange(0, _FIRST_OWN_DESCRIPTOR)
        os.waitpid(pid, 0)
        os._exit(0)
    kernel.die_with_parent()


def _children() -> list[int]:
    if os.getpid() == 1:
        return [-1]  # everybody else in this pid namespace
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def _import(setup: Setup) -> None:
    sys.path[:] = setup.sys_path
    for name in setup.required:
        _resolve(name)
    for name in setup.preload:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "sandbox"]:
        del sys.modules[name]  # a program finds no module of ours


def _slot_uid(setup: Setup) -> int | None:
    """A uid that no other slot has, where this process may change uids and kill across them. Drawn at random from the
    range: RLIMIT_NPROC counts per uid over the whole machine, other containers and their slots included."""
    if not setup.uid_range or setup.level in ("user_namespaces", "gvisor"):
        return None
    if kernel.effective_capabilities() & _UID_CAPABILITIES != _UID_CAPABILITIES:
        return None
    if not all(_open_to_others(path, parents=setup.level == "landlock") for path in setup.readable):
        return None  # better without an own uid than with imports that fail; doctor tells
    low, high = setup.uid_range
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= low < first + count:
            return random.SystemRandom().randrange(low, min(high, first + count))
    return None


def _open_to_others(path: str, *, parents: bool) -> bool:
    """Whether any uid can read `path`; with `parents`, also get there (in a root of our own the parents are ours)."""
    if not os.path.exists(path):
        return True
    here = [path, f"{path}/__init__.py"] if os.path.isdir(path) else [path]
    readable = all(os.stat(place).st_mode & 0o004 for place in here if os.path.exists(place))
    return readable and (not parents or all(os.stat(parent).st_mode & 0o001 for parent in Path(path).parents))


def _move_up_descriptor(descriptor: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_OWN_DESCRIPTOR)
    os.close(descriptor)
    return moved
