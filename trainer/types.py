"""What flows through the trainer, in the order it flows.

    Prompt -> Rollout -> RolloutGroup -> (advantages) TrainingSample -> TrainingBatch -> UpdateStats

All frozen: a stage makes a new value (`dataclasses.replace`), so what was judged can be compared with what was trained.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from verifier_service.schemas import Verdict


@dataclass(frozen=True)
class Prompt:
    """One task of the training data.

    Prompt(id="spell-17", messages=({"role": "user", "content": "Spell cat backward"},),
           task={"kind": "logic", "dataset": "spell_backward", "entry": {...}}, domain="logic", token_ids=(256, 115))
    """

    id: str
    """Unique within the run; with the step and the sample number it determines the sampling seed."""
    messages: tuple[Mapping[str, str], ...]
    """Chat messages with the keys `role` and `content`, at least one."""
    task: Mapping[str, Any]
    """Sent to the verifier as it is; `task["kind"]` names the verifier."""
    domain: str
    """The data set's name in the mixture; metrics are split by it."""
    token_ids: tuple[int, ...]
    """Chat template and generation prompt included; empty until the run's tokenizer is known."""


@dataclass(frozen=True)
class Rollout:
    """One completion, sampled from the policy; with `verdict` once it was judged.

    Rollout(token_ids=(31, 52, 260), logprobs=(-0.1, -2.3, -0.01), text="tac", truncated=False, policy_version=7)
    """

    token_ids: tuple[int, ...]
    """The completion's tokens, the end-of-sequence token included where the policy gave one; at least one."""
    logprobs: tuple[float, ...]
    """The sampler's natural log-probability of each token, at the sampling temperature; as long as `token_ids`."""
    text: str
    """The completion as the verifier gets it, special tokens of the chat format removed."""
    truncated: bool
    """True where `max_tokens` ended the completion and not the policy."""
    policy_version: int
    """Number of weight syncs before the sampling; tells how stale a carried rollout is."""
    verdict: Verdict | None = None
    """None: not yet judged."""
    shaped_reward: float | None = None
    """What advantages are made of: the verdict's reward after the overlong rule; None as long as neither is known."""
    in_loss: bool = True
    """False: the overlong rule masks this completion. It still counts in the group's mean and spread."""

    @property
    def reward(self) -> float | None:
        """The verdict's reward in [0, 1], unshaped; None where unknown (not judged, or outcome `error`)."""
        return None if self.verdict is None else self.verdict.reward


@dataclass(frozen=True)
class RolloutGroup:
    """All rollouts of one prompt in one step.

    RolloutGroup(index=3, prompt=..., rollouts=(r0, r1, ..., r15))
    """

    index: int
    """Counts the prompts drawn since the run began. Groups are accepted in this order, never in order of arrival."""
    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    """`group_size` of them."""


@dataclass(frozen=True)
class TrainingSample:
    """One rollout with known reward and its advantage.

    TrainingSample(group_index=3, prompt_ids=(256, 115), token_ids=(31, 260), rollout_logprobs=(-0.1, -0.01),
                   advantage=1.7, in_loss=True)
    """

    group_index: int
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """Completion tokens."""
    rollout_logprobs: tuple[float, ...]
    """The sampler's log-probabilities, as long as `token_ids`."""
    advantage: float
    """The same for every token of the completion."""
    in_loss: bool = True


@dataclass(frozen=True)
class Microbatch:
    """Sequences in one row without padding, completions behind the prompt that they share; what one forward pass takes.

    Of a prompt of 2 tokens with completions of 1 and 2, and a prompt of 2 with a completion of 1:
        input_ids = [p p c c c p p c]   position_ids = [0 1 2 2 3 0 1 2]
        lengths = (2, 1, 2, 3)          after = (None, 0, 0, None)
        predict_at = [1 1 3 6]          targets = [c c c c]                sequence_ids = [0 1 1 2]

    T tokens in the row, N completion tokens. The hidden state at `predict_at[i]` predicts `targets[i]`.
    """

    input_ids: torch.Tensor
    """int64 [T]."""
    position_ids: torch.Tensor
    """int64 [T], from 0 in each sequence."""
    lengths: tuple[int, ...]
    """Tokens of each segment: a sequence, or where several share a prompt, that and each completion. Their sum is T."""
    after: tuple[int | None, ...]
    """The segment that each goes on from, and sees besides itself; None where a sequence begins."""
    predict_at: torch.Tensor
    """int64 [N], indices into the row."""
    targets: torch.Tensor
    """int64 [N], the completion tokens."""
    sequence_ids: torch.Tensor
    """int64 [N], the number of the sequence within the microbatch, ascending."""
    rollout_logprobs: torch.Tensor
    """float32 [N]."""
    advantages: torch.Tensor
    """float32 [N]."""
    loss_mask: torch.Tensor
    """bool [N]; False for the tokens of a completion that the overlong rule masks."""


@dataclass(frozen=True)
class TrainingBatch:
    """What one optimizer step trains on, on this rank.

    The counts are global, over all ranks and microbatches: a loss normalised by them does not depend on how the
    samples were split.
    """

    microbatches: tuple[Microbatch, ...]
    num_loss_tokens: int
    """Completion tokens with `loss_mask`, all ranks."""
    num_sequences: int
    """Sequences with at least one loss token, all ranks."""
    group_ids: frozenset[int]
    """Of these sequences."""


@dataclass(frozen=True)
class UpdateStats:
    """What the optimizer steps of one training step did; means over loss tokens unless said otherwise."""

    num_updates: int
    num_loss_tokens: int
    grad_norm: float
    """L2 norm before clipping, mean over the updates."""
    learning_rate: float
    """Of the last update."""
    means: Mapping[str, float]
    """From the loss: `loss`, `kl_ref`, `entropy`, `clip_low_frac`, `clip_high_frac`, `logprob_mismatch_kl`, ..."""
