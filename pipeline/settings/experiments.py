"""What an experiment may vary, and what a recipe and a preset become with other values of some keys."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from pipeline.settings.errors import MISSING, ConfigError, parse
from pipeline.settings.params import MOST_MODELS, PAPER, Experiment, Params, Recipe
from pipeline.settings.scale import Scale

# Keys of the preset that an experiment may vary are named PRESET + SECTION.KEY. What is asked of a model is the same for
# all (`evaluation`), and `repeats` and `expected` are of the study, not of a model.
PRESET = "scale."
SECTIONS = ("model", "larger", "text", "cooldown", "finetune", "data", "hardware")
MAPPINGS = (
    f"{PRESET}model.config",
    f"{PRESET}larger.hardware",
    f"{PRESET}hardware.minutes_of",
)  # keys whose values are no single ones


def keys_to_vary(scale: Scale) -> list[str]:
    """All keys that an experiment may vary."""
    sections = {name: getattr(scale, name) for name in SECTIONS}
    of_preset = [f"{PRESET}{name}.{key}" for name, part in sections.items() if part for key in type(part).model_fields]
    return [*Recipe.model_fields, *(key for key in of_preset if key not in MAPPINGS)]


def preset_value(scale: Scale, key: str) -> Any:
    """What a preset has for one of `keys_to_vary` that is its own."""
    _, section, name = key.split(".")
    return getattr(getattr(scale, section), name)


def with_changes(recipe: Recipe, scale: Scale, changes: Mapping[str, Any], file: str) -> tuple[Recipe, Scale]:
    """The recipe and the preset with other values of some of `keys_to_vary`. Raises ConfigError, whose key is among them."""
    known, sections = keys_to_vary(scale), scale.model_dump()
    for key, value in changes.items():
        if key not in known:
            raise ConfigError(file, key, value, unknown_key(key, known))
        if key.startswith(PRESET):
            _, section, name = key.split(".")
            sections[section][name] = value
    own = {key: value for key, value in changes.items() if not key.startswith(PRESET)}
    recipe = parse(Recipe, recipe.model_dump() | own, file)
    if len(own) == len(changes):
        return recipe, scale
    try:
        return recipe, parse(Scale, sections, file)
    except ConfigError as error:
        raise ConfigError(file, PRESET + error.key, error.found, error.allowed) from None


def unknown_key(key: str, known: list[str]) -> str:
    """What is allowed in the place of a key that is none to vary."""
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    section = key.rpartition(".")[0]
    beside = [other for other in known if other.rpartition(".")[0] == section] or list(Recipe.model_fields)
    return f"no such key; {hint}keys here are {', '.join(beside)}; {PRESET}SECTION.KEY is of the preset"


def given(params: Params, key: str) -> Iterator[tuple[str, Any]]:
    """The values of a key of the recipe, each after the place where it stands: the recipe's own, and the experiments'."""
    yield f"recipe.{key}", getattr(params.recipe, key)
    for name, experiment in params.experiments.items():
        for place, value in enumerate(experiment.values(key)):
            yield f"experiments.{name}.vary.{key}.{place}", value


def check_experiments(params: Params, scale: Scale, file: str) -> None:
    """Names, titles, keys and values of the experiments, one by one. Raises ConfigError."""
    timing = params.experiments.get("timing")
    if not timing or not timing.grid:
        raise ConfigError(
            file, "experiments.timing.vary.branch_percent", [], "at least one percent: table 1 shows them"
        )
    known = keys_to_vary(scale)
    for name, experiment in params.experiments.items():
        where = f"experiments.{name}"
        check_size(where, experiment, file)
        if scale.repeats.text > 1 and experiment.values("text_seed"):
            allowed = f"nothing: the preset deals the seeds to {scale.repeats.text} text runs (repeats.text)"
            raise ConfigError(file, f"{where}.vary.text_seed", experiment.values("text_seed"), allowed)
        if name in PAPER:
            check_papers(where, experiment, PAPER[name], file)
        elif not re.fullmatch("[a-z][a-z0-9_]{0,40}", name):
            raise ConfigError(file, where, name, "a name of small letters, digits and _")
        elif experiment.says is None:
            near = difflib.get_close_matches(name, PAPER, n=1)
            hint = f"; did you mean the experiment '{near[0]}'?" if near else ""
            allowed = f"this key must be set: the title of its table and figure{hint}"
            raise ConfigError(file, f"{where}.says", MISSING, allowed)
        for key, values in experiment.vary.items():
            if key not in known:
                raise ConfigError(file, f"{where}.vary.{key}", values, unknown_key(key, known))
            for place, value in enumerate(values):
                if name not in PAPER and value in values[:place]:
                    raise ConfigError(file, f"{where}.vary.{key}.{place}", value, "each value once")
                try:
                    # One key at a time, so that the message can name the very value that is wrong.
                    with_changes(params.recipe, scale, {key: value}, file)
                except ConfigError as error:
                    raise ConfigError(file, f"{where}.vary.{key}.{place}", value, error.allowed) from None


def check_size(where: str, experiment: Experiment, file: str) -> None:
    """An experiment has no more models than a study can plan, and its seeds are said in one place. Raises ConfigError."""
    # `repeats` has a default, so only whether it was written says that the two contradict each other.
    if "seed" in experiment.vary and "repeats" in experiment.model_fields_set:
        raise ConfigError(file, f"{where}.repeats", experiment.repeats, "nothing, as `vary` has the seeds")
    repeats = experiment.repeats if isinstance(experiment.repeats, int) and "seed" not in experiment.vary else 1
    # Counted before the grid is made: seven lists of twenty values would be a billion models.
    if (models := prod(map(len, experiment.vary.values())) * repeats) > MOST_MODELS:
        raise ConfigError(file, where, f"{models:,} models", f"at most {MOST_MODELS:,}")


def check_papers(where: str, experiment: Experiment, keys: tuple[str, ...], file: str) -> None:
    """One of the paper's experiments varies what its table shows, which has a title. Raises ConfigError."""
    another = "give the experiment another name, and it has a table of its own"
    if experiment.says is not None:
        raise ConfigError(file, f"{where}.says", experiment.says, f"nothing: its table has a title; {another}")
    for key in (*experiment.vary, *keys):
        if key not in keys or key not in experiment.vary:
            near = difflib.get_close_matches(key, keys, n=1)
            hint = f"did you mean '{near[0]}'? " if near and key not in keys else ""
            found = experiment.vary.get(key, MISSING)
            raise ConfigError(file, f"{where}.vary.{key}", found, f"{hint}its table shows {', '.join(keys)}; {another}")
