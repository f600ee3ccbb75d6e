"""The engine of the CPU: batched sampling with a key-value cache over any Hugging Face causal model."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from trainer.engine.protocol import RolloutRequest, Sampling
from trainer.errors import WeightSyncError
from trainer.types import Rollout, RolloutGroup


@dataclass
class _Completion:
    """One completion being sampled."""

    request: int
    """Position of its request among those asked for."""
    uniforms: np.ndarray
    """float64 [max_tokens] in [0, 1), from its own seed: what it draws does not depend on its neighbours."""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class TorchEngine:
    """Holds a model of its own, so that weights really have to be pushed. Always float32 or what the model is in."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_rows: int) -> None:
        model.set_attn_implementation("sdpa")
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._max_rows = max_rows
        self._stop_ids = stop_token_ids(model, tokenizer)
        self._policy_version = 0

    def rollout(self, requests: Sequence[RolloutRequest], sampling: Sampling) -> Iterator[RolloutGroup]:
        """Requests go through in order, as many at once as `max_rows` completions allow (one at least)."""
        chunk: list[RolloutRequest] = []
        for request in requests:
            if chunk and sum(len(r.seeds) for r in chunk) + len(request.seeds) > self._max_rows:
                yield from self._generate(chunk, sampling)
                chunk = []
            chunk.append(request)
        if chunk:
            yield from self._generate(chunk, sampling)

    def _generate(self, requests: list[RolloutRequest], sampling: Sampling) -> Iterator[RolloutGroup]:
        completions = [
            _Completion(i, np.random.Generator(np.random.Philox(key=seed)).random(sampling.max_tokens))
            for i, request in enumerate(requests)
            for seed in request.seeds
        ]
        unfinished = [len(request.seeds) for request in requests]
        decoder = _Decoder(self._model, requests, [c.request for c in completions])
        rows = completions
        for position in range(sampling.max_tokens):
            uniforms = torch.tensor([c.uniforms[position] for c in rows])
            token_ids, logprobs = _draw(decoder.logits, sampling.temperature, uniforms)
            alive = []
            for row, (completion, token, logprob) in enumerate(zip(rows, token_ids.tolist(), logprobs.tolist())):  # noqa: B905
                completion.token_ids.append(token)
                completion.logprobs.append(logprob)
                if token in self._stop_ids or position + 1 == sampling.max_tokens:
                    unfinished[completion.request] -= 1
                    if not unfinished[completion.request]:
                        members = [c for c in completions if c.request == completion.request]
                        yield self._group(requests[completion.request], members)
                else:
                    alive.append(row)
            if not alive:
                return
            decoder.advance(alive, token_ids)
            rows = [rows[row] for row in alive]

    def _group(self, request: RolloutRequest, completions: list[_Completion]) -> RolloutGroup:
        rollouts = tuple(
            Rollout(
                token_ids=tuple(c.token_ids),
                logprobs=tuple(c.logprobs),
                text=str(self._tokenizer.decode(c.token_ids, skip_special_tokens=True)),
                truncated=c.token_ids[-1] not in self._stop_ids,
                policy_version=self._policy_version,
            )
            for c in completions
        )
        return RolloutGroup(request.index, request.prompt, request.prompt_ids, rollouts)

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
    def fingerprint(self, sequences: Sequence[Sequence[int]], temperature: float) -> list[list[float]]:
        # Filled up on the right, which causal attention cannot see: one pass for all.
        longest = max(map(len, sequences))
        ids = torch.tensor([[*s, *[0] * (longest - len(s))] for s in sequences], device=self._model.device)
        logits = self._model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        logprobs = torch.log_softmax(logits / temperature, dim=-1).gather(-1, ids[:, 1:, None])[..., 0]
        return [row[: len(s) - 1] for row, s in zip(logprobs.tolist(), sequences, strict=True)]

    def sleep(self) -> None:
        """Nothing to give back: the cache lives only as long as a rollout."""

    def wake(self) -> None:
        """Always awake."""


class _Decoder:
    """The model one token further with every call; rows that are done are dropped, prompts computed once a group."""

    @torch.inference_mode()
    def __init__(self, model: PreTrainedModel, requests: Sequence[RolloutRequest], request_of_row: list[int]) -> None:
        self._model = model
        device = model.device
        longest = max(len(r.prompt_ids) for r in requests)
        ids = torch.zeros(len(requests), longest, dtype=torch.int64)
        mask = torch.zeros(len(requests), longest, dtype=torch.int64)
        for i, request in enumerate(requests):
            ids[i, longest - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
            mask[i, longest - len(request.prompt_ids) :] = 1
        self._cache = DynamicCache(config=model.config)
        self._mask = mask.to(device)
        self._positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        logits = self._forward(ids.to(device))
        self._select(torch.tensor(request_of_row, device=device))
        self.logits = logits[torch.tensor(request_of_row, device=device)]
        """[rows, V]: of the next token."""

    @torch.inference_mode()
    def advance(self, rows: list[int], token_ids: torch.Tensor) -> None:
        """Keep `rows` and append their tokens; token_ids int64 [rows before]."""
        if len(rows) < len(token_ids):
            index = torch.tensor(rows, device=token_ids.device)
            self._select(index)
            token_ids = token_ids[index]
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
        self._positions = self._positions[:, -1:] + 1
        self.logits = self._forward(token_ids[:, None])

    def _select(self, index: torch.Tensor) -> None:
        self._cache.batch_select_indices(index)
        self._mask, self._positions = self._mask[index], self._positions[index]

    def _forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        # Without filling on the left the mask says nothing, and the kernels without a mask are faster.
        mask = None if bool(self._mask.all()) else self._mask
        output = self._model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits


@torch.inference_mode()
def _draw(logits: torch.Tensor, temperature: float, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
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
    return token_ids[:, 0], logprobs.gather(-1, token_ids)[:, 0]


def stop_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """End tokens of the generation config (one or many) and of the tokenizer."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    many = configured if isinstance(configured, list) else [configured]
    return frozenset(int(i) for i in [*many, tokenizer.eos_token_id] if i is not None)
