"""A grading worker: RQ's loop around one grader process. The loop itself never runs a grader.

What goes wrong, and what becomes of it:
    grader hits a limit or dies   the completion it was at goes to the queue alone; the others continue here
    ... alone                     `incorrect`, `grader_limit` (a death that no limit explains: at the second)
    this process is killed        its lease runs out, the supervisor gives the chunk back (`supervisor.py`)
    a chunk has killed two        it is split into single completions; one that alone killed four is `grader_limit`
"""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, NoReturn

from redis import Redis, exceptions
from redis.backoff import ExponentialBackoff
from redis.retry import Retry
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.worker import SimpleWorker

from verifier_service import lanes
from verifier_service.cache import JudgementCache
from verifier_service.chunks import (
    Header,
    ResultHeader,
    encode_result,
    join_chunk,
    split_chunk,
)
from verifier_service.grader import Grader, GraderKilled, GraderLimits
from verifier_service.grading import Line, limit_line, part_of
from verifier_service.rq_job import GradingJob, GradingQueue, put
from verifier_service.settings import Settings
from verifier_service.tracing import completed, set_up, span

log = logging.getLogger(__name__)

MAX_ATTEMPTS, MAX_ATTEMPTS_ALONE = 2, 4
"""A chunk that was taken so often and never finished has killed its workers. Alone more often: those whose workers an
operator, or a neighbour who takes all memory, kills again and again are not to look guilty."""
MAX_DEATHS_ALONE = 2
"""A grader that dies with one completion without having hit a limit of ours may have been killed by accident (by the
kernel short of memory, by an operator), so that one more death is needed than with a limit."""
RUN_TTL_S = 6 * 3600
"""How long what a worker holds may stay in Redis; far above any limit."""
HEARTBEAT_S = 2.0
WORKER_TTL_S = 20
"""RQ blocks for this minus 15 seconds before it looks around."""


def grade_chunk() -> NoReturn:
    """The one function name of our jobs; the worker grades them itself."""
    raise RuntimeError("a grading job is never called")


class Unwanted(Exception):
    """The chunk was cancelled, or given to another worker, while this one was at it."""


def connect(url: str, retries: int = 15) -> Redis:
    """A connection that by default outlives a restart of Redis: about twenty seconds of retries a command. RQ raises
    the timeout of a worker's above the time for which it blocks."""
    retry = Retry(ExponentialBackoff(cap=2.0, base=0.05), retries)
    errors: list[type[Exception]] = [exceptions.ConnectionError, exceptions.TimeoutError, ConnectionError]
    return Redis.from_url(url, retry=retry, retry_on_error=errors, socket_timeout=5, health_check_interval=30)


