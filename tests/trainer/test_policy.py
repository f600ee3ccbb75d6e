"""Log-probabilities and entropy of completion tokens."""

import random
from functools import partial

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Lfm2Config, PretrainedConfig

from tests.trainer.tiny import tiny_model
from trainer import head
from trainer import policy as policy_module
from trainer.batch import pack
from trainer.errors import ConfigError
from trainer.policy import FusedNorm, Policy, fuse_norms, load_model, load_tokenizer
from trainer.types import TrainingSample

SMALL = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}


def sample(prompt: list[int], completion: list[int]) -> TrainingSample:
    return TrainingSample(0, tuple(prompt), tuple(completion), (0.0,) * len(completion), 1.0)


BATCH = pack([sample([3, 4, 5], [6, 7]), sample([8], [9, 10, 11])])


def test_logprobs_and_entropy_of_completion_tokens_at_the_temperature() -> None:
    model = tiny_model()
    logprobs, entropy = Policy(model, temperature=1.7).logprobs_and_entropy(BATCH)
    model.set_attn_implementation("eager")
    expected_logprobs, expected_entropy = [], []
    for prompt, completion in (([3, 4, 5], [6, 7]), ([8], [9, 10, 11])):
        logits = model(input_ids=torch.tensor([prompt + completion]), use_cache=False).logits[0].double() / 1.7
        distribution = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
        expected_logprobs += [row[token] for row, token in zip(distribution, completion, strict=True)]
        expected_entropy += [-(row.exp() * row).sum() for row in distribution]
    torch.testing.assert_close(logprobs.double(), torch.stack(expected_logprobs), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(entropy.double(), torch.stack(expected_entropy), rtol=1e-4, atol=1e-5)


def test_completions_of_one_prompt_give_what_each_gives_alone() -> None:
    """In value and in the gradient of every weight, in float64; prompts of one token and long completions too."""
    rng = random.Random(0)
    made = [
        (prompt, [rng.randrange(64) for _ in range(length)])
        for prompt, lengths in (([3, 4, 5, 6], (2, 140, 1, 9)), ([7], (1, 8, 130)), ([8, 9], (5,)))
        for length in lengths
    ]
    together, apart = Policy(tiny_model().double(), 1.2), Policy(tiny_model().double(), 1.2)
    logprobs = together.logprobs(pack([sample(*pair) for pair in made]))
    alone = torch.cat([apart.logprobs(pack([sample(*pair)])) for pair in made])
    torch.testing.assert_close(logprobs, alone, rtol=1e-6, atol=1e-7)  # rotations are float32
    for found in (logprobs, alone):
        (found * torch.arange(len(found))).sum().backward()
    for a, b in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-4)


def test_chunks_change_neither_value_nor_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for budget in (2**26, 2 * 64):  # all five tokens at once; two tokens a chunk
        monkeypatch.setitem(head.LOGIT_BUDGET, "cpu", budget)
        policy = Policy(tiny_model(), temperature=1.2)
        logprobs, entropy = policy.logprobs_and_entropy(BATCH)
        (logprobs * torch.arange(5)).sum().backward()
        results.append((logprobs, entropy, [p.grad for p in policy.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_a_model_that_does_more_at_its_head_is_refused(tmp_path: object) -> None:
    model = tiny_model()
    model.lm_head.forward = lambda hidden: 2 * (hidden @ model.lm_head.weight.T)  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="output embedding"):
        policy_module._check_forward(model)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (Gemma2Config(**SMALL, head_dim=8, attn_logit_softcapping=50.0, final_logit_softcapping=None), "softcap"),
        (Lfm2Config(**SMALL, layer_types=["conv", "full_attention"]), "sequence alone"),
    ],
    ids=["capped scores", "convolution over the row"],
)
def test_a_model_that_we_would_compute_wrongly_is_refused(config: PretrainedConfig, why: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(ConfigError, match=why):
        policy_module._check_forward(AutoModelForCausalLM.from_config(config))


def test_a_model_whose_tokens_see_their_neighbours_in_the_row_is_refused() -> None:
    """Right for sequences one behind the other, since it minds where they begin, and wrong for a shared prompt."""
    model = tiny_model()
    layer = model.model.layers[0]
    forward = layer.forward

    def mixed(hidden: torch.Tensor, *, position_ids: torch.Tensor, **kwargs: object) -> torch.Tensor:
        before = hidden.roll(1, 1) * (position_ids != 0)[..., None]
        mixed: torch.Tensor = forward(hidden + before, position_ids=position_ids, **kwargs)
        return mixed

    layer.forward = mixed  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="sequence alone"):
        policy_module._check_forward(model)


def test_a_model_that_is_not_there_is_a_config_error(tmp_path: object) -> None:
    with pytest.raises(ConfigError, match="model"):
        load_model(f"{tmp_path}/nothing", torch.float32)


class Shifted(torch.nn.Module):
    """A norm that scales by 1 + weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = torch.nn.Parameter(torch.full((8,), 0.5)), 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, (8,), 1 + self.weight, self.variance_epsilon)


def test_fused_norms_give_what_the_model_gives_and_others_stay() -> None:
    model = torch.nn.ModuleList([*tiny_model(0).model.layers, Shifted()])
    for p in model.parameters():
        p.data.uniform_(0.5, 1.5)
    norms = [m for m in model.modules() if hasattr(m, "variance_epsilon")]
    x = [torch.randn(3, len(norm.weight), generator=torch.Generator().manual_seed(0)) for norm in norms]
    before = [norm(rows) for norm, rows in zip(norms, x, strict=True)]
    fuse_norms(model)
    torch.testing.assert_close([norm(rows) for norm, rows in zip(norms, x, strict=True)], before)
    assert [type(norm) for norm in norms] == [FusedNorm] * (len(norms) - 1) + [Shifted]
    norms[0].weight.data *= 2  # the weights of now, not of then
    torch.testing.assert_close(norms[0](x[0]), 2 * before[0])


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all"])
def test_a_folder_that_is_not_there_is_named(path: str) -> None:
    for load in (load_tokenizer, partial(load_model, dtype=torch.float32)):
        with pytest.raises(ConfigError, match=f"model {path}: no such folder"):
            load(path)
