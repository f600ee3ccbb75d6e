"""Faults against real processes and a real Redis. The invariant, checked on every verdict of a running load: every
accepted completion gets exactly one verdict, in order, equal to the one it gets alone."""

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.chaos.cluster import Cluster, Load
from tests.verifier_service.service_process import echo_item

SCORE = "/v1/score"
RECOVERY_S = 10.0
"""Work that a killed worker held goes on elsewhere within this."""
GRADING_S = 4
SOAK_VERDICTS = 100_000
"""So many are checked at full size, over all tests of this folder."""


def sizes(soak: int) -> pytest.MarkDecorator:
    """Repeats: one in `make test`, so many in `make soak`."""
    marks = [pytest.mark.soak, pytest.mark.timeout(3600)]
    return pytest.mark.parametrize("repeats", [pytest.param(1), pytest.param(soak, marks=marks)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, plugin: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"), plugin)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def cluster(whole: Cluster) -> Cluster:
    whole.heal()
    return whole


def kill_one(processes: Callable[[], list[psutil.Process]]) -> None:
    while not (living := processes()):  # the last one killed is not yet replaced
        time.sleep(0.05)
    random.choice(living).kill()


@sizes(soak=60)
def test_graders_killed(cluster: Cluster, repeats: int) -> None:
    with Load(cluster).running():
        for _ in range(8 * repeats):
            time.sleep(0.2)
            kill_one(lambda: cluster.graders)


@sizes(soak=40)
def test_workers_killed(cluster: Cluster, repeats: int) -> None:
    with Load(cluster).running() as load:
        for _ in range(4 * repeats):
            time.sleep(0.5)
            kill_one(lambda: cluster.workers)
        load_before, killed_at = load.num_verdicts, time.monotonic()
        while load.num_verdicts == load_before:
            assert time.monotonic() - killed_at < RECOVERY_S
            time.sleep(0.05)


@sizes(soak=40)
def test_all_workers_killed_at_once(cluster: Cluster, repeats: int) -> None:
    with Load(cluster).running():
        for _ in range(2 * repeats):
            time.sleep(0.7)
            for worker in cluster.workers:
                worker.kill()


def test_a_whole_machine_of_workers_lost(cluster: Cluster) -> None:
    """Its supervisor is gone too, so that only the leases tell; another machine takes over within 10 seconds."""
    machine = [cluster.parts["workers"], *cluster.workers]
    cluster.start_workers()  # the other machine
    while len(cluster.graders) < 6:
        time.sleep(0.1)

    def ask(number: int) -> httpx.Response:
        item = echo_item(f"sleep {GRADING_S} {number}", kind=("echo", "echo_code")[number % 2])
        return httpx.post(cluster.url + SCORE, json={"items": [item]}, timeout=120)

    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(ask, number) for number in range(8)]  # one a worker of the two lanes
        while cluster.held() < 5:  # more than the other machine can hold
            time.sleep(0.05)
        for process in machine:
            with suppress(psutil.NoSuchProcess):  # with its supervisor
                process.kill()
        killed_at = time.monotonic()
        machine[0].wait()
        outcomes = [answer.result().json()["items"][0]["verdicts"][0]["outcome"] for answer in answers]
    # What the other machine held itself, then what it took over.
    assert time.monotonic() - killed_at < RECOVERY_S + 2 * GRADING_S
    assert outcomes == ["incorrect"] * 8


@sizes(soak=25)
def test_api_killed_between_accept_and_answer(cluster: Cluster, repeats: int) -> None:
    with Load(cluster).running():
        for _ in range(repeats):
            time.sleep(1.0)
            cluster.kill("api")
            cluster.start_api()
            cluster.wait_ready()


def test_a_retry_after_the_api_died_is_not_graded_twice(cluster: Cluster, tmp_path: Path) -> None:
    completions = [f"sleep 0.3 {number}" for number in range(10)]
    body = {"request_id": str(tmp_path), "items": [echo_item(*completions, log=str(tmp_path / "log"))]}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(cluster.url + SCORE, json=body, timeout=httpx.Timeout(60, read=0.3))
    killing = threading.Timer(0.3, cluster.kill, ["api"])
    killing.start()
    with pytest.raises(httpx.TransportError):
        httpx.post(cluster.url + SCORE, json=body, timeout=30)
    killing.join()
    cluster.heal()
    first = httpx.post(cluster.url + SCORE, json=body, timeout=30)
    assert [verdict["outcome"] for verdict in first.json()["items"][0]["verdicts"]] == ["incorrect"] * 10
    assert httpx.post(cluster.url + SCORE, json=body, timeout=30).content == first.content
    assert sorted((tmp_path / "log").read_text().splitlines()) == completions


@sizes(soak=12)
def test_redis_lost_with_all_it_held(cluster: Cluster, repeats: int) -> None:
    """A synchronous request is enqueued again by the API that holds it; a job is lost and says so."""
    with Load(cluster).running():
        for _ in range(repeats):
            time.sleep(1.0)
            job = httpx.post(cluster.url + "/v1/jobs", json={"items": [echo_item(*["sleep 9"] * 3)]}).json()["job_id"]
            cluster.kill("redis")
            cluster.kill("api")  # or it would know the job by heart
            cluster.start_redis()
            cluster.start_api()
            cluster.wait_ready()
            lost = httpx.get(f"{cluster.url}/v1/jobs/{job}")
            assert lost.status_code == 404
            assert lost.json()["type"] == "urn:verifier:job-lost"


@sizes(soak=25)
def test_redis_lost_under_an_api_that_lives(cluster: Cluster, repeats: int) -> None:
    with Load(cluster).running():
        for _ in range(repeats):
            time.sleep(1.0)
            cluster.kill("redis")
            cluster.start_redis()
            time.sleep(2.0)


def test_redis_restarted_with_persistence(cluster: Cluster) -> None:
    options = ("--appendonly", "yes", "--appendfsync", "always")
    cluster.kill("redis")
    cluster.start_redis(*options)
    cluster.wait_ready()
    body = {"items": [echo_item(*[f"sleep 0.3 {number}" for number in range(8)])]}
    job = httpx.post(cluster.url + "/v1/jobs", json=body).json()["job_id"]
    cluster.kill("api")
    cluster.kill("redis")
    cluster.start_redis(*options)
    cluster.heal()
    deadline = time.monotonic() + 30
    while (state := httpx.get(f"{cluster.url}/v1/jobs/{job}").json())["status"] != "finished":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert len(state["items"][0]["verdicts"]) == 8


def test_after_a_restart_of_redis_nobody_meets_its_closed_connections(cluster: Cluster) -> None:
    with httpx.Client(base_url=cluster.url, timeout=60) as client, ThreadPoolExecutor(24) as pool:

        def ask(number: int) -> int:
            return client.post(SCORE, json={"items": [echo_item(str(number))]}).status_code

        assert set(pool.map(ask, range(100))) == {200}  # over as many connections as it takes
        cluster.kill("redis")
        cluster.start_redis()
        cluster.wait_ready()
        assert set(pool.map(ask, range(100))) == {200}


@sizes(soak=40)
def test_connections_cut(cluster: Cluster, repeats: int) -> None:
    with cluster.redis() as connection, Load(cluster).running():
        for _ in range(10 * repeats):
            time.sleep(0.2)
            connection.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def test_a_slow_redis(cluster: Cluster) -> None:
    with cluster.redis() as connection, Load(cluster).running():
        for _ in range(2):
            time.sleep(0.3)
            connection.execute_command("CLIENT", "PAUSE", 1500, "ALL")


def test_a_redis_that_says_nothing_is_503(cluster: Cluster) -> None:
    """Stopped, it takes connections and answers none, as behind a partition that resets nothing."""
    silent = psutil.Process(cluster.parts["redis"].pid)
    with Load(cluster).running():
        time.sleep(0.5)
        silent.suspend()
        try:
            refused = httpx.post(cluster.url + SCORE, json={"items": [echo_item("yes")]}, timeout=120)
        finally:
            silent.resume()
    assert refused.status_code == 503
    assert refused.headers["retry-after"]


def test_a_full_redis_refuses_and_recovers(cluster: Cluster) -> None:
    with cluster.redis() as connection:
        connection.config_set("maxmemory", connection.info("memory")["used_memory"] + 200_000)
        big = [echo_item("x" * 2_000_000)]
        refused = httpx.post(cluster.url + SCORE, json={"items": big}, timeout=60)
        for _ in range(5):
            if refused.status_code == 503:
                break
            refused = httpx.post(cluster.url + SCORE, json={"items": big}, timeout=60)
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        with Load(cluster).running():
            time.sleep(1.0)
            connection.config_set("maxmemory", 0)
            time.sleep(1.0)


@sizes(soak=15)
@pytest.mark.parametrize("poison", ["kill-grader", "kill-worker", "spin"])
def test_a_poisoned_completion_in_every_batch(cluster: Cluster, poison: str, repeats: int) -> None:
    Load(cluster, poison=poison).run(num_threads=2, at_least=14 * repeats)


def test_the_clock_jumps(cluster: Cluster) -> None:
    with Load(cluster).running():
        time.sleep(0.5)
        cluster.clock_jump.touch()
        time.sleep(1.5)
        cluster.clock_jump.unlink()
        time.sleep(0.5)


def test_workers_are_replaced_without_loss(cluster: Cluster, tmp_path: Path) -> None:
    """SIGTERM: what is in hand is finished, not given away to be graded again."""
    completions = [f"sleep 0.2 {number}" for number in range(20)]
    body = {"items": [echo_item(*completions, log=str(tmp_path / "log"))]}
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(httpx.post(cluster.url + SCORE, json=body, timeout=60)))
    asking.start()
    while not cluster.held():
        time.sleep(0.05)
    cluster.kill("workers", signal.SIGTERM)
    cluster.start_workers()
    asking.join()
    assert answers[0].status_code == 200
    assert sorted((tmp_path / "log").read_text().splitlines()) == sorted(completions)


