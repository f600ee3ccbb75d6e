"""Idempotency, deadlines, cancelling, dedup: what the queue promises about one batch."""

import asyncio
import json
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
import redis.asyncio

from tests.verifier_service.service_process import ServiceProcess, echo_item, running_service
from verifier_service.batch import Batch, Layout, Slot
from verifier_service.batch_store import BatchStore
from verifier_service.chunks import Chunk, Costs
from verifier_service.jobs import Asked, Jobs
from verifier_service.metrics import Metrics
from verifier_service.registry import verifier_for
from verifier_service.schemas import Item, JobState, ScoredItem, ScoreRequest, ScoreResponse
from verifier_service.settings import Settings

SCORE = "/v1/score"


def judged(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def verdicts(response: httpx.Response) -> list[tuple[str, str]]:
    assert response.status_code == 200, response.text
    parsed = ScoreResponse.model_validate_json(response.content)
    return [(verdict.outcome, verdict.reason) for item in parsed.items for verdict in item.verdicts]


def test_the_same_request_is_graded_once_and_answers_the_same(http: httpx.Client, tmp_path: Path) -> None:
    body = {"request_id": str(tmp_path), "items": [echo_item("a", "b", log=str(tmp_path / "log"))]}
    first, second = http.post(SCORE, json=body), http.post(SCORE, json=body)
    assert first.content == second.content
    assert sorted(judged(tmp_path / "log")) == ["a", "b"]


def test_the_same_request_twice_at_once_is_graded_once(http: httpx.Client, tmp_path: Path) -> None:
    body = {"request_id": str(tmp_path), "items": [echo_item("sleep 0.5 x", log=str(tmp_path / "log"))]}
    answers: list[bytes] = []
    threads = [threading.Thread(target=lambda: answers.append(http.post(SCORE, json=body).content)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert len(set(answers)) == 1
    assert judged(tmp_path / "log") == ["sleep 0.5 x"]


def test_another_body_under_the_same_request_id_is_409(http: httpx.Client, tmp_path: Path) -> None:
    http.post(SCORE, json={"request_id": str(tmp_path), "items": [echo_item("a")]})
    other = http.post(SCORE, json={"request_id": str(tmp_path), "items": [echo_item("b")]})
    assert other.status_code == 409
    assert other.json()["type"] == "urn:verifier:request-id-reused"


def test_the_same_body_with_its_keys_in_another_order_is_the_same(http: httpx.Client, tmp_path: Path) -> None:
    item = echo_item("yes", "no", log=str(tmp_path / "log"))
    body = {"request_id": str(tmp_path), "items": [item]}
    turned = json.loads(json.dumps(body, sort_keys=True))
    assert list(turned) != list(body)
    answers = [http.post(SCORE, json=sent) for sent in (body, turned)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].content == answers[1].content
    moved = {**body, "items": [{**item, "completions": ["yesn", "o"]}]}
    assert http.post(SCORE, json=moved).status_code == 409


def test_equal_answers_of_a_batch_are_judged_once(http: httpx.Client, tmp_path: Path) -> None:
    completions = ["same", "other"] * 600  # several chunks, on both workers
    response = http.post(SCORE, json={"items": [echo_item(*completions, log=str(tmp_path / "log"))]})
    assert verdicts(response) == [("incorrect", "different")] * 1200
    assert sorted(judged(tmp_path / "log")) == ["other", "same"]


def test_equal_answers_in_flight_in_other_batches_are_judged_once(http: httpx.Client, tmp_path: Path) -> None:
    body = {"items": [echo_item("sleep 0.4 y", log=str(tmp_path / "log"))]}
    threads = [threading.Thread(target=lambda: http.post(SCORE, json=body)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert judged(tmp_path / "log") == ["sleep 0.4 y"]


def test_copied_verdicts_say_so(http: httpx.Client, tmp_path: Path) -> None:
    body = {"items": [echo_item("a", log=str(tmp_path / "log"))]}
    http.post(SCORE, json=body)
    again = ScoreResponse.model_validate_json(http.post(SCORE, json=body).content)
    assert [verdict.cached for verdict in again.items[0].verdicts] == [True]


def test_errors_are_not_remembered(http: httpx.Client, tmp_path: Path) -> None:
    body = {"items": [echo_item("cannot", log=str(tmp_path / "log"))]}
    for _ in range(2):
        assert verdicts(http.post(SCORE, json=body)) == [("error", "ground_truth")]
    assert len(judged(tmp_path / "log")) == 2


def test_the_deadline_ends_only_the_waiting_of_what_was_not_dispatched(http: httpx.Client) -> None:
    """Two workers are kept busy past the deadline: their answers are awaited, what waits behind them is an error."""
    found: dict[str, list[tuple[str, str]]] = {}

    def score(completion: str) -> None:
        body = {"deadline_s": 0.5, "items": [echo_item(completion, kind="echo_code")]}
        found[completion] = verdicts(http.post(SCORE, json=body))

    busy = [threading.Thread(target=score, args=(f"sleep 5 {number}",)) for number in range(2)]
    for thread in busy:
        thread.start()
    time.sleep(0.3)
    started = time.monotonic()
    score("waiting")
    assert time.monotonic() - started < 3.5
    for thread in busy:
        thread.join()
    assert found.pop("waiting") == [("error", "deadline")]
    assert list(found.values()) == [[("incorrect", "different")]] * 2


def test_what_the_deadline_ended_answers_the_same_when_asked_again(http: httpx.Client, tmp_path: Path) -> None:
    def keep_busy(number: int) -> None:
        http.post(SCORE, json={"items": [echo_item(f"sleep 2 {tmp_path} {number}", kind="echo_code")]})

    busy = [threading.Thread(target=keep_busy, args=(number,)) for number in range(2)]
    for thread in busy:
        thread.start()
    time.sleep(0.3)
    body = {"request_id": str(tmp_path), "deadline_s": 0.5, "items": [echo_item("waiting", kind="echo_code")]}
    first = http.post(SCORE, json=body)
    for thread in busy:
        thread.join()
    assert verdicts(first) == [("error", "deadline")]
    assert http.post(SCORE, json=body).content == first.content


class AwayAtFirst(BatchStore):
    """Redis cannot be reached when the deadline passes; after that it can. Nothing was dispatched."""

    def __init__(self) -> None:
        self.num_asked = 0

    async def take_back(self, batch: Batch, *, even_running: bool) -> list[int]:
        self.num_asked += 1
        if self.num_asked == 1:
            raise redis.ConnectionError("away")
        return [position for _chunk, positions in batch.open_chunks() for position in positions]

    async def collect(self, batch: Batch) -> None: ...

    async def missing_chunks(self, batch: Batch) -> list[tuple[Chunk, list[int]]]:
        return []

    async def keep(self, batch: Batch) -> None: ...


async def test_a_deadline_that_passes_while_redis_is_away_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verifier_service.jobs.LOOK_AGAIN_S", 0.01)
    layout = Layout("me", [Slot(None, 0, 1, "echo", "1")], [Chunk("light-j-0", [0])], time.time() + 0.1)
    batch = Batch("j", layout, None)
    jobs = Jobs(redis.asyncio.Redis(), Settings(), Metrics())
    jobs._store = AwayAtFirst()
    await asyncio.wait_for(jobs._look_after(batch), 30)
    assert b'"reason":"deadline"' in batch.response_json()


class Unheard(BatchStore):
    """Redis takes the batch, and its answer is lost."""

    async def enqueue(self, batch: Batch, parts: Sequence[tuple[Chunk, list[int]]]) -> None:
        await super().enqueue(batch, parts)
        raise redis.TimeoutError("no answer")


async def test_what_was_enqueued_unheard_and_cannot_be_asked_for_is_taken_back(service: ServiceProcess) -> None:
    (redis_socket,) = service.log.parent.glob("verifier-*/redis.sock")
    async with redis.asyncio.Redis(unix_socket_path=str(redis_socket)) as connection:
        before = set(await connection.keys("verifier:job:*"))
        jobs = Jobs(connection, Settings(), Metrics())
        jobs._store = Unheard(connection, Settings(), Costs())
        request = ScoreRequest(items=[Item.model_validate(echo_item("sleep 5 x", kind="echo_code"))])
        with pytest.raises(redis.TimeoutError):
            await jobs.submit(Asked(request, [verifier_for("math")], "me"))
        assert set(await connection.keys("verifier:job:*")) > before
        await asyncio.gather(*jobs._tasks)
        assert set(await connection.keys("verifier:job:*")) == before


def test_a_cancelled_job_stops_costing(http: httpx.Client, tmp_path: Path) -> None:
    completions = [f"sleep 5 {number}" for number in range(20)]
    body = {"items": [echo_item(*completions, kind="echo_code", log=str(tmp_path / "log"))]}
    job_id = http.post("/v1/jobs", json=body).json()["job_id"]
    time.sleep(0.5)
    state = JobState.model_validate(http.delete(f"/v1/jobs/{job_id}").json())
    assert state.status == "cancelled"
    started = len(judged(tmp_path / "log"))
    assert started <= 2
    assert verdicts(http.post(SCORE, json={"items": [echo_item("yes", kind="echo_code")]})) == [("correct", "equal")]
    assert len(judged(tmp_path / "log")) == started
    assert http.get(f"/v1/jobs/{job_id}").json()["status"] == "cancelled"


def test_a_stream_whose_job_is_cancelled_has_a_verdict_for_every_completion(http: httpx.Client, tmp_path: Path) -> None:
    items = [echo_item("sleep 1 a", f"sleep 1 {number}", kind="echo_code") for number in range(10)]
    body = {"request_id": str(tmp_path), "items": [echo_item("yes"), *items]}
    with http.stream("POST", SCORE, json=body, headers={"Accept": "application/x-ndjson"}) as response:
        lines = response.iter_lines()
        first = next(lines)
        job_id = http.post("/v1/jobs", json=body).json()["job_id"]
        assert http.delete(f"/v1/jobs/{job_id}").json()["status"] == "cancelled"
        streamed = [ScoredItem.model_validate_json(line) for line in (first, *lines)]
    assert {item.id: len(item.verdicts) for item in streamed} == {"0": 1} | {str(index): 2 for index in range(1, 11)}
    last = streamed[-1].verdicts[-1]
    assert (last.outcome, last.reward, last.reason) == ("error", None, "cancelled")


def test_a_cancelled_request_that_is_sent_again_runs_to_its_end(http: httpx.Client, tmp_path: Path) -> None:
    items = [echo_item("sleep 1 again", "yes", kind="echo_code")]
    body = {"request_id": str(tmp_path), "items": items}
    job_id = http.post("/v1/jobs", json=body).json()["job_id"]
    assert http.delete(f"/v1/jobs/{job_id}").json()["status"] == "cancelled"
    assert http.post("/v1/jobs", json=body).json()["job_id"] == job_id
    assert verdicts(http.post(SCORE, json=body)) == [("incorrect", "different"), ("correct", "equal")]
    # Settled batches leave the process that judged them; from here on Redis answers.
    time.sleep(0.2)
    assert http.get(f"/v1/jobs/{job_id}").json()["status"] == "finished"


def test_a_job_cancelled_through_another_process_is_not_enqueued_again(
    service: ServiceProcess, http: httpx.Client, tmp_path: Path, plugin: Path
) -> None:
    (redis_socket,) = service.log.parent.glob("verifier-*/redis.sock")
    completions = [f"sleep 1 {number}" for number in range(12)]
    items = [echo_item(*completions, kind="echo_code", log=str(tmp_path / "log"))]
    with running_service(tmp_path / "other", plugin, "--redis-url", f"unix://{redis_socket}") as other:
        job_id = http.post("/v1/jobs", json={"items": items}).json()["job_id"]
        assert httpx.delete(f"{other.url}/v1/jobs/{job_id}").json()["status"] == "cancelled"
        time.sleep(2.5)  # twice as long as a process takes to look after what Redis lost
        assert len(judged(tmp_path / "log")) <= 2
        assert http.get(f"/v1/jobs/{job_id}").json()["status"] == "cancelled"


def test_a_request_joins_a_job_that_its_process_only_watched_and_brings_what_redis_loses(
    service: ServiceProcess, http: httpx.Client, tmp_path: Path, plugin: Path
) -> None:
    (redis_socket,) = service.log.parent.glob("verifier-*/redis.sock")
    body = {"request_id": str(tmp_path), "items": [echo_item("sleep 3 x", want="sleep 3 x", kind="echo_code")]}
    with running_service(tmp_path / "other", plugin, "--redis-url", f"unix://{redis_socket}") as other:
        job_id = httpx.post(f"{other.url}/v1/jobs", json=body).json()["job_id"]
        other.stop(signal.SIGKILL)
    assert http.get(f"/v1/jobs/{job_id}").status_code == 200
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(http.post(SCORE, json=body, timeout=120)))
    thread.start()
    time.sleep(0.5)
    with redis.Redis(unix_socket_path=str(redis_socket)) as connection:
        connection.delete(*connection.keys(f"*{job_id}*"))
    thread.join()
    assert verdicts(answers[0]) == [("correct", "equal")]


@pytest.mark.parametrize("request_id", [None, "gone"])
def test_a_client_that_hangs_up_stops_costing(
    service: ServiceProcess, http: httpx.Client, tmp_path: Path, request_id: str | None
) -> None:
    completions = [f"sleep 1 {number} {request_id}" for number in range(20)]
    body = {"request_id": request_id, "items": [echo_item(*completions, kind="echo_code", log=str(tmp_path / "log"))]}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(service.url + SCORE, json=body, timeout=0.7)
    time.sleep(2.0)
    started = len(judged(tmp_path / "log"))
    assert started <= 4
    time.sleep(1.2)
    assert len(judged(tmp_path / "log")) == started


def test_a_retry_after_hanging_up_resumes(service: ServiceProcess, http: httpx.Client, tmp_path: Path) -> None:
    completions = [f"sleep 0.2 {number}" for number in range(8)]
    items = [echo_item(*completions, kind="echo_code", log=str(tmp_path / "log"))]
    body = {"request_id": str(tmp_path), "items": items}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(service.url + SCORE, json=body, timeout=0.5)
    assert verdicts(http.post(SCORE, json=body)) == [("incorrect", "different")] * 8
    assert sorted(judged(tmp_path / "log")) == sorted(completions)


def test_a_job_and_a_request_with_one_id_are_one(http: httpx.Client, tmp_path: Path) -> None:
    body = {"request_id": str(tmp_path), "items": [echo_item("sleep 0.3 z", log=str(tmp_path / "log"))]}
    job_id = http.post("/v1/jobs", json=body).json()["job_id"]
    assert verdicts(http.post(SCORE, json=body)) == [("incorrect", "different")]
    assert http.get(f"/v1/jobs/{job_id}").json()["status"] == "finished"
    assert judged(tmp_path / "log") == ["sleep 0.3 z"]
