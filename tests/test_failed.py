"""A failed run is a row with its status, once it is kept: cards, jobs, tables and claims say so, and nothing else changes."""

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import Project
from test_claims import claim, difference, results  # noqa: F401
from test_reporting import RECIPE, again, study, with_text_run  # noqa: F401
from test_run import fail, first, here, phases, stale, work  # noqa: F401

from pipeline.__main__ import main
from pipeline.commands.keep_failed import keep_failed
from pipeline.common.files import read_json, stable_json, write_text
from pipeline.execution.run import run_job
from pipeline.reporting import (
    claims,
    comparison,
    conditions,
    controls,
    examples,
    experiment_tables,
    floors,
    proportions,
    signal,
    table1,
)
from pipeline.reporting.table_list import TABLES
from pipeline.settings.errors import ConfigError
from pipeline.store.failed_runs import FILE, note
from pipeline.store.staleness import why
from pipeline.study.job import Job

REASON = "cooldown b80-x: FloatingPointError: the loss is nan at step 57"


# Cards


def keep(project: Project, job: Job, reason: str = "RuntimeError: no more room") -> None:
    card = project.ledger().digest(job)
    write_text(project.root / FILE, stable_json({f"{job.phase}/{job.id}": {"card": card, "reason": reason}}))


def cooldown(project: Project) -> Job:
    return next(job for job in project.ledger().jobs if job.phase == "cooldown" and "b80" in job.id)


def failed(project: Project) -> set[str]:
    ledger = project.ledger()
    return {job.id for job in ledger.jobs if "failed" in ledger.card(job)}


def test_what_descends_from_a_kept_run_failed_too_and_tables_did_not(project):
    before = {job.key: project.ledger().digest(job) for job in project.ledger().jobs}
    job = cooldown(project)
    keep(project, job)
    ledger = project.ledger()
    below = {other.id for other in ledger.jobs if job.id in (j.id for j in ledger.inputs(other))}
    assert job.id in failed(project) and {other for other in below if "table1" not in other} <= failed(project)
    assert {ledger.card(j)["failed"] for j in ledger.jobs if "failed" in ledger.card(j)} == {
        f"cooldown {job.id}: RuntimeError: no more room"
    }
    changed = {key for key in before if ledger.digest(next(j for j in ledger.jobs if j.key == key)) != before[key]}
    tables = {job.key for job in ledger.jobs if job.phase == "tables"}
    assert changed == {j.key for j in ledger.jobs if j.id in failed(project)} | tables


def test_a_later_state_of_a_failed_text_run_failed_too(project):
    early, late = [job for job in project.ledger().jobs if job.phase == "pretrain"][:2]
    assert late.continues == early
    keep(project, early)
    assert late.id in failed(project)


def test_taken_out_of_the_file_a_run_is_as_before(project):
    project.make()
    assert not stale(project)
    keep(project, cooldown(project))
    assert stale(project)
    (project.root / FILE).write_text("{}")
    assert not stale(project)


def test_other_code_or_settings_are_tried_again(project):
    keep(project, cooldown(project))
    assert failed(project)
    assert not failed(project.with_more_code("pipeline.training.train"))
    project.set("configs/scale/small.yaml", "cooldown.floor_lr", 0.0002)
    assert not failed(project)


def test_a_clone_without_artifacts_knows_what_was_kept(project):
    keep(project, cooldown(project))
    project.make()
    table = first(project, "tables")
    for phase in ("cooldown", "finetune", "evaluate"):
        shutil.rmtree(project.root / "artifacts" / phase)
    assert project.ledger().is_current(table)


