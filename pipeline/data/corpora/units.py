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
    """An input file: how reports call it, and where it lies."""

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
        self.known: set[str | int] = set()  # bad records

    def bad(self, error: BadRecord) -> None:
        line = {"corpus": self.unit.corpus, "file": error.file, "record": error.record, "reason": error.reason}
        self.quarantine.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.counts["bad"] += error.records or error.record not in self.known
        self.known.add(error.record)
        if error.broken_at is not None:
            self.counts["broken_files"] += 1
            self.counts["unread_bytes"] += max(0, self.unit.bytes - error.broken_at)

    def good(self, found: Iterable[Found | BadRecord]) -> Iterator[Found]:
        """What could be read."""
        for one in found:
            if isinstance(one, BadRecord):
                self.counts["records"] += one.records
                self.bad(one)
            else:
                self.counts["records"] += 1
                yield one

    def check_number(self) -> None:
        """Records that a sidecar promises and that are not there are bad ones."""
        seen, promised = self.counts["records"], self.unit.records
        if promised is not None and seen != promised:
            reason = f"holds {seen} records, its sidecar says {promised}"
            self.bad(BadRecord(self.unit.file, "-", reason, records=abs(promised - seen)))
            self.counts["records"] += max(0, promised - seen)


class Hashed:
    """A listed file being read from its beginning, and its hash. Raises ValueError if it is not as listed."""

    def __init__(self, file: Stream, unit: Unit):
        self.file, self.unit, self.digest = file, unit, hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.digest.update(data)
        return data

    def finish(self) -> None:
        while self.read(ENOUGH):
            pass
        if self.digest.hexdigest() != self.unit.sha256:
            remedy = f"Increase `revision` for this corpus in {self.unit.settings} and rerun"
            raise ValueError(f"{self.unit.place}: has changed since it was indexed. {remedy}")
