"""The whole pipeline for real, at the micro scale: the command of the README, twice, and what it promises."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRAVELS = ("Snakefile", "params.yaml", "configs", "pipeline", "profiles")
pytestmark = pytest.mark.end_to_end


def copy_project(folder: Path) -> Path:
    """The project's own files with the micro preset and three branch points."""
    folder.mkdir()
    for name in TRAVELS:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    params = (folder / "params.yaml").read_text()
    params = re.sub(r"preset: \w+", "preset: micro", params)
    params = re.sub(r"branch_percent: \[.*\]", "branch_percent: [0, 50, 100]", params)
    (folder / "params.yaml").write_text(params)
    return folder


def snakemake(folder: Path, *arguments: str) -> str:
    """Run Snakemake in a folder; returns what it printed. Fails the test if it fails."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def rules(output: str) -> set[str]:
    """The rules of the jobs that a run or a dry run plans: the rows of Snakemake's "job count" table."""
    if "Nothing to be done" in output:
        return set()
    (stats,) = re.findall(r"^job +count\n[- ]+\n((?:\w+ +\d+\n)+)", output, re.M)[:1]
    return {row.split()[0] for row in stats.splitlines()} - {"total"}


def table(folder: Path) -> list[dict]:
    """Table 1 without its one measured column."""
    with (folder / "results" / "table1.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A finished run from nothing."""
    folder = copy_project(tmp_path_factory.mktemp("study") / "first")
    output = snakemake(folder, "results/table1.csv")
    assert {"sources", "pretrain", "cooldown", "finetune", "evaluate", "table1"} <= rules(output)
    return folder


def test_the_table_has_a_row_a_branch_point_and_the_text_run(project):
    rows = table(project)
    assert [(r["model"], float(r["branch_percent"])) for r in rows] == [
        ("text only", 50.0),
        ("text only", 80.0),  # the recipe's branch point, which the blind model leaves from
        ("text only", 100.0),
        ("vlm", 0.0),
        ("vlm", 50.0),
        ("vlm", 100.0),
    ]
    for row in rows[3:]:
        for column in ("vision_stable", "text_stable", "vision_gain", "language_prior"):
            assert -1 <= float(row[column]) <= 1
        assert float(row["vision_gain_low"]) <= float(row["vision_gain"]) <= float(row["vision_gain_high"])
        assert float(row["cooldown_image_tokens"]) > 0
    assert (project / "results" / "table1.md").read_text().startswith("# Table 1")
    assert (project / "results" / "figures" / "timing.png").stat().st_size > 10_000


def test_the_text_run_and_its_branches_count_tokens_exactly(project):
    rows = {(r["model"], float(r["branch_percent"])): r for r in table(project)}
    assert [int(float(rows["text only", p]["text_run_tokens"])) for p in (50.0, 100.0)] == [10_240, 20_480]
    assert float(rows["vlm", 50.0]["image_fraction_of_sequences"]) == pytest.approx(0.1, abs=0.5 / 80)


def test_a_second_run_does_nothing(project):
    assert not rules(snakemake(project, "-n", "results/table1.csv"))


def test_without_results_only_the_last_step_runs(project):
    before = table(project)
    shutil.rmtree(project / "results")
    assert rules(snakemake(project, "results/table1.csv")) == {"table1"}
    assert table(project) == before


def test_scrambled_file_times_change_nothing(project):
    for number, file in enumerate(sorted((project / "artifacts").rglob("card.json"))):
        os.utime(file, (10**9 + 7919 * (number % 13), 10**9 + 7919 * (number % 13)))
    assert not rules(snakemake(project, "-n", "results/table1.csv"))


def test_one_changed_setting_reruns_its_descendants_alone(project):
    params = project / "params.yaml"
    text = params.read_text()
    params.write_text(text.replace("finetune_epochs: 2", "finetune_epochs: 1"))
    assert rules(snakemake(project, "-n", "results/table1.csv")) == {"finetune", "evaluate", "table1"}
    params.write_text(text)
    assert not rules(snakemake(project, "-n", "results/table1.csv"))


def test_config_on_the_command_line_is_refused(project):
    command = [sys.executable, "-m", "snakemake", "-n", "--config", "image_fraction=0.2"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode != 0
    assert "params.yaml" in done.stderr


def test_a_run_from_nothing_elsewhere_gives_the_same_table(project, tmp_path):
    again = copy_project(tmp_path / "again")
    snakemake(again, "results/table1.csv")
    assert table(again) == table(project)
    for name in ("table1.md", "figures/timing.csv", "figures/timing.png"):
        assert (again / "results" / name).read_bytes() == (project / "results" / name).read_bytes()
