"""Verdicts on the claims of configs/claims.yaml, from the runs of the study: claims.csv and claims.md.

The effect of a claim is a contrast of cells: a difference, a difference of differences, or a slope over a setting. Its
interval comes from how far the contrast differs between seeds, where every cell has a scatter of its own, and from the
examples, which all seeds share (`statistics.estimates.over_seeds`). Where the seeds descend from several text runs, a text
run is what counts as one seed, and intervals cover the text runs too. `pipeline/statistics/verdicts.py` says what follows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.common.files import write_text
from pipeline.reporting import scores
from pipeline.reporting.arms import agreement_words, contrast_words
from pipeline.reporting.claims_text import markdown, unit_of
from pipeline.reporting.measures import ANSWERS, VISION, measure_of, tasks_of
from pipeline.reporting.table_rows import Rows, write_table
from pipeline.settings.measures import TWO_POINTS
from pipeline.statistics import estimates
from pipeline.statistics.verdicts import (
    MIN_SEEDS,
    NOT_RUN,
    TRIVIAL,
    Evidence,
    Judgement,
    Part,
    Tested,
    judge,
)

Arm = tuple[str, str]  # a cell and a condition
COUNTED = ("images", "labels")  # of what a phase reads, what tells most of how much it can learn


@dataclass(frozen=True)
class Effect:
    """What is known of one contrast: the evidence, and what else stands in the table."""

    evidence: Evidence
    covers: str = ""  # what its interval covers
    seed_sd: float = math.nan  # of the effect, from seed to seed
    item_se: float = math.nan  # of its mean over examples, which more seeds do not lower
    power: float = math.nan  # to find the effect of interest
    seeds_needed: int | None = None


class RunScores:
    """Scores of all runs: by arm and seed as one number, and item by item."""

    def __init__(self, rows: Rows):
        self.rows = rows
        self.cells = {cell.name: cell for cell in rows.cells()}
        self.items = cache(self.read_items)
        self.asked = cache(self.was_asked)
        self.is_above = cache(self.beats_prior)
        self.text_seeds = {row["run"]: row.get("text_seed") for row in rows.told.rows}

    def seeds(self, arm: Arm) -> set[int]:
        return set(self.cells[arm[0]].runs) if arm[0] in self.cells else set()

    def was_asked(self, arm: Arm, seed: int, metric: str) -> bool:
        folder = self.rows.folder(self.cells[arm[0]].runs[seed])
        return scores.was_asked(folder, measure_of(metric, self.rows.tasks), self.rows.tasks)

    def read_items(self, arm: Arm, seed: int, metric: str) -> pd.DataFrame:
        """What a metric is the mean of: group (task), id, cluster and value of every item, sorted."""
        folder = self.rows.folder(self.cells[arm[0]].runs[seed])
        found = scores.items(folder, metric, arm[1], self.rows.tasks)
        # Arms are compared item by item, so all of them need one order.
        return found.sort_values(["group", "id"], ignore_index=True)

    def score(self, arm: Arm, seed: int, metric: str) -> float:
        """A run's score: the mean over groups of the mean over their items."""
        return float(self.items(arm, seed, metric).groupby("group")["value"].mean().mean())

    def replicates(self, arms: Iterable[Arm], seeds: list[int]) -> tuple[list[list[int]], bool]:
        """What repeats a comparison, and whether it repeats the text runs too.

        Seeds are taken together by the text runs of their models, or each by itself if these are the same for all.
        """
        runs = {seed: tuple(self.text_seeds[self.cells[arm[0]].runs[seed]] for arm in arms) for seed in seeds}
        if len(set(runs.values())) == 1:
            return [[seed] for seed in seeds], False
        return [[seed for seed in seeds if runs[seed] == run] for run in dict.fromkeys(runs.values())], True

    def beats_prior(self, arm: Arm, seeds: tuple[int, ...], metric: str) -> bool:
        """Whether an arm is surely above answering without looking (vision) or chance (text stable score)."""
        folders = [self.rows.folder(self.cells[arm[0]].runs[seed]) for seed in seeds]
        if is_vision(metric, self.rows.tasks):
            # Answers without the right image are what the prior is made of: they cannot beat it.
            if self.cells[arm[0]].evaluated == "blind" or arm[1] != "normal":
                return False
            chance = dict.fromkeys(tasks_of(metric, self.rows.tasks), 0.0)
            found = scores.read_scores(folders, VISION)
            pairs = scores.gains(found[found["condition"] == "normal"], self.rows.prior)
            return scores.average(pairs, chance, "gain").low > 0
        measure = measure_of(metric)
        if measure.less == "chance":
            return self.rows.estimate_of(folders, metric).low > 0
        if measure.file == ANSWERS and measure.averages == "vision":
            return self.rows.estimate_of(folders, "looking_bits").low > 0
        return True


