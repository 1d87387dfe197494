"""Intervals and tests against statsmodels and SciPy outputs, and their degenerate cases."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.statistics import estimates

GOLDEN = json.loads((Path(__file__).parent / "golden" / "stats.json").read_text(encoding="utf-8"))
quick = settings(max_examples=40, deadline=None, database=None, derandomize=True)
floats = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3))


# Wilson, Holm


@pytest.mark.parametrize("case", GOLDEN["wilson"], ids=lambda case: f"{case['k']}of{case['n']}")
def test_wilson(case):
    assert estimates.wilson(case["k"], case["n"], case["alpha"]) == pytest.approx(case["expected"], abs=1e-12)


def test_wilson_bounds_are_exact_at_the_ends():
    # Ten and thirteen are trials for which rounding alone would step outside or inside.
    assert estimates.wilson(0, 10)[0] == 0
    assert estimates.wilson(13, 13)[1] == 1


@quick
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_mirrors(case):
    k, n = case
    low, high = estimates.wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert estimates.wilson(n - k, n) == pytest.approx((1 - high, 1 - low))
    inner = estimates.wilson(k, n, alpha=0.5)
    assert low <= inner[0] <= inner[1] <= high


@pytest.mark.parametrize(("k", "n", "alpha"), [(0, 0, 0.05), (-1, 5, 0.05), (6, 5, 0.05), (1, 5, 0), (1, 5, 1)])
def test_wilson_rejects(k, n, alpha):
    with pytest.raises(ValueError, match=r"trials|alpha"):
        estimates.wilson(k, n, alpha)


@pytest.mark.parametrize("case", GOLDEN["holm"], ids=lambda case: f"{len(case['p'])}tests")
def test_holm(case):
    assert estimates.holm(case["p"]).tolist() == pytest.approx(case["expected_adjusted"], rel=1e-12)


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_holm_is_monotone_and_ignores_the_order(p, random):
    adjusted = estimates.holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1, np.array(p) * len(p))).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()
    order = list(range(len(p)))
    random.shuffle(order)
    assert estimates.holm([p[i] for i in order]).tolist() == adjusted[order].tolist()


@pytest.mark.parametrize("p", [[], [0.1, math.nan], [-0.1], [1.1]])
def test_holm_rejects(p):
    with pytest.raises(ValueError, match="p"):
        estimates.holm(p)


# Clustered means


def clustered(values, clusters, alpha=0.05):
    """The mean of one group, its error by clusters."""
    return estimates.mean_of_means(values, [0] * len(values), clusters, alpha)


@pytest.mark.parametrize("case", GOLDEN["clustered_mean"], ids=["golden"])
def test_clustered_mean(case):
    result = clustered(case["y"], case["cluster"])
    assert result.estimate == pytest.approx(case["mean"], rel=1e-12)
    assert result.se == pytest.approx(case["se_cluster"], rel=1e-10)
    singletons = clustered(case["y"], range(len(case["y"])))
    assert (singletons.estimate, singletons.se) == pytest.approx((case["mean"], case["se_iid"]), rel=1e-10)


def test_clustered_interval_is_t_on_clusters():
    values = [1.0, 2.0, 4.0]
    result = clustered(values, ["x", "y", "z"])
    # 4.3026527 is the .975 quantile of t with two degrees of freedom.
    half = 4.302652729911275 * np.std(values, ddof=1) / math.sqrt(3)
    assert (result.estimate, result.low, result.high) == pytest.approx((7 / 3, 7 / 3 - half, 7 / 3 + half))


def test_clustered_labels_of_mixed_types_stay_apart():
    assert clustered([0.0, 1.0], [1, "1"]).se == pytest.approx(0.5)


def test_one_cluster_has_no_variance():
    result = clustered([1.0, 2.0], ["x", "x"])
    assert result.estimate == 1.5
    assert all(map(math.isnan, (result.se, result.p, result.low, result.high)))


@quick
@given(st.lists(st.tuples(floats, st.integers(0, 4)), min_size=2, max_size=20), st.integers(2, 4))
def test_copies_of_an_item_add_no_precision(rows, copies):
    values, clusters = zip(*rows)
    once = clustered(values, clusters)
    repeated = clustered(np.repeat(values, copies), np.repeat(clusters, copies))
    assert repeated[:2] == pytest.approx(once[:2], nan_ok=True, abs=1e-9)


@pytest.mark.parametrize(
    ("values", "clusters"), [([], []), ([1.0], []), ([1.0, math.nan], [0, 1]), ([[1.0, 2.0]], [0])]
)
def test_clustered_rejects(values, clusters):
    with pytest.raises(ValueError, match=r"values|labels"):
        clustered(values, clusters)


def test_differences_without_scatter():
    assert clustered([0.0, 0.0], [0, 1]) == (0, 0, 1, 1, 0, 0)
    assert clustered([1.0, 1.0], [0, 1]).p == 0


def test_p_and_interval_agree():
    rng = np.random.default_rng(3)
    differences, images = rng.normal(0.3, 1, 60) - rng.normal(0, 1, 60), np.arange(60) // 2
    p = clustered(differences, images).p
    at_p = clustered(differences, images, alpha=p)
    assert 0 < p < 1
    assert min(abs(at_p.low), abs(at_p.high)) == pytest.approx(0, abs=1e-9)


# Block contrast


def contrast(cells, seeds, scores, weights, **more):
    return estimates.block_fit(cells, seeds, scores).contrast(weights, **more)


def columns(case):
    return [[row[name] for row in case["rows"]] for name in ("cell", "seed", "score")]


@pytest.mark.parametrize("case", GOLDEN["block_contrast"], ids=lambda case: f"{len(case['rows'])}runs")
def test_block_contrast(case):
    first, second = case["contrast"]
    result = contrast(*columns(case), {first: 1, second: -1})
    assert result.estimate == pytest.approx(case["estimate"], rel=1e-9)
    assert result.se == pytest.approx(case["se"], rel=1e-9)
    assert result.df == case["df"]
    assert result.p == pytest.approx(case["p"], rel=1e-8)
    assert [result.low, result.high] == pytest.approx(case["ci95"], rel=1e-8)


def test_two_cells_are_a_paired_t():
    scores = [3.0, 5.0, 4.0, 2.0, 1.0, 4.0]
    result = contrast("aaabbb", [0, 1, 2] * 2, scores, {"a": 1, "b": -1})
    paired = clustered(np.subtract(scores[:3], scores[3:]), range(3))
    assert result == pytest.approx(paired)


@quick
@given(st.lists(floats, min_size=8, max_size=8), st.lists(floats, min_size=4, max_size=4))
def test_seed_effects_cancel_in_a_balanced_grid(scores, effects):
    cells, seeds = ["a"] * 4 + ["b"] * 4, [0, 1, 2, 3] * 2
    weights = {"a": 1, "b": -1}
    plain = contrast(cells, seeds, scores, weights)
    shifted = contrast(cells, seeds, np.add(scores, effects * 2), weights)
    assert plain.estimate == pytest.approx(np.mean(scores[:4]) - np.mean(scores[4:]), abs=1e-9)
    assert (shifted.estimate, shifted.se) == pytest.approx((plain.estimate, plain.se), abs=1e-7)


def test_unbalanced_grid_compares_within_seeds():
    # Cell b ran on the two seeds that score low: the raw means would favour a by 5.
    cells, seeds = list("aaaabbcccc"), [0, 1, 2, 3, 2, 3, 0, 1, 2, 3]
    scores = [10, 10, 0, 0, 1, 1, 12, 12, 2, 2]
    result = contrast(cells, seeds, scores, {"a": 1, "b": -1})
    assert result.estimate == pytest.approx(-1)
    assert result.df == 10 - (3 + 4 - 1)
    mixed = contrast(cells, seeds, scores, {"c": 1, "a": -0.5, "b": -0.5})
    assert mixed.estimate == pytest.approx(1.5)


def test_item_variance_is_added_in_quadrature():
    case = GOLDEN["block_contrast"][0]
    plain = contrast(*columns(case), {0: 1, 1: -1})
    wider = contrast(*columns(case), {0: 1, 1: -1}, item_se=0.6)
    assert wider.se == pytest.approx(math.hypot(plain.se, 0.6))
    assert (wider.estimate, wider.df) == (plain.estimate, plain.df)
    assert wider.high - wider.low > plain.high - plain.low


def test_one_seed_has_no_residual():
    result = contrast("ab", [0, 0], [3.0, 1.0], {"a": 1, "b": -1})
    assert (result.estimate, result.df) == (pytest.approx(2), 0)
    assert all(map(math.isnan, (result.se, result.p, result.low, result.high)))


@pytest.mark.parametrize(
    ("cells", "seeds", "scores", "weights", "message"),
    [
        ("", [], [], {}, "non-empty"),
        ("ab", [0], [1.0, 2.0], {"a": 1, "b": -1}, "seeds"),
        ("a", [0, 0], [1.0, 2.0], {"a": 1, "b": -1}, "cells"),
        ("ab", [0, 0], [1.0, math.nan], {"a": 1, "b": -1}, "finite"),
        ("aab", [0, 0, 0], [1.0, 2.0, 3.0], {"a": 1, "b": -1}, "two runs"),
        ("ab", [0, 0], [1.0, 2.0], {"a": 1, "c": -1}, "no run"),
        ("ab", [0, 0], [1.0, 2.0], {"a": 1, "b": -0.5}, "sum to zero"),
        ("ab", [0, 0], [1.0, 2.0], {}, "sum to zero"),
        ("aabb", [0, 1, 2, 3], [1.0, 2.0, 3.0, 4.0], {"a": 1, "b": -1}, "shared seeds"),
    ],
)
def test_block_contrast_rejects(cells, seeds, scores, weights, message):
    with pytest.raises(ValueError, match=message):
        contrast(cells, seeds, scores, weights)


@pytest.mark.parametrize("item_se", [-1.0, math.nan, math.inf])
def test_block_contrast_rejects_item_se(item_se):
    with pytest.raises(ValueError, match="item_se"):
        contrast("aabb", [0, 1] * 2, [1.0, 2.0, 3.0, 5.0], {"a": 1, "b": -1}, item_se=item_se)


def test_one_fit_gives_every_contrast():
    case = GOLDEN["block_contrast"][0]
    fit = estimates.block_fit(*columns(case))
    for pair in ([0, 1], [1, 2], [2, 0]):
        weights = dict(zip(pair, (1, -1)))
        alone = contrast(*columns(case), weights, alpha=0.1, item_se=0.2)
        assert fit.contrast(weights, alpha=0.1, item_se=0.2) == alone
    seeds = len({row["seed"] for row in case["rows"]})
    # A full grid: the standard error of a difference is sd * sqrt(2 / seeds).
    assert fit.df == case["df"]
    assert fit.sd == pytest.approx(case["se"] / math.sqrt(2 / seeds))


# Spread, power


@pytest.mark.parametrize(("sd", "df", "low", "high"), [(1, 9, 0.6878, 1.8256), (2, 24, 1.5617, 2.7823)])
def test_spread_interval(sd, df, low, high):
    # From printed tables of chi-squared: 2.700 and 19.023 for 9, 12.401 and 39.364 for 24.
    assert estimates.spread_interval(sd, df) == pytest.approx((low, high), abs=1e-4)
    wider = estimates.spread_interval(sd, df, alpha=0.01)
    assert wider[0] < low < sd < high < wider[1]


def test_spread_interval_degenerate():
    assert all(map(math.isnan, estimates.spread_interval(1.0, 0)))
    assert estimates.spread_interval(0.0, 3) == (0, 0)
    for sd in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="sd"):
            estimates.spread_interval(sd, 3)
    with pytest.raises(ValueError, match="alpha"):
        estimates.spread_interval(1.0, 3, alpha=2)


def test_power_of_a_paired_t():
    # Cohen's textbook case: d = .5 needs 34 pairs for .8 and has .8078 with them.
    assert estimates.power(0.5, 1 / math.sqrt(34), 33) == pytest.approx(0.8078, abs=1e-4)
    assert estimates.power(0.5, 1 / math.sqrt(33), 32) < 0.8
    assert estimates.seeds_for_power(0.5, 1.0, 0.0, weights_square_sum=1.0) == 34


@quick
@given(st.floats(0, 60), st.integers(1, 200), st.sampled_from([0.001, 0.05, 0.5]))
def test_power_grows_with_the_effect_from_alpha_to_one(effect, df, alpha):
    value = estimates.power(effect, 1.0, df, alpha)
    assert alpha - 1e-9 <= value <= 1
    assert estimates.power(-effect, 1.0, df, alpha) == value
    assert estimates.power(effect + 1, 1.0, df, alpha) >= value - 1e-6


def test_power_degenerate():
    assert estimates.power(0.0, 1.0, 7) == pytest.approx(0.05)
    assert math.isnan(estimates.power(1.0, 1.0, 0))
    assert (estimates.power(1.0, 0.0, 3), estimates.power(0.0, 0.0, 3)) == (1, 0)
    for effect, se in ((math.nan, 1.0), (1.0, -1.0), (1.0, math.inf)):
        with pytest.raises(ValueError, match="effect"):
            estimates.power(effect, se, 3)


def test_seeds_for_power_is_the_smallest_number():
    def chance(seeds):
        return estimates.power(0.02, math.sqrt(2 * 0.015**2 / seeds + 0.004**2), 11 * (seeds - 1))

    seeds = estimates.seeds_for_power(0.02, 0.015, 0.004, cells=12)
    assert chance(seeds - 1) < 0.8 <= chance(seeds)
    assert estimates.seeds_for_power(0.02, 0.015, 0.004, cells=12, target=0.95) > seeds
    assert estimates.seeds_for_power(0.02, 0.015, 0.004, cells=2) > seeds
    assert estimates.seeds_for_power(0.02, 0.015, 0.004, weights_square_sum=1.5, cells=12) < seeds


def test_no_number_of_seeds_makes_up_for_few_images():
    # Without any run noise, 2 points at a standard error of 1 point have a power of about .5.
    assert estimates.seeds_for_power(0.02, 0.01, 0.01, cells=12) is None
    assert estimates.seeds_for_power(0.0, 0.01, 0.0) is None


@pytest.mark.parametrize(
    "wrong", [{"cells": 1}, {"run_sd": -1.0}, {"item_se": math.nan}, {"weights_square_sum": 0}, {"target": 1.0}]
)
def test_seeds_for_power_rejects(wrong):
    with pytest.raises(ValueError, match="cells"):
        estimates.seeds_for_power(**({"effect": 0.02, "run_sd": 0.01, "item_se": 0.0} | wrong))


# Resampling


def test_hierarchical_bootstrap_of_seeds_alone():
    # Two seeds, items equal within them: means 0, .5 and 1 with chances 1/4, 1/2 and 1/4.
    differences = np.repeat([[0.0], [1.0]], 6, axis=1)
    assert estimates.hierarchical_bootstrap(differences, range(6), [0] * 6) == (0, 1)
    assert estimates.hierarchical_bootstrap(differences, range(6), [0] * 6, alpha=0.6) == (0.5, 0.5)


def test_hierarchical_bootstrap_of_images_alone():
    # Seeds that agree leave the scatter of the images: a long tail on the right, as percentiles have it.
    values = 2.0 ** np.arange(10)
    result = estimates.hierarchical_bootstrap(np.tile(values, (4, 1)), range(10), [0] * 10, draws=20_000)
    assert result == pytest.approx((21.8, 211.9), rel=0.03)
    copies = np.repeat(np.tile(values, (4, 1)), 3, axis=1)
    groups = ["a", "b", "c"] * 10
    clustered = estimates.hierarchical_bootstrap(copies, np.repeat(np.arange(10), 3), groups, draws=20_000)
    assert clustered == pytest.approx(result)


def test_hierarchical_bootstrap_weighs_groups_and_ignores_draws_without_one():
    # Three items of task a at 0, one of task b at 1: their mean is .5 in each draw that has both.
    differences = np.tile([0.0, 0.0, 0.0, 1.0], (3, 1))
    assert estimates.hierarchical_bootstrap(differences, range(4), list("aaab")) == (0.5, 0.5)


def test_hierarchical_bootstrap_degenerate():
    values = np.arange(6.0).reshape(2, 3)
    assert estimates.hierarchical_bootstrap(np.ones((2, 3)), range(3), [0] * 3) == (1, 1)
    assert all(map(math.isnan, estimates.hierarchical_bootstrap(values[:1], range(3), [0] * 3)))
    assert all(map(math.isnan, estimates.hierarchical_bootstrap(values, [7] * 3, [0] * 3)))
    again = estimates.hierarchical_bootstrap(values, range(3), [0] * 3, draws=99)
    assert again == estimates.hierarchical_bootstrap(values, range(3), [0] * 3, draws=99)
    assert again != estimates.hierarchical_bootstrap(values, range(3), [0] * 3, draws=99, seed=1)


@pytest.mark.parametrize(
    ("differences", "clusters", "groups", "draws", "message"),
    [
        ([1.0, 2.0], [0, 1], [0, 0], 9, "seeds by items"),
        (np.empty((2, 0)), [], [], 9, "non-empty"),
        ([[1.0, math.nan]] * 2, [0, 1], [0, 0], 9, "finite"),
        ([[1.0, 2.0]] * 2, [0], [0, 0], 9, "clusters"),
        ([[1.0, 2.0]] * 2, [0, 1], [0], 9, "groups"),
        ([[1.0, 2.0]] * 2, [0, 1], [0, 0], 0, "draws"),
    ],
)
def test_hierarchical_bootstrap_rejects(differences, clusters, groups, draws, message):
    with pytest.raises(ValueError, match=message):
        estimates.hierarchical_bootstrap(differences, clusters, groups, draws=draws)


def test_hierarchical_bootstrap_covers():
    # 64 images in 4 tasks and 5 seeds; noise of runs, of images in all runs, and of single answers, all of one size.
    rng = np.random.default_rng(5)
    images, tasks, seeds, studies = 64, 4, 5, 400
    clusters, groups = np.repeat(np.arange(images), tasks), np.tile(np.arange(tasks), images)
    hits = 0
    for _ in range(studies):
        runs = rng.normal(0, 0.01 * math.sqrt(seeds), (seeds, 1))
        shared = np.repeat(rng.normal(0, 0.01 * math.sqrt(images), images), tasks)
        answers = rng.normal(0, 0.01 * math.sqrt(seeds * images * tasks), (seeds, images * tasks))
        low, high = estimates.hierarchical_bootstrap(0.02 + runs + shared + answers, clusters, groups, draws=400)
        hits += low <= 0.02 <= high
    assert hits / studies >= 0.95
