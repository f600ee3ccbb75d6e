"""From samples to packed microbatches, in the order of their groups."""

from collections.abc import Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush
from itertools import count

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
    rows = balance(samples, tokens_per_microbatch, num_ranks)[rank]
    return TrainingBatch(
        microbatches=tuple(pack(row or [_nothing(samples[0])]) for row in rows),
        num_loss_tokens=sum(len(s.token_ids) for s in trained),
        num_sequences=len(trained),
        group_ids=frozenset(s.group_index for s in trained),
    )


def _nothing(sample: TrainingSample) -> TrainingSample:
    first = {name: getattr(sample, name)[:1] for name in ("prompt_ids", "token_ids", "rollout_logprobs")}
    return replace(sample, **first, in_loss=False)


def by_prompt(samples: Sequence[TrainingSample]) -> list[list[int]]:
    """Numbers of the samples whose prompts are the same, which a row holds once."""
    bundles: dict[tuple[int, ...], list[int]] = {}
    for i, sample in enumerate(samples):
        bundles.setdefault(sample.prompt_ids, []).append(i)
    return list(bundles.values())


def num_tokens(bundle: Sequence[TrainingSample]) -> int:
    """In a row, of samples that share their prompt."""
    return len(bundle[0].prompt_ids) + sum(len(s.token_ids) for s in bundle)


def cost(bundle: Sequence[TrainingSample]) -> int:
    """Of samples that share their prompt, in units of one pair of tokens in attention."""
    prompt = len(bundle[0].prompt_ids)
    pairs = prompt**2 + sum((prompt + len(s.token_ids)) ** 2 - prompt**2 for s in bundle)
    return pairs + LINEAR_LENGTH * num_tokens(bundle)


def balance(samples: Sequence[TrainingSample], max_tokens: int, num_ranks: int) -> list[list[list[TrainingSample]]]:
    """[rank][row] -> its samples: as few rows as possible, the same number on every rank.

    Bundles of samples that share their prompt, dearest first, each to the row that costs least so far and has room
    (Graham's rule, at most 4/3 of the best possible largest row where room does not matter and nothing is shared). Then
    the rows are dealt out by cost, so that the ranks, which go through their rows in step, wait little for each other.
    A sequence longer than `max_tokens` gets a row for itself.
    """
    bundles = [[samples[i] for i in numbers] for numbers in by_prompt(samples)]
    num_rows = num_ranks * max(1, -(-sum(map(num_tokens, bundles)) // (max_tokens * num_ranks)))
    while (rows := _fill(bundles, max_tokens, num_rows, num_ranks)) is None:
        num_rows += num_ranks
    rows.sort(key=lambda row: -sum(map(cost, row)))
    rounds = [[[s for b in row for s in b] for row in rows[i : i + num_ranks]] for i in range(0, num_rows, num_ranks)]
    # There and back, so that the first rank does not get the dearest of every round.
    return [[r[rank] if i % 2 == 0 else r[-1 - rank] for i, r in enumerate(rounds)] for rank in range(num_ranks)]


def _fill(
    bundles: Sequence[list[TrainingSample]], max_tokens: int, num_rows: int, num_ranks: int
) -> list[list[list[TrainingSample]]] | None:
    """Rows of bundles, halved where they fit nowhere whole, or where the ranks could not be made even with them: more
    than half of a row's share. None where the sequences do not fit into so many rows this way."""
    rows: list[list[list[TrainingSample]]] = [[] for _ in range(num_rows)]
    tokens, costs = [0] * num_rows, [0] * num_rows
    dearest = sum(map(cost, bundles)) / num_rows / 2 if num_ranks > 1 else float("inf")
    number = count()  # equally dear ones stay in order
    waiting = [(-cost(bundle), next(number), bundle) for bundle in bundles]
    heapify(waiting)
    while waiting:
        negative, _, bundle = heappop(waiting)
        size = num_tokens(bundle)
        fitting = [row for row in range(num_rows) if not rows[row] or tokens[row] + size <= max_tokens]
        if len(bundle) > 1 and (size > max_tokens or -negative > dearest or not fitting):
            for half in (bundle[::2], bundle[1::2]):
                heappush(waiting, (-cost(half), next(number), half))
            continue
        if not fitting:
            return None
        row = min(fitting, key=costs.__getitem__)
        rows[row].append(bundle)
        tokens[row] += size
        costs[row] -= negative
    return rows


def pack(samples: Sequence[TrainingSample]) -> Microbatch:
    """Lay samples one behind the other, a prompt before all that share it; types.Microbatch shows the result.

    What there is for each completion token stays in the order of the samples.
    """
    ids: list[int] = []
    lengths: list[int] = []
    after: list[int | None] = []
    predict_at: list[list[int]] = [[] for _ in samples]
    for numbers in by_prompt(samples):
        prompt, alone, segment = samples[numbers[0]].prompt_ids, len(numbers) == 1, len(lengths)
        ids += prompt
        last = len(ids) - 1
        if not alone:
            lengths.append(len(prompt))
            after.append(None)
        for i in numbers:
            own = samples[i].token_ids
            predict_at[i] = [last, *range(len(ids), len(ids) + len(own) - 1)]
            ids += own
            lengths.append(len(own) + len(prompt) * alone)
            after.append(None if alone else segment)
    repeats = torch.tensor([len(s.token_ids) for s in samples])
    begins = [0 if a is None else lengths[a] for a in after]
    return Microbatch(
        input_ids=torch.tensor(ids),
        position_ids=torch.cat([torch.arange(b, b + n) for b, n in zip(begins, lengths, strict=True)]),
        lengths=tuple(lengths),
        after=tuple(after),
        predict_at=torch.tensor([place for places in predict_at for place in places]),
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
