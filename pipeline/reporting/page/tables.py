"""The report's tables, for reading: every number with its link."""

from __future__ import annotations

from pipeline.reporting.experiment_tables import QUESTIONS, SCORES, TABLES
from pipeline.reporting.page.forms import (
    Grid,
    Value,
    big,
    number_in,
    shown,
    title_of,
)
from pipeline.reporting.page.results import Results
from pipeline.reporting.table_rows import key_words


def all_grids(results: Results) -> list[Grid]:
    """The tables, for reading."""
    found = [score_grid(results, "table1", "When should images come in?", ["row"]), size_grid(results)]
    for table, experiment in TABLES.items():
        question, varied = QUESTIONS[experiment]
        if table == "table9":
            found.append(score_grid(results, "table8", "The recommended model after each phase", ["stage"]))
        found.append(score_grid(results, table, question, [*varied, *(["seed"] if table == "table7" else [])]))
    found.append(score_grid(results, "controls", "Controls that the paper lacks", ["control", "cell"]))
    found.append(pivot_grid(results, "conditions", "What the answers owe to the image", "cell", "condition"))
    found.append(pivot_grid(results, "question_types", "Scores by question type", "kind", "cell"))
    return found + [
        score_grid(results, f"experiments/{name}", told["says"], told["vary"]) for name, told in results.own.items()
    ]


def score_grid(results: Results, table: str, title: str, labels: list[str]) -> Grid:
    """A row a row of the table, a column a measure; every number with its link."""
    rows = results.read(f"{table}.csv")
    measures = [c for c in (*SCORES, *results.tasks["vision"], *results.tasks["text"]) if any(r.get(c) for r in rows)]
    if table == "table1":
        measures += ["cooldown_cider", "cooldown_text_stable", "cooldown_bits_per_byte"]
        kinds = {"text only": "text run at", "vlm": "images from"}
        rows = [row | {"row": f"{kinds[row['model']]} {number_in(row, 'branch_percent'):g}%"} for row in rows]
    header = [*(key_words(label).replace("row", "") for label in labels), *map(title_of, measures), "seeds"]
    lines = [
        [
            *(Value(shown(row.get(label, "")).replace("text_only", "text only")) for label in labels),
            *(results.value(table, row, measure) for measure in measures),
            Value(shown(row.get("seeds", "")) if row.get("status", "ok") in ("ok", "") else row["status"]),
        ]
        for row in rows
    ]
    number = f"Table {table.removeprefix('table')}. " if table.startswith("table") else ""
    note = "Blind: fine-tuned and asked without any image, the language prior." if table == "controls" else ""
    return Grid(table, number + title, header, lines, [f"{table}.csv", f"{table}.md"], note)


def size_grid(results: Results) -> Grid:
    """Table 2, which has no scores."""
    rows = results.read("table2.csv")
    columns = ["parameters", "text_run_tokens", "training_flops"]
    lines = [
        [
            Value(row["phase"]),
            Value(row["size"]),
            *(Value(big(number_in(row, c)), "", results.link("table2", row, c)) for c in columns),
        ]
        for row in rows
    ]
    header = ["", "size", "parameters", "text tokens", "training FLOPs"]
    note = "The frozen encoder's FLOPs are not in it."
    return Grid(
        "table2", "Table 2. The model sizes and what they take", header, lines, ["table2.csv", "table2.md"], note
    )


def pivot_grid(results: Results, table: str, title: str, down: str, across: str) -> Grid:
    """A table of one score with a row a value of one column and a column a value of another."""
    rows = results.read(f"{table}.csv")
    if down == "kind":
        rows = [row | {"kind": f"{row['task']}: {row['kind']}".replace("_", " ")} for row in rows]
    columns = list(dict.fromkeys(row[across] for row in rows))
    lines = []
    for name in dict.fromkeys(row[down] for row in rows):
        found = {row[across]: row for row in rows if row[down] == name}
        values = [results.value(table, found[c], "score") if c in found else Value("") for c in columns]
        lines.append([Value(name), *values])
    return Grid(table, title, [down.replace("kind", "question type"), *columns], lines, [f"{table}.csv", f"{table}.md"])


def paper_grid(results: Results) -> Grid:
    """The paper's figures beside ours."""
    lines = []
    for row in results.read("comparison.csv"):
        ours = [number_in(row, key) for key in ("ours", "ours_low", "ours_high", "delta")]
        ran = row["status"] == "ok"
        value = Value(row["status"].replace("not_run", "not run"))
        if ran:
            link = results.link("comparison", row, row["column"])
            value = Value(f"{ours[0]:.1f}", f"{ours[1]:.1f} to {ours[2]:.1f}", link)
        lines.append(
            [
                Value(f"{row['output']}: {row['setting']}"),
                Value(row["task"]),
                Value(f"{number_in(row, 'published'):.2f}"),
                value,
                Value(row["column"].replace("_", " ") if ran else ""),
                Value(f"{ours[3]:+.1f}" if ran else ""),
                Value(row["note"]),
            ]
        )
    header = ["the paper's row", "its task", "published", "ours", "our column", "difference", "note"]
    note = (
        "In points. Other data, other tasks and a model a thousand times smaller: levels are not comparable, only"
        " which of two rows is larger."
    )
    return Grid("comparison", "Beside the paper", header, lines, ["comparison.csv", "comparison.md"], note)
