"""Intervals and tests against statsmodels and SciPy outputs, and their degenerate cases."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation import statistics

GOLDEN = json.loads((Path(__file__).parent / "golden" / "stats.json").read_text(encoding="utf-8"))
quick = settings(max_examples=40, deadline=None, database=None, derandomize=True)
floats = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3))


# Wilson, Holm


@pytest.mark.parametrize("case", GOLDEN["wilson"], ids=lambda case: f"{case['k']}of{case['n']}")
def test_wilson(case):
    assert statistics.wilson(case["k"], case["n"], case["alpha"]) == pytest.approx(case["expected"], abs=1e-12)


def test_wilson_bounds_are_exact_at_the_ends():
    # Ten and thirteen are trials for which rounding alone would step outside or inside.
    assert statistics.wilson(0, 10)[0] == 0
    assert statistics.wilson(13, 13)[1] == 1


@quick
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_mirrors(case):
    k, n = case
    low, high = statistics.wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert statistics.wilson(n - k, n) == pytest.approx((1 - high, 1 - low))
    inner = statistics.wilson(k, n, alpha=0.5)
    assert low <= inner[0] <= inner[1] <= high


@pytest.mark.parametrize(("k", "n", "alpha"), [(0, 0, 0.05), (-1, 5, 0.05), (6, 5, 0.05), (1, 5, 0), (1, 5, 1)])
def test_wilson_rejects(k, n, alpha):
    with pytest.raises(ValueError, match=r"trials|alpha"):
        statistics.wilson(k, n, alpha)


@pytest.mark.parametrize("case", GOLDEN["holm"], ids=lambda case: f"{len(case['p'])}tests")
def test_holm(case):
    assert statistics.holm(case["p"]).tolist() == pytest.approx(case["expected_adjusted"], rel=1e-12)


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_holm_is_monotone_and_ignores_the_order(p, random):
    adjusted = statistics.holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1, np.array(p) * len(p))).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()
    order = list(range(len(p)))
    random.shuffle(order)
    assert statistics.holm([p[i] for i in order]).tolist() == adjusted[order].tolist()


@pytest.mark.parametrize("p", [[], [0.1, math.nan], [-0.1], [1.1]])
def test_holm_rejects(p):
    with pytest.raises(ValueError, match="p"):
        statistics.holm(p)


# Clustered means


@pytest.mark.parametrize("case", GOLDEN["clustered_mean"], ids=["golden"])
def test_clustered_mean(case):
    mean, se = statistics.clustered_mean(case["y"], case["cluster"])
    assert mean == pytest.approx(case["mean"], rel=1e-12)
    assert se == pytest.approx(case["se_cluster"], rel=1e-10)
    singletons = statistics.clustered_mean(case["y"], range(len(case["y"])))
    assert singletons == pytest.approx((case["mean"], case["se_iid"]), rel=1e-10)


def test_clustered_interval_is_t_on_clusters():
    values = [1.0, 2.0, 4.0]
    mean, low, high = statistics.clustered_interval(values, ["x", "y", "z"])
    # 4.3026527 is the .975 quantile of t with two degrees of freedom.
    half = 4.302652729911275 * np.std(values, ddof=1) / math.sqrt(3)
    assert (mean, low, high) == pytest.approx((7 / 3, 7 / 3 - half, 7 / 3 + half))


def test_clustered_labels_of_mixed_types_stay_apart():
    assert statistics.clustered_mean([0.0, 1.0], [1, "1"])[1] == pytest.approx(0.5)


def test_one_cluster_has_no_variance():
    mean, low, high = statistics.clustered_interval([1.0, 2.0], ["x", "x"])
    assert mean == 1.5
    assert math.isnan(low)
    assert math.isnan(high)
    assert math.isnan(statistics.clustered_mean([1.0, 2.0], ["x", "x"])[1])


@quick
@given(st.lists(st.tuples(floats, st.integers(0, 4)), min_size=2, max_size=20), st.integers(2, 4))
def test_copies_of_an_item_add_no_precision(rows, copies):
    values, clusters = zip(*rows)
    once = statistics.clustered_mean(values, clusters)
    repeated = statistics.clustered_mean(np.repeat(values, copies), np.repeat(clusters, copies))
    assert repeated == pytest.approx(once, nan_ok=True, abs=1e-9)


@pytest.mark.parametrize(
    ("values", "clusters"), [([], []), ([1.0], []), ([1.0, math.nan], [0, 1]), ([[1.0, 2.0]], [0])]
)
def test_clustered_rejects(values, clusters):
    with pytest.raises(ValueError, match=r"values|labels"):
        statistics.clustered_mean(values, clusters)
    with pytest.raises(ValueError, match=r"values|labels"):
        statistics.clustered_interval(values, clusters)


def test_paired_difference():
    a, b, images = [1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0], ["i", "i", "j", "k"]
    result = statistics.paired_difference(a, b, images)
    mean, se = statistics.clustered_mean(np.subtract(a, b), images)
    assert (result.estimate, result.se, result.df) == pytest.approx((mean, se, 2))
    assert (result.estimate, result.low, result.high) == pytest.approx(
        statistics.clustered_interval(np.subtract(a, b), images)
    )
    opposite = statistics.paired_difference(b, a, images)
    assert (opposite.estimate, opposite.low, opposite.p) == pytest.approx((-mean, -result.high, result.p))


def test_paired_difference_of_equal_answers():
    result = statistics.paired_difference([1.0, 0.0], [1.0, 0.0], [0, 1])
    assert result == (0, 0, 1, 1, 0, 0)
    assert statistics.paired_difference([1.0, 1.0], [0.0, 0.0], [0, 1]).p == 0


def test_p_and_interval_agree():
    rng = np.random.default_rng(3)
    a, b, images = rng.normal(0.3, 1, 60), rng.normal(0, 1, 60), np.arange(60) // 2
    p = statistics.paired_difference(a, b, images).p
    at_p = statistics.paired_difference(a, b, images, alpha=p)
    assert 0 < p < 1
    assert min(abs(at_p.low), abs(at_p.high)) == pytest.approx(0, abs=1e-9)


def test_paired_difference_rejects():
    with pytest.raises(ValueError, match="2 values in a, 1 in b"):
        statistics.paired_difference([1.0, 2.0], [1.0], [0, 1])
    with pytest.raises(ValueError, match="alpha"):
        statistics.paired_difference([1.0, 2.0], [1.0, 0.0], [0, 1], alpha=0)


# Block contrast


def columns(case):
    return [[row[name] for row in case["rows"]] for name in ("cell", "seed", "score")]


@pytest.mark.parametrize("case", GOLDEN["block_contrast"], ids=lambda case: f"{len(case['rows'])}runs")
def test_block_contrast(case):
    first, second = case["contrast"]
    result = statistics.block_contrast(*columns(case), {first: 1, second: -1})
    assert result.estimate == pytest.approx(case["estimate"], rel=1e-9)
    assert result.se == pytest.approx(case["se"], rel=1e-9)
    assert result.df == case["df"]
    assert result.p == pytest.approx(case["p"], rel=1e-8)
    assert [result.low, result.high] == pytest.approx(case["ci95"], rel=1e-8)


def test_two_cells_are_a_paired_t():
    scores = [3.0, 5.0, 4.0, 2.0, 1.0, 4.0]
    result = statistics.block_contrast("aaabbb", [0, 1, 2] * 2, scores, {"a": 1, "b": -1})
    paired = statistics.paired_difference(scores[:3], scores[3:], range(3))
    assert result == pytest.approx(paired)


@quick
@given(st.lists(floats, min_size=8, max_size=8), st.lists(floats, min_size=4, max_size=4))
def test_seed_effects_cancel_in_a_balanced_grid(scores, effects):
    cells, seeds = ["a"] * 4 + ["b"] * 4, [0, 1, 2, 3] * 2
    contrast = {"a": 1, "b": -1}
    plain = statistics.block_contrast(cells, seeds, scores, contrast)
    shifted = statistics.block_contrast(cells, seeds, np.add(scores, effects * 2), contrast)
    assert plain.estimate == pytest.approx(np.mean(scores[:4]) - np.mean(scores[4:]), abs=1e-9)
    assert (shifted.estimate, shifted.se) == pytest.approx((plain.estimate, plain.se), abs=1e-7)


def test_unbalanced_grid_compares_within_seeds():
    # Cell b ran on the two seeds that score low: the raw means would favour a by 5.
    cells, seeds = list("aaaabbcccc"), [0, 1, 2, 3, 2, 3, 0, 1, 2, 3]
    scores = [10, 10, 0, 0, 1, 1, 12, 12, 2, 2]
    result = statistics.block_contrast(cells, seeds, scores, {"a": 1, "b": -1})
    assert result.estimate == pytest.approx(-1)
    assert result.df == 10 - (3 + 4 - 1)
    mixed = statistics.block_contrast(cells, seeds, scores, {"c": 1, "a": -0.5, "b": -0.5})
    assert mixed.estimate == pytest.approx(1.5)


def test_item_variance_is_added_in_quadrature():
    case = GOLDEN["block_contrast"][0]
    plain = statistics.block_contrast(*columns(case), {0: 1, 1: -1})
    wider = statistics.block_contrast(*columns(case), {0: 1, 1: -1}, item_se=0.6)
    assert wider.se == pytest.approx(math.hypot(plain.se, 0.6))
    assert (wider.estimate, wider.df) == (plain.estimate, plain.df)
    assert wider.high - wider.low > plain.high - plain.low


def test_one_seed_has_no_residual():
    result = statistics.block_contrast("ab", [0, 0], [3.0, 1.0], {"a": 1, "b": -1})
    assert (result.estimate, result.df) == (pytest.approx(2), 0)
    assert all(map(math.isnan, (result.se, result.p, result.low, result.high)))


@pytest.mark.parametrize(
    ("cells", "seeds", "scores", "contrast", "message"),
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
def test_block_contrast_rejects(cells, seeds, scores, contrast, message):
    with pytest.raises(ValueError, match=message):
        statistics.block_contrast(cells, seeds, scores, contrast)


@pytest.mark.parametrize("item_se", [-1.0, math.nan, math.inf])
def test_block_contrast_rejects_item_se(item_se):
    with pytest.raises(ValueError, match="item_se"):
        statistics.block_contrast("aabb", [0, 1] * 2, [1.0, 2.0, 3.0, 5.0], {"a": 1, "b": -1}, item_se=item_se)


# Resampling


def test_paired_bootstrap():
    case = GOLDEN["paired_bootstrap"]
    zeros = np.zeros(len(case["diff"]))
    result = statistics.paired_bootstrap(case["diff"], zeros)
    assert result == pytest.approx(case["bca95"], abs=case["tolerance"])
    assert statistics.paired_bootstrap(case["diff"], zeros) == result
    assert statistics.paired_bootstrap(case["diff"], zeros, seed=1) != result


def test_bootstrap_corrects_for_skew():
    # scipy.stats.bootstrap, BCa, 200,000 resamples; plain percentiles are (21.8, 211.9) and without the bias
    # correction the interval ends near 246.
    result = statistics.paired_bootstrap(2.0 ** np.arange(10), np.zeros(10))
    assert result == pytest.approx((34.3, 256.4), abs=1.6)


def test_bootstrap_resamples_whole_clusters():
    values = np.random.default_rng(7).normal(size=30)
    items = statistics.paired_bootstrap(values, np.zeros(30), draws=1999)
    copied = np.repeat(values, 4)
    clustered = statistics.paired_bootstrap(copied, np.zeros(120), np.repeat(np.arange(30), 4), draws=1999)
    naive = statistics.paired_bootstrap(copied, np.zeros(120), draws=1999)
    assert clustered == pytest.approx(items)
    assert naive[1] - naive[0] < 0.7 * (clustered[1] - clustered[0])


def test_bootstrap_degenerate():
    assert all(map(math.isnan, statistics.paired_bootstrap([1.0, 2.0], [0.0, 0.0], ["x", "x"])))
    assert statistics.paired_bootstrap([3.0, 3.0], [1.0, 1.0]) == (2, 2)
    with pytest.raises(ValueError, match="draws"):
        statistics.paired_bootstrap([1.0, 2.0], [0.0, 0.0], draws=0)
    with pytest.raises(ValueError, match="non-empty"):
        statistics.paired_bootstrap([], [])
    with pytest.raises(ValueError, match="labels"):
        statistics.paired_bootstrap([1.0, 2.0], [0.0, 0.0], ["x"])


@pytest.mark.parametrize("case", GOLDEN["sign_flip"], ids=lambda case: f"{len(case['diff'])}pairs")
def test_sign_flip(case):
    assert statistics.sign_flip(case["diff"]) == pytest.approx(case["p"])


def test_sign_flip_counts_patterns():
    # The sums of the 8 signings are 6, 4, 2, 0 and their negatives; the observed one is 2.
    assert statistics.sign_flip([1.0, -2.0, 3.0]) == pytest.approx(6 / 8)
    assert statistics.sign_flip([0.0, 0.0]) == 1
    # 0.1 + 0.2 and 0.3 are equal but for rounding.
    assert statistics.sign_flip([0.1, 0.2, -0.3]) == 1


@quick
@given(st.lists(floats, min_size=1, max_size=8))
def test_sign_flip_is_symmetric_and_bounded(differences):
    p = statistics.sign_flip(differences)
    assert 2 / 2 ** len(differences) <= p <= 1
    assert statistics.sign_flip([-x for x in differences]) == p


def test_sign_flip_by_random_patterns():
    rng = np.random.default_rng(11)
    assert statistics.sign_flip(np.ones(20), draws=999) == pytest.approx(1 / 1000)
    noise = rng.normal(size=17)
    exact_like = statistics.sign_flip(noise, draws=20_000)
    z = abs(noise.sum()) / math.sqrt(np.sum(noise**2))
    assert exact_like == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.05)


@pytest.mark.parametrize(("differences", "draws"), [([], 9), ([math.nan], 9), ([1.0], 0)])
def test_sign_flip_rejects(differences, draws):
    with pytest.raises(ValueError, match=r"differences|draws"):
        statistics.sign_flip(differences, draws)
