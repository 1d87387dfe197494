"""Which sample comes when: a token-exact, paired order of several streams.

Every sample of every stream fills the same number of positions, so counting samples counts tokens. Each stream is
ordered by itself (seeded by its own name) and only then interleaved: two runs with different image fractions see the
same text samples in the same order as far as their budgets go.

All orders are given by the stretch, `start` to `stop`, and a stretch takes memory and time of its own length: a run of
4.3T tokens reads 2.1 billion sequences, whose whole order would take 17 GB on every rank.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Samples. The permutation of a stream of this size takes 134 MB; larger streams are shuffled number by number. Both
# ways give other orders: another limit changes the data order, and so the bits, of the streams between the two.
SHUFFLED_WHOLE = 1 << 24
ROUNDS = 6  # of the Feistel network: four rounds suffice for a random permutation (Luby and Rackoff); two are to spare


def derive_seed(seed: int, *names: object) -> int:
    """A 64-bit seed from a study seed and the names of what it is for."""
    # Not Python's hash, which differs between processes.
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


# One pass of each of the three streams: text, captions, instructions. Without it every stretch would permute anew.
@lru_cache(maxsize=3)
def shuffled(size: int, seed: int) -> NDArray[np.int64]:
    """All numbers below `size` in random order, in memory."""
    return np.random.default_rng(seed).permutation(size)


def permute(numbers: NDArray[np.int64], size: int, seed: int) -> NDArray[np.int64]:
    """Where a random permutation of all numbers below `size` takes `numbers`, computed for these alone.

    A Feistel network on pairs of numbers up to the root of `size`. A result outside the range is permuted again until
    it is inside (Black and Rogaway, Ciphers with arbitrary finite domains, 2002).
    """
    side = np.uint64(math.isqrt(size - 1) + 1)
    keys = np.random.default_rng(seed).integers(1 << 64, size=ROUNDS, dtype=np.uint64)
    found = numbers.astype(np.uint64)
    outside = np.ones(len(found), bool)
    while outside.any():
        left, right = np.divmod(found[outside], side)
        for key in keys:
            left, right = right, (left + scramble(right ^ key) % side) % side
        found[outside] = left * side + right
        outside = found >= size
    return found.astype(np.int64)


def scramble(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's mixing of all bits of a number with all others (Steele, Lea and Flood, 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def stream_order(size: int, stop: int, seed: int, name: str, start: int = 0) -> NDArray[np.int64]:
    """Indices number `start` to `stop` into a stream of `size` samples: one whole shuffled pass after another.

    Raises ValueError for samples of an empty stream.
    """
    if stop and not size:
        raise ValueError(f"stream {name!r} is empty but {stop} of its samples are asked for")
    passes = [np.empty(0, np.int64)]
    while start < stop:
        number, first = divmod(start, size)
        last = min(size, first + stop - start)
        pass_seed = derive_seed(seed, name, number)
        if size <= SHUFFLED_WHOLE:
            passes.append(shuffled(size, pass_seed)[first:last])
        else:
            passes.append(permute(np.arange(first, last), size, pass_seed))
        start += last - first
    return np.concatenate(passes)


def interleave(
    counts: dict[str, int], start: int = 0, stop: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which stream each sample is of, and its number in that stream: two arrays [stop - start].

    Each stream is spread evenly over the whole run. In any stretch the number of samples of a stream is its share,
    within one sample if there are two streams and within two if there are more.
    """
    total = sum(counts.values())
    stop = total if stop is None else stop
    # Number n stands at about n / total; each stream puts it off by less than one.
    low, high = (start - len(counts)) / max(total, 1), (stop + len(counts)) / max(total, 1)
    spans = [(samples_before(low, n), samples_before(high, n)) for n in counts.values()]
    places = np.concatenate([(np.arange(*span) + 0.5) / n for span, n in zip(spans, counts.values())])
    owner = np.concatenate([np.full(last - first, i) for i, (first, last) in enumerate(spans)])
    number = np.concatenate([np.arange(*span) for span in spans])
    skipped = sum(first for first, _ in spans)
    # Stable: of samples at the same place that of the first stream comes first, in every version of NumPy.
    chosen = np.argsort(places, kind="stable")[start - skipped : stop - skipped]
    return owner[chosen], number[chosen]


def samples_before(share: float, count: int) -> int:
    """How many of a stream's `count` samples stand before `share` of the whole; number k stands at (k + 1/2) / count."""
    number = min(max(round(share * count), 0), count)
    while number and (number - 0.5) / count >= share:
        number -= 1
    while number < count and (number + 0.5) / count < share:
        number += 1
    return number


def mixture_order(
    sizes: dict[str, int], counts: dict[str, int], seed: int, start: int = 0, stop: int | None = None
) -> NDArray[np.int64]:
    """Sample numbers `start` to `stop` of a run in a data set that lays the streams of `sizes` end to end.

    The whole run has sum of `counts` of them. Raises ValueError for samples of an empty stream.
    """
    owner, number = interleave({name: counts.get(name, 0) for name in sizes}, start, stop)
    order = np.empty(len(owner), np.int64)
    offset = 0
    for stream, (name, size) in enumerate(sizes.items()):
        mine = owner == stream
        if mine.any():
            # The numbers of a stream rise by one from sample to sample, so its first and last say all.
            first, last = number[mine][[0, -1]]
            order[mine] = offset + stream_order(size, int(last) + 1, seed, name, int(first))
        offset += size
    return order
