"""What evaluations are told. The study makes these settings, cards hold them, the phase reads them."""

from __future__ import annotations

from typing import Literal

from pipeline.settings.tasks import AskedTextTask, AskedVisionTask, Captioning
from pipeline.settings.types import Batches, Count, Device, Encoder, ModelSize, Section

Condition = Literal["normal", "removed", "mean", "shuffled"]


class AskedBatches(Batches):
    """How much is asked of text: of a model that is asked about images alone, nothing."""

    text_items: Count | None = None
    heldout_documents: Count | None = None


class EvaluatedModel(Section):
    """What is needed to load a trained model: its sizes, and its encoder if it has seen images."""

    model: ModelSize
    encoder: Encoder | None = None
    train_encoder: bool = False


class Evaluate(EvaluatedModel):
    """What a model is asked, by task, and under which conditions of the image."""

    evaluation: AskedBatches
    hardware: Device
    vision: dict[str, AskedVisionTask]
    captioning: Captioning | None
    text: dict[str, AskedTextTask]
    conditions: list[Condition]
    engine: Literal["lm_eval"] | None = None
    split: str | None = None  # of the images; a model that has seen none is asked about none
