"""`verifier check` and `verifier sample` as commands: what they print, write and return."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from verifier_service.check import check_line
from verifier_service.tools import WorkerTools

GCD = {"kind": "logic", "dataset": "gcd", "entry": {"question": "gcd(4, 6)", "answer": "2", "metadata": {}}}
COMMA = {"kind": "instruction", "instructions": [{"id": "punctuation:no_comma"}]}
MATH = {"kind": "math", "ground_truth": "17"}
CHOICE = {"kind": "stem", "ground_truth": "B", "answer_type": "choice", "choices": ["red", "green", "blue"]}


ECHO = {"kind": "code", "tests": [{"stdin": "4", "stdout": "4"}, {"stdin": "5", "stdout": "5"}]}
DOUBLE = {"kind": "code", "entry_point": "double", "tests": [{"args": [2], "expected": 4}]}
ACCEPTS_ALL = {"language": "python", "source": "pass"}
ACCEPTS_NONE = {"language": "python", "source": "raise SystemExit(1)"}


def fenced(source: str) -> str:
    return f"```python\n{source}\n```"


@pytest.mark.parametrize("task", [GCD, {**GCD, "reward_mode": "strict"}, COMMA, MATH, CHOICE])
def test_sound_rows_have_no_faults(task: dict[str, Any], tools: WorkerTools) -> None:
    assert check_line(1, json.dumps({"task": task}).encode(), tools).faults == ()


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"id": "r1", "task": {**GCD, "dataset": "nope"}}, "line 3 (r1): task.dataset: no Reasoning Gym data set"),
        ({"task": {"kind": "math", "ground_truth": ""}}, "line 3: task.ground_truth"),
        ({"prompt": "no task"}, "line 3: no task: KeyError"),
        (
            {
                "task": {
                    **GCD,
                    "dataset": "word_sorting",
                    "entry": {**GCD["entry"], "metadata": {"sorted_words": ["a", "b"]}},
                }
            },  # type: ignore[dict-item]
            "line 3: the ground truth given back cannot be judged (ground_truth: the scorer pays 0 for",
        ),
        (
            {"task": {**GCD, "dataset": "game_of_life_halting", "entry": {**GCD["entry"], "answer": "False"}}},  # type: ignore[dict-item]
            "line 3: an answer that is random earns 1",
        ),
    ],
)
def test_broken_rows_say_why(row: dict[str, Any], fault: str, tools: WorkerTools) -> None:
    faults = check_line(3, json.dumps(row).encode(), tools).faults
    assert any(found.startswith(fault) for found in faults), faults


@pytest.mark.parametrize(
    "row",
    [
        {"task": ECHO},
        {"task": ECHO, "completions": [fenced("print(input())")]},
        {"task": ECHO, "completions": ["a wrong one", fenced("print(input())")]},
        {"task": DOUBLE, "completions": [fenced("def double(x): return 2 * x")]},
        {"task": {"kind": "code", "tests": [{"assert": "assert f(1) is None"}]}},
        {"task": COMMA, "completions": ["None here."]},
    ],
)
def test_sound_code_and_instructions_have_no_faults(row: dict[str, Any], tools: WorkerTools) -> None:
    assert check_line(1, json.dumps(row).encode(), tools).faults == ()


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"task": ECHO, "completions": [fenced("print(4)")]}, "the best of the completions given earns 0.5"),
        ({"task": COMMA, "completions": ["One, two."]}, "the best of the completions given earns 0"),
        ({"task": {**ECHO, "tests": [{"stdin": "4", "stdout": ""}]}}, "a program that does nothing earns 1"),
        ({"task": {**DOUBLE, "tests": [{"args": [2], "expected": None}]}}, "a program that does nothing earns 1"),
        ({"task": {**ECHO, "checker": ACCEPTS_ALL}}, "tests.0: the checker accepts an empty output"),
        ({"task": {**ECHO, "checker": ACCEPTS_NONE}}, "cannot be judged (ground_truth: the checker does not accept"),
    ],
)
def test_broken_code_and_instructions_say_why(row: dict[str, Any], fault: str, tools: WorkerTools) -> None:
    faults = check_line(1, json.dumps(row).encode(), tools).faults
    assert any(found.startswith(f"line 1: {fault}") for found in faults), faults


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "verifier_service", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_sampled_puzzles_pass_the_check(tmp_path: Path) -> None:
    out = str(tmp_path / "gcd.jsonl")
    sampled = run("sample", "gcd", "-n", "3", "--seed", "5", "--config", '{"max_numbers": 2}', "-o", out)
    assert sampled.returncode == 0, sampled.stderr
    again = run("sample", "logic", "--dataset", "gcd", "-n", "3", "--seed", "5", "--config", '{"max_numbers": 2}')
    assert again.stdout == Path(out).read_text()
    checked = run("check", out)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout == "3 rows, 0 broken; the ground truth of 3 was given back as an answer\n"


def test_a_known_data_set_is_sampled_up_to_a_number_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"question": "?", "answer": answer} for answer in ("none", "#### 1", "#### 2")]
    path.write_text("\n".join(map(json.dumps, rows)))
    sampled = run("sample", "gsm8k", "--from", str(path), "-n", "1")
    assert [json.loads(line)["id"] for line in sampled.stdout.splitlines()] == ["gsm8k-2"]
    assert "row 1" in sampled.stderr


def test_broken_rows_are_listed_and_fail_the_command(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join([json.dumps({"task": GCD}), "{", json.dumps({"task": {"kind": "nope"}})]))
    checked = run("check", str(path))
    assert checked.returncode == 1
    assert [line.split(":")[0] for line in checked.stdout.splitlines()] == [
        "line 2",
        "line 3",
        "3 rows, 2 broken; the ground truth of 1 was given back as an answer",
    ]


def test_logic_without_a_data_set_says_what_is_missing() -> None:
    assert run("sample", "logic").stderr == "verifier: logic needs --dataset NAME\n"


def test_a_row_that_is_nested_too_deep_is_broken(tools: WorkerTools) -> None:
    (fault,) = check_line(1, b"[" * 100_000, tools).faults
    assert "RecursionError" in fault


@pytest.mark.parametrize(
    "arguments",
    [
        ("sample", "no_such_data_set"),
        ("sample", "gsm8k"),
        ("sample", "gcd", "--config", "{"),
        ("sample", "gcd", "--config", '{"no_such_parameter": 1}'),
        ("sample", "gcd", "-n", "0"),
        ("check", "no-such-file.jsonl"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "error:" in done.stderr or done.stderr.count("\n") == 1
