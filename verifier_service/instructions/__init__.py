"""Instruction checkers: every id of IFEval (25) and IFBench (58), one function of the text and its arguments each.

    CHECKERS["keywords:frequency"](text, keyword="sun", frequency=2, relation="at least") -> bool

A checker never sees an empty text, always answers, and walks the text a bounded number of times. What it wants as
arguments is its signature, checked by pydantic on admission. `official` semantics is what the published checkers do,
odd or not; `REPAIRED` holds those that are disputed, mended.
"""

from collections.abc import Mapping

from verifier_service.instructions import (
    count,
    custom,
    detectable,
    keywords,
    language,
    layout,
    lengths,
    ratio,
    sentence,
    words,
)
from verifier_service.instructions.tokens import Check

_FAMILIES = (keywords, language, lengths, detectable, count, ratio, words, sentence, layout, custom)

CHECKERS: Mapping[str, Check] = {name: check for family in _FAMILIES for name, check in family.CHECKERS.items()}
REPAIRED: Mapping[str, Check] = {
    name: check
    for family in (language, count, ratio, words, sentence, layout)
    for name, check in family.REPAIRED.items()
}
