"""The tree of a run's eras, read from its ledger: parent, cause, step, validation before and after."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.tree import Tree

from trainer.ledger import LedgerEvent, read_ledger


@dataclass
class Era:
    """A node of the tree of eras: the time between two resets."""

    number: int
    step: int
    """The step after which it began."""
    cause: str
    validation_before: float | None
    """Score of the blend when it began, and below when it ended; None where not validated."""
    reference_hash: str | None
    policy_step: int | None = None
    """Of whose policy it began, where that is another than `step`."""
    validation_after: float | None = None
    abandoned: str | None = None
    """Why the run went back before it; None where it did not."""
    children: list["Era"] = field(default_factory=list)


def blend_of(event: LedgerEvent) -> float | None:
    return None if event.validation is None else event.validation.get("blend")


def begin_era(event: LedgerEvent) -> Era:
    return Era(event.era, event.step, event.cause, blend_of(event), event.reference_hash, event.policy_step)


def go_back(path: list[Era], event: LedgerEvent) -> None:
    """Leaves the eras past the one gone back to. A rollback abandons them; a resume will do their reset again."""
    while len(path) > 1 and path[-1].number > event.era:
        left = path.pop()
        if event.event == "rollback":
            left.abandoned = f"rolled back to step {event.step}: {event.cause}"
        else:
            path[-1].children.remove(left)
            path[-1].validation_after = None


def lineage(events: Sequence[LedgerEvent]) -> Era | None:
    """The tree of eras, its root the first; None without a `start`."""
    root: Era | None = None
    path: list[Era] = []
    for event in events:
        if event.event == "start":
            root = root or begin_era(event)
            path = path or [root]
        elif event.event == "reset" and path:
            path[-1].validation_after = blend_of(event)
            path[-1].children.append(begin_era(event))
            path.append(path[-1].children[-1])
        elif event.event in ("resume", "rollback"):
            go_back(path, event)
        elif event.event == "finish" and path:
            path[-1].validation_after = blend_of(event)
    return root


def label(era: Era) -> str:
    before, after = ("–" if v is None else f"{v:.3f}" for v in (era.validation_before, era.validation_after))
    step = f"step {era.step}" if era.policy_step is None else f"step {era.step} (policy of step {era.policy_step})"
    text = f"era {era.number}   {step}   {era.cause}   validation {before} → {after}"
    if era.reference_hash:
        text += f"   reference {era.reference_hash[:12]}"
    return f"{text}   ({era.abandoned})" if era.abandoned else text


def lineage_tree(run_dir: Path) -> Tree:
    """The run's eras for printing: cause, step, validation before and after."""
    events = read_ledger(run_dir)
    parent = next((event.parent for event in events if event.parent), None)
    tree = Tree(f"{run_dir}, branched off {parent}" if parent else str(run_dir))

    def grow(branch: Tree, era: Era) -> None:
        twig = branch.add(label(era), highlight=False)
        for child in era.children:
            grow(twig, child)

    root = lineage(events)
    if root is not None:
        grow(tree, root)
    return tree
