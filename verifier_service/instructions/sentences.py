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
_TOKEN = re.compile(rf"-{{2,}}|\.{{2,}}|(?![\"`&#,\-(){{}}\[\]:;*@])\S(?:(?!--|\.\.)[^\s{_OUTSIDE}])*|\S")
_MARK_IN_WORD = re.compile(rf"[.?!](?=[{_OUTSIDE}]|$)")
_CLOSING = re.compile(r"\s*(?P<marks>[\"')\]}‘’“”«»]+)(?=\s|--|$)")
_NUMBER = re.compile(r"-?[.,]?\d[\d,.-]*")
_WORD = re.compile(r"\S+")


@lru_cache(maxsize=64)
def split(text: str) -> tuple[str, ...]:
    """The sentences of `text`, in order, without the white space around them. Linear time."""
    breaks: list[int] = []
    words = list(_WORD.finditer(text))
    for word, following in zip(words, [*words[1:], None], strict=True):
        end = _break_in(word.group(), following.group() if following else None)
        if end is not None:
            breaks.append(word.start() + end)
    starts, sentences = [0], []
    for position in breaks:
        closing = _CLOSING.match(text, position)
        starts.append(closing.end("marks") if closing else position)
    for start, stop in zip(starts, [*starts[1:], len(text)], strict=True):
        sentences.append(text[start:stop].strip() if start else text[:stop].rstrip())
    return tuple(sentence for sentence in sentences if sentence)


def _break_in(word: str, following: str | None) -> int | None:
    """Where in `word` a sentence ends, None if none does; of several marks in one word the last is the place."""
    marks = [mark.end() for mark in _MARK_IN_WORD.finditer(word)]
    if marks and marks[-1] == len(word) and following is None:
        marks.pop()
    if not marks:
        return None
    tokens = _TOKEN.findall(word[: marks[-1]])
    after = word[marks[-1]] if marks[-1] < len(word) else _TOKEN.findall(following or "")[0]
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
