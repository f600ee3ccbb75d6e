"""The HTTP contract against a real embedded service: shapes, status codes, problem documents, text of any kind."""

import gzip
import json
import re
from typing import Any

import httpx
import pytest

from tests.verifier_service.service_process import echo_item
from verifier_service.schemas import JobState, Problem, ScoredItem, ScoreResponse, VerifierList

SCORE = "/v1/score"


def score(http: httpx.Client, *items: dict[str, object], **more: object) -> ScoreResponse:
    response = http.post(SCORE, json={"items": items, **more})
    assert response.status_code == 200, response.text
    return ScoreResponse.model_validate_json(response.content)


def problem(response: httpx.Response, status: int) -> Problem:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found = Problem.model_validate_json(response.content)
    assert found.status == status
    return found


def post_raw(http: httpx.Client, body: bytes, **headers: str) -> httpx.Response:
    return http.post(SCORE, content=body, headers={"Content-Type": "application/json", **headers})


def test_one_verdict_a_completion_in_the_order_sent(http: httpx.Client) -> None:
    wanted = [str(number % 7) for number in range(100)]
    response = score(http, {"id": "a", **echo_item(*wanted, want="3")}, echo_item("x"), request_id=None)
    assert [item.id for item in response.items] == ["a", None]
    assert [verdict.extracted for verdict in response.items[0].verdicts] == wanted
    assert [verdict.reward for verdict in response.items[0].verdicts] == [float(text == "3") for text in wanted]
    assert len(response.items[1].verdicts) == 1


def test_the_request_id_comes_back(http: httpx.Client) -> None:
    assert score(http, echo_item("yes"), request_id="run-1").request_id == "run-1"


@pytest.mark.parametrize(
    ("escaped", "expected"),
    [
        ("nul \\u0000 byte", "nul \0 byte"),
        ("lone \\ud83d high", "lone \ufffd high"),
        ("lone \\udE00 low", "lone \ufffd low"),
        ("pair \\ud83d\\ude00", "pair \U0001f600"),
        ("swapped \\ude00\\ud83d", "swapped \ufffd\ufffd"),
        ("high before pair \\ud83d\\ud83d\\ude00", "high before pair \ufffd\U0001f600"),
        ("escaped backslash \\\\ud800", "escaped backslash \\ud800"),
        ("escaped backslash, lone \\\\\\ud800", "escaped backslash, lone \\\ufffd"),
    ],
)
def test_any_code_point_is_judged(http: httpx.Client, escaped: str, expected: str) -> None:
    body = '{"items": [{"task": {"kind": "echo", "want": "x"}, "completions": ["' + escaped + '"]}]}'
    response = post_raw(http, body.encode())
    assert response.status_code == 200, response.text
    assert response.json()["items"][0]["verdicts"][0]["extracted"] == expected


