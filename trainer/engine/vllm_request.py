"""What both vLLM engines share: the versions they know, how a completion is asked for, and how groups come together."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from trainer.engine.protocol import RolloutRequest, Sampling
from trainer.errors import ConfigError
from trainer.types import Rollout, RolloutGroup

FIRST, BEYOND = (0, 32), (0, 34)
"""The window of vLLM versions: answers name their weights since 0.32; 0.33 is the last whose interfaces were read."""


def check_version(version: str, where: str) -> None:
    """Raises ConfigError outside of the window."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or not FIRST <= (int(found[1]), int(found[2])) < BEYOND:
        wanted = ">={}.{},<{}.{}".format(*FIRST, *BEYOND)
        raise ConfigError(f"vLLM {version} {where} is not supported: wanted {wanted}")


def dtype_name(dtype: torch.dtype) -> str:
    """As vLLM spells it: `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def sampling_params(sampling: Sampling, seed: int, stop_ids: frozenset[int]) -> dict[str, Any]:
    """Of one completion, as vLLM's SamplingParams and its HTTP route take them.

    Every end token is named, as the sampler of the trainer knows them, and vLLM's own idea of them is switched off.
    Seeds are signed 64-bit numbers there: the lowest bit goes.
    """
    return {
        "temperature": sampling.temperature,
        "top_p": 1.0,
        "max_tokens": sampling.max_tokens,
        "seed": seed >> 1,
        "logprobs": 0,
        "detokenize": False,
        "ignore_eos": True,
        "stop_token_ids": sorted(stop_ids),
    }


PROBE_PARAMS: dict[str, Any] = {"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0, "detokenize": False}
"""Asks for the log-probabilities of a prompt's own tokens, at temperature 1; such a request reads no prefix cache."""


@dataclass(frozen=True)
class Ticket:
    """One completion to be sampled: `sample` of `request`."""

    request: RolloutRequest
    sample: int

    @property
    def seed(self) -> int:
        return self.request.seeds[self.sample]


@dataclass
class Flight:
    """The completions under way: taken from the requests when there is room, given back as whole groups."""

    requests: Iterator[RolloutRequest | None]
    max_rows: int
    num_running: int = 0
    _landed: dict[int, dict[int, Rollout]] = field(default_factory=dict)
    """By index of the request."""

    @classmethod
    def of(cls, requests: Iterable[RolloutRequest | None], max_rows: int) -> "Flight":
        return cls(iter(requests), max_rows)

    def take(self) -> Iterator[Ticket]:
        """Completions to begin now. Groups are taken while fewer than `max_rows` run, so the last may stand over."""
        while self.num_running < self.max_rows and (request := next(self.requests, None)) is not None:
            self.num_running += len(request.seeds)
            self._landed[request.index] = {}
            yield from (Ticket(request, sample) for sample in range(len(request.seeds)))

    def land(self, ticket: Ticket, rollout: Rollout) -> RolloutGroup | None:
        """Its group, if this was the last completion of it."""
        request, landed = ticket.request, self._landed[ticket.request.index]
        landed[ticket.sample] = rollout
        self.num_running -= 1
        if len(landed) < len(request.seeds):
            return None
        del self._landed[request.index]
        rollouts = tuple(landed[sample] for sample in range(len(request.seeds)))
        return RolloutGroup(request.index, request.prompt, request.prompt_ids, rollouts)


@dataclass(frozen=True)
class Reader:
    """Turns tokens into a rollout."""

    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]

    def rollout(self, token_ids: Iterable[int], logprobs: Iterable[float], policy_version: int) -> Rollout:
        tokens = tuple(token_ids)
        return Rollout(
            token_ids=tokens,
            logprobs=tuple(logprobs),
            text=str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)),
            truncated=tokens[-1] not in self.stop_ids,
            policy_version=policy_version,
        )
