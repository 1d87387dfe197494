"""Table 1: when should images come in? A row a branch point, and the text run itself for reference.

Writes table1.csv (all figures), table1.md (for reading), metrics.json (its headline, for `dvc metrics`),
figures/timing.csv, figures/timing_runs.csv and figures/timing.png (Figure 4 of this study) and figures/loss.csv.
"""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from pipeline.common.files import stable_json, write_text
from pipeline.reporting import claims
from pipeline.reporting.experiment_tables import title
from pipeline.reporting.figures import timing_figure
from pipeline.reporting.measures import ANSWERS, BEFORE_TUNING, HELDOUT, MEASURES, PREFIX, TEXT, VISION, WITHOUT_IMAGE
from pipeline.reporting.table_list import heading_of
from pipeline.reporting.table_rows import (
    Cell,
    Rows,
    failed_lines,
    made,
    markdown_table,
    number,
    score_text,
    write_table,
)
from pipeline.settings.measures import TWO_POINTS
from pipeline.statistics.verdicts import Part, Tested, judge

HEADLINE = (
    "vision_stable",
    "vision_gain",
    "looking_bits",
    "text_stable",
    "choice_bits",
    "bits_per_byte",
)  # what one compares between studies


def make(rows: Rows, out: Path) -> None:
    text = text_states(rows)
    cells = sorted(rows.cells("timing", "model"), key=lambda cell: cell.settings["branch_percent"])
    models = rows.table(cells).assign(model="vlm")
    after = {c.settings["branch_percent"]: rows.row(c) for c in rows.cells("timing", "cooldown")}
    for name in BEFORE_TUNING:
        models[f"{PREFIX}{name}"] = [after.get(p, {}).get(name) for p in models["branch_percent"]]
    table = pd.concat([text, models], ignore_index=True)
    table = table[ordered(list(table.columns), rows.tasks)]
    write_table(table, out / "table1.csv")
    write_text(out / "table1.md", markdown(table, rows))
    points = timing_points(models)
    write_table(points, out / "figures/timing.csv")
    runs = timing_runs(rows, cells)
    write_table(runs, out / "figures/timing_runs.csv")
    timing_figure(points, runs, text, contrast_title(rows, cells), out / "figures/timing.png")
    write_table(loss_curves(rows, cells), out / "figures/loss.csv", "%.5g")
    write_text(out / "metrics.json", stable_json(headline(models)))


def text_states(rows: Rows) -> pd.DataFrame:
    """A row a state of the text run."""
    states = rows.settings.text
    found = []
    for run in sorted(states, key=lambda run: states[run]["percent"]):
        found.append({"model": "text only", "branch_percent": states[run]["percent"]} | rows.text_state(run))
    return pd.DataFrame(found)


def ordered(columns: list[str], tasks: dict) -> list[str]:
    """Columns with the scores that matter in front."""
    without_looking = ["language_prior", *(f"vision_average_{c}" for c in WITHOUT_IMAGE)]
    first = [
        *("model", "branch_percent", "seeds"),
        *with_ends("vision_stable", "text_stable", "vision_average", "vision_gain"),
        *without_looking,
        *with_ends(*tasks["vision"], *tasks["text"]),
    ]
    return list(dict.fromkeys([*(name for name in first if name in columns), *columns]))


def headline(models: pd.DataFrame) -> dict:
    """The scores that one compares between experiments, in points, by branch point ("80%")."""
    return {
        name: {
            f"{r['branch_percent']:g}%": round(MEASURES[name].factor * r[name], 3)
            for _, r in models.iterrows()
            if r.get(name) == r.get(name) and r.get(name) is not None
        }
        for name in HEADLINE
    }


def loss_curves(rows: Rows, cells: list, points: int = 50) -> pd.DataFrame:
    """Training loss by percent of each phase: of the text run, and of the table's models on average."""
    states = rows.settings.text
    runs = {"text run": [f"pretrain/{max(states, key=lambda run: states[run]['percent'])}"]}
    models = [run for cell in cells for run in cell.runs.values()]
    runs |= {phase: [f"{phase}/{run}" for run in models] for phase in ("cooldown", "finetune")}
    curves = {}
    for label, roles in runs.items():
        files = [rows.inputs[role] / "losses.csv" for role in roles if role in rows.inputs and not rows.failure(role)]
        if not files:
            continue
        losses = pd.concat([pd.read_csv(file) for file in files])
        # Runs have different numbers of steps: they are averaged at the same part of the way.
        part = (losses["step"] * points / losses["step"].max()).apply(math.ceil)
        curves[label] = losses.groupby(part)["loss"].mean()
    table = pd.DataFrame(curves)
    return table.assign(percent=table.index * 100 / points)[["percent", *curves]]


def timing_points(models: pd.DataFrame) -> pd.DataFrame:
    """The timing figure's data: a row a branch point, what is plotted and its intervals."""
    return models.reindex(columns=["branch_percent", "seeds", *with_ends(*HEADLINE)])


