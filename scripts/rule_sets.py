"""Labelled sets of puzzles and instructions, for `calibrate.py`: rows as (id, group, task, completion, expected)."""

from typing import Any

from verifier_service.instructions import CHECKERS

Fields = tuple[str, str, dict[str, Any], str, float]


def puzzle_tests(row: dict[str, Any]) -> list[Fields]:
    """The library's own unit tests; their stub entries lack what no scorer reads."""
    if not isinstance(row["answer"], str):
        return []
    entry = {"question": "", "answer": None, "metadata": {}, **row["entry"]}
    return [_puzzle(row, entry, f"<answer>{row['answer']}</answer>", row["score"])]


def puzzle_rollouts(row: dict[str, Any]) -> list[Fields]:
    if row["model_answer"] is None:
        return []  # the library pays three of these 0.01; without an answer we pay nothing
    if row["entry"] is None:
        task = {"kind": "logic", "dataset": row["dataset"], "seed": row["config"]["seed"], "index": row["index"]}
        config = {name: value for name, value in row["config"].items() if name != "seed"}
        return [(row["id"], row["difficulty"], {**task, "config": config}, row["response"], row["label"])]
    return [_puzzle(row, {"question": row["question"], **row["entry"]}, row["response"], row["label"])]


def _puzzle(row: dict[str, Any], entry: dict[str, Any], completion: str, expected: float) -> Fields:
    task = {"kind": "logic", "dataset": row["dataset"], "entry": entry, "config": row["config"], "thinking": "keep"}
    return (row["id"], row.get("difficulty", "unit tests"), task, completion, expected)


def instruction_tests(row: dict[str, Any]) -> list[Fields]:
    """Upstream unit tests of ids that are registered upstream."""
    name, given = row["instruction_id"], row["kwargs"]
    if not isinstance(name, str) or name not in CHECKERS:
        return []
    given = given[0] if isinstance(given, list) else given
    task = {"kind": "instruction", "instructions": [{"id": name, "kwargs": given or {}}], "prompt": row.get("prompt")}
    group = "published" if row["id"].startswith(("ifunit-ifeval", "ifunit-ifbench")) else "other projects"
    return [(row["id"], group, task, row["response"], float(row["expected"]))]


def instruction_responses(row: dict[str, Any]) -> list[Fields]:
    """Real responses: every instruction of a prompt for itself, strict and loose."""
    rows: list[Fields] = []
    for mode in ("strict", "loose"):
        ids = zip(row["instruction_id_list"], row["kwargs"], row[f"reference_{mode}"], strict=True)
        for index, (name, kwargs, expected) in enumerate(ids):
            task = {"kind": "instruction", "instructions": [{"id": name, "kwargs": kwargs}], "mode": mode}
            rows.append((f"{row['id']}-{index}", mode, task, row["response"], float(expected)))
    return rows
