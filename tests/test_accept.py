"""Today's code is accepted for finished jobs if a sample comes out with the same bytes; else nothing changes at all."""

import itertools
import re
import shutil
from pathlib import Path

import pytest
from conftest import SOURCE, Project
from test_verify import audit, everything, some_job  # noqa: F401 (a fixture)

from pipeline.__main__ import main
from pipeline.commands import accept
from pipeline.commands.trace import Records
from pipeline.commands.verify import NotReproduced
from pipeline.common.files import digest, read_json, stable_json, write_text
from pipeline.execution.processes import Presence
from pipeline.store import artifacts
from pipeline.store.fingerprint import code_fingerprint
from pipeline.store.staleness import why
from pipeline.study.job import Job
from pipeline.study.phases import PHASES

MODULE = "pipeline.model.vision"  # what all but the first phases run
TABLE = "results/table1.csv"


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> list[Path]:
    """The package with a module that does something more, and with one that does more still."""
    made = [tmp_path_factory.mktemp("code") / "pipeline" for _ in range(2)]
    for number, folder in enumerate(made, 1):
        shutil.copytree(SOURCE / "pipeline", folder, ignore=shutil.ignore_patterns("__pycache__"))
        with open(folder / "model/vision.py", "a", encoding="utf-8") as file:
            file.write(f"\nMORE = {number}\n")
    return made


@pytest.fixture
def changed(audit, packages):  # noqa: F811
    """The project, made, and then given other code; what makes jobs again copies their artifacts, or spoils the copy."""
    give_code(audit, packages[0])
    return audit


def give_code(project: Project, package: Path) -> None:
    (project.root / "pipeline").unlink()
    (project.root / "pipeline").symlink_to(package)


def run(project: Project, *phases: str, sample: int = 2, seed: int | None = 1) -> list[str]:
    return list(accept.accept(project.ledger(), list(phases or PHASES), sample, seed))


def cards(project: Project) -> dict[str, dict]:
    return {job.id: read_json(project.root / job.card) for job in project.ledger().jobs}


def jobs_of(project: Project, phase: str) -> list[Job]:
    return [job for job in project.ledger().jobs if job.phase == phase]


def phases_with(module: str) -> list[str]:
    return [phase for phase in PHASES if module in code_fingerprint(SOURCE, phase)]


def outputs(project: Project) -> dict[str, str]:
    """The bytes of what jobs make, without what says which card they are of."""
    names = ("card.json", "files.json")
    found = everything(project).items()
    return {
        name: its
        for name, its in found
        if name.startswith(("artifacts/", "results/")) and not name.endswith(names) and "made_from" not in name
    }


def test_all_that_a_changed_module_made_stale_is_accepted(changed):
    stale = [job for job in changed.ledger().jobs if not changed.ledger().is_current(job)]
    before, old = outputs(changed), cards(changed)
    assert {"cooldown", "tables"} <= {job.phase for job in stale} and len(stale) > 20
    lines = run(changed)
    ledger = changed.ledger()
    assert all(map(ledger.is_current, ledger.jobs)) and outputs(changed) == before
    of_phase = {phase: [job for job in stale if job.phase == phase] for phase in phases_with(MODULE)}
    assert len(changed.asked) == sum(min(2, len(jobs)) for jobs in of_phase.values())
    for phase, jobs in of_phase.items():
        sampled = [asked["card"]["id"] for asked in changed.asked if asked["card"]["phase"] == phase]
        for job in jobs:
            (entry,) = ledger.acceptances(job)
            assert entry["sample"] == sorted(sampled) and entry["jobs"] == len(jobs)
            assert entry["from"]["card"] == digest(old[job.id])
            assert entry["from"]["code"] == {MODULE: old[job.id]["code"][MODULE]}
            assert entry["by"]["commit"] == "0" * 40
        assert f"{phase}: {len(jobs)} jobs are stale by their code alone" in lines
    assert artifacts.manifest_of(changed.root / "results/made_from/table1.json")["card"] == ledger.digest(
        ledger.study.tables["table1"]
    )


