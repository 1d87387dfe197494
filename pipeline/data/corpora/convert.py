"""Phase "shards": training sequences of a source. Of real corpora: listed files to MDS, file by file, by several processes.

Every input file becomes a folder of shards of its own below the job's resume folder, whole or not at all. So a
killed job goes on with the files that are left, and neither kills nor the number of processes change a bit. At the end
the folders are linked into the artifact under one index.

What cannot be read goes to `quarantine.jsonl` ({"corpus", "file", "record", "reason"} a line) and is counted. More than
the share `bad_records` of a corpus's records, or of its bytes, stops the job.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path

import fsspec

from pipeline.common.files import atomic_folder, join, read_json, stable_json, write_text
from pipeline.common.job_context import Job
from pipeline.data.corpora.in_order import in_order
from pipeline.data.corpora.listed import listed_corpora, read_list
from pipeline.data.corpora.samples import TEXT, captioned, conversations, packed, pieces, tokenizer_at
from pipeline.data.corpora.synthetic_captions import count_missing, note_captions, noted
from pipeline.data.corpora.units import COUNTS, QUARANTINE, SHARDS, UIDS, Hashed, Tally, Unit, Work
from pipeline.data.formats import tars
from pipeline.data.formats.open_text import good, json_records
from pipeline.data.job_settings import ShardSettings
from pipeline.data.packing import text_sequences
from pipeline.data.records import BadRecord, Caption, Conversation
from pipeline.data.store import PACKED_COLUMNS, TEXT_COLUMNS, token_type, with_tokens, write_shards

LOOKED_UP = 10_000  # so many uids of images are looked up before the job is refused because none has a caption
SPECIAL = re.compile(r"\d+|\S*/\S*")  # numbers and paths: reasons that differ in these alone are of one kind
RECORDS = 10_000  # of a JSON list that are converted together

LEFT_OUT = {  # what is counted of what is not used
    "bad": "that cannot be read",
    "without_image": "chats without an image that are left out (without_image: drop)",
    "images_without_caption": "images without a synthetic caption",
    "members_not_read": "members of tars that are not read (without a suffix, or with a dot in front, as macOS's)",
}


# --- a file -----------------------------------------------------------------------------------------------------------


def convert(work: Work, unit: Unit) -> dict:
    """Write a file's shards, unless that is done; returns what was counted."""
    done = work.part_of(unit)
    if not (done / COUNTS).exists():
        with atomic_folder(done, done.with_suffix(".partial")) as out:
            write_part(work, unit, out)
    return read_json(done / COUNTS)["counts"]


def write_part(work: Work, unit: Unit, out: Path) -> None:
    """Write a file's shards, its bad records, the uids of its images and its counts into `out`."""
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
        # Only now that all samples were taken: the iterators above count as they go.
        tally.check_number()
        # A stretch of instructions is a file of our own; the list that it is from was compared when it was divided.
        if work.part != "instructions":
            listed.finish()
    if work.part == "text":
        tally.counts["labels"] = tally.counts["sequences"] * work.sequence - tally.counts["padding"]
    write_text(out / COUNTS, stable_json({"counts": tally.counts, "rest": rest}))


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
    # In the order of their names, which is that of the records: numbers of units follow from it.
    sizes = {path: path.stat().st_size for path in sorted(done.iterdir())}
    return [Unit(unit.corpus, unit.file, str(path), size, None) for path, size in sizes.items()]


