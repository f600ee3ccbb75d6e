"""Agreement with labelled programs that nobody here wrote, read in place; none are committed."""

import json
from pathlib import Path
from typing import Any

import pytest

from sandbox.languages import available_languages
from verifier_service.registry import parse_task
from verifier_service.tools import WorkerTools
from verifier_service.verify import verify

LABELLED = Path(__file__).parents[2] / ".." / "shared" / "cases"
pytestmark = pytest.mark.skipif(not LABELLED.exists(), reason="the labelled cases are not on this machine")
SAMPLE = 6
"""Every so manieth row unless all are asked for."""


def labelled(folder: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (LABELLED / folder / "rows.jsonl").read_text().splitlines()]
    return [row for row in rows if row["verified_ok"]]


def reward(task: dict[str, Any], program: str, tools: WorkerTools) -> float | None:
    verifier, parsed = parse_task({"kind": "code", "time_limit_s": 15, "total_time_limit_s": 15, **task})
    return verify(verifier, parsed, f"```{parsed.language}\n{program}\n```", tools).reward


def assert_task(row: dict[str, Any]) -> dict[str, Any]:
    return {"tests": [{"assert": f"{row['test']}\n{row['test_tail'] or ''}"}]}


def disagreements_on_asserts(rows: list[dict[str, Any]], tools: WorkerTools) -> list[str]:
    def agrees(row: dict[str, Any]) -> bool:
        return (reward(assert_task(row), f"{row['preamble'] or ''}\n{row['solution']}", tools) == 1.0) == row["label"]

    return [row["id"] for row in rows if not agrees(row)]


def test_assert_tests_agree_on_a_sample(tools: WorkerTools) -> None:
    assert not disagreements_on_asserts(labelled("code_asserts")[::SAMPLE], tools)


@pytest.mark.soak
def test_assert_tests_agree(tools: WorkerTools) -> None:
    assert not disagreements_on_asserts(labelled("code_asserts"), tools)


def test_call_tests_agree(tools: WorkerTools) -> None:
    wrong = []
    for row in labelled("code_call"):
        # APPS wraps a single output in a list of one.
        wrapped = row["id"].startswith("apps") and all(isinstance(o, list) and len(o) == 1 for o in row["outputs"])
        outputs = [output[0] for output in row["outputs"]] if wrapped else row["outputs"]
        tests = [{"args": args, "expected": output} for args, output in zip(row["inputs"], outputs, strict=True)]
        task = {"entry_point": row["fn_name"], "tests": tests, "time_limit_s": 2, "scoring": "all"}
        paid = reward(task, row["solution"], tools)
        if (paid == 1.0) != row["label"]:
            wrong.append(row["id"])
    assert not wrong


def test_verdicts_agree_with_contest_judges(tools: WorkerTools) -> None:
    rows = [json.loads(line) for line in (LABELLED / "sandbox_verdicts" / "rows.jsonl").read_text().splitlines()]
    wrong = []
    for row in rows:
        expected = {"accepted": 1.0, "partial": 0.5}.get(row["expected_dir"], 0.0)
        # Python 2 is not among our languages; a time limit that is nobody's in particular decides nothing.
        unfit = "_py2" in row["id"] or row["expected_dir"] == "accepted_if_slow_ok" or not row["tests"]
        if unfit or row["language"] not in available_languages():
            continue
        tests = [{"stdin": test["input"], "stdout": test["output"]} for test in row["tests"]]
        flags = (row["validator_flags"] or "").split()
        tolerance = {"float_tolerance": float(flags[1])} if flags[:1] == ["float_tolerance"] else {}
        # Where no limit is declared, an accepted program may busy itself for a whole second (`hello_alarm.c` does).
        task = {"language": row["language"], "tests": tests, "time_limit_s": row["time_limit_s"] or 3, **tolerance}
        if reward(task, row["solution"], tools) != expected:
            wrong.append(row["id"])
    assert not wrong