def is_vision(metric: str, tasks: dict) -> bool:
    return measure_of(metric, tasks).file == VISION


# --- effects ---------------------------------------------------------------------------------------------------------


def measure(results: RunScores, contrast: dict, interest: float) -> Effect:
    """The evidence for a contrast. Arms that are not in the study leave it not run.

    interest: the effect whose power is given, in what the scores are in.
    """
    weights: dict[Arm, float] = {}
    for sign, arms in ((1.0, contrast["plus"]), (-1.0, contrast["minus"])):
        for arm in arms:
            key = (arm["cell"], arm["condition"])
            # A claim may name an arm more than once: its weights add up.
            weights[key] = weights.get(key, 0.0) + sign * arm.get("weight", 1.0)
    metric, seeds = contrast["metric"], sorted(set.intersection(*(results.seeds(arm) for arm in weights)))
    # Nobody can say then whether any arm looks at its images.
    if is_vision(metric, results.rows.tasks) and results.rows.no_prior:
        return Effect(NOT_RUN)
    if not seeds or not all(results.asked(arm, seed, metric) for arm in weights for seed in seeds):
        return Effect(NOT_RUN)
    replicates, text_runs = results.replicates(weights, seeds)
    differences, frame = item_differences(results, weights, replicates, metric)
    groups, clusters = frame["group"].tolist(), frame["cluster"].tolist()
    items = estimates.mean_of_means(differences.mean(0), groups, clusters)
    # Two models that both guess differ by nothing that a claim could be about.
    at_floor = not any(results.is_above(arm, tuple(seeds), metric) for arm in weights)
    runs = min(len(results.seeds(arm)) for arm in weights)
    if len(replicates) < 2:
        # An effect to look at; `judge` calls it not testable, because other seeds may say otherwise.
        return Effect(Evidence.of(items, len(replicates), runs, at_floor), covers="examples")
    parts = [
        [weight * np.mean([results.score(arm, seed, metric) for seed in one]) for one in replicates]
        for arm, weight in weights.items()
    ]
    each = [estimates.mean_of_means(one, groups, clusters) for one in differences]
    found = estimates.over_seeds(parts, items, each)
    needed = estimates.seeds_for_power(interest, found.seeds, found.items)
    return Effect(
        Evidence.of(found.estimate, len(replicates), runs, at_floor),
        covers="examples, seeds and text runs" if text_runs else "examples and seeds",
        seed_sd=math.sqrt(found.seeds),
        item_se=math.sqrt(found.items),
        power=estimates.power(interest, found.estimate.se, found.estimate.df),
        seeds_needed=None if needed is None else max(needed, MIN_SEEDS),
    )


def may_be_best(results: RunScores, claim: dict) -> list[str]:
    """Of a claim that one cell is the best: the cells that may be, at 95%. None where a comparison is not testable."""
    contrasts = claim["contrasts"]
    arms, metric = [contrasts[0]["plus"][0], *(one["minus"][0] for one in contrasts)], contrasts[0]["metric"]

    @cache
    def evidence(one: int, other: int) -> Evidence:
        contrast = {"metric": metric, "plus": [arms[one]], "minus": [arms[other]]}
        return measure(results, contrast, contrasts[0]["two_points"]).evidence

    # Less the first: of cells that share their seeds the order is that of their means.
    first = [evidence(n, 0) for n in range(1, len(arms))]
    means = [0.0, *(one.estimate for one in first)]
    if not np.isfinite(means).all() or any(one.seeds < MIN_SEEDS or one.at_floor for one in first):
        return []
    return [arms[n]["cell"] for n in estimates.best_of(means, lambda *pair: evidence(max(pair), min(pair)).p)]


def item_differences(
    results: RunScores, weights: dict[Arm, float], replicates: list[list[int]], metric: str
) -> tuple[np.ndarray, pd.DataFrame]:
    """The contrast of every item in every replicate [replicates, items], and the items.

    Raises ValueError if arms differ in them.
    """
    frame = results.items(next(iter(weights)), replicates[0][0], metric)[["group", "id", "cluster"]]
    found = np.zeros((len(replicates), len(frame)))
    for arm, weight in weights.items():
        for row, seeds in enumerate(replicates):
            for seed in seeds:
                items = results.items(arm, seed, metric)
                if not items[["group", "id"]].equals(frame[["group", "id"]]):
                    raise ValueError(f"{arm} was not asked the same questions of {metric} as {next(iter(weights))}")
                found[row] += weight / len(seeds) * items["value"].to_numpy()
    return found, frame


