"""Figures that a person understands without the paper. Drawn off-screen; equal data give equal files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import text_to_path

from pipeline.reporting.measures import DRAWN, MEASURES
from pipeline.reporting.table_list import axis_of
from pipeline.reporting.table_rows import covered, made, setting_names

plt.rcParams["svg.hashsalt"] = "study"  # the names inside an SVG would be random
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:red", "tab:brown", "tab:pink", "tab:olive")
COLOUR, GREY = COLOURS[0], "0.4"
AIR = 0.1  # inches around every panel
LONGEST_LINE = 400  # signs; more than any figure has room for


def canvas(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, np.ndarray]:
    """An empty figure in inches, and its panels [rows, columns]; all that is written beside a panel stays inside."""
    layout = ConstrainedLayoutEngine(w_pad=AIR, h_pad=AIR)
    return plt.subplots(rows, columns, figsize=(width, height), layout=layout, squeeze=False)


def heading(figure: Figure, *lines: str) -> None:
    """A figure's title, each of its lines broken where the figure ends."""
    width = figure.get_figwidth() - 2 * AIR
    figure.suptitle("\n".join(fitted(line, width, 10) for line in lines), fontsize=10, parse_math=False)


def fitted(text: str, width: float, size: float, most: int = 99) -> str:
    """Text in lines of at most `width` inches, at most so many; what is left over is "…".

    Spaces of any kind are where a line may end; a word that is wider is cut. Signs that cannot be drawn become "\ufffd".
    """
    if len(text) > most * LONGEST_LINE:  # the time to measure a line grows with the square of its length
        text = f"{text[: most * LONGEST_LINE]}…"

    def wide(line: str) -> bool:
        return text_to_path.get_text_width_height_descent(line, FontProperties(size=size), False)[0] > 72 * width

    lines, line = [], ""
    words = "".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in text).split()
    for word in words:
        longer = f"{line} {word}".strip()
        if not wide(longer):
            line = longer
            continue
        lines += [line] if line else []
        while len(word) > 1 and wide(word) and len(lines) <= most:
            end = next((n for n in range(2, len(word)) if wide(word[: n + 1])), len(word) - 1)
            lines, word = [*lines, word[:end]], word[end:]
        line = word
        if len(lines) > most:
            break
    lines += [line] if line else []
    return "\n".join(lines if len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1][:-2]}…"])


