"""Settings: what is right loads fast, and what is wrong gives one line with file, key, found and allowed."""

import math
import time

import pytest
import yaml
from conftest import SCALE, complaint

from pipeline.engines.workflow import Workflow

PARAMS = "params.yaml"
DATA = "configs/data/scenes.yaml"
ENCODER = "configs/encoder/efficientnet_lite0.yaml"
TASKS = "configs/tasks/scenes.yaml"
NAN, INF = math.nan, math.inf


def test_good_settings_load(project):
    settings = project.settings()
    assert settings.scale.model.sequence == 64
    assert settings.params.recipe.branch_percent == 80


def test_loading_takes_well_under_a_second(project):
    project.settings()  # the first time imports the YAML reader
    start = time.process_time()
    project.settings()
    assert time.process_time() - start < 0.5


# (file, key, value, what the line must say is allowed)
UNKNOWN_KEYS = [
    (PARAMS, "presett", "small", "did you mean 'preset'?"),
    (PARAMS, "recipe.image_fractions", 0.1, "did you mean 'image_fraction'?"),
    (PARAMS, "experiments.timing.varry", {}, "did you mean 'vary'?"),
    (PARAMS, "experiments.timing.vary.branch_percents", [20], "did you mean 'branch_percent'?"),
    (SCALE, "modle", 3, "did you mean 'model'?"),
    (SCALE, "model.head", 2, "did you mean 'heads'?"),
    (SCALE, "text.peak_rl", 0.01, "did you mean 'peak_lr'?"),
    (SCALE, "cooldown.warmup_fraction", 0.1, "keys here are"),
    (SCALE, "finetune.warmup_steps", 5, "keys here are"),
    (SCALE, "hardware.zzz", 1, "no such key; keys here are device"),
    (DATA, "sauce", "scenes", "did you mean 'source'?"),
    (DATA, "licences.0.nam", "x", "did you mean 'name'?"),
    (ENCODER, "pixel", 128, "did you mean 'pixels'?"),
    (TASKS, "visions", {}, "did you mean 'vision'?"),
    (TASKS, "vision.boxes.thresold", 0.5, "did you mean 'threshold'?"),
    (TASKS, "text.copa.chanse", 0.5, "did you mean 'chance'?"),
]
WRONG_TYPES = [
    (PARAMS, "recipe.seed", "seven", "integer"),
    (PARAMS, "recipe.seed", 7.5, "integer"),
    (PARAMS, "recipe.seed", True, "integer"),
    (PARAMS, "recipe.image_fraction", "ten percent", "number (from 0 to 1)"),
    (PARAMS, "recipe.encoder", 3, "string"),
    (PARAMS, "recipe", None, "dictionary"),
    (PARAMS, "recipe", "default", "dictionary"),
    (PARAMS, "experiments.timing.vary.branch_percent", 80, "list"),
    (PARAMS, "experiments.timing.vary.branch_percent.1", "half", "number (from 0 to 100)"),
    (PARAMS, "wandb", False, "'disabled', 'offline' or 'online'"),  # what YAML makes of an unquoted off
    (SCALE, "text.decay_vectors", "yes", "boolean"),
    (SCALE, "text.tokens", 51200.0, "integer"),
    (SCALE, "data.documents", "all", "integer"),
    (TASKS, "vision", [], "dictionary"),
]
OUT_OF_RANGE = [
    (PARAMS, "recipe.image_fraction", 10, "less than or equal to 1 (from 0 to 1)"),
    (PARAMS, "recipe.image_fraction", -0.1, "greater than or equal to 0 (from 0 to 1)"),
    (PARAMS, "recipe.image_fraction", NAN, "(from 0 to 1)"),
    (PARAMS, "recipe.branch_percent", 101, "(from 0 to 100)"),
    (PARAMS, "recipe.branch_percent", INF, "(from 0 to 100)"),
    (PARAMS, "recipe.finetune_epochs", 0, "greater than or equal to 1"),
    (PARAMS, "recipe.seed", -1, "greater than or equal to 0"),
    (PARAMS, "recipe.moments", "kepp", "did you mean 'keep'?"),
    (PARAMS, "split", "train", "'test' or 'validation'"),
    (PARAMS, "experiments.timing.vary.branch_percent.0", 120, "(from 0 to 100)"),
    (SCALE, "model.vocabulary", 2_000_000, "(from 300 to 1048576)"),
    (SCALE, "model.layers", 0, "greater than or equal to 1"),
    (SCALE, "text.peak_lr", 0, "(from 0 to 1)"),
    (SCALE, "text.peak_lr", 2, "(from 0 to 1)"),
    (SCALE, "text.floor_lr", NAN, "(from 0 to 1)"),
    (SCALE, "text.clip_norm", NAN, "finite"),
    (SCALE, "text.clip_norm", INF, "finite"),
    (SCALE, "text.beta2", 1.0, "less than 1"),
    (SCALE, "cooldown.weight_decay", -0.1, "(from 0 to 10)"),
    (SCALE, "finetune.z_loss", INF, "(from 0 to 1)"),
    (SCALE, "hardware.device", "cuda", "'cpu' or 'gpu'"),
    (SCALE, "hardware.microbatch", 0, "greater than or equal to 1"),
    (SCALE, "hardware.precision", "fp16", "'bf16'"),
    (SCALE, "hardware.sharding", "fdsp", "'ddp' or 'fsdp' (did you mean 'fsdp'?)"),
    (ENCODER, "pixels", 8, "greater than or equal to 32"),
    (TASKS, "vision.presence.chance", 1.5, "(from 0 to 1)"),
    (TASKS, "vision.boxes.scorer", "boxes", "did you mean 'box'?"),
]
UNKNOWN_NAMES = [
    (PARAMS, "preset", "smal", "a file of configs/scale/: small (did you mean 'small'?)"),
    (PARAMS, "preset", "../small", "a file of configs/scale/"),
    (PARAMS, "data", "scene", "a file of configs/data/: paper, scenes (did you mean 'scenes'?)"),
    (PARAMS, "tasks", "nothing", "a file of configs/tasks/: paper, scenes"),
    (PARAMS, "recipe.encoder", "efficientnet", "a file of configs/encoder/"),
    (DATA, "source", "laion", "'scenes'"),
    (ENCODER, "kind", "resnet", "'efficientnet_lite0'"),
    (ENCODER, "weights", "no_such_package", "an installed package or an existing folder"),
    (ENCODER, "weights", "./no/such/folder", "an installed package or an existing folder"),
]
DO_NOT_FIT = [
    (SCALE, "model.width", 34, "a multiple of 2 x heads = 4"),
    (SCALE, "model.sequence", 31, "at least efficientnet_lite0's patches + 16"),
    (SCALE, "text.tokens", 511, "at least one batch of 8 x 64 = 512"),
    (SCALE, "cooldown.tokens", 300, "at least one batch of 8 x 64 = 512"),
    (SCALE, "text.warmup_steps", 100, "fewer than the phase's 100 steps"),
    (SCALE, "cooldown.warmup_steps", 21, "fewer than the phase's 20 steps"),
    (SCALE, "text.floor_lr", 0.02, "at most peak_lr = 0.01"),
    (SCALE, "finetune.floor_lr", 0.004, "at most peak_lr = 0.003"),
    (SCALE, "hardware.microbatch", 16, "at most text.batch = 8"),
    (SCALE, "hardware.devices", 3, "a number that times hardware.nodes = 1 divides text.batch = 8"),
]


