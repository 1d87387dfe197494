"""Sizes of a model and what follows from them: parameters and floating-point operations. Plain arithmetic, no PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.settings.types import ModelSize


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a decoder; `width` must be a multiple of 2 * `heads` (RoPE turns pairs).

    Of an architecture that is not OpenLM's also its feed-forward width, whether that part is gated (three matrices, not
    two) and whether the head is the embedding; it is counted without biases, and with as many keys as queries.
    """

    vocabulary: int
    layers: int
    heads: int
    width: int
    feed_forward: int | None = None
    gated: bool = True
    tied: bool = False

    @classmethod
    def of(cls, size: ModelSize) -> DecoderShape:
        """The shape of a model of that size."""
        config: Mapping[str, Any] = size.config or {}
        gated, tied = size.family != "gpt_neox", config.get("tie_word_embeddings", False)
        hidden = config.get("intermediate_size")
        return cls(size.vocabulary, size.layers, size.heads, size.width, hidden, gated, tied)

    @property
    def hidden(self) -> int:
        """The feed-forward width. OpenLM's SwiGLU: 8/3 of the width, rounded up to a multiple of 256."""
        return self.feed_forward or 256 * math.ceil(int(8 * self.width / 3) / 256)

    @property
    def matrices(self) -> int:
        """Numbers in the matrices of one layer."""
        # Queries, keys, values and the output are width x width each; then up and down, and the gate if there is one.
        return 4 * self.width**2 + (3 if self.gated else 2) * self.width * self.hidden

    def parameters(self, features: int | None = None, projector: int = 2) -> int:
        """The number of parameters: of the decoder with embedding and head, and of a projector.

        `features` is the encoder's width (None: no projector), `projector` the number of the projector's layers.
        """
        d = self.width
        layer = self.matrices + 4 * d  # and the gains of four norms
        images = sum((rows + 1) * columns for rows, columns in projector_layers(features, d, projector))
        return (1 if self.tied else 2) * self.vocabulary * d + self.layers * layer + d + images


def projector_layers(features: int | None, width: int, layers: int) -> list[tuple[int, int]]:
    """Widths in and out of the projector's linear layers; none without images.

    Two layers: the paper's MLP. Three: Prismatic's fused MLP, whose first is four times as wide as the features.
    """
    if not features:
        return []
    widths = [features, *([4 * features] if layers == 3 else []), width, width]
    return list(zip(widths, widths[1:]))


def training_flops(
    shape: DecoderShape, features: int | None, counts: Mapping[str, float], sequence: int, projector: int = 2
) -> float:
    """Floating-point operations of training (forward and backward: 3 x forward) on what `counts` says was seen.

    A multiply-add counts as two operations. Counted are the layers' matrices and causal attention at all positions, the
    head at labels, and the projector (of `projector` layers) at image positions. `counts` has "positions", "labels" and
    "image". An encoder is not counted, frozen or trained.
    """
    d = shape.width
    matrices = shape.layers * shape.matrices
    attention = shape.layers * sequence * d  # QK and AV, half of the square each
    images = sum(rows * columns for rows, columns in projector_layers(features, d, projector))
    forward = counts["positions"] * (matrices + attention)
    # Labels and not positions: the model computes no other logits.
    forward += counts["labels"] * d * shape.vocabulary + counts["image"] * images
    return 3 * 2 * forward
