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


# Over seeds


def seeds_of(*scores, se=0.0):
    """Each seed's contrast as an estimate of its own."""
    return [estimates.t_estimate(score, se, 50) for score in scores]


def test_a_cell_over_seeds_by_hand():
    # Variance of the runs 2, of their mean 1; the items' 4 is of both seeds: (2 * 4 - 4) / 1.
    found = estimates.over_seeds([[1.0, 3.0]], estimates.t_estimate(2.0, 2.0, 50), seeds_of(1.0, 3.0, se=2.0))
    assert (found.seeds, found.items) == pytest.approx((2.0, 4.0))
    assert (found.estimate.estimate, found.estimate.se, found.estimate.df) == pytest.approx((2.0, math.sqrt(5), 1))
    # 12.7062 is the .975 quantile of t with one degree of freedom.
    assert found.estimate.high == pytest.approx(2 + 12.7062 * math.sqrt(5), rel=1e-5)


def test_what_only_single_seeds_scatter_by_is_not_counted_twice():
    # Nothing shared: the squared error of the mean is that of a seed over their number.
    own = estimates.t_estimate(2.0, 2.0 / math.sqrt(2), 50)
    assert estimates.over_seeds([[1.0, 3.0]], own, seeds_of(1.0, 3.0, se=2.0)).items == pytest.approx(0)
    less = own._replace(se=0.1)  # less than nothing shared, by chance
    assert estimates.over_seeds([[1.0, 3.0]], less, seeds_of(1.0, 3.0, se=2.0)).items == 0


def test_a_contrast_takes_the_larger_of_two_variances():
    alike = estimates.over_seeds([[1.0, 2.0, 3.0], [-2.0, -3.0, -4.0]], *mean_and_seeds(-1.0, -1.0, -1.0))
    assert alike.seeds == pytest.approx(1 + 1)  # the seeds' contrasts are all equal, the cells are not
    apart = estimates.over_seeds([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]], *mean_and_seeds(3.0, 5.0, 7.0))
    assert apart.seeds == pytest.approx(4)  # opposite signs in the cells: their sum swings twice as far


def mean_and_seeds(*contrasts):
    return estimates.t_estimate(float(np.mean(contrasts)), 0.0, 50), seeds_of(*contrasts)


@quick
@given(st.lists(floats, min_size=3, max_size=6))
def test_one_cell_without_errors_of_examples_is_the_t_interval_of_its_runs(scores):
    found = estimates.over_seeds([scores], *mean_and_seeds(*scores)).estimate
    plain = clustered(scores, range(len(scores)))
    assert found == pytest.approx(plain, abs=1e-9)


def test_degrees_of_freedom_without_care_are_satterthwaites():
    # 5 = 2 / 2 + 4; 25 / (1 / 1 + 16 / 50).
    told = ([[1.0, 3.0]], estimates.t_estimate(2.0, 2.0, 50), seeds_of(1.0, 3.0, se=2.0))
    assert estimates.over_seeds(*told, careful=False).estimate.df == pytest.approx(25 / (1 + 16 / 50))
    calm = estimates.over_seeds([[2.0, 2.0]], *told[1:], careful=False).estimate
    assert calm == pytest.approx(told[1])  # without scatter between runs it is the examples' own
    still = estimates.over_seeds([[2.0, 2.0]], *mean_and_seeds(2.0, 2.0), careful=False).estimate
    assert (still.se, still.low, still.high) == (0, 2, 2)


def test_over_seeds_of_one_image_knows_nothing():
    one = estimates.t_estimate(1.0, math.nan, 0)
    found = estimates.over_seeds([[1.0, 1.0]], one, [one, one])
    assert found.estimate.estimate == 1.0
    assert all(map(math.isnan, (found.estimate.se, found.estimate.p, found.estimate.low, found.seeds, found.items)))


@pytest.mark.parametrize(
    ("parts", "seeds", "message"),
    [
        ([[1.0]], 1, "two seeds"),
        ([1.0, 2.0], 2, "two seeds"),
        ([[1.0, 2.0]], 3, "3 seeds"),
        ([[1.0, math.nan]], 2, "finite"),
    ],
)
def test_over_seeds_rejects(parts, seeds, message):
    with pytest.raises(ValueError, match=message):
        estimates.over_seeds(parts, estimates.t_estimate(1.0, 0.1, 9), seeds_of(*[1.0] * seeds))


# Best


def test_cells_that_may_be_the_best():
    assert estimates.best_of([1.0, 3.0, 2.0], lambda *_: 0.001) == [1]
    assert estimates.best_of([1.0, 3.0, 2.0], lambda *_: 0.2) == [0, 1, 2]
    assert estimates.best_of([2.0, 2.0], lambda *_: 0.001) == [0, 1]  # neither is above the other
    assert estimates.best_of([1.0, 3.0], lambda *_: math.nan) == [0, 1]
    with pytest.raises(ValueError, match="means"):
        estimates.best_of([], lambda *_: 0.001)


def test_range_of_equals():
    # From printed tables of d2 in quality control.
    assert [estimates.range_of_equals(n) for n in (2, 5, 10)] == pytest.approx([1.128, 2.326, 3.078], abs=5e-4)


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
    assert estimates.seeds_for_power(0.5, 1.0, 0.0) == 34


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
        return estimates.power(0.02, math.sqrt(2 * 0.015**2 / seeds + 0.004**2), seeds - 1)

    seeds = estimates.seeds_for_power(0.02, 2 * 0.015**2, 0.004**2)
    assert chance(seeds - 1) < 0.8 <= chance(seeds)
    assert estimates.seeds_for_power(0.02, 2 * 0.015**2, 0.004**2, target=0.95) > seeds
    assert estimates.seeds_for_power(0.02, 1.5 * 0.015**2, 0.004**2) < seeds


def test_no_number_of_seeds_makes_up_for_few_images():
    # Without any run noise, 2 points at a standard error of 1 point have a power of about .5.
    assert estimates.seeds_for_power(0.02, 0.01**2, 0.01**2) is None
    assert estimates.seeds_for_power(0.0, 0.01**2, 0.0) is None


@pytest.mark.parametrize("wrong", [{"seeds": -1.0}, {"items": math.nan}, {"target": 1.0}])
def test_seeds_for_power_rejects(wrong):
    with pytest.raises(ValueError, match="variances"):
        estimates.seeds_for_power(**({"effect": 0.02, "seeds": 0.01, "items": 0.0} | wrong))
