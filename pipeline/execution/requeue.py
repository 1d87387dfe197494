"""A job that Slurm told to stop, and that has got on, goes back into Slurm's queue.

Slurm starts it again under the same number, as often as it takes. To Snakemake it has not ended, so none of its `retries`
is used up: those are for jobs that really fail.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pipeline.execution.processes import nothing

PATIENCE = 60  # seconds that Slurm's commands may take: the job's own time is nearly up


def looks(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and date of what a job can go on from: what is in its folder, and in the folders there."""
    found = {}
    for pattern in ("*", "*/*"):
        for path in folder.glob(pattern):
            with suppress(FileNotFoundError):  # a state takes the place of the one before it
                found[path] = (path.stat().st_size, path.stat().st_mtime_ns)
    return found


def back_into_the_queue(resume: Path) -> Callable[[], None]:
    """What a job with this folder for its states calls when it has stopped; nothing comes of it outside of Slurm.

    A job that has saved nothing since this was called stays out of the queue: it would stop there for ever.
    """
    if not (number := os.environ.get("SLURM_JOB_ID")):
        return nothing
    before = looks(resume)

    def go_back() -> None:
        if looks(resume) != before and (fault := requeue(number)):
            os.write(2, f"not back in Slurm's queue: {fault}\n".encode())  # maybe within another line's printing

    return go_back


def requeue(number: str) -> str | None:
    """Have Slurm end this job and queue it again, if it is neither cancelled nor queued already. Returns what failed."""
    try:
        # A job that is cancelled, over its time or preempted is no longer RUNNING, and what it becomes is decided.
        if slurm("squeue", "--noheader", f"--jobs={number}", "--states=all", "--format=%T") == "RUNNING":
            slurm("scontrol", "requeue", number)
    except subprocess.CalledProcessError as error:
        return error.stderr.strip() or f"{error.cmd[0]} ended with exit code {error.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None


def slurm(*command: str) -> str:
    """What one of Slurm's commands prints. Raises OSError or subprocess.SubprocessError."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    return done.stdout.strip()
