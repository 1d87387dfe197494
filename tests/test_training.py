"""Training through Composer on tiny synthetic shards: branches, resumption, rates, mixtures, and what stops a run."""

import csv
import dataclasses
import io
import json
import multiprocessing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pipeline.common.files import stable_json, write_text
from pipeline.data.store import PACKED_COLUMNS, TEXT_COLUMNS, image_id, verify_shards, write_shards
from pipeline.execution.processes import StopRequest
from pipeline.execution.run import JobFile
from pipeline.model import vision
from pipeline.model.vlm import IGNORE
from pipeline.settings.types import Encoder, ModelSize, Optimisation
from pipeline.settings.vision_transformers import VITS
from pipeline.training import run_plan, train
from pipeline.training.batches import Collate, FeatureStores, OrderedDataset, count_tokens, split_batch
from pipeline.training.build import build_model, build_optimizer
from pipeline.training.job_settings import read as read_settings
from pipeline.training.mixture import split_budget
from pipeline.training.schedule import Schedule
from pipeline.training.state import find_resumable, load_moments, load_weights

MODEL = {"vocabulary": 300, "layers": 1, "heads": 2, "width": 16, "sequence": 16}
BATCH, PATCHES, FEATURES, END = 4, 2, 8, 1
TEXT_STEPS, BRANCH_STEP, COOLDOWN_STEPS = 10, 6, 5
ENCODER = {
    "kind": "efficientnet_lite0",
    "weights": "none",
    "pixels": 32,
    "patches": PATCHES,
    "width": FEATURES,
    "cache": True,
}


# Data: every sequence is unlike every other, so that its tokens say which one it is.


def text_samples(count: int) -> list[dict]:
    tokens = np.random.default_rng(1).integers(2, MODEL["vocabulary"], (count, MODEL["sequence"] + 1))
    return [{"tokens": row.astype(np.uint16)} for row in tokens]


def encoded_image(colour: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (ENCODER["pixels"], ENCODER["pixels"]), tuple(map(int, colour))).save(file, "PNG")
    return file.getvalue()


def encode(colour: torch.Tensor) -> torch.Tensor:
    """Stands for an encoder: features [PATCHES, FEATURES] of an image of one colour [3], exact in half precision."""
    return (colour.float().repeat(FEATURES * PATCHES)[: FEATURES * PATCHES] / 256).view(PATCHES, FEATURES)


def packed_samples(count: int, seed: int) -> tuple[list[dict], list[bytes], list[torch.Tensor]]:
    """Samples of two segments, each an image's patches and five tokens, three positions of padding at the end; and
    the images with their features."""
    rng = np.random.default_rng(seed)
    samples, files, features = [], [], []
    for _ in range(count):
        colours = rng.integers(0, 256, (2, 3))
        images = [encoded_image(colour) for colour in colours]
        tokens = rng.integers(2, MODEL["vocabulary"], MODEL["sequence"] + 1).astype(np.uint16)
        tokens[14:] = END
        samples.append(
            {
                "tokens": tokens,
                "loss": np.array([0, 0, 1, 1, 1, 1, 1] * 2 + [0] * 3, np.uint8),
                "segments": np.array([1] * 7 + [2] * 7 + [0] * 3, np.uint16),
                "images": [
                    {"id": image_id(data), "start": 7 * place, "bytes": len(data)} for place, data in enumerate(images)
                ],
                "pixels": b"".join(images),
            }
        )
        files += images
        features += [encode(torch.from_numpy(colour)) for colour in colours]
    return samples, files, features


def write_features(folder: Path, files: list[bytes], features: list[torch.Tensor]) -> None:
    folder.mkdir()
    np.save(folder / "features.npy", torch.stack(features).half().numpy())
    write_text(folder / "ids.json", stable_json([image_id(data) for data in files]))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    """Folders: text, captions and instructions as MDS shards, and the features of their images."""
    root = tmp_path_factory.mktemp("data")
    write_shards(root / "text", TEXT_COLUMNS, text_samples(50))
    for seed, part in enumerate(("captions", "instructions")):
        samples, files, features = packed_samples(10, seed)
        write_shards(root / part, PACKED_COLUMNS, samples)
        write_features(root / f"{part}-features", files, features)
    return {file.name: file for file in root.iterdir()}


# Jobs, as pipeline.execution.run would hand them to the trainer.


class Killed(Exception):
    pass


