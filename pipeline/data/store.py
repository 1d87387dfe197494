"""What training reads: MDS shards, and cached image features.

A feature folder holds `features.npy` (float16 [images, patches, width]) and `ids.json` (the images' content hashes, in
row order).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from pipeline.common.files import Damaged, one_line, path_fault, read_json

TEXT_COLUMNS = {"tokens": "ndarray:uint16"}
PACKED_COLUMNS = {
    "tokens": "ndarray:uint16",
    "loss": "ndarray:uint8",
    "segments": "ndarray:uint16",
    "images": "json",
    "pixels": "bytes",
}


def token_type(vocabulary: int) -> type[np.unsignedinteger]:
    """What ids are stored as. Its largest value is no id: it marks padding in text (`is_padding`)."""
    return np.uint16 if vocabulary < 1 << 16 else np.uint32


def with_tokens(columns: dict[str, str], vocabulary: int) -> dict[str, str]:
    """Columns of shards whose tokens are ids of a vocabulary of this size."""
    return columns | {"tokens": f"ndarray:{np.dtype(token_type(vocabulary)).name}"}


def is_padding(tokens: np.ndarray) -> np.ndarray:
    """Which ids of a text sample stand for nothing, as bool of the same shape: no loss is taken there."""
    return tokens == np.iinfo(tokens.dtype).max


def write_shards(out: Path, columns: dict[str, str], samples: Iterable[dict]) -> int:
    """Write samples as MDS with the shards' hashes in their index; returns how many."""
    from streaming import MDSWriter

    count = 0
    with MDSWriter(out=str(out), columns=columns, hashes=["sha1"], size_limit=1 << 25) as writer:
        for sample in samples:
            writer.write(sample)
            count += 1
    return count


def count_samples(folder: Path) -> int:
    """Samples that a folder's index promises; `verify_shards` says whether they are there."""
    return sum(shard["samples"] for shard in read_json(folder / "index.json")["shards"])


def verify_shards(folder: Path, part: int = 0, parts: int = 1) -> int:
    """Check every shard's size and hash against the index; returns the number of samples.

    Processes that read the same shards can share this: one of `parts` checks each shard. Raises ValueError naming the
    shard; streaming itself checks local shards for neither.
    """
    try:
        shards = [shard["raw_data"] for shard in read_json(folder / "index.json")["shards"]]
        hashes = {shard["basename"]: shard["hashes"]["sha1"] for shard in shards}
        if any(map(path_fault, hashes)):
            raise ValueError("a shard elsewhere")
        samples = count_samples(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(folder, "index.json", one_line(error)) from None
    for name in list(hashes)[part::parts]:
        file = folder / name
        # Streaming ends its iteration early and without an error where a local shard is missing or damaged.
        data = file.read_bytes() if file.exists() else b""
        if hashlib.sha1(data).hexdigest() != hashes[name]:
            raise Damaged(folder, name)
    return samples


def read_sample_images(sample: dict) -> Iterator[tuple[dict, bytes]]:
    """A packed sample's images: their entry and their encoded bytes."""
    start = 0
    for entry in sample["images"]:
        yield entry, sample["pixels"][start : start + entry["bytes"]]
        start += entry["bytes"]


def image_id(data: bytes) -> str:
    """Content hash of an encoded image."""
    return hashlib.sha256(data).hexdigest()


class FeatureStore:
    """Features by image id, memory-mapped."""

    def __init__(self, folder: Path):
        try:
            self.rows = {name: row for row, name in enumerate(read_json(folder / "ids.json"))}
            # Mapped: the jobs of one machine share the pages, and a file larger than the memory can be read.
            self.features = np.load(folder / "features.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError, TypeError) as error:
            raise Damaged(folder, "features.npy", one_line(error)) from None
        if len(self.features) != len(self.rows):
            raise Damaged(folder, "features.npy", f"{len(self.features)} rows for {len(self.rows)} images")

    def get(self, ids: list[str]) -> np.ndarray:
        """float16 [len(ids), patches, width]. Raises KeyError for an image that has none."""
        return self.features[[self.rows[name] for name in ids]]
