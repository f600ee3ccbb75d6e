"""Which option an answer names."""

import pytest

from verifier_service.choices import SEVERAL, chosen
from verifier_service.extraction import choice_answers

OPTIONS = ["London", "Paris", "Berlin", "A new town"]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("[B]", "B"),
        (r"\text{B}", "B"),
        ("$B$", "B"),
        ("{B}", "B"),
        ("B. Paris", "B"),
        ("B: it is the capital", "B"),
        ("Paris", "B"),
        ("paris.", "B"),
        ("B because C is not in France", "B"),
        ("D, it can't be A or B", "D"),
        ("B不是 A", "B"),
        ("B/B", "B"),
        ("The answer is B", "B"),
        ("D: A new town", "D"),
        ("A, B", SEVERAL),
        ("A or B", SEVERAL),
        ("A/B/C", SEVERAL),
        ("(A) London (B) Paris", SEVERAL),
        ("B. London", SEVERAL),
        ("E", None),
        ("all of them", None),
        ("ABCD", None),
        ("", None),
    ],
)
def test_chosen(answer: str, letter: str | None) -> None:
    assert chosen(answer, OPTIONS) == letter


@pytest.mark.parametrize(
    ("text", "first"),
    [
        (r"so \boxed{A} ... no, \boxed{C}", "C"),
        ("Answer: A\nAnswer: B", "B"),
        ("we ruled out A, then B, settled on C", "C"),
        ("<choice>H2O</choice>", "H2O"),
        ("I think it's B", "B"),
        ("the correct answer is **D**", "D**"),
    ],
)
def test_the_most_binding_phrase_comes_first(text: str, first: str) -> None:
    assert choice_answers(text)[0] == first
