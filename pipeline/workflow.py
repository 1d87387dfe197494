"""What the Snakefile asks for: job files, edges, what to record, and what to say when something fails."""

from __future__ import annotations

import gc
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pipeline import server
from pipeline.cards import Ledger
from pipeline.config import ConfigError, Corpora, check_weights, load_settings
from pipeline.processes import OWNER, Presence, end_with_dvc, remove_stale_locks
from pipeline.study import STAGES, TABLES, Job, Study, lineage

Made = TypeVar("Made")


def open_ledger(root: Path) -> Ledger:
    """The ledger of the study that params.yaml describes. A configuration error ends the process with its one line."""
    return refuse(lambda: Ledger(Study(load_settings(root)), root))


def refuse(make: Callable[[], Made]) -> Made:
    """What `make` makes. A configuration error in it ends the process with its one line."""
    try:
        return make()
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


class Workflow:
    """The study as Snakemake sees it.

    `main` is false for the copies of Snakemake that a cluster's nodes run: they carry out one job and decide nothing.
    """

    def __init__(self, root: Path, config: dict, main: bool):
        if config:
            allowed = "nothing: settings are in params.yaml (edit it, or use `dvc exp run -S KEY=VALUE`)"
            print(ConfigError("command line", "--config", dict(config), allowed), file=sys.stderr)
            raise SystemExit(2)
        gc.set_threshold(100_000, 50, 50)  # a plan makes many objects and little garbage: a tenth less CPU time
        self.root = root
        self.ledger = open_ledger(root)
        self.study, self.settings = self.ledger.study, self.ledger.study.settings
        os.environ[OWNER] = str(os.getpid())
        if main:
            end_with_dvc()
            self.presence = Presence(root)
            busy = remove_stale_locks(root, self.presence)
            if busy:
                print(busy, file=sys.stderr)
            self.ledger.take_back()
            self.ledger.mark_deleted()
            self.ledger.write_jobs()

    def start(self, here: bool) -> None:
        """Before the first job runs: end with one line if data or weights that a job needs are not there.

        Not earlier: a study can be planned on a machine that has neither. Jobs that run `here`, without GPUs (which no
        process may have touched that others are forked from), get a server.
        """
        refuse(self.ledger.check_paths)
        if any(job.settings.get("encoder") and not self.ledger.is_current(job) for job in self.ledger.jobs):
            refuse(lambda: check_weights(self.settings.encoders))
        if here and self.settings.scale.hardware.device == "cpu":
            server.start()

    @property
    def tables(self) -> dict[str, Job]:
        """The tables and figures, each a rule of its own."""
        return self.study.tables

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(STAGES)

    @property
    def threads(self) -> int:
        """CPU threads of a training job on each of its nodes."""
        return self.settings.scale.hardware.threads * self.settings.scale.hardware.devices

    @property
    def readers(self) -> int:
        """Processes that a job may read corpora with."""
        source = self.settings.data.source
        return source.workers if isinstance(source, Corpora) else 1

    @property
    def evaluation_threads(self) -> int:
        hardware = self.settings.scale.hardware
        return hardware.threads * (hardware.evaluation_processes or 1)

    @property
    def memory_mb(self) -> int:
        return self.settings.scale.hardware.memory_mb

    @property
    def minutes(self) -> int:
        return self.settings.scale.hardware.minutes

    @property
    def nodes(self) -> int:
        return self.settings.scale.hardware.nodes

    @property
    def gpus(self) -> int:
        """GPUs of a training job, on all its nodes."""
        hardware = self.settings.scale.hardware
        return hardware.nodes * hardware.devices if hardware.device == "gpu" else 0

    def job_file(self, job: Job) -> str:
        return self.ledger.job_file(job).as_posix()

    def parents(self, job: Job) -> list[str]:
        """The cards of the jobs whose files a job reads. A current job needs none: it will not run.

        Nor is one needed that another of them will ask for itself: hundreds of edges less for a table.
        """
        if self.ledger.is_current(job):
            return []
        inputs = {parent.key: parent for parent in self.ledger.inputs(job)}
        for parent in list(inputs.values()):
            if not self.ledger.is_current(parent):
                for earlier in self.ledger.inputs(parent):
                    inputs.pop(earlier.key, None)
        return sorted(parent.card for parent in inputs.values())

    def table_inputs(self, name: str) -> dict[str, str | list[str]]:
        """What a table's rule asks for: its expected card, and its parents' cards."""
        return {"job": self.job_file(self.tables[name]), "parents": self.parents(self.tables[name])}

    def table_outputs(self, name: str) -> list[str]:
        """A table's card, the list of what its files in results/ were made from, and these."""
        job = self.tables[name]
        return [job.card, job.published, *(f"results/{file}" for file in TABLES[name].files)]

    def broken(self, name: str) -> list[str]:
        """The cards of artifacts behind a table that were here and are damaged or gone."""
        behind = {job.key for job in lineage(self.tables[name])} if self.ledger.broken else set()
        return [job.card for job in self.ledger.broken if job.key in behind]

    def stage(self, stage: str) -> list[str]:
        """The cards of all artifacts of a stage, and the tables' files in results/."""
        jobs = self.ledger.stage_jobs(stage)
        return [path for job in jobs for path in (job.card, job.published) if path]

    def edges(self, phase: str) -> Callable:
        """Snakemake's input function of a phase: the expected card, and the parents' cards."""
        jobs = {job.id: job for job in self.ledger.jobs if job.phase == phase}

        def inputs(wildcards) -> dict[str, str | list[str]]:
            if wildcards.id not in jobs:
                known = ", ".join(sorted(jobs))
                raise ValueError(f"artifacts/{phase}/{wildcards.id} is not in the study of params.yaml; it has {known}")
            job = jobs[wildcards.id]
            return {"job": self.job_file(job), "parents": self.parents(job)}

        return inputs

    def record(self) -> None:
        """After a run: note in dvc.lock what is there, stage by stage, as far as stages are complete.

        Under `dvc repro` DVC does that itself.
        """
        if "DVC_STAGE" in os.environ or not (self.root / ".dvc").is_dir() or not (self.root / ".git").exists():
            return
        ledger, complete = Ledger(self.study, self.root), []
        for stage in STAGES:
            if not all(ledger.is_current(job) for job in ledger.stage_jobs(stage)):
                break
            ledger.set_aside(stage)
            complete.append(stage)
        if complete:
            command = [sys.executable, "-m", "dvc", "commit", "--force", "--quiet", *complete]
            done = subprocess.run(command, cwd=self.root, capture_output=True, text=True)
            if done.returncode:
                print(f"dvc.lock was not updated: {done.stderr.strip()}", file=sys.stderr)

    def failures(self) -> str:
        """For the end of a failed run: what each failed job said, and the command that goes on."""
        ledger = Ledger(self.study, self.root)
        lines = ["", "Failed:"]
        for job in ledger.jobs:
            log = Path("logs") / job.phase / f"{job.id}.log"
            if not ledger.is_current(job) and log.exists():
                said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
                if said and not said[-1].startswith("finished"):
                    lines.append(f"  {job.phase} {job.id}: {said[-1]}   ({log})")
        command = " ".join(map(shlex.quote, ["snakemake", *sys.argv[1:]]))
        return "\n".join([*lines, f"Continue with: {command}"])
