"""Carry out one job: from its file to its artifact, whole or not at all."""

from __future__ import annotations

import importlib
import os
import platform
import resource
import shutil
import sys
import time
import traceback
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import TextIO

from pipeline.common.files import (
    Damaged,
    atomic_folder,
    clamp_future_mtime,
    digest,
    one_line,
    read_json,
    stable_json,
    write_text,
)
from pipeline.common.parent_watch import end_if_orphaned
from pipeline.execution.gpus import take_gpus
from pipeline.execution.processes import STOP, STOPPED, Stopped, StopRequest, alone
from pipeline.execution.progress import Progress
from pipeline.execution.provenance import provenance
from pipeline.execution.ranks import (
    ERROR,
    MEASURED,
    STOPPED_AT,
    RankFailed,
    Ranks,
    find_ranks,
    start_on_all_nodes,
    train,
)
from pipeline.execution.requeue import back_into_the_queue
from pipeline.store import artifacts
from pipeline.store.failed_runs import note, note_failure
from pipeline.study.phases import PHASES

JOB_KEYS = {"card", "inputs", "continues", "context", "position", "folder", "published"}
CARD_KEYS = {"phase", "id", "settings"}
WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


@dataclass(frozen=True)
class JobFile:
    """What a phase's `run` gets: its settings, its parents' folders, where it may keep resumable state, and whether it shall stop."""

    card: dict
    inputs: dict[str, Path]
    continues: Path | None
    context: dict
    progress: Progress
    stop: StopRequest = STOP

    @property
    def phase(self) -> str:
        """The name of its phase."""
        return self.card["phase"]

    @property
    def settings(self) -> dict:
        """The settings that it depends on."""
        return self.card["settings"]

    @property
    def resume(self) -> Path:
        """A folder for mid-run state that neither workflow tool knows of; deleted when the job is complete.

        It belongs to the card, not to the id: other code or other parents must not continue it.
        """
        return artifacts.RESUME / f"{self.card['id']}-{digest(self.card)}"


def open_job(description: dict, screen: TextIO, first: bool) -> JobFile:
    """The job of a job file, which shows its progress on `screen`, and in a file if this is its first process."""
    card = description["card"]
    file = artifacts.PROGRESS / f"{card['phase']}-{card['id']}.json" if first else None
    return JobFile(
        card=card,
        inputs={role: Path(folder) for role, folder in description["inputs"].items()},
        continues=Path(description["continues"]) if description["continues"] else None,
        context=description["context"],
        progress=Progress(card["phase"], card["id"], description["position"], screen, file),
    )


def run_job(file: Path, log: Path | None) -> int:
    """Carry out the job that `file` describes. Returns the exit code; an error's one line goes to the screen."""
    try:
        description = read_json(file)
        if lacking := JOB_KEYS - description.keys() or CARD_KEYS - description["card"].keys():
            raise ValueError(f"no {min(lacking)}")
        if (phase := description["card"]["phase"]) not in PHASES:
            raise ValueError(f"unknown phase {phase!r}")
        clamp_future_mtime(file)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        print(f"{file}: not a job file ({one_line(error)})", file=sys.stderr)
        return 2
    # Before anything is locked or written: this may replace the process by `srun`.
    start_on_all_nodes(description, ["run", str(file), *(["--log", str(log)] if log else [])])
    with ExitStack() as held:
        try:
            ranks = find_ranks(description)
            if ranks.node == 0:  # the others of a job of several nodes work for it
                held.enter_context(alone(artifacts.LOCKS / f"{phase}-{description['card']['id']}"))
        except (OSError, ValueError) as error:
            print(f"{file}: {error}", file=sys.stderr)
            return 2
        return carry_out(description, ranks, file, log)


