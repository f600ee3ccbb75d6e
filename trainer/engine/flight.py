"""How completions under way come together to groups, in whichever engine."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from trainer.engine.protocol import RolloutRequest
from trainer.types import Rollout, RolloutGroup


class Ticket(NamedTuple):
    """One completion to be sampled: `sample` of `request`."""

    request: RolloutRequest
    sample: int

    @property
    def seed(self) -> int:
        return self.request.seeds[self.sample]


class Flight:
    """The completions under way: taken from the requests when there is room, given back as whole groups."""

    def __init__(self, requests: Iterable[RolloutRequest | None], max_rows: int) -> None:
        self._requests, self._max_rows = iter(requests), max_rows
        self._next: RolloutRequest | None = None
        self.num_running = 0
        self._landed: dict[int, dict[int, Rollout]] = {}
        """By index of the request, then by sample."""

    def take(self) -> Iterator[Ticket]:
        """Completions to begin now: of whole groups, in order, `max_rows` at once (but one group at least)."""
        while request := self._next or next(self._requests, None):
            self._next = request
            if self.num_running and self.num_running + len(request.seeds) > self._max_rows:
                return
            self._next = None
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
        return RolloutGroup(request.index, request.prompt, rollouts)


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
