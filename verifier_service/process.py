"""Process plumbing that the standard library lacks."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(signum: signal.Signals, parent_pid: int) -> None:
    """Have the kernel send this process a signal when its parent dies; at once if it already has."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signum)
