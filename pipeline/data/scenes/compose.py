"""Composed scenes: real glyphs at known places, with captions and questions whose answers are exact.

Everything here is a pure function of its arguments and of a `random.Random` that `rng_for` makes from a seed and an
index, so scene 17 is the same whether or not scenes 0 to 16 were made. Glyphs are drawn by two artists: Twemoji (72 px
PNGs) and OpenMoji (a colour font). Three things are kept out of training on purpose, always by the same fixed hash:

- arrangements: which names stand in which cells; 80% of all are for training, 10% for validation, 10% for test;
- pairs: 20% of the concept pairs never stand together in a training scene;
- drawings: of four concepts, one artist's drawing never occurs in a training scene.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import TypeAlias

from pipeline.data.job_settings import Scenes
from pipeline.data.scenes.chance import chance
from pipeline.data.scenes.glyphs import ARTISTS, GLYPH, KIND, WORDS

HELD_OUT_PAIRS = 0.2  # share of concept pairs
EVALUATION_ARRANGEMENTS = 0.1  # share of arrangements, for validation and again for test
HELD_OUT_DRAWINGS = 4
POPULAR_WEIGHT = 1.6  # a third of the concepts are this much more frequent: "popular" must mean something
FRIENDS, FRIEND_WEIGHT = 0.15, 3.0  # share of pairs that like company, and how much: so must "adversarial"
COPIES = (0.40, 0.25, 0.20, 0.15)  # of 1, 2, 3, 4 copies of a plain scene's first concept
WORD_SHARE = 0.6  # of the plain scenes that have room for a sign
# A composition's split follows from its hash, so compositions are drawn until one is of the split that is wanted; a
# tenth of them are for test.
ATTEMPTS = 2000


# --- what there is to compose -----------------------------------------------------------------------------------------


@cache
def held_out(a: str, b: str) -> bool:
    """True if these two concepts never stand together in a training scene."""
    # Sorted: a pair has no order, and its hash must have none.
    return a != b and chance("held-out pair", *sorted((a, b))) < HELD_OUT_PAIRS


@lru_cache
def _held_out_pairs(pool: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((a, b) for i, a in enumerate(pool) for b in pool[i + 1 :] if held_out(a, b))


@cache
def company(a: str, b: str) -> float:
    """How much more often than others these two stand together in training: 0, 1 or FRIEND_WEIGHT times."""
    if held_out(a, b):
        return 0.0
    return FRIEND_WEIGHT if chance("friends", *sorted((a, b))) < FRIENDS else 1.0


@dataclass(frozen=True)
class Vocabulary:
    """Concepts of every task (`main`), concepts that occur in captions only (`extra`), words for signs."""

    main: tuple[str, ...]
    extra: tuple[str, ...]
    words: tuple[str, ...]

    @cached_property
    def popular(self) -> tuple[str, ...]:
        """The third of the main concepts that training shows most often."""
        return tuple(sorted(self.main, key=lambda n: chance("popular", n))[: max(1, len(self.main) // 3)])

    @cached_property
    def held_out_drawings(self) -> dict[str, str]:
        """Concept -> the artist whose drawing of it occurs in evaluation only."""
        names = sorted(self.main, key=lambda n: chance("drawing", n))[: min(HELD_OUT_DRAWINGS, len(self.main) // 2)]
        return {name: ARTISTS[chance("artist", name) < 0.5] for name in names}

    @cached_property
    def held_out_kinds(self) -> frozenset[str]:
        """Concepts of which no instruction asks what kind of thing they are: every third of a kind."""
        of_kind: dict[str, list[str]] = {}
        for name in self.main:
            if name in KIND:
                of_kind.setdefault(KIND[name], []).append(name)
        return frozenset(name for names in of_kind.values() for name in names[2::3])

    @cached_property
    def weights(self) -> dict[str, float]:
        """How often training shows each concept, relative to the others."""
        return {n: POPULAR_WEIGHT if n in self.popular else 1.0 for n in (*self.main, *self.extra)}

    def pairs(self, pool: Sequence[str]) -> tuple[tuple[str, str], ...]:
        """The held-out pairs among some concepts."""
        return _held_out_pairs(tuple(pool))


@lru_cache
def _vocabulary(concepts: int, extra: int, words: int) -> Vocabulary:
    names = tuple(GLYPH)
    if not 4 <= concepts <= len(names) - extra:
        raise ValueError(
            f"concepts must be 4 or more and, with caption_only_concepts, at most {len(names)}: {concepts} + {extra}"
        )
    if extra < 0 or not 0 <= words <= len(WORDS):
        raise ValueError(f"caption_only_concepts must be 0 or more, words 0 to {len(WORDS)}: {extra}, {words}")
    vocabulary = Vocabulary(names[:concepts], names[concepts : concepts + extra], WORDS[:words])
    if not vocabulary.pairs(vocabulary.main):
        raise ValueError(f"no held-out pair among the first {concepts} concepts: take more concepts")
    return vocabulary


def vocabulary_of(settings: Scenes) -> Vocabulary:
    """The vocabulary that the settings `concepts`, `caption_only_concepts` and `words` pick. Raises ValueError."""
    return _vocabulary(settings.concepts, settings.caption_only_concepts, settings.words)


# --- compositions: what stands in which cells ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Composition:
    """What stands where: (cell, name, artist) sorted by cell, and (cell, word) or None.

    Cells are numbered row by row, 2 x 2 in plain and 3 x 3 in cluttered layouts.
    """

    layout: str
    cells: tuple[tuple[int, str, str], ...]
    word: tuple[int, str] | None = None

    @property
    def names(self) -> set[str]:
        """The concepts that it shows."""
        return {name for _, name, _ in self.cells}

    @cached_property
    def split(self) -> str:
        """The part of the data that this composition may occur in: "train", "validation" or "test".

        It hangs on names and cells. Of one kind alone there are too few arrangements to test counting to four on, so
        there the artists count too.
        """
        one_kind = len(self.names) == 1
        arrangement = [(cell, name, artist if one_kind else "") for cell, name, artist in self.cells]
        x = chance("composition", self.layout, arrangement, self.word)
        if x < EVALUATION_ARRANGEMENTS:
            return "test"
        return "validation" if x < 2 * EVALUATION_ARRANGEMENTS else "train"

    @property
    def has_held_out_pair(self) -> bool:
        """Whether two of its concepts never stand together in training."""
        names = sorted(self.names)
        return any(held_out(a, b) for i, a in enumerate(names) for b in names[i + 1 :])


def _add_names(
    rng: random.Random,
    weights: dict[str, float],
    pool: Sequence[str],
    names: list[str],
    count: int,
    strict: bool,
) -> list[str]:
    """Add distinct names from the pool until there are `count`, or none is left that may join the others."""
    while len(names) < count:
        chances = []
        for name in pool:
            weight = 0.0 if name in names else weights[name]
            for other in names:
                # A scene that holds a held-out pair on purpose may hold others as well.
                weight *= company(name, other) if strict else (company(name, other) or 1.0)
            chances.append(weight)
        if not any(chances):
            break
        names.append(rng.choices(pool, chances)[0])
    return names


Weights: TypeAlias = dict[str, float]
Names: TypeAlias = Sequence[str]
Placed = tuple[str, list[tuple[int, str]], tuple[int, str] | None]  # layout, (cell, name), (cell, word)

# Each maker takes the concepts' weights, the concepts to draw from, a held-out pair to include (or none), and words.


def _plain(rng: random.Random, weights: Weights, pool: Names, pair: Names, words: Names) -> Placed:
    copies = rng.choices((1, 2, 3, 4), COPIES)[0]
    if pair:
        # Four copies would leave no cell for the second concept of the pair.
        copies = min(copies, 3)
    has_word = bool(words) and copies + bool(pair) < 4 and rng.random() < WORD_SHARE
    word = rng.choice(words) if has_word else None
    room = (3 if word else 4) - copies
    # The smaller of two draws: from scenes of one or two things a small model learns to look at all.
    others = min(rng.randint(int(bool(pair)), room) for _ in range(2))
    names = _add_names(rng, weights, pool, list(pair), 1 + others, strict=not pair)
    names += names[:1] * (copies - 1)
    return _place(rng, "plain", 4, names, word)


def _cluttered(rng: random.Random, weights: Weights, pool: Names, pair: Names, words: Names) -> Placed:
    count = rng.randint(5, 7)
    distinct = count - (rng.random() < 0.4)
    names = _add_names(rng, weights, pool, list(pair), distinct, strict=not pair)
    names += [rng.choice(names) for _ in range(count - len(names))]
    return _place(rng, "cluttered", 9, names, None)


def _named(rng: random.Random, weights: Weights, pool: Names, pair: Names, words: Names) -> Placed:
    """Two or three distinct concepts and nothing else."""
    names = _add_names(rng, weights, pool, list(pair), rng.randint(2, 3), strict=not pair)
    return _place(rng, "plain", 4, names, None)


def _place(rng: random.Random, layout: str, cells: int, names: list[str], word: str | None) -> Placed:
    order = rng.sample(range(cells), len(names) + bool(word))
    return layout, sorted(zip(order, names)), (order[-1], word) if word else None


def _artist(rng: random.Random, name: str, hidden: dict[str, str]) -> str:
    artist = rng.choice(ARTISTS)
    return ARTISTS[1 - ARTISTS.index(artist)] if hidden.get(name) == artist else artist


def compose(
    rng: random.Random,
    vocabulary: Vocabulary,
    kind: str,
    split: str,
    pool: Sequence[str],
    held_out_pair: bool = False,
    words: Sequence[str] | None = None,
) -> Composition:
    """A composition of a kind ("plain", "cluttered" or "named") that belongs to "train", "validation" or "test".

    With `held_out_pair` it holds at least one held-out pair (if the pool has any), without it none. Signs of plain
    scenes show one of `words`, all of the vocabulary by default. Raises ValueError if the pool is too small.
    """
    maker = {"plain": _plain, "cluttered": _cluttered, "named": _named}[kind]
    pairs = vocabulary.pairs(pool) if held_out_pair else ()
    words = vocabulary.words if words is None else words
    hidden = vocabulary.held_out_drawings if split == "train" else {}
    for _ in range(ATTEMPTS):
        pair = tuple(rng.sample(rng.choice(pairs), 2)) if pairs else ()
        layout, placed, word = maker(rng, vocabulary.weights, pool, pair, words)
        cells = tuple((cell, name, _artist(rng, name, hidden)) for cell, name in placed)
        composition = Composition(layout, cells, word)
        if composition.split == split:
            return composition
    raise ValueError(f"no {kind} composition for {split} in {ATTEMPTS} attempts: take more concepts")
