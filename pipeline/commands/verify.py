"""Audit: carry out some finished jobs once more, from what they were made from, and compare every bit.

A random sample of today's finished jobs is made again in a folder of its own below .study/, by the command that Snakemake
calls, from their parents' artifacts, which are only read. What is made is compared file by file and thrown away. A text
run's later state is made from the beginning, not from the earlier one. `results/certificate.json` says what was found and
what that proves: in a sample of n of N jobs, drawn without replacement, of which k differ, the number of all that do not
reproduce is at most the largest D for which k or fewer in the sample have a probability above 5% (hypergeometric; exact).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil

from pipeline.common.files import folder_hashes, read_json, stable_json, write_text
from pipeline.common.parent_watch import PARENT_VARIABLE
from pipeline.execution.provenance import provenance
from pipeline.store.artifacts import CARD, FILES, STATE, changed, invalidate
from pipeline.store.failed_runs import note
from pipeline.store.ledger import Ledger
from pipeline.study.job import Job

CERTIFICATE = Path("results/certificate.json")
CONFIDENCE = 0.95
OWN = {STATE.name, "results", "logs"}  # what a job makes or changes beside its artifact


def verify(ledger: Ledger, sample: int, seed: int | None = None) -> Iterator[str]:
    """Carry out `sample` jobs once more and write the certificate; yields a line a job, and one that says what it proves.

    Raises ValueError if there is no such job, and NotReproduced at the end if any differs.
    """
    finished = [job for job in ledger.jobs if ledger.is_current(job) and "failed" not in ledger.card(job)]
    population = [job for job in finished if all(map(ledger.is_current, job.parents.values()))]
    if not population:
        raise ValueError("no job of today's study is finished here with all that it was made from: nothing to verify")
    seed, chosen = draw(population, sample, seed)
    found: list[dict] = []
    for line, entry in make_again(ledger, chosen):
        found.append(entry)
        yield line
    bad = [f"{job['phase']} {job['id']}" for job in found if job["differing"]]
    certificate = certify(len(population), found) | {"seed": seed, "finished_jobs": len(finished)}
    certificate |= provenance(ledger.root) | {"finished": datetime.now(UTC).isoformat(timespec="seconds")}
    write_text(ledger.root / CERTIFICATE, stable_json(certificate))
    yield f"{certificate['says']} {CERTIFICATE} was written."
    if bad:
        raise NotReproduced(f"not reproduced: {', '.join(bad)}")


def draw(population: list[Job], sample: int, seed: int | None) -> tuple[int, list[Job]]:
    """`sample` jobs of a population, or all if it has fewer, and the seed that draws them again. Raises ValueError."""
    if sample < 1:
        raise ValueError(f"--sample: found {sample}, allowed: a number of jobs, 1 or more")
    # It is in the certificate, so that anybody can draw the same jobs again.
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    return seed, random.Random(seed).sample(population, min(sample, len(population)))


def make_again(ledger: Ledger, chosen: list[Job]) -> Iterator[tuple[str, dict]]:
    """Make the artifacts of jobs again, one after the other: a line on each, and what was found as data."""
    for number, job in enumerate(chosen, 1):
        start = time.time()
        with workplace(ledger.root) as place:
            differing = compare(ledger, job, place)
        seconds = round(time.time() - start, 1)
        what = f"differs in {', '.join(differing)}" if differing else "same bits"
        if rotten := damaged(ledger.root, job) if differing else []:
            what += f"; on the disk it is not what was made, and snakemake will rebuild: {', '.join(rotten)}"
        found = {"phase": job.phase, "id": job.id, "card": ledger.digest(job), "differing": differing}
        yield f"[{number}/{len(chosen)}] {job.phase} {job.id}  {what}  ({seconds:.0f} s)", found | {"seconds": seconds}


class NotReproduced(Exception):
    """Which jobs came out with other bits."""


@contextmanager
def workplace(root: Path) -> Iterator[Path]:
    """A folder for one job, gone after it: the project as jobs see it, by links, with room of its own for what they make.

    Folders that killed audits left are removed.
    """
    for left in (root / STATE).glob("verify-*"):
        pid = int(left.name.split("-")[1])
        # Another audit may be at work here. A folder with this process's own number is of an earlier process.
        if pid == os.getpid() or not psutil.pid_exists(pid):
            shutil.rmtree(left, ignore_errors=True)
    place = (root / STATE / f"verify-{os.getpid()}").resolve()
    place.mkdir(parents=True)
    try:
        for entry in root.resolve().iterdir():
            if entry.name not in OWN and not entry.name.startswith("."):
                (place / entry.name).symlink_to(entry)
        yield place
    finally:
        shutil.rmtree(place)


def compare(ledger: Ledger, job: Job, place: Path) -> list[str]:
    """Make a job's artifact again in `place`; returns the files that differ, or ["(failed: WHY)"]."""
    description = {
        "card": ledger.card(job),
        "folder": "made",
        "published": None,
        "inputs": {role: parent.folder for role, parent in sorted(job.parents.items())},
        # From the beginning: the state that it continued is a file like those that are to be proved.
        "continues": None,
        "position": "verify",
        "context": ledger.context_of(job) | {"wandb": "disabled"},
    }
    write_text(place / "job.json", json.dumps(description, sort_keys=True))
    command = [sys.executable, "-m", "pipeline", "run", "job.json", "--log", "job.log"]
    # So that the job ends with this process, even if this one is killed.
    environment = os.environ | {PARENT_VARIABLE: str(os.getpid())}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    if done.returncode:
        with suppress(OSError, ValueError, KeyError):
            return [f"(failed: {read_json(note(place / 'job.log'))['reason']})"]
        lines = (place / "job.log").read_text(errors="replace").splitlines() if (place / "job.log").exists() else []
        said = [line for line in [*lines, *done.stderr.splitlines()] if line.strip()]
        return [f"(failed: {said[-1] if said else f'exit code {done.returncode}'})"]
    before, after = folder_hashes(ledger.root / job.folder), folder_hashes(place / "made")
    for hashes in (before, after):  # they say what the others are, and are compared with what these are
        hashes.pop(CARD, None), hashes.pop(FILES, None)
    return sorted(name for name in before | after if before.get(name) != after.get(name))


