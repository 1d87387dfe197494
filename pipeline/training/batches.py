"""From MDS shards to training batches, in exactly the order that `mixture` lays down.

mosaicml-streaming reads and shards; the order is ours. Its own mixing counts samples, redraws the text when the image
fraction changes, and clusters by shard.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from streaming import Stream, StreamingDataset
from torch import Tensor

from pipeline.data.frames import Square
from pipeline.data.store import FeatureStore, read_sample_images, verify_shards
from pipeline.model.vlm import IGNORE
from pipeline.training.mixture import mixture_order

BLIND = 65535  # segment number of image positions that nothing may look at


class OrderedDataset(StreamingDataset):
    """Local MDS streams laid end to end and read in a given order, the same for any number of ranks.

    `counts` says how many samples each stream gives in the whole run. Raises ValueError for damaged shards.
    """

    def __init__(self, folders: dict[str, Path], counts: dict[str, int], seed: int, batch: int):
        missing = [name for name, count in counts.items() if count and name not in folders]
        if missing:
            raise ValueError(f"{counts[missing[0]]} sequences of {missing[0]} are planned, but it has no shards")
        folders = {name: folder for name, folder in folders.items() if counts.get(name)}
        sizes = {name: verify_shards(folder) for name, folder in folders.items()}
        self.order = mixture_order(sizes, counts, seed)
        streams = [Stream(local=str(folder), choose=counts[name]) for name, folder in folders.items()]
        # Constructors that start at the same time fight over shared-memory names; one at a time they do not.
        with FileLock(Path(tempfile.gettempdir()) / f"streaming-construction-{os.getuid()}.lock"):
            super().__init__(streams=streams, batch_size=batch, shuffle=False, num_canonical_nodes=1)

    def resample_streams(self, epoch: int, **_) -> tuple:
        """streaming's hook from places in the epoch to samples: our order in place of its draw."""
        return np.array([len(self.order)]), self.order


class FeatureStores:
    """The features of several parts of the data as one store."""

    def __init__(self, folders: Sequence[Path]):
        self.stores = [FeatureStore(folder) for folder in folders]

    def get(self, ids: list[str]) -> np.ndarray:
        """float16 [len(ids), patches, width]. Raises KeyError for an image that no store has."""
        return np.concatenate([self.holder(name).get([name]) for name in ids])

    def holder(self, name: str) -> FeatureStore:
        return next((store for store in self.stores if name in store.rows), self.stores[-1])


class Collate:
    """Samples -> one batch of tensors.

    "tokens", "targets" [B, T]; with images also "slots" [N * P], "image_row" [N] and "features" [N, P, W] (or "pixels"
    [N, 3, side, side], decoded to the square `pixels`, for encoders that run with the model); "segments" [B, T] if any sample is packed. "kinds" counts
    the batch's positions by what they hold.
    """

    def __init__(self, patches: int, store: FeatureStores | None, pixels: Square | None, blind: bool):
        self.patches, self.store, self.pixels, self.blind = patches, store, pixels, blind

    def __call__(self, samples: list[dict]) -> dict:
        ids = np.stack([sample["tokens"] for sample in samples]).astype(np.int64)
        loss = np.stack([sample.get("loss", np.ones(ids.shape[1], np.uint8)) for sample in samples])
        batch = {
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
        batch["kinds"] = self.kinds(batch, np.array(packed), segments, len(rows))
        return batch

    def look(self, names: list[str], files: list[bytes]) -> dict[str, Tensor]:
        """What the model gets to see of the images: cached features, or pixels."""
        if self.store is not None:
            return {"features": torch.from_numpy(self.store.get(names)).float()}
        from pipeline.model.vision import decode_images

        return {"pixels": decode_images(files, self.pixels)}

    def kinds(self, batch: dict, packed: np.ndarray, segments: np.ndarray, images: int) -> dict[str, int]:
        """Positions of a batch by what they hold, and its labels."""
        rows, length = segments.shape
        image = images * self.patches
        unused = int((segments[packed] == 0).sum() + (segments[packed] == BLIND).sum())
        return {
            "positions": rows * length,
            "text": int((~packed).sum()) * length,
            "image": image,
            "image_text": int(packed.sum()) * length - image - unused,
            "padding": unused,
            "labels": int((batch["targets"] != IGNORE).sum()),
            "packed_sequences": int(packed.sum()),
            "images": images,
        }


def split_batch(batch: dict, size: int) -> list[dict]:
    """A batch in microbatches of at most `size` rows, each with the images of its rows."""
    length = batch["tokens"].shape[1]
    parts = []
    for start in range(0, len(batch["tokens"]), size):
        part = {k: batch[k][start : start + size] for k in ("tokens", "targets", "segments") if k in batch}
        if "image_row" in batch:
            mine = (batch["image_row"] >= start) & (batch["image_row"] < start + size)
            if mine.any():
                part["slots"] = batch["slots"].view(len(mine), -1)[mine].flatten() - start * length
                part["image_row"] = batch["image_row"][mine] - start
                part |= {k: batch[k][mine] for k in ("features", "pixels") if k in batch}
        parts.append(part)
    return parts


def count_tokens(batch: dict) -> dict[str, int]:
    """Positions and labels of a batch, as Composer's clock and its gradient accumulation need them."""
    return {"total": batch["tokens"].numel(), "loss_generating": int((batch["targets"] != IGNORE).sum())}
