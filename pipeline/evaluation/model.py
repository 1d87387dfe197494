"""The evaluated model: its weights, the device it is asked on, and batches that are halved if memory ends."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from pipeline.model.huggingface import build_decoder
from pipeline.model.vision import build_encoder
from pipeline.model.vlm import VLM
from pipeline.settings.types import Encoder, ModelSize
from pipeline.training.state import load_weights


def load_model(settings: dict, checkpoint: Path) -> VLM:
    """A trained model in evaluation mode, with its encoder if that was trained. Raises ValueError for other weights."""
    size = ModelSize(**settings["model"])
    encoder = Encoder(**settings["encoder"]) if settings["encoder"] else None
    network = build_encoder(encoder) if encoder and settings.get("train_encoder") else None
    decoder = build_decoder(size)
    model = VLM(decoder, encoder.width, network, encoder.projector) if encoder else VLM(decoder)
    missing = load_weights(model, checkpoint)
    if missing:
        raise ValueError(f"{checkpoint}: {missing[0]} was never trained")
    return model.eval()


def choose_device(settings: dict, process: int = 0) -> torch.device:
    """The CPU, or the GPU of a process. Raises ValueError where there is none."""
    if settings["hardware"]["device"] == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("hardware.device is gpu, and no GPU is visible here")
    return torch.device("cuda", process % torch.cuda.device_count())


def halve(model: nn.Module) -> nn.Module:
    """Keep the matrices in bfloat16, as autocast would make them of the fp32 ones at every step. The rest stays fp32."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.to(torch.bfloat16)
    return model
