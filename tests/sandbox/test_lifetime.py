"""Who outlives whom: nothing outlives its supervisor, and nothing of the warm process's end is the program's fault."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sandbox.errors import RunnerLost
from sandbox.launch import Ended, Launch
from sandbox.runner import ProcessRunner
from sandbox.slots import Slots
from sandbox.types import AssertRequest, ExecutionRequest, Status
from sandbox.warm import WarmProcess
from tests.sandbox.runners import WAYS, profile_of, require

ROOT = Path(__file__).parent.parent.parent
SUPERVISOR = """
import sys
from sandbox.slots import Slots
from sandbox.launch import Launch
from tests.sandbox.runners import profile_of
with Slots(profile_of(sys.argv[1]), 1).lend() as [process]:
    program = b"import os, time; os.fork() or os.setsid(); os.fork(); time.sleep(60)"
    with process.launch(Launch(inputs=(program,), may_fork=True)) as running:
        running.cpu_time_s()
        print("running", flush=True)
        running.wait()
"""


@pytest.mark.parametrize("group", [False, True], ids=["alone", "with_its_group"])
@pytest.mark.parametrize("way", WAYS)
def test_nothing_outlives_a_killed_supervisor(way: str, group: bool) -> None:
    require(way)
    command = [sys.executable, "-c", SUPERVISOR, way]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, process_group=0) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == "running\n"
        deadline = time.monotonic() + 30
        while len(family := psutil.Process(supervisor.pid).children(recursive=True)) < 5:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(supervisor.pid, signal.SIGKILL) if group else supervisor.kill()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


def test_a_death_is_tried_again_and_the_second_is_the_programs_fault() -> None:
    slots = Slots(profile_of("landlock"), 2)
    num_free: list[int] = []

    def die(processes: list[WarmProcess]) -> Ended:
        num_free.append(len(slots._free))
        raise RunnerLost("died under a program")

    assert slots.fairly(die) is None
    assert num_free == [1, 0]  # the second time alone
    slots.close()


def test_it_is_our_failure_where_a_known_good_program_fails_too(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = ProcessRunner(2)

    def die(process: WarmProcess, launch: Launch) -> None:
        raise RunnerLost("died under a program")

    monkeypatch.setattr(WarmProcess, "launch", die)
    result = runner.execute(ExecutionRequest("print(1)"))
    assert (result.status, result.detail) == (Status.SANDBOX_ERROR, "died under a program")
    monkeypatch.undo()
    assert runner.execute(ExecutionRequest("print(1)")).stdout == b"1\n"
    runner.close()


@pytest.mark.parametrize("times", [1, 9])
def test_where_no_process_is_to_be_had_no_program_is_to_blame(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    runner, start, failures = ProcessRunner(2), subprocess.Popen, iter(range(times))

    def fail(*args: object, **kwargs: object) -> object:
        if next(failures, None) is not None:
            raise BlockingIOError("Resource temporarily unavailable")
        return start(*args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr("sandbox.warm.subprocess.Popen", fail)
    status = runner.execute(ExecutionRequest("print(1)")).status
    runner.close()
    assert status is (Status.OK if times == 1 else Status.SANDBOX_ERROR)


def test_where_no_descriptor_is_to_be_had_no_program_is_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> None:
        raise OSError("Too many open files")

    runner = ProcessRunner(2)
    monkeypatch.setattr("sandbox.runner.socket.socketpair", fail)
    result = runner.execute(AssertRequest("def f(): return 1", "assert f() == 1"))
    monkeypatch.undo()
    runner.close()
    assert result.status is Status.SANDBOX_ERROR


def test_a_program_killed_from_outside_runs_again() -> None:
    """As the kernel does when a neighbour took the memory."""
    slots = Slots(profile_of("landlock"), 1)
    launch = Launch(inputs=(b"import time; time.sleep(0.4); print('done')",))
    attempts: list[float] = []

    def run(processes: list[WarmProcess]) -> Ended:
        attempts.append(time.monotonic())
        with processes[0].launch(launch) as running:
            if len(attempts) == 1:
                running.kill()
            return running.wait()

    ended = slots.fairly(run)
    assert ended is not None
    assert (ended.stdout, len(attempts)) == (b"done\n", 2)
    slots.close()


@pytest.mark.parametrize("way", WAYS)
def test_a_module_that_does_not_import_is_told(way: str) -> None:
    require(way)
    profile = profile_of(way, preload=(), required=("no_such_package.module:function",))
    with pytest.raises(RunnerLost, match="No module named 'no_such_package'"):
        WarmProcess(profile, profile.level or "")
