"""params.yaml: what a researcher varies."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from pipeline.settings.types import Count, Fraction, Percent, Section

Multiple = Annotated[float, Field(gt=0, le=100)]


MOST_SEED = 2**31 - 1  # what every library takes for one


class Recipe(Section):
    """The settings of one model, from its branch to its fine-tuning."""

    size: Literal["base", "larger"] = Field(description="model size: `model` or `larger` of configs/scale/")
    text_budget: Multiple = Field(description="tokens of the whole text run, as a multiple of the scale's")
    branch_percent: Percent = Field(description="percent of the text tokens seen before images come in")
    moments: Literal["keep", "fresh"] = Field(description="Adam's moments at the branch: the parent's, or zero")
    rewarm_like: Percent | None = Field(
        description="a branch at 0% or 100% warms up to the text run's rate at this percent; null: to the scale's peak"
    )
    cooldown: bool = Field(
        description="whether there is an image-text phase; without, images first come in fine-tuning"
    )
    image_fraction: Fraction = Field(description="share of the cooldown's sequences that hold images")
    instruction_share: Fraction = Field(description="share of these that are instructions in place of captions")
    captions: str = Field(description="text of the captions: one of those that the data source has")
    finetune_epochs: Count = Field(description="passes over the instruction data")
    encoder: str = Field(description="image encoder: a file in configs/encoder/")
    train_encoder: bool = Field(description="whether the encoder is trained too, in cooldown and fine-tuning")
    text_seed: int = Field(ge=0, le=MOST_SEED, description="seed of the text run: its first weights and its data order")
    seed: int = Field(
        ge=0, le=MOST_SEED, description="seed of the cooldown's and the fine-tuning's data order and new weights"
    )
    finetune_seed: int | None = Field(
        ge=0,
        le=MOST_SEED,
        description="the fine-tuning's seed, of data order and of weights that are new there; null: `seed`",
    )
    cooldown_rate_factor: Multiple = Field(
        description="a cooldown in the middle of the text run goes on with that run's rate times this"
    )

    def told(self) -> dict[str, Any]:
        """What tables are told of it, but for the seeds: not of a factor of 1, which they did not have at first."""
        seeds = {"seed", "text_seed", "finetune_seed"}
        return self.model_dump(exclude=seeds | ({"cooldown_rate_factor"} if self.cooldown_rate_factor == 1 else set()))


class Experiment(Section):
    """A grid of models: every combination of the values that some keys take. All else is as in the recipe and the preset."""

    says: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="title of its table and figure; null: of the paper's experiments, whose titles are known",
    )
    vary: dict[str, list[Any]] = Field(
        min_length=1,
        description="keys of the recipe, seed too, or of the preset (scale.SECTION.KEY), each with the values that it"
        " takes; an empty list: the experiment is not run",
    )
    evaluate: Literal["model", "blind", "cooldown"] = Field(
        default="model",
        description="the fine-tuned model, one fine-tuned without images, or the state before fine-tuning",
    )
    after_cooldown: bool = Field(
        default=False, description="whether each model's state before fine-tuning is evaluated too"
    )
    # Two tagged forms and not a plain union, for which pydantic reports an error of every member. The tags stand in
    # parentheses because `errors.explain` drops such parts from the key.
    repeats: Annotated[
        Annotated[Count, Tag("(number)")] | Annotated[Literal["primary", "other"], Tag("(word)")],
        Discriminator(lambda value: "(word)" if isinstance(value, str) else "(number)"),
    ] = Field(
        default="other",
        description="seeds of each model: a number, or a key of the preset's `repeats`; a varied seed is all",
    )

    def values(self, key: str) -> list[Any]:
        """The values that a key takes; none if the experiment does not vary it."""
        return self.vary.get(key, [])

    @property
    def grid(self) -> list[dict[str, Any]]:
        """Every combination of the values, but for seeds; none if a list is empty."""
        keys = [key for key in self.vary if key != "seed"]
        combinations = product(*(self.vary[key] for key in keys)) if all(self.vary.values()) else ()
        return [dict(zip(keys, values)) for values in combinations]


# The experiments that the paper's tables and figures show, and the controls that it lacks, with the keys that these show.
# Their makers know the titles. Any other experiment has a table and a figure of its own.
PAPER = {
    "timing": ("branch_percent",),
    "image_fraction": ("image_fraction",),
    "from_scratch": ("branch_percent", "image_fraction"),
    "instruction_share": ("instruction_share",),
    "finetune_epochs": ("finetune_epochs",),
    "text_budget": ("text_budget",),
    "size": ("size", "image_fraction"),
    "unfrozen": ("train_encoder", "image_fraction", "finetune_epochs"),
    "captions": ("captions",),
    "encoder": ("encoder",),
    "seeds": ("branch_percent", "image_fraction", "finetune_epochs", "finetune_seed"),
    "usual": ("cooldown", "branch_percent"),
    "rewarm": ("branch_percent", "rewarm_like"),
    "text_only": ("branch_percent", "image_fraction"),
    "moments": ("moments",),
    "blind": ("image_fraction",),
}


MOST_MODELS = 1000  # of one experiment: plans look at each


class Params(Section):
    preset: str = Field(description="scale: a file in configs/scale/")
    data: str = Field(description="data source: a file in configs/data/")
    tasks: str = Field(description="evaluation suite: a file in configs/tasks/")
    split: Literal["test", "validation"] = Field(description="evaluation split; validation while tuning")
    recipe: Recipe
    experiments: dict[str, Experiment] = Field(description="by their names; the paper's, and any others")
    wandb: Literal["disabled", "offline", "online"] = Field(description="Weights & Biases logging")
