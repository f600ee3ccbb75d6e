"""What a worker has proven of ground truths: that a scorer pays the entry's own answer, that a checker accepts the
expected output. A proof costs a run of the grader, so each is made once, and only where an answer earned less than all.
"""

from collections.abc import Callable
from hashlib import sha256

MOST_REMEMBERED = 10_000


class Proofs:
    def __init__(self) -> None:
        self._proven: set[bytes] = set()

    def demand(self, key: str, prove: Callable[[], None]) -> None:
        """Prove what `key` names unless that was done. Raises what `prove` raises; a failure is not remembered."""
        digest = sha256(key.encode("utf-8", "surrogatepass")).digest()
        if digest in self._proven:
            return
        prove()
        if len(self._proven) >= MOST_REMEMBERED:
            self._proven.clear()
        self._proven.add(digest)
