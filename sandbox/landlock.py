"""Landlock: what a sandboxed process may open, by an allow-list; no TCP; signals and abstract sockets stay inside.

The rule set is built once in the warm process and enforced by each child. Rights are negotiated with the kernel's ABI
(1: Linux 5.13 ... 6: signal scope, Linux 6.12); see https://docs.kernel.org/userspace-api/landlock.html
"""

import contextlib
import ctypes
import os
from collections.abc import Iterable

from sandbox import kernel

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL_DEV = 1, 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_ABI_1 = (1 << 13) - 1
_REFER = 1 << 13
_NET_TCP = 0b11
ABI_OF_SIGNALS = 6
_SCOPE_ABSTRACT_UNIX_AND_SIGNAL = 0b11


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def abi() -> int:
    """The kernel's Landlock ABI; 0 where there is none."""
    try:
        return kernel.syscall("landlock", _CREATE_RULESET, 0, 0, _VERSION_FLAG)
    except OSError:
        return 0


def _filesystem_rights(version: int) -> int:
    rights = _ABI_1
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        if version >= since:
            rights |= right
    return rights


def create_ruleset(readable: Iterable[str], writable: Iterable[str], executable: Iterable[str]) -> int:
    """A rule-set descriptor: read below `readable`, everything but execute below `writable`, read and execute below
    `executable`. Paths that do not exist are left out. Raises OSError where there is no Landlock."""
    version = abi()
    handled = _filesystem_rights(version)
    scoped = _SCOPE_ABSTRACT_UNIX_AND_SIGNAL if version >= ABI_OF_SIGNALS else 0
    rules = _Ruleset(handled, _NET_TCP if version >= 4 else 0, scoped)
    size = 24 if scoped else 16 if version >= 4 else 8
    ruleset = kernel.syscall("landlock_create_ruleset", _CREATE_RULESET, ctypes.addressof(rules), size, 0)
    grants = ((readable, _READ_FILE | _READ_DIR), (executable, _READ_FILE | _READ_DIR | _EXECUTE))
    for paths, rights in (*grants, (writable, handled & ~_EXECUTE)):
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                _allow(ruleset, path, rights & handled)
    return ruleset


def _allow(ruleset: int, path: str, rights: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        allowed = rights if os.path.isdir(path) else rights & _FILE_RIGHTS
        rule = _PathBeneath(allowed, parent)
        kernel.syscall("landlock_add_rule", _ADD_RULE, ruleset, _PATH_BENEATH, ctypes.addressof(rule), 0)
    finally:
        os.close(parent)


def enforce(ruleset: int) -> None:
    """From here on this process and what it starts live under `ruleset`. Needs no-new-privileges."""
    kernel.syscall("landlock_restrict_self", _RESTRICT_SELF, ruleset, 0)
