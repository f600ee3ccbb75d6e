"""Packing."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from trainer.batch import LINEAR_LENGTH, balance, build_batch, build_batches, cost, pack
from trainer.types import TrainingSample


def sample(group: int, prompt: int, completion: int, in_loss: bool = True) -> TrainingSample:
    """Token ids tell where they come from: 100 * group + place."""
    ids = range(100 * group, 100 * group + prompt + completion)
    return TrainingSample(
        group_index=group,
        prompt_ids=tuple(ids[:prompt]),
        token_ids=tuple(ids[prompt:]),
        rollout_logprobs=tuple(-0.5 for _ in range(completion)),
        advantage=float(group),
        in_loss=in_loss,
    )


def test_two_sequences_by_hand() -> None:
    batch = pack([sample(1, 2, 2), sample(2, 1, 2, in_loss=False)])
    assert batch.input_ids.tolist() == [100, 101, 102, 103, 200, 201, 202]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert (batch.lengths, batch.after) == ((4, 3), (None, None))
    assert batch.predict_at.tolist() == [1, 2, 4, 5]
    assert batch.targets.tolist() == [102, 103, 201, 202]
    assert batch.sequence_ids.tolist() == [0, 0, 1, 1]
    assert batch.advantages.tolist() == [1, 1, 2, 2]
    assert batch.loss_mask.tolist() == [True, True, False, False]
    assert batch.rollout_logprobs.dtype == torch.float32


FIRST, SECOND, OTHER = sample(1, 2, 1), replace(sample(1, 2, 2), token_ids=(150, 151)), sample(2, 2, 1)


def test_completions_of_one_prompt_by_hand() -> None:
    """The example of types.Microbatch."""
    batch = pack([FIRST, SECOND, OTHER])
    assert batch.input_ids.tolist() == [100, 101, 102, 150, 151, 200, 201, 202]
    assert batch.position_ids.tolist() == [0, 1, 2, 2, 3, 0, 1, 2]
    assert (batch.lengths, batch.after) == ((2, 1, 2, 3), (None, 0, 0, None))
    assert batch.predict_at.tolist() == [1, 1, 3, 6]
    assert batch.targets.tolist() == [102, 150, 151, 202]
    assert batch.sequence_ids.tolist() == [0, 1, 1, 2]
    assert batch.advantages.tolist() == [1, 1, 1, 2]


def test_what_belongs_to_completions_stays_in_the_order_of_the_samples() -> None:
    batch = pack([FIRST, OTHER, SECOND])
    assert batch.input_ids.tolist() == [100, 101, 102, 150, 151, 200, 201, 202]
    assert batch.predict_at.tolist() == [1, 6, 1, 3]
    assert batch.targets.tolist() == [102, 202, 150, 151]
    assert batch.sequence_ids.tolist() == [0, 1, 2, 2]
    assert batch.advantages.tolist() == [1, 2, 1, 1]


def alone(lengths: Sequence[int]) -> list[TrainingSample]:
    """Sequences of that many tokens; no two share a prompt."""
    return [sample(i, 1, length - 1) for i, length in enumerate(lengths)]


def tokens_in(row: Sequence[TrainingSample]) -> int:
    """A prompt once for all that share it."""
    return sum(map(len, {s.prompt_ids for s in row})) + sum(len(s.token_ids) for s in row)


def rows_of(samples: Sequence[TrainingSample], max_tokens: int, num_ranks: int) -> list[list[TrainingSample]]:
    """All rows, after checking what holds of any: the same number on every rank, every sequence once, none too full."""
    ranks = balance(samples, max_tokens, num_ranks)
    assert len({len(rows) for rows in ranks}) == 1
    rows = [row for rows in ranks for row in rows]
    assert sorted(id(s) for row in rows for s in row) == sorted(map(id, samples))
    assert all(tokens_in(row) <= max_tokens or len(row) == 1 for row in rows)
    return rows


def row_cost(row: Sequence[TrainingSample]) -> int:
    return sum(cost([s]) for s in row)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
def test_rows_hold_every_sequence_once_within_the_budget(num_ranks: int) -> None:
    lengths = [2 + g % 3 + g * 7 % 11 for g in range(40)] + [65]
    rows = rows_of(alone(lengths), 32, num_ranks)
    assert len(rows) <= num_ranks + 1 + -(-sum(lengths[:40]) // 32) * 1.3


def least_cost(samples: Sequence[TrainingSample], max_tokens: int, num_rows: int) -> int | None:
    """The smallest largest row of all ways to fill so many rows, nothing shared; None where nothing fits."""
    best = None
    lengths, costs = [tokens_in([s]) for s in samples], [cost([s]) for s in samples]
    for places in itertools.product(range(num_rows), repeat=len(samples)):
        rows = [[i for i, place in enumerate(places) if place == row] for row in range(num_rows)]
        if all(sum(lengths[i] for i in row) <= max_tokens or len(row) == 1 for row in rows):
            worst = max(sum(costs[i] for i in row) for row in rows)
            best = worst if best is None else min(best, worst)
    return best


@pytest.mark.parametrize("seed", range(12))
def test_rows_are_as_even_as_brute_force_allows(seed: int) -> None:
    """Graham's bound: the dearest row costs at most 4/3 of the best possible, where room is no matter."""
    rng = random.Random(seed)
    samples = alone([rng.choice([10, 300, 2000, 9000, 30000]) + rng.randrange(9) for _ in range(7)])
    rows = rows_of(samples, 10**6, 3)
    best = least_cost(samples, 10**6, 3)
    assert best is not None
    assert max(map(row_cost, rows)) <= best * 4 / 3


