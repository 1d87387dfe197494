"""Intervals and tests of the comparisons: items clustered by image, runs blocked by seed.

Alpha is the two-sided error rate: intervals hold 1 - alpha. Values keep the unit they come in. Empty input, unequal
lengths and values that are not finite raise ValueError; a variance that the data cannot give (one cluster, no
residual degree of freedom) is NaN. SciPy is loaded by the functions that need a distribution.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
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


def _t_estimate(estimate: float, se: float, df: float, alpha: float) -> Estimate:
    from scipy.special import stdtr, stdtrit

    _check_alpha(alpha)
    if not df > 0:
        return Estimate(estimate, math.nan, df, math.nan, math.nan, math.nan)
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
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def _cluster_totals(values: np.ndarray, clusters: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each cluster."""
    codes, _ = _codes(clusters, values.size, "clusters")
    return np.bincount(codes, weights=values), np.bincount(codes)


def _clustered(values: ArrayLike, clusters: Sequence[Hashable]) -> tuple[float, float, int]:
    """Mean, CR1 standard error and number of clusters."""
    values = _vector(values, "values")
    mean = float(values.mean())
    # Centred first: sums of residuals keep their digits where the mean is large.
    sums, _ = _cluster_totals(values - mean, clusters)
    groups = sums.size
    if groups == 1:
        return mean, math.nan, 1
    return mean, float(math.sqrt(groups / (groups - 1) * np.sum(sums**2)) / values.size), groups


def clustered_mean(values: ArrayLike, clusters: Sequence[Hashable]) -> tuple[float, float]:
    """Mean over items and its cluster-robust standard error (CR1), NaN for a single cluster.

    values: shape (items,); clusters: the items' clusters, such as image ids. The variance is G/(G-1) times the sum of
    squared cluster sums of residuals, over items squared. Raises ValueError on empty or mismatched input.

    Source: Cameron and Miller 2015, section II
    """
    return _clustered(values, clusters)[:2]


def clustered_estimate(values: ArrayLike, clusters: Sequence[Hashable], alpha: float = 0.05) -> Estimate:
    """`clustered_mean` with its t interval and its test against zero, on clusters - 1 degrees of freedom."""
    mean, se, groups = _clustered(values, clusters)
    return _t_estimate(mean, se, groups - 1, alpha)


def clustered_interval(
    values: ArrayLike, clusters: Sequence[Hashable], alpha: float = 0.05
) -> tuple[float, float, float]:
    """Mean over items and its interval: (mean, low, high), the bounds NaN for a single cluster.

    t interval on clusters - 1 degrees of freedom around `clustered_mean`.
    """
    result = clustered_estimate(values, clusters, alpha)
    return result.estimate, result.low, result.high


