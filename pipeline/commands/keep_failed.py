"""`keep-failed`: today's failed runs become rows of the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.common.files import stable_json, write_text

if TYPE_CHECKING:
    from pipeline.store.ledger import Ledger
from pipeline.store.failed_runs import FILE, RUNS, failure


def keep_failed(ledger: Ledger) -> dict[str, str]:
    """Keep today's failed runs; returns their reasons. Raises ValueError if none has failed."""
    found = {f"{job.phase}/{job.id}": entry for job in ledger.jobs if (entry := failure(ledger, job))}
    if not found:
        raise ValueError(f"no {', '.join(RUNS[:-1])} or {RUNS[-1]} of today's study has failed and is to be made")
    # Older entries stay: of another card they say nothing, and their settings may come back.
    write_text(ledger.root / FILE, stable_json(ledger.kept | found))
    return {run: entry["reason"] for run, entry in found.items()}
