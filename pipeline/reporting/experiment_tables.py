"""Tables and figures of one experiment each: a row a cell, the paper's figures beside ours where it has any."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pipeline.common.files import write_text
from pipeline.reporting.comparison import beside, comparison_lines
from pipeline.reporting.measures import BEFORE_TUNING, MEASURES, PREFIX, form_of
from pipeline.reporting.table_list import TABLES, axis_of, heading_of, key_words
from pipeline.reporting.table_rows import Rows, differing, markdown_table, runs_of, score_text, write_table


def table(rows: Rows, out: Path) -> None:
    """One of the paper's tables: tableN.csv and tableN.md."""
    name = rows.settings.make
    found = rows.table(rows.cells(evaluated="model"))
    write(rows, out, name, heading_of(name), found, list(TABLES[name].labels))


def stages(rows: Rows, out: Path) -> None:
    """Table 8: the recommended model after each phase."""
    states = rows.settings.text
    recipe = next((cell for cell in rows.cells(evaluated="model")), None)
    found = []
    for run in sorted(states, key=lambda run: states[run]["percent"]):
        # The recipe's model leaves the text run at its branch: later states are no phase of it.
        if recipe and states[run]["percent"] <= recipe.settings["branch_percent"] + 1e-9:
            found.append({"stage": f"text, {states[run]['percent']:g}%", "status": "ok"} | rows.text_state(run))
    for title, evaluated in (("cooldown", "cooldown"), ("fine-tuning", "model")):
        found += [{"stage": title} | rows.row(cell) for cell in rows.cells(evaluated=evaluated)]
    write(rows, out, "table8", heading_of("table8"), pd.DataFrame(found), list(TABLES["table8"].labels))


def sizes(rows: Rows, out: Path) -> None:
    """Table 2: the two model sizes and what their training takes."""
    found = []
    for run, state in rows.settings.text.items():
        failed = rows.failure(f"pretrain/{run}")
        found.append(
            {
                "phase": f"text run to {state['percent']:g}%",
                "size": state["size"],
                "text_budget": state["text_budget"],
                "status": f"failed: {failed}" if failed else "ok",
                **({} if failed else rows.cost(run)),
            }
        )
    for cell in rows.cells(evaluated="model"):
        found.append(
            {
                "phase": f"whole model ({cell.name})",
                **cell.settings,
                "status": cell.status,
                **(rows.cost(next(iter(cell.runs.values()))) if cell.runs else {}),
            }
        )
    table = pd.DataFrame(found)
    keep = ["phase", "size", "text_budget", "status", "parameters", "text_run_tokens", "training_flops"]
    write_table(table.reindex(columns=keep), out / "table2.csv")
    lines = [
        [
            str(r["phase"]),
            str(r.get("size", "")),
            *(
                [r["status"], "", ""]
                if r["status"].startswith("failed")
                else [f"{r['parameters']:,}", f"{r['text_run_tokens']:,}", f"{r['training_flops']:.2e}"]
            ),
        ]
        for r in found
    ]
    header = ["", "size", "parameters", "text tokens", "training FLOPs (the frozen encoder's are not in it)"]
    text = [title(rows, heading_of("table2")), "", *markdown_table(header, lines), ""]
    write_text(out / "table2.md", "\n".join([*text, *comparison_lines(beside(rows, table))]))


def figure(rows: Rows, out: Path) -> None:
    """One of the paper's figures over a sweep: figures/NAME.csv and figures/NAME.png."""
    from pipeline.reporting.figures import sweep_figure

    name = rows.settings.make
    table, cells = TABLES[name], rows.cells(name, "model")
    x = table.along
    found = rows.table(cells)
    # A state before fine-tuning is a cell of its own; the value of the setting tells whose it is.
    after = {cell.settings[x]: rows.row(cell) for cell in rows.cells(name, "cooldown")}
    for score in BEFORE_TUNING:
        found[f"{PREFIX}{score}"] = [after.get(value, {}).get(score) for value in found.get(x, [])]
    write_table(found if len(found) else pd.DataFrame([{x: None, "status": "not_run"}]), out / f"figures/{name}.csv")
    lines = differing([cell.settings for cell in cells], but=x)
    file = out / f"figures/{name}.png"
    sweep_figure(found, x=x, x_label=axis_of(x).label, title=table.title, file=file, lines=lines)


def write(rows: Rows, out: Path, name: str, heading: str, found: pd.DataFrame, varied: list[str]) -> None:
    """A table's two files. An experiment that was not run leaves its published figures alone."""
    # An empty CSV would have no header, and nobody could tell it from a broken one.
    if not len(found):
        found = pd.DataFrame([{"status": "not_run"}])
    write_table(found, out / f"{name}.csv")
    columns = [c for c in MEASURES if c in found] + [task for task in rows.tasks["vision"] if task in found]
    header = [
        *map(key_words, varied),
        *(form_of(c)[0] for c in columns),
        "seeds",
    ]
    lines = [
        [
            *(text_of(r.get(v)) for v in varied),
            *(score_text(r, c) for c in columns),
            runs_of(r),
        ]
        for _, r in found.iterrows()
    ]
    note = (
        "Scores in percent, bits per byte and CIDEr-D as they are, with 95% intervals: over the evaluation examples where"
        " there is one seed, over seeds too where there are more."
    )
    text = [title(rows, heading), "", note, "", *markdown_table(header, lines), ""]
    if rows.settings.published:
        text += comparison_lines(beside(rows, rows.table(rows.cells(evaluated="model"))))
    write_text(out / f"{name}.md", "\n".join(text))


def title(rows: Rows, text: str) -> str:
    return f"# {text} (preset `{rows.settings.preset}`, {rows.settings.split} split)"


def text_of(value: object) -> str:
    """A setting for reading."""
    return "" if value is None or value != value else f"{value:g}" if isinstance(value, float) else str(value)
