"""The model and the optimizer of a training job."""

from __future__ import annotations

import torch

from pipeline.model.huggingface import build_decoder
from pipeline.model.vlm import VLM
from pipeline.settings.types import AdamW, Encoder, ModelSize
from pipeline.training.mixture import derive_seed


def build_model(
    size: ModelSize, encoder: Encoder | None, text_seed: int, seed: int, train_encoder: bool = False
) -> VLM:
    """A fresh model; with an encoder it has a projector.

    The decoder's weights follow from `text_seed` alone: a branch from 0% has the weights that the text run starts from.
    The projector's follow from `seed`. An encoder that is trained is a part of the model, with the weights of its
    release.
    """
    from pipeline.model.vision import build_encoder

    trained = build_encoder(encoder, trained=True) if encoder and train_encoder else None
    torch.manual_seed(derive_seed(text_seed, "decoder") % 2**63)
    decoder = build_decoder(size)
    model = VLM(decoder, encoder.width, trained, encoder.projector) if encoder else VLM(decoder)
    if model.projector is not None:
        # Drawn again, from a seed of its own: the first draw went on with the random numbers of the decoder.
        torch.manual_seed(derive_seed(seed, "projector") % 2**63)
        model.projector.reset_parameters()
    return model


def build_optimizer(model: VLM, asked: AdamW, encoder_rate: float = 1.0) -> torch.optim.AdamW:
    """AdamW, whose rate the trainer sets. Weight decay is on everything, or (as in Prismatic) not on biases and gains.

    A group's "multiple" is what the schedule's rate is multiplied by: `encoder_rate` for a trained encoder, else 1.
    """
    groups: dict[tuple[float, float], list] = {}
    for name, parameter in model.named_parameters():
        multiple = encoder_rate if name.startswith("encoder.") else 1.0
        decay = asked.weight_decay if parameter.dim() > 1 or asked.decay_vectors else 0.0
        groups.setdefault((multiple, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": ps, "multiple": multiple, "weight_decay": decay} for (multiple, decay), ps in groups.items()],
        lr=0.0,
        betas=(asked.beta1, asked.beta2),
        eps=asked.epsilon,
        # At 4.2M parameters on a CPU an update took 4.5 to 5.4 ms so, and 19 to 26 ms without it.
        fused=True,
    )
