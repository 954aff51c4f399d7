"""What a table of scores may claim: intervals of a mean, paired tests, and Holm's correction.

numpy alone. The unit is what was drawn independently, which is a prompt: scores of several seeds of
one prompt are averaged before they come here, or the intervals are too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

CHUNK = 2**20  # numbers drawn at a time, so that memory does not grow with resamples × values
EXACT_PAIRS = 16  # all 2^n signs up to here: 65,536 sums
RESAMPLES, FLIPS = 10_000, 100_000
FEW = 8  # with fewer values an interval is little more than their range
_NORMAL = NormalDist()


class Interval(NamedTuple):
    """A mean with the ends of its confidence interval, and of how many values (NaN not counted)."""

    mean: float
    low: float
    high: float
    n: int


class Paired(NamedTuple):
    """The mean of a−b with its interval, the two-sided p-value of "no difference", and the pairs."""

    difference: Interval
    p: float
    n: int


def bootstrap_interval(
    values: Sequence[float] | Float[np.ndarray, " value"],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean of independent values and its bias-corrected, accelerated bootstrap interval (BCa).

    Values are resampled with replacement; the interval's ends are those quantiles of the resampled
    means that correct for bias and skewness. The same values, in the same order, and seed give the
    same interval. NaN is left out, and `n` says how many values were not. Without a value all is
    NaN; with one the ends are NaN, for it says nothing of its spread. BCa is somewhat narrow below
    about 20 values, as every bootstrap is.

    Source: Efron, "Better Bootstrap Confidence Intervals", JASA 82 (1987).

    Raises:
        ValueError: a level outside (0, 1), no resamples, or infinite values.
    """
    _check(level, resamples)
    known = _known(np.asarray(values, dtype=np.float64))
    n = len(known)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(known.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    spread = known - mean
    squares = float(np.square(spread).sum())
    if known.min() == known.max():
        return Interval(float(known[0]), float(known[0]), float(known[0]), n)
    rng = np.random.default_rng(seed)
    # of the spread, not of the values: far from 0 their means would be lost to rounding
    means = np.concatenate(
        [spread[rng.integers(n, size=(rows, n))].mean(1) for rows in _chunks(resamples, n)]
    )
    rounding = 1e-12 * float(np.abs(spread).max())  # of few values many means are the mean itself
    ties = np.abs(means) <= rounding
    below = ((means < -rounding).sum() + ties.sum() / 2) / resamples
    bias = _NORMAL.inv_cdf(min(max(float(below), 0.5 / resamples), 1 - 0.5 / resamples))
    acceleration = float((spread**3).sum()) / (6 * squares**1.5)
    ends: list[float] = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = bias + _NORMAL.inv_cdf(tail)
        ends.append(_NORMAL.cdf(bias + z / (1 - acceleration * z)))
    low, high = np.quantile(means, ends) + mean
    return Interval(mean, float(low), float(high), n)


def paired_test(
    a: Sequence[float] | Float[np.ndarray, " pair"],
    b: Sequence[float] | Float[np.ndarray, " pair"],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Paired:
    """Whether a and b differ on the same prompts: the mean of a−b, its interval, and a p-value.

    The p-value is that of the sign-flip permutation test, two-sided: if neither is better, each
    pair's difference is as likely to be its negative. Up to 16 pairs all signs are counted, so p is
    exact (never below 2/2^n); above, 100,000 are drawn and the p-value is (hits + 1)/(drawn + 1).
    Pairs with a NaN are left out. Without a pair p is NaN.

    Source: Fisher, "The Design of Experiments" (1935), section 21; the + 1: Phipson and Smyth,
    "Permutation P-values Should Never Be Zero", SAGMB 9 (2010).

    Raises:
        ValueError: a and b of different lengths, or as for `bootstrap_interval`.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"expected as many values in a as in b, found {len(a)} and {len(b)}")
    differences = _known(first - second)
    interval = bootstrap_interval(differences, level=level, seed=seed)
    return Paired(interval, _sign_flip(differences, seed), len(differences))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests, so enlarged that the chance of any false "p < 0.05" is below 0.05.

    NaN stays NaN and is no test.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scand. J. Statist. 6 (1979).
    """
    order = sorted((i for i, p in enumerate(p_values) if p == p), key=lambda i: p_values[i])
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def _sign_flip(differences: Float[np.ndarray, " pair"], seed: int) -> float:
    n = len(differences)
    if n == 0:
        return math.nan
    # sums of the same numbers in another order or sign differ by rounding
    observed = abs(float(differences.sum())) - 1e-12 * float(np.abs(differences).sum())
    if n <= EXACT_PAIRS:
        bits = np.arange(2**n)[:, None] >> np.arange(n) & 1
        return float((np.abs((1 - 2 * bits) @ differences) >= observed).mean())
    rng = np.random.default_rng(seed)
    hits = 0
    for rows in _chunks(FLIPS, n):
        signs = 1.0 - 2.0 * rng.integers(2, size=(rows, n), dtype=np.int8)
        hits += int((np.abs(signs @ differences) >= observed).sum())
    return (hits + 1) / (FLIPS + 1)


def _chunks(total: int, width: int) -> Iterator[int]:
    most = max(1, CHUNK // width)
    for start in range(0, total, most):
        yield min(most, total - start)


def _known(values: Float[np.ndarray, " value"]) -> Float[np.ndarray, " known"]:
    known = values[~np.isnan(values)]
    if not np.isfinite(known).all():
        raise ValueError("values: expected finite numbers or NaN, found infinity")
    return known


def _check(level: float, resamples: int) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, found {level}")
    if resamples < 1:
        raise ValueError(f"resamples: expected at least 1, found {resamples}")
