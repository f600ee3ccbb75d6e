"""What counts as the same output and the same value; every line here is a decision about a reward."""

import json

import pytest

from sandbox import plain
from verifier_service.output_comparison import same_output, same_value


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (b"1 2\n", "1 2"),
        (b"1 2   \n3\t\n\n\n", "1 2\n3\n"),
        (b"1\r\n2\r\n", "1\n2\n"),
        (b"", ""),
        (b"\n\n", ""),
        ("ä\u2028b\n".encode(), "ä\u2028b"),
    ],
)
def test_trailing_white_space_is_forgiven(output: bytes, expected: str) -> None:
    assert same_output(output, expected)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (b"1  2\n", "1 2"),
        (b" 1 2\n", "1 2"),
        (b"1\n2\n", "1 2"),
        (b"1\n\n2\n", "1\n2"),
        (b"\n1\n", "1"),
        (b"1\n", "1\n2"),  # a right prefix
        (b"1\n2\n3\n", "1\n2"),  # more than was asked for
        (b"1.0\n", "1"),
        (b"998245353\n", "998244353"),
        (b"\xff\n", "\ufffd"),
        (b"YES\n", "yes"),
        (b"1\xc2\xa0\n", "1"),
    ],
)
def test_nothing_else_is_forgiven(output: bytes, expected: str) -> None:
    assert not same_output(output, expected)


def test_a_declared_tolerance_is_absolute_or_relative() -> None:
    assert same_output(b"0.3333334 ok\n", "0.3333333 ok", 1e-6)
    assert same_output(b"1e9\n", "1000000001.0", 1e-6)
    assert same_output(b"1  2.0\n", "1 2", 1e-6)
    assert not same_output(b"0.34\n", "0.33", 1e-6)


@pytest.mark.parametrize("token", [b"nan", b"inf", b"1_0", b"0x1p0", b"1e9999999", "１".encode(), b"998245353"])
def test_a_tolerance_never_equates_integers_or_words(token: bytes) -> None:
    assert not same_output(token, "998244353" if token == b"998245353" else "1.0", 1e-3)


def test_a_tolerance_still_wants_every_line() -> None:
    assert not same_output(b"1.0\n", "1.0\n2.0", 1e-3)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3),
        (2**70, 2**70),
        (1.5, 1.5),
        ((1, [2, ()]), [1, [2, []]]),
        ({"a": (1,), "b": None}, {"b": None, "a": [1]}),
        ("\ud800", "\ud800"),
        ([], []),
        ({}, {}),
    ],
)
def test_equal_values(value: object, expected: object) -> None:
    assert same_value(json.loads(json.dumps(plain.encode(value))), expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, True),
        (1, 1.0),
        (1.0, 1),
        (0, False),
        (False, 0),
        (0, None),
        ("1", 1),
        (float("nan"), 0.0),
        ([1], [1, 2]),
        ([1, 2], [1]),
        ({1: 2}, {"1": 2}),
        ({"a": 1, "b": 2}, {"a": 1}),
        ({"a": True}, {"a": 1}),
        ({1, 2}, [1, 2]),
        ("ab", ["a", "b"]),
        (b"a", "a"),
        ({}, []),
        ((), {}),
        (range(2), [0, 1]),
    ],
)
def test_different_values(value: object, expected: object) -> None:
    assert not same_value(json.loads(json.dumps(plain.encode(value))), expected)


@pytest.mark.parametrize(
    "forged",
    [
        {"tuple": 1},
        {"tuple": [1], "x": 0},
        {"dict": [["a", 1], ["a", 1]]},
        {"dict": [["a"]]},
        {"dict": {"a": 1}},
        {"a": 1},
        {"dict": [[["a"], 1]]},
    ],
)
@pytest.mark.parametrize("expected", [[1], {"a": 1}, 1, {"dict": [["a", 1]]}])
def test_a_forged_encoding_is_no_value(forged: object, expected: object) -> None:
    assert not same_value(forged, expected)
