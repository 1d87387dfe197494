"""A contact sheet: images with questions, right answers and the recommended model's, right and wrong.

Nobody picks: of every task the right answers with the smallest SHA-256 of their ids are shown, and so the wrong ones.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from pipeline.data.records import Question
from pipeline.evaluation.metrics import parse_box
from pipeline.evaluation.tasks import ask
from pipeline.files import one_line
from pipeline.reporting import scores
from pipeline.reporting.figures import notice, save
from pipeline.reporting.rows import Rows, write_table

RIGHT, WRONG = 2, 2
SHOWN = 120  # characters of a text
GREEN, RED = "#1b7837", "#b2182b"


def make(rows: Rows, out: Path) -> None:
    cell = next(cell for cell in rows.cells(evaluated="model") if cell.name == "recipe")
    if not cell.runs:
        write_table(pd.DataFrame([{"cell": cell.name, "status": cell.status}]), out / "figures/examples.csv")
        return notice("There are no answers to show: the recommended model's run failed", out / "figures/examples.png")
    answers = scores.read_scores([rows.folder(next(iter(cell.runs.values())))], "vision.csv")
    examples = pick(answers[answers["condition"] == "normal"], RIGHT, WRONG)
    asked = questions(rows, set(zip(examples["task"], examples["id"])))
    keys = list(zip(examples["task"], examples["id"]))
    examples["question"] = [ask(rows.tasks["vision"][task], asked[task, name]) for task, name in keys]
    write_table(examples, out / "figures/examples.csv")
    return contact_sheet(examples, {key: asked[key].image for key in keys}, out / "figures/examples.png")


def pick(rows: pd.DataFrame, right: int, wrong: int) -> pd.DataFrame:
    """Of every task `right` examples that score at least a half and `wrong` others, by the hash of their ids."""
    order = rows["id"].map(lambda name: hashlib.sha256(name.encode()).hexdigest())
    rows = rows.assign(order=order, right=rows["score"] >= 0.5).sort_values(["task", "right", "order"])
    parts = [
        rows[(rows["task"] == task) & (rows["right"] == is_right)].head(count)
        for task in sorted(rows["task"].unique())
        for is_right, count in ((True, right), (False, wrong))
    ]
    return pd.concat(parts).drop(columns=["order", "valid"], errors="ignore").reset_index(drop=True)


def questions(rows: Rows, keys: set[tuple[str, str]]) -> dict[tuple[str, str], Question]:
    """The questions of these tasks and ids."""
    return {
        (name, question.id): question
        for name, task in rows.tasks["vision"].items()
        for question in rows.questions(name, task["format"])
        if (name, question.id) in keys
    }


def contact_sheet(examples: pd.DataFrame, images: dict[tuple[str, str], Path], file: Path) -> None:
    """A row a task: right answers on the left, wrong ones on the right."""
    tasks = list(examples["task"].unique())
    columns = RIGHT + WRONG
    figure, axes = plt.subplots(len(tasks), columns, figsize=(2.3 * columns, 2.75 * len(tasks)), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for line, task in zip(axes, tasks):
        part = examples[examples["task"] == task]
        for is_right, first in ((True, 0), (False, RIGHT)):
            for axis, (_, row) in zip(line[first:], part[part["right"] == is_right].iterrows()):
                draw(axis, row, images[task, row["id"]])
        line[0].text(
            -0.04, 0.5, task.replace("_", " "), rotation=90, ha="right", va="center", transform=line[0].transAxes
        )
    title = "The recommended model's answers, right and wrong, chosen by the hash of their ids"
    below = "below each image: the right answer, then the model's; boxes: solid the right one, dashed the model's"
    figure.suptitle(f"{title}\n{below}", y=0.995, fontsize=10)
    figure.subplots_adjust(left=0.04, right=0.995, top=0.957, bottom=0.035, wspace=0.05, hspace=0.5)
    save(figure, file)


def draw(axis: Axes, row: pd.Series, file: Path) -> None:
    """An image, its question, the right answer and the model's."""
    with Image.open(file) as image:
        axis.imshow(image.convert("RGB"))
        width, height = image.size
    colour, mark = (GREEN, "right") if row["right"] else (RED, "wrong")
    truth, given = parse_box(row["answer"]), parse_box(row["prediction"])
    for box, style in ((truth, "-"), (given, "--")):
        if truth and box:
            x1, y1, x2, y2 = box
            axis.add_patch(
                Rectangle(
                    (x1 * width, y1 * height),
                    (x2 - x1) * width,
                    (y2 - y1) * height,
                    fill=False,
                    ec="black" if style == "-" else colour,
                    ls=style,
                )
            )
    # What a model says is no mathematics, whatever dollars it holds.
    question, right, said = (one_line(row[key], SHOWN) for key in ("question", "answer", "prediction"))
    axis.set_title(question, fontsize=7, wrap=True, parse_math=False)
    text = f"{mark}: {said}" if truth else f"{right}\n{mark}: {said}"
    axis.text(0, -0.04, text, fontsize=7, color=colour, va="top", transform=axis.transAxes, parse_math=False)
