"""The sections of the configuration that running phases read back from their cards, and the types they are made of.

They are apart from the other settings, so that a new setting of one phase does not count as changed code of all the others.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from pipeline.common.squares import Fit, Square
from pipeline.settings.vision_transformers import VITS

Fraction = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    """A mapping of a settings file: the keys that it may have, with their types and ranges."""

    # extra: a misspelt key is an error, not a default. strict: nothing is converted, so a card has what the file has.
    # NaN and infinity have no form in JSON, which cards are.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def added_key(default: Any, **options: Any) -> Any:
    """A key that was added after jobs had been made. Its default stays out of cards, so adding it made no job stale."""
    return Field(default=default, exclude_if=lambda value: value == default, **options)


def optional_key(description: str, **bounds: Any) -> Any:
    """A key that need not be set: see `added_key`."""
    return added_key(None, description=description, **bounds)


# Architectures that `transformers` has and this package trains too; OpenLM's is our own and has no name here.
Family = Literal["gpt_neox", "olmo", "llama"]


class ModelSize(Section):
    """The sizes of a decoder, and of one of transformers' architectures what else its config says."""

    vocabulary: int = Field(ge=300, le=1 << 20, description="tokens in the tokenizer")
    layers: Count
    heads: Count
    width: int = Field(ge=8, description="d_model")
    sequence: int = Field(ge=16, description="positions a training sequence")
    family: Family | None = optional_key("an architecture of transformers, by its model_type; null: OpenLM's")
    config: dict[str, bool | int | float | str | dict[str, bool | int | float | str | None] | None] | None = (
        optional_key(
            "of a family: the other keys of its config.json that say what is computed; null: transformers' defaults"
        )
    )


class AdamW(Section):
    """The optimizer and the end of its schedule; batches are in sequences."""

    batch: Count = Field(description="sequences a step")
    floor_lr: float = Field(ge=0, le=1)
    weight_decay: float = Field(ge=0, le=10)
    decay_vectors: bool = Field(description="whether weight decay applies to biases and gains too")
    beta1: Beta = 0.9
    beta2: Beta = 0.95
    epsilon: Rate = 1e-8
    clip_norm: float = Field(gt=0)
    z_loss: float = Field(ge=0, le=1)


class Optimisation(AdamW):
    """A phase's optimisation with its highest learning rate; budgets are in tokens (positions)."""

    peak_lr: Rate


class TextPhase(Optimisation):
    """The text run."""

    tokens: Count = Field(description="tokens of the whole text run (100%)")
    warmup_steps: int = Field(ge=0)


class FinetunePhase(Optimisation):
    """Fine-tuning on visual instructions; its tokens follow from the passes over the data."""

    warmup_fraction: Fraction


class Device(Section):
    """What any job computes on, as far as the bits depend on it."""

    device: Literal["cpu", "gpu"]
    threads: Count = Field(description="CPU threads a process; results are the same bits for the same number")


class TrainingDevice(Device):
    """What a training job computes on, as far as the bits depend on it: the number of devices does not count."""

    microbatch: Count = Field(description="sequences a device's forward pass; the rest of the batch accumulates")
    precision: Literal["bf16"] | None = optional_key("of training; bf16: matrix products in bfloat16; null: fp32")
    compile: bool = added_key(False, description="whether training compiles the decoder's blocks with torch.compile")


class Batches(Section):
    """How an evaluation asks: what is computed together, and how exactly."""

    batch: Count = Field(description="prompts a batch, at most")
    batch_tokens: Count | None = optional_key(
        "positions a batch, at most: images, prompts and answers; null: any number"
    )
    precision: Literal["bf16"] | None = optional_key("bf16: matrix products in bfloat16; null: fp32")


