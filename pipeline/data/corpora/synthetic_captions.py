"""Synthetic captions for the images of other tars, looked up by uid."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from contextlib import closing
from io import StringIO

import fsspec

from pipeline.common.job_context import Job
from pipeline.data.corpora.in_order import in_order
from pipeline.data.corpora.units import UIDS, Hashed, Tally, Unit, Work
from pipeline.data.formats import tars
from pipeline.data.formats.conversations import unmarked
from pipeline.data.records import BadRecord


def synthetic(unit: Unit) -> tuple[list[tuple[str, str, str | None]], list[BadRecord], int]:
    """(uid, caption, the image's sha256) of the samples of a DataCompDR tar; the bad ones; how many samples there are.

    Of a sample's captions the uid's hash chooses one: the same caption in any order, on any machine.
    """
    rows, bad = [], []
    with fsspec.open(unit.place, "rb") as file:
        listed = Hashed(file, unit)
        for key, members in tars.tar_samples(listed, unit.file, (".json",)):
            try:
                if isinstance(members, BadRecord):
                    raise members
                if "syn.json" not in members:
                    raise tars.lacking(unit.file, key, members, "syn_text", ("syn.json",))
                facts = tars.sidecar(unit.file, key, members)
                uid = tars.uid_of(unit.file, key, facts)
                texts = tars.sidecar(unit.file, key, members, "syn.json").get("syn_text")
                if not isinstance(texts, list) or not texts:
                    raise BadRecord(unit.file, key, "has no syn_text")
                chosen = texts[int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8]) % len(texts)]
                if not isinstance(chosen, str) or not chosen.strip():
                    raise BadRecord(unit.file, key, "the caption of its syn_text that is chosen is no text")
                chosen, sha256 = unmarked(chosen, unit.file, key), facts.get("sha256")
                rows.append((uid, chosen.strip(), sha256 if isinstance(sha256, str) else None))
            except BadRecord as error:
                bad.append(error)
        listed.finish()
    return rows, bad, len(rows) + sum(error.records for error in bad)


def note_captions(job: Job, work: Work, name: str, units: list[Unit], workers: int) -> None:
    """Put the captions of all tars of a DataCompDR corpus into its data base, a tar a transaction, in order."""
    # A data base and not a dictionary: DataCompDR has a billion captions, too many for the memory. It survives a kill.
    with closing(sqlite3.connect(work.captions(name))) as known:
        known.execute(
            "CREATE TABLE IF NOT EXISTS captions (uid TEXT PRIMARY KEY, text TEXT, sha256 TEXT) WITHOUT ROWID"
        )
        known.execute("CREATE TABLE IF NOT EXISTS tars (number INTEGER PRIMARY KEY, quarantine TEXT, counts TEXT)")
        # Tars are noted in their order: their number says which are done.
        (done,) = known.execute("SELECT count(*) FROM tars").fetchone()
        total, size = sum(unit.bytes for unit in units), sum(unit.bytes for unit in units[:done])
        for unit, (rows, bad, records) in zip(units[done:], in_order(synthetic, units[done:], workers)):
            lines = StringIO()
            tally = Tally(unit, lines)
            tally.counts["records"] = records
            for error in bad:
                tally.bad(error)
            # One transaction: after a kill a tar is in it as a whole, with its captions and its counts, or not at all.
            with known:
                # Of two captions of one uid the first one counts; tars come in their order, so it is always the same
                # one.
                known.executemany("INSERT OR IGNORE INTO captions VALUES (?, ?, ?)", rows)
                counts = json.dumps(tally.counts)
                known.execute("INSERT INTO tars VALUES (NULL, ?, ?)", [lines.getvalue(), counts])
            size += unit.bytes
            job.progress.update(size, total, "bytes", f"captions of {name}")


def noted(work: Work, name: str) -> tuple[Counter, str]:
    """Counts and quarantine of the tars of synthetic captions."""
    counts: Counter[str] = Counter()
    quarantine = ""
    if work.corpora[name]["format"] == "datacompdr":
        with closing(sqlite3.connect(work.captions(name))) as known:
            for lines, counted in known.execute("SELECT quarantine, counts FROM tars ORDER BY number"):
                counts.update(json.loads(counted))
                quarantine += lines
    return counts, quarantine


def count_missing(work: Work, name: str, units: list[Unit]) -> dict[str, int]:
    """How many of a DataCompDR corpus's captions there are, and how many have no image."""
    with closing(sqlite3.connect(work.captions(name))) as known:
        known.execute("CREATE TEMP TABLE used (uid TEXT PRIMARY KEY) WITHOUT ROWID")
        for unit in (unit for unit in units if unit.corpus == name):
            with open(work.part_of(unit) / UIDS, encoding="utf-8") as uids:
                known.executemany("INSERT OR IGNORE INTO used VALUES (?)", ([uid.strip()] for uid in uids))
        (total,) = known.execute("SELECT count(*) FROM captions").fetchone()
        (used,) = known.execute("SELECT count(*) FROM used").fetchone()
    print(f"{name}: {total - used:,} of {total:,} captions have no image", flush=True)
    return {"captions": total, "missing_images": total - used}
