"""What stops a run that has gone wrong, says where, and leaves healthy ones alone."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_training import BATCH, MODEL, Bench, Killed, data, packed_samples, parent, shared  # noqa: F401

from pipeline.common.files import stable_json
from pipeline.data.store import PACKED_COLUMNS, TEXT_COLUMNS, write_shards
from pipeline.model.vlm import VLM, Projector
from pipeline.training import composer, health, train
from pipeline.training.batches import OrderedDataset
from pipeline.training.build import build_model
from pipeline.training.health import PATIENCE, RISE, LossWatch, ProjectorWatch, check_weights
from pipeline.training.schedule import Schedule
from pipeline.training.state import find_resumable

STEPS = PATIENCE + 5


@pytest.fixture
def bench(tmp_path, data) -> Bench:  # noqa: F811
    return Bench(tmp_path, data)


def follow(losses) -> int | None:
    """The step at which a run with these losses is stopped."""
    watch = LossWatch("text.peak_lr")
    for step, loss in enumerate(losses, 1):
        try:
            watch.look(step, loss)
        except FloatingPointError as error:
            assert f"step {step}" in str(error) and "text.peak_lr" in str(error) and "\n" not in str(error)
            return step
    return None


# The loss


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_a_run_at_once(loss):
    assert follow([3.0, 3.0, loss]) == 3


def test_a_loss_that_rises_and_stays_there_stops_a_run():
    falling = [*np.linspace(8, 3, 100), *[3.0] * PATIENCE]
    assert follow(falling + [3 + RISE + 0.2] * PATIENCE) == len(falling) + PATIENCE // 2 + 1


def test_a_run_that_explodes_from_its_first_updates_is_stopped_as_soon_as_there_is_a_median():
    assert follow([5.0, 20.0] + [90.0] * PATIENCE) == PATIENCE


@pytest.mark.parametrize(
    "losses",
    [
        [11.0] * 10 + list(np.linspace(11, 0.05, 200)),  # begins above what guessing gives
        [3.0] * 50 + [9.0] * (PATIENCE // 2) + [3.0] * 50,  # a spike that ends
        [3.0] * 50 + [3.0 + RISE - 0.1] * 100,
        [0.5] * 3,
        [],
    ],
    ids=["falls", "spike", "a little worse", "short", "none"],
)
def test_a_healthy_run_is_not_stopped(losses):
    assert follow(losses) is None


@given(st.lists(st.floats(0, 20), max_size=120))
def test_a_run_is_stopped_by_the_rule_as_it_is_written(losses):
    medians = [float(np.median(losses[n - PATIENCE : n])) for n in range(PATIENCE, len(losses) + 1)]
    lowest = list(itertools.accumulate([losses[0], *medians] if losses else [], min))[1:]
    rule = next((n for n, (m, low) in enumerate(zip(medians, lowest), PATIENCE) if m > low + RISE), None)
    assert follow(losses) == rule


def too_fast(bench, parent):  # noqa: F811
    """A run with far too high a rate, and moments that hardly remember."""
    job = bench.finetune(parent, epochs=25)
    job.settings["optimisation"] |= {"peak_lr": 1.0, "clip_norm": 1e9, "beta2": 0.2, "warmup_fraction": 0.5}
    return job


def test_a_real_run_that_explodes_is_stopped_and_named(bench, parent):  # noqa: F811
    job = too_fast(bench, parent)
    with pytest.raises(FloatingPointError, match=r"has exploded from .* at step \d+; .* \(finetune\.peak_lr\)"):
        bench.run(job)


def test_a_resumed_run_is_stopped_where_an_undisturbed_one_is(bench, parent):  # noqa: F811
    def stopped(job) -> str:
        with pytest.raises(FloatingPointError, match="has exploded") as error:
            bench.run(job)
        return str(error.value)

    job = too_fast(bench, parent)
    job.progress.kill_at = 11
    with pytest.raises(Killed):
        bench.run(job)
    job.progress.kill_at = None
    assert stopped(job) == stopped(too_fast(bench, parent))


def test_the_key_is_that_of_the_rate_that_was_too_high():
    warm, continued = Schedule(0.01, 0, 2, 10), Schedule(0.01, 0, 0, 10)
    assert composer.rate_key("pretrain", warm) == composer.rate_key("cooldown", continued) == "text.peak_lr"
    assert composer.rate_key("cooldown", warm) == "cooldown.peak_lr"
    assert composer.rate_key("finetune", continued) == "finetune.peak_lr"


# Weights


def test_weights_that_are_not_finite_are_named():
    model = torch.nn.Linear(2, 2)
    check_weights(model, 3, "text.peak_lr")
    with torch.no_grad():
        model.bias[1] = math.nan
    with pytest.raises(FloatingPointError, match=r"bias is not finite after step 3; .*text\.peak_lr"):
        check_weights(model, 3, "text.peak_lr")


def test_no_state_is_saved_with_weights_that_are_not_finite(bench, parent):  # noqa: F811
    """Moments that overflow at the second update: its loss is the last finite one."""
    broken = bench.folder / "broken"
    broken.mkdir()
    save_file(load_file(parent / "model.safetensors"), broken / "model.safetensors")
    moments = load_file(parent / "optimizer.safetensors")
    moments["decoder.head.weight.exp_avg"][0, 0] = math.inf
    save_file(moments, broken / "optimizer.safetensors")
    job = bench.cooldown(broken, images=0.0)
    job.context["save_steps"] = 1
    with pytest.raises(FloatingPointError, match=r"decoder\.head\.weight is not finite after step 1"):
        bench.run(job)
    assert find_resumable(job.resume) is None


# The projector


def alone(tensor):
    """The sum over one rank."""


def watched(updates: int, change=lambda projector: None, seen=lambda output: output) -> ProjectorWatch:
    """A projector trained for some updates with images, of which the loss sees what `seen` makes of its output."""
    torch.manual_seed(0)
    projector = Projector(8, 16)
    change(projector)
    watch = ProjectorWatch(projector)
    for step in range(1, updates + 1):
        projector.zero_grad()
        seen(projector(torch.randn(2, 3, 8))).square().sum().backward()
        watch.look(step, alone)
    return watch


def saturate(projector) -> None:
    with torch.no_grad():
        projector.first.bias.fill_(-1e4)


def test_a_projector_that_learns_is_left_alone():
    watched(4 * PATIENCE)


def test_a_projector_whose_output_does_not_vary_is_dead():
    with pytest.raises(RuntimeError, match=rf"output has not varied in the last {PATIENCE} .* at step {PATIENCE}:"):
        watched(PATIENCE, saturate)
    watched(PATIENCE - 1, saturate)


@pytest.mark.parametrize("updates", [1, PATIENCE - 1])
def test_a_run_that_is_too_short_to_be_looked_at_on_its_way_is_at_its_end(updates):
    watched(updates).close(updates, alone)
    watched(0, saturate).close(0, alone)  # nothing was seen
    with pytest.raises(
        RuntimeError, match=rf"not varied in the last {updates} updates with images, at step {updates}:"
    ):
        watched(updates, saturate).close(updates, alone)


def test_a_few_updates_after_a_look_are_no_reason_for_another():
    """One image of one colour, say, is not."""
    watch = watched(PATIENCE)
    saturate(watch.projector)
    watch.projector(torch.randn(2, 3, 8)).sum().backward()
    watch.look(PATIENCE + 1, alone)
    watch.close(PATIENCE + 1, alone)


def test_a_projector_without_gradient_is_dead():
    with pytest.raises(RuntimeError, match=rf"no gradient .* at step {PATIENCE}:"):
        watched(PATIENCE, seen=lambda output: output * 0)


def test_a_projector_may_die_later():
    torch.manual_seed(0)
    projector = Projector(8, 16)
    watch = ProjectorWatch(projector)
    with pytest.raises(RuntimeError, match=f"at step {3 * PATIENCE}:"):
        for step in range(1, 4 * PATIENCE):
            if step == 2 * PATIENCE:
                saturate(projector)
            projector.zero_grad()
            projector(torch.randn(2, 3, 8)).square().sum().backward()
            watch.look(step, alone)


def test_a_healthy_projector_is_looked_at_once_in_a_while(monkeypatch):
    looks = []
    monkeypatch.setattr(health, "local", lambda tensor: looks.append(1) or tensor)
    watched(4 * PATIENCE)
    assert len(looks) == 4


@pytest.mark.parametrize(
    ("what", "said"), [("saturated", "output has not varied"), ("cut off", "no gradient has reached")]
)
def test_a_run_with_a_dead_projector_is_stopped(bench, parent, monkeypatch, what, said):  # noqa: F811
    build, embed = build_model, VLM.embed

    def saturated(*arguments):
        model = build(*arguments)
        saturate(model.projector)
        return model

    def cut_off(model, tokens, features=None, slots=None):
        if features is None:
            return embed(model, tokens)
        with torch.no_grad():
            image = model.projector(features).flatten(0, 1)
        x = model.decoder.embedding(tokens)
        return x.flatten(0, 1).index_copy(0, slots, image).view_as(x)

    if what == "saturated":
        monkeypatch.setattr(train, "build_model", saturated)
    else:
        monkeypatch.setattr(VLM, "embed", cut_off)
    job = bench.finetune(parent, epochs=STEPS * BATCH // 10)
    with pytest.raises(RuntimeError, match=rf"{said}.*at step {PATIENCE}"):
        bench.run(job)


def test_a_run_without_images_has_no_projector_to_watch(bench, parent):  # noqa: F811
    bench.run(bench.finetune(parent, blind=True, epochs=STEPS * BATCH // 10))


# The data


def masked(folder, samples) -> None:
    """Packed shards of which these samples (by number) have labels."""
    made, _, _ = packed_samples(10, 1)
    for number, sample in enumerate(made):
        if number not in samples:
            sample["loss"][:] = 0
    write_shards(folder, PACKED_COLUMNS, made)


def test_a_stream_without_a_label_stops_a_run_before_its_first_step(bench, parent):  # noqa: F811
    masked(bench.folder / "masked", [])
    job = bench.cooldown(parent)
    job.inputs["captions"] = bench.folder / "masked"
    with pytest.raises(ValueError, match=r"/masked: none of the 10 sequences of captions has a label"):
        bench.run(job)
    assert job.progress.seen == []


def test_a_label_at_the_first_position_is_none(bench, parent):  # noqa: F811
    """Nothing is predicted from nothing: the first token is never a target."""
    made, _, _ = packed_samples(10, 1)
    for sample in made:
        sample["loss"][:] = [1] + [0] * MODEL["sequence"]
    write_shards(bench.folder / "first", PACKED_COLUMNS, made)
    job = bench.finetune(parent)
    job.inputs["instructions"] = bench.folder / "first"
    with pytest.raises(ValueError, match="instructions has a label"):
        bench.run(job)


def test_a_batch_without_a_label_is_named(bench, parent):  # noqa: F811
    masked(bench.folder / "masked", [9])
    job = bench.finetune(parent)
    job.inputs["instructions"] = bench.folder / "masked"
    with pytest.raises(ValueError, match=rf"/masked: none of the {BATCH} sequences of step \d has a label"):
        bench.run(job)


def test_an_empty_stream_is_named(bench, parent):  # noqa: F811
    folder = bench.folder / "empty"
    write_shards(folder, TEXT_COLUMNS, [])
    (folder / "index.json").write_text(stable_json({"shards": [], "version": 2}))
    job = bench.cooldown(parent)
    job.inputs["captions"] = folder
    with pytest.raises(ValueError, match=r"empty/index\.json: no sequences, and \d+ of captions are planned"):
        bench.run(job)


def test_data_that_end_early_are_named(bench, monkeypatch):
    whole = OrderedDataset.__iter__
    monkeypatch.setattr(OrderedDataset, "__iter__", lambda read: itertools.islice(whole(read), 3 * BATCH))
    with pytest.raises(RuntimeError, match=r"/text: the data ended after 3 of \d+ steps"):
        bench.run(bench.text())
