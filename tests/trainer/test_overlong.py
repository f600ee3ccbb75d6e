"""What long completions earn, by each rule."""

import math

import pytest

from tests.trainer.builders import group
from tests.trainer.builders import rollout as make_rollout
from trainer.config import OverlongConfig
from trainer.overlong import apply_overlong, cosine_is_on, cosine_term, shaped_reward, soft_penalty
from trainer.types import Rollout, RolloutGroup


def shaped(config: OverlongConfig, *rollouts: Rollout, step: int = 1) -> tuple[Rollout, ...]:
    base = group(0, [0.0])
    filled = RolloutGroup(index=0, prompt=base.prompt, rollouts=rollouts)
    return apply_overlong(filled, max_tokens=100, step=step, config=config).rollouts


def test_none_changes_nothing() -> None:
    (rollout,) = shaped(OverlongConfig(), make_rollout(1.0, 100, truncated=True))
    assert (rollout.shaped_reward, rollout.in_loss) == (1.0, True)


def test_mask_takes_the_truncated_out_of_the_loss_only() -> None:
    long, short = shaped(OverlongConfig(rule="mask"), make_rollout(1.0, 100, truncated=True), make_rollout(0.0, 100))
    assert (long.shaped_reward, long.in_loss) == (1.0, False)
    assert (short.shaped_reward, short.in_loss) == (0.0, True)


def test_zero_pays_nothing_to_the_truncated() -> None:
    long, short = shaped(OverlongConfig(rule="zero"), make_rollout(1.0, 100, truncated=True), make_rollout(1.0, 100))
    assert (long.shaped_reward, long.reward, long.in_loss) == (0.0, 1.0, True)
    assert short.shaped_reward == 1.0


def test_zero_pays_the_truncated_no_cosine_term_either() -> None:
    config = OverlongConfig(rule="zero", cosine_coef=0.5, cosine_min=1.0)
    assert shaped_reward(1.0, 100, True, 100, 1, config) == 0.0


@pytest.mark.parametrize(("num_tokens", "penalty"), [(0, 0), (80, 0), (85, -0.25), (90, -0.5), (100, -1), (150, -1)])
def test_soft_ramp_by_hand(num_tokens: int, penalty: float) -> None:
    assert soft_penalty(num_tokens, max_tokens=100, cache_tokens=20) == penalty


def test_soft_penalty_is_added_to_the_reward() -> None:
    config = OverlongConfig(rule="soft", soft_cache_tokens=20, soft_penalty=0.5)
    assert shaped_reward(0.0, 90, False, 100, 1, config) == -0.25
    assert shaped_reward(1.0, 90, False, 100, 1, config) == 0.75


@pytest.mark.parametrize(("num_tokens", "value"), [(0, 3.0), (50, 2.0), (100, 1.0), (130, 1.0)])
def test_cosine_by_hand(num_tokens: int, value: float) -> None:
    assert cosine_term(num_tokens, 100, low=1.0, high=3.0) == pytest.approx(value)


def test_cosine_at_a_quarter() -> None:
    assert cosine_term(25, 100, 0.0, 1.0) == pytest.approx(0.5 + math.sqrt(2) / 4)


def test_cosine_goes_by_the_reward() -> None:
    config = OverlongConfig(cosine_coef=0.2)
    assert shaped_reward(1.0, 50, False, 100, 1, config) == pytest.approx(1.1)
    assert shaped_reward(0.5, 50, False, 100, 1, config) == pytest.approx(0.55)
    assert shaped_reward(0.0, 50, False, 100, 1, config) == 0.0


def test_cosine_cycle() -> None:
    config = OverlongConfig(cosine_coef=1.0, cosine_on_steps=2, cosine_off_steps=3)
    on = [cosine_is_on(step, config) for step in range(1, 8)]  # a run's first step is 1
    assert on == [True, True, False, False, False, True, True]
    assert not cosine_is_on(1, OverlongConfig())
    rewards = [shaped(config, make_rollout(1.0, 50), step=step)[0].shaped_reward for step in (2, 3)]
    assert rewards == pytest.approx([1.5, 1.0])


@pytest.mark.parametrize("rule", ["none", "mask", "zero", "soft"])
def test_unknown_stays_unknown(rule: str) -> None:
    config = OverlongConfig.model_validate({"rule": rule, "cosine_coef": 1.0})
    (rollout,) = shaped(config, make_rollout(None, 100, truncated=True))
    assert rollout.shaped_reward is None
