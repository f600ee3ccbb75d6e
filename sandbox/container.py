"""A Docker engine as a runner, for hosts whose processes cannot isolate, or where a stronger wall is wanted.

    runner = open_container_runner(image="python:3.11-slim", num_containers=2, runtime="runsc")

A pool of warm, hardened containers, each with our warm runner (`contained`) inside: never one container a program. Any
image with Python 3.11 does: our code is sent in when a container starts. A container that dies is replaced.
"""

import contextlib
import io
import json
import pickle
import random
import socket
import zipfile
from base64 import b64decode
from functools import partial
from pathlib import Path
from typing import Any

from docker.errors import DockerException

import docker
from sandbox.errors import CannotIsolate, RunnerLost
from sandbox.frames import read_exactly, read_frame
from sandbox.pool import Pool
from sandbox.profiles import GVISOR_VARIABLE, UID_RANGE, WORK_DIRS_VARIABLE
from sandbox.types import MIB, ExecutionRequest, ExecutionResult, Request, Status

_BOOT = """
import sys
read = sys.stdin.buffer.raw.read
def exactly(size):
    data = b""
    while len(data) < size: data += read(size - len(data))
    return data
open("/sandbox/code/sandbox.zip", "wb").write(exactly(int.from_bytes(exactly(4), "big")))
sys.path.insert(0, "/sandbox/code/sandbox.zip")
from sandbox.contained import main
main()
"""
_WORK_DIRS = ("/sandbox/work-0", "/sandbox/work-1")
_HARDENED: dict[str, Any] = {
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "read_only": True,
    "network_mode": "none",
    "pids_limit": 512,
    "init": True,
    # Folders that no image has: a tmpfs over an image's folder takes that one's mode.
    "tmpfs": dict.fromkeys(("/sandbox/code", *_WORK_DIRS), "size=32m,nr_inodes=4096,mode=1777"),
    "environment": {WORK_DIRS_VARIABLE: ":".join(_WORK_DIRS)},
    "ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
}
_START_TIMEOUT_S = 60
_GRACE_S = 30
_STDOUT_STREAM = 1
_CANARY = ExecutionRequest("print(input())", stdin=b"canary\n")


class WarmContainer:
    """Raises `CannotIsolate` where programs cannot be isolated inside, `RunnerLost` where it does not come up."""

    def __init__(self, engine: Any, image: str, runtime: str | None, options: dict[str, Any]) -> None:
        uid = random.SystemRandom().randrange(*UID_RANGE)
        self._received = b""
        self._attached: Any = None
        try:
            self._container = engine.containers.create(
                image,
                ["python3", "-P", "-c", _BOOT],
                user=f"{uid}:{uid}",
                stdin_open=True,
                runtime=runtime,
                labels={"sandbox": "runner"},
                **_HARDENED | options,
            )
        except DockerException as error:
            raise RunnerLost(f"no container: {error}") from None
        try:
            self._connect()
        except BaseException:  # also where somebody gives up waiting: no container is left behind
            self.close()
            raise

    def _connect(self) -> None:
        try:
            self._attached = self._container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
            self._socket: socket.socket = self._attached._sock
            self._container.start()
        except DockerException as error:
            raise RunnerLost(f"no container: {error}") from None
        self._send(_our_code())
        hello = self._receive(_START_TIMEOUT_S)
        if "missing" in hello:
            raise CannotIsolate(f"in a container: {hello['missing']}")

    def execute(self, request: Request) -> ExecutionResult:
        """Raises `RunnerLost` where the container died or does not answer."""
        self._send(pickle.dumps(request))
        reply = self._receive(2 * request.limits.effective_wall_time_s + _GRACE_S)
        for name in ("stdout", "stderr"):
            reply[name] = b64decode(reply[name])
        return ExecutionResult(**reply | {"status": Status(reply["status"])})

    def _send(self, body: bytes) -> None:
        try:
            self._socket.sendall(len(body).to_bytes(4, "big") + body)
        except OSError as error:
            raise RunnerLost(f"the container is gone: {error}") from None

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        self._socket.settimeout(timeout_s)
        try:
            body = read_frame(self._read_stdout)
        except OSError as error:
            raise RunnerLost(f"the container does not answer: {error!r}") from None
        if body is None:
            raise RunnerLost("the container is gone")
        return dict(json.loads(body))

    def _read_stdout(self, size: int) -> bytes:
        """At most `size` bytes of the container's stdout, out of the engine's frames: stream, 3 zeros, length in 4
        bytes; none where it has ended."""
        while not self._received:
            head = read_exactly(self._socket.recv, 8)
            data = head and read_exactly(self._socket.recv, int.from_bytes(head[4:], "big"))
            if head is None or data is None:
                return b""
            self._received = data if head[0] == _STDOUT_STREAM else b""
        found, self._received = self._received[:size], self._received[size:]
        return found

    def close(self) -> None:
        if self._attached is not None:
            self._socket.close()
            self._attached.close()
        with contextlib.suppress(DockerException):
            self._container.remove(force=True)


def _our_code() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(Path(__file__).parent.glob("*.py")):
            archive.write(path, f"sandbox/{path.name}")
    return packed.getvalue()


class ContainerRunner:
    """The `Runner` of this package against a Docker engine. Safe between threads; each call holds one container."""

    def __init__(self, image: str, num_containers: int, runtime: str | None, options: dict[str, Any]) -> None:
        try:
            self._engine = docker.from_env()
        except DockerException as error:
            raise CannotIsolate(f"no Docker engine: {error}") from None
        self._containers = Pool(partial(WarmContainer, self._engine, image, runtime, options), num_containers)

    def execute(self, request: Request) -> ExecutionResult:
        """Never raises for anything the program does. Raises `CannotIsolate`."""
        try:
            for fresh in (False, True):
                with contextlib.suppress(RunnerLost):
                    return self._attempt(request, fresh)
            canary = self._attempt(_CANARY, fresh=True)
        except RunnerLost as error:
            return ExecutionResult(Status.SANDBOX_ERROR, detail=str(error))
        if canary.stdout != _CANARY.stdin:
            return ExecutionResult(Status.SANDBOX_ERROR, detail="a known-good program fails in a container")
        return ExecutionResult(Status.FORBIDDEN, detail="the program ends its runner")

    def _attempt(self, request: Request, fresh: bool) -> ExecutionResult:
        with self._containers.lend(fresh=fresh) as [container]:
            return container.execute(request)

    def close(self) -> None:
        """Waits for the callers."""
        self._containers.close()
        self._engine.close()


def open_container_runner(
    image: str = "python:3.11-slim", num_containers: int = 2, *, runtime: str | None = None, **options: Any
) -> ContainerRunner:
    """`runtime`: one of the engine's, such as `runsc`. `options`: more for `docker.containers.create` (`mem_limit`).
    Raises `CannotIsolate` where there is no engine."""
    defaults: dict[str, Any] = {"mem_limit": 2048 * MIB}
    if runtime == "runsc":
        defaults["environment"] = _HARDENED["environment"] | {GVISOR_VARIABLE: "1"}
    return ContainerRunner(image, num_containers, runtime, defaults | options)
