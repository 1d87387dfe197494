"""A contact sheet: images with questions, right answers and the recommended model's, right and wrong.

Nobody picks: of every task the right answers with the smallest SHA-256 of their ids are shown, and so the wrong ones.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from pipeline.common.images import decode
from pipeline.evaluation.metrics import parse_box
from pipeline.evaluation.tasks import ask
from pipeline.reporting import scores
from pipeline.reporting.figures import canvas, fitted, heading, notice, save
from pipeline.reporting.measures import VISION
from pipeline.reporting.table_rows import Rows, write_table

RIGHT, WRONG = 2, 2
SIDE, ROOM, LINE = 2.3, 1.75, 0.12  # inches: an image with its air, the width of a text, from line to line
GREEN, RED = "#1b7837", "#b2182b"


def make(rows: Rows, out: Path) -> None:
    cell = next(cell for cell in rows.cells(evaluated="model") if cell.name == "recipe")
    # A failed run still leaves all files of its table, since engines wait for them.
    if not cell.runs:
        write_table(pd.DataFrame([{"cell": cell.name, "status": cell.status}]), out / "figures/examples.csv")
        notes = ["There are no answers to show:", "the recommended model's run failed"]
        return notice(notes, out / "figures/examples.png")
    answers = scores.read_scores([rows.folder(next(iter(cell.runs.values())))], VISION)
    examples = pick(answers[answers["condition"] == "normal"], RIGHT, WRONG)
    keys = list(zip(examples["task"], examples["id"]))
    asked = rows.chosen_questions(set(keys))
    examples["question"] = [ask(rows.vision_tasks[task], asked[task, name]) for task, name in keys]
    write_table(examples, out / "figures/examples.csv")
    return contact_sheet(examples, {key: asked[key].image for key in keys}, out / "figures/examples.png")


def pick(rows: pd.DataFrame, right: int, wrong: int) -> pd.DataFrame:
    """Of every task `right` examples that score at least a half and `wrong` others, by the hash of their ids."""
    # A hash picks without taste: neither the best answers nor the first images of the data.
    order = rows["id"].map(lambda name: hashlib.sha256(name.encode()).hexdigest())
    rows = rows.assign(order=order, right=rows["score"] >= 0.5).sort_values(["task", "right", "order"])
    parts = [
        rows[(rows["task"] == task) & (rows["right"] == is_right)].head(count)
        for task in sorted(rows["task"].unique())
        for is_right, count in ((True, right), (False, wrong))
    ]
    return pd.concat(parts).drop(columns=["order", "valid"], errors="ignore").reset_index(drop=True)


def contact_sheet(examples: pd.DataFrame, images: dict[tuple[str, str], Path], file: Path) -> None:
    """A row a task: right answers on the left, wrong ones on the right."""
    tasks = list(examples["task"].unique())
    examples = examples.assign(
        above=examples["question"].map(short), below=[below(row) for _, row in examples.iterrows()]
    )
    lines = (examples["above"].str.count("\n") + examples["below"].str.count("\n")).groupby(examples["task"]).max()
    height = sum(SIDE + 0.25 + LINE * lines[task] for task in tasks) + 0.6
    figure, axes = canvas((SIDE + 0.05) * (RIGHT + WRONG), height, len(tasks), RIGHT + WRONG)
    for axis in axes.flat:
        axis.set_axis_off()
        axis.set_box_aspect(1)
    for line, task in zip(axes, tasks):
        part = examples[examples["task"] == task]
        for is_right, first in ((True, 0), (False, RIGHT)):
            for axis, (_, row) in zip(line[first:], part[part["right"] == is_right].iterrows()):
                draw(axis, row, images[task, row["id"]])
        name = fitted(task.replace("_", " "), ROOM, 10, 2)
        line[0].text(
            -0.04, 0.5, name, rotation=90, ha="right", va="center", transform=line[0].transAxes, parse_math=False
        )
    heading(
        figure,
        "The recommended model's answers, right and wrong, chosen by the hash of their ids",
        "below each image: the right answer, then the model's; boxes: solid the right one, dashed the model's",
    )
    save(figure, file)


def short(text: object) -> str:
    """What a model or a data set says, which may be of any length, in a few lines as wide as an image."""
    return fitted(str(text), ROOM, 7, 3)


def below(row: pd.Series) -> str:
    """The right answer, unless it is a box, which is drawn; and the model's."""
    given = short(f"{'right' if row['right'] else 'wrong'}: {row['prediction']}")
    return given if parse_box(str(row["answer"])) else f"{short(row['answer'])}\n{given}"


def draw(axis: Axes, row: pd.Series, file: Path) -> None:
    """An image in the middle of a square, its question, the right answer and the model's."""
    image = decode(file)
    axis.imshow(image)
    width, height = image.size
    side = max(width, height)
    axis.set(xlim=((width - side) / 2, (width + side) / 2), ylim=((height + side) / 2, (height - side) / 2))
    colour = GREEN if row["right"] else RED
    truth, given = parse_box(str(row["answer"])), parse_box(str(row["prediction"]))
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
    form: dict[str, Any] = {"fontsize": 7, "parse_math": False}  # a $ in what a model says is a dollar
    axis.set_title(row["above"], **form)
    axis.text(0, -0.04, row["below"], color=colour, va="top", transform=axis.transAxes, **form)
