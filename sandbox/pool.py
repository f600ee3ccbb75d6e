"""The Python runner: every style of request on warm, isolated interpreters.

runner = open_runner(num_slots=2)
runner.execute(ExecutionRequest(source="print(input())", stdin=b"7\\n")).stdout   # b"7\\n"
runner.close()
"""

from sandbox import harness
from sandbox.errors import LanguageUnavailable, RunnerLost
from sandbox.profiles import CONTEST_PACKAGES, Profile
from sandbox.slots import Slots
from sandbox.types import AssertRequest, CallRequest, ExecutionResult, Request, Status


class PythonRunner:
    """Runs Python programs: from stdin to stdout, called, or under an assert test."""

    def __init__(self, profile: Profile, num_slots: int) -> None:
        self.slots = Slots(profile, num_slots)

    def execute(self, request: Request) -> ExecutionResult:
        """Never raises for anything the program does. Raises `CannotIsolate`, `LanguageUnavailable`."""
        try:
            if isinstance(request, CallRequest):
                return harness.call(self.slots, request)
            if isinstance(request, AssertRequest):
                return harness.check(self.slots, request)
            if request.language != "python":
                raise LanguageUnavailable(request.language)
            return harness.run(self.slots, request)
        except RunnerLost as error:
            return ExecutionResult(Status.SANDBOX_ERROR, detail=str(error))

    def close(self) -> None:
        self.slots.close()


def open_runner(num_slots: int = 2, *, contest_packages: bool = False) -> PythonRunner:
    """A runner of Python programs; `contest_packages` lets them import numpy and its like, where installed. An assert
    test takes two slots."""
    packages = CONTEST_PACKAGES if contest_packages else ()
    return PythonRunner(Profile(packages=packages, drivers=harness.DRIVERS), max(num_slots, 2))
