"""Warm containers of a real Docker engine, for tests.

The image is made on the spot of this host's own Python, mounted read-only, so that nothing is pulled.
"""

import contextlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.errors import DockerException

import docker
from sandbox.container import ContainerRunner, open_container_runner

_IMAGE = "sandbox-test-bare:1"
_MOUNTS = {name: {"bind": name, "mode": "ro"} for name in ("/usr", "/etc/ld.so.cache")}


@contextlib.contextmanager
def open_bare_containers(num_containers: int, runtime: str | None = None) -> Iterator[ContainerRunner]:
    """Skips where no engine answers; as root in CI that is a failure, because `.ci/run` starts one. `runtime`: skips
    where the engine has none of that name."""
    if not Path("/usr/bin/python3").exists() or not Path("/lib").is_symlink():
        pytest.skip("needs a Python of the system below a merged /usr")
    engine = _engine()
    if runtime is not None and runtime not in engine.info()["Runtimes"]:
        engine.close()
        pytest.skip(f"the engine has no runtime {runtime}")
    _import_image(engine)
    runner = open_container_runner(_IMAGE, num_containers, runtime=runtime, volumes=_MOUNTS)
    yield runner
    runner.close()
    assert engine.containers.list(all=True, filters={"label": "sandbox=runner"}) == []
    engine.close()


def _engine() -> "docker.DockerClient":
    engine = None
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not address.startswith("unix://") or Path(address.removeprefix("unix://")).is_socket():
        with contextlib.suppress(DockerException):  # a socket that nobody listens on
            engine = docker.from_env()
            engine.ping()
            return engine
    missing = f"no Docker engine answers at {address}: docker/engine.sh run COMMAND starts one, or says why it cannot"
    if os.environ.get("CI") and os.geteuid() == 0:
        pytest.fail(missing)
    pytest.skip(missing)


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
    engine.api.import_image_from_data(packed.getvalue(), repository=_IMAGE.partition(":")[0], tag="1")
