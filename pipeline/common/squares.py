"""How an image becomes the square that an encoder sees, and what that does to boxes.

A box is four shares (left, top, right, bottom) of a frame. There are two frames, named after the two ways of making a
square:

resize     the image is stretched: shares are of its own width and height, whatever its shape
letterbox  the image is padded to a square first, evenly on both sides: shares are of that square

Benchmarks state boxes in shares of the image. LLaVA's instructions state them in shares of the padded square
(haotian-liu/LLaVA, issue 606), whatever the model that is trained on them sees. A model is asked, and answers, in the
frame that it sees; answers are scored in the image's.

Images are shown upright, as their EXIF says. Boxes that were made for the pixels as they are stored are turned with them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image, ImageOps

from pipeline.common.images import stored_size, turned_size

Fit = Literal["resize", "letterbox"]
Box = tuple[float, float, float, float]

NUMBER = r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*"
LONGEST_SIDE = 8192  # px of a letterbox before it is made smaller: one of a strip of 65,535 x 1 px would take 13 GB
FOUR_NUMBERS = re.compile(rf"\[{NUMBER},{NUMBER},{NUMBER},{NUMBER}\]")


@dataclass(frozen=True)
class Square:
    """What an encoder is given: a square of `side` pixels, and how images become one."""

    side: int
    fit: Fit = "resize"
    padding: tuple[int, int, int] = (127, 127, 127)  # colour of what a letterbox adds

    def of(self, image: Image.Image) -> Image.Image:
        """The square of an RGB image (bicubic)."""
        if self.fit == "letterbox":
            if max(image.size) > LONGEST_SIDE:
                # `thumbnail` changes the image that it is called on, which is the caller's.
                image = image.copy()
                image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
            left, top, side = pad(image.size)
            border = (left, top, side - image.width - left, side - image.height - top)
            image = ImageOps.expand(image, border, self.padding)
        if image.size != (self.side, self.side):
            image = image.resize((self.side, self.side), Image.Resampling.BICUBIC)
        return image


def pad(size: tuple[int, int]) -> tuple[int, int, int]:
    """Where an image of a width and height stands in its letterbox: left, top; and the letterbox's side, in px."""
    side = max(size)
    return (side - size[0]) // 2, (side - size[1]) // 2, side


def move_box(box: Box, size: tuple[int, int], source: Fit, target: Fit) -> Box:
    """A box of one frame of an image, of `size` (width, height) px, in another frame. Nothing is rounded or cut off.

    The frames of a square image are the same.
    """
    if source == target or size[0] == size[1]:
        return box
    left, top, side = pad(size)
    moved = []
    for place, extent, offset in zip(box, (*size, *size), (left, top, left, top)):
        moved.append((place * extent + offset) / side if target == "letterbox" else (place * side - offset) / extent)
    x1, y1, x2, y2 = moved
    return x1, y1, x2, y2


def turn_box(box: Box, turn: int) -> Box:
    """A box in shares of an image's stored pixels, in shares of the image turned upright (`images.orientation`)."""
    x1, y1, x2, y2 = box
    if turn >= 5:  # rows become columns, before what else is done
        x1, y1, x2, y2 = y1, x1, y2, x2
    if turn in (2, 3, 6, 7):
        x1, x2 = 1 - x2, 1 - x1
    if turn in (3, 4, 7, 8):
        y1, y2 = 1 - y2, 1 - y1
    return x1, y1, x2, y2


def move_boxes(
    text: str, image: Path | bytes, source: Fit, target: Fit, decimals: int = 2, stored: bool = False
) -> str:
    """A text about an image (its file, or what is in it) with every box moved to another frame.

    A box is a list of four numbers from 0 to 1 whose corners are in order; other lists stay as they are. What lies
    outside the new frame is cut off, as half a hundredth may by rounding, and all that is said of the padding. `stored`
    says that the boxes are of the pixels as they are stored, and not of the upright image.
    """
    # Most texts have no box: then the image's header need not be read.
    if (source == target and not stored) or not FOUR_NUMBERS.search(text):
        return text
    size, turn = stored_size(image)
    shown = turned_size(size, turn)
    turn = turn if stored else 1
    if turn == 1 and (source == target or size[0] == size[1]):
        return text

    def moved(found: re.Match) -> str:
        x1, y1, x2, y2 = map(float, found.groups())
        if not (0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1):
            return found.group()
        box = (x1, y1, x2, y2)
        if turn == 1:
            box = move_box(box, shown, source, target)
        else:
            # A turn is defined for shares of the image itself, so the box leaves its frame first and enters the other
            # one last.
            box = move_box(turn_box(move_box(box, size, source, "resize"), turn), shown, "resize", target)
        corners = (min(max(place, 0.0), 1.0) for place in box)
        return "[" + ", ".join(f"{place:.{decimals}f}" for place in corners) + "]"

    return FOUR_NUMBERS.sub(moved, text)
