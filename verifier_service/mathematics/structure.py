"""Comparing read answers: sets are sets, ordered stays ordered, intervals and inequalities are the same thing.

Every comparison answers True, False or None (cannot tell); a conjunction of them is False as soon as one is.
"""

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

from verifier_service.mathematics import value
from verifier_service.mathematics.intervals import (
    FLIPPED,
    INFINITY,
    MINUS_INFINITY,
    are_apart,
    infinity,
    is_equation,
    solution_set,
)
from verifier_service.mathematics.syntax import Node

MAX_SET = 200
NOTHING = Node("group", (), r"\{\}")
"""The empty set."""
EVERYTHING = Node("group", (MINUS_INFINITY, INFINITY), "()")
"""The real line."""


def expand(node: Node) -> Node:
    """`node` with a plus-minus written out as both of its values, the real line as an interval, and without what an
    exact value is said to be about."""
    node = _plain(node)
    if all(part.op != "pm" for part in node.walk()):
        return node
    if node.op == "list":
        return Node("list", tuple(part for arg in node.args for part in _elements(expand(arg), "list")), node.value)
    return Node("list", (_with_sign(node, "add"), _with_sign(node, "neg")), ",")


def _plain(node: Node) -> Node:
    if node.op == "sym" and node.value == r"\mathbbR":
        return EVERYTHING
    if node.op in ("list", "group", "union") or node.value == "in":
        return Node(node.op, tuple(_plain(arg) for arg in node.args), node.value)
    if node.op != "rel" or "~" not in str(node.value):
        return node
    operators = str(node.value).split(",")
    cut = operators.index("~")
    if cut == 0 and _are_far(*node.args[:2]):  # behind "x = 5" a rounding is a remark
        return Node("rel", node.args, str(node.value).replace("~", "="))  # which does not hold
    if cut == 0 and _is_label(node.args[0]):
        return Node("rel", node.args[:2], "=")
    return Node("rel", node.args[: cut + 1], ",".join(operators[:cut])) if cut else node.args[0]


def _are_far(left: Node, right: Node) -> bool:
    """Two numbers of which none can be the other one rounded: "5 \\approx 6" says two things."""
    one, other = value.real_number(left), value.real_number(right)
    if one is None or other is None:
        return False
    return abs(one - other) > max(Fraction(1, 2), max(abs(one), abs(other)) / 20)


def _with_sign(node: Node, sign: str) -> Node:
    args = tuple(_with_sign(arg, sign) for arg in node.args)
    if node.op == "pm":
        return args[0] if sign == "add" else Node("neg", args)
    return replace(node, args=args)


def with_parameter(
    gold: Node, declared: tuple[str, str] | None, answer: Node, answer_declared: tuple[str, str] | None
) -> Node:
    """The answer with the letter that runs through the integers named as in the gold: 2\\pi n for 2\\pi k.

    declared, answer_declared: letter and set, where a side says so; one that says nothing means the same set
    """
    if declared and answer_declared and declared[1] != answer_declared[1]:
        return NOTHING
    names, answer_names = map(value.symbols, _without_label(gold, answer))
    free, answer_free = names - answer_names, answer_names - names
    if len(free) != 1 or len(answer_free) != 1:
        return answer
    agreed = {*free} == {declared[0]} if declared else True
    agreed = agreed and ({*answer_free} == {answer_declared[0]} if answer_declared else True)
    return _renamed(answer, min(answer_free), min(free)) if agreed else answer


def _renamed(node: Node, name: str, new: str) -> Node:
    if node.op == "sym":
        return replace(node, value=new) if node.value == name else node
    return replace(node, args=tuple(_renamed(arg, name, new) for arg in node.args))


def is_constant(node: Node) -> bool:
    """A number, or a collection of numbers: nothing free in it."""
    if node.op == "rel":
        return is_constant(node.args[-1])
    return node.op != "sym" and node.value != "sym" and all(is_constant(arg) for arg in node.args)


