"""Keeps N grading workers alive: forks them warm, replaces the dead, gives their chunks back to the queue."""

import contextlib
import gc
import logging
import os
import random
import signal
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

from pydantic import JsonValue
from redis.exceptions import RedisError

from verifier_service import lanes
from verifier_service.errors import TaskRefused
from verifier_service.process import die_with_parent
from verifier_service.registry import kinds, parse_task, verifier_for
from verifier_service.settings import Settings
from verifier_service.tools import WorkerTools
from verifier_service.verify import verify
from verifier_service.worker import GradingWorker, connect

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
ORPHAN_AFTER_S = 3.0
"""A chunk taken off the queue but not leased for so long lost its worker in between."""
QUICK_DEATH_S = 2.0
FIRST_USES: Sequence[tuple[Mapping[str, JsonValue], str]] = (
    ({"kind": "stem", "ground_truth": "3 m/s"}, "\\boxed{300 cm/s}"),
    (
        {"kind": "instruction", "instructions": [{"id": "language:response_language", "kwargs": {"language": "en"}}]},
        "This is a sentence.",
    ),
)
"""Tasks whose first judgement loads something large: the units, the languages (a second of CPU between them)."""
_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)
NICENESS = {"light": 0, "code": 5, "slow": 5}
"""Long programs yield to short answers where both share a core; CPU limits do not notice."""


class Supervisor:
    """`run` forks `settings.workers` workers a lane and returns when told to stop and all of them have drained."""

    def __init__(self, settings: Settings, redis_url: str, queues: Sequence[lanes.Lane] = lanes.LANES) -> None:
        self._settings = settings
        self._redis_url = redis_url
        self._queues = queues
        self._workers: dict[int, tuple[lanes.Lane, str, float]] = {}
        """pid -> lane, name, when started (monotonic)."""
        self._unleased: dict[str, float] = {}
        self._not_before = 0.0
        self._parent_pid = os.getppid()

    def run(self) -> None:
        # Blocked here and waited for, so that no signal is lost between two looks; workers unblock them.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        warm_up()
        # Fails at once: what cannot be done now is done at the next look, and a signal is not to wait.
        self._redis = connect(self._redis_url, retries=1)
        self._recover = self._redis.register_script(lanes.RECOVER)
        next_look = 0.0
        while True:
            self._fill()
            got = signal.sigtimedwait(_SIGNALS, LOOK_EVERY_S)
            if got is not None and got.si_signo != signal.SIGCHLD:
                break
            self._reap()
            if self._settings.alive_file is not None:
                self._settings.alive_file.touch()
            if time.monotonic() >= next_look:
                self._try(self._look_after_orphans)
                next_look = time.monotonic() + LOOK_EVERY_S
        self._stop()

    def _fill(self) -> None:
        if time.monotonic() < self._not_before:
            return
        for lane in self._queues:
            running = sum(1 for kept, _name, _since in self._workers.values() if kept == lane)
            for _ in range(self._settings.workers - running):
                self._fork(lane)

    def _fork(self, lane: lanes.Lane) -> None:
        name = f"{lane}-{uuid.uuid4().hex[:12]}"
        supervisor_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                die_with_parent(signal.SIGTERM, supervisor_pid)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
                os.nice(NICENESS[lane])
                work(lane, name, self._redis_url, self._settings)
                status = 0
            except Exception:
                log.exception("worker %s ended", name)
            finally:
                os._exit(status)
        self._workers[pid] = lane, name, time.monotonic()

    def _reap(self) -> None:
        """Collect dead workers and give back at once what each was holding."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid not in self._workers:
                continue
            lane, name, since = self._workers.pop(pid)
            self._try(partial(self._give_back, lane, name, status))
            if time.monotonic() - since < QUICK_DEATH_S:
                self._not_before = time.monotonic() + 1.0

    def _give_back(self, lane: str, worker: str, status: int) -> None:
        if status != 0:
            log.warning("worker %s died: %s", worker, os.waitstatus_to_exitcode(status))
            self._redis.hincrby(lanes.stats_key(lane), "worker_deaths", 1)
        for known in (lanes.workers_key(lane), GradingWorker.redis_workers_keys):
            self._redis.srem(known, GradingWorker.redis_worker_namespace_prefix + worker)
        for chunk_id in self._held(lane):
            if self._redis.get(lanes.keys_of(chunk_id).lease) == worker.encode():
                self._recover(lanes.keys_of(chunk_id), [chunk_id, worker])

    def _look_after_orphans(self) -> None:
        """Give back chunks whose worker stopped renewing its lease, here or on another machine."""
        seen = dict[str, float]()
        for lane in self._queues:
            held = self._held(lane)
            leases = self._redis.mget([lanes.keys_of(chunk_id).lease for chunk_id in held]) if held else []
            for chunk_id, lease in zip(held, leases, strict=True):
                if lease is None:
                    seen[chunk_id] = self._unleased.get(chunk_id, time.monotonic())
        self._unleased = seen
        for chunk_id, since in seen.items():
            if time.monotonic() - since >= ORPHAN_AFTER_S:
                log.warning("chunk %s has lost its worker", chunk_id)
                self._recover(lanes.keys_of(chunk_id), [chunk_id, ""])

    def _held(self, lane: str) -> list[str]:
        held = cast(list[bytes], self._redis.lrange(lanes.held_key(lane), 0, -1))
        return [chunk_id.decode(errors="replace") for chunk_id in held]

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except RedisError as error:
            log.warning("Redis: %s", error)

    def _stop(self) -> None:
        """SIGTERM lets each worker finish the chunk in hand; past the drain time, or where the service that would want
        the verdicts has died, they are killed."""
        for pid in self._workers:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + (self._settings.drain_s if os.getppid() == self._parent_pid else 0.0)
        while self._workers and time.monotonic() < deadline:
            signal.sigtimedwait([signal.SIGCHLD], 0.2)
            self._reap()
        for pid in self._workers:
            os.kill(pid, signal.SIGKILL)
        while self._workers:
            signal.sigtimedwait([signal.SIGCHLD], 0.2)
            self._reap()


def warm_up() -> None:
    """Import every verifier and load its tables before forking, so that workers start warm and share the memory."""
    for kind in kinds():
        try:
            verifier_for(kind)
        except TaskRefused as refused:
            log.error("%s", refused)
    with contextlib.closing(WorkerTools()) as tools:
        for task, completion in FIRST_USES:
            with contextlib.suppress(TaskRefused):
                verify(*parse_task(task), completion, tools)
    gc.collect()
    gc.freeze()


def work(lane: lanes.Lane, name: str, redis_url: str, settings: Settings) -> None:
    """One worker's life, in its own process."""
    logging.getLogger("rq").setLevel(logging.WARNING)
    random.seed()
    worker = GradingWorker(lane, name, redis_url, settings)
    # Spread, so that not all workers of a machine are replaced at once.
    worker.work(max_jobs=int(settings.recycle_chunks * random.uniform(0.8, 1.2)), logging_level="WARNING")
