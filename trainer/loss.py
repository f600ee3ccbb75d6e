"""The policy loss: pure functions on the completion tokens of one microbatch, packed in one row without padding.

N tokens, each with the number of its sequence (ascending from 0; a sequence is never split over microbatches). Every
normaliser is a global count, given from outside, so that summing losses and metrics over microbatches and ranks gives
exactly those of the whole batch.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from trainer.config import LossConfig

MAX_LOG_RATIO = 20.0
"""Log ratios are clamped to this before exp, as in verl: beyond it a token is hopeless, and exp would overflow."""
MAX_KL = 10.0
"""Largest KL estimate of one token, as in verl and NeMo-RL: k3 explodes where the policy has left the reference."""


@dataclass(frozen=True)
class LossInputs:
    """Per token, all [N]; natural logs of probabilities at the sampling temperature.

    Three policies: `rollout` (the sampler's numbers), `old` (the trainer's own, of the weights before the step), and
    the policy being trained. rollout against old is mismatch of engines, and for carried groups also the updates since
    they were sampled; old against policy is the update so far.
    """

    policy_logprobs: Tensor
    """With gradient."""
    old_logprobs: Tensor | None
    """None: the same as the policy (first update after sampling), ratio 1 with gradient."""
    rollout_logprobs: Tensor
    ref_logprobs: Tensor | None
    """None only where `kl_coef` is 0; then `kl_ref` is not measured."""
    entropy: Tensor
    """Of the policy's distribution at each token, nats; measured, not trained."""
    advantages: Tensor
    loss_mask: Tensor
    """bool."""
    sequence_ids: Tensor
    """int64."""


@dataclass(frozen=True)
class GlobalCounts:
    """Of the whole batch of one optimizer step, over all microbatches and ranks."""

    num_loss_tokens: int
    num_sequences: int
    """Sequences with at least one loss token."""


def exp_clamped(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def clipped_loss(ratio: Tensor, advantages: Tensor, config: LossConfig) -> Tensor:
    """PPO's pessimistic bound with separate clips (arXiv 1707.06347, eq. 7; DAPO, arXiv 2503.14476, section 3.1).

    l = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A); with dual clip c and A < 0 at most -c A
    (arXiv 1912.09729, eq. 5).
    """
    clipped = ratio.clamp(1.0 - config.clip_low, 1.0 + config.clip_high)
    loss = -torch.minimum(ratio * advantages, clipped * advantages)
    if config.dual_clip is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -config.dual_clip * advantages), loss)


def kl_estimate(log_ratio: Tensor, estimator: str) -> Tensor:
    """KL(p || q) at one token sampled from p, of d = log q - log p (J. Schulman, "Approximating KL divergence", 2020).

    k1 = -d; k2 = d^2 / 2; k3 = exp(d) - d - 1. Trained on (arXiv 2510.01555): k1's gradient has mean zero, k2's is
    that of the KL, k3's is close to it near d = 0, and exactly it with `kl_unbiased` (arXiv 2512.02556).
    """
    d = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    values = {"k1": lambda: -d, "k2": lambda: d.square() / 2, "k3": lambda: d.expm1() - d}
    return values[estimator]().clamp(-MAX_KL, MAX_KL)


def per_sequence_sum(values: Tensor, sequence_ids: Tensor) -> Tensor:
    """[N] -> [S], S one more than the largest sequence number."""
    num_sequences = int(sequence_ids.max()) + 1 if len(sequence_ids) else 0
    return values.new_zeros(num_sequences).index_add(0, sequence_ids, values)


def token_weights(sequence_ids: Tensor, dtype: torch.dtype, counts: GlobalCounts, config: LossConfig) -> Tensor:
    """What each loss token is multiplied by, so that the batch's loss is the sum over its tokens; [N].

    `token`: 1 / tokens of the batch (DAPO, eq. 8). `sequence`: 1 / (sequences * tokens of this sequence) (GRPO,
    arXiv 2402.03300, eq. 3). `constant`: 1 / (sequences * constant_length) (Dr. GRPO, arXiv 2503.20783).
    """
    ones = torch.ones_like(sequence_ids, dtype=dtype)
    if config.normalizer == "token":
        return ones / counts.num_loss_tokens
    if config.normalizer == "constant":
        assert config.constant_length is not None  # the config refuses it otherwise
        return ones / (counts.num_sequences * config.constant_length)
    return ones / (counts.num_sequences * per_sequence_sum(ones, sequence_ids)[sequence_ids])


