"""The system-call filter of a sandboxed process, as classic BPF built here byte by byte.

Three answers: KILL for what only an attack asks for (the program ends with SIGSYS, status `forbidden`), EPERM for what
honest code may try and survive (a socket, a fork), ENOSYS for what libraries probe and have a fallback for (clone3,
io_uring, everything newer than the table). What is left is allowed. Threads work: clone is allowed with CLONE_THREAD.

Layout of `struct seccomp_data`, which the filter reads: nr at 0, arch at 4, six 64-bit arguments from 16 on.
"""

import errno
import functools
import struct
from collections.abc import Iterator

from sandbox.kernel import MACHINE

_LOAD, _JUMP_EQ, _JUMP_GE, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
_CLONE_THREAD, _CLONE_NEW_ANYTHING, _AF_UNIX = 0x10000, 0x7E020000, 1
_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_ANY_PID = 0xFEEDC0DE  # no such pid, and nothing else in a filter has these bytes

# Tables of calls: `name x86_64 aarch64, ...`, with `-` where an architecture has no such call.
_KILLED = """
    ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, bpf 321 280, userfaultfd 323 282,
    perf_event_open 298 241, add_key 248 217, request_key 249 218, keyctl 250 219, mount 165 40, umount2 166 39,
    pivot_root 155 41, chroot 161 51, unshare 272 97, setns 308 268, kcmp 312 272, name_to_handle_at 303 264,
    open_by_handle_at 304 265, init_module 175 105, finit_module 313 273, delete_module 176 106, kexec_load 246
    104, kexec_file_load 320 294, reboot 169 142, swapon 167 224, swapoff 168 225, acct 163 89, settimeofday 164
    170, clock_settime 227 112, sethostname 170 161, setdomainname 171 162, quotactl 179 60, syslog 103 116, iopl
    172 -, ioperm 173 -, modify_ldt 154 -, vhangup 153 58, move_pages 279 239, migrate_pages 256 238,
    fanotify_init 300 262, pidfd_getfd 438 438
"""
_REFUSED = """
    socket 41 198, connect 42 203, bind 49 200, listen 50 201, accept 43 202, accept4 288 242, sendmsg 46 211,
    sendmmsg 307 269, memfd_create 319 279, shmget 29 194, semget 64 190, msgget 68 186, mq_open 240 180, splice
    275 76, tee 276 77, vmsplice 278 75, personality 135 92, setpriority 141 140, ioprio_set 251 30, io_setup 206 0,
    setsockopt 54 208, tkill 200 130, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240
"""
# Landlock holds none of these; where the host's files are in sight, and perhaps this uid's, nothing may change them.
_METADATA = """
    chmod 90 -, fchmod 91 52, fchmodat 268 53, fchmodat2 452 452, chown 92 -, fchown 93 55, lchown 94 -, fchownat
    260 54, utime 132 -, utimes 235 -, futimesat 261 -, utimensat 280 88, setxattr 188 5, lsetxattr 189 6,
    fsetxattr 190 7, removexattr 197 14, lremovexattr 198 15, fremovexattr 199 16, truncate 76 45
"""
_FORKS = "fork 57 -, vfork 58 -"
_EXECS = "execve 59 221, execveat 322 281"
_SIGNALS = "kill 62 129, tgkill 234 131"
# These take the pid of another process of the same uid first; only 0, the caller, is let through.
_PID_ZERO = """
    prlimit64 302 261, sched_setaffinity 203 122, sched_setscheduler 144 119, sched_setparam 142 118, sched_setattr
    314 274
"""
# (call, which argument, values refused): signals by way of a descriptor's owner, typing into a terminal, leash off.
_VALUE_REFUSED = (
    ("fcntl 72 25", 1, (8, 15)),  # F_SETOWN, F_SETOWN_EX
    ("ioctl 16 29", 1, (0x8901, 0x8902, 0x5412)),  # FIOSETOWN, SIOCSPGRP, TIOCSTI
    ("prctl 157 167", 0, (1,)),  # PR_SET_PDEATHSIG
)
_FIRST_COMMON = 424
"""From here on the numbers are the same everywhere, and a call is allowed only where it is named."""
_COMMON_ALLOWED = """
    close_range 436 436, openat2 437 437, faccessat2 439 439, epoll_pwait2 441 441, futex_waitv 449 449, fchmodat2 452
    452, futex_wake 454 454, futex_wait 455 455, futex_requeue 456 456, mseal 462 462
"""


def _numbers(table: str) -> list[int]:
    """Of the calls that this machine has."""
    column = 1 + list(_ARCHITECTURE).index(MACHINE)
    return [int(row.split()[column]) for row in table.split(",") if row.split()[column] != "-"]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value & 0xFFFFFFFF)


