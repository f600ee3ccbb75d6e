"""IFBench's instructions about sentences."""

import re
from itertools import pairwise

from verifier_service.instructions import sentences
from verifier_service.instructions.tokens import MARKS, Count, by_name, in_a_row, without_punctuation


def alliteration_increment(text: str) -> bool:
    """Each sentence has more alliterating words than the one before, every run of n counting n."""
    counts = [_alliterating(sentence) for sentence in sentences.split(text)]
    return all(one < other for one, other in pairwise(counts))


def _alliterating(sentence: str) -> int:
    words = [clean for word in sentence.lower().split() if (clean := word.lstrip(MARKS))]
    counted, in_run = 0, False
    for one, other in pairwise(words):
        alike = one[0] == other[0]
        counted += alike + (alike and not in_run)
        in_run = alike
    return counted


def keyword(text: str, word: str, N: Count) -> bool:
    found = sentences.split(text)
    if len(found) < max(N, 1):
        return False
    return re.search(rf"\b{re.escape(word)}\b", found[N - 1], re.IGNORECASE) is not None


def increment(text: str, small_n: Count) -> bool:
    counts = [len(without_punctuation(sentence).split()) for sentence in sentences.split(text)]
    return all(other == one + small_n for one, other in pairwise(counts))


CHECKERS = by_name("sentence", alliteration_increment, keyword, increment)
REPAIRED = by_name("sentence", in_a_row(alliteration_increment), in_a_row(increment))
