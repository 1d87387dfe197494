"""What training jobs are told. The study makes these settings, cards hold them, the trainer reads them.

A default says what a card without the key means: the key was not there when the first jobs ran. Cards have only the
keys that the study gave.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.settings.types import (
    AdamW,
    Count,
    Encoder,
    FinetunePhase,
    Fraction,
    ModelSize,
    Rate,
    Section,
    TextPhase,
    TrainingDevice,
)


class Training(Section):
    """What all training jobs are told."""

    model: ModelSize
    optimisation: AdamW
    seed: int
    hardware: TrainingDevice


class Pretrain(Training):
    """The text run until update `stop`."""

    optimisation: TextPhase
    stop: int


class PublishedState(Section):
    """A checkpoint that others have published.

    `sha256` by the names of its files; `moments`: whether Adam's are there too.
    """

    tokens: int
    revision: str
    sha256: dict[str, str] = Field(default={})
    layout: Literal["openlm", "huggingface"]
    moments: bool


class Imported(Section):
    """A published text run's state after update `stop`."""

    model: ModelSize
    optimisation: TextPhase
    stop: int
    checkpoint: PublishedState


class CooldownOptimisation(AdamW):
    """`peak_lr` and `warmup_steps` are of a branch that has no rate to continue."""

    tokens: Count
    peak_lr: Rate | None = None
    warmup_steps: int = Field(default=0, ge=0)


class WithImages(Training):
    """What jobs are told that see images. `main_seed`: of the decoder's weights, in jobs without a parent state."""

    encoder: Encoder | None = None
    train_encoder: bool = False
    main_seed: int | None = None


class Cooldown(WithImages):
    """A branch that leaves the text run after `branch_step` updates.

    `main` is the text run whose rate it continues; `rewarm` is a rate of its own in place of that.
    """

    optimisation: CooldownOptimisation
    branch_step: int
    moments: Literal["keep", "fresh"]
    rewarm: float | None = None
    image_fraction: Fraction
    instruction_share: Fraction = 0.0
    main: TextPhase | None = None


class Finetune(WithImages):
    """`epochs` passes over the instructions; `blind`: without their images."""

    optimisation: FinetunePhase
    epochs: int
    blind: bool = False


PHASES: dict[str, type[Pretrain] | type[Cooldown] | type[Finetune]] = {
    "pretrain": Pretrain,
    "cooldown": Cooldown,
    "finetune": Finetune,
}


def read(phase: str, settings: dict) -> Pretrain | Imported | Cooldown | Finetune:
    """The settings on the card of a job of one of these phases. Raises ValidationError for others."""
    if "checkpoint" in settings:
        return Imported.model_validate(settings)
    return PHASES[phase].model_validate(settings)
