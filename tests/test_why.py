"""Why an artifact is stale, in one line: the setting, the code, the damage, and whose it is."""

import shutil

import pytest
from conftest import SCALE

from pipeline.store.staleness import why
from pipeline.study.job import Job

PARAMS, ENCODER = "params.yaml", "configs/encoder/efficientnet_lite0.yaml"
TABLE = "results/table1.csv"


def tell(project, target: str) -> str:
    line = why(project.ledger(), target)
    assert line and line.splitlines() == [line]
    return line


def first(project, phase: str, label: str = "") -> Job:
    return next(job for job in project.ledger().jobs if job.phase == phase and label in job.label)


def test_a_current_target_is_up_to_date(project):
    project.make()
    ledger = project.ledger()
    assert tell(project, TABLE) == f"{TABLE}: up to date (card {ledger.digest(ledger.study.tables['table1'])})"


@pytest.mark.parametrize("target", ["{id}", "{folder}", "{folder}/", "./{folder}", "{card}", "{folder}/parts/0.bin"])
def test_a_target_is_an_id_or_a_folder_or_a_file_in_it(project, target):
    project.make()
    job = first(project, "cooldown")
    project.damage(f"{job.folder}/rows.csv")
    target = target.format(id=job.id, folder=job.folder, card=job.card)
    assert tell(project, target) == f"{target}: stale: rows.csv has other bytes than when it was made"


@pytest.mark.parametrize(
    "target", ["text", "shards", "artifacts/shards", "artifacts/shards/text-00000000", "a", "", "."]
)
def test_an_unknown_target_is_refused_with_what_there_is(project, target):
    with pytest.raises(ValueError, match="not in the study") as raised:
        tell(project, target)
    assert first(project, "shards").id in str(raised.value)


def test_an_artifact_that_left_the_study_is_unknown(project):
    project.make()
    job = first(project, "cooldown")
    project.set(SCALE, "cooldown.weight_decay", 0.5)
    with pytest.raises(ValueError, match=job.id):
        tell(project, job.folder)


# Settings


def test_a_changed_setting_is_named_with_its_old_and_new_value(project):
    project.make()
    old = project.read(SCALE)["cooldown"]["weight_decay"]
    project.set(SCALE, "cooldown.weight_decay", 0.5)
    after = first(project, "cooldown")
    assert tell(project, after.id) == f"{after.id}: stale: optimisation.weight_decay: {old} -> 0.5"


def test_the_root_is_the_ancestor_and_not_the_table(project):
    project.make()
    project.set(SCALE, "cooldown.weight_decay", 0.5)
    root = first(project, "cooldown")
    for target in (TABLE, first(project, "finetune", root.label).id):
        assert tell(project, target).startswith(f"{target}: stale: cooldown {root.id}: optimisation.weight_decay: ")


def test_the_number_of_other_roots_is_told(project):
    project.make()
    project.set(SCALE, "cooldown.weight_decay", 0.5)
    branches = [job for job in project.ledger().jobs if job.phase == "cooldown"]
    assert len(branches) > 1
    assert tell(project, TABLE).endswith(f" (and {len(branches) - 1} more like it)")


def test_an_ancestor_of_an_ancestor_comes_first(project):
    project.make()
    project.set(SCALE, "cooldown.weight_decay", 0.5)
    project.set(SCALE, "text.weight_decay", 0.25)
    root = first(project, "pretrain")
    assert tell(project, TABLE).startswith(f"{TABLE}: stale: pretrain {root.id}: optimisation.weight_decay: ")
    assert "-> 0.25" in tell(project, TABLE)


def test_a_setting_of_the_table_itself_needs_no_name(project):
    project.make()
    project.set(PARAMS, "experiments.timing.vary.branch_percent", [0, 80, 100])
    line = tell(project, TABLE)
    assert line.startswith(f"{TABLE}: stale: rows.cooldown-b50-")
    assert line.split(";")[0].endswith(": a section -> nothing")


def test_what_was_set_aside_still_explains(project):
    project.make()
    project.set(SCALE, "cooldown.weight_decay", 0.5)
    before = tell(project, TABLE)
    project.ledger().set_aside("cooldown")
    assert tell(project, TABLE) == before


def test_the_nearest_of_all_artifacts_is_compared(project):
    project.make()
    project.set(SCALE, "cooldown.weight_decay", 0.5)
    after = first(project, "cooldown", "b50-")
    # Against the 80% branch the branch's step would differ too.
    assert tell(project, after.id).endswith(": stale: optimisation.weight_decay: 0.033 -> 0.5")


def test_the_nearest_of_the_same_kind_is_compared_down_to_the_setting(project):
    """A model that sees images differs from the blind one in less, and explains nothing."""
    project.make()
    project.set(PARAMS, "recipe.image_fraction", 0.2)
    project.make("cooldown")
    job = first(project, "finetune", "blind-b80-")
    assert tell(project, job.id) == f"{job.id}: stale: parent branch: image_fraction: 0.1 -> 0.2"
    assert "image_fraction: 0.1 -> 0.2" in tell(project, TABLE)
    shutil.rmtree(project.root / "artifacts/finetune")
    project.set(PARAMS, "recipe.image_fraction", 0.1)
    project.make("finetune")
    for old in project.root.glob("artifacts/finetune/b*"):  # only what the study has is left
        assert old.is_dir()
    assert "blind: " not in tell(project, TABLE)


def test_many_differences_are_counted_after_three(project):
    project.make()
    for key in ("weight_decay", "clip_norm", "z_loss", "peak_lr", "warmup_fraction"):
        project.set(SCALE, f"finetune.{key}", 0.5)
    line = tell(project, first(project, "finetune").id)
    assert line.count(" -> ") == 3
    assert line.endswith("; and 2 more")


