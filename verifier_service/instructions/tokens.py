"""Words as the official checkers see them: four ways to cut a text, each used by several instructions."""

import re
import string
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Annotated, Literal

from nltk.tokenize.destructive import NLTKWordTokenizer
from pydantic import AfterValidator, Field

from verifier_service.instructions import sentences

Check = Callable[..., bool]
"""A checker: the text first, then its arguments by name."""

Count = Annotated[int, Field(ge=0)]
Relation = Literal["less than", "at least"]

MARKS = string.punctuation + " "
"""What the checkers strip off a word's ends."""

_WORD = re.compile(r"\w+")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_QUANTIFIERS = re.compile(r"(?<!\\)[*+{]+")
_TREEBANK = NLTKWordTokenizer()
_CONTRACTED = frozenset({"cannot", "gimme", "gonna", "gotta", "lemme", "wanna"})
"""Words without an apostrophe that the tokenizer takes apart."""


def by_name(family: str, *checkers: Check) -> dict[str, Check]:
    """The checkers of a family by id, which is family and function name; a mended one has the id of what it mends."""
    return {f"{family}:{checker.__name__.removesuffix('_repaired')}": checker for checker in checkers}


def in_a_row(check: Check) -> Check:
    """The check of a row of sentences, mended: one alone is no row."""
    return wraps(check)(lambda text, **arguments: len(sentences.split(text)) > 1 and check(text, **arguments))


def compares(count: int, relation: Relation, threshold: int) -> bool:
    return count < threshold if relation == "less than" else count >= threshold


def alphanumeric_words(text: str) -> list[str]:
    return _WORD.findall(text)


def without_punctuation(text: str) -> str:
    return text.translate(_WITHOUT_PUNCTUATION)


@lru_cache(maxsize=64)
def treebank_words(text: str) -> tuple[str, ...]:
    """Penn Treebank tokens sentence by sentence, as `nltk.word_tokenize` makes them; punctuation marks are tokens."""
    tokens: list[str] = []
    for sentence in sentences.split(text):
        *inner, last = sentence.split()
        for chunk in inner:
            tokens += _chunk(chunk, ends=False)
        tokens += _chunk(last, ends=True)
    return tuple(tokens)


def _chunk(chunk: str, *, ends: bool) -> tuple[str, ...]:
    """The tokens of what stands between two white spaces; NLTK's rules look no further, but at a sentence's end."""
    core, mark = chunk[:-1], chunk[-1]
    if chunk.isalnum() and chunk.lower() not in _CONTRACTED:
        return (chunk,)
    if core.isalnum() and mark in ".,;:?!" and core.lower() not in _CONTRACTED:
        return (core, mark) if ends or mark != "." else (chunk,)
    return _unusual_chunk(chunk, ends)


@lru_cache(maxsize=16_384)
def _unusual_chunk(chunk: str, ends: bool) -> tuple[str, ...]:
    tokens = _TREEBANK.tokenize(f"x {chunk}" if ends else f"x {chunk} x")
    return tuple(tokens[1:] if ends else tokens[1:-1])


def _usable(keyword: str) -> str:
    if len(_QUANTIFIERS.findall(keyword)) > 1 and _compiles(keyword):
        raise ValueError("a keyword with several quantifiers can take exponential time")
    return keyword


def _compiles(keyword: str) -> bool:
    try:
        re.compile(keyword)
    except re.error:
        return False
    return True


Keyword = Annotated[str, Field(min_length=1), AfterValidator(_usable)]
"""The official checkers search for keywords as regular expressions, mostly of plain letters."""


@lru_cache(maxsize=4096)
def keyword_pattern(keyword: str, before: str = "", after: str = "") -> re.Pattern[str]:
    """The keyword as a pattern without case; what is no regular expression is meant literally ("**")."""
    return re.compile(before + (keyword if _compiles(keyword) else re.escape(keyword)) + after, re.IGNORECASE)
