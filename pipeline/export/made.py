"""The model that is exported, found by its name, and what it was made from."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from pipeline.common.files import digest, file_hash, one_line, read_json
from pipeline.settings.types import Encoder, ModelSize
from pipeline.store import artifacts
from pipeline.training.job_settings import WithImages, read

TRAINED = ("pretrain", "cooldown", "finetune")


class Made:
    """An artifact on disk: its folder, its card, and what its job measured. Raises ValueError for a damaged card."""

    def __init__(self, folder: Path):
        try:
            self.folder, self.card = folder, artifacts.read_card(folder / artifacts.CARD)
            self.phase, self.id, self.settings = (self.card[key] for key in ("phase", "id", "settings"))
            self.parents = [Path(parent["phase"], parent["id"]) for parent in self.card["parents"].values()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{folder}: has no card that can be read; pull it, or make it again") from None

    @property
    def measured(self) -> dict:
        """What its job measured: measured.json."""
        return read_json(self.folder / "measured.json")


def find_model(root: Path, target: str) -> Made:
    """The training artifact that `target` names: an id, the label before its digest, the beginning of one, or a folder.

    Raises ValueError for anything else, and for what several have in common.
    """
    folders = [Path(target)] if (Path(target) / artifacts.CARD).is_file() else []
    here = sorted((root / artifacts.ARTIFACTS).glob("*/*"))
    trained = [folder for folder in here if folder.parent.name in TRAINED]
    # From the strictest meaning to the widest, so that a whole id wins over a longer one that begins with it.
    folders = folders or [folder for folder in here if folder.name == target]
    folders = folders or [folder for folder in trained if label(folder) == target]
    folders = folders or [folder for folder in trained if target and folder.name.startswith(f"{target}-")]
    if len({folder.name for folder in folders}) > 1:
        raise ValueError(f"{target}: which of {', '.join(folder.name for folder in folders)}?")
    if not folders:
        named = {label(folder): folder.name for folder in trained} | {folder.name: folder.name for folder in trained}
        near = difflib.get_close_matches(target, named, n=1)
        hint = f"; did you mean {named[near[0]]}?" if near else ""
        raise ValueError(f"{target}: neither the id nor the folder of an artifact that is here{hint}")
    model = Made(folders[0])
    if model.phase not in TRAINED:
        raise ValueError(f"{target}: made by the phase {model.phase}, not a trained model ({', '.join(TRAINED)})")
    check_whole(model)
    return model


def label(folder: Path) -> str:
    """What an artifact's id says before its digest."""
    return folder.name.rpartition("-")[0]


def check_whole(model: Made) -> None:
    """Raises ValueError unless the weights and what was measured are the bytes that the job left."""
    try:
        manifest = read_json(model.folder / artifacts.FILES)
        wanted = {name: manifest["files"][name]["sha256"] for name in ("model.safetensors", "measured.json")}
        made_from = manifest["card"]
        changed = [name for name in wanted if file_hash(model.folder / name) != wanted[name]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{model.folder}: not whole ({one_line(error)}); pull it, or make it again") from None
    # Files and card are written one after the other; a process that was ended in between leaves them apart.
    if made_from != digest(model.card):
        raise ValueError(f"{model.folder}: {artifacts.FILES} is of another card")
    if changed:
        raise ValueError(f"{model.folder}: {changed[0]} has other bytes than when it was made")


def made_before(root: Path, model: Made) -> list[Made]:
    """The artifacts that a model is made from, as far as they are here, parents first, itself last."""
    found: dict[Path, Made] = {}

    def visit(made: Made) -> None:
        for parent in made.parents:
            folder = root / artifacts.ARTIFACTS / parent
            if folder not in found and (folder / artifacts.CARD).is_file():
                visit(Made(folder))
        found.setdefault(made.folder, made)

    visit(model)
    return list(found.values())


def evaluations(root: Path, model: Made) -> Iterator[Made]:
    """The evaluations of this very model that are here."""
    for file in sorted((root / artifacts.ARTIFACTS / "evaluate").glob(f"*/{artifacts.CARD}")):
        made = Made(file.parent)
        checkpoint = made.card["parents"].get("checkpoint", {})
        # By the card too: an evaluation of an earlier model of the same id is not this model's.
        if checkpoint.get("id") == model.id and checkpoint.get("card") == digest(model.card):
            yield made


def size_of(model: Made) -> ModelSize:
    return read(model.phase, model.settings).model


def encoder_of(model: Made) -> Encoder | None:
    """The image encoder of a model, or None for one that has seen no images."""
    settings = read(model.phase, model.settings)
    return settings.encoder if isinstance(settings, WithImages) else None
