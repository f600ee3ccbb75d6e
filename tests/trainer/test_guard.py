"""Bands that metrics must stay in, and what happens outside of them."""

import math
from typing import Any

import pytest

from trainer.config import Band, GuardConfig
from trainer.guard import Alarm, GuardState, is_outside, watch


def run(values: list[dict[str, float]], config: GuardConfig) -> tuple[list[Alarm | None], GuardState]:
    state, alarms = GuardState(), []
    for metrics in values:
        state, alarm = watch(state, metrics, config)
        alarms.append(alarm)
    return alarms, state


def guard(**changes: Any) -> GuardConfig:
    return GuardConfig.model_validate({"patience_steps": 3, **changes})


@pytest.mark.parametrize(
    ("value", "band", "outside"),
    [
        (0.5, Band(min=0.5, max=1.0), False),
        (1.0, Band(min=0.5, max=1.0), False),
        (0.49, Band(min=0.5), True),
        (1.01, Band(max=1.0), True),
        (-9.0, Band(max=1.0), False),
        (9.0, Band(), False),
        (math.nan, Band(), True),
        (-math.inf, Band(max=1.0), True),
    ],
)
def test_band(value: float, band: Band, outside: bool) -> None:
    assert is_outside(value, band) is outside


def test_stops_after_patience_with_a_clear_line() -> None:
    alarms, _ = run([{"entropy": 0.01}] * 3, guard(entropy={"min": 0.1}))
    assert alarms == [None, None, Alarm("stop", "entropy = 0.01 outside [0.1, inf] for 3 steps")]


def test_one_good_step_ends_the_streak() -> None:
    bad, good = {"grad_norm": 99.0}, {"grad_norm": 1.0}
    alarms, state = run([bad, bad, good, bad, bad], guard(grad_norm={"max": 10}))
    assert alarms == [None] * 5
    assert state.streaks["grad_norm"] == 2


def test_an_unmeasured_step_changes_no_streak() -> None:
    alarms, _ = run([{"kl_ref": 9.0}, {}, {"kl_ref": 9.0}, {"kl_ref": 9.0}], guard(kl_ref={"max": 1}))
    assert [alarm is not None for alarm in alarms] == [False, False, False, True]


def test_nan_is_outside_without_any_band() -> None:
    alarms, _ = run([{"grad_norm": math.nan}] * 3, guard())
    assert alarms[-1] == Alarm("stop", "grad_norm = nan outside [-inf, inf] for 3 steps")


@pytest.mark.parametrize(("metric", "value"), [("logprob_mismatch_kl", 0.2), ("reward_error_frac", 0.06)])
def test_defaults_watch_mismatch_and_reward_errors(metric: str, value: float) -> None:
    alarms, _ = run([{metric: value}] * 5, GuardConfig())
    assert [alarm is not None for alarm in alarms] == [False] * 4 + [True]
    alarms, _ = run([{metric: value / 5}] * 9, GuardConfig())
    assert alarms == [None] * 9


def test_rolls_back_a_few_times_then_stops() -> None:
    config = guard(kl_ref={"max": 1}, action="rollback", max_rollbacks=2, patience_steps=1)
    alarms, state = run([{"kl_ref": 2.0}] * 3, config)
    assert [alarm.action for alarm in alarms if alarm] == ["rollback", "rollback", "stop"]
    assert alarms[2] is not None
    assert alarms[2].message.endswith("after 2 rollbacks")
    assert state.num_rollbacks == 2


def test_streaks_start_anew_after_an_alarm() -> None:
    config = guard(kl_ref={"max": 1}, action="rollback")
    alarms, _ = run([{"kl_ref": 2.0}] * 6, config)
    assert [alarm is not None for alarm in alarms] == [False, False, True, False, False, True]


def test_a_band_upside_down_is_refused() -> None:
    with pytest.raises(ValueError, match="min must not exceed max"):
        Band(min=1.0, max=0.0)
