"""Isolated functions: values cross, limits hold, deaths are statuses, poison does not outlive a forked call."""

from collections.abc import Iterator

import pytest

from sandbox.function import IsolatedProcess, open_isolated
from sandbox.types import MIB, Limits, Status

TARGET = "tests.sandbox.targets:evaluate"


@pytest.fixture(scope="module", params=[False, True], ids=["one_child", "fork_per_call"])
def evaluate(request: pytest.FixtureRequest) -> Iterator[IsolatedProcess]:
    function = open_isolated(TARGET, limits=Limits(cpu_time_s=2), fork_per_call=request.param)
    yield function
    function.close()


def test_value_crosses(evaluate: IsolatedProcess) -> None:
    result = evaluate.call("[1, 'ü', None]")
    assert (result.status, result.value) == (Status.OK, [1, "ü", None])


def test_an_exception_is_told(evaluate: IsolatedProcess) -> None:
    result = evaluate.call("1/0")
    assert result.status is Status.NONZERO_EXIT
    assert result.detail == "ZeroDivisionError: division by zero"


def test_large_values_cross(evaluate: IsolatedProcess) -> None:
    assert evaluate.call("'x' * 3_000_000").value == "x" * 3_000_000
    assert evaluate.call("len(%r)" % ("y" * 2_000_000)).value == 2_000_000


def test_endless_call_hits_its_own_cpu_limit(evaluate: IsolatedProcess) -> None:
    result = evaluate.call("sum(1 for _ in iter(int, 1))", limits=Limits(cpu_time_s=0.3))
    assert result.status is Status.CPU_TIME_LIMIT
    assert evaluate.call("1").value == 1


def test_cpu_seconds_count_from_dispatch(evaluate: IsolatedProcess) -> None:
    """Three calls of 0.3 s pass under a limit of 0.8 s a call."""
    for _ in range(3):
        assert evaluate.call("burn(0.3)", limits=Limits(cpu_time_s=0.8)).status is Status.OK


def test_sleep_hits_the_wall_limit(evaluate: IsolatedProcess) -> None:
    limits = Limits(cpu_time_s=1, wall_time_s=0.3)
    assert evaluate.call("__import__('time').sleep(60)", limits=limits).status is Status.WALL_TIME_LIMIT


def test_memory_limit(evaluate: IsolatedProcess) -> None:
    result = evaluate.call("[0] * 10**8", limits=Limits(memory_bytes=256 * MIB))
    assert result.status is Status.MEMORY_LIMIT
    assert evaluate.call("1").value == 1


def test_death_is_a_status_and_the_next_call_works(evaluate: IsolatedProcess) -> None:
    assert evaluate.call("__import__('os')._exit(3)").status is Status.NONZERO_EXIT
    assert evaluate.call("__import__('os').abort()").status is Status.SIGNALLED
    assert evaluate.call("1").value == 1


def test_forbidden_call(evaluate: IsolatedProcess) -> None:
    assert evaluate.call("__import__('ctypes').CDLL(None).ptrace(0, 0, 0, 0)").status is Status.FORBIDDEN


@pytest.mark.parametrize("forged", ["abc", "[]", "[1, 2, 3, 4]", '[{"error": 1}, "x", 0, 0]', "[" * 99_999])
def test_an_answer_that_is_forged_breaks_nothing_here(evaluate: IsolatedProcess, forged: str) -> None:
    frame = len(forged).to_bytes(4, "big") + forged.encode()
    assert evaluate.call(f"__import__('os').write(4, {frame!r})").status is Status.FORBIDDEN
    assert evaluate.call("1").value == 1


def test_nothing_of_the_host_can_be_read(evaluate: IsolatedProcess) -> None:
    for path in ("/etc/shadow", "/proc/self/environ", "/etc/hostname"):
        assert evaluate.call(f"open({path!r}).read()").status is Status.NONZERO_EXIT


def test_poison_does_not_outlive_a_forked_call() -> None:
    function = open_isolated(TARGET, fork_per_call=True)
    try:
        function.call("setattr(__import__('builtins'), 'len', lambda x: 42)", limits=Limits(wall_time_s=0.5))
        assert function.call("len([1])").value == 1
    finally:
        function.close()