def is_consistent(node: Node) -> bool:
    """No chain like "5 = 4": the constants that an equation chain sets equal are equal."""
    if is_equation(node):
        name = node.args[0].value if node.op == "rel" and len(node.args) > 2 and node.args[0].op == "sym" else None
        if any(name in value.symbols(arg) for arg in node.args[1:]):
            return False  # "x = 5 x = 6"
        constants = [part for part in node.args if value.is_scalar(part) and not value.symbols(part)]
        return all(value.same(constants[0], part) is not False for part in constants[1:])
    return all(is_consistent(arg) for arg in node.args)


def is_solved(node: Node) -> bool:
    """The result of solving something: a name and numbers, or a collection of numbers."""
    if node.op == "rel":
        constant = [not value.symbols(arg) for arg in node.args]
        return any(constant) and all(known or arg.op == "sym" for known, arg in zip(constant, node.args, strict=True))
    return not value.is_scalar(node) and all(is_solved(arg) or is_constant(arg) for arg in node.args)


def is_unsolved(node: Node) -> bool:
    """It holds an equation or inequality that is still to be solved: "3x - 1 = 5", "|x - 2| < 1"."""
    if node.op == "rel":
        return any(value.symbols(arg) and not _is_name(arg) for arg in node.args)
    return any(is_unsolved(arg) for arg in node.args)


def _is_name(node: Node) -> bool:
    """x, -x, x - 2, f(x), (x, y), AB: what may stand on a side of something solved."""
    if node.op in ("neg", "add"):
        named = [arg for arg in node.args if value.symbols(arg)]
        return len(named) == 1 and _is_name(named[0])
    if node.op in ("mul", "group", "list"):
        return _is_name(node.args[0]) and all(_is_name(arg) or not value.symbols(arg) for arg in node.args)
    return node.op == "sym" or (node.op == "rel" and is_solved(node))


def compare(gold: Node, answer: Node) -> bool | None:
    """Whether two answers are the same."""
    gold, answer = _without_label(gold, answer)
    if answer.value == "or" and value.is_scalar(gold):  # "1/2 or 0.5" says one thing
        return _all(compare(gold, one) for one in answer.args)
    gold, answer = _as_point(gold, answer), _as_point(answer, gold)
    if value.is_scalar(gold) and value.is_scalar(answer):
        return _same_scalar(gold, answer)
    if "rel" in (gold.op, answer.op) or _has_inequality(gold) or _has_inequality(answer):
        return _compare_relations(gold, answer)
    if gold.op == "ratio" or answer.op == "ratio":
        return _compare_ratios(gold, answer)
    if gold.op == "matrix" or answer.op == "matrix":
        return _compare_matrices(gold, answer)
    if gold.op == "union" or answer.op == "union":
        return _compare_unions(_elements(gold, "union"), _elements(answer, "union"))
    return _compare_collections(gold, answer)


def _as_point(node: Node, other: Node) -> Node:
    """Where the other side is a tuple: that of "P(3, 4)" and \\{(3, 4)\\}; "y = 4, x = 3" in the order of its names."""
    if other.op != "group" or other.value != "()" or not node.args:
        return node
    if node.args[-1].op == "group":
        named = node.op == "mul" and len(node.args) == 2 and str(node.args[0].value).isupper()
        return node.args[-1] if named or (node.value == r"\{\}" and len(node.args) == 1) else node
    if node.op == "list" and all(is_equation(arg) and arg.args[0].op == "sym" for arg in node.args):
        return Node("list", tuple(sorted(node.args, key=lambda arg: str(arg.args[0].value))), node.value)
    return node


def _same_scalar(gold: Node, answer: Node) -> bool | None:
    equal = value.same(gold, answer)
    if equal is False and "deg" in (gold.op, answer.op) and gold.op != answer.op:
        # 90 degrees are pi/2: the same angle in another unit.
        factor = Node("div", (Node("const", value="pi"), Node("num", value=Fraction(180))))
        in_radians = [Node("mul", (side.args[0], factor)) if side.op == "deg" else side for side in (gold, answer)]
        return value.same(*in_radians)
    return equal


