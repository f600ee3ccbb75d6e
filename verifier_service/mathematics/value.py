"""Whether two scalar expressions have the same value: exactly where they are rational, else at sample points.

Constants are compared once, expressions with symbols at several points: first in double precision, which settles most
differences, then to 60 digits; in both, every intermediate value is bounded. Two different elementary expressions agree
at random points to 45 digits only by a freak; the probability argument is Schwartz (1980) and Zippel (1979).
"""

import math
from fractions import Fraction

from verifier_service.mathematics.evaluation import (
    MAX_PRECISE_BITS,
    OPERATIONS,
    PRECISE,
    ROUGH,
    NoValue,
    Scalar,
    TooLarge,
    evaluate,
    is_real,
)
from verifier_service.mathematics.syntax import Node

_SAME = PRECISE.mpf("1e-45")
_CLEARLY_DIFFERENT = 1e-4
_NUM_POINTS = 8


def symbols(node: Node) -> frozenset[str]:
    """The names of the free symbols."""
    return frozenset(str(part.value) for part in node.walk() if part.op == "sym")


SCALAR_OPS = frozenset({"num", "sym", "const", "add", "mul", "div", "pow", "neg", "deg", "call"})


def is_scalar(node: Node) -> bool:
    return node.op in SCALAR_OPS and node.value != "inf" and all(map(is_scalar, node.args))


def exact(node: Node) -> Fraction | None:
    """The rational value, None where it is not rational by its form or its numbers are large."""
    if node.op == "num":
        return node.value if isinstance(node.value, Fraction) else None
    parts = [exact(arg) for arg in node.args]
    if any(part is None for part in parts) or not parts:
        return None
    known = [part for part in parts if part is not None]
    if sum(map(_size, known)) > MAX_PRECISE_BITS:
        return None
    left, right = known[0], known[-1]
    if node.op in ("add", "mul", "neg") or (node.op == "div" and right):
        return Fraction(OPERATIONS[node.op](known, None))
    if node.op == "pow" and right.denominator == 1 and (left or right > 0):
        return left ** int(right) if abs(right) * _size(left) <= MAX_PRECISE_BITS else None
    if node.op == "call" and node.value in _INTEGER_FUNCTIONS:
        return _of_integers(str(node.value), known)
    return None


def _size(number: Fraction) -> int:
    return number.numerator.bit_length() + number.denominator.bit_length()


_INTEGER_FUNCTIONS = frozenset({"factorial", "binom"})
_MAX_FACTORIAL = 2100
"""Its factorial has 20,000 bits."""


def _of_integers(name: str, args: list[Fraction]) -> Fraction | None:
    if any(arg.denominator > 1 or not 0 <= arg <= _MAX_FACTORIAL for arg in args):
        return None
    numbers = [int(arg) for arg in args]
    return Fraction(math.factorial(*numbers) if name == "factorial" else math.comb(*numbers))


def same(gold: Node, answer: Node) -> bool | None:
    """Whether two scalars are equal; None where no value could be found."""
    gold_exact, answer_exact = exact(gold), exact(answer)
    if gold_exact is not None and answer_exact is not None:
        return gold_exact == answer_exact or _rounds_to(gold, answer, gold_exact, answer_exact)
    names = symbols(gold) | symbols(answer)
    if not names:
        values = _values(gold, answer, 0)
        if values is None:
            return _same_tower(gold, answer)
        return (_near(*values, _SAME) and _agree_closely(gold, answer, values)) or _rounds_to(gold, answer, *values)
    tolerance = max(_SAME, min(PRECISE.mpf("1e-5"), 1.5 * (_slack(gold) + _slack(answer))))
    complex_valued = any(part.op == "const" and part.value == "i" for part in (*gold.walk(), *answer.walk()))
    compared = 0
    for point in range(_NUM_POINTS):
        values = _values(gold, answer, point)
        if values is None:
            continue
        if not _near(*values, tolerance):
            if not complex_valued and not all(is_real(value) for value in values):
                continue  # outside the domain of real functions: ln(ab) and ln(a) + ln(b) for two negative numbers
            return False
        compared += 1
    if compared >= 2:
        return True
    return False if _is_too_large(answer) and not _is_too_large(gold) else None


def _same_tower(gold: Node, answer: Node) -> bool | None:
    """Constants beyond what is computed with, as 2^{2^{100}}: by their logarithms."""
    if not _is_too_large(gold):
        return False if _is_too_large(answer) else None
    logarithms = _logarithm(gold), _logarithm(answer)
    return None if None in logarithms else same(*logarithms)  # type: ignore[arg-type]


def _logarithm(node: Node) -> Node | None:
    """The logarithm, written out; None where that takes more than the laws of powers and products."""
    if node.op == "pow":
        base = _logarithm(node.args[0])
        return base and Node("mul", (node.args[1], base))
    if node.op == "mul":
        parts = [_logarithm(arg) for arg in node.args]
        return None if None in parts else Node("add", tuple(part for part in parts if part is not None))
    positive = not _is_too_large(node) and (real_number(node) or 0) > 0
    return Node("call", (node,), "ln") if positive else None


