"""Loss and gradient against numbers by hand and a brute force in float64."""

import itertools
import math
from collections.abc import Sequence as Seq
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.brute_force_loss import Sequence, brute_force_loss
from trainer.config import LossConfig
from trainer.loss import GlobalCounts, LossInputs, clipped_loss, kl_estimate, mismatch_weights, policy_loss

CONFIGS: dict[str, dict[str, Any]] = {
    "prorl_v1": {},
    "prorl_v2": {"clip_high": 0.27, "kl_estimator": "k2", "correction": "icepop"},
    "dapo": {"clip_high": 0.28, "kl_coef": 0.0},
    "grpo": {"clip_high": 0.2, "kl_coef": 0.04, "normalizer": "sequence"},
    "dr_grpo": {"clip_high": 0.2, "kl_coef": 0.0, "normalizer": "constant", "constant_length": 16},
    "k1": {"kl_coef": 0.1, "kl_estimator": "k1"},
    "unbiased_kl": {"kl_coef": 0.3, "kl_unbiased": True},
    "dual_clip": {"dual_clip": 1.3, "normalizer": "sequence"},
    "tis": {"correction": "tis", "tis_cap": 1.1},
    "sequence_mask": {"sequence_mask_low": 0.9, "sequence_mask_high": 1.1},
    "mask_and_tis": {"correction": "tis", "sequence_mask_high": 1.05, "normalizer": "constant", "constant_length": 7},
}


def make_sequences(seed: int, num_sequences: int = 7, spread: float = 0.4) -> list[Sequence]:
    generator = torch.Generator().manual_seed(seed)

    def near(base: list[float]) -> list[float]:
        noise = torch.randn(len(base), generator=generator, dtype=torch.float64) * spread
        return [value + shift for value, shift in zip(base, noise.tolist(), strict=True)]

    sequences = []
    for number in range(num_sequences):
        length = int(torch.randint(1, 9, (), generator=generator))
        old = (-3 * torch.rand(length, generator=generator, dtype=torch.float64) - 0.1).tolist()
        policy = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in near(old)]
        advantage = float(torch.randn((), generator=generator, dtype=torch.float64))
        in_loss = number % 4 != 3
        sequences.append(Sequence(policy, old, near(old), near(old), advantage, in_loss))
    return sequences


def pack(sequences: Seq[Sequence]) -> LossInputs:
    """The sequences in one row, gradients flowing to their own tensors."""
    lengths = [len(sequence.policy) for sequence in sequences]

    def flat(name: str) -> torch.Tensor:
        return torch.tensor([value for s in sequences for value in getattr(s, name)], dtype=torch.float64)

    return LossInputs(
        policy_logprobs=torch.stack([value for s in sequences for value in s.policy]),
        old_logprobs=flat("old"),
        rollout_logprobs=flat("rollout"),
        ref_logprobs=flat("ref"),
        entropy=torch.ones(sum(lengths), dtype=torch.float64),
        advantages=torch.tensor([s.advantage for s in sequences for _ in s.policy], dtype=torch.float64),
        loss_mask=torch.tensor([s.in_loss for s in sequences for _ in s.policy]),
        sequence_ids=torch.tensor([i for i, length in enumerate(lengths) for _ in range(length)]),
    )


def counts_of(sequences: Seq[Sequence]) -> GlobalCounts:
    trained = [s for s in sequences if s.in_loss]
    return GlobalCounts(sum(len(s.policy) for s in trained), len(trained))


def gradient_of(loss: torch.Tensor, sequences: Seq[Sequence]) -> list[float]:
    leaves = [value for s in sequences for value in s.policy]
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [0.0 if gradient is None else float(gradient) for gradient in gradients]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient_equal_brute_force(name: str, seed: int) -> None:
    config = LossConfig.model_validate(CONFIGS[name])
    sequences = make_sequences(seed)
    loss, _ = policy_loss(pack(sequences), counts_of(sequences), config)
    expected = brute_force_loss(sequences, config)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    gradient = gradient_of(loss, sequences)
    assert gradient == pytest.approx(gradient_of(expected, sequences), rel=1e-10, abs=1e-15)
    assert any(gradient)


@pytest.mark.parametrize("name", CONFIGS)
@given(cuts=st.sets(st.integers(1, 6)))
@settings(max_examples=12, deadline=None)
def test_any_split_into_microbatches_gives_the_same(name: str, cuts: set[int]) -> None:
    config = LossConfig.model_validate(CONFIGS[name])
    sequences = make_sequences(seed=5)
    counts = counts_of(sequences)
    whole, whole_metrics = policy_loss(pack(sequences), counts, config)
    bounds = [0, *sorted(cuts), len(sequences)]
    parts = [policy_loss(pack(sequences[start:end]), counts, config) for start, end in itertools.pairwise(bounds)]
    total = torch.stack([loss for loss, _ in parts]).sum()
    assert total.item() == pytest.approx(whole.item(), rel=1e-12)
    assert gradient_of(total, sequences) == pytest.approx(gradient_of(whole, sequences), rel=1e-12, abs=1e-18)
    for key, value in whole_metrics.items():
        assert sum(float(metrics[key]) for _, metrics in parts) == pytest.approx(float(value), rel=1e-12)


