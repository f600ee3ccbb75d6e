"""The policy: a Hugging Face causal model, and the log-probability and entropy of every completion token under it."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn.functional import rms_norm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from trainer.attention import lay_out
from trainer.errors import ConfigError
from trainer.head import head_logprobs
from trainer.parallel import local, whole
from trainer.types import Microbatch

logging.disable_progress_bar()


class Policy(torch.nn.Module):
    """A causal model as a function from microbatches to log-probabilities at the sampling temperature.

    A module around the model, so that `sharding.shard` puts embedding and head together for the whole of `forward`.
    """

    num_ranks = 1
    """Over which the parameters are split; gradients become means over them."""
    compute_dtype: torch.dtype | None = None
    """None: that of the weights."""
    compute_device: torch.device | None = None
    """None: where the weights are; others may be kept in host memory."""
    keep_whole = False
    """Whether `sharding.kept_whole` does anything."""
    compiled = False
    """Whether the head runs compiled; `sharding.compile_layers` does the rest."""

    def __init__(self, model: PreTrainedModel, temperature: float) -> None:
        super().__init__()
        model.set_attn_implementation("packed")
        fuse_norms(model)
        self.model = model.eval()  # no dropout: the ratio to the sampler's log-probabilities would be noise
        self.temperature = temperature

    @property
    def device(self) -> torch.device:
        return self.compute_device or torch.device(self.model.device)

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor by its Hugging Face name, tied ones under each of their names, in the dtype of the computation.

        Only one at a time is whole. All ranks have to go through all of them, also those that push nothing.
        """
        for name, tensor in self.model.state_dict().items():
            yield name, whole(tensor.to(self.compute_dtype or tensor.dtype))

    def logprobs(self, batch: Microbatch) -> torch.Tensor:
        """Log-probability of each completion token, nats, float32 [N]."""
        found: torch.Tensor = self(batch, entropy=False)[0]
        return found

    def logprobs_and_entropy(self, batch: Microbatch) -> tuple[torch.Tensor, torch.Tensor]:
        """`logprobs`, and the entropy of each token's distribution, nats, float32 [N]."""
        found: tuple[torch.Tensor, torch.Tensor] = self(batch, entropy=True)
        return found

    def forward(self, batch: Microbatch, entropy: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Only hidden states that predict a completion token reach the head."""
        hidden = (
            self.model.base_model(
                input_ids=batch.input_ids[None],
                position_ids=batch.position_ids[None],
                use_cache=False,
                layout=lay_out(batch.lengths, batch.after, batch.input_ids.device),
            )
            .last_hidden_state[0]
            .index_select(0, batch.predict_at)
        )
        weight = self.model.get_output_embeddings().weight
        return head_logprobs(hidden, weight, batch.targets, self.temperature, entropy=entropy, compiled=self.compiled)


class FusedNorm(torch.nn.Module):
    """A root-mean-square norm by torch's kernel. Another class and not another `forward` in each module: a compiled
    layer could not tell those from each other."""

    weight: torch.nn.Parameter
    variance_epsilon: float

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)


@torch.no_grad()
def fuse_norms(model: torch.nn.Module) -> None:
    """Use `FusedNorm` where the model spells the same out in six operations: they are a good part of a small model's
    time, with their backward passes."""
    for module in model.modules():
        weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
        if weight is None or eps is None or weight.ndim != 1:
            continue
        x = torch.linspace(-1, 2, 3 * len(weight), device=weight.device).to(weight.dtype).view(3, -1)
        if torch.allclose(module(x), rms_norm(x, weight.shape, weight, eps), rtol=0.02):  # others scale by 1 + weight
            module.__class__ = FusedNorm


@torch.no_grad()
def copy_weights(source: Policy, target: Policy) -> None:
    """Same architecture, split alike: shard by shard, no communication. The target's tensors stay the same ones."""
    for theirs, own in zip(source.parameters(), target.parameters(), strict=True):
        local(own).copy_(local(theirs))


def load_model(path: str | Path, dtype: torch.dtype) -> PreTrainedModel:
    """A causal model from a folder or the hub. Raises ConfigError where there is none, or of a kind we get wrong."""
    _check_folder(path)
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model {path}: {str(error).splitlines()[0]}") from error
    _check_forward(model)
    return model


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model. Raises ConfigError without one, or without a chat template or an end token."""
    _check_folder(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"tokenizer {path}: {str(error).splitlines()[0]}") from error
    if tokenizer.chat_template is None:
        raise ConfigError(f"tokenizer {path} has no chat template")
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"tokenizer {path} has no end-of-sequence token")
    return tokenizer


def _check_folder(path: str | Path) -> None:
    """What looks like a folder is not asked of the hub, whose answer would be about the form of its names."""
    if str(path).startswith((".", "/")) and not Path(path).is_dir():
        raise ConfigError(f"model {path}: no such folder")


@torch.no_grad()
def _check_forward(model: PreTrainedModel) -> None:
    """Attention and head are ours: refuse models that do something else there, or mix the tokens of a row elsewhere."""
    head = model.get_output_embeddings()
    ids = torch.arange(4, device=model.device)[None]
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    expected = model(input_ids=ids, use_cache=False).logits
    if getattr(head, "bias", None) is not None or not torch.allclose(hidden @ head.weight.T, expected, atol=1e-2):
        raise ConfigError(f"{model.config.model_type}: logits are not hidden states times the output embedding")
    own_attention = model.config._attn_implementation
    model.set_attn_implementation("packed")
    # A prompt, two completions that go on from it, and the whole sequence once more.
    row = [[0, 1], [2, 3], [2, 3], [0, 1, 2, 3]]
    tokens = torch.tensor([token for segment in row for token in segment], device=ids.device)[None]
    try:
        packed = model.base_model(
            input_ids=tokens,
            position_ids=tokens,
            use_cache=False,
            layout=lay_out([len(segment) for segment in row], (None, 0, 0, None), ids.device),
        ).last_hidden_state
    except ValueError as error:
        raise ConfigError(f"{model.config.model_type}: {error}") from error
    model.set_attn_implementation(own_attention)
    # Kernels round each in their own way, in bfloat16 by percents; what leaks out of another sequence is far more.
    if float((packed - hidden.index_select(1, tokens[0])).abs().max()) > 0.1 * float(hidden.abs().max()):
        raise ConfigError(f"{model.config.model_type}: a packed sequence does not give what the sequence alone gives")
