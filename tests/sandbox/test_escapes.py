"""One property a test: what a program tries, and that it gets nowhere. Each against every way this host can isolate,
and against the Docker runner.

An attack prints `escaped` where it succeeds. Nothing it does may look like our failure (`sandbox_error`), and after it
the runner must still run an honest program.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sandbox.runner import ProcessRunner
from sandbox.slots import Slots
from sandbox.types import MIB, ExecutionRequest, ExecutionResult, Limits, Runner, Status
from tests.sandbox.containers import open_bare_containers
from tests.sandbox.runners import SHARED_UID, WAYS, profile_of, require

HONEST_LIMITS = Limits(memory_bytes=200 * MIB, output_bytes=2 * MIB, disk_bytes=4 * MIB)
"""Enough CPU for a page fault to be slow on a busy machine."""
LIMITS = Limits(cpu_time_s=0.3, wall_time_s=10, memory_bytes=200 * MIB, output_bytes=MIB, disk_bytes=4 * MIB)
CONTAINER, GVISOR_CONTAINER = "container", "gvisor_container"
CONTAINERS = (CONTAINER, GVISOR_CONTAINER)
SECRET = "the-secret-of-the-host"
HARMLESS_DEVICES = {"null", "zero", "full", "random", "urandom", "stdin", "stdout", "stderr", "fd"}
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module", params=[*WAYS, *(pytest.param(way, marks=pytest.mark.docker) for way in CONTAINERS)])
def way(request: pytest.FixtureRequest) -> str:
    if request.param not in CONTAINERS:
        require(request.param)
    os.environ["HOST_SECRET"] = SECRET
    return str(request.param)


@pytest.fixture(scope="module")
def shared_runner(way: str) -> Iterator[Runner]:
    if way in CONTAINERS:
        with open_bare_containers(2, "runsc" if way == GVISOR_CONTAINER else None) as containers:
            yield containers
        return
    runner = ProcessRunner(2)
    runner.slots = Slots(profile_of(way), 2)
    yield runner
    runner.close()


@pytest.fixture
def runner(shared_runner: Runner) -> Iterator[Runner]:
    yield shared_runner
    assert run(shared_runner, "print(input())", b"still here\n").stdout == b"still here\n"


def run(runner: Runner, source: str, stdin: bytes = b"", limits: Limits = LIMITS) -> ExecutionResult:
    return runner.execute(ExecutionRequest(source, stdin=stdin, limits=limits))


def attack(runner: Runner, source: str, stdin: bytes = b"", limits: Limits = LIMITS) -> ExecutionResult:
    result = run(runner, source, stdin, limits)
    assert b"escaped" not in result.stdout, result
    assert SECRET.encode() not in result.stdout + result.stderr
    assert result.status is not Status.SANDBOX_ERROR, result
    return result


def try_each(expression: str, values: list[str]) -> str:
    """A program that evaluates `expression` for each `value` and prints those for which nothing was raised."""
    return f"""
for value in {values!r}:
    try:
        got = {expression}
    except OSError:
        continue
    print("escaped", value, got)