def carry_out(description: dict, ranks: Ranks, file: Path, log: Path | None) -> int:
    """Make the artifact of the job that `file` describes, or this node's part of it. Returns the exit code."""
    start, cpu = time.time(), cpu_seconds()
    if log and ranks.node:
        log = log.with_suffix(f".node{ranks.node}.log")
    try:
        screen = redirect(log) if log else sys.stderr
    except OSError as error:
        print(f"{log}: {error.strerror}", file=sys.stderr)
        return 2
    job, card = open_job(description, screen, ranks.node == 0), description["card"]
    STOP.title, STOP.screen = f"{card['phase']} {card['id']}", screen
    folder, published = description["folder"], description["published"]
    if ranks.node == 0:  # it speaks for all nodes of the job
        STOP.when_stopped = back_into_the_queue(job.resume)
    if log:
        note(log).unlink(missing_ok=True)
    job.progress.note()
    source = provenance(Path(".")) if log else {}  # now: the commit may be another when the job ends
    try:
        check_parents(job)
        if ranks.node:  # the first node makes the artifact
            take_devices(job)
            train(ranks, file, partial(job), log, screen)
            return 0
        # A job without a position is current: Snakemake runs it only when it was forced to, and then it is made again.
        if description["position"] and already_made(folder, card):
            write_card(Path(folder), card)
        else:
            with atomic_folder(folder, partial(job)) as out:
                make(job, out, ranks, file, log)
        artifacts.record_verified(Path("."), folder, f"{folder}/{artifacts.FILES}")
        if published:
            publish(Path(folder), Path(published))
    except Stopped as where:
        STOP.say(f"stopped by {STOP.asked} {where}")
        STOP.when_stopped()
        return STOPPED
    except Exception as error:
        with suppress(OSError):  # the log may be on the disk that is full
            traceback.print_exc()
        distrust(error)
        print(f"{card['phase']} {card['id']}: {said(error)}", file=screen)
        if log:
            note_failure(log, digest(card), said(error))
        return 1
    finally:
        job.progress.close()
    seconds = round(time.time() - start, 2)
    spent = {
        "seconds": seconds,
        "cpu_seconds": round(cpu_seconds() - cpu, 2),
        "startup_cpu_seconds": round(cpu, 2),  # of this process before
        # Linux counts ru_maxrss in KiB.
        "peak_memory_mb": max(resource.getrusage(who).ru_maxrss for who in WHO) // 1024,
        "host": platform.node(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if log:
        with suppress(OSError):  # the artifact is whole, whatever the disk has room for now
            write_text(log.with_suffix(".json"), stable_json({"card": digest(card)} | spent | source))
    job.progress.done(seconds)
    print("finished", flush=True)
    for state, owner in artifacts.resumable(Path(".")).items():
        if owner == card["id"]:  # also what an earlier version of it has left
            shutil.rmtree(state, ignore_errors=True)
    return 0


def run_rank(file: Path, out: Path, log: Path | None) -> int:
    """Carry out one rank's part of the job that `file` describes, for the process that makes the artifact of `out`.

    Rank 0 alone is seen and heard, and leaves what was measured in `out`; the first rank that fails says there why.
    """
    rank, description = int(os.environ["RANK"]), read_json(file)
    with open(os.devnull, "w") as nowhere:
        screen = nowhere if rank else redirect(log, fresh=False) if log else sys.stderr
        job = open_job(description, screen, rank == 0)
        try:
            measured = phase_module(job).run(job, out)
            if rank == 0:
                write_text(out / MEASURED, stable_json(measured))
        except Stopped as where:
            if rank == 0:
                write_text(out / STOPPED_AT, str(where))
            return STOPPED
        except Exception as error:
            traceback.print_exc()
            distrust(error)
            # "x": only the first rank that fails says why. The others fail because of it.
            with suppress(FileExistsError), open(out / ERROR, "x") as first:
                first.write(f"rank {rank}: {said(error)}\n")
            return 1
    return 0


def check_inputs(job: JobFile) -> None:
    """Raise ValueError for an input that is not what it was when it was made, however it looks from outside.

    Shards are left to those that read them, as several ranks share that.
    """
    for folder in [*job.inputs.values(), *([job.continues] if job.continues else [])]:
        if folder.parent.name != "shards" and (file := artifacts.changed(folder)):
            raise Damaged(folder, file)


def distrust(error: Exception) -> None:
    """If an artifact was found damaged, have the next plan read its files, so that it is made again."""
    if folder := getattr(error, "folder", None):
        artifacts.invalidate(Path("."), folder)


def said(error: Exception) -> str:
    """An error in one line, with what to do if it knows that; what a rank said has its kind already."""
    advice = f"; {error.advice}" if hasattr(error, "advice") else ""
    text = str(error) if isinstance(error, RankFailed) else f"{type(error).__name__}: {error}{advice}"
    return one_line(" ".join(text.split()), 2000)


def cpu_seconds() -> float:
    """CPU time of this process and of those that it has waited for."""
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, WHO))


