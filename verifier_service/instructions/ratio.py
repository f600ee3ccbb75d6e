"""IFBench's ratios."""

from collections import Counter
from typing import Annotated

from pydantic import Field

from verifier_service.instructions import sentences
from verifier_service.instructions.tokens import alphanumeric_words, by_name
from verifier_service.instructions.wordlists import STOP_WORDS

Percentage = Annotated[float, Field(ge=0)]
_CLOSING = "\"')]}»”’*_ "


def stop_words(text: str, percentage: Percentage) -> bool:
    words = alphanumeric_words(text)
    return bool(words) and sum(word.lower() in STOP_WORDS for word in words) / len(words) * 100 <= percentage


def _endings(text: str, ignored: str = "") -> Counter[str]:
    """How many sentences end in each mark."""
    return Counter(sentence.rstrip(ignored)[-1:] for sentence in sentences.split(text))


def sentence_type(text: str) -> bool:
    ends = _endings(text)
    return ends["."] == 2 * ends["?"]


def sentence_type_repaired(text: str) -> bool:
    """A closing quote hides no mark, and a ratio needs a question."""
    ends = _endings(text, _CLOSING)
    return ends["."] == 2 * ends["?"] > 0


def sentence_balance(text: str) -> bool:
    ends = _endings(text)
    return ends["."] == ends["?"] == ends["!"]


def sentence_balance_repaired(text: str) -> bool:
    ends = _endings(text, _CLOSING)
    return ends["."] == ends["?"] == ends["!"] > 0


def overlap(text: str, reference_text: str, percentage: Percentage) -> bool:
    """Trigrams of characters, as the official checker counts them."""
    found, wanted = _trigrams(text), _trigrams(reference_text)
    return bool(found) and percentage - 2 <= len(found & wanted) / len(found) * 100 <= percentage + 2


def _trigrams(text: str) -> set[str]:
    return {text[start : start + 3] for start in range(len(text) - 2)}


def sentence_words(text: str) -> bool:
    """Three sentences of as many characters each; nothing looks at their words."""
    found = sentences.split(text)
    return len(found) == 3 and len({len(sentence.strip()) for sentence in found}) == 1


CHECKERS = by_name("ratio", stop_words, sentence_type, sentence_balance, overlap, sentence_words)
REPAIRED = by_name("ratio", sentence_type_repaired, sentence_balance_repaired)