"""


def test_reads_no_file_of_the_host(runner: Runner) -> None:
    files = ["/etc/shadow", "/etc/passwd", "/etc/hostname", "/root/.bashrc", "/root/.ssh/id_rsa", "/proc/mounts"]
    attack(runner, try_each("open(value, 'rb').read()", files))


def test_lists_no_folder_of_the_host(runner: Runner, way: str) -> None:
    own = [] if way == GVISOR_CONTAINER else ["/", "/etc"]  # a root of its own there, which nothing hides
    attack(runner, try_each("__import__('os').listdir(value)", [*own, "/root", "/home", "/proc", "/var", "/sandbox"]))


def test_reads_neither_our_source_nor_the_environment_of_packages(runner: Runner) -> None:
    places = [str(ROOT / "sandbox/runner.py"), str(ROOT / "README.md"), f"{sys.prefix}/pyvenv.cfg"]
    places += [path for path in sys.path if path.endswith("site-packages")][:1]
    attack(runner, try_each("__import__('os').listdir(value) if value.endswith('s') else open(value).read()", places))


def test_imports_nothing_of_ours(runner: Runner) -> None:
    source = f"import sys\nsys.path[:0] = [{str(ROOT)!r}]\nimport sandbox.runner\nprint('escaped')"
    assert attack(runner, source).status is Status.NONZERO_EXIT


def test_environment_is_clean(runner: Runner) -> None:
    result = attack(runner, "import os\nprint(sorted(os.environ))\nprint(open('/proc/self/environ').read())")
    assert b"HOST" not in result.stdout


def test_reads_no_environment_or_descriptor_of_another_process(runner: Runner) -> None:
    pids = [
        "1",
        "self",
        "thread-self",
        str(os.getpid()),
        *(str(p.pid) for p in psutil.Process().children(recursive=True)),
    ]
    places = [f"/proc/{pid}/{name}" for pid in pids for name in ("environ", "maps", "mem", "cmdline", "status")]
    attack(runner, try_each("open(value, 'rb').read(1)", places))
    attack(runner, try_each("__import__('os').listdir(value)", [f"/proc/{pid}/fd" for pid in pids]))


def test_reads_no_device_but_the_harmless(runner: Runner) -> None:
    devices = [str(path) for path in Path("/dev").iterdir() if path.name not in HARMLESS_DEVICES]
    attack(runner, try_each("__import__('os').open(value, __import__('os').O_RDONLY | 2048)", devices))


def test_writes_nowhere_outside_the_work_directory(runner: Runner, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    places = [
        "/",
        "/usr",
        "/usr/lib",
        "/etc",
        "/dev",
        "/dev/shm",
        "/var/tmp",
        "/var",
        "/run",
        "/home",
        str(tmp_path),
        "/box",
    ]
    attack(runner, try_each("open(value + '/left', 'w').write('x')", places))
    attack(runner, try_each("__import__('os').mkdir(value + '/left')", places))
    assert list(tmp_path.iterdir()) == []


def test_truncates_and_changes_nothing_that_it_can_read(runner: Runner) -> None:
    library = os.__file__
    source = "import os\nopen(value, 'r+b') if 0 else None\n"
    attack(
        runner,
        source.replace("value", "None")
        + try_each("__import__('os').truncate(value, 0)", [library, "/etc/ld.so.cache"]),
    )


def test_changes_no_mode_owner_time_or_attribute(runner: Runner) -> None:
    """What is there already is asked for, so that a hole does no harm to this host."""
    calls = (
        "chmod(p, s.st_mode & 0o7777)",
        "chown(p, s.st_uid, s.st_gid)",
        "utime(p, ns=(s.st_atime_ns, s.st_mtime_ns))",
    )
    for call in (*calls, "setxattr(p, 'user.left', b'x')"):
        source = f"(p := value, os := __import__('os'), s := os.stat(p), os.{call})"
        attack(runner, try_each(source, ["/", "/usr/lib", os.__file__, "/dev/null", "/dev", "/etc/ld.so.cache"]))


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_PACKET", "AF_VSOCK", "AF_ALG"])
@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM", "SOCK_RAW"])
def test_makes_no_socket(runner: Runner, family: str, kind: str) -> None:
    attack(runner, f"import socket\nsocket.socket(socket.{family}, socket.{kind})\nprint('escaped')")


def test_reaches_no_listening_server(runner: Runner, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    path = str(tmp_path / "server")
    servers = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
    addresses = [servers[0].getsockname(), path, "\0" + path]
    for server, address in zip(servers[1:], addresses[1:], strict=True):
        server.bind(address)
        server.listen()
    for server in servers:
        server.settimeout(0.05)
    source = f"""
