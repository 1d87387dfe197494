"""A composed scene as pixels, and as a JPEG file."""

from __future__ import annotations

import io
import math
import random
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from PIL import Image

from pipeline.data.scenes.compose import Composition
from pipeline.data.scenes.glyphs import ARTISTS, SIGNS, glyph, sign

# Light and middling colours: both the black outlines of OpenMoji and the flat colours of Twemoji stand out.
COLOURS = (
    (255, 255, 255), (236, 240, 241), (253, 235, 208), (213, 245, 227), (214, 234, 248), (250, 219, 216),
    (232, 218, 239), (252, 243, 207), (174, 214, 241), (163, 190, 160), (200, 190, 175), (176, 196, 205),
)  # fmt: skip
SIZES = (40, 43, 46, 49, 52, 55, 58)  # larger side in px on a canvas of 128
SMALL_SIZES = (34, 37, 40, 43, 46)  # the same in cluttered scenes


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
        """The sign, if there is one."""
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
