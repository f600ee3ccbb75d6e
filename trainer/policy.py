"""The policy: a Hugging Face causal model, and the log-probability and entropy of every completion token under it."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from trainer.attention import lay_out
from trainer.errors import ConfigError
from trainer.types import Microbatch

logging.disable_progress_bar()

LOGIT_BUDGET = 2**26
"""Logits alive at once (float32: 256 MiB). The head runs over chunks of tokens of this many logits."""


class Policy:
    """A causal model as a function from microbatches to log-probabilities at the sampling temperature."""

    def __init__(self, model: PreTrainedModel, temperature: float) -> None:
        model.set_attn_implementation("packed")
        self.model = model.eval()  # no dropout: the ratio to the sampler's log-probabilities would be noise
        self.temperature = temperature

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    def parameters(self) -> list[torch.nn.Parameter]:
        return list(self.model.parameters())

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor by its Hugging Face name, tied ones under each of their names."""
        yield from self.model.state_dict().items()

    def logprobs(self, batch: Microbatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability of each completion token and entropy of its distribution, nats, both float32 [N].

        Only hidden states that predict a completion token reach the head; in float32, a chunk of tokens at a time,
        each chunk computed again in the backward pass, so that memory does not grow with vocabulary times length.
        """
        hidden = (
            self.model.base_model(
                input_ids=batch.input_ids[None],
                position_ids=batch.position_ids[None],
                use_cache=False,
                layout=lay_out(batch.lengths, batch.input_ids.device),
            )
            .last_hidden_state[0]
            .index_select(0, batch.predict_at)
        )
        weight = self.model.get_output_embeddings().weight
        chunk = max(1, LOGIT_BUDGET // weight.shape[0])
        if len(batch.targets) <= chunk:
            return token_logprobs(hidden, weight, batch.targets, self.temperature)
        parts = [
            checkpoint(token_logprobs, h, weight, t, self.temperature, use_reentrant=False)
            for h, t in zip(hidden.split(chunk), batch.targets.split(chunk), strict=True)
        ]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def token_logprobs(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """hidden [N, D], weight [V, D], targets [N] -> log softmax(hidden weight^T / temperature)[target], entropy; [N].

    The entropy is a measurement and carries no gradient.
    """
    logprobs = torch.log_softmax((hidden.float() @ weight.float().T) / temperature, dim=-1)
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, targets[:, None])[:, 0], entropy


def load_model(path: str | Path, dtype: torch.dtype) -> PreTrainedModel:
    """A causal model from a folder or the hub. Raises ConfigError where there is none, or of a kind we get wrong."""
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model {path}: {str(error).splitlines()[0]}") from error
    _check_head(model)
    return model


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model. Raises ConfigError without one, or without a chat template or an end token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"tokenizer {path}: {str(error).splitlines()[0]}") from error
    if tokenizer.chat_template is None:
        raise ConfigError(f"tokenizer {path} has no chat template")
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"tokenizer {path} has no end-of-sequence token")
    return tokenizer


@torch.no_grad()
def _check_head(model: PreTrainedModel) -> None:
    """The head is applied by us, chunk by chunk; refuse models that do more than a matrix product there."""
    head = model.get_output_embeddings()
    ids = torch.arange(4, device=model.device)[None]
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    expected = model(input_ids=ids, use_cache=False).logits
    if getattr(head, "bias", None) is not None or not torch.allclose(hidden @ head.weight.T, expected, atol=1e-2):
        raise ConfigError(f"{model.config.model_type}: logits are not hidden states times the output embedding")