import socket
for address in {addresses!r}:
    for make in (lambda: socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET),
                 lambda: socket.socketpair()[0],
                 lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0]):
        for use in (lambda s: s.connect(address), lambda s: s.sendto(b"x", address), lambda s: s.bind("\\0mine")):
            try:
                use(make())
            except OSError:
                continue
            print("escaped", address)
"""
    attack(runner, source)
    for server in servers:
        with pytest.raises(TimeoutError):
            server.accept()
        server.close()


def test_passes_no_descriptor_through_a_socket_pair(runner: Runner) -> None:
    source = "import socket\na, b = socket.socketpair()\nsocket.send_fds(a, [b'x'], [1])\nprint('escaped')"
    attack(runner, source)


@pytest.mark.parametrize(
    "start",
    [
        "os.fork()",
        "os.forkpty()",
        "os.system('true')",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.execv('/bin/true', ['true'])",
        "os.execve(os.open('/usr/lib/os-release', 0), ['x'], {})",
        "subprocess.run(['true'])",
        "multiprocessing.Process(target=print).start()",
        "ctypes.CDLL(None).vfork()",
        "ctypes.CDLL(None).syscall(56, 17, 0, 0, 0, 0)",
        "ctypes.CDLL(None).syscall(435, ctypes.create_string_buffer(88), 88)",
    ],
)
def test_starts_no_process(runner: Runner, start: str) -> None:
    source = f"""
import ctypes, multiprocessing, os, subprocess
before = os.getpid()
result = {start}
if os.getpid() != before or result not in (-1, 32512, 256):
    os.write(1, b"escaped")
"""
    attack(runner, source)


def test_a_fork_bomb_makes_nothing(runner: Runner) -> None:
    before = len(psutil.pids())
    attack(runner, "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass")
    assert len(psutil.pids()) < before + 100  # the rest of the machine lives on


def test_a_thread_bomb_is_bounded(runner: Runner) -> None:
    source = """
import threading, time
threading.stack_size(32768)
count = 0
try:
    while count < 100_000:
        threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
        count += 1
except RuntimeError:
    pass
print(count)
"""
    result = attack(runner, source, limits=Limits(cpu_time_s=0.3, wall_time_s=2, memory_bytes=200 * MIB))
    assert result.status is not Status.OK or int(result.stdout) < 8192


def test_a_memory_bomb_is_bounded(runner: Runner) -> None:
    result = attack(runner, "x = []\nwhile True: x.append(bytearray(10**6))")
    assert result.status is Status.MEMORY_LIMIT
    assert result.peak_memory_bytes < 260 * MIB


@pytest.mark.parametrize(
    "take",
    [
        "mmap.mmap(-1, 400 * 2**20)",
        "mmap.mmap(-1, 400 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)",
        "os.memfd_create('x')",
        "ctypes.CDLL(None).syscall(29, 0, 10**6, 0o1777) + 1 or 1 / 0",
        "os.write(1, b'x' * 10**6) and os.ftruncate(1, 2**31)",
        "socket.socketpair()[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**30)",
        "ctypes.CDLL(None).syscall({'x86_64': 206, 'aarch64': 0}[os.uname().machine], 9, 0) + 1 or 1 / 0",
    ],
)
def test_takes_no_memory_by_other_doors(runner: Runner, take: str) -> None:
    attack(runner, f"import ctypes, mmap, os, socket\nkeep = {take}\nprint('escaped')")


def test_memory_bomb_in_ten_children_has_no_children(runner: Runner) -> None:
    source = "import os\nfor _ in range(10):\n    if os.fork() == 0: x = bytearray(150 * 2**20)"
    assert attack(runner, source).peak_memory_bytes < 100 * MIB


@pytest.mark.parametrize(
    "loop",
    [
        "while True: pass",
        "import signal\nfor n in {*range(1, 65)} - {9, 19, 32, 33}: signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
        "import threading\ndef spin():\n    while True: pass\nfor _ in range(4): threading.Thread(target=spin).start()",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "9 ** 9 ** 9",
        "import re\nre.match('(a+)+b', 'a' * 50)",
    ],
)
def test_a_loop_ends_at_its_cpu_limit(runner: Runner, loop: str) -> None:
    result = attack(runner, loop)
    assert result.status is Status.CPU_TIME_LIMIT
    assert result.cpu_time_s < 3


def test_sleep_ends_at_the_wall_limit(runner: Runner) -> None:
    started = time.monotonic()
    source = "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: time.sleep(9)"
    assert attack(runner, source, limits=Limits(wall_time_s=0.4)).status is Status.WALL_TIME_LIMIT
    assert time.monotonic() - started < 20


def test_limits_cannot_be_raised(runner: Runner) -> None:
    source = """
