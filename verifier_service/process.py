"""Process plumbing that the standard library lacks."""

import os
import signal
from typing import NamedTuple

from sandbox import kernel

_TICKS, _PAGE_BYTES = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


def die_with_parent(signum: signal.Signals, parent_pid: int) -> None:
    """Have the kernel send this process a signal when its parent dies; at once if it already has."""
    kernel.die_with_parent(signum)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signum)


class Usage(NamedTuple):
    """What the kernel has counted of a process."""

    cpu_s: float
    reaped_cpu_s: float
    """Of its children that have ended, and of theirs."""
    memory_bytes: int
    """Resident."""


def usage(pid: int) -> Usage:
    """In one read, of a process that lives or is not yet waited for. Raises OSError."""
    with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
        # The name stands in parentheses and may hold anything, parentheses too.
        fields = file.read(2048).rpartition(b")")[2].split()
    user, system, reaped_user, reaped_system = map(int, fields[11:15])
    return Usage((user + system) / _TICKS, (reaped_user + reaped_system) / _TICKS, int(fields[21]) * _PAGE_BYTES)


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process, of its descendants and of those that have ended; 0 for one that is gone."""
    try:
        own = usage(pid)
        with open(f"/proc/{pid}/task/{pid}/children", "rb", buffering=0) as file:
            children = file.read(65536).split()
    except OSError:
        return 0.0
    return own.cpu_s + own.reaped_cpu_s + sum(tree_cpu_s(int(child)) for child in children)
