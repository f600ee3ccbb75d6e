"""The system-call filter of a sandboxed process, as classic BPF built here byte by byte.

Three answers: KILL for what only an attack asks for (the program ends with SIGSYS, status `forbidden`), EPERM for what
honest code may try and survive (a socket, a fork), ENOSYS for what libraries probe and have a fallback for (clone3,
io_uring, everything newer than the table). What is left is allowed. Threads work: clone is allowed with CLONE_THREAD.

Layout of `struct seccomp_data`, which the filter reads: nr at 0, arch at 4, six 64-bit arguments from 16 on.
"""

import errno
import functools
import struct

from sandbox.kernel import MACHINE

_LOAD, _JUMP_EQ, _JUMP_GE, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
_CLONE_THREAD, _CLONE_NEW_ANYTHING, _AF_UNIX = 0x10000, 0x7E020000, 1
_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_ANY_PID = 0xFEEDC0DE  # no such pid, and nothing else in a filter has these bytes

Calls = dict[str, tuple[int | None, int | None]]


def _calls(table: str) -> Calls:
    """`name x86_64 aarch64, ...`, with `-` where an architecture has no such call."""
    rows = (row.split() for row in table.split(","))
    return {name: (_number(x86_64), _number(aarch64)) for name, x86_64, aarch64 in rows}


def _number(text: str) -> int | None:
    return None if text == "-" else int(text)


# name: (x86_64, aarch64); from 424 on the numbers are the same everywhere.
_KILLED = _calls(
    """
    ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, bpf 321 280, userfaultfd 323 282,
    perf_event_open 298 241, add_key 248 217, request_key 249 218, keyctl 250 219, mount 165 40, umount2 166 39,
    pivot_root 155 41, chroot 161 51, unshare 272 97, setns 308 268, kcmp 312 272, name_to_handle_at 303 264,
    open_by_handle_at 304 265, init_module 175 105, finit_module 313 273, delete_module 176 106, kexec_load 246
    104, kexec_file_load 320 294, reboot 169 142, swapon 167 224, swapoff 168 225, acct 163 89, settimeofday 164
    170, clock_settime 227 112, sethostname 170 161, setdomainname 171 162, quotactl 179 60, syslog 103 116, iopl
    172 -, ioperm 173 -, modify_ldt 154 -, vhangup 153 58, move_pages 279 239, migrate_pages 256 238,
    fanotify_init 300 262, pidfd_getfd 438 438
    """
)
_REFUSED = _calls(
    """
    socket 41 198, connect 42 203, bind 49 200, listen 50 201, accept 43 202, accept4 288 242, sendmsg 46 211,
    sendmmsg 307 269, memfd_create 319 279, shmget 29 194, semget 64 190, msgget 68 186, mq_open 240 180, splice
    275 76, tee 276 77, vmsplice 278 75, personality 135 92, setpriority 141 140, ioprio_set 251 30, tkill 200
    130, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240
    """
)
# Landlock holds none of these; where the host's files are in sight, and perhaps this uid's, nothing may change them.
_METADATA = _calls(
    """
    chmod 90 -, fchmod 91 52, fchmodat 268 53, fchmodat2 452 452, chown 92 -, fchown 93 55, lchown 94 -, fchownat
    260 54, utime 132 -, utimes 235 -, futimesat 261 -, utimensat 280 88, setxattr 188 5, lsetxattr 189 6,
    fsetxattr 190 7, removexattr 197 14, lremovexattr 198 15, fremovexattr 199 16, truncate 76 45
    """
)
_FORKS: Calls = {"fork": (57, None), "vfork": (58, None)}
_EXECS: Calls = {"execve": (59, 221), "execveat": (322, 281)}
_CLONE, _CLONE3 = (56, 220), 435
_SOCKETPAIR, _SENDTO = (53, 199), (44, 206)
_TO_SELF = {"kill": (62, 129), "tgkill": (234, 131)}
# These take the pid of another process of the same uid first; only 0, the caller, is let through.
_PID_ZERO = {
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}
# (call, which argument, values refused): signals by way of a descriptor's owner, typing into a terminal, leash off.
_VALUE_REFUSED = (
    ((72, 25), 1, (8, 15)),  # fcntl F_SETOWN, F_SETOWN_EX
    ((16, 29), 1, (0x8901, 0x8902, 0x5412)),  # ioctl FIOSETOWN, SIOCSPGRP, TIOCSTI
    ((157, 167), 0, (1,)),  # prctl PR_SET_PDEATHSIG
)
_FIRST_COMMON = 424
# close_range, openat2, faccessat2, epoll_pwait2, futex_waitv, fchmodat2, futex_wake/wait/requeue, mseal
_COMMON_ALLOWED = (436, 437, 439, 441, 449, 452, 454, 455, 456, 462)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value & 0xFFFFFFFF)


def _argument(index: int) -> int:
    return 16 + 8 * index


def _on(number: int, block: list[bytes]) -> list[bytes]:
    """`block` (which always returns) where the call is `number`, which is in the accumulator; else fall through."""
    return [_instruction(_JUMP_EQ, number, 0, len(block)), *block]


