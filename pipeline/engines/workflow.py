"""What the Snakefile asks for: job files, edges, what to record, and what to say when something fails."""

from __future__ import annotations

import atexit
import gc
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pipeline.common.files import one_line, write_text
from pipeline.common.parent_watch import PARENT_VARIABLE, PARENTS
from pipeline.engines.dvc import DVC_FILES, UNRECORDED, is_torn
from pipeline.engines.resources import Share, share
from pipeline.execution import fork_server
from pipeline.execution.processes import (
    Presence,
    at_work,
    end_with_dvc,
    heeded,
    let_go,
    remove_stale_locks,
    stop_jobs_below,
)
from pipeline.reporting.table_list import TABLES
from pipeline.settings.errors import ConfigError
from pipeline.settings.load import check_weights, load_settings
from pipeline.settings.sources import Corpora
from pipeline.store.failed_runs import failure, noted
from pipeline.store.foreign_files import check_foreign, check_paths
from pipeline.store.ledger import Ledger
from pipeline.study.job import Job, lineage
from pipeline.study.phases import PHASES, STAGES, Phase
from pipeline.study.study import Study

Made = TypeVar("Made")


def open_ledger(root: Path, words: Sequence[str] = ()) -> Ledger:
    """The ledger of the study that params.yaml describes, with other values of some keys for a preview: KEY=VALUE words.

    A configuration error ends the process with its one line and exit code 2.
    """
    return refuse(lambda: Ledger(Study(load_settings(root, words=words)), root))


def refuse(make: Callable[[], Made]) -> Made:
    """What `make` makes. A configuration error in it ends the process with its one line."""
    try:
        return make()
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


# Options of Snakemake's that cards give another meaning, or none.
REFUSED = {
    "--delete-all-output": "nothing; delete artifacts/, .study/ and what is to go of results/",
    "--touch": "nothing: cards say what is up to date, and no date does (python -m pipeline why TARGET)",
}


def check_command_line(arguments: list[str], root: Path, home: Path) -> None:
    """Refuse what would not mean what it means elsewhere. Raises ConfigError."""
    words = ["--touch" if word == "-t" else word for word in arguments]
    for option, allowed in REFUSED.items():
        if any(
            len(word) > 3 and option.startswith(word) for word in words
        ):  # Snakemake takes any beginning of an option
            raise ConfigError("command line", option, option, allowed)
    if root.resolve() != home.resolve():
        allowed = f"nothing: a study is made in the folder of its Snakefile, {home.resolve()}; another one in a clone"
        raise ConfigError("command line", "--directory", str(root.resolve()), allowed)


def record(study: Study, root: Path) -> None:
    """Note in dvc.lock what is there, as far as stages are complete, in a project that DVC and git know."""
    # Under `dvc repro` DVC notes the stage itself when this command has ended.
    ours = "DVC_STAGE" not in os.environ and (root / ".dvc").is_dir() and (root / ".git").exists()
    if not ours or commit(study, root):
        (root / UNRECORDED).unlink(missing_ok=True)


def commit(study: Study, root: Path) -> bool:
    """Have DVC note the stages that are complete. Returns whether it could."""
    ledger, complete = Ledger(study, root), []
    for stage in STAGES:
        # Stages are in order, and what follows an incomplete one reads what is not there yet.
        if not all(ledger.is_current(job) for job in ledger.stage_jobs(stage)):
            break
        ledger.set_aside(stage)
        complete.append(stage)
    # DVC refuses every command while such a file is there, and what was in it is written anew.
    for torn in filter(is_torn, (root / name for name in DVC_FILES)):
        torn.unlink()
    if not complete:
        return True
    # Not --quiet, under which DVC says nothing of what went wrong either.
    command = [sys.executable, "-m", "dvc", "commit", "--force", *complete]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        reasons = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
        print(f"dvc.lock was not updated: {one_line(' '.join(reasons), 2000)}", file=sys.stderr)
    return done.returncode == 0


