"""Image encoders behind one interface: encoded image files -> pixels -> patches [n, patches, width].

Encoders are deterministic, and frozen unless they are asked to be trained. Weights come from an installed package, a
folder or a safetensors file. Loading them runs no code. Missing weights are an error: no encoder has random ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.common.images import decode
from pipeline.common.squares import Square
from pipeline.common.torch_file import read_torch
from pipeline.settings.types import FeatureEncoder, find_weights
from pipeline.settings.vision_transformers import VITS, ViT, find_fault

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

# A place written with ones would be too small to notice beside 1280 channels of unit variance.
PLACE_SCALE = 4.0


class Grid(nn.Module):
    """Cells of a square grid -> patches, row by row.

    The row and the column of a patch are appended to its channels (one-hot). A vision transformer's patches carry their
    place in their features; the cells of a convolution do not.
    """

    place: Tensor

    def __init__(self, patches: int):
        super().__init__()
        side = math.isqrt(patches)
        row, column = torch.arange(side).repeat_interleave(side), torch.arange(side).repeat(side)
        place = torch.cat((F.one_hot(row, side), F.one_hot(column, side)), dim=1)
        # Not persistent: it follows from the settings, so no saved state has it.
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

    def __init__(self, encoder: FeatureEncoder):
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name(encoder.kind.replace("_", "-"), image_size=encoder.pixels)
        folders = find_weights(encoder)
        assert folders, "pipeline.settings.load.check_encoders has looked"
        (file,) = sorted(folders[0].rglob("*.pth"))
        self.network.load_state_dict(read_torch(file))
        # The classifier is never used: as a part of a trained encoder it would be saved with each state.
        self.network._fc = nn.Identity()
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


def make_transformer(vit: ViT, pixels: int) -> VisionTransformer:
    """timm's vision transformer up to its second-to-last block, without weights (on the meta device).

    Its `forward_features` gives [n, class token and registers + patches, width] without the final norm. timm's SigLIP
    has the exact GELU where Hugging Face's has the tanh approximation; Prismatic, and so the paper, run timm's.
    """
    from timm.models.vision_transformer import VisionTransformer

    # No memory and no random draws for weights that the file replaces.
    with torch.device("meta"):
        return VisionTransformer(
            img_size=pixels,
            patch_size=vit.patch,
            embed_dim=vit.width,
            depth=vit.blocks,
            num_heads=vit.heads,
            mlp_ratio=vit.mlp_ratio,
            init_values=1.0 if vit.layer_scale else None,
            class_token=vit.class_token,
            reg_tokens=vit.registers,
            no_embed_class=True,  # the position embedding is of patches alone
            final_norm=False,
            num_classes=0,
            global_pool="",
            weight_init="skip",
        )


def read_transformer(file: Path, vit: ViT, grid: tuple[int, int], sha256: str | None = None) -> dict[str, Tensor]:
    """A file's tensors in fp32, the position embedding resampled to a grid of patches (bicubic, as timm does).

    Raises ValueError for a file that is missing, incomplete, of another network or of another SHA-256.
    """
    from safetensors import safe_open
    from timm.layers.pos_embed import resample_abs_pos_embed

    if fault := find_fault(file, vit):
        raise ValueError(fault)
    if sha256 is not None:
        with open(file, "rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != sha256:
            raise ValueError(f"{file}: has the SHA-256 {found}, not {sha256} as the encoder's file says")
    with safe_open(file, framework="pt") as opened:
        # Copied: what is mapped would change, or crash the process, with the file.
        weights = {name: opened.get_tensor(name).to(torch.float32, copy=True) for name in vit.tensors()}
    weights["pos_embed"] = resample_abs_pos_embed(weights["pos_embed"], list(grid), num_prefix_tokens=0)
    return weights


class Transformer(nn.Module):
    """A vision transformer's patches after its second-to-last block, not normalised (Prismatic; LLaVA's layer -2)."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, encoder: FeatureEncoder):
        super().__init__()
        vit = VITS[encoder.kind]
        assert encoder.weights, "Encoder.belongs_to_the_kind has looked"
        self.network = make_transformer(vit, encoder.pixels)
        grid = self.network.patch_embed.grid_size
        weights = read_transformer(Path(encoder.weights), vit, grid, encoder.sha256)
        # `assign`: a parameter on the meta device has no memory to copy into.
        self.network.load_state_dict(weights, assign=True)
        for name in ("mean", "deviation"):
            value = torch.tensor(getattr(vit, name)).view(3, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """[n, patches, width] in fp32 of uint8 pixels [n, 3, side, side]; in bf16 on a GPU, if it is frozen."""
        # A frozen encoder is an input and may be rounded. One that is trained keeps the precision of the run.
        frozen = not next(self.network.parameters()).requires_grad
        with torch.autocast("cuda", torch.bfloat16) if frozen and pixels.is_cuda else nullcontext():
            x = self.network.forward_features((pixels.float() / 255 - self.mean) / self.deviation)
        return x[:, self.network.num_prefix_tokens :].float()


class Patch(nn.Module):
    """No network at all: a patch's numbers are its pixels and its place, and the projector learns to project them."""

    def __init__(self, encoder: FeatureEncoder):
        super().__init__()
        self.cell = encoder.pixels // math.isqrt(encoder.patches)
        self.grid = Grid(encoder.patches)

    def forward(self, pixels: Tensor) -> Tensor:
        """[n, patches, 3 * cell**2 + rows + columns] of uint8 pixels [n, 3, side, side]."""
        return self.grid(F.pixel_unshuffle(to_unit(pixels), self.cell))


class Concatenated(nn.Module):
    """Several encoders side by side: every patch has the numbers of each of them (the paper's SigLIP + DINO)."""

    def __init__(self, encoder: FeatureEncoder):
        super().__init__()
        # Each part gets raw pixels, as each normalises them in its own way.
        self.parts = nn.ModuleList(ENCODERS[part.kind](part) for part in encoder.parts)

    def forward(self, pixels: Tensor) -> Tensor:
        """[n, patches, sum of the parts' widths] of uint8 pixels [n, 3, side, side]."""
        return torch.cat([part(pixels) for part in self.parts], dim=2)


ENCODERS = {
    "efficientnet_lite0": EfficientNetLite,
    "efficientnet_lite1": EfficientNetLite,
    **dict.fromkeys(VITS, Transformer),
    "concatenated": Concatenated,
    "patch": Patch,
}


def build_encoder(encoder: FeatureEncoder, trained: bool = False) -> nn.Module:
    """An encoder with the weights of its release, in evaluation mode; frozen, or with gradients to be trained."""
    return ENCODERS[encoder.kind](encoder).eval().requires_grad_(trained)


def decode_image(image: bytes | Path, square: Square) -> Tensor:
    """uint8 pixels [3, side, side] of an encoded image (or its file), made the square that an encoder sees.

    Raises BadImage.
    """
    return torch.from_numpy(np.array(square.of(decode(image)))).permute(2, 0, 1)


def decode_images(images: Iterable[bytes | Path], square: Square) -> Tensor:
    """uint8 pixels [n, 3, side, side] of encoded images (or files), on as many threads as PyTorch may use."""
    # Threads are enough: Pillow releases the interpreter lock while it decodes.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return torch.stack(list(pool.map(lambda image: decode_image(image, square), images)))
