"""What the Snakefile asks for: job files, edges, and what to say when something fails."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.cards import Ledger
from pipeline.config import ConfigError, load_settings
from pipeline.study import Job, Study


class Workflow:
    """The study as Snakemake sees it. A configuration error ends the process with its one line."""

    def __init__(self, root: Path, config: dict):
        try:
            if config:
                allowed = "nothing: settings are in params.yaml (edit it, or use `dvc exp run -S KEY=VALUE`)"
                raise ConfigError("command line", "--config", dict(config), allowed)
            self.settings = load_settings(root)
            self.study = Study(self.settings)
        except ConfigError as error:
            print(error, file=sys.stderr)
            raise SystemExit(2) from None
        self.ledger = Ledger(self.study, root)
        self.ledger.write_jobs()

    @property
    def table1(self) -> Job:
        return self.study.table1

    @property
    def threads(self) -> int:
        return self.settings.scale.hardware.threads

    @property
    def memory_mb(self) -> int:
        return self.settings.scale.hardware.memory_mb

    def job_file(self, job: Job) -> str:
        return self.ledger.job_file(job).as_posix()

    def parents(self, job: Job) -> list[str]:
        """The cards of the jobs whose files a job reads. A current job needs none: it will not run."""
        if self.ledger.current[job.key]:
            return []
        return sorted({parent.card for parent in self.ledger.inputs(job)})

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

    def failures(self) -> str:
        """For the end of a failed run: what each failed job said, and the command that goes on."""
        lines = ["", "Failed:"]
        for job in self.ledger.jobs:
            log = Path("logs") / job.phase / f"{job.id if job.phase != 'tables' else job.label}.log"
            if not self.ledger.is_current(job) and log.exists():
                said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
                if said and not said[-1].startswith("finished"):
                    lines.append(f"  {job.phase} {job.id}: {said[-1]}   ({log})")
        command = " ".join(map(shlex.quote, ["snakemake", *sys.argv[1:]]))
        return "\n".join([*lines, f"Continue with: {command}"])
