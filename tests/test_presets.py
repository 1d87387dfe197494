"""The presets of the paper's sizes: shapes, budgets and rates as published, and what their authors' scripts did otherwise."""

import re
import shutil

import pytest
import yaml
from conftest import SOURCE
from test_docs import check

from pipeline.commands.costs import TRAINING
from pipeline.commands.fit import Trained
from pipeline.commands.plan import Plan, devices
from pipeline.engines.resources import share
from pipeline.model.sizes import DecoderShape
from pipeline.settings.load import load_scale, load_settings
from pipeline.settings.scale import Hardware, Scale, check_scale
from pipeline.settings.yaml_file import load_yaml
from pipeline.store.ledger import Ledger
from pipeline.study.study import Study
from pipeline.training.schedule import cooldown_schedule, main_schedule

FILES = sorted(file.stem for file in (SOURCE / "configs/scale").glob("*.yaml"))
PAPER = ["79m", "154m", "411m", "1b", "7b"]
AS_RUN = {"1b": {"text.batch"}, "154m": {"cooldown.rewarm_all"}, "411m": {"cooldown.rewarm_all"}}
PARAMETERS = {"79m": 78_922_240, "154m": 153_705_024, "411m": 411_665_408, "1b": 1_439_893_504, "7b": 6_889_672_704}


def preset(name: str) -> Scale:
    file = f"configs/scale/{name}.yaml"
    scale, _ = load_scale(SOURCE, load_yaml(SOURCE / file, SOURCE), file)
    check_scale(scale, file)
    return scale


def shape(size) -> DecoderShape:
    return DecoderShape(size.vocabulary, size.layers, size.heads, size.width)


