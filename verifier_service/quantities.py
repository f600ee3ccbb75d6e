"""Units of measurement: pint, given nothing but a short unit text; numbers are ours."""

import contextlib
import re
from dataclasses import replace
from fractions import Fraction
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from verifier_service.mathematics import structure, value
from verifier_service.mathematics.intervals import is_equation
from verifier_service.mathematics.notation import TEXT_COMMAND
from verifier_service.mathematics.number import Number, is_unit, parse_number
from verifier_service.mathematics.syntax import Node, read
from verifier_service.mathematics.tokens import Unreadable

if TYPE_CHECKING:
    import pint

MAX_UNIT_CHARS = 80


@cache
def registry() -> "pint.UnitRegistry[Any]":
    """pint's registry, built on first use (a third of a second)."""
    import pint

    return pint.UnitRegistry(autoconvert_offset_to_baseunit=True, cache_folder=None)


def same_label(one: str, other: str) -> bool:
    """The same unit in the same words: "\\text{ apples}" and "apple"; not "mW" and "MW"."""
    labels = _label(one), _label(other)
    if labels[0] == labels[1] or labels[0].lower() != labels[1].lower():
        return labels[0] == labels[1]
    units = parse_unit(one), parse_unit(other)
    return None in units or units[0] == units[1]


@lru_cache(maxsize=2048)
def _label(text: str) -> str:
    words = re.findall(r"[^\W\d_]+|\d+|[/^-]", _plain(text))
    return " ".join(word.removesuffix("s") if len(word) > 3 else word for word in words)


def convert(amount: Fraction, unit: str, target: str) -> Fraction | None:
    """`amount` of `unit` in `target`; None where a unit is unknown or the dimensions differ."""
    goal = parse_unit(target)
    # "J/mol·K" is written for J/(mol·K): what stands behind the first slash may be all denominator.
    for text in (unit, re.sub(r"/([^/()]*[^/() ])$", r"/(\1)", unit)):
        source = parse_unit(text)
        if source is not None and goal is not None and source.dimensionality == goal.dimensionality:
            return Fraction(registry().Quantity(float(amount), source).to(goal).magnitude)
    return None


@lru_cache(maxsize=4096)
def parse_unit(text: str) -> "pint.Unit | None":
    """The unit that a text in canonical notation names, None where there is none."""
    import pint

    plain = _plain(text)
    if not plain or len(plain) > MAX_UNIT_CHARS or not _UNIT_TEXT.fullmatch(plain):
        return None
    for spelling in dict.fromkeys((plain, _CAPITALISED.sub(lambda word: word.group().lower(), plain))):
        with contextlib.suppress(pint.errors.PintError, AttributeError, ValueError, TypeError, KeyError, SyntaxError):
            return registry().parse_units(spelling)
    return None


_CAPITALISED = re.compile(r"\b[A-Z][a-z]{3,}\b")
"""Words ("Joules"); a short name with a capital may be another unit (Gyr)."""

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
    text = _EXPONENT.sub(r"^\1", _FRACTION.sub(lambda match: f"({match[1].strip()})/({match[2].strip()})", text))
    text = re.sub(r" +(?=[\^)])", "", " ".join(text.split())).replace("k ohm", "kohm").replace("M ohm", "Mohm")
    if "*" in text or "/" in text or " " in text:
        text = re.sub(r"\bdeg([CF])\b", r"delta_deg\1", text)  # "J/(g °C)" speaks of a difference
    for said, symbols in _SAID if "^" not in text else ():
        text = said.sub(symbols, text)
    return re.sub(r"(?<=[A-Za-z)\d]) +(?=[A-Za-z(])", " * ", text)


_FRACTION = re.compile(r"\\frac ?\{([^{}]*)\} ?\{([^{}]*)\}")
_SAID = tuple(
    (re.compile(said), symbols)
    for said, symbols in (
        (r"\b(?:square|sq\.?) ([A-Za-z]+)\b", r"\1^2"),
        (r"\b(?:cubic|cu\.?) ([A-Za-z]+)\b", r"\1^3"),
        (r"\b([A-Za-z]+) squared\b", r"\1^2"),
        (r"\b([A-Za-z]+) cubed\b", r"\1^3"),
        (r"\bper\b", "/"),
    )
)
"""Powers and fractions that are said: "square feet per second squared" -> "feet^2 / second^2"."""


def parse_quantity(text: str) -> Number | None:
    """The quantity that a text in canonical notation is; None where it is anything else."""
    label = _LABEL.match(text)
    plain = text[label.end() :] if label else text
    number = parse_number(plain)
    fraction = _UNIT_FRACTION.fullmatch(plain) if number is None else None
    if fraction is None or parse_unit(fraction[2]) is None:
        return number
    number = parse_number(fraction[1])
    return None if number is None or number.decimals is None else replace(number, unit=fraction[2])