def config_with(**changes: Any) -> LossConfig:
    return LossConfig.model_validate(changes)


def test_clip_by_hand() -> None:
    ratio = torch.tensor([0.5, 1.0, 1.3, 2.0, 0.5, 0.9, 2.0])
    advantages = torch.tensor([1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    losses = clipped_loss(ratio, advantages, config_with(clip_low=0.2, clip_high=0.4))
    assert losses.tolist() == pytest.approx([-0.5, -1.0, -1.3, -1.4, 0.8, 0.9, 2.0])


def test_dual_clip_bounds_negative_advantages_only() -> None:
    ratio = torch.tensor([10.0, 10.0, 0.1])
    losses = clipped_loss(ratio, torch.tensor([-2.0, 2.0, -2.0]), config_with(dual_clip=3.0))
    assert losses.tolist() == pytest.approx([6.0, -2.8, 1.6])


@pytest.mark.parametrize(("estimator", "value"), [("k1", -0.5), ("k2", 0.125), ("k3", math.exp(0.5) - 1.5)])
def test_kl_by_hand(estimator: str, value: float) -> None:
    assert float(kl_estimate(torch.tensor(0.5, dtype=torch.float64), estimator)) == pytest.approx(value)


def test_k1_and_k3_are_unbiased_and_k2_has_the_gradient_of_the_kl() -> None:
    # Over a whole distribution the expectations are sums, so nothing is left to chance.
    logits = torch.tensor([0.3, -0.2, 0.9, 0.0], dtype=torch.float64, requires_grad=True)
    ref = torch.log_softmax(torch.tensor([0.1, 0.4, 0.2, -0.3], dtype=torch.float64), 0)
    policy = torch.log_softmax(logits, 0)
    exact = (policy.exp() * (policy - ref)).sum()
    weights = policy.exp().detach()
    for estimator in ("k1", "k3"):
        assert (weights * kl_estimate(ref - policy, estimator)).sum().item() == pytest.approx(exact.item())
    (true_gradient,) = torch.autograd.grad(exact, logits, retain_graph=True)
    (gradient,) = torch.autograd.grad((weights * kl_estimate(ref - policy, "k2")).sum(), logits, retain_graph=True)
    assert gradient.tolist() == pytest.approx(true_gradient.tolist())
    ratio = (policy - policy.detach()).exp()
    (unbiased,) = torch.autograd.grad(
        (weights * ratio * kl_estimate(ref - policy, "k3")).sum(), logits, retain_graph=True
    )
    assert unbiased.tolist() == pytest.approx(true_gradient.tolist())
    (useless,) = torch.autograd.grad((weights * kl_estimate(ref - policy, "k1")).sum(), logits)
    assert useless.tolist() == pytest.approx([0.0] * 4, abs=1e-12)


def test_k3_of_nearly_equal_probabilities_does_not_drown_in_rounding() -> None:
    assert kl_estimate(torch.tensor([1e-4, -1e-4]), "k3").tolist() == pytest.approx([5e-9, 5e-9], rel=1e-2)


def test_kl_of_a_hopeless_token_is_bounded() -> None:
    assert [float(kl_estimate(torch.tensor(d), "k3")) for d in (50.0, -5.0)] == pytest.approx([10.0, 4.0067], abs=1e-3)


def test_mismatch_weights_by_hand() -> None:
    logs = torch.tensor([0.4, 3.0, 1.0, 9.0]).log()
    ids = torch.tensor([0, 0, 1, 1])
    assert mismatch_weights(logs, ids, config_with(correction="tis")).tolist() == pytest.approx([0.4, 2.0, 1.0, 2.0])
    assert mismatch_weights(logs, ids, config_with(correction="icepop")).tolist() == pytest.approx([0, 3.0, 1.0, 0])
    # Geometric means sqrt(1.2) = 1.095 and 3.
    masked = mismatch_weights(logs, ids, config_with(sequence_mask_low=0.5, sequence_mask_high=2.0))
    assert masked.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert mismatch_weights(logs, ids, config_with(sequence_mask_low=2.0)).tolist() == [0.0, 0.0, 1.0, 1.0]


def test_correction_leaves_the_kl_term_alone() -> None:
    sequences = make_sequences(seed=2)
    config = config_with(kl_coef=0.5, sequence_mask_high=1e-9)
    loss, metrics = policy_loss(pack(sequences), counts_of(sequences), config)
    tokens = [(p, r) for s in sequences if s.in_loss for p, r in zip(s.policy, s.ref, strict=True)]
    kls = [math.exp(r - p.item()) - (r - p.item()) - 1 for p, r in tokens]
    assert loss.item() == pytest.approx(0.5 * sum(kls) / len(kls))
    assert float(metrics["mismatch_dropped_frac"]) == pytest.approx(1.0)


def test_first_update_has_ratio_one_with_gradient() -> None:
    sequences = make_sequences(seed=4)
    packed = pack(sequences)
    fresh = LossInputs(**{**vars(packed), "old_logprobs": None, "ref_logprobs": None})
    loss, metrics = policy_loss(fresh, counts_of(sequences), config_with(kl_coef=0.0))
    num_tokens = counts_of(sequences).num_loss_tokens
    expected = [-s.advantage / num_tokens * s.in_loss for s in sequences for _ in s.policy]
    assert gradient_of(loss, sequences) == pytest.approx(expected)
    assert float(metrics["clip_low_frac"]) == float(metrics["clip_high_frac"]) == 0.0
    assert "kl_ref" not in metrics


def test_metrics_by_hand() -> None:
    def row(*values: float) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)

    inputs = LossInputs(
        policy_logprobs=row(math.log(0.6), math.log(0.1), math.log(0.6), math.log(0.1), -99.0),
        old_logprobs=row(math.log(0.4), math.log(0.2), math.log(0.4), math.log(0.2), -1.0),
        rollout_logprobs=row(math.log(0.4), math.log(0.4), math.log(0.4), math.log(0.2), -50.0),
        ref_logprobs=row(math.log(0.6), math.log(0.2), math.log(0.6), math.log(0.1), 0.0),
        entropy=row(0.1, 0.2, 0.6, 0.3, 99.0),
        advantages=row(1.0, -1.0, -1.0, 0.0, 1.0),
        loss_mask=torch.tensor([True, True, True, True, False]),
        sequence_ids=torch.tensor([0, 1, 2, 3, 4]),
    )
    _, metrics = policy_loss(inputs, GlobalCounts(4, 4), LossConfig())
    assert float(metrics["entropy"]) == pytest.approx(0.3)
    assert float(metrics["clip_high_frac"]) == pytest.approx(1 / 4)  # ratio 1.5, advantage 1
    assert float(metrics["clip_low_frac"]) == pytest.approx(1 / 4)  # ratio 0.5, advantage -1; not with 0
    assert float(metrics["kl_ref"]) == pytest.approx((2 - math.log(2) - 1) / 4)
    assert float(metrics["logprob_mismatch_kl"]) == pytest.approx((0.5 - math.log(0.5) - 1) / 4)


def test_masked_tokens_may_be_infinite() -> None:
    leaf = torch.tensor([-1.0, -math.inf], requires_grad=True)
    other = torch.tensor([-1.0, -math.inf])
    mask, ids = torch.tensor([True, False]), torch.tensor([0, 1])
    inputs = LossInputs(leaf, other, other, other, torch.ones(2), torch.ones(2), mask, ids)
    loss, metrics = policy_loss(inputs, GlobalCounts(1, 1), LossConfig())
    loss.backward()
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [-1.0, 0.0]
    assert all(math.isfinite(value) for value in metrics.values())


def test_a_microbatch_without_loss_tokens_adds_nothing() -> None:
    sequences = [s for s in make_sequences(seed=1) if not s.in_loss]
    loss, metrics = policy_loss(pack(sequences), GlobalCounts(10, 2), config_with(normalizer="sequence"))
    assert loss.item() == 0.0
    assert gradient_of(loss, sequences) == [0.0] * len(pack(sequences).policy_logprobs)
    assert not any(float(value) for value in metrics.values())


@pytest.mark.parametrize("log_ratio", [1000.0, -1000.0])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_hopeless_ratios_stay_finite(log_ratio: float, advantage: float) -> None:
    leaf = torch.tensor([-1.0], requires_grad=True)
    shifted = torch.tensor([-1.0 - log_ratio])
    ones = torch.ones(1)
    inputs = LossInputs(
        leaf, shifted, shifted, shifted, ones, ones * advantage, torch.tensor([True]), torch.tensor([0])
    )
    loss, _ = policy_loss(inputs, GlobalCounts(1, 1), LossConfig())
    loss.backward()
    assert leaf.grad is not None
    assert math.isfinite(loss.item())
    assert math.isfinite(leaf.grad.item())


@pytest.mark.parametrize(
    "wrong",
    [{"normalizer": "constant"}, {"icepop_low": 5.0}, {"clip": 0.2}, {"dual_clip": 0.5}, {"kl_coef": math.nan}],
)
def test_config_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"constant_length|icepop_low|Extra inputs|greater than|finite"):
        LossConfig.model_validate(wrong)
