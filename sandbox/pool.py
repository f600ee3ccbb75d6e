"""The runner of this host: every style of request, every language it has, on warm and isolated processes.

runner = open_runner(num_slots=2)
runner.execute(ExecutionRequest(source="print(input())", stdin=b"7\\n")).stdout   # b"7\\n"
runner.close()
"""

import re

from sandbox import harness
from sandbox.errors import LanguageUnavailable, RunnerLost
from sandbox.native import NativeRunner
from sandbox.profiles import CONTEST_PACKAGES, Profile
from sandbox.slots import Slots
from sandbox.types import AssertRequest, CallRequest, ExecutionRequest, ExecutionResult, Request, Status

_NAMES_PACKAGE = re.compile(rf"\b(?:{'|'.join(CONTEST_PACKAGES)})\b")


class PythonRunner:
    """Runs Python programs: from stdin to stdout, called, or under an assert test.

    Two profiles, each warmed on its first use: the standard library alone, and with the contest packages that are
    installed, for the programs that name one. It costs more and can do no more.
    """

    def __init__(self, num_slots: int) -> None:
        self.slots = Slots(Profile(drivers=harness.DRIVERS), num_slots)
        self._with_packages = Slots(Profile(packages=CONTEST_PACKAGES, drivers=harness.DRIVERS), num_slots)

    def execute(self, request: Request) -> ExecutionResult:
        """Never raises for anything the program does. Raises `CannotIsolate`, `LanguageUnavailable`."""
        slots = self._with_packages if self._needs_packages(request) else self.slots
        try:
            if isinstance(request, CallRequest):
                return harness.call(slots, request)
            if isinstance(request, AssertRequest):
                return harness.check(slots, request)
            if request.language != "python":
                raise LanguageUnavailable(request.language)
            return harness.run(slots, request)
        except RunnerLost as error:
            return ExecutionResult(Status.SANDBOX_ERROR, detail=str(error))

    @staticmethod
    def _needs_packages(request: Request) -> bool:
        texts = (request.source, request.test) if isinstance(request, AssertRequest) else (request.source,)
        return any(_NAMES_PACKAGE.search(text) for text in texts)

    def close(self) -> None:
        self.slots.close()
        self._with_packages.close()


class ProcessRunner:
    """Python and the other languages."""

    def __init__(self, num_slots: int) -> None:
        self.python = PythonRunner(num_slots)
        self.native = NativeRunner(num_slots)

    def execute(self, request: Request) -> ExecutionResult:
        """Never raises for anything the program does. Raises `CannotIsolate`, `LanguageUnavailable`."""
        if not isinstance(request, ExecutionRequest) or request.language == "python":
            return self.python.execute(request)
        try:
            return self.native.execute(request)
        except RunnerLost as error:
            return ExecutionResult(Status.SANDBOX_ERROR, detail=str(error))

    def close(self) -> None:
        self.python.close()
        self.native.close()


def open_runner(num_slots: int = 2) -> ProcessRunner:
    """An assert test takes two slots, so there are at least two."""
    return ProcessRunner(max(num_slots, 2))