def _is_label(node: Node) -> bool:
    """What an answer is called: x, f(x), (p, q), |AB|."""
    if node.op == "sym":
        return True
    if node.op in ("mul", "group", "call", "list", "pow", "div"):
        return bool(value.symbols(node)) and all(
            _is_label(arg) or arg.op in ("num", "const", "neg") for arg in node.args
        )
    return node.op == "const" and node.value in ("e", "i")


def _without_label(gold: Node, answer: Node) -> tuple[Node, Node]:
    """Both sides without "x =" where the labels agree or only one side has one."""
    gold, answer = _member(gold), _member(answer)
    gold_named = is_equation(gold) and _is_label(gold.args[0])
    answer_named = is_equation(answer) and _is_label(answer.args[0])
    if gold_named and answer_named:
        one, other = gold.args[0], answer.args[0]
        if one == other or not (one.op == other.op == "sym"):
            same_labels = one == other or value.same(one, other) is True or "group" in (one.op, other.op)
            return (gold.args[-1], answer.args[-1]) if same_labels else (gold, answer)
        return gold, answer
    if gold_named and answer.op != "rel":
        return gold.args[-1], answer
    if is_equation(answer) and gold.op != "rel":
        constant_label = value.is_scalar(answer.args[0]) and not value.symbols(answer.args[0])
        if answer_named or (constant_label and is_constant(answer)):
            return gold, answer.args[-1]
    return gold, answer


def _member(node: Node) -> Node:
    """The set in "x in S"."""
    return node.args[1] if node.op == "rel" and node.value == "in" else node


def _has_inequality(node: Node) -> bool:
    return node.op == "list" and any(arg.op == "rel" and not is_equation(arg) for arg in node.args)


def _compare_relations(gold: Node, answer: Node) -> bool | None:
    if gold.op == "list" and answer.op == "list" and not (_has_inequality(gold) or _has_inequality(answer)):
        return _matched(gold.args, answer.args)
    gold_set, answer_set = solution_set(gold), solution_set(answer)
    if gold_set is not None and answer_set is not None:
        if (gold.op == "rel" and answer.op == "rel") and value.symbols(gold) != value.symbols(answer):
            return False
        return compare(gold_set, answer_set)
    if gold.op == answer.op == "rel" and len(gold.args) == len(answer.args) == 2:
        return _compare_two_relations(gold, answer)
    if gold.op == answer.op == "rel" and gold.value == answer.value:
        parts = _all(compare(one, other) for one, other in zip(gold.args, answer.args, strict=True))
        return parts if "mod" in str(gold.value) else parts or None
    if "rel" not in (gold.op, answer.op):
        return None
    other = answer if gold.op == "rel" else gold
    # A relation is no value, and a value no relation.
    return False if value.is_scalar(other) else None


def _compare_two_relations(gold: Node, answer: Node) -> bool | None:
    """f = 0 against g = 0 (or f < 0 against g < 0), where g is a constant multiple of f."""
    gold_operator, answer_operator = str(gold.value), str(answer.value)
    if not all(value.is_scalar(arg) for arg in (*gold.args, *answer.args)):
        return None
    one, other = (Node("add", (node.args[0], Node("neg", (node.args[1],)))) for node in (gold, answer))
    if gold_operator not in FLIPPED or answer_operator not in FLIPPED:
        if gold_operator != answer_operator:
            return False
        if value.symbols(gold) != value.symbols(answer):
            return False  # "x = 5" against "y = 5"
        return True if value.proportional(one, other) is not None else None
    ratio = value.proportional(one, other)
    if ratio is None:
        return None
    return (FLIPPED[answer_operator] if ratio < 0 else answer_operator) == gold_operator


def _compare_ratios(gold: Node, answer: Node) -> bool | None:
    if gold.op != answer.op:
        ratio, other = (gold, answer) if gold.op == "ratio" else (answer, gold)
        return compare(Node("div", ratio.args), other) if len(ratio.args) == 2 and value.is_scalar(other) else None
    if len(gold.args) != len(answer.args):
        return False
    pairs = zip(gold.args[1:], answer.args[1:], strict=True)
    crossed = ((Node("mul", (one, answer.args[0])), Node("mul", (other, gold.args[0]))) for one, other in pairs)
    return _all(compare(left, right) for left, right in crossed)