def already_made(folder: str, card: dict) -> bool:
    """Whether the artifact is whole and of this card: it lacks its card alone, or a table its copy in results/."""
    return artifacts.find_fault(Path("."), folder, f"{folder}/{artifacts.FILES}", digest(card)) is None


def write_card(folder: Path, card: dict) -> None:
    """Write the card of a whole artifact, unless it is there: it may say that the artifact was accepted."""
    with suppress(OSError, ValueError):
        if artifacts.read_card(folder / artifacts.CARD) == card:
            return
    write_text(folder / artifacts.CARD, stable_json(card))


def partial(job: JobFile) -> Path:
    """Where an artifact is made, outside any tracked folder; all nodes of a job know it."""
    return artifacts.PARTIAL / job.card["id"]


def check_parents(job: JobFile) -> None:
    """Raises ValueError for an artifact in a parent's place that is not the one that the study means.

    One that is not there at all is the phase's to miss. `continues` is no parent: it is another state of the same run.
    """
    wanted = {role: parent["card"] for role, parent in job.card["parents"].items()}
    for role, folder in job.inputs.items():
        if (folder / artifacts.FILES).exists():
            fault = artifacts.find_fault(Path("."), str(folder), f"{folder}/{artifacts.FILES}", wanted[role])
            if fault:
                raise ValueError(f"{folder}: {fault}, as {role} of this job the study means card {wanted[role]}")
    if job.continues and (job.continues / artifacts.CARD).exists():
        other, same = read_json(job.continues / artifacts.CARD), ("phase", "code", "parents")
        runs = [{key: card[key] for key in same} | {**card["settings"], "stop": 0} for card in (other, job.card)]
        if runs[0] != runs[1]:
            raise ValueError(f"{job.continues / artifacts.CARD}: is of another run than the one to be continued")


def take_devices(job: JobFile) -> None:
    """Take the GPUs of this machine that the job may have, if it needs any."""
    if job.settings.get("hardware", {}).get("device") == "gpu":
        take_gpus(job.context["devices"], job.context["jobs_a_device"])


def make(job: JobFile, out: Path, ranks: Ranks, file: Path, log: Path | None) -> None:
    """Run the phase, here or by several ranks, into an empty folder; its card comes last.

    What goes into the folder is the same on every run; times and machines go to the log.
    """
    if "failed" in job.card:
        measured = {"failed": job.card["failed"]}
        print(f"kept as failed: {job.card['failed']}", flush=True)
    else:
        take_devices(job)
        check_inputs(job)
        if ranks.several:
            measured = train(ranks, file, out, log, job.progress.screen)
        else:
            measured = phase_module(job).run(job, out) or {}
    # From here on a request to stop waits: the work is done, and only its list of files and its card are missing.
    job.stop.defer()
    if PHASES[job.phase].stage == "prepare":
        measured["licences"] = job.context["licences"]
    write_text(out / MEASURED, stable_json(measured))
    artifacts.make_manifest(out, digest(job.card))
    write_text(out / artifacts.CARD, stable_json(job.card))
    end_if_orphaned()  # nothing appears behind the back of the next run


def phase_module(job: JobFile) -> ModuleType:
    """What carries out a job's phase."""
    with job.stop.signals_blocked():
        return importlib.import_module(PHASES[job.phase].module)


def publish(made: Path, published: Path) -> None:
    """Copy a table's files into results/, which several tables share; the list of what they were made from comes last."""
    results = published.parents[1]
    manifest = read_json(made / artifacts.FILES)
    # It stays with the artifact: every table has one of this name.
    del manifest["files"]["measured.json"]
    for name in manifest["files"]:
        target = results / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # Who looks into results/ meanwhile never sees half a table.
        partial = target.with_name(f".{target.name}.partial")
        shutil.copyfile(made / name, partial)
        os.replace(partial, target)
    write_text(published, stable_json(manifest))


def redirect(log: Path, fresh: bool = True) -> TextIO:
    """Send this process's output to the end of a log file, and return a stream that still reaches the screen."""
    # Libraries print into standard output and error, which become the log; progress and the one line of an error go
    # here.
    screen = os.fdopen(os.dup(2), "w", buffering=1)
    log.parent.mkdir(parents=True, exist_ok=True)
    if fresh:
        log.write_text("")
    with open(log, "a") as file:  # ranks write there too
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    return screen