def test_the_engines_have_nothing_to_do_and_read_no_file_again(changed, monkeypatch):
    run(changed)
    monkeypatch.setattr(artifacts, "file_hash", lambda file: pytest.fail(f"{file} was read"))
    ledger = changed.ledger()
    ledger.write_jobs()
    descriptions = [read_json(ledger.job_file(job)) for job in ledger.jobs]
    assert {(description["position"], description["rerun_token"]) for description in descriptions} == {(None, None)}
    assert not ledger.broken


def test_jobs_with_the_same_code_follow_their_parents_without_a_sample(changed):
    assert MODULE not in code_fingerprint(SOURCE, "tables")
    phases = phases_with(MODULE)
    lines = run(changed, *phases)
    assert "tables: 1 jobs follow their parents, as their own code is the same" in lines
    table = changed.ledger().study.tables["table1"]
    (entry,) = changed.ledger().acceptances(table)
    assert entry["from"]["code"] == {} and entry["sample"] == []
    assert not [asked for asked in changed.asked if asked["card"]["phase"] == "tables"]


def test_one_other_byte_is_refused_and_changes_nothing(changed):
    run(changed, "features", "pretrain")
    jobs = jobs_of(changed, "cooldown")
    changed.spoils[jobs[-1].id] = lambda made: (made / "parts/0.bin").write_bytes(b"other") and None
    before = everything(changed)
    with pytest.raises(NotReproduced) as refused:
        run(changed, "cooldown", "finetune", sample=len(jobs))
    wanted = (
        f"refused: with today's code cooldown {jobs[-1].id} differs in parts/0.bin; no card of cooldown was changed"
    )
    assert str(refused.value).startswith(wanted)
    assert unseen(everything(changed)) == unseen(before)


def unseen(hashes: dict[str, str]) -> dict[str, str]:
    """Without what is remembered of files' dates, and of who is at work."""
    return {name: its for name, its in hashes.items() if not name.startswith((".study/seen/", ".study/running/"))}


def test_what_a_sample_proves_is_said_exactly(changed):
    total = len(jobs_of(changed, "finetune"))
    run(changed, "features", "pretrain", "cooldown")
    line = run(changed, "finetune", sample=2)[-1]
    entry = changed.ledger().acceptances(some_job(changed, "finetune"))[0]
    most = entry["at_most_differing"]
    assert 0 < most["jobs"] <= total - 2 and most["share"] == round(most["jobs"] / total, 6)
    assert f"2 of {total} finetune jobs, drawn at random, were made again to the same bytes; at 95%" in line
    assert f"at most {most['jobs']} of the {total} (" in line and "(--seed 1)" in line
    line = run(changed, "evaluate", sample=1000)[-2]  # a table follows
    assert re.search(r"all \d+ evaluate jobs were made again to the same bytes$", line)
    assert changed.ledger().acceptances(some_job(changed, "evaluate"))[0]["at_most_differing"]["jobs"] == 0


def test_parents_come_first_and_the_line_says_which(changed, monkeypatch, capsys):
    monkeypatch.chdir(changed.root)
    before = everything(changed)
    assert main(["accept", "finetune", "--sample", "1"]) == 2
    wanted = "finetune: nothing to accept; made from stale features: accept features first, or make it\n"
    assert capsys.readouterr().err == wanted
    assert unseen(everything(changed)) == unseen(before)
    assert main(["accept", "finetune", "features", "cooldown", "pretrain", "--sample", "1"]) == 0


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("finetun", "--sample", "1"), "finetun: no phase of the study, which has sources, tokenizer, "),
        (("features", "--sample", "0"), "--sample: found 0, allowed: a number of jobs, 1 or more\n"),
    ],
)
def test_a_wrong_command_is_one_line(changed, monkeypatch, capsys, command, said):
    monkeypatch.chdir(changed.root)
    assert main(["accept", *command]) == 2
    err = capsys.readouterr().err
    assert err.startswith(said) and err.count("\n") == 1


