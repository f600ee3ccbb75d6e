"""Strict scores: the oracle of every data set keeps everything, fixed texts keep nothing, earned parts are kept."""

import pytest

from verifier_service import puzzles
from verifier_service.strict_scores import strict_score

NAMES = [name for name in puzzles.dataset_names() if name != "composite"]


def strict(name: str, entry: puzzles.Entry, answer: str) -> float:
    payload = {"dataset": name, "config": {}, "entry": entry, "answer": answer, "mode": "strict"}
    try:
        return float(puzzles.score(payload).get("score", 0.0))
    except Exception:  # the service pays nothing where a scorer or a check raises
        return 0.0


@pytest.mark.parametrize("name", NAMES)
def test_oracles_are_paid_in_full(name: str) -> None:
    for index in range(3):
        entry = puzzles.entry_at(name, 23, index, {})
        oracle = puzzles.oracle(name, entry)
        if oracle is None or "Integral(" in oracle:
            continue  # the library itself leaves some integrals unsolved
        assert strict(name, entry, oracle) == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_fixed_texts_are_paid_nothing(name: str) -> None:
    for index in range(3):
        entry = puzzles.entry_at(name, 23, index, {})
        for answer in ("I cannot say.", "nan", "inf", "[]", "{}", "()", "None"):
            if answer not in (entry["answer"], puzzles.oracle(name, entry)):
                assert strict(name, entry, answer) == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_the_right_answer_among_others_is_paid_nothing(name: str) -> None:
    """Comma-separated options; scorers that read a sequence of moves or cells judge the whole sequence instead."""
    sequences = {
        "kakurasu",
        "quantum_lock",
        "rubiks_cube",
        "sokoban",
        "survo",
        "knights_knaves",
    }
    entry = puzzles.entry_at(name, 23, 0, {})
    oracle = puzzles.oracle(name, entry)
    if oracle and name not in sequences:
        assert strict(name, entry, f"{oracle}, 17 or {oracle}1") == 0.0


@pytest.mark.parametrize(
    ("name", "library", "kept"),
    [
        ("knight_swap", 0.5, 0.5),
        ("knight_swap", 0.05, 0.0),
        ("boxnet", 0.4, 0.4),
        ("gcd", 0.5, 0.0),
        ("n_queens", 0.5, 0.5),
    ],
)
def test_parts_are_kept_where_they_are_earned(name: str, library: float, kept: float) -> None:
    assert strict_score(name, {"answer": "", "metadata": {}}, "", library) == kept


@pytest.mark.parametrize(
    ("answer", "paid"),
    [
        ("8/(3 - 8/3)", 1.0),
        ("(8 / (3 - (8 / 3)))", 1.0),
        ("8*3", 0.0),
        ("6*4*1*1", 0.0),
        ("3*8 + 3 - 8", 0.0),
        ("", 0.0),
    ],
)
def test_puzzle24_by_hand(answer: str, paid: float) -> None:
    entry = {"question": "", "answer": "", "metadata": {"numbers": [3, 3, 8, 8]}}
    assert strict("puzzle24", entry, answer) == paid
