"""What a point of an experiment is: a model without its seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pipeline.settings.params import Recipe

Evaluated = Literal["model", "blind", "cooldown"]


@dataclass(frozen=True)
class Cell:
    """A model of an experiment without its seed, and the state of it that is evaluated.

    "model": fine-tuned; "blind": fine-tuned without images; "cooldown": before fine-tuning.
    """

    recipe: Recipe  # its seed is the recipe's first; runs have their own
    evaluated: Evaluated = "model"
    preset: tuple[tuple[str, Any], ...] = ()  # (key, value) where it differs from the preset; cells must be hashable
