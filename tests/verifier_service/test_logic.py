"""The logic verifier around the scorers: admission, where a scorer runs, and whose fault a failure is."""

from typing import Any

import pytest

from sandbox.types import CallResult, Status
from verifier_service import sampling
from verifier_service.errors import CannotJudge, TaskRefused
from verifier_service.proofs import Proofs
from verifier_service.registry import parse_task
from verifier_service.tools import WorkerTools
from verifier_service.verifiers import logic
from verifier_service.verifiers.logic import LONGEST_IN_PROCESS, LogicVerifier
from verifier_service.verify import verify

ENTRY = {"question": "gcd(4, 6)", "answer": "2", "metadata": {}}
GCD = {"kind": "logic", "dataset": "gcd", "entry": ENTRY}
SPIRAL = {"kind": "logic", "dataset": "spiral_matrix", "entry": ENTRY}


class Called:
    """Stands in for the sandbox: answers every call the same, but for the entry's own answer, and remembers what was
    asked."""

    def __init__(self, status: Status, value: Any = None, *, own: Status | None = None) -> None:
        self.result = CallResult(status, value, detail="told so")
        self.own = CallResult(own or status, {"score": 1.0} if own is Status.OK else value)
        self.targets: list[tuple[str, bool]] = []
        self.proofs = Proofs()

    def isolated(self, target: str, *, fork_per_call: bool = False) -> "Called":
        self.targets.append((target, fork_per_call))
        return self

    def call(self, payload: Any, *, limits: Any = None) -> CallResult:
        return self.own if payload["answer"] == payload["entry"]["answer"] else self.result

    def close(self) -> None: ...

    @property
    def runner(self) -> Any:
        raise AssertionError("puzzles run no programs")


@pytest.mark.parametrize(
    ("task", "field"),
    [
        ({**GCD, "dataset": "no_such"}, "dataset"),
        ({**GCD, "config": {"no_such": 1}}, "config"),
        ({**GCD, "config": {"min_numbers": 0}}, "config"),
        ({**GCD, "entry": {**ENTRY, "answer": None}}, "entry.answer"),
        ({**GCD, "dataset": "composite", "entry": {**ENTRY, "metadata": {"source_dataset": "nope"}}}, "config"),
    ],
)
def test_unusable_tasks_are_refused_by_name(task: dict[str, Any], field: str) -> None:
    with pytest.raises(TaskRefused) as refused:
        parse_task(task)
    assert refused.value.field == field


def test_scorers_that_evaluate_run_in_the_sandbox_in_a_process_of_their_own() -> None:
    tools = Called(Status.OK, {"score": 1.0})
    verifier, task = parse_task(SPIRAL)
    assert verify(verifier, task, "<answer>2</answer>", tools).reward == 1.0
    assert tools.targets == [(logic.SCORER, True)]


def test_long_answers_go_to_the_sandbox_whatever_the_scorer() -> None:
    tools = Called(Status.OK, {"score": 0.0})
    verifier, task = parse_task(GCD)
    verify(verifier, task, "<answer>3</answer>", tools)
    assert not tools.targets
    verify(verifier, task, f"<answer>{'2' * (LONGEST_IN_PROCESS + 1)}</answer>", tools)
    assert tools.targets


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (Status.CPU_TIME_LIMIT, "cpu_time_limit"),
        (Status.MEMORY_LIMIT, "memory_limit"),
        (Status.NONZERO_EXIT, "scorer_raised"),
        (Status.SIGNALLED, "scorer_killed"),
        (Status.FORBIDDEN, "scorer_killed"),
    ],
)
def test_limits_in_the_sandbox_are_wrong_answers(status: Status, reason: str) -> None:
    verifier, task = parse_task(SPIRAL)
    verdict = verify(verifier, task, "<answer>3</answer>", Called(status, own=Status.OK))
    assert (verdict.outcome, verdict.reward, verdict.reason) == ("incorrect", 0.0, reason)


@pytest.mark.parametrize("own", [Status.NONZERO_EXIT, Status.CPU_TIME_LIMIT, Status.SIGNALLED])
def test_an_entry_whose_own_answer_breaks_the_scorer_in_the_sandbox_is_an_error(own: Status) -> None:
    verifier, task = parse_task(SPIRAL)
    verdict = verify(verifier, task, "<answer>3</answer>", Called(Status.NONZERO_EXIT, own=own))
    assert (verdict.outcome, verdict.reward, verdict.reason) == ("error", None, "ground_truth")


def test_a_sandbox_that_breaks_at_the_entrys_own_answer_is_no_wrong_answer() -> None:
    verifier, task = parse_task(SPIRAL)
    verdict = verify(verifier, task, "<answer>3</answer>", Called(Status.NONZERO_EXIT, own=Status.SANDBOX_ERROR))
    assert (verdict.outcome, verdict.reward, verdict.reason) == ("error", None, "sandbox")


@pytest.mark.parametrize("dataset", ["n_queens", "rubiks_cube"])
def test_an_entry_without_what_its_scorer_reads_in_the_sandbox_is_an_error(dataset: str, tools: WorkerTools) -> None:
    verifier, task = parse_task({**SPIRAL, "dataset": dataset})
    verdict = verify(verifier, task, "<answer>R U</answer>", tools)
    assert (verdict.outcome, verdict.reward, verdict.reason) == ("error", None, "ground_truth")


