"""Decision accuracy: how often one study ranks two models as another one does.

A cheap study is worth its time if it orders models as a dear one would. decisions.csv has a row an experiment and measure: of
the models that both studies have, how many of their pairs both put in the same order, by the means over seeds.

Source: Heineman et al. 2025, Signal and Noise (there between small and large models)
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pandas as pd

from pipeline.common.files import write_text
from pipeline.reporting.measures import MEASURES
from pipeline.reporting.table_list import TABLES
from pipeline.reporting.table_rows import markdown_table, write_table

COLUMNS = ["experiment", "measure", "models", "pairs", "ranked_alike", "share"]
ALL = "all experiments"
SHOWN = ("vision_average", "looking_bits", "text_stable", "bits_per_byte")


def make(one: Path, other: Path, names: tuple[str, str], out: Path) -> None:
    """decisions.csv and decisions.md in `out`, of two folders of results; names: what each is called."""
    found = pd.DataFrame(list(rows_of(one, other)), columns=COLUMNS)
    sums = found.groupby("measure", sort=False)[["models", "pairs", "ranked_alike"]].sum().reset_index()
    found = pd.concat([sums.assign(experiment=ALL), found], ignore_index=True)
    found["share"] = found["ranked_alike"] / found["pairs"]
    write_table(found[COLUMNS], out / "decisions.csv")
    write_text(out / "decisions.md", markdown(found, names))


def rows_of(one: Path, other: Path) -> Iterator[dict]:
    """A row an experiment and measure, of the models that both folders have numbers of."""
    for experiment, table in TABLES.items():
        for file in (name for name in table.files if name.endswith(".csv")):
            cells = [models_in(folder / file) for folder in (one, other)]
            both = cells[0].index.intersection(cells[1].index)
            for measure in (name for name in SHOWN if all(name in found for found in cells)):
                scores = [found.loc[both, measure] for found in cells]
                known = both[(scores[0].notna() & scores[1].notna()).to_numpy()]
                pairs = list(combinations(known, 2))
                alike = sum((scores[0][a] > scores[0][b]) == (scores[1][a] > scores[1][b]) for a, b in pairs)
                if pairs:
                    about = {"experiment": experiment, "measure": measure, "models": len(known)}
                    yield about | {"pairs": len(pairs), "ranked_alike": alike}


def models_in(file: Path) -> pd.DataFrame:
    """The models of a table of an experiment by their cells; none of a table of something else."""
    table = pd.read_csv(file) if file.exists() else pd.DataFrame()
    # Several controls stand in one table, and in others a model stands once a stage or a question type.
    if "cell" not in table or not table["cell"].dropna().is_unique or "control" in table or "stage" in table:
        return pd.DataFrame()
    return table.dropna(subset="cell").set_index("cell")


def markdown(found: pd.DataFrame, names: tuple[str, str]) -> str:
    """The table for reading."""
    lines = [
        f"# Decision accuracy: does `{names[1]}` rank models as `{names[0]}` does?",
        "",
        "Pairs of models of one experiment that both studies have, by the means over their seeds. Half would be ranked alike by",
        "chance.",
        "",
    ]
    cells = [
        [
            row["experiment"].replace("_", " "),
            MEASURES[row["measure"]].title,
            f"{row['models']:.0f}",
            f"{row['ranked_alike']:.0f} of {row['pairs']:.0f}",
            f"{100 * row['share']:.0f}%",
        ]
        for _, row in found.iterrows()
    ]
    return "\n".join(
        [*lines, *markdown_table(["experiment", "measure", "models", "pairs ranked alike", "share"], cells), ""]
    )