def test_a_rolling_restart_under_load(cluster: Cluster) -> None:
    """Workers, then the API, told to stop one after the other: nothing lost, nothing answered with 5xx."""
    with Load(cluster).running() as load:
        for part, start in (("workers", cluster.start_workers), ("api", cluster.start_api)):
            time.sleep(0.5)
            cluster.kill(part, signal.SIGTERM)
            start()
            cluster.wait_ready()
    assert load.statuses == {200}


def test_the_api_drains(cluster: Cluster) -> None:
    """SIGTERM while a request is in flight: it is answered before the process ends."""
    answers: list[httpx.Response] = []
    body = {"items": [echo_item("sleep 2")]}
    asking = threading.Thread(target=lambda: answers.append(httpx.post(cluster.url + SCORE, json=body, timeout=60)))
    asking.start()
    while not cluster.held():
        time.sleep(0.05)
    cluster.kill("api", signal.SIGTERM)
    asking.join()
    assert answers[0].status_code == 200


@pytest.mark.parametrize(
    "at_least", [600, pytest.param(SOAK_VERDICTS, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)
def test_nothing_breaks(cluster: Cluster, at_least: int) -> None:
    """The last test; at full size it goes on until this folder has checked as many as it promises."""
    Load(cluster).run(num_threads=12, at_least=max(600, at_least - Load.num_checked))
