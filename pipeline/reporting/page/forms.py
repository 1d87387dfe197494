"""The forms in which the report shows values: grids, figures, pictures."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup, escape

from pipeline.common.images import decode, open_image
from pipeline.reporting.measures import form_of

Row = Mapping[str, str]
LARGEST = 256  # pixels of an example's longer side


@dataclass(frozen=True)
class Value:
    """A cell of a table: what is shown, its interval, and the anchor of what it comes from."""

    text: str
    more: str = ""
    link: str = ""


@dataclass(frozen=True)
class Picture:
    """An image as a data URI, with its size in pixels: its place is kept free before it is loaded."""

    address: str
    width: int
    height: int


@dataclass(frozen=True)
class Grid:
    """A table of the report."""

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Value]]
    files: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """Charts of one experiment: those that matter, and the rest."""

    name: str
    title: str
    panels: Sequence[tuple[str, Markup]]
    more: Sequence[tuple[str, Markup]]
    files: Sequence[str]
    note: str = ""
    legend: Markup = field(default_factory=Markup)


def title_of(measure: str) -> str:
    return form_of(measure)[0]


def number_in(row: Row, column: str) -> float:
    """A number of a row; NaN if it has none there."""
    try:
        return float(row.get(column) or "nan")
    except ValueError:
        return math.nan


def shown(value: object) -> str:
    """A setting for reading."""
    words = {"True": "yes", "False": "no", "None": "none"}
    if str(value) in words:
        return words[str(value)]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return str(value)


def power_of(row: Row) -> str:
    """What the power of a claim's part is, and how many seeds would do."""
    power, needed = number_in(row, "power"), number_in(row, "seeds_needed")
    if not math.isfinite(power):
        return ""
    unit = "" if row["unit"] == "points" else f" {row['unit']}"
    more = f"; 0.8 takes {needed:g} seeds" if math.isfinite(needed) else ""
    return f"power {power:.2f} to find {number_in(row, 'power_at'):g}{unit}{more}"


def word(verdict: str) -> str:
    """A verdict as the name of a class."""
    return verdict.replace(" ", "-").replace("_", "-")


def fixed(value: float, digits: int) -> str:
    """A number with so many digits; what rounds to nothing has no sign."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def big(value: float) -> str:
    return f"{value:.3g}".replace("e+", "e") if value >= 1e9 else f"{value:,.0f}" if math.isfinite(value) else ""


def anchor(kind: str, name: str) -> str:
    """The id of an element that stands for something with a name."""
    return f"{kind}-{re.sub('[^A-Za-z0-9_=.-]+', '-', name)}"


def flat_lines(section: Mapping, prefix: str = "") -> list[str]:
    """A section of settings, a line a value."""
    lines: list[str] = []
    for key, value in sorted(section.items()):
        if isinstance(value, Mapping) and value:
            lines += flat_lines(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}: {shown(value)}")
    return lines


def embedded(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def thumbnail(file: Path, largest: int = LARGEST) -> Picture:
    """An image as a data URI: as it is if it is small, else a JPEG whose longer side has so many pixels."""
    # A small image goes in as it is: to compress it again would show what no model saw.
    with open_image(file) as image:
        if max(image.size) <= largest and image.format in ("JPEG", "PNG", "WEBP"):
            return Picture(embedded(f"image/{image.format.lower()}", file.read_bytes()), *decode(file).size)
    smaller = decode(file)
    smaller.thumbnail((largest, largest))
    buffer = io.BytesIO()
    smaller.save(buffer, "JPEG", quality=80)
    return Picture(embedded("image/jpeg", buffer.getvalue()), *smaller.size)


INLINE = (
    (r"`([^`]+)`", r"<code>\1</code>"),
    (r"\*\*([^*]+)\*\*", r"<strong>\1</strong>"),
    (r"\[([^\]]+)\]\([^)]*\)", r"\1"),
)


def paragraphs(markdown: str) -> list[Markup]:
    """The paragraphs and list items of a short Markdown text; a link becomes its words, as the report stands alone."""
    blocks = re.split(r"\n\n|\n(?=- )", markdown.strip())
    texts = [str(escape(" ".join(block.removeprefix("- ").split()))) for block in blocks if not block.startswith("#")]
    for pattern, form in INLINE:
        texts = [re.sub(pattern, form, text) for text in texts]
    return [Markup(text) for text in texts]
