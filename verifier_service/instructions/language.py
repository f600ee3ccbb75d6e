"""Language and letter case. The language is langdetect's best guess with a fixed seed, the same in every process."""

from collections.abc import Mapping
from functools import cache, lru_cache
from threading import Lock

from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory
from langdetect.lang_detect_exception import LangDetectException

from verifier_service.instructions.tokens import Check, Count, Relation, compares, treebank_words

LONGEST_READ = 40_000
"""Characters; langdetect reads 10,000 of what remains when web addresses are taken out."""

_loading = Lock()


@cache
def _profiles() -> DetectorFactory:
    """A factory of our own: langdetect's global one is neither seeded nor safe to fill from two threads."""
    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    factory.set_seed(0)
    return factory


@lru_cache(maxsize=64)
def detected(text: str) -> str | None:
    """The language of `text` ("en", "zh-cn"), None where it has no features (digits and punctuation only)."""
    with _loading:
        detector = _profiles().create()
    detector.append(text[:LONGEST_READ])
    try:
        return str(detector.detect())
    except LangDetectException:
        return None


def response_language(text: str, language: str) -> bool:
    return detected(text) in (language, None)


def response_language_repaired(text: str, language: str) -> bool:
    """Text without a language is in no language; "zh" is met by "zh-cn" and "zh-tw"."""
    found = detected(text)
    return found is not None and found.split("-")[0] == language.split("-")[0]


def english_capital(text: str) -> bool:
    return text.isupper() and detected(text) in ("en", None)


def english_lowercase(text: str) -> bool:
    return text.islower() and detected(text) in ("en", None)


def capital_word_frequency(text: str, capital_frequency: Count, capital_relation: Relation) -> bool:
    return compares(sum(word.isupper() for word in treebank_words(text)), capital_relation, capital_frequency)


CHECKERS: Mapping[str, Check] = {
    "language:response_language": response_language,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "change_case:capital_word_frequency": capital_word_frequency,
}
REPAIRED: Mapping[str, Check] = {"language:response_language": response_language_repaired}