def check_uids(work: Work, name: str, units: list[Unit]) -> None:
    """Raises ValueError if none of the first LOOKED_UP images has a synthetic caption: the captions are of another set.

    This is done before the conversion, which takes hours. What cannot be read is left to the conversion.
    """
    first, looked_up = "", 0
    with closing(sqlite3.connect(work.captions(name))) as known:
        for unit in units:
            with fsspec.open(unit.place, "rb") as file:
                for key, members in tars.tar_samples(file, unit.file, (".json",)):
                    try:
                        if isinstance(members, BadRecord) or not members.keys() & {*tars.IMAGE_SUFFIXES}:
                            continue
                        uid = tars.uid_of(unit.file, key, facts := tars.sidecar(unit.file, key, members))
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
    """What is to be done, and the files of each corpus; of a LLaVA corpus its JSON file without the images."""
    settings, source = ShardSettings.model_validate(job.settings), job.inputs["source"]
    part = settings.part
    corpora = {name: corpus["settings"] for name, corpus in listed_corpora(source).items()}
    where = job.context["corpora"][part]
    places = {name: where[name]["path"] for name in corpora}
    tokenizer = job.inputs["tokenizer"] / "tokenizer.json"
    as_said, as_seen = settings.boxes
    boxes = (as_said, as_seen)
    work = Work(part, corpora, places, settings.sequence, settings.patches, boxes, tokenizer, job.resume)

    def units(corpus: str, name: str, place: str) -> list[Unit]:
        only = corpora[corpus]["file"] if corpora[corpus]["format"] == "llava" else None
        # Only for an error: the key whose `revision` the reader has to increase.
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
            # After all captions are noted: an image may have its caption in any of the tars.
            check_uids(work, name, listed[f"{name}.images"])
            units += listed[f"{name}.images"]
        else:
            units += listed[name]
    return [replace(unit, number=number) for number, unit in enumerate(units)]


def write_quarantine(work: Work, units: list[Unit], file: Path) -> None:
    """Write the bad records of all files that are done into one file."""
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
    """Raises ValueError if too much of a corpus cannot be read, even if all the rest of it were good.

    `done` of its `size` bytes are read; `allowed` is the share that may be bad.
    """
    # The number of all records, estimated from the part that was read.
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
    """Link all files' shards into the artifact under one index.

    What text files had left is joined to last sequences: returns the counts of these.
    """
    from streaming.base.util import merge_index

    counts: Counter = Counter()
    for unit in units:
        folder = out / f"{unit.number:05d}"
        folder.mkdir()
        for file in (work.part_of(unit) / SHARDS).iterdir():
            # Links: the resume folder is on the same file system, and a corpus is not held twice.
            os.link(file, folder / file.name)
    if work.part == "text":
        rests = (read_json(work.part_of(unit) / COUNTS)["rest"] for unit in units)
        tokenizer = tokenizer_at(work.tokenizer)
        end, dtype = tokenizer.end, token_type(tokenizer.vocabulary)
        rest: list[int] = []
        # What a file left over ends with the end-of-text token, which `text_sequences` adds again.
        joined = text_sequences((tokens[:-1] for tokens in rests if tokens), end, work.sequence, rest, dtype)
        folder, columns = out / f"{len(units):05d}", with_tokens(TEXT_COLUMNS, tokenizer.vocabulary)
        counts["sequences"] = write_shards(folder, columns, ({"tokens": tokens} for tokens in joined))
        counts["labels"] = counts["sequences"] * work.sequence
        counts["unused_tokens"] = len(rest)
    indexes = sorted(out.glob("*/index.json"))
    merge_index([str(index.resolve()) for index in indexes], str(out))
    for index in indexes:
        # Readers use the index at the top, which has all of it.
        index.unlink()
    return counts


def convert_corpora(job: Job, out: Path) -> dict:
    """Convert the listed files of a part to shards in `out`; returns counts, in all and by corpus.

    Raises ValueError for a file that has changed since it was listed, for too many bad records, and for too little
    data.
    """
    import streaming  # noqa: F401 (slow to import: once, before the processes are forked)

    workers, allowed = job.context["corpora"]["workers"], job.context["corpora"]["bad_records"]
    work, listed = look_up(job)
    job.resume.mkdir(parents=True, exist_ok=True)
    units = prepare(job, work, listed, workers)
    # Synthetic captions have counts of their own, from when they were noted.
    counts = {name: noted(work, name)[0] for name in work.corpora}
    size: Counter = Counter()
    for unit in units:
        size[unit.corpus] += unit.bytes
    done: Counter = Counter()
    job.progress.begin_at(sum(unit.bytes for unit in units if (work.part_of(unit) / COUNTS).exists()))
    # In the order of the files, so that a corpus with too many bad records stops at the same file for any number of
    # processes.
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
