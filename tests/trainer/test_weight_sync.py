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
    return make_tokenizer([Prompt("p", ({"role": "user", "content": "x"},), {}, "words")])


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


def test_nan_is_the_largest_difference() -> None:
    assert largest_difference([[0.0, float("nan")]], [[0.0, 1.0]]) == float("inf")
