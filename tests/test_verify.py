"""An audit says which jobs came out with the same bits, and no more than its sample proves."""

import json
import os
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pytest
from scipy.stats import beta

from pipeline.__main__ import main
from pipeline.commands import verify
from pipeline.commands.verify import CERTIFICATE, STATE, most_bad
from pipeline.common.files import folder_hashes, read_json, stable_json, write_text
from pipeline.store.failed_runs import FILE


@pytest.fixture
def audit(project, monkeypatch):
    """The project, made; what carries jobs out copies their artifacts, or does what a test puts in `spoils`."""
    project.make()
    project.spoils, project.asked = {}, []

    def carry_out(command, cwd=None, **options):
        assert command[2:] == ["pipeline", "run", "job.json", "--log", "job.log"]
        description = read_json(Path(cwd) / "job.json")
        project.asked.append(description)
        card = description["card"]
        made = Path(cwd) / description["folder"]
        source = Path(cwd) / "artifacts" / card["phase"] / card["id"]
        made.mkdir()
        for name in folder_hashes(source):
            (made / name).parent.mkdir(exist_ok=True)
            (made / name).write_bytes((source / name).read_bytes())
        code = project.spoils.get(card["id"], lambda made: 0)(made)
        return SimpleNamespace(returncode=code or 0, stdout="", stderr="")

    monkeypatch.setattr(verify, "subprocess", SimpleNamespace(run=carry_out))
    monkeypatch.setattr("pipeline.execution.provenance.git", lambda root, *command: "0" * 40)
    return project


def run(project, sample: int, seed: int | None = 1) -> tuple[list[str], dict]:
    lines = []
    try:
        for line in verify.verify(project.ledger(), sample, seed):
            lines.append(line)
    except verify.NotReproduced as error:
        lines.append(str(error))
    return lines, read_json(project.root / CERTIFICATE)


def some_job(project, phase: str):
    return next(job for job in project.ledger().jobs if job.phase == phase)


def everything(project) -> dict[str, str]:
    return {name: value for name, value in folder_hashes(project.root).items() if not name.startswith("pipeline/")}


def test_all_jobs_the_same_prove_all(audit):
    total = len(audit.ledger().jobs)
    lines, certificate = run(audit, 10_000)
    assert len(lines) == total + 1
    assert all("  same bits  (" in line for line in lines[:-1])
    assert certificate["sample"] == certificate["population"] == certificate["finished_jobs"] == total
    assert certificate["at_most_not_reproducing"] == {"jobs": 0, "share": 0}
    assert "at most 0 of the" in lines[-1]


def test_a_seed_draws_the_same_jobs_and_another_others(audit):
    draws = [[job["id"] for job in run(audit, 5, seed)[1]["jobs"]] for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) == 5
    assert isinstance(run(audit, 1, None)[1]["seed"], int)


def test_a_job_that_differs_is_named_with_its_files(audit):
    job = some_job(audit, "finetune")

    def spoil(made: Path) -> None:
        (made / "rows.csv").write_text("other")
        (made / "parts/0.bin").unlink()
        (made / "more.txt").write_text("new")

    audit.spoils[job.id] = spoil
    lines, certificate = run(audit, 10_000)
    assert any(f"finetune {job.id}  differs in more.txt, parts/0.bin, rows.csv  (" in line for line in lines)
    assert lines[-1] == f"not reproduced: finetune {job.id}"
    assert certificate["differing"] == 1
    assert certificate["at_most_not_reproducing"]["jobs"] == 1


