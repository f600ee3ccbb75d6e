"""The strict judge: whether an answer equals a gold answer, by our own reading of both. Yes, no, or not decided.

It goes from cheap to dear: the same text, the same number, the same structure with the same elements. What it proves
equal or different is final; the rest (`None`) is left to the second judge.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from verifier_service import choices, quantities
from verifier_service.mathematics import structure
from verifier_service.mathematics.notation import TEXT_COMMAND, canonical
from verifier_service.mathematics.number import Number, parse_number
from verifier_service.mathematics.reading import Reading, read_answer
from verifier_service.mathematics.syntax import Node
from verifier_service.mathematics.value import is_rounding


@dataclass(frozen=True, slots=True)
class Decision:
    """`equal` is None where the strict judge cannot tell; `reason` is one of the math verifier's."""

    equal: bool | None
    reason: str


EXACT = Decision(True, "exact")
NUMBER = Decision(True, "number")
EQUIVALENT = Decision(True, "equivalent")
DIFFERENT = Decision(False, "not_equivalent")
RESTATED = Decision(False, "not_evaluated")
INCONSISTENT = Decision(False, "inconsistent")
LIMIT = Decision(False, "comparison_limit")
UNDECIDED = Decision(None, "undecided")


_CARRIED_OUT = frozenset({"integral", "derivative", "sum", "product", "limit", "matrix"})
"""What is carried out in any answer; functions and factorials may stand in a formula."""


def decide(gold: Reading, answer_text: str) -> Decision:
    """Compare an extracted answer with a gold answer. Linear time but for sets (quadratic, capped)."""
    if len(answer_text) > MAX_ANSWER_CHARS:
        return EXACT if canonical(answer_text) == gold.text else LIMIT
    answer = read_answer(answer_text)
    if gold.text == answer.text and gold.text:
        return EXACT
    if gold.number is not None and answer.number is not None:
        return same_number(gold.number, answer.number)
    if gold.compact == answer.compact:
        return EXACT
    if not answer.text:
        return DIFFERENT
    if gold.text in choices.letters(None):
        option = TEXT_COMMAND.sub(r"\1", answer.text).strip()
        if len(option) == 1 or _OPTION.match(option):
            return EXACT if choices.chosen(option, None) == gold.text else DIFFERENT
    words = _compare_words(gold, answer)
    if words is not None:
        return words
    if gold.number is not None and _COMMA_DECIMAL.fullmatch(answer.text):
        # "1000,99" can only be a decimal where a single number is asked for.
        decimal = parse_number(answer.text.replace(",", "."))
        return same_number(gold.number, decimal) if decimal else DIFFERENT
    return _compare_structure(gold, answer)


_OPTION = re.compile(r"\(?[A-J](?:\)|[.:])")
MAX_ANSWER_CHARS = 20_000
"""Longer answers are compared as text only."""

_COMMA_DECIMAL = re.compile(r"-?\d+,\d{1,2}|-?\d{4,},\d+|-?0,\d+")


def same_number(gold: Number, answer: Number) -> Decision:
    if gold.base and answer.base and gold.base != answer.base:
        return DIFFERENT
    in_unit = quantities.in_terms_of(gold, answer)
    if in_unit is None:
        return DIFFERENT
    value, lost = in_unit
    if lost:
        return NUMBER if abs(value - gold.value) <= lost else DIFFERENT
    equal = value == gold.value or (gold.percent and not answer.percent and value * 100 == gold.value)
    return NUMBER if equal or _rounded(gold, answer) else DIFFERENT


def _rounded(gold: Number, answer: Number) -> bool:
    """An exact number against a decimal that was rounded from it (or cut)."""
    decimal, exact = (answer, gold) if answer.decimals is not None else (gold, answer)
    if decimal.decimals is None or exact.decimals is not None or decimal.percent != exact.percent:
        return False
    return is_rounding(decimal.value, decimal.decimals, exact.value)


def _compare_words(gold: Reading, answer: Reading) -> Decision | None:
    if gold.words is None:
        return DIFFERENT if answer.words is not None and (gold.number is not None) else None
    if answer.words is None:
        return DIFFERENT if _DATE.fullmatch(gold.text) else None  # what its digits are as a difference is no date
    return EXACT if gold.words == answer.words else DIFFERENT


