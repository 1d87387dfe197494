"""A training step of ours beside what one would write instead: same model sizes, same rows, same labels, one CPU thread.

    uv run --group peers python benchmarks/training.py [CASE ...]

compares, in every round one after the other,

- ours: the pipeline's trainer (Composer, our data loader from MDS shards, all that a job does in a step);
- bare loop: our model and our loader, and nothing but forward, backward, clipping, the optimizer and the rate: the floor
  of what a trainer around it can cost;
- llava: Hugging Face's LlavaForConditionalGeneration of the same sizes in such a loop, given its batches ready-made;
- llava, Trainer: the same in transformers' Trainer.

Neither LLaVA runs its vision tower: both models are given the image features. All have PyTorch's fused AdamW. Steps are
timed in CPU-seconds of this process, as the median of the rounds with their range; ratios are taken within a round.
GFLOP/s are those of the arithmetic that a step needs (label-only logits, causal attention within a packed sample:
`training_flops`), beside the rate at which this machine multiplies two square matrices. Prints a table and writes
benchmarks/results/training.json.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import io
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import machine
from PIL import Image

from pipeline.common.files import stable_json, write_text
from pipeline.data.store import PACKED_COLUMNS, TEXT_COLUMNS, image_id, write_shards
from pipeline.execution.processes import StopRequest
from pipeline.model.sizes import DecoderShape, training_flops
from pipeline.model.vlm import IGNORE, label_loss
from pipeline.settings.types import ModelSize
from pipeline.training import composer, run_plan
from pipeline.training.build import build_model, build_optimizer
from pipeline.training.job_settings import read
from pipeline.training.loader import data_loader

RESULT = Path(__file__).parent / "results/training.json"
ROUNDS = 5
END, FIRST = 1, 8  # ids of the stop token and of the first that is text


@dataclass(frozen=True)
class Case:
    """Sizes of a model and of its batches: each row has `images` times `patches` image positions and then text.

    `labels` is the share of text positions that have one. Those with 16 patches are like the default study's fine-tuning
    data.
    """

    name: str
    vocabulary: int
    width: int
    heads: int
    layers: int
    sequence: int
    batch: int
    patches: int = 0
    images: int = 0
    labels: float = 1.0
    features: int = 320
    steps: int = 20

    @property
    def size(self) -> dict:
        keys = ("vocabulary", "layers", "heads", "width", "sequence")
        return {key: getattr(self, key) for key in keys}


CASES = [
    Case("tiny text", 2048, 96, 3, 3, 256, 4),
    Case("tiny instructions", 2048, 96, 3, 3, 256, 4, patches=16, images=4, labels=0.34, features=1288),
    Case("4k vocabulary", 4096, 96, 3, 3, 256, 4, patches=16, images=4, labels=0.34, features=1288),
    Case("width 512", 4096, 512, 8, 4, 256, 4, steps=4),
    Case("50k vocabulary, 729 patches", 50432, 256, 4, 4, 1024, 2, 729, 1, 0.15, 1152, 2),
]


# --- data ------------------------------------------------------------------------------------------------------------


def write_data(case: Case, folder: Path) -> dict[str, Path]:
    """Shards of random tokens, and features of the images in them."""
    rng = np.random.default_rng(0)
    count = 64
    if not case.images:
        rows = rng.integers(FIRST, case.vocabulary, (count, case.sequence + 1)).astype(np.uint16)
        write_shards(folder / "text", TEXT_COLUMNS, ({"tokens": row} for row in rows))
        return {"text": folder / "text"}
    samples, names = [], []
    span = (case.sequence + 1) // case.images
    for number in range(count):
        loss, segments = np.zeros(case.sequence + 1, np.uint8), np.zeros(case.sequence + 1, np.uint16)
        entries, pixels = [], b""
        for place in range(case.images):
            data = picture(number * case.images + place)
            start, end = place * span, (place + 1) * span
            entries.append({"id": image_id(data), "start": start, "bytes": len(data)})
            pixels += data
            names.append(image_id(data))
            segments[start:end] = place + 1
            loss[end - max(round(case.labels * (span - case.patches)), 1) : end] = 1
        tokens = rng.integers(FIRST, case.vocabulary, case.sequence + 1).astype(np.uint16)
        samples.append({"tokens": tokens, "loss": loss, "segments": segments, "images": entries, "pixels": pixels})
    write_shards(folder / "instructions", PACKED_COLUMNS, samples)
    (folder / "features").mkdir()
    features = rng.standard_normal((len(names), case.patches, case.features), np.float32).astype(np.float16)
    np.save(folder / "features/features.npy", features)
    write_text(folder / "features/ids.json", stable_json(names))
    return {"instructions": folder / "instructions", "instruction_features": folder / "features"}


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 0)).save(file, "PNG")
    return file.getvalue()


# --- contestants: each takes a number of steps -----------------------------------------------------------------------


def make_job(case: Case, inputs: dict[str, Path], folder: Path) -> SimpleNamespace:
    """A job as pipeline.execution.run would hand it to the trainer."""
    steps = 100_000
    encoder = {"kind": "efficientnet_lite0", "weights": "none", "pixels": 128, "cache": True}
    encoder |= {"patches": case.patches, "width": case.features}
    optimisation = {
        "batch": case.batch,
        "peak_lr": 0.001,
        "floor_lr": 0.0,
        "weight_decay": 0.1,
        "decay_vectors": True,
        "beta1": 0.9,
        "beta2": 0.95,
        "epsilon": 1e-8,
        "clip_norm": 1.0,
        "z_loss": 0.0 if case.images else 1e-6,
    }
    settings = {"model": case.size, "seed": 7, "hardware": {"device": "cpu", "threads": 1, "microbatch": case.batch}}
    if case.images:
        settings |= {"encoder": encoder, "epochs": steps * case.batch // 64}
        settings["optimisation"] = optimisation | {"warmup_fraction": 0.03}
    else:
        settings |= {"stop": steps}
        settings["optimisation"] = optimisation | {
            "tokens": steps * case.batch * case.sequence,
            "warmup_steps": 40,
        }
    phase = "finetune" if case.images else "pretrain"
    return SimpleNamespace(
        phase=phase,
        settings=settings,
        card={"phase": phase, "id": "benchmark", "settings": settings},
        inputs=inputs,
        context={"wandb": "disabled", "save_steps": 10**9, "checkpoint_activations": False},
        resume=folder / "resume",
        continues=None,
        progress=SimpleNamespace(update=lambda *_: None),
        stop=StopRequest(),
    )


class Parts:
    """What `pipeline.training.train.run` makes of a job, up to the trainer."""

    def __init__(self, job: SimpleNamespace):
        self.job, self.settings = job, read(job.phase, job.settings)
        self.plan = run_plan.make_plan(job, self.settings)
        self.model = build_model(self.settings.model, self.plan.encoder, 7, 7)
        self.optimizer = build_optimizer(self.model, self.settings.optimisation)
        batch, sequence = self.settings.optimisation.batch, self.settings.model.sequence
        self.recorder = composer.Recorder(job, self.plan, self.model, self.optimizer, batch, sequence)
        self.loader = data_loader(self.plan, 7, self.recorder)


def ours(parts: Parts) -> Callable[[int], None]:
    trainer = composer.make_trainer(parts.recorder, parts.settings, parts.loader, None)
    return lambda steps: trainer.fit(duration=f"{steps}ba")


def bare_loop(parts: Parts) -> Callable[[int], None]:
    z_loss = parts.settings.optimisation.z_loss

    def loss(batch: dict) -> torch.Tensor:
        return label_loss(parts.model(batch), batch["targets"], z_loss)

    return loop(parts.model, parts.optimizer, forever(parts.loader), loss)


def loop(model: nn.Module, optimizer, batches: Iterator[dict], loss: Callable) -> Callable[[int], None]:
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (1 + step))

    def run(steps: int) -> None:
        for _ in range(steps):
            loss(next(batches)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

    return run


def forever(loader) -> Iterator[dict]:
    while True:
        yield from loader


class Llava(nn.Module):
    """Hugging Face's LLaVA, given features in place of pixels. `forward` returns its output with its loss."""

    def __init__(self, case: Case):
        from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

        super().__init__()
        text = LlamaConfig(
            vocab_size=case.vocabulary,
            hidden_size=case.width,
            intermediate_size=DecoderShape.of(ModelSize(**case.size)).hidden,
            num_hidden_layers=case.layers,
            num_attention_heads=case.heads,
            max_position_embeddings=case.sequence,
        )
        vision = CLIPVisionConfig(
            hidden_size=case.features, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=32
        )
        config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=2)
        self.llava = LlavaForConditionalGeneration(config)
        self.llava.model.vision_tower = None  # its features are given
        self.llava.config.use_cache = False

    def forward(self, input_ids, labels, features=None):
        embeds = self.llava.get_input_embeddings()(input_ids)
        if features is not None:
            images = self.llava.model.multi_modal_projector(features).to(embeds.dtype)
            where = (input_ids == 2).unsqueeze(-1).expand_as(embeds)
            embeds = embeds.masked_scatter(where, images)
        return self.llava(inputs_embeds=embeds, labels=labels)


