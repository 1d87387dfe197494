"""What the phases are is written once, in pipeline/study/phases.py: dvc.yaml and the Snakefile say the same.

What a setting changes is found by trying: give it another value, and see which stages' cards are other cards.
"""

import subprocess
import sys
from fnmatch import fnmatch
from typing import Literal, get_args, get_origin

import pytest
import yaml
from conftest import SOURCE

from pipeline.engines.dvc_file import dvc_file
from pipeline.reporting.table_list import TABLES
from pipeline.settings.claims import Found
from pipeline.settings.errors import parse, section_at
from pipeline.settings.load import Settings, check_encoders, load_settings
from pipeline.settings.scale import check_scale
from pipeline.settings.sources import Corpora
from pipeline.settings.tasks import check_tasks
from pipeline.settings.yaml_file import load_yaml
from pipeline.store.failed_runs import RUNS
from pipeline.store.ledger import Ledger
from pipeline.study.phases import PHASES, STAGES
from pipeline.study.study import Study

DVC = yaml.safe_load((SOURCE / "dvc.yaml").read_text(encoding="utf-8"))

# Files of settings as dvc.yaml may name them, and where `Settings` has what they hold. DVC fills in the names.
FILES = {
    "params.yaml": "params",
    "configs/scale/${preset}.yaml": "scale",
    "configs/data/${data}.yaml": "data",
    "configs/checkpoints": "checkpoints",
    "configs/encoder": "encoders",
    "configs/tasks/${tasks}.yaml": "tasks",
    "configs/claims.yaml": "claims",
    "configs/measures.yaml": "measures",
    "configs/published.csv": "published",
    "configs/found.csv": "found",
    "configs/failed.json": "failed",  # no settings, but part of cards too
}
NAMES = {"params.preset": "scale", "params.data": "data", "params.tasks": "tasks"}  # what each stands for
ENCODER = ("pixels", "cache", "trained_rate")
OTHER = "other"  # for what has one valid value today; and the name of a second encoder

PAPER = load_yaml(SOURCE / "configs/data/paper.yaml", SOURCE)["source"]
CAPTIONS = dict.fromkeys(("full", "short", "keywords"), PAPER["captions"]["cc12m"])
CORPORA = parse(Corpora, PAPER | {"captions": CAPTIONS}, "")

# Values to try where neither one more, nor half, nor the opposite, nor another choice will do: the first that differs.
VALUES = {
    "params.preset": [OTHER],
    "params.data": [OTHER],
    "params.tasks": [OTHER],
    "params.recipe.branch_percent": [50, 60],
    "params.recipe.encoder": [OTHER],
    "params.recipe.captions": ["short"],
    "params.recipe.rewarm_like": [50, 60],
    "params.recipe.finetune_seed": [1, 2],
    "params.experiments.*.vary.branch_percent": [[0, 50, 100], [0, 60, 100]],
    "params.experiments.*.vary.rewarm_like": [[50], [60]],
    "params.experiments.*.vary.image_fraction": [[0.3], [0.4]],
    "params.experiments.*.vary.instruction_share": [[0.3], [0.4]],
    "params.experiments.*.vary.captions": [["short"], ["full"]],
    "params.experiments.*.vary.finetune_epochs": [[3], [5]],
    "params.experiments.*.vary.encoder": [[OTHER]],
    "params.experiments.*.vary.train_encoder": [[False], [True]],
    "params.experiments.*.vary.cooldown": [[True], [False]],
    "params.experiments.*.vary.moments": [["fresh"], ["keep"]],
    "params.experiments.*.vary.size": [["base"], ["larger"]],
    "params.experiments.*.vary.text_budget": [[0.25], [0.75]],
    "params.experiments.*.vary.seed": [[1], [2]],
    "params.experiments.*.vary.finetune_seed": [[1], [2]],
    "params.experiments.*.repeats": [2, 3],
    "scale.repeats.text": [1, 4],
    "scale.text.tokens": [2048000, 1024000],
    "scale.model.heads": [1, 2],
    "scale.model.width": [192, 96],
    "scale.larger.heads": [1, 2],
    "scale.larger.width": [192, 96],
    "scale.hardware.microbatch": [2, 1],
    "data.source": [CORPORA],
    "data.licences.*": ["one", "another"],
    "tasks.vision.*.prompt": ["{question}!", "{question}"],
    "tasks.vision.*.threshold": [0.5, 0.25],
}


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    """The default study's."""
    return Ledger(Study(load_settings(SOURCE)), SOURCE)


