"""Plain programs: every status, and what a program may do with its streams."""

from collections.abc import Iterator

import pytest

from sandbox.errors import LanguageUnavailable
from sandbox.runner import ProcessRunner
from sandbox.types import MIB, CallRequest, ExecutionRequest, ExecutionResult, Limits, Status

LIMITS = Limits(cpu_time_s=0.5, wall_time_s=20, memory_bytes=256 * MIB, output_bytes=MIB)


@pytest.fixture(scope="module")
def runner() -> Iterator[ProcessRunner]:
    runner = ProcessRunner(2)
    yield runner
    runner.close()


def run(runner: ProcessRunner, source: str, stdin: bytes = b"", limits: Limits = LIMITS) -> ExecutionResult:
    return runner.execute(ExecutionRequest(source=source, stdin=stdin, limits=limits))


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("print(1)", Status.OK),
        ("import sys; sys.exit(0)", Status.OK),
        ("import threading; threading.Thread(target=print).start()", Status.OK),
        ("import asyncio; asyncio.run(asyncio.sleep(0))", Status.OK),
        ("", Status.OK),
        ("raise SystemExit(3)", Status.NONZERO_EXIT),
        ("1/0", Status.NONZERO_EXIT),
        ("import os; os.fork()", Status.NONZERO_EXIT),
        ("x = '\x00'", Status.NONZERO_EXIT),
        ("\ud800", Status.NONZERO_EXIT),
        ("not python", Status.NONZERO_EXIT),
        ("import os; os.abort()", Status.SIGNALLED),
        ("import os; os.kill(os.getpid(), 15)", Status.SIGNALLED),
        ("while True: pass", Status.CPU_TIME_LIMIT),
        ("x = bytearray(10**9)", Status.MEMORY_LIMIT),
        ("x = []\nwhile True: x.append(' ' * 10**6)", Status.MEMORY_LIMIT),
        ("while True: print('x' * 1000)", Status.OUTPUT_LIMIT),
        ("import sys\nwhile True: sys.stderr.write('x' * 1000)", Status.OUTPUT_LIMIT),
        ("import ctypes; ctypes.CDLL(None).ptrace(0, 0, 0, 0)", Status.FORBIDDEN),
    ],
)
def test_status(runner: ProcessRunner, source: str, status: Status) -> None:
    assert run(runner, source).status is status


def test_sleep_hits_the_wall_limit(runner: ProcessRunner) -> None:
    result = run(runner, "import time; time.sleep(60)", limits=Limits(wall_time_s=0.5))
    assert (result.status, result.exit_code) == (Status.WALL_TIME_LIMIT, None)


def test_a_thread_bomb_is_a_process_limit(runner: ProcessRunner) -> None:
    source = "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,), daemon=True).start()"
    assert run(runner, source).status in (Status.PROCESS_LIMIT, Status.MEMORY_LIMIT)


def test_twenty_threads_are_no_bomb(runner: ProcessRunner) -> None:
    source = (
        "from concurrent.futures import ThreadPoolExecutor\nimport threading\n"
        "together = threading.Barrier(20)\n"
        "with ThreadPoolExecutor(20) as pool: print(len(list(pool.map(lambda _: together.wait(), range(20)))))"
    )
    assert run(runner, source).stdout == b"20\n"


