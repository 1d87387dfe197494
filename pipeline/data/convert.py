"""Phase "shards": training sequences of a source. Of real corpora: listed files to MDS, file by file, by several processes.

Every input file becomes a folder of shards of its own below the job's resume folder, whole or not at all, so a killed job
goes on with the files that are left, and the bits depend on neither the number of processes nor on kills. At the end the
folders are linked into the artifact under one index.

What cannot be read goes to `quarantine.jsonl` ({"corpus", "file", "record", "reason"} a line) and is counted. More than
the share `bad_records` of a corpus's records, or of its bytes, stops the job.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache, partial
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import TextIO, TypeVar
from urllib.parse import quote

import fsspec

from pipeline.data import formats
from pipeline.data.corpora import image_name, is_corpora, listed_corpora, read_bytes, read_list
from pipeline.data.frames import Fit
from pipeline.data.images import undecodable
from pipeline.data.open_text import Stream, good, json_records
from pipeline.data.read_text import documents, token_lists
from pipeline.data.records import BadRecord, Caption, Conversation
from pipeline.data.shards import (
    Piece,
    caption_piece,
    conversation_piece,
    pack,
    packed_sample,
    seen_turns,
    text_sequences,
)
from pipeline.data.shards import run as write_sequences
from pipeline.data.store import PACKED_COLUMNS, TEXT_COLUMNS, is_padding, token_type, with_tokens, write_shards
from pipeline.data.tokenizer import Tokenizer, load_tokenizer
from pipeline.files import atomic_folder, join, path_fault, read_json, stable_json, write_text
from pipeline.phase import Job
from pipeline.processes import end_with

SHARDS, COUNTS, QUARANTINE, UIDS = "mds", "part.json", "quarantine.jsonl", "uids.txt"  # what a file leaves
LOOKED_UP = 10_000  # uids of images, before it is said that none has a caption
SPECIAL = re.compile(r"\d+|\S*/\S*")  # what differs between reasons of one kind: numbers and paths
RECORDS = 10_000  # of a JSON list that are converted together
ENOUGH = 1 << 16  # bytes read at a time where a file is only hashed

LEFT_OUT = {  # what is counted of what is not used
    "bad": "that cannot be read",
    "without_image": "chats without an image that are left out (without_image: drop)",
    "images_without_caption": "images without a synthetic caption",
    "members_not_read": "members of tars that are not read (without a suffix, or with a dot in front, as macOS's)",
}

Item = TypeVar("Item")
Result = TypeVar("Result")
Found = TypeVar("Found")
Pair = Caption | Conversation  # an image, perhaps, and texts


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


# --- records of a file ------------------------------------------------------------------------------------------------


@cache
def tokenizer_at(path: Path) -> Tokenizer:
    return load_tokenizer(path)


@cache
def captions_at(path: Path) -> sqlite3.Connection:
    """A finished data base of captions (its absolute path), to be read in this process alone."""
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)


def raw_text(work: Work, unit: Unit, file: Stream, tally: Tally, rest: list[int]) -> Iterator[dict]:
    """Text samples of documents; what is left for no whole sequence goes to `rest`."""
    tokenizer = tokenizer_at(work.tokenizer)
    texts = (tokenizer.encode(document.text) for document in tally.good(documents(file, unit.file)))
    for tokens in text_sequences(texts, tokenizer.end, work.sequence, rest, token_type(tokenizer.vocabulary)):
        yield {"tokens": tokens}


def tokenized_text(work: Work, unit: Unit, file: Stream, tally: Tally, rest: list[int]) -> Iterator[dict]:
    """Text samples of token lists; the padding of their last ones is counted."""
    tokenizer = tokenizer_at(work.tokenizer)
    dtype = token_type(tokenizer.vocabulary)
    for tokens in tally.good(token_lists(file, unit.file, work.sequence + 1, tokenizer.uses(), dtype, tally.counts)):
        padding = int(is_padding(tokens).sum())
        tally.counts["padding"] += padding
        tally.counts["padded_sequences"] += padding > 0
        yield {"tokens": tokens}


def captioned(work: Work, unit: Unit, file: Stream, tally: Tally, uids: TextIO) -> Iterator[Caption | BadRecord]:
    """The images of a tar with their captions: their own, or the synthetic ones of the same uid.

    Images without a synthetic caption are counted and left out; the uids of the others are noted.
    """
    corpus = work.corpora[unit.corpus]
    joined = corpus["format"] == "datacompdr"
    known = captions_at(work.captions(unit.corpus).resolve()) if joined else None
    for key, members in formats.tar_samples(file, unit.file, counts=tally.counts):
        if isinstance(members, BadRecord):
            yield members
            continue
        try:
            image, facts = formats.image_of(unit.file, key, members), formats.sidecar(unit.file, key, members)
            uid, sha256 = formats.uid_of(unit.file, key, facts), facts.get("sha256")
            if known is not None:
                row = known.execute("SELECT text, sha256 FROM captions WHERE uid = ?", [uid]).fetchone()
                if row is None:
                    tally.counts["images_without_caption"] += 1
                    tally.counts["records"] += 1
                    continue
                uids.write(f"{uid}\n")
                text, sha256 = row[0], row[1] or sha256
            else:
                text = formats.caption_text(unit.file, key, members, facts, corpus["field"])
            if corpus["verify"] and sha256:
                formats.check_image_hash(unit.file, key, image, sha256)
                tally.counts["verified_images"] += 1
        except BadRecord as error:
            yield error
        else:
            yield Caption(uid, image, text)


def conversations(work: Work, unit: Unit, file: Iterable[bytes], tally: Tally) -> Iterator[Conversation | BadRecord]:
    """The conversations of a stretch of a LLaVA file. Those without an image are left out where the settings say so."""
    corpus, place = work.corpora[unit.corpus], work.places[unit.corpus]

    def look(image: str, where: str) -> bytes:
        if fault := path_fault(image):
            raise BadRecord(corpus["file"], where, fault)
        try:
            return read_bytes(f"{place}/{image_name(corpus, image)}")
        except FileNotFoundError:
            raise BadRecord(corpus["file"], where, f"no image {image}") from None

    for line in file:
        number, record = json.loads(line)
        if corpus["without_image"] == "drop" and formats.is_chat(record):
            tally.counts["without_image"] += 1
            continue
        try:
            yield formats.conversation(record, corpus["file"], number, look)
        except BadRecord as error:
            yield error


def whole(found: Iterable[Pair | BadRecord], file: str) -> Iterator[Pair | BadRecord]:
    """Captions and conversations, those with an image that cannot be decoded replaced by a BadRecord."""
    for one in found:
        fault = None if isinstance(one, BadRecord) or one.image is None else undecodable(one.image)
        yield BadRecord(file, one.id, fault) if fault and not isinstance(one, BadRecord) else one


def pieces(work: Work, unit: Unit, found: Iterable[Pair | BadRecord], tally: Tally) -> Iterator[Piece]:
    """Captions or conversations as tokens. Those that are longer than a sequence lose their end, as in Prismatic."""
    tokenizer, room = tokenizer_at(work.tokenizer), work.sequence + 1
    whole_ones: Iterator[Pair] = tally.good(whole(found, unit.file))
    for one in whole_ones:
        if isinstance(one, Caption):
            piece = caption_piece(tokenizer, work.patches, one.image, one.text)
        else:
            turns = seen_turns(one.turns, one.image, *work.boxes)
            piece = conversation_piece(tokenizer, work.patches, one.image, turns)
        if len(piece.tokens) > room:
            piece = Piece(piece.tokens[:room], piece.loss[:room], piece.image)
            tally.counts["cut"] += 1
        if not any(piece.loss[1:]):
            tally.bad(BadRecord(unit.file, one.id, f"nothing to learn from in its first {room} tokens"))
            continue
        yield piece


def packed(work: Work, tally: Tally, found: Iterable[Piece]) -> Iterator[dict]:
    """Samples of captions or conversations."""
    tokenizer = tokenizer_at(work.tokenizer)
    for group in pack(found, work.sequence + 1):
        sample = packed_sample(group, work.sequence, tokenizer.end, token_type(tokenizer.vocabulary))
        tally.counts["pieces"] += len(group)
        tally.counts["labels"] += int(sample["loss"].sum())
        tally.counts["image_positions"] += len(sample["images"]) * work.patches
        tally.counts["padding"] += int((sample["segments"] == 0).sum())
        yield sample


TEXT = {"dclm_raw": raw_text, "dclm_tokenized": tokenized_text}


# --- a file -----------------------------------------------------------------------------------------------------------


def convert(work: Work, unit: Unit) -> dict:
    """Write a file's shards, unless that is done; returns what was counted."""
    done = work.part_of(unit)
    if not (done / COUNTS).exists():
        with atomic_folder(done, done.with_suffix(".partial")) as out:
            write_part(work, unit, out)
    return read_json(done / COUNTS)["counts"]


