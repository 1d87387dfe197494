"""Text pre-training, cooldown and fine-tuning: one trainer with three settings. The one place that knows Composer.

text       the main schedule over one stream of text; stops at a branch point and can be continued
cooldown   starts from a text state, continues its rate, mixes captions (and instructions) into the text
fine-tune  starts from a cooldown or a text state, its own schedule, several passes over the instructions

On several ranks (`pipeline/ranks.py` starts them) each step has the same sequences as on one, the loss is the mean over
the step's labels wherever they are, and what is not a matter of rounding is the same. Every rank builds the model in its
own memory before it is sharded: a node needs 4 bytes a parameter for each of its devices.
"""

from __future__ import annotations

import csv
import io
import logging
import subprocess
import warnings
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from composer import Callback, ComposerModel, Timestamp, Trainer
from composer.algorithms import GradientClipping
from composer.callbacks import SpeedMonitor
from composer.core import DataSpec, State
from composer.loggers import Logger
from composer.utils import FSDP2Config, dist
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from pipeline.data.store import count_samples
from pipeline.files import digest, read_json
from pipeline.model.huggingface import build_decoder
from pipeline.model.sizes import training_flops
from pipeline.model.vlm import VLM, label_loss
from pipeline.phase import Job
from pipeline.sections import Encoder, ModelSize, TextPhase
from pipeline.training.batches import Collate, FeatureStores, OrderedDataset, count_tokens, split_batch
from pipeline.training.health import LossWatch, ProjectorWatch, check_weights
from pipeline.training.imported import import_state
from pipeline.training.mixture import derive_seed, split_budget
from pipeline.training.schedule import Schedule, main_schedule, planned_cooldown
from pipeline.training.state import (
    NEW_AT_BRANCH,
    find_resumable,
    load_moments,
    load_weights,
    save_resumable,
    save_state,
)

TIMEOUT_SECONDS = 3600.0  # that ranks wait for each other: one may write a large state meanwhile


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


def build_model(
    size: ModelSize, encoder: Encoder | None, text_seed: int, seed: int, train_encoder: bool = False
) -> VLM:
    """A fresh model. A branch from 0% has the very weights that the text run starts from.

    An encoder that is trained too is a part of it, with the weights of its release.
    """
    from pipeline.model.vision import build_encoder

    trained = build_encoder(encoder, trained=True) if encoder and train_encoder else None
    torch.manual_seed(derive_seed(text_seed, "decoder") % 2**63)
    decoder = build_decoder(size)
    model = VLM(decoder, encoder.width, trained, encoder.projector) if encoder else VLM(decoder)
    if model.projector is not None:
        torch.manual_seed(derive_seed(seed, "projector") % 2**63)
        model.projector.reset_parameters()
    return model


