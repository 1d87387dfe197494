"""Intervals, tests and power of the comparisons, over items that are clustered by image and over seeds.

Alpha is the two-sided error rate: intervals hold 1 - alpha. Values keep the unit they come in. Empty input, unequal
lengths and values that are not finite raise ValueError; a variance that the data cannot give (one cluster, no
residual degree of freedom) is NaN. SciPy is loaded by the functions that need a distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Estimate(NamedTuple):
    """An estimate, its standard error, t degrees of freedom, two-sided p against zero, and interval."""

    estimate: float
    se: float
    df: float
    p: float
    low: float
    high: float


def _vector(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name}: expected a non-empty vector, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: {np.count_nonzero(~np.isfinite(array))} of {array.size} values are not finite")
    return array


def _codes(labels: Sequence[Hashable] | np.ndarray, size: int, name: str) -> tuple[np.ndarray, dict[Hashable, int]]:
    """Labels as integers in order of first appearance, and the integer of each label."""
    # A dictionary and not np.unique, which would turn 1 and "1" into the same label.
    labels = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
    if len(labels) != size:
        raise ValueError(f"{name}: {len(labels)} labels for {size} values")
    index: dict[Hashable, int] = {}
    return np.array([index.setdefault(label, len(index)) for label in labels]), index


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha {alpha} is not between 0 and 1")


def t_estimate(estimate: float, se: float, df: float, alpha: float = 0.05) -> Estimate:
    """The t interval and two-sided test of an estimate; with no degree of freedom only the estimate is a number."""
    from scipy.special import stdtr, stdtrit

    _check_alpha(alpha)
    if not df > 0:
        return Estimate(estimate, math.nan, df, math.nan, math.nan, math.nan)
    # Without error there is nothing to test: an estimate of exactly zero agrees with zero, any other does not.
    if se > 0:
        p = 2 * float(stdtr(df, -abs(estimate) / se))
    else:
        p = 1.0 if estimate == 0 else 0.0
    half = float(stdtrit(df, 1 - alpha / 2)) * se
    return Estimate(estimate, se, df, p, estimate - half, estimate + half)


def wilson(k: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Wilson score interval (low, high) of a share, for k successes among n independent trials.

    Raises ValueError unless n > 0 and 0 <= k <= n. Source: Wilson 1927, Brown, Cai and DasGupta 2001
    """
    from scipy.special import ndtri

    _check_alpha(alpha)
    if n <= 0 or not 0 <= k <= n:
        raise ValueError(f"{k} successes in {n} trials")
    z2 = float(ndtri(1 - alpha / 2)) ** 2
    share = k / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # Rounding would put the exact bounds of 0 and n successes slightly off 0 and 1.
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)