def write_part(work: Work, unit: Unit, out: Path) -> None:
    rest: list[int] = []
    with (
        fsspec.open(unit.place, "rb") as file,
        open(out / QUARANTINE, "w", encoding="utf-8") as quarantine,
        open(out / UIDS, "w", encoding="utf-8") as uids,
    ):
        tally, listed = Tally(unit, quarantine), Hashed(file, unit)
        if work.part == "text":
            read = TEXT[work.corpora[unit.corpus]["format"]]
            columns, samples = TEXT_COLUMNS, read(work, unit, listed, tally, rest)
        else:
            found: Iterator[Caption | BadRecord] | Iterator[Conversation | BadRecord]
            if work.part == "captions":
                found = captioned(work, unit, listed, tally, uids)
            else:
                found = conversations(work, unit, file, tally)
            columns, samples = PACKED_COLUMNS, packed(work, tally, pieces(work, unit, found, tally))
        tally.counts["sequences"] = write_shards(
            out / SHARDS, with_tokens(columns, tokenizer_at(work.tokenizer).vocabulary), samples
        )
        tally.check_number()
        if work.part != "instructions":
            listed.finish()
    if work.part == "text":
        tally.counts["labels"] = tally.counts["sequences"] * work.sequence - tally.counts["padding"]
    write_text(out / COUNTS, stable_json({"counts": tally.counts, "rest": rest}))