def test_why_says_that_a_run_is_kept_as_failed_or_was(project):
    job = cooldown(project)
    keep(project, job)
    project.make()
    assert why(project.ledger(), job.id).endswith(f"; kept as failed: cooldown {job.id}: RuntimeError: no more room")
    (project.root / FILE).write_text("{}")
    assert "failed: 'cooldown" in why(project.ledger(), job.id)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("{", "(file)"),
        ("[]", "(file)"),
        ('{"cooldown/x": "no"}', "cooldown/x"),
        ('{"cooldown/x": {"card": "1"}}', "cooldown/x"),
        ('{"cooldown/x": {"card": 1, "reason": "y"}}', "cooldown/x"),
        ('{"shards/x": {"card": "1", "reason": "y"}}', "shards/x"),
    ],
)
def test_a_damaged_file_is_named(project, text, key):
    (project.root / FILE).write_text(text)
    with pytest.raises(ConfigError) as error:
        project.ledger()
    assert str(error.value).startswith(f"{FILE}: {key}: ") and "\n" not in str(error.value)


# Jobs


def run(project: Project, job: Job) -> tuple[int, Path]:
    ledger = project.ledger()
    ledger.write_jobs()
    log = project.root / "logs" / job.phase / f"{job.id}.log"
    return run_job(ledger.job_file(job), log), log


@pytest.fixture
def quiet(monkeypatch):
    """Logs without taking over the test's own output."""
    monkeypatch.setattr("pipeline.execution.run.redirect", lambda log, fresh=True: open("/dev/null", "w"))  # noqa: SIM115


def test_a_failure_is_noted_until_the_job_is_begun_again(here, phases, quiet):  # noqa: F811
    job = first(here, "cooldown")
    code, log = run(here, job)
    assert code == 1
    assert read_json(note(log)) == {"card": here.ledger().digest(job), "reason": "RuntimeError: no more room"}
    phases.does = work
    assert run(here, job)[0] == 0
    assert not note(log).exists()


def test_a_failed_run_is_kept_and_made_without_being_run(here, phases, quiet, capsys):  # noqa: F811
    job = first(here, "cooldown")
    run(here, job)
    assert main(["keep-failed"]) == 0
    assert capsys.readouterr().out == f"kept as failed: cooldown/{job.id}: RuntimeError: no more room\n"
    phases.asked.clear()
    job = next(other for other in here.ledger().jobs if other.id == job.id)
    assert run(here, job)[0] == 0
    assert phases.asked == []
    assert read_json(here.root / job.folder / "measured.json") == {
        "failed": f"cooldown {job.id}: RuntimeError: no more room"
    }
    assert job.key not in stale(here)
    assert read_json(here.root / job.card)["failed"]


def test_a_reason_is_one_line_and_kept_runs_add_up(here, phases, quiet):  # noqa: F811
    def several_lines(job, out):
        raise RuntimeError("first\n  second")

    phases.does = several_lines
    jobs = [job for job in here.ledger().jobs if job.phase == "cooldown"][:2]
    for job in jobs:
        run(here, job)
        keep_failed(here.ledger())
    assert {entry["reason"] for entry in read_json(here.root / FILE).values()} == {"RuntimeError: first second"}
    assert len(read_json(here.root / FILE)) == 2


def test_what_did_not_fail_or_is_no_run_is_not_kept(here, phases, quiet, capsys):  # noqa: F811
    run(here, first(here, "shards"))
    assert main(["keep-failed"]) == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith("no pretrain, cooldown, finetune or evaluate of today's study has failed")
    )
    run(here, first(here, "cooldown"))
    here.make()
    assert main(["keep-failed"]) == 2  # it was made since, by another hand
    assert read_json(here.root / FILE) == {}


# Parents


def test_a_parent_from_another_study_is_refused(here, phases, capsys):  # noqa: F811
    here.make()
    phases.does = work
    job = first(here, "finetune")
    here.damage(f"{job.folder}/rows.csv")
    parent = here.root / job.parents["branch"].folder
    description = here.ledger()
    description.write_jobs()
    manifest = read_json(parent / "files.json") | {"card": "0123456789abcdef"}
    (parent / "files.json").write_text(stable_json(manifest))
    assert run_job(description.job_file(job), None) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    wanted = here.ledger().digest(job.parents["branch"])
    assert said.startswith(
        f"finetune {job.id}: ValueError: {job.parents['branch'].folder}: files.json is of another card"
    )
    assert said.endswith(f"as branch of this job the study means card {wanted}")
    assert phases.asked == []


