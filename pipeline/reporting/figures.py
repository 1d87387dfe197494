"""Figures that a person understands without the paper. Drawn off-screen; equal data give equal files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.reporting.rows import made

plt.rcParams["svg.hashsalt"] = "study"  # the names inside an SVG would be random
COLOUR, GREY = "tab:blue", "0.4"
PERCENT = ("image_fraction", "instruction_share")  # fractions that are drawn in per cent
PANELS = {  # column -> label and factor
    "vision_average": ("vision average (% correct)", 100.0),
    "text_stable": ("text stable score\n(accuracy minus chance, points)", 100.0),
    "bits_per_byte": ("held-out text, bits per byte\n(lower is better)", 1.0),
}


def save(figure: Figure, file: Path) -> None:
    """Write a figure without anything that differs from run to run."""
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None, "Creator": None} if file.suffix == ".svg" else {"Software": None}
    figure.savefig(file, dpi=130, metadata=metadata)
    plt.close(figure)


def tidy(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.06, y=0.15)


def points(
    axis: Axes, x: np.ndarray, rows: pd.DataFrame, score: str, factor: float, hollow: np.ndarray, joined: bool = True
) -> None:
    """Scores with their intervals at the places `x`; `hollow` ones stand apart and are not joined to the others."""
    values = factor * rows[score].to_numpy(float)
    if joined:
        axis.plot(x[~hollow], values[~hollow], color=COLOUR, linewidth=1.2)
    for number, place in enumerate(x):
        bars = None
        if f"{score}_low" in rows:
            low, high = (factor * rows[f"{score}_{end}"].iloc[number] for end in ("low", "high"))
            bars = (
                [[max(values[number] - low, 0)], [max(high - values[number], 0)]] if np.isfinite(low + high) else None
            )
        face = "white" if hollow[number] else COLOUR
        axis.errorbar(place, values[number], yerr=bars, fmt="o", color=COLOUR, mfc=face, capsize=3)


def timing_figure(rows: pd.DataFrame, text: pd.DataFrame, file: Path) -> None:
    """The study's Figure 4: scores by branch point with 95% intervals; the 100% branch hollow, as in the paper.

    rows: a row a branch point; text: a row a state of the text run.
    """
    title = "When should a language model first see images?"
    rows, text = made(rows), made(text)
    if not len(rows) or not len(text):
        return notice(f"{title}\nits runs failed", file)
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    x = rows["branch_percent"].to_numpy(float)
    panels = {"vision_stable": ("vision stable score\n(accuracy minus chance, points)", 100.0)} | PANELS
    del panels["vision_average"]
    for axis, (score, (label, factor)) in zip(axes, panels.items()):
        points(axis, x, rows, score, factor, x >= 100)
        axis.set(xlabel="text run before images come in (%)", ylabel=label)
        tidy(axis)
    prior = 100 * (rows["vision_stable"] - rows["vision_gain"]).iloc[0]
    if np.isfinite(prior):
        axes[0].axhline(prior, color=GREY, linestyle="--", linewidth=1)
        place = (0, prior)
        axes[0].annotate("answering without looking", place, xytext=(0, 3), textcoords="offset points", color="0.3")
    axes[1].axhline(100 * text["text_stable"].iloc[-1], color=GREY, linestyle=":", linewidth=1)
    axes[2].plot(text["branch_percent"], text["bits_per_byte"], color=GREY, linestyle=":", label="the text run itself")
    axes[2].legend(frameon=False)
    figure.suptitle(f"{title}  ({covered(rows)}; hollow: at the end, where the rate is warmed up again)", fontsize=10)
    return save(figure, file)


def sweep_figure(
    rows: pd.DataFrame, x: str, x_label: str, title: str, file: Path, hollow: Collection[object] = ()
) -> None:
    """Scores by the value of a setting, with 95% intervals: the study's Figures 5 to 8 and its controls.

    rows: a row a cell, with the setting in column `x` (words stand apart, numbers are joined) and the columns of
    `PANELS` that it has, in fractions. Without rows the figure says that the experiment was not run.
    """
    rows = made(rows)
    shown = {score: form for score, form in PANELS.items() if score in rows and rows[score].notna().any()}
    if not shown:
        return notice(f"{title}\nnot run", file)
    numeric = pd.api.types.is_numeric_dtype(rows[x])
    rows = rows.sort_values(x) if numeric else rows
    places = rows[x].to_numpy(float) * (100 if x in PERCENT else 1) if numeric else np.arange(len(rows), dtype=float)
    figure, axes = plt.subplots(1, len(shown), figsize=(3.7 * len(shown), 3.8), layout="constrained", squeeze=False)
    for axis, (score, (label, factor)) in zip(axes[0], shown.items()):
        points(axis, places, rows, score, factor, rows[x].isin(list(hollow)).to_numpy(), joined=numeric)
        axis.set(xlabel=x_label, ylabel=label)
        axis.set_xticks(places, [f"{place:g}" for place in places] if numeric else rows[x])
        if not numeric:
            axis.tick_params(axis="x", labelsize=8)
            axis.set_xlim(-0.5, len(rows) - 0.5)
        tidy(axis)
    if "language_prior" in rows and "vision_average" in shown and rows["language_prior"].notna().any():
        prior = 100 * rows["language_prior"].dropna().iloc[0]
        axes[0][0].axhline(prior, color=GREY, linestyle="--", linewidth=1)
        place = (axes[0][0].get_xlim()[0], prior)
        axes[0][0].annotate(
            "answering without looking", place, xytext=(4, 3), textcoords="offset points", color="0.3", fontsize=8
        )
    figure.suptitle(f"{title}  ({covered(rows)})", fontsize=10)
    return save(figure, file)


def notice(text: str, file: Path) -> None:
    """A figure that says why there is none."""
    figure, axis = plt.subplots(figsize=(5, 1.6), layout="constrained")
    axis.text(0.5, 0.5, text, ha="center", va="center")
    axis.set_axis_off()
    save(figure, file)


def covered(rows: pd.DataFrame) -> str:
    """What a figure's bars are."""
    seeds = int(rows["seeds"].min()) if "seeds" in rows else 1
    return "bars: 95% over the questions asked, " + ("one seed" if seeds == 1 else f"and {seeds} seeds or more")
