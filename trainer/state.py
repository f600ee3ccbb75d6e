"""What a run remembers between steps, beside the weights and the optimizer. A checkpoint holds all of it."""

from dataclasses import dataclass, field

from pydantic import TypeAdapter

from trainer.guard import GuardState
from trainer.prompts import DrawState
from trainer.triggers import TriggerState, Validation
from trainer.types import RolloutGroup


@dataclass
class RunState:
    """Where a run stands after `step`."""

    step: int = 0
    """Training steps done."""
    era: int = 0
    """Resets done."""
    reference_hash: str = ""
    """SHA-256 of the weights in `eras/era-{era}`."""
    num_prompts: int = 0
    """Prompts drawn; the next group's index."""
    draws: DrawState = field(default_factory=DrawState)
    carry: tuple[RolloutGroup, ...] = ()
    """Groups sampled and not yet trained on, some not yet judged."""
    temperature: float | None = None
    """At which `carry` was sampled."""
    triggers: TriggerState = field(default_factory=TriggerState)
    guards: GuardState = field(default_factory=GuardState)
    validation: dict[str, float] | None = None
    """The last scores: `blend`, and one a set."""
    best: Validation | None = None
    """The best validation of the era, whose checkpoint is kept; None where no reset goes back to it."""
    verifier_versions: dict[str, str] = field(default_factory=dict)


STATE = TypeAdapter(RunState)
"""To and from JSON; floats survive it bit for bit."""
