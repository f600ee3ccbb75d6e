"""Advantages against numbers by hand and a brute force."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.builders import group
from trainer.advantage import assign_advantages, batch_normalized, centered, group_advantages, standardized
from trainer.config import AdvantageConfig

rewards_strategy = st.lists(st.one_of(st.none(), st.sampled_from([0.0, 0.01, 0.25, 0.5, 1.0])), min_size=1, max_size=12)


def test_grpo_by_hand() -> None:
    # mean 0.25; deviations 0.75, -0.25 x 3; squares 0.5625 + 3 * 0.0625 = 0.75; std sqrt(0.75 / 3) = 0.5
    assert standardized([1.0, 0.0, 0.0, 0.0]) == pytest.approx([1.5, -0.5, -0.5, -0.5], rel=1e-5)


def test_dr_grpo_by_hand() -> None:
    assert centered([1.0, 0.0, 0.0, 0.0]) == [0.75, -0.25, -0.25, -0.25]


def test_reinforce_baseline_by_hand() -> None:
    # Deviations 0.5, -0.5 | 0.25, -0.25 with 1, 3 | 2, 2 tokens. Mean (0.5 - 1.5 + 0.5 - 0.5) / 8 = -0.125.
    # Variance (0.625^2 + 3 * 0.375^2 + 2 * 0.375^2 + 2 * 0.125^2) / 8 = (0.390625 + 0.703125 + 0.03125) / 8 = 0.140625.
    got = batch_normalized([[1.0, 0.0], [0.75, 0.25]], [[1, 3], [2, 2]])
    std = 0.375
    assert got[0] == pytest.approx([0.625 / std, -0.375 / std])
    assert got[1] == pytest.approx([0.375 / std, -0.125 / std])


def test_unknown_rewards_leave_mean_and_std() -> None:
    got = standardized([1.0, None, 0.0, math.nan, 0.0, 0.0])
    assert (got[1], got[3]) == (None, None)
    assert [value for value in got if value is not None] == pytest.approx([1.5, -0.5, -0.5, -0.5], rel=1e-5)
    assert centered([1.0, None, 0.0]) == [0.5, None, -0.5]
    assert batch_normalized([[1.0, None, 0.0]], [[2, 9, 2]]) == [[1.0, None, -1.0]]


@pytest.mark.parametrize("rewards", [[None, None], [1.0, None], [math.nan, 0.0], [1.0]])
@pytest.mark.parametrize("estimator", ["grpo", "dr_grpo", "reinforce_baseline"])
def test_groups_with_fewer_than_two_known_rewards_leave(rewards: list[float | None], estimator: str) -> None:
    config = AdvantageConfig.model_validate({"estimator": estimator})
    got = group_advantages([rewards, [1.0, 0.0]], [[1] * len(rewards), [1, 1]], config)
    assert got[0] == [None] * len(rewards)
    assert None not in got[1]


@pytest.mark.parametrize("estimator", ["grpo", "dr_grpo", "reinforce_baseline"])
def test_equal_rewards_have_no_advantage(estimator: str) -> None:
    config = AdvantageConfig.model_validate({"estimator": estimator})
    assert group_advantages([[0.5] * 4], [[3] * 4], config) == [[0.0] * 4]


def test_batch_normalisation_ignores_masked_completions() -> None:
    masked = batch_normalized([[1.0, 0.0, 0.5]], [[4, 4, 0]])
    assert masked[0] == pytest.approx([1.0, -1.0, 0.0])


def test_batch_without_loss_tokens_is_not_divided() -> None:
    assert batch_normalized([[1.0, 0.0]], [[0, 0]]) == [[0.5, -0.5]]


@given(rewards_strategy)
def test_grpo_equals_brute_force(rewards: list[float | None]) -> None:
    values = [r for r in rewards if r is not None]
    got = standardized(rewards)
    if len(values) < 2:
        assert got == [None] * len(rewards)
        return
    mean = sum(values) / len(values)
    std = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
    for reward, advantage in zip(rewards, got, strict=True):
        if reward is None:
            assert advantage is None
        else:
            assert advantage == pytest.approx((reward - mean) / (std + 1e-6), abs=1e-9)


@given(st.lists(st.tuples(rewards_strategy, st.integers(1, 50)), min_size=1, max_size=6))
def test_batch_normalised_equals_brute_force(batch: list[tuple[list[float | None], int]]) -> None:
    groups = [rewards for rewards, _ in batch]
    lengths = [[first + i for i in range(len(rewards))] for rewards, first in batch]
    tokens: list[float] = []
    for rewards, row in zip(groups, lengths, strict=True):
        values = [r for r in rewards if r is not None]
        for reward, length in zip(rewards, row, strict=True):
            if reward is not None and len(values) > 1:
                tokens += [reward - sum(values) / len(values)] * length
    mean = sum(tokens) / len(tokens) if tokens else 0.0
    variance = sum((t - mean) ** 2 for t in tokens) / len(tokens) if tokens else 0.0
    expected = [(t - mean) / max(variance, 1e-8) ** 0.5 for t in tokens]
    got = [
        advantage
        for row, counts in zip(batch_normalized(groups, lengths), lengths, strict=True)
        for advantage, count in zip(row, counts, strict=True)
        if advantage is not None
        for _ in range(count)
    ]
    assert got == pytest.approx(expected, abs=1e-6)


def test_samples_carry_advantage_and_mask_in_order() -> None:
    first, second = group(4, [1.0, None, 0.0]), group(5, [0.0, 1.0])
    masked = replace(second, rollouts=(replace(second.rollouts[0], in_loss=False), second.rollouts[1]))
    samples = assign_advantages([first, masked], AdvantageConfig(estimator="dr_grpo"))
    assert [(s.group_index, s.advantage, s.in_loss) for s in samples] == [
        (4, 0.5, True),
        (4, -0.5, True),
        (5, -0.5, False),
        (5, 0.5, True),
    ]
    assert samples[0].token_ids == first.rollouts[0].token_ids
    assert samples[0].rollout_logprobs == first.rollouts[0].logprobs
    assert samples[0].prompt_ids == first.prompt.token_ids


def test_advantages_are_made_of_the_shaped_reward() -> None:
    base = group(0, [1.0, 1.0])
    shaped = replace(base, rollouts=(replace(base.rollouts[0], shaped_reward=0.0), base.rollouts[1]))
    samples = assign_advantages([shaped], AdvantageConfig(estimator="dr_grpo"))
    assert [sample.advantage for sample in samples] == [-0.5, 0.5]
