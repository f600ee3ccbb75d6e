"""Whether what a program gave out is what a test expects. Pure, linear, and blind to everything but plain data.

same_output(b"1 2 \n", "1 2\n")            True: trailing white space only
same_value({"tuple": [1, 2]}, [1, 2])      True: a tuple equals a list, nothing else changes type
"""

import re
from typing import Any

from pydantic import JsonValue

_TRAILING = b" \t\r\n\v\f"
_NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,6})?")
_INTEGER = re.compile(rb"[+-]?[0-9]+")


def same_output(output: bytes, expected: str, tolerance: float | None = None) -> bool:
    """Line by line, as online judges compare; with a tolerance token by token within each line."""
    lines, expected_lines = _lines(output), _lines(expected.encode("utf-8", "surrogatepass"))
    if len(lines) != len(expected_lines):
        return False
    return all(
        line == wanted or (tolerance is not None and _close_line(line, wanted, tolerance))
        for line, wanted in zip(lines, expected_lines, strict=True)
    )


def _lines(text: bytes) -> list[bytes]:
    return [line.rstrip(_TRAILING) for line in text.rstrip(_TRAILING).split(b"\n")]


def _close_line(line: bytes, wanted: bytes, tolerance: float) -> bool:
    tokens, wanted_tokens = line.split(), wanted.split()
    return len(tokens) == len(wanted_tokens) and all(
        token == want or _close(token, want, tolerance) for token, want in zip(tokens, wanted_tokens, strict=True)
    )


def _close(token: bytes, wanted: bytes, tolerance: float) -> bool:
    """Absolutely or relatively. Two integers are equal or not: 998245353 is not 998244353 at any tolerance."""
    if not (_NUMBER.fullmatch(token) and _NUMBER.fullmatch(wanted)):
        return False
    if _INTEGER.fullmatch(token) and _INTEGER.fullmatch(wanted):
        return token.lstrip(b"+") == wanted.lstrip(b"+")
    return abs(float(token) - float(wanted)) <= tolerance * max(1.0, abs(float(wanted)))


def same_value(encoded: Any, expected: JsonValue) -> bool:
    """Whether a value in the typed JSON of `sandbox.plain` is the expected one. Never builds the value itself: its
    hashes could be chosen to collide. The expected value bounds depth and work."""
    if isinstance(expected, list):
        items = encoded.get("tuple") if isinstance(encoded, dict) and len(encoded) == 1 else encoded
        return (
            isinstance(items, list)
            and len(items) == len(expected)
            and all(same_value(item, want) for item, want in zip(items, expected, strict=True))
        )
    if isinstance(expected, dict):
        return _same_dict(encoded, expected)
    if type(expected) is int and isinstance(encoded, dict):
        return encoded == {"int": hex(expected)}
    return type(encoded) is type(expected) and bool(encoded == expected)


def _same_dict(encoded: Any, expected: dict[str, JsonValue]) -> bool:
    pairs = encoded.get("dict") if isinstance(encoded, dict) and len(encoded) == 1 else None
    if not isinstance(pairs, list) or len(pairs) != len(expected):
        return False
    if not all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
        return False
    found = dict(pairs)
    return found.keys() == expected.keys() and all(same_value(found[key], want) for key, want in expected.items())