def _differences(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    first, second = _vector(a, "a"), _vector(b, "b")
    if first.size != second.size:
        raise ValueError(f"{first.size} values in a, {second.size} in b")
    return first - second


def paired_difference(a: ArrayLike, b: ArrayLike, clusters: Sequence[Hashable], alpha: float = 0.05) -> Estimate:
    """Mean of a - b over items scored under both conditions, clustered by image.

    a, b: shape (items,), in the same order of items, which the caller asserts by id. Covers the sampling of images
    alone: two training runs differ by their seeds too. Raises ValueError on empty or mismatched input.
    """
    return clustered_estimate(_differences(a, b), clusters, alpha)


def block_contrast(
    cells: Sequence[Hashable],
    seeds: Sequence[Hashable],
    scores: ArrayLike,
    contrast: Mapping[Hashable, float],
    alpha: float = 0.05,
    item_se: float = 0.0,
) -> Estimate:
    """A contrast of cells from one least-squares fit of score = cell + seed over all runs (randomised blocks).

    cells, seeds, scores: one entry for each run; cells need not share all seeds. contrast: weight by cell, summing to
    zero, such as {a: 1, b: -1}. The residual pools the cell-by-seed variation of the whole grid, on runs - rank
    degrees of freedom (with none left, the standard error, p and interval are NaN). item_se: standard error of the
    same contrast over images (`paired_difference` of scores averaged over seeds), added in quadrature, because all
    runs share their images; the degrees of freedom stay the residual ones, which is the wider choice.

    Raises ValueError on empty or mismatched input, a repeated run of one cell and seed, a cell that has no run,
    weights that do not sum to zero, and cells that no chain of shared seeds links.

    Source: Montgomery, Design and Analysis of Experiments, chapter 4
    """
    scores = _vector(scores, "scores")
    cell_codes, cell_index = _codes(cells, scores.size, "cells")
    seed_codes, seed_index = _codes(seeds, scores.size, "seeds")
    if len(set(zip(cell_codes.tolist(), seed_codes.tolist()))) != scores.size:
        raise ValueError("a cell has two runs of one seed")
    if missing := [cell for cell in contrast if cell not in cell_index]:
        raise ValueError(f"no run of the cells {missing}")
    if not contrast or abs(math.fsum(contrast.values())) > 1e-9:
        raise ValueError("the weights of a contrast must sum to zero")
    if not (math.isfinite(item_se) and item_se >= 0):
        raise ValueError(f"item_se {item_se}")

    design = np.hstack([np.eye(len(cell_index))[cell_codes], np.eye(len(seed_index))[seed_codes]])
    weights = np.zeros(design.shape[1])
    for cell, weight in contrast.items():
        weights[cell_index[cell]] = weight
    # The minimum-norm fit serves a design that is rank-deficient by construction: estimable contrasts are unique.
    inverse = np.linalg.pinv(design)
    if not np.allclose(inverse @ (design @ weights), weights, atol=1e-8):
        raise ValueError("the cells of the contrast are not linked by shared seeds")
    runs_weights = weights @ inverse
    centred = scores - scores.mean()
    residual = centred - design @ (inverse @ centred)
    df = scores.size - int(np.linalg.matrix_rank(design))
    variance = float(residual @ residual) / df if df else math.nan
    se = math.sqrt(variance * float(runs_weights @ runs_weights) + item_se**2)
    return _t_estimate(float(runs_weights @ centred), se, float(df), alpha)


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    alpha: float = 0.05,
    draws: int = 9999,
    seed: int = 0,
) -> tuple[float, float]:
    """BCa bootstrap interval (low, high) of the mean of a - b over items, resampling whole clusters.

    a, b: shape (items,), in the same order of items; clusters: the items' clusters, by default each item its own. The
    acceleration comes from leaving each cluster out in turn. NaN for a single cluster; both bounds are the mean where
    all clusters agree. Raises ValueError on empty or mismatched input and on draws < 1.

    Source: Efron 1987; Efron and Tibshirani 1993, chapter 14
    """
    from scipy.special import ndtr, ndtri

    _check_alpha(alpha)
    if draws < 1:
        raise ValueError(f"{draws} draws")
    values = _differences(a, b)
    sums, sizes = _cluster_totals(values, range(values.size) if clusters is None else clusters)
    groups, mean = sums.size, float(values.mean())
    if groups == 1:
        return math.nan, math.nan
    if np.ptp(sums / sizes) == 0:
        return mean, mean

    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    # Blocks bound the memory: 256 draws of 20,000 clusters are 40 MB.
    for start in range(0, draws, 256):
        picks = rng.integers(groups, size=(min(256, draws - start), groups))
        means[start : start + 256] = sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)

    # Ties count half; kept off 0 and 1, where the normal quantile is infinite.
    below = (np.count_nonzero(means < mean) + np.count_nonzero(means <= mean)) / (2 * draws)
    bias = float(ndtri(min(max(below, 0.5 / draws), 1 - 0.5 / draws)))
    left_out = (values.sum() - sums) / (values.size - sizes)
    spread = left_out.mean() - left_out
    scale = float(np.sum(spread**2))
    acceleration = float(np.sum(spread**3)) / (6 * scale**1.5) if scale > 0 else 0.0
    shifted = bias + ndtri(np.array([alpha / 2, 1 - alpha / 2]))
    low, high = np.quantile(means, ndtr(bias + shifted / (1 - acceleration * shifted)))
    return float(low), float(high)


_EXACT_PAIRS = 16


def sign_flip(differences: ArrayLike, draws: int = 99_999, seed: int = 0) -> float:
    """Two-sided p-value of a sign-flip permutation test that paired differences centre on zero.

    differences: shape (pairs,), such as one difference for each seed. All sign patterns are enumerated up to 16 pairs,
    so that p is at least 2 / 2^pairs: .25 for three, below .05 from six on. Beyond, `draws` random patterns are
    used and the observed one counted among them. Raises ValueError on empty input and on draws < 1.

    Source: Fisher 1935; Phipson and Smyth 2010 for the random patterns
    """
    values = _vector(differences, "differences")
    if draws < 1:
        raise ValueError(f"{draws} draws")
    magnitudes = np.abs(values)
    # Patterns with the observed sum must count as equal in spite of rounding.
    threshold = abs(values.sum()) - 1e-12 * magnitudes.sum()
    if values.size <= _EXACT_PAIRS:
        sums = np.zeros(1)
        for magnitude in magnitudes:
            sums = np.concatenate([sums + magnitude, sums - magnitude])
        return float(np.mean(np.abs(sums) >= threshold))
    rng = np.random.default_rng(seed)
    extreme = 0
    for start in range(0, draws, 4096):
        signs = rng.integers(2, size=(min(4096, draws - start), values.size)) * 2 - 1
        extreme += int(np.count_nonzero(np.abs(signs @ magnitudes) >= threshold))
    return (extreme + 1) / (draws + 1)


def mean_of_means(
    values: ArrayLike, groups: Sequence[Hashable], clusters: Sequence[Hashable], alpha: float = 0.05
) -> Estimate:
    """Unweighted mean over groups (tasks) of their means over items, with a cluster-robust interval.

    values, groups, clusters: shape (items,). An image that is asked about in several tasks is one cluster of all of
    them. The variance is G/(G-1) times the sum over clusters of their squared total influence, where an item of a
    group of n items among k groups weighs 1 / (n k). Raises ValueError on empty or mismatched input.
    """
    values = _vector(values, "values")
    codes, names = _codes(groups, values.size, "groups")
    sizes = np.bincount(codes)
    means = np.bincount(codes, weights=values) / sizes
    influence = (values - means[codes]) / (sizes[codes] * len(names))
    totals, _ = _cluster_totals(influence, clusters)
    count = totals.size
    se = math.sqrt(count / (count - 1) * float(np.sum(totals**2))) if count > 1 else math.nan
    return _t_estimate(float(means.mean()), se, count - 1, alpha)
