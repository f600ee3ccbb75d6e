"""The optimizer steps of a training step."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.trainer.tiny import tiny_model
from trainer import update
from trainer.batch import build_batches, pack
from trainer.config import LossConfig, OptimizerConfig
from trainer.parallel import ALONE, Ranks
from trainer.policy import Policy
from trainer.types import Microbatch, TrainingSample, UpdateStats
from trainer.update import configure, make_optimizer, update_policy


def samples() -> list[TrainingSample]:
    """Eight groups of three with a prompt each, of mixed lengths, with log-probabilities that a sampler could have
    given."""
    generator = torch.Generator().manual_seed(0)
    made: list[TrainingSample] = []
    for i in range(24):
        lengths = torch.randint(1, 9, (2,), generator=generator).tolist()
        drawn, completion = (tuple(torch.randint(2, 64, (n,), generator=generator).tolist()) for n in lengths)
        prompt = drawn if i % 3 == 0 else made[-1].prompt_ids
        advantage = float(torch.randn((), generator=generator))
        made.append(
            TrainingSample(i // 3, prompt, completion, (-4.0,) * len(completion), advantage, in_loss=i % 7 != 0)
        )
    return made


def updated(
    num_updates: int, tokens_per_microbatch: int, loss: LossConfig | None = None
) -> tuple[UpdateStats, list[torch.Tensor]]:
    policy, reference = Policy(tiny_model(0), 1.2), Policy(tiny_model(1), 1.2)
    # Plain gradient descent: Adam would divide entries of almost no gradient by their own rounding errors.
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    batches = build_batches(samples(), num_updates, tokens_per_microbatch)
    stats = update_policy(policy, reference, optimizer, batches, loss or LossConfig(kl_coef=0.1), 1.0)
    return stats, [p.detach() for p in policy.parameters()]


@pytest.mark.parametrize("normalizer", ["token", "sequence"])
def test_microbatches_do_not_change_the_update(normalizer: str) -> None:
    loss = LossConfig.model_validate({"kl_coef": 0.1, "normalizer": normalizer})
    (whole, one), (split, many) = updated(2, 10_000, loss), updated(2, 20, loss)
    assert whole.means == pytest.approx(dict(split.means), rel=1e-4, abs=1e-6)
    assert whole.grad_norm == pytest.approx(split.grad_norm, rel=1e-4)
    torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-6)


def test_one_update_is_the_gradient_of_the_written_out_loss() -> None:
    """Without clip, KL or masked samples the first update's gradient is that of -sum(A log pi) / tokens."""
    policy = Policy(tiny_model(0), 1.2)
    plain = [s for s in samples() if s.in_loss]
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    before = [p.detach().clone() for p in policy.parameters()]
    update_policy(policy, policy, optimizer, build_batches(plain, 1, 10_000), LossConfig(kl_coef=0.0), 1e9)

    model = tiny_model(0).eval()
    num_tokens = sum(len(s.token_ids) for s in plain)
    loss = torch.zeros(())
    for s in plain:
        logits = model(input_ids=torch.tensor([s.prompt_ids + s.token_ids]), use_cache=False).logits[0] / 1.2
        logprobs = torch.log_softmax(logits, -1)[len(s.prompt_ids) - 1 : -1]
        loss -= s.advantage * logprobs.gather(-1, torch.tensor(s.token_ids)[:, None]).sum() / num_tokens
    loss.backward()
    for p, old, expected in zip(policy.parameters(), before, model.parameters(), strict=True):
        torch.testing.assert_close(old - p.detach(), expected.grad, rtol=1e-3, atol=1e-6)


def test_old_logprobs_are_those_before_the_first_update() -> None:
    """The second update sees ratios other than 1, so with a clip of almost nothing it clips."""
    tight = LossConfig(clip_low=1e-6, clip_high=1e-6)
    assert updated(1, 10_000, tight)[0].means["clip_high_frac"] == 0
    assert updated(2, 10_000, tight)[0].means["clip_high_frac"] > 0


