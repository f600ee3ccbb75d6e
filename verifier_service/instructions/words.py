"""IFBench's instructions about words."""

import re
import string
from collections import Counter
from itertools import pairwise
from typing import Annotated

import syllapy
from pydantic import Field

from verifier_service.instructions import sentences
from verifier_service.instructions.tokens import MARKS, Count, by_name, in_a_row, treebank_words, without_punctuation
from verifier_service.instructions.wordlists import IMPERATIVES, NO_PARTICIPLES

_CLUSTER = re.compile(r"[b-df-hj-np-tv-z]{2}")
_PARTICIPLE = re.compile(r"[a-z]*[aeiouy][a-z]*(?:ing|ed)")
_BLANK_LINES = re.compile(r"\n\s*\n")
_PRIMES = frozenset(n for n in range(2, 98) if all(n % d for d in range(2, n)))
Ordinal = Annotated[int, Field(ge=1)]


def alphabet(text: str) -> bool:
    """Each word starts with the letter after the one before; words that start with no letter fail."""
    letters = [word[0] for word in without_punctuation(text).lower().split()]
    if not letters or letters[0] not in string.ascii_lowercase:
        return False
    first = string.ascii_lowercase.index(letters[0])
    return all(letter == string.ascii_lowercase[(first + i) % 26] for i, letter in enumerate(letters))


def vowel(text: str) -> bool:
    return "\n" not in text.strip() and len(set("aeiou") & set(text.lower())) <= 3


def vowel_repaired(text: str) -> bool:
    """A paragraph may be wrapped; only blank lines end it."""
    return not _BLANK_LINES.search(text.strip()) and len(set("aeiou") & set(text.lower())) <= 3


def consonants(text: str) -> bool:
    return all(_CLUSTER.search(word) for word in text.lower().split())


def palindrome(text: str) -> bool:
    words = without_punctuation(text).lower().split()
    return sum(len(word) >= 5 and word == word[::-1] for word in words) >= 10


def prime_lengths(text: str) -> bool:
    return all(len(word) in _PRIMES for word in without_punctuation(text).split())


def start_verb(text: str) -> bool:
    """The official checker asks NLTK's perceptron tagger, whose weights are a download; here the first word's form
    and a list decide, which agrees with the tagger on 98.6% of first words."""
    first = next(iter(treebank_words(text)), "").lower()
    is_participle = len(first) > 4 and _PARTICIPLE.fullmatch(first) is not None and first not in NO_PARTICIPLES
    return is_participle or first in IMPERATIVES


def repeats(text: str, small_n: Count) -> bool:
    counts = Counter(without_punctuation(text.lower()).split())
    return max(counts.values(), default=0) <= small_n


def odd_even_syllables(text: str) -> bool:
    parities = (syllapy.count(word) % 2 for word in without_punctuation(text).lower().split())
    return all(one != other for one, other in pairwise(parities))


def last_first(text: str) -> bool:
    for one, other in pairwise(sentences.split(text)):
        last, first = one.rstrip(MARKS).split(), other.lstrip(MARKS).split()
        if not last or not first or last[-1].lower() != first[0].lower():
            return False
    return True


def paragraph_last_first(text: str) -> bool:
    lines = (line.strip().lower().strip(MARKS).split() for line in text.split("\n"))
    return all(words[0] == words[-1] for words in lines if words)


def no_consecutive(text: str) -> bool:
    words = without_punctuation(text.lower()).split()
    return all(one[0] != other[0] for one, other in pairwise(words))


def keywords_specific_position(text: str, keyword: str, n: Ordinal, m: Ordinal) -> bool:
    found = sentences.split(text)
    if len(found) < n:
        return False
    words = [word for word in treebank_words(found[n - 1]) if any(character.isalnum() for character in word)]
    return len(words) >= m and words[m - 1].lower() == keyword.strip().lower()


def words_position(text: str, keyword: str) -> bool:
    """Second and second to last token; one final mark of punctuation is no word, marks anywhere else are."""
    words = [word.lower() for word in treebank_words(text)]
    if words and words[-1] in string.punctuation:
        words.pop()
        if len(words) < 2:
            return False
    return len(words) >= 2 and words[1] == words[-2] == keyword.strip().lower()


def words_position_repaired(text: str, keyword: str) -> bool:
    words = [word.lower() for word in treebank_words(text) if any(character.isalnum() for character in word)]
    return len(words) >= 2 and words[1] == words[-2] == keyword.strip().lower()


CHECKERS = by_name(
    "words", alphabet, vowel, consonants, palindrome, prime_lengths, start_verb, repeats, odd_even_syllables,
    last_first, paragraph_last_first, no_consecutive, keywords_specific_position, words_position
)  # fmt: skip
REPAIRED = by_name("words", vowel_repaired, in_a_row(last_first), words_position_repaired)
