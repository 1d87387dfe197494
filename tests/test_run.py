"""One job, from its file to its artifact: made whole, not made twice, and published."""

import os
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import Project

from pipeline.common.files import folder_hashes, read_json
from pipeline.execution.processes import alone
from pipeline.execution.run import run_job
from pipeline.study.job import Job
from pipeline.study.phases import PHASES


@pytest.fixture
def here(project, monkeypatch) -> Project:
    """The project, as the folder that jobs run in."""
    monkeypatch.chdir(project.root)
    return project


def work(job, out: Path) -> dict:
    (out / "rows.csv").write_text(f"made by,{job.card['id']}\n")
    return {"rows": 1}


def fail(job, out: Path) -> dict:
    (out / "rows.csv").write_text("half")
    raise RuntimeError("no more room")


@pytest.fixture
def phases(monkeypatch) -> SimpleNamespace:
    """In place of all phases: what they do (`does`, fail if nothing else is said), and the ids that they did it for."""
    instead = SimpleNamespace(does=fail, asked=[])

    def run(job, out: Path) -> dict:
        instead.asked.append(job.card["id"])
        return instead.does(job, out)

    for name in {phase.module for phase in PHASES.values()}:
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(run=run))
    return instead


def first(project, phase: str) -> Job:
    return next(job for job in project.ledger().jobs if job.phase == phase)


def run(project, job: Job) -> int:
    """Plan as Snakemake's main process does, and run one job."""
    ledger = project.ledger()
    ledger.write_jobs()
    return run_job(ledger.job_file(job), None)


def stale(project) -> set[tuple[str, str]]:
    ledger = project.ledger()
    return {job.key for job in ledger.jobs if not ledger.is_current(job)}