import resource
for name in dir(resource):
    if name.startswith("RLIMIT_") and name not in ("RLIMIT_RTTIME", "RLIMIT_NICE", "RLIMIT_SIGPENDING", "RLIMIT_LOCKS"):
        soft, hard = resource.getrlimit(getattr(resource, name))
        try:
            resource.setrlimit(getattr(resource, name), (hard + 1, hard + 1))
        except (OSError, ValueError):
            continue
        if hard != resource.RLIM_INFINITY:
            print("escaped", name)
"""
    attack(runner, source)


@pytest.mark.parametrize("descriptor", [1, 2])
def test_a_flood_of_a_gigabyte_is_cut(runner: Runner, descriptor: int) -> None:
    started = time.monotonic()
    result = attack(runner, f"import os\nfor _ in range(1024): os.write({descriptor}, b'x' * 2**20)")
    assert result.status is Status.OUTPUT_LIMIT
    assert len(result.stdout) + len(result.stderr) == MIB
    assert time.monotonic() - started < 20


def test_a_flood_that_will_not_stop_is_an_output_limit_still(runner: Runner) -> None:
    source = """
import os, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
while True:
    try:
        os.write(1, b"x" * 9999)
    except OSError:
        pass
"""
    assert attack(runner, source).status is Status.OUTPUT_LIMIT


def test_no_writable_place_can_be_filled(runner: Runner) -> None:
    before = psutil.virtual_memory().available
    source = """
import os
total = 0
for place in (".", "/tmp", "/dev/shm", "/var/tmp", "/box", "/run/shm", "/dev/mqueue"):
    try:
        for n in range(50):
            with open(f"{place}/{n}", "wb") as file:
                while True:
                    total += file.write(b"x" * 65536)
                    file.flush()
    except OSError:
        pass
print(total)
"""
    result = attack(runner, source)
    assert result.status is not Status.OK or int(result.stdout) <= 5 * MIB
    assert psutil.virtual_memory().available > before - 1024 * MIB  # the rest of the machine lives on


def test_many_files_are_bounded(runner: Runner, way: str) -> None:
    result = attack(runner, "for n in range(10**6): open(str(n), 'w').close()")
    # Where the file system does not count them, the CPU limit is the bound.
    assert result.status is (Status.CPU_TIME_LIMIT if way == GVISOR_CONTAINER else Status.NONZERO_EXIT)


def test_no_daemon_is_left_behind(runner: Runner) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    attack(runner, "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()")
    after = {process.pid for process in psutil.Process().children(recursive=True)}
    assert len(after) <= max(len(before), 4)


def test_kills_and_traces_nobody(runner: Runner) -> None:
    pids = [0, -1, 1, os.getpid(), *(process.pid for process in psutil.Process().children(recursive=True))]
    source = f"""
import ctypes, os, signal
own = (os.getpid(), -os.getpgrp())
for pid in [os.getppid(), *{pids!r}, *(-p for p in {pids!r} if p > 1)]:
    if pid in own or pid == 0:
        continue
    for hit in (lambda: os.kill(pid, 9), lambda: os.killpg(abs(pid), 9), lambda: os.sched_setaffinity(pid, [0]),
                lambda: signal.pidfd_send_signal(os.pidfd_open(pid), 9),
                lambda: os.setpriority(os.PRIO_PROCESS, pid, 19),
                lambda: os.setpriority(os.PRIO_USER, os.getuid(), 19)):
        try:
            hit()
        except (OSError, OverflowError):
            continue
        print("escaped", pid)
