"""How fast verdicts are, next to the libraries they stand on: CPU time, no cache of verdicts, ratios from one run.

    python benchmarks/verdicts.py [--tasks N] [--completions N]

The math mix has the categories and counts of usual answer sets (integers, fractions, decimals, sets, intervals,
symbolic answers, long reasoning with several boxes ...), drawn from a seed. Half of the completions of a task are
right, in several spellings. CPU time counts what the sandbox spends.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from sandbox.types import CallResult, IsolatedFunction, Limits
from verifier_service.schemas import MathTask
from verifier_service.tools import WorkerTools
from verifier_service.verifiers.math import MathVerifier
from verifier_service.verify import judge

SEED = 11


@dataclass(frozen=True)
class Case:
    """A ground truth with right and wrong answers to it."""

    category: str
    gold: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]


def _integer(rng: random.Random) -> Case:
    n = rng.randint(-500, 20_000)
    return Case("integer", str(n), (str(n), f"{n:,}", f"{n}.0", f"x={n}"), (str(n + 1), str(-n - 3), f"{n}.5"))


def _fraction(rng: random.Random) -> Case:
    a, b = rng.randint(1, 40), rng.randint(41, 99)
    return Case(
        "fraction",
        rf"\frac{{{a}}}{{{b}}}",
        (rf"\dfrac{{{a}}}{{{b}}}", f"{a}/{b}", rf"\frac{{{2 * a}}}{{{2 * b}}}"),
        (rf"\frac{{{a + 1}}}{{{b}}}", f"{b}/{a}"),
    )


def _decimal(rng: random.Random) -> Case:
    value = rng.randint(1, 9999) / 100
    return Case("decimal", f"{value:.2f}", (f"{value:.2f}", f"{value:.3f}"), (f"{value + 1:.2f}", f"{value:.2f}7"))


def _percent(rng: random.Random) -> Case:
    n = rng.randint(2, 99)
    return Case("percent", rf"{n}\%", (rf"{n}\%", str(n), f"{n / 100:.2f}"), (rf"{n + 1}\%", str(n + 100)))


def _mixed(rng: random.Random) -> Case:
    a, b = rng.randint(1, 20), rng.randint(2, 9)
    return Case(
        "mixed", rf"{a}\frac{{1}}{{{b}}}", (rf"{a}\frac{{1}}{{{b}}}", f"{a} 1/{b}", f"{a * b + 1}/{b}"), (f"{a}/{b}",)
    )


def _units(rng: random.Random) -> Case:
    n = rng.randint(2, 500)
    right = (rf"{n}\text{{ cm}}", str(n), rf"{n} \mathrm{{cm}}")
    return Case("units", rf"{n}\text{{ cm}}", right, (rf"{n}\text{{ kg}}", rf"{n + 2}\text{{ cm}}"))


def _symbolic(rng: random.Random) -> Case:
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    gold = f"x^2+{a + b}x+{a * b}"
    wrong = (f"x^2+{a + b + 1}x+{a * b}", f"(x+{a})(x-{b})")
    return Case("symbolic", gold, (f"(x+{a})(x+{b})", f"{a * b}+{a + b}x+x^2", f"x(x+{a + b})+{a * b}"), wrong)


def _complex(rng: random.Random) -> Case:
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    return Case("complex", f"{a}+{b}i", (f"{a}+{b}i", f"{b}i+{a}"), (f"{a}-{b}i", f"{b}+{a + 10}i"))


def _surd(rng: random.Random) -> Case:
    a, b = rng.randint(2, 9), rng.choice([2, 3, 5, 7])
    right = (rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b}}}", rf"\sqrt{{{b}}} \cdot {a}")
    return Case("surd", rf"{a}\sqrt{{{b}}}", right, (rf"{a + 1}\sqrt{{{b}}}", rf"\sqrt{{{a * b}}}"))


def _set(rng: random.Random) -> Case:
    items = rng.sample(range(-50, 50), 4)
    turned = items[::-1]
    right = (rf"\{{{', '.join(map(str, turned))}\}}", ", ".join(map(str, items)))
    return Case("set", rf"\{{{','.join(map(str, items))}\}}", right, (rf"\{{{','.join(map(str, items[:3]))}\}}",))


def _interval(rng: random.Random) -> Case:
    a = rng.randint(-20, 20)
    b = a + rng.randint(1, 30)
    return Case("interval", f"[{a},{b})", (f"[{a}, {b})", rf"{a}\le x<{b}"), (f"[{a},{b}]", f"({a},{b})"))


def _tuple(rng: random.Random) -> Case:
    a, b, c = (rng.randint(-30, 30) for _ in range(3))
    return Case("tuple", f"({a},{b},{c})", (rf"\left({a}, {b}, {c}\right)",), (f"({b},{a},{c + 1})", f"({a},{b})"))


def _union(rng: random.Random) -> Case:
    a = rng.randint(-20, 0)
    b = a + rng.randint(1, 20)
    gold = rf"(-\infty,{a})\cup({b},\infty)"
    return Case("union", gold, (rf"(-\infty, {a}) \cup ({b}, \infty)",), (rf"(-\infty,{a}]\cup({b},\infty)",))


def _equation(rng: random.Random) -> Case:
    a, b = rng.randint(2, 9), rng.randint(1, 9)
    return Case(
        "equation", f"y={a}x+{b}", (f"y={a}x+{b}", f"y-{a}x={b}", f"{a}x+{b}"), (f"y={a}x-{b}", f"y={b}x+{a + 9}")
    )


def _matrix(rng: random.Random) -> Case:
    a, b, c, d = (rng.randint(-9, 9) for _ in range(4))
    gold = rf"\begin{{pmatrix}}{a}&{b}\\{c}&{d}\end{{pmatrix}}"
    right = (rf"\begin{{bmatrix}} {a} & {b} \\ {c} & {d} \end{{bmatrix}}",)
    return Case("matrix", gold, right, (rf"\begin{{pmatrix}}{a}&{b}\\{c}&{d + 1}\end{{pmatrix}}",))


def _text(rng: random.Random) -> Case:
    word = rng.choice(["Evelyn", "Monday", "even", "north", "yellow"])
    return Case("text", rf"\text{{{word}}}", (word, rf"\text{{{word.lower()}}}"), (r"\text{Briana}", "odd"))


def _reasoning(rng: random.Random) -> Case:
    n = rng.randint(1, 999)
    thought = "We expand $x^2+1$ and see that the sum of the terms is bounded, so we go on. " * 60
    steps = "".join(rf"{thought} So far $\boxed{{{rng.randint(1, 99)}}}$." for _ in range(5))
    return Case("reasoning", str(n), (f"{steps} Thus @{n}",), (f"{steps} Thus @{n + 1}",))


MIX: tuple[tuple[Callable[[random.Random], Case], int], ...] = (
    (_integer, 60), (_fraction, 30), (_decimal, 25), (_symbolic, 25), (_set, 20), (_reasoning, 20), (_interval, 15),
    (_units, 20), (_complex, 15), (_tuple, 15), (_union, 13), (_equation, 15), (_percent, 10), (_mixed, 10),
    (_surd, 15), (_matrix, 10), (_text, 10),
)  # fmt: skip
EASY = frozenset({"integer", "fraction", "decimal", "percent", "mixed"})


def mix() -> list[Case]:
    rng = random.Random(SEED)
    return [make(rng) for make, count in MIX for _ in range(count)]


def completions(case: Case, num_completions: int, rng: random.Random) -> list[str]:
    answers = [rng.choice(case.right if index % 2 else case.wrong) for index in range(num_completions)]
    return [_boxed(answer) for answer in answers]


def _boxed(answer: str) -> str:
    before, mark, last = answer.rpartition("@")
    return rf"{before if mark else 'The answer is '}$\boxed{{{last}}}$."


class CountingTools(WorkerTools):
    """The worker's tools, adding up the CPU time that is spent in the sandbox."""

    sandbox_cpu_s = 0.0

    def isolated(self, target: str, *, fork_per_call: bool = False) -> "Counting":
        return Counting(super().isolated(target, fork_per_call=fork_per_call), self)


