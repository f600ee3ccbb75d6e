"""The optimizer steps of one training step."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from trainer.batch import to_device
from trainer.config import LossConfig, OptimizerConfig
from trainer.loss import GlobalCounts, LossInputs, policy_loss
from trainer.parallel import ALONE, Ranks, whole
from trainer.policy import Policy
from trainer.sharding import kept_whole, sync_gradients
from trainer.types import Microbatch, TrainingBatch, UpdateStats


def make_optimizer(parameters: Iterable[torch.nn.Parameter], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with nothing in its state."""
    parameters = list(parameters)
    return torch.optim.AdamW(
        parameters,
        fused=all(p.is_cuda for p in parameters),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


def configure(optimizer: torch.optim.Optimizer, config: OptimizerConfig, step_of_era: int) -> None:
    """Set the step's learning rate, linear from the first step of the era, 1, then constant; and all else anew.

    An optimizer that was read back from a checkpoint comes with the settings of then.
    """
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * min(1.0, step_of_era / max(config.warmup_steps, 1))
        group["betas"] = (config.beta1, config.beta2)
        group["eps"], group["weight_decay"] = config.eps, config.weight_decay


SAME_NUMBERS = 1e-4
"""Nats between sampler and policy up to which both computed the same: float32 alone leaves 1e-6, bfloat16 percents."""


@dataclass
class _Row:
    """A microbatch on the device, with the log-probabilities it is compared to."""

    batch: Microbatch
    ref_logprobs: torch.Tensor | None
    old_logprobs: torch.Tensor | None = None


def update_policy(
    policy: Policy,
    reference: Policy,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[TrainingBatch],
    loss_config: LossConfig,
    max_grad_norm: float,
    ranks: Ranks = ALONE,
) -> UpdateStats:
    """One optimizer step a batch, all ranks together. Log-probabilities before the first step are the old ones of all.

    The first batch meets the policy unchanged, so its old log-probabilities are its own and need no pass; `_keep_old`
    sees to the others. The reference is asked only where the KL has a weight.
    """
    with torch.no_grad(), kept_whole(reference):
        prepared = [[_prepare(policy, reference, m, loss_config) for m in batch.microbatches] for batch in batches]
    sums: defaultdict[str, float] = defaultdict(float)
    grad_norms = []
    for number, (batch, rows) in enumerate(zip(batches, prepared, strict=True)):
        counts = GlobalCounts(batch.num_loss_tokens, batch.num_sequences)
        optimizer.zero_grad(set_to_none=True)
        with kept_whole(policy):
            for row in rows:
                sync_gradients(policy, row is rows[-1])
                for name, value in _backward(policy, row, counts, loss_config).items():
                    sums[name] += value * batch.num_loss_tokens
            if number == 0 and len(batches) > 1:
                _keep_old(policy, batches, prepared, ranks)
        grad_norms.append(float(whole(torch.nn.utils.clip_grad_norm_(policy.parameters(), max_grad_norm))))
        if math.isfinite(grad_norms[-1]):  # else the policy would be lost; the guard of the norm counts the step
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    num_tokens = sum(batch.num_loss_tokens for batch in batches)
    shares = ranks.gather(dict(sums))
    return UpdateStats(
        num_updates=len(batches),
        num_loss_tokens=num_tokens,
        grad_norm=sum(grad_norms) / len(grad_norms) if grad_norms else float("nan"),
        learning_rate=optimizer.param_groups[0]["lr"],
        means={name: sum(share[name] for share in shares) / max(num_tokens, 1) for name in sums},
    )


def _prepare(policy: Policy, reference: Policy, batch: Microbatch, config: LossConfig) -> _Row:
    batch = to_device(batch, policy.device)
    return _Row(batch, reference.logprobs(batch) if config.kl_coef > 0 else None)


@torch.no_grad()
def _keep_old(policy: Policy, batches: Sequence[TrainingBatch], rows: Sequence[Sequence[_Row]], ranks: Ranks) -> None:
    """Before the first step: the log-probabilities of all that comes after it.

    Those of the sampler where they are the same numbers, which the first batch has just shown for every token of it and
    on every rank, and for groups of which it held a part: others may be of an earlier policy. Else they are computed.
    """
    same = all(ranks.gather(all(_is_the_samplers(row) for row in rows[0])))
    for batch, later in zip(batches[1:], rows[1:], strict=True):
        for row in later:
            known = same and batch.group_ids <= batches[0].group_ids
            row.old_logprobs = row.batch.rollout_logprobs if known else policy.logprobs(row.batch)


def _is_the_samplers(row: _Row) -> bool:
    assert row.old_logprobs is not None  # it was trained on
    differences = (row.old_logprobs - row.batch.rollout_logprobs)[row.batch.loss_mask].abs()
    return bool((differences <= SAME_NUMBERS).all())  # NaN is not


def _backward(policy: Policy, row: _Row, counts: GlobalCounts, config: LossConfig) -> dict[str, float]:
    """Adds this microbatch's gradient; returns its share of the metrics."""
    logprobs, entropy = policy.logprobs_and_entropy(row.batch)
    if row.old_logprobs is None:
        row.old_logprobs = logprobs.detach()
    inputs = LossInputs(
        policy_logprobs=logprobs,
        old_logprobs=row.old_logprobs,
        rollout_logprobs=row.batch.rollout_logprobs,
        ref_logprobs=row.ref_logprobs,
        entropy=entropy,
        advantages=row.batch.advantages,
        loss_mask=row.batch.loss_mask,
        sequence_ids=row.batch.sequence_ids,
    )
    loss, metrics = policy_loss(inputs, counts, config)
    (loss * policy.num_ranks).backward()  # ranks take the mean of their gradients, and the loss is a sum over them
    return {name: float(value) for name, value in metrics.items()}
