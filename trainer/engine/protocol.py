"""What the trainer asks of an engine, whether it runs here, on another GPU or behind HTTP."""

import hashlib
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from trainer.types import Prompt, RolloutGroup


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn; top_p is 1, so the sampler's distribution is the policy's."""

    temperature: float
    max_tokens: int
    """Completion tokens at most; a completion that long without an end token is truncated."""


@dataclass(frozen=True)
class RolloutRequest:
    """One prompt and the seeds of its completions.

    RolloutRequest(index=3, prompt=..., seeds=(0x1f.., 0xa0..))
    """

    index: int
    prompt: Prompt
    seeds: tuple[int, ...]
    """One a completion, so their number is the group's size."""


class Engine(Protocol):
    repeatable: bool = False
    """Whether a request always gives the same to the last bit. Only then is it worth waiting for graders and for other
    ranks at fixed places, so that a run is the same again."""

    def rollout(
        self, requests: Iterable[RolloutRequest | None], sampling: Sampling
    ) -> Generator[RolloutGroup, None, None]:
        """Each group as soon as its last completion is done, in any order, while others are still generated.

        Requests are taken from the iterable when there is room for them, and not all at once: which prompts a step
        needs shows while it generates. None says that there is no request now and may be one after the next token
        of those in the making. What the iterable raises ends the rollout, and gives up what is in the making.
        What a request gives depends on weights, prompt and seeds, not on what it shares a batch with.
        """
        ...

    def push(self, weights: Iterable[tuple[str, torch.Tensor]], policy_version: int) -> None:
        """Take new weights; they count from the next rollout on, no cached state of the old ones survives."""
        ...

    def fingerprint(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of every token but the first of each sequence, under the weights the engine really has.

        At temperature 1, whatever completions are drawn at: that is what engines tell of a prompt.
        """
        ...

    def sleep(self) -> None:
        """Give memory back while the policy trains; an engine that shares none with it does nothing."""
        return

    def wake(self) -> None:
        """Be ready for `push` and `rollout`."""
        return

    def close(self) -> None:
        """End what was started; the engine is not used again."""
        return


def sampling_seed(run_seed: str, step: int, prompt_id: str, sample: int) -> int:
    """64 bits; a pure function of its arguments, the same on every machine and in every process."""
    key = f"{run_seed}/{step}/{prompt_id}/{sample}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
