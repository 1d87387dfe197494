"""Sizes of a model and what follows from them: parameters and floating-point operations. Plain arithmetic, no PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a decoder; `width` must be a multiple of 2 * `heads` (RoPE turns pairs)."""

    vocabulary: int
    layers: int
    heads: int
    width: int

    @property
    def hidden(self) -> int:
        """SwiGLU's hidden width: 8/3 of the width, rounded up to a multiple of 256."""
        return 256 * math.ceil(int(8 * self.width / 3) / 256)

    def parameters(self, features: int | None = None, projector: int = 2) -> int:
        """All of the decoder's numbers, its embedding and head among them, and its projector's for that encoder width.

        `projector` is how many layers that has.
        """
        d, h = self.width, self.hidden
        layer = 4 * d * d + 3 * d * h + 4 * d  # matrices, and the gains of four norms
        images = sum((rows + 1) * columns for rows, columns in projector_layers(features, d, projector))
        return 2 * self.vocabulary * d + self.layers * layer + d + images


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
    d, h = shape.width, shape.hidden
    matrices = shape.layers * (4 * d * d + 3 * d * h)
    attention = shape.layers * sequence * d  # QK and AV, half of the square each
    images = sum(rows * columns for rows, columns in projector_layers(features, d, projector))
    forward = counts["positions"] * (matrices + attention)
    forward += counts["labels"] * d * shape.vocabulary + counts["image"] * images
    return 3 * 2 * forward
