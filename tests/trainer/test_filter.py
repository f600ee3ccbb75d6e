import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.builders import group
from trainer.config import FilterConfig
from trainer.filter import Fate, Refill, add_round, fate_of, finish, num_to_ask, start_refill
from trainer.types import RolloutGroup

GOOD, FLAT, BROKEN = [0.0, 1.0], [1.0, 1.0], [None, 1.0]


@pytest.mark.parametrize(
    ("rewards", "fate"),
    [
        ([0.0, 1.0], Fate.KEPT),
        ([0.0, 0.01], Fate.KEPT),
        ([0.0, 1.0, None], Fate.KEPT),
        ([1.0, 1.0], Fate.ZERO_SPREAD),
        ([0.0, 0.0, 0.0], Fate.ZERO_SPREAD),
        ([0.3, 0.3, None], Fate.ZERO_SPREAD),
        ([1.0, None], Fate.TOO_FEW_KNOWN),
        ([None, None], Fate.TOO_FEW_KNOWN),
    ],
)
def test_fate(rewards: list[float | None], fate: Fate) -> None:
    assert fate_of(rewards, FilterConfig()) is fate


def test_without_dynamic_sampling_only_unknown_rewards_drop_a_group() -> None:
    config = FilterConfig(dynamic_sampling=False)
    assert fate_of(FLAT, config) is Fate.KEPT
    assert fate_of(BROKEN, config) is Fate.TOO_FEW_KNOWN


def test_min_known() -> None:
    assert fate_of([0.0, 1.0, None], FilterConfig(min_known=3)) is Fate.TOO_FEW_KNOWN


def indices(groups: tuple[RolloutGroup, ...]) -> list[int]:
    return [group.index for group in groups]


def test_refill_by_hand() -> None:
    config = FilterConfig(oversample=1.5)
    refill = start_refill(4, carry=(), policy_version=0, config=config)
    assert num_to_ask(refill, config) == 6
    first = [group(i, rewards) for i, rewards in enumerate([GOOD, FLAT, GOOD, BROKEN, FLAT, FLAT])]
    refill = add_round(refill, first, config)
    assert (indices(refill.accepted), refill.num_zero_spread, refill.num_too_few_known) == ([0, 2], 3, 1)
    assert (refill.kept_group_frac, refill.fill_frac) == (2 / 6, 0.5)
    assert num_to_ask(refill, config) == 3
    refill = add_round(refill, [group(6, GOOD), group(7, GOOD), group(8, GOOD)], config)
    assert num_to_ask(refill, config) == 0
    kept, carry = finish(refill, config)
    assert (indices(kept), indices(carry)) == ([0, 2, 6, 7], [8])
    assert (refill.num_rounds, refill.num_judged, refill.fill_frac) == (2, 9, 1.0)


def test_carried_groups_come_first_and_grow_stale() -> None:
    config = FilterConfig(max_carry_steps=1)
    carry = [group(8, GOOD, policy_version=4), group(5, GOOD, policy_version=3)]
    refill = start_refill(2, carry, policy_version=5, config=config)
    assert (indices(refill.accepted), refill.num_carried, refill.num_stale) == ([8], 1, 1)
    assert num_to_ask(refill, config) == 1
    refill = add_round(refill, [group(9, FLAT, policy_version=5)], config)
    assert refill.kept_group_frac == 0.0
    assert num_to_ask(refill, config) == 1


def test_carry_alone_may_fill_the_step() -> None:
    config = FilterConfig()
    refill = start_refill(1, [group(1, GOOD), group(0, GOOD)], policy_version=0, config=config)
    assert num_to_ask(refill, config) == 0
    assert tuple(map(indices, finish(refill, config))) == ([0], [1])
    assert refill.kept_group_frac == 1.0


def test_no_carry_when_switched_off() -> None:
    config = FilterConfig(oversample=2.0, max_carry_steps=0)
    refill = add_round(start_refill(1, (), 0, config), [group(0, GOOD), group(1, GOOD)], config)
    assert tuple(map(indices, finish(refill, config))) == ([0], [])


def test_starvation_ends_with_what_there_is() -> None:
    config = FilterConfig(max_rounds=3)
    refill = start_refill(2, (), 0, config)
    asked = 0
    while count := num_to_ask(refill, config):
        refill = add_round(refill, [group(asked + i, FLAT) for i in range(count)], config)
        asked += count
    assert (asked, refill.num_rounds, refill.fill_frac) == (6, 3, 0.0)
    assert finish(refill, config) == ((), ())


@given(
    st.lists(st.sampled_from([GOOD, FLAT, BROKEN]), min_size=40, max_size=40),
    st.integers(1, 6),
    st.sampled_from([1.0, 1.5, 3.0]),
    st.randoms(use_true_random=False),
)
def test_order_of_arrival_does_not_matter(
    fates: list[list[float | None]], num_wanted: int, oversample: float, shuffler: random.Random
) -> None:
    config = FilterConfig(oversample=oversample, max_rounds=2)

    def run(shuffled: bool) -> Refill:
        refill, drawn = start_refill(num_wanted, (), 0, config), 0
        while count := num_to_ask(refill, config):
            arrivals = [group(drawn + i, fates[drawn + i]) for i in range(count)]
            if shuffled:
                shuffler.shuffle(arrivals)
            refill, drawn = add_round(refill, arrivals, config), drawn + count
        return refill

    refill = run(shuffled=True)
    assert refill == run(shuffled=False)
    kept, carry = finish(refill, config)
    good = [i for i in range(refill.num_judged) if fates[i] is GOOD]
    assert indices(kept) + indices(carry) == good
    assert len(kept) == min(num_wanted, len(good))