_DATE = re.compile(r"\d+[-/]\d+[-/]\d+")


def _compare_structure(gold: Reading, answer: Reading) -> Decision:
    gold_node = gold.node
    if gold_node is None:
        return UNDECIDED if _may_be_judged(gold, answer) else DIFFERENT
    if answer.node is None or answer.operations - gold.operations:
        answer = _end_of_chain(answer) if gold_node.op != "rel" else answer
    restated = answer.operations - gold.operations
    if restated and (structure.is_constant(gold_node) or not restated.isdisjoint(_CARRIED_OUT)):
        return RESTATED
    answer_node = answer.node
    if answer_node is None and answer.too_complex:
        return LIMIT
    if answer_node is None:
        return UNDECIDED if _may_be_judged(gold, answer) else DIFFERENT
    if not structure.is_consistent(answer_node):
        return INCONSISTENT
    if structure.is_solved(gold_node) and structure.is_unsolved(answer_node):
        return RESTATED
    if answer.parameter != gold.parameter:
        answer_node = structure.with_parameter(gold_node, gold.parameter, answer_node, answer.parameter)
    factor = _factor(gold.unit, answer.unit)
    if factor is None:
        return DIFFERENT
    if factor != 1:
        answer_node = Node("mul", (Node("num", value=factor), answer_node))
    equal = structure.compare(gold_node, answer_node)
    if equal is not True and "," in answer.text and answer.separated not in (None, answer_node):
        assert answer.separated is not None
        again = structure.compare(gold.separated or gold_node, answer.separated)
        equal = again if again is not False else equal
    if equal is None:
        return UNDECIDED if _may_be_judged(gold, answer) else DIFFERENT
    return EQUIVALENT if equal else DIFFERENT


def _factor(gold: str, answer: str) -> Fraction | None:
    """What an expression in the answer's unit is multiplied by to be in the gold's; None where they do not agree. A
    unit that only one side names is taken for granted."""
    if not (gold and answer) or r"\circ" in gold + answer or quantities.same_label(gold, answer):
        return Fraction(1)  # degrees are seen to where values are compared
    factor = quantities.convert(Fraction(1), answer, gold)
    return None if factor is None else factor.limit_denominator(10**9)


def _end_of_chain(answer: Reading) -> Reading:
    """The last part of "operation = value": what precedes it was carried out, and cannot be read (or is the question).

    The parts that can be read must agree, else the answer stays whole.
    """
    parts = _EQUALS.split(answer.text)
    if (
        len(parts) == 1
        or "," in answer.text
        or _ALTERNATIVES.search(answer.text)
        or any(part.count("{") != part.count("}") for part in parts)
    ):
        return answer
    nodes = [Reading(part.strip()).node for part in parts if not Reading(part).operations]
    known = tuple(node for node in nodes if node is not None)
    if len(known) > 1 and not structure.is_consistent(Node("rel", known, ",".join("=" * (len(known) - 1)))):
        return answer
    return Reading(parts[-1].strip())


_EQUALS = re.compile(r"(?<![<>!=:])=(?!=)")
_ALTERNATIVES = re.compile(
    r"\b(?:or|oder|ou|oppure|if|otherwise|not|wrong|maybe|perhaps|possibly|probably|could|might|either|unless|but|vs)\b"
    r"|n't\b|\bthan\b|或|\\text ?\{ ?[A-Za-z(][^{}\d]*+(?<= )\d",
    re.IGNORECASE,
)


def _may_be_judged(gold: Reading, answer: Reading) -> bool:
    """What we cannot read may still be read by the second judge, but it must not offer alternatives, nor words, which
    that judge drops ("5\\text{ squared}")."""
    if len(answer.text) > MAX_SYMBOLIC_CHARS or _DROPPED.search(answer.text):
        return False
    words = {word for text in TEXT_COMMAND.findall(answer.bare) for word in _WORD.findall(text)}
    return words <= {*_WORD.findall(gold.text)} and (
        not _ALTERNATIVES.search(answer.text) or bool(_ALTERNATIVES.search(gold.text))
    )


_WORD = re.compile(r"[^\W\d_]{2,}")
_DROPPED = re.compile(r"\\[hv]?phantom|\\[lcd]?dots")


MAX_SYMBOLIC_CHARS = 10_000
