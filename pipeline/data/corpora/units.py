"""The units that a conversion is divided into, and what is counted of each."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, TypeVar

from pipeline.common.squares import Fit
from pipeline.data.formats.open_text import Stream
from pipeline.data.records import BadRecord

SHARDS, COUNTS, QUARANTINE, UIDS = "mds", "part.json", "quarantine.jsonl", "uids.txt"  # what a file leaves
ENOUGH = 1 << 16  # bytes read at a time where a file is only hashed
Found = TypeVar("Found")


@dataclass(frozen=True)
class Unit:
    """An input file: its name in reports, where it lies, and what its list says of it."""

    corpus: str
    file: str
    place: str
    bytes: int
    sha256: str | None
    records: int | None = None  # as a sidecar says
    number: int = 0  # its place among the job's
    settings: str = ""  # where the corpus's are: the file, and the key in it


@dataclass(frozen=True)
class Work:
    """What all units of a job have in common."""

    part: str
    corpora: dict[str, dict]  # settings by name
    places: dict[str, str]  # where each corpus lies
    sequence: int
    patches: int
    boxes: tuple[Fit, Fit]  # frames of the boxes in the instructions' texts: as they are, as the model sees them
    tokenizer: Path
    resume: Path

    def part_of(self, unit: Unit) -> Path:
        """Where a file's shards go."""
        return self.resume / "parts" / f"{unit.number:05d}"

    def captions(self, corpus: str) -> Path:
        """The data base of a corpus's captions by uid."""
        return self.resume / f"{corpus}.captions.sqlite"


class Tally:
    """What is counted of an input file, and its bad records."""

    def __init__(self, unit: Unit, quarantine: TextIO):
        self.unit, self.quarantine = unit, quarantine
        self.counts: Counter[str] = Counter()
        self.known: set[str | int] = set()  # bad records; one may have several faults and is counted once

    def bad(self, error: BadRecord) -> None:
        """Write a bad record to the quarantine, and count it."""
        line = {"corpus": self.unit.corpus, "file": error.file, "record": error.record, "reason": error.reason}
        self.quarantine.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.counts["bad"] += error.records or error.record not in self.known
        self.known.add(error.record)
        if error.broken_at is not None:
            self.counts["broken_files"] += 1
            # How many records were in the rest of a broken file nobody knows: it counts by its bytes.
            self.counts["unread_bytes"] += max(0, self.unit.bytes - error.broken_at)

    def good(self, found: Iterable[Found | BadRecord]) -> Iterator[Found]:
        """The records that could be read; the bad ones are counted and written to the quarantine."""
        for one in found:
            if isinstance(one, BadRecord):
                self.counts["records"] += one.records
                self.bad(one)
            else:
                self.counts["records"] += 1
                yield one

    def check_number(self) -> None:
        """Count a difference between the records that were read and those that a sidecar promises as bad records."""
        seen, promised = self.counts["records"], self.unit.records
        if promised is not None and seen != promised:
            reason = f"holds {seen} records, its sidecar says {promised}"
            self.bad(BadRecord(self.unit.file, "-", reason, records=abs(promised - seen)))
            self.counts["records"] += max(0, promised - seen)


class Hashed:
    """A listed file that is hashed while it is read from its beginning.

    `finish` reads the rest and raises ValueError if the file is not the one that was listed.
    """

    def __init__(self, file: Stream, unit: Unit):
        self.file, self.unit, self.digest = file, unit, hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.digest.update(data)
        return data

    def finish(self) -> None:
        # The hash is of the whole file: readers stop at the end of what they know, such as the end mark of a tar.
        while self.read(ENOUGH):
            pass
        if self.digest.hexdigest() != self.unit.sha256:
            remedy = f"Increase `revision` for this corpus in {self.unit.settings} and rerun"
            raise ValueError(f"{self.unit.place}: has changed since it was indexed. {remedy}")
