"""The Docker runner against a real engine: the same programs, the same ends; a dead container is replaced.

The image is made on the spot of this host's own Python, mounted read-only, so that nothing is pulled.
"""

import gc
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.errors import CannotIsolate
from sandbox.types import MIB, CallRequest, ExecutionRequest, Limits, Status

docker = pytest.importorskip("docker")
from sandbox.container import ContainerRunner, open_container_runner  # noqa: E402

pytestmark = pytest.mark.docker
IMAGE = "sandbox-test-bare:1"
LIMITS = Limits(cpu_time_s=0.5, memory_bytes=128 * MIB, output_bytes=MIB)


def _engine() -> "docker.DockerClient":
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not Path(address.removeprefix("unix://")).is_socket():
        pytest.skip("no Docker engine")
    return docker.from_env()


def _import_image(engine: "docker.DockerClient") -> None:
    """Folders and links only: what is in them is mounted from this host."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("usr", "tmp", "proc", "dev", "etc", "sys"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
        for name in ("lib", "lib64", "bin"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            archive.addfile(link)
    engine.api.import_image_from_data(packed.getvalue(), repository=IMAGE.partition(":")[0], tag="1")


@pytest.fixture(scope="module")
def runner() -> Iterator[ContainerRunner]:
    if not Path("/usr/bin/python3").exists() or not Path("/lib").is_symlink():
        pytest.skip("needs a Python of the system below a merged /usr")
    engine = _engine()
    _import_image(engine)
    mounts = {"/usr": {"bind": "/usr", "mode": "ro"}, "/etc/ld.so.cache": {"bind": "/etc/ld.so.cache", "mode": "ro"}}
    runner = open_container_runner(IMAGE, 1, volumes=mounts)
    yield runner
    runner.close()
    assert engine.containers.list(all=True, filters={"label": "sandbox=runner"}) == []
    engine.close()


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
    [container] = runner._free
    assert container is not None
    container._container.kill()
    assert runner.execute(ExecutionRequest("print(1)")).stdout == b"1\n"


def test_the_container_is_hardened(runner: ContainerRunner) -> None:
    [container] = runner._free
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
