"""How this study's proportions compare with the paper's: what a scaled model has to keep.

proportions.csv has a row a proportion, with the paper's value and that of the recipe's own model, from counts that were
realised: tokens, images, updates and rates as the jobs measured them. What a study has no count of is empty.
"""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from pipeline.common.files import write_text
from pipeline.reporting.experiment_tables import title
from pipeline.reporting.table_list import TABLES
from pipeline.reporting.table_rows import Rows, markdown_table, write_table

# The paper at 1.4B and 80%, with 10% of images and four epochs, from its text and its authors' scripts: 4.319e12 text tokens
# in steps of 256 x 2,048; a cooldown of 28.8e9; 625,000 conversations at 128 a step, some 2.6e9 tokens; images of 729 tokens
# with captions of some 60; rates of 2e-5 and 9.789e-4.
PAPER = {
    "text tokens a parameter": 3000.0,
    "cooldown tokens : text tokens": 0.0067,
    "fine-tuning tokens : text tokens": 0.0006,
    "fine-tuning tokens : image-text tokens of the cooldown": 0.9,
    "images of fine-tuning : of the cooldown": 0.7,
    "fine-tuning rate : first rate of the cooldown": 0.02,
    "passes over the captions": 1.0,
    "passes over the instructions": 4.0,
    "updates of the text run": 8.2e6,
    "updates of the cooldown": 55e3,
    "updates of fine-tuning": 20e3,
}
AT_MOST = {"passes over the captions"}  # sampled with replacement from far more than are read


def make(rows: Rows, out: Path) -> None:
    """proportions.csv and proportions.md."""
    found = realised(rows)
    table = pd.DataFrame(
        [
            {"proportion": name, "paper": value, "here": found.get(name, math.nan), "paper_is_at_most": name in AT_MOST}
            for name, value in PAPER.items()
        ]
    )
    write_table(table, out / "proportions.csv")
    lines = [
        [row["proportion"], f"{'at most ' if row['paper_is_at_most'] else ''}{row['paper']:,.5g}", shown(row["here"])]
        for _, row in table.iterrows()
    ]
    text = [
        title(rows, TABLES["proportions"].title),
        "",
        "The paper's model of 1.4B from 80%, and this study's recipe, from what its jobs counted.",
        "",
        *markdown_table(["", "the paper", "here"], lines),
        "",
    ]
    write_text(out / "proportions.md", "\n".join(text))


def shown(value: float) -> str:
    """A proportion for reading; nothing where it is not known."""
    return f"{value:,.3g}" if math.isfinite(value) else ""


def realised(rows: Rows) -> dict[str, float]:
    """The proportions of the recipe's model, from what each of its phases measured."""
    phases = ("pretrain", "cooldown", "finetune")
    run = next((run for cell in rows.cells(evaluated="model") for run in cell.runs.values()), "")
    text, cooldown, tuning = (rows.measured(f"{phase}/{run}") for phase in phases)
    recipe, states = rows.told.recipe, rows.told.text
    same = [name for name in states if all(states[name][key] == recipe[key] for key in ("size", "text_budget"))]
    end = max(same, key=lambda name: states[name]["percent"], default="")
    whole = rows.measured(f"pretrain/{end}") or text  # the text run to its end, not to the branch
    tokens = whole.get("tokens", {}).get("positions")
    images, tuned = cooldown.get("tokens", {}), tuning.get("tokens", {})
    told = (images.get("image") or 0) + (images.get("image_text") or 0)
    return {
        "text tokens a parameter": ratio(tokens, tuning.get("parameters")),
        "cooldown tokens : text tokens": ratio(images.get("positions"), tokens),
        "fine-tuning tokens : text tokens": ratio(tuned.get("positions"), tokens),
        "fine-tuning tokens : image-text tokens of the cooldown": ratio(tuned.get("positions"), told),
        "images of fine-tuning : of the cooldown": ratio(tuned.get("images"), images.get("images")),
        "fine-tuning rate : first rate of the cooldown": ratio(
            tuning.get("learning_rates", {}).get("peak"), cooldown.get("learning_rates", {}).get("first")
        ),
        "passes over the captions": ratio(images.get("images"), rows.measured("shards/captions").get("pieces")),
        "passes over the instructions": ratio(tuned.get("images"), rows.measured("shards/instructions").get("pieces")),
        "updates of the text run": ratio(whole.get("steps"), 1),
        "updates of the cooldown": ratio(cooldown.get("steps"), 1),
        "updates of fine-tuning": ratio(tuning.get("steps"), 1),
    }


def ratio(above: float | None, below: float | None) -> float:
    """A ratio; NaN where a count is missing or there is nothing to compare with."""
    return above / below if above is not None and below else math.nan
