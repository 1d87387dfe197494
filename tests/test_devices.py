"""GPUs are shared by jobs without any two taking the same share. The GPUs are a stand-in for nvidia-smi."""

import os
import subprocess
import sys
import tempfile

import pytest

from pipeline.execution import gpus
from pipeline.execution.gpus import take_gpus, visible_gpus

TAKE = "import sys; from pipeline.execution.gpus import take_gpus; print(*take_gpus(int(sys.argv[1]), int(sys.argv[2]), 0.05), flush=True); sys.stdin.read()"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with `n` GPUs and no scheduler, whose locks are its own."""

    def make(n: int):
        tool = tmp_path / "bin" / "nvidia-smi"
        tool.parent.mkdir()
        tool.write_text("#!/bin/sh\n" + "".join(f"echo {index}\n" for index in range(n)))
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        for name in (gpus.VISIBLE, *gpus.SCHEDULERS):
            monkeypatch.delenv(name, raising=False)

    yield make
    while gpus._held:
        gpus._held.pop().close()


@pytest.fixture
def job():
    """Start jobs that take GPUs and keep them until they are ended."""
    started = []

    def start(count: int = 1, jobs_a_gpu: int = 1) -> subprocess.Popen:
        command = [sys.executable, "-c", TAKE, str(count), str(jobs_a_gpu)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def taken(process: subprocess.Popen) -> list[str]:
    return process.stdout.readline().split()


def test_without_a_gpu_there_is_nothing_to_see(monkeypatch, tmp_path):
    monkeypatch.delenv(gpus.VISIBLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []


def test_jobs_take_different_gpus(machine, job):
    machine(2)
    assert sorted(taken(job()) + taken(job())) == ["0", "1"]


def test_shares_are_spread_before_they_are_doubled(machine, job):
    machine(2)
    found = [taken(job(1, 2))[0] for _ in range(4)]
    assert sorted(found[:2]) == ["0", "1"]
    assert sorted(found) == ["0", "0", "1", "1"]


def test_a_killed_job_gives_its_gpu_back_to_one_that_waits(machine, job):
    machine(1)
    first = job()
    assert taken(first) == ["0"]
    second = job()
    assert second.stdout.readline() == "all 1 GPUs are taken; waiting\n"
    first.kill()
    assert taken(second) == ["0"]


def test_a_job_of_several_gpus_takes_all_or_none(machine, job):
    machine(3)
    first = job(2)
    assert len(taken(first)) == 2
    second = job(2)
    assert "waiting" in second.stdout.readline()
    assert len(taken(job(1))) == 1  # the one that is left is not kept from others
    first.kill()
    assert len(taken(second)) == 2


def test_the_taken_gpus_are_the_visible_ones(machine, monkeypatch):
    machine(4)
    monkeypatch.setenv(gpus.VISIBLE, "2,3")
    assert take_gpus(1, 1) == ["2"]
    assert os.environ[gpus.VISIBLE] == "2"


@pytest.mark.parametrize("scheduler", gpus.SCHEDULERS)
def test_a_schedulers_gpus_are_left_as_they_are(machine, monkeypatch, scheduler):
    machine(4)
    monkeypatch.setenv(scheduler, "1")
    monkeypatch.setenv(gpus.VISIBLE, "1,2")
    assert take_gpus(1, 1) == ["1", "2"]
    assert not gpus._held


@pytest.mark.parametrize(("count", "shares", "reason"), [(3, 1, "has 2"), (2, 2, "cannot take 2 GPUs and share")])
def test_what_cannot_be_had_is_refused(machine, count, shares, reason):
    machine(2)
    with pytest.raises(ValueError, match=reason):
        take_gpus(count, shares)
