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
from pipeline.training.job_settings import Training
from pipeline.training.run_plan import Plan
from pipeline.training.schedule import Schedule
from pipeline.training.state import NEW_AT_BRANCH, save_resumable

TIMEOUT_SECONDS = 3600.0  # that ranks wait for each other: one may write a large state meanwhile


class StudyModel(ComposerModel):
    """Composer's view of the model: logits at labelled positions, and their loss. Both are in fp32.

    `half`: matrix products in bfloat16, on the CPU. There Composer's own setting for it, amp_bf16, raises an error.
    """

    def __init__(self, model: VLM, frozen: torch.nn.Module | None, z_loss: float, half: bool):
        super().__init__()
        self.model, self.z_loss, self.in_half = model, z_loss, half
        # In a list, where PyTorch does not find it: as a submodule it would be trained, sharded and saved with the
        # model.
        self.frozen = [frozen]

    def forward(self, batch: dict) -> torch.Tensor:
        (encoder,) = self.frozen
        if encoder is not None and "pixels" in batch:
            assert self.model.projector
            pixels, mean = batch["pixels"], self.model.projector.mean
            # An empty batch of features for no images: see `VLM.embed`.
            features = encoder.to(pixels.device)(pixels) if len(pixels) else mean.new_zeros(0, 1, len(mean))
            batch = batch | {"features": features}
        # FSDP2 shards the module below this one, and gathers its weights only when that module is called: nothing here
        # may compute with them.
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
        """Continue counting and noting from the folder of a saved state of the same run."""
        state = read_json(folder / "state.json")
        self.step, self.seen = state["step"], Counter(state["seen"])
        text = (folder / "losses.csv").read_text(encoding="utf-8")
        self.losses.seek(0)
        self.losses.write(text)
        # A resumed run must be stopped at the step at which an undisturbed one is: the watch has to know the losses so
        # far.
        for row in csv.DictReader(io.StringIO(text)):
            self.loss_watch.look(int(row["step"]), float(row["loss"]))
        print(f"continuing after step {self.step}", flush=True)
        self.job.progress.begin_at(self.step * self.tokens_a_step)

    @property
    def state(self) -> dict:
        """What `state.json` has of the run so far: the step, the tokens, and what was seen."""
        return {"step": self.step, "tokens": self.step * self.tokens_a_step, "seen": dict(sorted(self.seen.items()))}

    def before_train_batch(self, state: State, logger: Logger) -> None:
        """Count what all ranks will see. Raises ValueError for a batch without a label on any rank."""
        kinds = state.batch["kinds"]
        counts = state.device.tensor_to_device(torch.tensor(list(kinds.values())))
        dist.all_reduce(counts)
        self.kinds = dict(zip(kinds, counts.tolist()))
        # Composer divides by the number of labels: its error would be a ZeroDivisionError without a name.
        if not self.kinds["labels"]:
            where = ", ".join(map(str, self.plan.streams.values()))
            raise ValueError(f"{where}: none of the {self.batch} sequences of step {self.step + 1} has a label")

    def after_train_batch(self, state: State, logger: Logger) -> None:
        """Leave projector and encoder as they are if no rank had an image; agree whether to stop after this update.

        Composer calls this after the backward pass and before the optimizer's step.
        """
        # If any rank was told to stop, all must stop after the same update: one that went on would wait for the others.
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
                parameter.grad = None  # with a gradient of zeros, weight decay and old moments would still move it

    def batch_end(self, state: State, logger: Logger) -> None:
        """After the update: note its loss, and save a state if it is time, or if the job was told to stop."""
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
        # The end is saved by the phase itself, as its artifact.
        if self.step == self.plan.stop:
            return
        if self.stopping or self.step % every == 0:
            # A state with weights that are not finite would take the place of the last good one.
            check_weights(self.model, self.step, self.loss_watch.key)
            save_resumable(self.job.resume, self.model, self.optimizer, self.state, self.losses.getvalue())
        if self.stopping:
            self.job.stop.raise_stopped(f"after step {self.step} of {self.plan.stop}")

    def epoch_end(self, state: State, logger: Logger) -> None:
        """Raises RuntimeError if the data are through and the run is not: Composer would begin them again."""
        if self.step < self.plan.stop:
            raise ended_early(self)


