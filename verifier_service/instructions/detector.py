"""langdetect with a fixed seed, read five times as fast: the same n-grams in the same order, so the same answer.

langdetect takes a text apart character by character. Here each character is normalised by a table and each word is
taken apart once; what the library does with the n-grams (Bayes over its profiles, seeded trials) is left to it.
"""

import re
from functools import cache, lru_cache
from threading import Lock

from langdetect.detector import Detector
from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory
from langdetect.lang_detect_exception import LangDetectException
from langdetect.utils.ngram import NGram

LONGEST_READ = 40_000
"""Characters; langdetect reads 10,000 of what remains when web addresses are taken out."""

_SPACES = re.compile(" {2,}")
_LATIN = re.compile("[A-z]+")
_NOT_LATIN = re.compile("[\u0300-\u1dff\u1f00-\U0010ffff]+")
_loading = Lock()


@lru_cache(maxsize=64)
def detected(text: str) -> str | None:
    """The language of `text` ("en", "zh-cn"), None where it has no features (digits and punctuation only)."""
    detector = _Detector(_profiles())
    detector.append(text[:LONGEST_READ])
    try:
        return str(detector.detect())
    except LangDetectException:
        return None


def _profiles() -> DetectorFactory:
    with _loading:  # two threads may ask first
        return _loaded()


@cache
def _loaded() -> DetectorFactory:
    """A factory of our own: langdetect's global one is not seeded."""
    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    factory.set_seed(0)
    return factory


class _Normalised(dict[int, str]):
    """NGram.normalize as a table for `str.translate`, filled as characters come."""

    def __missing__(self, code: int) -> str:
        self[code] = str(NGram.normalize(chr(code)))
        return self[code]


_NORMALISED = _Normalised()


class _Detector(Detector):  # type: ignore[misc]  # langdetect has no types
    def append(self, text: str) -> None:
        if "://" in text:
            text = self.URL_RE.sub(" ", text)
        if "@" in text:  # the pattern looks 64 characters ahead from each one
            text = self.MAIL_RE.sub(" ", text)
        if not text.isascii():
            text = NGram.normalize_vi(text)
        self.text = _SPACES.sub(" ", text[: self.max_text_length])

    def cleaning_text(self) -> None:
        without_latin = _LATIN.sub("", self.text)
        num_latin = len(self.text) - len(without_latin)
        if 2 * num_latin < len(self.text) - len(_NOT_LATIN.sub("", self.text)):
            self.text = without_latin

    def _extract_ngrams(self) -> list[str]:
        *words, last = self.text.translate(_NORMALISED).split(" ")
        known = self.word_lang_prob_map
        grams = [gram for word in words if word for gram in _grams(word + " ")]
        return [gram for gram in (*grams, *_grams(last)) if gram in known]

    def _update_lang_prob(self, prob: list[float], word: str, alpha: float) -> bool:
        weight = alpha / self.BASE_FREQ
        prob[:] = [p * (weight + q) for p, q in zip(prob, self.word_lang_prob_map[word], strict=True)]
        return True

    def _normalize_prob(self, prob: list[float]) -> float:
        total = sum(prob)
        prob[:] = [p / total for p in prob]
        return max(prob)


@lru_cache(maxsize=16_384)
def _grams(word: str) -> tuple[str, ...]:
    """The n-grams of one to three characters that end at each character, the space in front of the word included.

    Inside a run of capitals there are none.
    """
    grams: list[str] = []
    spaced = " " + word
    for end in range(2, len(spaced) + 1):
        if not (spaced[end - 1].isupper() and spaced[end - 2].isupper()):
            grams += [spaced[start:end] for start in range(end - 1, max(end - 4, -1), -1)]
    return tuple(gram for gram in grams if gram != " ")
