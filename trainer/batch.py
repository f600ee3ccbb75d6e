"""From samples to packed microbatches, in the order of their groups."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from trainer.types import Microbatch, TrainingBatch, TrainingSample


def build_batches(
    samples: Sequence[TrainingSample], num_updates: int, tokens_per_microbatch: int
) -> tuple[TrainingBatch, ...]:
    """One batch an optimizer step. Samples are dealt out in turn, so every update sees a part of every group.

    Whole groups would make each update follow a few prompts: with 4 of 16 prompts an update, gradients were half as
    large again in norm and the reward rose more slowly (LAB_LOG.md). With fewer groups than updates there are fewer
    updates: an optimizer step on next to nothing would still move the policy. So would one on masked samples alone.
    """
    num_updates = min(num_updates, len({sample.group_index for sample in samples}))
    batches = (build_batch(samples[i::num_updates], tokens_per_microbatch) for i in range(num_updates))
    return tuple(batch for batch in batches if batch.num_loss_tokens)


def build_batch(samples: Sequence[TrainingSample], tokens_per_microbatch: int) -> TrainingBatch:
    """Pack the samples of one update."""
    trained = [s for s in samples if s.in_loss]
    return TrainingBatch(
        microbatches=tuple(pack(row) for row in fill_rows(samples, tokens_per_microbatch)),
        num_loss_tokens=sum(len(s.token_ids) for s in trained),
        num_sequences=len(trained),
    )


def fill_rows(samples: Sequence[TrainingSample], tokens_per_row: int) -> list[list[TrainingSample]]:
    """First fit, longest first. A sequence longer than a row gets a row for itself."""
    rows: list[list[TrainingSample]] = []
    room: list[int] = []
    for sample in sorted(samples, key=lambda s: -num_tokens(s)):  # stable: equal lengths stay in order
        size = num_tokens(sample)
        fit = next((i for i, free in enumerate(room) if free >= size), None)
        if fit is None:
            rows.append([sample])
            room.append(tokens_per_row - size)
        else:
            rows[fit].append(sample)
            room[fit] -= size
    return rows


def num_tokens(sample: TrainingSample) -> int:
    return len(sample.prompt_ids) + len(sample.token_ids)


def pack(samples: Sequence[TrainingSample]) -> Microbatch:
    """Lay samples one behind the other; types.Microbatch shows the result."""
    ids: list[int] = []
    predict_at: list[int] = []
    for sample in samples:
        first = len(ids) + len(sample.prompt_ids) - 1
        predict_at += range(first, first + len(sample.token_ids))
        ids += [*sample.prompt_ids, *sample.token_ids]
    repeats = torch.tensor([len(s.token_ids) for s in samples])
    return Microbatch(
        input_ids=torch.tensor(ids),
        position_ids=torch.cat([torch.arange(num_tokens(s)) for s in samples]),
        lengths=tuple(num_tokens(s) for s in samples),
        predict_at=torch.tensor(predict_at),
        targets=torch.tensor([t for s in samples for t in s.token_ids]),
        sequence_ids=torch.arange(len(samples)).repeat_interleave(repeats),
        rollout_logprobs=torch.tensor([x for s in samples for x in s.rollout_logprobs]),
        advantages=torch.tensor([s.advantage for s in samples]).repeat_interleave(repeats),
        loss_mask=torch.tensor([s.in_loss for s in samples]).repeat_interleave(repeats),
    )


def to_device(batch: Microbatch, device: torch.device) -> Microbatch:
    """The same microbatch with its tensors on `device`."""
    names = [n for n, v in vars(batch).items() if isinstance(v, torch.Tensor)]
    return replace(batch, **{n: getattr(batch, n).to(device, non_blocking=True) for n in names})