# "4.18 \\frac{J}{g K}": the number must be a decimal, for "2 \\frac{m}{s}" may be a formula.
_BRACED = r"\{(?:[^{}]|\\text ?\{[^{}]{1,20}\}){1,40}\}"
_UNIT_FRACTION = re.compile(rf"([^a-zA-Z]{{1,40}}(?:\\times ?10[^a-zA-Z]{{1,12}})?)(\\frac ?{_BRACED} ?{_BRACED})")
# "v = ", "\\lambda \\approx ": what the quantity is called.
_LABEL = re.compile(
    r"\\?[A-Za-z][^=<>~\d]{0,40}(?:_ ?\{?\w{1,10}\}?)?(?:\([^=<>]{0,20}\))? ?(?:=|\\approx) ?(?:\\approx ?)?"
)


def evaluated_quantity(text: str) -> Number | None:
    """As `parse_quantity`, and expressions without unknowns too: "10\\sqrt{93} \\text{ ft/s}", "x = 1 - 1/e"."""
    plain = parse_quantity(text)
    if plain is not None or len(text) > _MAX_EXPRESSION_CHARS or _UNEVALUATED.search(text):
        return plain
    for expression, unit in dict.fromkeys(((text, ""), without_unit(text))):
        try:
            node = read(expression)
        except Unreadable:
            continue
        if node.op == "rel" and not _is_one_value(node):
            continue
        number = value.real_number(node.args[-1] if node.op == "rel" else node)
        if number is not None:
            return Number(number, unit)
    return None


def without_unit(text: str) -> tuple[str, str]:
    """An expression and the unit behind it ("" for none): "6\\sqrt{3} \\text{ cm}" -> ("6\\sqrt{3}", "\\text{ cm}")."""
    match = _EXPRESSION_AND_UNIT.fullmatch(text) if len(text) <= _MAX_EXPRESSION_CHARS else None
    if match is None or not match["unit"]:
        return text, ""
    value, unit = match.group("value", "unit")
    known = parse_unit(unit) is not None if r"\frac" in unit else is_unit(unit.strip(), spaced=True)
    if known and value[-1] not in "+-*/^_(=,<>":
        return value, unit.strip()
    return text, ""


def _is_one_value(relation: Node) -> bool:
    """In front of "= value" stands a name or a calculation, no other constant or quantity ("6.0 m = 5.0 m")."""
    *others, _ = relation.args
    measured = any(
        one.op == "mul" and one.args[0].op == "num" and (one.args[0].decimals is not None or one is others[0])
        for one in others
    )
    return is_equation(relation) and structure.is_consistent(relation) and not measured


_MAX_EXPRESSION_CHARS = 300
_EXPRESSION_AND_UNIT = re.compile(
    r"(?P<value>.+?)"
    r"(?P<unit> *(?:\\text ?\{(?=[^{}\d]*[^\W\d])(?:[^{}]|\{[^{}]*\})*+\}[-^{}\d /*]*+)++| +[A-Za-zµÅ][A-Za-zµ/^\d *-]*"
    rf"| *\\frac ?\{{ ?\\text ?{_BRACED} ?\}} ?\{{ ?\\text ?{_BRACED}(?: ?\^ ?\{{? ?\d ?\}}?)? ?\}})?"
)
_UNEVALUATED = re.compile(r"!|\||\\?(?:max|min)\b|\\(?:int|sum|prod|lim|binom|lfloor|lceil)(?![a-z])")
"""Operations that a question asks to carry out; functions of numbers may stand."""


def in_terms_of(gold: Number, answer: Number) -> tuple[Fraction, Fraction] | None:
    """The answer's value in the gold's unit, and what converting may have lost; None where it has none.

    A unit that only one side names is taken for granted. A bare gold below one is a fraction, so that a percent sign
    counts; any other is in the answer's unit: one reading a gold, never both.
    """
    said, lost = answer.value, _NOTHING
    if gold.unit and answer.unit and not same_label(gold.unit, answer.unit):
        converted = convert(answer.value, answer.unit, gold.unit)
        if converted is None:
            return None
        said, lost = converted, abs(gold.value) * ROUNDING
    if answer.percent and gold.unit:
        return None
    return (said / 100 if answer.percent and not gold.percent and abs(gold.value) < 1 else said), lost


def same_quantity(gold: Number, answer: Number, *, rel_tol: float, abs_tol: float) -> bool:
    """Equal within the tolerance, in the gold's unit."""
    in_unit = in_terms_of(gold, answer)
    if in_unit is None:
        return False
    said, size = in_unit[0], abs(gold.value)
    allowed = max(Fraction(rel_tol) * size, Fraction(abs_tol), size * ROUNDING)
    near = abs(said - gold.value) <= allowed
    return near or (gold.percent and not answer.percent and abs(said * 100 - gold.value) <= allowed)


_NOTHING = Fraction(0)
ROUNDING = Fraction(1, 10**9)
"""What converting between units and evaluating in floating point may lose, relative."""
