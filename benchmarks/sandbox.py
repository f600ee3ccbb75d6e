"""CPU time of a sandboxed program, over the supervisor and all its descendants, as a ratio to bare Python.

    python benchmarks/sandbox.py [--rounds 5] [--programs 200]

Each cell is the slope between a short and a long run in a process of its own, so that start-up is not in it; rounds of
all cells are interleaved and the median is told. Programs a second: `--slots` threads, wall time, printed last.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path[0] = str(Path(__file__).parent.parent)  # in place of this folder, whose sandbox.py would hide the package

from sandbox.container import ContainerRunner, open_container_runner  # noqa: E402
from sandbox.runner import open_runner  # noqa: E402
from sandbox.types import ExecutionRequest  # noqa: E402

BARE = "/usr/bin/python3"
BINARY = os.path.join(tempfile.gettempdir(), f"compiled-{os.getpid()}")
NUMPY_PYTHON = sys.executable
TRIVIAL = "print(1)"
IMPORTS = (
    "import sys, os, math, re, json, random, collections, itertools, functools, heapq, bisect, string, datetime, "
    "decimal, statistics\nprint(1)"
)
NUMPY = "import numpy as np\nprint(np.arange(10).sum())"
TEST = "n = int(input())\nprint(sum(map(int, input().split())) + n)"
COMPILED = '#include <cstdio>\nint main() { puts("1"); }'
COMPILED_TARGET_MS = 3.0
NUM_TESTS = 50
HOST_PYTHON = {"/usr": {"bind": "/usr", "mode": "ro"}, "/etc/ld.so.cache": {"bind": "/etc/ld.so.cache", "mode": "ro"}}
"""For an image of empty folders; images that have a Python of their own are not disturbed by it."""
CELLS = {
    "bare print(1)": ([BARE, "-I", "-S", "-c"], TRIVIAL),
    "sandboxed print(1)": (None, TRIVIAL),
    "bare 15 imports": ([BARE, "-I", "-S", "-c"], IMPORTS),
    "sandboxed 15 imports": (None, IMPORTS),
    "bare numpy": ([NUMPY_PYTHON, "-c"], NUMPY),
    "sandboxed numpy": (None, NUMPY),
    "sandboxed test": (None, TEST),
    "bare compiled": ([BINARY], ""),
    "sandboxed compiled": (None, COMPILED),
}
TARGETS = (
    ("print(1)", "sandboxed print(1)", "bare print(1)", 0.45),
    ("15 imports", "sandboxed 15 imports", "bare 15 imports", 0.2),
    ("numpy", "sandboxed numpy", "bare numpy", 0.08),
    (f"{NUM_TESTS} tests", f"sandboxed {NUM_TESTS} tests", "sandboxed test", 55),
)


def cpu_s() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in usage)


def run_bare(command: list[str], source: str, times: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for _ in range(times):
        actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1)]
        pid = os.posix_spawn(command[0], [*command, source], {"PATH": "/usr/bin"}, file_actions=actions)
        assert os.waitpid(pid, 0)[1] == 0


def run_sandboxed(source: str, times: int) -> None:
    runner = open_runner(num_slots=1)
    for _ in range(times):
        language = "cpp" if source == COMPILED else "python"
        result = runner.execute(ExecutionRequest(source, language, stdin=b"3\n1 2 3\n"))
        assert result.stdout.strip(), result
    runner.close()


def in_a_process(cell: str, times: int) -> float:
    """CPU seconds of `times` programs of `cell`, start-up included."""
    command, source = CELLS[cell]
    pid = os.fork()
    if pid == 0:
        if command is None:
            run_sandboxed(source, times)
        else:
            run_bare(command, source, times)
        os._exit(0)
    _, status, usage = os.wait4(pid, 0)
    assert status == 0, cell
    return usage.ru_utime + usage.ru_stime


def slope_s(cell: str, programs: int) -> float:
    few = max(programs // 10, 2)
    return (in_a_process(cell, programs + few) - in_a_process(cell, few)) / programs


def container_ratio(image: str, programs: int) -> float:
    """CPU of a trivial program in a warm container (all in the container, and ours here) over the same by process."""
    runner = open_container_runner(image, 1, volumes=HOST_PYTHON)
    for _ in range(20):
        runner.execute(ExecutionRequest(TRIVIAL))
    before = cpu_s() + contained_cpu_s(runner)
    for _ in range(programs):
        runner.execute(ExecutionRequest(TRIVIAL))
    spent_s = cpu_s() + contained_cpu_s(runner) - before
    runner.close()
    return spent_s / programs / slope_s("sandboxed print(1)", programs)


def contained_cpu_s(runner: ContainerRunner) -> float:
    return sum(
        container._container.stats(stream=False)["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9
        for container in runner._containers._free
        if container is not None
    )


def throughput(num_slots: int, programs: int) -> float:
    runner = open_runner(num_slots=num_slots)
    request = ExecutionRequest(TRIVIAL)
    with ThreadPoolExecutor(num_slots) as pool:
        list(pool.map(runner.execute, [request] * 20))
        started = time.perf_counter()
        list(pool.map(runner.execute, [request] * programs))
        per_second = programs / (time.perf_counter() - started)
    runner.close()
    return per_second


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--programs", type=int, default=200)
    parser.add_argument("--image", help="an image for the Docker runner, measured too where one is named")
    options = parser.parse_args()
    if options.image:
        print(f"Docker runner over process runner: {container_ratio(options.image, options.programs):.2f}")
    subprocess.run(["g++", "-O2", "-static", "-x", "c++", "-", "-o", BINARY], input=COMPILED, text=True, check=True)
    samples: dict[str, list[float]] = {cell: [] for cell in CELLS}
    many = f"sandboxed {NUM_TESTS} tests"
    samples[many] = []
    for _ in range(options.rounds):
        for cell in CELLS:
            samples[cell].append(slope_s(cell, options.programs))
        samples[many].append(slope_s("sandboxed test", 2 * NUM_TESTS) * NUM_TESTS)
    table = Table("cell", "CPU ms a program, median", "lowest")
    for cell, values in samples.items():
        table.add_row(cell, f"{1000 * statistics.median(values):.2f}", f"{1000 * min(values):.2f}")
    ratios = Table("what", "ratio", "target", "met")
    for what, ours, base, target in TARGETS:
        ratio = statistics.median(a / b for a, b in zip(samples[ours], samples[base], strict=True))
        ratios.add_row(what, f"{ratio:.3f}", f"<= {target}", "yes" if ratio <= target else "no")
    console = Console()
    console.print(table, ratios)
    over_ms = [1000 * (a - b) for a, b in zip(samples["sandboxed compiled"], samples["bare compiled"], strict=True)]
    console.print(f"compiled: {statistics.median(over_ms):.2f} ms over bare (target {COMPILED_TARGET_MS})")
    os.unlink(BINARY)
    for slots in (1, 2):
        console.print(f"print(1) with {slots} slots: {throughput(slots, options.programs):.0f} programs a second")


if __name__ == "__main__":
    main()
