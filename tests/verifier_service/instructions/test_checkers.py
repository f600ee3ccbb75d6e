"""Every checker: texts that follow and texts that do not, hostile texts, linear time, arguments that do not fit.

One JSON object a line in `checkers.jsonl`: {"id", "kwargs", "followed": [texts], "not_followed": [texts]}.
"""

import gc
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier_service.errors import TaskRefused
from verifier_service.instructions import CHECKERS, REPAIRED, detector, sentences, tokens
from verifier_service.schemas import InstructionTask
from verifier_service.verifiers.instruction import InstructionVerifier

ROWS = [json.loads(line) for line in (Path(__file__).parent / "checkers.jsonl").read_text().splitlines()]
KWARGS = {row["id"]: row["kwargs"] for row in ROWS}
BOMBS = [
    "[",
    "*",
    "<<",
    "a. ",
    '"',
    "'",
    "\n",
    " \n",
    "* \n",
    "?!",
    "(",
    "Question 1\n",
    "{",
    ",",
    '"!',
    "p. ",
    "a@",
    "é",
    "x",
]


def test_every_id_has_a_row() -> None:
    assert sorted(KWARGS) == sorted(CHECKERS)
    assert len(CHECKERS) == 25 + 58
    assert set(REPAIRED) <= set(CHECKERS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_texts_that_follow_and_texts_that_do_not(row: dict[str, Any]) -> None:
    check = CHECKERS[row["id"]]
    assert [check(text, **row["kwargs"]) for text in row["followed"]] == [True] * len(row["followed"])
    assert [check(text, **row["kwargs"]) for text in row["not_followed"]] == [False] * len(row["not_followed"])


@pytest.mark.parametrize("name", sorted(CHECKERS))
@given(text=st.text(max_size=60).filter(str.strip))
@settings(max_examples=25, deadline=None, database=None, derandomize=True)
def test_no_text_makes_a_checker_raise(name: str, text: str) -> None:
    for check in filter(None, (CHECKERS[name], REPAIRED.get(name))):
        assert check(text, **KWARGS[name]) in (True, False)


@pytest.mark.parametrize("name", sorted(CHECKERS))
def test_time_is_linear_in_the_text(name: str) -> None:
    """Four times the text takes at most eight times as long, once it takes long enough to be measured."""
    for piece in BOMBS:
        assert any(_is_linear(name, piece) for _ in range(3)), piece  # a busy machine gets three tries


def _is_linear(name: str, piece: str) -> bool:
    short, long = (_seconds(name, piece * (length // len(piece))) for length in (15_000, 60_000))
    return long < 0.1 or long < 8 * short


def _seconds(name: str, text: str) -> float:
    for cached in (sentences.split, tokens.treebank_words, detector.detected):
        cached.cache_clear()
    gc.disable()  # a collection walks the whole test session, as often as it likes
    started = time.process_time()
    CHECKERS[name](text, **KWARGS[name])
    gc.enable()
    return time.process_time() - started


def admit(instruction: dict[str, Any], **task: Any) -> None:
    InstructionVerifier().admit(InstructionTask.model_validate({"instructions": [instruction], **task}))


@pytest.mark.parametrize(
    ("instruction", "field"),
    [
        ({"id": "no:such"}, "instructions.0.id"),
        ({"id": "keywords:existence"}, "instructions.0.kwargs.keywords"),
        ({"id": "keywords:existence", "kwargs": {"keywords": None}}, "instructions.0.kwargs.keywords"),
        ({"id": "keywords:existence", "kwargs": {"keywords": ["(a+)+b"]}}, "instructions.0.kwargs.keywords.0"),
        ({"id": "count:numbers", "kwargs": {"N": -1}}, "instructions.0.kwargs.N"),
        ({"id": "count:numbers", "kwargs": {"N": 1.5}}, "instructions.0.kwargs.N"),
        ({"id": "punctuation:no_comma", "kwargs": {"unknown": 1}}, "instructions.0.kwargs.unknown"),
        ({"id": "combination:repeat_prompt"}, "instructions.0.kwargs.prompt_to_repeat"),
        (
            {"id": "length_constraints:number_words", "kwargs": {"num_words": 3, "relation": "at most"}},
            "instructions.0.kwargs.relation",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(instruction: dict[str, Any], field: str) -> None:
    with pytest.raises(TaskRefused) as refused:
        admit(instruction)
    assert refused.value.field == field


def test_nulls_whole_floats_and_the_prompt_serve_as_arguments() -> None:
    admit({"id": "count:numbers", "kwargs": {"N": 3.0, "num_words": None}})
    admit({"id": "combination:repeat_prompt"}, prompt="Say hi.")
    admit({"id": "keywords:existence", "kwargs": {"keywords": ["**", "C++", "a.c"]}})
