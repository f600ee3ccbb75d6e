"""Numbers with units: conversion, tolerance, and units that are none."""

import time
from fractions import Fraction

import pytest

from verifier_service.mathematics.notation import canonical
from verifier_service.quantities import convert, evaluated_quantity, parse_unit, same_label, same_quantity


@pytest.mark.parametrize(
    ("amount", "unit", "target", "value"),
    [
        (1, "km", "m", 1000),
        (1, "hour", "seconds", 3600),
        (1, "atm", "kPa", Fraction("101.325")),
        (25, r"^\circ C", "K", Fraction("298.15")),
        (1, "Å", "nm", Fraction("0.1")),
        (1, "kJ/mol", r"\text{J mol^{-1}}", 1000),
        (1, "J/mol*K", r"J mol^{-1} K^{-1}", 1),
        (180, r"^\circ", "rad", Fraction("3.14159265358979")),
    ],
)
def test_conversion(amount: int, unit: str, target: str, value: Fraction | int) -> None:
    converted = convert(Fraction(amount), unit, target)
    assert converted is not None
    assert float(converted) == pytest.approx(float(value), rel=1e-12)


@pytest.mark.parametrize(("unit", "target"), [("m", "s"), ("apples", "m"), ("J", "W")])
def test_what_cannot_be_converted(unit: str, target: str) -> None:
    assert convert(Fraction(1), unit, target) is None


@pytest.mark.parametrize(
    "text", ["m^9^9^9", "9**9**9", "m" * 1000, "m*" * 40, "__import__('os')", "m^(9^9)", "((((m))))", ""]
)
def test_hostile_units_are_no_units(text: str) -> None:
    started = time.process_time()
    assert parse_unit(text) is None
    assert time.process_time() - started < 1.0  # the registry is built on first use


def test_labels() -> None:
    assert same_label(r"\text{ apples}", "apple")
    assert same_label(r"^\circ", "degrees")
    assert not same_label("cm", "m")


@pytest.mark.parametrize(
    ("text", "value"), [(r"10\sqrt{93} \text{ ft}", 96.4365), ("1-1/e", 0.63212), (r"\pi/4", 0.785398), ("one mole", 1)]
)
def test_expressions_have_a_value(text: str, value: float) -> None:
    quantity = evaluated_quantity(canonical(text))
    assert quantity is not None
    assert float(quantity.value) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("v = 3.2 m/s", 3.2, "m/s"),
        (r"\lambda \approx 500 nm", 500, "nm"),
        ("pH = 4.76", 4.76, ""),
        ("E_0 = 2 V", 2, "V"),
    ],
)
def test_a_label_is_no_part_of_the_quantity(text: str, value: float, unit: str) -> None:
    quantity = evaluated_quantity(canonical(text))
    assert quantity is not None
    assert (float(quantity.value), quantity.unit) == (value, unit)


@pytest.mark.parametrize("text", ["5!", r"\sum_{k=1}^3 k", "x", "1, 2", "9^{9^{9^9}}"])
def test_what_has_no_value(text: str) -> None:
    assert evaluated_quantity(text) is None


def test_a_row_of_units_that_is_none_costs_no_backtracking() -> None:
    before = time.process_time()
    assert evaluated_quantity("2 " + r"\text{} " * 35 + "=") is None
    assert time.process_time() - before < 1.0


def test_tolerance_is_relative_to_the_ground_truth() -> None:
    gold, near, far = (evaluated_quantity(text) for text in ("9.81 m", "9.9 m", "9.92 m"))
    assert gold is not None
    assert near is not None
    assert far is not None
    assert same_quantity(gold, near, rel_tol=0.01, abs_tol=0.0)  # 0.09 <= 0.0981
    assert not same_quantity(gold, far, rel_tol=0.01, abs_tol=0.0)  # 0.11
    assert same_quantity(gold, far, rel_tol=0.0, abs_tol=0.2)
