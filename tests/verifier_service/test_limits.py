"""Keys, admission and the graders' limits: a service with small limits of its own."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from tests.verifier_service.service_process import ServiceProcess, echo_item, environment, running_service
from verifier_service.schemas import ScoreResponse

SCORE = "/v1/score"


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text("# two clients\nalice-key\nbob-key\n")
    return path


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory, plugin: Path, keys_file: Path) -> Iterator[ServiceProcess]:
    with running_service(
        tmp_path_factory.mktemp("limited"),
        plugin,
        workers=1,
        api_keys_file=keys_file,
        api_keys="env-key",
        result_ttl_s=1,
        max_body_bytes=20_000,
        max_items=3,
        max_completions=50,
        max_tests=2,
        max_queued_chunks=4,
        grader_cpu_s=0.5,
        grader_wall_s=2.0,
        grader_memory_mb=300,
    ) as service:
        yield service


@pytest.fixture(scope="module")
def alice(limited: ServiceProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=limited.url, timeout=60, headers={"Authorization": "Bearer alice-key"}) as client:
        yield client


def score(client: httpx.Client, *items: dict[str, object], **more: object) -> list[tuple[str, float | None, str]]:
    response = client.post(SCORE, json={"items": items, **more})
    assert response.status_code == 200, response.text
    parsed = ScoreResponse.model_validate_json(response.content)
    return [(verdict.outcome, verdict.reward, verdict.reason) for item in parsed.items for verdict in item.verdicts]


LIMIT = ("incorrect", 0.0, "grader_limit")
RIGHT = ("correct", 1.0, "equal")


@pytest.mark.parametrize(
    "authorization", [None, "Bearer nope", "Bearer", "Basic alice-key", "alice-key", "Bearer älice"]
)
def test_without_a_known_key_nothing_is_served(limited: ServiceProcess, authorization: str | None) -> None:
    headers = {"Authorization": authorization.encode()} if authorization else {}
    for method, path in [
        ("POST", SCORE),
        ("GET", "/metrics"),
        ("GET", "/"),
        ("GET", "/docs"),
        ("GET", "/v1/verifiers"),
    ]:
        response = httpx.request(method, limited.url + path, headers=headers)
        assert response.status_code == 401
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["www-authenticate"] == "Bearer"


def test_probes_need_no_key(limited: ServiceProcess) -> None:
    assert httpx.get(limited.url + "/healthz").status_code == 200
    assert httpx.get(limited.url + "/readyz").status_code == 200


def test_every_configured_key_is_good(limited: ServiceProcess) -> None:
    for key in ("alice-key", "bob-key", "env-key"):
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.get(limited.url + "/v1/status", headers=headers).status_code == 200


def test_keys_are_rotated_without_a_restart(limited: ServiceProcess, keys_file: Path) -> None:
    headers = {"Authorization": "Bearer carol-key"}
    assert httpx.get(limited.url + "/v1/status", headers=headers).status_code == 401
    before = keys_file.read_text()
    keys_file.write_text(before + "carol-key\n")
    time.sleep(1.1)
    assert httpx.get(limited.url + "/v1/status", headers=headers).status_code == 200
    keys_file.write_text(before)
    time.sleep(1.1)
    assert httpx.get(limited.url + "/v1/status", headers=headers).status_code == 401


def test_a_key_file_that_is_no_text_leaves_the_keys_read_last(limited: ServiceProcess, keys_file: Path) -> None:
    before = keys_file.read_text()
    keys_file.write_bytes(before.encode() + b"\xff\xfe\n")
    time.sleep(1.1)
    status = httpx.get(limited.url + "/v1/status", headers={"Authorization": "Bearer bob-key"}).status_code
    keys_file.write_text(before)
    assert status == 200


def test_jobs_and_request_ids_belong_to_their_key(limited: ServiceProcess, alice: httpx.Client) -> None:
    job_id = alice.post("/v1/jobs", json={"items": [echo_item("sleep 0.5")]}).json()["job_id"]
    bob = {"Authorization": "Bearer bob-key"}
    assert httpx.get(f"{limited.url}/v1/jobs/{job_id}", headers=bob).status_code == 404
    assert httpx.delete(f"{limited.url}/v1/jobs/{job_id}", headers=bob).status_code == 404
    assert alice.get(f"/v1/jobs/{job_id}").status_code == 200
    assert score(alice, echo_item("yes"), request_id="shared") == [RIGHT]
    body = {"request_id": "shared", "items": [echo_item("another body")]}
    assert httpx.post(limited.url + SCORE, headers=bob, json=body).status_code == 200


def test_a_large_body_is_413(alice: httpx.Client) -> None:
    assert alice.post(SCORE, json={"items": [echo_item("x" * 20_000)]}).status_code == 413
    # Without a declared length it is cut off while it is read.
    parts = (b"x" * 1000 for _ in range(100))
    assert alice.post(SCORE, content=parts, headers={"Content-Type": "application/json"}).status_code == 413


@pytest.mark.parametrize(
    "items",
    [
        [echo_item("x")] * 4,
        [echo_item(*(["x"] * 51))],
        [{"task": {"kind": "code", "tests": [{"stdin": "", "stdout": ""}] * 3}, "completions": ["x"]}],
    ],
    ids=["items", "completions", "tests"],
)
def test_what_is_too_much_is_refused_before_grading(alice: httpx.Client, items: list[dict[str, object]]) -> None:
    assert alice.post(SCORE, json={"items": items}).status_code == 422


def test_a_full_lane_is_429_and_the_other_lane_is_not(alice: httpx.Client) -> None:
    """One worker and room for four chunks: a queue of sleeping programs fills up, answers of the light lane go on."""
    completions = [f"sleep 1 {number}" for number in range(12)]
    job_id = alice.post("/v1/jobs", json={"items": [echo_item(*completions, kind="echo_code")]}).json()["job_id"]
    time.sleep(0.7)
    refused = alice.post(SCORE, json={"items": [echo_item("yes", kind="echo_code")]})
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert score(alice, echo_item("yes")) == [RIGHT]
    alice.delete(f"/v1/jobs/{job_id}")


@pytest.mark.parametrize("answer", ["spin", "sleep 50", "eat 400", "segfault", "kill-grader", "kill-worker"])
def test_what_hits_a_limit_or_kills_its_grader_is_incorrect(alice: httpx.Client, answer: str) -> None:
    """... and its neighbours in the same chunk get their own verdicts."""
    assert score(alice, echo_item("yes", answer, "yes again")) == [RIGHT, LIMIT, ("incorrect", 0.0, "different")]


def test_a_completion_cannot_sleep_its_way_past_the_deadline(alice: httpx.Client) -> None:
    """The deadline passes while it hits its limit, and again while it waits to be judged alone."""
    assert score(alice, echo_item("yes", "spin past the deadline"), deadline_s=0.6) == [RIGHT, LIMIT]


@pytest.mark.parametrize("answer", ["kill-grader-once", "kill-worker-once"])
def test_what_was_lost_by_accident_is_judged_in_the_end(alice: httpx.Client, tmp_path: Path, answer: str) -> None:
    answer = f"{answer} {tmp_path / 'mark'}"
    assert score(alice, echo_item("a", answer, want=answer)) == [("incorrect", 0.0, "different"), RIGHT]


def test_neighbours_of_a_killer_are_not_graded_twice(alice: httpx.Client, tmp_path: Path) -> None:
    log = tmp_path / "log"
    score(alice, echo_item("a", "b", "kill-grader", "c", log=str(log)))
    assert sorted(log.read_text().split()) == ["a", "b", "c", *["kill-grader"] * 3]


def test_after_its_time_nothing_of_an_answer_remains(limited: ServiceProcess, alice: httpx.Client) -> None:

    job_id = alice.post("/v1/jobs", json={"items": [echo_item("yes", "no")]}).json()["job_id"]
    score(alice, echo_item("yes", "maybe"), request_id="short-lived")
    time.sleep(2.5)
    assert alice.get(f"/v1/jobs/{job_id}").status_code == 404
    (socket_path,) = limited.log.parent.glob("verifier-*/redis.sock")
    with redis.Redis(unix_socket_path=str(socket_path)) as connection:
        left = {key.decode() for key in connection.scan_iter()}
        assert not [key for key in left if connection.ttl(key) == -1 and not key.startswith("rq:")]
    allowed = ("verifier:light:cache", "verifier:code:cache", "verifier:slow:cache", "rq:worker", "rq:queues")
    # Locks on answers being judged; those of a killed worker expire by themselves.
    allowed += tuple(f"verifier:{lane}:{what}" for lane in ("light", "code", "slow") for what in ("stats", "judging"))
    assert [key for key in left if not key.startswith(allowed)] == []


def test_strangers_are_not_served_beyond_loopback_by_accident(plugin: Path) -> None:

    command = [sys.executable, "-m", "verifier_service", "serve", "--host", "0.0.0.0", "--port", "0"]
    done = subprocess.run(command, env=environment(plugin), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no API key is configured" in done.stderr
