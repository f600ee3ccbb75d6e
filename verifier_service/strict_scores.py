"""`reward_mode: strict`: no credit that was not earned. What the library pays is kept only where this module agrees.

Two rules correct a library score:

1. Part of a reward stays where the answer achieves a part of what was asked (`EARNED_PARTS`: a correct but longer
   solution, some boxes delivered, the right value in another notation). Everywhere else less than all is nothing: the
   library pays for being parsable, for containing the right answer among others, for being near, for a lucky prefix.
2. What is left stays unless the data set has a check in `CHECKS` that the answer fails. Each check mends a scorer that
   was found to pay in full for wrong answers; its docstring says how.

The oracle of every data set keeps 1.0 under both (`tests/verifier_service/test_strict_scores.py`).
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from verifier_service.answer_guard import RESTATING

Entry = Mapping[str, Any]
Check = Callable[[Entry, str], bool]

EARNED_PARTS: Mapping[str, float] = {
    "boxnet": 0.05,
    "knight_swap": 0.05,
    "tower_of_hanoi": 0.05,
    "quantum_lock": 0.0,
    "shortest_path": 0.0,
    "n_queens": 0.0,
    "binary_matrix": 0.0,
    "spiral_matrix": 0.0,
    "string_insertion": 0.0,
    "advanced_geometry": 0.05,
}
"""Data sets whose partial scores are earned, and the score that is paid for nothing but a readable answer."""

NEAR: Mapping[str, float] = {"complex_arithmetic": 0.99, "polynomial_equations": 0.99}
"""Scores that decay with the distance: from here on the answer is right up to the rounding of its decimals."""

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_NAME = re.compile(r"[A-Za-z_]\w*")
_OPERATORS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def strict_score(name: str, entry: Entry, answer: str, library_score: float) -> float:
    """The part of `library_score`, as the library's scorer of data set `name` gave it, that the answer has earned.

    Raises whatever a check raises on this answer; the service takes that for a wrong answer.
    """
    part = library_score < NEAR.get(name, 1.0)
    if part and library_score <= EARNED_PARTS.get(name, 1.0):
        return 0.0
    check = CHECKS.get(name)
    if check is not None and not check(entry, answer):
        return 0.0
    return library_score if part else 1.0


def _same(normalised: Callable[[str], str]) -> Check:
    """The whole answer is the entry's own, but for what `normalised` takes away."""
    return lambda entry, answer: normalised(answer) == normalised(str(entry["answer"]))


def _finite(entry: Entry, answer: str) -> bool:
    """min(1.0, exp(-nan)) is 1.0."""
    return "nan" not in answer.lower() and "inf" not in answer.lower()


def _roots(entry: Entry, answer: str) -> bool:
    """Whatever was no number went unread, so that an equation without real roots paid for any text."""
    if not entry["answer"]:
        return answer in ("", '""')
    return all(math.isfinite(float(part)) for part in answer.split(","))


def _probability(entry: Entry, answer: str) -> bool:
    """A prefix of the digits paid in full ("0" for 0.375), and everything near 0 for what is near 0 itself."""
    given, wanted = Fraction(answer), Fraction(entry["answer"])
    return abs(given - wanted) <= min(Fraction(1, 10_000), wanted / 100)


def _sorted_numbers(entry: Entry, answer: str) -> bool:
    """Each number could be off by 1."""
    given, wanted = (ast.literal_eval(text) for text in (answer, str(entry["answer"])))
    return [float(number) for number in given] == [float(number) for number in wanted]


def _one_number(entry: Entry, answer: str) -> bool:
    """The first of several numbers counted, without its sign."""
    found = _NUMBER.findall(answer.replace(",", ""))
    return len(found) == 1 and float(found[0]) == float(entry["answer"])


def _one_interval(entry: Entry, answer: str) -> bool:
    """Of "5 6 7 days" the first number counted, and the first of two intervals."""
    is_date = entry["metadata"]["task_type"] == "date"
    wanted = r"-?\d+(?: days?)?" if is_date else r"(?:-?\d+ days, *)?\d+:\d+(?::\d+(?:\.\d+)?)?"
    return re.fullmatch(wanted, answer.strip()) is not None


