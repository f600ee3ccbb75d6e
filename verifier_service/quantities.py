"""Units of measurement: pint, given nothing but a short unit text; numbers are ours."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from verifier_service.mathematics.notation import TEXT_COMMAND
from verifier_service.mathematics.number import parse_number

if TYPE_CHECKING:
    import pint

MAX_UNIT_CHARS = 80


@cache
def registry() -> "pint.UnitRegistry[Any]":
    """pint's registry, built on first use (a third of a second)."""
    import pint

    return pint.UnitRegistry(autoconvert_offset_to_baseunit=True, cache_folder=None)


def same_label(one: str, other: str) -> bool:
    """The same unit in the same words: "\\text{ apples}" and "apple"."""
    return _label(one) == _label(other)


@lru_cache(maxsize=2048)
def _label(text: str) -> str:
    words = re.findall(r"[^\W\d_]+|\d+|[/^-]", _plain(text).lower())
    return " ".join(word.removesuffix("s") if len(word) > 3 else word for word in words)


def convert(value: Fraction, unit: str, target: str) -> Fraction | None:
    """`value` of `unit` in `target`; None where a unit is unknown or the dimensions differ."""
    source, goal = parse_unit(unit), parse_unit(target)
    if source is None or goal is None or source.dimensionality != goal.dimensionality:
        return None
    quantity = registry().Quantity(float(value), source).to(goal)
    return Fraction(quantity.magnitude)


@lru_cache(maxsize=4096)
def parse_unit(text: str) -> "pint.Unit | None":
    """The unit that a text in canonical notation names, None where there is none."""
    import pint

    plain = _plain(text)
    if not plain or len(plain) > MAX_UNIT_CHARS or not _UNIT_TEXT.fullmatch(plain):
        return None
    try:
        return registry().parse_units(plain)
    except (pint.errors.PintError, AttributeError, ValueError, TypeError, KeyError, SyntaxError):
        return None


# Names with small exponents, multiplied and divided, brackets one deep: a power of a power would keep pint busy.
_TERM = r"(?:1|[A-Za-zµ%_]{1,30}(?: ?(?:\^|\*\*) ?\(?[+-]?\d{1,2}\)?)?)"
_PRODUCT = rf"{_TERM}(?: ?[*/ ] ?{_TERM}){{0,9}}"
_UNIT_TEXT = re.compile(rf"(?:{_PRODUCT}|\({_PRODUCT}\))(?: ?[*/ ] ?(?:{_PRODUCT}|\({_PRODUCT}\))){{0,3}}")
_EXPONENT = re.compile(r"\^ ?\{ ?([+-]? ?\d) ?\}")
_DEGREE = re.compile(r"(?:\^ ?\{? ?\\circ ?\}?|\bdeg(?:rees?)?\b) ?(?P<scale>[CFK]\b|[Cc]elsius|[Ff]ahrenheit)?")
_RENAMED = {"Å": "angstrom", r"\AA": "angstrom", r"\mu ": "u", r"\mu": "u", r"\Omega": "ohm", "*": " * "}


def _plain(text: str) -> str:
    """A unit in pint's own notation: "\\text{kJ mol^{-1}}" -> "kJ * mol^-1", "^\\circ C" -> "degC"."""
    text = TEXT_COMMAND.sub(r" \1 ", text)
    for old, new in _RENAMED.items():
        text = text.replace(old, new)
    text = _DEGREE.sub(lambda match: f" deg{match['scale'][0].upper()} " if match["scale"] else " degree ", text)
    return re.sub(r"(?<=[A-Za-z)\d]) +(?=[A-Za-z(])", " * ", _EXPONENT.sub(r"^\1", text).strip())


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as it was written, with its unit: `exact` for integers and fractions."""

    value: Fraction
    unit: str
    exact: bool
    percent: bool = False


def parse_quantity(text: str) -> Quantity | None:
    """The quantity that a text in canonical notation is; None where it is anything else."""
    number = parse_number(text)
    if number is None:
        return None
    return Quantity(number.value, number.unit, number.decimals is None, number.percent)


def same_quantity(gold: Quantity, answer: Quantity, *, rel_tol: float, abs_tol: float) -> bool:
    """Equal within the tolerance, in the gold's unit. A unit that only one side names is taken for granted."""
    value: Fraction | None = answer.value
    if gold.unit and answer.unit and not same_label(gold.unit, answer.unit):
        value = convert(answer.value, answer.unit, gold.unit)
    if value is None:
        return False
    if answer.percent and not gold.percent and abs(gold.value) < 1:
        value /= 100
    allowed = max(Fraction(rel_tol) * abs(gold.value), Fraction(abs_tol), abs(gold.value) * _CONVERSION_ERROR)
    near = abs(value - gold.value) <= allowed
    return near or (gold.percent and not answer.percent and abs(value * 100 - gold.value) <= allowed)


_CONVERSION_ERROR = Fraction(1, 10**9)
"""What converting between units in floating point may lose, relative."""
