"""The supervisor's side of one warm process: start it, give it a job, watch the child, kill it at its limits.

    process = WarmProcess(Profile(), "landlock")
    with process.launch(Launch(inputs=(b"print(input())",), stdin=b"7\\n")) as running:
        ended = running.wait()

Not safe to call from two threads at once; `pool` hands each process to one caller at a time.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sandbox.child import Job
from sandbox.errors import CannotIsolate, RunnerLost
from sandbox.profiles import Profile
from sandbox.types import Limits, Status

_START_TIMEOUT_S = 60
_DEATH_TIMEOUT_S = 20
_SHORTEST_LOOK_S = 0.005
_MAX_MESSAGE = 1 << 16
_NUM_CPUS = os.cpu_count() or 1
_READ_ONLY_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "MALLOC_ARENA_MAX": "1",  # an arena a thread would take 128 MiB of a program's address space each
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
# What modules want to mend after a fork (locks, other threads, random numbers) is whole in a process of one thread, and
# not mending it saves a quarter of a program's CPU time.
_BOOT = """
import os, sys
os.register_at_fork = lambda **hooks: None
sys.path.insert(0, {home!r})
from sandbox import zygote
zygote.main({descriptor})
"""


@dataclass(frozen=True, slots=True)
class Launch:
    """One child. It finds `stdin` on 0, collects on 1 and 2, and from descriptor 3 on, in this order: `inputs`
    (read-only memory files), `num_outputs` empty memory files to write to, `pass_fds` (pipes or socket pairs of the
    caller, which stay the caller's to close; in the child use `os.read` and `os.write` on them, nothing else).

    `driver` is a `module:function` of our own trusted code, without arguments, that the profile names in `drivers`: it
    finds those descriptors and does the rest, as `sandbox.child.run_program` does for a plain program."""

    driver: str = "sandbox.child:run_program"
    stdin: bytes = b""
    inputs: tuple[bytes, ...] = ()
    num_outputs: int = 0
    pass_fds: tuple[int, ...] = ()
    limits: Limits = field(default_factory=Limits)
    held_by_kernel: bool = True
    """False: the CPU limit is per call and the caller's to watch; the kernel sets none."""
    num_tasks: int = 64
    may_exec: bool = False
    """For a driver that ends in `os.execve`: of a binary in an input (`os.execve(3, ...)`, by descriptor), or of
    something below the profile's `executable`. The dynamic loader counts as executed, too."""
    may_fork: bool = False
    """For tool chains and shells; what is left when the driver ends is killed."""
    data_only: bool = False
    """For runtimes (node, java) that reserve more addresses than they use: only writable private memory counts."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended, from the kernel; nothing in here was said by the program but the bytes it wrote."""

    wait_status: int
    stopped_for: Status | None
    """CPU_TIME_LIMIT or WALL_TIME_LIMIT where the supervisor killed it."""
    cpu_time_s: float
    wall_time_s: float
    peak_memory_bytes: int
    stdout: bytes
    stderr: bytes
    stdout_truncated: bool
    stderr_truncated: bool
    outputs: tuple[bytes, ...]


class WarmProcess:
    """Raises `CannotIsolate` where the host allows none of the levels; `RunnerLost` where it does not come up."""

    def __init__(self, profile: Profile, level: str) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        boot = _BOOT.format(home=str(Path(__file__).parent.parent), descriptor=theirs.fileno())
        command = [profile.interpreter, "-s", "-P", "-S", "-B", "-X", "utf8", "-c", boot]
        self._process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            env=_ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        self._control = ours
        self.hello = self._greet(profile, level)

    def _greet(self, profile: Profile, level: str) -> dict[str, Any]:
        self._control.settimeout(_START_TIMEOUT_S)
        try:
            self._control.send(json.dumps(profile.setup(level)).encode())
            hello = json.loads(self._control.recv(_MAX_MESSAGE) or b"{}")
        except OSError as error:
            self.close()
            raise RunnerLost(f"the warm process did not come up: {error}") from None
        self._control.settimeout(None)
        if "level" not in hello:
            self.close()
            if "missing" in hello:
                raise CannotIsolate(hello["missing"])
            raise RunnerLost(hello.get("broken", "the warm process died at its start"))
        return dict(hello)

    def launch(self, launch: Launch) -> "Running":
        """Raises `RunnerLost` where the warm process is gone."""
        return Running(self._control, launch)

    def close(self) -> None:
        """Ends the warm process and what it runs."""
        self._control.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Running:
    """A child at work."""

    def __init__(self, control: socket.socket, launch: Launch) -> None:
        limits = launch.limits
        self._control = control
        self._limits = limits
        self._started = time.monotonic()
        self._pidfd: int | None = None
        self._clock = 0
        self._spent_before_s = 0.0
        self._over: dict[str, Any] = {}
        self._files = [memory_file(launch.stdin), *(os.memfd_create("out") for _ in range(2))]
        self._files += [memory_file(data) for data in launch.inputs]
        self._num_inputs = len(launch.inputs)
        self._files += [os.memfd_create("out") for _ in range(launch.num_outputs)]
        job = Job(
            driver=launch.driver,
            cpu_s=limits.cpu_time_s if launch.held_by_kernel else 0,
            memory_bytes=limits.memory_bytes,
            file_bytes=max(limits.output_bytes + 1, limits.disk_bytes),
            disk_bytes=limits.disk_bytes,
            num_extra=len(self._files) - 3 + len(launch.pass_fds),
            num_tasks=launch.num_tasks,
            may_exec=launch.may_exec,
            may_fork=launch.may_fork,
            data_only=launch.data_only,
        )
        message = json.dumps(dataclasses.asdict(job)).encode()
        try:
            socket.send_fds(control, [message], [*self._files, *launch.pass_fds])
        except OSError as error:
            self._close_files()
            raise RunnerLost(f"the warm process is gone: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        stopped_for = None
        while not self._until_over(self._patience()):
            stopped_for = self._over_limit()
            if stopped_for is not None:
                self.kill()
                if not self._until_over(_DEATH_TIMEOUT_S):
                    raise RunnerLost("a killed program does not end")
        return self._result(stopped_for)

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

    def start_allowance(self, limits: Limits) -> None:
        """From here on `limits` count, from zero: for a child that serves many calls."""
        self._limits = limits
        self._spent_before_s = self.cpu_time_s()
        self._started = time.monotonic()

    def _patience(self) -> float:
        """Seconds until a limit can be reached at the earliest."""
        wall = self._started + self._limits.effective_wall_time_s - time.monotonic()
        spent = 0.0 if self._pidfd is None else self.spent_s()
        return max(min(wall, (self._limits.cpu_time_s - spent) / _NUM_CPUS), _SHORTEST_LOOK_S)

    def _over_limit(self) -> Status | None:
        if self.spent_s() >= self._limits.cpu_time_s:
            return Status.CPU_TIME_LIMIT
        if time.monotonic() - self._started >= self._limits.effective_wall_time_s:
            return Status.WALL_TIME_LIMIT
        return None

    def spent_s(self) -> float:
        """CPU seconds of the present allowance."""
        return self.cpu_time_s() - self._spent_before_s

    def cpu_time_s(self) -> float:
        """CPU seconds that the child has used so far, over all its threads; 0 once it has ended."""
        try:
            self._leash()
            return time.clock_gettime(self._clock)
        except OSError:
            return 0.0

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._leash(), signal.SIGKILL)

    def _leash(self) -> int:
        """A descriptor of the child, asked for once it is needed: most programs end before. Raises ProcessLookupError
        where the child has ended meanwhile."""
        if self._pidfd is None and not self._over:
            self._send(b"pid")
            self._until_over(None, stop_at_leash=True)
        if self._pidfd is None:
            raise ProcessLookupError
        return self._pidfd

    def _send(self, message: bytes) -> None:
        try:
            self._control.send(message)
        except OSError as error:
            raise RunnerLost(f"the warm process is gone: {error}") from None

    def _until_over(self, timeout_s: float | None, *, stop_at_leash: bool = False) -> bool:
        """Wait for the `ended` message; False after `timeout_s` without it."""
        if self._over:
            return True
        events = select.poll()
        events.register(self._control, select.POLLIN)
        while events.poll(None if timeout_s is None else timeout_s * 1000):
            message, descriptors = self._receive()
            if "pidfd" not in message:
                self._over = message
                return True
            self._pidfd = descriptors[0]
            self._clock = _cpu_clock(self._pidfd)
            if stop_at_leash:
                return False
        return False

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, _MAX_MESSAGE, 1)
        except OSError:
            data, descriptors = b"", []
        if not data:
            raise RunnerLost("the warm process died under a program")
        return json.loads(data), descriptors

    def _result(self, stopped_for: Status | None) -> Ended:
        if self._over["trouble"]:
            raise RunnerLost(self._over["trouble"])
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
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def memory_file(data: bytes) -> int:
    """A file in memory that holds `data`, at its start, and that nobody can change: a reader that never reads it, or
    closes it, costs nobody anything."""
    descriptor = os.memfd_create("in", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _READ_ONLY_SEALS)
    return descriptor


def _read(descriptor: int, cap: int) -> tuple[bytes, bool]:
    """What was written, up to `cap` bytes, and whether there was more."""
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, min(size, cap), 0), size > cap


def _cpu_clock(pidfd: int) -> int:
    """The id of the process-wide CPU clock (linux/posix-timers.h, CPUCLOCK_SCHED), for `time.clock_gettime`."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
        if line.startswith("Pid:") and (pid := int(line.split()[1])) > 0:
            return (~pid << 3) | 2
    raise ProcessLookupError