def test_a_parent_with_other_bytes_is_refused(here, phases, capsys):  # noqa: F811
    here.make()
    phases.does = work
    job = first(here, "finetune")
    here.damage(f"{job.folder}/rows.csv")
    ledger = here.ledger()
    ledger.write_jobs()
    here.damage(f"{job.parents['branch'].folder}/parts/0.bin")
    assert run_job(ledger.job_file(job), None) == 1
    assert "parts/0.bin has other bytes than when it was made" in capsys.readouterr().err.splitlines()[-1]


def test_a_state_of_another_run_is_not_continued(here, phases, capsys):  # noqa: F811
    here.make()
    phases.does = work
    job = next(job for job in here.ledger().jobs if job.continues)
    here.damage(f"{job.folder}/rows.csv")
    ledger = here.ledger()
    ledger.write_jobs()
    card = read_json(here.root / job.continues.card)
    assert run_job(ledger.job_file(job), None) == 0
    here.damage(f"{job.folder}/rows.csv")
    (here.root / job.continues.card).write_text(stable_json(card | {"settings": card["settings"] | {"seed": 3}}))
    assert run_job(ledger.job_file(job), None) == 1
    assert "is of another run than the one to be continued" in capsys.readouterr().err.splitlines()[-1]


# Tables


def fail_runs(made, *roles: str):
    """The same Rows, in which what is in some roles failed."""
    for role in roles:
        folder = made.inputs[role].with_name(f"{made.inputs[role].name}-failed")
        folder.mkdir(exist_ok=True)
        (folder / "measured.json").write_text(json.dumps({"failed": REASON}))
        made.inputs[role] = folder
    return made


BRANCHES = (("recipe", 7, {}, 0.6), ("branch_percent=100", 7, {"branch_percent": 100.0}, 0.5))


@pytest.mark.parametrize("name", ["table3", "table4", "table5", "table6", "table9"])
def test_a_table_has_a_row_of_a_failed_run(study, tmp_path, name):  # noqa: F811
    published = {"output": name, "setting": "s", "task": "t", "value": 40.0, "unit": "points", "note": ""}
    published = [published | {"cell": cell, "column": "vision_average"} for cell in ("recipe", "branch_percent=100")]
    made = fail_runs(study(name, *BRANCHES, published=published), "scores/branch_percent=100-7")
    experiment_tables.table(made, tmp_path)
    table = pd.read_csv(tmp_path / f"{name}.csv").set_index("cell")
    assert table["status"].to_dict() == {"recipe": "ok", "branch_percent=100": f"failed: {REASON}"}
    assert table.loc["branch_percent=100", ["seeds", "branch_percent"]].tolist() == [0, 100]
    assert table.loc["branch_percent=100", "vision_stable":"training_flops"].isna().all()
    assert table.loc["recipe", "vision_average"] == 0.6
    text = (tmp_path / f"{name}.md").read_text()
    assert f"| failed: {REASON} |" in text
    beside = comparison.beside(made, made.table(made.cells()))
    assert list(beside["status"]) == ["ok", f"failed: {REASON}"]
    comparison.make(made, tmp_path)
    assert f"failed: {REASON}" in (tmp_path / "comparison.md").read_text()


def test_a_row_is_of_the_seeds_that_did_not_fail_and_says_so(study, tmp_path):  # noqa: F811
    runs = [("recipe", seed, {}, score) for seed, score in ((7, 0.4), (8, 0.6), (9, 0.8))]
    made = fail_runs(study("table5", *runs), "scores/recipe-9")
    (cell,) = made.cells()
    row = made.row(cell)
    assert (row["seeds"], row["status"]) == (2, f"without what failed: seed 9: {REASON}")
    assert row["vision_average"] == pytest.approx(0.5)
    experiment_tables.table(made, tmp_path)
    assert f"| 2, without what failed: seed 9: {REASON} |" in (tmp_path / "table5.md").read_text()


