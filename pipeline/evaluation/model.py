"""The evaluated model: its weights, the device it is asked on, and batches that are halved if memory ends."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from pipeline.evaluation.job_settings import EvaluatedModel
from pipeline.model.huggingface import build_decoder
from pipeline.model.vision import build_encoder
from pipeline.model.vlm import VLM
from pipeline.training.state import load_weights


def load_model(settings: EvaluatedModel, checkpoint: Path) -> VLM:
    """A trained model in evaluation mode, with its encoder if that was trained. Raises ValueError for other weights."""
    encoder, decoder = settings.encoder, build_decoder(settings.model)
    network = build_encoder(encoder) if encoder and settings.train_encoder else None
    model = VLM(decoder, encoder.width, network, encoder.projector) if encoder else VLM(decoder)
    # The state that a branch starts from may lack a projector. A model that is evaluated may not: its answers would
    # come from random weights.
    missing = load_weights(model, checkpoint)
    if missing:
        raise ValueError(f"{checkpoint}: {missing[0]} was never trained")
    return model.eval()


def choose_device(kind: str, process: int = 0) -> torch.device:
    """The CPU ("cpu"), or ("gpu") the GPU of a process. Raises ValueError where there is none."""
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("hardware.device is gpu, and no GPU is visible here")
    return torch.device("cuda", process % torch.cuda.device_count())


def halve(model: nn.Module) -> nn.Module:
    """Convert the weights of linear layers to bfloat16, in place, and return the model. The rest stays fp32.

    Autocast would convert them to the same numbers at every step.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.to(torch.bfloat16)
    return model
