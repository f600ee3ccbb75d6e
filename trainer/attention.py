"""Attention over packed segments: each sees itself and the one it goes on from, and no T x T mask is ever made.

Registered in transformers under the name `packed`. On a GPU in half precision one call of torch's kernel for sequences
of any length does it. Elsewhere long segments get calls of their own, a block of queries each, and short ones of like
length share a call, filled up on the right *inside the call only*, which causal attention cannot see.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

LONG = 128
"""Tokens of a segment that is worth a call of its own, without filling."""
BLOCK = 64
"""Queries of one call: torch's kernel for the CPU goes through all keys it is given, so those that lie ahead of a whole
block are kept from it, which is a third of the time at 512 tokens (LAB_LOG.md)."""
MAX_FILL = 1.25
"""A call may compute on this many times the tokens it holds; more calls would cost more than the filling."""


@dataclass(frozen=True)
class Calls:
    """How calls for the CPU take a row apart. Where an index is None, things are in order already.

    Lengths (2, 3), the second after the first: shapes = [(1, 2, 2), (1, 3, 5)], keys = [0, 1, 0, 1, 2, 3, 4].
    """

    shapes: tuple[tuple[int, int, int], ...]
    """Of each call: segments in it, queries of each, keys of each."""
    queries: torch.Tensor | None
    """int64: places in the row, segment by segment, call by call; the last token of a segment repeated as filling."""
    keys: torch.Tensor | None
    """int64: the same for keys and values."""
    outputs: torch.Tensor | None
    """int64 [T]: for each token of the row its place among `queries`."""
    mask: torch.Tensor
    """float32: 0 and minus infinity, of which every call takes the part that fits; see `ahead`."""

    def ahead(self, num_queries: int, num_keys: int) -> torch.Tensor:
        """Minus infinity [num_queries, num_keys] where a key lies ahead, the last query being the last key's."""
        behind = self.mask.shape[1] - self.mask.shape[0]
        return self.mask[:num_queries, behind - (num_keys - num_queries) : behind + num_queries]


@dataclass(frozen=True)
class PackedLayout:
    """Where the segments of a row lie, made once a microbatch and used by every layer."""

    lengths: tuple[int, ...]
    after: tuple[int | None, ...]
    device: torch.device

    @cached_property
    def seen(self) -> tuple[int, ...]:
        """Keys of each segment: its own, and those of the segment it goes on from."""
        return tuple(n if a is None else self.lengths[a] + n for n, a in zip(self.lengths, self.after, strict=True))

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Where each segment begins, and where the last one ends."""
        return (0, *accumulate(self.lengths))

    def keys_of(self, segment: int) -> list[int]:
        """Places in the row, in the order of the sequence."""
        earlier = self.after[segment]
        own = range(self.starts[segment], self.starts[segment + 1])
        return [*own] if earlier is None else [*range(self.starts[earlier], self.starts[earlier + 1]), *own]

    @cached_property
    def calls(self) -> Calls:
        queries: list[int] = []
        keys: list[int] = []
        outputs = [0] * self.starts[-1]
        shapes = []
        for members in _calls(self.lengths, self.seen):
            num_queries, num_keys = self.lengths[members[0]], self.seen[members[0]]
            shapes.append((len(members), num_queries, num_keys))
            for i in members:
                begin, end = self.starts[i], self.starts[i + 1]
                outputs[begin:end] = range(len(queries), len(queries) + end - begin)
                queries += [*range(begin, end), *[end - 1] * (num_queries - (end - begin))]
                keys += self.keys_of(i) + [end - 1] * (num_keys - self.seen[i])
        taken = self._index(queries)
        most = max(LONG, BLOCK)
        mask = torch.full((most, max(self.seen) + most), float("-inf"), device=self.device)
        return Calls(
            shapes=tuple(shapes),
            queries=taken,
            keys=self._index(keys),
            outputs=None if taken is None else torch.tensor(outputs, device=self.device),
            mask=mask.triu(max(self.seen) + 1),
        )

    @cached_property
    def stretched(self) -> torch.Tensor | None:
        """int64: the places of all keys, segment by segment."""
        return self._index([place for i in range(len(self.lengths)) for place in self.keys_of(i)])

    @cached_property
    def bounds(self) -> tuple[torch.Tensor, torch.Tensor]:
        """int32 [segments + 1]: where each segment's queries begin, and its keys in `stretched`."""
        starts = (self.starts, (0, *accumulate(self.seen)))
        queries, keys = (torch.tensor(s, dtype=torch.int32, device=self.device) for s in starts)
        return queries, keys

    def _index(self, places: list[int]) -> torch.Tensor | None:
        in_order = places == list(range(self.starts[-1]))
        return None if in_order else torch.tensor(places, device=self.device)


