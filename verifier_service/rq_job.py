"""RQ as the service uses it: one Job class, one function name, JSON, no callbacks.

RQ imports whatever a job names, so whoever can write to Redis could run code in a worker. This class refuses every
job but ours before anything of it is imported; our worker, moreover, never calls `perform`.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any

from redis import Redis
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.utils import now

from verifier_service.lanes import FUNCTION, keys_of, lane_of

log = logging.getLogger(__name__)


class GradingJob(Job):
    """A chunk's ticket in the queue: its id, nothing else."""

    attempts = 0
    """How often it was taken, this time included."""
    payload = b""

    def restore(self, raw_data: Any) -> None:
        try:
            super().restore(raw_data)
            acceptable = self.func_name == FUNCTION and not self.args and not self.kwargs and self.instance is None
        except Exception:
            acceptable = False
        callbacks = (self._success_callback_name, self._failure_callback_name, self._stopped_callback_name)
        named = any(isinstance(callback, str) for callback in callbacks)
        if not acceptable or named or self.webhooks or self._dependency_ids:
            log.error("refused job %s: it is not a grading job", self.id)
            self.connection.delete(self.key)
            # RQ skips ids whose job does not exist, which is how a refused one is to look.
            raise NoSuchJobError(f"refused {self.id}")

    def perform(self) -> Any:
        raise RuntimeError("grading jobs are graded by the worker, never called")


class GradingQueue(Queue):
    """One lane, as the worker that serves it sees it."""

    job_class = GradingJob

    def __init__(self, lane: str, connection: Redis, take: Callable[[bytes], GradingJob | None]) -> None:
        super().__init__(lane, connection=connection, serializer=JSONSerializer)
        self._take = take

    @classmethod
    def dequeue_any(
        cls, queues: Iterable[Queue], timeout: int | None, connection: Redis, *_args: Any, **_options: Any
    ) -> tuple[Job, Queue] | None:
        """RQ's, but that one command both reads the job and claims its chunk (`take`)."""
        (queue,) = queues
        assert isinstance(queue, GradingQueue)
        while (moved := cls.lmove(connection, queue.key, timeout)) is not None:
            job = queue._take(moved[1])
            if job is not None:
                return job, queue
        return None


# RQ wants a connection in every object; this one is never used, everything goes through the pipeline given.
_UNUSED = Redis()


def put(pipeline: Any, chunk_id: str, payload: bytes, ttl_s: int) -> None:
    """Put a chunk on its queue, within a pipeline of either Redis client; no I/O of its own.

    This is `Queue.enqueue_job` in four commands instead of nine: without dependencies, callbacks and results nothing
    else that RQ writes is ever read.
    """
    job = GradingJob.create(
        FUNCTION,
        id=chunk_id,
        connection=_UNUSED,
        serializer=JSONSerializer,
        ttl=ttl_s,
        description=chunk_id,
        origin=lane_of(chunk_id),
        status=JobStatus.QUEUED,
    )
    job.enqueued_at = now()
    record = {name: value for name, value in job.to_dict(include_meta=False, include_result=False).items() if value}
    keys = keys_of(chunk_id)
    pipeline.set(keys.payload, payload, ex=ttl_s)
    pipeline.hset(keys.record, mapping=record)
    pipeline.expire(keys.record, ttl_s)
    pipeline.rpush(keys.queue, chunk_id)
