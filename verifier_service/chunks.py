"""A batch is cut into chunks, a chunk becomes bytes, a chunk's result comes back as bytes. Pure.

Completions of a batch are numbered through: position 0 is the first completion of the first item. On the wire a chunk
is one header line (what the worker reads) and a body (what only the grader parses); a result is one header line and
one verdict a line, so that the API puts an answer together without parsing a verdict.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from verifier_service.lanes import Lane, lane_of
from verifier_service.schemas import Item

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Piece:
    """Completions of one task within a chunk."""

    task: Mapping[str, JsonValue]
    completions: Sequence[str]


@dataclass(frozen=True, slots=True)
class Header:
    """What a worker needs to know of a chunk without parsing its body."""

    job_id: str
    api_id: str
    positions: list[int]
    result_ttl_s: int
    limit_s: float = 0.0
    """Largest `total_time_limit_s` of the chunk's tasks, so that the grader's wall limit stays above them."""
    alone: bool = False
    """A completion graded once more, by itself, after it hit a limit or killed a grader."""
    share: bool = True
    """Look for equal answers in the cache and on other workers; not worth it where judging is cheaper than asking."""
    request_id: str = ""
    trace: str = ""
    """W3C `traceparent` of the request."""


@dataclass(frozen=True, slots=True)
class ResultHeader:
    """What the API needs to know of a chunk's result without parsing its verdicts."""

    chunk_id: str
    job_id: str
    positions: list[int]
    tallies: dict[str, int] = field(default_factory=dict)
    """`kind outcome reason` -> how many."""
    judged: dict[str, tuple[int, float]] = field(default_factory=dict)
    """kind -> completions judged (not copied) and seconds they took."""
    grading_cpu_s: float = 0.0
    queue_s: float = 0.0
    cached: int = 0


_HEADER: TypeAdapter[Header] = TypeAdapter(Header)
_RESULT_HEADER: TypeAdapter[ResultHeader] = TypeAdapter(ResultHeader)


def dump(value: Any) -> bytes:
    # `constants`: a task may hold 1e999, and what it holds must arrive unchanged.
    return to_json(value, inf_nan_mode="constants")


def encode_body(pieces: Iterable[Piece]) -> bytes:
    return dump([[piece.task, piece.completions] for piece in pieces])


def join_chunk(header: Header, body: bytes) -> bytes:
    return dump(header) + b"\n" + body


def split_chunk(payload: bytes) -> tuple[Header, bytes]:
    head, _newline, body = payload.partition(b"\n")
    return _HEADER.validate_json(head), body


def decode_body(body: bytes) -> list[Piece]:
    return [Piece(task, completions) for task, completions in from_json(body)]


def encode_result(header: ResultHeader, verdicts: Sequence[bytes]) -> bytes:
    return b"\n".join((dump(header), *verdicts))


def decode_result(message: bytes) -> tuple[ResultHeader, list[bytes]] | None:
    """None where it cannot be read, as from a worker of another version: its chunk then counts as lost."""
    head, *verdicts = message.split(b"\n")
    try:
        header = _RESULT_HEADER.validate_json(head)
    except ValidationError as error:
        log.error("a result that cannot be read: %s", error)
        return None
    if len(header.positions) != len(verdicts):
        log.error("a result of %d verdicts on %d completions", len(verdicts), len(header.positions))
        return None
    return header, verdicts


def flatten(pieces: Sequence[Piece]) -> list[Piece]:
    """One piece a completion, in order."""
    return [Piece(piece.task, [completion]) for piece in pieces for completion in piece.completions]


def regroup(singles: Sequence[Piece]) -> list[Piece]:
    """Inverse of `flatten`: neighbours of one task together again."""
    grouped: list[Piece] = []
    for single in singles:
        if grouped and grouped[-1].task is single.task:
            grouped[-1] = Piece(single.task, [*grouped[-1].completions, *single.completions])
        else:
            grouped.append(single)
    return grouped


@dataclass(frozen=True, slots=True)
class Chunk:
    """A slice of a batch: which completions, under which id."""

    chunk_id: str
    positions: list[int]

    @property
    def lane(self) -> Lane:
        return lane_of(self.chunk_id)


class Costs:
    """Running estimate of seconds a completion, by kind, from what the graders report."""

    FIRST_GUESS_S: Mapping[str, float] = {"light": 0.005, "code": 0.1}
    """By lane, until a kind is known."""
    SMOOTHING = 0.05

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def of(self, kind: str, lane: str) -> float:
        return self._seconds.get(kind, self.FIRST_GUESS_S[lane])

    def learn(self, kind: str, num_completions: int, seconds: float) -> None:
        if num_completions > 0:
            mean_s = seconds / num_completions
            weight = (1 - self.SMOOTHING) ** num_completions
            self._seconds[kind] = weight * self._seconds.get(kind, mean_s) + (1 - weight) * mean_s


def cut(
    job_id: str, items: Sequence[Item], lanes: Sequence[str], costs: Costs, target_s: float, max_completions: int
) -> list[Chunk]:
    """Cut a batch into chunks of about `target_s` of work, each within one lane (`lanes`: one an item)."""
    open_chunks: dict[str, tuple[list[int], float]] = {}
    chunks: list[Chunk] = []

    def close(lane: str) -> None:
        positions, _seconds = open_chunks.pop(lane)
        chunks.append(Chunk(f"{lane}-{job_id}-{len(chunks)}", positions))

    position = 0
    for item, lane in zip(items, lanes, strict=True):
        cost = costs.of(str(item.task["kind"]), lane)
        for _ in item.completions:
            positions, seconds = open_chunks.get(lane, ([], 0.0))
            positions.append(position)
            open_chunks[lane] = positions, seconds + cost
            position += 1
            if seconds + 2 * cost > target_s or len(positions) >= max_completions:
                close(lane)
    for lane in list(open_chunks):
        close(lane)
    return chunks


def take(singles: Sequence[Piece], positions: Iterable[int]) -> list[Piece]:
    """The completions at these positions, neighbours of one task together."""
    return regroup([singles[position] for position in positions])
