"""Encoded images: which ones are opened, and the one way from their bytes to RGB that everything shares.

JPEG, PNG, WebP, GIF and BMP are opened, by their bytes and whatever they are called: what img2dataset writes, and what
downloads that are called .jpg are. Other formats are not: some have no one way to 8 bits (TIFF), and for some Pillow starts
another program (EPS).

RGB is the first frame; grey of 16 bits loses its lower 8, as colours of 16 bits do; what is transparent lies over white; and
the image is turned upright as its EXIF says. Colour profiles and texts are passed over.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngImageFile

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
ALLOWED = "JPEG, PNG, WebP, GIF or BMP"
PNG = b"\x89PNG\r\n\x1a\n"
MAGIC = (b"\xff\xd8\xff", PNG[:4], b"RIFF", b"GIF8", b"BM")
# What Pillow's decoders are known to raise for damaged files.
DAMAGED = (OSError, SyntaxError, ValueError, IndexError, struct.error, EOFError, Image.DecompressionBombError)
MOST_PIXELS = 89_478_485  # of an image: 256 MB in RGB; Pillow warns from here on, and refuses twice as many
# The chunks of a PNG that its pixels depend on. Texts and colour profiles can be packed a thousand times smaller than they
# are, so Pillow refuses whole images for them; animations begin with the image that all readers show.
PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
ORIENTATION = 0x0112  # EXIF's tag
GREY_BITS = {"1": 1, "L;2": 2, "L;4": 4, "L": 8}  # of a PNG's pixels, by Pillow's name of how they lie
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(ValueError):
    """An image that is of no format that is read, or not whole."""


def is_image(head: bytes) -> bool:
    """Whether a file that begins so is of a format that is read."""
    return head.startswith(MAGIC)


def decode(image: bytes | Path) -> Image.Image:
    """An image (its file, or what is in it) in RGB and upright. Raises BadImage, which names the file if it is given."""
    try:
        # By the bytes, not by the name: downloads called .jpg are often of another format.
        data = image if isinstance(image, bytes) else image.read_bytes()
        if not is_image(data[:4]):
            raise BadImage(f"not a {ALLOWED} image")
        try:
            with open_image(data) as found:
                if found.width * found.height > MOST_PIXELS:
                    size = f"{found.width} x {found.height}"
                    raise BadImage(f"image has {size} px, more than {MOST_PIXELS:,} in all")
                turn, made = TURNS.get(orientation(found)), to_rgb(found)
        except BadImage:
            raise
        except DAMAGED as error:  # its text would hold an address in memory
            raise BadImage(f"image cannot be decoded ({type(error).__name__})") from None
        # Not by ImageOps.exif_transpose, which reads all of EXIF: see `orientation`.
        return made if turn is None else made.transpose(turn)
    except BadImage as error:
        raise error if isinstance(image, bytes) else BadImage(f"{image}: {error}") from None


def undecodable(data: bytes) -> str | None:
    """Why an encoded image cannot be decoded, or None if all of its pixels can."""
    try:
        decode(data)
    except BadImage as error:
        return str(error)
    return None


def open_image(image: bytes | Path) -> Image.Image:
    """An image whose pixels are not decoded yet, as Pillow has it. Raises one of DAMAGED."""
    if isinstance(image, Path):
        with open(image, "rb") as file:
            # Of other formats Pillow reads the header alone. A PNG is read as a whole, as its chunks have to be sorted
            # out first.
            if file.read(len(PNG)) != PNG:
                return Image.open(image, formats=FORMATS)
        image = image.read_bytes()
    return Image.open(io.BytesIO(plain_png(image) if image.startswith(PNG) else image), formats=FORMATS)


def plain_png(data: bytes) -> bytes:
    """A PNG's bytes without the chunks that say nothing about its pixels; EXIF's comes before these."""
    chunks, exif, place = [], [], len(PNG)
    while place + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        if kind in PNG_CHUNKS:
            chunks.append(data[place : place + size + 12])
        elif kind == b"eXIf":
            exif.append(data[place : place + size + 12])
        place += size + 12
    return b"".join([PNG, *chunks[:1], *exif[:1], *chunks[1:]])


def orientation(image: Image.Image) -> int:
    """How an opened image is to be turned, as the first directory of its EXIF says: 1 (not at all) to 8.

    No more of EXIF is read: a few bytes of it can stand for gigabytes.
    """
    data = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (entries,) = struct.unpack_from(order + "H", data, start)
        for number in range(entries):
            tag, kind, count, value = struct.unpack_from(order + "HHIH", data, start + 2 + 12 * number)
            if tag == ORIENTATION:
                return value if (kind, count) == (3, 1) and value in TURNS else 1
    except struct.error:  # a directory that is cut off or elsewhere
        pass
    return 1


def stored_size(image: bytes | Path) -> tuple[tuple[int, int], int]:
    """Width and height in px of the pixels in a file, and its `orientation`. Raises one of DAMAGED."""
    with open_image(image) as found:
        return found.size, orientation(found)


def turned_size(size: tuple[int, int], turn: int) -> tuple[int, int]:
    """The width and height of an image that is turned upright."""
    # EXIF's orientations 5 to 8 swap rows and columns; 2 to 4 keep them.
    return (size[1], size[0]) if turn >= 5 else size


def transparent(image: Image.Image) -> Any:
    """What an opened image's pixels that are transparent hold (grey, colour, place or alphas of a palette), or None.

    A PNG says it in its own bits, which Pillow leaves so while it makes 8 bits of the pixels; 16 of grey stay. Of colours of
    16 bits, the lower 8 are gone: those of the same upper 8 are transparent.
    """
    clear = image.info.get("transparency")
    raw = image.tile[0].args if isinstance(image, PngImageFile) and image.tile else None
    if isinstance(clear, tuple):
        return tuple(part >> 8 if raw == "RGB;16B" else part & 255 for part in clear)
    if raw in GREY_BITS:
        most = (1 << GREY_BITS[raw]) - 1
        return (clear & most) * 255 // most if isinstance(clear, int) else clear
    return clear


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened image in RGB. Raises one of DAMAGED."""
    clear = transparent(image)
    if image.mode.startswith("I"):  # grey of 16 bits, which Pillow would cut off at 255
        import numpy as np

        grey = np.array(image)
        eight = (grey >> 8).astype(np.uint8)
        if clear is not None:
            eight[grey == clear] = 255
        return Image.fromarray(eight).convert("RGB")
    if clear is not None:
        image.info["transparency"] = clear
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    return white
