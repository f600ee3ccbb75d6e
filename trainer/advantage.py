"""Rewards to advantages: pure functions on float64 lists, one list a group.

A reward that is None or NaN is unknown: it enters no mean and no spread, and its advantage is None, which keeps the
completion out of the loss. A group with fewer than two known rewards has no advantages at all.
"""

import math
from collections.abc import Sequence

from trainer.config import AdvantageConfig
from trainer.types import RolloutGroup, TrainingSample

Rewards = Sequence[float | None]
"""One group's rewards, one a completion; None or NaN: unknown."""
Advantages = list[float | None]
"""As long as the rewards; None: not trained on."""

STD_FLOOR = 1e-6
"""Added to the group's std, as verl does; only there so that equal rewards give 0 and not 0/0."""
VARIANCE_FLOOR = 1e-8
"""Smallest batch variance divided by, as in NeMo-RL."""
MIN_KNOWN = 2
"""Known rewards that a group needs; below two there is no spread."""


def known(rewards: Rewards) -> list[float]:
    """The rewards that are known, in their order."""
    return [reward for reward in rewards if reward is not None and not math.isnan(reward)]


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def sample_std(values: Sequence[float]) -> float:
    """Standard deviation with n - 1; needs two values."""
    center = mean(values)
    return math.sqrt(math.fsum((value - center) ** 2 for value in values) / (len(values) - 1))


def centered(rewards: Rewards) -> Advantages:
    """A_i = R_i - mean(R): Dr. GRPO (arXiv 2503.20783, section 3.2), which leaves out the division by the std."""
    values = known(rewards)
    if len(values) < MIN_KNOWN:
        return [None] * len(rewards)
    baseline = mean(values)
    return [None if reward is None or math.isnan(reward) else reward - baseline for reward in rewards]


def standardized(rewards: Rewards) -> Advantages:
    """A_i = (R_i - mean(R)) / std(R): GRPO (arXiv 2402.03300, section 4.1.2; ProRL, arXiv 2505.24864, eq. 2)."""
    values = known(rewards)
    if len(values) < MIN_KNOWN:
        return [None] * len(rewards)
    scale = sample_std(values) + STD_FLOOR
    return [None if deviation is None else deviation / scale for deviation in centered(rewards)]


def batch_normalized(groups: Sequence[Rewards], num_tokens: Sequence[Sequence[int]]) -> list[Advantages]:
    """REINFORCE++-baseline (ProRL v2; arXiv 2501.03262): group mean as baseline, normalised over the batch.

    D_i = R_i - mean_group(R);  A_i = (D_i - mean_batch(D)) / std_batch(D)

    Mean and std run over the batch's loss tokens, as in verl and NeMo-RL (over completions the mean of D would be 0 by
    construction). Hence `num_tokens`: the loss tokens of each completion, 0 where it is masked. The batch is that of
    all ranks.
    """
    deviations = [centered(rewards) for rewards in groups]
    weighted = [
        (deviation, tokens)
        for row, lengths in zip(deviations, num_tokens, strict=True)
        for deviation, tokens in zip(row, lengths, strict=True)
        if deviation is not None
    ]
    total = sum(tokens for _, tokens in weighted)
    if total == 0:
        return deviations
    center = math.fsum(tokens * deviation for deviation, tokens in weighted) / total
    variance = math.fsum(tokens * (deviation - center) ** 2 for deviation, tokens in weighted) / total
    scale = math.sqrt(max(variance, VARIANCE_FLOOR))
    return [[None if deviation is None else (deviation - center) / scale for deviation in row] for row in deviations]


def group_advantages(
    groups: Sequence[Rewards], num_tokens: Sequence[Sequence[int]], config: AdvantageConfig
) -> list[Advantages]:
    """The configured estimator, for all groups of the batch."""
    if config.estimator == "reinforce_baseline":
        return batch_normalized(groups, num_tokens)
    estimate = standardized if config.estimator == "grpo" else centered
    return [estimate(rewards) for rewards in groups]


def assign_advantages(groups: Sequence[RolloutGroup], config: AdvantageConfig) -> list[TrainingSample]:
    """Training samples of all completions with known reward, in the order of groups and rollouts.

    Completions that the overlong rule masks count in their group's mean and spread and stay in the list with
    `in_loss=False`, so that counts of samples and of completions agree.
    """
    rewards = [[rollout.shaped_reward for rollout in group.rollouts] for group in groups]
    num_tokens = [[len(rollout.token_ids) * rollout.in_loss for rollout in group.rollouts] for group in groups]
    advantages = group_advantages(rewards, num_tokens, config)
    return [
        TrainingSample(
            group_index=group.index,
            prompt_ids=group.prompt.token_ids,
            token_ids=rollout.token_ids,
            rollout_logprobs=rollout.logprobs,
            advantage=advantage,
            in_loss=rollout.in_loss,
        )
        for group, row in zip(groups, advantages, strict=True)
        for rollout, advantage in zip(group.rollouts, row, strict=True)
        if advantage is not None
    ]
