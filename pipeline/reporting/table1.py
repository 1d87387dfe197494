"""Phase "tables", table 1: when should images come in? A row a branch point, and the text run itself for reference.

Writes table1.csv (all figures), table1.md (for reading), metrics.json (its headline, for `dvc metrics`),
figures/timing.csv and figures/timing.png (Figure 4 of this study) and figures/loss.csv. Scores are fractions (0..1)
with 95% intervals; every file is the same on every run.
"""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from pipeline.evaluation.metrics import bits_per_byte
from pipeline.evaluation.statistics import Estimate
from pipeline.files import read_json, stable_json, write_text
from pipeline.reporting import scores
from pipeline.reporting.figures import timing_figure


def interval(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """Three columns: the estimate and its interval's ends; empty where there is none."""
    values = (estimate.estimate, estimate.low, estimate.high) if estimate else (None, None, None)
    return {name: values[0], f"{name}_low": values[1], f"{name}_high": values[2]}


def stable(tasks: dict) -> dict[str, float]:
    """Chance level of each task of a stable score."""
    return {name: task["chance"] for name, task in tasks.items() if task["stable"]}


def text_columns(folders: list[Path], tasks: dict) -> dict:
    """Accuracy of every text task, the text stable score, and bits per byte of held-out text."""
    rows = scores.read_scores(folders, "text.csv")
    columns: dict = {}
    for name in tasks:
        columns |= interval(name, scores.average(rows, {name: 0.0}, cluster="id"))
    # An item belongs to one task; its id alone may recur in another.
    rows["item"] = rows["task"] + "/" + rows["id"]
    columns |= interval("text_stable", scores.average(rows, stable(tasks), cluster="item"))
    heldout = scores.read_scores(folders, "heldout.csv")
    return columns | {"bits_per_byte": bits_per_byte(heldout["score"].sum(), int(heldout["bytes"].sum()))}


def vision_columns(folders: list[Path], tasks: dict, prior: pd.DataFrame) -> dict:
    """Accuracy of every vision task, the stable score, conditions, and the gain over the language prior."""
    rows = scores.read_scores(folders, "vision.csv")
    normal = rows[rows["condition"] == "normal"]
    columns: dict = {}
    for name in tasks:
        columns |= interval(name, scores.average(normal, {name: 0.0}))
    chance = stable(tasks)
    zero = dict.fromkeys(chance, 0.0)
    pairs = scores.paired(normal, prior)
    pairs["gain"] = pairs["score"] - pairs["prior_score"]
    columns |= interval("vision_stable", scores.average(normal, chance))
    columns |= interval("vision_average", scores.average(normal, zero))
    columns |= {"language_prior": scores.average(pairs, zero, "prior_score").estimate}
    columns |= interval("vision_gain", scores.average(pairs, zero, "gain"))
    for condition in ("removed", "shuffled"):
        other = scores.average(rows[rows["condition"] == condition], zero)
        columns[f"vision_average_{condition}"] = other.estimate
    generated = normal[normal["task"].isin(list(chance))]
    return columns | {"valid_answers": float(generated["valid"].mean())}


def cost_columns(runs: list[dict]) -> dict:
    """Tokens by kind and FLOPs of a model's whole ancestry; `runs` are measured.json, text run first."""
    text, rest = runs[0], runs[1:]
    columns = {"text_run_tokens": text.get("tokens", {}).get("positions", 0)}
    for name, run in zip(("cooldown", "finetune"), rest):
        for kind in ("text", "image", "image_text", "padding"):
            columns[f"{name}_{kind}_tokens"] = run["tokens"].get(kind, 0)
    if rest:
        columns["image_fraction_of_sequences"] = rest[0]["image_fraction"]["of_sequences"]
        columns["image_fraction_of_tokens"] = rest[0]["image_fraction"]["of_positions"]
        columns["cooldown_first_lr"] = rest[0]["learning_rates"]["first"]
    return columns | {"training_flops": sum(run.get("training_flops", 0) for run in runs)}


def measured(folder: Path | None) -> dict:
    return read_json(folder / "measured.json") if folder else {}


def run(job, out: Path) -> dict:
    """Phase "tables": table 1."""
    settings, inputs = job.settings, job.inputs
    tasks = settings["tasks"]
    blind = scores.read_scores([inputs["blind"]], "vision.csv")
    questions = inputs["questions"] / "evaluation" / settings["split"]
    majority = scores.majority_scores(tasks["vision"], questions, inputs["instructions"])
    prior = scores.language_prior(majority, blind)

    rows = []
    for name in sorted(settings["checkpoints"], key=settings["checkpoints"].get):
        columns = text_columns([inputs[f"scores/{name}"]], tasks["text"])
        cost = cost_columns([measured(inputs[f"pretrain/{name}"])])
        rows.append(
            {"model": "text only", "branch_percent": settings["checkpoints"][name], "seeds": 1} | columns | cost
        )

    by_percent: dict[float, list[str]] = {}
    for name, row in settings["rows"].items():
        by_percent.setdefault(row["branch_percent"], []).append(name)
    for percent, names in sorted(by_percent.items()):
        folders = [inputs[f"scores/{name}"] for name in names]
        columns = vision_columns(folders, tasks["vision"], prior) | text_columns(folders, tasks["text"])
        first = names[0]
        text = measured(inputs.get(f"pretrain/{first}"))
        cost = cost_columns([text, *(measured(inputs[f"{phase}/{first}"]) for phase in ("cooldown", "finetune"))])
        rows.append({"model": "vlm", "branch_percent": percent, "seeds": len(names)} | columns | cost)

    table = pd.DataFrame(rows)
    order = ["model", "branch_percent", "seeds", *vision_names(table, tasks), *table.columns[3:]]
    table = table[list(dict.fromkeys(order))]
    table.to_csv(out / "table1.csv", index=False, float_format="%.6g", lineterminator="\n")
    (out / "table1.md").write_text(markdown(table, tasks, prior, settings), encoding="utf-8")
    (out / "figures").mkdir()
    points = timing_points(table)
    points.to_csv(out / "figures" / "timing.csv", index=False, float_format="%.6g", lineterminator="\n")
    timing_figure(points, table, out / "figures" / "timing.png")
    loss_curves(settings, inputs).to_csv(
        out / "figures" / "loss.csv", index=False, float_format="%.5g", lineterminator="\n"
    )
    write_text(out / "metrics.json", stable_json(headline(table)))
    return {}


def headline(table: pd.DataFrame) -> dict:
    """The scores that one compares between experiments, in points, by branch point ("80%")."""
    models = table[table["model"] == "vlm"].set_index("branch_percent")
    points = dict.fromkeys(("vision_stable", "vision_gain", "text_stable"), 100) | {"bits_per_byte": 1}
    return {
        name: {f"{percent:g}%": round(factor * value, 3) for percent, value in models[name].items()}
        for name, factor in points.items()
    }


def loss_curves(settings: dict, inputs: dict[str, Path], points: int = 50) -> pd.DataFrame:
    """Training loss by percent of each phase: of the text run, and of the table's models on average."""
    last = max(settings["checkpoints"], key=settings["checkpoints"].get)
    runs = {"text run": [f"pretrain/{last}"]}
    runs |= {phase: [f"{phase}/{name}" for name in settings["rows"]] for phase in ("cooldown", "finetune")}
    curves = {}
    for title, roles in runs.items():
        losses = pd.concat([pd.read_csv(inputs[role] / "losses.csv") for role in roles])
        part = (losses["step"] * points / losses["step"].max()).apply(math.ceil)
        curves[title] = losses.groupby(part)["loss"].mean()
    table = pd.DataFrame(curves)
    return table.assign(percent=table.index * 100 / points)[["percent", *curves]]


def vision_names(table: pd.DataFrame, tasks: dict) -> list[str]:
    """The vision columns, which the first rows (text only) lack, in front."""
    stems = ("vision_stable", "text_stable", "vision_average", "vision_gain", *tasks["vision"], *tasks["text"])
    names = [f"{stem}{end}" for stem in stems for end in ("", "_low", "_high")]
    names[12:12] = ["language_prior", "vision_average_removed", "vision_average_shuffled", "bits_per_byte"]
    return [name for name in names if name in table.columns]


def timing_points(table: pd.DataFrame) -> pd.DataFrame:
    """The timing figure's data: a row a branch point, what is plotted and its intervals."""
    names = [
        f"{score}{end}" for score in ("vision_stable", "vision_gain", "text_stable") for end in ("", "_low", "_high")
    ]
    return table.loc[table["model"] == "vlm", ["branch_percent", *names, "bits_per_byte"]]


def markdown(table: pd.DataFrame, tasks: dict, prior: pd.DataFrame, settings: dict) -> str:
    """The table for reading: percent with 95% intervals."""
    models = table[table["model"] == "vlm"]
    percents = [f"{p:g}%" for p in models["branch_percent"]]
    lines = [
        f"# Table 1: when should images come in? (preset `{settings['preset']}`, {settings['split']} split)",
        "",
        "Each column is a model whose cooldown with images started after that share of the text run. Percent correct,",
        "with 95% intervals over the evaluation examples (clustered by image); they do not cover training seeds.",
        "",
        "| | " + " | ".join(percents) + " | text run at 100% | chance | language prior |",
        "|---|" + "---|" * (len(percents) + 3),
    ]
    reference = table[table["model"] == "text only"].iloc[-1]
    shown = prior.groupby("task").agg(score=("score", "mean"), prior=("prior", "first"))

    def row(title: str, stem: str, chance: str = "", other: str = "") -> str:
        cells = [cell(r, stem) for _, r in models.iterrows()]
        return f"| {title} | " + " | ".join([*cells, cell(reference, stem), chance, other]) + " |"

    lines += [row("**vision stable score**", "vision_stable"), row("**text stable score**", "text_stable")]
    level = f"{100 * models['language_prior'].iloc[0]:.1f}"
    lines += [
        row("vision average", "vision_average", "", level),
        row("**gain over the language prior**", "vision_gain"),
    ]
    for name, task in tasks["vision"].items():
        title = name.replace("_", " ") + ("" if task["stable"] else " (not in the score)")
        other = f"{100 * shown.score[name]:.1f} ({shown.prior[name]})"
        lines.append(row(title, name, f"{100 * task['chance']:g}", other))
    for title, stem in (("image removed", "removed"), ("image shuffled", "shuffled")):
        cells = [f"{100 * r[f'vision_average_{stem}']:.1f}" for _, r in models.iterrows()]
        lines.append(f"| vision average, {title} | " + " | ".join([*cells, "", "", ""]) + " |")
    for name, task in tasks["text"].items():
        lines.append(row(name.replace("_", " "), name, f"{100 * task['chance']:g}"))
    bits = [f"{value:.3f}" for value in models["bits_per_byte"]]
    lines.append(
        "| held-out bits per byte | " + " | ".join([*bits, f"{reference['bits_per_byte']:.3f}", "", ""]) + " |"
    )
    flops = [f"{value:.2e}" for value in models["training_flops"]]
    lines.append("| training FLOPs | " + " | ".join([*flops, f"{reference['training_flops']:.2e}", "", ""]) + " |")
    lines += [
        "",
        "The text run on its way:",
        "",
        "| text tokens | held-out bits per byte | text stable score |",
        "|---|---|---|",
    ]
    for _, r in table[table["model"] == "text only"].iterrows():
        tokens = f"{int(r['text_run_tokens']):,} ({r['branch_percent']:g}%)"
        lines.append(f"| {tokens} | {r['bits_per_byte']:.3f} | {cell(r, 'text_stable')} |")
    return "\n".join(lines) + "\n"


def cell(row: pd.Series, stem: str) -> str:
    """`41.2 (38.0 to 44.4)` in percent, or nothing."""
    if stem not in row or pd.isna(row[stem]):
        return ""
    return f"{100 * row[stem]:.1f} ({100 * row[f'{stem}_low']:.1f} to {100 * row[f'{stem}_high']:.1f})"
