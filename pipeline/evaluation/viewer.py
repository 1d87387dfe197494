"""The images of questions, as features that the model looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.common.squares import Square
from pipeline.data.records import Question
from pipeline.data.store import FeatureStore, image_id
from pipeline.evaluation.job_settings import Evaluate
from pipeline.evaluation.tasks import shuffled_images
from pipeline.model.vision import build_encoder, decode_images
from pipeline.model.vlm import VLM

CPU = torch.device("cpu")
KEPT_BYTES = 1 << 30  # of features that a process on the CPU keeps in memory


Look = Callable[[list], Tensor]  # what stands for images (n of them) -> their features [n, patches, width] in fp32


class Viewer:
    """Features of image files: from the study's cache, or from an encoder when they are needed.

    The last bit of an image's features depends on the images that are encoded with it. On the CPU an image is encoded
    with those that were first looked at (or noted) with it, and features stay in memory while there is room. On a GPU,
    or where a task has more images than there is room for, each batch is encoded by itself (`alone`) and nothing is
    kept. Either way a batch gets the same features, whichever batches this process answers.
    """

    def __init__(
        self,
        square: Square,
        store: FeatureStore | None,
        network: nn.Module | None,
        device: torch.device = CPU,
        image_bytes: int = 0,
    ):
        self.square, self.store, self.network, self.device = square, store, network, device
        self.image_bytes = image_bytes
        self.alone = device.type != "cpu"
        self.ids: dict[Path, str] = {}
        self.groups: dict[Path, tuple[Path, ...]] = {}  # an image's companions, itself among them
        self.kept: dict[Path, Tensor] = {}

    def prepare(self, files: Iterable[Path]) -> None:
        """The images of the next task: batches are looked at alone on a GPU, and where not all features fit in memory."""
        self.alone = self.device.type != "cpu" or len(set(files)) * self.image_bytes > KEPT_BYTES

    def note(self, files: Iterable[Path]) -> None:
        """Images that will be looked at together, by this process or by another one."""
        new = tuple(file for file in dict.fromkeys(files) if file not in self.groups)
        self.groups |= dict.fromkeys(new, new)

    @torch.inference_mode()
    def look(self, files: list[Path]) -> Tensor:
        """Features [n, patches, width] in fp32 of n files; a file may come more than once."""
        if self.store is not None:
            self.ids |= {file: image_id(file.read_bytes()) for file in dict.fromkeys(files) if file not in self.ids}
            return torch.from_numpy(self.store.get([self.ids[file] for file in files])).float()
        if self.alone:
            unique = list(dict.fromkeys(files))
            found = dict(zip(unique, self.encode(unique)))
        else:
            self.note(files)
            found = {file: self.kept[file] for file in files if file in self.kept}
            for file in files:
                if file not in found:
                    found |= zip(self.groups[file], self.encode(self.groups[file]))
            self.keep(found)
        return torch.stack([found[file] for file in files])

    def encode(self, files: Iterable[Path]) -> Tensor:
        """[n, patches, width] in fp32 of images encoded together."""
        assert self.network is not None, "features that are not stored are a network's"
        pixels = decode_images(files, self.square)
        return self.network(pixels.to(self.device)).float()

    def keep(self, found: dict[Path, Tensor]) -> None:
        """Remember features, and forget the oldest where there is no room for all."""
        self.kept |= found
        size = next(iter(found.values())).nbytes if found else 0
        # A dict keeps the order of insertion: the first keys are the oldest.
        for file in list(self.kept)[: max(0, len(self.kept) - KEPT_BYTES // max(size, 1))]:
            del self.kept[file]

    def mean(self, files: list[Path], batch: int) -> Tensor:
        """[patches, width]: the mean over the different ones among the files, looked at `batch` at a time."""
        files = list(dict.fromkeys(files))
        total = sum(self.look(files[start : start + batch]).sum(0) for start in range(0, len(files), batch))
        assert isinstance(total, Tensor), "there is a file"
        return total / len(files)


def make_viewer(settings: Evaluate, model: VLM, features: Path | None, device: torch.device = CPU) -> Viewer | None:
    """How the model sees images: the study's cache, its own encoder, or the frozen one. None if it looks at none."""
    looks, encoder = settings.captioning or set(settings.conditions) - {"removed"}, settings.encoder
    if encoder is None or not looks:
        return None
    if features is not None:
        return Viewer(encoder.square, FeatureStore(features), None)
    network = build_encoder(encoder) if model.encoder is None else model.encoder
    # 4 bytes a number: features are kept in fp32.
    return Viewer(encoder.square, None, network.to(device), device, 4 * encoder.patches * encoder.width)


def view(
    condition: str, questions: list[Question], viewer: Viewer | None, batch: int
) -> tuple[list[Path | None], Look | None]:
    """What stands for every question's image under a condition, and how to look at it (None: not at all)."""
    files = [question.image for question in questions]
    if condition == "removed":
        return [None] * len(files), None
    assert viewer, "only of removed images there is nothing to look at"
    if condition == "mean":
        unique = list(dict.fromkeys(files))
        # Noted before any is looked at, in the batches in which `mean` will look.
        for start in range(0, len(unique), batch):
            viewer.note(unique[start : start + batch])
        mean = cache(partial(viewer.mean, files, batch))  # computed at the first use: kept answers need none
        return [None] * len(files), lambda shown: mean().expand(len(shown), -1, -1)
    shown: list[Path | None] = [*(files if condition == "normal" else shuffled_images(questions))]
    return shown, viewer.look
