"""The second judge: math-verify, in its stricter recommended configuration. Runs only inside the sandbox.

The caller's CPU and memory limits end a comparison; the library's own alarm is switched off, because it is driven by
wall time, clears every other alarm of the process, and returns "wrong" for "did not finish".
"""

from functools import lru_cache
from typing import Any

from antlr4.atn.PredictionMode import PredictionMode
from latex2sympy2_extended.latex2sympy2 import NormalizationConfig, _Latex2Sympy, normalize_latex
from math_verify import verify
from math_verify.grader import should_treat_as_complex
from math_verify.parser import get_last_eq

# As math-verify's README advises against false positives: no guessing at malformed operators, no "nits".
_NORMALIZATION = NormalizationConfig(basic_latex=True, units=True, malformed_operators=False, nits=False, boxed="none")


def compare(payload: dict[str, Any]) -> dict[str, Any]:
    """{"golds": [LaTeX], "answer": LaTeX} -> {"equal": bool, "unreadable": [indices of golds]}"""
    golds = [_parsed(gold) for gold in payload["golds"]]
    answer = _parsed(payload["answer"])
    equal = answer is not None and any(
        verify(gold, answer, strict=True, allow_set_relation_comp=True, timeout_seconds=None)
        for gold in golds
        if gold is not None
    )
    unreadable = [index for index, gold in enumerate(golds) if gold is None]
    return {"equal": equal, "unreadable": unreadable}


@lru_cache(maxsize=1024)
def _parsed(latex: str) -> Any:
    """A SymPy object, None where the text cannot be read. Golds come back sixteen times, so they stay parsed."""
    normalized = normalize_latex(latex, _NORMALIZATION)
    for text in dict.fromkeys((normalized, get_last_eq(normalized))):
        for mode in (PredictionMode.SLL, PredictionMode.LL):
            try:
                return _Converter(mode, is_real=not should_treat_as_complex(text)).parse(text)
            except Exception:  # the parser raises bare exceptions of many types for what it cannot read
                continue
    return None


class _Converter(_Latex2Sympy):  # type: ignore[misc]
    """Two-stage parsing: ANTLR's fast prediction mode reads nearly everything, the full one the rest. The fast mode
    either returns the parse tree of the full one or reports a syntax error (ANTLR's `PredictionMode.SLL`)."""

    def __init__(self, mode: Any, *, is_real: bool) -> None:
        super().__init__(is_real=is_real)
        self._mode = mode

    def create_parser(self, latex_str: str) -> Any:
        parser = super().create_parser(latex_str)
        parser._interp.predictionMode = self._mode
        return parser