def llava_batches(case: Case, loader) -> list[dict]:
    """Our batches as LLaVA takes them: labels where their tokens are, the placeholder where images go."""
    made = []
    for batch in loader:
        ids = batch["tokens"].clone()
        labels = torch.full_like(ids, IGNORE)
        labels[:, 1:] = batch["targets"][:, :-1]
        given = {"input_ids": ids, "labels": labels}
        if case.images:
            ids.view(-1)[batch["slots"]] = 2
            given["features"] = batch["features"]
        made.append(given)
        if len(made) == 8:
            return made
    return made


def llava(case: Case, batches: list[dict]) -> Callable[[int], None]:
    model = Llava(case)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    numbers = iter(range(10**9))
    endless = (batches[number % len(batches)] for number in numbers)
    return loop(model, optimizer, endless, lambda batch: model(**batch).loss)


def llava_trainer(case: Case, batches: list[dict], folder: Path) -> Callable[[int], None]:
    from transformers import Trainer, TrainingArguments

    model = Llava(case)

    def run(steps: int) -> None:
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=1,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            learning_rate=1e-3,
            optim="adamw_torch_fused",
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        rows = [batches[number % len(batches)] for number in range(steps)]
        Trainer(model=model, args=arguments, train_dataset=rows, data_collator=lambda one: one[0]).train()

    return run