def test_a_broken_sandbox_is_no_wrong_answer() -> None:
    verifier, task = parse_task(SPIRAL)
    verdict = verify(verifier, task, "<answer>2</answer>", Called(Status.SANDBOX_ERROR))
    assert (verdict.outcome, verdict.reward, verdict.reason) == ("error", None, "sandbox")


def test_an_entry_that_its_scorer_cannot_read_is_an_error_for_every_answer() -> None:
    verifier, task = parse_task({**GCD, "dataset": "word_sorting"})
    with pytest.raises(CannotJudge) as error:
        verifier.judge(task, "a, b", Called(Status.OK))
    assert error.value.reason == "ground_truth"


@pytest.mark.parametrize(
    ("dataset", "entry"),
    [
        ("bitwise_arithmetic", {"answer": "0x2", "metadata": {"problem": "garbage("}}),
        ("number_sorting", {"answer": "['1', '3']", "metadata": {}}),
        ("propositional_logic", {"answer": None, "metadata": {"variables": ["P"], "example_answer": "P"}}),
        ("rush_hour", {"answer": None, "metadata": {"board_config": "AA"}}),
        ("boxnet", {"answer": None, "metadata": {"row_num": 1}}),
        ("simple_integration", {"answer": "x**2 + C", "metadata": {"integrand": "2*x("}}),
        ("countdown", {"answer": "3 + 4", "metadata": {"numbers": [3, 4]}}),
        ("sokoban", {"answer": "L", "metadata": {"gamestr": None}}),
        ("kakurasu", {"answer": "1 0\n0 1", "metadata": {"n_rows": 2, "n_cols": 2, "row_sums": None}}),
        ("group_anagrams", {"answer": '[["a"]]', "metadata": {}}),
    ],
)
def test_a_scorer_that_swallows_what_it_cannot_read_is_an_error(
    dataset: str, entry: dict[str, Any], tools: WorkerTools
) -> None:
    verifier, task = parse_task({"kind": "logic", "dataset": dataset, "entry": {"question": "", **entry}})
    verdict = verify(verifier, task, "<answer>17</answer>", tools)
    assert (verdict.outcome, verdict.reward, verdict.reason) == ("error", None, "ground_truth")


def test_an_entry_is_proven_usable_once() -> None:
    tools = Called(Status.OK, {"score": 0.0})
    verifier, task = parse_task(SPIRAL)
    tools.own = CallResult(Status.OK, {"score": 1.0})
    for answer in ("3", "4", "5"):
        assert verify(verifier, task, f"<answer>{answer}</answer>", tools).reward == 0.0
    assert len(tools.targets) == 4


@pytest.mark.parametrize(
    ("dataset", "entry"),
    [
        ("jugs", {"answer": '["No solution"]', "metadata": {"puzzle": {"jug_capacities": [3, 5], "target": 4}}}),
        (
            "rubiks_cube",
            {"answer": None, "metadata": {"cube_size": 3, "scramble_moves": "B", "example_correct_answer": ""}},
        ),
        ("rush_hour", {"answer": None, "metadata": {"board_config": "oooooooooooooAAooooooooooooooooooooo"}}),
    ],
)
def test_an_entry_without_a_solution_of_its_own_is_judged(
    dataset: str, entry: dict[str, Any], tools: WorkerTools
) -> None:
    verifier, task = parse_task({"kind": "logic", "dataset": dataset, "entry": {"question": "", **entry}})
    verdict = verify(verifier, task, "<answer>17</answer>", tools)
    assert verdict.outcome in ("incorrect", "partial")


def test_an_index_that_cannot_be_generated_is_an_error() -> None:
    task = {"kind": "logic", "dataset": "composite", "seed": 1, "index": 0}
    composite = {"datasets": [{"name": "no_such", "weight": 1, "config": {}}]}
    verifier, parsed = parse_task({**task, "config": composite})
    with pytest.raises(CannotJudge):
        verifier.judge(parsed, "1", Called(Status.OK))


def test_seed_and_index_name_the_sampled_entry() -> None:
    item = sampling.sample("gcd", 9, 3, {"max_numbers": 3})[2]
    entry: Any = item.task["entry"]
    task = {"kind": "logic", "dataset": "gcd", "seed": 9, "index": 2, "config": {"max_numbers": 3}}
    verifier, parsed = parse_task(task)
    assert verify(verifier, parsed, f"<answer>{entry['answer']}</answer>", Called(Status.OK)).reward == 1.0
    assert entry["question"].rstrip() in str(item.prompt)
    assert str(item.prompt).endswith(sampling.ANSWER_FORMAT)


@pytest.mark.parametrize(
    ("dataset", "config", "field"),
    [("no_such", {}, "dataset"), ("gcd", {"seed": 1}, "config"), ("gcd", {"nope": 1}, "config")],
)
def test_what_cannot_be_sampled_is_refused(dataset: str, config: dict[str, Any], field: str) -> None:
    with pytest.raises(TaskRefused) as refused:
        sampling.sample(dataset, 1, 1, config)
    assert refused.value.field == field


def test_every_reason_is_documented() -> None:
    given = {"solved", "partly_solved", "not_solved", *logic._LIMIT_REASONS.values()}
    assert given <= set(LogicVerifier.reasons)
