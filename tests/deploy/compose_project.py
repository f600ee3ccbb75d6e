"""A compose deployment that runs, and what tests do to it."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deploy.manifests import ROOT

PROJECT = "prolonged-rl-test"
EXAMPLES = [json.loads(line) for line in (ROOT / "examples/completions.jsonl").read_text().splitlines()]

asked_for = [
    pytest.mark.skipif("COMPOSE_TEST" not in os.environ, reason="builds and starts containers: `make compose-test`"),
    pytest.mark.timeout(1200),
]


@dataclass(frozen=True)
class Compose:
    """`docker compose` on this project, with a port and sizes for tests: one code-worker container has one grading
    process, and there are two of them; the light worker's has two. So as many as `verifier serve --workers 2`."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        ours = {"COMPOSE_PROJECT_NAME": PROJECT, "COMPOSE_PROFILES": "service", "VERIFIER_PORT": str(self.port)}
        return os.environ | ours | {"CODE_WORKERS": "1", "LIGHT_WORKERS": "2"}

    def __call__(self, *arguments: str, check: bool = True, **more: str) -> str:
        command = ["docker", "compose", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environment | more, capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def build(self, **more: str) -> None:
        subprocess.run([ROOT / "docker/build.sh"], env=self.environment | more, check=True)

    def up(self, code_workers: int = 2) -> None:
        self("up", "--detach", "--wait", "--no-recreate", "--scale", f"code-worker={code_workers}")

    def containers(self, service: str) -> list[str]:
        return self("ps", "--quiet", service).split()

    def inside(self, service: str, program: str) -> str:
        """What a Python program prints in a running container."""
        return self("exec", "--no-TTY", service, "python", "-c", program)

    def workers(self, lane: str) -> int:
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        (value,) = [line.split()[1] for line in lines if line.startswith(f'verifier_workers{{lane="{lane}"}}')]
        return int(float(value))


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout


def score(url: str, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    answer = httpx.post(f"{url}/v1/score", json={"items": items}, timeout=600.0)
    assert answer.status_code == 200, answer.text
    return [verdict for item in answer.json()["items"] for verdict in item["verdicts"]]


def spinning(count: int, seconds: float) -> list[dict[str, Any]]:
    """Right programs that each take so much CPU; all different, so that none is copied from another."""
    return [
        {
            "task": {"kind": "code", "tests": [{"stdin": "", "stdout": str(number)}]},
            "completions": [
                f"```python\nimport time\nwhile time.process_time() < {seconds}: pass\nprint({number})\n```"
            ],
        }
        for number in range(count)
    ]


@contextmanager
def meanwhile(work: Callable[[], Any]) -> Iterator[list[Any]]:
    """Does the work in a thread; its result is in the list after the block."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    yield results
    thread.join(300)


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def say(line: str) -> None:
    print(f"\n    {line}", flush=True)


@contextmanager
def weighed_like_a_container(pids: list[int]) -> Iterator[None]:
    """Processes of this host in a control group as deep as a container's.

    The scheduler divides a busy processor among groups: on a host with other work, processes outside of any group get
    several times what a container gets. Where the groups cannot be made, nothing happens.
    """
    root = next(
        (path for path in map(Path, ("/sys/fs/cgroup/cpu", "/sys/fs/cgroup")) if (path / "docker").is_dir()), None
    )
    if root is None or not os.access(root, os.W_OK):
        yield
        return
    outer = root / f"{PROJECT}-{os.getpid()}"
    inner = outer / "service"
    inner.mkdir(parents=True)
    try:
        for pid in pids:
            move(str(pid), inner)
        yield
    finally:
        while members := (inner / "cgroup.procs").read_text().split():
            for member in members:
                move(member, root)
        inner.rmdir()
        outer.rmdir()


def move(pid: str, group: Path) -> None:
    with suppress(ProcessLookupError):  # it has ended meanwhile
        (group / "cgroup.procs").write_text(pid)
