"""Hostile answers: whatever they are, they earn nothing, break nothing, and cost no more than their limit."""

import time

import pytest

from sandbox.types import MIB, Limits
from verifier_service.registry import parse_task
from verifier_service.tools import WorkerTools
from verifier_service.verifiers import math
from verifier_service.verify import verify

HOSTILE = {
    "pow_tower": "9^{9^{9^9}}",
    "2e10e10": "2^{10^{10}}",
    "plain": "9**9**9**9",
    "fact": "(10^{10})!",
    "fact6": "1000000!",
    "fact5": "9!!!!!",
    "nest": "20!!!",
    "binom": r"\binom{10^{10}}{10^9}",
    "sqrt40": r"\sqrt{" * 39 + "2" + "}" * 39,
    "sqrt400": r"\sqrt{" * 400 + "2" + "}" * 400,
    "frac60": r"\frac{1}{1+" * 60 + "2" + "}" * 60,
    "frac30": r"\frac{1}{1+" * 30 + "2" + "}" * 30,
    "trig": "+".join(rf"\sin({k}x)" for k in range(1, 200)),
    "trigc": "+".join(rf"\cos(\frac{{{k}\pi}}{{97}})" for k in range(1, 97)),
    "expand": "(x+1)^{1000}",
    "poly": r"(x+y+z)^{60}+1",
    "x1e6": r"\frac{x^{1000000}-1}{x-1}",
    "integral": r"\int_0^\infty \frac{\sin(x^3+x)}{x^7+x+1}\,dx",
    "sum": r"\sum_{k=1}^{\infty}\frac{1}{k^{7}+k+1}",
    "sum9": r"\sum_{k=1}^{10^9} k^3",
    "prod": r"\prod_{k=1}^{10^7} k",
    "braces": "{" * 10000 + "1" + "}" * 10000,
    "parens1k": "(" * 1000 + "1" + ")" * 1000,
    "open": "{" * 10000,
    "digits1M": "7" * 10**6,
    "digits100k": "1" * 10**5,
    "dec100k": "0." + "3" * 10**5,
    "spaces": "1 2 3 " * 20000,
    "ones": "1+" * 20000 + "1",
    "ones1k": "1+" * 1000 + "1",
    "list3000": ",".join(map(str, range(3000))),
    "set300": r"\{" + ",".join(rf"\frac{{{k}}}{{7}}" for k in range(300)) + r"\}",
    "matrix": r"\begin{pmatrix}"
    + r"\\".join("&".join(str(i * j) for j in range(60)) for i in range(60))
    + r"\end{pmatrix}",
    "det": r"\det\begin{pmatrix}"
    + r"\\".join("&".join(f"a_{{{i}{j}}}" for j in range(12)) for i in range(12))
    + r"\end{pmatrix}",
    "matpow": r"\begin{pmatrix}1&1\\1&0\end{pmatrix}^{1000000}",
    "1e999": "1e999999999",
    "10-": "10^{-10^9}",
    "log": r"\log(\log(9^{9^{9}}))",
    "sqrth": r"\sqrt{10^{10^{10}}}",
    "gcd": r"\gcd(10^{10^9}, 6)",
    "ineq": r"\sin(x)+\cos(x^2)>\tan(x^3)",
    "rels": "<".join(["x"] * 500),
    "eqs": "=".join(["x+1"] * 500),
    "or": " or ".join(["x=1"] * 500),
    "pm": r"1\pm" * 300 + "1",
    "abs": "|" * 2000,
    "cup": r"(1,2)\cup " * 200 + "(3,4)",
    "text": r"\text{" * 2000,
    "sub": "x_" * 3000,
    "bar": r"1\overline{" + "3" * 5000 + "}",
    "caret": "x" + "^2" * 500,
    "under": "x^{" * 39 + "2" + "}" * 39,
    "big": "+".join(f"x^{{{k}}}" for k in range(600)),
    "units": "5 " + "kg m " * 200,
    "unitpow": "5 m^9^9^9",
    "cjk": "是" * 20000,
    "ln": r"\ln" * 500 + "2",
    "fn": r"\sin^{" * 30 + "2" + "}" * 30,
    "tower": "1.0000001^{10^{12}}",
    "gamma": "(0.5)!+(10^{5})!",
    "mp": "e^{e^{e^{e}}}",
    "trigbig": r"\sin(10^{5000})",
    "i": "i^{i^{i^{i}}}",
}
GOLDS = ["42", "x+1"]
# Neither of our own parsers reads this one, so that every answer to it goes to the second judge.
SYMBOLIC_GOLD = r"\int_0^1 f(x)\,dx"
IN_PROCESS_CPU_S = 2.0
"""What the strict judge may take; measured: 0.4 s at most."""


def grade(gold: str, answer: str, tools: WorkerTools) -> None:
    verifier, task = parse_task({"kind": "math", "ground_truth": gold})
    started = time.process_time()
    verdict = verify(verifier, task, rf"\boxed{{{answer}}}", tools)
    assert time.process_time() - started < IN_PROCESS_CPU_S
    assert verdict.reward == 0.0, verdict
    assert verdict.reason != "unjudgeable_answer"


@pytest.mark.parametrize("name", HOSTILE)
def test_the_verdict_is_zero_within_the_limit(name: str, tools: WorkerTools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math, "SYMBOLIC_LIMITS", Limits(cpu_time_s=0.3, memory_bytes=1024 * MIB))
    for gold in GOLDS:
        grade(gold, HOSTILE[name], tools)


@pytest.mark.soak
@pytest.mark.parametrize("name", HOSTILE)
def test_the_second_judge_is_bounded(name: str, tools: WorkerTools) -> None:
    grade(SYMBOLIC_GOLD, HOSTILE[name], tools)


def test_a_comparison_at_its_limit_is_a_wrong_answer(tools: WorkerTools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math, "SYMBOLIC_LIMITS", Limits(cpu_time_s=1.0, memory_bytes=1024 * MIB))
    verifier, task = parse_task({"kind": "math", "ground_truth": SYMBOLIC_GOLD})
    verdict = verify(verifier, task, rf"\boxed{{{HOSTILE['integral']}}}", tools)
    assert (verdict.outcome, verdict.reason) == ("incorrect", "comparison_limit")


def test_a_ground_truth_that_nobody_can_read_is_an_error(tools: WorkerTools) -> None:
    verifier, task = parse_task({"kind": "math", "ground_truth": r"\begin{tikzpicture} a \end{tikzpicture}"})
    verdict = verify(verifier, task, r"\boxed{5}", tools)
    assert (verdict.outcome, verdict.reason, verdict.reward) == ("error", "ground_truth", None)