def test_a_phase_that_is_up_to_date_stops_no_other(changed):
    assert MODULE not in code_fingerprint(SOURCE, "sources")
    total = len(jobs_of(changed, "sources"))
    assert f"sources: 0 jobs are stale by their code alone; {total} up to date" in run(changed, "sources", "features")


def test_only_whole_jobs_of_todays_settings_are_accepted_and_the_others_counted(changed):
    run(changed, "features", "pretrain")
    gone, failed, other, *rest = jobs_of(changed, "cooldown")
    assert rest
    shutil.rmtree(changed.root / gone.folder)
    for job, more in ((failed, {"failed": "it was"}), (other, {"settings": other.card_settings | {"more": 1}})):
        file = changed.root / job.card
        file.write_text(stable_json(read_json(file) | more))
    lines = run(changed, "cooldown", sample=1000)
    wanted = f"cooldown: {len(rest)} jobs are stale by their code alone"
    assert next(line for line in lines if line.startswith(wanted)).split("; ")[1:] == [
        "1 not finished",
        "1 kept as failed",
        "1 with other settings",
    ]
    ledger = changed.ledger()
    assert {job.id for job in jobs_of(changed, "cooldown") if ledger.is_current(job)} == {job.id for job in rest}


def test_a_damaged_job_is_not_accepted(changed):
    job = some_job(changed, "features")
    changed.damage(f"{job.folder}/rows.csv")
    assert any("; 1 damaged" in line for line in run(changed, "features", sample=1000))
    assert not changed.ledger().is_current(job) and job.id not in [asked["card"]["id"] for asked in changed.asked]


def test_a_child_of_a_parent_that_was_made_again_is_not_accepted(changed):
    """Its card names a parent whose bytes nobody knows any more."""
    changed.make("features")
    run(changed, "pretrain")
    with pytest.raises(ValueError, match="cooldown: nothing to accept; whose features was made again and not accepted"):
        run(changed, "cooldown")


def test_code_may_be_accepted_again_and_again(changed, packages, monkeypatch):
    first = cards(changed)
    run(changed)
    middle = cards(changed)
    give_code(changed, packages[1])
    monkeypatch.setattr("pipeline.execution.provenance.git", lambda root, *command: "1" * 40)
    run(changed)
    ledger = changed.ledger()
    job = some_job(changed, "finetune")
    entries = ledger.acceptances(job)
    assert [entry["from"]["card"] for entry in entries] == [
        digest(first[job.id]),
        digest({key: value for key, value in middle[job.id].items() if key != "accepted"}),
    ]
    assert entries[1]["from"]["commit"] == "0" * 40
    assert all(map(ledger.is_current, ledger.jobs))


def test_who_was_ended_between_two_files_goes_on(changed, monkeypatch):
    run(changed, "features", "pretrain")
    write, written = artifacts.write_text, itertools.count()

    def broken(path, text):
        if "cooldown" in str(path) and next(written) == 5:
            raise KeyboardInterrupt
        write(path, text)

    monkeypatch.setattr(artifacts, "write_text", broken)
    with pytest.raises(KeyboardInterrupt):
        run(changed, "cooldown")
    monkeypatch.setattr(artifacts, "write_text", write)
    done = [job for job in jobs_of(changed, "cooldown") if changed.ledger().is_current(job)]
    assert 0 < len(done) < len(jobs_of(changed, "cooldown"))
    run(changed, "cooldown")
    assert all(map(changed.ledger().is_current, jobs_of(changed, "cooldown")))


