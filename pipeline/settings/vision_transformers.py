"""The vision transformers that an encoder may be: their sizes, and the tensors that a file of their weights must hold.

Names and layout are timm's, whose releases on the Hugging Face hub are safetensors files. Plain data, no PyTorch, so
that a file can be checked before anything runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ViT:
    """Sizes of a vision transformer, and what its pixels are normalised with (shares of 255).

    `pixels` is the side of the square that its release's position embedding was trained for.
    """

    width: int
    depth: int
    heads: int
    mlp_ratio: float
    pixels: int
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    class_token: bool = False
    registers: int = 0
    layer_scale: bool = False
    patch: int = 14

    @property
    def blocks(self) -> int:
        """Blocks that are run: all but the last, as features are those of the second-to-last (Prismatic, LLaVA)."""
        return self.depth - 1

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors that features need. A release has more: its last block, norm and head."""
        d, hidden = self.width, int(self.width * self.mlp_ratio)
        shapes: dict[str, tuple[int, ...]] = {
            "patch_embed.proj.weight": (d, 3, self.patch, self.patch),
            "patch_embed.proj.bias": (d,),
            "pos_embed": (1, (self.pixels // self.patch) ** 2, d),
        }
        if self.class_token:
            shapes["cls_token"] = (1, 1, d)
        if self.registers:
            shapes["reg_token"] = (1, self.registers, d)
        block: dict[str, tuple[int, ...]] = {}
        for norm in ("norm1", "norm2"):
            block |= {f"{norm}.weight": (d,), f"{norm}.bias": (d,)}
        sizes = {"attn.qkv": (3 * d, d), "attn.proj": (d, d), "mlp.fc1": (hidden, d), "mlp.fc2": (d, hidden)}
        for layer, size in sizes.items():
            block |= {f"{layer}.weight": size, f"{layer}.bias": size[:1]}
        if self.layer_scale:
            block |= {"ls1.gamma": (d,), "ls2.gamma": (d,)}
        return shapes | {f"blocks.{n}.{name}": shape for n in range(self.blocks) for name, shape in block.items()}


VITS = {
    # SigLIP, "so400m": shape-optimised for 400M parameters (Zhai et al. 2023; Apache-2.0).
    "vit_so400m_patch14_siglip_384": ViT(1152, 27, 16, 3.7362, 384, mean=(0.5,) * 3, deviation=(0.5,) * 3),
    # DINOv2 with registers (Darcet et al. 2023; Apache-2.0); released for 518 pixels.
    "vit_large_patch14_reg4_dinov2": ViT(
        *(1024, 24, 16, 4.0, 518, IMAGENET_MEAN, IMAGENET_STD), class_token=True, registers=4, layer_scale=True
    ),
}


def find_fault(file: Path, vit: ViT) -> str | None:
    """What keeps a file from holding a transformer's weights, in one line, or None. Reads the file's header alone."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        return f"{file}: no such file"
    try:
        with safe_open(file, framework="numpy") as opened:
            held = set(opened.keys())
            for name, shape in vit.tensors().items():
                if name not in held:
                    return f"{file}: has no tensor {name} of shape {list(shape)}"
                # A slice knows its shape from the header; get_tensor would read gigabytes.
                found = opened.get_slice(name).get_shape()
                if tuple(found) != shape:
                    return f"{file}: tensor {name} is of shape {found}, not {list(shape)}"
    except (OSError, SafetensorError) as error:
        return f"{file}: is not a whole safetensors file ({error})"
    return None