def test_seeds_one_by_one_show_the_one_that_failed(study, tmp_path):  # noqa: F811
    runs = [(f"f{seed}", 7, {"finetune_seed": seed}, score) for seed, score in ((7, 0.6), (365, 0.5))]
    made = study("table7", *runs, experiments=["seeds"])
    experiment_tables.table(fail_runs(made, "scores/f365-7"), tmp_path)
    table = pd.read_csv(tmp_path / "table7.csv").set_index("finetune_seed")
    assert table["status"].to_dict() == {7: "ok", 365: f"failed: {REASON}"}


@pytest.mark.parametrize("lost", ["one branch", "every branch", "the text run's end", "the language prior"])
def test_table_1_keeps_its_rows(study, tmp_path, lost):  # noqa: F811
    made = with_text_run(study("table1", *BRANCHES, experiments=["timing"]), tmp_path)
    made.inputs["blind"] = made.inputs["scores/recipe-7"]
    every = [f"scores/{cell}-7" for cell, *_ in BRANCHES]
    roles = {
        "one branch": [every[0], "finetune/recipe-7"],
        "every branch": every,
        "the text run's end": ["scores/text-100.0", "pretrain/text-100.0"],
        "the language prior": ["blind"],
    }
    table1.make(fail_runs(made, *roles[lost]), tmp_path / "out")
    table = pd.read_csv(tmp_path / "out/table1.csv")
    assert list(table["model"]) == ["text only", "text only", "vlm", "vlm"]
    vlm = table[table["model"] == "vlm"].set_index("branch_percent")
    assert ("vision_average" in vlm and bool(vlm.loc[80.0, "vision_average"] > 0)) == (not lost.endswith("branch"))
    text = (tmp_path / "out/table1.md").read_text()
    metrics = read_json(tmp_path / "out/metrics.json")
    if lost == "one branch":
        assert vlm["status"].to_dict() == {80.0: f"failed: {REASON}", 100.0: "ok"}
        assert f"- branch at 80%: failed: {REASON}" in text
        assert set(metrics["vision_gain"]) == {"100%"}
    if lost == "every branch":
        assert metrics == {name: {} for name in table1.HEADLINE}
    if lost == "the text run's end":
        row = table[(table["model"] == "text only") & (table["branch_percent"] == 100)].iloc[0]
        assert row["status"] == f"failed: {REASON}" and math.isnan(row["text_stable"])
    if lost == "the language prior":
        assert vlm["vision_gain"].isna().all() and vlm["vision_average"].notna().all()
        assert (vlm["status"] == f"ok; no language prior: {REASON}").all()
    assert (tmp_path / "out/figures/timing.png").stat().st_size > 1000


def test_stages_and_sizes_keep_their_rows(study, tmp_path):  # noqa: F811
    for name, make in (("table8", experiment_tables.stages), ("table2", experiment_tables.sizes)):
        made = with_text_run(study(name, *BRANCHES), tmp_path)
        lost = ["pretrain/text-50.0", "scores/text-50.0", "scores/branch_percent=100-7"]
        make(fail_runs(made, *lost), tmp_path)
        table = pd.read_csv(tmp_path / f"{name}.csv")
        assert list(table["status"] == f"failed: {REASON}").count(True) == 2
        assert list(table["status"] == "ok").count(True) == len(table) - 2 > 0
        assert (tmp_path / f"{name}.md").read_text().count(f"failed: {REASON}") == 2