def name(case) -> str:
    return f"{case[1]}={case[2]}"


@pytest.mark.parametrize("case", UNKNOWN_KEYS + WRONG_TYPES + OUT_OF_RANGE + UNKNOWN_NAMES + DO_NOT_FIT, ids=name)
def test_a_bad_value_is_one_line(project, case):
    file, key, value, allowed = case
    project.set(file, key, value)
    line = complaint(project)
    assert line.startswith(f"{file}: {key}: found {value!r}, allowed: ")
    assert allowed in line


def test_a_microbatch_fits_a_devices_share_of_the_batch(project):
    project.set(SCALE, "hardware.nodes", 2)
    project.set(SCALE, "hardware.devices", 2)
    line = f"{SCALE}: hardware.microbatch: found 8, allowed: at most text.batch = 8, shared by 4 devices"
    assert complaint(project) == line
    project.set(SCALE, "hardware.microbatch", 2)
    project.settings()


def test_jobs_of_several_devices_share_none(project):
    project.set(SCALE, "hardware.microbatch", 4)
    project.set(SCALE, "hardware.devices", 2)
    project.set(SCALE, "hardware.jobs_a_device", 2)
    line = f"{SCALE}: hardware.jobs_a_device: found 2, allowed: 1 for jobs of several devices"
    assert complaint(project) == line


@pytest.mark.parametrize(
    ("key", "values", "place", "allowed"),
    [
        ("timing.vary.branch_percent", [20, 120], 1, "(from 0 to 100)"),
        ("seeds.vary.finetune_seed", [7, 8, -1], 2, "greater than or equal to 0"),
    ],
)
def test_a_bad_value_in_an_experiment_is_named_with_its_place(project, key, values, place, allowed):
    project.set(PARAMS, f"experiments.{key}", values)
    line = complaint(project)
    assert line.startswith(f"{PARAMS}: experiments.{key}.{place}: found {values[place]!r}, allowed: ")
    assert allowed in line


