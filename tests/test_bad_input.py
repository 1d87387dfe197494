"""Bad input: one line that names it and what to do, nothing half-written, no traceback on the screen; or quarantined.

The cases are in bad_input.py, and docs/bad-input.md is written from what comes of them. Every one of them is fed to the command
line at night (`-m nightly`); by day, of each part of the page one a way to end, and some more.
"""

import random
import shutil
import subprocess
import sys

import pytest
from bad_input import CASES, LLAVA, PAGE, ending, list_of, page, row
from bench import Bench, looks
from conftest import SOURCE


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield Bench(tmp_path_factory.mktemp("bad_input"), patch)


FIRST = list({(case.part, case.ends): case for case in reversed(CASES)}.values())
SAMPLE = FIRST + random.Random(503).sample([case for case in CASES if case not in FIRST], 12)


def by_day(case):
    return case if case in SAMPLE else pytest.param(case, marks=pytest.mark.nightly)


@pytest.mark.parametrize("case", list(map(by_day, CASES)), ids=lambda case: case.id)
def test_bad_input(bench, case):
    outcome = bench.outcome(case)
    assert "Traceback" not in outcome.screen
    assert outcome.line.isprintable() and len(outcome.line) <= 2200
    assert outcome.strays == []
    assert row(case, outcome) in PAGE.read_text(encoding="utf-8").splitlines(), "PYTHONPATH=. python tests/bad_input.py"
    if case.ends in ("quarantined", "read"):
        left_out(case, outcome)
    else:
        refused(case, outcome)


def refused(case, outcome):
    """The exit code, and one line; argparse shows its usage before."""
    assert case.says in outcome.line
    assert outcome.code == case.ends
    lines = [line for line in outcome.screen.splitlines() if not line.endswith("  done in 0 s")]
    assert len(lines) == 1 or lines[0].startswith("usage:")


def left_out(case, outcome):
    """A whole artifact of all that could be read; what could not is listed and counted."""
    assert outcome.code == 0, outcome.line
    if "sequences" in outcome.measured:
        assert outcome.sequences == outcome.measured["sequences"] > 0
        bad = sum(counts.get("bad", 0) for counts in outcome.measured["corpora"].values())
        assert bad >= len(outcome.quarantine)
        assert (bad > 0) == (outcome.quarantine != []) == (case.ends == "quarantined")
    if case.ends == "quarantined":
        assert case.says in outcome.line


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=300)


def test_a_process_of_its_own_says_the_same_and_goes_on_when_the_input_is_mended(bench):
    root = bench.copy(bench.real)
    bench.patch.chdir(root)
    whole = (root / LLAVA).read_text()
    list_of(lambda text: text[:-300])(root)
    (job,) = (root / ".study/jobs/sources").glob("instructions-*.json")
    run = ("pipeline", "run", str(job), "--log", "logs/job.log")
    refused = command(*run)
    (case,) = (case for case in CASES if case.part.startswith("Instructions") and case.fed == "a list that is cut off")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert [case.says in line for line in refused.stderr.splitlines()] == [True]
    assert "Traceback" in (root / "logs/job.log").read_text()
    assert not (root / "artifacts/sources").exists()
    (root / LLAVA).write_text(whole)
    mended = command(*run)
    assert mended.returncode == 0 and "done in" in mended.stderr
    assert (root / "artifacts/sources" / job.stem / "card.json").exists()


def test_snakemake_says_what_it_does_not_know(bench):
    root = bench.copy(bench.project)
    shutil.copy(SOURCE / "Snakefile", root)
    shutil.copytree(SOURCE / "profiles", root / "profiles")
    bench.patch.chdir(root)
    before = looks(root)
    refused = command("snakemake", "--cores", "1", "table99")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("No rule to produce table99")
    assert "Traceback" not in refused.stderr + refused.stdout
    after = {name for name, look in looks(root).items() if look != before.get(name)}
    assert {name for name in after if not name.startswith((".study/", ".snakemake/"))} == set()


def test_the_page_has_every_case_in_its_place_and_nothing_else():
    """That a row is what happens is seen where its case is fed."""
    text = PAGE.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| what is fed |")]
    cases = [case for part in dict.fromkeys(case.part for case in CASES) for case in CASES if case.part == part]
    assert [line.split(" | ")[0] for line in lines] == [f"| {case.fed}" for case in cases]
    assert all(line.endswith(f" | {ending(case.ends)} |") for line, case in zip(lines, cases))
    assert text == page(list(zip(cases, lines)))


def test_cases_differ():
    assert len({case.id for case in CASES}) == len(CASES) >= 60
