"""When an era ends. Pure: the state is replaced by functions, checkpointed by the loop, and cleared by a reset.

The plateau rule. Let (t_i, y_i, e_i) be step, score of the validation blend and its sampling error for the last k
(`plateau_evals`) validations of the era. A line is fitted with weights w_i = 1 / e_i^2, and the rise over the window is

    b = sum w (t - T)(y - Y) / sum w (t - T)^2,      T, Y weighted means
    rise = b (t_k - t_1),   error = (t_k - t_1) / sqrt(sum w (t - T)^2) * max(1, sqrt(chi2 / (k - 2)))

where chi2 = sum w (y - Y - b (t - T))^2: scores that scatter more than their errors explain widen the error (the Birge
ratio). The era has risen if rise > plateau_z * error; otherwise it ends, as `degradation` where
rise < -plateau_z * error and as `plateau` elsewhere. A policy whose score stays the same counts as risen in about 5% of
the windows at plateau_z = 1.645; how small a rise is still seen depends on the errors, so on the validation's size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from trainer.config import ResetConfig

ERROR_FLOOR = 1e-6
"""Smallest sampling error believed: a set of samples that all agree does not make a score exact."""


class Cause(StrEnum):
    """Why an era ended; the ledger's `cause`."""

    FILE = "reset_file"
    SCHEDULE = "schedule"
    KL_CEILING = "kl_ceiling"
    ENTROPY_FLOOR = "entropy_floor"
    PLATEAU = "plateau"
    DEGRADATION = "degradation"
    STAGE = "stage"
    """A stage of the config begins with a reset."""


class Validation(NamedTuple):
    step: int
    score: float
    """Of the blend."""
    error: float
    """Its sampling error (`passk.SetScore.sampling_error`)."""


@dataclass(frozen=True)
class TriggerState:
    """What the triggers remember of the era; a checkpoint holds it (`dataclasses.asdict`)."""

    era_start_step: int = 0
    validations: tuple[Validation, ...] = ()
    """Of this era, oldest first."""
    num_steps_above_ceiling: int = 0
    """In a row, up to now."""
    num_steps_below_floor: int = 0


def observe_step(state: TriggerState, kl_ref: float, entropy: float, config: ResetConfig) -> TriggerState:
    """After a training step: lengthens or ends the streaks beyond ceiling and floor."""
    above = config.kl_ceiling is not None and kl_ref > config.kl_ceiling
    below = config.entropy_floor is not None and entropy < config.entropy_floor
    return replace(
        state,
        num_steps_above_ceiling=state.num_steps_above_ceiling + 1 if above else 0,
        num_steps_below_floor=state.num_steps_below_floor + 1 if below else 0,
    )


def observe_validation(state: TriggerState, validation: Validation) -> TriggerState:
    return replace(state, validations=(*state.validations, validation))


def rise_over(window: Sequence[Validation]) -> tuple[float, float]:
    """Rise of the fitted line over the window, and its standard error; see the module's docstring."""
    weights = [1.0 / max(v.error, ERROR_FLOOR) ** 2 for v in window]
    total = math.fsum(weights)
    mean_step = math.fsum(w * v.step for w, v in zip(weights, window, strict=True)) / total
    mean_score = math.fsum(w * v.score for w, v in zip(weights, window, strict=True)) / total
    spread = math.fsum(w * (v.step - mean_step) ** 2 for w, v in zip(weights, window, strict=True))
    slope = (
        math.fsum(w * (v.step - mean_step) * (v.score - mean_score) for w, v in zip(weights, window, strict=True))
        / spread
    )
    residuals = [v.score - mean_score - slope * (v.step - mean_step) for v in window]
    chi2 = math.fsum(w * r**2 for w, r in zip(weights, residuals, strict=True))
    span = window[-1].step - window[0].step
    return slope * span, span / math.sqrt(spread) * max(1.0, math.sqrt(chi2 / (len(window) - 2)))


def stalled(validations: Sequence[Validation], config: ResetConfig) -> Cause | None:
    """PLATEAU, DEGRADATION, or None where the window is not full yet, an error is not known or the score has risen."""
    if config.plateau_evals is None or len(validations) < config.plateau_evals:
        return None
    window = validations[-config.plateau_evals :]
    if any(math.isnan(v.error) for v in window):
        return None  # a set of one prompt with one known sample: nobody can say whether its score has risen
    rise, error = rise_over(window)
    if rise > config.plateau_z * error:
        return None
    return Cause.DEGRADATION if rise < -config.plateau_z * error else Cause.PLATEAU


def due(state: TriggerState, step: int, file_present: bool, config: ResetConfig) -> Cause | None:
    """Whether the era ends after `step`, and why; the first of the causes in the order below.

    The file and the schedule act at any age of the era, the measured causes from `min_era_steps` on.
    """
    age = step - state.era_start_step
    if file_present:
        return Cause.FILE
    if config.every_steps is not None and age >= config.every_steps:
        return Cause.SCHEDULE
    if age < config.min_era_steps:
        return None
    if state.num_steps_above_ceiling >= config.patience_steps:
        return Cause.KL_CEILING
    if state.num_steps_below_floor >= config.patience_steps:
        return Cause.ENTROPY_FLOOR
    return stalled(state.validations, config)
