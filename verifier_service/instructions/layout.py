"""IFBench's formats."""

import re
from collections import defaultdict, deque
from itertools import pairwise
from typing import Annotated

import emoji
from pydantic import Field

from verifier_service.instructions import sentences
from verifier_service.instructions.tokens import MARKS, by_name, treebank_words, without_punctuation

_OPENING = {")": "(", "]": "[", "}": "{"}
_LETTERED_OPTIONS = re.compile(r"\W*[aA]\W*[bB]\W*[cC]\W*")
_TRIMMED_OF_QUOTE_CONTEXT = "0123456789" + MARKS.replace('"', "").rstrip()


def parentheses(text: str) -> bool:
    """Five brackets open at once and one of them closed rightly; a wrong closing one starts anew."""
    opened: list[str] = []
    deepest = 0
    for character in text:
        if character in "([{":
            opened.append(character)
            deepest = max(deepest, len(opened))
        elif character in _OPENING:
            if not opened or opened.pop() != _OPENING[character]:
                opened, deepest = [], 0
            elif deepest >= 5:
                return True
    return False


def quotes(text: str) -> bool:
    """A quote closes the one opened last if it is the same, else opens; three levels must open and close again."""
    opened: list[str] = []
    deepest = 0
    for character in text:
        if opened and character == opened[-1]:
            opened.pop()
            if deepest - len(opened) >= 3:
                return True
        elif character in "\"'":
            opened.append(character)
            deepest = max(deepest, len(opened))
    return False


def options(text: str, options: Annotated[str, Field(min_length=1)]) -> bool:
    """Lettered options must be given exactly; others without regard to case and marks around them."""
    separator = "/" if "/" in options else "or" if "or" in options else ","
    listed = [option.strip() for option in options.split(separator)]
    if _LETTERED_OPTIONS.match(options):
        return text in listed
    return text.strip(MARKS).lower() in [option.strip(MARKS).lower() for option in listed]


def newline(text: str) -> bool:
    text = without_punctuation(text).strip()
    return sum(line != "" for line in text.split("\n")) == len(text.split())


def emoji_at_end(text: str) -> bool:
    """The last character of a sentence, the one before it, or the first of the next sentence is an emoji."""
    stripped = [without_punctuation(sentence).strip() for sentence in sentences.split(text)]
    for sentence, following in zip(stripped, [*stripped[1:], ""], strict=False):
        if not sentence:
            return False
        if not any(emoji.is_emoji(character) for character in sentence[-2:]) and not emoji.is_emoji(following[:1]):
            return False
    return True


def line_indent(text: str) -> bool:
    return _stairs(_without_every_other_blank(text.split("\n")))


def line_indent_repaired(text: str) -> bool:
    lines = [line for line in text.split("\n") if line.strip()]
    return len(lines) > 1 and _stairs(lines)


def _stairs(lines: list[str]) -> bool:
    indents = [len(line) - len(line.lstrip(" ")) for line in lines]
    return all(one < other for one, other in pairwise(indents))


def _without_every_other_blank(lines: list[str]) -> list[str]:
    """What is left when blank lines are taken out of a list while it is walked, as the official checker does.

    Taking one out makes the walk skip the line behind it, and what is taken is the first line equal to it.
    """
    skipped: defaultdict[str, deque[int]] = defaultdict(deque)  # blank lines that the walk left behind, by content
    removed = set()
    position = 0
    while position < len(lines):
        line = lines[position]
        if line.strip():
            position += 1
            continue
        skipped[line].append(position)
        removed.add(skipped[line].popleft())
        behind = position + 1
        if behind < len(lines) and not lines[behind].strip():
            skipped[lines[behind]].append(behind)
        position += 2
    return [line for position, line in enumerate(lines) if position not in removed]


def quote_unquote(text: str) -> bool:
    """No two quotes side by side, and no quote at the end."""
    text = "".join(text.replace("'\"'", "").split())
    return '""' not in text and not text.strip(_TRIMMED_OF_QUOTE_CONTEXT).endswith('"')


def quote_unquote_repaired(text: str) -> bool:
    return text.count('"') > 1 and quote_unquote(text)


def listed(text: str, sep: str) -> bool:
    return text.count(sep) >= 2


def thesis(text: str) -> bool:
    """Something in `<i>` or `<em>`, and something behind it."""
    start = text.find("<i>")
    start = start if start >= 0 else text.find("<em>")
    if start < 0:
        return False
    text = text[start:]
    end = text.find("</i>")
    end = end if end >= 0 else text.find("</em>")
    return end >= 0 and bool(text[3:end].strip()) and bool(text[end + 4 :].strip())


def sub_bullets(text: str) -> bool:
    return all("-" in bullet for bullet in text.split("*")[1:])


def sub_bullets_repaired(text: str) -> bool:
    return "*" in text and sub_bullets(text)


def no_bullets_bullets(text: str) -> bool:
    """Two sentences, then nothing but two bullets or more; a blank line ends the sentences too."""
    num_sentences = num_bullets = 0
    in_sentences = True
    for line in (line.strip() for line in text.split("\n")):
        if line.startswith("*"):
            in_sentences = False
            num_bullets += 1
            if num_sentences < 2:
                return False
        elif not in_sentences:
            return False
        else:
            num_sentences += len(sentences.split(line))
            in_sentences = bool(line)
    return num_bullets >= 2


def title_case(text: str) -> bool:
    """No word starts in lower case; mixed case behind a lower-case letter passes ("iPhone")."""
    for word in treebank_words(text):
        tail = word[1:]
        if word[0].isalpha() and word[0].islower() and (not tail or tail.isupper() or tail.islower()):
            return False
    return True


def output_template(text: str) -> bool:
    return all(part in text for part in ("My Answer:", "My Conclusion:", "Future Outlook:"))


def no_whitespace(text: str) -> bool:
    return not any(character.isspace() for character in text)


CHECKERS = (
    by_name("format",
        parentheses, quotes, options, newline, line_indent, quote_unquote, thesis, no_bullets_bullets, title_case,
        output_template, no_whitespace
    )
    | {"format:emoji": emoji_at_end, "format:list": listed, "format:sub-bullets": sub_bullets}
)  # fmt: skip
REPAIRED = by_name("format", line_indent_repaired, quote_unquote_repaired) | {
    "format:sub-bullets": sub_bullets_repaired
}
