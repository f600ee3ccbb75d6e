"""The engine of the CPU: batched sampling over any Hugging Face causal model; prompts join when there is room."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.engine.protocol import RolloutRequest, Sampling
from trainer.engine.slots import Slots
from trainer.errors import WeightSyncError
from trainer.types import Rollout, RolloutGroup


@dataclass
class _Group:
    """A request in the making."""

    request: RolloutRequest
    completions: list["_Completion"] = field(default_factory=list)
    num_running: int = 0


@dataclass
class _Completion:
    """One completion being sampled."""

    group: _Group
    uniforms: np.ndarray
    """float64 [max_tokens] in [0, 1), from its own seed: what it draws does not depend on its neighbours."""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class TorchEngine:
    """Holds a model of its own, so that weights really have to be pushed. Always float32 or what the model is in."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_rows: int) -> None:
        model.set_attn_implementation("slots")
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._max_rows = max_rows
        self._stop_ids = stop_token_ids(model, tokenizer)
        self._policy_version = 0

    def rollout(self, requests: Iterable[RolloutRequest | None], sampling: Sampling) -> Iterator[RolloutGroup]:
        """Requests go through in order, as many at once as `max_rows` completions allow (one request at least)."""
        source, slots = _Source(requests, self._max_rows), Slots(self._model)
        rows: list[_Completion] = []
        while True:
            joining = [_begin(request, sampling.max_tokens) for request in source.take(len(rows))]
            tokens = [completion.token_ids[-1] for completion in rows]
            rows += [completion for group in joining for completion in group.completions]
            if not rows:
                return
            prompts = [(group.request.prompt_ids, len(group.completions)) for group in joining]
            uniforms = torch.tensor([c.uniforms[len(c.token_ids)] for c in rows])
            drawn = _draw(slots.advance(tokens, prompts), sampling.temperature, uniforms)
            alive = []
            for row, (completion, token, logprob) in enumerate(zip(rows, *drawn, strict=True)):
                completion.token_ids.append(token)
                completion.logprobs.append(logprob)
                if token not in self._stop_ids and len(completion.token_ids) < sampling.max_tokens:
                    alive.append(row)
                    continue
                completion.group.num_running -= 1
                if not completion.group.num_running:
                    yield self._group(completion.group)
            if len(alive) < len(rows):
                rows = [rows[row] for row in slots.keep(alive)]

    def _group(self, group: _Group) -> RolloutGroup:
        rollouts = tuple(
            Rollout(
                token_ids=tuple(c.token_ids),
                logprobs=tuple(c.logprobs),
                text=str(self._tokenizer.decode(c.token_ids, skip_special_tokens=True)),
                truncated=c.token_ids[-1] not in self._stop_ids,
                policy_version=self._policy_version,
            )
            for c in group.completions
        )
        return RolloutGroup(group.request.index, group.request.prompt, group.request.prompt_ids, rollouts)

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

    def sleep(self) -> None:
        """Nothing to give back: the slots live only as long as a rollout."""

    def wake(self) -> None:
        """Always awake."""

    def close(self) -> None:
        """Nothing was started."""


class _Source:
    """Takes requests when there is room, whole groups only."""

    def __init__(self, requests: Iterable[RolloutRequest | None], max_rows: int) -> None:
        self._requests = iter(requests)
        self._max_rows = max_rows
        self._next: RolloutRequest | None = None

    def take(self, num_rows: int) -> Iterator[RolloutRequest]:
        """Requests that fit beside `num_rows` completions."""
        while request := self._next or next(self._requests, None):
            self._next = request
            if num_rows and num_rows + len(request.seeds) > self._max_rows:
                return
            num_rows += len(request.seeds)
            self._next = None
            yield request


def _begin(request: RolloutRequest, max_tokens: int) -> _Group:
    group = _Group(request, num_running=len(request.seeds))
    for seed in request.seeds:
        uniforms = np.random.Generator(np.random.Philox(key=seed)).random(max_tokens)
        group.completions.append(_Completion(group, uniforms))
    return group


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
