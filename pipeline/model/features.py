"""Encoder features of every image, computed once for the whole study."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.common.files import stable_json, write_text
from pipeline.common.job_context import Job
from pipeline.data.store import image_id

# A full batch is encoded in halves, which stay in a core's cache: the same bits as whole (with AVX-512; the networks'
# convolutions go another way below 16 images), in less time. What is left in the end has other bits if it is divided.
BATCH, HALF = 32, 16


def images(part: str, source: Path) -> Iterator[bytes]:
    """The encoded images of a part of a source, in its order."""
    from pipeline.data.formats import tars
    from pipeline.data.formats.conversations import read_conversations

    if part == "captions":
        yield from (caption.image for caption in tars.read_captions(source / "captions"))
    elif part == "instructions":
        folder = source / "instructions"
        for item in read_conversations(folder / "conversations.json", folder / "images"):
            if item.image is not None:
                yield item.image
    else:
        for file in sorted((source / "evaluation").rglob("*.jpg")):
            yield file.read_bytes()


def run(job: Job, out: Path) -> dict:
    """Phase "features": encode the part's images."""
    import torch

    from pipeline.model.vision import build_encoder, decode_image
    from pipeline.settings.types import Encoder

    torch.set_num_threads(1)  # part of the bits: another number of threads sums in another order
    settings = Encoder(**job.settings["encoder"], cache=True)
    encoder = build_encoder(settings)
    part, source = job.settings["part"], job.inputs["source"]
    ids = list(dict.fromkeys(map(image_id, images(part, source))))
    shape = (len(ids), settings.patches, settings.width)
    store = np.lib.format.open_memmap(out / "features.npy", mode="w+", dtype=np.float16, shape=shape)
    with open(out / "features.npy", "r+b") as file:  # a full disk is an error now, and the process's end later
        os.posix_fallocate(file.fileno(), 0, file.seek(0, os.SEEK_END))
    # Read a second time, so that no more than a batch of images is in memory.
    left, chunk, done = set(ids), [], 0
    for data in images(part, source):
        if (name := image_id(data)) not in left:
            continue
        left.remove(name)
        chunk.append(decode_image(data, settings.square))
        if len(chunk) == BATCH or not left:
            size = HALF if len(chunk) == BATCH else len(chunk)
            features = torch.cat([encoder(part) for part in torch.stack(chunk).split(size)]).half()
            if not features.isfinite().all():
                raise ValueError(f"features of {part} do not fit half precision: set the encoder's cache to false")
            store[done : done + len(chunk)] = features.numpy()
            done += len(chunk)
            chunk.clear()
            job.progress.update(done, len(ids), "images")
    store.flush()
    write_text(out / "ids.json", stable_json(ids))
    return {"images": len(ids)}
