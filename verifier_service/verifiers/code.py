"""Code: the program runs in the sandbox, what it gives out is judged here, outside.

    stdin tests   input in, output out, compared by line
    call tests    arguments in, typed JSON out, compared by exact type and value
    assert tests  the test's source in an isolated process of its own, the program in another

Expected outputs and values never enter the program's process. Whatever limit a program hits is its own failure.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import JsonValue

from sandbox.languages import available_languages
from sandbox.types import MIB, AssertRequest, CallRequest, ExecutionRequest, ExecutionResult, Limits, Request, Status
from verifier_service.assert_sources import refusal
from verifier_service.errors import CannotJudge, TaskRefused
from verifier_service.extraction import code_block
from verifier_service.output_comparison import same_output, same_value
from verifier_service.schemas import AssertTest, CallTest, CodeTask, StdinTest
from verifier_service.verifier import Judgement, Lane, Tools
from verifier_service.verifiers.code_checker import accepts

PASSED = "passed"

# How one test ended. Those of `Status` keep their names, but for the two that say no more than that it crashed.
TEST_REASONS: Mapping[str, str] = {
    "wrong_answer": "the output or the result is not the expected one",
    "runtime_error": "the program raised, exited with a code other than 0 or was ended by a signal",
    "assertion_failed": "the test raised",
    "no_entry_point": "the program defines no function or method of the name asked for",
    "not_plain": "the result is not made of plain values",
    "no_result": "the program ended before its result was handed out",
    "compile_error": "the compiler refused the program",
    "cpu_time_limit": "CPU time of one test",
    "wall_time_limit": "wall time of one test, several times its CPU time",
    "memory_limit": "memory of one test",
    "output_limit": "output of one test",
    "process_limit": "threads or processes at once",
    "forbidden": "a system call that the sandbox denies, or the program ended its runner",
    "total_time_limit": "CPU time of all tests together",
}


@dataclass(frozen=True, slots=True)
class TestRun:
    """How one test ended: `passed` or one of `TEST_REASONS`."""

    status: str
    cpu_time_s: float
    detail: str = ""


class CodeVerifier:
    kind: ClassVar[str] = "code"
    task_model: ClassVar = CodeTask
    version: ClassVar[str] = "4"
    description: ClassVar[str] = "Programs in fenced blocks, judged by stdin, call or assert tests in a sandbox."
    lane: ClassVar[Lane] = "code"
    reasons: ClassVar[Mapping[str, str]] = {
        "all_tests_passed": "every test passed",
        "some_tests_passed": "some tests passed (`components.tests` names each)",
        **{reason: f"no credit; the first failure: {meaning}" for reason, meaning in TEST_REASONS.items()},
    }

    def info(self) -> Mapping[str, Any]:
        return {"languages": list(available_languages())}

    def admit(self, task: CodeTask) -> None:
        _admit_language("language", task.language)
        if task.checker is not None:
            _admit_language("checker.language", task.checker.language)
        for index, test in enumerate(task.tests):
            if isinstance(test, AssertTest):
                message = refusal(test.source, task.entry_point)
                if message:
                    raise TaskRefused(f"tests.{index}.assert", f"the test {message}")

    def extract(self, task: CodeTask, text: str) -> str | None:
        return code_block(text, task.language)

    def faults(self, task: CodeTask, tools: Tools) -> Iterator[str]:
        for index, test in enumerate(task.tests):
            # Where it does not, `accepts` tries the expected output as well.
            if task.checker is not None and isinstance(test, StdinTest) and accepts(task.checker, test, b"", tools):
                yield f"tests.{index}: the checker accepts an empty output"
        if task.language == "python":
            paid = self.judge(task, _idle(task), tools)
            if paid.reward == 1.0 or (paid.reward and isinstance(task.tests[0], StdinTest)):
                yield f"a program that does nothing earns {paid.reward:g}"

    def judge(self, task: CodeTask, answer: str, tools: Tools) -> Judgement:
        runs = list(_run_tests(task, answer, tools))
        statuses = [run.status for run in runs] + ["total_time_limit"] * (len(task.tests) - len(runs))
        if task.scoring == "all":
            # Tests behind the first failure were not run, so they are not reported.
            statuses = statuses[: _first_failure(statuses) + 1]
        num_passed = statuses.count(PASSED)
        details = [run.detail for run in runs if run.detail]
        components: dict[str, JsonValue] = {
            "tests": [{"status": status} for status in statuses],
            "num_passed": num_passed,
            "num_tests": len(task.tests),
            **({"detail": details[0]} if details else {}),
        }
        if num_passed == len(task.tests):
            return Judgement(1.0, "all_tests_passed", components)
        timed_out = "total_time_limit" in statuses
        if num_passed == 0 or task.scoring == "all" or (timed_out and task.on_total_timeout == "zero"):
            reason = "total_time_limit" if timed_out else statuses[_first_failure(statuses)]
            return Judgement(0.0, reason, components)
        return Judgement(num_passed / len(task.tests), "some_tests_passed", components)


def _idle(task: CodeTask) -> str:
    """A program that computes nothing. Its function, where one is asked for, returns None, which can be right."""
    return f"def {task.entry_point}(*args, **kwargs): pass" if task.entry_point else "pass"


def _admit_language(field: str, language: str) -> None:
    known = available_languages()
    if language not in known:
        raise TaskRefused(field, f"{language!r} is not available here; available are {', '.join(sorted(known))}")


def _first_failure(statuses: list[str]) -> int:
    return next((index for index, status in enumerate(statuses) if status != PASSED), len(statuses))


def _run_tests(task: CodeTask, source: str, tools: Tools) -> Iterator[TestRun]:
    """One run a test, in order; ends early where the total CPU time is used up or scoring is `all` and one failed."""
    left_s = task.total_time_limit_s
    for index in range(len(task.tests)):
        limits = Limits(cpu_time_s=min(task.time_limit_s, left_s), memory_bytes=task.memory_limit_mb * MIB)
        run = _run_test(task, source, index, limits, tools)
        if run.status == Status.CPU_TIME_LIMIT and limits.cpu_time_s < task.time_limit_s:
            return  # it was not its own limit that it hit, but what was left of the total
        yield run
        # One that slept to its wall limit has used its time too, or fifty of them would hold a worker for long.
        left_s -= limits.cpu_time_s if run.status == Status.WALL_TIME_LIMIT else run.cpu_time_s
        if left_s <= 0:
            return
        if run.status == Status.COMPILE_ERROR:
            yield from [run] * (len(task.tests) - index - 1)
            return
        if task.scoring == "all" and run.status != PASSED:
            return


def _run_test(task: CodeTask, source: str, index: int, limits: Limits, tools: Tools) -> TestRun:
    test = task.tests[index]
    request: Request
    if isinstance(test, StdinTest):
        request = ExecutionRequest(source, task.language, test.stdin.encode("utf-8", "surrogatepass"), limits)
    elif isinstance(test, CallTest):
        request = CallRequest(source, task.entry_point or "", test.args, limits)
    else:
        request = AssertRequest(source, test.source, task.entry_point, limits)
    result = tools.runner.execute(request)
    if result.status is Status.SANDBOX_ERROR:
        raise CannotJudge("sandbox", result.detail)
    bad_end = _bad_end(result, wants_report=not isinstance(test, StdinTest))
    if bad_end:
        status = bad_end
    elif isinstance(test, StdinTest):
        status = _judge_output(task, test, result.stdout, tools)
    elif isinstance(test, CallTest):
        status = _judge_call(test, result.report or {})
    else:
        status = _judge_assert(result.report or {})
    return TestRun(status, result.cpu_time_s, result.detail if result.status is Status.COMPILE_ERROR else "")


def _bad_end(result: ExecutionResult, *, wants_report: bool) -> str | None:
    """The status of a run that did not end well, None where it did."""
    if result.status is Status.OK:
        return "no_result" if wants_report and result.report is None else None
    return "runtime_error" if result.status in (Status.NONZERO_EXIT, Status.SIGNALLED) else str(result.status)


def _judge_output(task: CodeTask, test: StdinTest, output: bytes, tools: Tools) -> str:
    if task.checker is not None:
        right = accepts(task.checker, test, output, tools)
    else:
        right = same_output(output, test.stdout, task.float_tolerance)
    return PASSED if right else "wrong_answer"


def _judge_call(test: CallTest, report: Mapping[str, Any]) -> str:
    if "result" in report:
        return PASSED if same_value(report["result"], test.expected) else "wrong_answer"
    known = {"MemoryError": "memory_limit", "NoEntryPoint": "no_entry_point"}
    return "not_plain" if "not_plain" in report else known.get(str(report.get("raised")), "runtime_error")


def _judge_assert(report: Mapping[str, Any]) -> str:
    if report.get("passed") is True:
        return PASSED
    return "runtime_error" if report.get("loading") else "assertion_failed"
