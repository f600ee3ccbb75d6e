"""One memory limit over all processes of a slot, where this process may make control groups.

Version 1: below our own group of the `memory` controller. Version 2: below our own group, where its owner has delegated
memory to us (`memory` in its `cgroup.subtree_control`). See https://docs.kernel.org/admin-guide/cgroup-v2.html
"""

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from sandbox.errors import RunnerLost

# The file of the limit, and that which counts the processes killed at it.
_FILES = {"v1": ("memory.limit_in_bytes", "memory.oom_control"), "v2": ("memory.max", "memory.events")}
_NUMBERS = itertools.count()
_PREFIX = "sandbox-"
_DEATH_TIMEOUT_S = 2.0


class MemoryGroup:
    """A group of ours. Where the kernel refuses (a limit below what is in use, a group that is gone) methods raise
    `RunnerLost`: the next warm process has a new group."""

    def __init__(self, folder: Path, version: str) -> None:
        self._folder = folder
        self._limit, self._events = (folder / name for name in _FILES[version])
        self._limit_bytes = 0
        self._num_killed = 0
        with _kernel_willing():
            folder.mkdir()

    def hold(self, pid: int) -> None:
        """This process, and what it will start."""
        with _kernel_willing():
            (self._folder / "cgroup.procs").write_text(str(pid))

    def limit(self, size_bytes: int) -> None:
        if size_bytes != self._limit_bytes:
            with _kernel_willing():
                self._limit.write_text(str(size_bytes))
            self._limit_bytes = size_bytes

    def has_killed(self) -> bool:
        """Whether the kernel has killed processes at the limit since this was asked before."""
        with _kernel_willing():
            words = self._events.read_text().split()
        before, self._num_killed = self._num_killed, int(words[words.index("oom_kill") + 1])
        return self._num_killed > before

    def close(self) -> None:
        deadline = time.monotonic() + _DEATH_TIMEOUT_S
        while not _remove(self._folder) and time.monotonic() < deadline:
            time.sleep(0.005)


@contextlib.contextmanager
def _kernel_willing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunnerLost(f"the control group: {error}") from None


def make_group() -> MemoryGroup | None:
    """A new group; None where there is no right to make one."""
    found = parent()
    if found is None:
        return None
    folder, version = found
    for left in folder.glob(f"{_PREFIX}*-*"):  # of supervisors that were killed
        if not os.path.exists(f"/proc/{left.name.split('-')[1]}"):
            _remove(left)
    return MemoryGroup(folder / f"{_PREFIX}{os.getpid()}-{next(_NUMBERS)}", version)


@cache
def parent() -> tuple[Path, str] | None:
    """The folder below which groups can be made, and its version: found out by making one."""
    for mount in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = mount.split()
        version = {"cgroup": "v1", "cgroup2": "v2"}.get(kind)
        if version is None or (version == "v1" and "memory" not in options.split(",")):
            continue
        folder = _own_group(Path(place), version)
        with contextlib.suppress(OSError, RunnerLost):
            if version == "v2" and "memory" not in (folder / "cgroup.subtree_control").read_text().split():
                continue
            group = MemoryGroup(folder / f"{_PREFIX}{os.getpid()}-try", version)
            group.limit(1 << 30)
            group.close()
            return folder, version
    return None


def _own_group(mount: Path, version: str) -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if ("memory" in controllers.split(",")) if version == "v1" else not controllers:
            own = mount / path.lstrip("/")
            return own if own.is_dir() else mount  # a container sees its own group as the root
    return mount


def _remove(folder: Path) -> bool:
    """False where something still runs in it."""
    try:
        folder.rmdir()
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    return True
