"""Validation scores: mean@n, unbiased pass@k, and how far a blend of sets can be trusted. Float64, no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.advantage import Rewards, known, mean, sample_std


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples passes, from n >= k samples of which c passed.

    pass@k = 1 - C(n - c, k) / C(n, k)      (Chen et al. 2021, arXiv 2107.03374, eq. 1)
    """
    if not 1 <= k <= num_samples or not 0 <= num_passed <= num_samples:
        raise ValueError(f"pass@{k} of {num_samples} samples with {num_passed} passed")
    return 1.0 - math.comb(num_samples - num_passed, k) / math.comb(num_samples, k)


@dataclass(frozen=True)
class SetScore:
    """What one validation set says of one policy.

    SetScore(mean=0.25, standard_error=0.1, sampling_error=0.05, pass_at={1: 0.2}, num_prompts=64, unknown_frac=0)
    """

    mean: float
    """mean@n: mean over prompts of the mean reward of their samples."""
    standard_error: float
    """Of `mean`, over prompts: how far it is from that of other prompts of the same kind. NaN for one prompt."""
    sampling_error: float
    """Of `mean`, over samples of these same prompts: what two scores of one fixed set differ by without any change
    of the policy. The plateau rule uses it. Equals `standard_error` (too large) where no prompt has two samples."""
    pass_at: Mapping[int, float]
    """Unbiased pass@k, mean over the prompts with at least k known rewards."""
    num_prompts: int
    """Prompts with at least one known reward."""
    unknown_frac: float
    """Share of samples whose reward is unknown; they count nowhere else."""


def score_set(groups: Sequence[Rewards], ks: Sequence[int], threshold: float = 1.0) -> SetScore:
    """Score of one set from its rewards, one group a prompt.

    A sample passes when its reward is at least `threshold`; rewards between 0 and 1 need that stated.
    Raises ValueError when no reward is known.
    """
    prompts = [values for values in map(known, groups) if values]
    if not prompts:
        raise ValueError("no validation reward is known")
    means = [mean(values) for values in prompts]
    error = sample_std(means) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    within = [sample_std(values) ** 2 / len(values) for values in prompts if len(values) > 1]
    sampling = math.sqrt(mean(within) / len(prompts)) if within else error
    pass_at = {}
    for k in ks:
        rates = [
            pass_at_k(len(values), sum(value >= threshold for value in values), k)
            for values in prompts
            if len(values) >= k
        ]
        if rates:
            pass_at[k] = mean(rates)
    num_samples = sum(len(rewards) for rewards in groups)
    unknown = 1.0 - sum(len(values) for values in prompts) / num_samples
    return SetScore(mean(means), error, sampling, pass_at, len(prompts), unknown)


def blend(scores: Mapping[str, SetScore], weights: Mapping[str, float]) -> tuple[float, float]:
    """Weighted mean over the sets and its sampling error, sets being independent.

    m = sum w_s m_s / sum w_s;  e = sqrt(sum (w_s e_s)^2) / sum w_s
    """
    total = math.fsum(weights[name] for name in scores)
    value = math.fsum(weights[name] * score.mean for name, score in scores.items()) / total
    error = math.sqrt(math.fsum((weights[name] * score.sampling_error) ** 2 for name, score in scores.items())) / total
    return value, error
