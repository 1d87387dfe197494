"""A training state on disk, and what a run takes over from one.

A state is a folder: `model.safetensors` (weights by name), `optimizer.safetensors` (Adam's `NAME.exp_avg`,
`NAME.exp_avg_sq`, `NAME.step`), `state.json` (updates done and what was counted on the way) and `losses.csv`. Learning
rate, data order and stopping point are functions of the number of updates, so this is all there is to restore, and
equal states are equal bytes.

A model that is sharded over ranks (FSDP: each has some rows of every tensor) saves its resumable states in parts, one
file a rank, `model-00001-of-00004.safetensors`: rows in the order of the ranks, and what is not sharded in the first
file. Any number of ranks can read them, each the rows that it needs. The state at the end is whole again, so that
branches, evaluation and export know one layout only. Rank 0 gathers it tensor by tensor: its memory must hold the
weights, then the moments (8 bytes a parameter).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from pipeline.common.files import atomic_folder, digest, file_hash, folder_hashes, read_json, stable_json, write_text

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
NEW_AT_BRANCH = ("projector.", "encoder.")  # the only parameters that a parent may lack


def this_rank() -> tuple[int, int]:
    """(number of this rank, number of ranks)."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def wait_for_all() -> None:
    """Return once every rank has come here."""
    if distributed.is_initialized():
        distributed.barrier()


def local(tensor: Tensor) -> Tensor:
    """The rows of a tensor that this rank has: all, unless it is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All rows of a tensor. Every rank must call this, as each gives its rows."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def model_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights and buffers by name."""
    return ((name, tensor.detach()) for name, tensor in model.state_dict().items())


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Adam's state by parameter name. Parameters that never had a gradient have none."""
    for name, parameter in model.named_parameters():
        for key in MOMENTS:
            if key in optimizer.state.get(parameter, {}):
                yield f"{name}.{key}", optimizer.state[parameter][key].detach()


def save_whole(file: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Gather all tensors and write them into one file. Rank 0 writes; every rank must call this."""
    kept = {}
    for name, tensor in tensors:
        tensor = whole(tensor)
        if this_rank()[0] == 0:
            kept[name] = tensor.cpu().contiguous()
    if this_rank()[0] == 0:
        save_file(kept, file)


def save_part(file: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write this rank's rows of all tensors into a file of its own, FILE-00002-of-00004.

    A tensor that is not sharded is the same on all ranks: rank 0 writes it.
    """
    rank, ranks = this_rank()
    # Contiguous, as safetensors refuses all else: the weights of a convolution may be channels-last.
    part = {name: local(t).cpu().contiguous() for name, t in tensors if rank == 0 or isinstance(t, DTensor)}
    save_file(part, file.with_stem(f"{file.stem}-{rank + 1:05}-of-{ranks:05}"))


def save_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict, losses: str) -> None:
    """Write a whole training state into an existing folder. Rank 0 writes; every rank must call this.

    `state` has "step" and the counts so far, `losses` the text of losses.csv.
    """
    save_whole(folder / "model.safetensors", model_tensors(model))
    save_whole(folder / "optimizer.safetensors", optimizer_tensors(model, optimizer))
    save_progress(folder, state, losses)


def save_progress(folder: Path, state: dict, losses: str, hashed: bool = False) -> None:
    """Write losses.csv and then state.json, without which a state is not complete. Rank 0 writes.

    `hashed`: state.json has the hashes of all files. An artifact needs none, as its list of files has them.
    """
    if this_rank()[0] == 0:
        write_text(folder / "losses.csv", losses)
        if hashed:
            state = state | {"hashes": folder_hashes(folder)}
            state |= {"digest": digest(state)}
        write_text(folder / "state.json", stable_json(state))


def save_resumable(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict, losses: str) -> None:
    """Write a training state, in parts if it is sharded, as `folder`/last in the place of the one before it.

    Every rank must call this, and all see the same `folder`.
    """
    partial = folder / "next"
    sharded = any(isinstance(parameter, DTensor) for parameter in model.parameters())
    save = save_part if sharded else save_whole
    with atomic_folder(folder / "last", partial) if this_rank()[0] == 0 else nullcontext():
        wait_for_all()  # until the folder is there
        save(partial / "model.safetensors", model_tensors(model))
        save(partial / "optimizer.safetensors", optimizer_tensors(model, optimizer))
        wait_for_all()  # until all parts are there
        save_progress(partial, state, losses, hashed=True)
    wait_for_all()  # until it is in its place: the first rank that ends has the launcher end the others before long


