"""`python -m pipeline trace`: a number's lineage as text, and one line for what is not there."""

import csv
import shutil
import sys
from pathlib import Path

import pytest
from conftest import SOURCE

from pipeline.__main__ import main
from pipeline.commands.trace import trace
from pipeline.common.files import file_hash, read_json, read_rows, stable_json, write_rows, write_text
from pipeline.execution import provenance
from pipeline.execution import run as runs
from pipeline.reporting.table_list import TABLES
from pipeline.settings.load import load_settings
from pipeline.store import artifacts
from pipeline.store.ledger import Ledger
from pipeline.store.staleness import why
from pipeline.study.study import Study

TABLE1 = "results/table1.csv"
VLM_80 = "model=vlm,branch_percent=80"
RECORD = {
    **{"commit": "c0ffee", "uncommitted_changes": True, "host": "attic", "seconds": 12.5},
    **{"machine": {"processor": "Z80", "cores": 1, "system": "CP/M"}, "finished": "2026-01-02T03:04:05+00:00"},
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The project and its results, without logs or git."""
    for name in ("configs", "pipeline"):
        (tmp_path / name).symlink_to(SOURCE / name)
    shutil.copytree(SOURCE / "results", tmp_path / "results")
    shutil.copy(SOURCE / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def follow(root, target=TABLE1, row=VLM_80, column="vision_gain") -> list[str]:
    return list(trace(root, target, row, column))


# What it comes from


def note_bytes(root: Path, table: str, name: str) -> None:
    """Let a file of results/ be one that was made, with the bytes that it has."""
    file = root / f"results/made_from/{table}.json"
    made = read_json(file)
    made["files"][name] = {"sha256": file_hash(root / "results" / name)}
    file.write_text(stable_json(made))


def test_what_a_model_said_is_shown_in_one_line(root):
    examples, measures = root / "results/figures/examples.csv", root / "results/measures.csv"
    columns, rows = read_rows(examples)
    rows[0][columns.index("prediction")] = "\r\x1b[2Jdog"
    write_rows(examples, columns, rows)
    note_bytes(root, "examples", "figures/examples.csv")
    lines = follow(root, "results/figures/examples.csv", "1", "prediction")
    assert lines[0].endswith(r"prediction: \r\x1b[2Jdog")
    cell = ["recipe", "presence", "normal", "", "f1", 40, 1, 0.5]
    write_rows(measures, ["cell", "task", "condition", "kind", "measure", "questions", "seeds", "score"], [cell])
    note_bytes(root, "conditions", "measures.csv")
    first, second, *_ = follow(root, "results/measures.csv", "1", "score")
    assert first.endswith("measure=f1), score: 0.5") and second.strip() == "measures.csv of the evaluation"


def test_a_number_is_followed_down_to_the_data(root):
    lines = follow(root)
    row = next(row for row in csv.DictReader((root / TABLE1).open()) if row["cell"] == "recipe")
    value = f"{row['vision_gain']} ({row['vision_gain_low']} to {row['vision_gain_high']})"
    assert lines[0].startswith(f"{TABLE1}, row 7 (model=vlm, cell=recipe, branch_percent=80), vision_gain: {value}")
    assert "blind" in lines[1]
    recipe = load_settings(root).params.recipe
    study = Study(load_settings(root))
    model = study.finetune(recipe)
    expected = [study.evaluate(model, recipe), model, study.cooldown(recipe), study.text_state(recipe)]
    text_shards = study.shards("text")
    chain = [f"{job.phase}/{job.id}" for job in (*expected, text_shards)]
    found = [line.strip().rpartition(": ")[2] for line in lines]
    places = [found.index(key) for key in chain]
    assert places == sorted(places)
    assert any("image_fraction 0.5" in line for line in lines)
    assert any("peak_lr 0.006" in line for line in lines)  # of a section that several share


def test_any_way_to_name_a_row_finds_it(root):
    assert follow(root, row="7") == follow(root) == follow(root, row="recipe")


def test_a_table_of_seeds_leads_to_the_seeds_own_run(root):
    row = "branch_percent=20,image_fraction=0.1,finetune_epochs=1,finetune_seed=365"
    lines = follow(root, "results/table7.csv", row, "reading")
    assert [line for line in lines if not line.startswith(" ") and ", seed " in line] == [
        "branch_percent=20 image_fraction=0.1 finetune_epochs=1 finetune_seed=365, seed 7"
    ]
    tuned = [line for line in lines if "finetune/" in line]
    assert tuned and all("-s365-" in line for line in tuned)


def test_a_claim_leads_to_both_sides_and_to_all_seeds(root):
    lines = follow(root, "results/small/claims.csv", "late_captions_better", "effect")
    sides = [
        line for line in lines if line.startswith(("evaluated=cooldown, ", "branch_percent=0 evaluated=cooldown, "))
    ]
    assert len(sides) == 10  # two cells, five seeds
    assert lines[1].strip() == "scores in captions.csv of the evaluation"


@pytest.mark.parametrize(
    ("column", "where"),
    [
        ("reading", "vision.csv of the evaluation"),
        ("copa_low", "text.csv of the evaluation"),
        ("bits_per_byte", "heldout.csv of the evaluation"),
        ("cooldown_cider", "captions.csv of the evaluation"),
        ("training_flops", "measured.json of finetune, cooldown, pretrain"),
        ("cooldown_first_lr", "measured.json of cooldown"),
        ("image_fraction", "a setting of the row"),
        ("seeds", "how many runs the row is of"),
        ("status", "how many runs the row is of"),
    ],
)
def test_a_column_says_where_its_numbers_were_found(root, column, where):
    assert where in follow(root, column=column)[1]


def test_what_no_run_made_says_so(root):
    lines = follow(root, "results/figures/schedules.csv", "1", "learning_rate")
    assert any(line.startswith("it comes from no run of the study: a setting, a schedule, a figure") for line in lines)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_a_file_that_was_edited_by_hand_is_refused(root, capsys):
    edit(root / TABLE1, "\nvlm,", "\nVLM,")
    assert "is not the file that was made" in said(capsys, TABLE1, "--row", "1", "--column", "reading")
    edit(root / TABLE1, "\nVLM,", "\nvlm,")
    assert follow(root)
    (root / "results/made_from/table1.json").unlink()
    assert "what it was made from is not known" in said(capsys, TABLE1, "--row", "1", "--column", "reading")


def test_a_file_the_artifact_here_and_todays_study_may_be_three_things(root):
    """As after `git checkout results` where another machine had made them."""
    study = Study(load_settings(root))
    ledger, job = Ledger(study, root), study.tables["table1"]
    number = [row["cell"] for row in csv.DictReader((root / TABLE1).open())].index("recipe")
    mine = root / job.folder
    shutil.copytree(root / "results", mine)
    shutil.rmtree(mine / "made_from")
    artifacts.make_manifest(mine, ledger.digest(job))
    shutil.copy(mine / "files.json", root / job.published)  # both are of today's study, with the same bytes
    write_text(root / f"logs/tables/{job.id}.json", stable_json(RECORD | {"card": ledger.digest(job)}))
    lines = follow(root)
    assert not any("made elsewhere" in line or "today's study" in line for line in lines)
    assert any("c0ffee" in line for line in lines)

    value = list(csv.DictReader((root / TABLE1).open()))[number]["vision_gain"]
    (mine / "files.json").unlink()
    edit(mine / "table1.csv", value, "12.34")
    artifacts.make_manifest(mine, ledger.digest(job))
    write_text(mine / "card.json", stable_json(ledger.card(job)))
    lines = follow(root)
    assert f"  the artifact here, {job.folder}, has 12.34: one of the two was made elsewhere" in lines
    assert not any("c0ffee" in line for line in lines)
    said = why(Ledger(study, root), TABLE1)
    assert f"but table1.csv: other bytes than in {job.folder}; one of them was made elsewhere" in said

    edit(root / job.published, ledger.digest(job), "0123456789abcdef")
    wanted = f"  the file was made from card 0123456789abcdef, and today's study is card {ledger.digest(job)}: "
    assert wanted + "what follows is today's" in follow(root)


# Commit and machine


def test_commit_and_machine_are_those_of_the_jobs_own_record(root):
    study = Study(load_settings(root))
    ledger, job = Ledger(study, root), study.cooldown(study.recipe)
    record = RECORD | {"card": ledger.digest(job)}
    log = root / f"logs/cooldown/{job.id}.json"
    write_text(log, stable_json(record))
    lines = [line.strip() for line in follow(root)]
    place = lines.index(f"branch: cooldown: cooldown/{job.id}")
    assert "commit: c0ffee with uncommitted changes" in lines[place : place + 8]
    assert "machine: attic, Z80, 1 cores, CP/M; 12.5 s, finished 2026-01-02T03:04:05+00:00" in lines[place : place + 8]
    assert "were not noted here" in lines[-1]  # of the other jobs
    write_text(log, stable_json(record | {"card": "of another day"}))
    assert not any("c0ffee" in line for line in follow(root))


def test_a_job_notes_its_commit_and_machine_beside_its_log(project, monkeypatch):
    """And nowhere in what it makes."""
    monkeypatch.chdir(project.root)
    monkeypatch.setattr(runs, "redirect", lambda log: sys.stderr)
    monkeypatch.setattr(provenance, "git", lambda root, *asked: "c0ffee" if "rev-parse" in asked else "")
    monkeypatch.setattr(runs, "phase_module", lambda job: type("Phase", (), {"run": staticmethod(lambda job, out: {})}))
    ledger = project.ledger()
    ledger.write_jobs()
    job = next(job for job in ledger.jobs if job.phase == "sources")
    log = project.root / f"logs/sources/{job.id}.log"
    log.parent.mkdir(parents=True)
    assert runs.run_job(ledger.job_file(job), log) == 0
    record = read_json(log.with_suffix(".json"))
    assert record["card"] == ledger.digest(job)
    assert (record["commit"], record["uncommitted_changes"]) == ("c0ffee", False)
    assert record["machine"]["processor"] and record["versions"]["torch"]
    made = [file.read_text() for file in (project.root / job.folder).iterdir()]
    assert not any("c0ffee" in text for text in made)


def test_results_that_are_kept_say_where_theirs_is_written(root):
    lines = follow(root, "results/small/table1.csv")
    assert lines[-1].endswith("results/small/README.md has what was written down")


# What is not there


def said(capsys, *command: str) -> str:
    assert main(["trace", *command]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


def test_a_wrong_row_is_one_line_with_the_rows_there_are(root, capsys):
    err = said(capsys, TABLE1, "--row", "branch_percent=85", "--column", "reading")
    assert err.startswith(f"{TABLE1}: --row: found 'branch_percent=85': no row has that; allowed: a row's number, ")
    assert "7 (model=vlm, cell=recipe, branch_percent=80)" in err
    err = said(capsys, TABLE1, "--row", "branch_percent=80", "--column", "reading")
    assert "2 rows have that" in err and "3 (model=text only, branch_percent=80); 7 (" in err
    assert said(capsys, TABLE1, "--row", "99", "--column", "reading").endswith("found 99, allowed: 1 to 8\n")


def test_a_wrong_column_is_one_line_with_the_columns_there_are(root, capsys):
    err = said(capsys, TABLE1, "--row", "1", "--column", "raeding")
    assert err.startswith(f"{TABLE1}: --column: found 'raeding', allowed: model, branch_percent, seeds, ")
    assert err.endswith("did you mean 'reading'?\n")


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("results/none.csv", "no such file; allowed: a CSV of results/"),
        ("results/table1.md", "no table of the study, which has table1.csv, figures/timing.csv"),
        ("params.yaml", "found a file elsewhere, allowed: a CSV of results/"),
    ],
)
def test_a_wrong_file_is_one_line(root, capsys, target, allowed):
    assert allowed in said(capsys, target, "--row", "1", "--column", "x")


def test_the_report_and_the_trace_know_every_table():
    assert next(reversed(TABLES)) == "report"
