"""What Redis holds of a batch: how it is enqueued, found again, withdrawn and forgotten.

Truth is in Redis: a chunk is either enqueued or held (it has a record), or finished (its result is in the job's hash).
What has neither was lost with Redis, or withdrawn.
"""

import contextlib
import hashlib
import json
import secrets
import time
from collections.abc import Sequence

from redis.asyncio import Redis
from redis.exceptions import RedisError

from verifier_service import lanes
from verifier_service.batch import LAYOUT, Batch
from verifier_service.chunks import (
    Chunk,
    Costs,
    Header,
    Piece,
    ResultHeader,
    decode_result,
    encode_body,
    encode_result,
    join_chunk,
    take,
)
from verifier_service.rq_job import put
from verifier_service.schemas import ScoreRequest
from verifier_service.settings import Settings

GRACE_S = 3600
"""Records outlive the deadline by this much, for chunks that were dispatched in time and run long."""
SHARE_ABOVE_S = 0.0005
"""Judging cheaper than this is cheaper than asking whether it was done before."""


class RequestConflict(Exception):
    """The `request_id` was used with another body."""


def digest_of(request: ScoreRequest) -> str:
    """Equal for bodies that say the same, in whatever order their keys come."""
    digest = hashlib.sha256(repr(request.deadline_s).encode())
    for item in request.items:
        # Lengths, so that nothing can move from one completion to the next.
        head = item.model_dump(exclude={"completions"}) | {"lengths": list(map(len, item.completions))}
        digest.update(json.dumps(head, sort_keys=True).encode())
        digest.update("".join(item.completions).encode())
    return digest.hexdigest()


