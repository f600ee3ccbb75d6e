"""The Docker runner against a real engine: the same programs, the same ends; a dead container is replaced."""

import gc
from collections.abc import Iterator
from unittest.mock import MagicMock

import pytest

from sandbox.container import ContainerRunner, open_container_runner
from sandbox.errors import CannotIsolate, RunnerLost
from sandbox.pool import Pool
from sandbox.types import MIB, CallRequest, ExecutionRequest, ExecutionResult, Limits, Status
from tests.sandbox.containers import open_bare_containers

pytestmark = pytest.mark.docker
LIMITS = Limits(cpu_time_s=0.5, memory_bytes=128 * MIB, output_bytes=MIB)


@pytest.fixture(scope="module", params=[None, "runsc"])
def runner(request: pytest.FixtureRequest) -> Iterator[ContainerRunner]:
    with open_bare_containers(1, request.param) as runner:
        yield runner


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("print(int(input()) + 1)", Status.OK),
        ("open('a', 'w').write('x'); print(open('a').read())", Status.OK),
        ("1/0", Status.NONZERO_EXIT),
        ("while True: pass", Status.CPU_TIME_LIMIT),
        ("x = bytearray(10**9)", Status.MEMORY_LIMIT),
        ("while True: print('x' * 1000)", Status.OUTPUT_LIMIT),
        ("import os; os.fork()", Status.NONZERO_EXIT),
        ("import socket; socket.socket()", Status.NONZERO_EXIT),
        ("print(open('/etc/passwd').read())", Status.NONZERO_EXIT),
        ("print(open('/sandbox/code/sandbox.zip', 'rb').read(9))", Status.NONZERO_EXIT),
        ("import ctypes; ctypes.CDLL(None).ptrace(0, 0, 0, 0)", Status.FORBIDDEN),
    ],
)
def test_status(runner: ContainerRunner, source: str, status: Status) -> None:
    result = runner.execute(ExecutionRequest(source, stdin=b"7\n", limits=LIMITS))
    assert result.status is status, result


def test_every_byte_crosses(runner: ContainerRunner) -> None:
    data = bytes(range(256)) * 3000
    source = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()); sys.stderr.write('é')"
    result = runner.execute(ExecutionRequest(source, stdin=data, limits=LIMITS))
    assert (result.stdout, result.stderr) == (data, "é".encode())


def test_calls_cross(runner: ContainerRunner) -> None:
    result = runner.execute(CallRequest("def double(x): return 2 * x", "double", [21], limits=LIMITS))
    assert result.report is not None
    assert result.report["result"] == 42


def test_a_dead_container_is_replaced(runner: ContainerRunner) -> None:
    [container] = runner._containers._free
    assert container is not None
    container._container.kill()
    assert runner.execute(ExecutionRequest("print(1)")).stdout == b"1\n"


def test_the_container_is_hardened(runner: ContainerRunner) -> None:
    [container] = runner._containers._free
    assert container is not None
    host = container._container.client.api.inspect_container(container._container.id)["HostConfig"]
    assert (host["CapDrop"], host["NetworkMode"], host["ReadonlyRootfs"]) == (["ALL"], "none", True)
    assert "no-new-privileges" in host["SecurityOpt"][0]
    assert host["PidsLimit"] > 0
    assert host["Memory"] > 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_engine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(CannotIsolate, match="no Docker engine"):
        open_container_runner()
    gc.collect()  # the docker package leaves its socket to the collector


class OneThatDies:
    """In place of a container: dies of everything but the known-good program. Counts what each was given."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    def execute(self, request: ExecutionRequest) -> ExecutionResult:
        self.requests.append(request.stdin)
        if request.stdin != b"canary\n":
            raise RunnerLost("gone")
        return ExecutionResult(Status.OK, stdout=request.stdin)

    def close(self) -> None:
        pass


def test_the_second_attempt_and_the_canary_have_fresh_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.container.docker.from_env", MagicMock())
    runner = ContainerRunner("image", 3, None, {})
    made = [OneThatDies() for _ in range(6)]
    others = iter(made[3:])
    runner._containers = Pool(lambda: next(others), 3)  # type: ignore[assignment]
    runner._containers._free = [*made[:3]]  # type: ignore[list-item]
    assert runner.execute(ExecutionRequest("", stdin=b"bad")).status is Status.FORBIDDEN
    assert [one.requests for one in made] == [[], [], [b"bad"], [b"bad"], [b"canary\n"], []]
    runner.close()
