"""From hidden states to log-probabilities and entropies of tokens, without ever holding all logits."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

LOGIT_BUDGET = {"cpu": 2**26, "cuda": 2**28}
"""Logits alive at once (float32: 256 MiB, 1 GiB). The head runs over chunks of tokens of this many logits. Every chunk
goes once through the gradient of all weights, which on a GPU takes longer than the chunk's own work if it is small."""


def head_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    temperature: float,
    *,
    entropy: bool = True,
    compiled: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """hidden [N, D], weight [V, D], targets [N] -> log softmax(hidden weight^T / temperature)[target], entropy; [N].

    Both in float32 (float64 of float64). Beyond one chunk of tokens the logits are computed again in the backward pass,
    so that memory does not grow with vocabulary times length. The entropy is a measurement and carries no gradient; it
    is zeros where `entropy` is not asked for. `compiled`: everything between the matrix products is one kernel.
    """
    if weight.dtype == torch.float32 and len(targets) <= chunk_of(weight) and not compiled:
        return token_logprobs(_product(hidden, weight.T), targets, temperature, entropy)
    found: tuple[torch.Tensor, torch.Tensor] = _ChunkedHead.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, temperature, entropy, compiled
    )
    return found


def chunk_of(weight: torch.Tensor) -> int:
    """Tokens at once."""
    return max(1, LOGIT_BUDGET[weight.device.type] // weight.shape[0])


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a b with the products of narrow numbers added up, and left, in float32."""
    if a.is_cuda and a.dtype == torch.bfloat16:
        return torch.mm(a, b, out_dtype=torch.float32)
    wide = torch.promote_types(a.dtype, torch.float32)
    return a.to(wide) @ b.to(wide)


def token_logprobs(
    logits: torch.Tensor, targets: torch.Tensor, temperature: float, entropy: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """logits [N, V], which it may overwrite, targets [N] -> log-probability of the targets and entropy, [N].

    In float32 all along: rounded to bfloat16 they would be off by a percent of a nat.
    """
    logprobs = torch.log_softmax(_scaled(logits, temperature), dim=-1)
    with torch.no_grad():
        entropies = -logprobs.exp().mul_(logprobs).sum(-1) if entropy else logprobs.new_zeros(len(targets))
    # A sum over one, not a view of it: FSDP hangs its hook on what comes out.
    return logprobs.gather(-1, targets[:, None]).sum(-1), entropies


def logit_gradients(
    logits: torch.Tensor, targets: torch.Tensor, grad: torch.Tensor, temperature: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """From d loss / d log p[target], [N], to d loss / d logits, [N, V], as `dtype`; the logits may be overwritten.

    d log p[target] / dz = onehot(target) - p for p = softmax(z), z = logits / temperature. What belongs at the targets,
    [N, 1], comes apart: 1 - p is rounded once there, as a difference.
    """
    scale = (grad / temperature)[:, None]
    p = torch.softmax(_scaled(logits, temperature), dim=-1)
    at_targets = scale * (1 - p.gather(-1, targets[:, None]))
    return p.mul_(-scale).to(dtype), at_targets.to(dtype)


def _scaled(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """In place, but for the compiler: it divides where it reads, and would have to write the quotients back."""
    return logits / temperature if torch.compiler.is_compiling() else logits.div_(temperature)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


class _ChunkedHead(torch.autograd.Function):
    """`token_logprobs` chunk by chunk, and `logit_gradients` of the same chunks."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        temperature: float,
        entropy: bool,
        compiled: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(hidden, weight, targets)
        ctx.temperature, ctx.compiled = temperature, compiled
        chunk = chunk_of(weight)
        act = _compiled(token_logprobs) if compiled else token_logprobs
        parts = [
            act(_product(h, weight.T), t, temperature, entropy)
            for h, t in zip(hidden.split(chunk), targets.split(chunk), strict=True)
        ]
        logprobs, entropies = (torch.cat(column) for column in zip(*parts, strict=True))
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, _: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, targets = ctx.saved_tensors
        chunk = chunk_of(weight)
        act = _compiled(logit_gradients) if ctx.compiled else logit_gradients
        wide = torch.zeros(weight.shape, dtype=grad.dtype, device=weight.device)
        grad_hidden = []
        for h, t, g in zip(hidden.split(chunk), targets.split(chunk), grad.split(chunk), strict=True):
            narrow, at_targets = act(_product(h, weight.T), t, g, ctx.temperature, h.dtype)
            narrow.scatter_(-1, t[:, None], at_targets)
            grad_hidden.append((narrow @ weight).to(h.dtype))
            wide += _product(narrow.T, h)
        return torch.cat(grad_hidden), wide.to(weight.dtype), None, None, None, None
