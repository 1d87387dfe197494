"""Encoder features of every image, computed once for the whole study."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.data.store import image_id
from pipeline.files import stable_json, write_text

BATCH = 32


def images(part: str, source: Path) -> Iterator[bytes]:
    """The encoded images of a part of a source, in its order."""
    from pipeline.data import formats

    if part == "captions":
        yield from (caption.image for caption in formats.read_captions(source / "captions"))
    elif part == "instructions":
        folder = source / "instructions"
        for item in formats.read_conversations(folder / "conversations.json", folder / "images"):
            if item.image is not None:
                yield item.image
    else:
        for file in sorted((source / "evaluation").rglob("*.jpg")):
            yield file.read_bytes()


def run(job, out: Path) -> dict:
    """Phase "features": encode the part's images."""
    import torch

    from pipeline.model.vision import build_encoder, decode_image
    from pipeline.sections import Encoder

    torch.set_num_threads(1)  # part of the bits: another number of threads sums in another order
    settings = Encoder(**job.settings["encoder"], cache=True)
    encoder = build_encoder(settings)
    unique = {image_id(data): data for data in images(job.settings["part"], job.inputs["source"])}
    ids = list(unique)
    shape = (len(ids), settings.patches, settings.width)
    store = np.lib.format.open_memmap(out / "features.npy", mode="w+", dtype=np.float16, shape=shape)
    for start in range(0, len(ids), BATCH):
        chunk = ids[start : start + BATCH]
        pixels = torch.stack([decode_image(unique[name], settings.pixels) for name in chunk])
        store[start : start + len(chunk)] = encoder(pixels).half().numpy()
        job.progress.update(start + len(chunk), len(ids), "images")
    store.flush()
    write_text(out / "ids.json", stable_json(ids))
    return {"images": len(ids)}
