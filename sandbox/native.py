"""Compiled and other languages: compile once a source, then run the result as often as there are tests.

    source ──▶ compile (its own profile: the toolchain and the source, nothing else) ──▶ artefact, kept by hash
    artefact ──▶ run (its own profile: the runtime, where there is one) ──▶ result

The compiler reads a hostile text, so it is jailed like a program; what it made is held in memory and never on the host.
"""

import dataclasses
import hashlib
import marshal
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping

from sandbox.cgroups import parent
from sandbox.errors import LanguageUnavailable, RunnerLost
from sandbox.languages import Toolchain, toolchains
from sandbox.launch import Launch
from sandbox.precompiled import with_precompiled_headers
from sandbox.profiles import Profile
from sandbox.running import memory_file
from sandbox.slots import CANARY, Slots, result_of
from sandbox.types import MIB, ExecutionRequest, ExecutionResult, Limits, Status

COMPILE_DRIVER = "sandbox.native_child:compile_source"
RUN_DRIVER = "sandbox.native_child:execute"
COMPILE_LIMITS = Limits(cpu_time_s=30.0, memory_bytes=2048 * MIB, output_bytes=256 * MIB, disk_bytes=512 * MIB)
CACHE_BYTES, CACHE_ENTRIES = 256 * MIB, 256
_SHARES = 4
"""Of the memory of a program that may fork: one for each of its few processes, where no control group holds all."""
_MESSAGE_LINES, _MESSAGE_CHARS = 5, 1000
# How the runtimes say that memory has run out. A program can talk itself into a failure here, never out of one.
_OUT_OF_MEMORY = re.compile(
    rb"std::bad_alloc|heap out of memory|java\.lang\.OutOfMemoryError|memory allocation of \d+ bytes failed"
    rb"|[Cc]annot allocate memory|runtime: out of memory"
)


class Artefact:
    """What a compiler made, in a memory file that nobody can change, so that a run costs no copy of it."""

    def __init__(self, content: bytes) -> None:
        self.size = len(content)
        self.descriptor = memory_file(content)

    def read(self) -> bytes:
        return os.pread(self.descriptor, self.size, 0)

    def __del__(self) -> None:
        os.close(self.descriptor)


Compiled = Artefact | ExecutionResult
"""An artefact, or why there is none."""


