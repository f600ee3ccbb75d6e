"""`verifier check`: does a data set's own ground truth earn 1, and do answers that know nothing earn 0?

For each row, beside what admission refuses: the ground truth given back, an empty answer, a random one, a hedged one
("A or B or C") and one that lists all options. The last three are made from the ground truth. Rows without one to give
back (code, instructions) may carry known-good `completions`, of which one must earn 1; what else can be told of such a
row (a checker that refuses the expected output) its verifier tells.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from verifier_service.errors import CannotJudge, GradingError, TaskRefused, first_error
from verifier_service.registry import parse_task
from verifier_service.schemas import Task, Verdict
from verifier_service.verifier import AnyVerifier, HasFaults, HasOracle, Tools
from verifier_service.verify import verify

RANDOM_ANSWER = "vexillology 90817"
"""Fixed, so that a check can be repeated; right by no chance worth counting."""

_OPPOSITES = {"true": "False", "false": "True", "yes": "No", "no": "Yes"}


@dataclass(frozen=True, slots=True)
class Checked:
    """One row: what is wrong with it, and whether it had a ground truth to give back."""

    faults: tuple[str, ...]
    has_oracle: bool = False


def check_file(path: Path, tools: Tools) -> Iterator[Checked]:
    """One result a line that is not blank. Raises OSError where the file cannot be read."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield check_line(number, line, tools)


def check_line(number: int, line: bytes, tools: Tools) -> Checked:
    """`number` counts from 1."""
    where = f"line {number}"

    def checked(*messages: str, has_oracle: bool = False) -> Checked:
        return Checked(tuple(f"{where}: {message}" for message in messages), has_oracle)

    try:
        row = json.loads(line)
        where += f" ({row['id']})" if row.get("id") else ""
        given = [str(completion) for completion in row.get("completions") or ()]
        verifier, task = parse_task(row["task"])
        oracle = verifier.oracle(task) if isinstance(verifier, HasOracle) else None
    except ValidationError as error:
        return checked(f"task.{first_error(error)}")
    except TaskRefused as error:
        return checked(f"task.{error.field}: {error.message}")
    except (GradingError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return checked(f"no task: {type(error).__name__}: {error}")
    try:
        messages = [*_given_back(verifier, task, oracle, given, tools), *_faults(verifier, task, oracle, tools)]
    except CannotJudge as error:
        messages = [f"cannot be judged ({error.reason}: {error.detail})"]
    return checked(*messages, has_oracle=oracle is not None or bool(given))


def _given_back(verifier: AnyVerifier, task: Task, oracle: str | None, given: list[str], tools: Tools) -> Iterator[str]:
    verdicts = [verify(verifier, task, text, tools) for text in ([oracle] if oracle is not None else given)]
    if verdicts and all(verdict.reward != 1.0 for verdict in verdicts):
        what = "the ground truth given back" if oracle is not None else "the best of the completions given"
        best = max(verdicts, key=lambda verdict: verdict.reward or 0.0)
        yield f"{what} {_earns(best)}"


def _earns(verdict: Verdict) -> str:
    if verdict.reward is None:
        detail = verdict.components.get("detail", "")
        return f"cannot be judged ({verdict.reason}{': ' if detail else ''}{detail})"
    return f"earns {verdict.reward:g} ({verdict.reason})"


def _faults(verifier: AnyVerifier, task: Task, oracle: str | None, tools: Tools) -> Iterator[str]:
    if isinstance(verifier, HasFaults):
        yield from verifier.faults(task, tools)
    # What the library is known to overpay in part is listed in docs/logic.md, not row by row.
    allowed = 0.0 if getattr(task, "reward_mode", "strict") == "strict" else 0.999
    for name, completion in _cheats(verifier, task, oracle):
        verdict = verify(verifier, task, completion, tools)
        if verdict.reward is None or verdict.reward > allowed:
            yield f"an answer that is {name} {_earns(verdict)}"


def _cheats(verifier: AnyVerifier, task: Task, oracle: str | None) -> Iterator[tuple[str, str]]:
    """Completions that must earn nothing, by what they are."""
    yield "empty", ""
    answer = verifier.extract(task, oracle) if oracle is not None else None
    if oracle is None or not answer or answer not in oracle:
        return
    others = _others(answer, getattr(task, "choices", None))
    yield "random", oracle.replace(answer, RANDOM_ANSWER)
    yield "hedged", oracle.replace(answer, " or ".join(sorted((answer, *others))))
    yield "a list of all options", oracle.replace(answer, ", ".join(sorted((answer, *others))))


def _others(answer: str, options: Any) -> tuple[str, ...]:
    """Two wrong answers of the same kind."""
    if answer.lower() in _OPPOSITES:
        return (_OPPOSITES[answer.lower()],)
    if options or (len(answer) == 1 and answer.isalpha()):
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: max(len(options or ""), 4)]
        return tuple(letter for letter in letters if letter != answer.upper())
    try:
        return (f"{float(answer) + 1:g}", f"{float(answer) + 7:g}")
    except ValueError:
        return ("17", "x + 1")