"""
    attack(runner, source)
    assert psutil.Process().nice() == 0


def test_a_sibling_is_out_of_reach(runner: Runner) -> None:
    sibling_result: list[ExecutionResult] = []
    sibling_source = "import os, time\nsecret = 'x'\ntime.sleep(0.8)\nprint('lived')"
    sibling = threading.Thread(target=lambda: sibling_result.append(run(runner, sibling_source)))
    sibling.start()
    time.sleep(0.2)
    pids = [process.pid for process in psutil.Process().children(recursive=True)]
    source = f"""
import os
for pid in [*{pids!r}, *range(2, 40)]:
    if pid != os.getpid():
        try:
            os.kill(pid, 9)
            print("escaped", pid)
        except OSError:
            pass
        try:
            open(f"/proc/{{pid}}/mem", "rb")
            print("escaped", pid)
        except OSError:
            pass
"""
    attack(runner, source)
    sibling.join()
    assert sibling_result[0].stdout == b"lived\n"


KERNEL_DOORS = {
    "ptrace": "101, 16, os.getppid(), 0, 0",
    "process_vm_readv": "310, os.getppid(), 0, 0, 0, 0, 0",
    "bpf": "321, 0, 0, 0",
    "userfaultfd": "323, 1",
    "perf_event_open": "298, ctypes.create_string_buffer(128), 0, -1, -1, 0",
    "keyctl": "250, 0, -3, 0",
    "add_key": "248, b'user', b'x', b'y', 1, -3",
    "mount": "165, b'none', b'/tmp', b'tmpfs', 0, 0",
    "unshare user": "272, 0x10000000",
    "unshare mounts": "272, 0x20000",
    "setns": "308, 0, 0",
    "pivot_root": "155, b'/', b'/'",
    "chroot": "161, b'/'",
    "open_by_handle_at": "304, -100, 0, 0",
    "kexec_load": "246, 0, 0, 0, 0",
    "init_module": "175, 0, 0, b''",
    "io_uring_setup": "425, 8, ctypes.create_string_buffer(128)",
    "pidfd_getfd": "438, 0, 0, 0",
    "memfd_secret": "447, 0",
    "open_tree": "428, -100, b'/', 1",
    "fsopen": "430, b'tmpfs', 0",
    "x32 getpid": "0x40000000 | 39",
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="call numbers of x86_64")
@pytest.mark.parametrize("door", KERNEL_DOORS)
def test_kernel_door_is_shut(runner: Runner, door: str) -> None:
    source = f"import ctypes, os\nif ctypes.CDLL(None).syscall({KERNEL_DOORS[door]}) != -1: os.write(1, b'escaped')"
    attack(runner, source)


def test_a_forbidden_call_says_so(runner: Runner) -> None:
    assert attack(runner, "import ctypes\nctypes.CDLL(None).ptrace(0, 0, 0, 0)").status is Status.FORBIDDEN


def test_inherits_no_descriptor(runner: Runner) -> None:
    held = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(held, True)
    source = """
import os
for fd in range(3, 4096):
    try:
        os.fstat(fd)
        print("escaped", fd)
    except OSError:
        pass
"""
    attack(runner, source)
    os.close(held)


def test_has_no_capabilities_and_cannot_gain_any(runner: Runner) -> None:
    source = """
import ctypes, os
header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
ctypes.CDLL(None).syscall(125, header, data)
if any(data): print("escaped", list(data))
if ctypes.CDLL(None).prctl(39, 0, 0, 0, 0) != 1: print("escaped: privileges may be gained")
for change in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):
    try:
        change()
        if os.getuid() == 0: print("still root")
    except OSError:
        pass