# --- measuring -------------------------------------------------------------------------------------------------------


def seconds(run: Callable[[int], None], steps: int) -> float:
    """CPU-seconds a step. What a call costs before its first step is taken off: a call with one step is timed too."""
    start = time.process_time()
    run(1)
    first = time.process_time() - start
    start = time.process_time()
    run(1 + steps)
    return (time.process_time() - start - first) / steps


def matmul_rate() -> float:
    """FLOP/s of this thread's fp32 matrix product."""
    a = torch.randn(1024, 1024)
    start = time.process_time()
    for _ in range(8):
        a @ a
    return 8 * 2 * 1024**3 / (time.process_time() - start)


def step_flops(case: Case, loader) -> float:
    """Mean over some batches of the operations that a step needs."""
    batches = [batch for batch, _ in zip(loader, range(8))]
    counts = [batch["kinds"] for batch in batches]
    mean = {key: statistics.fmean(count[key] for count in counts) for key in counts[0]}
    reach = statistics.fmean(map(mean_reach, batches))
    return training_flops(DecoderShape.of(ModelSize(**case.size)), case.features if case.images else None, mean, reach)


def mean_reach(batch: dict) -> float:
    """How long what a position belongs to is on average: its row, or in packed rows its sample (0 for padding)."""
    segments = batch.get("segments")
    if segments is None:
        return batch["tokens"].shape[1]
    lengths = [torch.bincount(row)[1:] for row in segments]
    return sum(int(row.square().sum()) for row in lengths) / segments.numel()


def measure(case: Case) -> dict:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = write_data(case, folder)
        parts = [Parts(make_job(case, inputs, folder)) for _ in range(2)]
        batches = llava_batches(case, parts[1].loader)
        runs = {
            "ours": ours(parts[0]),
            "bare loop": bare_loop(parts[1]),
            "llava": llava(case, batches),
            "llava, Trainer": llava_trainer(case, batches, folder / "trainer"),
        }
        flops = step_flops(case, parts[1].loader)
        for run in runs.values():
            run(2)
        rounds = []
        for _ in range(ROUNDS):
            took = {name: seconds(run, case.steps) for name, run in runs.items()}
            rounds.append(took | {"matmul": matmul_rate()})
    return {"case": case.name, "flops_per_step": flops, "positions": case.batch * case.sequence, "rounds": rounds}


def spread(values: list[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


HEADER = """\
| case | ours, ms a step | positions/s | over the bare loop | llava / ours | llava in Trainer / ours | share of the matmul rate |
|---|---|---|---|---|---|---|"""


def row(result: dict) -> str:
    rounds = result["rounds"]
    cells = [
        result["case"],
        spread([1000 * r["ours"] for r in rounds], 1),
        f"{result['positions'] / statistics.median(r['ours'] for r in rounds):,.0f}",
        spread([r["ours"] / r["bare loop"] for r in rounds]),
        spread([r["llava"] / r["ours"] for r in rounds]),
        spread([r["llava, Trainer"] / r["ours"] for r in rounds]),
        spread([result["flops_per_step"] / r["ours"] / r["matmul"] for r in rounds]),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help=", ".join(case.name for case in CASES))
    names = parser.parse_args().cases
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    print(HEADER, flush=True)
    results = []
    for case in CASES:
        if not names or case.name in names:
            results.append(measure(case))
            print(row(results[-1]), flush=True)
    if not names:
        write_text(RESULT, stable_json({"cases": results} | machine("torch", "mosaicml", "transformers")))


if __name__ == "__main__":
    main()
