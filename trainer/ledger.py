"""The ledger: what happened to a run, append-only.

An event is on disk before `append` returns, so that what follows it (the checkpoint of a reset) cannot exist without
its line. The reverse can: a run killed between the two resets again, and writes the line again, after a `resume`.
"""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from trainer.config import Section
from trainer.jsonl import whole_lines

LEDGER_FILE = "ledger.jsonl"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class LedgerEvent(Section):
    """One line of `ledger.jsonl`."""

    event: Literal["start", "reset", "stage", "resume", "rollback", "finish"]
    """What happened."""
    step: Annotated[int, Field(ge=0)]
    """The last step done; of `resume` and `rollback` the step gone back to."""
    era: Annotated[int, Field(ge=0)]
    """The era from here on."""
    cause: str
    """Why: a trigger (`schedule`, `plateau`, ...), a guard's message, a stage's name, `killed`, `new`, `branch`."""
    validation: Mapping[str, float] | None = None
    """Scores of the last validation up to here: `blend`, its `blend_error`, and one a set."""
    changes: Mapping[str, Any] = {}
    """Config keys that differ from here on, dotted, with their new values."""
    verifier_versions: Mapping[str, str] = {}
    """Version of each verifier kind in use."""
    reference_hash: str | None = None
    """SHA-256 of the reference policy's weights."""
    parent: str | None = None
    """Of `start`: the era this run was branched off, as `RUN_DIR era N step N`."""
    policy_step: Annotated[int, Field(ge=0)] | None = None
    """Of `reset` with `reset.source = "best"`: the step whose policy it went back to; `validation` is that policy's."""
    time: str = Field(default_factory=now)
    """UTC, ISO 8601."""


def append(run_dir: Path, event: LedgerEvent) -> None:
    """Writes one event and waits until it is on disk."""
    drop_torn_line(run_dir / LEDGER_FILE)
    with (run_dir / LEDGER_FILE).open("a", encoding="utf-8") as file:
        file.write(event.model_dump_json() + "\n")
        file.flush()
        os.fsync(file.fileno())


def drop_torn_line(path: Path) -> None:
    """Cuts off a last line without its end: a kill in `append` left it, and it never counted."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))


def read_ledger(run_dir: Path) -> list[LedgerEvent]:
    """All events in order; a torn last line is left out. Raises pydantic.ValidationError on any other bad line."""
    path = run_dir / LEDGER_FILE
    return [LedgerEvent.model_validate_json(line) for line in whole_lines(path)]
