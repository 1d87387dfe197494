"""Figures that a person understands without the paper. Drawn off-screen; equal data give equal files."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

PANELS = (
    ("vision_stable", "vision stable score\n(accuracy minus chance, points)"),
    ("text_stable", "text stable score\n(accuracy minus chance, points)"),
)


def timing_figure(points: pd.DataFrame, table: pd.DataFrame, file: Path) -> None:
    """The study's Figure 4: scores by branch point with 95% intervals; the 100% branch hollow, as in the paper."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    for axis, (score, label) in zip(axes, PANELS):
        draw(axis, points, score, 100.0)
        axis.set_ylabel(label)
    prior = 100 * (points["vision_stable"] - points["vision_gain"]).iloc[0]
    axes[0].axhline(prior, color="0.4", linestyle="--", linewidth=1)
    axes[0].annotate("answering without looking", (0, prior), xytext=(0, 3), textcoords="offset points", color="0.3")
    text = table[table["model"] == "text only"]
    axes[1].axhline(100 * text["text_stable"].iloc[-1], color="0.4", linestyle=":", linewidth=1)
    draw(axes[2], points, "bits_per_byte", 1.0)
    axes[2].plot(text["branch_percent"], text["bits_per_byte"], color="0.4", linestyle=":", label="the text run itself")
    axes[2].set_ylabel("held-out text, bits per byte\n(lower is better)")
    axes[2].legend(frameon=False)
    for axis in axes:
        axis.set_xlabel("text run before images come in (%)")
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(y=0.15)
    figure.suptitle("When should a language model first see images?")
    figure.savefig(file, dpi=130, metadata={"Software": None})
    plt.close(figure)


def draw(axis, points: pd.DataFrame, score: str, factor: float) -> None:
    """Points joined by a line, with intervals where there are any; the re-warmed 100% branch hollow and unjoined."""
    color = "tab:blue"
    joined = points[points["branch_percent"] < 100]
    axis.plot(joined["branch_percent"], factor * joined[score], color=color, linewidth=1.2)
    for _, row in points.iterrows():
        face = "white" if row["branch_percent"] >= 100 else color
        bars = None
        if f"{score}_low" in row:
            bars = [[factor * (row[score] - row[f"{score}_low"])], [factor * (row[f"{score}_high"] - row[score])]]
        axis.errorbar(row["branch_percent"], factor * row[score], yerr=bars, fmt="o", color=color, mfc=face, capsize=3)