# Stages


def outs(stage: str) -> dict[str, dict]:
    """What a stage makes, with DVC's options."""
    return {path: options for out in DVC["stages"][stage]["outs"] for path, options in out.items()}


def phases_read(stage: str) -> list[str]:
    """The phases whose artifacts a stage depends on."""
    deps = DVC["stages"][stage]["deps"]
    return [dep.removeprefix("artifacts/") for dep in deps if dep.startswith("artifacts/")]


def test_dvc_yaml_is_what_the_command_writes(ledger):
    """Stages, what they call and make, and the code and artifacts that they depend on; also where some of it is missing."""
    text = (SOURCE / "dvc.yaml").read_text(encoding="utf-8")
    assert dvc_file(ledger, text) == text, "python -m pipeline dvc"
    lost = ("all_cooldown", "artifacts/shards", "artifacts/evaluate", "pipeline/model/vlm.py", "results/table3.md")
    lines = [line for line in text.splitlines(keepends=True) if not any(name in line for name in lost)]
    assert dvc_file(ledger, "".join(lines)) == text


def test_a_new_stage_gets_all_that_follows_from_the_code(ledger, monkeypatch):
    more = {"first": ("sources",), "second": ("features",)}
    monkeypatch.setattr("pipeline.engines.dvc_file.STAGES", more)
    monkeypatch.setattr("pipeline.store.ledger.STAGES", more)
    first, second = yaml.safe_load(dvc_file(ledger, "stages: {prepare: {}}\n"))["stages"].values()
    assert first["cmd"] == ["snakemake all_first", "python -m pipeline set-aside first"]
    assert second["outs"] == [{"artifacts/features": {"persist": True}}]
    assert "artifacts/sources" in second["deps"] and "pipeline/model/features.py" in second["deps"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_says_what_it_does_and_deletes_nothing_before_it_runs(stage):
    assert DVC["stages"][stage]["desc"] and len(STAGES) <= 8
    assert [path for path, options in outs(stage).items() if not options.get("persist")] == []


def test_metrics_and_plots_are_what_the_report_makes():
    plotted = {file for plot in DVC["plots"] for settings in plot.values() for file in settings["y"]}
    uncached = {path for path, options in outs("report").items() if not options.get("cache", True)}
    assert {*DVC["metrics"], *plotted} <= uncached


# Settings: what dvc.yaml lists


def listed_keys(stage: str) -> list[str]:
    """The settings that a stage lists one by one."""
    found = []
    for entry in DVC["stages"][stage].get("params", []):
        keys = entry if isinstance(entry, dict) else {"params.yaml": [entry]}
        found += [f"{FILES[file]}.{key}" for file in keys for key in keys[file]]
    return found


def listed_files(stage: str) -> list[str]:
    """The settings that a stage depends on by the file."""
    return [FILES[dep] for dep in DVC["stages"][stage]["deps"] if not dep.startswith(("artifacts/", "pipeline/"))]


def covers(above: str, key: str) -> bool:
    return f"{key}.".startswith(f"{above}.")


def lists(stage: str, key: str) -> bool:
    """Whether DVC reruns a stage when a setting changes, even if all that comes before stays as it is."""
    listed = listed_keys(stage) + listed_files(stage)
    named = key in NAMES and any(covers(NAMES[key], other) for other in listed)  # ${preset} is in the file's name
    return named or any(covers(above, key) for above in listed)


def reruns(stage: str, key: str) -> bool:
    """Whether DVC reruns a stage, or a stage that it depends on, when a setting changes."""
    before = [other for other in STAGES if set(STAGES[other]) & set(phases_read(stage))]
    return lists(stage, key) or any(reruns(other, key) for other in before)


# Settings: what they change


def leaves(value, *path):
    """The path and value of every setting below a section. A list of plain values is one setting."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, *path, key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, inner in enumerate(value):
            yield from leaves(inner, *path, number)
    else:
        yield path, value


def fields_on(path) -> list:
    """The declarations of a setting and of the sections that it is in."""
    found = [section_at(Settings, path[:end]).model_fields.get(path[end]) for end in range(len(path))]
    return [field for field in found if field is not None]  # a number or a free name is declared nowhere


def choices(path) -> tuple:
    """The values that a setting may have, if they are declared one by one."""
    annotation = fields_on(path)[-1].annotation
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def another(path, value):
    """Another valid value of a setting."""
    key = ".".join(map(str, path))
    values = next((values for pattern, values in VALUES.items() if fnmatch(key, pattern)), choices(path))
    if values:
        return next((other for other in values if other != value), OTHER)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 or 0.001
    raise LookupError(f"give VALUES in tests/test_dvc.py a value of {key} to try in place of {value!r}")


def replaced(section, path, value):
    """A copy of a section with the setting at a path replaced, whether that is valid or not."""
    if not path:
        return value
    first, *rest = path
    if isinstance(section, list):
        return [*section[:first], replaced(section[first], rest, value), *section[first + 1 :]]
    if isinstance(section, dict):
        return section | {first: replaced(section[first], rest, value)}
    return section.model_copy(update={first: replaced(getattr(section, first), rest, value)})


def checked(settings: Settings) -> Settings:
    """The settings, if they are valid in files."""
    settings = Settings.model_validate(settings.model_dump())
    check_scale(settings.scale, "scale")
    check_tasks(settings.tasks, "tasks")
    check_encoders(settings.encoders, settings.scale, "scale")
    return settings


def cards(settings: Settings) -> dict[str, set[str]]:
    """The digests of each stage's cards."""
    made = Ledger(Study(settings), SOURCE)
    return {stage: {made.digest(job) for job in made.stage_jobs(stage)} for stage in STAGES}


@pytest.fixture(scope="module")
def changes() -> dict[str, set[str]]:
    """For every setting, the stages whose cards change with it."""
    today = load_settings(SOURCE)
    recipe = today.params.recipe
    few = dict(today.params.experiments)
    for name, experiment in few.items():  # one or two values do as well, and are quicker
        lists = {key: v if key == "seed" else [v[0], *v[2:]][-2:] for key, v in experiment.vary.items()}
        few[name] = replaced(experiment, ["vary"], lists)
    few["unfrozen"].vary["train_encoder"] = [False, True]  # a frozen encoder has no rate
    few["timing"].vary["branch_percent"] = sorted({0, recipe.branch_percent, 100})
    today = replaced(today, ["params", "experiments"], few)
    today = replaced(today, ["claims"], dict([*today.claims.items()][:2]))
    today = replaced(today, ["published"], today.published[:2])
    today = replaced(today, ["scale", "hardware", "microbatch"], 1)  # so that two devices can share a batch
    encoder = today.encoders[recipe.encoder]
    spare = {OTHER: encoder.model_copy(update={"pixels": encoder.pixels + 1})}
    more = replaced(today, ["encoders"], today.encoders | spare)
    before_all, found = cards(today), {}
    # So that one seed more needs a text run more, and one text run for all fewer of them.
    repeats = {"primary": 2, "other": 2, "text": 4}
    several = replaced(more, ["scale", "repeats"], today.scale.repeats.model_copy(update=repeats))
    before_several = cards(several)
    settings = today.model_dump(
        exclude={"checkpoints", "claims", "measures", "found", "published"}
    )  # no checkpoints in the default study
    for experiment in settings["params"]["experiments"].values():
        del experiment["says"]  # the paper's have none
    # Encoders are in DVC by the file: a few settings of one that any stage may need stand for all.
    settings["encoders"] = {recipe.encoder: {key: settings["encoders"][recipe.encoder][key] for key in ENCODER}}
    for path, value in leaves(settings):
        base, before = (several, before_several) if path[:2] == ("scale", "repeats") else (more, before_all)
        changed = replaced(base, path, another(path, repeats.get(path[-1], value) if base is several else value))
        if len(choices(path)) != 1:
            checked(changed)
        after = cards(changed)
        found[".".join(map(str, path))] = {stage for stage in STAGES if after[stage] != before[stage]}
    claim = next(iter(today.claims))
    elsewhere = Found(study=OTHER, claim=claim, verdict="supported", effect="")
    files = {("claims", claim, "says"): OTHER, ("published", 0, "note"): OTHER}  # what they say is the report's alone
    files |= {("measures", "vision", "primary"): "looking_bits", ("found",): [elsewhere]}
    for path, value in files.items():
        after = cards(replaced(today, path, value))
        found[path[0]] = {stage for stage in STAGES if after[stage] != before_all[stage]}
    for name, section in NAMES.items():  # another file may have another value of every setting
        found[name] |= set().union(*(found[key] for key in found if covers(section, key)))
    return found


def is_of_an_experiment(key: str) -> bool:
    """Whether DVC knows a setting only with all others of its kind: an experiment need not be there, or has any name."""
    return key.startswith("params.experiments.")


def may_be_left_out(key: str) -> bool:
    """Whether a setting, or a section that it is in, has a default."""
    return is_of_an_experiment(key) or not all(field.is_required() for field in fields_on(key.split(".")))


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_reruns_a_stage_for_every_setting_that_changes_its_cards(stage, changes):
    missing = [key for key in changes if stage in changes[key] and not reruns(stage, key)]
    assert not missing, f"dvc.yaml: no params or deps of {stage}, or of a stage before it, cover {', '.join(missing)}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_no_setting_that_does_not_change_its_cards(stage, changes):
    """Of a section, every setting without a default must change them, or if all have one, at least one setting."""
    superfluous = []
    for listed in listed_keys(stage):
        below = [key for key in changes if covers(listed, key)]
        idle = [key for key in below if stage not in changes[key]]
        superfluous += [listed] if idle == below else [key for key in idle if not may_be_left_out(key)]
    assert not superfluous, (
        f"dvc.yaml: params of {stage} cover {', '.join(superfluous)}, which change none of its cards"
    )


def test_settings_that_change_no_card_rerun_nothing(changes):
    idle = [key for key in changes if not changes[key] and not is_of_an_experiment(key)]
    assert {"params.wandb", "scale.hardware.memory_mb", "scale.hardware.save_steps"} <= set(idle)
    listed = [f"{key} ({stage})" for stage in STAGES for key in idle if lists(stage, key)]
    assert not listed, f"dvc.yaml: stages list what changes no card: {', '.join(listed)}"


@pytest.mark.parametrize("phase", RUNS)
def test_dvc_reruns_the_stages_whose_cards_say_that_a_run_failed(phase, ledger):
    job = next(job for job in ledger.jobs if job.phase == phase)
    kept = Ledger(ledger.study, SOURCE)
    kept.kept = {f"{phase}/{job.id}": {"card": ledger.digest(job), "reason": "it is out of luck"}}
    changed = {stage for stage in STAGES for job in kept.stage_jobs(stage) if kept.digest(job) != ledger.digest(job)}
    assert changed == set(STAGES) - {"prepare"} - set(list(STAGES)[1 : list(STAGES).index(phase)])
    assert lists(phase, "failed") and all(reruns(stage, "failed") for stage in changed)
    assert not lists("prepare", "failed")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_no_setting_that_may_be_left_out(stage):
    """DVC refuses to run a stage if a setting that it lists is not in the file; the section around it always is."""
    optional = [key for key in listed_keys(stage) if may_be_left_out(key)]
    assert not optional, f"dvc.yaml: in the params of {stage}, list the section around {', '.join(optional)}"


# Snakefile


def test_every_phase_has_a_rule_and_every_stage_a_target():
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--list-rules"], cwd=SOURCE, capture_output=True, text=True, check=True
    )
    rules = {line.split()[0] for line in done.stdout.splitlines()}  # a description may follow
    assert rules == {*PHASES, *TABLES, "study", *(f"all_{stage}" for stage in STAGES)} - {"tables"}
