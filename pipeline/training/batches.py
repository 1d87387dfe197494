"""From MDS shards to training batches, in exactly the order that `mixture` gives.

mosaicml-streaming writes the shards and reads their samples; the order is ours. Its own mixing draws other text when
the image fraction changes, has an uneven share of images at the ends of a run (18 to 19% where 10% were asked for), and
keeps the whole order in shared memory, where data sets that are opened at the same time collide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from streaming.base.format import reader_from_json
from torch import Tensor
from torch.utils.data import IterableDataset

from pipeline.common.files import read_json
from pipeline.common.squares import Square
from pipeline.data.store import FeatureStore, is_padding, read_sample_images, verify_shards
from pipeline.model.vlm import IGNORE
from pipeline.training.mixture import mixture_order

BLIND = 65535  # segment number of image positions that nothing may look at
STRETCH = 1 << 16  # samples whose order is computed at once: it takes memory for so many, however long the run is


class OrderedDataset(IterableDataset):
    """MDS shards of several streams, end to end: any sample by its number, and the run's samples in their order.

    `counts` says how many samples each stream gives in the whole run, `batch` how many a step has. Iterating starts at
    step `first` and gives this rank's share of each step. The ranks' shares, one after the other, are the samples of
    the step, in the same order for any number of ranks. Raises ValueError for damaged shards (each rank checks some),
    for a stream without samples or without a single label, and for a batch that ranks cannot share evenly.
    """

    def __init__(
        self,
        folders: dict[str, Path],
        counts: dict[str, int],
        seed: int,
        batch: int,
        first: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ):
        missing = [name for name, count in counts.items() if count and name not in folders]
        if missing:
            raise ValueError(f"{counts[missing[0]]} sequences of {missing[0]} are planned, but it has no shards")
        if batch % ranks:
            raise ValueError(f"a batch of {batch} sequences cannot be shared evenly by {ranks} processes")
        folders = {name: folder for name, folder in folders.items() if counts.get(name)}
        self.sizes = {name: verify_shards(folder, rank, ranks) for name, folder in folders.items()}
        self.counts, self.seed, self.batch = counts, seed, batch
        self.first, self.rank, self.ranks = first, rank, ranks
        self.shards = []
        for name, folder in folders.items():
            if not self.sizes[name]:
                raise ValueError(f"{folder / 'index.json'}: no sequences, and {counts[name]} of {name} are planned")
            shards = [
                reader_from_json(str(folder), None, shard) for shard in read_json(folder / "index.json")["shards"]
            ]
            for shard in shards:
                # Refuses columns of pickles: reading one could run code.
                shard.validate(allow_unsafe_types=False)
            # Rank 0 alone looks. As a rule the first shard has a label, and rank 0 has checked that one itself. Other
            # ranks may still be checking theirs.
            if rank == 0 and not any(has_label(shard[number]) for shard in shards for number in range(len(shard))):
                raise ValueError(f"{folder}: none of the {self.sizes[name]} sequences of {name} has a label")
            self.shards += shards
        self.ends = np.cumsum([len(shard) for shard in self.shards])

    @property
    def num_samples(self) -> int:
        """Samples in the shards."""
        return int(self.ends[-1])

    def __getitem__(self, number: int) -> dict:
        shard = int(np.searchsorted(self.ends, number, side="right"))
        return self.shards[shard][int(number) - int(self.ends[shard])]  # a negative index: from the end of the shard

    def __len__(self) -> int:
        """Samples of the whole run that this rank reads."""
        return sum(self.counts.values()) // self.ranks

    def __iter__(self) -> Iterator[dict]:
        total, share = sum(self.counts.values()), self.batch // self.ranks
        # Whole steps, so that no step lies in two stretches.
        stretch = max(STRETCH // self.batch, 1) * self.batch
        for start in range(self.first * self.batch, total, stretch):
            order = mixture_order(self.sizes, self.counts, self.seed, start, min(start + stretch, total))
            for step in range(0, len(order), self.batch):
                for number in order[step : step + self.batch][self.rank * share : (self.rank + 1) * share]:
                    yield self[number]


def has_label(sample: dict) -> bool:
    """Whether a sample has a label. One without "loss" is text: all but padding is learnt, and some is no padding."""
    # Position 0 is read and never predicted: a label there counts for nothing.
    return "loss" not in sample or bool(sample["loss"][1:].any())


class FeatureStores:
    """The features of several parts of the data as one store."""

    def __init__(self, folders: Sequence[Path]):
        self.stores = [FeatureStore(folder) for folder in folders]

    def get(self, ids: list[str]) -> np.ndarray:
        """float16 [len(ids), patches, width]. Raises KeyError for an image that no store has."""
        return np.concatenate([self.holder(name).get([name]) for name in ids])

    def holder(self, name: str) -> FeatureStore:
        # The last store if none has it: its `get` raises the KeyError that names the image.
        return next((store for store in self.stores if name in store.rows), self.stores[-1])


class Collate:
    """Samples -> one batch of tensors.

    "tokens", "targets" [B, T]; with images also "slots" [N * P], "image_row" [N] and "features" [N, P, W] (or "pixels"
    [N, 3, side, side], decoded to the square `pixels`, for encoders that run with the model); "segments" [B, T] if any sample is packed. "kinds" counts
    the batch's positions by what they hold.

    `without` is what a batch without images has in place of features or pixels, so that every rank runs the same parts
    of the model on every batch. Otherwise some ranks would have gradients that others lack, and would wait for them.
    """

    def __init__(
        self,
        patches: int,
        store: FeatureStores | None,
        pixels: Square | None,
        blind: bool,
        without: dict[str, Tensor] | None = None,
    ):
        self.patches, self.store, self.pixels, self.blind, self.without = patches, store, pixels, blind, without

    def __call__(self, samples: list[dict]) -> dict:
        ids = np.stack([sample["tokens"] for sample in samples]).astype(np.int64)
        padding = np.stack([is_padding(sample["tokens"]) for sample in samples])
        ids[padding] = 0  # the id of padding has no row in the embedding; nothing learns from these positions
        loss = np.stack([sample.get("loss", ~mine) for sample, mine in zip(samples, padding)])
        batch: dict[str, Any] = {
            "tokens": torch.from_numpy(ids[:, :-1].copy()),
            "targets": torch.from_numpy(np.where(loss[:, 1:] == 1, ids[:, 1:], IGNORE)),
        }
        segments = np.zeros((len(samples), ids.shape[1] - 1), np.int64)
        slots, rows, names, files = [], [], [], []
        for row, sample in enumerate(samples):
            if "segments" not in sample:
                continue
            segments[row] = sample["segments"][:-1]
            for entry, data in read_sample_images(sample):
                span = slice(entry["start"], entry["start"] + self.patches)
                # Blind: image positions stay, so that batches are the same but for what is seen. Nothing attends to
                # them, and RoPE depends on distances alone: the text is read as if there were no image.
                if self.blind:
                    segments[row, span] = BLIND
                    continue
                slots.append(row * segments.shape[1] + np.arange(span.start, span.stop))
                rows.append(row)
                names.append(entry["id"])
                files.append(data)
        packed = ["segments" in sample for sample in samples]
        if any(packed):
            batch["segments"] = torch.from_numpy(segments)
        if rows:
            batch["slots"] = torch.from_numpy(np.concatenate(slots))
            batch["image_row"] = torch.tensor(rows)
            batch |= self.look(names, files)
        elif self.without is not None:
            batch |= {"slots": torch.empty(0, dtype=torch.long), "image_row": torch.empty(0, dtype=torch.long)}
            batch |= self.without
        batch["kinds"] = self.kinds(batch, np.array(packed), segments, len(rows))
        return batch

    def look(self, names: list[str], files: list[bytes]) -> dict[str, Tensor]:
        """The images as the model gets them: cached features, or pixels decoded from `files`."""
        if self.store is not None:
            # Kept in half precision, trained on in fp32.
            return {"features": torch.from_numpy(self.store.get(names)).float()}
        from pipeline.model.vision import decode_images

        assert self.pixels, "images are seen as features or as pixels"
        return {"pixels": decode_images(files, self.pixels)}

    def kinds(self, batch: dict, packed: np.ndarray, segments: np.ndarray, images: int) -> dict[str, int]:
        """How many positions of a batch hold what, and how many labels, packed sequences and images it has."""
        rows, length = segments.shape
        image = images * self.patches
        unused = int((segments[packed] == 0).sum() + (segments[packed] == BLIND).sum())
        padding = int((batch["targets"][torch.from_numpy(~packed)] == IGNORE).sum())  # of text
        return {
            "positions": rows * length,
            "text": int((~packed).sum()) * length - padding,
            "image": image,
            "image_text": int(packed.sum()) * length - image - unused,
            "padding": unused + padding,
            "labels": int((batch["targets"] != IGNORE).sum()),
            "packed_sequences": int(packed.sum()),
            "images": images,
        }


def split_batch(batch: dict, size: int, everywhere: bool = False) -> list[dict]:
    """A batch in microbatches of at most `size` rows, each with the images of its rows.

    With `everywhere` a microbatch without images has empty image tensors if the batch has images: see `Collate`.
    """
    length = batch["tokens"].shape[1]
    parts = []
    for start in range(0, len(batch["tokens"]), size):
        part = {k: batch[k][start : start + size] for k in ("tokens", "targets", "segments") if k in batch}
        if "image_row" in batch:
            mine = (batch["image_row"] >= start) & (batch["image_row"] < start + size)
            if everywhere or mine.any():
                patches = len(batch["slots"]) // max(len(mine), 1)
                part["slots"] = batch["slots"].view(len(mine), patches)[mine].flatten() - start * length
                part["image_row"] = batch["image_row"][mine] - start
                part |= {k: batch[k][mine] for k in ("features", "pixels") if k in batch}
        parts.append(part)
    return parts


def count_tokens(batch: dict) -> dict[str, int]:
    """Positions and labels of a batch, as Composer's clock and its gradient accumulation need them."""
    return {"total": batch["tokens"].numel(), "loss_generating": int((batch["targets"] != IGNORE).sum())}
