"""The model and the optimizer of a training job."""

from __future__ import annotations

import torch

from pipeline.model.huggingface import build_decoder
from pipeline.model.vlm import VLM
from pipeline.settings.types import Encoder, ModelSize
from pipeline.training.mixture import derive_seed


def build_model(
    size: ModelSize, encoder: Encoder | None, text_seed: int, seed: int, train_encoder: bool = False
) -> VLM:
    """A fresh model. A branch from 0% has the very weights that the text run starts from.

    An encoder that is trained too is a part of it, with the weights of its release.
    """
    from pipeline.model.vision import build_encoder

    trained = build_encoder(encoder, trained=True) if encoder and train_encoder else None
    torch.manual_seed(derive_seed(text_seed, "decoder") % 2**63)
    decoder = build_decoder(size)
    model = VLM(decoder, encoder.width, trained, encoder.projector) if encoder else VLM(decoder)
    if model.projector is not None:
        torch.manual_seed(derive_seed(seed, "projector") % 2**63)
        model.projector.reset_parameters()
    return model


def build_optimizer(model: VLM, optimisation: dict, encoder_rate: float = 1.0) -> torch.optim.AdamW:
    """AdamW; weight decay on everything or (as in Prismatic) not on biases and gains.

    A group's "multiple" is what the schedule's rate is multiplied by: `encoder_rate` for a trained encoder, else 1.
    """
    groups: dict[tuple[float, float], list] = {}
    for name, parameter in model.named_parameters():
        multiple = encoder_rate if name.startswith("encoder.") else 1.0
        decay = optimisation["weight_decay"] if parameter.dim() > 1 or optimisation["decay_vectors"] else 0.0
        groups.setdefault((multiple, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": ps, "multiple": multiple, "weight_decay": decay} for (multiple, decay), ps in groups.items()],
        lr=optimisation.get("peak_lr", 0.0),  # the trainer puts the schedule's in its place
        betas=(optimisation["beta1"], optimisation["beta2"]),
        eps=optimisation["epsilon"],
        fused=True,
    )
