"""What the answers owe to the image: scores with the image removed, averaged or swapped, and by question type.

Beside them measures.csv: what an evaluation measures beside the scores, means over seeds without intervals.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd

from pipeline.common.files import write_text
from pipeline.reporting import scores
from pipeline.reporting.experiment_tables import title
from pipeline.reporting.measures import CONDITIONS, VISION
from pipeline.reporting.table_list import TABLES
from pipeline.reporting.table_rows import (
    Cell,
    Rows,
    failed_lines,
    interval,
    made,
    markdown_table,
    plain,
    score_text,
    stable,
    write_table,
)


def make(rows: Rows, out: Path) -> None:
    cells = rows.cells(evaluated="model")
    by_condition = pd.DataFrame([row for cell in cells for row in condition_rows(rows, cell)])
    write_table(by_condition, out / "conditions.csv")
    by_type = pd.DataFrame([row for cell in cells for row in type_rows(rows, cell)])
    write_table(by_type, out / "question_types.csv")
    failed = failed_lines("cell", [cell.name for cell in cells], [cell.status for cell in cells])
    names = [cell.name for cell in cells]
    titles = {sheet.name: sheet.title for sheet in TABLES["conditions"].sheets}
    write_text(
        out / "conditions.md",
        "\n".join(
            [
                title(rows, titles["conditions"]),
                "",
                "Vision average in percent with 95% intervals. Removed: the prompt alone. Mean: the mean of all images'",
                "features. Shuffled: another image of the same task and question type.",
                "",
                *markdown_table(["image", *names], pivot(by_condition, "condition", names)),
                "",
                *failed,
            ]
        ),
    )
    # For reading alone: tasks share names of kinds, which the CSV keeps in a column of their own.
    if "kind" in by_type:
        by_type["kind"] = by_type["task"] + ": " + by_type["kind"]
    write_text(
        out / "question_types.md",
        "\n".join(
            [
                title(rows, titles["question_types"]),
                "",
                "Percent correct with 95% intervals, with the image.",
                "",
                *markdown_table(["question type", "questions", *names], pivot(by_type, "kind", names, "questions")),
                "",
                *failed,
            ]
        ),
    )
    measures = pd.DataFrame([row for cell in cells for row in measure_rows(rows, cell)] or [{"status": "not_run"}])
    write_table(measures, out / "measures.csv")
    # Models are used with their images; the CSV has the other conditions too.
    shown = measures[measures["condition"].isin(["", "normal"])].copy() if "measure" in measures else measures
    if "measure" in shown:
        kinds = shown["kind"].map(lambda kind: f", {kind}" if kind else "")
        shown["measure"] = shown["task"] + kinds + ": " + shown["measure"]
    write_text(
        out / "measures.md",
        "\n".join(
            [
                title(rows, "Beside the scores"),
                "",
                "Percent, with the image; means over seeds. No stable score or average has them.",
                "",
                *markdown_table(["measure", "questions", *names], pivot(shown, "measure", names, "questions")),
                "",
                *failed,
            ]
        ),
    )


def measure_rows(rows: Rows, cell: Cell) -> list[dict]:
    """What a cell's evaluations measure beside the scores, where they measure anything."""
    if not cell.runs:
        return [without_figures(cell)]
    files = [rows.folder(run) / "measures.csv" for run in cell.runs.values()]
    if not all(file.exists() for file in files):
        return []
    found = pd.concat([scores.read_table(file) for file in files])
    means = found.groupby(["task", "condition", "kind", "measure"], sort=False)[["questions", "score"]].mean()
    return [
        {"cell": cell.name}
        | dict(zip(means.index.names, key))
        | {"questions": int(row["questions"]), "seeds": len(files), "score": row["score"]}
        for key, row in means.iterrows()
    ]


def condition_rows(rows: Rows, cell: Cell) -> list[dict]:
    """The vision average of a cell under every condition."""
    if not cell.runs:
        return [without_figures(cell) | {"condition": condition} for condition in CONDITIONS]
    zero = dict.fromkeys(stable(rows.tasks["vision"]), 0.0)
    folders = [rows.folder(run) for run in cell.runs.values()]
    return [
        {"cell": cell.name, "condition": condition, "seeds": len(folders)}
        | interval(
            "score",
            rows.estimate(folders, VISION, partial(scores.average, chance=zero), condition=condition),
        )
        for condition in CONDITIONS
    ]


def type_rows(rows: Rows, cell: Cell) -> list[dict]:
    """The score of a cell on every type of question of every task."""
    if not cell.runs:
        return [without_figures(cell)]
    folders = [rows.folder(run) for run in cell.runs.values()]
    # All seeds are asked the same questions, so one of them says how many there are of a kind.
    asked = scores.read_scores(folders[:1], VISION)
    kinds = asked[asked["condition"] == "normal"].groupby(["task", "kind"], sort=True).size()
    return [
        {"cell": cell.name, "task": task, "kind": kind, "questions": int(count), "seeds": len(folders)}
        | interval(
            "score",
            rows.estimate(
                folders,
                VISION,
                partial(scores.average, chance={task: 0.0}),
                condition="normal",
                task=task,
                kind=kind,
            ),
        )
        for (task, kind), count in kinds.items()
    ]


def without_figures(cell: Cell) -> dict:
    """The row of a cell whose runs failed."""
    return {"cell": cell.name, "seeds": 0, "status": cell.status}


def pivot(table: pd.DataFrame, key: str, names: list[str], *more: str) -> list[list[str]]:
    """A line a value of `key`, a column a cell; empty for a cell without figures."""
    lines = []
    for value in dict.fromkeys(made(table).get(key, [])):
        part = table[table[key] == value].set_index("cell")
        extra = [f"{part[column].iloc[0]:.0f}" for column in more]
        lines.append(
            [
                plain(value),
                *extra,
                *(score_text(part.loc[name] if name in part.index else {}, "score") for name in names),
            ]
        )
    return lines
