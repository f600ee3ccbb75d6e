"""The state of the queue, sampled: depth and age per lane, drain rate, live workers. Admission decides by it."""

import asyncio
import logging
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import RedisError
from rq.utils import utcparse

from verifier_service import lanes
from verifier_service.chunks import Chunk
from verifier_service.metrics import Metrics
from verifier_service.problems import Refusal
from verifier_service.settings import Settings

log = logging.getLogger(__name__)

SAMPLE_EVERY_S = 0.5
SMOOTHING = 0.3
MAX_WAIT_S = 60


NOBODY = "verifier:nobody"
"""A key that never exists, because Redis wants at least one to count."""


@dataclass(slots=True)
class LaneState:
    depth: int = 0
    age_s: float = 0.0
    workers: int = 0
    chunks_done: int = 0
    drain_per_s: float = 0.0
    """Chunks finished a second, smoothed."""
    sampled_at: float = 0.0


class QueueGauge:
    def __init__(self, redis: Redis, settings: Settings, metrics: Metrics) -> None:
        self._redis = redis
        self._settings = settings
        self._metrics = metrics
        self.lanes = {lane: LaneState() for lane in lanes.LANES}
        self.reachable = False

    async def run(self) -> None:
        while True:
            await self.sample()
            await asyncio.sleep(SAMPLE_EVERY_S)

    async def sample(self) -> None:
        try:
            for lane, state in self.lanes.items():
                await self._sample_lane(lane, state)
            self.reachable = True
        except (RedisError, OSError) as error:
            if self.reachable:
                log.warning("the queue cannot be reached: %s", error)
            self.reachable = False

    def missing_lanes(self) -> list[str]:
        return [lane for lane in lanes.LANES if self.lanes[lane].workers == 0]

    def count(self, chunks: Iterable[Chunk]) -> None:
        """What was enqueued since the last sample, so that a burst does not slip in between two."""
        for chunk in chunks:
            self.lanes[chunk.lane].depth += 1

    async def admit(self, wanted: Iterable[str]) -> None:
        """Raises `Refusal` 429 where a lane is full; Retry-After is when it will have room at the measured rate."""
        full = self._settings.max_queued_chunks
        for lane, state in self.lanes.items():
            if lane not in wanted or state.depth < full:
                continue
            await self.sample()  # the count between two samples only grows
            if state.depth >= full:
                # Room for a tenth of the queue, so that clients do not all come back to a queue that is full again.
                room = state.depth - full + full / 10
                wait_s = math.ceil(room / state.drain_per_s) if state.drain_per_s > 0 else MAX_WAIT_S
                detail = f"lane `{lane}` is full"
                raise Refusal(429, "queue-full", detail, retry_after_s=max(1, min(wait_s, MAX_WAIT_S)))

    async def _sample_lane(self, lane: lanes.Lane, state: LaneState) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.llen(lanes.queue_key(lane))
            pipe.lindex(lanes.queue_key(lane), 0)
            pipe.smembers(lanes.workers_key(lane))
            pipe.hgetall(lanes.stats_key(lane))
            depth, oldest, workers, stats = await pipe.execute()
            pipe.exists(*workers, NOBODY)
            pipe.hget(lanes.keys_of((oldest or b"").decode(errors="replace")).record, "enqueued_at")
            alive, enqueued_at = await pipe.execute()
        now = time.monotonic()
        done = int(stats.get(b"chunks", 0))
        if state.chunks_done and done >= state.chunks_done and now > state.sampled_at:
            rate = (done - state.chunks_done) / (now - state.sampled_at)
            state.drain_per_s += SMOOTHING * (rate - state.drain_per_s)
        state.sampled_at, state.chunks_done, state.depth, state.workers = now, done, depth, alive
        state.age_s = max(0.0, time.time() - utcparse(enqueued_at.decode()).timestamp()) if enqueued_at else 0.0
        metrics = self._metrics
        metrics.depth.labels(lane).set(depth)
        metrics.age_s.labels(lane).set(state.age_s)
        metrics.drain.labels(lane).set(state.drain_per_s)
        metrics.workers.labels(lane).set(alive)
        metrics.worker_deaths.labels(lane).set(int(stats.get(b"worker_deaths", 0)))