def in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """The function's results for every item, in their order, from several processes; few of them wait at a time."""
    if workers == 1:
        yield from map(function, items)
        return
    # Forked, so that what is slow to import is imported once. They end with this process, however it ends.
    fork = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(workers, mp_context=fork, initializer=end_with, initargs=(os.getpid(),))
    try:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


# --- what comes before: JSON lists are divided, synthetic captions are noted by uid ------------------------------------


def divide(work: Work, unit: Unit) -> list[Unit]:
    """A LLaVA file as files of RECORDS lines, [number, record] each, which can be converted apart from each other."""
    done = work.resume / f"{unit.corpus}.records"
    if not done.exists():
        with fsspec.open(unit.place, "rb") as file, atomic_folder(done, done.with_suffix(".partial")) as out:
            listed = Hashed(file, unit)
            items = ((number, good(value)) for number, value in json_records(listed, unit.file))
            for number, stretch in groupby(items, key=lambda item: item[0] // RECORDS):
                with open(out / f"{number:05d}.jsonl", "w", encoding="utf-8") as lines:
                    lines.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in stretch)
            listed.finish()
    sizes = {path: path.stat().st_size for path in sorted(done.iterdir())}
    return [Unit(unit.corpus, unit.file, str(path), size, None) for path, size in sizes.items()]