class FeatureEncoder(Section):
    """What features are computed by: a network, several of them side by side ("concatenated"), or bare pixels ("patch")."""

    kind: Literal[
        "efficientnet_lite0",
        "efficientnet_lite1",
        "vit_so400m_patch14_siglip_384",
        "vit_large_patch14_reg4_dinov2",
        "concatenated",
        "patch",
    ]
    weights: str | None = Field(
        default=None,
        validate_default=True,
        description="a network's alone: importable package whose folder holds the weights, or a folder; of a vision "
        "transformer (vit_*) a safetensors file in timm's layout",
    )
    sha256: str | None = added_key(
        None,
        pattern="^[0-9a-f]{64}$",
        description="a vision transformer's alone: of the weights file; null: not checked",
    )
    parts: list[Encoder] = Field(
        default=[], validate_default=True, description="a concatenation's alone: the encoders that it is made of"
    )
    pixels: int = Field(ge=32, description="side of the square input")
    fit: Fit = added_key(
        "resize",
        validate_default=True,
        description="how images become squares: stretched, or padded with the mean colour; boxes in texts go along",
    )
    patches: Count = Field(description="image tokens")
    width: Count = Field(description="numbers a patch")

    @property
    def square(self) -> Square:
        """What it sees. The parts of a concatenation see the same pixels, padded with the first one's mean colour."""
        kinds = [part.kind for part in self.parts] or [self.kind]
        mean = VITS[kinds[0]].mean if kinds[0] in VITS else (0.5, 0.5, 0.5)
        red, green, blue = (int(255 * share) for share in mean)
        return Square(self.pixels, self.fit, (red, green, blue))

    @field_validator("weights", "parts")
    @classmethod
    def belongs_to_the_kind(cls, value: Any, info: ValidationInfo) -> Any:
        """Networks have weights, a concatenation has parts, and nothing else has either."""
        kind = info.data.get("kind")
        wanted = kind == "concatenated" if info.field_name == "parts" else kind not in ("concatenated", "patch")
        if bool(value) != wanted:
            raise PydanticCustomError("kind", f"{'a value' if wanted else 'nothing'} for kind '{kind}'")
        return value

    @field_validator("sha256")
    @classmethod
    def is_of_a_file(cls, value: str | None, info: ValidationInfo) -> str | None:
        """Only a vision transformer has one file of weights; the others' are in packages or folders."""
        kind = info.data.get("kind")
        if value is not None and kind not in VITS:
            raise PydanticCustomError("kind", f"nothing for kind '{kind}'")
        return value

    @field_validator("pixels", "fit", "patches", "width")
    @classmethod
    def fits_the_parts(cls, value: int | str, info: ValidationInfo) -> int | str:
        """All parts of a concatenation see the same pixels as the same patches, and their widths add up."""
        found = [getattr(part, str(info.field_name)) for part in info.data.get("parts", [])]
        fits = value == sum(found) if info.field_name == "width" else set(found) == {value}
        if found and not fits:
            raise PydanticCustomError("parts", f"what fits the parts' {', '.join(map(str, found))}")
        return value

    @field_validator("patches", "width")
    @classmethod
    def fits_the_pixels(cls, value: int, info: ValidationInfo) -> int:
        """A vision transformer cuts its own patches; bare patches fill the square, and say where they are."""
        kind, pixels, patches = (info.data.get(key) for key in ("kind", "pixels", "patches"))
        wanted = value
        if pixels and kind in VITS:
            wanted = (pixels // VITS[kind].patch) ** 2 if info.field_name == "patches" else VITS[kind].width
        elif pixels and kind == "patch" and info.field_name == "patches":
            side = math.isqrt(value)
            if side**2 != value or pixels % side:
                raise PydanticCustomError("pixels", f"the square of a divisor of the {pixels} pixels")
        elif pixels and kind == "patch" and patches:
            # The 3 colours of each pixel, and the patch's row and column, each as one number of `side` that is not 0.
            side = math.isqrt(patches)
            wanted = 3 * (pixels // side) ** 2 + 2 * side
        if value != wanted:
            raise PydanticCustomError("pixels", f"{wanted}, as {pixels} pixels give for kind '{kind}'")
        return value


class Encoder(FeatureEncoder):
    """An image encoder as a model uses it."""

    cache: bool = Field(description="compute every image's features once for the whole study")
    projector: Literal[2, 3] = added_key(2, description="layers from features to image tokens")
    calibrate: bool = added_key(
        True, description="whether features are centred and scaled with the statistics of the first training images"
    )
    tflops_an_image: float = Field(
        default=0.0, ge=0, description="1e12 operations of a forward pass of one image; for the plan alone"
    )
    trained_rate: Rate = Field(
        default=0.1, description="learning rate of a trained encoder, as a multiple of the model's"
    )


def find_weights(encoder: FeatureEncoder) -> list[Path] | None:
    """The folders of all the weights that an encoder needs, or None if one is missing. Imports nothing of a package.

    A vision transformer's is a file; whether it is there is `check_weights`'s to say, before jobs run.
    """
    from importlib.util import find_spec

    if encoder.parts:
        found = [folders for part in encoder.parts if (folders := find_weights(part)) is not None]
        return [folder for folders in found for folder in folders] if len(found) == len(encoder.parts) else None
    if encoder.weights is None:
        return []
    # Not looked for here: what a study costs can be asked before gigabytes are downloaded.
    if encoder.kind in VITS:
        return [Path(encoder.weights)]
    if "/" in encoder.weights:
        folder = Path(encoder.weights)
        return [folder] if folder.is_dir() else None
    # For a dotted name find_spec would import the packages above it.
    spec = find_spec(encoder.weights) if encoder.weights.isidentifier() else None
    return [Path(spec.submodule_search_locations[0])] if spec and spec.submodule_search_locations else None
