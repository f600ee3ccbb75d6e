"""Jobs that may execute, and jobs that may fork: the hooks of the native runner."""

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.launch import Ended, Launch
from sandbox.profiles import Profile
from sandbox.slots import Slots
from sandbox.types import MIB, Limits
from tests.sandbox.runners import profile_of, require

BINARY, SHELL = "tests.sandbox.drivers:execute_binary", "tests.sandbox.drivers:execute_shell"
LOADER = tuple(str(path.resolve()) for path in Path("/lib64").glob("ld-linux-*.so.2"))
LIMITS = Limits(cpu_time_s=2, wall_time_s=40, memory_bytes=256 * MIB, output_bytes=MIB)

PROGRAMS = ("/usr/bin/dash", "/usr/bin/sleep")
COUNTED = b"n=0; while [ $n -lt %d ]; do sleep 1 & echo started; n=$((n + 1)); done; wait"

pytestmark = pytest.mark.skipif(not Path("/usr/bin/dash").exists(), reason="needs dash")


@pytest.fixture(scope="module")
def slots() -> Iterator[Slots]:
    profile = Profile(preload=(), drivers=(BINARY, SHELL), executable=(*LOADER, *PROGRAMS))
    slots = Slots(profile, 1)
    yield slots
    slots.close()


def run(slots: Slots, launch: Launch) -> Ended:
    ended = slots.run_fairly(launch)
    assert ended is not None
    return ended


def test_a_binary_in_memory_is_executed(slots: Slots) -> None:
    echo = Path("/usr/bin/echo").read_bytes()
    ended = run(slots, Launch(BINARY, inputs=(echo,), may_exec=True, limits=LIMITS))
    assert (ended.wait_status, ended.stdout, ended.stderr) == (0, b"one two\n", b"")


def test_without_leave_nothing_is_executed(slots: Slots) -> None:
    ended = run(slots, Launch(BINARY, inputs=(Path("/usr/bin/echo").read_bytes(),), limits=LIMITS))
    assert b"PermissionError" in ended.stderr


def test_a_shell_runs_what_is_allowed_and_nothing_else(slots: Slots) -> None:
    script = b"sleep 0 && echo slept; cat /etc/hostname; true; /usr/bin/python3 -c 'print(1)'"
    ended = run(slots, Launch(SHELL, inputs=(script,), may_exec=True, may_fork=True, limits=LIMITS))
    assert ended.stdout == b"slept\n"


def test_nothing_is_left_behind(slots: Slots) -> None:
    marker = "86399.25"
    script = f"sleep {marker} & (sleep {marker} &) ; echo started".encode()
    started = time.monotonic()
    ended = run(slots, Launch(SHELL, inputs=(script,), may_exec=True, may_fork=True, limits=LIMITS))
    assert ended.stdout == b"started\n"
    assert time.monotonic() - started < 20
    assert not _running(marker)


def test_a_fork_bomb_ends_and_leaves_nothing(slots: Slots) -> None:
    script = b"bomb() { bomb | bomb & }; bomb; sleep 86398.25"
    run(slots, Launch(SHELL, inputs=(script,), may_exec=True, may_fork=True, limits=Limits(wall_time_s=1)))
    assert not _running("bomb")
    assert run(slots, Launch(SHELL, inputs=(b"echo fine",), may_exec=True, may_fork=True)).stdout == b"fine\n"


@pytest.mark.parametrize("way", ["root_namespaces", "user_namespaces"])
def test_tasks_are_counted_for_each_slot_by_itself(way: str) -> None:
    require(way)
    if way == "user_namespaces" and os.geteuid() == 0:
        pytest.skip("the kernel counts no tasks of the host's root")
    slots = Slots(profile_of(way, preload=(), drivers=(SHELL,), executable=(*LOADER, *PROGRAMS)), 2)
    many = Launch(SHELL, inputs=(COUNTED % 20,), num_tasks=8, may_exec=True, may_fork=True, limits=LIMITS)
    few = dataclasses.replace(many, inputs=(COUNTED % 4,))
    with slots.lend(2) as processes, processes[0].launch(few) as one, processes[1].launch(few) as other:
        assert one.wait().stdout == other.wait().stdout == b"started\n" * 4
    assert 2 < run(slots, many).stdout.count(b"started\n") < 8
    slots.close()


def _running(marker: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_text()
        except OSError:
            continue
        found += [command] if marker in command and "pytest" not in command else []
    return found