@dataclass
class Steps:
    """A progress line that nobody sees; raises Killed at an update, as if the process had ended there."""

    kill_at: int | None = None
    seen: list[int] = field(default_factory=list)

    def begin_at(self, done: int) -> None:
        pass

    def update(self, done: int, total: int, unit: str, note: str = "", log: bool = False) -> None:
        self.seen.append(done // (BATCH * MODEL["sequence"]))
        if self.seen[-1] == self.kill_at:
            raise Killed


@dataclass
class FakeJob:
    phase: str
    settings: dict
    inputs: dict[str, Path]
    resume: Path
    continues: Path | None = None
    progress: Steps = field(default_factory=Steps)
    stop: StopRequest = field(default_factory=StopRequest)
    context: dict = field(
        default_factory=lambda: {"wandb": "disabled", "save_steps": 2, "checkpoint_activations": False}
    )

    @property
    def card(self) -> dict:
        return {"phase": self.phase, "id": "test", "settings": self.settings}


def optimisation(**changes) -> dict:
    return {
        "batch": BATCH,
        "peak_lr": 0.01,
        "floor_lr": 0.0001,
        "weight_decay": 0.01,
        "decay_vectors": True,
        "beta1": 0.9,
        "beta2": 0.95,
        "epsilon": 1e-8,
        "clip_norm": 1.0,
        "z_loss": 1e-4,
    } | changes


MAIN = optimisation(tokens=TEXT_STEPS * BATCH * MODEL["sequence"], warmup_steps=3)
HARDWARE = {"device": "cpu", "threads": 1, "microbatch": BATCH}


class Bench:
    """Runs jobs in a folder; each gets an `out` of its own."""

    def __init__(self, folder: Path, data: dict[str, Path]):
        self.folder, self.data, self.count = folder, data, 0

    def run(self, job: FakeJob) -> tuple[Path, dict]:
        self.count += 1
        out = self.folder / f"out{self.count}"
        out.mkdir()
        return out, train.run(job, out)

    def new_resume(self) -> Path:
        self.count += 1
        return self.folder / f"resume{self.count}"

    def text(self, stop: int = TEXT_STEPS, **changes) -> FakeJob:
        settings = {"model": MODEL, "optimisation": MAIN, "seed": 124, "hardware": HARDWARE, "stop": stop}
        inputs = {"text": self.data["text"]}
        return FakeJob("pretrain", settings | changes, inputs, self.new_resume())

    def cooldown(self, parent: Path | None, images: float = 0.25, **changes) -> FakeJob:
        settings = {
            "model": MODEL,
            "optimisation": optimisation(
                tokens=COOLDOWN_STEPS * BATCH * MODEL["sequence"], warmup_steps=2, peak_lr=0.003, weight_decay=0.033
            ),
            "seed": 7,
            "hardware": HARDWARE,
            "branch_step": BRANCH_STEP if parent else 0,
            "main": MAIN,
            "main_seed": 124,
            "image_fraction": images,
            "moments": "keep",
            "encoder": ENCODER,
        }
        inputs = {"text": self.data["text"]}
        inputs |= {"captions": self.data["captions"], "features": self.data["captions-features"]} if images else {}
        inputs |= {"branch": parent} if parent else {}
        return FakeJob("cooldown", settings | changes, inputs, self.new_resume())

    def finetune(self, parent: Path, blind: bool = False, **changes) -> FakeJob:
        settings = {
            "model": MODEL,
            "optimisation": optimisation(warmup_fraction=0.2, floor_lr=0.0, decay_vectors=False),
            "seed": 7,
            "hardware": HARDWARE,
            "epochs": 2,
            "encoder": ENCODER,
            "blind": blind,
        }
        inputs = {"instructions": self.data["instructions"], "branch": parent}
        inputs |= {} if blind else {"features": self.data["instructions-features"]}
        return FakeJob("finetune", settings | changes, inputs, self.new_resume())


@pytest.fixture
def bench(tmp_path, data) -> Bench:
    return Bench(tmp_path, data)


@pytest.fixture(scope="module")
def shared(tmp_path_factory, data) -> Bench:
    return Bench(tmp_path_factory.mktemp("shared"), data)


@pytest.fixture(scope="module")
def text(shared) -> Path:
    """The whole text run, in one go."""
    return shared.run(shared.text())[0]


@pytest.fixture(scope="module")
def parent(shared) -> Path:
    """The text run up to the branch point."""
    return shared.run(shared.text(stop=BRANCH_STEP))[0]


@pytest.fixture(scope="module")
def cooled(shared, parent) -> tuple[Path, dict]:
    """A cooldown from the branch point, and its summary."""
    return shared.run(shared.cooldown(parent))


def state_files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def losses(folder: Path) -> list[dict[str, float]]:
    with open(folder / "losses.csv", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture
def updates():
    """The (rate, weight decay) of every parameter group at every optimizer step, as the optimizer itself has them."""
    seen: list[list[tuple[float, float]]] = []

    def note(optimizer, *_) -> None:
        seen.append([(group["lr"], group["weight_decay"]) for group in optimizer.param_groups])

    handle = register_optimizer_step_pre_hook(note)
    yield seen
    handle.remove()


# One run in one piece or in several


def test_a_state_is_four_files(text):
    assert set(state_files(text)) == {"model.safetensors", "optimizer.safetensors", "state.json", "losses.csv"}


def test_continuing_an_earlier_state_gives_the_same_bytes(bench, text, parent):
    job = bench.text()
    job.continues = parent
    assert state_files(bench.run(job)[0]) == state_files(text)
    assert job.progress.seen == list(range(BRANCH_STEP + 1, TEXT_STEPS + 1))


def test_a_killed_and_resumed_run_gives_the_same_bytes(bench, text):
    job = bench.text()
    job.progress.kill_at = 7
    with pytest.raises(Killed):
        bench.run(job)
    job.progress = Steps()
    assert state_files(bench.run(job)[0]) == state_files(text)
    assert job.progress.seen == [7, 8, 9, 10]  # the last state was saved after 6 updates


def test_a_killed_and_resumed_cooldown_gives_the_same_bytes(bench, parent, cooled):
    job = bench.cooldown(parent)
    job.progress.kill_at = 3
    with pytest.raises(Killed):
        bench.run(job)
    job.progress = Steps()
    out, summary = bench.run(job)
    assert job.progress.seen == [3, 4, 5]
    assert state_files(out) == state_files(cooled[0])
    assert summary == cooled[1]


def test_a_run_killed_before_its_first_save_starts_over(bench, parent, cooled):
    job = bench.cooldown(parent)
    job.progress.kill_at = 1
    with pytest.raises(Killed):
        bench.run(job)
    job.progress = Steps()
    assert state_files(bench.run(job)[0]) == state_files(cooled[0])


def test_a_kill_between_two_renames_loses_nothing(tmp_path):
    (tmp_path / "next.old").mkdir()
    (tmp_path / "next.old" / "state.json").write_text("{}")
    assert find_resumable(tmp_path) == tmp_path / "next.old"


def test_a_half_written_state_is_not_resumed(tmp_path):
    (tmp_path / "next").mkdir()
    (tmp_path / "next" / "model.safetensors").write_bytes(b"half")
    assert find_resumable(tmp_path) is None


def test_a_state_that_other_code_left_is_not_resumed(bench, parent, monkeypatch):
    monkeypatch.chdir(bench.folder)
    like = bench.cooldown(parent)

    def job(code: str, progress: Steps) -> JobFile:
        card = like.card | {"code": {"pipeline.training.train": code}, "parents": {}}
        return JobFile(card, like.inputs, continues=None, context=like.context, progress=progress)

    with pytest.raises(Killed):
        bench.run(job("one", Steps(kill_at=3)))
    changed = Steps()
    bench.run(job("another", changed))
    assert changed.seen == [1, 2, 3, 4, 5]


def test_another_seed_gives_another_run_from_the_same_weights(bench, parent, cooled):
    out, _ = bench.run(bench.cooldown(parent, seed=8))
    assert losses(out) != losses(cooled[0])


# Rates and weight decay


def test_a_text_run_uses_the_schedules_rates(bench, updates):
    out, _ = bench.run(bench.text(stop=4))
    schedule = Schedule(peak=0.01, floor=0.0001, warmup=3, steps=TEXT_STEPS)
    expected = [schedule.rate(step) for step in range(4)]
    assert [groups[0][0] for groups in updates] == pytest.approx(expected, rel=1e-12)
    assert [row["learning_rate"] for row in losses(out)] == pytest.approx(expected, rel=1e-5)


def test_a_branch_starts_at_the_text_runs_rate_with_its_own_weight_decay(bench, parent, updates):
    out, summary = bench.run(bench.cooldown(parent))
    rate = Schedule(peak=0.01, floor=0.0001, warmup=3, steps=TEXT_STEPS).rate(BRANCH_STEP)
    assert updates[0] == [(pytest.approx(rate, rel=1e-12), 0.033)]
    assert losses(out)[0]["learning_rate"] == pytest.approx(rate, rel=1e-5)
    assert summary["learning_rates"]["first"] == rate


def test_a_continued_run_goes_on_with_the_schedules_rates(bench, parent, updates):
    job = bench.text()
    job.continues = parent
    bench.run(job)
    schedule = Schedule(peak=0.01, floor=0.0001, warmup=3, steps=TEXT_STEPS)
    expected = [schedule.rate(step) for step in range(BRANCH_STEP, TEXT_STEPS)]
    assert [groups[0][0] for groups in updates] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("step", [0, TEXT_STEPS])
def test_a_branch_at_an_end_warms_up_to_its_own_peak(bench, text, updates, step):
    bench.run(bench.cooldown(text if step else None, branch_step=step))
    assert [groups[0][0] for groups in updates[:3]] == pytest.approx([0.0015, 0.003, 0.003], rel=1e-6)


def test_a_re_warmed_branch_warms_up_to_the_rate_it_is_given(bench, text, updates):
    _, summary = bench.run(bench.cooldown(text, branch_step=TEXT_STEPS, rewarm=0.007))
    assert [groups[0][0] for groups in updates[:3]] == pytest.approx([0.0035, 0.007, 0.007], rel=1e-6)
    assert summary["learning_rates"]["peak"] == 0.007


def test_fine_tuning_decays_no_vectors(bench, cooled, updates):
    bench.run(bench.finetune(cooled[0]))
    assert [decay for _, decay in updates[0]] == [0.01, 0.0]


def test_weight_decay_shrinks_what_no_gradient_moves(bench):
    settings = bench.text(stop=1).settings
    unused = MODEL["vocabulary"] - 1  # the largest token, which is made to occur in no sample
    samples = [{"tokens": np.minimum(sample["tokens"], unused - 1)} for sample in text_samples(50)]
    write_shards(bench.folder / "few", TEXT_COLUMNS, samples)
    rows = []
    for decay in (0.0, 1.0):
        job = bench.text(stop=1, optimisation=settings["optimisation"] | {"weight_decay": decay})
        job.inputs = {"text": bench.folder / "few"}
        rows.append(load_file(bench.run(job)[0] / "model.safetensors")["decoder.embedding.weight"][unused])
    torch.testing.assert_close(rows[1], rows[0] * (1 - 0.01 / 3))


# Branches


def branched(parent: Path, moments: str):
    model = build_model(ModelSize(**MODEL), Encoder(**ENCODER), text_seed=1, seed=2)
    optimizer = build_optimizer(model, Optimisation(**optimisation()))
    new = load_weights(model, parent)
    if moments == "keep":
        load_moments(model, optimizer, parent)
    return model, optimizer, new


def test_a_branch_keeps_weights_and_moments_bit_for_bit(parent):
    model, optimizer, _ = branched(parent, "keep")
    weights, moments = load_file(parent / "model.safetensors"), load_file(parent / "optimizer.safetensors")
    own = dict(model.named_parameters())
    assert all(torch.equal(own[name], weight) for name, weight in weights.items())
    kept = {f"{n}.{key}": value for n, p in own.items() for key, value in optimizer.state.get(p, {}).items()}
    assert set(kept) == set(moments)
    assert all(torch.equal(kept[name], moment) for name, moment in moments.items())


def test_a_branch_gives_the_projector_fresh_weights_and_no_moments(parent):
    model, optimizer, new = branched(parent, "keep")
    assert set(new) == {name for name in model.state_dict() if name.startswith("projector.")}
    assert all(not optimizer.state.get(parameter) for parameter in model.projector.parameters())
    assert model.projector.first.weight.any() and model.projector.second.weight.any()


def test_a_branch_with_fresh_moments_has_none(parent):
    model, optimizer, _ = branched(parent, "fresh")
    assert not optimizer.state
    weights = load_file(parent / "model.safetensors")
    assert all(torch.equal(dict(model.named_parameters())[name], weight) for name, weight in weights.items())


def test_the_projector_depends_on_the_runs_seed_and_the_decoder_on_the_text_seed():
    def build(text_seed: int, seed: int) -> dict[str, torch.Tensor]:
        return build_model(ModelSize(**MODEL), Encoder(**ENCODER), text_seed, seed).state_dict()

    first, other_run, other_text = build(1, 2), build(1, 3), build(2, 2)
    for name in first:
        if name == "decoder.head.weight":
            assert torch.equal(first[name], other_run[name]) and not torch.equal(first[name], other_text[name])
        if name.startswith("projector") and name.endswith("weight"):
            assert torch.equal(first[name], other_text[name]) and not torch.equal(first[name], other_run[name])


def test_a_branch_at_zero_starts_from_the_text_runs_first_weights():
    text_model = build_model(ModelSize(**MODEL), None, 124, 124).state_dict()
    branch_model = build_model(ModelSize(**MODEL), Encoder(**ENCODER), 124, 7).state_dict()
    assert all(torch.equal(branch_model[name], weight) for name, weight in text_model.items())


def test_adam_counts_on_from_the_parents_steps(cooled):
    moments = load_file(cooled[0] / "optimizer.safetensors")
    assert moments["decoder.head.weight.step"] == BRANCH_STEP + COOLDOWN_STEPS
    assert moments["projector.first.weight.step"] == COOLDOWN_STEPS


def test_adam_counts_from_zero_with_fresh_moments(bench, parent):
    out, _ = bench.run(bench.cooldown(parent, moments="fresh"))
    steps = [value.item() for name, value in load_file(out / "optimizer.safetensors").items() if name.endswith(".step")]
    assert set(steps) == {COOLDOWN_STEPS}


def test_keeping_moments_matters_from_the_first_update_on(bench, parent, cooled):
    out, _ = bench.run(bench.cooldown(parent, moments="fresh"))
    fresh, kept = losses(out), losses(cooled[0])
    assert fresh[0]["loss"] == kept[0]["loss"]
    assert fresh[1]["loss"] != kept[1]["loss"]


def test_a_checkpoint_of_another_shape_is_refused_by_name(bench, parent):
    wide = bench.cooldown(parent, model=MODEL | {"width": 32})
    with pytest.raises(ValueError, match=r"model\.safetensors is of another model: decoder") as caught:
        bench.run(wide)
    assert str(parent) in str(caught.value)


def test_a_checkpoint_that_lacks_more_than_the_projector_is_refused_by_name(bench, parent):
    lacking = bench.folder / "lacking"
    lacking.mkdir()
    weights = load_file(parent / "model.safetensors")
    del weights["decoder.head.weight"]
    save_file(weights, lacking / "model.safetensors")
    with pytest.raises(ValueError, match=r"decoder\.head\.weight"):
        bench.run(bench.cooldown(lacking))


# A trained encoder


class Convolution(torch.nn.Module):
    """Two patches of an image, with weights that lie in memory in another order than they are stored in."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.cells = torch.nn.Conv2d(3, FEATURES, kernel_size=16, stride=16)
        self.to(memory_format=torch.channels_last)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.cells(pixels.float() / 256).flatten(2).transpose(1, 2)[:, :PATCHES]


@pytest.fixture
def convolution(monkeypatch) -> None:
    monkeypatch.setattr(vision, "build_encoder", lambda encoder, trained=False: Convolution().requires_grad_(trained))


def encoder_weights(folder: Path) -> dict[str, torch.Tensor]:
    weights = load_file(folder / "model.safetensors")
    return {name: weight for name, weight in weights.items() if name.startswith("encoder.")}


def test_a_trained_encoder_is_a_part_of_the_state(bench, parent, cooled, convolution):
    out, summary = bench.run(bench.cooldown(parent, train_encoder=True))
    before, after = Convolution().state_dict(), encoder_weights(out)
    assert set(after) == {"encoder.cells.weight", "encoder.cells.bias"}
    assert all(not torch.equal(after[f"encoder.{name}"], weight) for name, weight in before.items())
    assert summary["parameters"] == cooled[1]["parameters"] + sum(w.numel() for w in before.values())
    moments = load_file(out / "optimizer.safetensors")
    assert moments["encoder.cells.weight.step"] == moments["projector.first.weight.step"]


@pytest.mark.parametrize("phase", ["cooldown", "finetune"])
def test_a_killed_and_resumed_run_with_a_trained_encoder_gives_the_same_bytes(bench, parent, convolution, phase):
    def new_job() -> FakeJob:
        return getattr(bench, phase)(parent, train_encoder=True)

    straight, job = bench.run(new_job()), new_job()
    job.progress.kill_at = 3
    with pytest.raises(Killed):
        bench.run(job)
    job.progress = Steps()
    out, summary = bench.run(job)
    assert job.progress.seen == [3, 4, 5]
    assert state_files(out) == state_files(straight[0])
    assert summary == straight[1]


def test_a_trained_encoder_learns_at_its_own_rate_with_the_decay_of_the_rest(bench, parent, convolution, updates):
    bench.run(bench.cooldown(parent, train_encoder=True))
    for (rate, decay), (encoder_rate, encoder_decay) in updates:
        assert encoder_rate == pytest.approx(0.1 * rate, rel=1e-12)
        assert encoder_decay == decay == 0.033
    updates.clear()
    encoder = ENCODER | {"trained_rate": 0.5}
    bench.run(bench.finetune(parent, train_encoder=True, encoder=encoder))
    rates, decays = ([group[n] for group in updates[1]] for n in (0, 1))
    assert rates == [rates[0], rates[0], 0.5 * rates[0], 0.5 * rates[0]]
    assert decays == [0.01, 0.0, 0.01, 0.0]


@pytest.fixture
def siglip(monkeypatch, tmp_path) -> dict:
    """Settings of a SigLIP cut down to three blocks, one patch an image, with its weights file."""
    kind = "vit_so400m_patch14_siglip_384"
    cut = dataclasses.replace(VITS[kind], width=FEATURES, depth=3, heads=2, mlp_ratio=2.0, pixels=32, patch=32)
    monkeypatch.setitem(VITS, kind, cut)
    rng = torch.Generator().manual_seed(3)
    tensors = {name: torch.randn(shape, generator=rng) / 4 for name, shape in cut.tensors().items()}
    save_file(tensors, tmp_path / "siglip.safetensors")
    return ENCODER | {"kind": kind, "weights": str(tmp_path / "siglip.safetensors"), "patches": 1}


def test_siglip_is_trained_only_if_it_is_asked_to(bench, parent, siglip):
    job = bench.cooldown(parent, encoder=siglip | {"cache": False})
    del job.inputs["features"]
    frozen, _ = bench.run(job)
    assert not encoder_weights(frozen)
    released = load_file(siglip["weights"])
    trained, _ = bench.run(bench.cooldown(parent, encoder=siglip, train_encoder=True))
    weights = encoder_weights(trained)
    assert set(weights) == {f"encoder.network.{name}" for name in released}
    assert all(not torch.equal(weights[f"encoder.network.{name}"], weight) for name, weight in released.items())


def test_microbatches_change_no_weight_of_a_trained_encoder(bench, parent, convolution):
    small = HARDWARE | {"microbatch": 1}
    whole, _ = bench.run(bench.cooldown(parent, 0.5, train_encoder=True))
    parts, _ = bench.run(bench.cooldown(parent, 0.5, train_encoder=True, hardware=small))
    for name, weight in encoder_weights(whole).items():
        torch.testing.assert_close(weight, encoder_weights(parts)[name], atol=1e-5, rtol=0, msg=name)


def test_fine_tuning_goes_on_with_the_encoder_that_the_cooldown_trained(bench, parent, convolution):
    cooled, _ = bench.run(bench.cooldown(parent, train_encoder=True))
    size, encoder = ModelSize(**MODEL), Encoder(**ENCODER)
    model = build_model(size, encoder, text_seed=1, seed=2, train_encoder=True)
    assert load_weights(model, cooled) == []
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in encoder_weights(cooled).items())
    tuned, _ = bench.run(bench.finetune(cooled, train_encoder=True))
    for name, weight in encoder_weights(tuned).items():
        assert not torch.equal(weight, encoder_weights(cooled)[name])


def test_fine_tuning_may_train_an_encoder_that_was_frozen(bench, cooled, convolution):
    out, _ = bench.run(bench.finetune(cooled[0], train_encoder=True))
    assert set(encoder_weights(out)) == {"encoder.cells.weight", "encoder.cells.bias"}


def test_a_trained_encoder_is_not_swapped_for_a_frozen_one(bench, parent, convolution):
    cooled, _ = bench.run(bench.cooldown(parent, train_encoder=True))
    with pytest.raises(ValueError, match=r"encoder\.cells\.bias does not fit"):
        bench.run(bench.finetune(cooled))


def test_blind_fine_tuning_leaves_a_trained_encoder_as_it_is(bench, parent, convolution):
    cooled, _ = bench.run(bench.cooldown(parent, train_encoder=True))
    out, _ = bench.run(bench.finetune(cooled, blind=True, train_encoder=True))
    for name, weight in encoder_weights(out).items():
        assert torch.equal(weight, encoder_weights(cooled)[name])


# Accumulation


@pytest.mark.parametrize("images", [0.25, 0.5])
def test_microbatches_change_no_weight(bench, parent, images):
    small = HARDWARE | {"microbatch": 1}
    whole, _ = bench.run(bench.cooldown(parent, images))
    parts, _ = bench.run(bench.cooldown(parent, images, hardware=small))
    expected = load_file(parts / "model.safetensors")
    for name, weight in load_file(whole / "model.safetensors").items():
        torch.testing.assert_close(weight, expected[name], atol=1e-5, rtol=0, msg=name)


def mixed_batch(data, blind: bool = False) -> dict:
    samples = [text_samples(1)[0], *packed_samples(2, 0)[0], text_samples(2)[1]]
    store = FeatureStores([data["captions-features"]])
    return Collate(PATCHES, store, pixels=None, blind=blind)(samples)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_microbatches_hold_the_rows_and_images_of_the_batch(data, size):
    batch = mixed_batch(data)
    model = build_model(ModelSize(**MODEL), Encoder(**ENCODER), 1, 2)
    parts = split_batch(batch, size)
    assert [len(part["tokens"]) for part in parts] == [len(rows) for rows in torch.arange(4).split(size)]
    torch.testing.assert_close(torch.cat([model(part) for part in parts]), model(batch), atol=1e-5, rtol=1e-5)
    assert sum(count_tokens(part)["loss_generating"] for part in parts) == count_tokens(batch)["loss_generating"]


def test_a_batch_shifts_targets_by_one_and_marks_labels(data):
    batch, (sample,) = mixed_batch(data), packed_samples(1, 0)[0]
    tokens, loss = sample["tokens"].astype(int), sample["loss"]
    assert batch["tokens"][1].tolist() == tokens[:-1].tolist()
    expected = [int(token) if label else IGNORE for token, label in zip(tokens[1:], loss[1:], strict=True)]
    assert batch["targets"][1].tolist() == expected


def test_a_batch_places_each_images_features(data):
    batch = mixed_batch(data)
    assert batch["slots"].tolist() == [16, 17, 23, 24, 32, 33, 39, 40]
    store = FeatureStores([data["captions-features"]])
    names = [image["id"] for sample in packed_samples(2, 0)[0] for image in sample["images"]]
    assert torch.equal(batch["features"], torch.from_numpy(store.get(names)).float())


def test_a_batchs_positions_add_up(data):
    kinds = mixed_batch(data)["kinds"]
    assert kinds == {
        "positions": 64,
        "text": 32,
        "image": 8,
        "image_text": 20,
        "padding": 4,
        "labels": 52,
        "packed_sequences": 2,
        "images": 4,
    }


# Mixtures


@pytest.mark.parametrize("images", [0.25, 0.3, 1.0])
def test_the_achieved_mixture_is_the_planned_one(bench, parent, images):
    _, summary = bench.run(bench.cooldown(parent, images))
    sequences = COOLDOWN_STEPS * BATCH
    planned = split_budget(sequences, {"text": 1 - images, "captions": images})
    seen = summary["tokens"]
    assert seen["packed_sequences"] == planned["captions"]
    assert seen["text"] == planned["text"] * MODEL["sequence"]
    assert seen["images"] == 2 * planned["captions"]
    assert seen["image"] == 2 * PATCHES * planned["captions"]
    assert seen["positions"] == sequences * MODEL["sequence"]
    assert seen["text"] + seen["image"] + seen["image_text"] + seen["padding"] == seen["positions"]
    assert summary["image_fraction"]["of_sequences"] == planned["captions"] / sequences


def test_a_cooldown_without_images_needs_no_encoder(bench, parent):
    _, summary = bench.run(bench.cooldown(parent, images=0.0))
    assert summary["tokens"]["text"] == summary["tokens"]["positions"]
    assert summary["tokens"]["packed_sequences"] == summary["tokens"]["images"] == 0


class Colours(torch.nn.Module):
    """An encoder that makes what the stored features are."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.stack([encode(image[:, 0, 0]) for image in pixels])


def test_encoding_on_the_fly_gives_the_run_that_cached_features_give(bench, parent, cooled, monkeypatch):
    monkeypatch.setattr(vision, "build_encoder", lambda encoder: Colours())
    job = bench.cooldown(parent)
    del job.inputs["features"]
    out, summary = bench.run(job)
    assert state_files(out) == state_files(cooled[0])
    assert summary["tokens"] == cooled[1]["tokens"]


PATCH = {"kind": "patch", "pixels": 32, "patches": 1, "width": 3 * 32 * 32 + 2, "cache": False}


def test_bare_pixels_need_no_cache(bench, parent):
    job = bench.cooldown(parent, encoder=PATCH)
    del job.inputs["features"]
    out, summary = bench.run(job)
    assert summary["tokens"]["image"] == summary["tokens"]["images"] == 10
    job = bench.finetune(out, encoder=PATCH)
    del job.inputs["features"]
    tuned, summary = bench.run(job)
    assert summary["tokens"]["images"] == 2 * BATCH * summary["steps"]
    cooled, tuned = (load_file(folder / "model.safetensors") for folder in (out, tuned))
    assert cooled["projector.first.weight"].shape == (MODEL["width"], PATCH["width"])
    assert torch.equal(cooled["projector.mean"], tuned["projector.mean"])
    assert not torch.equal(cooled["projector.first.weight"], tuned["projector.first.weight"])


def with_instructions(bench, job: FakeJob) -> FakeJob:
    job.inputs |= {
        "instructions": bench.data["instructions"],
        "instruction_features": bench.data["instructions-features"],
    }
    return job


@pytest.mark.parametrize(("share", "captions", "instructions"), [(0.0, 10, 0), (0.4, 6, 4), (0.25, 8, 2), (1.0, 0, 10)])
def test_instructions_take_their_share_of_the_images(bench, parent, share, captions, instructions):
    job = with_instructions(bench, bench.cooldown(parent, images=0.5, instruction_share=share))
    plan = run_plan.make_plan(job, read_settings(job.phase, job.settings))
    assert plan.counts == {"text": 10, "captions": captions, "instructions": instructions}
    other = bench.cooldown(parent, images=0.5)
    plain = run_plan.make_plan(other, read_settings(other.phase, other.settings))
    mixed, alone = (OrderedDataset(p.folders, p.counts, seed=7, batch=BATCH) for p in (plan, plain))
    assert text_read(mixed) == text_read(alone)
    told = {tuple(sample["tokens"]) for sample in packed_samples(10, seed=1)[0]}
    read = [tuple(sample["tokens"]) for sample in mixed if "segments" in sample]
    assert sum(row in told for row in read) == instructions
    others = [tuple(sample["tokens"]) for sample in alone if "segments" in sample]
    assert [row for row in read if row not in told] == others[:captions]


def test_features_of_captions_and_instructions_come_from_two_stores(bench, data, parent, monkeypatch):
    parts = [data["captions-features"], data["instructions-features"]]
    stores, both = [FeatureStores([part]) for part in parts], FeatureStores(parts)
    names = [[image["id"] for s in packed_samples(10, seed)[0] for image in s["images"]] for seed in (0, 1)]
    mixed = [name for pair in zip(*names, strict=True) for name in pair]
    apart = [store.get(own) for store, own in zip(stores, names, strict=True)]
    assert np.array_equal(both.get(mixed), np.stack(apart, axis=1).reshape(-1, PATCHES, FEATURES))
    with pytest.raises(KeyError):
        both.get([*mixed, "nobody's"])
    job = with_instructions(bench, bench.cooldown(parent, images=0.5, instruction_share=0.4))
    out, summary = bench.run(job)
    assert summary["tokens"]["packed_sequences"] == 10
    job = with_instructions(bench, bench.cooldown(parent, images=0.5, instruction_share=0.4))
    job.inputs = {role: folder for role, folder in job.inputs.items() if "features" not in role}
    monkeypatch.setattr(vision, "build_encoder", lambda encoder: Colours())
    assert state_files(bench.run(job)[0]) == state_files(out)


def test_a_cooldown_on_instructions_alone_needs_no_captions(bench, parent):
    job = with_instructions(bench, bench.cooldown(parent, instruction_share=1.0))
    del job.inputs["captions"], job.inputs["features"]
    _, summary = bench.run(job)
    assert summary["tokens"]["packed_sequences"] == 5


def test_fine_tuning_reads_every_sample_once_an_epoch(bench, cooled):
    job = bench.finetune(cooled[0])
    _, summary = bench.run(job)
    assert summary["steps"] == 5  # two passes over 10 samples in batches of 4
    plan = run_plan.make_plan(job, read_settings(job.phase, job.settings))
    dataset = OrderedDataset(plan.folders, plan.counts, seed=7, batch=BATCH)
    rows = [tuple(sample["tokens"]) for sample in dataset]
    assert len(set(rows[:10])) == len(set(rows[10:])) == 10


def test_blind_fine_tuning_sees_no_image(bench, cooled):
    out, summary = bench.run(bench.finetune(cooled[0], blind=True))
    assert summary["tokens"]["images"] == summary["tokens"]["image"] == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (cooled[0], out))
    assert not torch.equal(before["decoder.head.weight"], after["decoder.head.weight"])
    assert torch.equal(before["projector.first.weight"], after["projector.first.weight"])


def ordered(data, images: float, seed: int = 7, batch: int = BATCH, count: int = 40) -> OrderedDataset:
    counts = split_budget(count, {"text": 1 - images, "captions": images})
    return OrderedDataset({"text": data["text"], "captions": data["captions"]}, counts, seed, batch)


def text_read(dataset: OrderedDataset) -> list[tuple]:
    return [tuple(sample["tokens"]) for sample in dataset if "segments" not in sample]


def test_runs_with_different_image_fractions_read_the_same_text_in_the_same_order(data):
    plain, few, many = (text_read(ordered(data, images)) for images in (0.0, 0.1, 0.5))
    assert [len(rows) for rows in (plain, few, many)] == [40, 36, 20]
    assert plain[:36] == few
    assert plain[:20] == many


def test_another_seed_reads_another_order(data):
    assert text_read(ordered(data, 0.1, seed=7)) != text_read(ordered(data, 0.1, seed=8))


def numbers_read(data, ranks: int, first: int = 0) -> np.ndarray:
    """The numbers of the samples [ranks, steps, of a rank] that ranks read, from step `first` on, four a step."""
    counts = {"text": 30, "captions": 10}
    folders = {name: data[name] for name in counts}
    rows = []
    for rank in range(ranks):
        dataset = OrderedDataset(folders, counts, 7, BATCH, first, rank, ranks)
        every = {dataset[number]["tokens"].tobytes(): number for number in range(dataset.num_samples)}
        rows.append([every[sample["tokens"].tobytes()] for sample in dataset])
    return np.array(rows).reshape(ranks, -1, BATCH // ranks)


def test_two_ranks_read_the_global_batches_of_one(data):
    single = numbers_read(data, 1)[0]
    double = numbers_read(data, 2)
    assert double.shape == (2, 10, 2)
    assert [sorted(batch) for batch in single.tolist()] == [sorted(double[:, i].flatten().tolist()) for i in range(10)]


def test_the_shares_of_ranks_one_after_the_other_are_the_batches_of_one(data):
    single = numbers_read(data, 1)[0]
    for ranks in (2, 4):
        assert np.concatenate(numbers_read(data, ranks), axis=1).tolist() == single.tolist()


def test_two_ranks_go_on_from_the_middle_like_one(data):
    whole = numbers_read(data, 2)
    tail = numbers_read(data, 2, first=3)
    assert tail.tolist() == whole[:, 3:].tolist()


def test_a_batch_that_ranks_cannot_share_is_refused(data):
    with pytest.raises(ValueError, match="a batch of 4 sequences cannot be shared evenly by 3 processes"):
        OrderedDataset({"text": data["text"]}, {"text": 8}, 7, BATCH, ranks=3)


def construct(data, results) -> None:
    try:
        results.put(len(ordered(data, 0.25)))
    except Exception as error:
        results.put(repr(error))


def test_four_processes_may_construct_data_sets_at_once(data):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=construct, args=(data, results)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [results.get(timeout=20) for _ in processes] == [40] * 4
    for process in processes:
        process.join(timeout=20)


# What stops a run


def copied_text(bench) -> Path:
    write_shards(bench.folder / "text", TEXT_COLUMNS, text_samples(50))
    return bench.folder / "text"


def test_a_damaged_shard_is_named(bench):
    folder = copied_text(bench)
    shard = folder / "shard.00000.mds"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    job = bench.text()
    job.inputs = {"text": folder}
    with pytest.raises(ValueError, match=f"{shard}: missing or damaged"):
        bench.run(job)


def test_a_missing_shard_is_named(bench):
    folder = copied_text(bench)
    (folder / "shard.00000.mds").unlink()
    job = bench.text()
    job.inputs = {"text": folder}
    with pytest.raises(ValueError, match=r"shard\.00000\.mds: missing or damaged"):
        bench.run(job)


def test_every_shard_of_many_is_checked(tmp_path, monkeypatch):
    from streaming import MDSWriter

    with MDSWriter(out=str(tmp_path), columns=TEXT_COLUMNS, hashes=["sha1"], size_limit=500) as writer:
        for sample in text_samples(50):
            writer.write(sample)
    shards = sorted(tmp_path.glob("*.mds"))
    assert len(shards) > 2
    assert verify_shards(tmp_path) == 50
    shards[-1].write_bytes(shards[-1].read_bytes()[:-1])
    with pytest.raises(ValueError, match=shards[-1].name):
        verify_shards(tmp_path)


def test_a_loss_that_is_no_number_stops_the_run(bench, parent):
    broken = bench.folder / "broken"
    broken.mkdir()
    weights = load_file(parent / "model.safetensors")
    weights["decoder.head.weight"][0, 0] = float("nan")
    save_file(weights, broken / "model.safetensors")
    (broken / "optimizer.safetensors").write_bytes((parent / "optimizer.safetensors").read_bytes())
    job = bench.cooldown(broken)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1"):
        bench.run(job)
    assert find_resumable(job.resume) is None


def test_a_stream_that_is_planned_but_not_there_stops_the_run(bench, parent):
    job = bench.cooldown(parent)
    del job.inputs["captions"]
    with pytest.raises((ValueError, KeyError), match="captions"):
        bench.run(job)


def test_an_image_without_features_stops_the_run(bench, parent):
    job = bench.cooldown(parent)
    job.inputs["features"] = bench.data["instructions-features"]
    with pytest.raises(KeyError):
        bench.run(job)


def test_a_state_json_says_what_was_done(cooled):
    state = json.loads((cooled[0] / "state.json").read_text())
    assert state["step"] == COOLDOWN_STEPS
    assert state["tokens"] == COOLDOWN_STEPS * BATCH * MODEL["sequence"]
    assert state["seen"] == cooled[1]["tokens"]


def test_losses_have_a_row_an_update(cooled):
    rows = losses(cooled[0])
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["tokens"] for row in rows] == [64 * step for step in range(1, 6)]
    assert all(0 < row["loss"] < 20 for row in rows)


def test_calibration_centres_and_scales_the_features(parent):
    model, _, _ = branched(parent, "keep")
    assert not model.projector.calibrated
    features = 3 + 2 * torch.randn(50, 4, len(model.projector.mean))
    model.projector.calibrate(features)
    centred = (features - model.projector.mean) / model.projector.scale
    assert model.projector.calibrated
    assert centred.mean((0, 1)).abs().max() < 1e-5
    assert centred.std() == pytest.approx(1.0, abs=1e-3)


def test_a_cooldown_with_images_leaves_a_calibrated_projector(bench, parent):
    out, _ = bench.run(bench.cooldown(parent))
    weights = load_file(out / "model.safetensors")
    assert weights["projector.mean"].any()
    assert weights["projector.scale"] > 0


def test_the_papers_projector_sees_features_as_they_are_and_may_have_three_layers(bench, parent):
    out, summary = bench.run(bench.cooldown(parent, encoder=ENCODER | {"calibrate": False, "projector": 3}))
    weights = load_file(out / "model.safetensors")
    assert not weights["projector.mean"].any() and weights["projector.scale"] == 1
    assert weights["projector.third.weight"].shape == (MODEL["width"], MODEL["width"])
    _, plain = bench.run(bench.cooldown(parent))
    more = 6 * (FEATURES * 4 * FEATURES + 4 * FEATURES * 16 - FEATURES * 16) * summary["tokens"]["image"]
    assert summary["training_flops"] - plain["training_flops"] == more


# Images that first come in fine-tuning


def test_a_cooldown_without_images_leaves_the_projector_as_it_was(bench, parent):
    out, _ = bench.run(bench.cooldown(parent, images=0.0))
    weights = load_file(out / "model.safetensors")
    fresh = build_model(ModelSize(**MODEL), Encoder(**ENCODER), text_seed=124, seed=7).projector
    assert all(torch.equal(weights[f"projector.{name}"], value) for name, value in fresh.state_dict().items())
    assert not fresh.calibrated


def test_fine_tuning_calibrates_a_projector_that_never_saw_an_image(bench, parent):
    plain, _ = bench.run(bench.cooldown(parent, images=0.0))
    weights = load_file(bench.run(bench.finetune(plain))[0] / "model.safetensors")
    features = torch.stack(packed_samples(10, seed=1)[2])  # fewer than what it is calibrated on: all of them
    torch.testing.assert_close(weights["projector.mean"], features.mean((0, 1)))


def test_fine_tuning_a_text_state_gives_it_a_new_projector(bench, text):
    out, summary = bench.run(bench.finetune(text))
    assert summary["steps"] == 5
    weights, moments = load_file(out / "model.safetensors"), load_file(out / "optimizer.safetensors")
    assert weights["projector.mean"].any()
    assert moments["decoder.head.weight.step"] == moments["projector.first.weight.step"] == 5
    model = build_model(ModelSize(**MODEL), Encoder(**ENCODER), text_seed=1, seed=7)
    assert all(name.startswith("projector.") for name in load_weights(model, text))


def test_a_text_state_and_a_cooldown_without_encoder_start_the_same_projector(bench, parent):
    without, _ = bench.run(bench.cooldown(parent, images=0.0, encoder=None))
    with_one, _ = bench.run(bench.cooldown(parent, images=0.0))
    assert losses(bench.run(bench.finetune(without))[0]) == losses(bench.run(bench.finetune(with_one))[0])


def test_fine_tuning_may_start_from_nothing(bench):
    job = bench.finetune(bench.folder, main_seed=124)
    del job.inputs["branch"]
    _, summary = bench.run(job)
    assert summary["steps"] == 5