def ended_early(recorder: Recorder) -> RuntimeError:
    """The error for data that ended before the run did; it names their folders and the step."""
    where = ", ".join(map(str, recorder.plan.streams.values()))
    return RuntimeError(f"{where}: the data ended after {recorder.step} of {recorder.plan.stop} steps")


def rate_key(phase: str, schedule: Schedule) -> str:
    """The key of a preset that sets the highest learning rate of a run."""
    own = phase != "cooldown" or schedule.warmup  # without a warm-up a branch continues the rate of the text run
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


def make_trainer(recorder: Recorder, settings: Training, loader: DataLoader, frozen: torch.nn.Module | None) -> Trainer:
    """Composer's trainer from the recorder's step to the plan's stop; the model goes to its device, maybe sharded."""
    job, plan, model, optimizer = recorder.job, recorder.plan, recorder.model, recorder.optimizer
    asked, hardware = settings.optimisation, settings.hardware
    gpu, half, ranks = hardware.device == "gpu", hardware.precision == "bf16", dist.get_world_size()
    sharded = ranks > 1 and job.context["sharding"] == "fsdp"
    if sharded:
        # FSDP takes no channels-last convolutions; torch's types do not know this use of `to`.
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    # LambdaLR multiplies `initial_lr` by what the schedule gives, and ours gives the rate itself.
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = group["multiple"]
    # A schedule of torch that is stepped every batch: Composer's own schedulers are one step late, so that a branch's
    # first update would have its parent's rate.
    scheduler = LambdaLR(optimizer, plan.schedule.rate, last_epoch=recorder.step - 1)
    adapt_blocks(model, hardware.compile, job.context["checkpoint_activations"])
    written = loggers(job)
    trainer = Trainer(
        model=StudyModel(model, frozen, asked.z_loss, half and not gpu),
        optimizers=optimizer,
        schedulers=scheduler,
        step_schedulers_every_batch=True,
        train_dataloader=DataSpec(
            loader,
            split_batch=partial(split_batch, everywhere=ranks > 1),
            # Composer can count samples itself only where all tensors of a batch have the same first size.
            get_num_samples_in_batch=lambda part: len(part["tokens"]),
            get_num_tokens_in_batch=count_tokens,
        ),
        spin_dataloaders=False,  # Composer would read on to its clock's batch; our data begin at the run's step already
        max_duration=f"{plan.stop * recorder.tokens_a_step}tok",
        device=hardware.device,
        precision="amp_bf16" if half and gpu else "fp32",
        device_train_microbatch_size=hardware.microbatch,
        # A microbatch counts by its labels. By samples, as Composer does it by default, gradients of a split batch were
        # wrong by 3%.
        accumulate_train_batch_on_tokens=True,
        # Under the key "fsdp2" Composer would ignore it without a word.
        parallelism_config={"fsdp": sharding()} if sharded else None,
        dist_timeout=TIMEOUT_SECONDS,
        algorithms=[GradientClipping("norm", asked.clip_norm)],
        callbacks=[recorder, *([SpeedMonitor(window_size=10)] if written else [])],
        loggers=written,
        progress_bar=False,
        log_to_console=False,
    )
    # Composer's clock is set by hand, as the states are ours and not its checkpoints: those differ from run to run in
    # times and names, and a kill while one is written leaves half a file.
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

    Block by block: all blocks are alike, and what is around them has shapes that change with labels and images. The
    methods are replaced and not the modules, so that the names of weights stay as they are.
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
    """FSDP that gathers weights in fp32. Autocast then rounds them in the same places as without sharding."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "FSDP2 Config/APIs are experimental")
        return FSDP2Config(mixed_precision="FULL")
