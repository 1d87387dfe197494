"""Several processes for one training job, on one machine or on several: the ranks, which Composer's launcher starts.

The job's own process stays what it is for every job: it makes the artifact, and the ranks train for it. Ranks end when
it does, and it fails when one of them does. On several machines (nodes) there is one such process on each, told apart
by NODE_RANK, MASTER_ADDR and MASTER_PORT, or by Slurm: started once within a job of several nodes, it starts itself on
all of them. The first node's makes the artifact; all nodes see the project's folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TextIO

import psutil

from pipeline.common.files import read_json
from pipeline.common.parent_watch import PARENT_VARIABLE
from pipeline.execution.processes import SIGNALS, STOP, STOPPED, Stopped
from pipeline.study.phases import PHASES

ERROR = "error.txt"  # what the first rank that failed said, in the folder of the artifact to be
STOPPED_AT = "stopped.txt"  # where the ranks stopped that were told to
MEASURED = "measured.json"


class RankFailed(Exception):
    """What one of the ranks said before it ended, or that it said nothing."""


@dataclass(frozen=True)
class Ranks:
    """The processes that carry out a job: `devices` on each of `nodes`, of which this machine is number `node`."""

    nodes: int
    devices: int
    node: int = 0

    @property
    def several(self) -> bool:
        """Whether more than one process trains."""
        return self.nodes * self.devices > 1


def asked_for(description: dict) -> tuple[int, int]:
    """Nodes, and devices on each, for a job file's job; only what is trained takes several."""
    card = description["card"]
    if PHASES[card["phase"]].uses != "training" or "checkpoint" in card["settings"] or "failed" in card:
        return 1, 1
    return description["context"]["nodes"], description["context"]["devices"]


def find_ranks(description: dict) -> Ranks:
    """Who carries out a job file's job, and which node this is.

    Raises ValueError for a job of several nodes on a machine that does not say which of them it is.
    """
    nodes, devices = asked_for(description)
    if nodes == 1:
        return Ranks(1, devices)
    if nodes_of_step() == nodes:
        # The port follows from the job, so that all its nodes know it and jobs that share a node rarely meet.
        node, port = int(os.environ["SLURM_NODEID"]), 20_000 + int(os.environ["SLURM_JOB_ID"]) % 20_000
        command = ["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]]
        first = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
        os.environ.update(NODE_RANK=str(node), MASTER_ADDR=first, MASTER_PORT=os.environ.get("MASTER_PORT", str(port)))
    elif missing := [name for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise ValueError(f"the preset asks for {nodes} nodes, and {', '.join(missing)} are not set")
    return Ranks(nodes, devices, int(os.environ["NODE_RANK"]))


def nodes_of_step() -> int:
    """Nodes that Slurm has started this on: 1 outside of Slurm too."""
    return int(os.environ.get("SLURM_STEP_NUM_NODES", 1))


def start_on_all_nodes(description: dict, arguments: list[str]) -> None:
    """In a Slurm job of several nodes that runs this on one: become the `srun` that runs it on each of them."""
    nodes, devices = asked_for(description)
    if nodes > nodes_of_step() and "SLURM_JOB_ID" in os.environ and "NODE_RANK" not in os.environ:
        become_srun(nodes, devices * description["card"]["settings"]["hardware"]["threads"], arguments)


def become_srun(nodes: int, cores: int, arguments: list[str]) -> NoReturn:
    """Replace this process by an srun that runs `python -m pipeline ARGUMENTS` once on each node, with all that a job has."""
    # --overlap: without it this step would wait for the one that it is started from, which holds the job's CPUs.
    command = ["srun", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    # --kill-on-bad-exit: the other nodes would wait for one that has failed until a time limit ends them.
    command += ["--kill-on-bad-exit=1", f"--cpus-per-task={cores}"]
    # Replaced, not started: signals for this process then reach srun, which passes them on.
    os.execvp("srun", [*command, sys.executable, "-m", "pipeline", *arguments])


def train(ranks: Ranks, file: Path, out: Path, log: Path | None, screen: TextIO) -> dict:
    """Have this node's ranks train for a job file's job; the first node's leave the state in `out`, an empty folder.

    Returns what they measured (nothing on other nodes). Raises RankFailed, or Stopped if they were told to stop.
    """
    command = [sys.executable, "-m", "composer", "-n", str(ranks.devices)]
    if ranks.nodes > 1:  # the launcher takes the rest from the environment
        command += ["--world_size", str(ranks.nodes * ranks.devices)]
    command += ["-m", "pipeline", "rank", str(file), str(out), *(["--log", str(log)] if log else [])]
    STOP.defer()
    # The launcher would end its ranks half a minute after a signal, whatever they do; they look after themselves.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    # Its ranks' errors go to the log, all but what rank 0 has to say on the screen.
    launcher = subprocess.Popen(command, env=os.environ | {PARENT_VARIABLE: str(os.getpid())}, stderr=screen)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    code = wait_for_ranks(launcher)
    if code == STOPPED:
        at = out / STOPPED_AT
        raise Stopped(at.read_text() if at.exists() else "before its first step")
    if code:
        error = out / ERROR
        raise RankFailed(error.read_text().strip() if error.exists() else f"the ranks ended with exit code {code}")
    return read_json(out / MEASURED) if ranks.node == 0 else {}


def wait_for_ranks(launcher: subprocess.Popen) -> int:
    """The launcher's exit code, which is a rank's. A request to stop is passed on, also to ranks that begin after it."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            return launcher.wait(timeout=0.5)
        if STOP.asked:
            for process in psutil.Process(launcher.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    process.terminate()
