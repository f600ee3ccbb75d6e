"""Special judges: a program of the task decides about an output, in testlib's manner.

The checker is called with the names of three files (input, output, answer) and says by its exit code: 0 right, 1 wrong,
2 and 4 badly presented, anything else that it failed. A checker may fail on garbage that only a completion can make; a
checker that fails on the expected output itself cannot judge anybody.
"""

import dataclasses

from sandbox.types import ExecutionRequest, Limits, Runner, Status
from verifier_service.errors import CannotJudge
from verifier_service.schemas import Checker, StdinTest

_RIGHT, _WRONG = 0, (1, 2, 4)
_TRACEBACK = b"Traceback (most recent call last)"
_LIMITS = Limits(cpu_time_s=10.0)


def accepts(checker: Checker, test: StdinTest, output: bytes, runner: Runner) -> bool:
    """Raises `CannotJudge` where the checker is no good even for the expected output."""
    answer = test.stdout.encode("utf-8", "surrogatepass")
    code = _ask(checker, test, output, answer, runner)
    if code is None and _ask(checker, test, answer, answer, runner) != _RIGHT:
        raise CannotJudge("ground_truth", "the checker fails on the expected output")
    return code == _RIGHT


def _ask(checker: Checker, test: StdinTest, output: bytes, answer: bytes, runner: Runner) -> int | None:
    """The checker's exit code where it gave a judgement, None where it failed."""
    files = {"input.txt": test.stdin.encode("utf-8", "surrogatepass"), "output.txt": output, "answer.txt": answer}
    room = _LIMITS.disk_bytes + sum(map(len, files.values()))
    limits = dataclasses.replace(_LIMITS, disk_bytes=room)
    request = ExecutionRequest(checker.source, checker.language, files=files, limits=limits)
    result = runner.execute(request)
    if result.status is Status.SANDBOX_ERROR:
        raise CannotJudge("sandbox", result.detail)
    if result.status is Status.OK:
        return _RIGHT
    crashed = _TRACEBACK in result.stderr  # Python exits with 1 for that too
    return result.exit_code if result.exit_code in _WRONG and not crashed else None
