"""What drills know of a process that stands still where they asked it to (see hold/sitecustomize.py)."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil

HOLD = Path(__file__).with_name("hold")
SAVED = "*/.study/resume/*/last"  # what a job that trains puts into place at each save
PATIENCE = 600  # seconds: a drill fails after that; it never goes on because of it


def holding(folder: Path, pattern: str = SAVED) -> dict[str, str]:
    """The environment in which one process stands still once it has put such a path into its place."""
    token = folder / "hold"
    token.touch()
    path = os.pathsep.join([str(HOLD), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, "HOLD_AT": pattern, "HOLD_TOKEN": str(token)}


def wait(condition, process: subprocess.Popen | None = None):
    """Wait for something to be true, and return it. Fails if the process ends before."""
    until = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert process is None or process.poll() is None, "it ended too early"
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.005)
    return found


def is_stopped(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_STOPPED
    return False


def is_gone(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


def command(process: psutil.Process) -> list[str]:
    """A process's command line; empty of one that has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


def held_below(process: subprocess.Popen) -> psutil.Process:
    """The process below another one that stands still, once there is one."""

    def look() -> psutil.Process | None:
        with contextlib.suppress(psutil.NoSuchProcess):
            return next(filter(is_stopped, psutil.Process(process.pid).children(recursive=True)), None)
        return None

    return wait(look, process)


def is_told(pid: int, *numbers: signal.Signals) -> bool:
    """Whether one of these signals waits for a process that stands still."""
    status = Path(f"/proc/{pid}/status").read_text()
    pending = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in pending for number in numbers)
