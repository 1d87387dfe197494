"""Every verdict from evidence made by hand; error rates and power are in test_error_rates.py."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pipeline.statistics import estimates, verdicts
from pipeline.statistics.verdicts import BITS, NOT_RUN, Evidence, Judgement, Part, judge

POINT = 0.01


def effect(low, high, p=None, **changes):
    """Evidence of 8 degrees of freedom with this 95% interval, in points."""
    estimate, half = (low + high) / 2 * POINT, (high - low) / 2 * POINT
    result = estimates.t_estimate(estimate, half / 2.306004135204166, 8)
    # Bounds exactly as given: the arithmetic above is off in the last bit.
    evidence = Evidence.of(result._replace(low=low * POINT, high=high * POINT), seeds=5, runs=5)
    return replace(evidence, **({} if p is None else {"p": p}), **changes)


def spread(low, high, df=10.0, **changes):
    return Evidence((low + high) / 2 * POINT, 0.0, df, low * POINT, high * POINT, math.nan, 2, False, 20, **changes)


def contrast(evidence, **options):
    return verdicts.Tested("contrast", options.pop("family", "primary"), [Part(evidence, **options)])


def several(kind, *parts):
    return verdicts.Tested(kind, "primary", [part if isinstance(part, Part) else Part(part) for part in parts])


def verdict(claim):
    return judge([claim])[0].verdict


# One effect


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.1, 3.0, "supported"),
        (0.0, 3.0, "inconclusive"),
        (-0.1, 3.0, "inconclusive"),
        (-3.0, 0.5, "inconclusive"),
        (-3.0, 0.49, "refuted"),
        (-3.0, -1.0, "refuted"),
        # Above zero, and sure to be too small to matter.
        (0.1, 0.49, "refuted"),
        (0.1, 0.5, "supported"),
    ],
)
def test_contrast(low, high, expected):
    assert verdict(contrast(effect(low, high))) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.9, 3.0, "supported"),
        (-0.9, -0.1, "supported"),
        (-1.0, 3.0, "inconclusive"),
        (-3.0, 3.0, "inconclusive"),
        (-3.0, -1.0, "inconclusive"),
        (-3.0, -1.1, "refuted"),
    ],
)
def test_no_worse(low, high, expected):
    assert verdict(contrast(effect(low, high), direction="no_worse", margin=POINT)) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.2, 0.9, "supported"),
        (0.2, 1.0, "supported"),
        (0.2, 1.1, "inconclusive"),
        (1.0, 2.0, "inconclusive"),
        (1.1, 2.0, "refuted"),
    ],
)
def test_agreement(low, high, expected):
    claim = several("agreement", Part(spread(low, high), "within", POINT))
    assert verdict(claim) == expected


def test_a_small_p_does_not_outweigh_the_interval():
    assert verdict(contrast(effect(0.0, 3.0, p=0.001))) == "inconclusive"


def test_trivial_effect_is_the_callers():
    assert verdict(contrast(effect(0.1, 0.8), trivial=POINT)) == "refuted"
    assert verdict(contrast(effect(-3.0, 0.3), trivial=0.0)) == "inconclusive"


NAN = math.nan


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        (NOT_RUN, "not_run"),
        (effect(1, 3, runs=0, seeds=0), "not_run"),
        (effect(1, 3, seeds=2), "not testable"),
        (effect(1, 3, seeds=4), "not testable"),
        (effect(1, 3, seeds=5), "supported"),
        (effect(1, 3, at_floor=True), "not testable"),
        (effect(-3, -1, at_floor=True), "not testable"),
        (Evidence.of(estimates.t_estimate(0.2, NAN, 0), 1, 1), "not testable"),
        (Evidence(0.02, NAN, 0, NAN, NAN, NAN, 5, False, 5), "not testable"),
    ],
)
@pytest.mark.parametrize("direction", ["greater", "no_worse"])
def test_what_cannot_be_tested(evidence, expected, direction):
    result = judge([contrast(evidence, direction=direction, margin=POINT)])[0]
    assert result.verdict == expected
    assert math.isnan(result.p) == math.isnan(result.p_holm) == (expected != "supported")


def test_agreement_needs_two_degrees_of_freedom():
    def claim(**changes):
        return several("agreement", Part(spread(0.1, 0.2, **changes), "within", POINT))

    assert verdict(claim(df=1)) == "not testable"
    assert verdict(claim(df=2)) == "supported"
    assert verdict(several("agreement", Part(Evidence.of_spread(0.001, 0, 2, 20), "within", POINT))) == "not testable"
    assert verdict(several("agreement", Part(NOT_RUN, "within", POINT))) == "not_run"


def test_evidence_of_a_spread():
    evidence = Evidence.of_spread(0.01, 9, seeds=2, runs=20)
    assert (evidence.low, evidence.high) == pytest.approx((0.006878, 0.018256), abs=1e-6)
    # Its p is consistent with its interval: .025 against a margin at the top.
    claim = several("agreement", Part(evidence, "within", evidence.high))
    assert judge([claim])[0].p == pytest.approx(0.025)


def test_what_the_examples_add_to_a_spread_is_taken_off():
    whole = Evidence.of_spread(0.01, 9, seeds=2, runs=20)
    beyond = Evidence.of_spread(0.01, 9, seeds=2, runs=20, error=0.008)
    assert beyond.estimate == pytest.approx(0.006)
    assert (beyond.low, beyond.high) == pytest.approx((0, math.sqrt(whole.high**2 - 0.008**2)))
    claim = several("agreement", Part(beyond, "within", beyond.high))
    assert judge([claim])[0].p == pytest.approx(0.025)
    unknown = Evidence.of_spread(0.01, 9, seeds=2, runs=20, error=math.nan)
    assert judge([several("agreement", Part(unknown, "within", POINT))])[0].verdict == "not testable"
    # Less than the examples alone would give: no spread is seen, and none is ruled out below the interval's end.
    none = Evidence.of_spread(0.005, 9, seeds=2, runs=20, error=0.008)
    assert (none.estimate, none.low) == (0, 0)


# Families


def test_p_of_each_direction():
    towards, away = effect(1.0, 3.0), effect(-3.0, -1.0)
    assert judge([contrast(towards)])[0].p == towards.p
    assert judge([contrast(away)])[0].p == 1
    at_margin = contrast(effect(-1.0, 3.0), direction="no_worse", margin=POINT)
    assert judge([at_margin])[0].p == pytest.approx(0.025)
    below = contrast(effect(-3.0, -1.0), direction="no_worse", margin=POINT)
    assert judge([below])[0].p == pytest.approx(0.975)


def test_holm_at_its_boundary():
    claims = [contrast(effect(0.1, 3.0, p=p)) for p in (0.01, 0.02, 0.025, 0.03)]
    results = judge(claims)
    assert [result.p_holm for result in results] == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert [result.verdict for result in results] == ["supported"] + ["inconclusive"] * 3
    assert [result.verdict for result in judge(claims[1:3])] == ["supported", "supported"]
    assert verdict(contrast(effect(0.1, 3.0, p=0.05))) == "supported"


def test_families_are_adjusted_apart_and_only_over_what_is_testable():
    weak = contrast(effect(0.1, 3.0, p=0.04))
    strangers = [
        contrast(effect(-1.0, 3.0, p=0.4), family="control"),
        contrast(NOT_RUN),
        contrast(effect(1.0, 3.0, seeds=2)),
        several("all_of", effect(-1.0, 3.0, p=0.4), effect(-1.0, 3.0, at_floor=True)),
    ]
    assert judge([*strangers, weak])[-1].p_holm == pytest.approx(0.04)
    assert judge([contrast(effect(-1.0, 3.0, p=0.4)), weak])[-1].verdict == "inconclusive"


def test_a_clear_result_against_a_claim_does_not_help_another():
    # Two-sided, the first p would be 1e-9, and Holm would leave the second as it is.
    against, weak = contrast(effect(-3.0, -1.0, p=1e-9)), contrast(effect(0.1, 3.0, p=0.04))
    assert [result.verdict for result in judge([against, weak])] == ["refuted", "inconclusive"]


def test_order_and_nothing():
    claims = [contrast(effect(1, 3)), contrast(effect(-3, -1)), contrast(NOT_RUN)]
    forward, backward = judge(claims), judge(claims[::-1])
    assert [result.verdict for result in forward] == ["supported", "refuted", "not_run"]
    assert forward[:2] == backward[:0:-1]
    assert judge([]) == []


# Several parts

YES, NO, OPEN = effect(1, 3), effect(-3, -1), effect(-1, 3)
FLOOR = effect(1, 3, at_floor=True)


@pytest.mark.parametrize("kind", ["all_of", "optimum"])
@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([YES], "supported"),
        ([YES, YES, YES], "supported"),
        ([YES, OPEN], "inconclusive"),
        ([YES, NO], "refuted"),
        ([NO, FLOOR, NOT_RUN], "refuted"),
        ([YES, FLOOR, NOT_RUN, OPEN], "not testable"),
        ([YES, NOT_RUN, OPEN], "not_run"),
    ],
)
def test_several_parts(kind, parts, expected):
    assert verdict(several(kind, *parts)) == expected
    assert verdict(several(kind, *parts[::-1])) == expected


def test_parts_of_several_directions():
    better, as_good = Part(effect(1, 3)), Part(effect(-0.5, 1), "no_worse", POINT)
    stable = Part(spread(0.1, 0.9), "within", POINT)
    assert verdict(several("all_of", better, as_good, stable)) == "supported"
    assert verdict(several("all_of", better, replace(as_good, margin=0.4 * POINT), stable)) == "inconclusive"


def test_several_parts_count_once_with_their_largest_p():
    claim = several("all_of", effect(0.1, 3, p=0.02), effect(0.1, 3, p=0.04), effect(0.1, 3, p=0.001))
    alone = judge([claim])[0]
    assert (alone.verdict, alone.p, alone.p_holm) == ("supported", 0.04, 0.04)
    paired = judge([claim, contrast(effect(-1, 3))])[0]
    assert (paired.verdict, paired.p_holm) == ("inconclusive", pytest.approx(0.08))


def test_an_optimum_is_refuted_by_wider_intervals():
    # Ends at 0.3 points at 95%; at 1 - .05/3 it ends at 0.71.
    short = effect(-3.0, 0.3)
    assert verdict(contrast(short)) == "refuted"
    assert verdict(several("all_of", YES, YES, short)) == "refuted"
    assert verdict(several("optimum", short)) == "refuted"
    assert verdict(several("optimum", YES, YES, short)) == "inconclusive"
    result = judge([several("optimum", YES, YES, effect(-3.0, 0.0))])[0]
    assert result.verdict == "refuted"
    top = estimates.t_estimate(-0.015, 0.015 / 2.306004135204166, 8, 0.05 / 3).high
    assert result.reason == f"The interval at 98.3% ends at {100 * top:.2f} points, below the trivial 0.50 points."
    # Above zero but trivial at 95% and not at the wider level: no support either.
    assert verdict(several("optimum", YES, effect(0.05, 0.49))) == "inconclusive"


# Reasons


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (contrast(effect(0.8, 3, p=0.012)), "The interval starts at 0.80 points, above 0, and Holm's p is 0.012."),
        (contrast(effect(0.8, 3, p=0.12)), "The interval starts at 0.80 points, above 0, but Holm's p is 0.12."),
        (contrast(effect(-1, 0.3)), "The interval ends at 0.30 points, below the trivial 0.50 points."),
        (contrast(effect(-1, 3)), "The interval reaches from -1.00 to 3.00 points."),
        (contrast(effect(1, 3, seeds=2)), "2 of the 5 shared seeds or text runs that a verdict needs."),
        (contrast(FLOOR), "Neither arm beats the language prior."),
        (
            contrast(Evidence(0.02, NAN, 0, NAN, NAN, NAN, 5, False, 5)),
            "The runs leave no degree of freedom for an interval.",
        ),
        (contrast(NOT_RUN), "No runs."),
        (
            contrast(effect(-1, 0.3), trivial=0.02, unit=BITS),
            "The interval ends at 0.003 bits per byte, below the trivial 0.020 bits per byte.",
        ),
        (
            contrast(effect(-3, 3), direction="no_worse", margin=POINT),
            "The interval starts at -3.00 points, not above -1.00 points.",
        ),
        (
            contrast(effect(-3, -2), direction="no_worse", margin=POINT),
            "The interval ends at -2.00 points, below -1.00 points.",
        ),
        (
            several("agreement", Part(spread(1.2, 3), "within", POINT)),
            "The interval of the spread starts at 1.20 points, above 1.00 points.",
        ),
        (
            several("agreement", Part(spread(0.2, 3), "within", POINT)),
            "The interval of the spread ends at 3.00 points, above 1.00 points.",
        ),
        (
            several("agreement", Part(spread(0.2, 3, df=1), "within", POINT)),
            "The spread has 1 degrees of freedom, fewer than 2.",
        ),
        (
            several("all_of", Part(YES, name="first"), Part(effect(0.5, 3, p=0.03), name="second")),
            "second: the interval starts at 0.50 points, above 0, and Holm's p is 0.03.",
        ),
        (
            several("all_of", Part(YES, name="first"), Part(NO, name="second")),
            "second: the interval ends at -1.00 points, below the trivial 0.50 points.",
        ),
    ],
)
def test_reasons(claim, reason):
    assert judge([claim])[0].reason == reason


def test_findings_of_the_parts_are_kept():
    result = judge([several("all_of", YES, OPEN, NOT_RUN)])[0]
    assert isinstance(result, Judgement)
    assert [part.verdict for part in result.parts] == ["supported", "inconclusive", "not_run"]


# Rejections


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(YES, low=0.03, high=0.01), "does not hold"),
        (lambda: replace(YES, estimate=-YES.estimate), "does not hold"),
        (lambda: Part(YES, "less"), "direction 'less'"),
        (lambda: Part(YES, "no_worse"), "margin"),
        (lambda: Part(YES, "within", math.nan), "margin"),
        (lambda: Part(YES, trivial=-0.01), "trivial"),
        (lambda: verdicts.Tested("contrast", "secondary", [Part(YES)]), "family"),
        (lambda: verdicts.Tested("contrasts", "primary", [Part(YES)]), "kind"),
        (lambda: verdicts.Tested("all_of", "primary", []), "0 parts"),
        (lambda: several("contrast", YES, YES), "2 parts"),
        (lambda: several("contrast", Part(YES, "within", POINT)), "within"),
        (lambda: several("agreement", YES), "greater"),
        (lambda: several("optimum", Part(YES, "no_worse", POINT)), "no_worse"),
    ],
)
def test_rejects(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# No verdict is stronger than its interval


def test_no_verdict_is_stronger_than_its_interval():
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(300):
        claims = []
        for _ in range(rng.integers(1, 6)):
            kind = str(rng.choice(["contrast", "trend", "all_of", "optimum", "agreement"]))
            parts = [
                random_part(rng, kind)
                for _ in range(1 if kind in ("contrast", "trend", "agreement") else rng.integers(1, 4))
            ]
            claims.append(verdicts.Tested(kind, str(rng.choice(["primary", "control"])), parts))
        for claim, result in zip(claims, judge(claims)):
            evidence = [part.evidence for part in claim.parts]
            if result.verdict == "supported":
                assert all(bound_clears(part) for part in claim.parts)
                assert result.p <= result.p_holm <= 0.05
            if result.verdict == "refuted":
                assert any(bound_excludes(part) for part in claim.parts)
            if result.verdict == "not_run":
                assert any(item.runs == 0 for item in evidence)
            if any(item.runs == 0 or item.at_floor for item in evidence):
                assert result.verdict in ("not testable", "not_run", "refuted")
                assert math.isnan(result.p_holm)
            seen.add((claim.kind, result.verdict))
    assert len(seen) == 5 * 5


def random_part(rng, kind):
    absent = rng.random() < 0.03
    if kind == "agreement" or (kind == "all_of" and rng.random() < 0.2):
        found = Evidence.of_spread(rng.uniform(0.001, 0.03), int(rng.integers(1, 30)), seeds=2, runs=20)
        return Part(NOT_RUN if absent else found, "within", POINT)
    estimate = estimates.t_estimate(rng.normal(0.01, 0.02), rng.uniform(0.001, 0.01), int(rng.integers(1, 40)))
    found = Evidence.of(estimate, seeds=int(rng.integers(4, 30)), runs=5, at_floor=bool(rng.random() < 0.05))
    direction = "greater" if kind in ("optimum", "trend") or rng.random() < 0.7 else "no_worse"
    return Part(NOT_RUN if absent else found, direction, POINT)


def bound_clears(part):
    evidence = part.evidence
    return {
        "greater": evidence.low > 0 and evidence.high >= 0.005,
        "no_worse": evidence.low > -part.margin,
        "within": evidence.high <= part.margin,
    }[part.direction]


def bound_excludes(part):
    evidence = part.evidence
    return {
        "greater": evidence.high < 0.005,
        "no_worse": evidence.high < -part.margin,
        "within": evidence.low > part.margin,
    }[part.direction]
