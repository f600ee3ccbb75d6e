"""Multiple choice: which option an answer names. A list of letters, or two that conflict, names none."""

import re
import string
from collections.abc import Sequence

from verifier_service.mathematics.notation import canonical

_MARKUP = re.compile(r"\\text ?\{([^{}]*)\}|[*_`\"]|</?[a-z]+>")
_PREFIX = re.compile(r"(?:(?:the )?(?:final |correct )?(?:answer|option|choice)(?: is)?[:\s]*)+", re.IGNORECASE)
_NAMED = re.compile(r"[\[(]?(?P<letter>[A-Za-z])(?:[\])]|(?![A-Za-z0-9_']))(?P<rest>.*)", re.DOTALL)
# From here on an answer explains itself; letters that it names there are not chosen.
_EXPLAINS = re.compile(
    r"\b(?:because|since|as|not|non|nor|can'?t|cannot|can not|isn'?t|doesn'?t|does not"
    r"|which|while|whereas|unlike|but)\b|不",
    re.IGNORECASE,
)
# "A" before a word in lower case is an article, "I" a pronoun.
_OTHER_LETTER = re.compile(r"(?<![\w'.])[\[(]?(?![AI] [a-z])(?P<letter>[A-Z])(?:[\])]|(?![\w'\]]))")


SEVERAL = "several"
"""What is chosen by an answer that names more than one option."""


def letters(num_options: int | None) -> str:
    """The letters of the options, A to J where their number is not known."""
    return string.ascii_uppercase[: num_options or 10]


def chosen(answer: str, options: Sequence[str] | None) -> str | None:
    """The letter an answer chooses: "B", "(B)", "B. Paris", "Paris". `SEVERAL` where it hedges, None where it chooses
    nothing at all."""
    plain = _PREFIX.sub("", _MARKUP.sub(r"\1", canonical(answer)), count=1).strip(" .:,;{}")
    by_text = _option_with(plain, options)
    if by_text is not None:
        return by_text
    named = _NAMED.fullmatch(plain)
    if named is None:
        return None
    known = letters(len(options) if options else None)
    letter = named["letter"].upper()
    rest = named["rest"]
    if letter not in known or (named["letter"].islower() and re.match(r" ?[^\W\d_]", rest)):
        return None
    others = {match["letter"] for match in _OTHER_LETTER.finditer(_EXPLAINS.split(rest, maxsplit=1)[0])}
    if others - {letter} & set(known):
        return SEVERAL
    text = rest.strip(" .:,;)-")
    stated = _option_with(text, options) if text else None
    return letter if stated in (None, letter) else SEVERAL


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
