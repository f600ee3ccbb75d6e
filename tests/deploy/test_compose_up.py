"""The compose deployment, built, started, attacked, broken and taken down. Run by `make compose-test`; minutes.

The tests run in order and share one deployment: two code-worker containers with one grading process each, one
light-worker container with two, so as many as the embedded service they are compared with has.
"""

import json
import os
import re
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.deploy.manifests import ROOT
from tests.verifier_service.service_process import free_port, running_service

pytestmark = [
    pytest.mark.skipif("COMPOSE_TEST" not in os.environ, reason="builds and starts containers: `make compose-test`"),
    pytest.mark.timeout(1800),
]

MB = 1_000_000
PROJECT = "prolonged-rl-test"
EXAMPLES = [json.loads(line) for line in (ROOT / "examples/completions.jsonl").read_text().splitlines()]
ESCAPES = [f"tests/sandbox/test_{name}.py" for name in ("escapes", "native", "workdir", "lifetime", "doctor")]
TEST_PACKAGES = ("pytest", "pluggy", "iniconfig", "pytest-timeout", "pytest-asyncio", "hypothesis", "sortedcontainers")
"""What the sandbox's tests need and the image lacks."""


@dataclass(frozen=True)
class Compose:
    """`docker compose` on this project, with ports and sizes of the test."""

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