"""
    attack(runner, source)


def test_no_setuid_binary_can_be_run(runner: Runner) -> None:
    attack(runner, try_each("__import__('os').execv(value, [value])", ["/usr/bin/su", "/usr/bin/passwd", "/bin/mount"]))


def test_links_lead_nowhere(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    source = f"""
import os
for target in ({str(tmp_path / "secret")!r}, "/etc/shadow", "../../../../../etc/shadow", "/proc/self/root/etc/shadow"):
    for link in (os.symlink, os.link):
        try:
            link(target, "link")
        except OSError:
            continue
        try:
            print("escaped", open("link").read())
        except OSError:
            pass
        os.unlink("link")
"""
    attack(runner, source)


def test_one_program_leaves_nothing_for_the_next(runner: Runner) -> None:
    leave = """
import os
for place in (".", "/tmp", "/dev/shm", "/box"):
    try:
        os.makedirs(place + "/left/deep"); open(place + "/left/note", "w").write("psst")
    except OSError:
        pass
if os.getcwd() != "/":
    os.chmod(".", 0)
"""
    look = try_each("open(value).read()", ["left/note", "/tmp/left/note", "/dev/shm/left/note", "/box/left/note"])
    for _ in range(3):
        attack(runner, leave)
        attack(runner, look)


@pytest.mark.parametrize(
    "poison",
    [
        "import builtins; builtins.print = lambda *a: None; builtins.len = lambda x: 42",
        "import json, math; json.loads = math.sqrt = None",
        "import sys; sys.stdout = sys.stdin = None; sys.modules.clear()",
        "import gc\nfor thing in gc.get_objects():\n    if type(thing) is dict: thing.clear()",
        "import sys\nframe = sys._getframe()\nwhile frame:\n    frame.f_globals.clear(); frame = frame.f_back",
        "import os, signal\nsignal.setitimer(signal.ITIMER_REAL, 0.001)\nos.nice(5)\nos.umask(0o777)",
        "import ctypes\nctypes.memset(id(1), 0, 64)",
        "import sys; sys.setrecursionlimit(50); sys.setswitchinterval(9); sys.settrace(lambda *a: None)",
    ],
)
def test_the_warm_interpreter_cannot_be_poisoned(runner: Runner, poison: str) -> None:
    attack(runner, poison)
    source = """
import json, math
def depth(n): return n and depth(n - 1)
print(len(json.loads(input())), math.sqrt(16), depth(200))
"""
    assert run(runner, source, b"[1, 2, 3]").stdout == b"3 4.0 0\n"


def test_a_later_program_sees_no_state_of_an_earlier_one(runner: Runner) -> None:
    for _ in range(4):
        result = run(runner, "import math\nprint(getattr(math, 'seen', 'new')); math.seen = 'old'")
        assert result.stdout == b"new\n"


def test_the_result_cannot_be_forged(runner: Runner) -> None:
    """Whatever it writes wherever it can, the status comes from the kernel and the output is what it wrote to 1."""
    source = """
import os, sys
for fd in range(3, 1024):
    for data in (b'{"wait_status": 0, "cpu_s": 0, "peak_bytes": 0, "trouble": ""}', b"pid", b'{"pidfd": true}'):
        try:
            os.write(fd, data)
            print("escaped", fd)
        except OSError:
            pass
