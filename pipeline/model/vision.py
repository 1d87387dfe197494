"""Image encoders behind one interface: encoded image files -> pixels -> patches [n, patches, width].

Encoders are deterministic, frozen unless asked to be trained. Weights come from an installed package or a folder;
loading runs no code.
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


class Grid(nn.Module):
    """Cells of a square grid -> patches, row by row.

    Each patch says its row and column (one-hot), as a vision transformer's do and a convolution's cells do not.
    """

    def __init__(self, patches: int):
        super().__init__()
        side = math.isqrt(patches)
        row, column = torch.arange(side).repeat_interleave(side), torch.arange(side).repeat(side)
        place = torch.cat((F.one_hot(row, side), F.one_hot(column, side)), dim=1)
        self.register_buffer("place", PLACE_SCALE * place.float(), persistent=False)

    def forward(self, cells: Tensor) -> Tensor:
        """[n, patches, channels + rows + columns] of cells [n, channels, rows, columns]."""
        x = cells.flatten(2).transpose(1, 2)
        return torch.cat((x, self.place.expand(len(x), -1, -1)), dim=2)


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 pixels as numbers between -1 and 1, in the way of EfficientNet-Lite's release."""
    return (pixels.float() - 127) / 128


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite up to its last convolution: 1280 channels for each cell of 32 pixels, and the cell's place.

    The last layer's output is taken before its activation.
    """

    def __init__(self, encoder: Encoder):
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name(encoder.kind.replace("_", "-"), image_size=encoder.pixels)
        (folder,) = find_weights(encoder)
        (file,) = sorted(folder.rglob("*.pth"))
        self.network.load_state_dict(torch.load(file, weights_only=True))
        self.network._fc = nn.Identity()  # the classifier is never asked
        # Channels-last halves the time of its small convolutions on CPU.
        self.network.to(memory_format=torch.channels_last)
        self.grid = Grid(encoder.patches)

    def train(self, mode: bool = True) -> EfficientNetLite:
        """Always in evaluation mode: batch norm keeps the statistics of its release, whether or not it is trained."""
        return super().train(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """[n, patches, 1280 + rows + columns] of uint8 pixels [n, 3, side, side]."""
        network = self.network
        x = to_unit(pixels).contiguous(memory_format=torch.channels_last)
        x = network._swish(network._bn0(network._conv_stem(x)))
        for block in network._blocks:
            x = block(x)
        return self.grid(network._bn1(network._conv_head(x)))


class Patch(nn.Module):
    """No network at all: a patch's numbers are its pixels and its place, and the projector learns to project them."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.cell = encoder.pixels // math.isqrt(encoder.patches)
        self.grid = Grid(encoder.patches)

    def forward(self, pixels: Tensor) -> Tensor:
        """[n, patches, 3 * cell**2 + rows + columns] of uint8 pixels [n, 3, side, side]."""
        return self.grid(F.pixel_unshuffle(to_unit(pixels), self.cell))


class Concatenated(nn.Module):
    """Several encoders side by side: every patch has the numbers of each of them (the paper's SigLIP + DINO)."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.parts = nn.ModuleList(ENCODERS[part.kind](part) for part in encoder.parts)

    def forward(self, pixels: Tensor) -> Tensor:
        """[n, patches, sum of the parts' widths] of uint8 pixels [n, 3, side, side]."""
        return torch.cat([part(pixels) for part in self.parts], dim=2)


ENCODERS = {
    "efficientnet_lite0": EfficientNetLite,
    "efficientnet_lite1": EfficientNetLite,
    "concatenated": Concatenated,
    "patch": Patch,
}


def build_encoder(encoder: Encoder, trained: bool = False) -> nn.Module:
    """An encoder with the weights of its release, in evaluation mode; frozen, or with gradients to be trained."""
    return ENCODERS[encoder.kind](encoder).eval().requires_grad_(trained)


def decode_image(data: bytes, side: int) -> Tensor:
    """uint8 pixels [3, side, side] of an encoded image, resized to a square if it is not that size."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        image = image.convert("RGB")
        if image.size != (side, side):
            image = image.resize((side, side), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)
