"""Disks that are full or must not be written to: one line says so, and when they are not any more the same bits are made."""

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_end_to_end import artifact, done_jobs, is_clean, planned, run, snakemake

from faults.drills import copy_of

pytestmark = pytest.mark.end_to_end
FULL, READ_ONLY, LARGE = "No space left on device", "Read-only file system", "File too large"


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder.parent], check=True)


def fill(folder: Path, left: int) -> Path:
    """A file that leaves so many bytes of the disk."""
    file = folder.parent / "full"
    with open(file, "wb") as out:
        for size in (1 << 20, 1 << 12):
            while shutil.disk_usage(folder).free >= left + size:
                out.write(bytes(size))
                out.flush()
    return file


def test_on_a_full_disk_a_job_says_so_and_goes_on_when_there_is_room(drill, small_disk):
    for phase, left in {"sources": 1 << 16, "features": 1 << 16, "cooldown": 1 << 16, "evaluate": 1 << 13}.items():
        job = drill(phase, small_disk)
        shutil.rmtree(job.made)
        full = fill(small_disk, left)
        line = job.fails()
        assert FULL in line or "os error 28" in line, line
        full.unlink()
        job.ends_well()


def test_a_disk_that_is_full_when_a_state_is_saved_costs_what_came_after_the_one_before(drill, small_disk):
    job = drill("finetune", small_disk)
    job.change_context(save_steps=3)
    assert job.end_at(signal.SIGTERM) == 85
    (state,) = job.states()
    before = state.read_bytes()
    full = fill(small_disk, 1 << 16)
    assert FULL in job.fails()
    assert state.read_bytes() == before
    full.unlink()
    job.ends_well()
    assert "continuing after step" in job.log.read_text()


@pytest.mark.nightly
def test_a_disk_that_must_not_be_written_to_is_named(drill, small_disk):
    for phase in ("shards", "cooldown", "tables"):
        job = drill(phase, small_disk)
        shutil.rmtree(job.made)
        remount(small_disk, "ro")
        assert READ_ONLY in job.fails()
        remount(small_disk, "rw")
        job.ends_well()


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Where a folder, and nothing else, must not be written to."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def immutable(folder: Path) -> Iterator[None]:
    """Where nothing may be added to a folder, on one file system with all others."""
    if subprocess.run(["chattr", "+i", folder], capture_output=True).returncode:
        pytest.skip("the file system has no immutable folders")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", folder], check=True)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("phase", "folder", "protect", "says"),
    [
        ("finetune", ".study/resume", read_only, READ_ONLY),
        ("features", "artifacts/features", immutable, "Operation not permitted"),
        ("finetune", "artifacts/finetune", immutable, "Operation not permitted"),
    ],
)
def test_a_job_whose_output_alone_must_not_be_written_to_says_so(
    drill, small_disk, study, tmp_path, phase, folder, protect, says
):
    """Its log can be: the phase itself meets the fault."""
    job = drill(phase, copy_of(study, tmp_path / "study") if protect is immutable else small_disk)
    shutil.rmtree(job.made)
    job.change_context(save_steps=3)
    (job.folder / folder).mkdir(exist_ok=True)
    with protect(job.folder / folder):
        assert says in job.fails()
    assert "Traceback" in job.log.read_text()
    job.ends_well()


@pytest.mark.nightly
def test_results_that_must_not_be_written_to_are_named_and_written_when_they_may(drill, small_disk):
    job, results = drill("tables", small_disk), small_disk / "results"
    (results / "table1.csv").unlink()
    with read_only(results):
        assert job.run() == 1
        assert READ_ONLY in job.said()
    assert not (results / "table1.csv").exists()
    job.ends_well()


@pytest.mark.nightly
def test_snakemake_on_a_full_disk_says_so_and_goes_on_when_there_is_room(disk, study):
    copy = disk / "study"
    subprocess.run(["cp", "-a", study, copy], check=True)
    lost = artifact(copy, "finetune/b50")
    shutil.rmtree(lost)
    full = fill(copy, 1 << 18)
    said = run(copy, "snakemake", "--cores", "2", ok=False)
    assert FULL in said or "os error 28" in said, said
    assert not lost.exists()
    full.unlink()
    assert done_jobs(snakemake(copy)) == [f"finetune {lost.name}"]
    assert is_clean(copy)
    assert planned(copy) == {}


@pytest.mark.nightly
@pytest.mark.parametrize("phase", ["features", "finetune"])
def test_a_file_that_may_not_be_as_large_as_it_must_is_an_error_of_one_line(drill, phase):
    job = drill(phase)
    line = job.fails(FSIZE=100_000)
    assert LARGE in line or "os error 27" in line, line
    job.ends_well()
