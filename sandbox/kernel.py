"""The system calls that Python has no name for, by ctypes. Every function raises OSError.

Only what the warm process needs to isolate itself and its children.
"""

import ctypes
import os
import platform

MACHINE = platform.machine()

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP = 1, 4, 22
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_SECCOMP_MODE_FILTER = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_SIGKILL = 9
_SYSLOG_READ_ALL = 3
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
_libc.syscall.argtypes = (ctypes.c_long,) * 7
_libc.syscall.restype = ctypes.c_long
_capset = _libc.capset  # looked up here, because in a child it would cost copies of pages
_MOUNT_SETATTR = 442  # on every architecture
_CAPABILITY_HEADER = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
_NO_CAPABILITIES = (ctypes.c_uint32 * 6)()


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(name: str, number: int, *words: int) -> int:
    """Pointers are given as addresses (`ctypes.addressof`)."""
    return _check(_libc.syscall(number, *words, *(0,) * (6 - len(words))), name)


def _prctl(name: str, option: int, argument: int, second: int = 0) -> None:
    _check(_libc.prctl(option, argument, second, 0, 0), name)


def set_no_new_privileges() -> None:
    _prctl("prctl(NO_NEW_PRIVS)", _PR_SET_NO_NEW_PRIVS, 1)


def die_with_parent(signum: int = _SIGKILL) -> None:
    """A signal when the parent thread ends. Cleared by a change of uid, so set it after one."""
    _prctl("prctl(PDEATHSIG)", _PR_SET_PDEATHSIG, signum)


def become_subreaper() -> None:
    _prctl("prctl(CHILD_SUBREAPER)", _PR_SET_CHILD_SUBREAPER, 1)


def hide_from_same_uid() -> None:
    """No other process of this uid may read this one's memory, environment or descriptors through /proc."""
    _prctl("prctl(DUMPABLE)", _PR_SET_DUMPABLE, 0)


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind, data)]
    _check(_libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]), f"mount {target}")


def umount(target: str) -> None:
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def pivot_root(new_root: str, put_old: str) -> None:
    _check(_libc.pivot_root(os.fsencode(new_root), os.fsencode(put_old)), "pivot_root")


def set_mount_attributes(target: str, attributes: int) -> None:
    """Set `attributes` (MOUNT_ATTR_*, the same bits as the MS_ ones above) on `target` and all below it."""
    record = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    path = ctypes.create_string_buffer(os.fsencode(target))
    words = (_AT_FDCWD, ctypes.addressof(path), _AT_RECURSIVE, ctypes.addressof(record), ctypes.sizeof(record))
    syscall("mount_setattr", _MOUNT_SETATTR, *words)


def effective_capabilities() -> int:
    """A bit for each of the first 32, by its number."""
    sets = (ctypes.c_uint32 * 6)()
    _check(_libc.capget(_CAPABILITY_HEADER, sets), "capget")
    return int(sets[0])


def drop_capabilities() -> None:
    _check(_capset(_CAPABILITY_HEADER, _NO_CAPABILITIES), "capset")


def is_gvisor() -> bool:
    """Whether the kernel that answers is gVisor's, by the log it makes up for each container."""
    log = ctypes.create_string_buffer(1 << 16)
    return _libc.klogctl(_SYSLOG_READ_ALL, log, len(log)) > 0 and b"] Starting gVisor...\n" in log.raw


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def install_filter(program: bytes) -> None:
    """Install a seccomp filter, an array of `struct sock_filter` (8 bytes each). Needs no-new-privileges."""
    record = _FilterProgram(len(program) // 8, program)
    _prctl("seccomp", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(record))
