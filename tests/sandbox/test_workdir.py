"""A work directory mounted beforehand, as in a container: writable, sized, empty for each, one slot each."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import languages
from sandbox.launch import Ended, Launch
from sandbox.profiles import WORK_DIRS_VARIABLE
from sandbox.slots import Slots
from sandbox.types import MIB
from sandbox.warm import WarmProcess
from tests.sandbox.runners import SHARED_UID, profile_of, require

MOUNT = "mount -t tmpfs -o size=2m,mode=1777,nr_inodes=500 none"


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "slot"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run([*MOUNT.split(), str(folder)], check=False).returncode:
        pytest.skip("no right to mount")
    for parent in folder.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/") and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    monkeypatch.setenv(WORK_DIRS_VARIABLE, f"/nowhere:{tmp_path}:{folder}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(params=["landlock", SHARED_UID])
def slots(request: pytest.FixtureRequest, mounted: Path) -> Iterator[Slots]:
    require(request.param)
    slots = Slots(profile_of(request.param), 2)
    yield slots
    slots.close()


def run(slots: Slots, source: str) -> Ended:
    ended = slots.run_fairly(Launch(inputs=(source.encode(),)))
    assert ended is not None
    return ended


def test_is_the_current_directory_and_sized(slots: Slots, mounted: Path) -> None:
    assert run(slots, "import os; print(os.getcwd())").stdout.decode().strip() == str(mounted)
    filled = run(slots, "open('a', 'wb').write(b'x' * 3 * 2**20)")
    assert b"No space left" in filled.stderr


@pytest.mark.parametrize("declared", [False, True])
def test_languages_that_need_one_are_listed_where_there_is_one(monkeypatch: pytest.MonkeyPatch, declared: bool) -> None:
    require("landlock")
    monkeypatch.setattr(languages, "toolchains", lambda: {"c": None})
    monkeypatch.setattr(languages, "open_warm_process", lambda profile: WarmProcess(profile, "landlock"))
    monkeypatch.setenv(WORK_DIRS_VARIABLE, "/slots/0" if declared else "")
    languages._programs_can_write.cache_clear()
    assert languages.available_languages() == (("python", "c") if declared else ("python",))
    monkeypatch.undo()
    languages._programs_can_write.cache_clear()


def test_is_empty_for_the_next(slots: Slots, mounted: Path) -> None:
    nest = "import os\nfor n in range(300):\n    open('f', 'w').write('x'); os.mkdir('d'); os.chdir('d')"
    assert b"No space" in run(slots, nest).stderr
    assert run(slots, "import os; print(os.listdir())").stdout == b"[]\n"
    assert run(slots, "import os; os.symlink('/etc', 'l'); os.mkdir('z'); os.mkfifo('p')").stderr == b""
    assert run(slots, "import os; print(os.listdir())").stdout == b"[]\n"
    assert run(slots, f"open('a', 'wb').write(b'x' * {MIB})").stderr == b""


@pytest.mark.parametrize(
    "leave",
    [
        "os.makedirs('\U0001f600' * 63 + '/below')",
        "os.makedirs('x' * 255 + '/' + 'y' * 255)",
        "os.makedirs('a/b'); os.mkdir('a/closed', 0); os.mkdir('closed', 0)",
        "os.makedirs('d/x'); os.makedirs('.0.0.d/y')",
    ],
    ids=["long_name", "longest_names", "closed_folders", "names_of_ours"],
)
def test_no_left_over_keeps_the_next_program_from_starting(slots: Slots, mounted: Path, leave: str) -> None:
    assert run(slots, f"import os; {leave}").stderr == b""
    assert run(slots, "import os; print(os.listdir())").stdout == b"[]\n"


def test_what_a_program_leaves_takes_no_memory_until_the_next(slots: Slots, mounted: Path) -> None:
    assert run(slots, f"open('a', 'wb').write(b'x' * {MIB})").stderr == b""
    deadline = time.monotonic() + 60
    while list(mounted.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_left_overs_of_an_earlier_warm_process_are_no_hindrance(slots: Slots, mounted: Path) -> None:
    assert run(slots, "import os; os.makedirs('a/b'); open('a/c', 'w').close()").stderr == b""
    slots.close()  # the next one may draw another uid
    assert run(slots, "import os; print(os.listdir())").stdout == b"[]\n"


def test_a_disk_that_a_neighbour_filled_is_tried_again_alone(slots: Slots, mounted: Path) -> None:
    launch = Launch(inputs=(b"open('a', 'wb').write(b'x' * 2**20); print('done')",))
    attempts: list[int] = []

    def run_beside_a_neighbour(processes: list[WarmProcess]) -> Ended:
        attempts.append(len(processes))
        size = "10k" if len(attempts) == 1 else "2m"
        subprocess.run(["mount", "-o", f"remount,size={size}", str(mounted)], check=True)
        [running] = [process.launch(launch) for process in processes if process.hello["work_dir"]]
        with running:
            return running.wait()

    ended = slots.fairly(run_beside_a_neighbour)
    assert ended is not None
    assert (ended.stdout, attempts) == (b"done\n", [1, 1])


def test_a_program_that_is_run_again_alone_takes_no_further_slot(slots: Slots, mounted: Path) -> None:
    """There are as many as warm processes that work at once; one more would leave another without."""
    ended = slots.run_fairly(Launch(inputs=(b"import os; os.kill(os.getpid(), 9)",)))
    assert ended is not None
    assert [one is None for one in slots._free].count(True) == 1


def test_two_slots_never_share_one(slots: Slots, mounted: Path) -> None:
    with slots.lend(2) as processes:
        assert sorted(process.hello["work_dir"] or "none" for process in processes) == sorted([str(mounted), "none"])
