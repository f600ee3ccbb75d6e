"""The only place where an answer is taken out of a completion. Pure, linear time, never raises.

    after_thinking -> last_boxed | answer_tag | code_block | stated_answer

Every scan walks the text once, with `str.find` or with patterns that cannot backtrack across it, so that a megabyte of
nested braces, unclosed tags or fences costs milliseconds.
"""

import re
from collections import deque
from typing import NamedTuple

from verifier_service.mathematics.notation import canonical
from verifier_service.mathematics.number import parse_number
from verifier_service.schemas import Thinking

THINK_END = "</think>"


def after_thinking(completion: str, thinking: Thinking) -> str | None:
    """The part of a completion that is judged; None where `thinking` is `require` and the thinking never ended."""
    if thinking == "keep":
        return completion
    _head, found, tail = completion.rpartition(THINK_END)
    if found:
        return tail
    return None if thinking == "require" else completion


class Box(NamedTuple):
    """A complete `\\boxed{...}`: `text[start:end]` is all of it, `content` what it holds."""

    start: int
    end: int
    content: str


# Box openers and braces; `\\`, `\{` and `\}` are one token each that neither opens nor closes.
_BRACES = re.compile(
    r"\\(?:boxed|fbox)(?![a-zA-Z])(?:\s{0,4}(?P<open>\{)|(?P<bare>\s{1,4}[^\s${}\\]{1,64}))?|\\[\\{}]|[{}]"
)


def boxes(text: str) -> list[Box]:
    """All complete outermost boxes, in order; `\\boxed 7` without braces holds the next word.

    A brace that stays open inside a box leaves that box open, and an open box is no answer.
    """
    opened: list[tuple[int, int] | None] = []  # one an open brace: (start, content start) of a box, else None
    closed: list[tuple[int, int, int, int]] = []  # start, end, content start, content end
    for match in _BRACES.finditer(text):
        token = match.group()
        if match["open"]:
            opened.append((match.start(), match.end()))
        elif match["bare"]:
            closed.append((match.start(), match.end(), match.start("bare"), match.end()))
        elif token == "{":
            opened.append(None)
        elif token == "}" and opened:
            box = opened.pop()
            if box is not None:
                while closed and closed[-1][0] > box[0]:
                    closed.pop()  # it lies inside this one
                closed.append((box[0], match.end(), box[1], match.start()))
    return [Box(start, end, text[first:last].strip()) for start, end, first, last in closed]


def last_boxed(text: str) -> str | None:
    """The content of the last complete `\\boxed{}`, None where there is none."""
    found = boxes(text)
    return found[-1].content if found else None


def answer_tag(text: str) -> str | None:
    """What the last `<answer>...</answer>` pair holds, exactly as Reasoning Gym's `extract_answer` pairs the tags."""
    start_tag, end_tag = "<answer>", "</answer>"
    content: str | None = None
    position = 0
    while (start := text.find(start_tag, position)) >= 0:
        start += len(start_tag)
        end = text.find(end_tag, start)
        if end < 0:
            break
        content = text[start:end]
        position = end + len(end_tag)
    return None if content is None else content.strip()


class CodeBlock(NamedTuple):
    """A complete fenced block: `tag` is the first word behind the opening fence, lower case, maybe empty."""

    tag: str
    source: str


# An opening fence may follow prose on its line; a closing one stands alone on its own (a chat template's end token
# may follow it).
_OPENING = re.compile(r"(?P<fence>`{3,}|~{3,})[ \t]*(?P<tag>[\w+#.-]{0,32})[^`\n]{0,100}$")
_FENCE_LINE = re.compile(r" {0,3}(?P<fence>`{3,}|~{3,})[ \t]*(?P<rest>.*)$")


def code_blocks(text: str) -> list[CodeBlock]:
    """All complete fenced blocks, in order. A block whose fence is still open at the end of the text is none.

    Fences as in CommonMark (closed by at least as many of the same character, alone on a line indented by less than
    four); beyond it, a fence with a language tag in column 0 starts a new block even where one is still open, because
    that is how a model starts over.
    """
    found: list[CodeBlock] = []
    fence, tag, indent = "", "", 0
    body: list[str] = []
    for line in text.split("\n"):
        if not fence:
            opening = _last_fence(line)
            if opening:
                fence, tag, body = opening["fence"], opening["tag"].lower(), []
                indent = opening.start() if line[: opening.start()].isspace() else 0
            continue
        dedented = line[min(indent, len(line) - len(line.lstrip(" "))) :]
        mark = _FENCE_LINE.match(dedented)
        if mark is None or mark["fence"][0] != fence[0] or len(mark["fence"]) < len(fence):
            body.append(dedented)
        elif not mark["rest"].strip() or mark["rest"].startswith("<|"):
            found.append(CodeBlock(tag, "\n".join(body)))
            fence = ""
        elif dedented[0] == fence[0] and re.fullmatch(r"[A-Za-z][\w+#]{0,15}\s*", mark["rest"]):
            fence, tag, body = mark["fence"], mark["rest"].strip().lower(), []
        else:
            body.append(dedented)
    return found