def lay_out(lengths: Sequence[int], after: Sequence[int | None], device: torch.device) -> PackedLayout:
    """Of segments with that many tokens, each of which begins a sequence (None) or goes on from one that begins one."""
    assert all(a is None or after[a] is None for a in after)
    return PackedLayout(tuple(lengths), tuple(after), device)


def _calls(lengths: Sequence[int], seen: Sequence[int]) -> list[list[int]]:
    """Segments of each call: long ones alone, in their order; others by what they go on from and by length, cut where
    filling would exceed `MAX_FILL`."""
    calls = [[i] for i, length in enumerate(lengths) if length >= LONG]
    short = [i for i, length in enumerate(lengths) if length < LONG]
    for i in sorted(short, key=lambda i: (lengths[i] - seen[i], -lengths[i], i)):
        first = calls[-1][0] if calls else i
        alike = lengths[first] < LONG and lengths[first] - seen[first] == lengths[i] - seen[i]
        if calls and alike and seen[first] <= MAX_FILL * seen[i]:
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
    if sliding_window is not None and sliding_window < max(layout.seen):
        raise ValueError(
            f"packed attention has no sliding window ({sliding_window} < sequence of {max(layout.seen)} tokens)"
        )
    q, k, v = (rows[0].transpose(0, 1) for rows in (query, key, value))
    if dropout == 0.0 and has_varlen(query):
        return varlen(q, k, v, layout, scaling)[None], None
    return by_calls(q, k, v, layout.calls, dropout, scaling)[None], None


def by_calls(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, calls: Calls, dropout: float, scaling: float | None
) -> torch.Tensor:
    """query [T, heads, head_dim]; key, value [T, kv_heads, head_dim] -> [T, heads, head_dim]."""
    parts = zip(
        _taken(query, calls.queries).split([n * queries for n, queries, _ in calls.shapes]),
        _taken(key, calls.keys).split([n * keys for n, _, keys in calls.shapes]),
        _taken(value, calls.keys).split([n * keys for n, _, keys in calls.shapes]),
        strict=True,
    )
    grouped = query.shape[1] != key.shape[1]
    outputs = []
    for (n, num_queries, seen), rows in zip(calls.shapes, parts, strict=True):
        q, k, v = (x.unflatten(0, (n, -1)).transpose(1, 2) for x in rows)  # [n, heads, tokens, head_dim]
        seen -= num_queries
        for block in q.split(BLOCK if n == 1 else num_queries, 2):
            seen += block.shape[2]
            causal = seen == block.shape[2]  # known to the kernel for as many queries as keys only
            out = scaled_dot_product_attention(
                block,
                k[:, :, :seen],
                v[:, :, :seen],
                attn_mask=None if causal else calls.ahead(block.shape[2], seen).to(block.dtype),
                dropout_p=dropout,
                is_causal=causal,
                scale=scaling,
                enable_gqa=grouped,
            )
            outputs.append(out.transpose(1, 2).flatten(0, 1))
    return _taken(torch.cat(outputs), calls.outputs)


def _taken(rows: torch.Tensor, places: torch.Tensor | None) -> torch.Tensor:
    """By index_select, not indexing: backward it adds up in a fixed order, whatever the number of threads."""
    return rows if places is None else rows.index_select(0, places)


def has_varlen(query: torch.Tensor) -> bool:
    """Whether torch's kernel for sequences of any length takes this."""
    return query.is_cuda and query.dtype in (torch.bfloat16, torch.float16)


def varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: PackedLayout, scaling: float | None
) -> torch.Tensor:
    """`by_calls` in one call. The window (-1, 0) is the causal one; fewer queries than keys are the last ones. Shared
    heads are repeated, little beside the scores: the kernel knows them from torch 2.12 on only."""
    shared = query.shape[1] // key.shape[1]
    k, v = (_taken(x, layout.stretched).repeat_interleave(shared, 1) for x in (key, value))
    out = varlen_attn(
        query, k, v, *layout.bounds, max(layout.lengths), max(layout.seen), scale=scaling, window_size=(-1, 0)
    )
    assert isinstance(out, torch.Tensor)  # nothing but the output was asked for
    return out


# Compiled layers call it as it is: it is one kernel already, and its layout differs from row to row.
AttentionInterface.register("packed", torch.compiler.disable(packed_attention))