def test_a_value_with_a_line_break_stays_in_its_line(project, tmp_path):
    project.make()
    weights = tmp_path / "one\ntwo"
    weights.mkdir()
    project.set(ENCODER, "weights", str(weights))
    assert "one\\ntwo' (and " in tell(project, TABLE)


# Code and parents


def test_changed_code_names_its_module(project):
    project.make()
    changed = project.with_more_code("pipeline.evaluation.metrics")
    root = first(changed, "evaluate")
    assert tell(changed, root.id) == f"{root.id}: stale: code of pipeline.evaluation.metrics changed"
    assert tell(changed, TABLE).startswith(
        f"{TABLE}: stale: evaluate {root.id}: code of pipeline.evaluation.metrics changed (and "
    )


def test_changed_code_of_the_table_alone_is_the_tables(project):
    project.make()
    changed = project.with_more_code("pipeline.reporting.table1")
    assert tell(changed, TABLE) == f"{TABLE}: stale: code of pipeline.reporting.table1 changed"


def test_settings_come_before_code(project):
    project.make()
    changed = project.with_more_code("pipeline.training.train")
    changed.set(SCALE, "cooldown.weight_decay", 0.5)
    changed.make("pretrain")
    line = tell(changed, first(changed, "cooldown").id)
    assert line.index("weight_decay") < line.index("code of pipeline.training.train changed") < line.index("parent ")


def test_a_parent_that_was_made_anew_is_named_by_its_role(project):
    project.make()
    changed = project.with_more_code("pipeline.model.features")
    changed.make("features")
    job = first(changed, "cooldown")
    assert tell(changed, job.id) == f"{job.id}: stale: parent features changed"


# Damage


@pytest.mark.parametrize("looked", [False, True])
def test_damage_names_the_file(project, looked):
    project.make()
    assert not looked or tell(project, TABLE)
    job = first(project, "shards")
    project.damage(f"{job.folder}/parts/0.bin")
    assert tell(project, job.id) == f"{job.id}: stale: parts/0.bin has other bytes than when it was made"


def test_a_missing_file_is_named(project):
    project.make()
    job = first(project, "shards")
    (project.root / job.folder / "rows.csv").unlink()
    assert tell(project, job.id) == f"{job.id}: stale: rows.csv is missing"


def test_edited_results_are_named(project):
    project.make()
    project.damage("results/rows.csv")
    assert tell(project, TABLE) == f"{TABLE}: stale: rows.csv has other bytes than when it was made"


def test_damage_leaves_what_was_made_before_up_to_date(project):
    project.make()
    project.damage(f"{first(project, 'shards').folder}/rows.csv")
    assert ": up to date (" in tell(project, TABLE)


def test_a_damaged_ancestor_is_the_root_of_a_table_that_must_be_made(project):
    project.make()
    root = first(project, "shards")
    project.damage(f"{root.folder}/rows.csv")
    project.set(PARAMS, "split", "validation")
    assert tell(project, TABLE).startswith(f"{TABLE}: stale: shards {root.id}: rows.csv has other bytes ")


def test_a_deleted_artifact_was_here(project):
    project.make()
    assert ": up to date (" in tell(project, TABLE)
    job = first(project, "shards")
    shutil.rmtree(project.root / job.folder)
    assert tell(project, job.id) == f"{job.id}: stale: it was here and has been deleted"


def test_an_artifact_without_a_readable_card_was_here(project):
    project.make()
    assert ": up to date (" in tell(project, TABLE)
    job = first(project, "shards")
    (project.root / job.card).write_text("{")
    assert tell(project, job.id) == f"{job.id}: stale: it was here and has been deleted"


def test_a_damaged_card_elsewhere_explains_nothing(project):
    project.make()
    project.set(SCALE, "cooldown.weight_decay", 0.5)
    before = tell(project, TABLE)
    bad = project.root / "artifacts/cooldown/bad/card.json"
    bad.parent.mkdir()
    bad.write_text("{")
    assert tell(project, TABLE) == before


@pytest.mark.parametrize("text", ["[]", "7", "{}"])
def test_a_card_file_that_holds_no_card_still_gets_a_line(project, text):
    project.make()
    job = first(project, "shards")
    (project.root / job.card).write_text(text)
    assert tell(project, job.id) == f"{job.id}: stale: card.json is damaged"


# Results that git has brought


def test_what_git_has_brought_is_not_called_made_here_or_stale(project):
    project.make()
    card = project.ledger().digest(project.ledger().study.tables["table1"])
    for folder in ("artifacts", ".study"):
        shutil.rmtree(project.root / folder, ignore_errors=True)
    assert tell(project, TABLE).startswith(f"{TABLE}: committed; its artifacts are not here")
    project.set(SCALE, "cooldown.weight_decay", 0.5)
    assert tell(project, TABLE).startswith(f"{TABLE}: committed, of another study (card {card}, today's is ")
    project.damage("results/rows.csv")
    assert "stale: rows.csv has other bytes than when it was made; its artifacts" in tell(project, TABLE)


# Not made yet


def test_what_nobody_made_was_not_made_yet(project):
    root = project.ledger().jobs[0]
    assert tell(project, root.id) == f"{root.id}: stale: not made yet"
    assert tell(project, TABLE).startswith(f"{TABLE}: stale: {root.phase} {root.id}: not made yet (and ")


def test_what_comes_next_was_not_made_yet(project):
    project.make("sources")
    root = first(project, "tokenizer")
    assert tell(project, root.id) == f"{root.id}: stale: not made yet"


def test_a_job_whose_like_was_made_was_not_made_yet(project):
    project.make()
    job = first(project, "cooldown", "b50-")
    shutil.rmtree(project.root / job.folder)
    assert tell(project, job.id) == f"{job.id}: stale: not made yet"
