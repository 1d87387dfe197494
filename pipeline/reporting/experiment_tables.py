"""Tables and figures of one experiment each: a row a cell, the paper's figures beside ours where it has any."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pipeline.common.files import write_text
from pipeline.reporting.comparison import beside, comparison_lines
from pipeline.reporting.table_rows import Rows, differing, key_words, markdown_table, percent, runs_of, write_table

# What an experiment asks, and the settings whose values tell its rows apart.
QUESTIONS = {
    "image_fraction": ("How many images?", ["image_fraction"]),
    "from_scratch": ("What if images come in before any text-only training?", ["image_fraction"]),
    "instruction_share": ("Should instructions be among the images?", ["instruction_share"]),
    "finetune_epochs": ("How long to fine-tune?", ["finetune_epochs"]),
    "text_budget": ("Does it change with more text tokens a parameter?", ["text_budget"]),
    "size": ("A larger model, with and without images in pre-training", ["size", "image_fraction"]),
    "unfrozen": ("Frozen or trained image encoder?", ["train_encoder", "image_fraction", "finetune_epochs"]),
    "captions": ("Which captions?", ["captions"]),
    "encoder": ("Which image encoder?", ["encoder"]),
    "seeds": ("How far do seeds differ?", ["branch_percent", "image_fraction", "finetune_epochs"]),
    "usual": ("The usual way: a finished text model that sees images in fine-tuning", ["cooldown", "branch_percent"]),
}
CONTROLS = {  # what a control asks, or what it is
    "rewarm": "Is it the learning rate that the 100% branch suffers from?",
    "text_only": "The cooldown on text alone, not fine-tuned",
    "moments": "Adam's moments at the branch: kept or fresh",
    "blind": "Fine-tuned without images",
}
TABLES = {
    "table3": "size",
    "table4": "unfrozen",
    "table5": "captions",
    "table6": "encoder",
    "table7": "seeds",
    "table9": "usual",
}
FIGURES = ("image_fraction", "from_scratch", "instruction_share", "finetune_epochs", "text_budget")
LABELS = {
    "image_fraction": "sequences with images in the cooldown (%)",
    "instruction_share": "instructions among the image sequences (%)",
    "finetune_epochs": "passes over the instruction data",
    "text_budget": "text tokens, as a multiple of the scale's",
}
SCORES = {  # column -> title, factor and digits in tables for reading
    "vision_stable": ("vision stable score", 100, 1),
    "vision_average": ("vision average", 100, 1),
    "vision_gain": ("gain over the language prior", 100, 1),
    "text_stable": ("text stable score", 100, 1),
    "bits_per_byte": ("held-out bits per byte", 1, 3),
    "cider": ("captions, CIDEr-D", 1, 2),
}


def table(rows: Rows, out: Path) -> None:
    """One of the paper's tables: tableN.csv and tableN.md."""
    name = rows.settings["make"]
    question, varied = QUESTIONS[TABLES[name]]
    if name == "table7":
        found, varied = by_seed(rows, TABLES[name]), [*varied, "seed"]
    else:
        found = rows.table(rows.cells(evaluated="model"))
    write(rows, out, name, heading_of(name, question), found, varied)


def heading_of(name: str, question: str) -> str:
    return f"Table {name.removeprefix('table')}: {question[0].lower()}{question[1:]}"


def by_seed(rows: Rows, experiment: str) -> pd.DataFrame:
    """A row a run: what one seed says beside another."""
    cells = rows.cells(experiment, "model")
    return pd.DataFrame(
        [rows.row(cell.of(seed)) | {"seed": seed} for cell in cells for seed in sorted(cell.runs | cell.failed)]
    )


def stages(rows: Rows, out: Path) -> None:
    """Table 8: the recommended model after each phase."""
    states = rows.settings["text"]
    recipe = next((cell for cell in rows.cells(evaluated="model")), None)
    found = []
    for run in sorted(states, key=lambda run: states[run]["percent"]):
        if recipe and states[run]["percent"] <= recipe.settings["branch_percent"] + 1e-9:
            found.append({"stage": f"text, {states[run]['percent']:g}%", "status": "ok"} | rows.text_state(run))
    for title, evaluated in (("cooldown", "cooldown"), ("fine-tuning", "model")):
        found += [{"stage": title} | rows.row(cell) for cell in rows.cells(evaluated=evaluated)]
    heading = heading_of("table8", "The recommended model after each phase")
    write(rows, out, "table8", heading, pd.DataFrame(found), ["stage"])


def sizes(rows: Rows, out: Path) -> None:
    """Table 2: the two model sizes and what their training takes."""
    found = []
    for run, state in rows.settings["text"].items():
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
    text = [title(rows, "Table 2: the model sizes and what they take"), "", *markdown_table(header, lines), ""]
    write_text(out / "table2.md", "\n".join([*text, *comparison_lines(beside(rows, table))]))


def figure(rows: Rows, out: Path) -> None:
    """One of the paper's figures over a sweep: figures/NAME.csv and figures/NAME.png."""
    from pipeline.reporting.figures import sweep_figure

    name = rows.settings["make"]
    question, (x, *_) = QUESTIONS[name]
    cells = rows.cells(name, "model")
    found = rows.table(cells)
    after = {cell.settings[x]: rows.row(cell) for cell in rows.cells(name, "cooldown")}
    for score in ("cider", "text_stable", "bits_per_byte"):
        found[f"cooldown_{score}"] = [after.get(value, {}).get(score) for value in found.get(x, [])]
    write_table(found if len(found) else pd.DataFrame([{x: None, "status": "not_run"}]), out / f"figures/{name}.csv")
    lines = differing([cell.settings for cell in cells], but=x)
    sweep_figure(found, x=x, x_label=LABELS[x], title=question, file=out / f"figures/{name}.png", lines=lines)


def write(rows: Rows, out: Path, name: str, heading: str, found: pd.DataFrame, varied: list[str]) -> None:
    """A table's two files. An experiment that was not run leaves its published figures alone."""
    if not len(found):
        found = pd.DataFrame([{"status": "not_run"}])
    write_table(found, out / f"{name}.csv")
    columns = [c for c in SCORES if c in found] + [task for task in rows.tasks["vision"] if task in found]
    header = [
        *map(key_words, varied),
        *(SCORES.get(c, (c.replace("_", " "),))[0] for c in columns),
        "seeds",
    ]
    lines = [
        [
            *(text_of(r.get(v)) for v in varied),
            *(percent(r, c, *SCORES.get(c, ("", 100, 1))[1:]) for c in columns),
            runs_of(r),
        ]
        for _, r in found.iterrows()
    ]
    note = (
        "Scores in percent, bits per byte and CIDEr-D as they are, with 95% intervals: over the evaluation examples where"
        " there is one seed, over seeds too where there are more."
    )
    text = [title(rows, heading), "", note, "", *markdown_table(header, lines), ""]
    if rows.settings["published"]:
        text += comparison_lines(beside(rows, rows.table(rows.cells(evaluated="model"))))
    write_text(out / f"{name}.md", "\n".join(text))


def title(rows: Rows, text: str) -> str:
    return f"# {text} (preset `{rows.settings['preset']}`, {rows.settings['split']} split)"


def text_of(value: object) -> str:
    """A setting for reading."""
    return "" if value is None or value != value else f"{value:g}" if isinstance(value, float) else str(value)
