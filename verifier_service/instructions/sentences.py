"""One sentence splitter for every instruction, without training data: Punkt's decisions from short lists of our own.

The official checkers split with NLTK's English Punkt model, which must be downloaded. Punkt ends a sentence at `?`, `!`
and at every period but those of abbreviations, initials and numbers in front of lower case (Kiss and Strunk 2006,
"Unsupervised Multilingual Sentence Boundary Detection"). Those decisions are made here; what the model learned from its
corpus (which words are abbreviations, which capitalised words start a sentence) is replaced by the short lists
of `wordlists`.
"""

import re
from functools import lru_cache

from syllapy import WORD_DICT

from verifier_service.instructions.wordlists import ABBREVIATIONS, CAPITALISED_ANYWHERE, KEPT_WITH_NUMBER, STARTERS

# Punkt's word pattern: a word ends before these, before `--` and before `..`, and does not start with some.
_OUTSIDE = r")\";}\]*:@'({\[‘’“”«»?!"
_TOKEN_PATTERN = rf"-{{2,}}|\.{{2,}}|(?![\"`&#,\-(){{}}\[\]:;*@])\S(?:(?!--|\.\.)[^\s{_OUTSIDE}])*|\S"
_TOKEN = re.compile(_TOKEN_PATTERN)
_NEXT_TOKEN = re.compile(rf"\s+(?P<token>{_TOKEN_PATTERN})")
_FROM_MARK = re.compile(r"[.?!]\S*")
_MARK_IN_WORD = re.compile(rf"[.?!](?=[{_OUTSIDE}]|$)")
_CLOSING = re.compile(r"\s*(?P<marks>[\"')\]}‘’“”«»]+)(?=\s|--|$)")
_NUMBER = re.compile(r"-?[.,]?\d[\d,.-]*")


@lru_cache(maxsize=64)
def split(text: str) -> tuple[str, ...]:
    """The sentences of `text`, in order, without the white space behind them. Linear time."""
    starts, ends = [0], []
    for marked in _FROM_MARK.finditer(text):
        start = _word_start(text, marked.start())
        end = _break_in(text, start, marked.end())
        alone = start + 1 if start == marked.start() and _MARK_IN_WORD.match(text, start, marked.end()) else None
        for position in sorted(
            {found for found in (alone, end) if found is not None}
        ):  # a mark that starts a word ends a sentence by itself
            closing = _CLOSING.match(text, position)
            ends.append(closing.end("marks") if closing else position)
            starts.append(ends[-1])
    ends.append(len(text))
    # The first one keeps the white space in front of it, as Punkt's first does.
    found = (text[start:end].strip() if start else text[:end].rstrip() for start, end in zip(starts, ends, strict=True))
    return tuple(sentence for sentence in found if sentence)


def _word_start(text: str, position: int) -> int:
    while position > 0 and not text[position - 1].isspace():
        position -= 1
    return position


def _break_in(text: str, start: int, stop: int) -> int | None:
    """Where in the word `text[start:stop]` a sentence ends, if one does; of several marks the last is the place."""
    marks = [mark.end() for mark in _MARK_IN_WORD.finditer(text, start, stop)]
    following = _NEXT_TOKEN.match(text, stop)
    if marks and marks[-1] == stop and following is None:
        marks.pop()
    if not marks:
        return None
    tokens = _TOKEN.findall(text, start, marks[-1])
    after = text[marks[-1]] if marks[-1] < stop else following["token"] if following else ""
    pairs = zip(tokens, [*tokens[1:], after], strict=True)
    return marks[-1] if any(_ends_sentence(token, then) for token, then in pairs) else None


def _ends_sentence(token: str, then: str) -> bool:
    """Whether a sentence ends after `token`, given the token that follows: Punkt's two passes in one."""
    if token in (".", "?", "!"):
        return True
    if not token.endswith("."):
        return False
    bare, upper = token[:-1].lower(), then[0].isupper()
    word = then.lower().rstrip(".,")
    common = word in STARTERS or (word in WORD_DICT and word not in CAPITALISED_ANYWHERE)
    if token.endswith(".."):
        return upper and common
    known = bare in ABBREVIATIONS or bare.rpartition("-")[2] in ABBREVIATIONS
    if len(bare) == 1 and bare.isalpha():
        return not known and not then[0].islower() and (not upper or common or word in WORD_DICT)
    if known:
        return upper and word in STARTERS
    if _NUMBER.fullmatch(bare):
        return not then[0].islower() and word not in KEPT_WITH_NUMBER
    return True
