"""The sections of the configuration that running phases read back from their cards, and the types they are made of.

They are apart from `config.py` so that a new setting of one phase does not count as changed code of all the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def option(description: str, **bounds: object) -> Any:
    """A setting that need not be set, and is in no card where it is not: results without it stay what they are."""
    return Field(default=None, exclude_if=lambda value: value is None, description=description, **bounds)


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
    """An image encoder: a network, several of them side by side ("concatenated"), or bare pixels ("patch")."""

    kind: Literal["efficientnet_lite0", "efficientnet_lite1", "concatenated", "patch"]
    weights: str | None = Field(
        default=None,
        validate_default=True,
        description="a network's alone: importable package whose folder holds the weights, or a folder",
    )
    parts: list[Encoder] = Field(
        default=[], validate_default=True, description="a concatenation's alone: the encoders that it is made of"
    )
    pixels: int = Field(ge=32, description="side of the square input")
    patches: Count = Field(description="image tokens")
    width: Count = Field(description="numbers a patch")
    cache: bool = Field(description="compute every image's features once for the whole study")
    trained_rate: Rate = Field(
        default=0.1, description="learning rate of a trained encoder, as a multiple of the model's"
    )

    @field_validator("weights", "parts")
    @classmethod
    def belongs_to_the_kind(cls, value, info: ValidationInfo):
        """Networks have weights, a concatenation has parts, and nothing else has either."""
        kind = info.data.get("kind")
        wanted = kind == "concatenated" if info.field_name == "parts" else kind not in ("concatenated", "patch")
        if bool(value) != wanted:
            raise PydanticCustomError("kind", f"{'a value' if wanted else 'nothing'} for kind '{kind}'")
        return value

    @field_validator("pixels", "patches", "width")
    @classmethod
    def fits_the_parts(cls, value: int, info: ValidationInfo) -> int:
        """All parts of a concatenation see the same pixels as the same patches, and their widths add up."""
        found = [getattr(part, info.field_name) for part in info.data.get("parts", [])]
        fits = value == sum(found) if info.field_name == "width" else set(found) == {value}
        if found and not fits:
            raise PydanticCustomError("parts", f"what fits the parts' {', '.join(map(str, found))}")
        return value


def find_weights(encoder: Encoder) -> list[Path] | None:
    """The folders of all the weights that an encoder needs, or None if one is missing. Imports nothing of a package."""
    from importlib.util import find_spec

    if encoder.parts:
        found = [find_weights(part) for part in encoder.parts]
        return None if None in found else [folder for folders in found for folder in folders]
    if encoder.weights is None:
        return []
    if "/" in encoder.weights:
        folder = Path(encoder.weights)
        return [folder] if folder.is_dir() else None
    spec = find_spec(encoder.weights) if encoder.weights.isidentifier() else None
    return [Path(spec.submodule_search_locations[0])] if spec and spec.submodule_search_locations else None
