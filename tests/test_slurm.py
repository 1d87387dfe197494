"""A study through a real Slurm of one node: `pytest -m slurm`, as root, with Debian's slurmctld, slurmd, slurm-client and munge."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from test_end_to_end import artifact, new_project, planned, run

from pipeline.files import read_json

START = Path(__file__).parent / "slurm" / "start.sh"
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged")
# This Slurm keeps no accounts, and its one node sees files at once.
HERE = ("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "5")
pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment in which Slurm's commands work."""
    missing = [name for name in NEEDED if not shutil.which(name)]
    assert not missing, f"not installed: {', '.join(missing)}"
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([START, folder], check=True)
    yield folder
    for file in folder.glob("*.pid"):
        os.kill(int(file.read_text()), 15)
    Path("/etc/slurm/slurm.conf").unlink()


def test_a_study_of_two_models_runs_through_slurm(slurm, tmp_path):
    project = new_project(tmp_path / "project")
    run(project, "snakemake", "--profile", "profiles/slurm", *HERE, "results/table1.csv")
    jobs = run(project, "squeue", "--states", "all", "--noheader", "--format", "%T %C %m %l").split("\n")
    done = [line.split() for line in jobs if line]
    assert {state for state, *_ in done} == {"COMPLETED"}
    trained = [p for phase in ("cooldown", "finetune") for p in (project / "artifacts" / phase).iterdir()]
    assert len(trained) == 5  # two branches, their models, and the blind one
    assert len(done) == sum(1 for _ in (project / "artifacts").glob("[!t]*/*")) + 1  # all but the table, which is local
    scale = read_json(next((project / ".study/jobs/finetune").glob("*.json")))["card"]["settings"]["hardware"]
    assert any(cpus == str(scale["threads"]) for _, cpus, *_ in done)
    assert (project / "results/table1.csv").read_text().count("\n") >= 3  # a head and two models at least
    assert artifact(project, "cooldown/b50")
    assert planned(project, "results/table1.csv") == {}