def _calendar(entry: Entry, answer: str) -> bool:
    """Against a negative count the error is negative too, and every answer was near enough."""
    given, wanted = answer.strip(), str(entry["answer"]).strip()
    return given.lower() == wanted.lower() or (_is_integer(given) and _is_integer(wanted) and int(given) == int(wanted))


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d{1,18}", text) is not None


def _all_words(entry: Entry, answer: str) -> bool:
    """Words beyond the list went unread."""
    return re.split(r",\s*", answer.strip()) == list(entry["metadata"]["sorted_words"])


def _one_fraction(entry: Entry, answer: str) -> bool:
    """Of several fractions the first counted."""
    return len(re.findall(r"\d+", answer)) == 2


def _buttons(entry: Entry, answer: str) -> bool:
    """The letters A to C of any prose were pressed."""
    return re.fullmatch(r"[A-Ca-c\s,→>-]+", answer) is not None


def _two_coordinates(entry: Entry, answer: str) -> bool:
    """Of a list of points the first counted."""
    return entry["metadata"]["task_type"] != "orthocenter" or answer.count(",") == 1


def _new_conclusion(entry: Entry, answer: str) -> bool:
    """A premise copied out was a conclusion."""
    plain = _without_frame(answer)
    own = entry["metadata"].get("example_answer")
    return plain == _without_frame(str(own)) or plain not in {_without_frame(p) for p in entry["metadata"]["premises"]}


def _without_frame(formula: str) -> str:
    return re.sub(r"\s", "", formula).strip("()")


def _solved_expression(entry: Entry, answer: str) -> bool:
    """An unevaluated integral or product asked the question back, and SymPy answered it; of "this or that" Python took
    the first."""
    return not (RESTATING | {"or", "and", "if", "not"}) & set(_NAME.findall(answer))


def _countdown(entry: Entry, answer: str) -> bool:
    """Factorials, powers and functions are none of the operations allowed."""
    return _combines(answer, entry["metadata"]["numbers"], entry["metadata"]["target"])


def _puzzle24(entry: Entry, answer: str) -> bool:
    """Any four numbers of the range were taken, and 24.9 for 24."""
    return _combines(answer, entry["metadata"]["numbers"], 24)


def _combines(answer: str, numbers: list[int], target: int) -> bool:
    """Whether `answer` makes exactly `target` of exactly `numbers` by + - * / alone."""
    used: list[int] = []
    return _value(ast.parse(answer.strip(), mode="eval").body, used) == target and sorted(used) == sorted(numbers)


def _value(node: ast.expr, used: list[int]) -> Fraction:
    """Raises ValueError for anything but whole numbers and the four operations."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, used)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, used), _value(node.right, used))
    raise ValueError(f"{type(node).__name__} is no part of the puzzle")


CHECKS: Mapping[str, Check] = {
    # Any text was true; sums of shares reach 1.0 before the end of the answer, and what comes after it went unread.
    **dict.fromkeys(("game_of_life_halting", "letter_jumble", "spell_backward"), _same(lambda t: t.strip().lower())),
    # Ten right letters paid in full, however many wrong ones followed.
    "figlet_font": _same(lambda text: text.replace(" ", "").strip().lower()),
    # Cells beyond the board went unread.
    "game_of_life": _same(lambda text: re.sub(r"\s", "", text)),
    "complex_arithmetic": _finite,
    "polynomial_equations": _roots,
    "coin_flip": _probability,
    "number_sorting": _sorted_numbers,
    "word_sorting": _all_words,
    "fraction_simplification": _one_fraction,
    "gsm_symbolic": _one_number,
    "time_intervals": _one_interval,
    "calendar_arithmetic": _calendar,
    "quantum_lock": _buttons,
    "advanced_geometry": _two_coordinates,
    "propositional_logic": _new_conclusion,
    "simple_integration": _solved_expression,
    "intermediate_integration": _solved_expression,
    "polynomial_multiplication": _solved_expression,
    "countdown": _countdown,
    "puzzle24": _puzzle24,
}
