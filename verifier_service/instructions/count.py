"""IFBench's counts."""

import re
from typing import Annotated

from pydantic import Field

from verifier_service.instructions.tokens import (
    MARKS,
    Count,
    alphanumeric_words,
    by_name,
    treebank_words,
    without_punctuation,
)
from verifier_service.instructions.wordlists import CONJUNCTIONS, PERSON_NAMES, PRONOUNS

_NAME = re.compile(rf"\b(?:{'|'.join(PERSON_NAMES)})\b")
_JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
_INTERROBANGS = ("?!", "!?")


def word_count_range(text: str, min_words: Count, max_words: Count) -> bool:
    return min_words <= len(alphanumeric_words(text)) <= max_words


def unique_word_count(text: str, N: Count) -> bool:
    return len({word.strip(MARKS) for word in text.lower().split()}) >= N


def conjunctions(text: str, small_n: Count) -> bool:
    """The official checker tells apart what differs only in case or in marks around it ("and", "And", "and,")."""
    return len({word for word in text.split() if word.strip(MARKS).lower() in CONJUNCTIONS}) >= small_n


def conjunctions_repaired(text: str, small_n: Count) -> bool:
    return len(CONJUNCTIONS & {word.strip(MARKS).lower() for word in text.split()}) >= small_n


def person_names(text: str, N: Count) -> bool:
    return len(set(_NAME.findall(text))) >= N


def numbers(text: str, N: Count) -> bool:
    return len(re.findall(r"\d+", without_punctuation(text))) == N


def punctuation(text: str) -> bool:
    """Every mark of `.,!?;:` beside an interrobang, which is used up first."""
    if "\u203d" not in text and not any(pair in text for pair in _INTERROBANGS):
        return False
    used = next((pair for pair in _INTERROBANGS if pair in text), "")
    return set(".,!?;:") <= set(text.replace(used, "", 1))


def words_japanese(text: str, N: Annotated[int, Field(ge=1)]) -> bool:
    every_nth = (word.strip(MARKS) for word in text.split()[N - 1 :: N])
    return all(_JAPANESE.search(word) for word in every_nth if word and not word.isdigit())


def pronouns(text: str, N: Count) -> bool:
    return sum(word in PRONOUNS for word in treebank_words(text.replace("/", " ").lower())) >= N


def keywords_multiple(text: str, keyword1: str, keyword2: str, keyword3: str, keyword4: str, keyword5: str) -> bool:
    wanted = zip((keyword1, keyword2, keyword3, keyword4, keyword5), (1, 2, 3, 5, 7), strict=True)
    return all(text.lower().count(keyword.strip().lower()) == times for keyword, times in wanted)


CHECKERS = by_name(
    "count", word_count_range, unique_word_count, conjunctions, person_names, numbers, punctuation, words_japanese,
    pronouns, keywords_multiple
)  # fmt: skip
REPAIRED = by_name("count", conjunctions_repaired)
