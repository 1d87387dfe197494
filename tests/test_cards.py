"""Identity: what is part of a card and what is not, which artifacts are current, and files that are whole or absent."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import SCALE, SOURCE

from pipeline.common.files import atomic_folder, digest, folder_hashes, read_json, stable_json, write_text
from pipeline.store import fingerprint as fingerprints
from pipeline.store.fingerprint import (
    MODULES,
    code_fingerprint,
    does_the_same,
    files_beside,
    keep_known_modules,
    known_modules,
    read_module,
)
from pipeline.store.ledger import LONG_AGO
from pipeline.study.job import Job, lineage
from pipeline.study.phases import PHASES, STAGES

PARAMS = "params.yaml"

# Code fingerprints, on a package of the tests' own: the entry module imports near, which imports middle, then far.

TREE = {
    "pipeline/__init__.py": "",
    "pipeline/training/__init__.py": "",
    "pipeline/training/train.py": "from pipeline import near\n\n\ndef run(job):\n    return near.value()\n",
    "pipeline/near.py": "import pipeline.middle\n\n\ndef value():\n    return pipeline.middle.value()\n",
    "pipeline/middle.py": "def value():\n    from pipeline.far import VALUE\n\n    return VALUE\n",
    "pipeline/far.py": "VALUE = 1\n",
    "pipeline/unused.py": "VALUE = 2\n",
}
TRAIN = TREE["pipeline/training/train.py"]


@pytest.fixture
def fingerprint(tmp_path):
    """A function: the training phase's fingerprint in a package with some files changed."""
    made = iter(range(100))

    def of(**changes) -> dict[str, str]:
        root = tmp_path / str(next(made))
        for file, text in (TREE | {key.replace("__", "/") + ".py": text for key, text in changes.items()}).items():
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text(text)
        return code_fingerprint(root, "pretrain")

    return of


@pytest.mark.parametrize(
    "text",
    [
        "# what this does\n" + TRAIN,
        TRAIN.replace("return", "\n\n    return") + "\n\n# the end\n",
        '"""A module."""\n\n' + TRAIN,
        TRAIN.replace("    return", '    """Run a job."""\n    return'),
        TRAIN.replace("near.value()", "(near.value())"),
    ],
    ids=["comment", "blank lines", "module docstring", "function docstring", "brackets"],
)
def test_what_is_not_code_leaves_the_fingerprint(fingerprint, text):
    assert fingerprint(pipeline__training__train=text) == fingerprint()


def test_a_file_beside_a_module_is_part_of_the_fingerprint(tmp_path):
    """It has the module's name and another suffix, as the report's template has. Others that lie there have no part in it."""
    for file, text in TREE.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    (tmp_path / "pipeline/far.css").write_text("one")
    (tmp_path / "pipeline/unused.css").write_text("one")
    one = code_fingerprint(tmp_path, "pretrain")
    assert one["pipeline/far.css"] and "pipeline/unused.css" not in one
    assert does_the_same(tmp_path, one)
    (tmp_path / "pipeline/far.css").write_text("another")
    assert not does_the_same(tmp_path, one)
    for known in (code_fingerprint, files_beside):
        known.cache_clear()
    other = code_fingerprint(tmp_path, "pretrain")
    assert {name for name in one if one[name] != other[name]} == {"pipeline/far.css"}


def test_a_changed_docstring_of_a_class_or_a_lone_docstring_leaves_the_fingerprint(fingerprint):
    one = TRAIN + 'class A:\n    """One."""\n\n\ndef f():\n    """One."""\n'
    assert fingerprint(pipeline__training__train=one) == fingerprint(
        pipeline__training__train=one.replace("One", "Another")
    )


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("pipeline.training.train", "return near", "return 2 * near"),
        ("pipeline.training.train", "def run(job)", "def run(job, more=None)"),
        ("pipeline.near", "value()\n", "value() + 1\n"),
        ("pipeline.far", "1", "2"),
        ("pipeline.far", "1", "'1'"),
    ],
)
def test_changed_code_changes_its_modules_digest_alone(fingerprint, module, old, new):
    file = module.replace(".", "/") + ".py"
    assert old in TREE[file]
    before = fingerprint()
    after = fingerprint(**{module.replace(".", "__"): TREE[file].replace(old, new)})
    assert {name for name in before if before[name] != after[name]} == {module}