def measure_spread(results: RunScores, agreement: dict) -> Effect:
    """How far two values of a setting differ over some cells, beyond what their examples alone make them differ.

    Both runs of a pair answer the same questions, each right or wrong by some chance, so that the mean square of their
    differences is that of the setting plus the examples' error, which is taken off.
    """
    metric = agreement["metric"]
    if is_vision(metric, results.rows.tasks) and results.rows.no_prior:
        return Effect(NOT_RUN)
    pairs = [((first, "normal"), (second, "normal")) for first, second in agreement["pairs"]]
    runs = [(pair, seed) for pair in pairs for seed in sorted(results.seeds(pair[0]) & results.seeds(pair[1]))]
    if not runs:
        return Effect(NOT_RUN)
    found = []
    for pair, seed in runs:
        differences, frame = item_differences(results, dict(zip(pair, (1.0, -1.0))), [[seed]], metric)
        found.append(estimates.mean_of_means(differences[0], frame["group"].tolist(), frame["cluster"].tolist()))
    spread = math.sqrt(np.mean([one.estimate**2 for one in found]))
    error = math.sqrt(np.mean([one.se**2 for one in found]))
    at_floor = not any(results.is_above(arm, (seed,), metric) for pair, seed in runs for arm in pair)
    evidence = Evidence.of_spread(spread, len(found), 2, 2 * len(found), at_floor, error)
    return Effect(evidence, covers="these values and examples", item_se=error)


# --- the table -------------------------------------------------------------------------------------------------------


def make(rows: Rows, out: Path) -> None:
    results, claims = RunScores(rows), rows.settings.claims
    # All effects come before the first verdict: p-values are adjusted over the whole family.
    effects = [list(effects_of(results, claim)) for claim in claims]
    recipe = rows.told.recipe
    judgements = judge([tested_claim(claim, found, recipe) for claim, found in zip(claims, effects, strict=True)])
    table = pd.DataFrame(
        [
            line(claim, number, effect, judgement, recipe, failed_runs(results, claim))
            | {"may_be_best": "; ".join(best), "counts": "; ".join(counts[number : number + 1])}
            | {"found_elsewhere": "; ".join(found_of(rows.settings.found, claim["name"]))}
            for claim, found, judgement in zip(claims, effects, judgements, strict=True)
            for best in [may_be_best(results, claim) if claim["kind"] == "optimum" else []]
            for counts in [[counted(results, contrast) for contrast in claim["contrasts"]]]
            for number, effect in enumerate(found)
        ]
    )
    write_table(table, out / "claims.csv")
    write_text(out / "claims.md", markdown(rows, table))


def effects_of(results: RunScores, claim: dict) -> Iterator[Effect]:
    """The effects of a claim's parts, in order."""
    for contrast in claim["contrasts"]:
        yield measure(results, contrast, interest(claim, contrast))
    if claim.get("agreement"):
        yield measure_spread(results, claim["agreement"])


def interest(claim: dict, contrast: dict) -> float:
    """The effect whose power is given: the published one, which is in points, or two points; or what is like it."""
    points = abs(claim["published"]["effect"]) if claim["published"] else 2.0
    return points / 2 * contrast["two_points"]


def tested_claim(claim: dict, effects: list[Effect], recipe: dict) -> Tested:
    if claim["kind"] == "agreement":
        parts = [Part(effects[0].evidence, "within", claim["agreement"]["margin"])]
    else:
        parts = [
            Part(
                effect.evidence,
                contrast["direction"],
                contrast["margin"] or 0.0,
                contrast["two_points"] * TRIVIAL / TWO_POINTS,
                unit=unit_of(contrast["metric"]),
                name=contrast_words(contrast, recipe),
            )
            for contrast, effect in zip(claim["contrasts"], effects, strict=True)
        ]
    return Tested(claim["kind"], claim["family"], parts)


