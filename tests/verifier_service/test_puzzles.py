"""Reasoning Gym through JSON: entries by index, oracles, agreement with the library's own scores."""

import json
from pathlib import Path
from typing import Any

import pytest
from reasoning_gym import create_dataset

from verifier_service import puzzles

LABELLED = Path(__file__).parents[2] / ".." / "shared" / "cases"
NAMES = [name for name in puzzles.dataset_names() if name != "composite"]


def scored(name: str, entry: dict[str, Any], answer: str, config: dict[str, Any] | None = None) -> float:
    """As the service asks: everything through JSON first."""
    payload = {"dataset": name, "config": config or {}, "entry": entry, "answer": answer, "mode": "library"}
    return float(puzzles.score(json.loads(json.dumps(payload)))["score"])


@pytest.mark.parametrize("name", NAMES)
def test_the_entrys_own_answer_earns_everything(name: str) -> None:
    for index in range(2):
        entry = puzzles.entry_at(name, 11, index, {})
        if entry["answer"] is not None:
            assert scored(name, entry, entry["answer"]) == 1.0


def test_composite_is_scored_by_the_data_set_that_the_entry_came_from() -> None:
    config = {"datasets": [{"name": "countdown", "weight": 1, "config": {"max_numbers": 4}}]}
    entry = puzzles.entry_at("composite", 5, 0, config)
    assert puzzles.scorer_of("composite", config, entry) == ("countdown", {"max_numbers": 4})
    assert scored("countdown", entry, entry["answer"], {"max_numbers": 4}) == 1.0


@pytest.mark.parametrize("name", ["acre", "chain_sum", "rearc"])
def test_an_entry_by_index_is_the_librarys(name: str) -> None:
    with_json = json.loads(json.dumps(create_dataset(name, seed=3, size=500)[4]))
    assert puzzles.entry_at(name, 3, 4, {}) == with_json


def test_entries_handed_out_are_not_shared() -> None:
    puzzles.entry_at("chain_sum", 1, 0, {})["metadata"].clear()
    assert puzzles.entry_at("chain_sum", 1, 0, {})["metadata"]


def labelled(folder: str) -> list[dict[str, Any]]:
    path = LABELLED / folder / "rows.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.skipif(not LABELLED.exists(), reason="the labelled cases are not on this machine")
def test_agrees_with_the_librarys_unit_tests() -> None:
    rows = [row for row in labelled("reasoning_gym_unit_tests") if isinstance(row["answer"], str)]
    assert rows
    wrong = []
    for row in rows:
        entry = {"question": "", "answer": None, "metadata": {}, **row["entry"]}
        config = {name: value for name, value in row["config"].items() if name != "seed"}
        if abs(scored(row["dataset"], entry, row["answer"], config) - row["score"]) > 1e-6:
            wrong.append(row["id"])
    assert not wrong


@pytest.mark.skipif(not LABELLED.exists(), reason="the labelled cases are not on this machine")
def test_agrees_with_the_librarys_scores_of_real_rollouts() -> None:
    rows = [row for row in labelled("reasoning_gym_rollouts") if row["model_answer"] is not None]
    assert rows
    wrong = []
    for row in rows:
        config = {name: value for name, value in row["config"].items() if name != "seed"}
        entry = row["entry"] or puzzles.entry_at(row["dataset"], row["config"]["seed"], row["index"], config)
        if abs(scored(row["dataset"], {"question": "", **entry}, row["model_answer"], config) - row["label"]) > 1e-6:
            wrong.append(row["id"])
    assert not wrong
