"""Whether encoded images are whole."""

from __future__ import annotations

import io
import struct

from PIL import Image

# What Pillow's decoders are known to raise for damaged files.
DAMAGED = (OSError, SyntaxError, ValueError, IndexError, struct.error, EOFError, Image.DecompressionBombError)


def undecodable(data: bytes) -> str | None:
    """Why an encoded image cannot be decoded, or None if all of its pixels can."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.convert("RGB")
    except DAMAGED as error:
        return f"image cannot be decoded ({type(error).__name__})"  # its text would hold an address in memory
    return None
