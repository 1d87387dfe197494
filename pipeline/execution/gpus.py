"""GPUs of one machine shared by several jobs: each job takes its own, or its own share of one, and keeps it to its end.

A share is a lock on a file that the system gives back however the job ends, so nothing needs to be cleaned up. The files
are the machine's, not the project's: two clones at work side by side share the GPUs too. Under a cluster's scheduler
nothing is taken: it has given each job its GPUs.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO

SCHEDULERS = ("SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST")
VISIBLE = "CUDA_VISIBLE_DEVICES"
_held: list[IO] = []  # open for as long as the process lives: closing a file would give its lock back


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    if VISIBLE in os.environ:
        return [name for name in os.environ[VISIBLE].split(",") if name.strip()]
    if not shutil.which("nvidia-smi"):
        return []
    # Not through torch: CUDA reads CUDA_VISIBLE_DEVICES when it is first used, and that is set later (`take_gpus`).
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def take_gpus(count: int, jobs_a_gpu: int, wait_seconds: float = 2.0) -> list[str]:
    """Take `count` whole GPUs, or for jobs_a_gpu > 1 one of that many shares of one, and make them the visible ones.

    Waits until they are free. Returns the GPUs' names; under a cluster's scheduler those that it gave. Raises
    ValueError if the machine has fewer.
    """
    names = visible_gpus()
    if any(name in os.environ for name in SCHEDULERS):
        return names
    if len(names) < count:
        raise ValueError(f"the preset asks for {count} GPUs a job, and this machine has {len(names)}")
    if count > 1 and jobs_a_gpu > 1:
        raise ValueError(f"a job cannot take {count} GPUs and share them with {jobs_a_gpu - 1} others")
    # A folder for each user: nobody can open another user's files for writing.
    folder = Path(tempfile.gettempdir()) / f"when-images-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    told = False
    while not (taken := try_to_take(folder, names, count, jobs_a_gpu)):
        if not told:
            print(f"all {len(names)} GPUs are taken; waiting", flush=True)
        told = True
        time.sleep(wait_seconds)
    os.environ[VISIBLE] = ",".join(taken)
    return taken


def try_to_take(folder: Path, names: list[str], count: int, jobs_a_gpu: int) -> list[str]:
    """All that is asked for, or nothing."""
    with open(folder / "looking", "w") as looking:
        fcntl.flock(looking, fcntl.LOCK_EX)  # one job looks at a time, so that none sees half of another's choice
        found: dict[str, IO] = {}
        # The first share of every GPU before the second of any: jobs spread out.
        for share in range(jobs_a_gpu):
            for name in names:
                if len(found) < count and name not in found and (file := lock(folder / f"gpu-{name}-{share}")):
                    found[name] = file
        if len(found) < count:
            for file in found.values():
                file.close()
            return []
        _held.extend(found.values())
        return list(found)


def lock(path: Path) -> IO | None:
    """The file, locked, or None if another process has it."""
    file = open(path, "w")  # noqa: SIM115 - it stays open: that is the lock
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
