"""`verifier serve` without Redis: everything comes up, and everything goes down, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.verifier_service.service_process import ServiceProcess, environment, start_service
from verifier_service.embedded import find_redis
from verifier_service.errors import CommandError


def nothing_left(folder: Path, family: list[psutil.Process], timeout_s: float = 15.0) -> None:
    _gone, alive = psutil.wait_procs(family, timeout=timeout_s)
    assert alive == []
    deadline = time.monotonic() + timeout_s
    while list(folder.glob("verifier-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list(folder.glob("verifier-*")) == []


def started(folder: Path, plugin: Path) -> ServiceProcess:
    service = start_service(folder, plugin, workers=1)
    assert len(service.graders) == 3
    (own_folder,) = folder.glob("verifier-*")
    assert own_folder.stat().st_mode & 0o077 == 0
    return service


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_takes_everything_down(tmp_path: Path, plugin: Path, signum: signal.Signals) -> None:
    service = started(tmp_path, plugin)
    family = service.family()
    assert service.stop(signum) == 0
    nothing_left(tmp_path, family)


def test_a_killed_service_leaves_nothing(tmp_path: Path, plugin: Path) -> None:
    service = started(tmp_path, plugin)
    family = service.family()
    service.stop(signal.SIGKILL)
    nothing_left(tmp_path, family)


def test_a_service_that_lost_its_redis_ends(tmp_path: Path, plugin: Path) -> None:
    service = started(tmp_path, plugin)
    family = service.family()
    (redis,) = service.named("redis.sock")
    redis.kill()
    assert service.process.wait(60) == 1
    assert "verifier: Redis ended with -9" in service.log.read_text()
    nothing_left(tmp_path, family)


def test_a_taken_port_is_said_and_leaves_nothing(tmp_path: Path, plugin: Path, service: ServiceProcess) -> None:
    command = [sys.executable, "-m", "verifier_service", "serve", "--port", service.url.rpartition(":")[2]]
    env = environment(plugin) | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Address already in use" in done.stderr
    assert list(tmp_path.glob("verifier-*")) == []
    assert httpx.get(service.url + "/healthz").status_code == 200


def test_a_redis_on_the_path_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = tmp_path / "valkey-server"
    server.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_redis() == str(server)


def test_without_any_redis_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.setattr("verifier_service.embedded.find_spec", lambda _name: None)
    with pytest.raises(CommandError, match="install `redis-server`"):
        find_redis()
