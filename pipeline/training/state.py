"""A training state on disk, and the branch: what a run takes over from its parent.

A state is a folder: `model.safetensors` (weights by name), `optimizer.safetensors` (Adam's `NAME.exp_avg`,
`NAME.exp_avg_sq`, `NAME.step`), `state.json` (updates done and what was counted on the way) and `losses.csv`. Learning
rate, data order and stopping point are functions of the number of updates, so this is all there is to restore, and
equal states are equal bytes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.files import atomic_folder, read_json, stable_json, write_text

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
NEW_AT_BRANCH = ("projector.", "encoder.")  # the only parameters that a parent may lack


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Adam's state by parameter name. Parameters that never had a gradient have none."""
    return {
        f"{name}.{key}": optimizer.state[parameter][key].detach().clone(memory_format=torch.contiguous_format)
        for name, parameter in model.named_parameters()
        for key in MOMENTS
        if key in optimizer.state.get(parameter, {})
    }


def save_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict, losses: str) -> None:
    """Write a training state into an existing folder; `state` has "step" and the counts so far."""
    save_file({name: t.detach().contiguous() for name, t in model.state_dict().items()}, folder / "model.safetensors")
    save_file(optimizer_tensors(model, optimizer), folder / "optimizer.safetensors")
    write_text(folder / "losses.csv", losses)
    write_text(folder / "state.json", stable_json(state))


def save_resumable(folder: Path, *state) -> None:
    """`save_state` as the one state in `folder`/last, in the place of the one before it."""
    with atomic_folder(folder / "last", folder / "next") as out:
        save_state(out, *state)


def find_resumable(folder: Path) -> Path | None:
    """The newest complete state in a resume folder. A kill between two renames leaves it under its old name."""
    for name in ("last", "next.old"):
        if (folder / name / "state.json").exists():
            return folder / name
    return None


def load_weights(model: nn.Module, folder: Path) -> list[str]:
    """Load a state's weights; returns the names of what it lacks (the projector and a trained encoder at most).

    Raises ValueError for a state of another model: other names or other shapes.
    """
    weights = load_file(folder / "model.safetensors")
    own = model.state_dict()
    new = sorted(set(own) - set(weights))
    strange = sorted(set(weights) - set(own)) + [name for name in new if not name.startswith(NEW_AT_BRANCH)]
    strange += [n for n in weights if n in own and weights[n].shape != own[n].shape]
    if strange:
        raise ValueError(f"{folder / 'model.safetensors'} is of another model: {strange[0]} does not fit")
    model.load_state_dict(weights, strict=False)
    return new


def load_moments(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Give the optimizer a state's moments; parameters that it lacks start fresh. Rates and decay stay the config's."""
    tensors = load_file(folder / "optimizer.safetensors")
    for name, parameter in model.named_parameters():
        if f"{name}.exp_avg" in tensors:
            moments = {key: tensors[f"{name}.{key}"] for key in MOMENTS}
            for key in ("exp_avg", "exp_avg_sq"):
                # In memory as its parameter is (channels-last, say): the fused AdamW pairs their numbers by place.
                moments[key] = torch.empty_like(parameter).copy_(moments[key])
            optimizer.state[parameter] = moments


def branch(model: nn.Module, optimizer: torch.optim.Optimizer, parent: Path, moments: str) -> list[str]:
    """Start from a parent's state: its weights, and with moments="keep" Adam's moments too.

    Returns the names of parameters that are new here: they keep their fresh weights and have fresh moments.
    """
    new = load_weights(model, parent)
    if moments == "keep":
        load_moments(model, optimizer, parent)
    return new


def resume(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> tuple[dict, str]:
    """Continue a run from its own state: weights, moments, and (state.json, losses.csv) as they were."""
    missing = load_weights(model, folder)
    if missing:
        raise ValueError(f"{folder / 'model.safetensors'} lacks {missing[0]}")
    load_moments(model, optimizer, folder)
    return read_json(folder / "state.json"), (folder / "losses.csv").read_text(encoding="utf-8")