def _last_fence(line: str) -> re.Match[str] | None:
    start = max(line.rfind("```"), line.rfind("~~~"))
    if start < 0:
        return None
    while start > 0 and line[start - 1] == line[start]:
        start -= 1
    return _OPENING.match(line, start)


LANGUAGE_TAGS = {
    "python": "python py python3 py3 pypy pypy3",
    "c": "c c99 c11 c17",
    "cpp": "cpp c++ cc cxx c++11 c++14 c++17 c++20 c++23 cpp17 cpp20",
    "java": "java",
    "javascript": "javascript js node nodejs",
    "typescript": "typescript ts",
    "go": "go golang",
    "rust": "rust rs",
    "bash": "bash sh shell zsh console",
    "ruby": "ruby rb",
    "sql": "sql",
    "output": "text txt plaintext output json yaml csv html xml markdown md latex",
}
"""Fence tags by language; `output` gathers what is surely no program."""

_LANGUAGE_OF = {tag: language for language, tags in LANGUAGE_TAGS.items() for tag in tags.split()}


def code_block(text: str, language: str) -> str | None:
    """The last complete block tagged with `language`; where there is none, the last without a telling tag."""
    untagged: str | None = None
    for tag, source in reversed(code_blocks(text)):
        named = _LANGUAGE_OF.get(tag)
        if named == language or tag == language:
            return source
        if named is None and untagged is None:
            untagged = source
    return untagged


# "the answer is", "Final answer:", and the same in the languages of the known data sets.
_STATED = re.compile(
    r"(?:\banswer\b[*_ ]{0,4}(?:(?:\bis\b|:|=|：)[*_ ]{0,4}){1,2}|答案(?:是|为|為|应为|：|:)+"
    r"|\b(?:r[ée]ponse|respuesta|antwort|risposta|resposta)\b[*_ ]{0,4}(?:est|es|ist|è|é|:)+)",
    re.IGNORECASE,
)
# A sentence ends at a full stop that is not inside a number, or at the end of the line.
_SENTENCE_END = re.compile(r"\n|[。！]|[.!](?=\s|$)")


def stated_answer(text: str) -> str | None:
    """What follows the last "the answer is" (or "Answer:"), up to the end of its sentence."""
    stated = deque(_STATED.finditer(text), maxlen=1)
    if not stated:
        return None
    last = stated[0]
    tail = text[last.end() : last.end() + MAX_STATED_CHARS].lstrip()
    end = _SENTENCE_END.search(tail)
    return (tail[: end.start()] if end else tail).strip(" \t*_`") or None


MAX_STATED_CHARS = 2000
"""A stated answer is a phrase; what is longer is cut."""


# What may stand between boxes that are one answer: punctuation, layout, and words that list or hedge.
_JOINT = re.compile(
    r"(?:[\s$,;.&|*/()\[\]\\:—–-]|\\(?:quad|qquad|text|textbf|mathrm|mbox)(?![a-zA-Z])|[{}]"
    r"|\b(?:and|or|also|alternatively|either|maybe|perhaps|possibly|otherwise|und|oder|et|ou|y|o)\b|[和或与]"
    r"|\b(?:first|second|third|another|option|candidate|guess|possibility)\b|(?<=\n)\d{1,2}(?=[.)]))*",
    re.IGNORECASE,
)
_HEDGE = re.compile(r"\b(?:or|alternatively|either|maybe|perhaps|possibly|otherwise|oder|ou)\b|或", re.IGNORECASE)
_MAX_JOINT_CHARS = 80


def boxed_answer(text: str, *, several: bool = False) -> str | None:
    """The last box, together with the boxes joined to it by nothing but "and", "or", commas and layout.

    several: a list is asked for, so that any words within a sentence may join boxes
    """
    found = boxes(text)
    if not found:
        return None
    first = len(found) - 1
    while first > 0 and _joined(text[found[first - 1].end : found[first].start], several=several):
        first -= 1
    contents = list(dict.fromkeys(_mathematics_in(box.content) for box in found[first:]))
    between = text[found[first].end : found[-1].start] if first < len(found) - 1 else ""
    return (" or " if _HEDGE.search(between) else ", ").join(contents)


def _joined(gap: str, *, several: bool) -> bool:
    if len(gap) > _MAX_JOINT_CHARS:
        return False
    return bool(_JOINT.fullmatch(gap)) or (several and not _SENTENCE_END.search(gap))


_MATH_SPAN = re.compile(
    r"\$\$([^$]{1,2000})\$\$|\$([^$\n]{1,2000})\$|\\\(((?:[^\\]|\\[^()]){1,2000})\\\)"
    r"|\\\[((?:[^\\]|\\[^\[\]]){1,2000})\\\]"
)
_PROSE = re.compile(r"(?<![\\\w{])[^\W\d_]{3,40}+ {1,4}+[^\W\d_]{2}")
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.])[-+−]?(?:\d+ \d+/\d+|(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?(?:/\d+)?|\.\d+)"
    r"(?: ?\\?%)?"
)


