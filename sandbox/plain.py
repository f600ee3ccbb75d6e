"""Plain values as typed JSON, for processes that do not trust each other: what is written is what is read.

    encode((1, {2.0: b"x"})) == {"tuple": [1, {"dict": [[2.0, {"bytes": "78"}]]}]}

None, bool, float, str and lists stand for themselves, as do integers of up to 64 bits; every other type is an object
with its name as the only key. Only exact types count: an instance of a subclass may do anything when it is looked at,
so it is not plain. Runs on both sides of the wall and imports nothing but the standard library.
"""

import datetime
import re
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import Any

Encoded = Any
"""JSON as `json.loads` gives it."""


class NotPlain(TypeError):
    """The value, or something in it, cannot be written as plain typed JSON."""


class Malformed(ValueError):
    """What came over the wire is not something `encode` writes."""


def refuse(value: Any) -> Encoded:
    raise NotPlain(type(value).__name__)


def no_reference(tag: str, data: Encoded) -> Any:
    raise Malformed(f"unknown type {tag[:40]!r}")


def _pairs(value: Any) -> Iterable[Any]:
    return [[key, item] for key, item in value.items()]


# Types that are containers: how to take them apart into a list of values, and how to build them from one.
CONTAINERS: dict[type, tuple[str, Callable[[Any], Iterable[Any]], Callable[[list[Any]], Any]]] = {
    tuple: ("tuple", list, tuple),
    set: ("set", list, set),
    frozenset: ("frozenset", list, frozenset),
    dict: ("dict", _pairs, dict),
    OrderedDict: ("OrderedDict", _pairs, OrderedDict),
    # Counter(pairs) would count the pairs; a default factory cannot cross, and compares equal without.
    Counter: ("Counter", _pairs, lambda pairs: Counter(dict(pairs))),
    defaultdict: ("defaultdict", _pairs, lambda pairs: defaultdict(None, pairs)),
    deque: ("deque", lambda value: [value.maxlen, *value], lambda items: deque(items[1:], items[0])),
    type({}.keys()): ("dict_keys", list, lambda items: dict.fromkeys(items).keys()),
    type({}.values()): ("dict_values", list, lambda items: dict(enumerate(items)).values()),
    type({}.items()): ("dict_items", lambda value: [list(pair) for pair in value], lambda pairs: dict(pairs).items()),
}

# Types whose state is a JSON value.
SCALARS: dict[type, tuple[str, Callable[[Any], Encoded], Callable[[Any], Any]]] = {
    int: ("int", hex, lambda text: int(text, 16)),
    bytes: ("bytes", bytes.hex, bytes.fromhex),
    bytearray: ("bytearray", bytearray.hex, bytearray.fromhex),
    complex: ("complex", lambda value: [value.real, value.imag], lambda parts: complex(*parts)),
    range: ("range", lambda value: [value.start, value.stop, value.step], lambda parts: range(*parts)),
    slice: ("slice", lambda value: [value.start, value.stop, value.step], lambda parts: slice(*parts)),
    Decimal: ("Decimal", str, Decimal),
    Fraction: ("Fraction", str, Fraction),
    datetime.date: ("date", datetime.date.isoformat, datetime.date.fromisoformat),
    datetime.time: ("time", datetime.time.isoformat, datetime.time.fromisoformat),
    datetime.datetime: ("datetime", datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    datetime.timedelta: (
        "timedelta",
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda parts: datetime.timedelta(*parts),
    ),
    type(...): ("Ellipsis", lambda _value: 0, lambda _zero: ...),
}

_BARE = frozenset({type(None), bool, float, str})
_WRITTEN_BARE = _BARE | {int}
_BUILD_CONTAINER = {tag: build for tag, _take, build in CONTAINERS.values()}
_BUILD_SCALAR = {tag: build for tag, _take, build in SCALARS.values()}
_NAME = re.compile(r"[A-Za-z]\w{0,100}")


def encode(value: Any, other: Callable[[Any], Encoded] = refuse) -> Encoded:
    """`value` as JSON; `other` writes what is not plain. Raises `NotPlain`, and `RecursionError` for a cycle."""
    kind = type(value)
    if value is None or kind in (bool, float, str) or (kind is int and -(2**63) <= value < 2**63):
        return value
    if kind is list:
        return _encode_items(value, other)
    if kind in CONTAINERS:
        tag, take, _build = CONTAINERS[kind]
        return {tag: _encode_items(take(value), other)}
    if kind in SCALARS:
        tag, take_scalar, _build = SCALARS[kind]
        return {tag: take_scalar(value)}
    if kind.__bases__ == (tuple,) and type(getattr(kind, "_fields", None)) is tuple:
        return {"namedtuple": [kind.__name__, list(kind._fields), *(encode(item, other) for item in value)]}
    return other(value)


def _encode_items(items: Iterable[Any], other: Callable[[Any], Encoded]) -> Encoded:
    items = list(items)
    kinds = set(map(type, items))
    if kinds <= _BARE or (kinds == {int} and min(items) >= -(2**63) and max(items) < 2**63):
        return items  # the bulk of large values, at a tenth of the price
    return [encode(item, other) for item in items]


def decode(data: Encoded, other: Callable[[str, Encoded], Any] = no_reference) -> Any:
    """The value that `encode` wrote; `other` reads the tags that its counterpart wrote. Raises `Malformed`.

    Safe on hostile data, but not cheap: equal hashes make sets and dicts quadratic. Use it where a CPU limit holds.
    """
    if isinstance(data, list):
        if set(map(type, data)) <= _WRITTEN_BARE:
            return data.copy()
        return [decode(item, other) for item in data]
    if not isinstance(data, dict):
        return data
    if len(data) != 1:
        raise Malformed("an object has exactly one key")
    [(tag, content)] = data.items()
    try:
        if tag in _BUILD_CONTAINER:
            return _BUILD_CONTAINER[tag]([decode(item, other) for item in content])
        if tag in _BUILD_SCALAR:
            return _BUILD_SCALAR[tag](content)
        if tag == "namedtuple":
            name, fields, *items = content
            return _named(name, tuple(fields))(*(decode(item, other) for item in items))
    except (TypeError, ValueError, ArithmeticError, IndexError, KeyError) as error:
        raise Malformed(f"{tag}: {error}") from None
    return other(tag, content)


@cache
def _named(name: str, fields: tuple[str, ...]) -> Any:
    if not all(isinstance(word, str) and _NAME.fullmatch(word) for word in (name, *fields)):
        raise Malformed("not the name of a tuple")
    return namedtuple(name, fields)