class NativeRunner:
    """Runs programs of the languages that `toolchains` finds. Safe between threads."""

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        self._slots: dict[Profile, Slots] = {}
        self._compiled: OrderedDict[bytes, Compiled] = OrderedDict()
        self._cpp: Toolchain | None = None
        self._proven: set[str] = set()
        self._lock = threading.Lock()

    def execute(self, request: ExecutionRequest) -> ExecutionResult:
        """Never raises for anything the program does. Raises `LanguageUnavailable`; `RunnerLost` where the toolchain
        fails on a known-good program."""
        toolchain = toolchains().get(request.language)
        if toolchain is None:
            raise LanguageUnavailable(request.language)
        if toolchain.language not in self._proven:
            self._prove(toolchain)
        return self._execute(toolchain, request)

    def _prove(self, toolchain: Toolchain) -> None:
        result = self._execute(toolchain, ExecutionRequest(toolchain.canary, toolchain.language))
        if result.stdout.strip() != b"canary":
            said = result.detail or result.stderr.decode(errors="replace")[-_MESSAGE_CHARS:]
            raise RunnerLost(f"{toolchain.language}: a known-good program fails: {result.status} {said}")
        self._proven.add(toolchain.language)

    def _execute(self, toolchain: Toolchain, request: ExecutionRequest) -> ExecutionResult:
        source = request.source.encode("utf-8", "surrogatepass")
        artefact = self._compile_once(toolchain, source) if toolchain.compile_command else None
        if isinstance(artefact, ExecutionResult):
            return artefact
        limits = dataclasses.replace(
            request.limits, memory_bytes=request.limits.memory_bytes + (toolchain.runtime_bytes or 0)
        )
        files = dict(request.files)
        if toolchain.run_command:
            files[toolchain.run_command[-1]] = artefact.read() if artefact else source
        launch = Launch(
            RUN_DRIVER,
            stdin=request.stdin,
            inputs=(_instructions(toolchain, request, files, limits), *files.values()),
            pass_fds=(artefact.descriptor,) if artefact and not toolchain.run_command else (),
            limits=limits,
            may_exec=True,
            num_tasks=toolchain.num_tasks,
            may_fork=toolchain.may_fork,
            data_only=toolchain.runtime_bytes is not None,
        )
        slots = self._slots_for(RUN_DRIVER, toolchain.run_readable, toolchain.run_executable)
        result = result_of(slots.run_fairly(launch), request.limits, files=bool(request.files))
        if result.status in (Status.NONZERO_EXIT, Status.SIGNALLED) and _OUT_OF_MEMORY.search(
            _both_ends(result.stderr)
        ):
            return dataclasses.replace(result, status=Status.MEMORY_LIMIT)
        return result

    def _compile_once(self, toolchain: Toolchain, source: bytes) -> Compiled:
        key = hashlib.sha256(f"{toolchain.language}:{toolchain.version}\0".encode() + source).digest()
        with self._lock:
            if key in self._compiled:
                self._compiled.move_to_end(key)
                return self._compiled[key]
        made = self._compile(toolchain, source)
        with self._lock:
            self._compiled[key] = made
            while len(self._compiled) > CACHE_ENTRIES or self._cached_bytes() > CACHE_BYTES:
                self._compiled.popitem(last=False)
        return made

    def _cached_bytes(self) -> int:
        return sum(kept.size for kept in self._compiled.values() if isinstance(kept, Artefact))

    def _compile(self, toolchain: Toolchain, source: bytes) -> Compiled:
        if toolchain.language == "cpp":
            if self._cpp is None:
                self._cpp = with_precompiled_headers(toolchain, self._make)
            toolchain = self._cpp
        return self._make(toolchain, source)

    def _make(self, toolchain: Toolchain, source: bytes) -> Compiled:
        instructions = (toolchain.source_name, toolchain.compile_command, toolchain.environment)
        launch = Launch(
            COMPILE_DRIVER,
            inputs=(source, marshal.dumps(instructions)),
            num_outputs=1,
            limits=COMPILE_LIMITS,
            may_exec=True,
            may_fork=True,
            data_only=toolchain.runtime_bytes is not None,
        )
        slots = self._slots_for(COMPILE_DRIVER, toolchain.compile_readable, toolchain.compile_executable)
        ended = slots.run_fairly(launch)
        result = result_of(ended, COMPILE_LIMITS)
        if ended and result.status is Status.OK and ended.outputs[0]:
            return Artefact(ended.outputs[0])
        said = "\n".join(result.stderr.decode(errors="replace").splitlines()[:_MESSAGE_LINES])[:_MESSAGE_CHARS]
        why = "" if result.status is Status.NONZERO_EXIT else f"the compiler ended with {result.status}\n"
        return ExecutionResult(Status.COMPILE_ERROR, stderr=result.stderr, detail=f"{why}{said}".strip())

    def _slots_for(self, driver: str, readable: tuple[str, ...], executable: tuple[str, ...]) -> Slots:
        """Shared by the languages that see the same."""
        drivers = (driver, CANARY.driver)
        profile = Profile((), drivers=drivers, readable=readable, executable=executable, one_memory_limit=True)
        with self._lock:
            return self._slots.setdefault(profile, Slots(profile, self._num_slots))

    def close(self) -> None:
        for slots in self._slots.values():
            slots.close()


def _instructions(toolchain: Toolchain, request: ExecutionRequest, files: Mapping[str, bytes], limits: Limits) -> bytes:
    """What `native_child.execute` reads."""
    memory_mb = max(1, request.limits.memory_bytes // MIB)
    command = [word.format(memory_mb=memory_mb) for word in toolchain.run_command] or ["program"]
    instructions = {
        "command": [*command, *request.files],
        "interpreted": bool(toolchain.run_command),
        "files": list(files),
        "memory_bytes": limits.memory_bytes // (_SHARES if toolchain.may_fork and parent() is None else 1),
        "stack_bytes": toolchain.stack_bytes,
        "data_only": toolchain.runtime_bytes is not None,
        "environment": toolchain.environment,
    }
    return marshal.dumps(instructions)


def _both_ends(text: bytes) -> bytes:
    return text[:4096] + b"\n" + text[-4096:]