@pytest.mark.parametrize("seed", range(6))
def test_no_round_more_than_brute_force_needs_and_one(seed: int) -> None:
    rng = random.Random(seed)
    samples = alone([rng.randrange(2, 20) for _ in range(7)])
    fewest = next(n for n in itertools.count(2, 2) if least_cost(samples, 20, n) is not None)
    assert len(rows_of(samples, 20, 2)) <= fewest + 2


def test_rounds_go_to_the_ranks_there_and_back() -> None:
    """Rows of one sequence each, costs descending: rank 0 gets the dearest, then the cheapest of its round."""
    a, b, c, d = alone([90, 80, 70, 60])
    assert balance([a, b, c, d], 90, 2) == [[[a], [d]], [[b], [c]]]


def test_long_sequences_count_more_than_their_tokens() -> None:
    """One of 64k tokens against 128 of 1k: half their tokens, but its attention makes it the dearer."""
    long, *short = alone([65536] + [1024] * 128)
    assert balance([long, *short], 200_000, 2) == [[[long]], [short]]


def test_cost_of_a_bundle_by_hand() -> None:
    """A prompt of 2 with completions of 1 and 3: pairs (2 x 2) + (3 x 3 - 2 x 2) + (5 x 5 - 2 x 2), and 6 tokens."""
    assert cost([sample(1, 2, 1), sample(1, 2, 3)]) == 4 + 5 + 21 + 6 * LINEAR_LENGTH


def groups(*shapes: tuple[int, Sequence[int]]) -> list[TrainingSample]:
    """One for each shape: tokens of the prompt, and of each completion; dealt out in turn, as an update sees them."""
    rows = [[sample(g, prompt, n) for n in completions] for g, (prompt, completions) in enumerate(shapes)]
    return [s for column in itertools.zip_longest(*rows) for s in column if s is not None]


def test_groups_stay_together_where_they_fit() -> None:
    """Two groups of 10 + 4 x 20 = 90 tokens, and rows of 100."""
    samples = groups((10, [20] * 4), (10, [20] * 4))
    assert sorted(len({s.group_index for s in row}) for row in rows_of(samples, 100, 1)) == [1, 1]


def test_a_group_that_does_not_fit_is_halved() -> None:
    """10 + 4 x 20 = 90 tokens, rows of 50: two of 50. Without halves each completion would need its own prompt."""
    assert sorted(map(len, rows_of(groups((10, [20] * 4)), 50, 1))) == [2, 2]


def test_the_only_group_is_shared_by_the_ranks() -> None:
    """It would fit into one row, and the other rank would wait."""
    assert sorted(map(len, rows_of(groups((10, [20] * 8)), 1000, 2))) == [4, 4]


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_groups_of_any_shape_fill_rows_within_the_budget(seed: int, num_ranks: int) -> None:
    rng = random.Random(seed)
    shapes = [(rng.randrange(1, 30), [rng.randrange(1, 40) for _ in range(rng.randrange(1, 9))]) for _ in range(12)]
    samples = groups(*shapes)
    rows = rows_of(samples, 80, num_ranks)
    held = sum(map(tokens_in, rows))
    assert held < sum(len(s.prompt_ids) + len(s.token_ids) for s in samples), "something must be shared"
    assert len(rows) <= num_ranks + 1.3 * held / 80


def test_ranks_share_a_batch_and_know_the_counts_of_all() -> None:
    samples = [sample(g, 1 + g % 3, 1 + g * 7 % 11, in_loss=g % 4 > 0) for g in range(20)]
    alone = build_batch(samples, 32)
    shares = [build_batch(samples, 32, rank, 3) for rank in range(3)]
    assert {(s.num_loss_tokens, s.num_sequences) for s in shares} == {(alone.num_loss_tokens, alone.num_sequences)}
    assert len({len(s.microbatches) for s in shares}) == 1
    found = sorted(int(t) for s in shares for m in s.microbatches for t in m.targets[m.loss_mask])
    assert found == sorted(t for s in samples if s.in_loss for t in s.token_ids)


def test_a_rank_without_a_sequence_gets_a_masked_token() -> None:
    shares = [build_batch([sample(1, 2, 3)], 32, rank, 2) for rank in range(2)]
    assert [len(s.microbatches) for s in shares] == [1, 1]
    [idle] = shares[1].microbatches
    assert (idle.lengths, idle.loss_mask.tolist()) == ((2,), [False])
    assert [s.num_loss_tokens for s in shares] == [3, 3]


def test_every_update_sees_a_part_of_every_group() -> None:
    samples = [sample(g, 1, 1) for g in (3, 3, 5, 5, 8, 8, 9, 9, 11, 11)]
    batches = build_batches(samples, 2, 1000)
    groups = [sorted(int(t) // 100 for m in b.microbatches for t in m.targets) for b in batches]
    assert groups == [[3, 5, 8, 9, 11]] * 2


def test_updates_are_of_like_size_where_groups_are_not() -> None:
    samples = [sample(g, 1, 1) for g in (3, 3, 3, 5, 5, 8, 8)]
    assert [batch.num_sequences for batch in build_batches(samples, 3, 1000)] == [3, 2, 2]


def test_fewer_groups_than_updates_make_fewer_updates() -> None:
    assert len(build_batches([sample(1, 1, 1)], 4, 100)) == 1
    assert build_batches([], 4, 100) == ()


def test_an_update_of_masked_samples_alone_is_none() -> None:
    samples = [sample(g, 1, 1, in_loss=g < 2) for g in (0, 2, 1, 3)]
    assert [batch.num_sequences for batch in build_batches(samples, 2, 100)] == [2]


def test_counts_leave_masked_samples_out() -> None:
    batch = build_batch([sample(1, 2, 3), sample(1, 2, 4, in_loss=False)], 100)
    assert (batch.num_loss_tokens, batch.num_sequences) == (3, 1)
