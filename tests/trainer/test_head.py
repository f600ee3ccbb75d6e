"""The head in chunks: gradient, precision, memory."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trainer import head

NUM_TOKENS, WIDTH, VOCAB_SIZE = 13, 6, 17


@pytest.fixture(autouse=True)
def _three_tokens_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(head.LOGIT_BUDGET, "cpu", 3 * VOCAB_SIZE)


def inputs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(NUM_TOKENS, WIDTH, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCAB_SIZE, WIDTH, generator=generator).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(VOCAB_SIZE, (NUM_TOKENS,), generator=generator)


def test_the_gradient_is_that_of_the_numbers() -> None:
    """Against finite differences, in float64."""
    hidden, weight, targets = inputs(torch.float64)
    assert torch.autograd.gradcheck(lambda h, w: head.head_logprobs(h, w, targets, 1.7)[0], (hidden, weight))


def test_half_precision_is_lost_in_the_inputs_only() -> None:
    """Log-probabilities of bfloat16 weights are float32 numbers: those that the same weights give in float32."""
    hidden, weight, targets = inputs(torch.bfloat16)
    logprobs, entropy = head.head_logprobs(hidden, weight, targets, 1.2)
    expected = head.head_logprobs(hidden.detach().float(), weight.detach().float(), targets, 1.2)
    assert logprobs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close((logprobs.detach(), entropy), expected, rtol=1e-5, atol=1e-6)
    logprobs.sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.bfloat16


class Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation makes."""

    num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.num_elements = max(self.num_elements, result.numel())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_is_larger_than_a_chunk_or_the_weights(dtype: torch.dtype) -> None:
    """Backward pass included; all logits would be twice as many."""
    hidden, weight, targets = inputs(dtype)
    with Largest() as largest:
        head.head_logprobs(hidden, weight, targets, 1.2)[0].sum().backward()
    assert 3 * VOCAB_SIZE <= largest.num_elements <= WIDTH * VOCAB_SIZE < NUM_TOKENS * VOCAB_SIZE
