"""What the drills work on: a finished study, a copy of it, and processes that have imported what jobs need."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.drills import Drill, copy_of
from faults.warm import Server


@pytest.fixture(scope="session")
def warm() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def bench(study, tmp_path_factory) -> Path:
    """A copy of the study in which drills leave everything as it was."""
    return copy_of(study, tmp_path_factory.mktemp("bench"))


@pytest.fixture
def drill(warm, study, bench):
    """A function that prepares a job of a phase."""
    return lambda phase, folder=bench: Drill(warm, study, folder, phase)


@pytest.fixture
def disk() -> Iterator[Path]:
    """A disk of its own (tmpfs)."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root may mount a disk of its own")
    place = Path(tempfile.mkdtemp(prefix="small-disk-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "none", place], capture_output=True, text=True)
    if mounted.returncode:
        place.rmdir()
        pytest.skip(f"no disk of its own can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
        place.rmdir()


@pytest.fixture
def small_disk(study, disk) -> Path:
    """A copy of the study on a disk of its own."""
    return copy_of(study, disk / "study")
