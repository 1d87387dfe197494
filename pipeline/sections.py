"""The sections of the configuration that running phases read back from their cards, and the types they are made of.

They are apart from `config.py` so that a new setting of one phase does not count as changed code of all the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ModelSize(Section):
    vocabulary: int = Field(ge=300, le=65536, description="tokens in the tokenizer")
    layers: Count
    heads: Count
    width: int = Field(ge=8, description="d_model")
    sequence: int = Field(ge=16, description="positions a training sequence")


class Optimisation(Section):
    """AdamW and its schedule; budgets are in tokens (positions), batches in sequences."""

    batch: Count = Field(description="sequences a step")
    peak_lr: Rate
    floor_lr: float = Field(ge=0, le=1)
    weight_decay: float = Field(ge=0, le=10)
    decay_vectors: bool = Field(description="whether weight decay applies to biases and gains too")
    beta1: Beta = 0.9
    beta2: Beta = 0.95
    epsilon: Rate = 1e-8
    clip_norm: float = Field(gt=0)
    z_loss: float = Field(ge=0, le=1)


class TextPhase(Optimisation):
    tokens: Count = Field(description="tokens of the whole text run (100%)")
    warmup_steps: int = Field(ge=0)


class Encoder(Section):
    kind: Literal["efficientnet_lite0"]
    weights: str = Field(description="importable package whose folder holds the weights, or a folder")
    pixels: int = Field(ge=32, description="side of the square input")
    patches: Count = Field(description="image tokens")
    width: Count = Field(description="numbers a patch")
    cache: bool = Field(description="compute every image's features once for the whole study")


def find_weights(encoder: Encoder) -> Path | None:
    """The folder of an encoder's weights, or None. Imports nothing of the package."""
    from importlib.util import find_spec

    if "/" in encoder.weights:
        folder = Path(encoder.weights)
        return folder if folder.is_dir() else None
    spec = find_spec(encoder.weights) if encoder.weights.isidentifier() else None
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