def test_a_string_that_is_no_docstring_is_code(fingerprint):
    one = TRAIN + '\nNAME = "one"\n'
    assert fingerprint(pipeline__training__train=one) != fingerprint(
        pipeline__training__train=one.replace("one", "two")
    )


def test_fingerprint_holds_the_modules_that_are_imported_and_no_others(fingerprint):
    found = set(fingerprint())
    assert {"pipeline.training.train", "pipeline.near", "pipeline.middle", "pipeline.far"} <= found
    assert "pipeline.unused" not in found


def test_imports_in_a_circle_end(fingerprint):
    circle = fingerprint(pipeline__far="import pipeline.near\n\nVALUE = 1\n")
    assert {"pipeline.far", "pipeline.near"} <= set(circle)


@pytest.mark.parametrize("line", ["from . import far", "from .far import VALUE"])
def test_relative_imports_count(fingerprint, line):
    text = line + "\n\n\ndef value():\n    return 1\n"
    assert "pipeline.far" in fingerprint(pipeline__near=text)


def test_imports_from_elsewhere_do_not_count(fingerprint):
    assert set(fingerprint(pipeline__far="import json\n\nimport numpy\n\nVALUE = 1\n")) == set(fingerprint())


def test_every_phase_has_code_of_its_own():
    for name, phase in PHASES.items():
        assert phase.module in code_fingerprint(SOURCE, name)


def test_training_depends_on_the_decoder_but_not_on_figures():
    names = set(code_fingerprint(SOURCE, "pretrain"))
    assert {"pipeline.model.decoder", "pipeline.training.schedule", "pipeline.data.store"} <= names
    assert not [name for name in names if name.startswith(("pipeline.reporting", "pipeline.evaluation"))]


def test_evaluation_and_tables_do_not_depend_on_the_trainer():
    for phase in ("evaluate", "tables"):
        assert "pipeline.training.train" not in code_fingerprint(SOURCE, phase)


def test_what_is_known_of_a_module_is_of_its_text_and_of_who_read_it(tmp_path, monkeypatch):
    file = tmp_path / "pipeline/alone.py"
    file.parent.mkdir()

    def look(text: str) -> str:
        """As a process of its own would."""
        file.write_text(text)
        known_modules.cache_clear()
        read_module.cache_clear()
        does, _ = read_module(tmp_path, "pipeline.alone")
        keep_known_modules(tmp_path)
        return does

    one, other = look("A = 1\n"), look("A = 2\n")
    assert look("A = 1\n") == one != other
    monkeypatch.setattr(fingerprints, "parse_module", lambda *_: {"does": "parsed", "imports": []})
    assert look("A = 1\n") == one  # known from before
    assert look("A = 3\n") == "parsed"
    (tmp_path / MODULES).write_text("{")
    assert look("A = 1\n") == "parsed"
    monkeypatch.setattr(fingerprints, "file_hash", lambda _: "another cards.py")
    monkeypatch.setattr(fingerprints, "parse_module", lambda *_: {"does": "parsed otherwise", "imports": []})
    assert look("A = 1\n") == "parsed otherwise"


def test_read_module_takes_a_root(tmp_path):
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline/alone.py").write_text("import json\n")
    assert read_module(tmp_path, "pipeline.alone")[1] == ()


# Ids


def ids(study) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {phase: set() for phase in PHASES}
    for job in lineage(study.tables["table1"]):
        found[job.phase].add(job.id)
    return found


def test_ids_are_the_same_every_time(project):
    assert ids(project.study()) == ids(project.study())


