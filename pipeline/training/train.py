"""Text pre-training, cooldown and fine-tuning: one trainer with three settings. The one place that knows Composer.

text       the main schedule over one stream of text; stops at a branch point and can be continued
cooldown   starts from a text state, continues its rate, mixes captions (and instructions) into the text
fine-tune  starts from a cooldown or a text state, its own schedule, several passes over the instructions
"""

from __future__ import annotations

import csv
import io
import logging
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from composer import Callback, ComposerModel, Timestamp, Trainer
from composer.algorithms import GradientClipping
from composer.core import DataSpec
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from pipeline.data.store import count_samples
from pipeline.model.huggingface import build_decoder
from pipeline.model.sizes import training_flops
from pipeline.model.vlm import VLM, label_loss
from pipeline.sections import Encoder, ModelSize, TextPhase
from pipeline.training.batches import Collate, FeatureStores, OrderedDataset, count_tokens, split_batch
from pipeline.training.imported import import_state
from pipeline.training.mixture import derive_seed, split_budget
from pipeline.training.schedule import Schedule, main_schedule, planned_cooldown
from pipeline.training.state import branch, find_resumable, resume, save_resumable, save_state


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
    def has_images(self) -> bool:
        return not self.blind and any(self.counts.get(name) for name in ("captions", "instructions"))


def make_plan(job) -> Plan:
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

    trained = build_encoder(encoder, trained=True) if train_encoder else None
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
        lr=optimisation["peak_lr"],
        betas=(optimisation["beta1"], optimisation["beta2"]),
        eps=optimisation["epsilon"],
        fused=True,
    )


class StudyModel(ComposerModel):
    """Composer's view of the model: logits at labelled positions, and their loss."""

    def __init__(self, model: VLM, frozen: torch.nn.Module | None, z_loss: float):
        super().__init__()
        self.model, self.z_loss = model, z_loss
        self.frozen = [frozen]  # in a list: the encoder is no part of what is trained

    def forward(self, batch: dict) -> torch.Tensor:
        (encoder,) = self.frozen
        if encoder is not None and "pixels" in batch:
            batch = batch | {"features": encoder.to(batch["pixels"].device)(batch["pixels"])}
        return self.model(batch)

    def loss(self, outputs: torch.Tensor, batch: dict) -> torch.Tensor:
        return label_loss(outputs, batch["targets"], self.z_loss)


class Recorder(Callback):
    """After each update: count what was seen, note the loss, show progress, and now and then save a resumable state."""

    def __init__(self, job, plan: Plan, model: VLM, optimizer, batch: int, sequence: int):
        self.job, self.plan, self.model, self.optimizer = job, plan, model, optimizer
        self.tokens_a_step, self.batch = batch * sequence, batch
        self.step, self.seen = 0, Counter()
        self.losses = io.StringIO()
        self.rows = csv.writer(self.losses, lineterminator="\n")
        self.rows.writerow(["step", "tokens", "learning_rate", "loss"])

    def restore(self, folder: Path) -> None:
        """Continue from a saved state of the same run."""
        state, losses = resume(self.model, self.optimizer, folder)
        self.step, self.seen = state["step"], Counter(state["seen"])
        self.losses.seek(0)
        self.losses.write(losses)
        print(f"continuing after step {self.step}", flush=True)
        self.job.progress.begin_at(self.step * self.tokens_a_step)

    @property
    def state(self) -> dict:
        return {"step": self.step, "tokens": self.step * self.tokens_a_step, "seen": dict(sorted(self.seen.items()))}

    def batch_end(self, state, logger) -> None:
        self.step += 1
        self.seen.update(state.batch["kinds"])
        loss = float(state.total_loss_dict["loss/train/total"])
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {self.step}; lower the peak learning rate")
        tokens = self.step * self.tokens_a_step
        self.rows.writerow([self.step, tokens, f"{self.plan.schedule.rate(self.step - 1):.6g}", f"{loss:.5f}"])
        every = self.job.context["save_steps"]
        note = f"loss {loss:.3f}"
        self.job.progress.update(tokens, self.plan.stop * self.tokens_a_step, "tokens", note, self.step % every == 0)
        if self.step % every == 0 and self.step < self.plan.stop:
            save_resumable(self.job.resume, self.model, self.optimizer, self.state, self.losses.getvalue())


def resume_point(job) -> Path | None:
    """The state to continue from: this job's own, or an earlier branch point of the same run."""
    own = find_resumable(job.resume)
    if own is None and job.continues is not None and (job.continues / "state.json").exists():
        return job.continues
    return own


def start(trainer: Trainer, step: int, batch: int, tokens: int) -> None:
    """Tell Composer that `step` updates are done: its clock, its schedule and its place in the data."""
    time = Timestamp(batch=step, batch_in_epoch=step, sample=step * batch, sample_in_epoch=step * batch)
    time = time.copy(token=tokens, token_in_epoch=tokens)
    place = {
        "epoch": 0,
        "sample_in_epoch": step * batch,
        "num_canonical_nodes": 1,
        "shuffle_seed": trainer.state.train_dataloader.dataset.shuffle_seed,
        "initial_physical_nodes": 1,
    }
    restored = {"timestamp": {"Timestamp": time.state_dict()}, "dataset_state": {"train": place}}
    trainer.state.load_state_dict(restored, trainer.logger)


def loggers(job) -> list:
    if job.context["wandb"] == "disabled":
        return []
    import wandb
    from composer.loggers import WandBLogger

    if not hasattr(wandb.Run, "get_url"):  # removed from wandb; Composer's logger still asks for it
        wandb.Run.get_url = lambda run: run.url
    offline = {"mode": job.context["wandb"], "dir": str(job.resume.parent.parent)}
    return [
        WandBLogger(
            project="when-images", group=job.phase, name=job.card["id"], init_kwargs={"config": job.card, **offline}
        )
    ]


