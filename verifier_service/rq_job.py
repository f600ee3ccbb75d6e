"""RQ as the service uses it: one Job class, one function name, JSON, no callbacks.

RQ imports whatever a job names, so whoever can write to Redis could run code in a worker. This class refuses every
job but ours before anything of it is imported; our worker, moreover, never calls `perform`.
"""

import logging
from collections.abc import Mapping
from typing import Any

from redis import Redis
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer

from verifier_service.lanes import FUNCTION, lane_of, payload_key

log = logging.getLogger(__name__)


class GradingJob(Job):
    """A chunk's ticket in the queue: its id, nothing else."""

    def restore(self, raw_data: Any) -> None:
        super().restore(raw_data)
        try:
            acceptable = self.func_name == FUNCTION and not self.args and not self.kwargs and self.instance is None
        except Exception:
            acceptable = False
        callbacks = (self._success_callback_name, self._failure_callback_name, self._stopped_callback_name)
        named = any(isinstance(callback, str) for callback in callbacks)
        if not acceptable or named or self.webhooks or self._dependency_ids:
            log.error("refused job %s: it is not a grading job", self.id)
            # RQ skips ids whose job does not exist, which is how a refused one is to look.
            raise NoSuchJobError(f"refused {self.id}")

    def perform(self) -> Any:
        raise RuntimeError("grading jobs are graded by the worker, never called")


class GradingQueue(Queue):
    job_class = GradingJob


def grading_queue(lane: str, connection: Redis) -> GradingQueue:
    return GradingQueue(lane, connection=connection, serializer=JSONSerializer)


class Enqueuer:
    """Puts chunks on their queues within a transaction of either Redis client (begun with `multi`, as RQ wants it);
    performs no I/O of its own."""

    def __init__(self, server_version: tuple[int, int, int]) -> None:
        # RQ wants a connection in every object; this one is never used, everything goes through the pipeline.
        self._unused = Redis()
        self._queues: dict[str, GradingQueue] = {}
        self._server_version = server_version

    def put(self, pipeline: Any, chunk_id: str, payload: bytes, ttl_s: int) -> None:
        lane = lane_of(chunk_id)
        queue = self._queues.setdefault(lane, grading_queue(lane, self._unused))
        queue.redis_server_version = self._server_version
        job = GradingJob.create(
            FUNCTION, id=chunk_id, connection=self._unused, serializer=JSONSerializer, ttl=ttl_s, description=chunk_id
        )
        pipeline.set(payload_key(chunk_id), payload, ex=ttl_s)
        queue.enqueue_job(job, pipeline=pipeline)


def server_version(info: Mapping[str, Any]) -> tuple[int, int, int]:
    major, minor, patch = (*map(int, str(info["redis_version"]).split(".")[:3]), 0, 0)[:3]
    return major, minor, patch
