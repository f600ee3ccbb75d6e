"""Memory of all processes of a job together, where control groups can be made."""

import dataclasses
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import cgroups
from sandbox.cgroups import MemoryGroup, make_group
from sandbox.native import NativeRunner
from sandbox.types import MIB, ExecutionRequest, ExecutionResult, Limits, Status

LIMITS = Limits(memory_bytes=64 * MIB, output_bytes=MIB, disk_bytes=8 * MIB)
HOG = "perl -e '$x = \"x\" x 20000000; sleep 1; print 1'"
"""Takes 40 MB."""


@pytest.fixture
def group_folder() -> Path:
    found = cgroups.parent()
    if found is None:
        pytest.skip("no right to make control groups")
    return found[0]


@pytest.fixture
def runner(group_folder: Path) -> Iterator[NativeRunner]:
    if not Path("/usr/bin/perl").exists():
        pytest.skip("needs perl")
    runner = NativeRunner(1)
    yield runner
    runner.close()
    assert list(group_folder.glob(f"sandbox-{os.getpid()}-*")) == []


def run(runner: NativeRunner, source: str) -> ExecutionResult:
    return runner.execute(ExecutionRequest(source, "bash", limits=LIMITS))


def test_one_process_may_have_all_the_memory(runner: NativeRunner) -> None:
    assert (run(runner, HOG).status, run(runner, HOG).stdout) == (Status.OK, b"1")


def test_many_processes_have_it_together(runner: NativeRunner) -> None:
    result = run(runner, f"for n in 1 2 3 4 5 6; do {HOG} & done; wait; echo end")
    assert result.status is Status.MEMORY_LIMIT, result
    assert run(runner, "echo fine").stdout == b"fine\n"


def test_a_limit_that_the_kernel_refuses_costs_no_program_its_reward(
    runner: NativeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EBUSY: what the program before has used is not all given back yet."""
    assert run(runner, "echo fine").stdout == b"fine\n"
    write, refusals = Path.write_text, [OSError(errno.EBUSY, "busy")]

    def refuse_once(path: Path, text: str) -> int:
        if path.name in ("memory.limit_in_bytes", "memory.max") and refusals:
            raise refusals.pop()
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", refuse_once)
    less = dataclasses.replace(LIMITS, memory_bytes=48 * MIB)
    assert runner.execute(ExecutionRequest("echo fine", "bash", limits=less)).stdout == b"fine\n"
    assert refusals == []


def test_what_a_killed_supervisor_left_is_removed(group_folder: Path) -> None:
    pid = os.fork()
    if pid == 0:
        make_group()
        os._exit(0)
    os.waitpid(pid, 0)
    assert list(group_folder.glob(f"sandbox-{pid}-*")) != []
    group = make_group()
    assert group is not None
    group.close()
    assert list(group_folder.glob(f"sandbox-{pid}-*")) == []


def test_the_second_version_has_other_files(tmp_path: Path) -> None:
    group = MemoryGroup(tmp_path / "group", "v2")
    group.hold(7)
    group.limit(1000)
    (tmp_path / "group" / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom 2\noom_kill 2\noom_group_kill 0\n")
    assert (tmp_path / "group" / "cgroup.procs").read_text() == "7"
    assert (tmp_path / "group" / "memory.max").read_text() == "1000"
    assert [group.has_killed(), group.has_killed()] == [True, False]