class GradingWorker(SimpleWorker):
    """RQ's worker without what costs and what is dangerous: no pubsub thread that takes orders, no results of RQ, a
    heartbeat every other second instead of three a job."""

    def __init__(self, lane: lanes.Lane, name: str, redis_url: str, settings: Settings) -> None:
        connection = connect(redis_url)
        super().__init__(
            [GradingQueue(lane, connection, self._take)],
            name=name,
            connection=connection,
            job_class=GradingJob,
            queue_class=GradingQueue,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL_S,
            log_job_description=False,
        )
        self._settings = settings
        self._redis_url = redis_url
        self._lane = lane
        self._beaten_at = 0.0
        self._claim = connection.register_script(lanes.CLAIM)
        self._renew = connection.register_script(lanes.RENEW)
        self._finish = connection.register_script(lanes.FINISH)
        self._cache = JudgementCache(connection, lane, name, settings)
        self._grader = Grader(after_fork=connection.connection_pool.disconnect)
        self._renewed_at = 0.0
        self._taken_at = datetime.now(UTC)

    # What RQ does around a job, cut to what is needed.

    def _set_ip_address(self, connection: Redis) -> None:
        # RQ asks for the list of all clients, which grows with the cluster and is nothing a worker may see.
        self.ip_address = "unknown"

    def _nothing(self, *_args: Any, **_named: Any) -> None: ...

    subscribe = unsubscribe = check_for_suspension = procline = set_shutdown_requested_date = _nothing

    @property
    def should_run_maintenance_tasks(self) -> bool:
        return False

    def set_state(self, state: str, pipeline: Any = None) -> None:
        self._state = state

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        if time.monotonic() - self._beaten_at < HEARTBEAT_S:
            return
        self._beaten_at = time.monotonic()
        self.last_heartbeat = datetime.now(UTC)
        with self.connection.pipeline() as pipe:
            # Registered anew each time, so that a Redis that lost everything knows this worker again.
            pipe.sadd(self.redis_workers_keys, self.key)
            pipe.sadd(lanes.workers_key(self._lane), self.key)
            pipe.sadd(GradingQueue.redis_queues_keys, lanes.queue_key(self._lane))
            pipe.hset(self.key, mapping=self.serialize())
            pipe.expire(self.key, WORKER_TTL_S)
            pipe.execute()

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        self._grader.start()
        set_up("verifier-worker")
        super().bootstrap(*args, **kwargs)

    def teardown(self) -> None:
        self._grader.kill()
        # Saying goodbye is a courtesy: not worth waiting for a Redis that is gone.
        self.connection = connect(self._redis_url, retries=0)
        with contextlib.suppress(exceptions.RedisError):
            super().teardown()  # type: ignore[no-untyped-call]

    def _take(self, name: bytes) -> GradingJob | None:
        """Claim a chunk that was just moved to this worker; None where there is nothing to grade."""
        chunk_id = name.decode(errors="replace")
        if lanes.lane_of(chunk_id) != self._lane or chunk_id.encode() != name:
            self.connection.lrem(lanes.held_key(self._lane), 1, name)  # type: ignore[arg-type]
            return None
        lease_ms = int(self._settings.lease_s * 1000)
        claimed = self._claim(lanes.keys_of(chunk_id), [chunk_id, self.name, lease_ms, RUN_TTL_S])
        if claimed is None:
            return None
        attempts, payload, record = claimed
        job = GradingJob(chunk_id, connection=self.connection, serializer=JSONSerializer)
        try:
            job.restore(dict(zip(record[::2], record[1::2], strict=True)))
        except NoSuchJobError:
            return None
        job.attempts, job.payload = attempts, payload or b""
        self._renewed_at, self._taken_at = time.monotonic(), datetime.now(UTC)
        return job

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Grade one chunk. RQ calls this with every job it takes off the queue."""
        assert isinstance(job, GradingJob)
        self.set_state("busy")
        try:
            self._grade(job)
        except Unwanted:
            log.info("chunk %s is no longer wanted", job.id)
        except (ValueError, TypeError, LookupError):
            # It would end one worker after the other. Its API finds it lost.
            log.exception("chunk %s cannot be read", job.id)
            keys = lanes.keys_of(job.id)
            self.connection.delete(keys.record, keys.payload, keys.lease)
            self.connection.lrem(keys.held, 1, job.id)
        self.set_state("idle")
        if self._grader.memory_bytes > self._settings.recycle_memory_mb << 20:
            self._stop_requested = True

    def _grade(self, job: GradingJob) -> None:
        header, body = split_chunk(job.payload)
        with span("chunk", header.trace, lane=self._lane, completions=len(header.positions)) as trace:
            lines, alone = self._judge(job.id, header, body, job.attempts)
            for line in lines.values():
                completed(line.kind, trace, line.elapsed_s, outcome=line.outcome, reason=line.reason)
        self._report(job, header, lines, body, alone)

    def _judge(self, chunk_id: str, header: Header, body: bytes, attempts: int) -> tuple[dict[int, Line], list[int]]:
        if attempts <= (MAX_ATTEMPTS_ALONE if header.alone else MAX_ATTEMPTS):
            # A chunk that killed a worker is not made to wait for the locks of the dead one.
            header = replace(header, share=header.share and attempts == 1 and not header.alone)
            return self._grade_all(chunk_id, header, body)
        if header.alone:
            return {0: limit_line(body)}, []
        return {}, list(range(len(header.positions)))

    def _grade_all(self, chunk_id: str, header: Header, body: bytes) -> tuple[dict[int, Line], list[int]]:
        """All verdicts that could be had here, and which completions are to be graded alone."""
        lines: dict[int, Line] = {}
        alone: list[int] = []
        deaths = 0
        todo = list(range(len(header.positions)))
        while todo:
            part = body if len(todo) == len(header.positions) else part_of(body, todo)
            try:
                done = self._ask_grader(chunk_id, header, part)
            except GraderKilled as killed:
                done = killed.lines
                victims = range(len(todo)) if killed.victim is None else [killed.victim]
                log.warning(
                    "chunk %s: the grader was lost at %s",
                    chunk_id,
                    [header.positions[todo[victim]] for victim in victims],
                    extra={"request_id": header.request_id},
                )
                deaths += 1
                if not header.alone:
                    alone += [todo[victim] for victim in victims]
                elif killed.by_limit or deaths == MAX_DEATHS_ALONE:
                    done.append(limit_line(body))
            self._cache.publish(done)
            lines |= {todo[line.index]: line for line in done}
            todo = [index for index in todo if index not in lines and index not in alone]
        return lines, alone

    def _ask_grader(self, chunk_id: str, header: Header, body: bytes) -> list[Line]:
        settings = self._settings
        limits = GraderLimits(
            cpu_s=settings.grader_cpu_s,
            wall_s=settings.grader_wall_s + 10 * header.limit_s,
            memory_bytes=settings.grader_memory_mb << 20,
        )

        cache = self._cache if header.share and settings.cache_size > 0 else None
        return self._grader.grade(body, limits, cache, partial(self._tick, chunk_id))

    def _tick(self, chunk_id: str) -> None:
        """Called several times a second while the grader works: keep the lease, notice a cancelled chunk."""
        self.heartbeat()
        if time.monotonic() - self._renewed_at < self._settings.lease_s / 4:
            return
        self._renewed_at = time.monotonic()
        if not self._renew(lanes.keys_of(chunk_id), [self.name, int(self._settings.lease_s * 1000)]):
            raise Unwanted(chunk_id)

    def _report(self, job: Job, header: Header, lines: Mapping[int, Line], body: bytes, alone: Sequence[int]) -> None:
        """Hand in the verdicts and, in the same transaction, enqueue what is to be graded alone."""
        result = self._result(job, header, lines)
        lane = self._lane
        shared = (lanes.results_key(lane, header.job_id), lanes.reply_key(lane, header.api_id), lanes.stats_key(lane))
        keys = [*lanes.keys_of(job.id), *shared]
        args: list[str | bytes | int] = [job.id, result, header.result_ttl_s]
        if not alone:
            self._finish(keys, args)
            return
        with self.connection.pipeline(transaction=True) as pipe:
            for index in alone:
                position = header.positions[index]
                single = replace(header, positions=[position], alone=True)
                payload = join_chunk(single, part_of(body, [index]))
                put(pipe, lanes.alone_id(job.id, position), payload, RUN_TTL_S)
            self._finish(keys, args, client=pipe)
            pipe.execute()

    def _result(self, job: Job, header: Header, lines: Mapping[int, Line]) -> bytes:
        queued_at = job.enqueued_at or datetime.now(UTC)
        judged: dict[str, tuple[int, float]] = {}
        for line in lines.values():
            if not line.copied:
                count, seconds = judged.get(line.kind, (0, 0.0))
                judged[line.kind] = count + 1, seconds + line.elapsed_s
        result_header = ResultHeader(
            chunk_id=job.id,
            job_id=header.job_id,
            positions=[header.positions[index] for index in lines],
            tallies=dict(Counter(f"{line.kind} {line.outcome} {line.reason}" for line in lines.values())),
            judged=judged,
            grading_cpu_s=self._grader.take_cpu_s(),
            queue_s=max(0.0, (self._taken_at - queued_at).total_seconds()),
            cached=sum(line.copied for line in lines.values()),
        )
        return encode_result(result_header, [line.verdict for line in lines.values()])
