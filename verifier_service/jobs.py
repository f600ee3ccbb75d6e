"""The API's side of the queue: accept batches, hear results through one listener, look after what got lost.

Truth is in Redis: a chunk is either enqueued or held (it has a record), or finished (its result is in the job's hash).
What has neither was lost with Redis, or withdrawn, and is enqueued again by whoever still has the completions. The
reply list only makes the answer fast; whatever it loses is found again by looking.
"""

import asyncio
import contextlib
import hashlib
import logging
import secrets
import time
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from verifier_service import lanes
from verifier_service.batch import LAYOUT, Batch, Layout, slots_of
from verifier_service.chunks import (
    Chunk,
    Costs,
    Header,
    Piece,
    cut,
    decode_result,
    encode_body,
    join_chunk,
    take,
)
from verifier_service.metrics import Metrics
from verifier_service.rq_job import put
from verifier_service.schemas import ScoreRequest
from verifier_service.settings import Settings
from verifier_service.verifier import AnyVerifier

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 1.0
"""How often a batch that is not answered yet is compared with the truth in Redis."""
JOIN_TRIES, JOIN_PAUSE_S = 10, 0.1
"""A request that another process has claimed but not yet enqueued is given this long."""
GRACE_S = 3600
"""Records outlive the deadline by this much, for chunks that were dispatched in time and run long."""
SHARE_ABOVE_S = 0.0005
"""Judging cheaper than this is cheaper than asking whether it was done before."""


class RequestConflict(Exception):
    """The `request_id` was used with another body."""


class JobLost(Exception):
    """No such job: never known to this key, expired, or lost with its Redis."""


