"""Scoring of tests, limits, special judges and admission. What programs do is scripted where it is not the point."""

from collections.abc import Sequence
from typing import Any

import pytest

from sandbox.child import NO_ROOM_EXIT_CODE
from sandbox.languages import available_languages
from sandbox.types import ExecutionRequest, ExecutionResult, Request, Status
from verifier_service.errors import CannotJudge, TaskRefused
from verifier_service.proofs import Proofs
from verifier_service.registry import parse_task, verifier_for
from verifier_service.schemas import CodeTask
from verifier_service.tools import WorkerTools
from verifier_service.verifier import Judgement


class ScriptedTools:
    """A runner that gives these results in turn, and remembers what it was asked."""

    def __init__(self, results: Sequence[ExecutionResult]) -> None:
        self._results = list(results)
        self.requests: list[Request] = []
        self.proofs = Proofs()

    @property
    def runner(self) -> "ScriptedTools":
        return self

    def execute(self, request: Request) -> ExecutionResult:
        self.requests.append(request)
        return self._results.pop(0)


def printed(text: str, cpu_time_s: float = 0.0) -> ExecutionResult:
    return ExecutionResult(Status.OK, exit_code=0, stdout=text.encode(), cpu_time_s=cpu_time_s)


def ended(status: Status, cpu_time_s: float = 0.0, **more: Any) -> ExecutionResult:
    return ExecutionResult(status, cpu_time_s=cpu_time_s, **more)


RIGHT, WRONG = printed("1"), printed("2")


def judge(results: Sequence[ExecutionResult], num_tests: int, **fields: Any) -> tuple[Judgement, ScriptedTools]:
    tools = ScriptedTools(results)
    tests = [{"stdin": "", "stdout": "1"}] * num_tests
    task = CodeTask.model_validate({"tests": tests, **fields})
    return verifier_for("code").judge(task, "", tools), tools  # type: ignore[arg-type]


def statuses(judgement: Judgement) -> list[Any]:
    tests = judgement.components["tests"]
    assert isinstance(tests, list)
    return [test["status"] for test in tests if isinstance(test, dict)]


def test_a_test_that_slept_to_its_wall_limit_has_used_its_cpu_limit() -> None:
    results = [RIGHT, ended(Status.WALL_TIME_LIMIT, 0.01), ended(Status.WALL_TIME_LIMIT, 0.01)]
    judgement, tools = judge(results, 50, time_limit_s=2, total_time_limit_s=4)
    assert len(tools.requests) == 3
    assert statuses(judgement)[:4] == ["passed", "wall_time_limit", "wall_time_limit", "total_time_limit"]


def test_fraction_runs_every_test() -> None:
    judgement, tools = judge([WRONG, RIGHT, WRONG, RIGHT], 4)
    assert (judgement.reward, judgement.reason) == (0.5, "some_tests_passed")
    assert statuses(judgement) == ["wrong_answer", "passed", "wrong_answer", "passed"]
    assert len(tools.requests) == 4


def test_all_stops_at_the_first_failure() -> None:
    judgement, tools = judge([RIGHT, WRONG], 4, scoring="all")
    assert (judgement.reward, judgement.reason) == (0.0, "wrong_answer")
    assert statuses(judgement) == ["passed", "wrong_answer"]
    assert len(tools.requests) == 2


def test_all_pays_when_all_pass() -> None:
    judgement, _ = judge([RIGHT, RIGHT], 2, scoring="all")
    assert (judgement.reward, judgement.reason) == (1.0, "all_tests_passed")


def test_limits_are_the_smaller_of_a_test_and_what_is_left_of_the_total() -> None:
    _, tools = judge([printed("1", 2.0), printed("1", 2.5), RIGHT], 3, time_limit_s=3, total_time_limit_s=5)
    assert [request.limits.cpu_time_s for request in tools.requests] == [3, 3, 0.5]


@pytest.mark.parametrize(("policy", "reward"), [("zero", 0.0), ("passed_so_far", 0.5)])
def test_past_the_total_the_task_decides(policy: str, reward: float) -> None:
    results = [printed("1", 3.0), printed("1", 1.0), ended(Status.CPU_TIME_LIMIT, 1.0)]
    judgement, _ = judge(results, 4, time_limit_s=3, total_time_limit_s=5, on_total_timeout=policy)
    assert judgement.reward == reward
    assert statuses(judgement) == ["passed", "passed", "total_time_limit", "total_time_limit"]


def test_a_tests_own_limit_is_that_tests_failure() -> None:
    judgement, _ = judge([ended(Status.CPU_TIME_LIMIT, 1.0), printed("1", 0.1)], 2, time_limit_s=1)
    assert (judgement.reward, statuses(judgement)) == (0.5, ["cpu_time_limit", "passed"])


def test_a_compile_error_fails_all_tests_at_once_and_says_why() -> None:
    judgement, tools = judge([ended(Status.COMPILE_ERROR, detail="program.c:1: no")], 3)
    assert (judgement.reward, judgement.reason, len(tools.requests)) == (0.0, "compile_error", 1)
    assert judgement.components["detail"] == "program.c:1: no"
    assert statuses(judgement) == ["compile_error"] * 3


