"""One real update of the 1.4B model, its depth cut to one layer: the real width, vocabulary and 729 image tokens. 5 GB."""

import pytest
import torch
from conftest import SOURCE

from pipeline.model.vlm import IGNORE, label_loss
from pipeline.settings.errors import parse
from pipeline.settings.load import Encoder
from pipeline.settings.scale import Scale
from pipeline.settings.yaml_file import load_yaml
from pipeline.training.build import build_model, build_optimizer

pytestmark = [pytest.mark.end_to_end, pytest.mark.nightly]
WORDS = 40  # a caption's tokens and its end


def config(section: type, file: str):
    return parse(section, load_yaml(SOURCE / file, SOURCE), file)


def test_a_caption_of_729_image_tokens_is_learned_from():
    scale: Scale = config(Scale, "configs/scale/1b.yaml")
    encoder: Encoder = config(Encoder, "configs/encoder/siglip.yaml")
    size = scale.model.model_copy(update={"layers": 1})
    model = build_model(size, encoder, text_seed=124, seed=7)
    optimizer = build_optimizer(model, scale.cooldown)
    torch.manual_seed(0)
    tokens = torch.randint(0, 50_277, (1, encoder.patches + WORDS))
    targets = tokens.roll(-1, dims=1)
    targets[:, : encoder.patches - 1] = IGNORE  # the last image position predicts the caption's first token
    targets[:, -1] = IGNORE
    batch = {
        "tokens": tokens,
        "targets": targets,
        "segments": torch.ones_like(tokens),
        "features": torch.randn(1, encoder.patches, encoder.width),
        "slots": torch.arange(encoder.patches),
    }
    losses = []
    for _ in range(2):
        logits = model(batch)
        assert logits.shape == (WORDS, 50_432) and logits.dtype == torch.float32
        loss = label_loss(logits, targets, scale.cooldown.z_loss)
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(torch.log(torch.tensor(50_432.0)).item(), abs=1.5)  # it knows nothing
    assert losses[1] < losses[0] - 0.5
