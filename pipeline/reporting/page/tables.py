"""The report's tables, for reading: every number with its link."""

from __future__ import annotations

from pipeline.reporting.measures import AFTER_COOLDOWN, MEASURES
from pipeline.reporting.page.forms import (
    Grid,
    Row,
    Value,
    big,
    number_in,
    shown,
    title_of,
)
from pipeline.reporting.page.results import Results
from pipeline.reporting.table_list import TABLES, Sheet, both, key_words, number_of


def all_grids(results: Results) -> list[Grid]:
    """The tables, for reading, in the order of their list; experiments of one's own come after the paper's."""
    made = results.settings.tables  # kept results may be older than a table
    sheets = [(name, sheet) for name, table in TABLES.items() for sheet in table.shown(name)]
    found = [grid_of(results, name, sheet) for name, sheet in sheets if f"{sheet.name}.csv" in made.get(name, ())]
    own = [Sheet(f"experiments/{name}", told["says"], tuple(told["vary"])) for name, told in results.own.items()]
    return found + [score_grid(results, sheet) for sheet in own]


def grid_of(results: Results, name: str, sheet: Sheet) -> Grid:
    """A CSV of a table in the form that the table's row asks for."""
    if sheet.across:
        return pivot_grid(results, sheet)
    if TABLES[name].counts:
        return count_grid(results, name, sheet)
    return score_grid(results, sheet, number_of(name), TABLES[name].cooldown_columns)


def score_grid(results: Results, sheet: Sheet, number: str = "", cooldown_columns: bool = False) -> Grid:
    """A row a row of the table, a column a measure; every number with its link."""
    rows = results.read(f"{sheet.name}.csv")
    measures = [c for c in (*MEASURES, *results.tasks["vision"], *results.tasks["text"]) if any(r.get(c) for r in rows)]
    if cooldown_columns:
        measures += AFTER_COOLDOWN
    if "row" in sheet.labels:
        rows = [row | {"row": state_words(row)} for row in rows]
    header = [*(key_words(label).replace("row", "") for label in sheet.labels), *map(title_of, measures), "seeds"]
    lines = [
        [
            *(Value(shown(row.get(label, "")).replace("text_only", "text only")) for label in sheet.labels),
            *(results.value(sheet.name, row, measure) for measure in measures),
            Value(shown(row.get("seeds", "")) if row.get("status", "ok") in ("ok", "") else row["status"]),
        ]
        for row in rows
    ]
    title = f"Table {number}. {sheet.title}" if number else sheet.title
    return Grid(sheet.name, title, header, lines, both(sheet.name), sheet.note)


def state_words(row: Row) -> str:
    """What a row of table 1 is about: a model, or a state of the text run."""
    kinds = {"text only": "text run at", "vlm": "images from"}
    return f"{kinds[row['model']]} {number_in(row, 'branch_percent'):g}%"


def count_grid(results: Results, name: str, sheet: Sheet) -> Grid:
    """A table without scores: what its rows take."""
    counts, (_, *others) = TABLES[name].counts, sheet.labels
    lines = [
        [
            *(Value(row[label]) for label in sheet.labels),
            *(Value(big(number_in(row, c)), "", results.link(name, row, c)) for c in counts),
        ]
        for row in results.read(f"{name}.csv")
    ]
    header = ["", *others, *counts.values()]
    return Grid(name, f"Table {number_of(name)}. {sheet.title}", header, lines, both(name), sheet.note)


def pivot_grid(results: Results, sheet: Sheet) -> Grid:
    """A table of one score with a row a value of one column and a column a value of another."""
    rows, (down, *_) = results.read(f"{sheet.name}.csv"), sheet.labels
    if down == "kind":
        # Tasks share names of kinds, and a kind of one task is no kind of another.
        rows = [row | {"kind": f"{row['task']}: {row['kind']}".replace("_", " ")} for row in rows]
    columns = list(dict.fromkeys(row[sheet.across] for row in rows))
    lines = []
    for name in dict.fromkeys(row[down] for row in rows):
        found = {row[sheet.across]: row for row in rows if row[down] == name}
        values = [results.value(sheet.name, found[c], "score") if c in found else Value("") for c in columns]
        lines.append([Value(name), *values])
    header = [down.replace("kind", "question type"), *columns]
    return Grid(sheet.name, sheet.title, header, lines, both(sheet.name))


def paper_grid(results: Results) -> Grid:
    """The paper's figures beside ours."""
    lines = []
    for row in results.read("comparison.csv"):
        ours = [number_in(row, key) for key in ("ours", "ours_low", "ours_high", "delta")]
        # Where nothing ran, the cell says so in place of our value.
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
    return Grid("comparison", TABLES["comparison"].title, header, lines, both("comparison"), note)