@pytest.mark.parametrize(
    "completion",
    ["", "\0", "[" * 100_000, "{" * 100_000, "é" * 500_000, "\n" * 1_000_000, "\\" * 100_000],
    ids=["empty", "nul", "brackets", "braces", "1 MB", "line feeds", "backslashes"],
)
def test_odd_completions_get_a_verdict(http: httpx.Client, completion: str) -> None:
    (verdict,) = score(http, echo_item(completion)).items[0].verdicts
    assert (verdict.outcome, verdict.reward) == ("incorrect", 0.0)


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        (b"", []),
        (b"{", []),
        (b"null", []),
        (b"[]", []),
        (b'{"items": "\xff"}', []),
        (b'{"items": []}', ["items"]),
        (b'{"items": [{"task": {"kind": "echo", "want": "x"}, "completions": []}]}', ["items", 0, "completions"]),
        (b'{"items": [{"task": {"kind": "echo", "want": "x"}, "completions": [7]}]}', ["items", 0, "completions", 0]),
        (b'{"items": [{"task": {"kind": "echo"}, "completions": ["x"]}]}', ["items", 0, "task", "want"]),
        (b'{"items": [{"task": {"kind": "nope"}, "completions": ["x"]}]}', ["items", 0, "task", "kind"]),
        (b'{"items": [{"task": {}, "completions": ["x"]}]}', ["items", 0, "task", "kind"]),
        (
            b'{"items": [{"task": {"kind": "echo", "want": "refuse me"}, "completions": ["x"]}]}',
            ["items", 0, "task", "want"],
        ),
        (
            b'{"items": [{"task": {"kind": "echo", "want": "x", "wnat": 1}, "completions": ["x"]}]}',
            ["items", 0, "task", "wnat"],
        ),
        (b'{"items": [{"task": {"kind": "echo", "want": NaN}, "completions": ["x"]}]}', ["items", 0, "task", "want"]),
        (
            b'{"deadline_s": 0, "items": [{"task": {"kind": "echo", "want": "x"}, "completions": ["x"]}]}',
            ["deadline_s"],
        ),
        (
            b'{"deadline_s": "5", "items": [{"task": {"kind": "echo", "want": "x"}, "completions": ["x"]}]}',
            ["deadline_s"],
        ),
        (
            b'{"items": [{"task": {"kind": "logic", "dataset": "chain_sum", "seed": true, "index": 0},'
            b' "completions": ["x"]}]}',
            ["items", 0, "task", "seed"],
        ),
        (b'{"unknown": 1, "items": [{"task": {"kind": "echo", "want": "x"}, "completions": ["x"]}]}', ["unknown"]),
        (
            b'{"items": [{"task": {"kind": "instruction", "instructions": [{"id": "nope"}]}, "completions": ["x"]}]}',
            ["items", 0, "task", "instructions", 0, "id"],
        ),
        (b'{"items": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", []),
    ],
)
def test_a_bad_body_is_refused_by_field(http: httpx.Client, body: bytes, loc: list[str | int]) -> None:
    found = problem(post_raw(http, body), 422)
    assert [error.loc for error in found.errors or []] == [loc]


def test_nothing_of_a_refused_batch_is_graded(http: httpx.Client, tmp_path: Any) -> None:
    log = tmp_path / "judged"
    good, bad = echo_item("a", log=str(log)), {"task": {"kind": "nope"}, "completions": ["x"]}
    problem(http.post(SCORE, json={"items": [good, bad]}), 422)
    score(http, echo_item("b"))
    assert not log.exists()


def test_not_json_is_415(http: httpx.Client) -> None:
    problem(http.post(SCORE, content=b"{}", headers={"Content-Type": "text/plain"}), 415)
    problem(http.post(SCORE, content=b"{}"), 415)


def test_a_compressed_body_is_415(http: httpx.Client) -> None:
    answer = post_raw(http, gzip.compress(b"{}"), **{"Content-Encoding": "gzip"})
    assert "gzip" in problem(answer, 415).detail


def test_unknown_routes_and_methods_are_problems(http: httpx.Client) -> None:
    problem(http.get("/nope"), 404)
    problem(http.get(SCORE), 405)


def test_errors_are_null_not_zero(http: httpx.Client) -> None:
    (verdict,) = score(http, echo_item("cannot")).items[0].verdicts
    assert (verdict.outcome, verdict.reward, verdict.reason) == ("error", None, "ground_truth")


def test_an_answer_that_breaks_the_grader_earns_nothing(http: httpx.Client) -> None:
    (verdict,) = score(http, echo_item("raise")).items[0].verdicts
    assert (verdict.outcome, verdict.reward, verdict.reason) == ("incorrect", 0.0, "unjudgeable_answer")


