"""Image encoders behind one interface: encoded image files -> pixels -> patches [n, patches, width].

Encoders are frozen and deterministic. Weights come from an installed package or a folder; loading runs no code.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.sections import Encoder, find_weights

PLACE_SCALE = 4.0  # among 1280 channels of unit variance, a place in ones would go unnoticed


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 up to its last convolution: 1280 channels for each cell of 32 pixels, and the cell's place.

    Input as in its release: (pixel - 127) / 128. The last layer's output is taken before its activation, and each cell
    says its row and column (one-hot), as a vision transformer's patches do and a convolution's cells do not.
    """

    def __init__(self, encoder: Encoder):
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name("efficientnet-lite0")
        (file,) = sorted(find_weights(encoder).rglob("*.pth"))
        self.network.load_state_dict(torch.load(file, weights_only=True))
        # Channels-last halves the time of its small convolutions on CPU.
        self.network.to(memory_format=torch.channels_last)
        side = math.isqrt(encoder.patches)
        row, column = torch.arange(side).repeat_interleave(side), torch.arange(side).repeat(side)
        place = torch.cat((F.one_hot(row, side), F.one_hot(column, side)), dim=1)
        self.register_buffer("place", PLACE_SCALE * place.float())

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """[n, patches, 1280 + rows + columns] of uint8 pixels [n, 3, side, side]."""
        network = self.network
        x = ((pixels.float() - 127) / 128).contiguous(memory_format=torch.channels_last)
        x = network._swish(network._bn0(network._conv_stem(x)))
        for block in network._blocks:
            x = block(x)
        x = network._bn1(network._conv_head(x)).flatten(2).transpose(1, 2)
        return torch.cat((x, self.place.expand(len(x), -1, -1)), dim=2)


ENCODERS = {"efficientnet_lite0": EfficientNetLite0}


def build_encoder(encoder: Encoder) -> nn.Module:
    """A frozen encoder with its weights, in evaluation mode."""
    network = ENCODERS[encoder.kind](encoder)
    return network.eval().requires_grad_(False)


def decode_image(data: bytes, side: int) -> Tensor:
    """uint8 pixels [3, side, side] of an encoded image, resized to a square if it is not that size."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        image = image.convert("RGB")
        if image.size != (side, side):
            image = image.resize((side, side), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)
