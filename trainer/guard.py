"""Guards: bands of health, and what to do when a metric stays outside of its band. Pure: decides, does nothing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from trainer.config import Band, GuardConfig

WATCHED = ("entropy", "kl_ref", "grad_norm", "logprob_mismatch_kl", "reward_error_frac")
"""Names alike in GuardConfig and in metrics.jsonl."""


@dataclass(frozen=True)
class GuardState:
    """What a checkpoint has to hold of the guards, except `num_rollbacks`, which a rollback must not undo."""

    streaks: Mapping[str, int] = field(default_factory=dict)
    """Steps in a row that each metric has been outside; missing means 0."""
    num_rollbacks: int = 0


@dataclass(frozen=True)
class Alarm:
    """A decision to act. `message` is the line for the user and the ledger's cause."""

    action: Literal["stop", "rollback"]
    message: str


def is_outside(value: float, band: Band) -> bool:
    """NaN and infinities are outside of every band, an open one too."""
    if not math.isfinite(value):
        return True
    return (band.min is not None and value < band.min) or (band.max is not None and value > band.max)


def watch(state: GuardState, metrics: Mapping[str, float], config: GuardConfig) -> tuple[GuardState, Alarm | None]:
    """The state after one step, and an alarm if a metric has been outside for `patience_steps` steps.

    A metric that the step did not measure neither lengthens nor ends its streak. After an alarm all streaks are 0.
    Of several alarms the first in the order of WATCHED is given.
    """
    streaks = dict(state.streaks)
    for name in WATCHED:
        if name in metrics:
            streaks[name] = streaks.get(name, 0) + 1 if is_outside(metrics[name], getattr(config, name)) else 0
    due = [name for name in WATCHED if streaks.get(name, 0) >= config.patience_steps]
    if not due:
        return replace(state, streaks=streaks), None
    alarm = alarm_for(due[0], metrics[due[0]], state, config)
    rollbacks = state.num_rollbacks + (alarm.action == "rollback")
    return GuardState(num_rollbacks=rollbacks), alarm


def alarm_for(name: str, value: float, state: GuardState, config: GuardConfig) -> Alarm:
    band: Band = getattr(config, name)
    low, high = ("-inf" if band.min is None else f"{band.min:g}"), ("inf" if band.max is None else f"{band.max:g}")
    message = f"{name} = {value:.4g} outside [{low}, {high}] for {config.patience_steps} steps"
    if config.action == "stop":
        return Alarm("stop", message)
    if state.num_rollbacks >= config.max_rollbacks:
        return Alarm("stop", f"{message}, after {state.num_rollbacks} rollbacks")
    return Alarm("rollback", message)
