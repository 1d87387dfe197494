"""Text pre-training, cooldown and fine-tuning: one trainer with three settings.

text       the main schedule over one stream of text; stops at a branch point and can be continued
cooldown   starts from a text state, continues its rate, mixes captions (and instructions) into the text
fine-tune  starts from a cooldown or a text state, its own schedule, several passes over the instructions

On several ranks (`pipeline/execution/ranks.py` starts them) each step has the same sequences as on one, the loss is the mean over
the step's labels on all ranks together, and results differ by rounding alone. Every rank builds the whole model in its
own memory before it is sharded: a node needs 4 bytes a parameter for each of its devices.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from composer.utils import dist

from pipeline.common.job_context import Job
from pipeline.model.sizes import training_flops
from pipeline.model.vlm import VLM
from pipeline.training.build import build_model, build_optimizer
from pipeline.training.composer import Recorder, ended_early, make_trainer
from pipeline.training.health import check_weights
from pipeline.training.imported import import_state
from pipeline.training.job_settings import Imported, WithImages, read
from pipeline.training.loader import data_loader, first_features, frozen_encoder
from pipeline.training.mixture import derive_seed
from pipeline.training.run_plan import make_plan
from pipeline.training.state import find_resumable, load_moments, load_weights, save_state


def resume_point(job: Job) -> Path | None:
    """The folder of the state to continue from: this job's own, else an earlier branch point of the same run; or None.

    Either way the bits are those of a run from the start.
    """
    own = find_resumable(job.resume)
    if own is None and job.continues is not None and (job.continues / "state.json").exists():
        return job.continues
    return own


def run(job: Job, out: Path) -> dict:
    """Phases "pretrain", "cooldown" and "finetune": train as the card says and leave the state in `out`.

    On several ranks each runs this, and rank 0 alone writes into `out`.
    """
    settings = read(job.phase, job.settings)
    if isinstance(settings, Imported):
        return import_state(job, settings, out)
    logging.getLogger("composer").setLevel(logging.WARNING)
    # The bits depend on the number of threads: it is a setting, and in the card.
    torch.set_num_threads(settings.hardware.threads)
    plan, size, seed = make_plan(job, settings), settings.model, settings.seed
    main_seed = settings.main_seed if isinstance(settings, WithImages) else None
    model = build_model(size, plan.encoder, seed if main_seed is None else main_seed, seed, plan.train_encoder)
    optimizer = build_optimizer(model, settings.optimisation, plan.encoder.trained_rate if plan.encoder else 1.0)
    recorder = Recorder(job, plan, model, optimizer, settings.optimisation.batch, size.sequence)
    moments = begin(recorder, resume_point(job))
    # The phase's name keeps a cooldown with the text run's own seed from reading the same text in the same order again.
    loader = data_loader(plan, derive_seed(seed, job.phase), recorder)
    frozen = frozen_encoder(plan)
    calibrate = plan.encoder is not None and plan.encoder.calibrate and plan.has_images
    if calibrate and model.projector is not None and not model.projector.calibrated:
        model.projector.calibrate(first_features(loader, frozen if model.encoder is None else model.encoder))
    trainer = make_trainer(recorder, settings, loader, frozen)
    if moments:  # now that the parameters are where, and sharded as, they are trained
        load_moments(model, optimizer, moments)
    # `fit` raises ValueError where nothing is left to train.
    if recorder.step < plan.stop:
        # From here on a request to stop waits for the end of an update: a state within one cannot be continued.
        job.stop.defer()
        trainer.fit()
    trainer.close()
    check_seen(recorder, size.sequence)
    check_weights(model, recorder.step, recorder.loss_watch.key)
    if recorder.projector_watch:
        recorder.projector_watch.close(recorder.step, dist.all_reduce)
    save_state(out, model, optimizer, recorder.state, recorder.losses.getvalue())
    return summary(recorder, model, size.sequence)


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
    """Raises RuntimeError unless the run has seen what was planned: data can end early, or start over, in silence."""
    plan, seen = recorder.plan, recorder.seen
    if recorder.step != plan.stop:
        raise ended_early(recorder)
    packed = sum(count for name, count in plan.counts.items() if name != "text")
    if plan.stop == plan.schedule.steps and seen["packed_sequences"] != packed:
        raise RuntimeError(f"{seen['packed_sequences']} sequences with images were seen, {packed} were planned")


def summary(recorder: Recorder, model: VLM, sequence: int) -> dict:
    """What the run amounts to: parameters, tokens by kind, the achieved image fraction, FLOPs."""
    seen, encoder = recorder.seen, recorder.plan.encoder
    features, layers = (encoder.width, encoder.projector) if encoder else (None, 2)
    sequences = seen["positions"] // sequence
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": recorder.step,
        "tokens": dict(sorted(seen.items())),
        "image_fraction": {
            "of_sequences": seen["packed_sequences"] / sequences,
            "of_positions": (seen["image"] + seen["image_text"]) / seen["positions"],
            "image_tokens_of_positions": seen["image"] / seen["positions"],
        },
        "training_flops": training_flops(model.decoder.shape, features, seen, sequence, layers),
        "learning_rates": {
            "first": recorder.plan.schedule.rate(0),
            "last": recorder.plan.schedule.rate(recorder.step - 1),
            **recorder.plan.schedule.describe(),
        },
    }
