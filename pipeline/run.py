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
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from pipeline import artifacts
from pipeline.devices import take_gpus
from pipeline.files import atomic_folder, digest, read_json, stable_json, write_text
from pipeline.processes import end_if_orphaned
from pipeline.progress import Progress
from pipeline.ranks import ERROR, MEASURED, RankFailed, Ranks, find_ranks, start_on_all_nodes, train
from pipeline.study import PHASES

DATA_PHASES = ("sources", "tokenizer", "shards", "features")
PARTIAL = Path(".study/partial")
RESUME = Path(".study/resume")
WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


@dataclass(frozen=True)
class JobFile:
    """What a phase's `run` gets: its settings, its parents' folders, and where it may keep resumable state."""

    card: dict
    inputs: dict[str, Path]
    continues: Path | None
    context: dict
    progress: Progress

    @property
    def phase(self) -> str:
        return self.card["phase"]

    @property
    def settings(self) -> dict:
        return self.card["settings"]

    @property
    def resume(self) -> Path:
        """A folder for mid-run state that neither workflow tool knows of; deleted when the job is complete.

        It belongs to the card, not to the id: other code or other parents must not continue it.
        """
        return RESUME / f"{self.card['id']}-{digest(self.card)}"


def open_job(description: dict, screen: TextIO) -> JobFile:
    """The job of a job file, which shows its progress on `screen`."""
    card = description["card"]
    return JobFile(
        card=card,
        inputs={role: Path(folder) for role, folder in description["inputs"].items()},
        continues=Path(description["continues"]) if description["continues"] else None,
        context=description["context"],
        progress=Progress(f"[{description['place'] or '-'}] {card['phase']} {card['id']}", screen),
    )


def run_job(file: Path, log: Path | None) -> int:
    """Carry out the job that `file` describes. Returns the exit code; an error's one line goes to the screen."""
    try:
        description = read_json(file)
    except (OSError, ValueError) as error:
        print(f"{file}: not a job file ({error})", file=sys.stderr)
        return 2
    start_on_all_nodes(description, ["run", str(file), *(["--log", str(log)] if log else [])])
    try:
        ranks = find_ranks(description)
    except ValueError as error:
        print(f"{file}: {error}", file=sys.stderr)
        return 2
    if log and ranks.node:
        log = log.with_suffix(f".node{ranks.node}.log")
    screen = redirect(log) if log else sys.stderr
    job, card = open_job(description, screen), description["card"]
    start, cpu = time.time(), cpu_seconds()
    folder, published = description["folder"], description["published"]
    try:
        if ranks.node:  # the first node makes the artifact
            take_devices(job)
            train(ranks, file, partial(job), log, screen)
            return 0
        if description["place"] and already_made(folder, card):
            write_text(Path(folder) / artifacts.CARD, stable_json(card))
        else:
            with atomic_folder(folder, partial(job)) as out:
                make(job, out, ranks, file, log)
        artifacts.remember(Path("."), folder, f"{folder}/{artifacts.FILES}")
        if published:
            publish(Path(folder), Path(published))
    except Exception as error:
        traceback.print_exc()
        print(f"{card['phase']} {card['id']}: {said(error)}", file=screen)
        return 1
    spent = {
        "seconds": round(time.time() - start, 2),
        "cpu_seconds": round(cpu_seconds() - cpu, 2),
        "peak_memory_mb": max(resource.getrusage(who).ru_maxrss for who in WHO) // 1024,
        "machine": platform.node(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if log:
        write_text(log.with_suffix(".json"), stable_json({"card": digest(card)} | spent))
    job.progress.done(spent["seconds"])
    print("finished", flush=True)
    shutil.rmtree(job.resume, ignore_errors=True)
    return 0


def run_rank(file: Path, out: Path, log: Path | None) -> int:
    """Carry out one rank's part of the job that `file` describes, for the process that makes the artifact of `out`.

    Rank 0 alone is seen and heard, and leaves what was measured in `out`; the first rank that fails says there why.
    """
    rank, description = int(os.environ["RANK"]), read_json(file)
    with open(os.devnull, "w") as nowhere:
        screen = nowhere if rank else redirect(log, fresh=False) if log else sys.stderr
        job = open_job(description, screen)
        try:
            measured = importlib.import_module(PHASES[job.phase]).run(job, out)
            if rank == 0:
                write_text(out / MEASURED, stable_json(measured))
        except Exception as error:
            traceback.print_exc()
            with suppress(FileExistsError), open(out / ERROR, "x") as first:
                first.write(f"rank {rank}: {said(error)}\n")
            return 1
    return 0


def said(error: Exception) -> str:
    """An error in one line; what a rank said has its kind already."""
    return str(error) if isinstance(error, RankFailed) else f"{type(error).__name__}: {error}"


def cpu_seconds() -> float:
    """CPU time of this process and of those that it has waited for."""
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, WHO))


def already_made(folder: str, card: dict) -> bool:
    """Whether the artifact is whole and of this card: it lacks its card alone, or a table its copy in results/."""
    return artifacts.damage(Path("."), folder, f"{folder}/{artifacts.FILES}", digest(card)) is None


def partial(job: JobFile) -> Path:
    """Where an artifact is made, outside any tracked folder; all nodes of a job know it."""
    return PARTIAL / job.card["id"]


def take_devices(job: JobFile) -> None:
    """Take the GPUs of this machine that the job may have, if it needs any."""
    if job.settings.get("hardware", {}).get("device") == "gpu":
        take_gpus(job.context["devices"], job.context["jobs_a_device"])


def make(job: JobFile, out: Path, ranks: Ranks, file: Path, log: Path | None) -> None:
    """Run the phase, here or by several ranks, into an empty folder; its card comes last.

    What goes into the folder is the same on every run; times and machines go to the log.
    """
    take_devices(job)
    if ranks.several:
        measured = train(ranks, file, out, log, job.progress.screen)
    else:
        measured = importlib.import_module(PHASES[job.phase]).run(job, out) or {}
    if job.phase in DATA_PHASES:
        measured["licences"] = job.context["licences"]
    write_text(out / MEASURED, stable_json(measured))
    artifacts.make_manifest(out, digest(job.card))
    write_text(out / artifacts.CARD, stable_json(job.card))
    end_if_orphaned()  # nothing appears behind the back of the next run


def publish(made: Path, published: Path) -> None:
    """Copy a table's files into results/, which several tables share; the list of what they were made from comes last."""
    results = published.parents[1]
    manifest = read_json(made / artifacts.FILES)
    del manifest["files"]["measured.json"]
    for name in manifest["files"]:
        target = results / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        shutil.copyfile(made / name, partial)
        os.replace(partial, target)
    write_text(published, stable_json(manifest))


def redirect(log: Path, fresh: bool = True):
    """Send this process's output to the end of a log file, and return a stream that still reaches the screen."""
    screen = os.fdopen(os.dup(2), "w", buffering=1)
    log.parent.mkdir(parents=True, exist_ok=True)
    if fresh:
        log.write_text("")
    with open(log, "a") as file:  # ranks write there too
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    return screen
