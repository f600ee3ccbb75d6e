"""Verifier cases as data: each is graded directly and through HTTP and queue, with the same verdict.

One JSON object a line in `cases/*.jsonl`:
    {"case": "full" | "zero" | "malformed" | "determinism" | "exploit", "name", "task", "completion",
     "expect": {"outcome", "reward", "reason"?}}
"""

import json
from pathlib import Path
from typing import Any

import pytest

from verifier_service.client import Client
from verifier_service.registry import BUILT_IN, parse_task
from verifier_service.schemas import Item, Verdict
from verifier_service.tools import WorkerTools
from verifier_service.verify import verify

CASES = Path(__file__).parent / "cases"
CASE_KINDS = {"full", "zero", "malformed", "determinism", "exploit"}
REPEATS = {"determinism": 3}


def load() -> list[Any]:
    found = []
    for path in sorted(CASES.glob("*.jsonl")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.strip():
                case = json.loads(line)
                found.append(pytest.param(case, id=f"{path.stem}:{number}:{case['name']}"))
    return found


def files() -> list[Path]:
    return sorted(CASES.glob("*.jsonl"))


@pytest.fixture(scope="module")
def through_queue(client: Client) -> dict[str, list[Verdict]]:
    """All cases in one request, by name of the case: the verdicts of its repetitions."""
    cases = [param.values[0] for param in load()]
    items = [
        Item(id=str(index), task=case["task"], completions=[case["completion"]] * REPEATS.get(case["case"], 1))
        for index, case in enumerate(cases)
    ]
    response = client.score(items, deadline_s=600)
    return {_key(case): item.verdicts for case, item in zip(cases, response.items, strict=True)}


@pytest.mark.parametrize("case", load())
def test_directly(case: dict[str, Any], tools: WorkerTools) -> None:
    verifier, task = parse_task(case["task"])
    for _ in range(REPEATS.get(case["case"], 1)):
        check(verify(verifier, task, case["completion"], tools), case["expect"])


@pytest.mark.parametrize("case", load())
def test_through_http_and_queue(case: dict[str, Any], through_queue: dict[str, list[Verdict]]) -> None:
    for verdict in through_queue[_key(case)]:
        check(verdict, case["expect"])


@pytest.mark.parametrize("path", files(), ids=lambda path: path.stem)
def test_every_kind_of_case_is_there(path: Path) -> None:
    kinds = {json.loads(line)["case"] for line in path.read_text().splitlines() if line.strip()}
    assert kinds == CASE_KINDS


def test_only_known_verifiers_have_cases() -> None:
    kinds = {param.values[0]["task"]["kind"] for param in load()}
    assert kinds <= set(BUILT_IN)


def check(verdict: Verdict, expect: dict[str, Any]) -> None:
    assert verdict.outcome == expect["outcome"], verdict
    assert verdict.reward == (None if expect["reward"] is None else pytest.approx(expect["reward"], abs=1e-9)), verdict
    assert verdict.reason == expect.get("reason", verdict.reason), verdict


def _key(case: dict[str, Any]) -> str:
    return json.dumps([case["name"], case["task"], case["completion"]])
