"""The ledger only grows, and says what happened."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from trainer.ledger import LedgerEvent, append, read_ledger


def event(name: str, step: int, era: int, **more: Any) -> LedgerEvent:
    return LedgerEvent.model_validate({"event": name, "step": step, "era": era, "cause": "test", **more})


def test_events_come_back_in_order(tmp_path: Path) -> None:
    events = [
        event("start", 0, 0, verifier_versions={"math": "1"}, reference_hash="ab12"),
        event("reset", 40, 1, validation={"blend": 0.5, "set/mean": 0.4}, changes={"rollout.group_size": 32}),
        event("finish", 80, 1),
    ]
    for one in events:
        append(tmp_path, one)
    assert read_ledger(tmp_path) == events


def test_an_old_line_is_never_touched(tmp_path: Path) -> None:
    append(tmp_path, event("start", 0, 0))
    before = (tmp_path / "ledger.jsonl").read_bytes()
    append(tmp_path, event("resume", 0, 0))
    assert (tmp_path / "ledger.jsonl").read_bytes().startswith(before)


def test_a_torn_line_never_counted(tmp_path: Path) -> None:
    append(tmp_path, event("start", 0, 0))
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"event": "reset", "st')
    assert [one.event for one in read_ledger(tmp_path)] == ["start"]
    append(tmp_path, event("resume", 0, 0))
    assert [one.event for one in read_ledger(tmp_path)] == ["start", "resume"]


def test_a_damaged_line_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_text('{"event": "reset"}\n')
    with pytest.raises(ValidationError):
        read_ledger(tmp_path)


def test_unknown_events_are_refused() -> None:
    with pytest.raises(ValidationError):
        event("rewind", 0, 0)


def test_no_ledger_no_events(tmp_path: Path) -> None:
    assert read_ledger(tmp_path) == []
