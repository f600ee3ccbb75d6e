"""Packed attention against each sequence alone."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from tests.trainer.tiny import tiny_model
from trainer import attention
from trainer.attention import MAX_FILL, lay_out

SMALL = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MODELS = {
    "qwen3": tiny_model,
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
}


def test_layout_of_two_sequences_by_hand() -> None:
    layout = lay_out((4, 5), torch.device("cpu"))
    assert [gather.tolist() for gather in layout.gathers] == [[[4, 5, 6, 7, 8], [0, 1, 2, 3, 3]]]
    assert layout.scatter.tolist() == [5, 6, 7, 8, 0, 1, 2, 3, 4]


def test_calls_are_never_filled_beyond_the_bound() -> None:
    lengths = [1, 2, 3, 5, 8, 9, 10, 40, 41, 100]
    layout = lay_out(lengths, torch.device("cpu"))
    assert sum(gather.shape[0] for gather in layout.gathers) == len(lengths)
    assert sum(gather.numel() for gather in layout.gathers) <= MAX_FILL * sum(lengths)


@pytest.mark.parametrize("name", MODELS)
def test_packed_equals_separate_in_value_and_gradient(name: str) -> None:
    torch.manual_seed(0)
    model: PreTrainedModel = MODELS[name]()
    model.eval()
    lengths = (3, 9, 1, 8, 3)
    sequences = [torch.randint(64, (length,)) for length in lengths]
    weights = torch.randn(sum(lengths), 64)  # so that every logit counts in the gradient

    model.set_attn_implementation("eager")
    alone = torch.cat([model(input_ids=s[None], use_cache=False).logits[0] for s in sequences])
    (alone * weights).sum().backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()

    model.set_attn_implementation("packed")
    packed = model(
        input_ids=torch.cat(sequences)[None],
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        use_cache=False,
        layout=lay_out(lengths, torch.device("cpu")),
    ).logits[0]
    (packed * weights).sum().backward()

    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[n], rtol=1e-3, atol=1e-4)


def each_alone(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, begin: torch.Tensor, end: torch.Tensor, *longest: int, **how: Any
) -> torch.Tensor:
    """The GPU kernel's contract written out: [T, heads, head_dim], bounds of the sequences, a causal window."""
    assert how.pop("window_size") == (-1, 0)
    assert longest == (max(end.diff().tolist()),) * 2
    outputs = []
    for i, j in pairwise(begin.tolist()):
        rows = [x[i:j].transpose(0, 1)[None] for x in (q, k, v)]
        outputs.append(scaled_dot_product_attention(*rows, is_causal=True, **how)[0].transpose(0, 1))
    return torch.cat(outputs)


def test_the_call_of_the_gpu_kernel_equals_the_calls_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    lengths = (3, 9, 1, 8, 3)
    query, key, value = (torch.randn(1, heads, sum(lengths), 8) for heads in (4, 2, 2))
    layout = lay_out(lengths, torch.device("cpu"))
    expected, _ = attention.packed_attention(torch.nn.Module(), query, key, value, None, layout=layout, scaling=0.3)
    monkeypatch.setattr(attention, "varlen_attn", each_alone)
    torch.testing.assert_close(attention.varlen(query, key, value, layout, 0.3), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_kernel_equals_the_other_calls_on_the_gpu() -> None:
    torch.manual_seed(0)
    lengths = (30, 900, 1, 80, 300)
    query, key, value = (torch.randn(1, n, sum(lengths), 64).cuda().bfloat16() for n in (4, 2, 2))
    layout = lay_out(lengths, query.device)
    assert attention.has_varlen(query)
    wide = [x.float() for x in (query, key, value)]
    expected, _ = attention.packed_attention(torch.nn.Module(), *wide, None, layout=layout)
    torch.testing.assert_close(
        attention.varlen(query, key, value, layout, None).float(), expected, rtol=0.02, atol=0.02
    )


def test_a_sliding_window_that_would_matter_is_refused() -> None:
    q = torch.zeros(1, 2, 6, 8)
    layout = lay_out((6,), torch.device("cpu"))
    with pytest.raises(ValueError, match="sliding window"):
        attention.packed_attention(torch.nn.Module(), q, q, q, None, layout=layout, sliding_window=5)
    attention.packed_attention(torch.nn.Module(), q, q, q, None, layout=layout, sliding_window=6)