def test_who_was_ended_at_any_file_of_a_table_goes_on(changed, monkeypatch):
    """It has one more list of files, in results/."""
    write = artifacts.write_text
    table = changed.ledger().study.tables["table1"]

    def ended_at(end: int):
        written = itertools.count()

        def broken(path, text):
            if (table.id in str(path) or "made_from" in str(path)) and next(written) == end:
                raise KeyboardInterrupt
            write(path, text)

        return broken

    for end in range(5):
        monkeypatch.setattr(artifacts, "write_text", ended_at(end))
        with pytest.raises(KeyboardInterrupt):
            run(changed, sample=1)
    monkeypatch.setattr(artifacts, "write_text", write)
    run(changed)
    assert all(map(changed.ledger().is_current, changed.ledger().jobs)) and changed.ledger().acceptances(table)


def test_nothing_is_accepted_if_code_or_artifacts_change_meanwhile(changed, packages):
    job = some_job(changed, "features")
    changed.spoils[job.id] = lambda made: give_code(changed, packages[1])
    with pytest.raises(ValueError, match="the code was changed while jobs were made again: nothing was accepted"):
        run(changed, "features", sample=1000)
    give_code(changed, packages[0])
    changed.spoils[job.id] = lambda made: (changed.root / job.card).unlink()
    with pytest.raises(ValueError, match=f"{job.folder} was changed while"):
        run(changed, "features", sample=1000)
    assert not [job for job in jobs_of(changed, "features") if changed.ledger().is_current(job)]


def test_nothing_is_accepted_while_another_process_is_at_work(changed):
    other = Presence(changed.root)
    other.file = other.file.rename(other.file.with_name("other-1.json"))
    with pytest.raises(ValueError, match="at work in this folder since .*; accept when it has ended"):
        run(changed)
    other.handle.close()
    run(changed)


# Who shows it


def test_why_says_what_was_accepted(changed):
    run(changed)
    job = some_job(changed, "finetune")
    line = why(changed.ledger(), job.id)
    assert (
        f"; accepted for the code of commit {'0' * 40} with uncommitted changes (made by other code of {MODULE}): "
        in line
    )
    assert "finetune jobs, drawn at random, were made again to the same bytes; at 95% confidence at most" in line
    line = why(changed.ledger(), TABLE)
    assert "accepted with its parents (card " in line and re.search(r"; accepted among what it comes from: \d+$", line)
    assert why(changed.ledger(), some_job(changed, "sources").id).endswith(")")  # its card, and no more


def test_trace_keeps_the_commit_and_machine_of_an_accepted_job(changed):
    job = some_job(changed, "cooldown")
    record = {"commit": "c0ffee", "host": "attic", "seconds": 1.5, "finished": "2026-01-02", "machine": None}
    card = digest(read_json(changed.root / job.card))
    write_text(changed.root / f"logs/cooldown/{job.id}.json", stable_json(record | {"card": card}))
    run(changed)
    records = Records(changed.ledger(), changed.root)
    text = " ".join(line.strip() for line in records.lines(f"cooldown/{job.id}", "  "))
    assert text.startswith("commit: c0ffee machine: attic; 1.5 s, finished 2026-01-02 accepted for the code of commit ")
    assert f"(made by other code of {MODULE}, commit c0ffee): " in text and " cooldown jobs, drawn at random" in text
    assert not records.missing


# Cards and what they are compared with


def test_an_acceptance_is_no_part_of_identity(changed):
    run(changed)
    ledger = changed.ledger()
    job = some_job(changed, "cooldown")
    aside = changed.root / artifacts.ASIDE / "cooldown" / job.id
    shutil.copytree(changed.root / job.folder, aside)
    shutil.rmtree(changed.root / job.folder)
    ledger.take_back()
    assert changed.ledger().is_current(job) and changed.ledger().acceptances(job)


def test_a_damaged_acceptance_says_nothing(audit):  # noqa: F811
    job = some_job(audit, "cooldown")
    file, ledger = audit.root / job.card, audit.ledger()
    for found in (3, "x", [1], [{}], {"a": 1}, None):
        file.write_text(stable_json(ledger.card(job) | {"accepted": found}))
        assert ledger.fault(job) is None and ledger.acceptances(job) == []
