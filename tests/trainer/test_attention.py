"""Packed attention against each sequence alone."""

from collections.abc import Sequence
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


CPU = torch.device("cpu")
ROWS: dict[str, tuple[tuple[int, ...], tuple[int | None, ...]]] = {
    "one sequence": ((7,), (None,)),
    "short ones alone": ((3, 9, 1, 8, 3), (None,) * 5),
    "long ones alone": ((150, 128, 130), (None,) * 3),
    "short and long alone": ((3, 150, 9, 64, 65), (None,) * 5),
    "a prompt and its completions": ((4, 3, 5, 1), (None, 0, 0, 0)),
    "a prompt of one token": ((1, 3, 200, 1), (None, 0, 0, 0)),
    "a long prompt": ((140, 3, 129, 64), (None, 0, 0, 0)),
    "two groups and one alone": ((4, 3, 5, 10, 2, 2, 130), (None, 0, 0, None, None, 4, 4)),
    "prompts alike in length": ((4, 3, 3, 4, 3, 70), (None, 0, 0, None, 3, 3)),
    "completions before their prompt": ((3, 5, 4, 2), (2, 2, None, None)),
}
"""Lengths of the segments, and what each goes on from."""


def test_layout_of_two_sequences_by_hand() -> None:
    calls = lay_out((4, 5), (None, None), CPU).calls
    assert calls.shapes == ((2, 5, 5),)
    assert calls.queries is not None
    assert calls.keys is not None
    assert calls.outputs is not None
    assert calls.queries.tolist() == calls.keys.tolist() == [4, 5, 6, 7, 8, 0, 1, 2, 3, 3]
    assert calls.outputs.tolist() == [5, 6, 7, 8, 0, 1, 2, 3, 4]


def test_layout_of_a_shared_prompt_by_hand() -> None:
    """A prompt of 3 tokens; completions of 1 and 2 go on from it, and share a call."""
    layout = lay_out((3, 1, 2), (None, 0, 0), CPU)
    calls = layout.calls
    assert calls.shapes == ((2, 2, 5), (1, 3, 3))
    assert calls.queries is not None
    assert calls.keys is not None
    assert calls.outputs is not None
    assert layout.stretched is not None
    assert calls.queries.tolist() == [4, 5, 3, 3, 0, 1, 2]
    assert calls.keys.tolist() == [0, 1, 2, 4, 5, 0, 1, 2, 3, 3, 0, 1, 2]
    assert calls.outputs.tolist() == [4, 5, 6, 2, 0, 1]
    assert layout.stretched.tolist() == [0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 4, 5]
    assert [b.tolist() for b in layout.bounds] == [[0, 3, 4, 6], [0, 3, 7, 12]]


def test_what_lies_ahead_by_hand() -> None:
    """Two queries that are the last of four keys."""
    ahead = lay_out((2, 2), (None, 0), CPU).calls.ahead(2, 4)
    assert ahead.tolist() == [[0, 0, 0, -torch.inf], [0, 0, 0, 0]]


def test_nothing_is_moved_where_all_is_in_order() -> None:
    layout = lay_out((150, 200), (None, None), CPU)
    assert (layout.calls.queries, layout.calls.keys, layout.calls.outputs, layout.stretched) == (None,) * 4


def test_calls_are_never_filled_beyond_the_bound() -> None:
    lengths = (6, 1, 2, 3, 5, 8, 9, 10, 40, 41, 100)
    layout = lay_out(lengths, (None, 0, 0, 0, 0, None, None, 0, 0, None, None), CPU)
    assert sum(n for n, _, _ in layout.calls.shapes) == len(lengths)
    assert sum(n * keys for n, _, keys in layout.calls.shapes) <= MAX_FILL * sum(layout.seen)


def places(lengths: Sequence[int], after: Sequence[int | None], segment: int) -> list[int]:
    """Of the whole sequence that ends with this segment."""
    own = [sum(lengths[:segment]) + i for i in range(lengths[segment])]
    earlier = after[segment]
    return own if earlier is None else places(lengths, after, earlier) + own