class Workflow:
    """The study as Snakemake sees it.

    `main` is false for the copies of Snakemake that a cluster's nodes run: they carry out one job and decide nothing.
    `dry` tells, once Snakemake knows, whether it only plans (`snakemake -n`), and `forced` what it shall make although it
    is there (`--forceall`, `--force`, `--forcerun`). `home` is the folder of the Snakefile.
    """

    def __init__(
        self,
        root: Path,
        config: dict,
        main: bool,
        dry: Callable[[], bool] = bool,
        forced: Callable[[], list] = list,
        home: Path | None = None,
    ):
        if config:
            # DVC compares params.yaml with dvc.lock, and results/ are of params.yaml: values from elsewhere would be of neither.
            allowed = (
                "nothing: settings are in params.yaml; edit it, or see `python -m pipeline plan KEY=VALUE`, "
                "or `dvc exp run -S KEY=VALUE`"
            )
            print(ConfigError("command line", "--config", dict(config), allowed), file=sys.stderr)
            raise SystemExit(2)
        refuse(lambda: check_command_line(sys.argv[1:] if main else [], root, home or root))
        gc.set_threshold(100_000, 50, 50)  # a plan makes many objects and little garbage: a tenth less CPU time
        self.root, self.main, self.dry, self.started, self.stopping = root, main, dry, False, False
        self.asks_anew = forced
        self.ledger = open_ledger(root)
        self.study, self.settings = self.ledger.study, self.ledger.study.settings
        # Jobs inherit it, and end with this process however it ends.
        os.environ[PARENT_VARIABLE] = str(os.getpid())
        if main:
            end_with_dvc()
            # Noted before anything of the folder is touched: two runs that begin together then see each other.
            self.presence = Presence(root)
            self.busy = remove_stale_locks(root, self.presence)
            if self.busy:
                print(self.busy, file=sys.stderr)
            self.ledger.take_back()
            # Only when alone: what looks left behind may be another run's work in progress.
            if not self.presence.others():
                self.ledger.tidy()
            # After `take_back`: an artifact that is back in its place is not deleted.
            self.ledger.mark_deleted()
            self.ledger.write_jobs()
            refuse(self.ledger.check_unchanged)
            refuse(lambda: check_foreign(self.ledger))
            atexit.register(self.record_late)
            atexit.register(self.report_lock_holder)

    def start(self, here: bool) -> None:
        """Before the first job runs: end with one line if data or weights that a job needs are not there.

        Not earlier: a study can be planned on a machine that has neither. Jobs that run `here`, without GPUs (which no
        process may have touched that others are forked from), get a server.
        """
        refuse(lambda: check_paths(self.ledger))
        if any(getattr(job.settings, "encoder", None) and not self.ledger.is_current(job) for job in self.ledger.jobs):
            refuse(lambda: check_weights(self.settings.encoders))
        if self.main:
            self.started = True
            write_text(self.root / UNRECORDED, "")
            for number in heeded():
                signal.signal(number, self.stop)
            if sys.stderr.isatty():
                print("python -m pipeline status --watch, in another terminal, shows how far it is", file=sys.stderr)
        # A process that has used a GPU cannot be forked from: CUDA's state does not survive a fork.
        if here and self.settings.scale.hardware.device == "cpu":
            fork_server.start()

    def stop(self, number: int, _: object) -> None:
        """On SIGTERM, SIGINT or SIGHUP: tell the jobs to stop, and wait for them as Snakemake does after Ctrl-C.

        Snakemake itself lets jobs run to their ends on SIGTERM, trusts on Ctrl-C that they have got the signal too, and
        ends at once when the terminal is closed.
        """
        if number == signal.SIGHUP:
            let_go(1, 2)
        if self.stopping:
            return
        self.stopping = True
        PARENTS.clear()  # a DVC that the same signal has ended: its jobs are stopping already
        threading.Thread(target=stop_jobs_below, args=[os.getpid()], daemon=True).start()
        # Snakemake's answer to Ctrl-C is what is wanted: no new jobs, and it waits for those that run.
        raise KeyboardInterrupt

    @property
    def tables(self) -> dict[str, Job]:
        """The tables and figures, each a rule of its own."""
        return self.study.tables

    @property
    def phases(self) -> dict[str, Phase]:
        """The phases whose jobs share a rule."""
        return {name: phase for name, phase in PHASES.items() if name != "tables"}

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that DVC sees."""
        return tuple(STAGES)

    def threads(self, phase: str) -> Callable[[Any], int]:
        """Snakemake's function of a phase's jobs: the CPU threads of one on each of its nodes."""
        shares = self.shares(phase)
        return lambda wildcards: shares[wildcards.id].threads

    def resources(self, phase: str) -> dict[str, Callable[[Any], int]]:
        """Such functions of what else a job takes: memory in MiB, minutes, nodes, and GPUs on all of them."""
        shares = self.shares(phase)
        found: dict[str, Callable[[Any], int]] = {
            "mem_mb": lambda wildcards: shares[wildcards.id].memory_mb,
            "runtime": lambda wildcards: shares[wildcards.id].minutes,
        }
        if PHASES[phase].uses in ("training", "evaluation"):
            found["nodes"] = lambda wildcards: shares[wildcards.id].nodes
            found["gpu"] = lambda wildcards: shares[wildcards.id].gpus
        return found

    def shares(self, phase: str) -> dict[str, Share]:
        """What the jobs of a phase take, by id."""
        source = self.settings.data.source
        readers = source.workers if isinstance(source, Corpora) else 1
        return {job.id: share(job, readers) for job in self.ledger.jobs if job.phase == phase}

    def job_file(self, job: Job) -> str:
        """Where the job's file is, for Snakemake."""
        return self.ledger.job_file(job).as_posix()

    @cached_property
    def forced(self) -> bool:
        """Whether Snakemake was told to make what is there. It must then see all that a job is made from, and in what order.

        What was pulled has the dates of the pull, so cards are dated first: none may be newer than what is made from it.
        """
        forced = self.main and any(self.asks_anew())
        if forced:
            self.ledger.date_long_ago()
        return forced

    def parents(self, job: Job) -> list[str]:
        """The cards of the jobs whose files a job reads. A current job needs none, as it will not run.

        One that another of them asks for anyway is left out, which saves a table hundreds of edges.
        """
        # Ancient and left-out inputs would hide from Snakemake in which order forced jobs depend on each other.
        if self.forced:
            return sorted({parent.card for parent in self.ledger.inputs(job)})
        if self.ledger.is_current(job):
            return []
        inputs = {parent.key: parent for parent in self.ledger.inputs(job)}
        for parent in list(inputs.values()):
            if not self.ledger.is_current(parent):
                for earlier in self.ledger.inputs(parent):
                    inputs.pop(earlier.key, None)
        return sorted(parent.card for parent in inputs.values())

    def table_edges(self, name: str) -> Callable:
        """Snakemake's input function of a table: its expected card, and its parents' cards."""
        return lambda _: self.inputs(self.tables[name])

    def inputs(self, job: Job) -> dict[str, str | list[str]]:
        return {"job": self.job_file(job), "parents": self.parents(job)}

    def table_cards(self, name: str) -> list[str]:
        """A table's card, and the list of what its files in results/ were made from."""
        return [path for path in (self.tables[name].card, self.tables[name].published) if path]

    def table_files(self, name: str) -> dict[str, str]:
        """A table's files in results/, each with its category in Snakemake's own report."""
        kinds = {
            "report": "Report",
            "claims": "Verdicts",
            "comparison": "Beside the paper",
            "controls": "Controls",
            "conditions": "Controls",
        }
        other = "Tables" if name.startswith("table") else kinds.get(name, "Figures")
        return {f"results/{file}": "Figures" if file.startswith("figures/") else other for file in TABLES[name].files}

    def has(self, name: str) -> bool:
        """Whether a table is there as today's study wants it."""
        return self.ledger.is_current(self.tables[name])

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
        # Looked up once: Snakemake calls the function for every job, and some studies have hundreds.
        jobs = {job.id: job for job in self.ledger.jobs if job.phase == phase}

        def inputs(wildcards: Any) -> dict[str, str | list[str]]:
            if wildcards.id not in jobs:
                known = ", ".join(sorted(jobs))
                raise ValueError(f"artifacts/{phase}/{wildcards.id} is not in the study of params.yaml; it has {known}")
            return self.inputs(jobs[wildcards.id])

        return inputs

    def report_lock_holder(self) -> None:
        """At the end: say who has Snakemake's lock. Of two runs that begin together it refuses one and does not say why."""
        if self.started or self.busy or self.dry() or not any((self.root / ".snakemake/locks").glob("*")):
            return
        for other in self.presence.others()[:1]:
            print(at_work(other), file=sys.stderr)

    def record(self) -> None:
        """After a run: note in dvc.lock what is there, stage by stage, as far as stages are complete.

        Under `dvc repro` DVC does that itself.
        """
        record(self.study, self.root)

    def record_late(self) -> None:
        """At the end of a run that had nothing to do: note what one has made that was ended before it could."""
        missed = (self.root / UNRECORDED).exists() or any(is_torn(self.root / name) for name in DVC_FILES)
        if missed and not self.started and not self.dry() and not self.presence.others():
            self.record()

    def failures(self) -> str:
        """For the end of a run that failed or was stopped: what each job said, and the command that goes on."""
        ledger = Ledger(self.study, self.root)
        said: dict[str, list[str]] = {"Failed:": [], "Stopped:": []}
        for job in ledger.jobs:
            log = Path("logs") / job.phase / f"{job.id}.log"
            if not ledger.is_current(job) and log.exists():
                lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
                if lines and not lines[-1].startswith("finished"):
                    kind = "Stopped:" if lines[-1].startswith("stopped") else "Failed:"
                    # What a job has noted is all that an error said; a log's end may be the last of its many lines.
                    reason = noted(ledger, job) or lines[-1]
                    said[kind].append(f"  {job.phase} {job.id}: {reason}   ({log})")
        # DVC sets this variable for the commands of its stages.
        command = "dvc repro" if "DVC_STAGE" in os.environ else shlex.join(["snakemake", *sys.argv[1:]])
        always = "Stopped:" if self.stopping else "Failed:"
        parts = [line for kind, lines in said.items() if lines or kind == always for line in (kind, *lines)]
        parts.append(f"Continue with: {command}")
        if any(failure(ledger, job) for job in ledger.jobs):
            parts.append(
                "Or let the tables say that these runs failed: python -m pipeline keep-failed, and the same command"
            )
        return "\n".join(["", *parts])
