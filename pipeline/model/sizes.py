"""Sizes of a model and what follows from them: parameters and floating-point operations. Plain arithmetic, no PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
    def of(cls, size: Mapping[str, Any]) -> DecoderShape:
        """The shape that the section "model" of a job's settings describes."""
        sizes = (size["vocabulary"], size["layers"], size["heads"], size["width"])
        config = size.get("config") or {}
        gated, tied = size.get("family") != "gpt_neox", config.get("tie_word_embeddings", False)
        return cls(*sizes, config.get("intermediate_size"), gated, tied)

    @property
    def hidden(self) -> int:
        """The feed-forward width. OpenLM's SwiGLU: 8/3 of the width, rounded up to a multiple of 256."""
        return self.feed_forward or 256 * math.ceil(int(8 * self.width / 3) / 256)

    @property
    def matrices(self) -> int:
        """Numbers in the matrices of one layer."""
        return 4 * self.width**2 + (3 if self.gated else 2) * self.width * self.hidden

    def parameters(self, features: int | None = None, projector: int = 2) -> int:
        """All of the decoder's numbers, its embedding and head among them, and its projector's for that encoder width.

        `projector` is how many layers that has.
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

    Two a multiply-add: the layers' matrices and causal attention on all positions, the head on labels, the projector
    (of as many layers) on image positions. `counts` has "positions", "labels" and "image". The encoder is not in it, frozen or trained.
    """
    d = shape.width
    matrices = shape.layers * shape.matrices
    attention = shape.layers * sequence * d  # QK and AV, half of the square each
    images = sum(rows * columns for rows, columns in projector_layers(features, d, projector))
    forward = counts["positions"] * (matrices + attention)
    forward += counts["labels"] * d * shape.vocabulary + counts["image"] * images
    return 3 * 2 * forward
