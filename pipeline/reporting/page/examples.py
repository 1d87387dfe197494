"""Questions with their images and answers."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from pipeline.common.files import one_line
from pipeline.evaluation.metrics import parse_box
from pipeline.reporting.page.forms import (
    Picture,
    Row,
    thumbnail,
)
from pipeline.reporting.page.results import Results


def all_examples(results: Results) -> list[tuple[str, list[dict]]]:
    """Questions with their images and answers, by task; none where the images are not at hand."""
    rows = [row for row in results.read("figures/examples.csv") if row.get("id")]
    if results.images is None or not rows:
        return []
    files = results.images({(row["task"], row["id"]) for row in rows})
    found = [(row["task"], example(row, files[row["task"], row["id"]])) for row in rows]
    return [(task.replace("_", " "), [e for _, e in group]) for task, group in groupby(found, key=lambda f: f[0])]


def example(row: Row, file: Path) -> dict:
    boxes = [(kind, parse_box(row[column])) for kind, column in (("truth", "answer"), ("given", "prediction"))]
    is_box = boxes[0][1] is not None
    return {
        "image": thumbnail(file),
        **{key: one_line(row[key]) for key in ("question", "answer", "prediction")},
        "right": row["right"] == "True",
        "boxes": [(kind, *(100 * v for v in box)) for kind, box in boxes if is_box and box],
    }


def contact_sheet(results: Results) -> Picture:
    """The contact sheet, for results whose images are elsewhere."""
    return thumbnail(results.place("figures/examples.png"), 2000)
