"""Agreement with the published checkers: upstream unit tests, real responses, disputed verdicts."""

import json
from pathlib import Path
from typing import Any

import pytest

from verifier_service import instructions
from verifier_service.schemas import InstructionTask
from verifier_service.verifiers.instruction import InstructionVerifier

LABELLED = Path(__file__).parents[3] / ".." / "shared" / "cases"
pytestmark = pytest.mark.skipif(not LABELLED.exists(), reason="the labelled cases are not on this machine")


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (LABELLED / name).read_text().splitlines()]


def followed(ids: list[str], kwargs: list[dict[str, Any]], text: str, **settings: Any) -> list[bool]:
    listed = [{"id": name, "kwargs": given or {}} for name, given in zip(ids, kwargs, strict=True)]
    verifier, task = InstructionVerifier(), InstructionTask.model_validate({"instructions": listed, **settings})
    verifier.admit(task)
    if verifier.extract(task, text) is None:
        return [False] * len(ids)
    judgement = verifier.judge(task, text, None)  # type: ignore[arg-type]
    return [entry["followed"] for entry in judgement.components["instructions"]]  # type: ignore


def test_every_unit_test_of_the_published_checkers() -> None:
    wrong = []
    for row in rows("if_unit_tests/rows.jsonl"):
        name, given = row["instruction_id"], row["kwargs"]
        if isinstance(name, list) or name not in instructions.CHECKERS or row["source"].startswith(("rllm", "NVIDIA")):
            continue  # other projects' readings of the same ids
        if not row["response"].strip():
            continue  # `extract` answers for every checker
        given = given[0] if isinstance(given, list) else given
        if followed([name], [given], row["response"]) != [row["expected"]]:
            wrong.append(row["id"])
    assert not wrong


@pytest.mark.parametrize("mode", ["strict", "loose"])
def test_real_responses(mode: str) -> None:
    checked, wrong = 0, []
    for row in rows("ifeval_responses/rows.jsonl"):
        mine = followed(row["instruction_id_list"], row["kwargs"], row["response"], mode=mode, prompt=row["prompt"])
        for given, name, own, theirs in zip(
            row["kwargs"], row["instruction_id_list"], mine, row[f"reference_{mode}"], strict=True
        ):
            if name == "keywords:letter_frequency" and not given["letter"].isalpha():
                continue  # the published checker draws a letter at random for these
            checked += 1
            if own != theirs:
                wrong.append((row["id"], name))
    assert checked > 800
    assert not wrong


@pytest.mark.parametrize("semantics", ["official", "repaired"])
def test_disputed_verdicts(semantics: str) -> None:
    column = {"official": "verdict_upstream", "repaired": "verdict_repaired"}[semantics]
    wrong = []
    for row in rows("if_unit_tests/disputed_checkers.jsonl"):
        if row[column] is None:
            continue
        given = row["kwargs"].get("null", row["kwargs"])
        if followed([row["instruction_id"]], [given], row["response"], semantics=semantics) != [row[column]]:
            wrong.append(row["id"])
    assert not wrong
