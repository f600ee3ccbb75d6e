"""The strict judge: whether an answer equals a gold answer, by our own reading of both. Yes, no, or not decided.

It goes from cheap to dear: the same text, the same number, the same structure with the same elements. What it proves
equal or different is final; the rest (`None`) is left to the second judge.
"""

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

from verifier_service import choices, quantities
from verifier_service.mathematics import structure
from verifier_service.mathematics.notation import TEXT_COMMAND, canonical
from verifier_service.mathematics.number import Number, parse_number
from verifier_service.mathematics.syntax import Node, read
from verifier_service.mathematics.tokens import TooComplex, Unreadable
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


@dataclass(frozen=True)
class Reading:
    """An answer, read once as far as each question about it needs."""

    text: str
    """In canonical notation."""

    @cached_property
    def number(self) -> Number | None:
        return parse_number(self.text)

    @cached_property
    def compact(self) -> str:
        """Without the spaces that mean nothing: all but those between digits."""
        return _IDLE_SPACE.sub("", self.text)

    @cached_property
    def words(self) -> str | None:
        """The plain text it is, in lower case and without markup; None where it is mathematics."""
        return as_words(self.text)

    @cached_property
    def node(self) -> Node | None:
        """What it is for our own parser, None where that cannot read it."""
        return self._read(thousands=True)

    def _read(self, *, thousands: bool) -> Node | None:
        if _NO_SOLUTION.fullmatch(self.text):
            return structure.NOTHING
        try:
            return structure.expand(read(self._split[0], thousands=thousands))
        except Unreadable:
            return None

    @cached_property
    def _split(self) -> tuple[str, tuple[str, str] | None]:
        """The text without a set builder and without "k \\in Z" at its end, and that: ("k", "Z")."""
        builder = _SET_BUILDER.fullmatch(self.text)
        text = builder[1] if builder else self.text
        declared = _PARAMETER.search(text) if "\\in" in text or "integer" in text else None
        if declared is None or not text[: declared.start()].strip():
            return text, None
        return text[: declared.start()], (declared["name"] or declared["named"], declared["set"] or "Z")

    @property
    def parameter(self) -> tuple[str, str] | None:
        """The letter that runs through a set, and the set: "\\pi k, k \\in \\mathbb{Z}" has ("k", "Z")."""
        return self._split[1]

    @cached_property
    def too_complex(self) -> bool:
        """Longer or deeper than any answer, so that not even the second judge should read it."""
        try:
            read(self.text)
        except TooComplex:
            return True
        except Unreadable:
            pass
        return False

    @cached_property
    def separated(self) -> Node | None:
        """As `node`, with "1,234" read as two elements."""
        return self._read(thousands=False)

    @cached_property
    def operations(self) -> frozenset[str]:
        return frozenset(match.lastgroup or "" for match in _OPERATIONS.finditer(self.text))


# {x | x > 2} and {x in R : x > 2} are what stands behind the bar.
_SET_BUILDER = re.compile(r"\\\{ ?[A-Za-z] ?(?:\\in ?\\mathbb ?\{ ?R ?\} ?)?[|:](.+)\\\}")
_PARAMETER = re.compile(
    r" ?[,;(]? ?(?:\\text ?\{ ?,? ?(?:where|for|with)[^{}]{0,20}\} ?|(?:where|for(?: any| all| some)?|with) )?"
    r"(?:(?P<name>[a-zA-Z]) ?\\in ?(?:\\mathbb ?)?\{? ?(?P<set>[ZN])(?: ?\^ ?\{? ?[+*] ?\}?|_ ?\{? ?\+ ?\}?)? ?\}?"
    r"|(?P<named>[a-zA-Z]) ?(?:\\text ?\{)? ?(?:is|are|be) (?:an |any )?integers?\}?) ?\)?$"
)
_NO_SOLUTION = re.compile(
    r"(?:\\text ?\{)? ?(?:there (?:is|are) )?(?:no (?:real |integer |such )?(?:solutions?|roots?)(?: exists?)?"
    r"|(?:the )?empty set)\.? ?\}?",
    re.IGNORECASE,
)
_IDLE_SPACE = re.compile(r"(?<!\d) +| +(?!\d| )")

