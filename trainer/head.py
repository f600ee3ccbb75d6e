"""From hidden states to log-probabilities and entropies of tokens, without ever holding all logits."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

LOGIT_BUDGET = 2**26
"""Logits alive at once (float32: 256 MiB). The head runs over chunks of tokens of this many logits."""


def head_logprobs(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """hidden [N, D], weight [V, D], targets [N] -> log softmax(hidden weight^T / temperature)[target], entropy; [N].

    Both in float32 (float64 of float64). Beyond one chunk of tokens the logits are computed again in the backward pass,
    so that memory does not grow with vocabulary times length. The entropy is a measurement and carries no gradient.
    """
    if weight.dtype == torch.float32 and len(targets) <= chunk_of(weight):
        return token_logprobs(scaled_logits(hidden, weight, temperature), targets)
    found: tuple[torch.Tensor, torch.Tensor] = _ChunkedHead.apply(hidden, weight, targets, temperature)  # type: ignore[no-untyped-call]
    return found


def chunk_of(weight: torch.Tensor) -> int:
    """Tokens at once."""
    return max(1, LOGIT_BUDGET // weight.shape[0])


def scaled_logits(hidden: torch.Tensor, weight: torch.Tensor, temperature: float) -> torch.Tensor:
    """hidden weight^T / temperature, rounded to float32 only: in bfloat16 it would be off by a percent of a nat."""
    return _product(hidden, weight.T).div_(temperature)


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a b with the products of narrow numbers added up, and left, in float32."""
    if a.is_cuda and a.dtype == torch.bfloat16:
        return torch.mm(a, b, out_dtype=torch.float32)
    wide = torch.promote_types(a.dtype, torch.float32)
    return a.to(wide) @ b.to(wide)


def token_logprobs(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """logits [N, V], targets [N] -> log-probability of the targets and entropy, [N]."""
    logprobs = torch.log_softmax(logits, dim=-1)
    with torch.no_grad():
        entropy = -logprobs.exp().mul_(logprobs).sum(-1)
    # A sum over one, not a view of it: FSDP hangs its hook on what comes out.
    return logprobs.gather(-1, targets[:, None]).sum(-1), entropy


class _ChunkedHead(torch.autograd.Function):
    """`token_logprobs` chunk by chunk; with p = softmax(z), d log p[target] / dz = onehot(target) - p."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(hidden, weight, targets)
        ctx.temperature = temperature
        chunk = chunk_of(weight)
        parts = [
            token_logprobs(scaled_logits(h, weight, temperature), t)
            for h, t in zip(hidden.split(chunk), targets.split(chunk), strict=True)
        ]
        logprobs, entropy = (torch.cat(column) for column in zip(*parts, strict=True))
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, _: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        hidden, weight, targets = ctx.saved_tensors
        chunk = chunk_of(weight)
        wide = torch.zeros(weight.shape, dtype=grad.dtype, device=weight.device)
        grad_hidden = []
        for h, t, g in zip(hidden.split(chunk), targets.split(chunk), grad.split(chunk), strict=True):
            scale = (g / ctx.temperature)[:, None]
            grad_logits = torch.softmax(scaled_logits(h, weight, ctx.temperature), dim=-1).mul_(-scale)
            grad_logits.scatter_add_(-1, t[:, None], scale)
            narrow = grad_logits.to(h.dtype)
            grad_hidden.append((narrow @ weight).to(h.dtype))
            wide += _product(narrow.T, h)
        return torch.cat(grad_hidden), wide.to(weight.dtype), None, None
