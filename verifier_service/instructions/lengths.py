"""IFEval's length constraints."""

import re

from verifier_service.instructions import sentences
from verifier_service.instructions.tokens import Count, Relation, alphanumeric_words, by_name, compares

_DIVIDER = re.compile(r"\s?\*\*\*\s?")
_FIRST_WORD_ENDS = re.compile(r"[.,?!'\"]")


def number_sentences(text: str, num_sentences: Count, relation: Relation) -> bool:
    return compares(len(sentences.split(text)), relation, num_sentences)


def number_words(text: str, num_words: Count, relation: Relation) -> bool:
    return compares(len(alphanumeric_words(text)), relation, num_words)


def number_paragraphs(text: str, num_paragraphs: Count) -> bool:
    """Paragraphs between `***`; an empty one counts as none at either end and is wrong in between."""
    paragraphs = [part.strip() for part in _DIVIDER.split(text)]
    blank_ends = [part for part in {0, len(paragraphs) - 1} if not paragraphs[part]]
    return all(paragraphs[1:-1]) and len(paragraphs) - len(blank_ends) == num_paragraphs


def nth_paragraph_first_word(text: str, num_paragraphs: Count, nth_paragraph: Count, first_word: str) -> bool:
    """Paragraphs between blank lines; the number asked for counts the blank ones too, the total does not."""
    paragraphs = [part.strip() for part in text.split("\n\n")]
    filled = sum(bool(part) for part in paragraphs)
    if not 0 < nth_paragraph <= filled or not paragraphs[nth_paragraph - 1]:
        return False
    word = paragraphs[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return filled == num_paragraphs and _FIRST_WORD_ENDS.split(word)[0].lower() == first_word.lower()


CHECKERS = by_name("length_constraints", number_sentences, number_words, number_paragraphs, nth_paragraph_first_word)
