"""Drawings of the study itself: the learning-rate schedules, from the code that training uses, and the pipeline."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import EngFormatter

from pipeline.reporting.figures import GREY, canvas, heading, save
from pipeline.reporting.job_settings import TableSettings
from pipeline.reporting.table_rows import Rows, write_table
from pipeline.training.schedule import Schedule

CURVE = 200  # points a curve
TEXT, IMAGES, TUNING, RESULTS = "#c6dbef", "#fdd0a2", "#c7e9c0", "#dadaeb"


def make(rows: Rows, out: Path) -> None:
    curves = schedule_curves(rows.settings)
    write_table(curves, out / "figures/schedules.csv")
    schedules_figure(curves, out / "figures/schedules.png")
    for ending in ("svg", "png"):
        pipeline_figure(rows.settings, out / f"figures/pipeline.{ending}")


def schedule_curves(settings: TableSettings) -> pd.DataFrame:
    """branch ("text run", "80%", ...), tokens (of text run and cooldown together) and learning_rate."""
    a_step = settings.tokens_a_step
    parts = [curve("text run", Schedule(**settings.main), 0, a_step["main"])]
    branches = sorted(settings.branches.items(), key=lambda branch: (branch[1]["step"], branch[0]))
    for name, branch in branches:
        schedule = Schedule(**{key: value for key, value in branch.items() if key != "step"})
        parts.append(curve(name, schedule, branch["step"] * a_step["main"], a_step["cooldown"]))
    return pd.concat(parts, ignore_index=True)


def curve(name: str, schedule: Schedule, start: int, tokens_a_step: int) -> pd.DataFrame:
    # A curve needs no more points than the eye sees, and the CSV stays small.
    steps = np.unique(np.linspace(0, schedule.steps - 1, CURVE).round().astype(int))
    rates = [schedule.rate(int(step)) for step in steps]
    return pd.DataFrame({"branch": name, "tokens": start + steps * tokens_a_step, "learning_rate": rates})


def schedules_figure(curves: pd.DataFrame, file: Path) -> None:
    """The study's Figure 3: the text run's rate, and what each branch makes of it."""
    names = [name for name in curves["branch"].unique() if name != "text run"]
    figure, ((axis,),) = canvas(8, max(3.8, 1.2 + 0.19 * len(names)))  # as high as its legend
    colours = matplotlib.colormaps["viridis"]
    for name, part in curves.groupby("branch", sort=False):
        if name == "text run":
            axis.plot(part["tokens"], part["learning_rate"], color=GREY, linewidth=2, label="text run")
            continue
        rewarmed = part["learning_rate"].iloc[0] < part["learning_rate"].max()
        colour = colours(names.index(name) / max(len(names), 2))
        label = f"branch at {name}" + (" (re-warmed)" if rewarmed and "re-warmed" not in name else "")
        style = "--" if rewarmed else "-"
        axis.plot(part["tokens"], part["learning_rate"], style, color=colour, linewidth=1.6, label=label)
        first = part.iloc[0]
        axis.plot(
            first["tokens"],
            first["learning_rate"],
            "o",
            color=colour,
            mfc="white" if rewarmed else colour,
            markersize=5,
        )
    axis.set(xlabel="tokens seen, text run and cooldown", ylabel="learning rate")
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axis.set_ylim(0, 1.05 * curves["learning_rate"].max())
    heading(figure, "A branch continues the text run's rate; only the two ends are warmed up")
    axis.spines[["top", "right"]].set_visible(False)
    save(figure, file)


def pipeline_figure(settings: TableSettings, file: Path) -> None:
    """What is trained from what, as a picture, with the number of jobs of each kind."""
    counts = settings.counts
    figure, ((axis,),) = canvas(9.5, 4.2)
    axis.set(xlim=(0, 100), ylim=(0, 44))
    axis.set_axis_off()
    box(axis, 4, 33, 72, 6, TEXT, f"text pre-training   ({counts.get('pretrain', 0)} states)")
    axis.annotate("", (80, 36), (76, 36), arrowprops={"arrowstyle": "->", "color": GREY})
    axis.text(81, 36, "100% of the\ntext tokens", va="center", fontsize=8, color="0.3")
    # A re-warmed control leaves the text run where its branch does: one mark is enough.
    middle = [name for name in settings.branches if "," not in name]
    for name in middle:
        x = 4 + 0.72 * float(name.rstrip("%"))
        axis.plot([x], [33], "o", color="black", markersize=5)
        axis.text(x + 0.8, 30.3, name, fontsize=8)
        arrow(axis, (x, 32.6), (x, 27.2))
    box(
        axis,
        1,
        20.5,
        82,
        6.5,
        IMAGES,
        f"cooldown: text and images, the learning rate continued   ({counts.get('cooldown', 0)} branches)",
    )
    arrow(axis, (42, 20.3), (42, 16.7))
    box(axis, 12, 11, 60, 5.5, TUNING, f"fine-tuning on visual instructions   ({counts.get('finetune', 0)} models)")
    arrow(axis, (58.5, 10.8), (58.5, 7.2))
    box(axis, 45, 1.5, 27, 5.5, RESULTS, f"evaluation   ({counts.get('evaluate', 0)} states)")
    arrow(axis, (44.8, 4.2), (39.4, 4.2))
    box(axis, 12, 1.5, 27, 5.5, RESULTS, f"tables, figures, claims   ({counts.get('tables', 0)})")
    arrow(axis, (83.2, 23.7), (86, 23.7), (86, 4.2), (72.3, 4.2))
    axis.text(86.8, 13, "states before\nfine-tuning", fontsize=8, color="0.3", va="center")
    save(figure, file)


def box(axis: Axes, x: float, y: float, width: float, height: float, colour: str, text: str) -> None:
    axis.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.2", fc=colour, ec=GREY, linewidth=0.8))
    axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=10)


def arrow(axis: Axes, *corners: tuple[float, float]) -> None:
    """An arrow along straight pieces."""
    for start, end in zip(corners[:-2], corners[1:-1]):
        axis.plot(*zip(start, end), color=GREY, linewidth=1)
    axis.add_patch(FancyArrowPatch(corners[-2], corners[-1], arrowstyle="->", mutation_scale=10, color=GREY))