def of_policy(made: Sequence[TrainingSample]) -> list[TrainingSample]:
    """As the policy of `updated` would have sampled them."""
    policy = Policy(tiny_model(0), 1.2)
    with torch.no_grad():
        return [replace(s, rollout_logprobs=tuple(policy.logprobs(pack([s])).tolist())) for s in made]


class Counting(Policy):
    """Counts the passes that only want log-probabilities."""

    num_passes = 0

    def logprobs(self, batch: Microbatch) -> torch.Tensor:
        self.num_passes += 1
        return super().logprobs(batch)


def passes(made: Sequence[TrainingSample], ranks: Ranks = ALONE) -> tuple[int, list[torch.Tensor]]:
    """For old log-probabilities in two updates of a microbatch each; and the weights after them."""
    policy = Counting(tiny_model(0), 1.2)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    batches = build_batches(made, 2, 10_000)
    update_policy(policy, Policy(tiny_model(1), 1.2), optimizer, batches, LossConfig(kl_coef=0.1), 1.0, ranks)
    return policy.num_passes, [p.detach() for p in policy.parameters()]


def test_the_samplers_logprobs_are_the_old_ones_where_they_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made = of_policy(samples())
    num_passes, weights = passes(made)
    assert num_passes == 0
    monkeypatch.setattr(update, "SAME_NUMBERS", -1.0)
    num_passes, expected = passes(made)
    assert num_passes == 1
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("off", [1e-3, -1e-3, math.nan])
def test_one_token_that_the_sampler_saw_otherwise_asks_for_the_old_policy(off: float) -> None:
    first, *others = of_policy([s for s in samples() if s.in_loss])
    logprobs = (*first.rollout_logprobs[:-1], first.rollout_logprobs[-1] + off)
    assert passes([replace(first, rollout_logprobs=logprobs), *others])[0] == 1


def test_a_group_of_which_the_first_update_sees_nothing_asks_for_the_old_policy() -> None:
    """It may have been carried over, and sampled from the policy of an earlier step."""
    made = of_policy([s for s in samples() if s.in_loss])
    assert passes([made[0], replace(made[1], group_index=99), *made[2:]])[0] == 1


def test_what_one_rank_saw_counts_for_all() -> None:
    class Doubted(Ranks):
        def gather(self, value: Any) -> list[Any]:
            return [value, False] if isinstance(value, bool) else [value]

    assert passes(of_policy(samples()), Doubted(0, 1))[0] == 1


def test_without_batches_the_policy_stays() -> None:
    policy = Policy(tiny_model(0), 1.2)
    before = [p.detach().clone() for p in policy.parameters()]
    optimizer = make_optimizer(policy.parameters(), OptimizerConfig(weight_decay=0.1))
    stats = update_policy(policy, policy, optimizer, (), LossConfig(), 1.0)
    assert stats.num_updates == 0
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


@pytest.mark.parametrize("advantage", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_moves_nothing(advantage: float) -> None:
    policy = Policy(tiny_model(0), 1.2)
    before = [p.detach().clone() for p in policy.parameters()]
    optimizer = make_optimizer(policy.parameters(), OptimizerConfig(weight_decay=0.1))
    batches = build_batches([replace(samples()[1], advantage=advantage)], 1, 1000)
    stats = update_policy(policy, policy, optimizer, batches, LossConfig(), 1.0)
    assert not math.isfinite(stats.grad_norm), "the guard has to see it"
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_warm_up_is_linear_and_then_constant() -> None:
    optimizer = make_optimizer([torch.nn.Parameter(torch.zeros(1))], OptimizerConfig())
    rates = []
    for step_of_era in range(1, 7):
        configure(optimizer, OptimizerConfig(learning_rate=1.0, warmup_steps=4), step_of_era)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
