"""What a part of a claim compares, in words: "images at 80%" minus "images at 100%", and what both sides share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from pipeline.reporting.measures import measure_of
from pipeline.reporting.table_list import key_words

# Of settings with few values: what a model is that has this one.
VALUES: dict[str, dict[Any, str]] = {
    "size": {"base": "the smaller size", "larger": "the larger size"},
    "train_encoder": {True: "encoder trained", False: "encoder frozen"},
    "moments": {"keep": "moments kept", "fresh": "fresh moments"},
    "captions": {"keywords": "keywords for captions"},
    "cooldown": {True: "with a cooldown", False: "first seen in fine-tuning"},
    "finetune_epochs": {1: "fine-tuned for one pass"},
    "instruction_share": {0.0: "no instructions among the images"},
    "evaluated": {"model": "fine-tuned", "cooldown": "before fine-tuning", "blind": "fine-tuned without images"},
    "condition": {
        "normal": "asked with the image",
        "removed": "asked without the image",
        "mean": "asked with the average image",
        "shuffled": "asked with an unrelated image",
    },
}
# Of settings with any value. A share stands as percent.
FORMS = {
    "instruction_share": "{:.0%} instructions among the images",
    "finetune_epochs": "fine-tuned for {:g} passes",
    "text_budget": "{:g} times the text",
    "captions": "{} captions",
    "encoder": "encoder {}",
    "rewarm_like": "warmed up to the rate at {:g}%",
    "cooldown_rate_factor": "{:g} times the rate",
}


class Said(NamedTuple):
    """The arms of a contrast in words, in their order, and in brackets what all share that is not the recipe's."""

    arms: list[str]
    shared: str


def say(arms: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any]) -> Said:
    """Arms ("cell" and "condition") by the settings in which they differ; `recipe`: the values that names leave out."""
    told = [settings_of(arm, recipe) for arm in arms]
    keys = list(dict.fromkeys(key for one in told for key in one))
    differ = [key for key in keys if len({repr(one.get(key)) for one in told}) > 1]
    usual = settings_of({"cell": "recipe", "condition": "normal"}, recipe)
    shared = [words(key, told[0]) for key in keys if key not in differ and told[0].get(key) != usual.get(key)]
    in_words = [", ".join(words(key, one) for key in differ) or "the same" for one in told]
    if not all(one.get("image_fraction") for one in told):  # a cooldown on text alone branches too
        in_words, shared = ([text.replace("images at", "branch at") for text in some] for some in (in_words, shared))
    return Said(in_words, f" ({'both' if len(told) == 2 else 'all'}: {', '.join(shared)})" if shared else "")


def settings_of(arm: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a cell, by its name: "branch_percent=100 evaluated=cooldown"; "recipe" is the recipe itself."""
    changes = [part.partition("=") for part in arm["cell"].split() if part != "recipe"]
    read = {key: yaml.safe_load(value) for key, _, value in changes}
    return {**recipe, "evaluated": "model", **read, "condition": arm["condition"]}


def words(key: str, settings: Mapping[str, Any]) -> str:
    """A setting of a model in words."""
    value = settings.get(key)
    if key == "branch_percent":
        return f"images at {value:g}%"
    if key == "image_fraction":
        return f"images in {100 * value:g}% of the sequences" if value else "no images in the cooldown"
    if key == "rewarm_like" and value is None:
        ends = settings.get("branch_percent") in (0, 100)
        return "warmed up to the scale's peak" if ends else "the rate continued"
    if value in VALUES.get(key, {}):
        return VALUES[key][value]
    if key in FORMS and value is not None:
        return FORMS[key].format(value)
    return f"{key_words(key)} {'as it is' if value is None else value}"


def contrast_words(contrast: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """What a contrast compares: "vision average: images at 80% minus images at 100%"."""
    title = measure_of(contrast["metric"]).title
    if over := contrast.get("over"):
        return f"{title}: rise over {key_words(over)}"
    said = say([*contrast["plus"], *contrast["minus"]], recipe)
    plus, minus = said.arms[: len(contrast["plus"])], said.arms[len(contrast["plus"]) :]
    return f"{title}: {'; plus '.join(plus)} minus {'; minus '.join(minus)}{said.shared}"


def agreement_words(agreement: Mapping[str, Any]) -> str:
    """What an agreement compares: "short answer: finetune seed 7 and 365"."""
    values = " and ".join(str(value) for value in agreement["values"])
    return f"{measure_of(agreement['metric']).title}: {key_words(agreement['over'])} {values}"
