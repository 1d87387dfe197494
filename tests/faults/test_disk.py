"""Disks that are full or must not be written to: one line says so, and when they are not any more the same bits are made."""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

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
    assert job.end_when(signal.SIGTERM, job.states) == 85
    (state,) = job.states()
    before = state.read_bytes()
    full = fill(small_disk, 1 << 16)
    assert FULL in job.fails()
    assert state.read_bytes() == before
    full.unlink()
    job.ends_well()
    assert "continuing after step" in job.log.read_text()


def test_a_disk_that_must_not_be_written_to_is_named(drill, small_disk):
    for phase in ("shards", "cooldown", "tables"):
        job = drill(phase, small_disk)
        shutil.rmtree(job.made)
        remount(small_disk, "ro")
        assert READ_ONLY in job.fails()
        remount(small_disk, "rw")
        job.ends_well()


@pytest.mark.parametrize("phase", ["features", "finetune"])
def test_a_file_that_may_not_be_as_large_as_it_must_is_an_error_of_one_line(drill, phase):
    job = drill(phase)
    line = job.fails(FSIZE=100_000)
    assert LARGE in line or "os error 27" in line, line
    job.ends_well()
