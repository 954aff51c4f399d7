"""Intervals hold what they claim, p-values are right, and nothing is claimed of nothing."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from zs2.statistics import Interval, bootstrap_interval, holm, paired_test


@pytest.mark.parametrize("skewed", [False, True], ids=["normal", "skewed"])
def test_the_interval_holds_the_true_mean_as_often_as_it_claims(skewed: bool):
    """Of 400 samples of 40 values, 95 % intervals hold the true mean in 91 to 98 % (binomial noise is
    1.1 %; on skewed data every bootstrap is a little narrow at this size)."""
    rng = np.random.default_rng(1)
    truth = math.exp(0.5**2 / 2) if skewed else 0.0
    draw = rng.lognormal(0, 0.5, (400, 40)) if skewed else rng.normal(0, 1, (400, 40))
    found = [bootstrap_interval(row, resamples=1000) for row in draw]
    held = np.mean([i.low <= truth <= i.high for i in found])
    assert 0.91 <= held <= 0.98


def test_skewness_moves_the_interval_towards_the_long_tail():
    """The accelerated interval of skewed values reaches farther on the side of the tail than the
    plain percentile interval does; of symmetric values it is the same on both sides."""
    rng = np.random.default_rng(2)
    skewed = bootstrap_interval(rng.exponential(1, 30))
    assert skewed.high - skewed.mean > 1.15 * (skewed.mean - skewed.low)
    even = rng.normal(0, 1, 30)
    mirror = bootstrap_interval(np.concatenate([even, -even]))
    assert mirror.high == pytest.approx(-mirror.low, rel=0.1)


def test_a_wider_level_is_a_wider_interval_and_more_values_a_narrower_one():
    """Width grows with the level and falls as 1/√n."""
    values = np.random.default_rng(3).normal(5, 2, 400)

    def width(i: Interval) -> float:
        return i.high - i.low

    assert width(bootstrap_interval(values, level=0.99)) > width(bootstrap_interval(values))
    ratio = width(bootstrap_interval(values[:100])) / width(bootstrap_interval(values))
    assert 1.6 < ratio < 2.4
    assert width(bootstrap_interval(values)) == pytest.approx(2 * 1.96 * 2 / 20, rel=0.15)


def test_nan_is_left_out_and_counted():
    """A clip without a score changes nothing but n."""
    some = [1.0, 2.0, 3.0, 4.0]
    assert bootstrap_interval([1.0, math.nan, 2.0, 3.0, math.nan, 4.0]) == bootstrap_interval(some)
    assert bootstrap_interval(some).n == 4


def test_nothing_is_claimed_of_no_value_or_of_one():
    """No value: no mean. One: no interval. NaN, never a width of zero."""
    nothing = bootstrap_interval([math.nan])
    assert nothing.n == 0
    assert all(math.isnan(x) for x in nothing[:3])
    one = bootstrap_interval([7.0])
    assert (one.mean, one.n) == (7.0, 1)
    assert math.isnan(one.low) and math.isnan(one.high)
    assert math.isnan(paired_test([], []).p)


@pytest.mark.parametrize("values", [[0.1, 0.7], [83.1, 85.7], [1 / 3, 2 / 7]])
def test_two_values_bound_their_own_interval(values: list[float]):
    """All that two values say is what lies between them: rounding, by which a resampled mean misses the
    mean that it is, moves no end."""
    found = bootstrap_interval(values)
    assert (found.low, found.high) == pytest.approx((min(values), max(values)))


def test_equal_values_have_no_width():
    """0.1 five times is exactly 0.1, with rounding of no sum in it."""
    assert bootstrap_interval([0.1] * 5) == Interval(0.1, 0.1, 0.1, 5)


def test_the_same_values_give_the_same_figures():
    """A table made twice is the same table; another seed moves an interval a little."""
    values = np.random.default_rng(4).normal(0, 1, 50)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values)
    assert paired_test(values, values[::-1]) == paired_test(values, values[::-1])


def test_means_far_from_zero_keep_their_spread():
    """1e9 + noise has the interval of the noise."""
    noise = np.random.default_rng(5).normal(0, 1, 30)
    near, far = bootstrap_interval(noise), bootstrap_interval(noise + 1e9)
    assert far.high - far.low == pytest.approx(near.high - near.low, rel=1e-6)


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_p_counts_every_sign_of_few_pairs(n: int):
    """Up to 16 pairs p is the share of all 2^n sign patterns at least as extreme, by plain count."""
    differences = np.random.default_rng(n).normal(0.7, 1, n)
    signs = list(product((1, -1), repeat=n))
    sums = [abs(sum(s * d for s, d in zip(pattern, differences, strict=True))) for pattern in signs]
    extreme = sum(total >= abs(differences.sum()) - 1e-9 for total in sums)
    assert paired_test(differences, np.zeros(n)).p == pytest.approx(extreme / len(signs))


def test_p_of_known_cases():
    """All of five pairs better by one: 2/32. No difference at all: 1."""
    assert paired_test([2.0] * 5, [1.0] * 5).p == 2 / 32
    assert paired_test([1.0] * 40, [1.0] * 40).p == 1


def test_drawn_p_agrees_with_the_t_test_and_is_never_zero():
    """Of 30 normal pairs, where signs are drawn, a difference at Student's 5 % point has p near 0.05;
    a clear one has the least p that can be drawn, not 0."""
    rng = np.random.default_rng(6)
    b = rng.normal(0, 1, 30)
    d = rng.normal(0, 1, 30)
    d = (d - d.mean()) / d.std(ddof=1)
    # t = √30·mean, and with 29 degrees of freedom its two-sided 5 % point is 2.045
    p = paired_test(b + d + 2.045 / math.sqrt(30), b).p
    assert p == pytest.approx(0.05, abs=0.01)
    clear = paired_test(b + 5, b)
    assert clear.p == 1 / 100_001
    assert clear.difference.mean == pytest.approx(5)


def test_p_is_uniform_where_nothing_differs():
    """Of 400 comparisons of like with like, about 5 % have p < 0.05."""
    rng = np.random.default_rng(7)
    p = [paired_test(rng.normal(0, 1, 12), rng.normal(0, 1, 12)).p for _ in range(400)]
    assert 0.025 < np.mean(np.array(p) < 0.05) < 0.08


def test_pairs_with_a_hole_are_left_out_together():
    """A prompt that one method has no score for counts for neither."""
    test = paired_test([1.0, math.nan, 3.0], [0.5, 1.0, math.nan])
    assert test.n == test.difference.n == 1
    assert test.difference.mean == 0.5


def test_lists_of_different_lengths_are_refused():
    """Pairs are by position; half a pair is an error, not a shorter test."""
    with pytest.raises(ValueError, match="found 2 and 1"):
        paired_test([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"level": 1.0}, "level"), ({"resamples": 0}, "resamples")],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, float], said: str):
    """Errors name the argument."""
    with pytest.raises(ValueError, match=said):
        bootstrap_interval([1.0, 2.0], **arguments)  # pyright: ignore[reportArgumentType]


def test_infinite_values_are_refused():
    """A mean of infinity would be a table of infinities."""
    with pytest.raises(ValueError, match="infinity"):
        bootstrap_interval([1.0, math.inf])


def test_holm_by_hand():
    """Smallest p times the number of tests, the next times one less, never falling, at most 1."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    with_hole = holm([0.02, math.nan, 0.01])
    assert with_hole[0] == pytest.approx(0.02)
    assert math.isnan(with_hole[1])
    assert with_hole[2] == pytest.approx(0.02)