def brute_force(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: Sequence[int], after: Sequence[int | None]
) -> torch.Tensor:
    """Each token by itself: softmax(q k / sqrt(head_dim)) v over what is not behind it in its own sequence.

    [heads, T, head_dim] twice with fewer heads -> [T, heads, head_dim].
    """
    shared = query.shape[0] // key.shape[0]
    found: dict[int, torch.Tensor] = {}
    for segment in range(len(lengths)):
        sequence = places(lengths, after, segment)
        for i in range(len(sequence) - lengths[segment], len(sequence)):
            seen = torch.tensor(sequence[: i + 1])
            heads = []
            for head in range(query.shape[0]):
                scores = key[head // shared][seen] @ query[head, sequence[i]] / query.shape[-1] ** 0.5
                heads.append(torch.softmax(scores, 0) @ value[head // shared][seen])
            found[sequence[i]] = torch.stack(heads)
    return torch.stack([found[place] for place in range(sum(lengths))])


def random_row(num_tokens: int, kv_heads: int = 2) -> list[torch.Tensor]:
    """Query, key and value in float64, of 4 and fewer heads."""
    torch.manual_seed(0)
    shapes = [(heads, num_tokens, 8) for heads in (4, kv_heads, kv_heads)]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def packed(rows: Sequence[torch.Tensor], lengths: Sequence[int], after: Sequence[int | None]) -> torch.Tensor:
    layout = lay_out(lengths, after, CPU)
    q, k, v = (x[None] for x in rows)
    return attention.packed_attention(torch.nn.Module(), q, k, v, None, layout=layout)[0][0]


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("name", ROWS)
def test_a_row_equals_brute_force_in_value_and_gradient(name: str, kv_heads: int) -> None:
    lengths, after = ROWS[name]
    rows = random_row(sum(lengths), kv_heads)
    weights = torch.randn(sum(lengths), 4, 8, dtype=torch.float64)
    found, expected = packed(rows, lengths, after), brute_force(*rows, lengths, after)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    gradients = [torch.autograd.grad((out * weights).sum(), rows) for out in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", [name for name, (_, after) in ROWS.items() if set(after) != {None}])
def test_no_completion_sees_another(name: str) -> None:
    """Not by a bit: what a token gives has gradients at the places before it in its own sequence, and nowhere else."""
    lengths, after = ROWS[name]
    rows = random_row(sum(lengths))
    out = packed(rows, lengths, after)
    for segment in range(len(lengths)):
        sequence = places(lengths, after, segment)
        for i in {len(sequence) - lengths[segment], len(sequence) - 1}:
            _, by_key, by_value = torch.autograd.grad(out[sequence[i]].sum(), rows, retain_graph=True)
            reached = (by_key.abs() + by_value.abs()).sum((0, 2)).nonzero()[:, 0]
            assert reached.tolist() == sorted(sequence[: i + 1])


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
        layout=lay_out(lengths, (None,) * len(lengths), CPU),
    ).logits[0]
    (packed * weights).sum().backward()

    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[n], rtol=1e-3, atol=1e-4)


def each_alone(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    begin: torch.Tensor,
    seen: torch.Tensor,
    *longest: int,
    **how: Any,
) -> torch.Tensor:
    """The GPU kernel's contract written out: [T, heads, head_dim], bounds of the queries and of the keys of each
    sequence, a causal window in which the last query is the last key's."""
    assert how.pop("window_size") == (-1, 0)
    assert longest == (max(begin.diff().tolist()), max(seen.diff().tolist()))
    outputs = []
    for (i, j), (m, n) in zip(pairwise(begin.tolist()), pairwise(seen.tolist()), strict=True):
        rows = [x.transpose(0, 1)[None] for x in (q[i:j], k[m:n], v[m:n])]
        visible = torch.ones(j - i, n - m, dtype=torch.bool).tril(n - m - (j - i))
        outputs.append(scaled_dot_product_attention(*rows, attn_mask=visible, **how)[0].transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("name", ROWS)
def test_the_call_of_the_gpu_kernel_equals_the_calls_of_the_cpu(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    lengths, after = ROWS[name]
    layout = lay_out(lengths, after, CPU)
    query, key, value = (x.transpose(0, 1) for x in random_row(sum(lengths)))
    expected = attention.by_calls(query, key, value, layout.calls, 0.0, 0.3)
    monkeypatch.setattr(attention, "varlen_attn", each_alone)
    torch.testing.assert_close(attention.varlen(query, key, value, layout, 0.3), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("after", [(None,) * 5, (None, 0, 0, None, 3)], ids=["alone", "shared"])
def test_the_gpu_kernel_equals_the_other_calls_on_the_gpu(after: tuple[int | None, ...]) -> None:
    torch.manual_seed(0)
    lengths = (30, 900, 1, 80, 300)
    layout = lay_out(lengths, after, torch.device("cuda"))
    rows = [torch.randn(sum(lengths), n, 64).cuda().bfloat16().requires_grad_() for n in (4, 2, 2)]
    wide = [x.detach().float().requires_grad_() for x in rows]
    assert attention.has_varlen(rows[0])
    found = attention.varlen(*rows, layout, None)
    expected = attention.by_calls(*wide, layout.calls, 0.0, None)
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)
    weights = torch.randn_like(expected)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for narrow, exact in zip(rows, wide, strict=True):
        assert narrow.grad is not None
        assert exact.grad is not None
        assert float((narrow.grad - exact.grad).norm()) < 0.02 * float(exact.grad.norm())


def test_a_sliding_window_that_would_matter_is_refused() -> None:
    q = torch.zeros(1, 2, 6, 8)
    layout = lay_out((2, 4), (None, 0), CPU)
    with pytest.raises(ValueError, match="sliding window"):
        attention.packed_attention(torch.nn.Module(), q, q, q, None, layout=layout, sliding_window=5)
    attention.packed_attention(torch.nn.Module(), q, q, q, None, layout=layout, sliding_window=6)