def damaged(root: Path, job: Job) -> list[str]:
    """Artifacts among a job's own and its parents' with other bytes than when they were made. They are trusted no more."""
    folders = [job.folder, *(parent.folder for parent in job.parents.values())]
    rotten = [folder for folder in folders if changed(root / folder)]
    for folder in rotten:
        invalidate(root, Path(folder))
    return rotten


def most_bad(population: int, sample: int, differing: int, confidence: float = CONFIDENCE) -> int:
    """The upper confidence bound on how many of a population are bad, if so many of a sample are: exact, one-sided."""
    from scipy.stats import hypergeom

    bad = np.arange(differing, population - sample + differing + 1)
    return int(bad[hypergeom.cdf(differing, population, bad, sample) > 1 - confidence].max())


def certify(population: int, found: list[dict]) -> dict:
    """What a sample says of the population that it is from."""
    differing = sum(bool(job["differing"]) for job in found)
    bound = most_bad(population, len(found), differing)
    says = (
        f"{len(found) - differing} of {len(found)} jobs, drawn at random from {population}, were made again to the same"
        f" bits; at {CONFIDENCE:.0%} confidence at most {bound} of the {population} ({bound / population:.1%}) do not"
        " reproduce."
    )
    return {
        "says": says,
        "jobs": found,
        "sample": len(found),
        "population": population,
        "differing": differing,
        "confidence": CONFIDENCE,
        "at_most_not_reproducing": {"jobs": bound, "share": round(bound / population, 6)},
    }
