"""IFEval's detectable content and format.

Where an official pattern would walk a long text once a character (`\\[.*?\\]`, `^\\s*\\*`), the same answer is found by
walking it once.
"""

import json
import re
from typing import Annotated

from pydantic import Field

from verifier_service.instructions.tokens import Count, Keyword, by_name, keyword_pattern

_SINGLE = re.compile(r"\*[^\n\*]*\*")
_DOUBLE = re.compile(r"\*\*[^\n\*]*\*\*")
_POSTSCRIPTS = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
_FENCES = ("```json", "```Json", "```JSON", "```")


def number_placeholders(text: str, num_placeholders: Count) -> bool:
    found = 0
    for line in text.split("\n"):
        start = line.find("[")
        while start >= 0 and (end := line.find("]", start)) >= 0:
            found += 1
            start = line.find("[", end)
    return found >= num_placeholders


def postscript(text: str, postscript_marker: Annotated[Keyword, Field(min_length=1)]) -> bool:
    marker = postscript_marker.strip()
    return keyword_pattern(_POSTSCRIPTS.get(marker, marker.lower())).search(text.lower()) is not None


def number_bullet_lists(text: str, num_bullets: Count) -> bool:
    """Lines that start with `*` or `-`; a lone `*` swallows the next line, `**` starts no bullet."""
    lines = iter(line.lstrip() for line in text.split("\n"))
    starred = dashed = 0
    for line in lines:
        dashed += line.startswith("-")
        if line == "*":
            swallowed = next(lines, None)
            starred += swallowed is not None
            dashed += swallowed is not None and swallowed.startswith("-")
        elif line.startswith("*"):
            starred += line[1] != "*"
    return starred + dashed == num_bullets


def constrained_response(text: str) -> bool:
    return any(f"My answer is {word}." in text for word in ("yes", "no", "maybe"))


def number_highlighted_sections(text: str, num_highlights: Count) -> bool:
    single = sum(bool(found.strip("*").strip()) for found in _SINGLE.findall(text))
    double = sum(bool(found[2:-2].strip()) for found in _DOUBLE.findall(text))
    return single + double >= num_highlights


def multiple_sections(text: str, section_spliter: Keyword, num_sections: Count) -> bool:
    pattern = re.compile(rf"\s?{keyword_pattern(section_spliter.strip()).pattern}\s?\d+\s?")
    return sum(1 for _ in pattern.finditer(text)) >= num_sections


def json_format(text: str) -> bool:
    text = text.strip()
    for fence in _FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def title(text: str) -> bool:
    """A line with something between its first `<<` and its last `>>`."""
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start < end - 2 and line[start : end + 2].lstrip("<").rstrip(">").strip():
            return True
    return False


CHECKERS = (
    by_name("detectable_content", number_placeholders, postscript)
    | by_name("detectable_format",
        number_bullet_lists, constrained_response, number_highlighted_sections, multiple_sections, json_format,
        title
    )
)  # fmt: skip