def test_streaming_sends_each_item_when_it_is_judged(http: httpx.Client) -> None:
    items = [
        {"id": "slow", **echo_item("sleep 3")},
        {"id": "quick", **echo_item("yes", kind="echo_code")},
        echo_item("x"),
    ]
    with http.stream("POST", SCORE, json={"items": items}, headers={"Accept": "application/x-ndjson"}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/x-ndjson"
        lines = [ScoredItem.model_validate_json(line) for line in response.iter_lines()]
    assert lines[0].id == "quick"
    assert {line.id for line in lines} == {"slow", "quick", "2"}
    assert all(len(line.verdicts) == 1 for line in lines)


def test_a_job_runs_to_its_end(http: httpx.Client) -> None:
    accepted = http.post("/v1/jobs", json={"items": [echo_item("yes", "sleep 0.3")]})
    assert accepted.status_code == 202
    job_id = accepted.json()["job_id"]
    states = [JobState.model_validate(http.get(f"/v1/jobs/{job_id}").json())]
    while states[-1].status != "finished":
        assert states[-1].items is None
        states.append(JobState.model_validate(http.get(f"/v1/jobs/{job_id}").json()))
    assert (states[-1].done, states[-1].total) == (2, 2)
    assert states[-1].items is not None
    assert [verdict.reward for verdict in states[-1].items[0].verdicts] == [1.0, 0.0]


def test_an_unknown_job_is_404(http: httpx.Client) -> None:
    assert problem(http.get("/v1/jobs/0123456789ab"), 404).type.endswith("job-lost")
    problem(http.delete("/v1/jobs/0123456789ab"), 404)


def test_sampled_tasks_can_be_scored(http: httpx.Client) -> None:
    body = {"kind": "logic", "dataset": "chain_sum", "seed": 7, "count": 2, "config": {}}
    items = http.post("/v1/tasks/sample", json=body).json()["items"]
    assert len(items) == 2
    answer = items[0]["task"]["entry"]["answer"]
    response = score(http, {"task": items[0]["task"], "completions": [f"<answer>{answer}</answer>", "no"]})
    assert [verdict.reward for verdict in response.items[0].verdicts] == [1.0, 0.0]
    assert http.post("/v1/tasks/sample", json=body).json()["items"] == items


def test_an_unknown_data_set_is_refused(http: httpx.Client) -> None:
    found = problem(http.post("/v1/tasks/sample", json={"dataset": "nope"}), 422)
    assert [error.loc for error in found.errors or []] == [["dataset"]]


def test_verifiers_document_every_reason(http: httpx.Client) -> None:
    listed = VerifierList.model_validate(http.get("/v1/verifiers").json()).verifiers
    echo = next(info for info in listed if info.kind == "echo")
    assert echo.version == "1"
    assert echo.task_schema["properties"]["want"]["type"] == "string"
    assert {"equal", "different", "no_answer", "grader_limit", "deadline"} <= set(echo.reasons)
    assert {"code", "logic"} <= {info.kind for info in listed}


def test_the_rest_answers(http: httpx.Client) -> None:
    assert http.get("/healthz").status_code == 200
    assert http.get("/readyz").status_code == 200
    assert "<title>Verifier service" in http.get("/").text
    assert http.get("/v1/status").json()["lanes"]["light"]["workers"] == 2


def test_the_page_of_the_api_needs_no_other_host(http: httpx.Client) -> None:
    page = http.get("/docs").text
    needed = re.findall(r'<(?:script|link)[^>]+(?:src|href)="([^"]+)"', page)
    assert any(path.endswith(".js") for path in needed)
    assert all(path.startswith("/") and http.get(path).status_code == 200 for path in needed)


def test_grading_cpu_holds_what_programs_used(http: httpx.Client) -> None:
    def counted() -> float:
        (line,) = (line for line in http.get("/metrics").text.splitlines() if line.startswith(name))
        return float(line.split()[-1])

    name = "verifier_grading_cpu_seconds_total "
    before = counted()
    program = "import time\nwhile time.process_time() < 0.6: pass\nprint(1)"
    task = {"kind": "code", "tests": [{"stdin": "", "stdout": "1"}]}
    (item,) = score(http, {"task": task, "completions": [f"```python\n{program}\n```"]}).items
    assert item.verdicts[0].outcome == "correct"
    assert counted() >= before + 0.5


def test_the_openapi_document_has_examples_that_are_accepted(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    body = document["paths"]["/v1/tasks/sample"]["post"]["requestBody"]["content"]["application/json"]
    assert http.post("/v1/tasks/sample", json=body["example"]).status_code == 200
    dangling = [
        name.rpartition("/")[2]
        for name in json.dumps(document).split('"')
        if name.startswith("#/components/schemas/") and name.rpartition("/")[2] not in document["components"]["schemas"]
    ]
    assert dangling == []


def test_metrics_count_verdicts_by_kind_outcome_and_reason(http: httpx.Client) -> None:
    def counted() -> float:
        name = 'verifier_verdicts_total{kind="echo",outcome="correct",reason="equal"}'
        lines = [line for line in http.get("/metrics").text.splitlines() if line.startswith(name)]
        return float(lines[0].split()[-1]) if lines else 0.0

    before = counted()
    score(http, echo_item("yes", "yes", "no"))
    assert counted() == before + 2


def test_time_in_the_queue_is_reported_apart(http: httpx.Client) -> None:
    response = http.post(SCORE, json={"items": [echo_item("yes")]})
    assert response.headers["server-timing"].startswith("queue;dur=")
