"""The sampler against the model computed in one go."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests.trainer.tiny import tiny_model
from trainer.batch import pack
from trainer.demo import make_tokenizer
from trainer.engine.protocol import RolloutRequest, Sampling, sampling_seed
from trainer.engine.torch_engine import TorchEngine
from trainer.errors import WeightSyncError
from trainer.policy import Policy
from trainer.types import Prompt, RolloutGroup, TrainingSample

PROMPT = Prompt("p", ({"role": "user", "content": "x"},), {"kind": "logic"}, "words", ())


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer([PROMPT])


END_IDS = (1, 17, 18, 19, 20, 21)


def engine(tokenizer: PreTrainedTokenizerFast, seed: int = 0, max_rows: int = 64, tied: bool = True) -> TorchEngine:
    model = tiny_model(seed, tied)
    model.generation_config.eos_token_id = list(END_IDS)  # one in ten, so that rows end at different times
    return TorchEngine(model, tokenizer, max_rows)


def request(index: int, prompt_ids: Sequence[int], num_samples: int) -> RolloutRequest:
    seeds = tuple(sampling_seed("7", 3, f"p{index}", k) for k in range(num_samples))
    return RolloutRequest(index, replace(PROMPT, token_ids=tuple(prompt_ids)), seeds)


REQUESTS = [request(0, [5, 6, 7, 8, 9], 4), request(1, [10], 4), request(2, [11, 12, 13], 5)]


def rolled(engine: TorchEngine, requests: Sequence[RolloutRequest], temperature: float = 1.2) -> list[RolloutGroup]:
    return sorted(engine.rollout(requests, Sampling(temperature, 12)), key=lambda group: group.index)


@pytest.mark.parametrize("temperature", [0.5, 1.2])
def test_logprobs_are_those_of_the_trainer_at_the_temperature(
    tokenizer: PreTrainedTokenizerFast, temperature: float
) -> None:
    groups = rolled(engine(tokenizer), REQUESTS, temperature)
    samples = [
        TrainingSample(g.index, g.prompt.token_ids, r.token_ids, r.logprobs, 0.0) for g in groups for r in g.rollouts
    ]
    assert len({len(s.token_ids) for s in samples}) > 1, "rows must end at different times for this to prove anything"
    batch = pack(samples)
    with torch.no_grad():
        logprobs = Policy(tiny_model(), temperature).logprobs(batch)
    torch.testing.assert_close(batch.rollout_logprobs, logprobs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("max_rows", [1, 5, 64])
def test_what_is_sampled_does_not_depend_on_the_batch(tokenizer: PreTrainedTokenizerFast, max_rows: int) -> None:
    together = rolled(engine(tokenizer), REQUESTS)
    other = rolled(engine(tokenizer, max_rows=max_rows), REQUESTS[::-1])
    for a, b in zip(together, other, strict=True):
        assert [r.token_ids for r in a.rollouts] == [r.token_ids for r in b.rollouts]


def test_samples_follow_the_distribution(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_model()
    with torch.no_grad():
        expected = torch.softmax(model(input_ids=torch.tensor([[5, 6]])).logits[0, -1] / 1.2, -1)
    num_samples = 4000
    [group] = TorchEngine(model, tokenizer, 5000).rollout([request(0, [5, 6], num_samples)], Sampling(1.2, 1))
    counts = torch.bincount(torch.tensor([r.token_ids[0] for r in group.rollouts]), minlength=64)
    chi2 = float(((counts - num_samples * expected) ** 2 / (num_samples * expected)).sum())
    assert chi2 < 63 + 5 * math.sqrt(2 * 63)


def test_temperature_zero_takes_the_likeliest_token(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_model()
    [group] = TorchEngine(model, tokenizer, 8).rollout([request(0, [5, 6], 2)], Sampling(0.0, 1))
    likeliest = int(model(input_ids=torch.tensor([[5, 6]])).logits[0, -1].argmax())
    assert [r.token_ids for r in group.rollouts] == [(likeliest,)] * 2


def test_end_tokens_end_and_the_limit_truncates(tokenizer: PreTrainedTokenizerFast) -> None:
    for group in rolled(engine(tokenizer), REQUESTS):
        for rollout in group.rollouts:
            ends = [token in END_IDS for token in rollout.token_ids]
            assert not any(ends[:-1])
            assert rollout.truncated is not ends[-1]
            assert len(rollout.token_ids) == len(rollout.logprobs) <= 12
            assert not rollout.truncated or len(rollout.token_ids) == 12


def test_a_group_is_given_when_it_is_done_not_at_the_end(tokenizer: PreTrainedTokenizerFast) -> None:
    requests = [request(0, [5, 6, 7], 16), *(request(i, [10], 1) for i in range(1, 6))]
    lengths = {g.index: max(len(r.token_ids) for r in g.rollouts) for g in rolled(engine(tokenizer), requests)}
    arrival = [g.index for g in engine(tokenizer).rollout(requests, Sampling(1.2, 12))]
    assert arrival[0] != 0
    assert [lengths[index] for index in arrival] == sorted(lengths.values())


def test_prompts_join_and_leave_while_others_run(tokenizer: PreTrainedTokenizerFast) -> None:
    """Short and long ones, longer than a slot is at first, with pauses; every log-probability as computed alone."""
    rng = random.Random(0)
    lengths = [3, 80, 5, 1, 130, 2, 60, 4]
    requests = [request(i, [rng.randrange(22, 64) for _ in range(n)], 3) for i, n in enumerate(lengths)]
    hesitant = [*requests[:2], None, *requests[2:5], None, None, *requests[5:]]
    groups = list(engine(tokenizer, max_rows=9).rollout(hesitant, Sampling(1.2, 12)))
    assert sorted(g.index for g in groups) == list(range(8))
    batch = pack(
        [TrainingSample(g.index, g.prompt.token_ids, r.token_ids, r.logprobs, 0.0) for g in groups for r in g.rollouts]
    )
    with torch.no_grad():
        logprobs = Policy(tiny_model(), 1.2).logprobs(batch)
    torch.testing.assert_close(batch.rollout_logprobs, logprobs, rtol=1e-4, atol=1e-4)
    for alone, one in zip(sorted(groups, key=lambda g: g.index), requests, strict=True):
        [expected] = engine(tokenizer).rollout([one], Sampling(1.2, 12))
        assert [r.token_ids for r in alone.rollouts] == [r.token_ids for r in expected.rollouts]


@pytest.mark.parametrize("tied", [True, False])
def test_pushed_weights_count(tokenizer: PreTrainedTokenizerFast, tied: bool) -> None:
    old, new = engine(tokenizer, 0, tied=tied), engine(tokenizer, 1, tied=tied)
    old.push(tiny_model(1, tied).state_dict().items(), 5)
    assert old.fingerprint([[3, 4, 5]]) == new.fingerprint([[3, 4, 5]])
    [group] = rolled(old, REQUESTS[:1])
    assert {r.policy_version for r in group.rollouts} == {5}
    assert [r.token_ids for r in group.rollouts] == [r.token_ids for r in rolled(new, REQUESTS[:1])[0].rollouts]


def test_a_push_that_lacks_or_renames_a_weight_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    weights = list(tiny_model(1).state_dict().items())
    with pytest.raises(WeightSyncError, match="never pushed"):
        engine(tokenizer).push(weights[1:], 1)
    with pytest.raises(WeightSyncError, match="no weight other"):
        engine(tokenizer).push([("other", weights[0][1])], 1)


def test_seeds_are_the_same_on_every_machine() -> None:
    assert sampling_seed("0", 1, "p", 2) == 7713246193364364860
    seeds = {sampling_seed(str(r), s, p, k) for r in range(3) for s in range(3) for p in "ab" for k in range(3)}
    assert len(seeds) == 54