@pytest.mark.parametrize("lost", [1, 2])
def test_figures_conditions_and_controls_keep_their_rows(study, tmp_path, lost):  # noqa: F811
    roles = [f"scores/{cell}-7" for cell, *_ in BRANCHES[-lost:]]
    runs = (("recipe", 7, {}, 0.6), ("branch_percent=100", 7, {"image_fraction": 0.5}, 0.5))
    experiment_tables.figure(
        fail_runs(study("image_fraction", *runs, experiments=["image_fraction"]), *roles), tmp_path
    )
    table = pd.read_csv(tmp_path / "figures/image_fraction.csv")
    assert list(table["status"]).count(f"failed: {REASON}") == lost
    conditions.make(fail_runs(study("conditions", *runs), *roles), tmp_path)
    for name in ("conditions", "question_types"):
        table = pd.read_csv(tmp_path / f"{name}.csv")
        assert set(table[table["seeds"] == 0]["status"]) == {f"failed: {REASON}"}
        assert set(table["cell"]) == {"recipe", "branch_percent=100"}
        assert f"- cell branch_percent=100: failed: {REASON}" in (tmp_path / f"{name}.md").read_text()
    made = study("controls", *runs, ("blind", 7, {}, 0.4), experiments=["rewarm", "text_only"])
    made = again(made, blind={"experiments": ["blind"], "evaluated": "blind"})
    controls.make(fail_runs(made, *roles, "scores/blind-7"), tmp_path)
    table = pd.read_csv(tmp_path / "controls.csv")
    assert set(table[table["seeds"] == 0]["cell"]) == {"blind", *(cell for cell, *_ in BRANCHES[-lost:])}
    assert (tmp_path / "figures/rewarm.png").exists()
    assert f"| blind | failed: {REASON} |" in (tmp_path / "controls.md").read_text()


def test_examples_of_a_failed_run_say_so(study, tmp_path):  # noqa: F811
    examples.make(fail_runs(study("examples", BRANCHES[0]), "scores/recipe-7"), tmp_path)
    assert f"failed: {REASON}" in (tmp_path / "figures/examples.csv").read_text()
    assert (tmp_path / "figures/examples.png").stat().st_size > 1000