def test_bytes_on_disk_are_compared_and_not_what_a_list_says_of_them(audit):
    """Turned over without a trace in size and date: to Snakemake and DVC nothing has changed."""
    job = some_job(audit, "shards")
    assert audit.ledger().is_current(job)
    file = audit.root / job.folder / "parts/0.bin"
    before, original = file.stat(), file.read_bytes()
    file.write_bytes(original[::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert audit.ledger().is_current(job)
    audit.spoils[job.id] = lambda made: (made / "parts/0.bin").write_bytes(original) and None
    lines, _ = run(audit, 10_000)
    assert lines[-1] == f"not reproduced: shards {job.id}"
    assert any(line.startswith("[") and f"rebuild: {job.folder}  (" in line for line in lines)
    assert [broken.key for broken in audit.ledger().broken] == [job.key]


def test_what_an_audit_with_the_same_process_id_has_left_is_no_hindrance(audit):
    (audit.root / STATE / f"verify-{os.getpid()}/artifacts").mkdir(parents=True)
    run(audit, 1)
    assert not list((audit.root / STATE).glob("verify-*"))


def test_a_job_that_fails_differs_and_says_why(audit):
    job = some_job(audit, "shards")

    def spoil(made: Path) -> int:
        (made.parent / "job.log").write_text("Traceback\n\nValueError: no more room\n\n")
        return 1

    audit.spoils[job.id] = spoil
    lines, certificate = run(audit, 10_000)
    assert any(f"shards {job.id}  differs in (failed: ValueError: no more room)" in line for line in lines)
    assert certificate["differing"] == 1


def test_jobs_get_what_they_were_made_from_and_leave_nothing(audit):
    before = everything(audit)
    run(audit, 10_000)
    after = everything(audit)
    assert set(after) - set(before) <= {CERTIFICATE.as_posix(), *(name for name in after if "/seen/" in name)}
    assert {name: after[name] for name in before} == before
    assert not list((audit.root / STATE).glob("verify-*"))
    jobs = {job.id: job for job in audit.ledger().jobs}
    for description in audit.asked:
        job = jobs[description["card"]["id"]]
        assert description["inputs"] == {role: parent.folder for role, parent in job.parents.items()}
        assert description["continues"] is None and description["published"] is None


def test_what_is_unfinished_failed_or_without_its_parents_is_not_drawn(audit):
    jobs = audit.ledger().jobs
    failed = some_job(audit, "cooldown")
    card = audit.ledger().digest(failed)
    write_text(audit.root / FILE, stable_json({f"cooldown/{failed.id}": {"card": card, "reason": "x"}}))
    audit.make()
    kept = {job.id for job in jobs if "failed" in audit.ledger().card(job)}
    gone = some_job(audit, "tokenizer")
    (audit.root / gone.folder / "rows.csv").unlink()
    below = {job.id for job in jobs if gone.key in {parent.key for parent in job.parents.values()}}
    run(audit, 10_000)
    drawn = {description["card"]["id"] for description in audit.asked}
    assert drawn == {job.id for job in jobs} - kept - below - {gone.id}


def test_what_a_killed_audit_left_is_removed_and_what_one_at_work_has_is_not(audit):
    dead, alive = audit.root / STATE / "verify-999999999", audit.root / STATE / f"verify-{os.getppid()}"
    dead.mkdir(parents=True)
    alive.mkdir()
    run(audit, 1)
    assert not dead.exists() and alive.exists()


def test_the_command_says_what_it_found_by_its_exit_code(audit, monkeypatch, capsys):
    monkeypatch.chdir(audit.root)
    assert main(["verify", "--sample", "2", "--seed", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("results/certificate.json was written.")
    for job in audit.ledger().jobs:
        audit.spoils[job.id] = lambda made: (made / "rows.csv").write_text("other") and None
    assert main(["verify", "--sample", "2", "--seed", "1"]) == 1
    assert capsys.readouterr().err.startswith("not reproduced: ")
    assert main(["verify", "--sample", "0"]) == 2
    assert capsys.readouterr().err == "--sample: found 0, allowed: a number of jobs, 1 or more\n"


def test_nothing_finished_is_nothing_to_verify(project, monkeypatch, capsys):
    monkeypatch.chdir(project.root)
    assert main(["verify", "--sample", "2"]) == 2
    assert "nothing to verify" in capsys.readouterr().err


def test_a_certificate_says_where_it_comes_from_and_nothing_secret(audit, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "very-secret")
    _, certificate = run(audit, 1)
    assert certificate["commit"] == "0" * 40
    assert {"python", "torch", "numpy", "mosaicml"} <= set(certificate["versions"])
    assert certificate["machine"]["cores"] == os.cpu_count()
    assert "very-secret" not in json.dumps(certificate)


def test_without_git_there_is_no_commit(tmp_path):
    made = verify.provenance(tmp_path)
    assert (made["commit"], made["uncommitted_changes"]) == (None, None)


# What a sample proves


@pytest.mark.parametrize(("population", "sample"), [(6, 2), (7, 3), (5, 5), (6, 1)])
@pytest.mark.parametrize("differing", [0, 1])
def test_the_bound_is_exact(population, sample, differing):
    """By counting all samples: the bound is the last number of bad jobs that would often enough look this good."""

    def chance(bad: int) -> float:
        draws = list(combinations(range(population), sample))
        return sum(sum(job < bad for job in draw) <= differing for draw in draws) / len(draws)

    possible = range(differing, population - sample + differing + 1)
    assert most_bad(population, sample, differing) == max(bad for bad in possible if chance(bad) > 0.05)


def test_in_a_large_study_the_bound_is_clopper_and_pearsons():
    for sample, differing in ((59, 0), (100, 0), (100, 3)):
        share = beta.ppf(0.95, differing + 1, sample - differing)
        assert most_bad(1_000_000, sample, differing) / 1_000_000 == pytest.approx(share, rel=1e-3)
    assert most_bad(1_000_000, 59, 0) / 1_000_000 < 0.05 < most_bad(1_000_000, 58, 0) / 1_000_000  # the rule of three


def test_a_larger_sample_proves_more():
    bounds = [most_bad(170, sample, 0) for sample in (1, 5, 20, 60, 170)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] == 0
