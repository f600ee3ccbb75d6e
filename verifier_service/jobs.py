"""The API's side of the queue: accept batches, hear results through one listener, look after what got lost.

The reply list only makes the answer fast; whatever it loses is found again by comparing with the truth in Redis
(`batch_store.py`). What is lost there is enqueued again by whoever still has the completions.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from redis.asyncio import Redis
from redis.exceptions import RedisError

from verifier_service import lanes
from verifier_service.batch import Batch, Layout, slots_of
from verifier_service.batch_store import BatchStore
from verifier_service.chunks import Costs, Piece, cut, decode_result
from verifier_service.metrics import Metrics
from verifier_service.schemas import ScoreRequest
from verifier_service.settings import Settings
from verifier_service.verifier import AnyVerifier

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 1.0
"""How often a batch that is not answered yet is compared with the truth in Redis."""
MAX_CHUNK_COMPLETIONS = 256
LISTEN_S = 5
"""How long the listener lets Redis wait for a result; below the time after which an answer of Redis is given up."""
BACKLOG_S = 0.001
"""A reply that came so fast was waiting already, and others may wait behind it."""
UNDO_TRIES = 60
JOIN_TRIES, JOIN_PAUSE_S = 10, 0.1
"""A request that another process has claimed but not yet enqueued is given this long."""


class JobLost(Exception):
    """No such job: never known to this key, expired, or lost with its Redis."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An admitted request."""

    request: ScoreRequest
    verifiers: Sequence[AnyVerifier]
    """One an item."""
    owner: str
    trace: str = ""
    is_job: bool = False
    """Not waited for: somebody comes back for the answer."""


