"""Encoder features of every image, computed once for the whole study."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.common.files import stable_json, write_text
from pipeline.common.job_context import Job
from pipeline.data.store import image_id
from pipeline.model.job_settings import FeatureSettings

# A full batch is encoded in two halves, which stay in a core's cache. This takes less time and gives the same bits as
# the whole batch. The bits would differ below 16 images, where the networks' convolutions take another way (with
# AVX-512); the images that are left at the end are therefore never divided.
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
    """Phase "features": encode the different images of a part; returns their number.

    Writes `features.npy` and `ids.json` into `out` (see pipeline/data/store.py). Raises ValueError for features beyond
    the range of half precision.
    """
    import torch

    from pipeline.model.vision import build_encoder, decode_image

    torch.set_num_threads(1)  # another number of threads sums in another order and gives other bits
    asked = FeatureSettings.model_validate(job.settings)
    settings, part, source = asked.encoder, asked.part, job.inputs["source"]
    encoder = build_encoder(settings)
    # An id is a hash of the content: an image that several samples show is encoded once.
    ids = list(dict.fromkeys(map(image_id, images(part, source))))
    shape = (len(ids), settings.patches, settings.width)
    store = np.lib.format.open_memmap(out / "features.npy", mode="w+", dtype=np.float16, shape=shape)
    # The file has holes until its pages are written. On a full disk that would end the process with SIGBUS; asked for
    # the space now, the system answers with an error that can be read.
    with open(out / "features.npy", "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, file.seek(0, os.SEEK_END))
    # The images are read a second time: to keep them from the first would take memory for all of them, not for one
    # batch.
    left, chunk, done = set(ids), [], 0
    for data in images(part, source):
        if (name := image_id(data)) not in left:
            continue
        left.remove(name)
        chunk.append(decode_image(data, settings.square))
        if len(chunk) == BATCH or not left:
            size = HALF if len(chunk) == BATCH else len(chunk)
            features = torch.cat([encoder(part) for part in torch.stack(chunk).split(size)]).half()
            # Half precision ends at 65,504; what is larger has become infinite.
            if not features.isfinite().all():
                raise ValueError(f"features of {part} do not fit half precision: set the encoder's cache to false")
            store[done : done + len(chunk)] = features.numpy()
            done += len(chunk)
            chunk.clear()
            job.progress.update(done, len(ids), "images")
    store.flush()
    write_text(out / "ids.json", stable_json(ids))
    return {"images": len(ids)}
