"""Things that are dear to make (warm processes, containers), for many callers."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=Closable)


class Pool(Generic[T]):
    """Each is lent to one caller at a time, made on first use, and replaced where its use ends in an exception. Safe
    between threads."""

    def __init__(self, make: Callable[[], T], size: int, *, prefer: Callable[[T], bool] = bool) -> None:
        """`prefer`: which of those that are there are lent before the others."""
        self._make = make
        self._size = size
        self._prefer = prefer
        self._free: list[T | None] = [None] * size
        self._changed = threading.Condition()
        self._turn = threading.Lock()
        """Held by the one who waits: whoever wants all would wait for ever while others come and go."""

    @contextlib.contextmanager
    def lend(self, count: int = 1, *, fresh: bool = False, alone: bool = False) -> Iterator[list[T]]:
        """`count` at once (all or wait, so that two callers who need two each cannot block one another). `fresh`: made
        for this. `alone`: nobody else has one meanwhile."""
        lent = self._take(self._size if alone else count)
        try:
            for index in range(count):
                one, lent[index] = lent[index], None if fresh else lent[index]
                if fresh and one is not None:
                    one.close()
                lent[index] = lent[index] or self._make()
            yield [one for one in lent[:count] if one is not None]
        except BaseException:  # whatever it was, nobody knows what state they are in
            for one in filter(None, lent):
                one.close()
            lent = [None] * len(lent)
            raise
        finally:
            with self._changed:
                self._free += lent
                self._changed.notify_all()

    def _take(self, count: int) -> list[T | None]:
        if count > self._size:
            raise ValueError(f"{count} asked of a pool of {self._size}")
        with self._turn, self._changed:
            self._changed.wait_for(lambda: len(self._free) >= count)
            self._free.sort(key=lambda one: (one is not None, one is not None and self._prefer(one)))
            return [self._free.pop() for _ in range(count)]

    def close(self) -> None:
        """Waits for the callers."""
        for one in filter(None, self._take(self._size)):
            one.close()
        with self._changed:
            self._free += [None] * self._size