def leaves(value: dict, prefix: str = "") -> dict:
    """A nested mapping as one, keys joined by dots."""
    found = {}
    for key, inner in value.items():
        found |= leaves(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {f"{prefix}{key}": inner}
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_preset_is_valid_and_says_how_it_is_run(name):
    preset(name)
    head = (SOURCE / f"configs/scale/{name}.yaml").read_text(encoding="utf-8").split("model:")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert name == "micro" or ("command" in head and "expected" in head)
    for command in re.findall(r"^#   command   (.+?)(?:, with .*)?$", head, re.M):
        check(command)  # its target, profile and options exist


@pytest.mark.parametrize("name", PAPER)
def test_parameters_are_openlms(name):
    """The count of OpenLM's 1b with its QK gains is published; the other names are rounded counts."""
    assert shape(preset(name).model).parameters() == PARAMETERS[name]


@pytest.mark.parametrize("name", ["79m", "154m", "411m", "1b"])
def test_three_thousand_text_tokens_a_parameter_and_twenty_in_the_cooldown(name):
    scale = preset(name)
    assert scale.text.tokens / PARAMETERS[name] == pytest.approx(3000, rel=0.005)
    assert scale.cooldown.tokens / PARAMETERS[name] == pytest.approx(20, rel=0.005)


def test_the_larger_size_of_1b_is_7b():
    larger, model = preset("1b").larger, preset("7b").model
    assert (larger.layers, larger.heads, larger.width) == (model.layers, model.heads, model.width)


def trained(scale: Scale, size: str, hardware: Hardware) -> Trained:
    """A training job of a preset, with the projector of the paper's encoder."""
    own = {key: getattr(scale.larger, key) for key in ("layers", "heads", "width")} if size == "larger" else {}
    model = scale.model.model_copy(update=own)
    return Trained(None, model, shape(model).parameters(1152, 2), hardware, size)


@pytest.mark.parametrize("name", [name for name in FILES if preset(name).hardware.device == "gpu"])
def test_both_sizes_fit_their_devices_and_the_larger_one_would_not_on_the_others_terms(name):
    scale = preset(name)
    assert trained(scale, "base", scale.hardware).fits()
    assert scale.hardware.device_memory_gb == 80
    if scale.larger:
        assert trained(scale, "larger", scale.hardware_of("larger")).fits()
        assert not trained(scale, "larger", scale.hardware).fits()


@pytest.mark.parametrize(
    ("percent", "published"), [(20, 9.0803e-3), (40, 6.49997e-3), (60, 3.44667e-3), (80, 9.7890e-4)]
)
@pytest.mark.parametrize("name", ["1b", "1b_as_run"])
def test_branches_of_1b_start_at_about_the_scripts_rates(name, percent, published):
    """The scripts' rates are those at 19.65, 40.37, 60.19 and 80.03% of the text run, not at the round numbers."""
    scale = preset(name)
    main = main_schedule(scale.text, scale.model.sequence)
    assert main.rate(round(percent / 100 * main.steps)) == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize("name", AS_RUN)
def test_what_the_scripts_did_otherwise_is_all_that_differs(name):
    paper, as_run = (leaves(preset(n).model_dump()) for n in (name, f"{name}_as_run"))
    assert {key for key in paper if paper[key] != as_run[key]} == AS_RUN[name]


def test_small_models_warmed_up_at_every_branch_as_their_authors_ran_them():
    for name, warms_up in (("154m", False), ("154m_as_run", True)):
        scale = preset(name)
        cooldown, main = scale.cooldown, main_schedule(scale.text, scale.model.sequence)
        schedule = cooldown_schedule(
            main,
            branch_step=main.steps // 2,
            steps=cooldown.tokens // (cooldown.batch * scale.model.sequence),
            floor=cooldown.floor_lr,
            peak=cooldown.peak_lr,
            warmup=cooldown.warmup_steps,
            rewarm=cooldown.peak_lr if cooldown.rewarm_all else None,
        )
        assert (schedule.rate(0) < schedule.rate(999)) == warms_up


@pytest.mark.parametrize("name", ["79m", "154m", "411m", "1b"])
def test_a_job_has_the_time_that_the_plan_expects_or_a_day_at_a_time(tmp_path, name):
    """Of both sizes. A job that stopped itself in time goes on, but the start and the wait in the queue cost time too."""
    shutil.copytree(SOURCE / "configs", tmp_path / "configs")
    (tmp_path / "pipeline").symlink_to(SOURCE / "pipeline")
    params = load_yaml(SOURCE / "configs/studies/paper.yaml", SOURCE) | {"preset": name}
    for experiment in params["experiments"].values():
        experiment["vary"] = {key: [] for key in experiment["vary"]}
    params["experiments"]["timing"]["vary"] = {"branch_percent": [0, 100]}
    params["experiments"]["mine"] = {"says": "Sizes", "vary": {"size": ["base", "larger"]}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    plan = Plan(Ledger(Study(load_settings(tmp_path)), tmp_path))
    asked = {(job.phase, share(job, 1).minutes) for job in plan.jobs if job.phase in TRAINING}
    assert {phase for phase, _ in asked} == set(TRAINING) and max(minutes for _, minutes in asked) == 1440
    for job in plan.jobs:
        if job.phase in TRAINING:
            expected = plan.costs[job.key].seconds / devices(job) / 60
            assert share(job, 1).minutes >= min(1.25 * expected, 1440)


def test_the_papers_study_can_be_planned_without_its_data_and_weights(tmp_path):
    """Models that share their ancestors; only a run needs files. The text run takes the 106,000 hours that are printed."""
    shutil.copytree(SOURCE / "configs", tmp_path / "configs")
    (tmp_path / "pipeline").symlink_to(SOURCE / "pipeline")
    shutil.copy(SOURCE / "configs/studies/paper.yaml", tmp_path / "params.yaml")
    plan = Plan(Ledger(Study(load_settings(tmp_path)), tmp_path))
    text = [job for job in plan.jobs if job.phase == "pretrain" and "larger" not in job.label]
    assert plan.spent(text).seconds / 3600 == pytest.approx(106_000, rel=0.05)
    assert plan.spent(text).tokens == pytest.approx(4.319e12, rel=1e-5)
    assert plan.to_do == plan.jobs
    assert plan.alone > 4 * plan.shared
