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

    def parameters(self, features: int | None = None) -> int:
        """All of the decoder's numbers, its embedding and head among them, and its projector's for that encoder width."""
        d, h = self.width, self.hidden
        layer = 4 * d * d + 3 * d * h + 4 * d  # matrices, and the gains of four norms
        projector = (features + 1) * d + (d + 1) * d if features else 0
        return 2 * self.vocabulary * d + self.layers * layer + d + projector


def training_flops(shape: DecoderShape, features: int | None, counts: Mapping[str, float], sequence: int) -> float:
    """Floating-point operations of training (forward and backward: 3 x forward) on what `counts` says was seen.

    Two a multiply-add: the layers' matrices and causal attention on all positions, the head on labels, the projector
    on image positions. `counts` has "positions", "labels" and "image". The encoder is not in it, frozen or trained.
    """
    d, h = shape.width, shape.hidden
    matrices = shape.layers * (4 * d * d + 3 * d * h)
    attention = shape.layers * sequence * d  # QK and AV, half of the square each
    projector = (features + d) * d if features else 0
    forward = counts["positions"] * (matrices + attention)
    forward += counts["labels"] * d * shape.vocabulary + counts["image"] * projector
    return 3 * 2 * forward