def synthetic(unit: Unit) -> tuple[list[tuple[str, str, str | None]], list[BadRecord], int]:
    """(uid, caption, the image's sha256) of the samples of a DataCompDR tar; what cannot be read; how many there are.

    Of a sample's captions it is the one that the uid's hash chooses: the same wherever, and whenever, it is read.
    """
    rows, bad = [], []
    with fsspec.open(unit.place, "rb") as file:
        listed = Hashed(file, unit)
        for key, members in formats.tar_samples(listed, unit.file, (".json",)):
            try:
                if isinstance(members, BadRecord):
                    raise members
                if "syn.json" not in members:
                    raise formats.lacking(unit.file, key, members, "syn_text", ("syn.json",))
                facts = formats.sidecar(unit.file, key, members)
                uid = formats.uid_of(unit.file, key, facts)
                texts = formats.sidecar(unit.file, key, members, "syn.json").get("syn_text")
                if not isinstance(texts, list) or not texts:
                    raise BadRecord(unit.file, key, "has no syn_text")
                chosen = texts[int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8]) % len(texts)]
                if not isinstance(chosen, str) or not chosen.strip():
                    raise BadRecord(unit.file, key, "the caption of its syn_text that is chosen is no text")
                chosen, sha256 = formats.unmarked(chosen, unit.file, key), facts.get("sha256")
                rows.append((uid, chosen.strip(), sha256 if isinstance(sha256, str) else None))
            except BadRecord as error:
                bad.append(error)
        listed.finish()
    return rows, bad, len(rows) + sum(error.records for error in bad)


def note_captions(job: Job, work: Work, name: str, units: list[Unit], workers: int) -> None:
    """Put the captions of all tars of a DataCompDR corpus into its data base, a tar a transaction, in order."""
    with closing(sqlite3.connect(work.captions(name))) as known:
        known.execute(
            "CREATE TABLE IF NOT EXISTS captions (uid TEXT PRIMARY KEY, text TEXT, sha256 TEXT) WITHOUT ROWID"
        )
        known.execute("CREATE TABLE IF NOT EXISTS tars (number INTEGER PRIMARY KEY, quarantine TEXT, counts TEXT)")
        (done,) = known.execute("SELECT count(*) FROM tars").fetchone()
        total, size = sum(unit.bytes for unit in units), sum(unit.bytes for unit in units[:done])
        for unit, (rows, bad, records) in zip(units[done:], in_order(synthetic, units[done:], workers)):
            lines = StringIO()
            tally = Tally(unit, lines)
            tally.counts["records"] = records
            for error in bad:
                tally.bad(error)
            with known:
                known.executemany("INSERT OR IGNORE INTO captions VALUES (?, ?, ?)", rows)
                counts = json.dumps(tally.counts)
                known.execute("INSERT INTO tars VALUES (NULL, ?, ?)", [lines.getvalue(), counts])
            size += unit.bytes
            job.progress.update(size, total, "bytes", f"captions of {name}")


def check_uids(work: Work, name: str, units: list[Unit]) -> None:
    """Refuse images of which none among the first LOOKED_UP has a caption. Raises ValueError.

    Before they are converted, which takes hours. What cannot be read is left to the conversion.
    """
    first, looked_up = "", 0
    with closing(sqlite3.connect(work.captions(name))) as known:
        for unit in units:
            with fsspec.open(unit.place, "rb") as file:
                for key, members in formats.tar_samples(file, unit.file, (".json",)):
                    try:
                        if isinstance(members, BadRecord) or not members.keys() & {*formats.IMAGE_SUFFIXES}:
                            continue
                        uid = formats.uid_of(unit.file, key, facts := formats.sidecar(unit.file, key, members))
                    except BadRecord:
                        continue
                    if known.execute("SELECT 1 FROM captions WHERE uid = ?", [uid]).fetchone():
                        return
                    looked_up += 1
                    first = first or f"{uid!r} ({unit.file}, {'as its .json says' if facts.get('uid') else 'its key'})"
                    if looked_up == LOOKED_UP:
                        break
            if looked_up == LOOKED_UP:
                break
        captions = known.execute("SELECT uid, (SELECT count(*) FROM captions) FROM captions LIMIT 1").fetchone()
    if looked_up and captions:
        raise ValueError(
            f"{name}: 0 of {looked_up:,} uids match: no image has one of the {captions[1]:,} synthetic captions; the first"
            f" image's uid is {first}, a caption's {captions[0]!r}; an image's uid is the `uid` of its .json, or its key"
        )


# --- the phase --------------------------------------------------------------------------------------------------------


