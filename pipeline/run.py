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
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline import artifacts
from pipeline.files import atomic_folder, digest, read_json, stable_json, write_text
from pipeline.processes import end_if_orphaned
from pipeline.progress import Progress
from pipeline.study import PHASES

DATA_PHASES = ("sources", "tokenizer", "shards", "features")
PARTIAL = Path(".study/partial")
RESUME = Path(".study/resume")


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


def run_job(file: Path, log: Path | None) -> int:
    """Carry out the job that `file` describes. Returns the exit code; an error's one line goes to the screen."""
    try:
        description = read_json(file)
    except (OSError, ValueError) as error:
        print(f"{file}: not a job file ({error})", file=sys.stderr)
        return 2
    screen = redirect(log) if log else sys.stderr
    card = description["card"]
    job = JobFile(
        card=card,
        inputs={role: Path(folder) for role, folder in description["inputs"].items()},
        continues=Path(description["continues"]) if description["continues"] else None,
        context=description["context"],
        progress=Progress(f"[{description['place'] or '-'}] {card['phase']} {card['id']}", screen),
    )
    start, cpu = time.time(), time.process_time()
    folder, published = description["folder"], description["published"]
    try:
        if description["place"] and already_made(folder, card):
            write_text(Path(folder) / artifacts.CARD, stable_json(card))
        else:
            make(job, Path(folder))
        artifacts.remember(Path("."), folder, f"{folder}/{artifacts.FILES}")
        if published:
            publish(Path(folder), Path(published))
    except Exception as error:
        traceback.print_exc()
        print(f"{card['phase']} {card['id']}: {type(error).__name__}: {error}", file=screen)
        return 1
    spent = {
        "seconds": round(time.time() - start, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "machine": platform.node(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if log:
        write_text(log.with_suffix(".json"), stable_json({"card": digest(card)} | spent))
    job.progress.done(spent["seconds"])
    print("finished", flush=True)
    shutil.rmtree(job.resume, ignore_errors=True)
    return 0


def already_made(folder: str, card: dict) -> bool:
    """Whether the artifact is whole and of this card: it lacks its card alone, or a table its copy in results/."""
    return artifacts.damage(Path("."), folder, f"{folder}/{artifacts.FILES}", digest(card)) is None


def make(job: JobFile, folder: Path) -> None:
    """Run the phase into a partial folder outside any tracked one, then move it into place, its card last.

    What goes into the folder is the same on every run; times and machines go to the log.
    """
    phase = importlib.import_module(PHASES[job.phase])
    with atomic_folder(folder, PARTIAL / job.card["id"]) as out:
        measured = phase.run(job, out) or {}
        if job.phase in DATA_PHASES:
            measured["licences"] = job.context["licences"]
        write_text(out / "measured.json", stable_json(measured))
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


def redirect(log: Path):
    """Send this process's output to a log file, and return a stream that still reaches the screen."""
    screen = os.fdopen(os.dup(2), "w", buffering=1)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    return screen
