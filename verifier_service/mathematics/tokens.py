"""Answers in LaTeX or plain notation, cut into tokens."""

import re
from dataclasses import dataclass


class Unreadable(Exception):
    """The text is outside the grammar; another judge may still read it."""


class TooComplex(Unreadable):
    """The text is longer or deeper than any answer."""


FUNCTIONS = frozenset(
    "sin cos tan cot sec csc sinh cosh tanh coth arcsin arccos arctan arccot asin acos atan ln log lg exp sqrt abs"
    " floor ceil arcsinh arccosh arctanh max min sgn cbrt".split()
)
CONSTANTS = {"pi": "pi", "infty": "inf", "infinity": "inf", "inf": "inf", "oo": "inf"}
_SPLITTERS = frozenset({"and", "or", r"\wedge", r"\vee"})
_PATTERN = re.compile(
    r" *(?:(?P<text>\\text ?\{(?P<inside>[^{}]*)\})|(?P<command>\\[A-Za-z]+|\\[{}|\\])"
    r"|(?P<number>(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{1,3}(?![\w.]))?)|(?P<word>[A-Za-z]+)"
    r"|(?P<mark>\*\*|<=|>=|!=|[=:]=|[-+*/^_()\[\]{}|,;:=<>!'%&\"]))"
)


@dataclass(frozen=True, slots=True)
class Token:
    """kind: number, symbol, const, function, mark (operators, brackets, commands) or end."""

    kind: str
    text: str


def tokens(text: str, *, thousands: bool) -> list[Token]:
    """The tokens of a text in canonical notation. Raises `Unreadable` for what is no mathematics.

    thousands: "1,234" is one number, not two
    """
    if thousands:
        text = re.sub(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])", lambda match: match.group().replace(",", ""), text)
    found: list[Token] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _PATTERN.match(text, position)
        if match is None:
            raise Unreadable(f"character {text[position]!r}")
        position = match.end()
        if match["text"] is not None:
            found += _text_tokens(match["inside"])
        elif match["word"] is not None:
            found += _word_tokens(match["word"])
        else:
            kind = "number" if match["number"] else "mark"
            token = match["command"] or match["number"] or match["mark"]
            found.append(Token(kind, "=" if token in ("==", ":=") else token))
    return found


_KNOWN = {name: Token("function", name) for name in FUNCTIONS}
_KNOWN |= {name: Token("const", constant) for name, constant in CONSTANTS.items()}
_KNOWN |= {name: Token("mark", name) for name in _SPLITTERS} | {"mod": Token("mark", r"\mod")}
_PREFIXES = ("sqrt", "sin", "cos", "tan", "ln", "log", "exp")
"""Functions that may be written close to what they are of: "sinx"."""


def _text_tokens(inside: str) -> list[Token]:
    content = inside.strip(" ,.")
    if content.lower() in _SPLITTERS:
        return [_KNOWN[content.lower()]]
    if content in _KNOWN or (len(content) == 1 and content.isalpha()):
        return _word_tokens(content)
    if inside.strip() in (":", ","):
        return [Token("mark", inside.strip())]
    if not content:
        return []
    if re.fullmatch(r"[\d.]+", content):
        return [Token("number", content.rstrip("."))]
    raise Unreadable("text in mathematics")


def _word_tokens(word: str) -> list[Token]:
    found: list[Token] = []
    while word not in _KNOWN and (prefix := next((name for name in _PREFIXES if word.startswith(name)), "")):
        found.append(_KNOWN[prefix])
        word = word[len(prefix) :]
    if word in _KNOWN:
        return [*found, _KNOWN[word]]
    if word.endswith("pi") and len(word) == 3:
        return [*found, *_word_tokens(word[0]), _KNOWN["pi"]]
    return [*found, *(Token("symbol", letter) for letter in word)]