def test_a_result_too_large_to_hand_out_is_an_output_limit(runner: ProcessRunner) -> None:
    def call(size: int) -> ExecutionResult:
        limits = Limits(memory_bytes=256 * MIB, output_bytes=MIB)
        return runner.execute(CallRequest("def zeros(n): return [0] * n", "zeros", [size], limits))

    assert call(2 * MIB // 3).status is Status.OUTPUT_LIMIT  # written `0, `
    fits = call(MIB // 4)
    assert (fits.status, fits.report) == (Status.OK, {"result": [0] * (MIB // 4)})


def test_exit_code_and_signal(runner: ProcessRunner) -> None:
    assert run(runner, "raise SystemExit(300)").exit_code == 300 & 0xFF
    aborted = run(runner, "import os; os.abort()")
    assert (aborted.exit_code, aborted.signal) == (None, 6)


def test_streams_are_bytes_for_bytes(runner: ProcessRunner) -> None:
    every_byte = bytes(range(256)) * 300
    source = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()); print('é', file=sys.stderr)"
    result = run(runner, source, every_byte)
    assert (result.stdout, result.stderr) == (every_byte, "é\n".encode())


def test_traceback_names_the_program_only(runner: ProcessRunner) -> None:
    result = run(runner, "def f():\n    return 1/0\nf()")
    expected = (
        'Traceback (most recent call last):\n  File "<program>", line 3, in <module>\n'
        '  File "<program>", line 2, in f\nZeroDivisionError: division by zero\n'
    )
    assert result.stderr.decode() == expected


def test_large_stdin_that_nobody_reads_is_fine(runner: ProcessRunner) -> None:
    assert run(runner, "print(1)", b"x" * 10 * MIB).stdout == b"1\n"
    assert run(runner, "import os; os.close(0); print(2)", b"x" * 10 * MIB).stdout == b"2\n"


def test_output_is_cut_at_the_cap_and_says_so(runner: ProcessRunner) -> None:
    result = run(runner, "import sys; sys.stdout.write('x' * 10**7)")
    assert (len(result.stdout), result.stdout_truncated, result.stderr_truncated) == (MIB, True, False)
    exact = run(runner, f"import sys; sys.stdout.write('x' * {MIB})")
    assert (exact.status, exact.stdout_truncated) == (Status.OK, False)


def test_measures(runner: ProcessRunner) -> None:
    source = "x = bytearray(100 * 2**20)\nimport time\nwhile time.process_time() < .3: pass\nprint(time.process_time())"
    result = run(runner, source, limits=Limits(memory_bytes=256 * MIB))
    own_count = float(result.stdout)
    assert own_count - 0.05 < result.cpu_time_s < own_count + 0.5
    assert result.wall_time_s > 0.25
    assert 100 * MIB < result.peak_memory_bytes < 160 * MIB


def test_is_main_and_runs_atexit(runner: ProcessRunner) -> None:
    source = "import atexit, sys\natexit.register(print, 'bye')\nif __name__ == '__main__': print(sys.argv[1:])"
    assert run(runner, source).stdout == b"[]\nbye\n"


def test_deep_recursion_has_room(runner: ProcessRunner) -> None:
    source = "import sys\nsys.setrecursionlimit(10**6)\nf = lambda n: 0 if n == 0 else 1 + f(n - 1)\nprint(f(100_000))"
    assert run(runner, source).stdout == b"100000\n"


def test_ten_megabytes_of_source(runner: ProcessRunner) -> None:
    assert run(runner, "#" * 10 * MIB + "\nprint(1)").stdout == b"1\n"


def test_the_same_program_ends_the_same_way_in_every_slot(runner: ProcessRunner) -> None:
    source = "import random\nprint(random.random(), hash('text'), {'a', 'b', 'c'})"
    with runner.slots.lend():  # so that another slot is used, and made
        first = run(runner, source)
    assert first.status is Status.OK
    assert {run(runner, source).stdout for _ in range(3)} == {first.stdout}


def test_other_languages_are_refused(runner: ProcessRunner) -> None:
    with pytest.raises(LanguageUnavailable):
        runner.execute(ExecutionRequest(source="", language="cobol"))


def test_a_dead_warm_process_is_replaced(runner: ProcessRunner) -> None:
    with runner.slots.lend() as [process]:
        process._process.kill()
        process._process.wait()
    for _ in range(4):
        assert run(runner, "print(1)").stdout == b"1\n"


def test_the_work_directory_can_be_written_and_is_empty_for_the_next(runner: ProcessRunner) -> None:
    source = "import os\nprint(os.listdir())\nopen('left', 'w').write('x')\nprint(open('/tmp/left').read())"
    for _ in range(4):
        assert run(runner, source).stdout == b"[]\nx\n"


def test_files_are_put_into_the_work_directory_and_named_as_arguments(runner: ProcessRunner) -> None:
    source = "import sys\nprint([open(name).read() for name in sys.argv[1:]])"
    request = ExecutionRequest(source=source, files={"a.txt": b"1", "b.txt": b"2"}, limits=LIMITS)
    assert runner.execute(request).stdout == b"['1', '2']\n"


def test_files_that_do_not_fit_are_no_fault_of_the_program(runner: ProcessRunner) -> None:
    limits = Limits(disk_bytes=MIB, output_bytes=4 * MIB)
    result = runner.execute(ExecutionRequest("raise SystemExit(1)", files={"big": b"x" * 2 * MIB}, limits=limits))
    assert result.status is Status.SANDBOX_ERROR
