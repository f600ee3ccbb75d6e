"""One accepted batch as the API holds it: what was asked, where each completion is, which verdicts are in."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from verifier_service.chunks import Chunk, Piece, dump
from verifier_service.errors import CannotJudge
from verifier_service.schemas import Item
from verifier_service.verify import to_verdict


@dataclass(frozen=True, slots=True)
class Slot:
    """One item's place in the batch: completions `start` to `start + count`."""

    item_id: str | None
    start: int
    count: int
    kind: str
    version: str


@dataclass(frozen=True, slots=True)
class Layout:
    """What is kept of a batch in Redis beside its chunks, so that any API process can answer for it."""

    owner: str
    slots: list[Slot]
    chunks: list[Chunk]
    deadline_at: float
    """Unix time."""
    request_id: str | None = None

    @property
    def total(self) -> int:
        return sum(slot.count for slot in self.slots)

    @property
    def lanes(self) -> set[str]:
        """Every lane in which results of this batch can be."""
        used = {chunk.lane for chunk in self.chunks}
        return used | ({"slow"} if used - {"code"} else set())


LAYOUT: TypeAdapter[Layout] = TypeAdapter(Layout)


class Batch:
    """A layout with the verdicts that have come in (JSON, one a completion)."""

    def __init__(self, job_id: str, layout: Layout, singles: Sequence[Piece] | None) -> None:
        self.job_id = job_id
        self.layout = layout
        self.singles = singles
        """The completions one by one; None where this process did not receive them (it only watches)."""
        self.verdicts: list[bytes | None] = [None] * layout.total
        self.missing = layout.total
        self.failed: list[int] = []
        """Positions that this process gave up; Redis learns of them when the batch is kept."""
        self.cancelled = False
        self.dropped = False
        """Lost with Redis, or left by its client: this process no longer looks after it."""
        self.deadline = time.monotonic() + layout.deadline_at - time.time()
        """On this process's monotonic clock, so that a jump of the wall clock does not end the waiting."""
        self.trace = ""
        """W3C `traceparent` of the request that brought it."""
        self.waiters = 0
        self.lasting = True
        """Somebody can ask for the answer again: it has a `request_id`, or it is a job."""
        self.queue_s = 0.0
        """Longest time one of its chunks waited in the queue."""
        self._changed = asyncio.Event()

    @property
    def finished(self) -> bool:
        return self.missing == 0

    def settled(self) -> bool:
        """Nothing more will come."""
        return self.finished or self.cancelled or self.dropped

    def fill(self, positions: Sequence[int], verdicts: Sequence[bytes]) -> None:
        """Take verdicts in; the first for a position counts."""
        for position, verdict in zip(positions, verdicts, strict=True):
            if position in range(self.layout.total) and self.verdicts[position] is None:
                self.verdicts[position] = verdict
                self.missing -= 1
        self.announce()

    def fail(self, positions: Sequence[int], reason: str) -> None:
        """Give what is still open at these positions the outcome `error`."""
        for position in positions:
            if self.verdicts[position] is None:
                slot = next(s for s in self.layout.slots if s.start <= position < s.start + s.count)
                verdict = to_verdict(slot.kind, slot.version, CannotJudge(reason))
                self.failed.append(position)
                self.fill([position], [verdict.model_dump_json().encode()])

    def drop(self) -> None:
        self.dropped = True
        self.announce()

    def announce(self) -> None:
        """Wake whoever waits for a change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def change(self, timeout_s: float | None = None) -> None:
        """Return after the next change, or after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return

    def open_chunks(self) -> list[tuple[Chunk, list[int]]]:
        """Chunks with positions that have no verdict yet, and those positions."""
        found = []
        for chunk in self.layout.chunks:
            positions = [position for position in chunk.positions if self.verdicts[position] is None]
            if positions:
                found.append((chunk, positions))
        return found

    def is_complete(self, slot: Slot) -> bool:
        return None not in self.verdicts[slot.start : slot.start + slot.count]

    def item_json(self, slot: Slot, default_id: str | None = None) -> bytes:
        """One `ScoredItem`; what a batch that came to its end without a verdict lacks is an `error` that says so."""
        verdicts = self.verdicts[slot.start : slot.start + slot.count]
        if None in verdicts:
            reason = "cancelled" if self.cancelled else "queue"
            lacking = to_verdict(slot.kind, slot.version, CannotJudge(reason)).model_dump_json().encode()
            verdicts = [verdict or lacking for verdict in verdicts]
        item_id = dump(default_id if slot.item_id is None else slot.item_id)
        return b'{"id":' + item_id + b',"verdicts":[' + b",".join(filter(None, verdicts)) + b"]}"

    def items_json(self) -> bytes:
        return b"[" + b",".join(self.item_json(slot) for slot in self.layout.slots) + b"]"

    def response_json(self) -> bytes:
        """The `ScoreResponse`."""
        return b'{"request_id":' + dump(self.layout.request_id) + b',"items":' + self.items_json() + b"}"


def slots_of(items: Sequence[Item], versions: Sequence[str]) -> Iterator[Slot]:
    start = 0
    for item, version in zip(items, versions, strict=True):
        yield Slot(item.id, start, len(item.completions), str(item.task["kind"]), version)
        start += len(item.completions)
