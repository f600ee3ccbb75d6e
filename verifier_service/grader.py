"""The grader process: a child of each worker, the boundary at which grading that went too far is killed.

    worker                                   grader (forked warm, killed with its whole process group)
      ── body ──────────────────────────────▶  reads all answers
      ◀──────────────── keys of the answers ──
      ── known verdicts, keys to wait for ───▶  judges the rest, one line each into a memory file
      ◀───────────────────────────── done ────

Lines land in the memory file the moment they are judged, so that a killed grader loses nothing that it had finished.
"""

import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic_core import from_json

from sandbox.frames import read_frame, write_frame
from verifier_service.cache import JudgementCache
from verifier_service.chunks import decode_body, dump
from verifier_service.grading import Answer, Line, read
from verifier_service.process import die_with_parent, tree_cpu_s, usage
from verifier_service.schemas import Verdict
from verifier_service.tools import WorkerTools

TICK_S = 0.25
STALLED_S = 10
"""A grader that stops within a message for so long is lost."""


@dataclass(frozen=True, slots=True)
class GraderLimits:
    """What one completion may use of the grader itself."""

    cpu_s: float
    wall_s: float
    memory_bytes: int


class GraderLimit(ConnectionAbortedError):
    """The grader has used what one completion may use of it."""


class GraderKilled(Exception):
    """The grader hit a limit or died; `lines` is what it had finished, `victim` the completion it was at, None where
    it had not begun to judge; `by_limit` where it was we who killed it."""

    def __init__(self, lines: list[Line], victim: int | None, by_limit: bool) -> None:
        super().__init__(f"grader lost after {len(lines)} verdicts")
        self.lines = lines
        self.victim = victim
        self.by_limit = by_limit


class Grader:
    """Handle of the grader process; starts it when needed and replaces it after every kill."""

    def __init__(self, after_fork: Callable[[], None]) -> None:
        self._after_fork = after_fork
        self._pid = 0
        self._sock: socket.socket | None = None
        self._memory_fd = os.memfd_create("verdicts")
        self.memory_bytes = 0
        """Resident, of the grader after the last chunk."""
        self._unreported_cpu_s = self._counted_cpu_s = 0.0

    def start(self) -> None:
        if self._pid and os.waitpid(self._pid, os.WNOHANG) == (0, 0):
            return
        if self._sock is not None:
            self._sock.close()
        ours, theirs = socket.socketpair()
        worker_pid = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                ours.close()
                _become_grader(worker_pid)
                self._after_fork()
                serve(theirs, self._memory_fd)
            finally:
                os._exit(0)
        theirs.close()
        for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            ours.setsockopt(socket.SOL_SOCKET, direction, struct.pack("ll", STALLED_S, 0))
        self._sock = ours
        self._counted_cpu_s = 0.0

    def grade(
        self, body: bytes, limits: GraderLimits, cache: JudgementCache | None, on_tick: Callable[[], None]
    ) -> list[Line]:
        """All verdicts of a chunk. Raises `GraderKilled`, and whatever `on_tick` raises (the grader is killed then)."""
        self.start()
        os.ftruncate(self._memory_fd, 0)
        os.lseek(self._memory_fd, 0, os.SEEK_SET)
        try:
            self._converse(body, limits, cache, on_tick)
        except OSError as error:
            self.kill()
            raise GraderKilled(*self._progress(), isinstance(error, GraderLimit)) from error
        except BaseException:
            self.kill()
            raise
        self._count_cpu()
        self.memory_bytes = usage(self._pid).memory_bytes
        return self._progress()[0]

    def take_cpu_s(self) -> float:
        """CPU seconds used since this was last asked, by graders and whatever they ran."""
        taken_s, self._unreported_cpu_s = self._unreported_cpu_s, 0.0
        return taken_s

    def _count_cpu(self) -> None:
        # Never less than before: a process that ends while the tree is read may be in neither sum.
        counted_s = max(self._counted_cpu_s, tree_cpu_s(self._pid))
        self._unreported_cpu_s += counted_s - self._counted_cpu_s
        self._counted_cpu_s = counted_s

    def kill(self) -> None:
        """End the grader and all that it started in its process group."""
        if not self._pid:
            return
        self._count_cpu()
        for kill, target in ((os.killpg, self._pid), (os.kill, self._pid)):
            try:
                kill(target, signal.SIGKILL)
            except ProcessLookupError:
                continue
        os.waitpid(self._pid, 0)
        self._pid = 0

    def _converse(
        self, body: bytes, limits: GraderLimits, cache: JudgementCache | None, on_tick: Callable[[], None]
    ) -> None:
        assert self._sock is not None
        talk = self._sock.fileno()
        write_frame(talk, (b"s" if cache else b"-") + body)
        if cache is not None:
            verdicts, busy = cache.look(from_json(self._answer(limits, on_tick)))
            write_frame(talk, dump([verdicts, busy]))
            if busy:
                self._answer(limits, on_tick)
                write_frame(talk, dump(cache.wait(busy, self._progress()[0], on_tick)))
        self._answer(limits, on_tick)

    def _answer(self, limits: GraderLimits, on_tick: Callable[[], None]) -> bytes:
        """The next frame of the grader, watched over while it works."""
        assert self._sock is not None
        size, since, cpu_then = -1, 0.0, 0.0
        while not select.select([self._sock], [], [], TICK_S)[0]:
            on_tick()
            now_size, used = os.fstat(self._memory_fd).st_size, usage(self._pid)
            if now_size != size:
                size, since, cpu_then = now_size, time.monotonic(), used.cpu_s
            elif time.monotonic() - since > limits.wall_s or used.cpu_s - cpu_then > limits.cpu_s:
                raise GraderLimit("time limit of the grader")
            if used.memory_bytes > limits.memory_bytes:
                raise GraderLimit("memory limit of the grader")
        frame = read_frame(self._sock.recv)
        if frame is None:
            raise ConnectionResetError("the grader died")
        return frame

    def _progress(self) -> tuple[list[Line], int | None]:
        """The finished lines, and the completion begun but not finished."""
        written = os.pread(self._memory_fd, os.fstat(self._memory_fd).st_size, 0)
        lines: list[Line] = []
        begun = None
        # What follows the last line feed was cut off by a kill.
        for line in written.split(b"\n")[:-1]:
            head, _tab, verdict = line.partition(b"\t")
            if verdict:
                lines.append(Line(*[*from_json(head), verdict]))
                begun = None
            else:
                begun = int(head)
        return lines, begun