def look_up(job: Job) -> tuple[Work, dict[str, list[Unit]]]:
    """What is to be done, and the files of each list of the source that are read as wholes."""
    settings, source, part = job.settings, job.inputs["source"], job.settings["part"]
    corpora = {name: corpus["settings"] for name, corpus in listed_corpora(source).items()}
    where = job.context["corpora"][part]
    places = {name: where[name]["path"] for name in corpora}
    tokenizer = job.inputs["tokenizer"] / "tokenizer.json"
    patches, boxes = settings.get("patches", 0), tuple(settings.get("boxes", ("resize", "resize")))
    work = Work(part, corpora, places, settings["sequence"], patches, boxes, tokenizer, job.resume)

    def units(corpus: str, name: str, place: str) -> list[Unit]:
        only = corpora[corpus]["file"] if corpora[corpus]["format"] == "llava" else None
        key = f"{job.context['corpora']['file']} (source.{part}.{name})"
        return [
            Unit(
                corpus,
                line["file"],
                join(place, line["file"]),
                line["bytes"],
                line["sha256"],
                line.get("records"),
                settings=key,
            )
            for line in read_list(source, name)
            if only in (None, line["file"])
        ]

    listed = {name: units(name, name, places[name]) for name in corpora}
    for name, corpus in corpora.items():
        if corpus["format"] == "datacompdr":
            listed[f"{name}.images"] = units(name, f"{name}.images", where[name]["images"]["path"])
    return work, listed


def prepare(job: Job, work: Work, listed: dict[str, list[Unit]], workers: int) -> list[Unit]:
    """The files to convert, after what must be read before them."""
    units: list[Unit] = []
    for name, corpus in work.corpora.items():
        if corpus["format"] == "llava":
            (divided,) = in_order(partial(divide, work), listed[name], workers)
            units += divided
        elif corpus["format"] == "datacompdr":
            note_captions(job, work, name, listed[name], workers)
            check_uids(work, name, listed[f"{name}.images"])
            units += listed[f"{name}.images"]
        else:
            units += listed[name]
    return [replace(unit, number=number) for number, unit in enumerate(units)]


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


def write_quarantine(work: Work, units: list[Unit], file: Path) -> None:
    """All bad records that are known of, as far as files are done."""
    with open(file, "w", encoding="utf-8") as out:
        for name in work.corpora:
            out.write(noted(work, name)[1])
        for unit in units:
            lines = work.part_of(unit) / QUARANTINE
            if lines.exists():
                out.write(lines.read_text(encoding="utf-8"))


def check_share(
    work: Work, name: str, counts: Counter, done: int, size: int, units: list[Unit], allowed: float
) -> None:
    """Refuse a corpus of which too much cannot be read, once the rest (all of it good) could not make up for it.

    `done` of its `size` bytes are read. Raises ValueError.
    """
    likely = counts["records"] * size / max(done, 1)
    if counts["bad"] <= allowed * likely and counts["unread_bytes"] <= allowed * size:
        return
    file = work.resume / QUARANTINE
    write_quarantine(work, units, file)
    raise ValueError(
        f"{name}: {counts['bad']:,} of {counts['records']:,} records and {counts['unread_bytes']:,} of {size:,} bytes"
        f" cannot be read, allowed: {allowed:.2%} (source.bad_records); {reasons(file, name)}; all of them: {file}"
    )


