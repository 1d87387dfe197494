"""The phases of the study, one row each: the module of their jobs, what a job takes, and the stage of DVC.

The Snakefile makes a rule of each row, and for the phase of the tables a rule of each table. `python -m pipeline dvc`
writes the stages into dvc.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Phase:
    """What the jobs of a phase are carried out by, and what they take."""

    module: str  # its `run(job, out)` carries one out; its code and that of all it imports here is in the cards
    stage: str  # the coarse step that DVC sees
    message: str  # what Snakemake calls a job
    uses: Literal["core", "readers", "training", "evaluation"] = "core"  # one core, or as many as the settings say
    memory_mb: int = 1500  # of one core or reader; training and evaluation take what the scale says
    priority: int = 0  # jobs of the highest run first
    preload: tuple[
        str, ...
    ] = ()  # what `module` imports only when it is needed, and a server imports once for all jobs


# Whatever the text run waits for comes first, as all else waits for the text run.
PHASES = {
    "sources": Phase("pipeline.data.sources", "prepare", "data", "readers", priority=100),
    "tokenizer": Phase("pipeline.data.tokenizer", "prepare", "tokenizer", priority=100),
    "shards": Phase("pipeline.data.shards", "prepare", "shards", "readers", priority=100, preload=("streaming",)),
    # Before whatever trains on them, which would be left for the end.
    "features": Phase(
        "pipeline.model.features",
        "prepare",
        "image features",
        memory_mb=2000,
        priority=60,
        preload=("pipeline.model.vision",),
    ),
    "pretrain": Phase("pipeline.training.train", "pretrain", "text pre-training", "training", priority=100),
    "cooldown": Phase("pipeline.training.train", "cooldown", "cooldown", "training", priority=50),
    "finetune": Phase("pipeline.training.train", "finetune", "fine-tuning", "training", priority=40),
    "evaluate": Phase("pipeline.evaluation.evaluate", "evaluate", "evaluation", "evaluation", priority=30),
    "tables": Phase(
        "pipeline.reporting.tables",
        "report",
        "results",
        memory_mb=1000,
        preload=("pipeline.reporting.page.report", "scipy.special"),
    ),
}

STAGES = {
    stage: tuple(name for name, phase in PHASES.items() if phase.stage == stage)
    for stage in dict.fromkeys(phase.stage for phase in PHASES.values())
}
