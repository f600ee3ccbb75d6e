"""When an era ends: schedules, plateaus, ceilings, each against numbers by hand."""

import math
import random
from typing import Any

import numpy
import pytest

from trainer.config import ResetConfig
from trainer.triggers import (
    Cause,
    TriggerState,
    Validation,
    due,
    observe_step,
    observe_validation,
    rise_over,
    stalled,
)


def config_with(**changes: Any) -> ResetConfig:
    return ResetConfig.model_validate({"min_era_steps": 0, **changes})


def validations(*scores: float, error: float = 0.01) -> tuple[Validation, ...]:
    return tuple(Validation(10 * i, score, error) for i, score in enumerate(scores))


def test_no_trigger_no_reset() -> None:
    state = TriggerState(validations=validations(0.5, 0.4, 0.3, 0.2))
    assert due(state, 10_000, file_present=False, config=ResetConfig()) is None


def test_file_acts_at_once() -> None:
    assert due(TriggerState(era_start_step=7), 7, file_present=True, config=ResetConfig()) is Cause.FILE


def test_schedule_counts_from_the_eras_start() -> None:
    config = config_with(every_steps=40)
    state = TriggerState(era_start_step=40)
    assert due(state, 79, False, config) is None
    assert due(state, 80, False, config) is Cause.SCHEDULE


def test_schedule_ignores_min_era_steps() -> None:
    assert due(TriggerState(), 5, False, config_with(every_steps=5, min_era_steps=50)) is Cause.SCHEDULE


def streak(config: ResetConfig, *steps: tuple[float, float]) -> TriggerState:
    state = TriggerState()
    for kl_ref, entropy in steps:
        state = observe_step(state, kl_ref, entropy, config)
    return state


@pytest.mark.parametrize(
    ("changes", "bad", "good", "cause"),
    [
        ({"kl_ceiling": 0.1}, (0.11, 1.0), (0.1, 1.0), Cause.KL_CEILING),
        ({"entropy_floor": 0.3}, (0.0, 0.29), (0.0, 0.3), Cause.ENTROPY_FLOOR),
    ],
)
def test_ceiling_and_floor_need_patience(
    changes: dict[str, float], bad: tuple[float, float], good: tuple[float, float], cause: Cause
) -> None:
    config = config_with(patience_steps=3, **changes)
    assert due(streak(config, bad, bad), 9, False, config) is None
    assert due(streak(config, bad, bad, good, bad, bad), 9, False, config) is None
    assert due(streak(config, bad, bad, bad), 9, False, config) is cause


def test_measured_causes_wait_for_min_era_steps() -> None:
    config = config_with(kl_ceiling=0.1, patience_steps=1, min_era_steps=20)
    state = streak(config, (1.0, 1.0))
    assert due(state, 19, False, config) is None
    assert due(state, 20, False, config) is Cause.KL_CEILING


def test_rise_by_hand() -> None:
    # Steps 0, 10, 20; equal errors e: slope = (0.4 - 0.2) / 20, rise 0.2; residuals -1/60, 2/60, -1/60.
    # sum w (t - T)^2 = 200 / e^2, so the error is 20 e / sqrt(200) = sqrt(2) e, widened by sqrt(chi2 / 1).
    window = validations(0.2, 0.35, 0.4, error=0.1)
    rise, error = rise_over(window)
    assert (rise, error) == pytest.approx((0.2, math.sqrt(2) * 0.1))
    chi2 = 6 / 3600 / 0.01**2
    rise, error = rise_over(validations(0.2, 0.35, 0.4, error=0.01))
    assert (rise, error) == pytest.approx((0.2, math.sqrt(2) * 0.01 * math.sqrt(chi2)))


def test_rise_equals_numpys_weighted_fit() -> None:
    generator = random.Random(3)
    window = [Validation(i * i, generator.random(), 0.5 + generator.random()) for i in range(8)]
    steps, scores, errors = (numpy.array(column) for column in zip(*window, strict=True))
    (slope, _), covariance = numpy.polyfit(steps, scores, 1, w=1 / errors, cov="unscaled")
    rise, error = rise_over(window)
    assert rise == pytest.approx(slope * 49)
    assert error == pytest.approx(math.sqrt(covariance[0, 0]) * 49)  # errors this large leave the Birge ratio at 1


def test_plateau_degradation_and_rise() -> None:
    config = config_with(plateau_evals=4)
    assert stalled(validations(0.50, 0.51, 0.49, 0.50), config) is Cause.PLATEAU
    assert stalled(validations(0.50, 0.45, 0.40, 0.35), config) is Cause.DEGRADATION
    assert stalled(validations(0.50, 0.55, 0.60, 0.65), config) is None


def test_plateau_needs_a_full_window_of_this_era() -> None:
    config = config_with(plateau_evals=4)
    state = TriggerState(validations=validations(0.5, 0.5, 0.5))
    assert due(state, 40, False, config) is None
    full = observe_validation(state, Validation(30, 0.5, 0.01))
    assert due(full, 40, False, config) is Cause.PLATEAU
    assert due(TriggerState(era_start_step=40), 80, False, config) is None


def test_only_the_last_validations_count() -> None:
    config = config_with(plateau_evals=4)
    assert stalled(validations(0.1, 0.3, 0.5, 0.5, 0.5, 0.5), config) is Cause.PLATEAU


def test_errors_of_zero_do_not_make_noise_significant() -> None:
    noisy = validations(0.50, 0.54, 0.47, 0.53, 0.50, error=0.0)
    assert stalled(noisy, config_with(plateau_evals=5)) is Cause.PLATEAU


def test_scores_of_unknown_error_end_no_era() -> None:
    flat = (*validations(0.50, 0.50, 0.50), Validation(30, 0.50, math.nan))
    assert stalled(flat[:3], config_with(plateau_evals=3)) is Cause.PLATEAU
    assert stalled(flat, config_with(plateau_evals=3)) is None


@pytest.mark.parametrize(("slope", "low", "high"), [(0.0, 0.93, 0.97), (0.005, 0.5, 0.6), (0.02, 0.0, 0.01)])
def test_how_often_the_rule_fires(slope: float, low: float, high: float) -> None:
    # 8 validations with sampling error 0.02; the rise over 7 intervals has the error 7 * 0.02 / sqrt(42) = 0.0216.
    # Without the Birge ratio: P(N(7 slope, 0.0216) < 1.645 * 0.0216), so 0.95, 0.51 and less than 0.001.
    generator = random.Random(0)
    config = config_with(plateau_evals=8)
    fired = 0
    for _ in range(2000):
        scores = [0.4 + slope * i + generator.gauss(0, 0.02) for i in range(8)]
        fired += stalled(validations(*scores, error=0.02), config) is not None
    assert low <= fired / 2000 <= high
