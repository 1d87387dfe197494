"""Who is at work in this folder: locks of the dead are removed, and nothing outlives the process that it works for.

After `kill -9` of Snakemake its jobs would go on, unknown to the next run, and its lock would refuse that run; after
one of DVC, so would Snakemake. So each job ends with its Snakemake, and Snakemake with its DVC.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import shlex
import shutil
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import psutil

from pipeline.files import stable_json

RUNNING = Path(".study/running")
OWNER = "WHEN_IMAGES_SNAKEMAKE"  # environment variable: the process id of the Snakemake that jobs work for
SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}
ORPHANED = 75  # exit code of a process that stopped because the one it worked for is gone


OWNERS: list[psutil.Process] = []  # the processes that this one works for


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_if_orphaned() -> None:
    """End this process now if one that it works for is gone. Called before anything is put into place."""
    if not all(map(lives, OWNERS)):
        os._exit(ORPHANED)


def end_with(pid: int) -> None:
    """End this process at once, whatever it is doing, when process `pid` ends: half a second later at most."""

    def watch() -> None:
        while True:
            end_if_orphaned()
            time.sleep(0.5)

    try:
        OWNERS.append(psutil.Process(pid))
    except psutil.NoSuchProcess:
        os._exit(ORPHANED)
    threading.Thread(target=watch, daemon=True).start()


def end_with_dvc() -> None:
    """End this process when the `dvc` that started it does, if one did."""
    if "DVC_STAGE" in os.environ:
        above = [process for process in psutil.Process().parents() if process.name() not in SHELLS]
        if above:
            end_with(above[0].pid)


class Presence:
    """This process's entry among those at work in the folder, for as long as it lives.

    The entry is a file that its process holds a lock on: the system drops the lock when the process dies, however it
    dies, so an entry without a lock is of a dead process. Works across machines where the file system's locks do.
    """

    def __init__(self, root: Path):
        self.folder = root / RUNNING
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / f"{os.uname().nodename}-{os.getpid()}.json"
        partial = self.file.with_suffix(".partial")
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        since = datetime.now().isoformat(sep=" ", timespec="seconds")
        partial.write_text(
            stable_json({"machine": os.uname().nodename, "pid": os.getpid(), "since": since} | {"command": command})
        )
        self.handle = open(partial, "r+")  # noqa: SIM115 (held until the process ends)
        fcntl.flock(self.handle, fcntl.LOCK_EX)
        os.replace(partial, self.file)
        atexit.register(self.file.unlink, missing_ok=True)

    def others(self) -> list[dict]:
        """The other living processes in the folder. Entries of dead ones are deleted."""
        alive = []
        for file in sorted(self.folder.glob("*.json")):
            if file == self.file:
                continue
            try:
                with open(file, "r+") as handle:  # writable: network file systems ask for it
                    entry = json.load(handle)
                    try:
                        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        file.unlink()
                    except BlockingIOError:
                        alive.append(entry)
            except FileNotFoundError:
                continue  # it ended, or another process has just tidied up
        return alive


def remove_stale_locks(root: Path, presence: Presence, patience: float = 5.0) -> str | None:
    """Remove Snakemake's locks if nobody is left who could hold them; else say who is at work.

    Its marks of incomplete outputs go with them: they would rerun a job that was done just before Snakemake was
    killed, and what is incomplete has no card. A planning run (`-n`) or an orphan is gone within `patience` seconds; a run at work keeps its locks.
    """
    locks = root / ".snakemake" / "locks"
    give_up = time.monotonic() + patience
    while locks.exists() and any(locks.iterdir()):
        others = presence.others()
        if not others:
            shutil.rmtree(locks, ignore_errors=True)
        elif time.monotonic() > give_up:
            other = others[0]
            return f"at work in this folder since {other['since']}: process {other['pid']} on {other['machine']}: {other['command']}"
        else:
            time.sleep(0.2)
    shutil.rmtree(root / ".snakemake" / "incomplete", ignore_errors=True)
    return None
