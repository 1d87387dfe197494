"""What a training job is to do: steps, schedule, and how many sequences of each kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.common.job_context import Job
from pipeline.data.store import count_samples
from pipeline.settings.types import Encoder, TextPhase
from pipeline.training.mixture import split_budget
from pipeline.training.schedule import Schedule, main_schedule, planned_cooldown


@dataclass(frozen=True)
class Plan:
    """A training run in full: its schedule, its data, where it stops and what it starts from."""

    schedule: Schedule
    stop: int  # updates; before schedule.steps only for a text run that leaves a branch point
    folders: dict[str, Path]  # shards by stream
    counts: dict[str, int]  # sequences of each stream over the whole schedule
    parent: Path | None
    moments: str
    encoder: Encoder | None
    train_encoder: bool
    features: list[Path]  # cached features of the streams' images; without any, images go through the encoder
    blind: bool

    @property
    def streams(self) -> dict[str, Path]:
        """The shards that the run reads."""
        return {name: folder for name, folder in self.folders.items() if self.counts.get(name)}

    @property
    def has_images(self) -> bool:
        return not self.blind and any(self.counts.get(name) for name in ("captions", "instructions"))


def make_plan(job: Job) -> Plan:
    """What a job's card means for the trainer. Raises ValueError for data that gives no step."""
    settings, inputs = job.settings, job.inputs
    optimisation = settings["optimisation"]
    batch = optimisation["batch"]
    encoder = Encoder(**settings["encoder"]) if settings.get("encoder") else None
    folders = {name: inputs[name] for name in ("text", "captions", "instructions") if name in inputs}
    train_encoder = settings.get("train_encoder", False)
    # What a trained encoder makes of an image changes with every update: nothing to cache.
    stores = () if train_encoder else ("features", "instruction_features")
    common = {
        "folders": folders,
        "parent": inputs.get("branch"),
        "moments": settings.get("moments", "fresh"),
        "encoder": encoder,
        "train_encoder": train_encoder,
        "features": [inputs[name] for name in stores if name in inputs],
        "blind": settings.get("blind", False),
    }
    sequence = settings["model"]["sequence"]
    if job.phase == "pretrain":
        schedule = main_schedule(TextPhase(**optimisation), sequence)
        return Plan(schedule, settings["stop"], counts={"text": schedule.steps * batch}, **common)
    if job.phase == "cooldown":
        schedule = planned_cooldown(settings)
        images, share = settings["image_fraction"], settings.get("instruction_share", 0.0)
        counts = split_budget(schedule.steps * batch, {"text": 1 - images, "captions": images})
        # Instructions take the place of captions, so that every share leaves the same text.
        counts |= split_budget(counts["captions"], {"captions": 1 - share, "instructions": share})
        return Plan(schedule, schedule.steps, counts=counts, **common)
    # The last batch of the last pass is filled up with samples of one more.
    passes = settings["epochs"] * count_samples(folders["instructions"])
    steps = -(-passes // batch)
    warmup = min(round(optimisation["warmup_fraction"] * steps), steps - 1)
    schedule = Schedule(optimisation["peak_lr"], optimisation["floor_lr"], warmup, steps)
    return Plan(schedule, steps, counts={"instructions": steps * batch}, **common)
