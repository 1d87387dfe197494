"""claims.md: the verdicts for reading, the paper's findings first."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from pipeline.reporting.experiment_tables import title
from pipeline.reporting.measures import measure_of
from pipeline.reporting.table_list import TABLES
from pipeline.reporting.table_rows import Rows, markdown_table, plain
from pipeline.statistics.verdicts import ALPHA, MIN_SEEDS, MIN_SPREAD_DF, POINTS, TRIVIAL, Unit

# What a verdict means, in the words of `pipeline/statistics/verdicts.py`; Markdown, for claims.md and the report.
RULES = (
    "A claim of a difference is **supported** if its 95% interval lies above 0, and **refuted** if the interval ends below"
    f" what is trivial: {100 * TRIVIAL:g} point, or a quarter of what is like 2 points in other units (configs/measures.yaml).",
    "A claim of vision or of text is judged by the primary measure, which was chosen before the test split was asked. What"
    " another measure says stands beside it, under its name, in a family of its own.",
    "A claim that a model is best is refuted by a wider interval: there are several others, one of which may seem better by"
    " chance.",
    "A claim that something is not worse names a margin: it is supported if the interval lies above minus the margin, and"
    " refuted if it ends below that.",
    "A claim that seeds agree is of a spread, which is never below 0: it is supported if the interval of the spread ends"
    " within the margin that the claim names, and refuted if it starts above it. What the examples alone make runs differ is"
    " taken off.",
    "A claim of several parts is supported if all of them are, and refuted if one of them is. Support also asks for Holm's p"
    f" within the claim's family of at most {ALPHA:g}.",
    f"**Not testable**: fewer than {MIN_SEEDS} shared seeds (for agreement: fewer than {MIN_SPREAD_DF} pairs of models), no side"
    " that beats answering without looking (for text: chance), or runs too few for an interval. What is none of these is"
    " **inconclusive**.",
)


def unit_of(metric: str) -> Unit:
    measure = measure_of(metric)
    return POINTS if measure.unit == POINTS.name else Unit(measure.unit, measure.factor, 3)


def markdown(rows: Rows, table: pd.DataFrame) -> str:
    """The claims for reading, the paper's first; a line a claim and one below it for each further part."""
    lines = [
        title(rows, TABLES["claims"].title),
        "",
        *(f"- {rule}" for rule in RULES),
        "",
        "Power: the chance to find an effect of the size given in brackets, the paper's or 2 points. Seeds: how many all the",
        "models have that a line compares, and how many 80% power would need. Where their text runs differ, text runs count.",
    ]
    for study in sorted({row["study"] for row in rows.settings.found}):
        lines += ["", f"**[`{study}`]({study}/claims.md) has more seeds.** What it found stands in the last column."]
    if not len(table):
        return "\n".join([*lines, "", "configs/claims.yaml has no claim.", ""])
    own = table["family"].where(table["beside"] == "", table["beside"].map(dict(zip(table["claim"], table["family"]))))
    for family, heading in (("primary", "The paper's findings"), ("control", "Controls that the paper lacks")):
        lines += ["", f"## {heading}", ""]
        part = table[own == family]
        header = ["claim", "verdict", "effect (95% interval)", "power", "seeds", "paper", "why"]
        cells = [cells_of(row, first) for row, first in with_first(part)]
        if rows.settings.found:
            header.append("found elsewhere")
            for line, (row, first) in zip(cells, with_first(part), strict=True):
                line.append(row["found_elsewhere"] if first else "")
        lines += markdown_table(header, cells)
    return "\n".join([*lines, ""])


def with_first(table: pd.DataFrame) -> Iterator[tuple[pd.Series, bool]]:
    """Every row, and whether it is the first of its claim."""
    seen = set()
    for _, row in table.iterrows():
        yield row, row["claim"] not in seen
        seen.add(row["claim"])


def why_of(row: pd.Series, best: str) -> str:
    """The reason, what may be best, what differs by count, and the claim's own note."""
    counts = f" Counted: {row['counts']}." if row["counts"] else ""
    return plain(row["reason"]) + best + counts + (f" {row['note']}" if row["note"] else "")


def claim_text(row: pd.Series) -> str:
    """A claim's name and sentence; of one beside another, what it is judged by."""
    return f"the same by {measure_of(row['metric']).title}" if row["beside"] else f"**{row['claim']}** {row['says']}"


def cells_of(row: pd.Series, first: bool) -> list[str]:
    effect = ""
    if row["effect"] == row["effect"]:
        unit = "" if row["unit"] == "points" else f" {row['unit']}"
        sign = "" if row["kind"] == "agreement" else "+"  # a spread has none
        digits = unit_of(row["metric"]).digits
        effect = f"{row['effect']:{sign}.{digits}f} ({row['low']:.{digits}f} to {row['high']:.{digits}f}){unit}"
        effect += "; examples alone" if row["interval_covers"] == "examples" else ""
    several = row["kind"] in ("all_of", "optimum", "trend")
    best = f" The best may be any of: {row['may_be_best']}." if first and row["may_be_best"] else ""
    power = f"{row['power']:.2f} [{row['power_at']:g}]" if row["power"] == row["power"] else ""
    needed = row["seeds_needed"]
    seeds = f"{row['seeds']}" + (f" (needs {needed:g})" if needed is not None and needed == needed else "")
    paper = (
        f"{row['published']:+g} {row['published_unit']}"
        if first and row["published"] == row["published"] and row["published"] is not None
        else ""
    )
    return [
        claim_text(row) if first else "",
        f"**{row['verdict']}**" if first else row["part_verdict"],
        (f"{row['compares']}: {effect}" if several else effect),
        power,
        seeds,
        paper,
        why_of(row, best) if first else "",
    ]
