"""A study through a real Slurm of one node: `pytest -m slurm -n 0`, as root, with slurmctld, slurmd, slurm-client, munge."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import yaml
from faults.holding import holding, is_stopped, is_told, wait
from test_end_to_end import ENVIRONMENT, artifact, new_project, planned, run

from pipeline.common.files import folder_hashes, read_json

START = Path(__file__).parent / "slurm" / "start.sh"
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged")
# This Slurm keeps no accounts, and its one node sees files at once.
HERE = ("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "5")
pytestmark = [pytest.mark.slurm, pytest.mark.nightly]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment in which Slurm's commands work."""
    missing = [name for name in NEEDED if not shutil.which(name)]
    assert not missing, f"not installed: {', '.join(missing)}"
    assert "PYTEST_XDIST_WORKER" not in os.environ, "a machine holds one Slurm: run with -n 0"
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([START, folder], check=True)
    yield folder
    for file in folder.glob("*.pid"):
        os.kill(int(file.read_text()), 15)
    Path("/etc/slurm/slurm.conf").unlink()


def through_slurm() -> list[str]:
    return ["snakemake", "--profile", "profiles/slurm", *HERE, "results/table1.csv"]


@pytest.fixture(scope="module")
def project(slurm, tmp_path_factory) -> Path:
    """A study that was run through Slurm."""
    folder = new_project(tmp_path_factory.mktemp("study") / "project")
    run(folder, *through_slurm())
    return folder


def test_a_study_of_two_models_runs_through_slurm(project):
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


def test_a_job_that_slurm_tells_to_stop_goes_on_more_often_than_a_failing_one_is_tried(project, tmp_path):
    """As before its time is up (`--signal` of the profile) or when it is preempted: to Snakemake it is one try."""
    tries = 1 + yaml.safe_load((project / "profiles/slurm/config.yaml").read_text())["retries"]
    lost = artifact(project, "finetune/b50")
    before = folder_hashes(lost)
    shutil.rmtree(lost)
    log = project / "logs/finetune" / f"{lost.name}.log"
    environment = ENVIRONMENT | holding(tmp_path)  # sbatch passes it on
    with (tmp_path / "log").open("w") as output:
        engine = subprocess.Popen(through_slurm(), cwd=project, env=environment, stdout=output, stderr=output)
    stops = [stop(project, log, engine, Path(environment["HOLD_TOKEN"]), 0)]
    while len(stops) < tries:
        stops.append(stop(project, log, engine, Path(environment["HOLD_TOKEN"]), stops[-1][1]))
    assert engine.wait() == 0, (tmp_path / "log").read_text()[-3000:]
    (job,) = {job for job, _ in stops}
    told = run(project, "scontrol", "show", "job", job).split()
    assert f"Restarts={tries}" in told and "JobState=COMPLETED" in told
    assert "Trying to restart" not in (tmp_path / "log").read_text()
    assert folder_hashes(lost) == before


def stop(project: Path, log: Path, engine: subprocess.Popen, token: Path, before: int) -> tuple[str, int]:
    """Have Slurm tell the one job that trains to stop, at a save. Returns its number, and the step it stopped after.

    `before`: the step that it was stopped after the last time, or 0.
    """
    token.touch()  # Slurm waits some seconds before it starts a job again
    trains = wait(lambda: standing_still(project), engine)
    assert not before or f"continuing after step {before}\n" in log.read_text()
    (job,) = run(project, "squeue", "--noheader", "--format", "%i").split()
    run(project, "scancel", "--signal=TERM", job)
    wait(lambda: is_told(trains.pid, signal.SIGTERM))
    trains.resume()

    def said() -> int:
        found = re.search(r"stopped by SIGTERM after step (\d+)", log.read_text())
        return int(found[1]) if found and int(found[1]) > before else 0

    return job, wait(said, engine)


def standing_still(project: Path) -> psutil.Process | None:
    """The project's process that has saved a state and waits to be sent on."""
    return next((p for p in psutil.process_iter() if is_stopped(p) and p.cwd() == str(project)), None)
