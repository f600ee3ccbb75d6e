"""The supervisor's side of one warm process: start it, give it a job, watch the child, kill it at its limits.

    process = WarmProcess(Profile(), "landlock")
    with process.launch(Launch(inputs=(b"print(input())",), stdin=b"7\\n")) as running:
        ended = running.wait()

Not safe to call from two threads at once; `pool` hands each process to one caller at a time.
"""

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

from sandbox.cgroups import make_group
from sandbox.errors import CannotIsolate, RunnerLost
from sandbox.launch import Launch
from sandbox.profiles import Profile
from sandbox.running import Running

_START_TIMEOUT_S = 60
_MAX_MESSAGE = 1 << 16
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
zygote.main({descriptor}, stack_grows={stack_grows})
"""


class WarmProcess:
    """Raises `CannotIsolate` where the host allows none of the levels; `RunnerLost` where it does not come up."""

    def __init__(self, profile: Profile, level: str) -> None:
        self._group = make_group() if profile.one_memory_limit else None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        home = str(Path(__file__).parent.parent)
        boot = _BOOT.format(home=home, descriptor=theirs.fileno(), stack_grows=level != "gvisor")
        command = [profile.interpreter, "-s", "-P", "-S", "-B", "-X", "utf8", "-c", boot]
        self._control = ours
        try:
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                env=_ENVIRONMENT,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,  # who kills this process's whole group leaves it to end what its program has started
            )
        except OSError as error:  # a neighbour may have all processes that there are
            ours.close()
            if self._group is not None:
                self._group.close()
            raise RunnerLost(f"no process for a warm interpreter: {error}") from None
        finally:
            theirs.close()
        try:
            if self._group is not None:
                self._group.hold(self._process.pid)
            self.hello = self._greet(profile, level)
        except BaseException:  # also where somebody gives up waiting: no process is left behind
            self.close()
            raise

    def _greet(self, profile: Profile, level: str) -> dict[str, Any]:
        self._control.settimeout(_START_TIMEOUT_S)
        try:
            self._control.send(json.dumps(profile.setup(level)).encode())
            hello = json.loads(self._control.recv(_MAX_MESSAGE) or b"{}")
        except OSError as error:
            raise RunnerLost(f"the warm process did not come up: {error}") from None
        self._control.settimeout(None)
        if "missing" in hello:
            raise CannotIsolate(hello["missing"])
        if "level" not in hello:
            raise RunnerLost(hello.get("broken", "the warm process died at its start"))
        return dict(hello)

    def launch(self, launch: Launch) -> Running:
        """Raises `RunnerLost` where the warm process is gone."""
        if self._group is not None:
            self._group.limit(launch.group_bytes())
        return Running(self._control, launch, self._group)

    def close(self) -> None:
        """Ends the warm process and what it runs."""
        self._control.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._group is not None:
            self._group.close()
