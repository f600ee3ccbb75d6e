"""Equality of scalars, by exact arithmetic or at sample points."""

import time

import pytest

from verifier_service.mathematics.notation import canonical
from verifier_service.mathematics.syntax import read
from verifier_service.mathematics.value import proportional, same


def equal(one: str, other: str) -> bool | None:
    return same(read(canonical(one)), read(canonical(other)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("(x+1)^2", "x^2+2x+1"),
        (r"\sqrt{12}", r"2\sqrt{3}"),
        (r"e^{i\pi}", "-1"),
        (r"\sqrt{-1}", "i"),
        (r"\ln(ab)", r"\ln a+\ln b"),
        (r"\log_2 8", "3"),
        (r"\arcsin 1", r"\frac{\pi}{2}"),
        (r"\cos 60^\circ", r"\frac12"),
        ("5!", "120"),
        (r"\binom{5}{2}", "10"),
        (r"|-3|", "3"),
        (r"\lfloor 2.5 \rfloor", "2"),
        (r"-\ln\cos x", r"\ln\sec x"),
        ("2.718281828459045", "e"),
    ],
)
def test_equal(one: str, other: str) -> None:
    assert equal(one, other) is True


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x", r"\sqrt{x^2}"),
        ("x^2", "y^2"),
        (r"e^{\pi\sqrt{163}}", "262537412640768744"),  # they differ in the 31st digit
        (r"\sqrt{2}", "1.41421"),
        ("0.333333", "0.333334"),
        (r"\frac{22}{7}", r"\pi"),
        ("x^{20}", "x^{20}+10^{-12}"),
    ],
)
def test_different(one: str, other: str) -> None:
    assert equal(one, other) is False


@pytest.mark.parametrize(("one", "other"), [("1/0", "1/0"), ("x/0", "x/0"), (r"\infty", r"\infty")])
def test_no_value_is_no_verdict(one: str, other: str) -> None:
    assert equal(one, other) is None


def test_a_number_beyond_reach_is_no_small_number() -> None:
    started = time.process_time()
    assert equal("6", "9^{9^{9^{9}}}") is False
    assert equal("6", "(10^{10})!") is False
    assert time.process_time() - started < 0.5


def test_proportional() -> None:
    assert proportional(read("x-2y"), read("3x-6y")) == pytest.approx(3.0)
    assert proportional(read("x-2y"), read("2y-x")) == pytest.approx(-1.0)
    assert proportional(read("x-2y"), read("x+2y")) is None