def save(figure: Figure, file: Path) -> None:
    """Write a figure without anything that differs from run to run."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # A date or a version inside would give other bytes with every run.
    metadata = {"Date": None, "Creator": None} if file.suffix == ".svg" else {"Software": None}
    figure.savefig(file, dpi=130, metadata=metadata)
    plt.close(figure)


def tidy(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.06, y=0.15)


def points(
    axis: Axes,
    x: np.ndarray,
    rows: pd.DataFrame,
    score: str,
    factor: float,
    hollow: np.ndarray,
    joined: bool = True,
    colour: str = COLOUR,
    label: str = "",
) -> None:
    """Scores with their intervals at the places `x`; `hollow` ones stand apart and are not joined to the others."""
    values = factor * rows[score].to_numpy(float)
    if joined:
        axis.plot(x[~hollow], values[~hollow], color=colour, linewidth=1.2, label=label)
    for number, place in enumerate(x):
        bars = None
        if f"{score}_low" in rows:
            low, high = (factor * rows[f"{score}_{end}"].iloc[number] for end in ("low", "high"))
            bars = (
                [[max(values[number] - low, 0)], [max(high - values[number], 0)]] if np.isfinite(low + high) else None
            )
        face = "white" if hollow[number] else colour
        axis.errorbar(place, values[number], yerr=bars, fmt="o", color=colour, mfc=face, capsize=3)


TIMING = ("vision_stable", "looking_bits", "text_stable", "bits_per_byte")


def timing_figure(rows: pd.DataFrame, runs: pd.DataFrame, text: pd.DataFrame, contrast: str, file: Path) -> None:
    """The study's Figure 4: scores by branch point, a dot a run, with means and 95% intervals.

    rows: a row a branch point; runs: a row a branch point and seed; text: a row a state of the text run. The 100% branch is
    hollow, as in the paper. contrast: what the runs say of the paper's finding, for the title.
    """
    title = "When should a language model first see images?"
    rows, text = made(rows), made(text)
    if not len(rows) or not len(text):
        return notice([title, "its runs failed"], file)
    shown = [score for score in TIMING if score in rows and rows[score].notna().any()]
    figure, ((*panels,),) = canvas(3.7 * len(shown), 3.8, columns=len(shown))
    axes = dict(zip(shown, panels))
    x = rows["branch_percent"].to_numpy(float)
    for score, axis in axes.items():
        points(axis, x, rows, score, MEASURES[score].factor, x >= 100)
        # The mean of one run is that run.
        several = runs.groupby("branch_percent").filter(lambda same: len(same) > 1) if len(runs) else runs
        if len(several):
            values = MEASURES[score].factor * several[score].to_numpy(float)
            axis.plot(several["branch_percent"] + 2.5, values, ".", color=COLOURS[1], markersize=5)
        axis.set(xlabel=axis_of("branch_percent").label, ylabel=MEASURES[score].axis)
        tidy(axis)
    prior = 100 * (rows["vision_stable"] - rows["vision_gain"]).iloc[0]
    if np.isfinite(prior):
        axes["vision_stable"].axhline(prior, color=GREY, linestyle="--", linewidth=1)
        style = {"xytext": (0, 3), "textcoords": "offset points", "color": "0.3"}
        axes["vision_stable"].annotate("answering without looking", (0, prior), **style)
    axes["text_stable"].axhline(100 * text["text_stable"].iloc[-1], color=GREY, linestyle=":", linewidth=1)
    held_out = axes["bits_per_byte"]
    held_out.plot(text["branch_percent"], text["bits_per_byte"], color=GREY, linestyle=":", label="the text run itself")
    held_out.legend(frameon=False)
    dots = "dots: runs; " if max(seeds_of(rows)) > 1 else ""
    bars = f"{dots}bars: {covered(seeds_of(rows))}; hollow: at the end, where the rate is warmed up again"
    heading(figure, f"{title} {contrast}".strip(), bars)
    return save(figure, file)


def sweep_figure(
    rows: pd.DataFrame,
    x: str,
    x_label: str,
    title: str,
    file: Path,
    hollow: Collection[object] = (),
    lines: Sequence[str] = (),
) -> None:
    """Scores by the value of a setting, with 95% intervals: the study's Figures 5 to 8 and its controls.

    rows: a row a cell, with the setting in column `x` (words stand apart, numbers are joined) and the columns of
    `DRAWN` that it has, in fractions. lines: further settings that differ between rows; numbers are joined only where
    all of these are the same. Without rows the figure says that the experiment was not run.
    """
    rows = made(rows)
    shown = {score: measure for score, measure in DRAWN.items() if score in rows and rows[score].notna().any()}
    if not shown:
        return notice([title, "not run"], file)
    numeric = pd.api.types.is_numeric_dtype(rows[x])
    # Numbers are joined from left to right; words keep the order of params.yaml.
    rows = rows.sort_values(x, kind="stable") if numeric else rows
    rows = rows.assign(place=rows[x] * axis_of(x).factor if numeric else np.arange(len(rows)) + 0.0)
    series = [("", rows)]
    if numeric and lines:
        parts = rows.groupby(list(lines), sort=True, dropna=False)
        series = [(setting_names(dict(zip(lines, values))), part) for values, part in parts]
    places = sorted(set(rows["place"]))
    width = max(3.7, 5 / len(shown))  # of a panel
    room = (width - 1) / len(places)  # of a value's name
    names = [f"{place:g}" for place in places] if numeric else [words(str(name), room) for name in rows[x]]
    height = 3.8 + 0.13 * max(name.count("\n") for name in names)
    figure, ((*axes,),) = canvas(width * len(shown), height, columns=len(shown))
    for axis, (score, measure) in zip(axes, shown.items()):
        for (name, part), colour in zip(series, cycle(COLOURS)):
            apart = part[x].isin(list(hollow)).to_numpy()
            points(axis, part["place"].to_numpy(float), part, score, measure.factor, apart, numeric, colour, name)
        axis.set(xlabel=fitted(x_label, width - 1, 10), ylabel=measure.axis)
        axis.set_xticks(places, names, parse_math=False)
        if not numeric:
            axis.tick_params(axis="x", labelsize=8)
            axis.set_xlim(-0.5, len(rows) - 0.5)
        tidy(axis)
    if len(series) > 1:
        axes[0].legend(frameon=False, fontsize=8)
    if "language_prior" in rows and "vision_average" in shown and rows["language_prior"].notna().any():
        prior = 100 * rows["language_prior"].dropna().iloc[0]
        axes[0].axhline(prior, color=GREY, linestyle="--", linewidth=1)
        place = (axes[0].get_xlim()[0], prior)
        axes[0].annotate(
            "answering without looking", place, xytext=(4, 3), textcoords="offset points", color="0.3", fontsize=8
        )
    heading(figure, title, f"bars: {covered(seeds_of(rows))}")
    return save(figure, file)


def seeds_of(rows: pd.DataFrame) -> list[float]:
    return list(rows["seeds"]) if "seeds" in rows else [1]


def words(name: str, width: float) -> str:
    """A value's name below its place, in lines of its own and of what fits."""
    return "\n".join(fitted(line, width, 8, 3) for line in name.split("\n"))


def notice(lines: Sequence[str], file: Path) -> None:
    """A figure that says why there is none."""
    figure, ((axis,),) = canvas(5, 1.6)
    text = "\n".join(fitted(line, 5 - 4 * AIR, 10) for line in lines)
    axis.text(0.5, 0.5, text, ha="center", va="center", parse_math=False)
    axis.set_axis_off()
    save(figure, file)
