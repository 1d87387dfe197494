"""Processes that end when the process that started them does, even if that was killed."""

from __future__ import annotations

import os
import threading
import time

import psutil

PARENT_VARIABLE = "WHEN_IMAGES_SNAKEMAKE"  # environment variable: the process id of the Snakemake that jobs work for
# DVC starts its commands through a shell. Whether that shell lives says nothing about DVC.
SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}
ORPHANED = 75  # exit code of a process that stopped because the one it worked for is gone


PARENTS: list[psutil.Process] = []  # the processes that this one works for


def lives(process: psutil.Process) -> bool:
    """Whether a process is still at work."""
    try:
        # A zombie has ended; its entry stays until its own parent asks how.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_if_orphaned() -> None:
    """End this process now if one that it works for is gone. Called before anything is put into place."""
    if not all(map(lives, PARENTS)):
        # Not sys.exit: called in the watching thread it would end that thread alone.
        os._exit(ORPHANED)


def end_with(pid: int) -> None:
    """End this process at once, whatever it is doing, when process `pid` ends: half a second later at most."""

    def watch() -> None:
        while True:
            end_if_orphaned()
            time.sleep(0.5)

    try:
        PARENTS.append(psutil.Process(pid))
    except psutil.NoSuchProcess:
        os._exit(ORPHANED)
    threading.Thread(target=watch, daemon=True).start()
