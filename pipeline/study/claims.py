"""The paper's claims, as comparisons of the study's runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from pipeline.reporting.measures import CONDITIONS, MEASURES, VISION, measure_of
from pipeline.settings.claims import KINDS, Claim, PublishedFigure
from pipeline.settings.errors import ConfigError
from pipeline.settings.experiments import PRESET
from pipeline.study.comparisons import FACTORS, FILE, factors_of, lint

if TYPE_CHECKING:
    from pipeline.study.cells import Cell
    from pipeline.study.study import Study

METRICS = tuple(
    name for name, measure in MEASURES.items() if measure.in_claims
)  # besides these, every task is a metric
STATES = ("model", "blind", "cooldown")


def resolve(study: Study) -> list[dict]:
    """Every claim with its arms as cells: what the phase of the claims gets. Raises ConfigError for a confound."""
    return [{"name": name, **resolve_claim(study, name, claim)} for name, claim in study.settings.claims.items()]


def resolve_claim(study: Study, name: str, claim: Claim) -> dict:
    """A claim with the names and conditions of its arms' cells. Raises ConfigError."""
    factors = factors_of(study.settings.scale)
    unknown = [factor for factor in claim.may_differ if factor not in factors]
    if unknown:
        allowed = f"{', '.join(FACTORS)}, or a key of the preset ({PRESET}SECTION.KEY)"
        raise ConfigError(FILE, f"{name}.may_differ", unknown[0], allowed)
    if claim.optimum and measure_of(claim.optimum.metric).lower_is_better:
        raise ConfigError(FILE, f"{name}.optimum.metric", claim.optimum.metric, "a measure of which more is better")
    resolved = claim.model_dump(exclude={*KINDS, "may_differ"})
    contrasts = []
    for contrast in claim.contrasts:
        arms = [arm_of(study, name, arm) for arm in (*contrast.plus, *contrast.minus)]
        check_metric(study, name, contrast.metric, arms)
        lint(study, name, claim, arms)
        named: list[dict] = [{"cell": study.cell_name(cell), "condition": condition} for cell, condition in arms]
        plus = len(contrast.plus)
        if claim.trend:
            # In the order of the arms; an arm's sign is in which list it is.
            weights = [weight for sign in (1, -1) for w in claim.trend.weights if (weight := w * sign) > 0]
            named = [{**one, "weight": weight} for one, weight in zip(named, weights, strict=True)]
        contrasts.append(contrast.model_dump() | {"plus": named[:plus], "minus": named[plus:]})
        contrasts[-1] |= {"over": claim.trend.over} if claim.trend else {}
    resolved |= {"kind": claim.kind, "contrasts": contrasts}
    if claim.agreement:
        pairs = [[arm_of(study, name, arm) for arm in pair] for pair in claim.agreement.pairs]
        for pair in pairs:
            check_metric(study, name, claim.agreement.metric, pair)
            lint(study, name, claim, pair)
        names = [[study.cell_name(cell) for cell, _ in pair] for pair in pairs]
        resolved["agreement"] = claim.agreement.model_dump(exclude={"cells"}) | {"pairs": names}
    return resolved


def published_cell(study: Study, row: PublishedFigure) -> Cell:
    """The cell of a line of configs/published.csv: "KEY=VALUE KEY=VALUE". Raises ConfigError."""
    name = f"{row.output}, {row.setting}: cell"
    pairs = [part.split("=", 1) for part in row.cell.split()]
    if not all(len(pair) == 2 for pair in pairs):
        raise ConfigError("configs/published.csv", name, row.cell, "KEY=VALUE, separated by blanks")
    return arm_of(study, name, {key: yaml.safe_load(value) for key, value in pairs}, "configs/published.csv")[0]


def arm_of(study: Study, name: str, arm: dict[str, Any], file: str = FILE) -> tuple[Cell, str]:
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


def check_metric(study: Study, name: str, metric: str, arms: list[tuple[Cell, str]]) -> None:
    """Raises ConfigError for an unknown metric, and for one that is not measured of an arm."""
    tasks = study.settings.tasks
    if metric not in (*METRICS, *tasks.vision, *tasks.text):
        raise ConfigError(FILE, f"{name}: metric", metric, ", ".join((*METRICS, *tasks.vision, *tasks.text)))
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
