"""Real services for the tests: a plug-in installed from a wheel, `verifier serve` as a process of its own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).parent.parent.parent
PLUGIN = Path(__file__).parent / "plugin" / "echo_verifier.py"
DIST_INFO = {
    "METADATA": "Metadata-Version: 2.1\nName: echo-verifier\nVersion: 1\n",
    "WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "RECORD": "",
    "entry_points.txt": (
        "[verifier_service.verifiers]\n"
        "echo = echo_verifier:EchoVerifier\n"
        "echo_code = echo_verifier:SlowEchoVerifier\n"
        "noop = echo_verifier:NoopVerifier\n"
    ),
}


def install_plugin(folder: Path) -> Path:
    """Make a wheel of the plug-in and install it with pip; returns the folder for PYTHONPATH."""
    wheel = folder / "echo_verifier-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(PLUGIN, "echo_verifier.py")
        for name, text in DIST_INFO.items():
            archive.writestr(f"echo_verifier-1.dist-info/{name}", text)
    target = folder / "site"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", target, wheel]
    subprocess.run(command, check=True, capture_output=True)
    return target


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass
class ServiceProcess:
    """`verifier serve` in its own process."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def wait_ready(self, timeout_s: float = 180.0) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            time.sleep(0.05)
        raise AssertionError(f"not ready: {self.log.read_text()}")

    def family(self) -> list[psutil.Process]:
        """All processes of this service, itself first."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def named(self, *words: str) -> list[psutil.Process]:
        """Living members of the family whose command line holds all these words."""
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):  # of which `psutil.ZombieProcess` is a kind
                if all(word in " ".join(process.cmdline()) for word in words):
                    found.append(process)
        return found

    @property
    def supervisor(self) -> psutil.Process:
        return min(self.named("verifier_service", "worker"), key=lambda p: len(p.parents()))

    @property
    def workers(self) -> list[psutil.Process]:
        return self.supervisor.children()

    @property
    def graders(self) -> list[psutil.Process]:
        found = []
        for worker in self.workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += worker.children()
        return found

    def stop(self, signum: signal.Signals = signal.SIGTERM, timeout_s: float = 60.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.process.wait(timeout_s)


def environment(plugin: Path, **settings: object) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VERIFIER_")}
    path = os.pathsep.join(str(part) for part in (ROOT, plugin))
    given = {f"VERIFIER_{name.upper()}": str(value) for name, value in settings.items()}
    return kept | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"} | given


def start_service(
    folder: Path, plugin: Path, *arguments: str, ready: bool = True, **settings: object
) -> ServiceProcess:
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    log = folder / "service.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "verifier_service", "serve", "--port", str(port), *arguments],
            env=environment(plugin, **settings) | {"TMPDIR": str(folder)},
            cwd=folder,
            stdout=out,
            stderr=out,
        )
    service = ServiceProcess(process, f"http://127.0.0.1:{port}", log)
    if ready:
        service.wait_ready()
    return service


@contextlib.contextmanager
def running_service(folder: Path, plugin: Path, *arguments: str, **settings: object) -> Iterator[ServiceProcess]:
    service = start_service(folder, plugin, *arguments, **settings)
    try:
        yield service
    finally:
        service.stop()
        shutil.rmtree(folder, ignore_errors=True)


def echo_item(*completions: str, want: str = "yes", kind: str = "echo", **more: object) -> dict[str, object]:
    return {"task": {"kind": kind, "want": want, **more}, "completions": list(completions)}