def mismatch_weights(log_ratio: Tensor, sequence_ids: Tensor, config: LossConfig) -> Tensor:
    """Weight of each token's policy term for the mismatch of engines; [N], a constant to the gradient.

    With rho = exp(log_ratio) = pi_old / pi_rollout:
    `tis`: min(rho, cap) (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy training").
    `icepop`: rho inside [low, high], else 0 (IcePop, 2025; bounds of NeMo-RL's ProRL v2 recipe).
    Sequence mask: 0 for sequences with exp(mean log rho) outside its band (that mean does not grow with length).
    """
    rho = exp_clamped(log_ratio)
    if config.correction == "tis":
        weights = rho.clamp(max=config.tis_cap)
    elif config.correction == "icepop":
        weights = rho * ((rho >= config.icepop_low) & (rho <= config.icepop_high))
    else:
        weights = torch.ones_like(rho)
    if config.sequence_mask_low is None and config.sequence_mask_high is None:
        return weights
    lengths = per_sequence_sum(torch.ones_like(log_ratio), sequence_ids).clamp(min=1)
    mean_ratio = exp_clamped(per_sequence_sum(log_ratio, sequence_ids) / lengths)
    keep = (mean_ratio >= (config.sequence_mask_low or 0.0)) & (mean_ratio <= (config.sequence_mask_high or math.inf))
    return weights * keep[sequence_ids]


def loss_tokens(inputs: LossInputs) -> LossInputs:
    """Without the masked tokens: they may be infinite, and a factor 0 would make NaN of them."""
    columns = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    kept: dict[str, Any] = {name: t if t is None else t[inputs.loss_mask] for name, t in columns.items()}
    return LossInputs(**kept)


def policy_loss(inputs: LossInputs, counts: GlobalCounts, config: LossConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """This microbatch's share of the loss (scalar, with gradient) and of the metrics (scalars, detached).

    loss = sum_t w_t (c_t l_t + kl_coef KL_t): w normaliser, c mismatch weight, l clipped loss, KL(policy || reference).
    Loss and metrics add up over microbatches and ranks.
    """
    inputs = loss_tokens(inputs)
    policy = inputs.policy_logprobs
    old = policy.detach() if inputs.old_logprobs is None else inputs.old_logprobs
    ratio = exp_clamped(policy - old)
    correction = mismatch_weights(old - inputs.rollout_logprobs, inputs.sequence_ids, config)
    per_token = correction * clipped_loss(ratio, inputs.advantages, config)
    if inputs.ref_logprobs is not None:
        kl = kl_estimate(inputs.ref_logprobs - policy, config.kl_estimator)
        per_token = per_token + config.kl_coef * (kl * ratio if config.kl_unbiased else kl)
    loss = (per_token * token_weights(inputs.sequence_ids, policy.dtype, counts, config)).sum()
    with torch.no_grad():
        per_token_metrics = token_metrics(inputs, old, ratio, correction, config)
    num_loss_tokens = max(counts.num_loss_tokens, 1)
    metrics = {name: value.to(policy.dtype).sum() / num_loss_tokens for name, value in per_token_metrics.items()}
    return loss, metrics | {"loss": loss.detach()}


def token_metrics(
    inputs: LossInputs, old: Tensor, ratio: Tensor, correction: Tensor, config: LossConfig
) -> dict[str, Tensor]:
    """What is watched, each [N]: means over the batch's loss tokens go to metrics.jsonl under these names.

    KLs are k3 whatever the loss uses, so that runs compare. `logprob_mismatch_kl` is KL(rollout || old): the sampler
    drew the tokens. Clip fractions count the tokens whose gradient the clip removes.
    """
    metrics = {
        "entropy": inputs.entropy,
        "clip_low_frac": (inputs.advantages < 0) & (ratio < 1.0 - config.clip_low),
        "clip_high_frac": (inputs.advantages > 0) & (ratio > 1.0 + config.clip_high),
        "logprob_mismatch_kl": kl_estimate(old - inputs.rollout_logprobs, "k3"),
        "mismatch_dropped_frac": correction == 0,
    }
    if inputs.ref_logprobs is not None:
        metrics["kl_ref"] = kl_estimate(inputs.ref_logprobs - inputs.policy_logprobs, "k3")
    return metrics
