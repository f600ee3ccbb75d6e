"""From samples to packed microbatches, in the order of their groups."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from trainer.types import Microbatch, TrainingBatch, TrainingSample

LINEAR_LENGTH = 16384
"""Length at which a sequence's attention costs as much as all else: about 12 times the width of the usual models,
so 18,000 for one of 1.5 billion parameters. By the square of the length alone one rank would get all the short ones."""


def build_batches(
    samples: Sequence[TrainingSample], num_updates: int, tokens_per_microbatch: int, rank: int = 0, num_ranks: int = 1
) -> tuple[TrainingBatch, ...]:
    """One batch an optimizer step. Samples are dealt out in turn, so every update sees a part of every group.

    Whole groups would make each update follow a few prompts: with 4 of 16 prompts an update, gradients were half as
    large again in norm and the reward rose more slowly (LAB_LOG.md). With fewer groups than updates there are fewer
    updates: an optimizer step on next to nothing would still move the policy. So would one on masked samples alone.
    """
    num_updates = min(num_updates, len({sample.group_index for sample in samples}))
    parts = (samples[i::num_updates] for i in range(num_updates))
    batches = (build_batch(part, tokens_per_microbatch, rank, num_ranks) for part in parts)
    return tuple(batch for batch in batches if batch.num_loss_tokens)


def build_batch(
    samples: Sequence[TrainingSample], tokens_per_microbatch: int, rank: int = 0, num_ranks: int = 1
) -> TrainingBatch:
    """Pack this rank's share of an update's samples; every rank gets as many microbatches, and knows the counts of all.

    Where there is nothing left for a rank it goes through the motions with a token that is masked: the others wait for
    it with every layer.
    """
    trained = [s for s in samples if s.in_loss]
    rows = balance([num_tokens(s) for s in samples], tokens_per_microbatch, num_ranks)[rank]
    return TrainingBatch(
        microbatches=tuple(pack([samples[i] for i in row] or [_nothing(samples[0])]) for row in rows),
        num_loss_tokens=sum(len(s.token_ids) for s in trained),
        num_sequences=len(trained),
    )


def _nothing(sample: TrainingSample) -> TrainingSample:
    first = {name: getattr(sample, name)[:1] for name in ("prompt_ids", "token_ids", "rollout_logprobs")}
    return replace(sample, **first, in_loss=False)


def cost(length: int) -> int:
    """Of one sequence, in units of one pair of tokens in attention."""
    return length * length + LINEAR_LENGTH * length


def balance(lengths: Sequence[int], max_tokens: int, num_ranks: int) -> list[list[list[int]]]:
    """[rank][row] -> indices of the sequences in it: as few rows as possible, the same number on every rank.

    Longest first, each to the row that costs least so far and has room (Graham's rule, at most 4/3 of the best possible
    largest row where room does not matter); in the row they lie in this order too. Then the rows are dealt out by cost,
    so that the ranks, which go through their rows in step, wait little for each other. A sequence longer than
    `max_tokens` gets a row for itself.
    """
    num_rows = num_ranks * max(1, -(-sum(lengths) // (max_tokens * num_ranks)))
    while (rows := _fill(lengths, max_tokens, num_rows)) is None:
        num_rows += num_ranks
    rows.sort(key=lambda row: -sum(cost(lengths[i]) for i in row))
    rounds = [rows[i : i + num_ranks] for i in range(0, num_rows, num_ranks)]
    # There and back, so that the first rank does not get the dearest of every round.
    return [[r[rank] if i % 2 == 0 else r[-1 - rank] for i, r in enumerate(rounds)] for rank in range(num_ranks)]


def _fill(lengths: Sequence[int], max_tokens: int, num_rows: int) -> list[list[int]] | None:
    """None where the sequences do not fit into so many rows this way."""
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    tokens, costs = [0] * num_rows, [0] * num_rows
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):  # stable: equal lengths stay in order
        fitting = [row for row in range(num_rows) if not rows[row] or tokens[row] + lengths[i] <= max_tokens]
        if not fitting:
            return None
        row = min(fitting, key=costs.__getitem__)
        rows[row].append(i)
        tokens[row] += lengths[i]
        costs[row] += cost(lengths[i])
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
