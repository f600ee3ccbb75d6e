"""Equal answers judged once across chunks and batches: a bounded cache in Redis, and locks on what is being judged.

Keys hold the task, the extracted answer and the verifier's version, so that a new version never meets an old verdict.
The cache is two generations of one hash: entries go to the young one; when that is full it becomes the old one and
the old one is dropped. Memory is bounded by `cache_size` entries a lane without any bookkeeping an entry.
"""

import time
from collections.abc import Callable, Iterable, Sequence

from redis import Redis

from verifier_service.grading import Line
from verifier_service.settings import Settings

MAX_VERDICT_BYTES = 16_384
"""Larger verdicts (a code task with thousands of tests) are not worth their memory."""
TTL_S = 3600
LOCK_S = 20
MAX_WAIT_S = 5.0
"""How long a chunk waits for another worker's judgement before it judges itself."""

# KEYS young, old, lock prefix; ARGV worker, lock s, answer keys... Returns for each: verdict, 0 (yours), 1 (busy).
_LOOKUP = """
local found = {}
for i = 3, #ARGV do
  local hit = redis.call('HGET', KEYS[1], ARGV[i]) or redis.call('HGET', KEYS[2], ARGV[i])
  if hit then
    found[#found + 1] = hit
  elseif redis.call('SET', KEYS[3] .. ARGV[i], ARGV[1], 'NX', 'EX', ARGV[2]) then
    found[#found + 1] = 0
  else
    found[#found + 1] = redis.call('GET', KEYS[3] .. ARGV[i]) == ARGV[1] and 0 or 1
  end
end
return found
"""

# KEYS young, old, lock prefix; ARGV entries a generation, ttl s, then key, verdict ('' to forget the lock only)...
_PUBLISH = """
for i = 3, #ARGV, 2 do
  if ARGV[i + 1] ~= '' then redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
  redis.call('DEL', KEYS[3] .. ARGV[i])
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[1]) then redis.call('RENAME', KEYS[1], KEYS[2]) end
"""


class JudgementCache:
    """One lane's cache, as one worker sees it."""

    def __init__(self, connection: Redis, lane: str, worker: str, settings: Settings) -> None:
        self._lookup = connection.register_script(_LOOKUP)
        self._publish = connection.register_script(_PUBLISH)
        self._keys = [f"verifier:{lane}:cache:young", f"verifier:{lane}:cache:old", f"verifier:{lane}:judging:"]
        self._worker = worker
        self._generation = max(1, settings.cache_size // 2)
        self._locked: set[str] = set()

    def publish(self, lines: Iterable[Line]) -> None:
        """Let others have what was judged here, and let go of what was locked here but not judged."""
        if not self._locked:
            return
        judged = {line.key: line.verdict for line in lines if line.key in self._locked and line.outcome != "error"}
        entries: list[bytes | str] = []
        for key in self._locked:
            verdict = judged.get(key, b"")
            entries += [key, verdict if len(verdict) <= MAX_VERDICT_BYTES else b""]
        self._publish(self._keys, [self._generation, TTL_S, *entries])
        self._locked.clear()

    def look(self, keys: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """The verdicts (JSON, by key) that are known of these answers, and the answers that another worker is judging;
        the others are from now on this worker's to judge."""
        found = dict(zip(keys, self._lookup(self._keys, [self._worker, LOCK_S, *keys]), strict=True))
        self._locked |= {key for key, value in found.items() if value == 0}
        known = {key: value.decode() for key, value in found.items() if isinstance(value, bytes)}
        return known, [key for key, value in found.items() if value == 1]

    def wait(self, busy: Sequence[str], done: Sequence[Line], on_tick: Callable[[], None]) -> dict[str, str]:
        """Publish what is done here, then wait a while for what others judge. In this order two chunks cannot wait in
        a circle."""
        self.publish(done)
        verdicts: dict[str, str] = {}
        deadline = time.monotonic() + MAX_WAIT_S
        pause = 0.005
        while busy and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
            on_tick()
            known, busy = self.look(busy)
            verdicts |= known
        return verdicts
