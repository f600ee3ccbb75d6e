"""Workers: what they refuse to run, and how they are replaced."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis
from rq import Queue
from rq.job import Callback
from rq.serializers import JSONSerializer

from tests.verifier_service.service_process import ServiceProcess, echo_item, running_service
from verifier_service.chunks import Header, join_chunk
from verifier_service.grader import Grader
from verifier_service.lanes import FUNCTION, stats_key
from verifier_service.rq_job import put

RECYCLE_CHUNKS = 5


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, plugin: Path) -> Iterator[ServiceProcess]:
    settings = {"workers": 1, "recycle_chunks": RECYCLE_CHUNKS, "recycle_memory_mb": 400}
    with running_service(tmp_path_factory.mktemp("small"), plugin, **settings) as service:
        yield service


@pytest.fixture
def redis(small: ServiceProcess) -> Iterator[Redis]:
    (socket_path,) = small.log.parent.glob("verifier-*/redis.sock")
    with Redis(unix_socket_path=str(socket_path)) as connection:
        yield connection


def judges(service: ServiceProcess) -> bool:
    body = {"items": [echo_item("yes", "no")]}
    verdicts = httpx.post(service.url + "/v1/score", json=body, timeout=60).json()["items"][0]["verdicts"]
    return [verdict["reward"] for verdict in verdicts] == [1.0, 0.0]


@pytest.mark.parametrize("serializer", [None, JSONSerializer], ids=["pickle", "json"])
@pytest.mark.parametrize("with_callback", [False, True])
def test_a_job_that_names_another_function_is_not_run(
    small: ServiceProcess, redis: Redis, tmp_path: Path, serializer: type | None, with_callback: bool
) -> None:
    marker = tmp_path / "ran"
    queue = Queue("light", connection=redis, serializer=serializer)
    function, arguments = (FUNCTION, ()) if with_callback else ("os.system", (f"touch {marker}",))
    callback = Callback("os.mkdir") if with_callback else None
    job = queue.enqueue(function, args=arguments, on_success=callback, on_failure=callback, job_id="light-intruder-0")
    assert judges(small)
    time.sleep(0.2)
    assert not marker.exists()
    assert not redis.exists(job.key)
    assert "refused job light-intruder-0" in small.log.read_text()


def test_what_is_not_a_job_at_all_is_passed_over(small: ServiceProcess, redis: Redis) -> None:
    redis.rpush("rq:queue:light", "light-nothing-0", "\x00", "x" * 10_000, b"light-\xff-0")
    redis.hset("rq:job:light-bad-0", mapping={"data": "no JSON", "status": "queued"})
    redis.rpush("rq:queue:light", "light-bad-0")
    assert judges(small)
    deadline = time.monotonic() + 60
    while redis.llen("rq:queue:light:intermediate"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("payload", [b"{}\n[]", join_chunk(Header("lost", "nobody", [0], 600), b"no JSON")])
def test_a_chunk_that_cannot_be_read_is_dropped_and_ends_no_worker(
    small: ServiceProcess, redis: Redis, payload: bytes
) -> None:
    deaths = redis.hget(stats_key("light"), "worker_deaths")
    with redis.pipeline() as pipe:
        put(pipe, "light-lost-0", payload, 600)
        pipe.execute()
    assert judges(small)
    assert redis.hget(stats_key("light"), "worker_deaths") == deaths
    assert not redis.keys("*light-lost-0")


def test_workers_are_replaced_after_their_share(small: ServiceProcess) -> None:
    while len(before := {worker.pid for worker in small.workers}) != 3:  # one may be on its way
        time.sleep(0.1)
    for _ in range(3 * RECYCLE_CHUNKS):
        assert judges(small)
    deadline = time.monotonic() + 60
    while len(after := {worker.pid for worker in small.workers}) != 3 or after == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_killed_worker_is_no_longer_counted(small: ServiceProcess, redis: Redis) -> None:
    deadline = time.monotonic() + 60
    while len(before := redis.smembers("rq:workers:light")) != 1:  # the last test's worker has just been replaced
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for worker in small.workers:
        worker.kill()
    while before & (now := redis.smembers("rq:workers:light")) or not now:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert len(now) == 1
    assert not before & redis.smembers("rq:workers")


def test_a_worker_whose_grader_has_grown_is_replaced(small: ServiceProcess) -> None:
    before = {worker.pid for worker in small.workers}
    body = {"items": [echo_item("keep 500")]}
    assert httpx.post(small.url + "/v1/score", json=body, timeout=60).status_code == 200
    assert judges(small)
    assert {worker.pid for worker in small.workers} != before
    assert all(grader.memory_info().rss < 400 << 20 for grader in small.graders)


def test_cpu_that_one_look_misses_is_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    grader = Grader(after_fork=lambda: None)
    for seen_s in (10.0, 8.0, 11.0):
        monkeypatch.setattr("verifier_service.grader.tree_cpu_s", lambda _pid, seen_s=seen_s: seen_s)
        grader._count_cpu()
    assert grader.take_cpu_s() == 11.0