def _only_value(index: int, value: int) -> list[bytes]:
    """Allow where argument `index` (its low half) is `value`, else EPERM."""
    return [
        _instruction(_LOAD, _argument(index)),
        _instruction(_JUMP_EQ, value, 0, 1),
        _instruction(_RETURN, _ALLOW),
        _instruction(_RETURN, _EPERM),
    ]


def _null_pointer(index: int) -> list[bytes]:
    return [
        _instruction(_LOAD, _argument(index)),
        _instruction(_JUMP_EQ, 0, 0, 3),
        _instruction(_LOAD, _argument(index) + 4),
        _instruction(_JUMP_EQ, 0, 0, 1),
        _instruction(_RETURN, _ALLOW),
        _instruction(_RETURN, _EPERM),
    ]


def _none_of(index: int, values: tuple[int, ...]) -> list[bytes]:
    block = [_instruction(_LOAD, _argument(index))]
    for position, value in enumerate(values):
        block.append(_instruction(_JUMP_EQ, value, len(values) - position, 0))
    return [*block, _instruction(_RETURN, _ALLOW), _instruction(_RETURN, _EPERM)]


def _only_threads() -> list[bytes]:
    return [
        _instruction(_LOAD, _argument(0)),
        _instruction(_JUMP_SET, _CLONE_THREAD, 0, 1),
        _instruction(_RETURN, _ALLOW),
        _instruction(_RETURN, _EPERM),
    ]


def _no_namespaces() -> list[bytes]:
    return [
        _instruction(_LOAD, _argument(0)),
        _instruction(_JUMP_SET, _CLONE_NEW_ANYTHING, 0, 1),
        _instruction(_RETURN, _EPERM),
        _instruction(_RETURN, _ALLOW),
    ]


def _table(column: int, allow_exec: bool, allow_fork: bool, allow_metadata: bool) -> dict[int, list[bytes]]:
    """Call number -> what to do with it."""
    refused = _REFUSED | ({} if allow_exec else _EXECS) | ({} if allow_fork else _FORKS)
    refused |= {} if allow_metadata else _METADATA
    table = {numbers[column]: [_instruction(_RETURN, _KILL)] for numbers in _KILLED.values()}
    table |= {numbers[column]: [_instruction(_RETURN, _EPERM)] for numbers in refused.values()}
    table |= {numbers[column]: _only_value(0, 0) for numbers in _PID_ZERO.values()}
    table |= {numbers[column]: _none_of(index, values) for numbers, index, values in _VALUE_REFUSED}
    table[_SOCKETPAIR[column]] = _only_value(0, _AF_UNIX)  # asyncio's own wake-up pipe
    table[_SENDTO[column]] = _null_pointer(4)
    table[_CLONE[column]] = _no_namespaces() if allow_fork else _only_threads()
    return {number: block for number, block in table.items() if number is not None}


@functools.cache
def _for_any_pid(allow_exec: bool, allow_fork: bool, allow_metadata: bool) -> bytes:
    """The whole filter, with `_ANY_PID` where the process's own goes."""
    column = ("x86_64", "aarch64").index(MACHINE)
    table: dict[int, list[bytes]] = {}
    if not allow_fork:
        table |= {numbers[column]: _only_value(0, _ANY_PID) for numbers in _TO_SELF.values()}
    elif not allow_metadata:  # gVisor lets the first process of a namespace be killed from inside, Linux does not
        table |= {numbers[column]: _none_of(0, (1,)) for numbers in _TO_SELF.values()}
    table |= {number: [_instruction(_RETURN, _ALLOW)] for number in _COMMON_ALLOWED}
    table |= _table(column, allow_exec, allow_fork, allow_metadata)
    program = [
        _instruction(_LOAD, 4),
        _instruction(_JUMP_EQ, _ARCHITECTURE[MACHINE], 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, 0),
        _instruction(_JUMP_GE, _X32_BIT, 0, 1),
        _instruction(_RETURN, _KILL),
        *(instruction for number, block in table.items() for instruction in _on(number, block)),
        _instruction(_JUMP_GE, _FIRST_COMMON, 0, 1),
        _instruction(_RETURN, _ENOSYS),
        _instruction(_RETURN, _ALLOW),
    ]
    return b"".join(program)


def supported() -> bool:
    return MACHINE in _ARCHITECTURE


def prepare(*, allow_metadata: bool) -> None:
    """In the warm process, once: what is slow about building, for every kind of job."""
    for allow_exec, allow_fork in ((False, False), (True, False), (True, True)):
        _for_any_pid(allow_exec, allow_fork, allow_metadata)


def build(pid: int, *, allow_exec: bool = False, allow_fork: bool = False, allow_metadata: bool = True) -> bytes:
    """The filter for process `pid`, which may signal itself only (anything it likes where it may fork: its pids are not
    known beforehand, and a namespace, an own uid or Landlock's signal scope holds them)."""
    program = _for_any_pid(allow_exec, allow_fork, allow_metadata)
    return program.replace(struct.pack("<I", _ANY_PID), struct.pack("<I", pid))
