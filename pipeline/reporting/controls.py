"""The controls that the paper lacks, and figures of the two that need one.

controls.csv has a row a cell: the 100% branch re-warmed to several rates beside the recipe; every branch continued on
text alone; moments kept or fresh; models fine-tuned without images, with what they answer right without them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd

from pipeline.common.files import write_text
from pipeline.reporting import scores
from pipeline.reporting.experiment_tables import CONTROLS, SCORES, title
from pipeline.reporting.figures import sweep_figure
from pipeline.reporting.table_rows import (
    Cell,
    Rows,
    differing,
    interval,
    made,
    markdown_table,
    percent,
    runs_of,
    write_table,
)


def make(rows: Rows, out: Path) -> None:
    recipe = next((cell for cell in rows.cells(evaluated="model") if cell.name == "recipe"), None)
    parts, lines = {}, []
    for name, question in CONTROLS.items():
        cells = rows.cells(name)
        with_recipe = [recipe] if recipe and name == "rewarm" and cells else []
        parts[name] = pd.DataFrame([{"control": name, **row(rows, cell)} for cell in (*with_recipe, *cells)])
        lines += ["", f"## {question}", "", *section(rows, parts[name])]
    records = [row for part in parts.values() for row in part.to_dict("records")] or [{"status": "not_run"}]
    write_table(pd.DataFrame(records), out / "controls.csv")
    write_text(out / "controls.md", "\n".join([title(rows, "Controls"), *lines, ""]))
    draw(rows, parts, out)


def row(rows: Rows, cell: Cell) -> dict:
    """The columns of a cell; of a blind model also what it answers right, task by task, asked as it was trained."""
    columns = rows.row(cell)
    if cell.evaluated != "blind" or not cell.runs:
        return columns
    folders = [rows.folder(run) for run in cell.runs.values()]
    for task in rows.tasks["vision"]:
        right = partial(scores.average, chance={task: 0.0})
        columns |= interval(task, rows.estimate(folders, "vision.csv", right, condition="removed"))
    return columns


def section(rows: Rows, part: pd.DataFrame) -> list[str]:
    """A control's rows for reading."""
    if not len(part):
        return ["Not run."]
    if part["control"].iloc[0] == "blind":
        tasks = rows.tasks["vision"]
        blind = [[r["cell"], runs_of(r), *(percent(r, task) for task in tasks)] for _, r in part.iterrows()]
        return markdown_table(["", "seeds", *tasks], blind)
    shown = [name for name in SCORES if name in part and part[name].notna().any()]
    lines = [
        [r["cell"], runs_of(r), *(percent(r, name, *SCORES[name][1:]) for name in shown)] for _, r in part.iterrows()
    ]
    return markdown_table(["", "seeds", *(SCORES[name][0] for name in shown)], lines)


def draw(rows: Rows, parts: dict[str, pd.DataFrame], out: Path) -> None:
    """The two figures: scores by peak of the re-warmed branch, and text by branch point without images."""
    rewarm = made(parts["rewarm"])
    if len(rewarm):
        names = [f"{row['branch_percent']:g}%\n{row['cooldown_peak_lr']:.2g}" for _, row in rewarm.iterrows()]
        rewarm = rewarm.assign(branch=names)
    hollow = [] if not len(rewarm) else list(rewarm.loc[rewarm["branch_percent"] >= 100, "branch"])
    (out / "figures").mkdir(exist_ok=True)
    sweep_figure(
        rewarm,
        x="branch",
        x_label="branch, and its highest learning rate",
        title=CONTROLS["rewarm"],
        file=out / "figures/rewarm.png",
        hollow=hollow,
    )
    sweep_figure(
        parts["text_only"],
        x="branch_percent",
        x_label="text run before the branch (%)",
        title="The same cooldown on text alone",
        file=out / "figures/text_only.png",
        hollow=[100],
        lines=differing([cell.settings for cell in rows.cells("text_only")], but="branch_percent"),
    )
