"""Multiple choice: which option an answer names. A list of letters, or two that conflict, names none."""

import re
import string
from collections.abc import Sequence

from verifier_service.mathematics.notation import canonical

_SEPARATORS = str.maketrans("和或与及", ",,,,")
_MARKUP = re.compile(r"\\text ?\{([^{}]*)\}|[*_`\"]|</?[a-z]+>")
_PREFIX = re.compile(r"(?:(?:the )?(?:final |correct )?(?:answer|option|choice)(?: is)?[:\s]*)+", re.IGNORECASE)
_NAMED = re.compile(r"[\[(]?(?P<letter>[A-Za-z])(?:[\])]|(?![A-Za-z0-9_']))(?P<rest>.*)", re.DOTALL)
# From here on an answer explains itself; letters that it names there are not chosen.
_EXPLAINS = re.compile(
    r"\b(?:because|since|as|not|non|nor|can'?t|cannot|can not|isn'?t|doesn'?t|does not"
    r"|which|while|whereas|unlike|but)\b|不",
    re.IGNORECASE,
)
# "B, but it could be C"
_SECOND_THOUGHT = re.compile(
    r"\b(?:(?:could|may|might)(?: also)? be|maybe|perhaps|possibly),? (?:option |choice )?\(?(?P<letter>[A-Z])(?![\w'])"
)
# Another letter within three words of the chosen one is a second choice, unless these words set it aside.
_NEXT_LETTER = re.compile(r"\W*(?P<between>(?:[A-Za-z']{2,12}\W+){0,3}?)[\[(]?(?![AI] [a-z])(?P<letter>[A-Z])(?![\w'])")
_SETS_ASIDE = re.compile(
    r"(?:\b(?:because|since|while|whereas|unlike|than|of|nor|non|no|nicht|pas)|(?<!if )\bnot|(?<!well )\bas)\W+$", re.I
)
# "A" before a word in lower case is an article, "I" a pronoun.
_OTHER_LETTER = re.compile(
    r"(?<![\w'.])[\[(]?(?:(?<=and )(?=A)|(?<=or )(?=A)|(?![AI] [a-z]))(?P<letter>[A-Z])(?:[\])]|(?![\w'\]]))"
)


# "B, c" and "(b) (c)": nothing but letters. "C) g" is a letter and its option's text.
_ONLY_LETTERS = re.compile(r"(?:\s*(?:[,;/&|+]|\b(?:and|or)\b)\s*\(?[A-Za-z]\)?|\s*\([A-Za-z]\))+\W*")

SEVERAL = "several"
"""What is chosen by an answer that names more than one option."""


def letters(num_options: int | None) -> str:
    """The letters of the options, A to J where their number is not known."""
    return string.ascii_uppercase[: num_options or 10]


def chosen(answer: str, options: Sequence[str] | None) -> str | None:
    """The letter an answer chooses: "B", "(B)", "B. Paris", "Paris". `SEVERAL` where it hedges, None where it chooses
    nothing at all."""
    plain = _PREFIX.sub("", _MARKUP.sub(r"\1", canonical(answer)), count=1).translate(_SEPARATORS).strip(" .:,;{}")
    by_text = _option_with(plain, options)
    if by_text is not None:
        return by_text
    named = _NAMED.fullmatch(plain)
    if named is None:
        return None
    known = letters(len(options) if options else None)
    letter = named["letter"].upper()
    rest = named["rest"]
    bare = plain[named.end("letter") :][:1] not in ("", ")", "]")
    if letter not in known or (bare and named["letter"].islower() and re.match(r" ?[^\W\d_]", rest)):
        return None
    said = _EXPLAINS.split(rest, maxsplit=1)[0]
    others = {match["letter"] for match in (*_OTHER_LETTER.finditer(said), *_SECOND_THOUGHT.finditer(rest))}
    if _ONLY_LETTERS.fullmatch(said):
        others |= {letter.upper() for letter in re.findall(r"\b[A-Za-z]\b", said)}
    following = _NEXT_LETTER.match(rest)
    if following and not _SETS_ASIDE.search(following["between"]):
        others.add(following["letter"])
    others |= _options_named(said, options) if options else set()
    return SEVERAL if others & set(known) - {letter} else letter


def _options_named(text: str, options: Sequence[str]) -> set[str]:
    """The letters of the options whose whole text stands in `text`, none of them inside another that does."""
    words = f" {_in_words(text)} "
    found = {letter: f" {_in_words(option)} " for letter, option in zip(string.ascii_uppercase, options, strict=False)}
    named = {letter: option for letter, option in found.items() if option.strip() and option in words}
    return {a for a, one in named.items() if not any(one in other and one != other for other in named.values())}


def _in_words(text: str) -> str:
    return " ".join(re.findall(r"\w+|[^\w\s]", _MARKUP.sub(r"\1", canonical(text)).casefold()))


def _option_with(text: str, options: Sequence[str] | None) -> str | None:
    """The letter of the only option with this very text."""
    wanted = folded(text)
    found = [
        letter
        for letter, option in zip(string.ascii_uppercase, options or (), strict=False)
        if folded(option) == wanted
    ]
    return found[0] if len(found) == 1 and wanted else None


def folded(text: str) -> str:
    return re.sub(r"[\s{}$]+", "", _MARKUP.sub(r"\1", canonical(text))).strip(".,;:").casefold()
