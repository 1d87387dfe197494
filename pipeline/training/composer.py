"""MosaicML Composer: the model, the callback and the trainer that it is given."""

from __future__ import annotations

import csv
import io
import subprocess
import warnings
from collections import Counter
from contextlib import nullcontext
from functools import partial
from pathlib import Path

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

from pipeline.common.files import digest, read_json
from pipeline.common.job_context import Job
from pipeline.model.vlm import VLM, label_loss
from pipeline.training.batches import count_tokens, split_batch
from pipeline.training.health import LossWatch, ProjectorWatch, check_weights
from pipeline.training.run_plan import Plan
from pipeline.training.schedule import Schedule
from pipeline.training.state import NEW_AT_BRANCH, save_resumable

TIMEOUT_SECONDS = 3600.0  # that ranks wait for each other: one may write a large state meanwhile


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
            self.job.stop.raise_stopped(f"after step {self.step} of {self.plan.stop}")

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
