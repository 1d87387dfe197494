"""Boxes: as data sets give them, and as the model reads and writes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipeline.data.records import BadRecord as BadRecord
from pipeline.data.records import LeftOut

LARGEST_SIDE = 1e9  # px; numbers beyond it are no sizes and no places


def read_box(
    corners: Any, width: float, height: float, file: object, where: object, left_out: LeftOut
) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 in px of a width x height image -> shares of it. Refuses empty boxes and boxes outside.

    Up to 2 px outside is clipped, and counted beyond half a pixel: COCO's boxes are rounded to hundredths and some touch
    the border.
    """
    numbers = isinstance(corners, list | tuple) and all(
        # To Python True is a number. The bound refuses NaN too, for which no comparison holds.
        isinstance(side, int | float) and not isinstance(side, bool) and abs(side) < LARGEST_SIDE
        for side in corners
    )
    if not numbers or len(corners) != 4:
        raise BadRecord(file, where, f"box is not four numbers: {corners!r}")
    if not (1 <= width < LARGEST_SIDE and 1 <= height < LARGEST_SIDE):
        raise BadRecord(file, where, f"is of an image of {width} x {height} px")
    x1, y1, x2, y2 = corners
    clipped = (max(x1, 0) / width, max(y1, 0) / height, min(x2, width) / width, min(y2, height) / height)
    outside = max(-x1, -y1, x2 - width, y2 - height)
    if outside > 2 or not (clipped[0] < clipped[2] and clipped[1] < clipped[3]):
        raise BadRecord(file, where, f"box is empty or outside the {width} x {height} image: {corners!r}")
    left_out.clipped += outside > 0.5
    return clipped


def box_text(box: Iterable[float]) -> str:
    """x1, y1, x2, y2 in 0..1 as models read and write them: "[0.12, 0.08, 0.45, 0.47]"."""
    return "[" + ", ".join(f"{side:.2f}" for side in box) + "]"


def corners(bbox: list) -> Any:
    """COCO's x, y, width, height -> corners; what is not four numbers is left for `read_box` to refuse."""
    try:
        x, y, width, height = bbox
        return [x, y, x + width, y + height]
    except (TypeError, ValueError, OverflowError):
        return bbox
