"""Random numbers that follow from names, so that no scene depends on another."""

from __future__ import annotations

import hashlib
import random

# This salt holds out about 20% of the pairs among the first 6, 8, 12, 16, 24 and 32 concepts alike.
SALT = "scenes 224"


def chance(*parts: object) -> float:
    """A fixed number in [0, 1) for these parts: the same in every process, with any settings."""
    # Not Python's `hash`, which is another one in every process.
    text = "|".join(map(str, (SALT, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def rng_for(seed: int, part: str, index: int) -> random.Random:
    """The random numbers of one example."""
    return random.Random(hashlib.sha256(f"{seed}|{part}|{index}".encode()).digest())
