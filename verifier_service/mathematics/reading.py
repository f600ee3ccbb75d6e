"""An answer, read once: as a number, as words, as mathematics, by the operations that stand in it."""

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

from verifier_service import quantities
from verifier_service.mathematics import structure
from verifier_service.mathematics.notation import TEXT_COMMAND, canonical
from verifier_service.mathematics.number import Number, is_number_word, parse_number
from verifier_service.mathematics.syntax import Node, read
from verifier_service.mathematics.tokens import TooComplex, Unreadable


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
        if _ALL_REALS.fullmatch(self.text):
            return structure.EVERYTHING
        try:
            return structure.expand(read(self.bare, thousands=thousands))
        except Unreadable:
            return None

    @cached_property
    def _split(self) -> tuple[str, tuple[str, str] | None]:
        """The text without a set builder and without "k \\in Z" at its end, and that: ("k", "Z")."""
        builder = _SET_BUILDER.fullmatch(self.text)
        text = _FOR_ALL.sub("", builder[1] if builder else self.text)
        condition = _CONDITION.search(text) if "\\ne" in text else None
        if condition and not _INEQUALITY.search(text[: condition.start()]):
            text = text[: condition.start()]
        declared = _PARAMETER.search(text) if "\\in" in text or "integer" in text else None
        if declared is None or not text[: declared.start()].strip():
            return text, None
        return text[: declared.start()], (declared["name"] or declared["named"], declared["set"] or "Z")

    @cached_property
    def _measured(self) -> tuple[str, str]:
        text = self._split[0]
        if "\\text" not in text and "|" not in text:
            return text, ""
        label = _WORDED_LABEL.match(text)
        return quantities.without_unit(text[label.end() :] if label else text)

    @property
    def bare(self) -> str:
        """What is compared: without conditions, without a label in words, and without the unit."""
        return self._measured[0]

    @property
    def unit(self) -> str:
        """The unit behind a number or an expression, in canonical notation; "" where there is none."""
        return self.number.unit if self.number else self._measured[1]

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
# "x + 1, x \\ne 0": where an answer holds.
_CONDITION = re.compile(
    r" ?(?:[,;(]|\\text ?\{ ?,? ?(?:where|for|if|with)[^{}]{0,20}\}) ?[a-zA-Z] ?\\ne ?[^,;=<>\\]{1,20}\)?$"
)
_FOR_ALL = re.compile(
    r" ?,? ?\\text ?\{ ?,? ?for (?:all|any|every|each)(?: (?:real|integers?|numbers?|values of))* ?(?:[a-z] ?)?\}"
    r"(?: ?[a-z]\b)?(?: ?\\in ?\\mathbb ?\{? ?R ?\}?)?$"
)
_INEQUALITY = re.compile(r"[<>]|\\(?:ne|le|ge)(?![a-z])")
# "\\text{Area} =", "P(A|B) =": what an answer is called, unless the words change what it says.
_WORDED_LABEL = re.compile(
    r"(?:\\text ?\{(?![^{}]*(?:not|n't|wrong|half|twice))[^{}]{1,40}\}(?: ?_ ?\{[^{}]{1,20}\})?"
    r"|[A-Z] ?\([^()=|]{1,20}\|[^()=|]{1,20}\)) ?= ?"
)
_ALL_REALS = re.compile(r"(?:\\text ?\{ ?)?(?:all|any) real (?:numbers?|values?)(?: [a-z])?\.? ?\}?", re.IGNORECASE)
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


@lru_cache(maxsize=8192)
def reading(text: str) -> Reading:
    """The reading of a raw text; golds come back with every completion, so readings are kept."""
    return read_answer(text)


def read_answer(text: str) -> Reading:
    return Reading(_unwrapped(canonical(text)))


def _unwrapped(text: str) -> str:
    """A number set as text ("\\text{4 hours}") is a number."""
    marked = TEXT_COMMAND.fullmatch(text)
    if marked and (is_number_word(marked[1].strip()) or any(character.isdigit() for character in marked[1])):
        return marked[1].strip()
    return _REMARK.sub(r" \\approx \1", text) if "(\\approx" in text else text


# "\\sqrt{13} (\\approx 3.61)"
_REMARK = re.compile(r" ?\(\\approx ?([^()]{1,40})\)$")


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
        or _ALL_REALS.fullmatch(plain)
        or (plain.isupper() and " " not in plain and not marked)
    ):
        return None
    return lowered


_MATHEMATICAL_WORDS = frozenset({"infinity", "inf", "pi", "sin", "cos", "tan", "exp", "abs", "sqrt"})


_ABBREVIATED = {"dne": "does not exist", "limit does not exist": "does not exist", "infinitely many": "infinite"}