def build_optimizer(model: VLM, optimisation: dict, encoder_rate: float = 1.0) -> torch.optim.AdamW:
    """AdamW; weight decay on everything or (as in Prismatic) not on biases and gains.

    A group's "multiple" is what the schedule's rate is multiplied by: `encoder_rate` for a trained encoder, else 1.
    """
    groups: dict[tuple[float, float], list] = {}
    for name, parameter in model.named_parameters():
        multiple = encoder_rate if name.startswith("encoder.") else 1.0
        decay = optimisation["weight_decay"] if parameter.dim() > 1 or optimisation["decay_vectors"] else 0.0
        groups.setdefault((multiple, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": ps, "multiple": multiple, "weight_decay": decay} for (multiple, decay), ps in groups.items()],
        lr=optimisation.get("peak_lr", 0.0),  # the trainer puts the schedule's in its place
        betas=(optimisation["beta1"], optimisation["beta2"]),
        eps=optimisation["epsilon"],
        fused=True,
    )


class StudyModel(ComposerModel):
    """Composer's view of the model: logits at labelled positions, and their loss. Both are in fp32.

    `half` has the matrix products in bfloat16 on CPU, where Composer's own precision knows fp32 alone.
    """

    def __init__(self, model: VLM, frozen: torch.nn.Module | None, z_loss: float, half: bool):
        super().__init__()
        self.model, self.z_loss, self.in_half = model, z_loss, half
        self.frozen = [frozen]  # in a list: the encoder is no part of what is trained

    def forward(self, batch: dict) -> torch.Tensor:
        (encoder,) = self.frozen
        if encoder is not None and "pixels" in batch:
            assert self.model.projector
            pixels, mean = batch["pixels"], self.model.projector.mean
            features = encoder.to(pixels.device)(pixels) if len(pixels) else mean.new_zeros(0, 1, len(mean))
            batch = batch | {"features": features}
        with torch.autocast("cpu", torch.bfloat16) if self.in_half else nullcontext():
            return self.model(batch)

    def loss(self, outputs: torch.Tensor, batch: dict) -> torch.Tensor:
        return label_loss(outputs, batch["targets"], self.z_loss)


class Recorder(Callback):
    """After each update: count what was seen, note the loss, show progress, and save a resumable state now and then.

    The last one before the job stops, if it is told to.
    """

    def __init__(self, job: Job, plan: Plan, model: VLM, optimizer: torch.optim.Optimizer, batch: int, sequence: int):
        self.job, self.plan, self.model, self.optimizer = job, plan, model, optimizer
        self.tokens_a_step, self.batch = batch * sequence, batch
        self.step = 0
        self.seen: Counter[str] = Counter()
        self.stopping = False
        self.kinds: dict[str, int] = {}  # of this step's batch, on all ranks
        self.loss_watch = LossWatch(rate_key(job.phase, plan.schedule))
        self.projector_watch = ProjectorWatch(model.projector) if model.projector and plan.has_images else None
        self.losses = io.StringIO()
        self.rows = csv.writer(self.losses, lineterminator="\n")
        self.rows.writerow(["step", "tokens", "learning_rate", "loss"])

    def restore(self, folder: Path) -> None:
        """Continue counting and noting from a saved state of the same run."""
        state = read_json(folder / "state.json")
        self.step, self.seen = state["step"], Counter(state["seen"])
        text = (folder / "losses.csv").read_text(encoding="utf-8")
        self.losses.seek(0)
        self.losses.write(text)
        for row in csv.DictReader(io.StringIO(text)):
            self.loss_watch.look(int(row["step"]), float(row["loss"]))
        print(f"continuing after step {self.step}", flush=True)
        self.job.progress.begin_at(self.step * self.tokens_a_step)

    @property
    def state(self) -> dict:
        return {"step": self.step, "tokens": self.step * self.tokens_a_step, "seen": dict(sorted(self.seen.items()))}

    def before_train_batch(self, state: State, logger: Logger) -> None:
        """Count what all ranks will see. Raises ValueError for a batch that there is nothing to learn from."""
        kinds = state.batch["kinds"]
        counts = state.device.tensor_to_device(torch.tensor(list(kinds.values())))
        dist.all_reduce(counts)
        self.kinds = dict(zip(kinds, counts.tolist()))
        if not self.kinds["labels"]:
            where = ", ".join(map(str, self.plan.streams.values()))
            raise ValueError(f"{where}: none of the {self.batch} sequences of step {self.step + 1} has a label")

    def after_train_batch(self, state: State, logger: Logger) -> None:
        """Without an image in the whole batch nothing that is of images is updated.

        If any rank was told to stop, all stop after this update.
        """
        asked = state.device.tensor_to_device(torch.tensor(self.job.stop.asked is not None, dtype=torch.int64))
        dist.all_reduce(asked)
        self.stopping = bool(asked)
        self.seen.update(self.kinds)
        if self.kinds["images"]:
            assert self.projector_watch
            self.projector_watch.look(self.step + 1, dist.all_reduce)
            return
        for name, parameter in self.model.named_parameters():
            if name.startswith(NEW_AT_BRANCH):
                parameter.grad = None  # zeros, if any: weight decay and old moments would move it

    def batch_end(self, state: State, logger: Logger) -> None:
        self.step += 1
        loss = round(float(state.total_loss_dict["loss/train/total"]), 5)  # as it is noted, and read by a resumed run
        self.loss_watch.look(self.step, loss)
        tokens = self.step * self.tokens_a_step
        self.rows.writerow([self.step, tokens, f"{self.plan.schedule.rate(self.step - 1):.6g}", f"{loss:.5f}"])
        logger.log_metrics(
            {"loss": loss, "learning_rate": self.plan.schedule.rate(self.step - 1), "tokens": tokens}, self.step
        )
        every = self.job.context["save_steps"]
        note = f"loss {loss:.3f}"
        self.job.progress.update(tokens, self.plan.stop * self.tokens_a_step, "tokens", note, self.step % every == 0)
        if self.step == self.plan.stop:
            return
        if self.stopping or self.step % every == 0:
            check_weights(self.model, self.step, self.loss_watch.key)
            save_resumable(self.job.resume, self.model, self.optimizer, self.state, self.losses.getvalue())
        if self.stopping:
            self.job.stop.leave(f"after step {self.step} of {self.plan.stop}")

    def epoch_end(self, state: State, logger: Logger) -> None:
        """Raises RuntimeError if the data are through and the run is not: Composer would begin them again."""
        if self.step < self.plan.stop:
            raise ended_early(self)


def ended_early(recorder: Recorder) -> RuntimeError:
    """That the data have ended before the run: which data, and where."""
    where = ", ".join(map(str, recorder.plan.streams.values()))
    return RuntimeError(f"{where}: the data ended after {recorder.step} of {recorder.plan.stop} steps")


def rate_key(phase: str, schedule: Schedule) -> str:
    """The key of a preset that sets the highest learning rate of a run."""
    own = phase != "cooldown" or schedule.warmup  # a branch without a warm-up continues the text run's rate
    return f"{phase if own and phase != 'pretrain' else 'text'}.peak_lr"


def resume_point(job: Job) -> Path | None:
    """The state to continue from: this job's own, or an earlier branch point of the same run."""
    own = find_resumable(job.resume)
    if own is None and job.continues is not None and (job.continues / "state.json").exists():
        return job.continues
    return own


def loggers(job: Job) -> list:
    """Weights & Biases, if it is switched on: a run for the job's card, which a resumed job continues.

    It has the card, with settings and parents, as its config, the job's experiments as tags, and their name as its group
    if it is of one alone. Neither what is printed nor the repository's address is logged.
    """
    if job.context["wandb"] == "disabled":
        return []
    import wandb
    from composer.loggers import WandBLogger

    if not hasattr(wandb.Run, "get_url"):  # removed from wandb; Composer's logger still asks for it
        wandb.Run.get_url = lambda run: run.url
    experiments, id, online = job.context["experiments"], digest(job.card), job.context["wandb"] == "online"
    kept = {
        "id": id,
        "resume": "allow" if online else None,  # offline runs are joined by their id when `wandb sync` sends them
        "job_type": job.phase,
        "config": job.card | {"card": id, "experiments": experiments, "commit": commit()},
        "mode": job.context["wandb"],
        "dir": str(job.resume.parent.parent),
        "settings": wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
    }
    return [
        WandBLogger(
            project="when-images",
            group=experiments[0] if len(experiments) == 1 else "shared",
            name=f"{job.phase} {job.card['id']}",
            tags=[job.phase, *experiments],
            init_kwargs=kept,
        )
    ]


def commit() -> str | None:
    """The commit of the working folder, "+" after it if tracked files have changed; None outside a repository."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def run(job: Job, out: Path) -> dict:
    """Phases "pretrain", "cooldown" and "finetune": train as the card says and leave the state in `out`.

    On several ranks each runs this, and rank 0 alone writes into `out`.
    """
    if "checkpoint" in job.settings:
        return import_state(job, out)
    logging.getLogger("composer").setLevel(logging.WARNING)
    settings, optimisation = job.settings, job.settings["optimisation"]
    torch.set_num_threads(settings["hardware"]["threads"])
    plan, size, seed = make_plan(job), ModelSize(**settings["model"]), settings["seed"]
    model = build_model(size, plan.encoder, settings.get("main_seed", seed), seed, plan.train_encoder)
    optimizer = build_optimizer(model, optimisation, plan.encoder.trained_rate if plan.encoder else 1.0)
    recorder = Recorder(job, plan, model, optimizer, optimisation["batch"], size.sequence)
    moments = begin(recorder, resume_point(job))
    # The phase's name keeps a cooldown with the text run's own seed from reading the same text in the same order again.
    loader = data_loader(plan, derive_seed(seed, job.phase), recorder)
    frozen = frozen_encoder(plan)
    calibrate = plan.encoder is not None and plan.encoder.calibrate and plan.has_images
    if calibrate and model.projector is not None and not model.projector.calibrated:
        model.projector.calibrate(first_features(loader, frozen if model.encoder is None else model.encoder))
    trainer = make_trainer(recorder, loader, frozen)
    if moments:  # now that the parameters are where, and sharded as, they are trained
        load_moments(model, optimizer, moments)
    if recorder.step < plan.stop:
        job.stop.defer()
        trainer.fit()
    trainer.close()
    check_seen(recorder, size.sequence)
    check_weights(model, recorder.step, recorder.loss_watch.key)
    if recorder.projector_watch:
        recorder.projector_watch.close(recorder.step, dist.all_reduce)
    save_state(out, model, optimizer, recorder.state, recorder.losses.getvalue())
    return summary(recorder, model, settings)


def begin(recorder: Recorder, own: Path | None) -> Path | None:
    """Load the weights that a run starts with: its own state's if it has one, else its parent's, else fresh ones.

    Returns the folder of the moments that go with them, if they are kept. Raises ValueError for another model's state.
    """
    plan = recorder.plan
    if own:
        recorder.restore(own)
        if missing := load_weights(recorder.model, own):
            raise ValueError(f"{own / 'model.safetensors'} lacks {missing[0]}")
        return own
    if plan.parent:
        load_weights(recorder.model, plan.parent)
    return plan.parent if plan.moments == "keep" else None


def check_seen(recorder: Recorder, sequence: int) -> None:
    """The run must have seen what was planned: streaming can end early, or start over, without an error."""
    plan, seen = recorder.plan, recorder.seen
    if recorder.step != plan.stop:
        raise ended_early(recorder)
    packed = sum(count for name, count in plan.counts.items() if name != "text")
    if plan.stop == plan.schedule.steps and seen["packed_sequences"] != packed:
        raise RuntimeError(f"{seen['packed_sequences']} sequences with images were seen, {packed} were planned")


def data_loader(plan: Plan, seed: int, recorder: Recorder) -> DataLoader:
    """This rank's share of the batches of the plan's mixture, in its order, from the recorder's step on."""
    rank, ranks, encoder = dist.get_global_rank(), dist.get_world_size(), plan.encoder
    dataset = OrderedDataset(plan.folders, plan.counts, seed, recorder.batch, recorder.step, rank, ranks)
    without = None
    if encoder and ranks > 1:
        pixels = {"pixels": torch.zeros(0, 3, encoder.pixels, encoder.pixels, dtype=torch.uint8)}
        without = pixels if plan.train_encoder else {"features": torch.zeros(0, encoder.patches, encoder.width)}
    collate = Collate(
        patches=encoder.patches if encoder else 0,
        store=FeatureStores(plan.features) if plan.features else None,
        pixels=encoder.square if encoder else None,
        blind=plan.blind,
        without=without,
    )
    return DataLoader(dataset, batch_size=recorder.batch // ranks, collate_fn=collate, num_workers=0, drop_last=True)


def frozen_encoder(plan: Plan) -> torch.nn.Module | None:
    """The image encoder, if this run has images, no cached features of them, and does not train it."""
    if plan.features or plan.train_encoder or not plan.has_images:
        return None
    from pipeline.model.vision import build_encoder

    assert plan.encoder, "images are a plan's that has one"
    return build_encoder(plan.encoder)


@torch.no_grad()
def first_features(loader: DataLoader, encoder: torch.nn.Module | None, images: int = 256) -> torch.Tensor:
    """Features [n, P, W] of the first `images` images or so of the data, whatever the run's order and mixture."""
    found: list[torch.Tensor] = []
    data: Any = loader.dataset  # streaming's, without types
    for number in range(data.num_samples):
        sample = data[number]
        if "images" in sample:
            batch = loader.collate_fn([sample])
            found.append(batch["features"] if encoder is None else encoder(batch["pixels"]))
            if sum(map(len, found)) >= images:
                break
    return torch.cat(found)


def make_trainer(recorder: Recorder, loader: DataLoader, frozen: torch.nn.Module | None) -> Trainer:
    """Composer's trainer from the recorder's step to the plan's stop; the model on its device, sharded if it shall be."""
    job, plan, model, optimizer = recorder.job, recorder.plan, recorder.model, recorder.optimizer
    optimisation, hardware = job.settings["optimisation"], job.settings["hardware"]
    gpu, half, ranks = hardware["device"] == "gpu", hardware.get("precision") == "bf16", dist.get_world_size()
    sharded = ranks > 1 and job.context["sharding"] == "fsdp"
    if sharded:
        # FSDP takes no channels-last convolutions; torch's types do not know this use of `to`.
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for group in optimizer.param_groups:  # LambdaLR multiplies the initial rate; ours gives rates
        group["lr"] = group["initial_lr"] = group["multiple"]
    # A torch schedule stepped every batch: Composer's own schedulers lag one step behind.
    scheduler = LambdaLR(optimizer, plan.schedule.rate, last_epoch=recorder.step - 1)
    adapt_blocks(model, hardware.get("compile", False), job.context["checkpoint_activations"])
    written = loggers(job)
    trainer = Trainer(
        model=StudyModel(model, frozen, optimisation["z_loss"], half and not gpu),
        optimizers=optimizer,
        schedulers=scheduler,
        step_schedulers_every_batch=True,
        train_dataloader=DataSpec(
            loader,
            split_batch=partial(split_batch, everywhere=ranks > 1),
            get_num_samples_in_batch=lambda part: len(part["tokens"]),
            get_num_tokens_in_batch=count_tokens,
        ),
        spin_dataloaders=False,  # the data begin where the run does
        max_duration=f"{plan.stop * recorder.tokens_a_step}tok",
        device=hardware["device"],
        precision="amp_bf16" if half and gpu else "fp32",
        device_train_microbatch_size=hardware["microbatch"],
        accumulate_train_batch_on_tokens=True,
        parallelism_config={"fsdp": sharding()} if sharded else None,
        dist_timeout=TIMEOUT_SECONDS,
        algorithms=[GradientClipping("norm", optimisation["clip_norm"])],
        callbacks=[recorder, *([SpeedMonitor(window_size=10)] if written else [])],
        loggers=written,
        progress_bar=False,
        log_to_console=False,
    )
    step = recorder.step
    done = Timestamp(
        batch=step, batch_in_epoch=step, sample=step * recorder.batch, sample_in_epoch=step * recorder.batch
    )
    trainer.state.timestamp = done.copy(
        token=step * recorder.tokens_a_step, token_in_epoch=step * recorder.tokens_a_step
    )
    return trainer


def adapt_blocks(model: VLM, compiled: bool, recompute: bool) -> None:
    """Compile the decoder's blocks, and have their backward pass recompute what the forward pass does not keep.

    Block by block, as they are all alike: what is around them has shapes that change with labels and images. The
    methods are replaced, not the modules, so that names of weights stay as they are.
    """
    for block in model.decoder.layers:
        if compiled:
            block.forward = torch.compile(block.forward)
        if recompute:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    # Each block is a unit of FSDP; everything else is one with the whole model.
    blocks = set(model.decoder.layers)
    model.fsdp_wrap_fn = lambda module: module in blocks  # type: ignore[assignment]  # an attribute that Composer asks for


def sharding() -> FSDP2Config:
    """FSDP with gathered weights in fp32: autocast rounds them where it does without sharding, and nowhere else."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "FSDP2 Config/APIs are experimental")
        return FSDP2Config(mixed_precision="FULL")


def summary(recorder: Recorder, model: VLM, settings: dict) -> dict:
    """What the run amounts to: parameters, tokens by kind, the achieved image fraction, FLOPs."""
    seen, encoder = recorder.seen, recorder.plan.encoder
    features, layers = (encoder.width, encoder.projector) if encoder else (None, 2)
    sequences = seen["positions"] // settings["model"]["sequence"]
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": recorder.step,
        "tokens": dict(sorted(seen.items())),
        "image_fraction": {
            "of_sequences": seen["packed_sequences"] / sequences,
            "of_positions": (seen["image"] + seen["image_text"]) / seen["positions"],
            "image_tokens_of_positions": seen["image"] / seen["positions"],
        },
        "training_flops": training_flops(model.decoder.shape, features, seen, settings["model"]["sequence"], layers),
        "learning_rates": {
            "first": recorder.plan.schedule.rate(0),
            "last": recorder.plan.schedule.rate(recorder.step - 1),
            **recorder.plan.schedule.describe(),
        },
    }