def timing_runs(rows: Rows, cells: list[Cell]) -> pd.DataFrame:
    """What is plotted, a row a run."""
    found = [
        {"branch_percent": cell.settings["branch_percent"], "seed": seed, "cell": cell.name}
        | rows.measures([rows.folder(run)], VISION, TEXT, HELDOUT, ANSWERS)
        for cell in cells
        for seed, run in sorted(cell.runs.items())
    ]
    return pd.DataFrame(found).reindex(columns=["branch_percent", "seed", "cell", *HEADLINE])


def contrast_title(rows: Rows, cells: list[Cell]) -> str:
    """The recommended branch less the one at the end, in words with its interval and its verdict; nothing without both."""
    recommended = next((cell for cell in cells if cell.name == "recipe"), None)
    end = next((cell for cell in cells if cell.settings["branch_percent"] == 100), None)
    if recommended is None or end is None or recommended is end or rows.no_prior:
        return ""
    arms = [[{"cell": cell.name, "condition": "normal"}] for cell in (recommended, end)]
    contrast = {"metric": "vision_average", "plus": arms[0], "minus": arms[1]}
    found = claims.measure(claims.RunScores(rows), contrast, TWO_POINTS)
    if not found.covers:
        return ""
    (judged,) = judge([Tested("contrast", "primary", [Part(found.evidence)])])
    told = found.evidence
    points = f"{100 * told.estimate:+.1f} points of vision average ({100 * told.low:.1f} to {100 * told.high:.1f})"
    return f"Images at {recommended.settings['branch_percent']:g}% less images at 100%: {points}, {judged.verdict}."


def with_ends(*names: str) -> list[str]:
    """The columns of measures: each with the two ends of its interval."""
    return [f"{name}{end}" for name in names for end in ("", "_low", "_high")]


def markdown(table: pd.DataFrame, rows: Rows) -> str:
    """The table for reading: percent with 95% intervals."""
    tasks = rows.tasks
    models = table[table["model"] == "vlm"]
    text = table[table["model"] == "text only"]
    seeds = [int(n) for n in made(models)["seeds"]] or [1]
    over = {True: "those of models with several training seeds cover these too."}
    over |= {min(seeds) > 1: f"those of the models cover their {min(seeds)} or more training seeds too."}
    over |= {max(seeds) == 1: "they do not cover training seeds."}
    percents = [f"{p:g}%" for p in models["branch_percent"]]
    # Models are compared with what the text run itself knows at its end.
    reference = text.iloc[-1]
    shown = None if rows.no_prior else rows.prior.groupby("task").agg(score=("score", "mean"), prior=("prior", "first"))

    def row(label: str, column: str, chance: str = "", other: str = "") -> list[str]:
        cells = [score_text(r, column) for _, r in models.iterrows()]
        return [label, *cells, score_text(reference, column), chance, other]

    lines = [row("**vision stable score**", "vision_stable"), row("**text stable score**", "text_stable")]
    lines += [
        row("vision average", "vision_average", "", score_text(next(iter(made(models).iloc), {}), "language_prior")),
        row("**gain over the language prior**", "vision_gain"),
        row("**bits per byte of the right answer that its image saves**", "looking_bits"),
        row("right answers, bits per byte", "answer_bits"),
    ]
    for name, task in tasks["vision"].items():
        label = name.replace("_", " ") + ("" if task["stable"] else " (not in the score)") + rows.left_out.get(name, "")
        other = "" if shown is None else f"{100 * shown.score[name]:.1f} ({shown.prior[name]})"
        lines.append(row(label, name, f"{100 * task['chance']:g}", other))
    for condition in WITHOUT_IMAGE:
        lines.append(row(f"vision average, image {condition}", f"vision_average_{condition}"))
    for name, task in tasks["text"].items():
        lines.append(row(name.replace("_", " ") + rows.left_out.get(name, ""), name, f"{100 * task['chance']:g}"))
    lines.append(row("right choices of text tasks, bits per byte", "choice_bits"))
    lines.append(row("captions (CIDEr-D, 0 to 10) after the cooldown", "cooldown_cider"))
    lines.append(row("reference captions, bits per byte, after the cooldown", "cooldown_caption_bits"))
    lines.append(row("held-out bits per byte after the cooldown", "cooldown_bits_per_byte"))
    lines.append(row("held-out bits per byte", "bits_per_byte"))
    flops = [number(r, "training_flops", ".2e") for r in (*models.iloc, reference)]
    lines.append(["training FLOPs", *flops, "", ""])
    on_its_way = [
        [
            f"{number(r, 'text_run_tokens', ',.0f')} ({r['branch_percent']:g}%)".strip(),
            score_text(r, "bits_per_byte"),
            score_text(r, "text_stable"),
        ]
        for _, r in text.iterrows()
    ]
    return "\n".join(
        [
            title(rows, heading_of("table1")),
            "",
            "Each column is a model whose cooldown with images started after that share of the text run. Percent correct",
            "(stable scores: less chance; the gain: less the language prior; captions, bits per byte and FLOPs in their own",
            f"units), with 95% intervals over the evaluation examples (clustered by image, or by item of text); {over[True]}",
            "",
            *markdown_table(["", *percents, "text run at 100%", "chance", "language prior"], lines),
            "",
            "The text run on its way:",
            "",
            *markdown_table(["text tokens", "held-out bits per byte", "text stable score"], on_its_way),
            "",
            *failed_lines("branch at", percents, models["status"]),
        ]
    )
