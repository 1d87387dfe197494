"""What a training job reads its batches from."""

from __future__ import annotations

from typing import Any

import torch
from composer.utils import dist
from torch.utils.data import DataLoader

from pipeline.training.batches import Collate, FeatureStores, OrderedDataset
from pipeline.training.composer import Recorder
from pipeline.training.run_plan import Plan


def data_loader(plan: Plan, seed: int, recorder: Recorder) -> DataLoader:
    """This rank's share of the batches of the plan's mixture, in its order, from the recorder's step on."""
    rank, ranks, encoder = dist.get_global_rank(), dist.get_world_size(), plan.encoder
    dataset = OrderedDataset(plan.folders, plan.counts, seed, recorder.batch, recorder.step, rank, ranks)
    # On one rank a batch without images needs nothing in their place: no other rank waits for gradients.
    without = None
    if encoder and ranks > 1:
        pixels = {"pixels": torch.zeros(0, 3, encoder.pixels, encoder.pixels, dtype=torch.uint8)}
        without = pixels if plan.train_encoder else {"features": torch.zeros(0, encoder.patches, encoder.width)}
    collate = Collate(
        patches=encoder.patches if encoder else 0,
        store=FeatureStores(plan.features) if plan.features else None,
        pixels=encoder.square if encoder else None,
        blind=plan.blind,
        without=without,
    )
    # Worker processes gave no clear gain on CPUs (measured with streaming's own data set: 2.8 to 6.6 ms a batch with
    # them, 3.0 to 3.2 without), and the first batch came 0.25 to 0.65 s later.
    return DataLoader(dataset, batch_size=recorder.batch // ranks, collate_fn=collate, num_workers=0, drop_last=True)


def frozen_encoder(plan: Plan) -> torch.nn.Module | None:
    """The image encoder, if this run has images without cached features and does not train it; else None."""
    if plan.features or plan.train_encoder or not plan.has_images:
        return None
    from pipeline.model.vision import build_encoder

    assert plan.encoder, "images are a plan's that has one"
    return build_encoder(plan.encoder)


@torch.no_grad()
def first_features(loader: DataLoader, encoder: torch.nn.Module | None, images: int = 256) -> torch.Tensor:
    """Features [n, P, W] of about the first `images` images of the shards; all of them where there are fewer.

    In the order of the shards, not of the run: the seed and the image fraction make no difference.
    """
    found: list[torch.Tensor] = []
    data: Any = loader.dataset  # an OrderedDataset; DataLoader types it as any Dataset
    for number in range(data.num_samples):
        sample = data[number]
        if "images" in sample:
            batch = loader.collate_fn([sample])
            found.append(batch["features"] if encoder is None else encoder(batch["pixels"]))
            if sum(map(len, found)) >= images:
                break
    return torch.cat(found)
