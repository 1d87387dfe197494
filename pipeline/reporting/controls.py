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
from pipeline.reporting.experiment_tables import title
from pipeline.reporting.figures import sweep_figure
from pipeline.reporting.measures import MEASURES, VISION, form_of
from pipeline.reporting.table_list import TABLES, axis_of
from pipeline.reporting.table_rows import (
    Cell,
    Rows,
    differing,
    interval,
    made,
    markdown_table,
    runs_of,
    score_text,
    write_table,
)


def make(rows: Rows, out: Path) -> None:
    recipe = next((cell for cell in rows.cells(evaluated="model") if cell.name == "recipe"), None)
    parts, lines = {}, []
    for name, part in TABLES["controls"].parts.items():
        cells = rows.cells(name)
        # The recipe continues its rate: without it nothing says what re-warming changes.
        with_recipe = [recipe] if recipe and name == "rewarm" and cells else []
        parts[name] = pd.DataFrame([{"control": name, **row(rows, cell)} for cell in (*with_recipe, *cells)])
        lines += ["", f"## {part.title}", "", *section(rows, parts[name])]
    records = [row for part in parts.values() for row in part.to_dict("records")] or [{"status": "not_run"}]
    write_table(pd.DataFrame(records), out / "controls.csv")
    write_text(out / "controls.md", "\n".join([title(rows, "Controls"), *lines, ""]))
    draw(rows, parts, out)


def row(rows: Rows, cell: Cell) -> dict:
    """The columns of a cell; of a blind model also what it answers right, task by task, asked as it was trained."""
    columns = rows.row(cell)
    if cell.evaluated != "blind" or not cell.runs:
        return columns
    # `Rows.row` has no scores of vision tasks for it: with images it would be asked what it never learned.
    folders = [rows.folder(run) for run in cell.runs.values()]
    for task in rows.tasks["vision"]:
        right = partial(scores.average, chance={task: 0.0})
        columns |= interval(task, rows.estimate(folders, VISION, right, condition="removed"))
    return columns


def section(rows: Rows, part: pd.DataFrame) -> list[str]:
    """A control's rows for reading."""
    if not len(part):
        return ["Not run."]
    if part["control"].iloc[0] == "blind":
        tasks = rows.tasks["vision"]
        blind = [[r["cell"], runs_of(r), *(score_text(r, task) for task in tasks)] for _, r in part.iterrows()]
        return markdown_table(["", "seeds", *tasks], blind)
    shown = [name for name in MEASURES if name in part and part[name].notna().any()]
    lines = [[r["cell"], runs_of(r), *(score_text(r, name) for name in shown)] for _, r in part.iterrows()]
    return markdown_table(["", "seeds", *(form_of(name)[0] for name in shown)], lines)


def draw(rows: Rows, parts: dict[str, pd.DataFrame], out: Path) -> None:
    """The two figures: scores by peak of the re-warmed branch, and text by branch point without images."""
    rewarm = made(parts["rewarm"])
    if len(rewarm):
        names = [f"{row['branch_percent']:g}%\n{row['cooldown_peak_lr']:.2g}" for _, row in rewarm.iterrows()]
        rewarm = rewarm.assign(branch=names)
    # As in the paper, the end of the text run stands apart: there is no rate left to continue.
    hollow = [] if not len(rewarm) else list(rewarm.loc[rewarm["branch_percent"] >= 100, "branch"])
    (out / "figures").mkdir(exist_ok=True)
    sweep_figure(
        rewarm,
        x="branch",
        x_label=axis_of("branch").label,
        title=TABLES["controls"].parts["rewarm"].title,
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