os._exit(7)
"""
    assert attack(runner, source).exit_code == 7


def test_it_cannot_claim_to_be_our_failure(runner: Runner) -> None:
    """Killing itself in every way, it is never `sandbox_error`."""
    for number in (1, 2, 6, 9, 11, 15, 19, 24, 25, 31):
        source = f"import os, time\nos.kill(os.getpid(), {number})\ntime.sleep(60)"
        attack(runner, source, limits=Limits(cpu_time_s=0.5, wall_time_s=0.5))


def test_cannot_unleash_itself(runner: Runner) -> None:
    attack(runner, "import ctypes, os\nif ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0: os.write(1, b'escaped')")


def test_seeks_and_shrinks_only_its_own_output(runner: Runner) -> None:
    assert attack(runner, "import os\nprint('abc', flush=True)\nos.ftruncate(1, 1)").stdout == b"a"


# The honest twins: what is next to each attack and must be paid.

HONEST = {
    "reads its own files": ("open('a', 'w').write('x')\nprint(open('a').read())", b"x\n"),
    "links its own files": (
        "import os\nopen('a', 'w').write('x'); os.symlink('a', 'b')\nprint(open('b').read())",
        b"x\n",
    ),
    "temporary files": (
        "import tempfile\nwith tempfile.TemporaryFile() as f: print(f.write(b'x' * 10**6))",
        b"1000000\n",
    ),
}
HONEST_EVERYWHERE = {
    "reads a time zone": ("import zoneinfo\nprint(zoneinfo.ZoneInfo('Europe/Paris').key)", b"Europe/Paris\n"),
    "threads": ("from concurrent.futures import ThreadPoolExecutor as T\nprint(sum(T(8).map(abs, range(9))))", b"36\n"),
    "asyncio": ("import asyncio\nasync def f(): return 5\nprint(asyncio.run(f()))", b"5\n"),
    "handles a signal": (
        "import os, signal\nsignal.signal(10, lambda *a: print('got'))\nos.kill(os.getpid(), 10)",
        b"got\n",
    ),
    "much memory": ("x = bytearray(150 * 2**20)\nprint(len(x))", b"157286400\n"),
    "much output": ("print('x' * 1_000_000)", b"x" * 1_000_000 + b"\n"),
    "deep recursion": (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(2**26)\n"
        "def f(n): return 0 if n == 0 else 1 + f(n - 1)\n"
        "t = threading.Thread(target=lambda: print(f(50_000)))\nt.start(); t.join()",
        b"50000\n",
    ),
    "recursion in C": (
        "import sys, functools\nsys.setrecursionlimit(10**6)\n@functools.lru_cache(None)\n"
        "def f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(f(20_000))",
        b"20000\n",
    ),
    "random": ("import random, secrets\nprint(0 <= random.random() < 1, len(secrets.token_hex(4)))", b"True 8\n"),
    "reads stdin by descriptor": ("print(open(0).read(), end='')", b"one\ntwo\n"),
    "reads stdin as a file": ("print(open('/dev/stdin').readline(), end='')", b"one\n"),
    "exits early": ("import sys\nprint(sys.stdin.readline(), end='')\nsys.exit()", b"one\n"),
    "subclasses and pickles": ("import pickle\nclass A: x = 1\nprint(pickle.loads(pickle.dumps(A())).x)", b"1\n"),
    "dataclass": ("from dataclasses import dataclass\n@dataclass\nclass A: x: int\nprint(A(1))", b"A(x=1)\n"),
}


@pytest.mark.parametrize("name", HONEST_EVERYWHERE)
def test_honest_twin(runner: Runner, way: str, name: str) -> None:
    if way == GVISOR_CONTAINER and name == "reads stdin as a file":
        pytest.skip("no /proc, and so no /dev/stdin, where Landlock cannot shut the rest of it")
    source, expected = HONEST_EVERYWHERE[name]
    result = run(runner, source, b"one\ntwo\n", HONEST_LIMITS)
    assert (result.status, result.stdout) == (Status.OK, expected), result


@pytest.mark.parametrize("name", HONEST)
def test_honest_twin_with_files(runner: Runner, way: str, name: str) -> None:
    if way in ("landlock", SHARED_UID):
        pytest.skip("no writable place without the right to mount")
    source, expected = HONEST[name]
    result = run(runner, source, limits=HONEST_LIMITS)
    assert (result.status, result.stdout) == (Status.OK, expected), result


def test_the_machine_is_as_before() -> None:
    """After all of the above: nothing of ours runs, nothing is mounted."""
    left = subprocess.run(["grep", "-c", "/box", "/proc/mounts"], capture_output=True, text=True, check=False).stdout
    assert left.strip() == "0"
