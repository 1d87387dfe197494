"""The table and the figure of an experiment that is none of the paper's: a row a model, or a run where seeds are varied.

What it varies, and its title, are of params.yaml: no code knows its name.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pipeline.reporting.controls import row
from pipeline.reporting.experiment_tables import write
from pipeline.reporting.figures import sweep_figure
from pipeline.reporting.measures import BEFORE_TUNING, PREFIX, VISION
from pipeline.reporting.table_list import axis_of
from pipeline.reporting.table_rows import Cell, Rows, differing, interval, plain, setting_names


def make(rows: Rows, out: Path) -> None:
    """experiments/NAME.csv, .md and .png."""
    name, told = f"experiments/{rows.settings.make}", rows.settings.experiment
    varied = told["vary"]
    found = table(rows, told["evaluated"], varied)
    write(rows, out, name, plain(told["says"]), found, varied)
    if not len(found):
        found = pd.DataFrame([dict.fromkeys(varied) | {"status": "not_run"}])
    x, points = along(found, varied)
    lines = differing(points[varied].to_dict("records"), but=x)
    file = out / f"{name}.png"
    sweep_figure(points, x=x, x_label=axis_of(x).label, title=told["says"], file=file, lines=lines)


def table(rows: Rows, evaluated: str, varied: list[str]) -> pd.DataFrame:
    """The experiment's rows, with what their models had before fine-tuning where that is evaluated too."""
    name = rows.settings.make
    # An experiment on the state after the cooldown has that state as its rows already.
    states = {} if evaluated == "cooldown" else dict(parts(rows, name, "cooldown", varied))
    found = []
    for key, cell in parts(rows, name, evaluated, varied):
        columns = columns_of(rows, cell) | dict(zip(varied, key))
        if key in states:
            before = rows.row(states[key])
            columns |= {f"{PREFIX}{score}": before.get(score) for score in BEFORE_TUNING}
        found.append(columns)
    return pd.DataFrame(found)


def parts(rows: Rows, name: str, evaluated: str, varied: list[str]) -> list[tuple[tuple, Cell]]:
    """The cells of one state by the values of what is varied; each seed apart if seeds are."""
    found = []
    for cell in rows.cells(name, evaluated):
        # A cell is a model whatever its seed: its runs come apart only where seeds are the question.
        seeds = sorted(cell.runs | cell.failed) if "seed" in varied else [None]
        for seed in seeds:
            part = cell if seed is None else cell.of(seed)
            found.append((tuple((part.settings | {"seed": seed})[key] for key in varied), part))
    return found


def columns_of(rows: Rows, cell: Cell) -> dict:
    """All columns of a cell; a blind model's vision average is of what it answers without the image."""
    columns = row(rows, cell)
    if cell.evaluated == "blind" and cell.runs:
        folders = [rows.folder(run) for run in cell.runs.values()]
        average = rows.estimator("vision_average")
        columns |= interval("vision_average", rows.estimate(folders, VISION, average, condition="removed"))
    return columns


def along(found: pd.DataFrame, varied: list[str]) -> tuple[str, pd.DataFrame]:
    """The column that a figure is drawn along, and the rows with it: the first key of numbers, or all keys in words."""
    for key in varied:
        values = found[key]
        # A seed is a name, not a quantity, and pandas counts True among numbers.
        if key != "seed" and pd.api.types.is_numeric_dtype(values) and values.dtype != bool and values.notna().all():
            return key, found
    if len(varied) == 1:
        return varied[0], found.astype({varied[0]: str})
    names = [
        setting_names(dict(zip(varied, values))).replace(", ", "\n") for values in found[varied].itertuples(index=False)
    ]
    return "model", found.assign(model=names)
