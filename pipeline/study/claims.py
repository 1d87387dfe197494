"""The paper's claims, as comparisons of the study's runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import yaml

from pipeline.reporting.measures import CONDITIONS, HELDOUT, MEASURES, VISION, measure_of
from pipeline.settings.claims import KINDS, Claim, PublishedFigure
from pipeline.settings.errors import ConfigError
from pipeline.settings.experiments import PRESET
from pipeline.settings.measures import FILE as MEASURES_FILE
from pipeline.settings.measures import JUDGED, TWO_POINTS
from pipeline.study.comparisons import FACTORS, FILE, factors_of, lint

if TYPE_CHECKING:
    from pipeline.study.cells import Cell
    from pipeline.study.study import Study

METRICS = tuple(
    name for name, measure in MEASURES.items() if measure.in_claims
)  # besides these, every task is a metric
STATES = ("model", "blind", "cooldown")
Arm = tuple["Cell", str]  # a cell and a condition


def resolve(study: Study) -> list[dict]:
    """Every claim with its arms as cells: what the phase of the claims gets. Raises ConfigError for a confound.

    A claim of vision or of text comes twice, by the primary measure and by the one beside it.
    """
    check_measures(study)
    found = []
    for name, claim in study.settings.claims.items():
        parts = arms_of_claim(study, name, claim)
        found.append({"name": name, "beside": "", **resolve_claim(study, name, claim, parts, "primary")})
        if not {*JUDGED}.isdisjoint(claim.metrics):
            beside = resolve_claim(study, name, claim, parts, "beside") | {"family": "beside"}
            found.append({"name": f"{name} beside", "beside": name, **beside})
        # By which measure they are compared makes no difference to what else the arms differ in.
        for arms in parts:
            lint(study, name, claim, arms)
    return found


def check_measures(study: Study) -> None:
    """Raises ConfigError where configs/measures.yaml names what is not measured, or does not say what 2 points are like."""
    measures = study.settings.measures
    allowed = {
        "vision": [name for name in METRICS if MEASURES[name].averages == "vision"],
        "text": [name for name in METRICS if MEASURES[name].averages == "text" or MEASURES[name].file == HELDOUT],
    }
    for key in JUDGED:
        for role, name in getattr(measures, key):
            if name not in allowed[key]:
                raise ConfigError(MEASURES_FILE, f"{key}.{role}", name, ", ".join(allowed[key]))
    in_other_units = [name for name in METRICS if MEASURES[name].unit != "points"]
    for name in measures.two_points:
        if name not in in_other_units:
            raise ConfigError(MEASURES_FILE, f"two_points.{name}", measures.two_points[name], ", ".join(in_other_units))
    for name in in_other_units:
        if name not in measures.two_points:
            raise ConfigError(MEASURES_FILE, f"two_points.{name}", "nothing", "a number above 0")


def arms_of_claim(study: Study, name: str, claim: Claim) -> list[list[Arm]]:
    """The arms of every part of a claim: of its contrasts, or of the pairs that shall agree. Raises ConfigError."""
    factors = factors_of(study.settings.scale)
    unknown = [factor for factor in claim.may_differ if factor not in factors]
    if unknown:
        allowed = f"{', '.join(FACTORS)}, or a key of the preset ({PRESET}SECTION.KEY)"
        raise ConfigError(FILE, f"{name}.may_differ", unknown[0], allowed)
    parts = [[*contrast.plus, *contrast.minus] for contrast in claim.contrasts]
    parts += claim.agreement.pairs if claim.agreement else []
    return [[arm_of(study, name, arm) for arm in part] for part in parts]


def resolve_claim(
    study: Study, name: str, claim: Claim, parts: list[list[Arm]], role: Literal["primary", "beside"]
) -> dict:
    """A claim with the names and conditions of its arms' cells, by the measures of a role. Raises ConfigError.

    parts: what `arms_of_claim` gives.
    """
    resolved = claim.model_dump(exclude={*KINDS, "may_differ"})
    contrasts = []
    for contrast, arms in zip(claim.contrasts, parts):
        metric = study.settings.measures.chosen(contrast.metric, role)
        check_metric(study, name, metric, arms)
        named: list[dict] = [{"cell": study.cell_name(cell), "condition": condition} for cell, condition in arms]
        if claim.trend:
            # In the order of the arms; an arm's sign is in which list it is.
            weights = [weight for sign in (1, -1) for w in claim.trend.weights if (weight := w * sign) > 0]
            named = [{**one, "weight": weight} for one, weight in zip(named, weights, strict=True)]
        sides = [named[: len(contrast.plus)], named[len(contrast.plus) :]]
        # "Better vision" and "better text" are claimed: of bits, fewer are better.
        if contrast.metric in JUDGED and measure_of(metric).lower_is_better:
            sides.reverse()
        two_points = like_two_points(study, metric)
        margin = contrast.margin and contrast.margin / TWO_POINTS * two_points
        told = {"metric": metric, "plus": sides[0], "minus": sides[1], "margin": margin, "two_points": two_points}
        contrasts.append(contrast.model_dump() | told | ({"over": claim.trend.over} if claim.trend else {}))
        if claim.optimum and measure_of(metric).lower_is_better:
            raise ConfigError(FILE, f"{name}.optimum.metric", metric, "a measure of which more is better")
    resolved |= {"kind": claim.kind, "contrasts": contrasts}
    if claim.agreement:
        metric = study.settings.measures.chosen(claim.agreement.metric, role)
        for pair in parts:
            check_metric(study, name, metric, pair)
        names = [[study.cell_name(cell) for cell, _ in pair] for pair in parts]
        margin = claim.agreement.margin / TWO_POINTS * like_two_points(study, metric)
        told = {"metric": metric, "margin": margin}
        resolved["agreement"] = claim.agreement.model_dump(exclude={"cells"}) | told | {"pairs": names}
    return resolved


def like_two_points(study: Study, metric: str) -> float:
    """What 2 points of accuracy are like, in the unit that a measure is kept in."""
    return study.settings.measures.two_points.get(metric, TWO_POINTS)


def published_cell(study: Study, row: PublishedFigure) -> Cell:
    """The cell of a line of configs/published.csv: "KEY=VALUE KEY=VALUE". Raises ConfigError."""
    name = f"{row.output}, {row.setting}: cell"
    pairs = [part.split("=", 1) for part in row.cell.split()]
    if not all(len(pair) == 2 for pair in pairs):
        raise ConfigError("configs/published.csv", name, row.cell, "KEY=VALUE, separated by blanks")
    return arm_of(study, name, {key: yaml.safe_load(value) for key, value in pairs}, "configs/published.csv")[0]


def arm_of(study: Study, name: str, arm: dict[str, Any], file: str = FILE) -> Arm:
    """The cell and the condition that an arm of a claim names. Raises ConfigError for unknown keys and values."""
    changes = dict(arm)
    evaluated, condition = changes.pop("evaluated", "model"), changes.pop("condition", "normal")
    for key, value, allowed in (("evaluated", evaluated, STATES), ("condition", condition, CONDITIONS)):
        if value not in allowed:
            raise ConfigError(file, f"{name}: {key}", value, ", ".join(allowed))
    if "seed" in changes:
        raise ConfigError(file, f"{name}: seed", changes["seed"], "no seed: arms are compared seed by seed")
    try:
        return study.cell(changes, evaluated, file), condition
    # The error names the key alone; the reader must also know which claim has it.
    except ConfigError as error:
        raise ConfigError(file, f"{name}: {error.key}", error.found, error.allowed) from None


def check_metric(study: Study, name: str, metric: str, arms: list[Arm]) -> None:
    """Raises ConfigError for an unknown metric, and for one that is not measured of an arm."""
    tasks = study.settings.tasks
    if metric not in (*METRICS, *tasks.vision, *tasks.text):
        known = (*JUDGED, *METRICS, *tasks.vision, *tasks.text)
        raise ConfigError(FILE, f"{name}: metric", metric, ", ".join(known))
    measure = measure_of(metric, {"text": tasks.text})
    vision = measure.file == VISION
    for cell, condition in arms:
        seen = cell.evaluated == "model" or cell.recipe.image_fraction > 0
        if vision:
            # A blind model was trained without images: it is asked without them, and about nothing else.
            fits = cell.evaluated == "model" or (cell.evaluated == "blind" and condition == "removed")
        elif measure.averages == "vision":
            fits = cell.evaluated == "model" and condition == "normal"
        else:
            fits = cell.evaluated != "blind" and condition == "normal" and (seen or not measure.needs_images)
        if not fits:
            allowed = "a model, or a blind one with condition removed" if vision else "a model or cooldown, as it is"
            allowed = "a model, as it is" if measure.averages == "vision" and not vision else allowed
            allowed += ", that has seen images" if measure.needs_images else ""
            raise ConfigError(FILE, f"{name}: {metric} of", f"{cell.evaluated} ({condition})", allowed)
