"""Mean@n and pass@k against counting every subset."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.passk import blend, pass_at_k, score_set


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_mean_over_all_subsets(case: tuple[int, int, int]) -> None:
    num_samples, num_passed, k = case
    samples = [True] * num_passed + [False] * (num_samples - num_passed)
    subsets = list(itertools.combinations(samples, k))
    expected = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at_k(num_samples, num_passed, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_by_hand() -> None:
    assert pass_at_k(4, 1, 2) == 0.5
    assert pass_at_k(256, 256, 128) == 1.0
    assert pass_at_k(256, 0, 256) == 0.0
    assert pass_at_k(1000, 1, 1) == pytest.approx(0.001)


@pytest.mark.parametrize("case", [(4, 5, 1), (4, 1, 5), (4, 1, 0), (4, -1, 2)])
def test_impossible_counts_are_refused(case: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(*case)


def test_set_score_by_hand() -> None:
    score = score_set([[1.0, 0.0], [1.0, 1.0], [0.0, None]], ks=[1, 2])
    assert score.mean == pytest.approx(0.5)  # 0.5, 1, 0
    assert score.standard_error == pytest.approx(0.5 / math.sqrt(3))
    # Within-prompt variances of the mean: 0.5 / 2 and 0; their mean 0.125 over 3 prompts.
    assert score.sampling_error == pytest.approx(math.sqrt(0.125 / 3))
    assert score.pass_at == {1: pytest.approx(0.5), 2: pytest.approx(1.0)}  # pass@2 of the first two prompts only
    assert score.num_prompts == 3
    assert score.unknown_frac == pytest.approx(1 / 6)


def test_threshold_of_a_continuous_reward() -> None:
    groups = [[0.6, 0.4], [0.9, 1.0]]
    assert score_set(groups, ks=[1], threshold=0.5).pass_at == {1: 0.75}
    assert score_set(groups, ks=[1]).pass_at == {1: 0.25}


def test_no_k_above_the_samples() -> None:
    assert score_set([[1.0, 0.0]], ks=[1, 8]).pass_at == {1: 0.5}


def test_one_sample_a_prompt_falls_back_to_the_error_over_prompts() -> None:
    score = score_set([[1.0], [0.0]], ks=[1])
    assert score.sampling_error == score.standard_error == pytest.approx(math.sqrt(0.5) / math.sqrt(2))


def test_nothing_known_is_an_error_not_a_zero() -> None:
    with pytest.raises(ValueError, match="no validation reward"):
        score_set([[None], [math.nan]], ks=[1])


def test_blend_by_hand() -> None:
    good, bad = score_set([[1.0, 1.0], [1.0, 0.0]], ks=[]), score_set([[0.0, 1.0], [0.0, 0.0]], ks=[])
    value, error = blend({"good": good, "bad": bad}, {"good": 3.0, "bad": 1.0, "absent": 9.0})
    assert value == pytest.approx((3 * 0.75 + 0.25) / 4)
    one = math.sqrt(0.125 / 2)
    assert error == pytest.approx(math.hypot(3 * one, one) / 4)
