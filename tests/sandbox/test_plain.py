"""Typed JSON: what is written is what is read; what is not plain is refused."""

import datetime
import enum
import json
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import plain

atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
)
keys = st.booleans() | st.integers() | st.text() | st.tuples(st.integers(), st.text())
values = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(keys, inner)
        | st.sets(keys)
        | st.frozensets(keys)
        | st.lists(inner).map(deque)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize("odd", [2**63, -(2**63) - 1, True, 1.0, None, "1", (1,), b"1", [2**70]])
def test_one_odd_item_among_many_keeps_its_type(odd: object) -> None:
    values = [*range(100), odd, -(2**63), 2**63 - 1]
    assert same(through(values), values)
    assert same(through(tuple(values)), tuple(values))


def through(value: object) -> object:
    return plain.decode(json.loads(json.dumps(plain.encode(value))))


def same(a: object, b: object) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple, deque)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return sorted(map(repr, a)) == sorted(map(repr, b)) and all(same(a[key], b[key]) for key in a)
    return a == b


@given(values)
def test_every_plain_value_comes_back_with_its_type(value: object) -> None:
    assert same(through(value), value)


@pytest.mark.parametrize(
    "value",
    [
        2**10_000,
        float("inf"),
        "\ud800\x00",
        Decimal("1.50"),
        Fraction(-1, 3),
        datetime.datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=datetime.UTC),
        datetime.timedelta(-1, 2, 3),
        bytearray(b"\0"),
        range(5, 0, -2),
        Counter("aab"),
        OrderedDict([(2, 1), (1, 2)]),
        deque([1, 2], 3),
        ...,
    ],
)
def test_types_that_tests_compare(value: object) -> None:
    assert through(value) == value
    assert type(through(value)) is type(value)


def test_nan_stays_nan() -> None:
    assert repr(through([float("nan")])) == "[nan]"


def test_views_default_dicts_and_named_tuples_compare_as_they_did() -> None:
    point = namedtuple("point", "x y")(1, [2])
    assert through(point) == (1, [2])
    assert through(point).y == [2]  # type: ignore[attr-defined]
    assert through({1: 2}.keys()) == {1}
    assert through(defaultdict(int, {1: 2})) == {1: 2}


class Text(str):
    __slots__ = ()


class Number(enum.IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    "value", [Text("a"), Number.ONE, object(), (x for x in ()), print, int, [Text("a")], {1: {Number.ONE}}]
)
def test_subclasses_and_objects_are_not_plain(value: object) -> None:
    with pytest.raises(plain.NotPlain):
        plain.encode(value)


def test_a_cycle_is_not_plain() -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    with pytest.raises(RecursionError):
        plain.encode(cycle)


@pytest.mark.parametrize(
    "forged",
    [
        {},
        {"tuple": [], "set": []},
        {"set": [[1]]},
        {"dict": [1]},
        {"bytes": "zz"},
        {"int": "x"},
        {"object": [0]},
        {"deque": []},
        {"namedtuple": ["x;y", ["a"], 1]},
        {"namedtuple": ["p", ["__class__"], 1]},
        {"range": [1, 2, 0]},
        {"Fraction": "1/0"},
        {"Decimal": []},
    ],
)
def test_forged_data_is_malformed(forged: object) -> None:
    with pytest.raises(plain.Malformed):
        plain.decode(forged)