def run(job, out: Path) -> dict:
    """Phases "pretrain", "cooldown" and "finetune": train as the card says and leave the state in `out`."""
    if "checkpoint" in job.settings:
        return import_state(job, out)
    logging.getLogger("composer").setLevel(logging.WARNING)
    settings, optimisation, hardware = job.settings, job.settings["optimisation"], job.settings["hardware"]
    torch.set_num_threads(hardware["threads"])
    plan, size = make_plan(job), ModelSize(**settings["model"])
    batch = optimisation["batch"]
    seed = settings["seed"]
    model = build_model(size, plan.encoder, settings.get("main_seed", seed), seed, plan.train_encoder)
    optimizer = build_optimizer(model, optimisation, plan.encoder.trained_rate if plan.encoder else 1.0)
    recorder = Recorder(job, plan, model, optimizer, batch, size.sequence)
    state = resume_point(job)
    if state:
        recorder.restore(state)
    elif plan.parent:
        branch(model, optimizer, plan.parent, plan.moments)
    # The phase's name keeps a cooldown with the text run's own seed from reading the same text in the same order again.
    loader = data_loader(plan, derive_seed(seed, job.phase), batch)
    frozen = frozen_encoder(plan)
    if model.projector is not None and plan.encoder.calibrate and not model.projector.calibrated and plan.has_images:
        model.projector.calibrate(first_features(loader, frozen if model.encoder is None else model.encoder))
    if recorder.step < plan.stop:
        fit(recorder, loader, frozen, optimisation, hardware)
    check_seen(recorder, size.sequence)
    save_state(out, model, optimizer, recorder.state, recorder.losses.getvalue())
    return summary(recorder, model, settings, loader)


def check_seen(recorder: Recorder, sequence: int) -> None:
    """The run must have seen what was planned: streaming can end early, or start over, without an error."""
    plan, seen = recorder.plan, recorder.seen
    if recorder.step != plan.stop:
        raise RuntimeError(f"the data ended after {recorder.step} of {plan.stop} steps")
    packed = sum(count for name, count in plan.counts.items() if name != "text")
    if plan.stop == plan.schedule.steps and seen["packed_sequences"] != packed:
        raise RuntimeError(f"{seen['packed_sequences']} sequences with images were seen, {packed} were planned")


def data_loader(plan: Plan, seed: int, batch: int) -> DataLoader:
    """Batches of the plan's mixture, in its order."""
    dataset = OrderedDataset(plan.folders, plan.counts, seed, batch)
    collate = Collate(
        patches=plan.encoder.patches if plan.encoder else 0,
        store=FeatureStores(plan.features) if plan.features else None,
        pixels=plan.encoder.square if plan.encoder else None,
        blind=plan.blind,
    )
    return DataLoader(dataset, batch_size=batch, collate_fn=collate, num_workers=0, drop_last=True)


def frozen_encoder(plan: Plan) -> torch.nn.Module | None:
    """The image encoder, if this run has images, no cached features of them, and does not train it."""
    if plan.features or plan.train_encoder or not plan.has_images:
        return None
    from pipeline.model.vision import build_encoder

    return build_encoder(plan.encoder)


@torch.no_grad()
def first_features(loader: DataLoader, encoder: torch.nn.Module | None, images: int = 256) -> torch.Tensor:
    """Features [n, P, W] of the first `images` images or so of the data, whatever the run's order and mixture."""
    found: list[torch.Tensor] = []
    for number in range(loader.dataset.num_samples):
        sample = loader.dataset[number]
        if "images" in sample:
            batch = loader.collate_fn([sample])
            found.append(batch["features"] if encoder is None else encoder(batch["pixels"]))
            if sum(map(len, found)) >= images:
                break
    return torch.cat(found)


def fit(recorder: Recorder, loader: DataLoader, frozen, optimisation: dict, hardware: dict) -> None:
    """Train from the recorder's step to the plan's stop."""
    plan, step = recorder.plan, recorder.step
    for group in recorder.optimizer.param_groups:  # LambdaLR multiplies the initial rate; ours gives rates
        group["lr"] = group["initial_lr"] = group["multiple"]
    # A torch schedule stepped every batch: Composer's own schedulers lag one step behind.
    scheduler = LambdaLR(recorder.optimizer, plan.schedule.rate, last_epoch=step - 1)
    trainer = Trainer(
        model=StudyModel(recorder.model, frozen, optimisation["z_loss"]),
        optimizers=recorder.optimizer,
        schedulers=scheduler,
        step_schedulers_every_batch=True,
        train_dataloader=DataSpec(
            loader,
            split_batch=split_batch,
            get_num_samples_in_batch=lambda part: len(part["tokens"]),
            get_num_tokens_in_batch=count_tokens,
        ),
        max_duration=f"{plan.stop * recorder.tokens_a_step}tok",
        device=hardware["device"],
        precision="fp32",
        device_train_microbatch_size=hardware["microbatch"],
        accumulate_train_batch_on_tokens=True,
        algorithms=[GradientClipping("norm", optimisation["clip_norm"])],
        callbacks=[recorder],
        loggers=loggers(recorder.job),
        progress_bar=False,
        log_to_console=False,
    )
    if step:
        start(trainer, step, recorder.batch, step * recorder.tokens_a_step)
    trainer.fit()
    trainer.close()


def summary(recorder: Recorder, model: VLM, settings: dict, loader: DataLoader) -> dict:
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
