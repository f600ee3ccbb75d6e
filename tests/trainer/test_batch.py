"""Packing."""

import torch

from trainer.batch import build_batch, build_batches, fill_rows, num_tokens, pack
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
    assert batch.lengths == (4, 3)
    assert batch.predict_at.tolist() == [1, 2, 4, 5]
    assert batch.targets.tolist() == [102, 103, 201, 202]
    assert batch.sequence_ids.tolist() == [0, 0, 1, 1]
    assert batch.advantages.tolist() == [1, 1, 2, 2]
    assert batch.loss_mask.tolist() == [True, True, False, False]
    assert batch.rollout_logprobs.dtype == torch.float32


def test_rows_hold_every_sample_once_within_the_budget() -> None:
    samples = [sample(g, 1 + g % 3, 1 + g * 7 % 11) for g in range(40)] + [sample(40, 5, 60)]
    rows = fill_rows(samples, 32)
    assert sorted(s.group_index for row in rows for s in row) == list(range(41))
    assert all(sum(map(num_tokens, row)) <= 32 or len(row) == 1 for row in rows)
    assert len(rows) <= 1 + -(-sum(map(num_tokens, samples[:40])) // 32) * 1.3


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