def holm(p: ArrayLike) -> np.ndarray:
    """Holm's step-down adjusted p-values, in the order given, shape (tests,): reject where they are <= alpha.

    Raises ValueError on empty input and on values outside 0..1. Source: Holm 1979
    """
    values = _vector(p, "p")
    if (values < 0).any() or (values > 1).any():
        raise ValueError("p-values must be in 0..1")
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(values.size, 0, -1))
    # `stepped` never falls: an adjusted p must not be smaller than that of a test with a smaller raw p.
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def _cluster_totals(values: np.ndarray, clusters: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each cluster."""
    codes, _ = _codes(clusters, values.size, "clusters")
    return np.bincount(codes, weights=values), np.bincount(codes)


class OverSeeds(NamedTuple):
    """An estimate over several seeds, and the two variances that its interval is made of, in squared units of the scores.

    seeds: of the estimate of one seed, about what all seeds of these cells would give on average; items: of the mean over
    examples that all seeds share, which more seeds do not lower.
    """

    estimate: Estimate
    seeds: float
    items: float


def over_seeds(
    parts: ArrayLike, items: Estimate, each: Sequence[Estimate], alpha: float = 0.05, careful: bool = True
) -> OverSeeds:
    """The t interval of a contrast of cells over seeds; it covers which examples were asked and which seeds were trained.

    parts: shape (cells, seeds), each cell's score in each seed times its weight in the contrast: the contrast of a seed is
    the sum of its column. items: the contrast's estimate from examples averaged over the seeds; each: the estimate of
    every seed by itself. Of a single cell it is the mean of that cell.

    Every cell has a variance of its own (Welch), and cells may go together: the variance of the seeds' contrasts knows of
    that, and the sum of the cells' own variances does not. A few seeds tell badly which is right, and the larger counts.
    What examples scatter by in one seed alone is in that variance already; what they share over the S seeds is
    (S se(mean)^2 - mean se(seed)^2) / (S - 1), or 0 where that is negative.

    careful: there are S - 1 degrees of freedom, however exactly the examples are known. Verdicts need that: where runs are
    of two kinds with even odds, such as a task that is learned or not, five of them look calm in one study of sixteen
    (docs/statistics.md). Otherwise they are Satterthwaite's, with the examples' own for their part.

    Raises ValueError for values that are not finite, shapes that do not fit and fewer than two seeds.

    Source: Welch 1947 and Satterthwaite 1946 on unequal variances; the rest by simulation (tests/test_error_rates.py)
    """
    parts = np.asarray(parts, dtype=float)
    if parts.ndim != 2 or parts.shape[1] < 2 or parts.shape[1] != len(each):
        raise ValueError(f"expected cells by two seeds or more, got shape {parts.shape} and {len(each)} seeds")
    _vector(parts.ravel(), "parts")
    seeds = parts.shape[1]
    if not math.isfinite(items.se):  # one image alone: nobody can say how examples scatter
        return OverSeeds(t_estimate(items.estimate, math.nan, 0, alpha), math.nan, math.nan)
    together, apart = float(parts.sum(0).var(ddof=1)), float(parts.var(axis=1, ddof=1).sum())
    own = sum(one.se**2 for one in each) / seeds
    shared = max(0.0, (seeds * items.se**2 - own) / (seeds - 1))
    between = max(together, apart)
    variance, df = between / seeds + shared, float(seeds - 1)
    if not careful and variance > 0:
        df = variance**2 / ((between / seeds) ** 2 / (seeds - 1) + (shared**2 / items.df if shared else 0.0))
    return OverSeeds(t_estimate(items.estimate, math.sqrt(variance), df, alpha), between, shared)


def spread_interval(sd: float, df: float, alpha: float = 0.05) -> tuple[float, float]:
    """Chi-squared interval (low, high) of a standard deviation estimated on df degrees of freedom, in its unit.

    NaN with no degree of freedom. Raises ValueError on an sd that is negative or not finite. It relies on normal
    scatter more than intervals of means do.
    """
    from scipy.special import chdtri

    _check_alpha(alpha)
    if not (math.isfinite(sd) and sd >= 0):
        raise ValueError(f"sd {sd}")
    if not df > 0:
        return math.nan, math.nan
    # chdtri takes the probability above its value.
    return sd * math.sqrt(df / float(chdtri(df, alpha / 2))), sd * math.sqrt(df / float(chdtri(df, 1 - alpha / 2)))


def power(effect: float, se: float, df: float, alpha: float = 0.05) -> float:
    """Chance that the two-sided t test on df degrees of freedom rejects zero when the true value is `effect`.

    effect and se: in one unit. NaN with no degree of freedom; without error any effect but zero is found. Raises
    ValueError on an effect that is not finite and an se that is negative or not finite.
    """
    from scipy.special import chdtri, nctdtr, ndtr, stdtrit

    _check_alpha(alpha)
    if not (math.isfinite(effect) and math.isfinite(se) and se >= 0):
        raise ValueError(f"effect {effect}, se {se}")
    if not df > 0:
        return math.nan
    if se == 0:
        return float(effect != 0)
    shift, bound = abs(effect) / se, float(stdtrit(df, 1 - alpha / 2))
    # Rejections on the wrong side are rarer than 1e-6 from a shift of 5 on, and SciPy's value there can be NaN.
    wrong_side = float(nctdtr(df, shift, -bound)) if shift < 5 else 0.0
    missed = float(nctdtr(df, shift, bound))
    if math.isnan(missed):  # SciPy's value from a shift of some 37 on: the mean over what the error may turn out to be
        errors = np.sqrt(chdtri(df, (np.arange(4000) + 0.5) / 4000) / df)
        missed = float(ndtr(bound * errors - shift).mean())
    return 1 - missed + wrong_side


_MOST_SEEDS = 200


def seeds_for_power(effect: float, seeds: float, items: float, target: float = 0.8, alpha: float = 0.05) -> int | None:
    """Smallest number of seeds, up to 200, at which a contrast finds `effect` with chance `target`.

    seeds and items: the two variances of `OverSeeds`, in squared units of the effect. None where no number suffices,
    because the examples alone leave too much error. Raises ValueError as `power` does, and on a variance that is negative
    and a target outside 0..1.
    """
    if not seeds >= 0 or not items >= 0 or not 0 < target < 1:
        raise ValueError(f"variances {seeds} and {items}, target {target}")
    for number in range(2, _MOST_SEEDS + 1):
        if power(effect, math.sqrt(seeds / number + items), number - 1, alpha) >= target:
            return number
    return None


def range_of_equals(count: int) -> float:
    """Expected range of `count` independent normal values of one mean, in their standard deviations.

    Source: Tippett 1925
    """
    from scipy.special import ndtr

    grid = np.linspace(-9, 9, 4001)
    below = ndtr(grid)
    return float(np.trapezoid(1 - below**count - (1 - below) ** count, grid))


def best_of(means: ArrayLike, p: Callable[[int, int], float], alpha: float = 0.05) -> list[int]:
    """Which cells may be the best: all but those that another one surely beats, by positions in `means`.

    means: of the cells, shape (cells,), larger being better; p(i, j): two-sided, that cells i and j do not differ. The best
    is among them with a chance of at least 1 - alpha. Raises ValueError on empty input and values that are not finite.

    Source: Hsu 1984 on comparisons with the best, with Bonferroni's level in place of the joint distribution
    """
    means = _vector(means, "means")
    found = []
    for one in range(means.size):
        rivals = [other for other in range(means.size) if means[other] > means[one]]
        # One-sided: half of the two-sided p. The level is shared by all that the best is compared with.
        beaten = any(p(other, one) / 2 < alpha / (means.size - 1) for other in rivals)
        found += [] if beaten else [one]
    return found


def mean_of_means(
    values: ArrayLike, groups: Sequence[Hashable], clusters: Sequence[Hashable], alpha: float = 0.05
) -> Estimate:
    """Unweighted mean over groups (tasks) of their means over items, with a cluster-robust interval.

    values, groups, clusters: shape (items,). An image that is asked about in several tasks is one cluster of all of
    them. The variance is G/(G-1) times the sum over clusters of their squared total influence, where an item of a
    group of n items among k groups weighs 1 / (n k). Raises ValueError on empty or mismatched input.
    """
    values = _vector(values, "values")
    # Unweighted: a task with more questions than another must not count for more.
    codes, names = _codes(groups, values.size, "groups")
    sizes = np.bincount(codes)
    means = np.bincount(codes, weights=values) / sizes
    influence = (values - means[codes]) / (sizes[codes] * len(names))
    totals, _ = _cluster_totals(influence, clusters)
    count = totals.size
    se = math.sqrt(count / (count - 1) * float(np.sum(totals**2))) if count > 1 else math.nan
    return t_estimate(float(means.mean()), se, count - 1, alpha)