# What a problem asks to be carried out. An answer that still contains it restates the problem.
_OPERATIONS = re.compile(
    r"(?P<factorial>!(?!=))|(?P<integral>\\i*int(?![a-zA-Z]))"
    r"|(?P<derivative>\\frac ?\{ ?(?:d|\\text ?\{ ?d ?\}) ?(?:\^ ?\{? ?\w ?\}? ?)?\} ?\{ ?(?:d|\\text ?\{ ?d)"
    r"|\\partial|\bd/d[a-z])"
    r"|(?P<sum>\\sum)|(?P<product>\\prod)|(?P<limit>\\lim)"
    r"|(?P<binomial>\\binom|\\choose|\\?\bC\()|(?P<divisor>\\?\b(?:gcd|lcm)\b)|(?P<remainder>\\[bp]?mod\b|\bmod\b)"
    r"|(?P<matrix>\\det|\\begin\{vmatrix\}|\\end ?\{[a-z]?matrix\} ?(?:[\^*]|\\times|\\begin))"
    r"|(?P<modulus>\|[^|]*\||\|_)|(?P<extremum>\\?\b(?:max|min)\b)"
    r"|(?P<rounding>\\lfloor|\\lceil|\\?\b(?:floor|ceil)\b)"
    r"|(?P<inverse>\\?a(?:rc)?(?:sin|cos|tan|cot)\b|\^ ?\{ ?-1 ?\} ?\(|\\?(?:sin|cos|tan|cot) ?\^ ?\{? ?-1)"
    r"|(?P<circular>\\?(?<![a-z])(?:sin|cos|tan|cot|sec|csc)h?(?![a-z]))"
    r"|(?P<logarithm>\\?\b(?:ln|log|lg)(?![a-z]))"
)


_CARRIED_OUT = frozenset({"integral", "derivative", "sum", "product", "limit", "matrix"})
"""What is carried out in any answer; functions and factorials may stand in a formula."""


@lru_cache(maxsize=8192)
def reading(text: str) -> Reading:
    """The reading of a raw text; golds come back with every completion, so readings are kept."""
    return Reading(_unwrapped(canonical(text)))


def _unwrapped(text: str) -> str:
    """A number set as text ("\\text{4 hours}") is a number."""
    marked = TEXT_COMMAND.fullmatch(text)
    return marked[1].strip() if marked and any(character.isdigit() for character in marked[1]) else text


def decide(gold: Reading, answer_text: str) -> Decision:
    """Compare an extracted answer with a gold answer. Linear time but for sets (quadratic, capped)."""
    if len(answer_text) > MAX_ANSWER_CHARS:
        return EXACT if canonical(answer_text) == gold.text else LIMIT
    answer = Reading(_unwrapped(canonical(answer_text)))
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
        return None
    return EXACT if gold.words == answer.words else DIFFERENT


_DATE_OR_TIME = re.compile(
    r"\d{4}-\d{1,2}-\d{1,2}|\d{1,2}/\d{1,2}/\d{2,4}|\d{1,2}:\d{2}(?: ?[ap]\.?m\.?)?|[A-Za-z]{3,9} \d{1,2}(?:, ?\d{4})?",
    re.I,
)
_WORDS = re.compile(r"[^\W\d_][^\W\d_'-]*(?:[ '-][^\W\d_]+){0,12}")
_LETTER = re.compile(r"\(?([A-Za-z])\)?")


def as_words(text: str) -> str | None:
    """Text that is a word, a name, a date or a single option letter, normalised; None for mathematics.

    A run of letters without a vowel ("mgh") or of at most two letters is a product, not a word.
    """
    marked = TEXT_COMMAND.fullmatch(text)
    plain = " ".join(TEXT_COMMAND.sub(r"\1", text).split()).strip(" .,")
    letter = _LETTER.fullmatch(plain)
    if letter and (marked or plain[0] == "("):
        return letter[1].lower()
    if _DATE_OR_TIME.fullmatch(plain):
        return re.sub(r"[ .,]+", " ", re.sub(r" ?([ap])\.? ?m\b", r" \1m", plain.lower())).strip()
    if not _WORDS.fullmatch(plain):
        return None
    lowered = plain.lower()
    is_word = marked or " " in plain or (len(plain) > 2 and bool(re.search("[aeiouy]", lowered))) or not plain.isascii()
    if lowered in _ABBREVIATED:
        return _ABBREVIATED[lowered]
    if (
        not is_word
        or lowered in _MATHEMATICAL_WORDS
        or _NO_SOLUTION.fullmatch(plain)
        or (plain.isupper() and " " not in plain and not marked)
    ):
        return None
    return lowered


_MATHEMATICAL_WORDS = frozenset({"infinity", "inf", "pi", "sin", "cos", "tan", "exp", "abs", "sqrt"})


_ABBREVIATED = {"dne": "does not exist", "limit does not exist": "does not exist", "infinitely many": "infinite"}


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
    equal = structure.compare(gold_node, answer_node)
    if equal is not True and "," in answer.text and answer.separated not in (None, answer_node):
        assert answer.separated is not None
        again = structure.compare(gold.separated or gold_node, answer.separated)
        equal = again if again is not False else equal
    if equal is None:
        return UNDECIDED if _may_be_judged(gold, answer) else DIFFERENT
    return EQUIVALENT if equal else DIFFERENT


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
    r"|或|\\text ?\{ ?[A-Za-z(][^{}\d]*+(?<= )\d",
    re.IGNORECASE,
)


def _may_be_judged(gold: Reading, answer: Reading) -> bool:
    """What we cannot read may still be read by the second judge, but it must not offer alternatives."""
    return len(answer.text) <= MAX_SYMBOLIC_CHARS and (
        not _ALTERNATIVES.search(answer.text) or bool(_ALTERNATIVES.search(gold.text))
    )


MAX_SYMBOLIC_CHARS = 10_000
