"""Failed runs as results: what stopped a run is noted, and once it is kept the tables have a row for it.

A job that fails leaves its reason beside its log; its next start takes that away. `python -m pipeline keep-failed` copies
the reasons of today's failed runs to configs/failed.json, by the digest of the card that each was to have. From then on
such a run's card says that it failed, and why, and so do the cards of all that descends from it: these artifacts are made
at once and hold the reason alone, tables show it, and Snakemake, DVC and a clone agree on what is stale. Another setting or
other code is another card, of which nothing is said here: it is tried again. So is a run that is taken out of the file.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.common.files import read_json, stable_json, write_text
from pipeline.settings.errors import ConfigError
from pipeline.study.job import Job

if TYPE_CHECKING:
    from pipeline.store.ledger import Ledger


FILE = Path("configs/failed.json")
RUNS = ("pretrain", "cooldown", "finetune", "evaluate")  # phases that the tables can do without


def note(log: Path) -> Path:
    """The file beside a job's log with the reason of its failure."""
    return log.with_suffix(".failed.json")


def note_failure(log: Path, card: str, reason: str) -> None:
    """Note why the job with a card (its digest) has failed, if there is room: that may be what it died of."""
    with suppress(OSError):
        write_text(note(log), stable_json({"card": card, "reason": reason}))


def read_kept(root: Path) -> dict[str, dict[str, str]]:
    """{"PHASE/ID": {"card", "reason"}} of the runs that are kept as failed. Raises ConfigError."""
    if not (root / FILE).exists():
        return {}
    try:
        kept = read_json(root / FILE)
    except (OSError, ValueError) as error:
        raise ConfigError(FILE, "(file)", " ".join(str(error).split()), "JSON") from None
    for run, entry in kept.items() if isinstance(kept, dict) else [("(file)", kept)]:
        texts = isinstance(entry, dict) and all(isinstance(value, str) for value in entry.values())
        # The file is committed and may be edited by hand, so it is checked like any setting.
        if not texts or set(entry) != {"card", "reason"} or run.partition("/")[0] not in RUNS:
            raise ConfigError(FILE, run, entry, 'PHASE/ID: {"card": ..., "reason": ...} as `keep-failed` writes it')
    return kept


def failure(ledger: Ledger, job: Job) -> dict[str, str] | None:
    """The entry of configs/failed.json for a run that is to be made and failed when it was last begun, if it did."""
    file = ledger.root / note(Path("logs", job.phase, f"{job.id}.log"))
    if job.phase not in RUNS or ledger.is_current(job) or not file.exists():
        return None
    entry = read_json(file)
    # A note of another card is of an earlier attempt with other settings or other code.
    return entry if entry["card"] == ledger.digest(job) else None


def noted(ledger: Ledger, job: Job) -> str | None:
    """What a job of any phase, with today's card, noted of its failure when it was last begun."""
    with suppress(OSError, ValueError, KeyError):
        entry = read_json(ledger.root / note(Path("logs", job.phase, f"{job.id}.log")))
        return entry["reason"] if entry["card"] == ledger.digest(job) else None
    return None
