"""Fuzzing, bounded in time: no 500, no hang, no verdict outside the contract, whatever is sent."""

import json
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from tests.verifier_service.service_process import ServiceProcess
from verifier_service.schemas import Problem, ScoreResponse

BOUNDED = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TEXT = st.text(max_size=60) | st.sampled_from(
    ["\\boxed{1}", "<answer>1</answer>", "```python\nprint(1)\n```", "\ud800", "\0"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
NUMBERS = st.integers(-5, 5) | st.floats()
TASKS = st.one_of(
    st.fixed_dictionaries({"kind": st.just("math"), "ground_truth": TEXT}, optional={"extract": TEXT}),
    st.fixed_dictionaries(
        {"kind": st.just("stem"), "ground_truth": TEXT | st.lists(TEXT, max_size=2)},
        optional={"answer_type": st.sampled_from(["auto", "choice", "number", "formula"]), "rel_tol": NUMBERS},
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("code"),
            "tests": st.lists(st.fixed_dictionaries({"stdin": TEXT, "stdout": TEXT}) | JSON, max_size=2),
        },
        optional={"time_limit_s": NUMBERS, "language": TEXT, "entry_point": TEXT, "checker": JSON},
    ),
    st.fixed_dictionaries(
        {"kind": st.just("logic"), "dataset": st.sampled_from(["chain_sum", "countdown", "spiral_matrix", "nope"])},
        optional={"seed": st.integers(0, 3), "index": st.integers(-1, 3), "entry": JSON, "config": JSON},
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("instruction"),
            "instructions": st.lists(
                st.fixed_dictionaries(
                    {"id": st.sampled_from(["keywords:existence", "length_constraints:number_words", "x"])}
                )
                | JSON,
                max_size=2,
            ),
        },
    ),
    st.dictionaries(st.sampled_from(["kind", "want", "thinking"]), JSON, max_size=3),
)


def body_of(task: Any, completions: list[str]) -> bytes:
    return json.dumps({"deadline_s": 60, "items": [{"task": task, "completions": completions}]}).encode()


@BOUNDED
@given(TASKS, st.lists(TEXT, min_size=1, max_size=3))
def test_any_task_and_completion_is_judged_or_refused(http: httpx.Client, task: Any, completions: list[str]) -> None:
    response = http.post("/v1/score", content=body_of(task, completions), headers={"Content-Type": "application/json"})
    if response.status_code == 422:
        assert Problem.model_validate_json(response.content).errors
        return
    assert response.status_code == 200, response.text
    (item,) = ScoreResponse.model_validate_json(response.content).items
    assert len(item.verdicts) == len(completions)
    assert not [verdict for verdict in item.verdicts if verdict.reason == "grader_bug"], item


@BOUNDED
@given(st.binary(max_size=200))
def test_any_bytes_are_answered(http: httpx.Client, body: bytes) -> None:
    for path in ("/v1/score", "/v1/jobs", "/v1/tasks/sample"):
        response = http.post(path, content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 422


@BOUNDED
@given(st.text(max_size=40))
def test_any_job_id_is_answered(http: httpx.Client, job_id: str) -> None:
    try:
        response = http.get(httpx.URL("/v1/jobs/").join(f"/v1/jobs/{job_id}"))
    except (httpx.InvalidURL, ValueError):
        return
    assert response.status_code < 500


def test_the_service_is_as_its_document_says(service: ServiceProcess) -> None:
    document = schemathesis.openapi.from_url(service.url + "/openapi.json")
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) >= 8
    for operation in operations:

        @settings(BOUNDED, max_examples=15)
        @given(operation.as_strategy())
        def check(case: Any) -> None:
            checks = [not_a_server_error, status_code_conformance, content_type_conformance]
            case.call_and_validate(checks=checks, timeout=60)

        check()
