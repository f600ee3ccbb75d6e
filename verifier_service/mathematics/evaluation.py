"""The value of a scalar at a sample point, in double precision or to 60 digits; every intermediate value is bounded."""

import cmath
import hashlib
import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath

from verifier_service.mathematics.syntax import Node

Scalar = Any  # float and complex in the first pass, mpmath's mpf and mpc in the second

ROUGH = mpmath.fp
PRECISE = mpmath.MPContext()
PRECISE.dps = 60
_MAX_ROUGH_BITS = 200
MAX_PRECISE_BITS = 20_000
"""Magnitude of what is computed with, about 10^6000. A power of such numbers still costs milliseconds."""

_NUM_POSITIVE_POINTS = 4


class NoValue(Exception):
    """No number: a division by zero, a function we do not know."""


class TooLarge(NoValue):
    """Beyond what we compute with; no gold answer is meant to be compared with it by value."""


@lru_cache(maxsize=4096)
def _sample(name: str, point: int) -> float:
    """The value of a symbol at a sample point, the same for ever: 0.3 to 0.95 in every other point and 1.05 to 2.7 in
    the rest, so that neither x^{1000} nor x^{-1000} hides what is added to it; in the later points of either sign."""
    digest = hashlib.blake2b(f"{name}/{point}".encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "big") / 2**64
    sign = -1 if point >= _NUM_POSITIVE_POINTS and digest[0] & 1 else 1
    return sign * (0.3 + 0.65 * share if point % 2 else 1.05 + 1.65 * share)


def evaluate(node: Node, point: int, context: Any) -> Scalar:
    """The value of a scalar at a sample point, in one of mpmath's contexts. Raises `NoValue`."""
    try:
        return _evaluated(node, point, context)
    except OverflowError as error:
        raise TooLarge from error
    except (ArithmeticError, ValueError, TypeError) as error:
        raise NoValue from error


def _evaluated(node: Node, point: int, context: Any) -> Scalar:
    op = node.op
    if op == "num":
        value = Fraction(node.value)
        return context.mpf(value.numerator) / value.denominator
    if op == "sym":
        return context.mpf(_sample(str(node.value), point))
    if op == "const":
        if node.value == "inf":
            raise NoValue
        return +getattr(context, "j" if node.value == "i" else str(node.value))
    args = [_evaluated(arg, point, context) for arg in node.args]
    if op == "call":
        value = _call(str(node.value), args, node, context)
    elif op in OPERATIONS:
        value = OPERATIONS[op](args, context)
    else:
        raise NoValue
    size = abs(value)
    if not size < context.inf or (size and abs(context.mag(size)) > _max_bits(context)):
        raise TooLarge
    # Adding zero turns a negative zero into a positive one, so that -1 lies on one side of the branch cuts.
    return value + 0j if isinstance(value, complex) else value


def _max_bits(context: Any) -> int:
    return _MAX_ROUGH_BITS if context is ROUGH else MAX_PRECISE_BITS


OPERATIONS: dict[str, Callable[[list[Scalar], Any], Scalar]] = {
    "add": lambda args, _: sum(args),
    "mul": lambda args, _: math.prod(args),
    "div": lambda args, _: args[0] / args[1],
    "neg": lambda args, _: -args[0],
    "deg": lambda args, _: args[0],
    "pow": lambda args, context: context.power(args[0], args[1]),
}

_TRIGONOMETRIC = frozenset({"sin", "cos", "tan", "cot", "sec", "csc"})
_INVERSE = ("sin", "cos", "tan", "sinh", "cosh", "tanh")
_FUNCTIONS = {name: name for name in (*_TRIGONOMETRIC, "sinh", "cosh", "tanh", "coth", "asin", "acos", "atan")}
_FUNCTIONS |= {name: name for name in ("exp", "sqrt", "cbrt", "factorial")} | {"abs": "fabs"}
_FUNCTIONS |= {f"arc{name}": f"a{name}" for name in _INVERSE}
"""Their names in mpmath."""


def _call(name: str, args: list[Scalar], node: Node, context: Any) -> Scalar:
    value = args[0]
    if name in _TRIGONOMETRIC and any(part.op == "deg" for part in node.args[0].walk()):
        value = value * context.pi / 180
    if name in ("log", "lg", "ln"):
        base = args[1] if len(args) == 2 else context.mpf(10) if name == "lg" else None
        return context.log(value) if base is None else context.log(value) / context.log(base)
    if name == "binom":
        top, bottom = args
        return context.gamma(top + 1) / context.gamma(bottom + 1) / context.gamma(top - bottom + 1)
    if name in ("max", "min") and all(map(is_real, args)):
        return (max if name == "max" else min)(args, key=lambda arg: arg.real)
    if name in ("floor", "ceil") and is_real(value):
        return context.mpf((math.floor if name == "floor" else math.ceil)(value.real))
    if name not in _FUNCTIONS:
        raise NoValue
    # mpmath's double precision lacks the inverse hyperbolic functions.
    return getattr(context if hasattr(context, _FUNCTIONS[name]) else cmath, _FUNCTIONS[name])(value)


def is_real(value: Scalar) -> bool:
    return bool(abs(value.imag) <= 1e-12 * max(abs(value), 1e-300))