def find_resumable(folder: Path) -> Path | None:
    """The newest complete state in a resume folder, or None. A kill between two renames leaves it as "next.old".

    A state with a file of other bytes than were written is passed over, and the log says so.
    """
    for name in ("last", "next.old"):
        if (folder / name / "state.json").exists():
            if file := damage(folder / name):
                print(f"{file} is damaged: what was saved there is lost", flush=True)
                continue
            return folder / name
    return None


def damage(folder: Path) -> Path | None:
    """The first file of a saved state with other bytes than were written, or None. A missing file is not looked for."""
    try:
        state = read_json(folder / "state.json")
    except ValueError:
        return folder / "state.json"
    if state and digest({key: value for key, value in state.items() if key != "digest"}) != state.get("digest"):
        return folder / "state.json"
    hashes = state.get("hashes", {})
    files = (folder / name for name in hashes)
    return next((file for file in files if file.exists() and file_hash(file) != hashes[file.name]), None)


class Stored:
    """The tensors of a file of a state, which may be in parts. Raises ValueError if one is missing or not whole."""

    def __init__(self, file: Path):
        self.file = file
        files = [file] if file.exists() else sorted(file.parent.glob(f"{file.stem}-*-of-*{file.suffix}"))
        if not files or (files != [file] and len(files) != int(files[0].stem.rsplit("-", 1)[1])):
            raise ValueError(f"{file}: missing, or not all of its parts are there")
        try:
            self.parts = [safe_open(part, framework="pt") for part in files]
        except (OSError, SafetensorError) as error:
            fault = f"is not a whole safetensors file ({error}); delete {file.parent} and run again to rebuild it"
            raise ValueError(f"{file}: {fault}") from None
        self.holders: dict[str, list] = {}
        for part in self.parts:
            for name in part.keys():  # noqa: SIM118 (it is no dictionary)
                self.holders.setdefault(name, []).append(part)

    def __contains__(self, name: str) -> bool:
        """Whether the file has a tensor of this name."""
        return name in self.holders

    def shape(self, name: str) -> list[int]:
        """The shape of a tensor as a whole, its parts counted together."""
        shapes = [part.get_slice(name).get_shape() for part in self.holders[name]]
        return [sum(shape[0] for shape in shapes), *shapes[0][1:]] if shapes[0] else []

    def get(self, name: str) -> Tensor:
        """All rows of a tensor."""
        # A copy in either case: a tensor that is mapped from its file would change with the file.
        parts = [part.get_tensor(name) for part in self.holders[name]]
        return torch.cat(parts) if parts[0].dim() else parts[0].clone()

    def rows(self, name: str, first: int, count: int) -> Tensor:
        """`count` rows from row `first` on, from whichever parts have them."""
        found, begin = [], 0
        for part in self.holders[name]:
            stored = part.get_slice(name)
            length = stored.get_shape()[0]
            low, high = max(first - begin, 0), min(first + count - begin, length)
            if low < high:
                found.append(stored[low:high])
            begin += length
        return torch.cat(found)


def load_weights(model: nn.Module, folder: Path) -> list[str]:
    """Load a state's weights; returns the names of what it lacks (the projector and a trained encoder at most).

    The model must not be sharded yet. Raises ValueError for a state of another model: other names or other shapes.
    """
    file = folder / "model.safetensors"
    stored, own = Stored(file), model.state_dict()
    new = sorted(set(own) - set(stored.holders))
    strange = sorted(set(stored.holders) - set(own)) + [name for name in new if not name.startswith(NEW_AT_BRANCH)]
    strange += [name for name in stored.holders if name in own and stored.shape(name) != list(own[name].shape)]
    if strange:
        raise ValueError(f"{file} is of another model: {strange[0]} does not fit")
    model.load_state_dict({name: stored.get(name) for name in stored.holders}, strict=False)
    return new


def load_moments(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Give the optimizer a state's moments; parameters that it lacks start fresh. Rates and decay stay the config's.

    The model must be where, and sharded as, it is trained.
    """
    stored = Stored(folder / "optimizer.safetensors")
    for name, parameter in model.named_parameters():
        if f"{name}.exp_avg" in stored:
            moments = {"step": stored.get(f"{name}.step").to(parameter.device)}
            for key in ("exp_avg", "exp_avg_sq"):
                # In memory as its parameter is (channels-last, say): the fused AdamW pairs their numbers by place.
                moments[key] = torch.zeros_like(parameter, requires_grad=False)
                rows = local(moments[key])
                if rows.numel():
                    rows.copy_(stored.rows(f"{name}.{key}", first_row(parameter), len(rows)))
            optimizer.state[parameter] = moments


def first_row(parameter: Tensor) -> int:
    """The number of this rank's first row. FSDP divides rows as `torch.chunk` does: the last ranks may have less."""
    if not isinstance(parameter, DTensor):
        return 0
    rank, ranks = this_rank()
    return rank * -(-len(parameter) // ranks)
