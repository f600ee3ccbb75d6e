"""Attention over packed sequences: each sequence of a row attends to itself only, and no T x T mask is ever made.

Registered in transformers under the name `packed`. On a GPU in half precision one call of torch's kernel for sequences
of any length does it. Elsewhere long sequences, which `batch.balance` lays first, get a causal kernel call each, and
short ones of like length share one, filled up on the right *inside the call only*, which causal attention cannot see.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

LONG = 128
"""Tokens of a sequence that is worth a call of its own: no copying, and no filling, which costs by the square."""
MAX_FILL = 1.25
"""A call may compute on this many times the tokens it holds; more calls would cost more than the filling."""


@dataclass(frozen=True)
class PackedLayout:
    """Where the sequences of a row lie, made once a microbatch and used by every layer.

    Lengths (2, 3) in one call: gather = [[0, 1, 1], [2, 3, 4]], scatter = [0, 1, 3, 4, 5].
    """

    parts: tuple[int, ...]
    """Tokens of the long sequences at the beginning of the row, then of all that follows, the rest."""
    gathers: tuple[torch.Tensor, ...]
    """For each shared call int64 [sequences, longest]: indices into the rest; the last token repeated as filling."""
    scatter: torch.Tensor
    """int64 [rest]: for each of its tokens the place in the shared calls' outputs, laid one behind the other."""
    bounds: torch.Tensor
    """int32 [sequences + 1]: where each sequence begins, and where the last one ends."""
    longest: int
    """Tokens of the longest sequence."""


def lay_out(lengths: Sequence[int], device: torch.device) -> PackedLayout:
    """Group the sequences of a row by like length, but for long ones at its beginning."""
    starts = [0, *accumulate(lengths)]
    num_alone = next((i for i, length in enumerate(lengths) if length < LONG), len(lengths))
    rest, first = lengths[num_alone:], starts[num_alone]
    gathers, scatter, offset = [], torch.empty(starts[-1] - first, dtype=torch.int64), 0
    for members in _calls(rest):
        longest = rest[members[0]]
        begin = torch.tensor([starts[num_alone + i] - first for i in members])[:, None]
        filled = torch.tensor([rest[i] for i in members])[:, None]
        within = torch.arange(longest).expand(len(members), -1)
        real = within < filled
        gather = begin + torch.minimum(within, filled - 1)
        places = offset + torch.arange(gather.numel()).view_as(gather)
        scatter[gather[real]] = places[real]
        gathers.append(gather.to(device))
        offset += gather.numel()
    return PackedLayout(
        parts=(*lengths[:num_alone], len(scatter)),
        gathers=tuple(gathers),
        scatter=scatter.to(device),
        bounds=torch.tensor(starts, dtype=torch.int32, device=device),
        longest=max(lengths),
    )


def _calls(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of the sequences, longest first, cut where filling would exceed `MAX_FILL`."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    calls: list[list[int]] = []
    for i in order:
        if calls and lengths[calls[-1][0]] <= MAX_FILL * lengths[i]:
            calls[-1].append(i)
        else:
            calls.append([i])
    return calls


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    layout: PackedLayout,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """query [1, heads, T, head_dim]; key, value [1, kv_heads, T, head_dim] -> [1, T, heads, head_dim].

    Raises ValueError for what no kernel here knows: a sliding window shorter than a sequence, capped scores
    (`softcap`), attention sinks (`s_aux`).
    """
    if softcap is not None or s_aux is not None:
        raise ValueError(f"packed attention has no {'softcap' if softcap is not None else 'sinks'}")
    if sliding_window is not None and sliding_window < layout.longest:
        raise ValueError(
            f"packed attention has no sliding window ({sliding_window} < sequence of {layout.longest} tokens)"
        )
    if dropout == 0.0 and has_varlen(query):
        return varlen(query, key, value, layout, scaling), None
    # Split and index_select, not indexing: backward they add up in a fixed order, whatever the number of threads.
    *alone, rest = zip(*(rows[0].split(layout.parts, 1) for rows in (query, key, value)), strict=True)
    outputs = [_causal(q[None], k[None], v[None], dropout, scaling)[0] for q, k, v in alone]
    shared = []
    for gather in layout.gathers:
        q, k, v = (rows.index_select(1, gather.flatten()).unflatten(1, gather.shape).transpose(0, 1) for rows in rest)
        shared.append(_causal(q, k, v, dropout, scaling).flatten(0, 1))
    if shared:
        outputs.append(torch.cat(shared).index_select(0, layout.scatter))
    return torch.cat(outputs)[None], None


def _causal(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float, scaling: float | None
) -> torch.Tensor:
    """[sequences, heads, L, head_dim] -> [sequences, L, heads, head_dim]."""
    out = scaled_dot_product_attention(
        query, key, value, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )
    return out.transpose(1, 2)


def has_varlen(query: torch.Tensor) -> bool:
    """Whether torch's kernel for sequences of any length takes this."""
    return query.is_cuda and query.dtype in (torch.bfloat16, torch.float16)


def varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: PackedLayout, scaling: float | None
) -> torch.Tensor:
    """`packed_attention` in one call; the window (-1, 0) is the causal one. Shared heads are repeated, little beside
    the scores: the kernel knows them from torch 2.12 on only."""
    shared = query.shape[1] // key.shape[1]
    q, k, v = (rows[0].transpose(0, 1) for rows in (query, *(x.repeat_interleave(shared, 1) for x in (key, value))))
    bounds, longest = layout.bounds, layout.longest
    out = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scaling, window_size=(-1, 0))
    assert isinstance(out, torch.Tensor)  # nothing but the output was asked for
    return out[None]


# Compiled layers call it as it is: it is one kernel already, and its layout differs from row to row.
AttentionInterface.register("packed", torch.compiler.disable(packed_attention))
