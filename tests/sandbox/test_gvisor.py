"""gVisor in place of this host's kernel: only where both are said, what it lacks is made up for, and programs end as
elsewhere. The escape suite runs there, too, where the Docker engine has `runsc`."""

from collections.abc import Iterator

import pytest

from sandbox import kernel, slots
from sandbox.container import ContainerRunner
from sandbox.errors import CannotIsolate
from sandbox.launch import Launch
from sandbox.profiles import GVISOR_VARIABLE, Profile
from sandbox.types import AssertRequest, CallRequest, ExecutionRequest, Limits, Status
from sandbox.warm import WarmProcess
from tests.sandbox.containers import open_bare_containers
from tests.sandbox.runners import require


@pytest.mark.parametrize(("inside", "accepted"), [(True, ""), (False, "1")])
def test_gvisor_and_the_setting_come_together(monkeypatch: pytest.MonkeyPatch, inside: bool, accepted: str) -> None:
    monkeypatch.setattr(kernel, "is_gvisor", lambda: inside)
    monkeypatch.setattr(slots, "_level_found", None)
    monkeypatch.setenv(GVISOR_VARIABLE, accepted)
    with pytest.raises(CannotIsolate, match=GVISOR_VARIABLE):
        slots.open_warm_process(Profile(preload=()))


def test_this_host_is_not_gvisor() -> None:
    assert not kernel.is_gvisor()


@pytest.fixture(scope="module")
def watched_without_pidfds() -> Iterator[WarmProcess]:
    """On this host's kernel."""
    require("user_namespaces")
    process = WarmProcess(Profile(preload=()), slots.GVISOR)
    yield process
    process.close()


@pytest.mark.parametrize(
    ("source", "limits", "stopped_for", "stdout"),
    [
        (b"print(1)", Limits(), None, b"1\n"),
        (b"while True: pass", Limits(cpu_time_s=0.2, wall_time_s=60), Status.CPU_TIME_LIMIT, b""),
        (b"import time; time.sleep(60)", Limits(wall_time_s=0.3), Status.WALL_TIME_LIMIT, b""),
    ],
)
def test_a_program_is_watched_without_pidfds(
    watched_without_pidfds: WarmProcess, source: bytes, limits: Limits, stopped_for: Status | None, stdout: bytes
) -> None:
    with watched_without_pidfds.launch(Launch(inputs=(source,), limits=limits)) as running:
        ended = running.wait()
    assert (ended.stopped_for, ended.stdout) == (stopped_for, stdout)


def test_what_is_left_running_is_killed_without_pidfds(watched_without_pidfds: WarmProcess) -> None:
    for _ in range(3):
        with watched_without_pidfds.launch(Launch(inputs=(b"while True: pass",))) as running:
            running.kill()
    with watched_without_pidfds.launch(slots.CANARY) as running:
        assert running.wait().stdout == b"canary\n"


@pytest.fixture(scope="module")
def runner() -> Iterator[ContainerRunner]:
    with open_bare_containers(1, "runsc") as runner:
        yield runner


@pytest.mark.docker
def test_calls_and_assert_tests_cross(runner: ContainerRunner) -> None:
    called = runner.execute(CallRequest("def double(x): return 2 * x", "double", [21]))
    assert called.report is not None
    assert called.report["result"] == 42
    checked = runner.execute(AssertRequest("def double(x): return 2 * x", "assert double(21) == 42"))
    assert checked.status is Status.OK


@pytest.mark.docker
def test_a_shell_cannot_end_its_warm_process(runner: ContainerRunner) -> None:
    """gVisor would let the first process of a namespace be killed from inside."""
    result = runner.execute(ExecutionRequest("kill -9 1; kill -9 $PPID; kill -9 -1; echo lives", "bash"))
    assert (result.status, result.stdout) == (Status.OK, b"lives\n")


@pytest.mark.docker
def test_what_a_shell_leaves_behind_ends(runner: ContainerRunner) -> None:
    left = runner.execute(ExecutionRequest("(sleep 60; echo late) & sleep 60 & echo done", "bash"))
    assert (left.status, left.stdout) == (Status.OK, b"done\n")
    assert left.wall_time_s < 30


@pytest.mark.docker
def test_harmless_devices_take_what_is_written(runner: ContainerRunner) -> None:
    result = runner.execute(ExecutionRequest("print(open('/dev/null', 'w').write('x'))"))
    assert result.stdout == b"1\n"
