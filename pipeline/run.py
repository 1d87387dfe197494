"""Carry out one job: from its file to its artifact, whole or not at all."""

from __future__ import annotations

import importlib
import os
import resource
import shutil
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from pipeline.files import atomic_folder, digest, read_json, stable_json, write_text
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
    try:
        measured = make(job, Path(description["folder"]), Path(description["card_path"]), start, cpu)
    except Exception as error:
        traceback.print_exc()
        print(f"{card['phase']} {card['id']}: {type(error).__name__}: {error}", file=screen)
        return 1
    job.progress.done(measured)
    print("finished", flush=True)
    shutil.rmtree(job.resume, ignore_errors=True)
    return 0


def make(job: JobFile, folder: Path, card_path: Path, start: float, cpu: float) -> dict:
    """Run the phase into a partial folder outside any tracked one, then move it into place with its card."""
    phase = importlib.import_module(PHASES[job.phase])
    final = folder if job.phase != "tables" else PARTIAL.parent / "tables" / job.card["id"]
    with atomic_folder(final, PARTIAL / job.card["id"]) as out:
        measured = phase.run(job, out) or {}
        measured |= {
            "seconds": round(time.time() - start, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        if job.phase in DATA_PHASES:
            measured["licences"] = job.context["licences"]
        write_text(out / "measured.json", stable_json(measured))
        write_text(out / "card.json", stable_json(job.card))
    if final != folder:
        publish(final, folder, card_path)
    return measured


def publish(made: Path, results: Path, card_path: Path) -> None:
    """Copy a table's files into results/, which several tables share; the card comes last."""
    files = [p for p in sorted(made.rglob("*")) if p.is_file() and p.name not in ("card.json", "measured.json")]
    for file in files:
        target = results / file.relative_to(made)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        shutil.copyfile(file, partial)
        os.replace(partial, target)
    write_text(card_path, (made / "card.json").read_text(encoding="utf-8"))


def redirect(log: Path):
    """Send this process's output to a log file, and return a stream that still reaches the screen."""
    screen = os.fdopen(os.dup(2), "w", buffering=1)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    return screen
