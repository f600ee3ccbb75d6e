"""Language and letter case."""

from verifier_service.instructions.detector import detected
from verifier_service.instructions.tokens import Count, Relation, by_name, compares, treebank_words


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


CHECKERS = by_name("language", response_language) | by_name(
    "change_case", english_capital, english_lowercase, capital_word_frequency
)
REPAIRED = by_name("language", response_language_repaired)