class BatchStore:
    """Batches in Redis. All methods raise `RedisError` where it cannot be reached, but `keep` and `forget`."""

    def __init__(self, redis: Redis, settings: Settings, costs: Costs) -> None:
        self._redis = redis
        self._settings = settings
        self._costs = costs
        self.api_id = secrets.token_hex(8)
        """Names the reply lists on which this process hears of its chunks."""
        self._withdraw = redis.register_script(lanes.WITHDRAW)

    async def claim_request(self, owner: str, request: ScoreRequest) -> tuple[str, bool]:
        """The job that answers this `request_id`, and whether it is a new one. Raises `RequestConflict`."""
        digest = digest_of(request)
        key = lanes.request_key(owner, str(request.request_id))
        ttl_s = int(request.deadline_s) + GRACE_S
        async with self._redis.pipeline() as pipe:
            pipe.set(key, f"{secrets.token_hex(12)} {digest}", nx=True, ex=ttl_s)
            pipe.get(key)
            is_new, held = await pipe.execute()
        known_job, known_digest = held.decode().split()
        if known_digest != digest:
            raise RequestConflict(request.request_id)
        return known_job, bool(is_new)

    async def load(self, job_id: str, singles: Sequence[Piece] | None) -> Batch | None:
        """A batch from what Redis has of it."""
        stored = await self._redis.hgetall(lanes.job_key(job_id))
        if b"layout" not in stored:
            return None
        layout = LAYOUT.validate_json(stored[b"layout"])
        batch = Batch(job_id, layout, singles)
        batch.cancelled = b"cancelled" in stored
        await self.collect(batch)
        return batch

    async def collect(self, batch: Batch) -> None:
        """Take in every result that Redis has of this batch."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for lane in batch.layout.lanes:
                pipe.hvals(lanes.results_key(lane, batch.job_id))
            for messages in await pipe.execute():
                for header, verdicts in filter(None, map(decode_result, messages)):
                    batch.fill(header.positions, verdicts)

    async def enqueue(self, batch: Batch, parts: Sequence[tuple[Chunk, list[int]]]) -> None:
        """Put these chunks of the batch on their queues, and the batch's layout beside them, in one transaction."""
        assert batch.singles is not None
        left_s = max(1, int(batch.deadline - time.monotonic()))
        async with self._redis.pipeline(transaction=True) as pipe:
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
            api_id=self.api_id,
            positions=positions,
            result_ttl_s=self._settings.result_ttl_s,
            limit_s=max(limits, default=0.0),
            share=any(self._costs.of(str(task["kind"]), lane) >= SHARE_ABOVE_S for task in tasks),
            request_id=batch.layout.request_id or batch.job_id,
            trace=batch.trace,
        )

    async def was_dispatched(self, batch: Batch) -> bool:
        """Whether any of its chunks is with a worker."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for chunk in batch.layout.chunks:
                pipe.hexists(lanes.keys_of(chunk.chunk_id).record, "attempts")
            return any(await pipe.execute())

    async def take_back(self, batch: Batch, *, even_running: bool) -> list[int]:
        """Withdraw chunks from the queue, or even from the workers that have them. Returns the positions of what was
        withdrawn; never of what was once dispatched, unless even that was asked for."""
        withdrawn = []
        for chunk, positions in batch.open_chunks():
            alone = [lanes.alone_id(chunk.chunk_id, position) for position in positions] if even_running else []
            for chunk_id in (chunk.chunk_id, *alone):
                if await self._withdraw(lanes.keys_of(chunk_id), [chunk_id, int(even_running)]):
                    withdrawn += positions
        return withdrawn

    async def cancel(self, batch: Batch) -> None:
        """Note that the batch is cancelled, for other processes."""
        await self._redis.hset(lanes.job_key(batch.job_id), "cancelled", "1")
        await self._redis.expire(lanes.job_key(batch.job_id), self._settings.result_ttl_s)

    async def is_cancelled(self, job_id: str) -> bool:
        """Whether any process cancelled it."""
        return bool(await self._redis.hexists(lanes.job_key(job_id), "cancelled"))

    async def uncancel(self, job_id: str) -> None:
        """It was asked for again."""
        await self._redis.hdel(lanes.job_key(job_id), "cancelled")

    async def missing_chunks(self, batch: Batch) -> list[tuple[Chunk, list[int]]]:
        """What Redis has lost of the batch: chunks with completions that have neither a record nor a result."""
        parts = batch.open_chunks()
        async with self._redis.pipeline(transaction=False) as pipe:
            for chunk, positions in parts:
                alone = [lanes.alone_id(chunk.chunk_id, position) for position in positions]
                pipe.exists(*(lanes.keys_of(chunk_id).record for chunk_id in (chunk.chunk_id, *alone)))
            known = await pipe.execute()
        lost = {chunk.chunk_id for (chunk, _positions), count in zip(parts, known, strict=True) if count == 0}
        if lost:
            # A result may have come in between the two looks.
            await self.collect(batch)
        return [(chunk, positions) for chunk, positions in batch.open_chunks() if chunk.chunk_id in lost]

    async def keep(self, batch: Batch) -> None:
        """From now on the answer is kept for `result_ttl_s`, and nothing of it longer."""
        ttl_s = self._settings.result_ttl_s
        with contextlib.suppress(RedisError):
            async with self._redis.pipeline(transaction=False) as pipe:
                if batch.failed:
                    header = ResultHeader("failed", batch.job_id, batch.failed)
                    result = encode_result(header, [batch.verdicts[position] or b"" for position in batch.failed])
                    pipe.hset(lanes.results_key(min(batch.layout.lanes), batch.job_id), "failed", result)
                for lane in batch.layout.lanes:
                    pipe.expire(lanes.results_key(lane, batch.job_id), ttl_s)
                pipe.expire(lanes.job_key(batch.job_id), ttl_s)
                if batch.layout.request_id is not None:
                    pipe.expire(lanes.request_key(batch.layout.owner, batch.layout.request_id), ttl_s)
                await pipe.execute()

    async def forget(self, batch: Batch) -> None:
        keys = [lanes.results_key(lane, batch.job_id) for lane in batch.layout.lanes]
        with contextlib.suppress(RedisError):
            await self._redis.delete(lanes.job_key(batch.job_id), *keys)
