"""Image encoders behind one interface: encoded image files -> pixels -> patches [n, patches, width].

Encoders are frozen and deterministic. Weights come from an installed package or a folder; loading runs no code.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config import Encoder, find_weights


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 up to its last convolution: 1280 numbers for each cell of 32 pixels.

    Input as in its release: (pixel - 127) / 128.
    """

    def __init__(self, weights: Path):
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name("efficientnet-lite0")
        (file,) = sorted(weights.rglob("*.pth"))
        self.network.load_state_dict(torch.load(file, weights_only=True))
        # Channels-last halves the time of its small convolutions on CPU.
        self.network.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """[n, patches, 1280] of uint8 pixels [n, 3, side, side]."""
        x = ((pixels.float() - 127) / 128).contiguous(memory_format=torch.channels_last)
        return self.network.extract_features(x).flatten(2).transpose(1, 2)


ENCODERS = {"efficientnet_lite0": EfficientNetLite0}


def build_encoder(encoder: Encoder) -> nn.Module:
    """A frozen encoder with its weights, in evaluation mode."""
    network = ENCODERS[encoder.kind](find_weights(encoder))
    return network.eval().requires_grad_(False)


def decode_image(data: bytes, side: int) -> Tensor:
    """uint8 pixels [3, side, side] of an encoded image, resized to a square if it is not that size."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        image = image.convert("RGB")
        if image.size != (side, side):
            image = image.resize((side, side), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)
