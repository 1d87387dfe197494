"""Signal and noise of every measure: how far models differ in it, beside how far runs of one model do.

signal.csv has a row an experiment, state and measure, and below a measure of several tasks a row a task. Signal is the
range of the models' means over seeds, noise the standard deviation between the seeds of one model, pooled over models. The
range of the means grows with their noise too: `ratio_without_signal` is what the ratio would be if all models were equal.

Source: Heineman et al. 2025, Signal and Noise (their dispersion of models over their scatter between checkpoints; here
between seeds)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.common.files import write_text
from pipeline.reporting import scores
from pipeline.reporting.experiment_tables import title
from pipeline.reporting.measures import MEASURES, Measure
from pipeline.reporting.table_list import TABLES
from pipeline.reporting.table_rows import Cell, Rows, markdown_table, write_table
from pipeline.statistics.estimates import range_of_equals, spread_interval

COLUMNS = ["experiment", "state", "measure", "task", "unit", "cells", "seeds", "signal", "noise", "noise_low"]
COLUMNS += ["noise_high", "ratio", "ratio_without_signal"]


def make(rows: Rows, out: Path) -> None:
    """signal.csv and signal.md; without repeats they say that there are none."""
    experiments = dict.fromkeys(name for row in rows.told.rows for name in row["experiments"])
    found = pd.DataFrame([line for name in experiments for line in lines_of(rows, name)], columns=COLUMNS)
    write_table(found, out / "signal.csv")
    write_text(out / "signal.md", markdown(rows, found))


def lines_of(rows: Rows, experiment: str) -> Iterator[dict]:
    """The rows of an experiment: of each state that at least two of its cells were evaluated in, with repeats."""
    for state in ("model", "cooldown"):
        cells = [cell for cell in rows.cells(experiment, state) if len(cell.runs) > 1]
        for name, measure in MEASURES.items():
            if len(cells) > 1 and measure.in_claims and all(measured(rows, cell, measure) for cell in cells):
                yield from ratios(rows, cells, name, {"experiment": experiment, "state": state})


def measured(rows: Rows, cell: Cell, measure: Measure) -> bool:
    """Whether all runs of a cell were asked for a measure."""
    return all(scores.was_asked(rows.folder(run), measure, rows.tasks) for run in cell.runs.values())


def ratios(rows: Rows, cells: list[Cell], name: str, about: dict) -> Iterator[dict]:
    """The rows of one measure: of its average, and of its tasks where it has several."""
    measure = MEASURES[name]
    runs = [[scores.items(rows.folder(run), name, "normal", rows.tasks) for run in c.runs.values()] for c in cells]
    tasks = [[run.groupby("group")["value"].mean() for run in cell] for cell in runs]
    parts = list(tasks[0][0].index)
    for task in ("", *(parts if len(parts) > 1 else ())):
        values = [[measure.factor * float(run[task] if task else run.mean()) for run in cell] for cell in tasks]
        yield about | {"measure": name, "task": task, "unit": measure.unit} | signal_and_noise(values)


def signal_and_noise(values: list[list[float]]) -> dict:
    """Signal, noise and their ratio from every cell's runs."""
    df = sum(len(cell) - 1 for cell in values)
    signal = float(np.ptp([np.mean(cell) for cell in values]))
    noise = math.sqrt(sum((len(cell) - 1) * np.var(cell, ddof=1) for cell in values) / df)
    low, high = spread_interval(noise, df)
    seeds = len(values) / sum(1 / len(cell) for cell in values)
    return {
        "cells": len(values),
        "seeds": min(map(len, values)),
        "signal": signal,
        "noise": noise,
        "noise_low": low,
        "noise_high": high,
        "ratio": signal / noise if noise else math.nan,
        "ratio_without_signal": range_of_equals(len(values)) / math.sqrt(seeds),
    }


def markdown(rows: Rows, found: pd.DataFrame) -> str:
    """The table for reading, the averages of measures alone."""
    lines = [
        title(rows, TABLES["signal"].title),
        "",
        "Signal: the range of the models' means over seeds. Noise: the standard deviation between runs of one model that",
        "differ in their seed, with its 95% interval. Last column: the ratio that models would have which are all the same.",
        "`signal.csv` has every task too.",
        "",
    ]
    if not len(found):
        return "\n".join([*lines, "No experiment here has several seeds of two models or more.", ""])
    shown = found[found["task"] == ""]
    header = ["experiment", "state", "measure", "models", "seeds", "signal", "noise", "ratio", "ratio of equal models"]
    cells = [
        [
            row["experiment"].replace("_", " "),
            row["state"],
            f"{MEASURES[row['measure']].title} ({row['unit']})",
            str(row["cells"]),
            str(row["seeds"]),
            f"{row['signal']:.3g}",
            f"{row['noise']:.2g} ({row['noise_low']:.2g} to {row['noise_high']:.2g})",
            f"{row['ratio']:.1f}",
            f"{row['ratio_without_signal']:.1f}",
        ]
        for _, row in shown.iterrows()
    ]
    return "\n".join([*lines, *markdown_table(header, cells), ""])