def looks(folder: Path) -> dict[str, tuple[int, int]]:
    """The inode and date of every file but the card."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "card.json"]
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


# Making


def test_a_job_is_carried_out_by_one_process_at_a_time(here, phases, monkeypatch, capsys):
    """An orphan on a cluster's node, say, which Snakemake's next run knows nothing of."""
    job = first(here, "pretrain")
    monkeypatch.setattr("pipeline.execution.run.alone", partial(alone, patience=0.2))

    def meanwhile(job_file, out: Path) -> dict:
        begun = out / "rows.csv"
        begun.write_text("half")
        assert run(here, job) == 2
        assert f"already at work: process {os.getpid()} on {os.uname().nodename}\n" in capsys.readouterr().err
        assert begun.read_text() == "half"
        return work(job_file, out)

    phases.does = meanwhile
    assert run(here, job) == 0
    assert phases.asked == [job.id]
    assert job.key not in stale(here)


def test_a_job_makes_a_current_artifact(here, phases):
    phases.does = work
    job = first(here, "pretrain")
    assert run(here, job) == 0
    assert set(folder_hashes(here.root / job.folder)) == {"rows.csv", "measured.json", "files.json", "card.json"}
    assert read_json(here.root / job.folder / "measured.json") == {"rows": 1}
    assert job.key not in stale(here)


def test_what_a_data_job_measured_has_the_licences_beside_it(here, phases):
    phases.does = work
    job = first(here, "sources")
    assert run(here, job) == 0
    measured = read_json(here.root / job.folder / "measured.json")
    assert [licence["name"] for licence in measured["licences"]]
    assert measured["rows"] == 1


def test_what_a_job_made_counts_as_seen_at_once(here, phases):
    phases.does = work
    job = first(here, "pretrain")
    assert run(here, job) == 0
    (here.root / job.card).unlink()
    assert [broken.key for broken in here.ledger().broken] == [job.key]


def test_a_failed_job_says_so_in_one_line_and_leaves_no_artifact(here, phases, capsys):
    job = first(here, "pretrain")
    assert run(here, job) == 1
    assert f"\npretrain {job.id}: RuntimeError: no more room\n" in capsys.readouterr().err
    assert not (here.root / job.folder).exists()


def test_a_failed_job_leaves_the_artifact_that_was_there(here, phases):
    here.make()
    job = first(here, "pretrain")
    here.damage(f"{job.folder}/rows.csv")
    before = folder_hashes(here.root / job.folder)
    assert run(here, job) == 1
    assert folder_hashes(here.root / job.folder) == before


@pytest.mark.parametrize("text", [None, "", "{"])
def test_what_is_no_job_file_is_refused(tmp_path, capsys, text):
    file = tmp_path / "job.json"
    if text is not None:
        file.write_text(text)
    assert run_job(file, None) == 2
    assert capsys.readouterr().err.startswith(f"{file}: not a job file (")


# Not making twice


@pytest.mark.parametrize("looked", [False, True])
def test_an_artifact_that_lacks_its_card_alone_gets_it_back(here, phases, looked):
    here.make()
    assert not looked or not stale(here)
    job = first(here, "shards")
    card = (here.root / job.card).read_bytes()
    before = looks(here.root / job.folder)
    (here.root / job.card).unlink()
    assert stale(here) == {job.key}
    assert run(here, job) == 0
    assert phases.asked == []
    assert (here.root / job.card).read_bytes() == card
    assert looks(here.root / job.folder) == before
    assert not stale(here)


def test_an_artifact_with_a_damaged_card_gets_it_back(here, phases):
    here.make()
    job = first(here, "shards")
    (here.root / job.card).write_text("{")
    assert run(here, job) == 0
    assert phases.asked == [] and not stale(here)


@pytest.mark.parametrize("name", ["rows.csv", "files.json"])
def test_an_artifact_that_lacks_more_than_its_card_is_made_again(here, phases, name):
    here.make()
    phases.does = work
    job = first(here, "shards")
    (here.root / job.card).unlink()
    (here.root / job.folder / name).unlink()
    assert run(here, job) == 0
    assert phases.asked == [job.id] and not stale(here)


def test_a_damaged_artifact_is_made_again(here, phases):
    here.make()
    phases.does = work
    job = first(here, "shards")
    here.damage(f"{job.folder}/rows.csv")
    assert run(here, job) == 0
    assert phases.asked == [job.id] and not stale(here)


def test_an_artifact_of_other_code_is_made_again(here, phases, monkeypatch):
    here.make()
    phases.does = work
    changed = here.with_more_code("pipeline.training.train")
    monkeypatch.chdir(changed.root)
    job = first(changed, "pretrain")
    assert job.key in stale(changed)
    assert run(changed, job) == 0
    assert phases.asked == [job.id] and job.key not in stale(changed)


# Tables


def test_a_table_is_published(here, phases):
    here.make()
    phases.does = work
    table = first(here, "tables")
    here.damage(f"{table.folder}/rows.csv")
    here.damage("results/rows.csv")
    assert run(here, table) == 0
    assert (here.root / "results/rows.csv").read_text() == f"made by,{table.id}\n"
    assert phases.asked == [table.id] and not stale(here)


def test_what_a_table_measured_is_not_published(here):
    here.make()
    table = first(here, "tables")
    assert not (here.root / "results/measured.json").exists()
    assert "measured.json" not in read_json(here.root / table.published)["files"]


@pytest.mark.parametrize("lost", ["card", "list", "both", "a file", "everything"])
def test_a_table_that_was_made_is_published_again_without_being_made(here, phases, lost):
    here.make()
    table = first(here, "tables")
    before = folder_hashes(here.root / "results")
    if lost in ("card", "both", "everything"):
        (here.root / table.card).unlink()
    if lost in ("list", "both"):
        (here.root / table.published).unlink()
    if lost == "a file":
        (here.root / "results/rows.csv").unlink()
    if lost == "everything":
        os.rename(here.root / "results", here.root / "gone")
    assert stale(here) == {table.key}
    assert run(here, table) == 0
    assert phases.asked == [] and not stale(here)
    assert folder_hashes(here.root / "results") == before


def test_edited_results_are_put_right_without_making_the_table(here, phases):
    here.make()
    table = first(here, "tables")
    before = folder_hashes(here.root / "results")
    here.damage("results/parts/0.bin")
    assert run(here, table) == 0
    assert phases.asked == [] and not stale(here)
    assert folder_hashes(here.root / "results") == before


def test_other_files_in_results_are_left_alone(here, phases):
    here.make()
    (here.root / "results/notes.md").write_text("looks good")
    here.damage("results/rows.csv")
    assert run(here, first(here, "tables")) == 0
    assert (here.root / "results/notes.md").read_text() == "looks good"