def part_name(contrast: dict) -> str:
    """ "vision_average: branch_percent=100 less recipe", or "vision_average: rise over branch_percent" """
    if over := contrast.get("over"):
        return f"{contrast['metric'].replace('_', ' ')}: rise over {over}"

    def arms(some: list[dict]) -> str:
        return " + ".join(a["cell"] + (f" ({a['condition']})" if a["condition"] != "normal" else "") for a in some)

    return f"{contrast['metric'].replace('_', ' ')}: {arms(contrast['plus'])} less {arms(contrast['minus'])}"


def found_of(found: list[dict[str, str]], name: str) -> list[str]:
    """What other studies found of a claim."""
    about = [row for row in found if row["claim"] == name]
    return [f"{row['study']}: {', '.join(filter(None, (row['verdict'], row['effect'])))}" for row in about]


def counted(results: RunScores, contrast: dict) -> str:
    """What jobs counted otherwise for one arm than for another: updates, images and labels that follow from settings.

    In the order of the arms; of an arm's runs, which may differ in what their seeds draw, the mean.
    """
    arms = [arm["cell"] for arm in (*contrast["plus"], *contrast["minus"]) if arm["cell"] in results.cells]
    found = []
    for phase, name in (("cooldown", "cooldown"), ("finetune", "fine-tuning")):
        told = [[results.rows.measured(f"{phase}/{run}") for run in results.cells[cell].runs.values()] for cell in arms]
        counts = {"updates": [mean_of(one.get("steps", 0) for one in runs) for runs in told]}
        for kind in COUNTED:
            counts[kind] = [mean_of(one.get("tokens", {}).get(kind, 0) for one in runs) for runs in told]
        # By less than a hundredth they differ where a count is what a number of tokens came out as.
        differ = {kind: values for kind, values in counts.items() if values and max(values) > 1.01 * min(values)}
        found += [f"{kind} of the {name} {' | '.join(f'{n:,.0f}' for n in values)}" for kind, values in differ.items()]
    return "; ".join(found)


def mean_of(counts: Iterable[int]) -> float:
    """Nothing, of no runs."""
    found = list(counts)
    return sum(found) / len(found) if found else 0.0


def failed_runs(results: RunScores, claim: dict) -> str:
    """What failed of the runs that a claim needs, in a sentence of their own; nothing where all is well."""
    arms = [arm["cell"] for contrast in claim["contrasts"] for arm in (*contrast["plus"], *contrast["minus"])]
    arms += [cell for pair in claim["agreement"]["pairs"] for cell in pair] if claim.get("agreement") else []
    cells = [results.cells[name] for name in dict.fromkeys(arms) if name in results.cells]
    failed = [f"{cell.name}: {cell.failures}" for cell in cells if cell.failed]
    failed += [f"the language prior: {results.rows.no_prior}"] if cells and results.rows.no_prior else []
    return f" Failed: {'; '.join(failed)}." if failed else ""


def line(claim: dict, number: int, effect: Effect, judgement: Judgement, recipe: dict, failed: str = "") -> dict:
    """A part of a claim: its effect in its unit, and the verdict of the part and of the whole claim."""
    agreement: Any = claim.get("agreement")
    contrast = claim["contrasts"][number] if not agreement else None
    metric = contrast["metric"] if contrast else agreement["metric"]
    evidence, unit = effect.evidence, unit_of(metric)
    return {
        "claim": claim["name"],
        "beside": claim["beside"],
        "family": claim["family"],
        "kind": claim["kind"],
        "verdict": judgement.verdict,
        "part": part_name(contrast)
        if contrast
        else f"{metric}: {agreement['over']} {agreement['values'][0]} and {agreement['values'][1]}",
        "compares": contrast_words(contrast, recipe) if contrast else agreement_words(agreement),
        "part_verdict": judgement.parts[number].verdict,
        "metric": metric,
        "unit": unit.name,
        "effect": unit.scale * evidence.estimate,
        "low": unit.scale * evidence.low,
        "high": unit.scale * evidence.high,
        "interval_covers": effect.covers,
        "p": judgement.parts[number].p,
        "p_holm": judgement.p_holm,
        "seeds": evidence.seeds,
        "seed_sd": unit.scale * effect.seed_sd,
        "item_se": unit.scale * effect.item_se,
        "power_at": unit.scale * interest(claim, contrast) if effect.covers and contrast else None,
        "power": effect.power,
        "seeds_needed": effect.seeds_needed,
        "published": claim["published"]["effect"] if claim["published"] else None,
        "published_unit": claim["published"]["unit"] if claim["published"] else None,
        "reason": judgement.reason + failed,
        "says": claim["says"],
        "source": claim["source"],
        "note": claim["note"],
    }
