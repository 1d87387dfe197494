"""The text run's states that others have published: the phase "pretrain" where there is nothing to train.

A checkpoint becomes a state like any other (see `pipeline.training.state`), so all that branches from it is unchanged.
Its moments are the published ones, or none: then they start fresh.
"""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.common.files import file_hash
from pipeline.common.job_context import Job
from pipeline.model.huggingface import build_decoder
from pipeline.model.sizes import training_flops
from pipeline.model.vlm import VLM
from pipeline.settings.types import ModelSize, TextPhase
from pipeline.training.checkpoints import read_openlm_moments, read_weights
from pipeline.training.schedule import main_schedule
from pipeline.training.state import MOMENTS, save_state


def check_hashes(path: Path, optimizer: Path | None, hashes: dict[str, str]) -> None:
    """Raises ValueError unless the files have the SHA-256 that the study gives them, by their names."""
    folder = path if path.is_dir() else path.parent
    for name, wanted in hashes.items():
        file = optimizer if optimizer and optimizer.name == name else folder / name
        if not file.is_file():
            raise ValueError(f"{file}: no such file, and the study gives its sha256")
        if (found := file_hash(file)) != wanted:
            raise ValueError(f"{file}: sha256: found {found}, wanted {wanted}")


def import_state(job: Job, out: Path) -> dict:
    """Read the checkpoint that the job's card names and leave it in `out` as a state. Raises ValueError."""
    settings, checkpoint = job.settings, job.settings["checkpoint"]
    place = job.context["checkpoints"][checkpoint["revision"]]
    path, optimizer_file = Path(place["path"]), place["optimizer"] and Path(place["optimizer"])
    size, step, tokens = ModelSize(**settings["model"]), settings["stop"], checkpoint["tokens"]
    check_hashes(path, optimizer_file, checkpoint["sha256"])
    model = VLM(build_decoder(size))
    model.decoder.load_state_dict(read_weights(checkpoint["layout"], path, model.decoder, size))
    optimizer = torch.optim.AdamW(model.parameters())
    if checkpoint["moments"]:
        moments = read_openlm_moments(path, optimizer_file, model.decoder)
        for name, parameter in model.decoder.named_parameters():
            optimizer.state[parameter] = {key: moments[f"{name}.{key}"] for key in MOMENTS}
    seen = dict.fromkeys(("labels", "positions", "text"), tokens)
    save_state(
        out, model, optimizer, {"step": step, "tokens": tokens, "seen": seen}, "step,tokens,learning_rate,loss\n"
    )
    schedule = main_schedule(TextPhase(**settings["optimisation"]), size.sequence)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": step,
        "tokens": seen,
        "image_fraction": {"of_sequences": 0.0, "of_positions": 0.0, "image_tokens_of_positions": 0.0},
        "training_flops": training_flops(model.decoder.shape, None, seen | {"image": 0}, size.sequence),
        "learning_rates": {"first": schedule.rate(0), "last": schedule.rate(step - 1), **schedule.describe()},
        "imported": checkpoint,
    }
