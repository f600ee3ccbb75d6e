"""Which groups are trained on, carried and refilled."""

import math
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.builders import group
from trainer.config import FilterConfig
from trainer.filter import Refill, add, asked, given_up, is_kept, num_to_ask, start_refill
from trainer.types import RolloutGroup

GOOD, FLAT, BROKEN = [0.0, 1.0], [1.0, 1.0], [None, 1.0]


@pytest.mark.parametrize(
    ("rewards", "kept"),
    [
        ([0.0, 1.0], True),
        ([0.0, 0.01], True),
        ([0.0, 1.0, None], True),
        ([1.0, 1.0], False),
        ([0.0, 0.0, 0.0], False),
        ([0.3, 0.3, None], False),
        ([1.0, None], False),
        ([None, None], False),
    ],
)
def test_which_groups_are_kept(rewards: list[float | None], kept: bool) -> None:
    assert is_kept(rewards, FilterConfig()) is kept


def test_without_dynamic_sampling_only_unknown_rewards_drop_a_group() -> None:
    config = FilterConfig(dynamic_sampling=False)
    assert is_kept(FLAT, config)
    assert not is_kept(BROKEN, config)


def indices(groups: Iterable[RolloutGroup]) -> tuple[int, ...]:
    return tuple(group.index for group in groups)


def ask(refill: Refill, config: FilterConfig) -> tuple[Refill, int]:
    count = num_to_ask(refill, config)
    return asked(refill, count), count


def test_refill_by_hand() -> None:
    config = FilterConfig(oversample=1.5)
    refill, _ = start_refill(4, carry=(), policy_version=0, num_drawn=0, config=config)
    refill, count = ask(refill, config)
    assert count == 6
    refill = add(refill, group(2, GOOD), config)  # finished first, and waits for its turn
    assert (indices(refill.decided), indices(refill.ahead), num_to_ask(refill, config)) == ((), (2,), 0)
    for i, rewards in enumerate([GOOD, FLAT]):
        refill = add(refill, group(i, rewards), config)
    assert (indices(refill.accepted), indices(refill.decided), refill.ahead) == ((0, 2), (0, 1, 2), ())
    assert num_to_ask(refill, config) == 0, "two are missing, three on their way"
    for i, rewards in enumerate([BROKEN, FLAT], 3):
        refill = add(refill, group(i, rewards), config)
    assert (len(refill.decided), refill.fill_frac) == (5, 0.5)
    refill, count = ask(refill, config)
    assert count == 2, "3 for the two missing, one on its way"
    for i in (7, 6, 5):
        refill = add(refill, group(i, GOOD), config)
    assert (indices(refill.accepted), indices(refill.ahead), refill.is_full) == ((0, 2, 5, 6), (7,), True)
    assert (len(refill.decided), refill.next_index, num_to_ask(refill, config)) == (7, 7, 0)


def test_carried_groups_come_first_and_grow_stale() -> None:
    config = FilterConfig(max_carry_steps=1)
    carry = [group(8, GOOD, policy_version=4), group(7, GOOD, policy_version=4), group(6, GOOD, policy_version=3)]
    refill, (stale, *fresh) = start_refill(4, carry, policy_version=5, num_drawn=9, config=config)
    assert (indices(fresh), refill.next_index, refill.num_carried) == ((7, 8), 6, 3)
    assert stale == given_up(6, carry[2].prompt), "it is asked again, and then decided in its place"
    refill, count = ask(refill, config)
    assert count == 1
    for new in (group(9, GOOD, policy_version=5), *fresh, group(6, GOOD, policy_version=5)):
        refill = add(refill, new, config)
    assert indices(refill.accepted) == indices(refill.decided) == (6, 7, 8, 9)


def test_carry_alone_may_fill_the_step() -> None:
    config = FilterConfig()
    refill, fresh = start_refill(1, [group(1, GOOD), group(0, GOOD)], policy_version=0, num_drawn=2, config=config)
    assert num_to_ask(refill, config) == 0
    refill = add(add(refill, fresh[1], config), fresh[0], config)
    assert (indices(refill.accepted), indices(refill.decided), indices(refill.ahead)) == ((0,), (0,), (1,))


def test_starvation_ends_with_what_there_is() -> None:
    config = FilterConfig(max_rounds=3)
    refill, _ = start_refill(2, (), 0, 0, config)
    total = 0
    while True:
        refill, count = ask(refill, config)
        if not count:
            break
        for i in range(count):
            refill = add(refill, group(total + i, FLAT), config)
        total += count
    assert (total, refill.fill_frac, refill.accepted, len(refill.decided)) == (6, 0.0, (), 6)


@given(
    st.lists(st.sampled_from([GOOD, FLAT, BROKEN]), min_size=60, max_size=60),
    st.integers(1, 6),
    st.sampled_from([1.0, 1.5, 3.0]),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
def test_order_of_arrival_does_not_matter(
    fates: list[list[float | None]], num_wanted: int, oversample: float, most_waiting: int, shuffler: random.Random
) -> None:
    """Whatever is finished and judged first: the first good groups in the order of the prompts are trained on."""
    config = FilterConfig(oversample=oversample, max_rounds=2)
    refill, _ = start_refill(num_wanted, (), 0, 0, config)
    refill, _ = ask(refill, config)
    on_the_way = list(range(refill.num_asked))
    while on_the_way and not refill.is_full:
        for _ in range(min(len(on_the_way), 1 + most_waiting)):
            arrived = on_the_way.pop(shuffler.randrange(len(on_the_way)))
            refill = add(refill, group(arrived, fates[arrived]), config)
        before = refill.num_asked
        refill, count = ask(refill, config)
        on_the_way += range(before, before + count)
    good = [i for i in range(refill.num_asked) if fates[i] is GOOD]
    assert list(indices(refill.accepted)) == good[:num_wanted]
    assert [*indices(refill.decided), *indices(refill.ahead)] == sorted(set(range(refill.num_asked)) - set(on_the_way))
    if not refill.is_full:
        assert refill.num_asked == 2 * math.ceil(num_wanted * oversample), "gives up only when all may be asked"
    if oversample == 1.0:
        assert not refill.is_full or not refill.ahead, "strictly on the policy: nothing is left over"
