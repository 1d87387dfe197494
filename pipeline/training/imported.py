"""States of text runs that others have published: the phase "pretrain" where nothing is to be trained.

A checkpoint becomes a state like any other (see `pipeline.training.state`), so branches need not know of it. Its
moments are the published ones, or there are none, and then a branch starts with fresh ones.
"""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.common.files import file_hash
from pipeline.common.job_context import Job
from pipeline.model.huggingface import build_decoder
from pipeline.model.sizes import training_flops
from pipeline.model.vlm import VLM
from pipeline.training.checkpoints import read_openlm_moments, read_weights
from pipeline.training.job_settings import Imported
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


def import_state(job: Job, settings: Imported, out: Path) -> dict:
    """Read the checkpoint that the job's settings name and leave it in `out` as a state. Raises ValueError."""
    checkpoint, size, step = settings.checkpoint, settings.model, settings.stop
    place = job.context["checkpoints"][checkpoint.revision]
    path, optimizer_file = Path(place["path"]), place["optimizer"] and Path(place["optimizer"])
    check_hashes(path, optimizer_file, checkpoint.sha256)
    model = VLM(build_decoder(size))
    model.decoder.load_state_dict(read_weights(checkpoint.layout, path, model.decoder, size))
    # It makes no update: it holds the moments for `save_state`, which knows states as model and optimizer.
    optimizer = torch.optim.AdamW(model.parameters())
    if checkpoint.moments:
        moments = read_openlm_moments(path, optimizer_file, model.decoder)
        for name, parameter in model.decoder.named_parameters():
            optimizer.state[parameter] = {key: moments[f"{name}.{key}"] for key in MOMENTS}
    # Every position of a text run has a label; a published run says of its data no more than their tokens.
    seen = dict.fromkeys(("labels", "positions", "text"), checkpoint.tokens)
    state = {"step": step, "tokens": checkpoint.tokens, "seen": seen}
    save_state(out, model, optimizer, state, "step,tokens,learning_rate,loss\n")
    schedule = main_schedule(settings.optimisation, size.sequence)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": step,
        "tokens": seen,
        "image_fraction": {"of_sequences": 0.0, "of_positions": 0.0, "image_tokens_of_positions": 0.0},
        "training_flops": training_flops(model.decoder.shape, None, seen | {"image": 0}, size.sequence),
        "learning_rates": {"first": schedule.rate(0), "last": schedule.rate(step - 1), **schedule.describe()},
        "imported": job.settings["checkpoint"],
    }
