"""The results in git are what today's code and settings make, as far as can be told without making them."""

import hashlib
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import SOURCE

from pipeline.common.files import file_hash, read_json
from pipeline.reporting.table_list import TABLES
from pipeline.settings.load import load_settings
from pipeline.store.ledger import Ledger
from pipeline.study.study import Study

RESULTS, LOCK = SOURCE / "results", SOURCE / "dvc.lock"
REMEDY = "run `snakemake study` and commit results/ and dvc.lock"
SMALL = RESULTS / "small"  # of another preset, from the commit that its README names
CERTIFICATE = RESULTS / "certificate.json"  # of an audit, which is no part of the study


def manifest(table: str, results: Path = RESULTS) -> dict:
    """The list of a table's files with their sizes and hashes, and the digest of the card they were made from."""
    file = results / "made_from" / f"{table}.json"
    assert file.exists(), f"nothing says what {table} was made from: {REMEDY}"
    return read_json(file)


def committed() -> set[str]:
    """The files of results/ that git has, with what was only added; but for those that the study does not make."""
    listed = subprocess.run(["git", "ls-files", "results"], cwd=SOURCE, capture_output=True, text=True, check=True)
    others = ("results/small/", "results/experiments/", CERTIFICATE.relative_to(SOURCE).as_posix())
    return {path for path in listed.stdout.splitlines() if not path.startswith(others)}


def md5(path: str) -> str | None:
    file = SOURCE / path
    return hashlib.md5(file.read_bytes()).hexdigest() if file.exists() else None


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return Ledger(Study(load_settings(SOURCE)), SOURCE)


def test_tables_are_made_from_todays_code_and_settings(ledger):
    others = [t for t in TABLES if manifest(t)["card"] != ledger.digest(ledger.study.tables[t])]
    assert not others, f"made from other code or settings than today's: {', '.join(others)}. {REMEDY}"


@pytest.mark.parametrize("results", [RESULTS, SMALL], ids=lambda folder: folder.name)
def test_files_have_the_bytes_that_were_made(results):
    # The report of `small` is of today's code: tests/test_report.py.
    tables = [t for t in TABLES if results != SMALL or t != "report"]
    files = {name: file for table in tables for name, file in manifest(table, results)["files"].items()}
    here = {name: results / name for name in files if (results / name).exists()}
    found = {name: {"bytes": file.stat().st_size, "sha256": file_hash(file)} for name, file in here.items()}
    differ = sorted(name for name in files if found.get(name) != files[name])
    assert not differ, f"missing from results/, or edited there: {', '.join(differ)}. {REMEDY}"


def test_every_result_in_git_says_what_it_was_made_from():
    listed = {f"results/{name}" for table in TABLES for name in manifest(table)["files"]}
    strays = sorted(committed() - listed - {f"results/made_from/{table}.json" for table in TABLES})
    assert not strays, f"in git, but made by no table: {', '.join(strays)}. Delete them, or {REMEDY}"


def test_dvc_has_noted_the_results_in_git():
    assert LOCK.exists(), f"no dvc.lock: {REMEDY}"
    stages = yaml.safe_load(LOCK.read_text(encoding="utf-8"))["stages"]
    if "report" not in stages:
        pytest.skip("DVC has not seen the stage report finish")
    noted = {out["path"]: out["md5"] for out in stages["report"]["outs"] if out["path"].startswith("results/")}
    noted.pop("results/experiments", None)  # a folder, which is empty but for its README in the default study
    differ = sorted(path for path in noted.keys() | committed() if noted.get(path) != md5(path))
    assert not differ, f"not as in dvc.lock: {', '.join(differ)}. {REMEDY}"


def test_a_certificate_is_of_todays_jobs(ledger):
    if not CERTIFICATE.exists():
        pytest.skip("no audit was made")
    certificate, today = read_json(CERTIFICATE), {job.key: ledger.digest(job) for job in ledger.jobs}
    others = [f"{job['phase']} {job['id']}" for job in certificate["jobs"] if today.get(key(job)) != job["card"]]
    assert not others, (
        f"{CERTIFICATE.name} is of other jobs than today's: {', '.join(others)}. Verify again, or delete it"
    )
    assert certificate["differing"] == 0


def key(job: dict) -> tuple[str, str]:
    return job["phase"], job["id"]