def _compare_matrices(gold: Node, answer: Node) -> bool | None:
    rows, other_rows = _rows(gold), _rows(answer)
    if rows is None or other_rows is None:
        return False if value.is_scalar(gold) or value.is_scalar(answer) else None
    if "group" in (gold.op, answer.op):  # a vector may stand as a tuple
        if any(min(len(side), len(side[0])) > 1 for side in (rows, other_rows)):
            return False
    elif [len(row) for row in rows] != [len(row) for row in other_rows]:
        return False
    cells, others = ([cell for row in side for cell in row] for side in (rows, other_rows))
    return _all(map(compare, cells, others)) if len(cells) == len(others) else False


def _rows(node: Node) -> list[tuple[Node, ...]] | None:
    if node.op == "matrix":
        return [row.args for row in node.args]
    return [node.args] if node.op == "group" and node.value in ("()", "[]") else None


def _compare_unions(golds: tuple[Node, ...], answers: tuple[Node, ...]) -> bool | None:
    """Unions of intervals that do not touch are equal where their intervals are; others may still merge."""
    matched = _matched(golds, answers)
    return matched if matched or (are_apart(golds) and are_apart(answers)) else None


def _compare_collections(gold: Node, answer: Node) -> bool | None:
    """Sets and bare lists by their elements in any order, tuples and intervals in theirs."""
    gold_brackets, answer_brackets = _brackets(gold), _brackets(answer)
    if gold_brackets is None or answer_brackets is None:
        return None
    golds, answers = (_elements(node, "group", "list") for node in (gold, answer))
    unordered = {r"\{\}", "{}", ",", ""}
    if gold_brackets in unordered and answer_brackets in unordered:
        return _matched(golds, answers, as_set=r"\{\}" in (gold_brackets, answer_brackets))
    ordered = [brackets for brackets in (gold_brackets, answer_brackets) if brackets not in unordered]
    if len(ordered) == 1 and (r"\{\}" in (gold_brackets, answer_brackets) or "or" in (gold.value, answer.value)):
        return False  # a set, or alternatives, for a tuple or an interval
    if len(ordered) == 1 and ordered[0] not in ("()", "[]"):
        return False  # its ends for a half-open interval
    if len(golds) != len(answers):
        return False
    brackets_differ = len(ordered) == 2 and ordered[0] != ordered[1]
    if brackets_differ and (len(golds) == 2 or set(ordered) != {"()", "[]"}):
        return False
    return _all(_same_element(one, other) for one, other in zip(golds, answers, strict=True))


def _same_element(gold: Node, answer: Node) -> bool | None:
    infinite, other_infinite = infinity(gold), infinity(answer)
    if infinite or other_infinite:
        return infinite == other_infinite
    return compare(gold, answer)


def _brackets(node: Node) -> str | None:
    if node.op == "group":
        return str(node.value)
    if node.op == "list":
        return ","
    return "" if value.is_scalar(node) or infinity(node) or node.op == "rel" else None


def _elements(node: Node, *collections: str) -> tuple[Node, ...]:
    """What a collection of these kinds holds; anything else by itself."""
    return node.args if node.op in collections else (node,)


def _matched(golds: tuple[Node, ...], answers: tuple[Node, ...], *, as_set: bool = False) -> bool | None:
    """Whether the elements pair off, in any order."""
    if max(len(golds), len(answers)) > MAX_SET:
        return None
    if as_set:
        golds, answers = _distinct(golds), _distinct(answers)
    if len(golds) != len(answers):
        return False
    left = list(answers)
    undecided = False
    for gold in golds:
        verdicts = [_same_element(gold, answer) for answer in left]
        if True in verdicts:
            left.pop(verdicts.index(True))
        elif None in verdicts:
            undecided = True
        else:
            return False
    return None if undecided else True


def _distinct(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    kept: list[Node] = []
    for node in nodes:
        if not any(node == other or _same_element(other, node) is True for other in kept):
            kept.append(node)
    return tuple(kept)


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    undecided = False
    for verdict in verdicts:
        if verdict is False:
            return False
        undecided = undecided or verdict is None
    return None if undecided else True
