"""langdetect with a fixed seed, seven times as fast: the same n-grams and draws in the same order, so the same answer.

langdetect takes a text apart character by character and multiplies probabilities one by one. Here characters are
normalised by a table, each word is taken apart once, and five n-grams at a time (langdetect looks at the result no more
often) are multiplied over all languages at once, in langdetect's order.
"""

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import chain
from random import Random
from threading import Lock

import numpy as np
from langdetect.detector import Detector
from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory
from langdetect.utils.ngram import NGram
from numpy.typing import NDArray

SEED = 0
LONGEST_READ = 40_000
"""Characters; langdetect reads 10,000 of what remains when web addresses are taken out."""
_MOST_CHARACTERS = 10_000
_NUM_TRIALS = 7
_READ_AT_ONCE = 5
"""n-grams between two looks at the probabilities."""

_SPACES = re.compile(" {2,}")
_LATIN = re.compile("[A-z]+")
_NOT_LATIN = re.compile("[\u0300-\U0010ffff]+")
"""With the Vietnamese letters from U+1E00: langdetect means to spare them, but compares a number with a name."""
_loading = Lock()


@dataclass(frozen=True, slots=True)
class _Profiles:
    languages: tuple[str, ...]
    """55 of them: "af", "ar", ..."""
    rows: dict[str, int]
    """n-gram -> its row; 87,598 of them."""
    table: NDArray[np.float64]
    """[n-grams, languages]: how likely a language's next n-gram is this one."""


@lru_cache(maxsize=64)
def detected(text: str) -> str | None:
    """The language of `text` ("en", "zh-cn"), None where it has no features (digits and punctuation only)."""
    with _loading:  # two threads may ask first
        profiles = _profiles()
    grams = n_grams(prepared(text[:LONGEST_READ]))
    if not grams:
        return None
    draw = Random(SEED)
    sums = np.zeros(len(profiles.languages))
    for _ in range(_NUM_TRIALS):
        sums += _trial(grams, draw, profiles) / _NUM_TRIALS
    best = int(np.argmax(sums))
    return profiles.languages[best] if sums[best] > Detector.PROB_THRESHOLD else str(Detector.UNKNOWN_LANG)


def prepared(text: str) -> str:
    """What langdetect reads of a text: no addresses, spaces once, no Latin letters where they are the minority."""
    if "://" in text:
        text = Detector.URL_RE.sub(" ", text)
    if "@" in text:  # the pattern looks 64 characters ahead from each one
        text = Detector.MAIL_RE.sub(" ", text)
    if text.isascii():
        return _SPACES.sub(" ", text[:_MOST_CHARACTERS])
    text = _SPACES.sub(" ", NGram.normalize_vi(text)[:_MOST_CHARACTERS])
    without_latin = _LATIN.sub("", text)
    if 2 * (len(text) - len(without_latin)) < len(text) - len(_NOT_LATIN.sub("", text)):
        return without_latin
    return text


def n_grams(text: str) -> list[int]:
    """The rows of all n-grams of a prepared text that the profiles know, in the order of the text."""
    *words, last = text.translate(_NORMALISED).split(" ")
    return list(chain.from_iterable(map(_grams, [word + " " for word in words if word] + [last])))


def _trial(grams: list[int], draw: Random, profiles: _Profiles) -> NDArray[np.float64]:
    """[languages]: their probabilities after as many random n-grams as one language needs to stand out."""
    weight = (Detector.ALPHA_DEFAULT + draw.gauss(0.0, 1.0) * Detector.ALPHA_WIDTH) / Detector.BASE_FREQ
    factors = np.empty((1 + _READ_AT_ONCE, len(profiles.languages)))
    probabilities: NDArray[np.float64] = factors[0]
    probabilities[:] = 1.0 / len(profiles.languages)
    count, last = 1, 0  # the first look comes after one n-gram
    while True:
        chosen = [draw.choice(grams) for _ in range(count)]
        np.add(profiles.table[chosen], weight, out=factors[1 : 1 + count])
        np.multiply.reduce(factors[: 1 + count], axis=0, out=probabilities)
        listed = probabilities.tolist()
        total = sum(listed)  # in order, as langdetect adds; NumPy adds in pairs
        probabilities /= total
        if max(listed) / total > Detector.CONV_THRESHOLD or last >= Detector.ITERATION_LIMIT:
            return probabilities
        count = _READ_AT_ONCE
        last += count


@cache
def _profiles() -> _Profiles:
    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    by_gram = factory.word_lang_prob_map
    rows = {gram: row for row, gram in enumerate(by_gram)}
    return _Profiles(tuple(factory.langlist), rows, np.array(list(by_gram.values())))


class _Normalised(dict[int, str]):
    """NGram.normalize as a table for `str.translate`, filled as characters come."""

    def __missing__(self, code: int) -> str:
        self[code] = str(NGram.normalize(chr(code)))
        return self[code]


_NORMALISED = _Normalised()


@lru_cache(maxsize=16_384)
def _grams(word: str) -> tuple[int, ...]:
    """The rows of the n-grams of one to three characters that end at each character, the space in front included.

    Inside a run of capitals there are none.
    """
    rows = _profiles().rows
    spaced = " " + word
    grams: list[str] = []
    for end in range(2, len(spaced) + 1):
        if not (spaced[end - 1].isupper() and spaced[end - 2].isupper()):
            grams += (spaced[end - 1], spaced[end - 2 : end])
            if end > 2:
                grams.append(spaced[end - 3 : end])
    return tuple([rows[gram] for gram in grams if gram in rows])
