"""Names of everything the queue keeps in Redis, and the atomic steps on it. `docs/queue.md` draws the life of a chunk.

A chunk's id starts with its lane (`code-<job>-3`), and every key of a lane starts `verifier:<lane>:`, `rq:queue:<lane>`
or `rq:job:<lane>-`, so that a Redis ACL can hold a lane's workers to their own keys.
"""

from hashlib import sha256
from typing import Final, Literal, NamedTuple, cast

Lane = Literal["light", "code", "slow"]
LANES: Final[tuple[Lane, ...]] = ("light", "code", "slow")

FUNCTION: Final = "verifier_service.worker.grade_chunk"
"""The only function name a worker accepts in a job."""


def queue_key(lane: str) -> str:
    return f"rq:queue:{lane}"


def held_key(lane: str) -> str:
    """RQ moves a chunk's id here when a worker takes it; it stays until the chunk is finished."""
    return f"rq:queue:{lane}:intermediate"


def workers_key(lane: str) -> str:
    return f"rq:workers:{lane}"


def lane_of(chunk_id: str) -> Lane:
    return cast(Lane, chunk_id.partition("-")[0])


def results_key(lane: str, job_id: str) -> str:
    return f"verifier:{lane}:results:{job_id}"


def reply_key(lane: str, api_id: str) -> str:
    return f"verifier:{lane}:reply:{api_id}"


def stats_key(lane: str) -> str:
    return f"verifier:{lane}:stats"


def job_key(job_id: str) -> str:
    return f"verifier:job:{job_id}"


def request_key(owner: str, request_id: str) -> str:
    return f"verifier:request:{owner}:{sha256(request_id.encode()).hexdigest()}"


def alone_id(chunk_id: str, position: int) -> str:
    """Of a completion of this chunk that is graded alone. Code stays in its lane: its workers may touch no other."""
    lane, job_id, _rest = chunk_id.split("-", 2)
    return f"{'code' if lane == 'code' else 'slow'}-{job_id}-alone{position}"


class ChunkKeys(NamedTuple):
    """Keys of one chunk. Every script below gets them in this order."""

    record: str
    payload: str
    lease: str
    held: str
    queue: str


def keys_of(chunk_id: str) -> ChunkKeys:
    lane = lane_of(chunk_id)
    payload, lease = (f"verifier:{lane}:{name}:{chunk_id}" for name in ("payload", "lease"))
    return ChunkKeys(f"rq:job:{chunk_id}", payload, lease, held_key(lane), queue_key(lane))


# ARGV chunk id, worker, lease ms, ttl s. Returns attempts, payload and record, nil if gone.
CLAIM = """
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('LREM', KEYS[4], 1, ARGV[1])
  return false
end
redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[4])
local attempts = redis.call('HINCRBY', KEYS[1], 'attempts', 1)
return {attempts, redis.call('GET', KEYS[2]), redis.call('HGETALL', KEYS[1])}
"""

# ARGV worker, lease ms. Returns 1 while the chunk is wanted and still this worker's.
RENEW = """
local holder = redis.call('GET', KEYS[3])
if redis.call('EXISTS', KEYS[1]) == 0 or (holder and holder ~= ARGV[1]) then return 0 end
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
return 1
"""

# Further KEYS results, reply, stats; ARGV chunk id, message, results ttl s.
# The first to finish a chunk is heard, whoever else held it is not; one whose record is gone was cancelled.
FINISH = """
redis.call('LREM', KEYS[4], 1, ARGV[1])
redis.call('DEL', KEYS[2], KEYS[3])
if redis.call('DEL', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[6], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[6], ARGV[3])
redis.call('RPUSH', KEYS[7], ARGV[2])
redis.call('EXPIRE', KEYS[7], 60)
redis.call('HINCRBY', KEYS[8], 'chunks', 1)
redis.call('EXPIRE', KEYS[8], 86400)
return 1
"""

# ARGV chunk id, dead worker or ''. Gives a chunk that nobody holds back to the queue.
RECOVER = """
local holder = redis.call('GET', KEYS[3])
if holder and holder ~= ARGV[2] then return 0 end
if redis.call('LREM', KEYS[4], 1, ARGV[1]) == 0 then return 0 end
redis.call('DEL', KEYS[3])
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('LPUSH', KEYS[5], ARGV[1])
return 1
"""

# ARGV chunk id, '1' to withdraw it even from a worker. Returns 1 if it was there to be withdrawn: not dispatched, not
# finished.
WITHDRAW = """
if ARGV[2] == '0' and redis.call('HEXISTS', KEYS[1], 'attempts') == 1 then return 0 end
redis.call('LREM', KEYS[5], 0, ARGV[1])
redis.call('DEL', KEYS[2])
return redis.call('DEL', KEYS[1])
"""
