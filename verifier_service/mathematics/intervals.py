"""Intervals, and the inequalities that describe them."""

import math
from itertools import pairwise

from verifier_service.mathematics import value
from verifier_service.mathematics.syntax import Node

INFINITY = Node("const", value="inf")
MINUS_INFINITY = Node("neg", (INFINITY,))
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}


def is_equation(node: Node) -> bool:
    return node.op == "rel" and set(str(node.value).split(",")) == {"="}


def solution_set(node: Node) -> Node | None:
    """The interval, or union of intervals, that inequalities in one unknown describe; sets as they are."""
    if node.op in ("group", "union"):
        return node
    if node.op == "list":
        parts = [solution_set(arg) for arg in node.args]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts) or node.value == ",":
            return None
        return Node("union", tuple(known)) if node.value == "or" else intersection(known)
    if node.op != "rel":
        return None
    operators = str(node.value).split(",")
    unknown = [index for index, arg in enumerate(node.args) if arg.op == "sym"]
    if len(unknown) != 1 or any(index != unknown[0] and value.symbols(arg) for index, arg in enumerate(node.args)):
        return None
    if operators == ["!="]:
        hole = node.args[1 - unknown[0]]
        return Node("union", (interval(MINUS_INFINITY, hole, "()"), interval(hole, INFINITY, "()")))
    return interval_of(node.args, operators, unknown[0])


def intersection(intervals: list[Node]) -> Node | None:
    """Of a half-line to the right and one to the left; anything else is left to the second judge."""
    lower = [one for one in intervals if one.op == "group" and infinity(one.args[1]) > 0]
    upper = [one for one in intervals if one.op == "group" and infinity(one.args[0]) < 0]
    if len(intervals) != 2 or len(lower) != 1 or len(upper) != 1:
        return None
    return interval(lower[0].args[0], upper[0].args[1], str(lower[0].value)[0] + str(upper[0].value)[1])


def interval_of(args: tuple[Node, ...], operators: list[str], unknown: int) -> Node | None:
    low, high, opening, closing = MINUS_INFINITY, INFINITY, "(", ")"
    if len(args) > 3 or any(operator not in FLIPPED for operator in operators):
        return None
    for index, operator in enumerate(operators):
        if unknown not in (index, index + 1):
            return None
        bound = args[index + 1] if index == unknown else args[index]
        facing = operator if index == unknown else FLIPPED[operator]
        if facing.startswith("<"):
            high, closing = bound, "]" if facing == "<=" else ")"
        else:
            low, opening = bound, "[" if facing == ">=" else "("
    return interval(low, high, opening + closing)


def interval(low: Node, high: Node, brackets: str) -> Node:
    return Node("group", (low, high), brackets)


def are_apart(parts: tuple[Node, ...]) -> bool:
    """Whether all parts are intervals that do not even touch."""
    known = sorted(ends for part in parts if (ends := bounds(part)) is not None)
    return len(known) == len(parts) and all(one[1] < other[0] for one, other in pairwise(known))


def bounds(part: Node) -> tuple[float, float] | None:
    if part.op != "group" or len(part.args) != 2:
        return None
    ends = [math.inf * infinity(arg) if infinity(arg) else value.real_number(arg) for arg in part.args]
    return (float(ends[0]), float(ends[1])) if ends[0] is not None and ends[1] is not None else None


def infinity(node: Node) -> int:
    if node.op == "neg":
        return -infinity(node.args[0])
    return 1 if node.op == "const" and node.value == "inf" else 0
