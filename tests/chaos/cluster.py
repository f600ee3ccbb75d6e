"""A cluster of real processes that can be broken: Redis on TCP, an API, workers; and a load that checks itself."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import httpx
import psutil
import redis

from tests.verifier_service.service_process import environment, free_port
from verifier_service.client import Client
from verifier_service.embedded import find_redis
from verifier_service.lanes import LANES, held_key
from verifier_service.schemas import Item, Verdict

# `time.time` of every process of the cluster is an hour ahead while this file exists.
CLOCK = """
import os, time
_marker, _time = os.environ["CLOCK_JUMP"], time.time
time.time = lambda: _time() + (3600.0 if os.path.exists(_marker) else 0.0)
"""


class Cluster:
    """Everything listens on loopback and writes into one folder; each part can be killed and started again."""

    def __init__(self, folder: Path, plugin: Path, workers: int = 2) -> None:
        self.folder = folder
        self.redis_port, self.api_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.api_port}"
        self.redis_url = f"redis://127.0.0.1:{self.redis_port}/0"
        self.clock_jump = folder / "clock_jump"
        (folder / "site").mkdir(parents=True)
        (folder / "site" / "sitecustomize.py").write_text(CLOCK)
        self._environ = environment(plugin, workers=workers, lease_s=3.0, grader_cpu_s=0.5, drain_s=10.0)
        self._environ["PYTHONPATH"] += os.pathsep + str(folder / "site")
        self._environ["CLOCK_JUMP"] = str(self.clock_jump)
        self.parts: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        self.start_redis()
        self.start_workers()
        self.start_api()
        self.wait_ready()

    def start_redis(self, *options: str) -> None:
        command = [find_redis(), "--port", str(self.redis_port), "--dir", str(self.folder), "--save", "", *options]
        self._spawn("redis", command)
        with self.redis() as connection:
            deadline = time.monotonic() + 20
            while True:
                with contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError):
                    connection.ping()
                    return
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def start_api(self) -> None:
        command = [sys.executable, "-m", "verifier_service", "serve", "--port", str(self.api_port)]
        self._spawn("api", [*command, "--redis-url", self.redis_url])

    def start_workers(self) -> None:
        self._spawn("workers", [sys.executable, "-m", "verifier_service", "worker", "--redis-url", self.redis_url])

    def wait_ready(self, timeout_s: float = 180.0) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200:
                    return
            time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text()[-5000:])

    def redis(self) -> "redis.Redis":
        return redis.Redis(port=self.redis_port)

    def kill(self, part: str, signum: signal.Signals = signal.SIGKILL) -> None:
        self.parts[part].send_signal(signum)
        self.parts[part].wait(60)

    @property
    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.parts["workers"].pid).children()

    @property
    def graders(self) -> list[psutil.Process]:
        found = []
        for worker in self.workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += worker.children()
        return found

    def held(self) -> int:
        """Chunks in the hands of workers."""
        with self.redis() as connection:
            return sum(connection.llen(held_key(lane)) for lane in LANES)

    def heal(self) -> None:
        """Start whatever a test has left dead."""
        self.clock_jump.unlink(missing_ok=True)
        starts = {"redis": self.start_redis, "workers": self.start_workers, "api": self.start_api}
        for part, start in starts.items():
            if self.parts[part].poll() is not None:
                start()
        self.wait_ready()

    def stop(self) -> None:
        for part in ("api", "workers", "redis"):
            if self.parts[part].poll() is None:
                self.kill(part, signal.SIGTERM)

    def _spawn(self, part: str, command: list[str]) -> None:
        with (self.folder / "log").open("ab") as log:
            self.parts[part] = subprocess.Popen(command, env=self._environ, cwd=self.folder, stdout=log, stderr=log)


class Noting(httpx.HTTPTransport):
    """Keeps the status of every answer, also of those that the client tries again."""

    def __init__(self, statuses: set[int]) -> None:
        super().__init__()
        self._statuses = statuses

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        self._statuses.add(response.status_code)
        return response


@dataclass
class Load:
    """Batches sent until told to stop; every verdict is compared with the one the completion gets alone."""

    cluster: Cluster
    poison: str | None = None
    """A completion put into the middle of every batch, which must come back `grader_limit`."""
    num_verdicts: int = 0
    num_checked: ClassVar[int] = 0
    """Verdicts of all loads of this process."""
    failures: list[str] = field(default_factory=list)
    statuses: set[int] = field(default_factory=set)

    def run(self, num_threads: int = 4, at_least: int = 150) -> "Load":
        """Send at least so many verdicts' worth and return."""
        with self.running(num_threads):
            while self.num_verdicts < at_least and not self.failures:
                time.sleep(0.05)
        return self

    @contextlib.contextmanager
    def running(self, num_threads: int = 4) -> Iterator["Load"]:
        """Send in the background; on exit every batch that was sent is awaited and everything is checked."""
        stop = threading.Event()
        threads = [threading.Thread(target=self._send, args=(stop,)) for _ in range(num_threads)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            stop.set()
            for thread in threads:
                thread.join(900)
            assert not any(thread.is_alive() for thread in threads)
            Load.num_checked += self.num_verdicts
        assert self.failures == []
        assert self.num_verdicts > 0

    _numbers = itertools.count()

    def _send(self, stop: threading.Event) -> None:
        # An API that is killed every other second can miss the same batch for minutes.
        with Client(self.cluster.url, patience_s=900.0, transport=Noting(self.statuses)) as client:
            while not stop.is_set() and not self.failures:
                try:
                    self._send_one(client)
                except Exception as error:
                    self.failures.append(f"{type(error).__name__}: {error}")

    def _send_one(self, client: Client) -> None:
        items = [self._item("echo"), self._item("echo_code")]
        response = client.score(items, deadline_s=120)
        for item, scored in zip(items, response.items, strict=True):
            for completion, verdict in zip(item.completions, scored.verdicts, strict=True):
                self._check(str(item.task["want"]), completion, verdict)

    def _item(self, kind: str) -> Item:
        number = next(self._numbers)
        completions = [f"sleep 0.01 {number}", f"{number}", f"{number + 1}", f"{number}", "", f"{number} "]
        if self.poison is not None:
            completions.insert(3, f"{self.poison} {number}")
        return Item(task={"kind": kind, "want": str(number)}, completions=completions)

    def _check(self, want: str, completion: str, verdict: Verdict) -> None:
        if self.poison is not None and completion.startswith(self.poison):
            expected: tuple[str, float | None, str] = ("incorrect", 0.0, "grader_limit")
        elif completion == "":
            expected = ("incorrect", 0.0, "no_answer")
        else:
            expected = ("correct", 1.0, "equal") if completion == want else ("incorrect", 0.0, "different")
        if (verdict.outcome, verdict.reward, verdict.reason) != expected:
            self.failures.append(f"{completion!r}: {verdict}")
        self.num_verdicts += 1
