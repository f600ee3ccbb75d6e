"""IFEval's keywords, start and end, punctuation, and combinations with the prompt."""

from typing import Annotated

from pydantic import Field

from verifier_service.instructions.tokens import Count, Keyword, Relation, by_name, compares, keyword_pattern

Letter = Annotated[str, Field(min_length=1, max_length=1)]


def existence(text: str, keywords: list[Keyword]) -> bool:
    return all(keyword_pattern(keyword).search(text) for keyword in keywords)


def frequency(text: str, keyword: Keyword, frequency: Count, relation: Relation) -> bool:
    return compares(len(keyword_pattern(keyword.strip()).findall(text)), relation, frequency)


def forbidden_words(text: str, forbidden_words: list[Keyword]) -> bool:
    return not any(keyword_pattern(word, r"\b", r"\b").search(text) for word in forbidden_words)


def letter_frequency(text: str, letter: Letter, let_frequency: Count, let_relation: Relation) -> bool:
    """For anything but a to z the official checker draws a letter at random; here the one asked for is counted."""
    return compares(text.lower().count(letter.lower()), let_relation, let_frequency)


def end_checker(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == '"' == text[-1]


def no_comma(text: str) -> bool:
    return "," not in text


def two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    inner = parts[1:-1]
    found = [part for part in parts if part]
    return all(inner) and len(found) == 2 and found[0] != found[1]


def repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


CHECKERS = (
    by_name("keywords", existence, frequency, forbidden_words, letter_frequency)
    | by_name("startend", end_checker, quotation)
    | by_name("punctuation", no_comma)
    | by_name("combination", two_responses, repeat_prompt)
)
