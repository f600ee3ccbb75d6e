"""The runner of this host: every style of request, every language it has, on warm and isolated processes.

    runner = open_runner(num_slots=2)
    runner.execute(ExecutionRequest(source="print(input())", stdin=b"7\\n")).stdout   # b"7\\n"
    runner.close()

Python's requests become jobs of a warm interpreter here:

    ExecutionRequest   one process, from stdin to stdout
    CallRequest        one process, the result framed by a nonce
    AssertRequest      two processes joined by a socket: the program, and the test that uses it
"""

import dataclasses
import json
import re
import secrets
import socket
from collections.abc import Mapping
from typing import Any

from sandbox.errors import RunnerLost
from sandbox.launch import Ended, Launch
from sandbox.native import NativeRunner
from sandbox.peers import GONE_EXIT_CODE
from sandbox.profiles import CONTEST_PACKAGES, Profile
from sandbox.running import wait_for
from sandbox.slots import Slots, killed_by_somebody, result_of
from sandbox.types import AssertRequest, CallRequest, ExecutionRequest, ExecutionResult, Request, Status
from sandbox.warm import WarmProcess

_FILES_DRIVER = "sandbox.child:run_with_files"
_CALL_DRIVER = "sandbox.calls:run"
_PROGRAM_DRIVER = "sandbox.asserts:run_program"
_TEST_DRIVER = "sandbox.asserts:run_test"
_DRIVERS = ("sandbox.child:run_program", _FILES_DRIVER, _CALL_DRIVER, _PROGRAM_DRIVER, _TEST_DRIVER)
_TESTS_OWN_S = 5.0
"""What a test may compute beyond what its program does: that is no fault of the program."""
_NAMES_PACKAGE = re.compile(rf"\b(?:{'|'.join(CONTEST_PACKAGES)})\b")


class ProcessRunner:
    """Python in two profiles, each warmed on its first use: the standard library alone, and with the contest packages
    that are installed, for the programs that name one; it costs more and can do no more. Beside it the other languages.
    """

    def __init__(self, num_slots: int) -> None:
        self.slots = Slots(Profile(drivers=_DRIVERS), num_slots)
        self._with_packages = Slots(Profile(packages=CONTEST_PACKAGES, drivers=_DRIVERS), num_slots)
        self._native = NativeRunner(num_slots)

    def execute(self, request: Request) -> ExecutionResult:
        """Never raises for anything the program does. Raises `CannotIsolate`, `LanguageUnavailable`."""
        try:
            if isinstance(request, ExecutionRequest) and request.language != "python":
                return self._native.execute(request)
            slots = self._with_packages if _NAMES_PACKAGE.search(_text(request)) else self.slots
            if isinstance(request, CallRequest):
                return _call(slots, request)
            if isinstance(request, AssertRequest):
                return _check(slots, request)
            return _run(slots, request)
        except (RunnerLost, OSError) as error:  # what a machine short of descriptors or memory refuses us
            return ExecutionResult(Status.SANDBOX_ERROR, detail=str(error))

    def close(self) -> None:
        for part in (self.slots, self._with_packages, self._native):
            part.close()


def open_runner(num_slots: int = 2) -> ProcessRunner:
    """An assert test takes two slots, so there are at least two."""
    return ProcessRunner(max(num_slots, 2))


def _text(request: Request) -> str:
    return f"{request.source}\n{request.test}" if isinstance(request, AssertRequest) else request.source


def _run(slots: Slots, request: ExecutionRequest) -> ExecutionResult:
    source = _bytes(request.source)
    launch = Launch(stdin=request.stdin, inputs=(source,), limits=request.limits)
    if request.files:
        names = json.dumps(list(request.files)).encode()
        launch = dataclasses.replace(launch, driver=_FILES_DRIVER, inputs=(source, names, *request.files.values()))
    return result_of(slots.run_fairly(launch), request.limits, files=bool(request.files))


def _call(slots: Slots, request: CallRequest) -> ExecutionResult:
    nonce = secrets.token_hex(16)
    payload = json.dumps({"nonce": nonce, "entry_point": request.entry_point, "args": request.args})
    inputs = (_bytes(request.source), payload.encode())
    ended = slots.run_fairly(Launch(_CALL_DRIVER, inputs=inputs, num_outputs=1, limits=request.limits))
    written, frame = ended.outputs[0] if ended else b"", nonce.encode()
    framed = len(written) > 2 * len(frame) and written.startswith(frame) and written.endswith(frame)
    report = _report(written[len(frame) : -len(frame)]) if framed else None
    result = dataclasses.replace(result_of(ended, request.limits), report=report)
    if result.status is Status.OK and not framed and len(written) == request.limits.output_bytes:
        return dataclasses.replace(result, status=Status.OUTPUT_LIMIT)
    return result


def _check(slots: Slots, request: AssertRequest) -> ExecutionResult:
    ended = slots.fairly(lambda processes: _run_pair(processes, request), count=2)
    result = result_of(ended, request.limits)
    if result.status is Status.NONZERO_EXIT and result.exit_code == GONE_EXIT_CODE:
        # The test hung up first, as it should.
        result = dataclasses.replace(result, status=Status.OK, exit_code=0)
    return dataclasses.replace(result, report=_report(ended.outputs[0]) if ended and ended.outputs else None)


def _run_pair(processes: list[WarmProcess], request: AssertRequest) -> Ended:
    """The program's end, with what the test wrote as its only output. Each side is held to limits of its own; when one
    is gone the other ends by itself."""
    payload = json.dumps({"entry_point": request.entry_point}).encode()
    limits = dataclasses.replace(request.limits, wall_time_s=request.limits.effective_wall_time_s + _TESTS_OWN_S)
    test_limits = dataclasses.replace(limits, cpu_time_s=limits.cpu_time_s + _TESTS_OWN_S)
    ends = socket.socketpair()
    program, test = ((end.fileno(),) for end in ends)
    playing = Launch(_PROGRAM_DRIVER, inputs=(_bytes(request.source),), pass_fds=program, limits=limits)
    inputs = (_bytes(request.test), payload)
    judging = Launch(_TEST_DRIVER, inputs=inputs, num_outputs=1, pass_fds=test, limits=test_limits)
    try:
        with processes[0].launch(playing) as player, processes[1].launch(judging) as judge:
            for end in ends:  # each side must see the other's end when it comes
                end.close()
            ended, judged = wait_for(player, judge)
    finally:
        for end in ends:
            end.close()
    return judged if killed_by_somebody(judged) else dataclasses.replace(ended, outputs=judged.outputs)


def _bytes(source: str) -> bytes:
    return source.encode("utf-8", "surrogatepass")


def _report(written: bytes) -> Mapping[str, Any] | None:
    try:
        report = json.loads(written)
    except (ValueError, RecursionError):
        return None
    return report if isinstance(report, dict) else None
