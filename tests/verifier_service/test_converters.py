"""Rows in published schemas become tasks that their verifiers admit; rows that cannot are refused with the reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from verifier_service.check import Checked, check_line
from verifier_service.converters import CONVERTERS, RowRefused, convert, converted, read_rows
from verifier_service.errors import BadInput
from verifier_service.tools import WorkerTools

INTEGRAL = {"problem": "What is 1+1?", "solution": r"Adding gives $\boxed{2}$."}
USER = [{"role": "user", "content": "Read n and print n+1."}]
STDIN = {"inputs": ["1\n", "5\n"], "outputs": ["2\n", "6\n"]}
CALL = {"fn_name": "add", "inputs": ["1\n2", '[3]\n"x"'], "outputs": ["3", "[3]"]}


def eurus(truth: dict[str, Any], **more: Any) -> dict[str, Any]:
    row = {"data_source": "taco", "prompt": USER, "ability": "code", "extra_info": {"split": "train", "index": 7}}
    return {**row, "reward_model": {"style": "rule", "ground_truth": json.dumps(truth)}, **more}


HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "def one():\n",
    "entry_point": "one",
    "canonical_solution": "    return 1\n",
    "test": "def check(candidate):\n    assert candidate() == 1\n",
}
MBPP = {
    "task_id": 2,
    "text": "Write a function that doubles.",
    "code": "def double(x): return 2 * x",
    "test_list": ["assert double(2) == 4", "assert double(0) == 0"],
    "test_setup_code": "import math",
}
NO_COMMA = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": None}]}

ROWS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "deepscaler",
        {"problem": "What is 1+1?", "answer": "2", "solution": ""},
        {"kind": "math", "ground_truth": "2"},
    ),
    ("math", {**INTEGRAL, "level": "Level 1", "type": "Algebra"}, {"kind": "math", "ground_truth": "2"}),
    ("gsm8k", {"question": "How many?", "answer": "600+700\n#### 1,300"}, {"kind": "math", "ground_truth": "1300"}),
    ("scp-116k", {"domain": "physics", **INTEGRAL}, {"kind": "stem", "ground_truth": "2"}),
    (
        "scp-116k",
        {"problem": "How long?", "matched_solution": "3.2 m"},
        {"kind": "stem", "ground_truth": "3.2 m"},
    ),
    (
        "eurus-2-code",
        eurus(STDIN),
        {"kind": "code", "tests": [{"stdin": "1\n", "stdout": "2\n"}, {"stdin": "5\n", "stdout": "6\n"}]},
    ),
    (
        "eurus-2-code",
        eurus(CALL),
        {
            "kind": "code",
            "tests": [{"args": [1, 2], "expected": 3}, {"args": [[3], "x"], "expected": [3]}],
            "entry_point": "add",
        },
    ),
    ("humaneval", HUMANEVAL, {"kind": "code", "tests": [{"assert": HUMANEVAL["test"] + "\ncheck(one)\n"}]}),
    (
        "mbpp",
        MBPP,
        {"kind": "code", "tests": [{"assert": f"import math\n{test}"} for test in MBPP["test_list"]]},
    ),
    (
        "ifeval",
        {"key": 1, "prompt": "Write.", **NO_COMMA},
        {"kind": "instruction", "instructions": [{"id": "punctuation:no_comma", "kwargs": {}}], "prompt": "Write."},
    ),
    (
        "llama-nemotron-if",
        {"input": USER, "args": {"instruction_id_list": ["punctuation:no_comma"], "instruction_kwargs": [None]}},
        {
            "kind": "instruction",
            "instructions": [{"id": "punctuation:no_comma", "kwargs": {}}],
            "prompt": "Read n and print n+1.",
        },
    ),
    (
        "reasoning-gym",
        {"question": "2 + 3", "answer": "5", "metadata": {"source_dataset": "chain_sum"}},
        {
            "kind": "logic",
            "dataset": "chain_sum",
            "entry": {"question": "2 + 3", "answer": "5", "metadata": {"source_dataset": "chain_sum"}},
        },
    ),
]


@pytest.mark.parametrize(("name", "row", "task"), ROWS)
def test_row_becomes_task(name: str, row: dict[str, Any], task: dict[str, Any]) -> None:
    assert convert(name, row).task == task


def test_every_converter_has_a_row() -> None:
    assert {name for name, _, _ in ROWS} == set(CONVERTERS)


WRAPPED = {"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [[3], [7]]}
LISTS = {"fn_name": "evens", "inputs": [[[1, 2]], [[2, 4]]], "outputs": [[2], [2, 4]]}


@pytest.mark.parametrize(("truth", "expected"), [(WRAPPED, [3, 7]), (LISTS, [[2], [2, 4]])])
def test_outputs_wrapped_in_lists_are_unwrapped_for_a_whole_row(truth: dict[str, Any], expected: list[Any]) -> None:
    tests: Any = convert("eurus-2-code", eurus(truth)).task["tests"]
    assert [test["expected"] for test in tests] == expected


SHADOWS = {**MBPP, "code": "def sum(a, b): return a * b", "test_list": ["assert sum(10, 15) == 150"]}


@pytest.mark.parametrize(("name", "row"), [("humaneval", HUMANEVAL), ("mbpp", MBPP), ("mbpp", SHADOWS)])
def test_reference_solutions_come_along_and_earn_everything(name: str, row: dict[str, Any]) -> None:
    tools = WorkerTools()
    try:
        line = convert(name, row).model_dump_json().encode()
        assert check_line(1, line, tools) == Checked((), has_oracle=True)
        broken = convert(
            name,
            {**row, "canonical_solution": "    return 2\n", "code": "def double(x): return x\ndef sum(*a): return 1"},
        )
        assert check_line(1, broken.model_dump_json().encode(), tools).faults
    finally:
        tools.close()


def test_chat_prompts_stay_chats() -> None:
    prompt = convert("eurus-2-code", eurus(STDIN)).prompt
    assert not isinstance(prompt, str)
    assert [message.role for message in prompt] == ["user"]


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("math", {"problem": "?", "solution": "no box"}, "no boxed answer"),
        ("gsm8k", {"question": "?", "answer": "42"}, "no `####`"),
        ("scp-116k", {"problem": "?", "solution": "It is long and winding. " * 9}, "marks no final answer"),
        ("eurus-2-code", eurus(STDIN, ability="math"), "not 'code'"),
        ("eurus-2-code", eurus({"inputs": [], "outputs": []}), "tests"),
        (
            "ifeval",
            {"key": 1, "prompt": "x", "instruction_id_list": ["no:such"], "kwargs": [{}]},
            "unknown instruction",
        ),
        ("deepscaler", {"question": "?"}, "problem"),
        ("deepscaler", ["not a row"], "not a row"),
    ],
)
def test_unusable_row_is_refused_with_the_reason(name: str, row: Any, reason: str) -> None:
    with pytest.raises(RowRefused, match=reason):
        convert(name, row)


def test_file_of_rows(tmp_path: Path) -> None:
    rows = [
        {"question": "a", "answer": "#### 1"},
        {"question": "b", "answer": "?"},
        {"question": "c", "answer": "#### 3"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    refused: list[str] = []
    assert [item.id for item in converted("gsm8k", path, refused)] == ["gsm8k-1", "gsm8k-3"]
    assert [reason.split(":")[0] for reason in refused] == ["row 2"]


def test_json_list_and_broken_file(tmp_path: Path) -> None:
    listed, broken = tmp_path / "rows.json", tmp_path / "broken.jsonl"
    listed.write_text('{"rows": [{"a": 1}]}')
    broken.write_text("{")
    assert list(read_rows(listed)) == [{"a": 1}]
    with pytest.raises(BadInput, match=r"broken\.jsonl"):
        list(read_rows(broken))
