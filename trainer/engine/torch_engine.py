"""The engine of the CPU: batched sampling over any Hugging Face causal model; prompts join when there is room."""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.engine.flight import Flight, Reader, Ticket
from trainer.engine.protocol import Engine, RolloutRequest, Sampling
from trainer.engine.slots import Slots
from trainer.errors import WeightSyncError
from trainer.policy import fuse_norms
from trainer.types import RolloutGroup


@dataclass
class _Completion:
    """One completion being sampled."""

    ticket: Ticket
    uniforms: np.ndarray
    """float64 [max_tokens] in [0, 1), from its own seed: what it draws does not depend on its neighbours."""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class TorchEngine(Engine):
    """Holds a model of its own, so that weights really have to be pushed. Always float32 or what the model is in."""

    repeatable = True

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_rows: int) -> None:
        model.set_attn_implementation("slots")
        fuse_norms(model)
        self._model = model.eval().requires_grad_(False)
        self._max_rows = max_rows
        self._reader = Reader(tokenizer, stop_token_ids(model, tokenizer))
        self._policy_version = 0

    def rollout(
        self, requests: Iterable[RolloutRequest | None], sampling: Sampling
    ) -> Generator[RolloutGroup, None, None]:
        flight, slots = Flight(requests, self._max_rows), Slots(self._model)
        rows: list[_Completion] = []
        while True:
            joining = [_begin(ticket, sampling.max_tokens) for ticket in flight.take()]
            tokens = [completion.token_ids[-1] for completion in rows]
            rows += joining
            if not rows:
                return
            firsts = [c.ticket.request for c in joining if c.ticket.sample == 0]
            prompts = [(request.prompt.token_ids, len(request.seeds)) for request in firsts]
            uniforms = torch.tensor([c.uniforms[len(c.token_ids)] for c in rows])
            drawn = _draw(slots.advance(tokens, prompts), sampling.temperature, uniforms)
            alive = []
            for row, (completion, token, logprob) in enumerate(zip(rows, *drawn, strict=True)):
                completion.token_ids.append(token)
                completion.logprobs.append(logprob)
                if token not in self._reader.stop_ids and len(completion.token_ids) < sampling.max_tokens:
                    alive.append(row)
                    continue
                rollout = self._reader.rollout(completion.token_ids, completion.logprobs, self._policy_version)
                if (group := flight.land(completion.ticket, rollout)) is not None:
                    yield group
            if len(alive) < len(rows):
                rows = [rows[row] for row in slots.keep(alive)]

    @torch.no_grad()
    def push(self, weights: Iterable[tuple[str, torch.Tensor]], policy_version: int) -> None:
        """Copy every tensor. Raises WeightSyncError where a name or a shape does not fit, or one is missing."""
        own = self._model.state_dict()
        missing = set(own)
        for name, tensor in weights:
            if name not in own or own[name].shape != tensor.shape:
                raise WeightSyncError(f"the engine's model has no weight {name} of shape {tuple(tensor.shape)}")
            own[name].copy_(tensor)
            missing.discard(name)
        if missing:
            raise WeightSyncError(f"weights never pushed: {', '.join(sorted(missing)[:3])}")
        self._policy_version = policy_version

    @torch.inference_mode()
    def fingerprint(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        # Filled up on the right, which causal attention cannot see: one pass for all.
        longest = max(map(len, sequences))
        ids = torch.tensor([[*s, *[0] * (longest - len(s))] for s in sequences], device=self._model.device)
        logits = self._model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        logprobs = torch.log_softmax(logits, dim=-1).gather(-1, ids[:, 1:, None])[..., 0]
        return [row[: len(s) - 1] for row, s in zip(logprobs.tolist(), sequences, strict=True)]


def _begin(ticket: Ticket, max_tokens: int) -> _Completion:
    return _Completion(ticket, np.random.Generator(np.random.Philox(key=ticket.seed)).random(max_tokens))


@torch.inference_mode()
def _draw(logits: torch.Tensor, temperature: float, uniforms: torch.Tensor) -> tuple[list[int], list[float]]:
    """Tokens by inversion of the cumulated distribution, and their log-probabilities at that temperature; both [rows].

    At temperature 0 the likeliest token, with its log-probability at temperature 1.
    """
    logprobs = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
    if temperature == 0:
        token_ids = logprobs.argmax(-1, keepdim=True)
    else:
        cumulated = logprobs.double().exp().cumsum(-1)
        target = uniforms.to(logits.device)[:, None] * cumulated[:, -1:]
        token_ids = torch.searchsorted(cumulated, target, right=True).clamp(max=logits.shape[-1] - 1)
    return token_ids[:, 0].tolist(), logprobs.gather(-1, token_ids)[:, 0].tolist()


def stop_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """End tokens of the generation config (one or many) and of the tokenizer."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    many = configured if isinstance(configured, list) else [configured]
    return frozenset(int(i) for i in [*many, tokenizer.eos_token_id] if i is not None)
