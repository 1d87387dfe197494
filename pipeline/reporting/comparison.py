"""The paper's figures beside ours. The scales are worlds apart: what can agree is which row is larger, not the level.

comparison.csv has a row a published figure: its value in points, the cell and column of this study that answer to it,
our value with its interval, the difference and a note. A figure that nothing here answers to, or whose model is not in
the study, is `not_run`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.common.files import write_text
from pipeline.reporting.table_rows import Rows, markdown_table, write_table

COLUMNS = [
    "output",
    "setting",
    "task",
    "published",
    "unit",
    "cell",
    "column",
    "ours",
    "ours_low",
    "ours_high",
    "delta",
    "status",
    "note",
]


def make(rows: Rows, out: Path) -> None:
    named = {figure["cell"] for figure in rows.settings.published}
    found = rows.table(cell for cell in rows.cells(evaluated="model") if cell.name in named)
    table = beside(rows, found)
    write_table(table, out / "comparison.csv")
    heading = f"# The paper's figures beside this study's (preset `{rows.settings.preset}`)"
    text = [heading, "", *comparison_lines(table)]
    write_text(out / "comparison.md", "\n".join(text))


def beside(rows: Rows, found: pd.DataFrame) -> pd.DataFrame:
    """The published figures of a table with our values from its rows."""
    ours = {row["cell"]: row for _, row in found.iterrows()} if "cell" in found else {}
    made = []
    for figure in rows.settings.published:
        row = ours.get(figure["cell"], {}) if figure["column"] else {}
        value: Any = row.get(figure["column"])
        run = value is not None and value == value
        # A failed run has a row without figures. Why it failed says more than `not_run`.
        failed = row["status"] if figure["column"] and len(row) and not row["seeds"] else None
        # The paper prints some scores as fractions; differences are taken in one unit.
        points = figure["value"] * (100 if figure["unit"] == "fraction" else 1)
        made.append(
            {
                **{key: figure[key] for key in ("output", "setting", "task", "cell", "column", "note")},
                "published": points,
                "unit": f"points (printed as a {figure['unit']})" if figure["unit"] == "fraction" else "points",
                "ours": 100 * value if run else None,
                "ours_low": 100 * row[f"{figure['column']}_low"] if run else None,
                "ours_high": 100 * row[f"{figure['column']}_high"] if run else None,
                "delta": 100 * value - points if run else None,
                "status": "ok" if run else failed or "not_run",
            }
        )
    return pd.DataFrame(made, columns=COLUMNS)


def comparison_lines(table: pd.DataFrame) -> list[str]:
    """The comparison as Markdown; nothing if the paper prints nothing here."""
    if not len(table):
        return []
    lines = [
        [
            row["output"],
            row["setting"],
            row["task"],
            f"{row['published']:.2f}",
            f"{row['ours']:.1f} ({row['ours_low']:.1f} to {row['ours_high']:.1f})"
            if row["status"] == "ok"
            else row["status"].replace("not_run", "not run"),
            row["column"].replace("_", " ") if row["status"] == "ok" else "",
            f"{row['delta']:+.1f}" if row["status"] == "ok" else "",
            row["note"],
        ]
        for _, row in table.iterrows()
    ]
    return [
        "Beside the paper, in points. Other data, other tasks, a model a thousand times smaller: levels are not comparable,",
        "only which of two rows is larger.",
        "",
        *markdown_table(
            ["output", "setting", "published task", "published", "ours", "our column", "delta", "note"], lines
        ),
        "",
    ]
