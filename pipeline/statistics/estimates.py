"""Intervals, tests and power of the comparisons: items clustered by image, runs blocked by seed.

Alpha is the two-sided error rate: intervals hold 1 - alpha. Values keep the unit they come in. Empty input, unequal
lengths and values that are not finite raise ValueError; a variance that the data cannot give (one cluster, no
residual degree of freedom) is NaN. SciPy is loaded by the functions that need a distribution.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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


@dataclass(frozen=True, eq=False)
class BlockFit:
    """One least-squares fit of score = cell + seed over all runs, from which every contrast of cells is read.

    variance: of the residual, which pools the cell-by-seed variation of the whole grid, in squared units of the
    scores, on `df` = runs - rank degrees of freedom; NaN with none left.
    """

    variance: float
    df: int
    cells: Mapping[Hashable, int]  # the column of each cell in the design
    design: np.ndarray  # [runs, cells + seeds] of 0 and 1
    inverse: np.ndarray  # [cells + seeds, runs], its pseudo-inverse
    scores: np.ndarray  # [runs], centred

    @property
    def sd(self) -> float:
        """Standard deviation of a run about its cell and its seed, in the unit of the scores."""
        return math.sqrt(self.variance)

    def contrast(self, weights: Mapping[Any, float], alpha: float = 0.05, item_se: float = 0.0) -> Estimate:
        """A contrast of cells; with no residual degree of freedom its standard error, p and interval are NaN.

        weights: by cell, summing to zero, such as {a: 1, b: -1}. item_se: standard error of the same contrast over images
        (scores averaged over seeds), added in quadrature, because all runs share their images; the degrees of freedom stay
        the residual ones, which is the wider choice.

        Raises ValueError on a cell that has no run, weights that do not sum to zero, an item_se that is negative or not
        finite, and cells that no chain of shared seeds links.
        """
        if missing := [cell for cell in weights if cell not in self.cells]:
            raise ValueError(f"no run of the cells {missing}")
        if not weights or abs(math.fsum(weights.values())) > 1e-9:
            raise ValueError("the weights of a contrast must sum to zero")
        if not (math.isfinite(item_se) and item_se >= 0):
            raise ValueError(f"item_se {item_se}")
        columns = np.zeros(self.design.shape[1])
        for cell, weight in weights.items():
            columns[self.cells[cell]] = weight
        runs = columns @ self.inverse
        # A contrast can be estimated if some combination of runs has exactly its columns. Otherwise the minimum-norm
        # fit would still give a number, for cells that no shared seed compares.
        if not np.allclose(runs @ self.design, columns, atol=1e-8):
            raise ValueError("the cells of the contrast are not linked by shared seeds")
        # More seeds make the first part smaller and never the second: all runs answer the same questions.
        se = math.sqrt(self.variance * float(runs @ runs) + item_se**2)
        return t_estimate(float(runs @ self.scores), se, float(self.df), alpha)


def block_fit(cells: Sequence[Hashable], seeds: Sequence[Hashable], scores: ArrayLike) -> BlockFit:
    """Fit of score = cell + seed (randomised blocks). cells, seeds, scores: one entry for each run.

    Cells need not share all seeds. Raises ValueError on empty or mismatched input and on a repeated run of one cell
    and seed.

    Source: Montgomery, Design and Analysis of Experiments, chapter 4
    """
    scores = _vector(scores, "scores")
    cell_codes, cell_index = _codes(cells, scores.size, "cells")
    seed_codes, seed_index = _codes(seeds, scores.size, "seeds")
    # The same run counted twice would make the error look smaller than it is.
    if len(set(zip(cell_codes.tolist(), seed_codes.tolist()))) != scores.size:
        raise ValueError("a cell has two runs of one seed")
    design = np.hstack([np.eye(len(cell_index))[cell_codes], np.eye(len(seed_index))[seed_codes]])
    # The minimum-norm fit serves a design that is rank-deficient by construction: estimable contrasts are unique.
    inverse = np.linalg.pinv(design)
    centred = scores - scores.mean()
    residual = centred - design @ (inverse @ centred)
    # The columns of the cells and those of the seeds both add up to ones, so the rank is at least one below their
    # number.
    df = scores.size - int(np.linalg.matrix_rank(design))
    variance = float(residual @ residual) / df if df else math.nan
    return BlockFit(variance, df, cell_index, design, inverse, centred)


def with_runs(items: Estimate, runs: Sequence[float], alpha: float = 0.05) -> Estimate:
    """A mean over several runs whose interval covers both which examples were asked and which seeds were trained.

    items: the estimate from scores averaged over the runs, clustered by image; runs: each run's own estimate, two or
    more. The variances of the two means add; the degrees of freedom are Satterthwaite's. Raises ValueError for fewer
    than two runs.

    Source: Satterthwaite 1946
    """
    values = _vector(runs, "runs")
    if values.size < 2:
        raise ValueError(f"{values.size} runs")
    between = float(values.var(ddof=1)) / values.size
    variance = between + items.se**2
    parts = between**2 / (values.size - 1) + (items.se**4 / items.df if items.se > 0 else 0.0)
    df = variance**2 / parts if parts > 0 else items.df
    return t_estimate(items.estimate, math.sqrt(variance), df, alpha)


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


def seeds_for_power(
    effect: float,
    run_sd: float,
    item_se: float,
    weights_square_sum: float = 2.0,
    target: float = 0.8,
    cells: int = 2,
    alpha: float = 0.05,
) -> int | None:
    """Smallest number of seeds, up to 200, at which a contrast of a full grid finds `effect` with chance `target`.

    run_sd: of a run about its cell and its seed (`BlockFit.sd`); item_se: of the contrast over images, which more
    seeds do not lower; effect, run_sd and item_se in one unit. weights_square_sum: of the contrast's weights, 2 for
    one cell against another. cells: in the grid, whose fit leaves (cells - 1)(seeds - 1) degrees of freedom. None
    where no number suffices, because the images alone leave too much error. Raises ValueError as `power` does and on
    fewer than two cells, a negative run_sd or sum of squares, and a target outside 0..1.
    """
    if cells < 2 or not run_sd >= 0 or not item_se >= 0 or not weights_square_sum > 0 or not 0 < target < 1:
        raise ValueError(
            f"cells {cells}, run_sd {run_sd}, item_se {item_se}, weights_square_sum {weights_square_sum}, "
            f"target {target}"
        )
    for seeds in range(2, _MOST_SEEDS + 1):
        se = math.sqrt(run_sd**2 * weights_square_sum / seeds + item_se**2)
        if power(effect, se, (cells - 1) * (seeds - 1), alpha) >= target:
            return seeds
    return None


def _multiplicities(rng: np.random.Generator, draws: int, size: int) -> np.ndarray:
    """How often each of `size` things is picked when `size` are picked with replacement: [draws, size]."""
    picks = rng.integers(size, size=(draws, size)) + np.arange(draws)[:, None] * size
    return np.bincount(picks.ravel(), minlength=draws * size).reshape(draws, size).astype(float)


def hierarchical_bootstrap(
    differences: ArrayLike,
    clusters: Sequence[Hashable],
    groups: Sequence[Hashable],
    alpha: float = 0.05,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval (low, high) of a contrast, resampling seeds and, crossed with them, clusters of items.

    differences: shape (seeds, items), each item's contrast in each seed; clusters, groups: the items' images and
    tasks. The statistic is the mean over groups of the mean over their items, averaged over seeds. A draw without
    any item of some group is left out. No model of the scatter is assumed. The scatter of items within runs is drawn
    twice, so the interval is too wide where that dominates; where nearly all scatter is between few seeds it is too
    short (simulated: .98 and .80 for .95 with five seeds). A check beside `BlockFit.contrast`, not a replacement.

    NaN for a single seed or cluster, and if every draw is left out. Raises ValueError on empty or mismatched input,
    values that are not finite and draws < 1.

    Source: Owen 2007, The pigeonhole bootstrap
    """
    _check_alpha(alpha)
    if draws < 1:
        raise ValueError(f"{draws} draws")
    differences = np.asarray(differences, dtype=float)
    if differences.ndim != 2:
        raise ValueError(f"differences: expected seeds by items, got shape {differences.shape}")
    _vector(differences.ravel(), "differences")
    seeds, items = differences.shape
    cluster_codes, cluster_index = _codes(clusters, items, "clusters")
    group_codes, group_index = _codes(groups, items, "groups")
    shape = len(cluster_index), len(group_index)
    if seeds == 1 or shape[0] == 1:
        return math.nan, math.nan

    cell = cluster_codes * shape[1] + group_codes
    counts = np.bincount(cell, minlength=math.prod(shape)).reshape(shape)
    sums = np.stack([np.bincount(cell, row, minlength=math.prod(shape)).reshape(shape) for row in differences])
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    # Blocks bound the memory: 256 draws of 20,000 images are 40 MB.
    for start in range(0, draws, 256):
        size = min(256, draws - start)
        images = _multiplicities(rng, size, shape[0])
        runs = _multiplicities(rng, size, seeds) / seeds
        totals = np.einsum("ds,dsg->dg", runs, np.tensordot(images, sums, axes=(1, 1)))
        # A draw may hold no item of some group: 0 / 0 is NaN, and such draws are left out below.
        with np.errstate(invalid="ignore"):
            means[start : start + size] = (totals / (images @ counts)).mean(axis=1)
    means = means[np.isfinite(means)]
    if means.size == 0:
        return math.nan, math.nan
    low, high = np.quantile(means, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


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
