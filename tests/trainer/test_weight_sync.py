"""The proof that weights arrive."""

from collections.abc import Iterable

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests.trainer.tiny import tiny_model
from trainer.demo import make_tokenizer
from trainer.engine.torch_engine import TorchEngine
from trainer.errors import WeightSyncError
from trainer.policy import Policy
from trainer.types import Prompt
from trainer.weight_sync import Probe, largest_difference, push_weights

PROBE = Probe.of([(3, 4, 5), (6, 7)], vocab_size=64)
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer([Prompt("p", ({"role": "user", "content": "x"},), {}, "words", ())])


class Losing(TorchEngine):
    """Takes a push and loses part of it, as real engines have done."""

    lost: tuple[str, ...] = ()

    def push(self, weights: Iterable[tuple[str, torch.Tensor]], policy_version: int) -> None:
        own = self._model.state_dict()
        kept = [(n, own[n].clone() if n in self.lost else t) for n, t in weights]
        super().push(kept, policy_version)


@pytest.mark.parametrize("tied", [True, False])
def test_an_honest_push_is_proven(tokenizer: PreTrainedTokenizerFast, tied: bool) -> None:
    engine = TorchEngine(tiny_model(0, tied), tokenizer, 8)
    assert push_weights(Policy(tiny_model(1, tied), 1.2), engine, 1, PROBE, TOLERANCE) < TOLERANCE


def test_probes_that_begin_alike_stay_in_their_order(tokenizer: PreTrainedTokenizerFast) -> None:
    """The trainer computes what they have in common once."""
    probe = Probe.of([(3, 4, 5), (6, 7), (3, 8)], vocab_size=64)
    assert (
        push_weights(Policy(tiny_model(1), 1.2), TorchEngine(tiny_model(0), tokenizer, 8), 1, probe, TOLERANCE)
        < TOLERANCE
    )


NAMES = [name for name, _ in tiny_model(0, tied=False).named_parameters()]


@pytest.mark.parametrize("name", NAMES)
def test_a_push_that_loses_one_weight_is_noticed(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    engine = Losing(tiny_model(0, tied=False), tokenizer, 8)
    policy = Policy(tiny_model(0, tied=False), 1.2)
    push_weights(policy, engine, 1, PROBE, TOLERANCE)
    with torch.no_grad():
        weight = dict(policy.model.named_parameters())[name]
        weight += 0.02 * torch.randn_like(weight)
    engine.lost = (name,)
    with pytest.raises(WeightSyncError, match="did not arrive"):
        push_weights(policy, engine, 2, PROBE, TOLERANCE)


def in_bfloat16(tokenizer: PreTrainedTokenizerFast) -> tuple[Policy, Losing]:
    engine = Losing(tiny_model(0, tied=False).bfloat16(), tokenizer, 8)
    policy = Policy(tiny_model(0, tied=False).bfloat16(), 1.2)
    return policy, engine


def move(policy: Policy, by: float) -> None:
    with torch.no_grad():
        for weight in policy.parameters():
            weight += by * torch.randn_like(weight)


WIDE = 0.5
"""Tolerance in bfloat16."""


def test_an_engine_that_stays_behind_is_noticed_within_the_tolerance(tokenizer: PreTrainedTokenizerFast) -> None:
    policy, engine = in_bfloat16(tokenizer)
    probe = Probe(PROBE.sequences)
    push_weights(policy, engine, 1, probe, WIDE)
    move(policy, 0.002)
    engine.lost = tuple(NAMES)
    assert largest_difference(probe.by_policy(policy), probe.by_engine(engine)) < WIDE
    with pytest.raises(WeightSyncError, match="to the last bit: the weights did not arrive"):
        push_weights(policy, engine, 2, probe, WIDE)


def test_steps_too_small_to_tell_add_up(tokenizer: PreTrainedTokenizerFast) -> None:
    policy, engine = in_bfloat16(tokenizer)
    probe = Probe(PROBE.sequences)
    of_engine, of_policy = probe.by_engine(engine), probe.by_policy(policy)
    steps = [[[x + n * 4e-4 for x in row] for row in of_policy] for n in range(4)]
    assert [probe.is_stale([n], step, of_engine) for n, step in enumerate(steps)] == [False, False, False, True]


def test_other_kernels_are_no_other_weights() -> None:
    """A step that changed nothing, after the policy's layers were compiled anew: they round differently now."""
    probe = Probe(PROBE.sequences)
    assert not probe.is_stale([1, 2], [[-1.0]], [[-1.1]])
    assert not probe.is_stale([1, 2], [[-1.05]], [[-1.1]])
    assert probe.is_stale([1, 3], [[-1.05]], [[-1.1]])


def test_steps_in_bfloat16_that_arrive_are_proven(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    policy, engine = in_bfloat16(tokenizer)
    probe = Probe(PROBE.sequences)
    for step in range(4):
        push_weights(policy, engine, 2 * step, probe, WIDE)
        push_weights(policy, engine, 2 * step + 1, probe, WIDE)  # a step that changed nothing
        move(policy, 0.0002)


def test_nan_is_the_largest_difference() -> None:
    assert largest_difference([[0.0, float("nan")]], [[0.0, 1.0]]) == float("inf")
