"""What every number comes from: the jobs, and what they took."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.common.files import read_json
from pipeline.reporting.page.forms import (
    Row,
    anchor,
    big,
    number_in,
    shown,
)
from pipeline.reporting.page.results import Results

MODELS = ("evaluate", "finetune", "cooldown", "pretrain")
DATA = ("shards", "features")  # what models read; sources and tokenizer are their parents


def all_subjects(results: Results) -> list[dict]:
    """What rows are about, with the chain of jobs behind each run."""
    found = []
    for name, runs in results.lineage.subjects.items():
        chains = []
        for seed, key in runs.items():
            steps = [(step.name, step.key, f"#{anchor('job', step.key)}") for step in results.lineage.chain(key)]
            trained = [step for step in steps if step[1].partition("/")[0] in MODELS]
            chains.append((seed, trained, [step for step in steps if step[1].partition("/")[0] in DATA]))
        found.append({"name": name, "anchor": anchor("cell", name), "runs": chains})
    return found


def all_jobs(results: Results) -> list[tuple[str, list[dict]]]:
    """Every job of the study by phase, with its settings and parents."""
    found = []
    for key, job in results.lineage.jobs.items():
        phase, _, name = key.partition("/")
        own, shared = [], []
        for setting, value in sorted(job["settings"].items()):
            if isinstance(value, dict) and value.keys() == {"section"}:
                shared.append((setting, f"#{anchor('settings', value['section'])}"))
            else:
                own.append(f"{setting}: {shown(value)}")
        parents = [(role, parent, f"#{anchor('job', parent)}") for role, parent in job["parents"].items()]
        found.append(
            {"phase": phase, "id": name, "anchor": anchor("job", key)}
            | {"own": ", ".join(own), "shared": shared, "parents": parents}
        )
    order = [phase for phase in dict.fromkeys((*MODELS, *(job["phase"] for job in found))) if phase in results.counts()]
    return [(phase, [job for job in found if job["phase"] == phase]) for phase in order]


def made_from_table(results: Results) -> list[tuple[str, Sequence[str], str]]:
    """Each table, its files and the digest of the card that it was made from."""
    found: list[tuple[str, Sequence[str], str]] = []
    for name, files in results.settings.tables.items():
        found.append((name, files, read_json(results.place(f"made_from/{name}.json"))["card"]))
    return found


def all_costs(results: Results) -> list[dict]:
    """What the models of table 1 took, and of the recommended one each phase: FLOPs in bars of one scale."""
    table1 = results.read("table1.csv")
    text = {number_in(r, "branch_percent"): number_in(r, "training_flops") for r in table1 if r["model"] == "text only"}
    found = []
    for row in (row for row in table1 if row["model"] == "vlm"):
        whole, percent = number_in(row, "training_flops"), number_in(row, "branch_percent")
        # A branch at 0% has no text run; one whose state no table has is left out.
        before = text.get(percent, 0.0 if percent == 0 else math.nan)
        if math.isfinite(whole + before):
            parts = [("text run", before), ("images and fine-tuning", whole - before)]
            found.append(cost_of(results, f"images from {percent:g}%", whole, parts, "table1", row))
    stages = {row["stage"]: row for row in results.read("table8.csv") if row.get("training_flops")}
    if {"cooldown", "fine-tuning"} <= stages.keys():
        texts = [number_in(r, "training_flops") for name, r in stages.items() if name.startswith("text, ")]
        cooled, tuned = (number_in(stages[name], "training_flops") for name in ("cooldown", "fine-tuning"))
        before = max(texts, default=0.0)
        parts = [("text run", before), ("cooldown", cooled - before), ("fine-tuning", tuned - cooled)]
        found.append(cost_of(results, "the recommended model, by phase", tuned, parts, "table8", stages["fine-tuning"]))
    # One scale for all bars, so that lengths can be compared between models.
    most = max((cost["flops"] for cost in found), default=1.0)
    for cost in found:
        cost["parts"] = [(name, big(part), 100 * part / most) for name, part in cost["parts"]]
    return found


def cost_of(results: Results, name: str, whole: float, parts: list, table: str, row: Row) -> dict:
    return {
        "name": name,
        "flops": whole,
        "total": big(whole),
        "parts": parts,
        "link": results.link(table, row, "training_flops"),
    }
