"""The filter's bytes, run by an interpreter of classic BPF, for both architectures."""

import errno
import struct
from collections.abc import Iterator

import pytest

from sandbox import seccomp

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
PID = 4711
CLONE_THREAD, CLONE_NEWUSER = 0x10000, 0x10000000


def run(program: bytes, number: int, arch: int, arguments: tuple[int, ...] = ()) -> int:
    """What the kernel would answer (linux/filter.h, linux/seccomp.h)."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, arch, 0, *(value & (2**64 - 1) for value in padded))
    code = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    position, accumulator = 0, 0
    while True:
        operation, if_true, if_false, value = code[position]
        position += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif operation == 0x06:
            return int(value)
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[operation]
            position += if_true if holds else if_false


# (what, x86_64, aarch64, arguments, answer)
CASES = [
    ("read", 0, 63, (), ALLOW),
    ("write", 1, 64, (), ALLOW),
    ("mmap", 9, 222, (), ALLOW),
    ("futex", 202, 98, (), ALLOW),
    ("exit_group", 231, 94, (), ALLOW),
    ("getrandom", 318, 278, (), ALLOW),
    ("close_range", 436, 436, (), ALLOW),
    ("ptrace", 101, 117, (), KILL),
    ("bpf", 321, 280, (), KILL),
    ("mount", 165, 40, (), KILL),
    ("unshare", 272, 97, (), KILL),
    ("keyctl", 250, 219, (), KILL),
    ("execve", 59, 221, (), EPERM),
    ("execveat", 322, 281, (), EPERM),
    ("socket", 41, 198, (2, 1), EPERM),
    ("connect", 42, 203, (), EPERM),
    ("socketpair of AF_UNIX", 53, 199, (1,), ALLOW),
    ("socketpair of AF_INET", 53, 199, (2,), EPERM),
    ("sendto without address", 44, 206, (3, 4, 5, 0, 0), ALLOW),
    ("sendto an address", 44, 206, (3, 4, 5, 0, 1 << 32), EPERM),
    ("clone of a thread", 56, 220, (CLONE_THREAD | 0x100,), ALLOW),
    ("clone of a process", 56, 220, (17,), EPERM),
    ("clone3", 435, 435, (), ENOSYS),
    ("io_uring_setup", 425, 425, (), ENOSYS),
    ("a call of the future", 999, 999, (), ENOSYS),
    ("kill itself", 62, 129, (PID, 9), ALLOW),
    ("kill another", 62, 129, (PID + 1, 9), EPERM),
    ("kill all", 62, 129, (-1, 9), EPERM),
    ("tgkill itself", 234, 131, (PID, PID, 6), ALLOW),
    ("tgkill another", 234, 131, (1, 1, 6), EPERM),
    ("prlimit itself", 302, 261, (0, 9), ALLOW),
    ("prlimit another", 302, 261, (1, 9), EPERM),
    ("prctl name", 157, 167, (15,), ALLOW),
    ("prctl death signal", 157, 167, (1,), EPERM),
    ("fcntl owner", 72, 25, (3, 8), EPERM),
    ("fcntl flags", 72, 25, (3, 3), ALLOW),
    ("ioctl into the terminal", 16, 29, (0, 0x5412), EPERM),
]


@pytest.fixture(params=AUDIT)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(seccomp, "MACHINE", request.param)
    seccomp._for_any_pid.cache_clear()
    yield request.param
    seccomp._for_any_pid.cache_clear()


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_answer(machine: str, case: tuple[str, int, int, tuple[int, ...], int]) -> None:
    _, x86_64, aarch64, arguments, answer = case
    number = x86_64 if machine == "x86_64" else aarch64
    assert run(seccomp.build(PID), number, AUDIT[machine], arguments) == answer


def test_calls_of_another_architecture_kill(machine: str) -> None:
    other = next(arch for name, arch in AUDIT.items() if name != machine)
    program = seccomp.build(PID)
    assert run(program, 0, other) == KILL
    assert run(program, 0, 0x40000003) == KILL  # 32-bit x86
    assert run(program, 0x40000000 | 39, AUDIT[machine]) == KILL  # x32


def test_leave_to_execute_and_fork_is_no_leave_for_namespaces(machine: str) -> None:
    program = seccomp.build(PID, allow_exec=True, allow_fork=True)
    execve, clone, kill = {"x86_64": (59, 56, 62), "aarch64": (221, 220, 129)}[machine]
    assert run(program, execve, AUDIT[machine]) == ALLOW
    assert run(program, clone, AUDIT[machine], (17,)) == ALLOW
    assert run(program, kill, AUDIT[machine], (PID + 1, 9)) == ALLOW
    assert run(program, clone, AUDIT[machine], (CLONE_NEWUSER | 17,)) == EPERM


def test_who_may_fork_signals_nobody_where_nothing_else_keeps_signals_inside(machine: str) -> None:
    program = seccomp.build(PID, allow_exec=True, allow_fork=True, signals_stay=False)
    kill, tgkill = {"x86_64": (62, 234), "aarch64": (129, 131)}[machine]
    assert run(program, kill, AUDIT[machine], (PID, 9)) == ALLOW
    for number in (kill, tgkill):
        assert run(program, number, AUDIT[machine], (PID + 1, 9)) == EPERM
        assert run(program, number, AUDIT[machine], (-1, 9)) == EPERM


def test_metadata_is_held_where_the_hosts_files_are_in_sight(machine: str) -> None:
    fchmodat = {"x86_64": 268, "aarch64": 53}[machine]
    assert run(seccomp.build(PID), fchmodat, AUDIT[machine]) == ALLOW
    assert run(seccomp.build(PID, allow_metadata=False), fchmodat, AUDIT[machine]) == EPERM
    assert run(seccomp.build(PID, allow_metadata=False), 452, AUDIT[machine]) == EPERM
