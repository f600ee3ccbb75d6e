"""Pushing weights to the engine, and the proof that they arrived."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from trainer.batch import pack, to_device
from trainer.engine.protocol import Engine
from trainer.errors import WeightSyncError
from trainer.policy import Policy
from trainer.types import TrainingSample

PROBE_PROMPT_TOKENS = 64
PROBE_TAIL_TOKENS = 16
"""Random tokens behind a probe's prompt: improbable ones show the smallest change of any weight."""
MOVED = 1e-3
"""Nats by which new weights cannot move a log-probability in the policy and leave every bit that the engine says."""
WHOLE_NUMBERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By the bytes of an element."""
Values = list[list[float]]


@dataclass
class Probe:
    """A few fixed sequences on which engine and trainer must agree."""

    sequences: tuple[tuple[int, ...], ...]
    _seen: tuple[list[int], Values, Values] | None = None
    """Sums of the weights, policy's and engine's values when the engine's last changed."""

    @classmethod
    def of(cls, prompts: Sequence[tuple[int, ...]], vocab_size: int) -> "Probe":
        """The ends of some prompts, each with random tokens behind it, always the same ones."""
        rng = random.Random(0)
        tails = [tuple(rng.randrange(vocab_size) for _ in range(PROBE_TAIL_TOKENS)) for _ in prompts]
        return cls(tuple(p[-PROBE_PROMPT_TOKENS:] + tail for p, tail in zip(prompts, tails, strict=True)))

    def by_policy(self, policy: Policy) -> Values:
        """Log-probability at temperature 1 of every token but the first of each sequence, by the trainer."""
        batch = pack([TrainingSample(i, s[:1], s[1:], (0.0,) * len(s[1:]), 0.0) for i, s in enumerate(self.sequences)])
        temperature, policy.temperature = policy.temperature, 1.0
        try:
            with torch.no_grad():
                logprobs = policy.logprobs(to_device(batch, policy.device)).tolist()
        finally:
            policy.temperature = temperature
        lengths = [len(sequence) - 1 for sequence in self.sequences]
        return [logprobs[sum(lengths[:i]) : sum(lengths[: i + 1])] for i in range(len(lengths))]

    def by_engine(self, engine: Engine) -> Values:
        return engine.fingerprint(self.sequences)

    def is_stale(self, sums: list[int], policy: Values, engine: Values) -> bool:
        """Whether the engine says the very same as before although it was given other weights, which moved the policy.

        In bfloat16 engine and trainer round so differently that weights of some steps ago are within tolerance. Sums
        tell new weights from the same ones in other kernels.
        """
        if self._seen is None or self._seen[2] != engine:
            self._seen = sums, policy, engine
        return sums != self._seen[0] and largest_difference(policy, self._seen[1]) > MOVED


def largest_difference(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> float:
    """Over all tokens; NaN anywhere makes it infinite."""
    differences = [abs(x - y) for row, other in zip(a, b, strict=True) for x, y in zip(row, other, strict=True)]
    return max(d if d == d else float("inf") for d in differences)


def push_weights(policy: Policy, engine: Engine, version: int, probe: Probe, tolerance: float) -> float:
    """Push, then compare; returns the largest difference of log-probabilities, nats.

    Raises WeightSyncError where they did not arrive: the run would go on sampling from another policy than it trains.
    """
    sums: list[torch.Tensor] = []
    engine.push(summed(policy.weights(), sums), version)
    ours, theirs = probe.by_policy(policy), probe.by_engine(engine)
    difference = largest_difference(ours, theirs)
    if difference > tolerance:
        fault = f"differ from the trainer's by {difference:.3g} (tolerance {tolerance:g})"
    elif probe.is_stale([int(number) for number in sums], ours, theirs):
        fault = "are those of before, to the last bit"
    else:
        return difference
    raise WeightSyncError(
        f"after the weight sync of step {version} the engine's log-probabilities {fault}: the weights did not arrive"
    )


def summed(weights: Iterable[tuple[str, torch.Tensor]], sums: list[torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights, and for each that was taken the sum of its elements' bits as whole numbers."""
    for name, tensor in weights:
        sums.append(tensor.view(WHOLE_NUMBERS[tensor.element_size()]).sum())
        yield name, tensor
