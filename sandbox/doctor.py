"""What isolation this host allows, found out by trying it: for `verifier doctor`.

Each check does the thing; the probes are small hostile programs that must be stopped.
"""

from dataclasses import dataclass
from typing import Any

from sandbox import cgroups
from sandbox.errors import SandboxError
from sandbox.languages import toolchains
from sandbox.launch import Launch
from sandbox.native import NativeRunner
from sandbox.profiles import Profile
from sandbox.slots import CANARY, open_warm_process
from sandbox.types import ExecutionRequest, Limits
from sandbox.warm import WarmProcess


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    ok: bool
    detail: str
    required: bool = True
    """Without it no untrusted program runs on this host."""


_LEVEL_MEANS = {
    "root_namespaces": "own root, network, pids and mounts, made by root",
    "user_namespaces": "own root, network, pids and mounts, in a user namespace",
    "landlock": "no namespaces; Landlock, system-call filter and resource limits",
    "gvisor": "own root, network, pids and mounts, as gVisor has them, and gVisor around all programs together",
}
# What each program tries is refused: it prints "escaped" where it is not.
_PROBES = {
    "files of the host are hidden": "open('/etc/passwd').read()",
    "our source is hidden": f"open({__file__!r}).read()",
    "no network": "import socket; socket.create_connection(('127.0.0.1', 80), 0.2)",
    "no sockets": "import socket; socket.socket()",
    "no new processes": "import os; os.fork() or os._exit(0)",
    "no other programs": "import os; os.posix_spawn('/bin/true', ['true'], {})",
    "other processes are out of reach": "import os; os.kill(os.getppid(), 0)",
    "no writing to the host": "open('/var/tmp/escaped', 'w')",
}


def checks() -> list[Check]:
    """All checks; the host can isolate where every required one is ok."""
    try:
        process = open_warm_process(Profile())
    except SandboxError as error:
        return [Check("isolation", False, str(error))]
    try:
        return [
            *_facts(process.hello),
            _canary(process),
            *(_probe(process, name) for name in _PROBES),
            *_languages(),
        ]
    finally:
        process.close()


def _facts(hello: dict[str, Any]) -> list[Check]:
    level, abi, uid, group = hello["level"], hello["landlock_abi"], hello["slot_uid"], cgroups.parent()
    since = ((1, "file access"), (4, "TCP"), (6, "signals and abstract sockets"))
    lacking = ", ".join(what for version, what in since if abi < version)
    can_write = hello["work_dir"] is not None
    memory = f"held together by a control group ({group[1]})" if group else "held for each: RLIMIT_DATA and heap flags"
    optional = (
        ("Landlock", not lacking, f"ABI {abi}, does not hold {lacking}" if lacking else f"ABI {abi}"),
        ("own uid for each slot", uid is not None, f"e.g. {uid}" if uid else "programs run under this uid"),
        ("work directory", can_write, "a sized tmpfs" if can_write else "nothing can be written"),
        ("memory of several processes", group is not None, memory),
    )
    isolation = Check("isolation", True, f"{level}: {_LEVEL_MEANS[level]}")
    return [isolation, *(Check(*fact, required=False) for fact in optional)]


def _canary(process: WarmProcess) -> Check:
    with process.launch(CANARY) as running:
        ended = running.wait()
    detail = f"{1000 * ended.cpu_time_s:.1f} ms of CPU" if ended.stdout == b"canary\n" else ended.stderr.decode()
    return Check("a harmless program runs", ended.stdout == b"canary\n", detail)


def _probe(process: WarmProcess, name: str) -> Check:
    source = f"{_PROBES[name]}\nprint('escaped')".encode()
    with process.launch(Launch(inputs=(source,), limits=Limits(cpu_time_s=2, wall_time_s=5))) as running:
        ended = running.wait()
    refusal = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return Check(name, b"escaped" not in ended.stdout, refusal or "stopped")


def _languages() -> list[Check]:
    """A known-good program of each that was found."""
    found = []
    runner = NativeRunner(1)
    for language, toolchain in toolchains().items():
        try:
            result = runner.execute(ExecutionRequest(toolchain.canary, language))
            found.append(Check(f"language {language}", True, f"{1000 * result.cpu_time_s:.1f} ms of CPU", False))
        except SandboxError as error:
            found.append(Check(f"language {language}", False, str(error).partition("\n")[0], False))
    runner.close()
    return found