class Jobs:
    """Everything the routes do with batches. All methods raise `RedisError` where the queue cannot be reached."""

    def __init__(self, redis: Redis, settings: Settings, metrics: Metrics) -> None:
        self._redis = redis
        self._settings = settings
        self._metrics = metrics
        self._costs = Costs()
        self._store = BatchStore(redis, settings, self._costs)
        self._batches: dict[str, Batch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._entrances: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Equal requests that arrive together enter one by one."""

    async def start(self) -> None:
        self._keep(self._listen())

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for batch in self._batches.values():
            await self._put_away(batch)

    async def submit(self, asked: Asked) -> Batch:
        """Enqueue a batch, or join the one that has this `request_id` already. Raises `RequestConflict`."""
        request = asked.request
        singles = [Piece(item.task, [text]) for item in request.items for text in item.completions]
        if request.request_id is None:
            return await self._begin(secrets.token_hex(12), asked, singles)
        job_id, is_new = await self._store.claim_request(asked.owner, request)
        async with self._entrances.setdefault(job_id, asyncio.Lock()):
            batch = self._batches.get(job_id)
            if batch is None and not is_new:
                batch = await self._join(job_id, singles)
            if batch is not None and batch.singles is None:
                batch.singles = singles  # until now this process only watched it
            if batch is None or batch.cancelled:
                await self._store.uncancel(job_id)
                batch = await self._begin(job_id, asked, singles)
            return batch

    async def _begin(self, job_id: str, asked: Asked, singles: Sequence[Piece]) -> Batch:
        batch = Batch(job_id, self._layout(job_id, asked), singles)
        batch.trace = asked.trace
        batch.lasting = asked.is_job or batch.layout.request_id is not None
        # Known to the listener first: a result can be faster than Redis's answer to the enqueueing.
        self._batches[job_id] = batch
        try:
            await self._store.enqueue(batch, [(chunk, chunk.positions) for chunk in batch.layout.chunks])
        except BaseException:
            del self._batches[job_id]
            if batch.layout.request_id is None:
                self._keep(self._undo(batch))
            raise
        self._watch(batch)
        return batch

    async def _undo(self, batch: Batch) -> None:
        """Redis may hold what it did not acknowledge, and without a `request_id` nobody can ever ask for it."""
        for _ in range(UNDO_TRIES):
            with contextlib.suppress(RedisError):
                await self._store.take_back(batch, even_running=True)
                await self._store.forget(batch)
                return
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _join(self, job_id: str, singles: Sequence[Piece]) -> Batch | None:
        """The batch of another process, or of an earlier request, with this `request_id`; None if it never began."""
        for _ in range(JOIN_TRIES):
            batch = await self._store.load(job_id, singles)
            if batch is not None:
                self._watch(batch)
                return batch
            await asyncio.sleep(JOIN_PAUSE_S)
        return None

    async def find(self, job_id: str, owner: str) -> Batch:
        """A batch of this owner, wherever it is. Raises `JobLost`."""
        batch = self._batches.get(job_id)
        if batch is None:
            batch = await self._store.load(job_id, None)
        if batch is None or batch.dropped or batch.layout.owner != owner:
            raise JobLost(job_id)
        if not batch.settled() and job_id not in self._batches:
            self._watch(batch)
        return batch

    async def is_running(self, batch: Batch) -> bool:
        """Whether any of its chunks was ever given to a worker."""
        return batch.missing < batch.layout.total or await self._store.was_dispatched(batch)

    async def cancel(self, batch: Batch) -> None:
        """Stop all its work, also what workers have in hand."""
        await self._store.cancel(batch)
        batch.cancelled = True
        batch.announce()
        await self._store.take_back(batch, even_running=True)

    async def abandon(self, batch: Batch) -> None:
        """The client has gone: what no worker has begun need not be graded. A retry finds the rest and resumes."""
        if batch.waiters or batch.settled():
            return
        if batch.layout.request_id is None:
            await self.cancel(batch)
            await self._store.forget(batch)
        else:
            self._batches.pop(batch.job_id, None)
            batch.drop()
            await self._store.take_back(batch, even_running=False)

    def _layout(self, job_id: str, asked: Asked) -> Layout:
        request, verifiers = asked.request, asked.verifiers
        item_lanes = [verifier.lane for verifier in verifiers]
        target_s = self._settings.chunk_target_s
        chunks = cut(job_id, request.items, item_lanes, self._costs, target_s, MAX_CHUNK_COMPLETIONS)
        slots = list(slots_of(request.items, [verifier.version for verifier in verifiers]))
        return Layout(asked.owner, slots, chunks, time.time() + request.deadline_s, request.request_id)

    def _watch(self, batch: Batch) -> None:
        self._batches[batch.job_id] = batch
        self._keep(self._look_after(batch))

    def _keep(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_after(self, batch: Batch) -> None:
        """See one batch to its end: find what the reply list lost, enqueue what Redis lost, enforce the deadline."""
        late = False
        while not batch.settled():
            left_s = batch.deadline - time.monotonic()
            pause_s = min(LOOK_AGAIN_S, left_s) if left_s > 0 else LOOK_AGAIN_S
            looked_at = time.monotonic()
            while not batch.settled() and (rest_s := looked_at + pause_s - time.monotonic()) > 0:
                await batch.change(rest_s)
            if batch.settled():
                break
            try:
                if not late and time.monotonic() >= batch.deadline:
                    batch.fail(await self._store.take_back(batch, even_running=False), "deadline")
                    late = True
                await self._reconcile(batch, late)
            except RedisError as error:
                log.warning("job %s: the queue cannot be reached: %s", batch.job_id, error)
        await self._put_away(batch)
        # Another batch has this id where a cancelled request was sent again.
        if self._batches.get(batch.job_id) is batch:
            del self._batches[batch.job_id]

    async def _put_away(self, batch: Batch) -> None:
        if batch.finished:
            await (self._store.keep(batch) if batch.lasting else self._store.forget(batch))

    async def _reconcile(self, batch: Batch, late: bool) -> None:
        await self._store.collect(batch)
        lost = await self._store.missing_chunks(batch)
        if lost and await self._store.is_cancelled(batch.job_id):
            batch.cancelled = True
            batch.announce()
        elif late:
            for _chunk, positions in lost:
                batch.fail(positions, "queue")
        elif lost and batch.singles is None:
            batch.drop()
        elif lost:
            log.warning("job %s: %d chunks were lost, enqueued again", batch.job_id, len(lost))
            await self._store.enqueue(batch, lost)

    async def _listen(self) -> None:
        """The one listener of this process: results arrive here and wake whoever waits for them."""
        keys = [lanes.reply_key(lane, self._store.api_id) for lane in lanes.LANES]
        while True:
            try:
                asked_at = time.monotonic()
                popped: Any = await self._redis.blpop(keys, timeout=LISTEN_S)
                if popped is None:
                    continue
                key, message = popped
                self._hear(message)
                if time.monotonic() - asked_at < BACKLOG_S:
                    further: Any = await self._redis.lpop(key, 100)
                    for message in further or ():
                        self._hear(message)
            except (RedisError, OSError) as error:
                log.warning("listener: the queue cannot be reached: %s", error)
                await asyncio.sleep(0.2)

    def _hear(self, message: bytes) -> None:
        result = decode_result(message)
        if result is None:
            return
        header, verdicts = result
        batch = self._batches.get(header.job_id)
        for kind, (count, seconds) in header.judged.items():
            self._costs.learn(kind, count, seconds)
        self._metrics.count_result(header)
        if batch is not None:
            batch.queue_s = max(batch.queue_s, header.queue_s)
            batch.fill(header.positions, verdicts)