def judged(verdicts: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What must be equal wherever a completion is graded."""
    return [(v["verifier"], v["outcome"], v["reward"], v["reason"], v["extracted"]) for v in verdicts]


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


def say(line: str) -> None:
    print(f"\n    {line}", flush=True)


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    deployment = Compose(free_port())
    deployment("build", "--quiet")
    try:
        yield deployment
    finally:
        deployment("down", "--volumes", "--timeout", "5", check=False)


def size_of(image: str) -> int:
    return int(docker("image", "inspect", "--format", "{{.Size}}", image))


def test_the_image_is_small(compose: Compose) -> None:
    python_only = "prolonged-rl-service:python-only"
    compose("build", "--quiet", "api", LANGUAGES="", VERIFIER_IMAGE=python_only)
    full = json.loads(compose("config", "--format", "json"))["services"]["api"]["image"]
    say(f"image: {size_of(python_only) / MB:.0f} MB with Python only, {size_of(full) / MB:.0f} MB with C and C++")
    program = "du -sm /opt/verifier/lib/python3*/site-packages/* | sort -rn | head -8"
    say("largest packages (MB): " + " ".join(docker("run", "--rm", full, "sh", "-c", program).split()))
    assert size_of(python_only) < 600 * MB
    assert size_of(full) < 950 * MB


def test_it_comes_up_within_half_a_minute(compose: Compose) -> None:
    started = time.monotonic()
    compose.up()
    took_s = time.monotonic() - started
    say(f"up and ready in {took_s:.1f} s, load {os.getloadavg()[0]:.1f}")
    assert httpx.get(f"{compose.url}/readyz").status_code == 200
    assert took_s < 30


def test_it_is_published_on_loopback_only(compose: Compose) -> None:
    (api,) = compose.containers("api")
    published = json.loads(docker("inspect", "--format", "{{json .NetworkSettings.Ports}}", api))["8000/tcp"]
    assert [binding["HostIp"] for binding in published] == ["127.0.0.1"]


@pytest.mark.parametrize("service", ["redis", "api", "light-worker", "code-worker"])
def test_containers_are_hardened(compose: Compose, service: str) -> None:
    for container in compose.containers(service):
        (found,) = json.loads(docker("inspect", container))
        host = found["HostConfig"]
        assert host["CapDrop"] == ["ALL"]
        assert not host["CapAdd"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["ReadonlyRootfs"]
        assert host["Memory"] > 0
        assert host["PidsLimit"] > 0
        status = docker("exec", container, "cat", "/proc/self/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert int(fields["CapEff"], 16) == 0
        assert fields["NoNewPrivs"] == "1"
        assert fields["Seccomp"] == "2"
        assert fields["Uid"].split()[0] != "0"


def test_the_code_worker_can_isolate(compose: Compose) -> None:
    say(compose("exec", "--no-TTY", "code-worker", "verifier", "doctor").replace("\n", "\n    "))


def test_verdicts_are_those_of_the_embedded_service(compose: Compose, embedded: str) -> None:
    in_containers, here = score(compose.url, EXAMPLES), score(embedded, EXAMPLES)
    assert len(here) == sum(len(item["completions"]) for item in EXAMPLES)
    assert judged(in_containers) == judged(here)
    assert not [verdict for verdict in here if verdict["outcome"] == "error"]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("embedded")
    with running_service(folder, ROOT, workers=2) as service:
        yield service.url


def test_throughput_is_that_of_the_embedded_service(compose: Compose, embedded: str) -> None:
    """Rounds in turn, so that the machine's mood is the same for both; each round's answers are new.

    All containers together weigh as much as one process of the host, so other work on it would decide the outcome.
    """
    ratios: dict[str, list[float]] = {"code": [], "math": []}
    busy = other_load()
    for turn in range(6):
        for kind, found in ratios.items():
            rates = [rate(url, kind, f"{turn} {number}") for number, url in enumerate((compose.url, embedded))]
            say(f"{kind}: {rates[0]:.0f} completions/s in containers, {rates[1]:.0f} embedded")
            if turn > 0:  # the first warms up
                found.append(rates[0] / rates[1])
    medians = {kind: statistics.median(found) for kind, found in ratios.items()}
    say(f"ratios {medians}, {busy:.1f} cores used by others before")
    if busy > 0.3:
        pytest.skip(f"{busy:.1f} cores are busy with other work, so the ratios {medians} say nothing")
    assert all(ratio >= 0.8 for ratio in medians.values())


def other_load() -> float:
    """Cores in use while both services are idle."""
    return psutil.cpu_percent(3.0) / 100 * (psutil.cpu_count() or 1)


def rate(url: str, kind: str, salt: str) -> float:
    """Completions a second of short, right answers."""
    items = [
        {
            "code": {
                "task": {"kind": "code", "tests": [{"stdin": "", "stdout": f"{salt} {number}"}]},
                "completions": [f"```python\nprint('{salt}', {number})\n```"],
            },
            "math": {
                "task": {"kind": "math", "ground_truth": f"\\frac{{{number}}}{{7}}"},
                "completions": [f"By {salt}, \\boxed{{{number}/7}}"],
            },
        }[kind]
        for number in range(1000)
    ]
    started = time.monotonic()
    verdicts = score(url, items)
    assert all(verdict["reward"] == 1.0 for verdict in verdicts)
    return len(items) / (time.monotonic() - started)


REACH = """
import socket
for host, port in {targets}:
    try:
        socket.create_connection((host, port), 3).close()
        print("reached", host, port)
    except OSError as error:
        print("refused", host, port, type(error).__name__)
"""


def test_a_code_worker_reaches_redis_and_nothing_else(compose: Compose) -> None:
    (api,) = compose.containers("api")
    networks = json.loads(docker("inspect", "--format", "{{json .NetworkSettings.Networks}}", api))
    targets = [("redis", 6379), ("api", 8000), ("light-worker", 8000), ("192.0.2.1", 53), ("1.1.1.1", 53)]
    targets += [(network["IPAddress"], 8000) for network in networks.values()]
    targets += [(network["Gateway"], compose.port) for network in networks.values() if network["Gateway"]]
    printed = compose.inside("code-worker", REACH.format(targets=targets)).splitlines()
    assert printed[0] == "reached redis 6379"
    assert len(printed) == len(targets)
    assert [line for line in printed[1:] if not line.startswith("refused")] == []


def test_a_code_worker_may_not_touch_other_lanes(compose: Compose) -> None:
    program = """
from redis import Redis
from redis.exceptions import NoPermissionError
redis = Redis("redis", username="code", password=open("/run/credentials/password").read())
for command in (["GET", "verifier:job:1"], ["LPUSH", "rq:queue:light", "x"], ["CONFIG", "GET", "*"], ["FLUSHALL"]):
    try:
        print(redis.execute_command(*command))
    except NoPermissionError:
        print("denied")
"""
    assert compose.inside("code-worker", program).split() == ["denied"] * 4


def installed(distributions: tuple[str, ...]) -> set[Path]:
    """Files and folders at the top of site-packages that belong to these distributions."""
    return {
        Path(str(found.locate_file(file.parts[0])))
        for found in map(distribution, distributions)
        for file in found.files or ()
        if file.parts[0] not in ("..", "__pycache__")
    }


def test_the_escape_suite_inside_the_code_worker(compose: Compose) -> None:
    """The sandbox's own tests of what nobody gets away with, in a container made exactly like a code worker's."""
    mounts = [f"{ROOT / 'tests'}:/suite/tests:ro", f"{ROOT / 'pyproject.toml'}:/suite/pyproject.toml:ro"]
    mounts += [f"{path}:/packages/{path.name}:ro" for path in installed(TEST_PACKAGES)]
    options = [part for mount in mounts for part in ("--volume", mount)]
    suite = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not soak", *ESCAPES]
    command = ["run", "--rm", "--no-deps", "--workdir", "/suite", "--env", "PYTHONPATH=/packages:/suite", *options]
    printed = compose(*command, "--no-TTY", "code-worker", *suite, check=False)
    failures = [line for line in printed.splitlines() if line.startswith(("FAILED", "ERROR"))]
    summary = (printed.splitlines() or ["it did not run"])[-1]
    say("\n    ".join([*failures, summary]))
    passed = re.search(r"(\d+) passed", summary)
    assert passed is not None
    assert int(passed[1]) > 200
    assert failures == []


def test_a_killed_worker_container_costs_no_verdict(compose: Compose) -> None:
    answers: list[list[dict[str, Any]]] = []
    batch = threading.Thread(target=lambda: answers.append(score(compose.url, spinning(24, 0.5))))
    batch.start()
    time.sleep(3)
    victim = compose.containers("code-worker")[0]
    docker("kill", victim)
    killed_at = time.monotonic()
    batch.join(120)
    say(f"answered {time.monotonic() - killed_at:.1f} s after the kill")
    assert [verdict["reward"] for verdict in answers[0]] == [1.0] * 24
    compose.up()


def test_scaling(compose: Compose) -> None:
    compose.up(code_workers=4)
    wait_until(lambda: compose.workers("code") == 4)
    assert [verdict["reward"] for verdict in score(compose.url, spinning(8, 0.1))] == [1.0] * 8
    compose.up(code_workers=2)
    wait_until(lambda: compose.workers("code") == 2)


def wait_until(condition: Any, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_a_batch_outlives_the_deployment(compose: Compose) -> None:
    """`down` in mid batch ends within seconds; after `up` the job goes on and every verdict is there."""
    job = httpx.post(f"{compose.url}/v1/jobs", json={"items": spinning(40, 0.4)}).json()["job_id"]
    time.sleep(2)
    started = time.monotonic()
    compose("down")
    took_s = time.monotonic() - started
    say(f"down in mid batch in {took_s:.1f} s")
    assert took_s < 30
    compose.up()
    state: dict[str, Any] = {}

    def finished() -> bool:
        state.update(httpx.get(f"{compose.url}/v1/jobs/{job}").json())
        return state["status"] == "finished"

    wait_until(finished, 120)
    assert [verdict["reward"] for item in state["items"] for verdict in item["verdicts"]] == [1.0] * 40


def test_it_refuses_to_be_published_without_keys(compose: Compose) -> None:
    command = ["docker", "compose", "up", "--detach", "--no-deps", "--force-recreate", "api"]
    environment = compose.environment | {"VERIFIER_PUBLISH": "0.0.0.0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "no-keys-so-VERIFIER_PUBLISH-must-not-be-set" in done.stderr


def test_with_keys_strangers_are_refused(compose: Compose, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first-key\n")
    tmp_path.chmod(0o755)
    compose("up", "--detach", "--wait", "--force-recreate", "--no-deps", "api", VERIFIER_API_KEYS_FILE=str(keys))
    body = {"items": spinning(1, 0.0)}
    assert httpx.post(f"{compose.url}/v1/score", json=body).status_code == 401
    known = {"Authorization": "Bearer first-key"}
    assert httpx.post(f"{compose.url}/v1/score", json=body, headers=known, timeout=60).status_code == 200


def test_nothing_is_left(compose: Compose) -> None:
    compose("down", "--volumes")
    for kind in ("ps --all", "volume ls", "network ls"):
        label = f"label=com.docker.compose.project={PROJECT}"
        assert docker(*kind.split(), "--quiet", "--filter", label) == ""
