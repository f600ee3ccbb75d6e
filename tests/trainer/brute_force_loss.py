"""The loss once more, written from the formulas as loops over sequences and tokens in float64.

Scalars are torch's only for the gradient. Nothing is taken from trainer.loss.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.config import LossConfig


@dataclass
class Sequence:
    """One completion; all lists one entry a token."""

    policy: list[Tensor]
    old: list[float]
    rollout: list[float]
    ref: list[float]
    advantage: float
    in_loss: bool


def constant(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def kl(policy: Tensor, ref: float, estimator: str) -> Tensor:
    if estimator == "k1":
        return policy - ref
    if estimator == "k2":
        return (policy - ref) ** 2 / 2
    return torch.exp(ref - policy) - (ref - policy) - 1


def clipped(ratio: Tensor, advantage: float, config: LossConfig) -> Tensor:
    if advantage >= 0:
        bound = ratio if ratio.item() <= 1 + config.clip_high else constant(1 + config.clip_high)
        return -advantage * bound
    bound = ratio if ratio.item() >= 1 - config.clip_low else constant(1 - config.clip_low)
    loss = -advantage * bound
    if config.dual_clip is not None and loss.item() > -config.dual_clip * advantage:
        return constant(-config.dual_clip * advantage)
    return loss


def weight(old: float, rollout: float, sequence: Sequence, config: LossConfig) -> float:
    rho = math.exp(old - rollout)
    if config.correction == "tis":
        rho = min(rho, config.tis_cap)
    elif config.correction == "icepop":
        rho = rho if config.icepop_low <= rho <= config.icepop_high else 0.0
    else:
        rho = 1.0
    logs = [o - r for o, r in zip(sequence.old, sequence.rollout, strict=True)]
    geometric = math.exp(sum(logs) / len(logs))
    if config.sequence_mask_low is not None and geometric < config.sequence_mask_low:
        return 0.0
    if config.sequence_mask_high is not None and geometric > config.sequence_mask_high:
        return 0.0
    return rho


def brute_force_loss(sequences: list[Sequence], config: LossConfig) -> Tensor:
    """The loss of a whole batch."""
    trained = [sequence for sequence in sequences if sequence.in_loss]
    num_tokens = sum(len(sequence.policy) for sequence in trained)
    total = torch.zeros((), dtype=torch.float64)
    for sequence in trained:
        inner = torch.zeros((), dtype=torch.float64)
        for policy, old, rollout, ref in zip(
            sequence.policy, sequence.old, sequence.rollout, sequence.ref, strict=True
        ):
            policy_term = clipped(torch.exp(policy - old), sequence.advantage, config)
            inner = inner + weight(old, rollout, sequence, config) * policy_term
            ratio = torch.exp(policy - old) if config.kl_unbiased else 1
            inner = inner + config.kl_coef * ratio * kl(policy, ref, config.kl_estimator)
        if config.normalizer == "token":
            total = total + inner / num_tokens
        elif config.normalizer == "sequence":
            total = total + inner / len(sequence.policy) / len(trained)
        else:
            assert config.constant_length is not None
            total = total + inner / config.constant_length / len(trained)
    return total