class Jobs:
    """Everything the routes do with batches. All methods raise `RedisError` where the queue cannot be reached."""

    def __init__(self, redis: Redis, settings: Settings, metrics: Metrics) -> None:
        self._redis = redis
        self._settings = settings
        self._metrics = metrics
        self._api_id = secrets.token_hex(8)
        self._costs = Costs()
        self._batches: dict[str, Batch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._entrances: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Equal requests that arrive together enter one by one."""
        self._withdraw = redis.register_script(lanes.WITHDRAW)

    async def start(self) -> None:
        self._keep(self._listen())

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def submit(self, request: ScoreRequest, verifiers: Sequence[AnyVerifier], owner: str, body: bytes) -> Batch:
        """Enqueue a batch, or join the one that has this `request_id` already. Raises `RequestConflict`."""
        singles = [Piece(item.task, [text]) for item in request.items for text in item.completions]
        if request.request_id is None:
            return await self._begin(secrets.token_hex(12), request, verifiers, owner, singles)
        job_id, is_new = await self._claim_request(owner, request, hashlib.sha256(body).hexdigest())
        async with self._entrances.setdefault(job_id, asyncio.Lock()):
            batch = self._batches.get(job_id)
            if batch is None and not is_new:
                batch = await self._join(job_id, singles)
            if batch is None or batch.cancelled:
                batch = await self._begin(job_id, request, verifiers, owner, singles)
            return batch

    async def _begin(
        self,
        job_id: str,
        request: ScoreRequest,
        verifiers: Sequence[AnyVerifier],
        owner: str,
        singles: Sequence[Piece],
    ) -> Batch:
        batch = Batch(job_id, self._layout(job_id, request, verifiers, owner), singles)
        # Known to the listener first: a result can be faster than Redis's answer to the enqueueing.
        self._batches[job_id] = batch
        try:
            await self._enqueue(batch, [(chunk, chunk.positions) for chunk in batch.layout.chunks], new=True)
        except BaseException:
            del self._batches[job_id]
            raise
        self._watch(batch)
        return batch

    async def _join(self, job_id: str, singles: Sequence[Piece]) -> Batch | None:
        """The batch of another process, or of an earlier request, with this `request_id`; None if it never began."""
        for _ in range(JOIN_TRIES):
            batch = await self._stored(job_id, singles)
            if batch is not None:
                self._watch(batch)
                return batch
            await asyncio.sleep(JOIN_PAUSE_S)
        return None

    async def find(self, job_id: str, owner: str) -> Batch:
        """A batch of this owner, wherever it is. Raises `JobLost`."""
        batch = self._batches.get(job_id)
        if batch is None:
            batch = await self._stored(job_id, None)
        if batch is None or batch.lost or batch.layout.owner != owner:
            raise JobLost(job_id)
        if not batch.settled() and job_id not in self._batches:
            self._watch(batch)
        return batch

    async def is_running(self, batch: Batch) -> bool:
        """Whether any of its chunks was ever given to a worker."""
        if batch.missing < batch.layout.total:
            return True
        async with self._redis.pipeline(transaction=False) as pipe:
            for chunk in batch.layout.chunks:
                pipe.hexists(lanes.record_key(chunk.chunk_id), "attempts")
            return any(await pipe.execute())

    async def cancel(self, batch: Batch) -> None:
        """Stop all its work, also what workers have in hand."""
        await self._redis.hset(lanes.job_key(batch.job_id), "cancelled", 1)
        await self._redis.expire(lanes.job_key(batch.job_id), self._settings.result_ttl_s)
        batch.cancelled = True
        batch.announce()
        await self._take_back(batch, "1")

    async def abandon(self, batch: Batch) -> None:
        """The client has gone: what no worker has begun need not be graded. A retry finds the rest and resumes."""
        if batch.waiters or batch.settled():
            return
        if batch.layout.request_id is None:
            await self.cancel(batch)
            await self._forget(batch)
        else:
            self._batches.pop(batch.job_id, None)
            batch.lost = True
            batch.announce()
            await self._take_back(batch, "0")

    async def answered(self, batch: Batch) -> None:
        """The verdicts are with the client; without a `request_id` nobody can ask again."""
        if batch.layout.request_id is None:
            await self._forget(batch)

    def _layout(self, job_id: str, request: ScoreRequest, verifiers: Sequence[AnyVerifier], owner: str) -> Layout:
        settings = self._settings
        item_lanes = [verifier.lane for verifier in verifiers]
        chunks = cut(
            job_id, request.items, item_lanes, self._costs, settings.chunk_target_s, settings.max_chunk_completions
        )
        slots = list(slots_of(request.items, [verifier.version for verifier in verifiers]))
        return Layout(owner, slots, chunks, time.time() + request.deadline_s, request.request_id)

    async def _claim_request(self, owner: str, request: ScoreRequest, digest: str) -> tuple[str, bool]:
        """The job that answers this `request_id`, and whether it is a new one."""
        key = lanes.request_key(owner, hashlib.sha256(str(request.request_id).encode()).hexdigest())
        ttl_s = int(request.deadline_s) + GRACE_S
        async with self._redis.pipeline() as pipe:
            pipe.set(key, f"{secrets.token_hex(12)} {digest}", nx=True, ex=ttl_s)
            pipe.get(key)
            is_new, held = await pipe.execute()
        known_job, known_digest = held.decode().split()
        if known_digest != digest:
            raise RequestConflict(request.request_id)
        return known_job, bool(is_new)

    async def _stored(self, job_id: str, singles: Sequence[Piece] | None) -> Batch | None:
        """A batch from what Redis has of it."""
        stored = await self._redis.hgetall(lanes.job_key(job_id))
        if b"layout" not in stored:
            return None
        layout = LAYOUT.validate_json(stored[b"layout"])
        batch = Batch(job_id, layout, singles)
        batch.cancelled = b"cancelled" in stored
        await self._collect(batch)
        return batch

    async def _collect(self, batch: Batch) -> None:
        """Take in every result that Redis has of this batch."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for lane in batch.layout.lanes:
                pipe.hvals(lanes.results_key(lane, batch.job_id))
            for messages in await pipe.execute():
                for message in messages:
                    header, verdicts = decode_result(message)
                    batch.fill(header.positions, verdicts)

    async def _enqueue(self, batch: Batch, parts: Sequence[tuple[Chunk, list[int]]], new: bool = False) -> None:
        assert batch.singles is not None
        left_s = max(1, int(batch.deadline - time.monotonic()))
        async with self._redis.pipeline(transaction=True) as pipe:
            if new:
                pipe.hset(lanes.job_key(batch.job_id), "layout", LAYOUT.dump_json(batch.layout))
                pipe.expire(lanes.job_key(batch.job_id), left_s + GRACE_S)
            for chunk, positions in parts:
                header = self._header(batch, positions, chunk.lane)
                payload = join_chunk(header, encode_body(take(batch.singles, positions)))
                put(pipe, chunk.chunk_id, payload, left_s + 60)
            await pipe.execute()

    def _header(self, batch: Batch, positions: list[int], lane: str) -> Header:
        assert batch.singles is not None
        tasks = [batch.singles[position].task for position in positions]
        limits = [limit for task in tasks if isinstance(limit := task.get("total_time_limit_s", 0.0), int | float)]
        return Header(
            job_id=batch.job_id,
            api_id=self._api_id,
            positions=positions,
            result_ttl_s=self._settings.result_ttl_s,
            limit_s=max(limits, default=0.0),
            share=any(self._costs.of(str(task["kind"]), lane) >= SHARE_ABOVE_S for task in tasks),
            request_id=batch.layout.request_id or batch.job_id,
        )

    def _watch(self, batch: Batch) -> None:
        if not batch.settled():
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
            pause_s = LOOK_AGAIN_S if late else max(0.0, min(LOOK_AGAIN_S, left_s))
            looked_at = time.monotonic()
            while not batch.settled() and (rest_s := looked_at + pause_s - time.monotonic()) > 0:
                await batch.change(rest_s)
            if batch.settled():
                break
            try:
                if not late and time.monotonic() >= batch.deadline:
                    late = True
                    await self._take_back(batch, "0", "deadline")
                await self._reconcile(batch, late)
            except RedisError as error:
                log.warning("job %s: the queue cannot be reached: %s", batch.job_id, error)
        self._batches.pop(batch.job_id, None)
        if batch.finished:
            await self._keep_results(batch)

    async def _reconcile(self, batch: Batch, late: bool) -> None:
        await self._collect(batch)
        parts = batch.open_chunks()
        async with self._redis.pipeline(transaction=False) as pipe:
            for chunk, positions in parts:
                alone = [lanes.alone_id(chunk.chunk_id, position) for position in positions]
                pipe.exists(*(lanes.record_key(chunk_id) for chunk_id in (chunk.chunk_id, *alone)))
            known = await pipe.execute()
        lost = [part for part, count in zip(parts, known, strict=True) if count == 0]
        if not lost:
            return
        # A result may have come in between the two looks.
        await self._collect(batch)
        lost = [(chunk, [p for p in positions if batch.verdicts[p] is None]) for chunk, positions in lost]
        lost = [(chunk, positions) for chunk, positions in lost if positions]
        if late:
            for _chunk, positions in lost:
                batch.fail(positions, "queue")
        elif batch.singles is None:
            batch.lost = bool(lost)
            batch.announce()
        elif lost:
            log.warning("job %s: %d chunks were lost, enqueued again", batch.job_id, len(lost))
            await self._enqueue(batch, lost, new=True)

    async def _take_back(self, batch: Batch, even_running: str, reason: str | None = None) -> None:
        """Withdraw chunks from the queue; with a reason their completions get the outcome `error`."""
        for chunk, positions in batch.open_chunks():
            withdrawn = await self._withdraw(lanes.withdraw_keys(chunk.chunk_id), [chunk.chunk_id, even_running])
            if even_running == "1":
                for position in positions:
                    alone = lanes.alone_id(chunk.chunk_id, position)
                    await self._withdraw(lanes.withdraw_keys(alone), [alone, even_running])
            if withdrawn and reason is not None:
                batch.fail(positions, reason)

    async def _keep_results(self, batch: Batch) -> None:
        """From now on the answer is kept for `result_ttl_s`, and nothing of it longer."""
        ttl_s = self._settings.result_ttl_s
        with contextlib.suppress(RedisError):
            async with self._redis.pipeline(transaction=False) as pipe:
                for lane in batch.layout.lanes:
                    pipe.expire(lanes.results_key(lane, batch.job_id), ttl_s)
                pipe.expire(lanes.job_key(batch.job_id), ttl_s)
                if batch.layout.request_id is not None:
                    digest = hashlib.sha256(batch.layout.request_id.encode()).hexdigest()
                    pipe.expire(lanes.request_key(batch.layout.owner, digest), ttl_s)
                await pipe.execute()

    async def _forget(self, batch: Batch) -> None:
        keys = [lanes.results_key(lane, batch.job_id) for lane in batch.layout.lanes]
        with contextlib.suppress(RedisError):
            await self._redis.delete(lanes.job_key(batch.job_id), *keys)

    async def _listen(self) -> None:
        """The one listener of this process: results arrive here and wake whoever waits for them."""
        keys = [lanes.reply_key(lane, self._api_id) for lane in lanes.LANES]
        while True:
            try:
                popped: Any = await self._redis.blpop(keys, timeout=5)
                if popped is None:
                    continue
                key, message = popped
                self._hear(message)
                further: Any = await self._redis.lpop(key, 100)
                for message in further or ():
                    self._hear(message)
            except (RedisError, OSError) as error:
                log.warning("listener: the queue cannot be reached: %s", error)
                await asyncio.sleep(0.2)

    def _hear(self, message: bytes) -> None:
        try:
            header, verdicts = decode_result(message)
        except ValidationError:
            log.exception("a reply that cannot be read")
            return
        batch = self._batches.get(header.job_id)
        for kind, (count, seconds) in header.judged.items():
            self._costs.learn(kind, count, seconds)
        self._metrics.count_result(header)
        if batch is not None:
            batch.queue_s = max(batch.queue_s, header.queue_s)
            batch.fill(header.positions, verdicts)
