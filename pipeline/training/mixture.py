"""Which sample comes when: a token-exact, paired order of several streams.

Every sample of every stream fills the same number of positions, so counting samples counts tokens. Each stream is
ordered by itself (seeded by its own name) and only then interleaved: two runs with different image fractions see the
same text samples in the same order as far as their budgets go.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def derive_seed(seed: int, *names: object) -> int:
    """A 64-bit seed from a study seed and the names of what it is for."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def split_budget(samples: int, fractions: dict[str, float]) -> dict[str, int]:
    """How many of `samples` each stream gives: whole numbers that sum to it, by largest remainder.

    `fractions` must be in [0, 1] and sum to 1; raises ValueError otherwise.
    """
    if any(not 0 <= f <= 1 for f in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-9:
        raise ValueError(f"fractions must be within 0..1 and sum to 1, found {fractions}")
    exact = {name: samples * f for name, f in fractions.items()}
    # Rounding first keeps 0.1 * 3000 = 300.00000000000006 from counting as a remainder.
    counts = {name: int(round(x, 6)) for name, x in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: samples - sum(counts.values())]:
        counts[name] += 1
    return counts


def stream_order(size: int, count: int, seed: int, name: str) -> NDArray[np.int64]:
    """`count` indices into a stream of `size` samples: one whole shuffled pass after another."""
    if count and not size:
        raise ValueError(f"stream {name!r} is empty but {count} of its samples are asked for")
    passes = [
        np.random.default_rng(derive_seed(seed, name, number)).permutation(size)
        for number in range(-(-count // max(size, 1)))
    ]
    return np.concatenate([*passes, np.empty(0, np.int64)])[:count].astype(np.int64)


def interleave(counts: dict[str, int]) -> NDArray[np.int64]:
    """Stream numbers [sum of counts], each stream spread evenly.

    Any stretch holds each of two streams' share within one sample, and within two of more streams.
    """
    places = [(np.arange(n) + 0.5) / n for n in counts.values()]
    owner = np.concatenate([np.full(n, i) for i, n in enumerate(counts.values())])
    return owner[np.argsort(np.concatenate(places), kind="stable")]


def mixture_order(sizes: dict[str, int], counts: dict[str, int], seed: int) -> NDArray[np.int64]:
    """The whole run's sample numbers [sum of counts] in a data set that lays the streams of `sizes` end to end."""
    counts = {name: counts.get(name, 0) for name in sizes}
    owner = interleave(counts)
    order = np.empty(len(owner), np.int64)
    offset = 0
    for number, (name, size) in enumerate(sizes.items()):
        order[owner == number] = offset + stream_order(size, counts[name], seed, name)
        offset += size
    return order
