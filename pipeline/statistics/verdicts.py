"""What the evidence says of a claim: supported, inconclusive, refuted, not testable, or not_run.

A claim has one part or several. A part is an effect with its interval, and a direction that says what is claimed of it:

    direction   claimed             interval for it             interval against it   p
    greater     effect > 0          low > 0, high >= trivial    high < trivial        two-sided, of effect 0
    no_worse    effect > -margin    low > -margin               high < -margin        one-sided, of effect <= -margin
    within      spread <= margin    high <= margin              low > margin          one-sided, of spread >= margin

The caller orients effects so that the claim says they are positive. A two-sided p counts as 1 where the estimate points
the other way: a clear result against one claim is no help to its neighbours. An effect that is above zero but surely
below the trivial one is refuted, because the claim is of a difference that matters.

    kind        parts                        supported      refuted
    contrast    one, greater or no_worse     its part is    its part is
    trend       one, greater                 its part is    its part is
    agreement   one, within                  its part is    its part is
    all_of      any                          all are        any is
    optimum     best - other, all greater    all are        any is, by intervals at alpha over the number of parts

Support also needs p: Holm's adjustment of it within the claim's family is at most alpha. The p of several parts is the
largest (intersection-union: parts at alpha test the whole at alpha). Refutation is not adjusted between claims.

A part is not_run without runs, and not testable below five shared seeds (a spread: two degrees of freedom), at the
floor (neither arm beats the language prior) and without a finite interval. A claim with such a part can be refuted by
another part and nothing else, and it does not count in its family. Five seeds: where a task is learned or not with even odds,
three seeds are all of one kind once in four times (docs/statistics.md).

Scores are fractions, 0.01 being a point, unless a part says otherwise (`Unit`). Pure functions of numbers; nothing is
read or written.

Source: Holm 1979; Berger 1982 on intersection-union tests; Schuirmann 1987 on tests against a margin
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from pipeline.statistics.estimates import Estimate, holm, spread_interval, t_estimate

Verdict = Literal["supported", "inconclusive", "refuted", "not testable", "not_run"]
Direction = Literal["greater", "no_worse", "within"]
Kind = Literal["contrast", "trend", "agreement", "all_of", "optimum"]
Family = Literal["primary", "control", "beside"]  # beside: the same claims by another measure

ALPHA = 0.05
# Half a point. A difference that is surely smaller than this refutes a claim, even if it is surely above zero.
TRIVIAL = 0.005
MIN_SEEDS = 5
MIN_SPREAD_DF = 2

# The verdict of several parts is the first of these that one of them has.
_PRECEDENCE: tuple[Verdict, ...] = ("refuted", "not testable", "not_run", "inconclusive", "supported")
_DIRECTIONS: dict[Kind, set[Direction]] = {
    "contrast": {"greater", "no_worse"},
    "trend": {"greater"},
    "agreement": {"within"},
    "all_of": {"greater", "no_worse", "within"},
    "optimum": {"greater"},
}


def _check_word(word: str, allowed: Sequence[str], name: str) -> None:
    if word not in allowed:
        raise ValueError(f"{name} {word!r}, allowed: {', '.join(allowed)}")


@dataclass(frozen=True)
class Evidence:
    """An effect, or a spread between seeds, as a fraction of the full score (or as its part's unit has it).

    low, high: its 95% interval; p: two-sided, against zero (NaN for a spread). se: of a spread, what the examples alone
    add to it. seeds: those that both arms ran, or the text runs where there are several;
    at_floor: neither arm beats the language prior; runs: of the arm that has fewer, 0 if it was not run. Raises
    ValueError where the interval does not hold the estimate, as after a change of sign that forgot to swap the bounds.
    """

    estimate: float
    se: float
    df: float
    low: float
    high: float
    p: float
    seeds: int
    at_floor: bool
    runs: int

    def __post_init__(self) -> None:
        if self.low > self.estimate or self.high < self.estimate:
            raise ValueError(f"the interval {self.low} to {self.high} does not hold the estimate {self.estimate}")

    @classmethod
    def of(cls, effect: Estimate, seeds: int, runs: int, at_floor: bool = False) -> Evidence:
        """Evidence of an effect with its 95% interval, such as `over_seeds` gives."""
        return cls(**effect._asdict(), seeds=seeds, at_floor=at_floor, runs=runs)

    @classmethod
    def of_spread(
        cls, sd: float, df: float, seeds: int, runs: int, at_floor: bool = False, error: float = 0.0
    ) -> Evidence:
        """Evidence of how far seeds differ: a standard deviation on df degrees of freedom. Errors: `spread_interval`.

        error: the part of `sd` that comes from the examples alone, as a standard deviation; it is taken off in squares.
        """

        def beyond(whole: float) -> float:
            known = math.isfinite(whole + error)  # of one image nobody knows how far it may move a score
            return math.sqrt(max(0.0, whole**2 - error**2)) if known else math.nan

        low, high = map(beyond, spread_interval(sd, df, ALPHA))
        return cls(beyond(sd), error, df, low, high, math.nan, seeds, at_floor, runs)


NAN = math.nan
NOT_RUN = Evidence(NAN, NAN, NAN, NAN, NAN, NAN, seeds=0, at_floor=False, runs=0)


class Unit(NamedTuple):
    """How a reason prints a number: the name of the unit, how many of it make 1, and digits behind the point."""

    name: str
    scale: float
    digits: int

    def text(self, value: float) -> str:
        """A number with the name of its unit."""
        return f"{self.number(value)} {self.name}"

    def number(self, value: float) -> str:
        """A number in this unit, without the name."""
        return f"{self.scale * value:.{self.digits}f}"


POINTS = Unit("points", 100, 2)
BITS = Unit("bits per byte", 1, 3)


@dataclass(frozen=True)
class Part:
    """What is claimed of one effect. margin: above 0 for no_worse and within, unused for greater.

    trivial: the effect below which a difference does not matter, used by greater. Both are in what the evidence is in.
    name: tells the parts apart in the reason. Raises ValueError on an unknown direction, a missing margin and a
    negative trivial effect.
    """

    evidence: Evidence
    direction: Direction = "greater"
    margin: float = 0.0
    trivial: float = TRIVIAL
    unit: Unit = POINTS
    name: str = ""

    def __post_init__(self) -> None:
        _check_word(self.direction, get_args(Direction), "direction")
        if not self.trivial >= 0:
            raise ValueError(f"trivial effect {self.trivial}")
        if self.direction != "greater" and not 0 < self.margin < math.inf:
            raise ValueError(f"{self.direction} needs a margin above 0, got {self.margin}")


@dataclass(frozen=True)
class Tested:
    """A claim and its evidence. Raises ValueError on unknown words and on parts that do not fit the kind."""

    kind: Kind
    family: Family
    parts: Sequence[Part]

    def __post_init__(self) -> None:
        _check_word(self.kind, get_args(Kind), "kind")
        _check_word(self.family, get_args(Family), "family")
        if not self.parts or (self.kind not in ("all_of", "optimum") and len(self.parts) > 1):
            raise ValueError(f"{self.kind}: {len(self.parts)} parts")
        for part in self.parts:
            _check_word(part.direction, sorted(_DIRECTIONS[self.kind]), f"{self.kind}: direction")


class Finding(NamedTuple):
    """What one part says by itself: its verdict, p (NaN if it is not run or not testable) and the reason."""

    verdict: Verdict
    p: float
    reason: str


@dataclass(frozen=True)
class Judgement:
    """The verdict of a claim, its p, and p after Holm's adjustment (both NaN if a part is not run or not testable).

    reason: one sentence with the number that decided and its unit; parts: what each says by itself, in the order given.
    """

    verdict: Verdict
    p: float
    p_holm: float
    reason: str
    parts: tuple[Finding, ...]


def judge(claims: Sequence[Tested]) -> list[Judgement]:
    """Verdicts of claims that are judged together, in the order given, with Holm's adjustment within each family."""
    findings = [_weigh_all(claim) for claim in claims]
    # NaN as soon as one part has none: such a claim is not a test of its family, whatever the other parts say.
    # np.max and not max, which keeps or drops NaN according to its place in the list.
    p = np.array([np.max([finding.p for finding in parts]) for parts in findings])
    adjusted = np.full(len(claims), math.nan)
    for family in get_args(Family):
        tests = [index for index, claim in enumerate(claims) if claim.family == family and not math.isnan(p[index])]
        if tests:
            adjusted[tests] = holm(p[tests])
    return [_conclude(*row) for row in zip(claims, findings, p.tolist(), adjusted.tolist())]


def _conclude(claim: Tested, findings: tuple[Finding, ...], p: float, p_holm: float) -> Judgement:
    """The verdict of a claim from the findings of its parts; the part with the largest p gives the reason."""
    words = [finding.verdict for finding in findings]
    verdict = next(word for word in _PRECEDENCE if word in words)
    deciding = [index for index, word in enumerate(words) if word == verdict]
    speaker = max(deciding, key=lambda index: findings[index].p)
    name, reason = claim.parts[speaker].name, findings[speaker].reason
    if verdict == "supported":
        passed = p_holm <= ALPHA
        verdict = "supported" if passed else "inconclusive"
        reason += f", {'and' if passed else 'but'} Holm's p is {p_holm:.2g}"
    reason = f"{name}: {reason}." if name else f"{reason[0].upper()}{reason[1:]}."
    return Judgement(verdict, p, p_holm, reason, findings)


def _weigh_all(claim: Tested) -> tuple[Finding, ...]:
    # One of many others may seem to beat the best by chance: an optimum is refuted by wider intervals.
    share = len(claim.parts) if claim.kind == "optimum" else 1
    return tuple(_obstacle(part) or _weigh(part, share) for part in claim.parts)


def _obstacle(part: Part) -> Finding | None:
    """Why a part says nothing, if so."""
    evidence = part.evidence
    if evidence.runs == 0:
        return Finding("not_run", math.nan, "no runs")
    spread = part.direction == "within"
    numbers = (evidence.low, evidence.high) if spread else (evidence.low, evidence.high, evidence.se, evidence.p)
    if spread and evidence.df < MIN_SPREAD_DF:
        reason = f"the spread has {evidence.df:g} degrees of freedom, fewer than {MIN_SPREAD_DF}"
    elif not spread and evidence.seeds < MIN_SEEDS:
        reason = f"{evidence.seeds} of the {MIN_SEEDS} shared seeds or text runs that a verdict needs"
    elif evidence.at_floor:
        reason = "neither arm beats the language prior"
    elif not np.isfinite(numbers).all():
        reason = "the runs leave no degree of freedom for an interval"
    else:
        return None
    return Finding("not testable", math.nan, reason)


def _weigh(part: Part, share: int) -> Finding:
    """What a testable part says; share: the number of parts that the error rate of a refutation is divided by."""
    if part.direction == "greater":
        return _weigh_greater(part, share)
    return _weigh_no_worse(part) if part.direction == "no_worse" else _weigh_within(part)


def _weigh_greater(part: Part, share: int) -> Finding:
    evidence, text = part.evidence, part.unit.text
    p = evidence.p if evidence.estimate > 0 else 1.0
    top, level = evidence.high, ""
    if share > 1:
        top = t_estimate(evidence.estimate, evidence.se, evidence.df, ALPHA / share).high
        level = f" at {1 - ALPHA / share:.1%}"
    if top < part.trivial:
        return Finding("refuted", p, f"the interval{level} ends at {text(top)}, below the trivial {text(part.trivial)}")
    # The second condition is for an optimum: its wider top may reach the trivial effect where the part's own interval
    # does not, and then nothing is shown.
    if evidence.low > 0 and evidence.high >= part.trivial:
        return Finding("supported", p, f"the interval starts at {text(evidence.low)}, above 0")
    reason = f"the interval reaches from {part.unit.number(evidence.low)} to {text(evidence.high)}"
    return Finding("inconclusive", p, reason)


def _weigh_no_worse(part: Part) -> Finding:
    evidence, bound, text = part.evidence, -part.margin, part.unit.text
    shifted = t_estimate(evidence.estimate - bound, evidence.se, evidence.df)
    # One-sided: half of the two-sided p on the claimed side, the rest of the probability on the other.
    p = shifted.p / 2 if shifted.estimate > 0 else 1 - shifted.p / 2
    if evidence.high < bound:
        return Finding("refuted", p, f"the interval ends at {text(evidence.high)}, below {text(bound)}")
    if evidence.low > bound:
        return Finding("supported", p, f"the interval starts at {text(evidence.low)}, above {text(bound)}")
    return Finding("inconclusive", p, f"the interval starts at {text(evidence.low)}, not above {text(bound)}")


def _weigh_within(part: Part) -> Finding:
    from scipy.special import chdtr

    evidence, margin, text = part.evidence, part.margin, part.unit.text
    # The chance of a spread this small or smaller if the true one were just the margin; examples add to both.
    ratio = (evidence.estimate**2 + evidence.se**2) / (margin**2 + evidence.se**2)
    p = float(chdtr(evidence.df, evidence.df * ratio))
    spread = "the interval of the spread"
    if evidence.low > margin:
        return Finding("refuted", p, f"{spread} starts at {text(evidence.low)}, above {text(margin)}")
    if evidence.high <= margin:
        return Finding("supported", p, f"{spread} ends at {text(evidence.high)}, within {text(margin)}")
    return Finding("inconclusive", p, f"{spread} ends at {text(evidence.high)}, above {text(margin)}")