def _become_grader(worker_pid: int) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL, worker_pid)


def serve(sock: socket.socket, memory_fd: int) -> None:
    """The grader's own loop: chunks in, verdicts out, until the worker hangs up."""
    tools = WorkerTools()
    try:
        while (frame := read_frame(sock.recv)) is not None:
            answers = read(decode_body(frame[1:]))
            known, busy = _ask(sock, answers) if frame[:1] == b"s" else ({}, set())
            later = _judge_all(list(enumerate(answers)), known, busy, tools, memory_fd)
            if later:
                write_frame(sock.fileno(), b"")
                known |= from_json(read_frame(sock.recv) or b"{}")
                _judge_all(later, known, set(), tools, memory_fd)
            write_frame(sock.fileno(), b"")
    finally:
        tools.close()


def _ask(sock: socket.socket, answers: Sequence[Answer]) -> tuple[dict[str, str], set[str]]:
    keys = list(dict.fromkeys(answer.key for answer in answers if answer.key))
    write_frame(sock.fileno(), dump(keys))
    known, busy = from_json(read_frame(sock.recv) or b"[{},[]]")
    return known, set(busy)


def _judge_all(
    answers: Sequence[tuple[int, Answer]],
    known: dict[str, str],
    busy: set[str],
    tools: WorkerTools,
    memory_fd: int,
) -> list[tuple[int, Answer]]:
    """Judge what is neither known nor busy; `known` learns each new judgement. Returns what was left for later."""
    later = []
    for index, answer in answers:
        if answer.key and answer.key in known:
            verdict = Verdict.model_validate_json(known[answer.key]).model_copy(update={"cached": True})
            _write_line(memory_fd, index, answer.key, verdict)
        elif answer.key in busy:
            later.append((index, answer))
        else:
            os.write(memory_fd, b"%d\n" % index)
            verdict = answer.verdict(tools)
            line = _write_line(memory_fd, index, answer.key, verdict)
            if answer.key and verdict.reward is not None:
                known[answer.key] = line
    return later


def _write_line(memory_fd: int, index: int, key: str, verdict: Verdict) -> str:
    text = verdict.model_dump_json()
    head = [index, key, verdict.verifier, verdict.outcome, verdict.reason, verdict.elapsed_s, verdict.cached]
    os.write(memory_fd, dump(head) + b"\t" + text.encode() + b"\n")
    return text
