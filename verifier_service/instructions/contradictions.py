"""Instructions that no text can follow together, as far as ids and arguments tell. For `verifier check`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from verifier_service.instructions import CHECKERS

Given = Sequence[tuple[str, Mapping[str, Any]]]
"""(id, arguments) of each instruction of a prompt."""

_THRESHOLDS: Mapping[str, tuple[str, str, str | None]] = {
    "length_constraints:number_words": ("num_words", "relation", None),
    "length_constraints:number_sentences": ("num_sentences", "relation", None),
    "change_case:capital_word_frequency": ("capital_frequency", "capital_relation", None),
    "keywords:frequency": ("frequency", "relation", "keyword"),
    "keywords:letter_frequency": ("let_frequency", "let_relation", "letter"),
}
"""Of ids that bound a count: its argument, that of its relation, and that of what is counted."""

_CASES = {"change_case:english_capital", "change_case:english_lowercase"}


def contradictions(given: Given) -> Iterator[str]:
    """One line each."""
    ids = {name for name, _ in given}
    if ids >= _CASES:
        yield f"{' and '.join(sorted(_CASES))} exclude each other"
    for name, arguments in given:
        language = arguments.get("language")
        if name == "language:response_language" and language != "en" and ids & _CASES:
            yield f"a response in {language!r} cannot be in English capitals or lower case"
    yield from _bounds(given)
    yield from _texts(given)


def _bounds(given: Given) -> Iterator[str]:
    """Counts that are to be both at least and less than."""
    ranges: dict[tuple[str, str], tuple[int, int | None]] = {}
    for name, arguments in given:
        if name not in _THRESHOLDS:
            continue
        count, relation, counted = _THRESHOLDS[name]
        key = name, str(arguments[counted]).lower() if counted else ""
        least, below = ranges.get(key, (0, None))
        if arguments[relation] == "at least":
            least = max(least, arguments[count])
        else:
            below = min(arguments[count], arguments[count] if below is None else below)
        ranges[key] = least, below
        if below is not None and least >= below:
            yield f"{name}: at least {least} and less than {below}"


def _texts(given: Given) -> Iterator[str]:
    """Words that must occur and must not, by the checkers themselves."""
    needed = [text for name, arguments in given for text in _needed(name, arguments)]
    for name, arguments in given:
        if name in ("keywords:forbidden_words", "punctuation:no_comma"):
            for text in needed:
                if not CHECKERS[name](text, **arguments):
                    yield f"{name} forbids {text!r}, which another instruction needs"


def _needed(name: str, arguments: Mapping[str, Any]) -> list[str]:
    if name == "keywords:existence":
        return list(arguments["keywords"])
    if name == "keywords:frequency" and arguments["relation"] == "at least" and arguments["frequency"] > 0:
        return [arguments["keyword"]]
    fixed = {"startend:end_checker": "end_phrase", "combination:repeat_prompt": "prompt_to_repeat"}
    return [arguments[fixed[name]]] if name in fixed else []