@pytest.mark.parametrize(
    ("file", "key"), [(PARAMS, "preset"), (PARAMS, "recipe.seed"), (SCALE, "text.tokens"), (ENCODER, "cache")]
)
def test_a_missing_key_is_one_line(project, file, key):
    project.remove(file, key)
    assert complaint(project) == f"{file}: {key}: missing; this key must be set"


def test_an_unknown_key_is_named_rather_than_the_one_it_was_meant_for(project):
    project.remove(PARAMS, "recipe.seed")
    project.set(PARAMS, "recipe.sead", 7)
    assert complaint(project).startswith(f"{PARAMS}: recipe.sead: found 7, allowed: no such key; did you mean 'seed'?")


BROKEN_FILES = {
    "duplicate key": ("preset: small\npreset: tiny\n", "duplicate key preset"),
    "duplicate nested key": ("recipe:\n  seed: 1\n  seed: 2\n", "duplicate key seed"),
    "unclosed list": ("preset: [small\n", "line"),
    "tab": ("recipe:\n\tseed: 1\n", "line 2"),
    "two keys on a line": ("preset: small: tiny\n", "line 1"),
    "list": ("- preset\n- small\n", "a mapping of keys to values"),
    "number": ("3\n", "a mapping of keys to values"),
}


@pytest.mark.parametrize("file", [PARAMS, SCALE])
@pytest.mark.parametrize("kind", BROKEN_FILES)
def test_a_broken_file_is_one_line(project, file, kind):
    text, reason = BROKEN_FILES[kind]
    project.write(file, text)
    line = complaint(project)
    assert line.startswith(f"{file}: (file): found ")
    assert reason in line


def test_a_file_that_is_no_text_is_one_line(project):
    (project.root / PARAMS).write_bytes(b"preset: \xff\xfe\n")
    assert complaint(project).startswith(f"{PARAMS}: (file): found ")


def test_an_empty_file_is_one_line(project):
    project.write(PARAMS, "")
    assert complaint(project).startswith(f"{PARAMS}: ")


def test_a_missing_params_file_is_one_line(project):
    (project.root / PARAMS).unlink()
    line = complaint(project)
    assert line == f"{PARAMS}: (file): found 'no such file', allowed: a params.yaml in the working folder"


def test_a_key_that_is_no_word_is_one_line(project):
    content = project.read(PARAMS)
    project.write(PARAMS, yaml.safe_dump({3: "x"} | content))
    assert complaint(project).startswith(f"{PARAMS}: 3: found ")


def test_branch_points_on_the_same_step(project):
    project.set(PARAMS, "experiments.timing.vary.branch_percent", [0, 80, 80.2])
    line = complaint(project)
    assert line.startswith(f"{PARAMS}: experiments.timing.vary.branch_percent: found 80.2, allowed: ")
    assert "80 is step 80 of 100 too" in line


def test_the_same_branch_point_twice_is_one_branch_point(project):
    project.set(PARAMS, "experiments.timing.vary.branch_percent", [50, 80, 80])
    rows = project.study().tables["table1"].card_settings["rows"]
    assert len([row for row in rows if row["evaluated"] == "model"]) == 2


def test_a_box_task_without_a_threshold_is_refused(project):
    project.remove(TASKS, "vision.boxes.threshold")
    assert complaint(project).startswith(f"{TASKS}: vision.boxes.threshold: ")


def test_a_prompt_without_a_place_for_the_question_is_refused(project):
    project.set(TASKS, "vision.boxes.prompt", "Where is it?")
    assert complaint(project).startswith(f"{TASKS}: vision.boxes.prompt: found 'Where is it?', allowed: ")


def test_a_cooldown_floor_above_the_rate_at_a_branch_is_refused(project):
    project.set(PARAMS, "experiments.timing.vary.branch_percent", [50, 99])
    project.set(SCALE, "cooldown.floor_lr", 0.001)  # the text run has 0.0001 there
    assert "floor_lr" in complaint(project)


# Snakemake


def test_snakemakes_config_option_is_refused(project, capsys):
    with pytest.raises(SystemExit) as stopped:
        Workflow(project.root, {"preset": "small"}, main=True)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("command line: --config: found {'preset': 'small'}, allowed: nothing: ")
    assert line.endswith(
        "settings are in params.yaml; edit it, or see `python -m pipeline plan KEY=VALUE`, "
        "or `dvc exp run -S KEY=VALUE`"
    )


def test_snakemake_stops_with_the_one_line_of_a_bad_setting(project, capsys):
    project.set(PARAMS, "recipe.seed", "seven")
    with pytest.raises(SystemExit) as stopped:
        Workflow(project.root, {}, main=True)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{PARAMS}: recipe.seed: found 'seven', allowed: ")


def test_a_refused_workflow_writes_no_job_files(project):
    with pytest.raises(SystemExit):
        Workflow(project.root, {"preset": "small"}, main=True)
    assert not (project.root / ".study").exists()
