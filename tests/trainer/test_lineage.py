"""The tree of eras, as printed."""

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from trainer.ledger import LedgerEvent, append
from trainer.lineage import Era, label, lineage, lineage_tree


def event(name: str, step: int, era: int, cause: str = "test", blend: float | None = None, **more: Any) -> LedgerEvent:
    validation = None if blend is None else {"blend": blend}
    base = {"event": name, "step": step, "era": era, "cause": cause, "validation": validation}
    return LedgerEvent.model_validate(base | more)


def shape(era: Era | None) -> Any:
    """(number, step, validation before, validation after, children)"""
    assert era is not None
    return (era.number, era.step, era.validation_before, era.validation_after, [shape(c) for c in era.children])


def test_resets_make_a_chain() -> None:
    events = [
        event("start", 0, 0, blend=0.2),
        event("reset", 40, 1, blend=0.4),
        event("stage", 50, 1),
        event("reset", 80, 2, blend=0.5),
        event("finish", 100, 2, blend=0.6),
    ]
    assert shape(lineage(events)) == (0, 0, 0.2, 0.4, [(1, 40, 0.4, 0.5, [(2, 80, 0.5, 0.6, [])])])


def test_a_reset_done_again_after_a_kill_shows_once() -> None:
    events = [event("start", 0, 0), event("reset", 40, 1), event("resume", 30, 0), event("reset", 40, 1)]
    assert shape(lineage(events)) == (0, 0, None, None, [(1, 40, None, None, [])])


def test_a_resume_within_an_era_changes_nothing() -> None:
    events = [event("start", 0, 0), event("reset", 40, 1), event("resume", 50, 1), event("reset", 80, 2)]
    assert shape(lineage(events)) == (0, 0, None, None, [(1, 40, None, None, [(2, 80, None, None, [])])])


def test_a_rollback_leaves_the_abandoned_era_in_the_tree() -> None:
    events = [
        event("start", 0, 0),
        event("reset", 40, 1, blend=0.4),
        event("rollback", 35, 0, cause="kl_ref = 9"),
        event("reset", 60, 1, blend=0.5),
    ]
    root = lineage(events)
    assert root is not None
    assert [(child.step, child.abandoned) for child in root.children] == [
        (40, "rolled back to step 35: kl_ref = 9"),
        (60, None),
    ]


def test_whose_policy_an_era_began_with_is_said() -> None:
    events = [event("start", 0, 0), event("reset", 40, 1, blend=0.4, policy_step=30)]
    root = lineage(events)
    assert root is not None
    assert "step 40 (policy of step 30)   test   validation 0.400" in label(root.children[0])


def test_no_start_no_tree() -> None:
    assert lineage([]) is None


def test_the_printed_tree(tmp_path: Path) -> None:
    append(tmp_path, event("start", 0, 0, cause="branch", blend=0.214, parent="runs/a era 2 step 400"))
    append(tmp_path, event("reset", 40, 1, cause="schedule", blend=0.412, reference_hash="0123456789abcdef"))
    append(tmp_path, event("finish", 80, 1, blend=0.518))
    out = io.StringIO()
    Console(file=out, width=200).print(lineage_tree(tmp_path))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines[0] == f"{tmp_path}, branched off runs/a era 2 step 400"
    assert lines[1] == "└── era 0   step 0   branch   validation 0.214 → 0.412"
    assert lines[2] == "    └── era 1   step 40   schedule   validation 0.412 → 0.518   reference 0123456789ab"
