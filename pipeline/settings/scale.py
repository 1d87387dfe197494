"""configs/scale: what defines a scale."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.settings.errors import ConfigError
from pipeline.settings.params import MOST_SEED
from pipeline.settings.types import (
    Batches,
    Count,
    FinetunePhase,
    ModelSize,
    Optimisation,
    Section,
    TextPhase,
    TrainingDevice,
    optional_key,
)


class CooldownPhase(Optimisation):
    """The image-text phase of a branch."""

    tokens: Count = Field(description="tokens of one cooldown, text and images")
    warmup_steps: int = Field(ge=0, description="warm-up of the 0% and 100% branches; the others have none")
    rewarm_all: bool = Field(default=False, description="whether every branch warms up to peak_lr, as 0% and 100% do")


class DataSize(Section):
    """How much the embedded source makes."""

    seed: int = Field(ge=0, le=MOST_SEED)
    documents: int | None = Field(ge=1, description="cap on training documents; null is all")
    heldout_documents: Count
    canvas: int = Field(ge=32, le=1024, description="pixels a side of a composed scene")
    concepts: int = Field(ge=2, description="object names in captions and instructions")
    caption_only_concepts: int = Field(ge=0, description="object names that occur in captions alone")
    words: int = Field(ge=2, description="words that a scene may show")
    captions: Count = Field(description="captioned training images")
    conversations: Count = Field(description="training images with instructions")
    turns: Count = Field(description="questions a conversation")
    validation_images: Count
    test_images: Count


class EvaluationSize(Batches):
    """How much of the text evaluation is asked, and in what batches."""

    text_items: Count = Field(description="items of each text task, chosen by the hash of their id")
    heldout_documents: Count = Field(description="held-out documents for bits per byte, each cut to one sequence")


class PhaseMinutes(Section):
    """Time limits of single phases on a cluster, in place of `minutes`."""

    sources: Count | None = optional_key("minutes")
    tokenizer: Count | None = optional_key("minutes")
    shards: Count | None = optional_key("minutes")
    features: Count | None = optional_key("minutes")
    pretrain: Count | None = optional_key("minutes")
    cooldown: Count | None = optional_key("minutes")
    finetune: Count | None = optional_key("minutes")
    evaluate: Count | None = optional_key("minutes")


class Hardware(TrainingDevice):
    """What jobs run on. Of these only some are in cards: those that change a bit of the results."""

    sharding: Literal["ddp", "fsdp"] = Field(
        default="ddp",
        description="what the processes of a training job share: the batch, or with fsdp also the weights, gradients and"
        " moments, so that a device holds its part of them; numbers differ by rounding",
    )
    checkpoint_activations: bool = Field(
        default=False,
        description="whether the backward pass computes the blocks' activations again in place of keeping them",
    )
    memory_mb: Count = Field(description="memory that a training job asks of the scheduler")
    device_memory_gb: float | None = optional_key("memory of one device; the plan refuses what needs more", gt=0)
    save_steps: Count = Field(description="steps between resumable states")
    nodes: Count = Field(default=1, description="machines a training job")
    devices: Count = Field(default=1, description="GPUs, or processes on CPU, of a training job on each of them")
    jobs_a_device: Count = Field(
        default=1, description="jobs that share a GPU, where no cluster's scheduler decides that"
    )
    minutes: Count = Field(
        default=60, description="time that a job may ask of a cluster; it resumes if that is too short"
    )
    minutes_of: PhaseMinutes = Field(default=PhaseMinutes(), description="the same for single phases")
    evaluation_processes: Count | None = optional_key(
        "processes that share an evaluation, its bits the same; null: one for each visible GPU"
    )


class Expected(Section):
    """What the plan reckons with until shards and benchmarks say it."""

    tflops: float = Field(gt=0, description="peak of one device, in 1e12 operations a second")
    mfu: float = Field(gt=0, le=1, description="share of that peak which training is expected to reach")
    pass_tokens: Count = Field(description="positions of one pass over the instructions")


class LargerHardware(Section):
    """What jobs of the second model size run on, where that differs: see `Hardware`."""

    microbatch: Count | None = optional_key("sequences a device's forward pass")
    sharding: Literal["ddp", "fsdp"] | None = optional_key("what the processes of a training job share")
    checkpoint_activations: bool | None = optional_key("whether the backward pass computes activations again")
    memory_mb: Count | None = optional_key("memory that a training job asks of the scheduler")
    save_steps: Count | None = optional_key("steps between resumable states")
    nodes: Count | None = optional_key("machines a training job")
    devices: Count | None = optional_key("GPUs, or processes on CPU, of a training job on each of them")


class LargerSize(Section):
    """What the second model size has of its own."""

    layers: Count
    heads: Count
    width: int = Field(ge=8, description="d_model")
    hardware: LargerHardware | None = optional_key("the keys of `hardware` that are others for this size")


class Repeats(Section):
    """How many seeds each cell of an experiment is trained with."""

    primary: Count = Field(description="seeds of every cell of the experiments that primary claims are about")
    other: Count = Field(description="seeds of every other cell")
    text: Count = Field(
        default=1,
        description="text runs that the seeds are dealt to in turn (that of seed s: s less the recipe's, modulo this);"
        " 1: all models descend from one",
    )


class Scale(Section):
    """A preset: a file of configs/scale/."""

    model: ModelSize
    larger: LargerSize | None = Field(
        description="the second model size; vocabulary and sequence are the first's; null: there is none"
    )
    repeats: Repeats
    text: TextPhase
    cooldown: CooldownPhase
    finetune: FinetunePhase
    data: DataSize | None = Field(description="sizes of a source that is made here; null: corpora have their own")
    evaluation: EvaluationSize
    hardware: Hardware
    expected: Expected

    def hardware_of(self, size: str) -> Hardware:
        """What jobs of a model size run on: "base" or "larger"."""
        own = self.larger.hardware if size == "larger" and self.larger else None
        return self.hardware.model_copy(update=own.model_dump(exclude_none=True)) if own else self.hardware


def check_scale(scale: Scale, file: str) -> None:
    """What no single key can tell: sizes that must fit each other."""
    model = scale.model
    for name, size in (("model", scale.model), ("larger", scale.larger)):
        # RoPE turns pairs of numbers, so the width of each head must be even.
        if size and size.width % (2 * size.heads):
            raise ConfigError(file, f"{name}.width", size.width, f"a multiple of 2 x heads = {2 * size.heads}")
    for name, phase in (("text", scale.text), ("cooldown", scale.cooldown)):
        step = phase.batch * model.sequence
        # Fewer tokens than one batch would be a phase without an update.
        if phase.tokens < step:
            raise ConfigError(
                file, f"{name}.tokens", phase.tokens, f"at least one batch of {phase.batch} x {model.sequence} = {step}"
            )
        # A warm-up as long as the phase would leave no step at the peak rate.
        if phase.warmup_steps >= phase.tokens // step:
            raise ConfigError(
                file,
                f"{name}.warmup_steps",
                phase.warmup_steps,
                f"fewer than the phase's {phase.tokens // step} steps",
            )
    phases: dict[str, Optimisation] = {"text": scale.text, "cooldown": scale.cooldown, "finetune": scale.finetune}
    for name, optimisation in phases.items():
        if optimisation.floor_lr > optimisation.peak_lr:
            raise ConfigError(
                file, f"{name}.floor_lr", optimisation.floor_lr, f"at most peak_lr = {optimisation.peak_lr}"
            )
    check_hardware(scale.hardware, phases, file, "hardware")
    if scale.larger and scale.larger.hardware:
        check_hardware(scale.hardware_of("larger"), phases, file, "larger.hardware")


def check_hardware(hardware: Hardware, phases: dict[str, Optimisation], file: str, section: str) -> None:
    """The devices of one model size and the batches must fit each other. Raises ConfigError, whose key is in `section`."""
    ranks = hardware.nodes * hardware.devices
    for name, optimisation in phases.items():
        # Every rank takes the same number of sequences of each batch.
        if optimisation.batch % ranks:
            allowed = (
                f"a number that times {section}.nodes = {hardware.nodes} divides {name}.batch = {optimisation.batch}"
            )
            raise ConfigError(file, f"{section}.devices", hardware.devices, allowed)
        if hardware.microbatch > optimisation.batch // ranks:
            share = f"{name}.batch = {optimisation.batch}" + (f", shared by {ranks} devices" if ranks > 1 else "")
            raise ConfigError(file, f"{section}.microbatch", hardware.microbatch, f"at most {share}")
    # A job takes one share of one GPU, or several whole GPUs (`take_gpus`).
    if ranks > 1 and hardware.jobs_a_device > 1:
        raise ConfigError(file, f"{section}.jobs_a_device", hardware.jobs_a_device, "1 for jobs of several devices")