def test_ids_do_not_depend_on_the_process(project):
    code = (
        "from pathlib import Path; from pipeline.settings.load import load_settings; from pipeline.study.study import Study;"
        f"print(Study(load_settings(Path({str(project.root)!r}))).tables['table1'].id)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=SOURCE,
        env=os.environ | {"PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == project.study().tables["table1"].id


def test_ids_do_not_depend_on_the_order_of_keys(project):
    before = ids(project.study())
    for file in (PARAMS, SCALE, "configs/tasks/scenes.yaml"):
        content = dict(reversed(project.read(file).items()))
        project.write(file, yaml.safe_dump(content, sort_keys=False))
    assert ids(project.study()) == before


def test_comments_in_settings_change_no_id(project):
    before = ids(project.study())
    file = project.root / PARAMS
    file.write_text("# a remark\n" + file.read_text())
    assert ids(project.study()) == before


def test_ids_begin_with_the_label(project):
    assert all(job.id.startswith(job.label + "-") for job in lineage(project.study().tables["table1"]))


def test_no_two_jobs_share_a_folder(project):
    jobs = lineage(project.study().tables["table1"])
    assert len({job.card for job in jobs}) == len(jobs)


def test_memory_and_save_interval_change_no_id(project):
    before = ids(project.study())
    project.set(SCALE, "hardware.memory_mb", 123)
    project.set(SCALE, "hardware.save_steps", 3)
    project.set(PARAMS, "wandb", "offline")
    assert ids(project.study()) == before


def test_recipes_that_agree_share_their_jobs(project):
    study = project.study()
    recipe = study.settings.params.recipe
    twin = next(c.recipe for c in study.cells("timing") if c.recipe.branch_percent == recipe.branch_percent)
    assert study.finetune(recipe) is study.finetune(twin)
    assert study.cooldown(recipe) is study.finetune(recipe, blind=True).parents["branch"]


def test_recipes_that_differ_later_share_what_comes_before(project):
    study = project.study()
    recipe = study.settings.params.recipe
    longer = recipe.model_copy(update={"finetune_epochs": recipe.finetune_epochs + 1})
    assert study.finetune(longer) is not study.finetune(recipe)
    assert study.cooldown(longer) is study.cooldown(recipe)


def test_a_branch_at_zero_has_no_parent_and_one_setting_of_moments(project):
    study = project.study()
    start = study.settings.params.recipe.model_copy(update={"branch_percent": 0})
    assert "branch" not in study.cooldown(start).parents
    assert study.cooldown(start) is study.cooldown(start.model_copy(update={"moments": "fresh"}))


@pytest.mark.parametrize(
    ("key", "value", "same"),
    [
        ("devices", 2, True),
        ("nodes", 2, True),
        ("sharding", "fsdp", True),
        ("checkpoint_activations", True, True),
        ("precision", "bf16", False),
        ("compile", True, False),
        ("threads", 2, False),
    ],
)
def test_hardware_is_part_of_training_if_it_rounds_differently(project, key, value, same):
    """A job may go on with more devices or fewer; what it is told of them is no part of its card."""
    project.set(SCALE, "hardware.microbatch", 4)
    before = project.ledger()
    project.set(SCALE, f"hardware.{key}", value)
    after = project.ledger()
    ids = [{job.id for job in ledger.jobs if job.phase == "cooldown"} for ledger in (before, after)]
    assert (ids[0] == ids[1]) == same
    assert (before.context == after.context) != same
    assert same or all(job.card_settings["hardware"][key] == value for job in after.jobs if job.phase == "pretrain")


def test_moments_are_part_of_a_later_branch(project):
    study = project.study()
    recipe = study.settings.params.recipe
    assert study.cooldown(recipe).id != study.cooldown(recipe.model_copy(update={"moments": "fresh"})).id


def test_without_images_a_cooldown_has_no_caption_parent(project):
    study = project.study()
    recipe = study.settings.params.recipe
    assert "captions" in study.cooldown(recipe).parents
    assert set(study.cooldown(recipe.model_copy(update={"image_fraction": 0.0})).parents) == {"text", "branch"}


def test_another_image_fraction_changes_what_comes_after_it_and_nothing_before(project):
    before = project.study()
    project.set(PARAMS, "recipe.image_fraction", 0.2)
    after = project.study()
    old, new = ids(before), ids(after)
    for phase in ("sources", "tokenizer", "shards", "features", "pretrain"):
        assert new[phase] == old[phase]
    for phase in ("cooldown", "finetune", "tables"):
        assert old[phase] and not new[phase] & old[phase]
    of_text = {
        job.id
        for job in lineage(before.tables["table1"])
        if job.phase == "evaluate" and job.label.startswith("pretrain")
    }
    assert of_text and new["evaluate"] & old["evaluate"] == of_text


def test_one_more_branch_point_adds_jobs_and_changes_none_but_tables(project):
    old = ids(project.study())
    project.set(PARAMS, "experiments.timing.vary.branch_percent", [0, 20, 50, 80, 100])
    new = ids(project.study())
    for phase in set(PHASES) - {"tables"}:
        assert old[phase] <= new[phase]
    assert len(new["cooldown"]) == len(old["cooldown"]) + 1


@pytest.mark.parametrize(
    ("key", "phases"),
    [
        ("evaluation.text_items", {"evaluate", "tables"}),
        ("finetune.weight_decay", {"finetune", "evaluate", "tables"}),
        ("cooldown.weight_decay", {"cooldown", "finetune", "evaluate", "tables"}),
        ("text.weight_decay", {"pretrain", "cooldown", "finetune", "evaluate", "tables"}),
    ],
)
def test_a_setting_changes_the_phases_that_depend_on_it(project, key, phases):
    old = ids(project.study())
    value = project.settings().scale.model_dump()
    for part in key.split("."):
        value = value[part]
    project.set(SCALE, key, value + 1)
    new = ids(project.study())
    assert {phase for phase in PHASES if new[phase] != old[phase]} == phases


@pytest.mark.parametrize(
    ("file", "key", "value", "kept"),
    [  # and the jobs that have no use for it, as PHASE/LABEL
        (SCALE, "cooldown.peak_lr", 0.004, r"pretrain|(cooldown|finetune|evaluate)/\S*b(50|80)-"),
        (SCALE, "cooldown.warmup_steps", 3, r"pretrain|(cooldown|finetune|evaluate)/\S*b(50|80)-"),
        (SCALE, "text.peak_lr", 0.02, r"(cooldown|finetune|evaluate)/\S*b0-"),
        (SCALE, "data.test_images", 9, r"tokenizer|shards|pretrain|cooldown|finetune|evaluate/pretrain"),
        (SCALE, "data.captions", 99, r"(sources|features)/(text|instructions|evaluation)"),
        (SCALE, "evaluation.text_items", 9, r"finetune|evaluate/finetune-blind"),
        ("configs/tasks/scenes.yaml", "vision.reading.chance", 0.5, r"finetune|evaluate"),
        ("configs/encoder/efficientnet_lite0.yaml", "trained_rate", 0.5, r"cooldown|finetune|evaluate"),
        (PARAMS, "split", "validation", r"finetune|evaluate/pretrain"),
    ],
)
def test_a_setting_that_a_job_does_not_use_is_no_part_of_its_identity(project, file, key, value, kept):
    def made() -> set[str]:
        return {job.id for job in project.ledger().jobs if re.match(kept, f"{job.phase}/{job.label}")}

    before = made()
    project.set(file, key, value)
    assert before and made() == before


def test_recipes_that_differ_in_what_a_cooldown_does_not_use_share_it(project):
    study = project.study()
    recipe = study.settings.params.recipe
    only_instructions = recipe.model_copy(update={"instruction_share": 1.0})
    others = [only_instructions.model_copy(update={"captions": "short"})]
    assert all(study.cooldown(only_instructions) is study.cooldown(other) for other in others)
    assert "text" not in study.cooldown(recipe.model_copy(update={"image_fraction": 1.0})).parents
    by_branch = {
        job.card_settings["branch_step"]: job.card_settings for job in project.ledger().jobs if job.phase == "cooldown"
    }
    assert {step: ("main" in s, "peak_lr" in s["optimisation"], "main_seed" in s) for step, s in by_branch.items()} == {
        0: (False, True, True),
        50: (True, False, False),
        80: (True, False, False),
        100: (False, True, False),
    }


# Cards


def stale(project) -> set[tuple[str, str]]:
    """The jobs whose artifacts are not what today's study asks for."""
    made = project.ledger()
    return {job.key for job in made.jobs if not made.is_current(job)}


def stale_phases(project) -> set[str]:
    return {phase for phase, _ in stale(project)}


def first(project, phase: str) -> Job:
    return next(job for job in project.ledger().jobs if job.phase == phase)


def test_nothing_is_current_at_first(project):
    assert stale_phases(project) == set(PHASES)


def test_an_artifact_with_its_files_and_its_card_is_current(project):
    project.make()
    assert not stale(project)


@pytest.mark.parametrize("name", ["rows.csv", "parts/0.bin", "measured.json", "files.json", "card.json"])
def test_an_artifact_that_lacks_a_file_is_stale_alone(project, name):
    project.make()
    job = first(project, "shards")
    (project.root / job.folder / name).unlink()
    assert stale(project) == {job.key}


@pytest.mark.parametrize("looked", [False, True])
def test_an_artifact_with_other_bytes_is_stale_alone(project, looked):
    project.make()
    assert not looked or not stale(project)
    job = first(project, "shards")
    project.damage(f"{job.folder}/parts/0.bin")
    assert stale(project) == {job.key}


def test_files_that_were_made_from_another_card_are_stale(project):
    project.make()
    job = first(project, "shards")
    (project.root / job.files).write_text((project.root / first(project, "tokenizer").files).read_text())
    assert stale(project) == {job.key}


def test_a_card_names_phase_settings_code_and_parents(project):
    made = project.ledger()
    job = next(job for job in made.jobs if job.phase == "cooldown" and "branch" in job.parents)
    card = made.card(job)
    assert (card["phase"], card["id"], card["settings"]) == ("cooldown", job.id, job.card_settings)
    assert "pipeline.training.train" in card["code"]
    assert card["parents"]["branch"] == {
        "phase": "pretrain",
        "id": job.parents["branch"].id,
        "card": digest(made.card(job.parents["branch"])),
    }


def test_cards_survive_json(project):
    made = project.ledger()
    assert all(json.loads(stable_json(made.card(job))) == made.card(job) for job in made.jobs)


def test_another_setting_makes_its_phase_and_what_descends_from_it_stale(project):
    project.make()
    project.set(SCALE, "cooldown.weight_decay", 0.5)
    assert stale_phases(project) == {"cooldown", "finetune", "evaluate", "tables"}


def test_changed_code_makes_its_phase_and_what_descends_from_it_stale(project):
    project.make()
    assert stale_phases(project.with_more_code("pipeline.evaluation.metrics")) == {"evaluate", "tables"}


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_damaged_card_is_not_current(project, text):
    project.make()
    job = project.ledger().jobs[0]
    (project.root / job.card).write_text(text)
    assert stale(project) == {job.key}


def test_jobs_come_parents_first(project):
    made = project.ledger()
    place = {job.key: number for number, job in enumerate(made.jobs)}
    assert len(place) == len(made.jobs)
    for job in made.jobs:
        assert all(place[parent.key] < place[job.key] for parent in made.inputs(job))


# What was published in results/


@pytest.mark.parametrize("name", ["rows.csv", "parts/0.bin"])
def test_edited_results_make_their_table_stale_alone(project, name):
    project.make()
    assert not stale(project)
    project.damage(f"results/{name}")
    assert stale(project) == {project.ledger().study.tables["table1"].key}


@pytest.mark.parametrize("name", ["rows.csv", "parts/0.bin", "made_from/table1.json"])
def test_deleted_results_make_their_table_stale_alone(project, name):
    project.make()
    (project.root / "results" / name).unlink()
    assert stale(project) == {project.ledger().study.tables["table1"].key}


def test_results_of_another_table_are_stale(project):
    project.make()
    project.set(PARAMS, "split", "validation")
    project.make()
    project.set(PARAMS, "split", "test")
    assert stale(project) == {project.ledger().study.tables["table1"].key}


def test_other_files_in_results_are_nobodys_business(project):
    project.make()
    (project.root / "results/notes.md").write_text("looks good")
    assert not stale(project)


# Broken artifacts: here once, and now damaged or gone


def broken(project) -> list[tuple[str, str]]:
    return [job.key for job in project.ledger().broken]


def test_what_was_never_here_is_not_broken(project):
    assert not broken(project)


def test_whole_artifacts_are_not_broken(project):
    project.make()
    assert not broken(project)


@pytest.mark.parametrize("name", ["", "card.json", "files.json", "rows.csv"], ids=["folder", "card", "list", "file"])
def test_what_was_seen_and_is_gone_is_broken(project, name):
    project.make()
    assert not stale(project)  # all were looked at
    job = first(project, "shards")
    gone = project.root / job.folder / name
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    assert broken(project) == [job.key]


def test_what_was_made_elsewhere_and_not_pulled_is_not_broken(project):
    project.make("evaluate", "tables")
    assert not broken(project)


def test_what_went_before_it_was_ever_looked_at_is_not_broken(project):
    project.make()
    shutil.rmtree(project.root / first(project, "shards").folder)
    assert not broken(project)


@pytest.mark.parametrize("looked", [False, True])
def test_a_damaged_artifact_is_broken(project, looked):
    project.make()
    assert not looked or not stale(project)
    job = first(project, "shards")
    project.damage(f"{job.folder}/rows.csv")
    assert broken(project) == [job.key]


def test_a_seen_artifact_with_a_damaged_card_is_broken(project):
    project.make()
    assert not stale(project)
    job = first(project, "shards")
    (project.root / job.card).write_text("{")
    assert broken(project) == [job.key]


def test_several_broken_artifacts_come_parents_first(project):
    project.make()
    jobs = [first(project, phase) for phase in ("sources", "cooldown", "evaluate")]
    for job in reversed(jobs):
        project.damage(f"{job.folder}/rows.csv")
    assert set(broken(project)) == {job.key for job in jobs}
    order = [job.key for job in project.ledger().jobs]
    assert broken(project) == sorted(broken(project), key=order.index)


def test_stale_artifacts_are_not_broken(project):
    project.make()
    assert not stale(project)
    project.set(SCALE, "cooldown.weight_decay", 0.5)
    assert stale(project) and not broken(project)


def test_artifacts_of_changed_code_are_not_broken(project):
    project.make()
    assert not stale(project)
    changed = project.with_more_code("pipeline.evaluation.metrics")
    assert stale(changed) and not broken(changed)


@pytest.mark.parametrize("name", ["card.json", "files.json", "rows.csv"])
def test_tables_are_never_broken(project, name):
    project.make()
    assert not stale(project)
    table = project.ledger().study.tables["table1"]
    (project.root / table.folder / name).unlink()
    (project.root / "results/rows.csv").unlink()
    assert stale(project) == {table.key} and not broken(project)


def test_what_is_gone_is_marked_with_its_card_alone_and_stays_broken(project):
    project.make()
    assert not stale(project)
    job = first(project, "shards")
    shutil.rmtree(project.root / job.folder)
    project.ledger().mark_deleted()
    assert [file.name for file in (project.root / job.folder).iterdir()] == ["card.json"]
    assert stale(project) == {job.key} == set(broken(project))


def test_nothing_else_is_marked(project):
    project.make("sources", "tokenizer")
    assert "shards" in stale_phases(project)
    project.damage(f"{first(project, 'sources').folder}/rows.csv")
    before = folder_hashes(project.root / "artifacts")
    project.ledger().mark_deleted()
    assert folder_hashes(project.root / "artifacts") == before


# Artifacts that leave the study and come back


def leave(project) -> set[tuple[str, str]]:
    """Change a setting that gives every fine-tuned model another id. Returns the models that left."""
    before = {job.key for job in project.ledger().stage_jobs("finetune")}
    project.set(PARAMS, "recipe.finetune_epochs", 3)
    assert not before & {job.key for job in project.ledger().jobs}
    return before


def come_back(project) -> None:
    project.set(PARAMS, "recipe.finetune_epochs", 2)


def test_artifacts_in_the_study_stay_where_they_are(project):
    project.make()
    made = project.ledger()
    assert [folder for stage in STAGES for folder in made.set_aside(stage)] == []
    assert not stale(project)


def test_a_stage_sets_aside_what_left_the_study(project):
    project.make()
    before = leave(project)
    folders = project.ledger().set_aside("finetune")
    assert {(folder.parent.name, folder.name) for folder in folders} == before
    assert not any(folder.exists() for folder in folders)
    come_back(project)
    assert stale(project) == before  # evaluations and tables are of other stages, and still in their places


def test_what_was_set_aside_is_not_broken(project):
    project.make()
    assert not stale(project)
    leave(project)
    project.ledger().set_aside("finetune")
    come_back(project)
    assert stale(project) and not broken(project)


def test_what_comes_back_into_the_study_is_taken_back(project):
    project.make()
    leave(project)
    project.ledger().set_aside("finetune")
    project.ledger().take_back()
    come_back(project)
    assert stale(project)
    project.ledger().take_back()
    assert not stale(project)


def test_what_was_damaged_while_it_was_aside_is_broken_once_it_is_back(project):
    project.make()
    job = first(project, "finetune")
    leave(project)
    project.ledger().set_aside("finetune")
    come_back(project)
    project.damage(f".study/aside/finetune/{job.id}/rows.csv")
    project.ledger().take_back()
    assert stale(project) == {job.key} == set(broken(project))


def test_artifacts_of_other_code_are_not_taken_back(project):
    project.make()
    before = leave(project)
    project.ledger().set_aside("finetune")
    come_back(project)
    changed = project.with_more_code("pipeline.training.train")
    changed.ledger().take_back()
    assert not any((changed.root / "artifacts" / phase / id).exists() for phase, id in before)
    project.ledger().take_back()
    assert not stale(project)


def test_a_table_that_left_is_set_aside_but_its_results_stay(project):
    project.make()
    table = project.ledger().study.tables["table1"]
    project.set(PARAMS, "split", "validation")
    project.ledger().set_aside("report")
    assert not (project.root / table.folder).exists()
    assert (project.root / table.published).exists() and (project.root / "results/rows.csv").exists()
    project.set(PARAMS, "split", "test")
    project.ledger().take_back()
    assert not stale(project)


# Job files


def dates(project) -> dict[tuple[str, str], float]:
    made = project.ledger()
    made.write_jobs()
    return {job.key: made.job_file(job).stat().st_mtime for job in made.jobs}


def test_job_files_of_missing_artifacts_are_dated_now(project):
    start = time.time()
    assert all(start - 2 < date <= time.time() + 2 for date in dates(project).values())


def test_job_files_of_current_artifacts_are_dated_long_ago(project):
    project.make()
    assert set(dates(project).values()) == {LONG_AGO}


def test_a_job_done_since_is_dated_long_ago(project):
    dates(project)
    project.make("sources")
    for (phase, _), date in dates(project).items():
        assert (date == LONG_AGO) == (phase == "sources")


def test_writing_job_files_again_touches_none(project):
    first = dates(project)
    assert dates(project) == first


def test_the_job_file_of_a_stale_artifact_is_newer_than_it(project):
    project.make()
    dates(project)
    job = first(project, "cooldown")
    card = project.root / job.card
    card.write_text("{}")
    soon = time.time() + 100  # a clock that was ahead
    os.utime(card, (soon, soon))
    assert dates(project)[job.key] > soon
    assert [date for key, date in dates(project).items() if key != job.key and date != LONG_AGO] == []


def test_a_stale_table_that_carries_an_old_date_still_has_a_newer_job_file(project):
    project.make()
    dates(project)
    project.set(SCALE, "evaluation.text_items", 11)
    table = project.ledger().study.tables["table1"]
    published = project.root / table.published
    os.utime(published, (LONG_AGO - 1000, LONG_AGO - 1000))
    assert dates(project)[table.key] > LONG_AGO
    soon = time.time() + 100
    os.utime(published, (soon, soon))
    assert dates(project)[table.key] > soon


@pytest.mark.parametrize("age", [-100, 0, 10**9], ids=["ahead", "now", "older than long ago"])
@pytest.mark.parametrize("phase", ["shards", "tables"])
def test_the_job_file_of_a_damaged_artifact_is_newer_than_it_and_no_others_are(project, phase, age):
    project.make()
    assert set(dates(project).values()) == {LONG_AGO}
    job = first(project, phase)
    project.damage(f"{job.folder}/rows.csv")
    card = project.root / job.card
    date = time.time() - age
    os.utime(card, (date, date))
    found = dates(project)
    assert found.pop(job.key) > max(date, LONG_AGO)
    assert set(found.values()) == {LONG_AGO}


def test_the_job_file_of_a_deleted_artifact_is_dated_now(project):
    project.make()
    dates(project)
    start = time.time()
    job = first(project, "shards")
    shutil.rmtree(project.root / job.folder)
    found = dates(project)
    assert found.pop(job.key) > start - 2
    assert set(found.values()) == {LONG_AGO}


def test_the_job_file_of_a_table_with_edited_results_is_newer_than_its_list(project):
    project.make()
    dates(project)
    table = project.ledger().study.tables["table1"]
    project.damage("results/rows.csv")
    assert dates(project)[table.key] > (project.root / table.published).stat().st_mtime


def test_the_job_file_of_a_mended_artifact_is_dated_long_ago_again(project):
    project.make()
    file = f"{first(project, 'shards').folder}/rows.csv"
    project.damage(file)
    assert set(dates(project).values()) != {LONG_AGO}
    project.damage(file)  # turned over once more
    assert set(dates(project).values()) == {LONG_AGO}


def test_the_job_file_of_what_is_damaged_again_has_other_contents(project):
    project.make()
    job = first(project, "shards")
    texts = set()
    for age in (200, 100):
        project.damage(f"{job.folder}/rows.csv")
        dates(project)
        texts.add(project.ledger().job_file(job).read_text())
        project.damage(f"{job.folder}/rows.csv")  # turned over once more
        date = time.time() - age
        os.utime(project.root / job.card, (date, date))  # as if made again
        assert set(dates(project).values()) == {LONG_AGO}
    assert len(texts) == 2


def test_a_job_file_says_what_the_job_needs(project):
    made = project.ledger()
    made.write_jobs()
    job = next(job for job in made.jobs if job.phase == "finetune")
    described = read_json(made.job_file(job))
    assert described["card"] == made.card(job)
    assert described["folder"] == job.folder
    assert described["inputs"] == {role: parent.folder for role, parent in job.parents.items()}


def test_later_text_states_continue_earlier_ones(project):
    made = project.ledger()
    texts = sorted((job for job in made.jobs if job.phase == "pretrain"), key=lambda job: job.card_settings["stop"])
    assert [job.card_settings["stop"] for job in texts] == [50, 80, 100]
    assert [job.continues for job in texts] == [None, *texts[:-1]]


def test_what_a_text_state_continues_is_no_part_of_its_identity(project):
    before = {job.card_settings["stop"]: job.id for job in project.ledger().jobs if job.phase == "pretrain"}
    project.set(PARAMS, "experiments.timing.vary.branch_percent", [0, 80, 100])
    after = {job.card_settings["stop"]: job.id for job in project.ledger().jobs if job.phase == "pretrain"}
    assert after == {stop: before[stop] for stop in (80, 100)}


# Files


def test_stable_json_does_not_depend_on_the_order_of_keys():
    assert stable_json({"b": [1, 2.5], "a": None}) == stable_json({"a": None, "b": [1, 2.5]})


@pytest.mark.parametrize(
    "value",
    [math.nan, {"a": math.inf}, [Path("x")], {1, 2}, np.float32(1), b"x"],
    ids=["nan", "inf", "path", "set", "numpy number", "bytes"],
)
def test_stable_json_refuses_what_has_no_stable_form(value):
    with pytest.raises((ValueError, TypeError)):
        stable_json(value)


def test_digests_tell_values_apart():
    values = [1, 1.5, "1", None, True, [1], {"a": 1}, {"a": 2}]
    assert len({digest(value) for value in values}) == len(values)


def test_atomic_folder_replaces_the_old_folder(tmp_path):
    final = tmp_path / "final"
    final.mkdir()
    (final / "old").write_text("old")
    with atomic_folder(final, tmp_path / "partial") as out:
        (out / "new").write_text("new")
        assert [file.name for file in final.iterdir()] == ["old"]
    assert [file.name for file in final.iterdir()] == ["new"]
    assert [file.name for file in tmp_path.iterdir()] == ["final"]


def test_atomic_folder_leaves_the_old_folder_when_its_block_raises(tmp_path):
    final = tmp_path / "final"
    final.mkdir()
    (final / "old").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(final, tmp_path / "partial") as out:
        (out / "new").write_text("half")
        raise RuntimeError
    assert [(file.name, file.read_text()) for file in final.iterdir()] == [("old", "old")]


def test_atomic_folder_makes_nothing_when_its_block_raises(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "final", tmp_path / "partial"):
        raise RuntimeError
    assert not (tmp_path / "final").exists()


def test_atomic_folder_starts_empty_after_a_failure(tmp_path):
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "left over").write_text("half")
    with atomic_folder(tmp_path / "final", tmp_path / "partial") as out:
        (out / "new").write_text("new")
    assert [file.name for file in (tmp_path / "final").iterdir()] == ["new"]


def test_write_text_makes_folders_and_replaces(tmp_path):
    file = tmp_path / "a" / "b.txt"
    write_text(file, "one")
    write_text(file, "two é")
    assert file.read_text(encoding="utf-8") == "two é"
    assert [f.name for f in file.parent.iterdir()] == ["b.txt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_write_text_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    file = tmp_path / "b.txt"
    write_text(file, "one")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        write_text(file, "two")
    assert file.read_text() == "one"
    assert [f.name for f in tmp_path.iterdir()] == ["b.txt"]


def test_folder_hashes_name_every_file_below(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("x")
    (tmp_path / "y").write_text("y")
    before = folder_hashes(tmp_path)
    assert set(before) == {"a/x", "y"}
    (tmp_path / "a" / "x").write_text("z")
    after = folder_hashes(tmp_path)
    assert (after["a/x"] != before["a/x"], after["y"] == before["y"]) == (True, True)
