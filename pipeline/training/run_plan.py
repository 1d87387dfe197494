"""What a training job has to do: steps, schedule, and how many sequences of each stream."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.common.job_context import Job
from pipeline.data.store import count_samples
from pipeline.settings.types import Encoder
from pipeline.training.job_settings import Cooldown, Finetune, Pretrain, WithImages
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
    encoder: Encoder | None
    train_encoder: bool
    features: list[Path]  # cached features of the streams' images; without any, images go through the encoder
    moments: str = "fresh"  # or "keep": the parent's
    blind: bool = False

    @property
    def streams(self) -> dict[str, Path]:
        """The shards that the run reads."""
        return {name: folder for name, folder in self.folders.items() if self.counts.get(name)}

    @property
    def has_images(self) -> bool:
        """Whether the run shows images to the model."""
        return not self.blind and any(self.counts.get(name) for name in ("captions", "instructions"))


def make_plan(job: Job, settings: Pretrain | Cooldown | Finetune) -> Plan:
    """What a job's settings mean for the trainer. Raises ValueError for data that gives no step."""
    inputs, batch, sequence = job.inputs, settings.optimisation.batch, settings.model.sequence
    folders: dict[str, Path] = {name: inputs[name] for name in ("text", "captions", "instructions") if name in inputs}
    seeing = settings if isinstance(settings, WithImages) else None
    encoder, train_encoder = (seeing.encoder, seeing.train_encoder) if seeing else (None, False)
    # What a trained encoder makes of an image changes with every update: nothing to cache.
    stores = () if train_encoder else ("features", "instruction_features")
    planned = partial(
        Plan,
        folders=folders,
        parent=inputs.get("branch"),
        encoder=encoder,
        train_encoder=train_encoder,
        features=[inputs[name] for name in stores if name in inputs],
    )
    if isinstance(settings, Pretrain):
        schedule = main_schedule(settings.optimisation, sequence)
        return planned(schedule, settings.stop, counts={"text": schedule.steps * batch})
    if isinstance(settings, Cooldown):
        schedule = planned_cooldown(settings)
        images, share = settings.image_fraction, settings.instruction_share
        counts = split_budget(schedule.steps * batch, {"text": 1 - images, "captions": images})
        # Instructions take the place of captions, so that every share leaves the same text.
        counts |= split_budget(counts["captions"], {"captions": 1 - share, "instructions": share})
        return planned(schedule, schedule.steps, counts=counts, moments=settings.moments)
    # A batch has no gaps: the last one is filled up with samples of one more pass.
    passes = settings.epochs * count_samples(folders["instructions"])
    steps, own = -(-passes // batch), settings.optimisation
    warmup = min(round(own.warmup_fraction * steps), steps - 1)
    schedule = Schedule(own.peak_lr, own.floor_lr, warmup, steps)
    return planned(schedule, steps, counts={"instructions": steps * batch}, blind=settings.blind)
