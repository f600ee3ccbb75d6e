"""Special judges: a program of the task decides about an output, in testlib's manner.

The checker is called with the names of three files (input, output, answer) and says by its exit code: 0 right, 1 wrong,
2 and 4 badly presented, anything else that it failed. An output that makes it fail is wrong; a checker that does not
accept the expected output itself cannot judge anybody.
"""

import dataclasses
import json

from sandbox.child import NO_ROOM_EXIT_CODE
from sandbox.types import ExecutionRequest, Limits, Runner, Status
from verifier_service.errors import CannotJudge
from verifier_service.schemas import Checker, StdinTest
from verifier_service.verifier import Tools

_LIMITS = Limits(cpu_time_s=10.0)


def accepts(checker: Checker, test: StdinTest, output: bytes, tools: Tools) -> bool:
    """Raises `CannotJudge` where the checker does not accept the expected output either."""
    answer = test.stdout.encode("utf-8", "surrogatepass")
    if _says_right(checker, test, output, answer, tools.runner):
        return True

    def prove() -> None:
        if not _says_right(checker, test, answer, answer, tools.runner):
            raise CannotJudge("ground_truth", "the checker does not accept the expected output")

    tools.proofs.demand(json.dumps([checker.language, checker.source, test.stdin, test.stdout]), prove)
    return False


def _says_right(checker: Checker, test: StdinTest, output: bytes, answer: bytes, runner: Runner) -> bool:
    files = {"input.txt": test.stdin.encode("utf-8", "surrogatepass"), "output.txt": output, "answer.txt": answer}
    room = _LIMITS.disk_bytes + sum(map(len, files.values()))
    limits = dataclasses.replace(_LIMITS, disk_bytes=room)
    request = ExecutionRequest(checker.source, checker.language, files=files, limits=limits)
    result = runner.execute(request)
    if result.exit_code == NO_ROOM_EXIT_CODE:
        return False  # an output may be too large for the work directory there is; then the expected one has to fit
    if result.status is Status.SANDBOX_ERROR:
        raise CannotJudge("sandbox", result.detail)
    return result.status is Status.OK
