"""A long row of programs, some hostile: afterwards the machine is as before, and every honest one was paid."""

import gc
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from sandbox.runner import ProcessRunner
from sandbox.slots import Slots
from sandbox.types import MIB, ExecutionRequest, Limits, Status
from tests.sandbox.runners import WAYS, profile_of, require

LIMITS = Limits(cpu_time_s=0.2, wall_time_s=20, memory_bytes=64 * MIB, output_bytes=MIB, disk_bytes=MIB)
HOSTILE = (
    "while True: pass",
    "x = bytearray(10**9)",
    "while True: print('x' * 10**5)",
    "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "import os; os.kill(os.getpid(), 9)",
    "import ctypes; ctypes.CDLL(None).ptrace(0, 0, 0, 0)",
    "import ctypes; ctypes.string_at(0)",
    "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
    "for n in range(9999): open(f'{n}', 'w').write('x' * 999)",
    "import os\nfor n in range(200): os.mkdir('d'); os.chdir('d')",
    "import gc\nfor x in gc.get_objects():\n    if type(x) is dict: x.clear()",
    "import os; os.close(0); os.close(1); os.close(2)",
)


SLOT_UIDS = 1_000_000_000
PLACES = ("/", "/tmp", "/var/tmp", "/dev/shm", "/run")


@dataclass(frozen=True)
class Machine:
    """What programs could leave behind; other people's doings on this machine are left out."""

    processes: int
    mounts: tuple[int, ...]
    files: frozenset[str]
    cgroups: frozenset[str]
    descriptors: int
    slot_processes: int


def look() -> Machine:
    family = psutil.Process().children(recursive=True)
    homes = [Path(f"/proc/{process.pid}") for process in family]
    files = [path for place in PLACES if os.access(place, os.R_OK) for path in Path(place).iterdir()]
    return Machine(
        processes=len(family),
        mounts=tuple(_own_mounts(home) for home in homes),
        files=frozenset(str(path) for path in files if path.parent == Path("/") or path.lstat().st_uid >= SLOT_UIDS),
        cgroups=frozenset((home / "cgroup").read_text() for home in homes),
        descriptors=len(os.listdir("/proc/self/fd")),
        slot_processes=sum(process.uids().real >= SLOT_UIDS for process in family),
    )


def _own_mounts(home: Path) -> int:
    """How many mounts a process has in a namespace of its own; 0 where it shares ours or hides them from this user."""
    try:
        shared = os.stat(home / "ns/mnt") == os.stat("/proc/self/ns/mnt")
        return 0 if shared else (home / "mounts").read_text().count("\n")
    except PermissionError:
        return 0


def memory_bytes() -> int:
    gc.collect()
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(process.memory_info().rss for process in family)


@pytest.fixture(params=WAYS)
def runner(request: pytest.FixtureRequest) -> Iterator[ProcessRunner]:
    require(request.param)
    runner = ProcessRunner(1)
    runner.slots = Slots(profile_of(request.param), 1)
    yield runner
    runner.close()


@pytest.mark.parametrize(
    ("num_programs", "num_hostile"), [(150, 20), pytest.param(1000, 100, marks=pytest.mark.soak)], ids=["150", "1000"]
)
def test_programs_in_a_row_leave_nothing(runner: ProcessRunner, num_programs: int, num_hostile: int) -> None:
    row = [HOSTILE[n % len(HOSTILE)] if n < num_hostile else "" for n in range(num_programs)]
    random.Random(0).shuffle(row)
    before = None
    for number, hostile in enumerate([*HOSTILE, *row]):
        if number == len(HOSTILE):  # each has run once: what is warmed up is warm
            before, memory_before = look(), memory_bytes()
        source = hostile or f"print({number} + int(input()))"
        result = runner.execute(ExecutionRequest(source, stdin=b"1\n", limits=LIMITS))
        assert result.status is not Status.SANDBOX_ERROR, result
        if not hostile:
            assert result.stdout == b"%d\n" % (number + 1)
    assert look() == before
    assert memory_bytes() < memory_before + 8 * MIB


def test_closing_leaves_no_process() -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    runner = ProcessRunner(2)
    runner.execute(ExecutionRequest("print(1)"))
    runner.close()
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before