def _agree_closely(gold: Node, answer: Node, values: tuple[Scalar, Scalar]) -> bool:
    """Two constants that agree to 45 digits or are both as good as nothing: large ones must agree behind the point too
    (e^{200} is not e^{200} + 1), tiny ones in their first digits (e^{-200} is neither e^{-201} nor 0)."""
    size = max(map(abs, values))
    bits = int(PRECISE.mag(size)) if size else 0
    if _NUM_TINY_BITS < bits < _NUM_SURE_BITS:
        return True
    with PRECISE.workprec(abs(bits) + 150):
        again = _precise_values(gold, answer, 0)
        return again is not None and bool(abs(again[0] - again[1]) <= PRECISE.ldexp(1, min(bits, 0) - _NUM_SURE_BITS))


_NUM_SURE_BITS = 60
_NUM_TINY_BITS = -160


def real_number(node: Node) -> Fraction | None:
    """The value of an expression without symbols, where it is real."""
    known = exact(node)
    if known is not None or not is_scalar(node) or symbols(node):
        return known
    try:
        found = evaluate(node, 0, ROUGH)
    except NoValue:
        return None
    return Fraction(found.real) if is_real(found) else None


def proportional(gold: Node, answer: Node) -> float | None:
    """The constant ratio answer/gold of two expressions, None where there is none (or it cannot be told)."""
    ratios = []
    for point in range(_NUM_POINTS):
        values = _precise_values(gold, answer, point)
        if values is not None and abs(values[0]) > 1e-12:
            ratios.append(values[1] / values[0])
    if len(ratios) < 3 or abs(ratios[0]) < 1e-12 or not is_real(ratios[0]):
        return None
    return float(ratios[0].real) if all(_near(ratios[0], ratio, _SAME) for ratio in ratios) else None


def _values(gold: Node, answer: Node, point: int) -> tuple[Scalar, Scalar] | None:
    """Both values at a sample point; the rough ones where they already differ clearly; None where there are none."""
    try:
        rough = evaluate(gold, point, ROUGH), evaluate(answer, point, ROUGH)
        if not _near(*rough, _CLEARLY_DIFFERENT) and max(map(abs, rough)) > 1e-9:
            return rough
    except TooLarge:
        pass  # for double precision; the second pass reaches further
    except NoValue:
        return None
    return _precise_values(gold, answer, point)


def _precise_values(gold: Node, answer: Node, point: int) -> tuple[Scalar, Scalar] | None:
    try:
        return evaluate(gold, point, PRECISE), evaluate(answer, point, PRECISE)
    except NoValue:
        return None


def _is_too_large(node: Node) -> bool:
    try:
        evaluate(node, 0, PRECISE)
    except NoValue as error:
        return isinstance(error, TooLarge)
    return False


def _near(left: Scalar, right: Scalar, tolerance: Scalar) -> bool:
    size = max(abs(left), abs(right))
    return bool(abs(left - right) <= tolerance * size) or bool(size < 1e-50)


def _slack(node: Node) -> float:
    """The relative rounding error that the long decimals of an expression carry."""
    return sum(
        0.5 * float(Fraction(10) ** -part.decimals / abs(part.value))
        for part in node.walk()
        if isinstance(part.value, Fraction) and part.decimals is not None and _is_long(part.value, part.decimals)
    )


_LONG_DECIMAL = 6
"""From so many significant digits on, a decimal may stand for the exact value it was rounded (or cut) from."""


def _is_long(value: Fraction, decimals: int) -> bool:
    return abs(value) >= Fraction(10) ** (_LONG_DECIMAL - 1 - decimals)


def is_rounding(decimal: Fraction, decimals: int, exact_value: Scalar) -> bool:
    """Whether a decimal of six places and six digits at least is an exact value rounded, or cut."""
    if decimals < _LONG_DECIMAL or not _is_long(decimal, decimals):
        return False
    unit: Scalar = Fraction(10) ** -decimals
    value: Scalar = decimal
    if not isinstance(exact_value, Fraction):
        value, unit = _float(decimal), _float(unit)
    gap = abs(value - exact_value)
    return bool(gap <= unit / 2 or (gap < unit and abs(value) < abs(exact_value)))


def _rounds_to(gold: Node, answer: Node, gold_value: Scalar, answer_value: Scalar) -> bool:
    """One side is a bare long decimal, the other an exact value that it was rounded from."""
    decimals, answer_decimals = _long_decimals(gold), _long_decimals(answer)
    if (decimals is None) == (answer_decimals is None):
        return False
    node, exact_value = gold, answer_value
    if decimals is None:
        node, decimals, exact_value = answer, answer_decimals, gold_value
    value = exact(node)
    if value is None or decimals is None or isinstance(exact_value, (float, complex)):
        return False
    return is_real(_float(exact_value)) and is_rounding(value, decimals, exact_value)


def _float(value: Scalar) -> Scalar:
    return PRECISE.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _long_decimals(node: Node) -> int | None:
    """The digits behind the point of a bare long decimal; None for anything else."""
    bare = node.args[0] if node.op == "neg" else node
    if isinstance(bare.value, Fraction) and bare.decimals is not None and _is_long(bare.value, bare.decimals):
        return bare.decimals
    return None