def test_a_reason_with_a_bar_stays_in_its_cell(study, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("test_failed.REASON", "cooldown x: ValueError: a | b")
    experiment_tables.table(fail_runs(study("table5", BRANCHES[0]), "scores/recipe-7"), tmp_path)
    assert r"failed: cooldown x: ValueError: a \| b |" in (tmp_path / "table5.md").read_text()


# Claims


def lose(results, *names: str) -> None:  # noqa: F811
    for name in names:
        folder = results.folder / f"{name}-failed"
        folder.mkdir()
        (folder / "measured.json").write_text(json.dumps({"failed": REASON}))
        results.inputs[f"scores/{name}"] = folder


def test_a_claim_whose_runs_failed_is_not_run_and_says_why(results):  # noqa: F811
    results.add("recipe", 0.6)
    results.add("other", 0.5, seeds=1)
    lose(results, "other-model-0")
    (row,) = results.judge(claim(difference())).to_dict("records")
    assert row["verdict"] == "not_run" and math.isnan(row["effect"])
    assert row["reason"].endswith(f"Failed: other: {REASON}.")
    assert f"Failed: other: {REASON}." in results.text


def test_a_claim_is_judged_on_the_seeds_that_are_left_and_names_the_others(results):  # noqa: F811
    results.add("recipe", 0.64, run_sd=0.001, seeds=6)
    results.add("other", 0.6, run_sd=0.001, seeds=6)
    lose(results, "other-model-3")
    (row,) = results.judge(claim(difference())).to_dict("records")
    assert (row["verdict"], row["seeds"]) == ("supported", 5)
    assert row["reason"].endswith(f"Failed: other: seed 3: {REASON}.")


def test_without_the_blind_run_nothing_can_be_said_of_looking(results):  # noqa: F811
    results.add("recipe", 0.64, run_sd=0.001)
    results.add("other", 0.6, run_sd=0.001, bits=2.1)
    lose(results, "blind")
    results.inputs["blind"] = results.inputs.pop("scores/blind")
    agreement = {"metric": "short_answer", "over": "finetune_seed", "values": [7, 365], "margin": 0.02}
    agreement["pairs"] = [["recipe", "other"]]
    asked = [claim(difference()), claim(difference("other", "recipe", "bits_per_byte"), name="text")]
    asked.append(claim(kind="agreement", agreement=agreement, name="seeds"))
    table = results.judge(*asked).set_index("claim")
    assert table["verdict"].to_dict() == {"the_claim": "not_run", "text": "supported", "seeds": "not_run"}
    assert table.loc["the_claim", "reason"].endswith(f"Failed: the language prior: {REASON}.")


def test_a_seed_that_failed_is_no_part_of_signal_and_noise(study, tmp_path):  # noqa: F811
    runs = [(cell, seed, {}, score) for cell, score in (("recipe", 0.6), ("other", 0.5)) for seed in (7, 8, 9)]
    made = fail_runs(study("signal", *runs, experiments=["timing"]), "scores/other-9")
    signal.make(made, tmp_path)
    assert set(pd.read_csv(tmp_path / "signal.csv")["seeds"]) == {2}


def test_of_a_phase_that_failed_there_are_no_proportions(study, tmp_path):  # noqa: F811
    made = fail_runs(study("proportions", ("recipe", 7, {}, 0.6)), "cooldown/recipe-7")
    proportions.make(made, tmp_path)
    found = pd.read_csv(tmp_path / "proportions.csv").set_index("proportion")["here"]
    assert math.isnan(found["fine-tuning tokens : image-text tokens of the cooldown"])
    proportions.make(study("proportions"), tmp_path)
    assert pd.read_csv(tmp_path / "proportions.csv")["here"].isna().all()


def test_without_a_model_or_a_blind_run_no_task_is_called_clear_of_its_floor(study, tmp_path):  # noqa: F811
    made = study("floors", ("recipe", 7, {}, 0.6), ("recipe", 8, {}, 0.7))
    for guess, score in (("constant", 0.3), ("majority", 0.25), ("blind", 0.55)):
        made.__dict__[guess] = made.prior.assign(score=score, answer="yes | no")
    floors.make(made, tmp_path)
    table = pd.read_csv(tmp_path / "floors.csv").set_index(["task", "answers"])
    above = table.xs("above the best of these", level="answers")
    assert dict(above["score"]) == pytest.approx(dict.fromkeys(above.index, 0.1))
    # Two seeds that are ten points apart: above by ten points, and not clear of zero.
    assert (above["score_low"] < 0).all() and (above["at_floor"] == True).all()  # noqa: E712
    assert r"30.0 (yes \| no)" in (tmp_path / "floors.md").read_text()
    for lost in ("scores/recipe-7", "blind"):
        made = study("floors", ("recipe", 7, {}, 0.6))
        made.inputs["blind"] = tmp_path / "blind"
        made = fail_runs(made, lost)
        floors.make(made, tmp_path)
        table = pd.read_csv(tmp_path / "floors.csv")
        assert (table["seeds"] == 0).all() and table["at_floor"].isna().all()
        assert f"{REASON}\n" in (tmp_path / "floors.md").read_text()


def test_every_table_that_shows_runs_is_tried_here():
    """A new table must say what it does about a run that failed."""
    tried = {"table1", "table2", "table3", "table4", "table5", "table6", "table7", "table8", "table9"}
    tried |= {"controls", "conditions", "examples", "claims", "comparison", "signal", "proportions", "floors"}
    tried |= {"report"}  # in tests/test_report.py
    figures = {name for name, table in TABLES.items() if table.files == (f"figures/{name}.png", f"figures/{name}.csv")}
    assert set(TABLES) - figures - tried == {"drawings"}  # of the plan alone
    assert claims.make and RECIPE
