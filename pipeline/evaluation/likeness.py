"""Whether a picture is unlike those that a model was fine-tuned on, by the features that the study keeps.

A picture's point p [width] is the mean of the encoder's features over its patches. Its distance is

    d(p) = min over the pictures t of the instructions of |p - t|     (Euclidean, in the features' own units).

The study's evaluation pictures have such distances, too. A picture is unlike if its distance is larger than that of at
least 99% (UNLIKE) of them. So one in a hundred pictures of the study's own kind is called unlike; with n < 100
evaluation pictures, one in n + 1.

Limits. A picture that is not unlike may still get a wrong answer. Where things stand in a picture plays no part, as
patches are averaged. In an even area or in noise the encoder finds little, and weak features lie near the middle of all
pictures: such a picture may pass. Pictures that were seen with captions alone are not counted.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.data.store import FeatureStore

UNLIKE = 0.99  # share of the evaluation pictures that are nearer than a picture that is called unlike
CHUNK = 1024  # pictures whose patches are in memory at once


class Likeness:
    """The points of a model's pictures, and how far the study's evaluation pictures are from them."""

    def __init__(self, training: FeatureStore, evaluation: FeatureStore):
        """Raises ValueError if one of them has no picture."""
        self.training = points(training.features)
        self.distances = self.nearest(points(evaluation.features))

    def nearest(self, found: Tensor) -> Tensor:
        """[n]: the distance d of each of the points [n, width]."""
        return torch.cdist(found, self.training).min(1).values

    def share_nearer(self, features: Tensor) -> float:
        """The share (0..1) of the evaluation pictures that are nearer than a picture with features [patches, width]."""
        distance = self.nearest(features.double().mean(0, keepdim=True).cpu())
        return (self.distances < distance).double().mean().item()


def points(features: np.ndarray) -> Tensor:
    """[n, width] in fp64 of features [n, patches, width]. Raises ValueError if n is 0."""
    if not len(features):
        raise ValueError("there are features of no picture")
    # In parts: the file is mapped, and may be larger than the memory.
    starts = range(0, len(features), CHUNK)
    return torch.from_numpy(np.concatenate([features[n : n + CHUNK].mean(1, dtype=np.float64) for n in starts]))
