"""The two judges together on pairs of our own, and each rule of the strict judge alone."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from verifier_service.mathematics.equivalence import MAX_ANSWER_CHARS, decide
from verifier_service.mathematics.reading import reading
from verifier_service.tools import WorkerTools
from verifier_service.verifiers.math import gold_reading, judge_expression

PAIRS = [json.loads(line) for line in (Path(__file__).parent / "pairs.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair['gold']} ~ {pair['answer']}")
def test_pairs(pair: dict[str, Any], tools: WorkerTools) -> None:
    judgement = judge_expression([gold_reading(pair["gold"])], pair["answer"], tools)
    assert (judgement.reward == 1.0) == pair["equal"], judgement


def test_most_pairs_need_no_second_judge() -> None:
    undecided = [pair for pair in PAIRS if decide(gold_reading(pair["gold"]), pair["answer"]).equal is None]
    assert len(undecided) <= 0.1 * len(PAIRS)


@pytest.mark.parametrize(
    ("answer", "reason"), [("5!", "not_evaluated"), ("5=4", "inconsistent"), ("121", "not_equivalent")]
)
def test_reasons(answer: str, reason: str) -> None:
    decision = decide(reading("120"), answer)
    assert (decision.equal, decision.reason) == (False, reason)


def test_percent_has_one_reading_a_gold() -> None:
    accepted = [gold for gold in ("100", "1", r"100\%") if decide(reading(gold), r"100\%").equal]
    assert accepted == ["100", r"100\%"]


def test_long_answers_are_compared_as_text() -> None:
    digits = "7" * 100_000
    assert decide(reading(digits), digits).equal is True
    assert decide(reading("7"), digits) == decide(reading("x"), "1+" * MAX_ANSWER_CHARS)


@pytest.mark.parametrize(
    "answer", ["1," * 9000, "(" * 9000, "{1}" * 5000, "x" * 19000, r"\frac" * 3000, "or " * 6000, "=" * 19000]
)
def test_the_strict_judge_never_dwells(answer: str) -> None:
    started = time.process_time()
    decide(reading("1, 2, 3"), answer)
    assert time.process_time() - started < 1.0