@pytest.mark.parametrize("status", [s for s in Status if s not in (Status.OK, Status.SANDBOX_ERROR)])
def test_every_bad_end_is_the_programs_failure_whatever_it_printed(status: Status) -> None:
    judgement, _ = judge([ended(status, stdout=b"1")], 1)
    assert judgement.reward == 0.0
    assert judgement.reason in verifier_for("code").reasons


def test_a_broken_sandbox_is_no_wrong_answer() -> None:
    with pytest.raises(CannotJudge, match="gone"):
        judge([ended(Status.SANDBOX_ERROR, detail="gone")], 1)


CHECKER = {"language": "python", "source": "..."}


@pytest.mark.parametrize(
    ("verdicts", "reward"),
    [
        ([ended(Status.OK)], 1.0),
        # What it does not accept is wrong, however it ends, because it does accept the expected output.
        ([ended(Status.NONZERO_EXIT, exit_code=1), ended(Status.OK)], 0.0),
        ([ended(Status.NONZERO_EXIT, exit_code=3), ended(Status.OK)], 0.0),
        ([ended(Status.SIGNALLED), ended(Status.OK)], 0.0),
        ([ended(Status.CPU_TIME_LIMIT), ended(Status.OK)], 0.0),
        ([ended(Status.SANDBOX_ERROR, exit_code=NO_ROOM_EXIT_CODE), ended(Status.OK)], 0.0),
    ],
)
def test_checkers_speak_by_exit_code_0(verdicts: list[ExecutionResult], reward: float) -> None:
    judgement, tools = judge([printed("7"), *verdicts], 1, checker=CHECKER)
    assert judgement.reward == reward
    asked = tools.requests[1]
    assert isinstance(asked, ExecutionRequest)
    assert dict(asked.files) == {"input.txt": b"", "output.txt": b"7", "answer.txt": b"1"}


@pytest.mark.parametrize("exit_code", [1, 3])
def test_a_checker_that_does_not_accept_the_expected_output_is_the_tasks_fault(exit_code: int) -> None:
    refused = ended(Status.NONZERO_EXIT, exit_code=exit_code)
    with pytest.raises(CannotJudge) as caught:
        judge([printed("7"), refused, refused], 1, checker=CHECKER)
    assert caught.value.reason == "ground_truth"


def test_a_checker_is_tried_on_an_expected_output_once() -> None:
    wrong = [printed("7"), ended(Status.NONZERO_EXIT, exit_code=1)]
    judgement, tools = judge([*wrong, ended(Status.OK), *wrong, *wrong], 3, checker=CHECKER)
    assert (judgement.reward, len(tools.requests)) == (0.0, 7)


def test_a_checker_is_not_asked_about_a_crash() -> None:
    judgement, tools = judge([ended(Status.NONZERO_EXIT, exit_code=1)], 1, checker=CHECKER)
    assert (judgement.reason, len(tools.requests)) == ("runtime_error", 1)


@pytest.mark.parametrize(
    ("task", "field"),
    [
        ({"tests": [{"stdin": "", "stdout": ""}], "language": "cobol"}, "language"),
        (
            {"tests": [{"stdin": "", "stdout": ""}], "checker": {"language": "cobol", "source": "x"}},
            "checker.language",
        ),
        ({"tests": [{"assert": "assert f(1) == 2"}, {"assert": "assert f(1) =="}]}, "tests.1.assert"),
        ({"tests": [{"assert": "def check(f):\n    assert f(1)"}]}, "tests.0.assert"),
    ],
)
def test_unusable_tasks_are_refused(task: dict[str, Any], field: str) -> None:
    with pytest.raises(TaskRefused) as caught:
        parse_task({"kind": "code", **task})
    assert caught.value.field == field


SUM_CHECKER = """
#include <cstdio>
int main(int n, char **names) {
    FILE *in = fopen(names[1], "r"), *out = fopen(names[2], "r"), *answer = fopen(names[3], "r");
    int sum, a, b, c;
    if (!answer || fscanf(in, "%d", &sum) != 1) return 3;
    if (fscanf(out, "%d %d", &a, &b) != 2 || fscanf(out, "%d", &c) == 1) return 2;
    return a + b == sum ? 0 : 1;
}
"""


@pytest.mark.skipif("cpp" not in available_languages(), reason="no C++ on this host")
@pytest.mark.parametrize(
    ("program", "reward"), [("print(1, int(input()) - 1)", 1.0), ("print(0, 0)", 0.0), ("print('a b')", 0.0)]
)
def test_a_compiled_checker(tools: WorkerTools, program: str, reward: float) -> None:
    tests = [{"stdin": "10\n", "stdout": "5 5\n"}]
    task = CodeTask.model_validate({"tests": tests, "checker": {"language": "cpp", "source": SUM_CHECKER}})
    assert verifier_for("code").judge(task, program, tools).reward == reward


def test_languages_are_listed() -> None:
    assert "python" in verifier_for("code").info()["languages"]