def _return(answer: int) -> bytes:
    return _instruction(_RETURN, answer)


def _load_argument(index: int, *, high: bool = False) -> bytes:
    return _instruction(_LOAD, 16 + 8 * index + 4 * high)


def _where(index: int, test: int, values: tuple[int, ...], answer: int, otherwise: int) -> list[bytes]:
    """`answer` where the low half of argument `index` is (`_JUMP_EQ`) or has a bit of (`_JUMP_SET`) one of `values`."""
    tests = [_instruction(test, value, len(values) - position) for position, value in enumerate(values)]
    return [_load_argument(index), *tests, _return(otherwise), _return(answer)]


def _where_null(index: int) -> list[bytes]:
    """Allowed where both halves of argument `index` are 0."""
    return [
        _load_argument(index),
        _instruction(_JUMP_EQ, 0, 0, 3),
        _load_argument(index, high=True),
        _instruction(_JUMP_EQ, 0, 0, 1),
        _return(_ALLOW),
        _return(_EPERM),
    ]


def _answers(
    allow_exec: bool, allow_fork: bool, allow_metadata: bool, signals_stay: bool
) -> Iterator[tuple[str, list[bytes]]]:
    """Calls, and what to do with them; what comes later replaces what came before."""
    refuse = [_return(_EPERM)]
    if not (allow_fork and signals_stay):
        yield _SIGNALS, _where(0, _JUMP_EQ, (_ANY_PID,), _ALLOW, _EPERM)
    elif not allow_metadata:  # gVisor lets the first process of a namespace be killed from inside, Linux does not
        yield _SIGNALS, _where(0, _JUMP_EQ, (1,), _EPERM, _ALLOW)
    yield _COMMON_ALLOWED, [_return(_ALLOW)]
    yield _KILLED, [_return(_KILL)]
    yield _REFUSED, refuse
    if not allow_exec:
        yield _EXECS, refuse
    if not allow_fork:
        yield _FORKS, refuse
    if not allow_metadata:
        yield _METADATA, refuse
    yield _PID_ZERO, _where(0, _JUMP_EQ, (0,), _ALLOW, _EPERM)
    for call, index, values in _VALUE_REFUSED:
        yield call, _where(index, _JUMP_EQ, values, _EPERM, _ALLOW)
    yield "socketpair 53 199", _where(0, _JUMP_EQ, (_AF_UNIX,), _ALLOW, _EPERM)  # asyncio's own wake-up pipe
    yield "sendto 44 206", _where_null(4)
    no_namespaces = _where(0, _JUMP_SET, (_CLONE_NEW_ANYTHING,), _EPERM, _ALLOW)
    yield "clone 56 220", no_namespaces if allow_fork else _where(0, _JUMP_SET, (_CLONE_THREAD,), _ALLOW, _EPERM)


@functools.cache
def _for_any_pid(allow_exec: bool, allow_fork: bool, allow_metadata: bool, signals_stay: bool) -> bytes:
    """The whole filter, with `_ANY_PID` where the process's own goes."""
    answers: dict[int, list[bytes]] = {}
    for table, block in _answers(allow_exec, allow_fork, allow_metadata, signals_stay):
        answers |= dict.fromkeys(_numbers(table), block)
    program = [
        _instruction(_LOAD, 4),
        _instruction(_JUMP_EQ, _ARCHITECTURE[MACHINE], 1),
        _return(_KILL),
        _instruction(_LOAD, 0),
        _instruction(_JUMP_GE, _X32_BIT, 0, 1),
        _return(_KILL),
    ]
    for number, block in answers.items():
        program += [_instruction(_JUMP_EQ, number, 0, len(block)), *block]  # every block returns
    program += [_instruction(_JUMP_GE, _FIRST_COMMON, 0, 1), _return(_ENOSYS), _return(_ALLOW)]
    return b"".join(program)


def supported() -> bool:
    return MACHINE in _ARCHITECTURE


def prepare(*, allow_metadata: bool, signals_stay: bool) -> None:
    """In the warm process, once: what is slow about building, for every kind of job."""
    for allow_exec, allow_fork in ((False, False), (True, False), (True, True)):
        _for_any_pid(allow_exec, allow_fork, allow_metadata, signals_stay)


def build(
    pid: int,
    *,
    allow_exec: bool = False,
    allow_fork: bool = False,
    allow_metadata: bool = True,
    signals_stay: bool = True,
) -> bytes:
    """The filter for process `pid`, which may signal itself only. `signals_stay`: a namespace, an own uid or Landlock's
    scope keeps signals inside; so where it may fork, its pids not being known beforehand, it may signal all it sees."""
    program = _for_any_pid(allow_exec, allow_fork, allow_metadata, signals_stay)
    return program.replace(struct.pack("<I", _ANY_PID), struct.pack("<I", pid))
