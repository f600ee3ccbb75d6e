"""Grade the completions of a chunk, equal answers once. Pure but for the graders it calls."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from pydantic import ValidationError

from verifier_service.chunks import Piece, decode_body, dump, encode_body, flatten, regroup
from verifier_service.errors import CannotJudge, TaskRefused
from verifier_service.registry import parse_task, verifier_for
from verifier_service.schemas import Verdict
from verifier_service.verifier import Judgement, Tools
from verifier_service.verify import find_answer, to_verdict, verdict_on


@dataclass(frozen=True, slots=True)
class Answer:
    """One completion, as far as it can be read without judging."""

    key: str
    """Equal for equal (task, extracted answer, verifier version); empty where nothing is left to judge."""
    verdict: Callable[[Tools], Verdict]


@dataclass(frozen=True, slots=True)
class Line:
    """One verdict as the grader wrote it."""

    index: int
    """Which completion of the body."""
    key: str
    kind: str
    outcome: str
    reason: str
    elapsed_s: float
    copied: bool
    """Equal to another completion of this batch, or known from an earlier one."""
    verdict: bytes
    """JSON."""


def read(pieces: Sequence[Piece]) -> list[Answer]:
    """Take the answers out of all completions of a chunk. Never raises."""
    return [answer for piece in pieces for answer in _read_piece(piece)]


def _read_piece(piece: Piece) -> Iterator[Answer]:
    try:
        verifier, task = parse_task(piece.task)
    except (TaskRefused, ValidationError) as error:
        # The API admitted the task, so this worker is of another version or lacks a plug-in: our fault.
        verdict = to_verdict(str(piece.task.get("kind")), "", CannotJudge("grader_bug", str(error)))
        yield from [_known(verdict)] * len(piece.completions)
        return
    task_digest = hashlib.sha256(dump([verifier.kind, verifier.version, piece.task])).digest()
    for completion in piece.completions:
        found = find_answer(verifier, task, completion)
        if isinstance(found, str):
            key = hashlib.sha256(task_digest + found.encode("utf-8", "surrogatepass")).hexdigest()
            yield Answer(key, partial(verdict_on, verifier, task, found))
        else:
            yield _known(to_verdict(verifier.kind, verifier.version, found))


def _known(verdict: Verdict) -> Answer:
    return Answer("", lambda _tools: verdict)


def part_of(body: bytes, indices: Sequence[int]) -> bytes:
    """The body of a chunk cut to some of its completions."""
    singles = flatten(decode_body(body))
    return encode_body(regroup([singles[index] for index in indices]))


def limit_line(body: bytes) -> Line:
    """The verdict of the one completion in this body that hit the grader's limit alone."""
    kind = str(decode_body(body)[0].task["kind"])
    verdict = to_verdict(kind, verifier_for(kind).version, Judgement(0.0, "grader_limit"))
    return Line(0, "", kind, verdict.outcome, verdict.reason, 0.0, False, verdict.model_dump_json().encode())
