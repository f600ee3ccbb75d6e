"""The numbers of one step, under the names of `metrics.jsonl`."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from trainer.evaluate import ValidationScores
from trainer.guard import WATCHED
from trainer.rollouts import Collected
from trainer.state import RunState
from trainer.types import RolloutGroup, UpdateStats


class Clock:
    """Seconds of a step and of its parts."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._parts: dict[str, float] = {}

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self._parts[part] = time.monotonic() - begun

    def __getitem__(self, part: str) -> float:
        return self._parts[part]

    @property
    def total_s(self) -> float:
        return time.monotonic() - self._begun


def step_metrics(
    state: RunState,
    collected: Collected,
    stats: UpdateStats,
    clock: Clock,
    sync_difference: float,
    scores: ValidationScores | None,
) -> dict[str, Any]:
    """One line of metrics. Rewards are those of all groups decided in the step, kept or not; NaN where not measured."""
    refill, rewards = collected.refill, collected.rewards
    lengths = [len(r.token_ids) for g in refill.decided for r in g.rollouts]
    nan = float("nan")
    loss_means = {name: stats.means.get(name, nan) for name in LOSS_MEANS}
    metrics = {
        "step": state.step,
        "era": state.era,
        **summary(refill.decided, refill.accepted),
        **loss_means,
        "grad_norm": stats.grad_norm,
        "learning_rate": stats.learning_rate,
        "num_updates": stats.num_updates,
        "num_loss_tokens": stats.num_loss_tokens,
        "completion_tokens_max": max(lengths, default=0),
        "fill_frac": refill.fill_frac,
        "num_carried": refill.num_carried,
        "reward_error_frac": rewards.unknown_frac,  # of all that the step asked for, its turn come or not
        "sync_difference": sync_difference,
        "tokens_per_s": collected.num_tokens / clock.total_s,
        "time_step_s": clock.total_s,
        "time_generate_s": rewards.generate_s,
        "time_reward_s": rewards.wait_s,
        "time_reward_busy_s": rewards.busy_s,
        "time_update_s": clock["update"],
        "time_sync_s": clock["sync"],
        "domains": by_domain(refill.decided, refill.accepted),
    }
    return metrics | ({"validation": scores.for_metrics()} if scores else {})


LOSS_MEANS = (
    "loss",
    "kl_ref",
    "entropy",
    "clip_low_frac",
    "clip_high_frac",
    "logprob_mismatch_kl",
    "mismatch_dropped_frac",
)


def summary(decided: Sequence[RolloutGroup], accepted: Sequence[RolloutGroup]) -> dict[str, float]:
    """Over completions; the std too, so it holds both the spread within groups and between them."""
    rollouts = [rollout for group in decided for rollout in group.rollouts]
    known = [rollout.reward for rollout in rollouts if rollout.reward is not None]
    nan = float("nan")
    return {
        "reward_mean": statistics.fmean(known) if known else nan,
        "reward_std": statistics.pstdev(known) if known else nan,
        "reward_error_frac": 1 - len(known) / len(rollouts) if rollouts else 0.0,
        "truncated_frac": sum(r.truncated for r in rollouts) / max(len(rollouts), 1),
        "completion_tokens_mean": statistics.fmean(len(r.token_ids) for r in rollouts) if rollouts else nan,
        "kept_group_frac": len(accepted) / len(decided) if decided else 1.0,
        "num_completions": len(rollouts),
        "num_groups": len(decided),
    }


def by_domain(decided: Sequence[RolloutGroup], accepted: Sequence[RolloutGroup]) -> dict[str, dict[str, float]]:
    """`summary` of each domain that the step decided on."""
    return {
        name: summary(*([g for g in groups if g.prompt.domain == name] for groups in (decided, accepted)))
        for name in sorted({group.prompt.domain for group in decided})
    }


def watched(metrics: Mapping[str, Any], stats: UpdateStats) -> dict[str, float]:
    """What the guards look at, and the step measured: without a KL term no `kl_ref`, without an update only rewards."""
    measured = {"reward_error_frac", *stats.means} | ({"grad_norm"} if stats.num_updates else set())
    return {name: metrics[name] for name in WATCHED if name in measured}