def reasons(file: Path, name: str) -> str:
    """Why records of a corpus are in a quarantine: the first of them, and one of each of the most frequent other kinds."""
    kinds: Counter[str] = Counter()
    examples: dict[str, str] = {}
    with open(file, encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            if line["corpus"] == name:
                kind = SPECIAL.sub("", line["reason"])
                kinds[kind] += 1
                examples.setdefault(kind, f"{line['file']}: record {line['record']}: {line['reason']}")
    first, *others = examples
    others = sorted(others, key=lambda kind: -kinds[kind])[:2]
    return "; ".join(
        [f"the first: {examples[first]}", *(f"{kinds[kind]:,} such as {examples[kind]}" for kind in others)]
    )


def said_of(name: str, counts: Counter, quarantine: Path) -> str:
    """What became of a corpus's records, in words."""
    said = [f"{name}: {counts['records']:,} records"]
    said += [f"{counts[key]:,} {words}" for key, words in LEFT_OUT.items() if counts[key]]
    return ", ".join(said) + (f"; {reasons(quarantine, name)}" if counts["bad"] else "")


def gather(work: Work, units: list[Unit], out: Path) -> Counter:
    """Link all files' shards into the artifact under one index; returns what the files' ends amount to together."""
    from streaming.base.util import merge_index

    counts: Counter = Counter()
    for unit in units:
        folder = out / f"{unit.number:05d}"
        folder.mkdir()
        for file in (work.part_of(unit) / SHARDS).iterdir():
            os.link(file, folder / file.name)
    if work.part == "text":
        rests = (read_json(work.part_of(unit) / COUNTS)["rest"] for unit in units)
        tokenizer = tokenizer_at(work.tokenizer)
        end, dtype = tokenizer.end, token_type(tokenizer.vocabulary)
        rest: list[int] = []
        joined = text_sequences((tokens[:-1] for tokens in rests if tokens), end, work.sequence, rest, dtype)
        folder, columns = out / f"{len(units):05d}", with_tokens(TEXT_COLUMNS, tokenizer.vocabulary)
        counts["sequences"] = write_shards(folder, columns, ({"tokens": tokens} for tokens in joined))
        counts["labels"] = counts["sequences"] * work.sequence
        counts["unused_tokens"] = len(rest)
    indexes = sorted(out.glob("*/index.json"))
    merge_index([str(index.resolve()) for index in indexes], str(out))
    for index in indexes:
        index.unlink()
    return counts


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


def run(job: Job, out: Path) -> dict:
    """Phase "shards": tokenize a part and write its training sequences."""
    return convert_corpora(job, out) if is_corpora(job.inputs["source"]) else write_sequences(job, out)


def convert_corpora(job: Job, out: Path) -> dict:
    """Returns counts, in all and by corpus. Raises ValueError."""
    import streaming  # noqa: F401 (slow to import: once, before the processes are forked)

    workers, allowed = job.context["corpora"]["workers"], job.context["corpora"]["bad_records"]
    work, listed = look_up(job)
    job.resume.mkdir(parents=True, exist_ok=True)
    units = prepare(job, work, listed, workers)
    counts = {name: noted(work, name)[0] for name in work.corpora}
    size: Counter = Counter()
    for unit in units:
        size[unit.corpus] += unit.bytes
    done: Counter = Counter()
    job.progress.begin_at(sum(unit.bytes for unit in units if (work.part_of(unit) / COUNTS).exists()))
    for unit, found in zip(units, in_order(partial(convert, work), units, workers)):
        counts[unit.corpus].update(found)
        done[unit.corpus] += unit.bytes
        check_share(work, unit.corpus, counts[unit.corpus], done[unit.corpus], size[unit.corpus], units, allowed)
        job.progress.update(done.total(), size.total(), "bytes", unit.file)
    write_quarantine(work, units, out / QUARANTINE)
    joined = gather(work, units, out)
    total = sum(counts.values(), joined)
    if not total["sequences"]:
        why = "; ".join(said_of(name, counts[name], out / QUARANTINE) for name in work.corpora)
        raise ValueError(f"{work.part}: not enough data for one sequence of {work.sequence} positions: {why}")
    for name, corpus in work.corpora.items():
        if corpus["format"] == "datacompdr":
            counts[name].update(count_missing(work, name, units))
        print(said_of(name, counts[name], out / QUARANTINE), flush=True)
        if padded := counts[name]["padded_sequences"]:
            print(
                f"{name}: {padded:,} sequences end in padding: {counts[name]['padding']:,} ids without loss", flush=True
            )
    keys = ("sequences", "pieces", "labels", "image_positions", "padding")
    return {
        **{key: total[key] for key in keys},
        "positions": total["sequences"] * work.sequence,
        "unused_tokens": total["unused_tokens"],
        "corpora": counts,
    }