@dataclass(frozen=True)
class Counting:
    function: IsolatedFunction
    tools: CountingTools

    def call(self, payload: Any, *, limits: Limits | None = None) -> CallResult:
        result = self.function.call(payload, limits=limits)
        self.tools.sandbox_cpu_s += result.cpu_time_s
        return result

    def close(self) -> None:
        self.function.close()


def time_ours(cases: list[Case], num_completions: int, tools: CountingTools) -> dict[str, list[float]]:
    """CPU seconds of extracting and judging each completion, by category."""
    verifier, rng = MathVerifier(), random.Random(SEED)
    seconds: dict[str, list[float]] = {}
    for case in cases:
        task = MathTask(ground_truth=case.gold)
        for completion in completions(case, num_completions, rng):
            started = time.process_time() + tools.sandbox_cpu_s
            answer = verifier.extract(task, completion)
            if answer is not None:
                judge(verifier, task, answer, tools)
            seconds.setdefault(case.category, []).append(time.process_time() + tools.sandbox_cpu_s - started)
    return seconds


def time_math_verify(cases: list[Case], num_completions: int) -> dict[str, list[float]]:
    """The library as shipped: parse both, then verify, for every completion."""
    from math_verify import parse, verify

    rng = random.Random(SEED)
    seconds: dict[str, list[float]] = {}
    for case in cases:
        for completion in completions(case, num_completions, rng):
            started = time.process_time()
            verify(parse(f"${case.gold}$"), parse(completion))
            seconds.setdefault(case.category, []).append(time.process_time() - started)
    return seconds


def report_math(num_tasks: int | None, num_completions: int) -> None:
    cases = mix() if num_tasks is None else random.Random(SEED).sample(mix(), num_tasks)
    tools = CountingTools()
    try:
        time_ours(mix()[::7], 2, tools)  # imports, pint's registry, the sandbox's start
        ours = time_ours(cases, num_completions, tools)
    finally:
        tools.close()
    time_math_verify(cases[:20], 1)
    theirs = time_math_verify(cases, num_completions)
    print(f"{'category':12} {'n':>6} {'ours p50':>10} {'library p50':>12} {'ratio':>7}")
    for category in ours:
        one, other = ours[category], theirs[category]
        ratio = sum(other) / sum(one)
        p50, library_p50 = statistics.median(one), statistics.median(other)
        print(f"{category:12} {len(one):6} {p50 * 1e6:7.0f} us {library_p50 * 1e6:9.0f} us {ratio:7.1f}")
    total, library_total = (sum(map(sum, side.values())) for side in (ours, theirs))
    easy = statistics.median([second for category in EASY & set(ours) for second in ours[category]])
    print(f"math: {library_total / total:.1f} times math-verify as shipped; median easy answer {easy * 1e6:.1f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tasks", type=int, default=None, help="a sample of the mix instead of all of it")
    parser.add_argument("--completions", type=int, default=16, help="completions a task")
    arguments = parser.parse_args()
    report_math(arguments.tasks, arguments.completions)


if __name__ == "__main__":
    main()