def _mathematics_in(content: str) -> str:
    """A box or a sentence that wraps its mathematics in prose: the mathematics alone."""
    stated = stated_answer(content)
    if stated:
        content = stated.lstrip("} ") if stated.count("}") > stated.count("{") else stated
    if "$" in content or r"\(" in content or r"\[" in content:
        spans = [span for span in _MATH_SPAN.finditer(content) if not _PROSE.search(span[span.lastindex or 0])]
        if spans and _PROSE.search(content[: spans[-1].start()] + " " + content[spans[-1].end() :]):
            return spans[-1][spans[-1].lastindex or 0].strip()
    return content


def text_answer(text: str) -> str | None:
    """A short text: boxed, tagged, stated, or the last line."""
    answer = boxed_answer(text) or answer_tag(text) or stated_answer(text)
    return answer or text.strip().rpartition("\n")[2].strip()[:MAX_STATED_CHARS] or None


def any_answer(text: str, *, several: bool = False) -> str | None:
    """A boxed answer, else the last stated one: in answer tags, after "the answer is", in the last formula, or the
    last number."""
    answer = boxed_answer(text, several=several) or answer_tag(text) or stated_answer(text)
    if answer is None:
        return _last_value(text)
    answer = _mathematics_in(answer)
    return (_last_value(answer) or answer) if _is_prose(answer) else answer


def _is_prose(text: str) -> bool:
    """Words, other than those of a unit ("0.1 mol dm^{-3}")."""
    return bool(_PROSE.search(text) or _IDEOGRAPHS.search(text)) and parse_number(canonical(text)) is None


def _last_value(text: str) -> str | None:
    """The last formula or number of a text; a short text without prose as a whole."""
    whole = text.strip()
    if whole and "\n" not in whole and len(whole) <= MAX_STATED_CHARS and not _is_prose(whole):
        return whole
    formulas = (span for span in _MATH_SPAN.finditer(text) if not _PROSE.search(span[span.lastindex or 0]))
    spans = deque(formulas, maxlen=1)
    numbers = deque(_NUMBER.finditer(text), maxlen=1)
    if spans and (not numbers or numbers[0].start() < spans[0].end()):
        return spans[0][spans[0].lastindex or 0].strip()
    if not numbers:
        return None
    # "5 or 6" names two numbers, "not 5" none: it stays a hedge.
    before = text[max(0, numbers[0].start() - 40) : numbers[0].start()]
    return before + numbers[0].group() if _HEDGED_NUMBER.search(before) else numbers[0].group()


_IDEOGRAPHS = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\u0600-\u06ff\u0900-\u097f]{2}")
_HEDGED_NUMBER = re.compile(
    r"\d[^.\n]{0,20}(?:\b(?:or|maybe|perhaps|possibly)\b|[或/])[^.\n]{0,12}$"
    r"|(?:\bnot|n't|\b(?:less|more|fewer|greater) than)[ $]{1,3}$",
    re.IGNORECASE,
)


_CHOICE_TAG = re.compile(r"<(answer|choice)>([^<]{0,2000})</\1>", re.IGNORECASE)
_CHOICE_STATED = re.compile(
    r"(?:\b(?:answer|option|choice|correct (?:one|letter))\b[*_\" ]{0,4}(?:(?:selected|chosen)[*_ ]{0,3})?"
    r"(?:(?:(?:\bis\b|:|=|：)[*_ ]{0,4}){1,2}|(?=\n))(?:for sure |definitely |clearly |most likely |probably )?"
    r"|(?:答案|选择?)(?:是|为|：|:)*|(?=\boption \(?[A-J]\)? is (?:the )?(?:correct|right|best|answer))"
    r"|\b(?:therefore|thus|hence|so),? (?=[A-J] is (?:the )?(?:correct|right|best|answer))"
    r"|(?=\b[A-J] is the (?:correct|right|best) (?:answer|option|choice))"
    r"|\b(?:réponse|respuesta|antwort|risposta|resposta)\b[*_ ]{0,4}(?:est|es|ist|è|é|:)+|الإجابة:?"
    r"|\b(?:i think|therefore|so|thus)(?: it'?s| it is)|\bmatches option"
    r"|\b(?:settled? on|finali[sz]e|choose|go with|selects?|my choice is))\s{0,4}(?P<said>[^\n]{1,300})",
    re.IGNORECASE,
)


def choice_answers(text: str) -> list[str]:
    """Phrases that may state a choice, the most binding first: boxes from the last, tags, statements from the last,
    the text as a whole."""
    last = boxed_answer(text)
    boxed = [] if last is None else [last, *(box.content for box in reversed(boxes(text)[-_MAX_PHRASES:]))]
    tagged = [match[2] for match in deque(_CHOICE_TAG.finditer(text), maxlen=_MAX_PHRASES)]
    stated = [match["said"] for match in deque(_CHOICE_STATED.finditer(text), maxlen=_MAX_PHRASES)]
    whole = [text.strip()] if len(text) <= MAX_STATED_CHARS else []
    return [*boxed, *reversed(tagged), *reversed(stated), *whole]


_MAX_PHRASES = 8
