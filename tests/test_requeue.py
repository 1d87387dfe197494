"""A job that Slurm stops goes on as often as it takes, and one that fails is not sent again. Slurm's commands are scripts."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import test_processes
import test_run
import test_training
from test_processes import SOON, said
from test_run import first, run
from test_training import BATCH, MODEL, FakeJob, optimisation, state_files

from pipeline.execution.processes import STOP, STOPPED, Stopped
from pipeline.training import train

data, bench = test_training.data, test_training.bench  # fixtures
here, phases, start = test_run.here, test_run.phases, test_processes.start
STOPS, STEPS = 10, 12

IS_STOPPED_AT_ONCE = """
import signal, sys
from pathlib import Path
from pipeline.execution.processes import STOP
from pipeline.execution.requeue import back_into_the_queue
STOP.when_stopped = back_into_the_queue(Path(sys.argv[1]))
STOP.listen()
for name in sys.argv[2:]:
    Path(sys.argv[1], "answers", name).write_text("{}")
print("ready", flush=True)
signal.pause()
"""


class Slurm:
    """What stands in for a Slurm: the state that it says a job is in, and what it was asked."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.command("squeue", f"cat {folder}/state")
        self.command("scontrol", f'echo "$@" >> {folder}/asked')
        self.says("RUNNING")

    def command(self, name: str, does: str) -> None:
        file = self.folder / name
        file.write_text(f"#!/bin/sh\n{does}\n")
        file.chmod(0o755)

    def says(self, state: str) -> None:
        (self.folder / "state").write_text(f"{state}\n")

    @property
    def asked(self) -> list[str]:
        file = self.folder / "asked"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Slurm:
    folder = tmp_path / "slurm"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    return Slurm(folder)


@pytest.fixture(autouse=True)
def asked_anew(monkeypatch) -> None:
    """Each test's own request to stop, as each is a process of its own."""
    for name in ("asked", "deferred", "process", "when_stopped"):
        monkeypatch.setattr(STOP, name, getattr(STOP, name))


def run_until_it_leaves_the_queue(project, job, slurm: Slurm) -> int:
    """Carry out a job as Slurm does: again whenever it was queued again. Returns its last exit code."""
    while True:
        STOP.asked, STOP.deferred, STOP.process = None, False, os.getpid()
        before = len(slurm.asked)
        code = run(project, job)
        if len(slurm.asked) == before:
            return code


def text_run(bench) -> FakeJob:
    return bench.text(STEPS, optimisation=optimisation(tokens=STEPS * BATCH * MODEL["sequence"], warmup_steps=3))


def test_a_job_that_is_stopped_ten_times_ends_in_the_bytes_of_one_that_was_not(here, phases, bench, slurm, monkeypatch):
    tried = []

    def trains(job, out: Path) -> dict:
        tried.append(job.card["id"])
        own = text_run(bench)
        own.resume, own.stop = job.resume, job.stop
        return train.run(own, out)

    def defer() -> None:
        """From here on a request waits for the end of an update: the time at which Slurm stops the job."""
        STOP.deferred = True
        if len(tried) <= STOPS:
            STOP.on_signal(signal.SIGTERM, None)

    monkeypatch.setattr(STOP, "defer", defer)
    phases.does = trains
    job = first(here, "pretrain")
    assert run_until_it_leaves_the_queue(here, job, slurm) == 0
    assert slurm.asked == ["requeue 77"] * STOPS
    assert tried == [job.id] * (STOPS + 1)
    made, straight = state_files_of(here.root / job.folder), state_files(bench.run(text_run(bench))[0])
    assert made == straight


def state_files_of(artifact: Path) -> dict[str, bytes]:
    """The files of a training state in an artifact, which has lists and a card beside them."""
    own = {"files.json", "card.json", "measured.json"}
    return {file.name: file.read_bytes() for file in sorted(artifact.iterdir()) if file.name not in own}


def test_a_job_that_fails_is_not_queued_again(here, phases, slurm):
    """Whatever it has saved: it would fail there again."""

    def fails(job, out: Path) -> dict:
        save(job)
        raise RuntimeError("no more room")

    phases.does = fails
    assert run_until_it_leaves_the_queue(here, first(here, "pretrain"), slurm) == 1
    assert slurm.asked == []


def save(job) -> None:
    job.resume.mkdir(parents=True, exist_ok=True)
    (job.resume / "state.json").write_text(f"{len(list(job.resume.iterdir()))}")


def stops(saving: bool) -> Callable:
    def does(job, out: Path) -> dict:
        STOP.asked = "SIGTERM"
        if saving:
            save(job)
        raise Stopped("after step 3 of 9")

    return does


def test_a_job_that_has_saved_nothing_is_not_queued_again(here, phases, slurm):
    phases.does = stops(saving=False)
    assert run_until_it_leaves_the_queue(here, first(here, "pretrain"), slurm) == STOPPED
    assert slurm.asked == []


@pytest.mark.parametrize("state", ["COMPLETING", "PENDING", "CANCELLED", ""])
def test_a_job_of_which_slurm_has_decided_otherwise_is_left_alone(here, phases, slurm, state):
    """Cancelled by a user, preempted and queued again by Slurm itself, or over its time."""
    slurm.says(state)
    phases.does = stops(saving=True)
    assert run_until_it_leaves_the_queue(here, first(here, "pretrain"), slurm) == STOPPED
    assert slurm.asked == []


def test_outside_of_slurm_nobody_is_asked(here, phases, slurm, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID")
    phases.does = stops(saving=True)
    assert run_until_it_leaves_the_queue(here, first(here, "pretrain"), slurm) == STOPPED
    assert slurm.asked == []


REFUSES = "echo 'Requested operation is disabled' >&2; exit 1"


@pytest.mark.parametrize(
    ("does", "fault"),
    [(REFUSES, "Requested operation is disabled"), ("exit 4", "scontrol ended with exit code 4")],
)
def test_what_slurm_refuses_is_said(here, phases, slurm, capfd, does, fault):
    slurm.command("scontrol", does)
    phases.does = stops(saving=True)
    assert run_until_it_leaves_the_queue(here, first(here, "pretrain"), slurm) == STOPPED
    assert f"not back in Slurm's queue: {fault}\n" in capfd.readouterr().err


@pytest.mark.parametrize(("saves", "asked"), [(["0.jsonl"], ["requeue 77"]), ([], [])])
def test_a_job_that_ends_where_it_is_goes_back_if_it_has_got_on(start, slurm, tmp_path, saves, asked):
    """An evaluation, say, which keeps its answers as they come."""
    answers = tmp_path / "resume" / "answers"
    answers.mkdir(parents=True)
    (answers / "0.jsonl").touch()
    process = start(IS_STOPPED_AT_ONCE, answers.parent, *saves)
    assert said(process) == "ready"
    process.terminate()
    assert process.wait(timeout=SOON) == STOPPED
    assert slurm.asked == asked
