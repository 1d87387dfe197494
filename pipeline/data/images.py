"""Whether encoded images are whole."""

from __future__ import annotations

import io
import struct

from PIL import Image

# What Pillow's decoders are known to raise for damaged files.
DAMAGED = (OSError, SyntaxError, ValueError, IndexError, struct.error, EOFError, Image.DecompressionBombError)
MOST_PIXELS = 89_478_485  # of an image: 256 MB in RGB; Pillow warns from here on, and refuses twice as many


def undecodable(data: bytes) -> str | None:
    """Why an encoded image cannot be decoded, or None if all of its pixels can."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MOST_PIXELS:
                return f"image has {image.width} x {image.height} px, more than {MOST_PIXELS:,} in all"
            image.convert("RGB")
    except DAMAGED as error:
        return f"image cannot be decoded ({type(error).__name__})"  # its text would hold an address in memory
    return None
