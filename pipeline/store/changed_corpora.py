"""Files of corpora that have changed since they were listed: found by size, then date, then hash, as artifacts are.

Imports little, as every plan asks. Files on S3 are not asked for; conversion compares the hash of every file that it reads as
a whole. What the artifact holds itself (held-out documents, multiple choice) is not compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from pipeline.common.files import file_hash, join, read_json, stable_json, write_text
from pipeline.data.job_settings import ListedCorpora
from pipeline.store.artifacts import CARD, STATE

MOST = 10_000  # files of a corpus that a plan looks at: with all images of a large one it would take minutes
NOTES = STATE / "listed"  # dates of files that are as they were listed, by job
Listed = tuple[str, dict, tuple[str, ...]]


def listed(folder: Path, settings: ListedCorpora, where: dict) -> Iterator[Listed]:
    """(place, its line in the list, the corpus's keys) of the files that a source's artifact lists on this machine.

    `settings` are the job's, and `where` says where corpora lie.
    """
    part = settings.part
    keys: tuple[str, ...] = (part,)
    places = where[part]
    if settings.split:
        keys, places = (part, settings.split), places[settings.split]
    for name in settings.corpora:
        for more, its in ((), places[name]), (("images",), places[name].get("images")):
            lines = folder / "files" / f"{'.'.join((name, *more))}.jsonl"
            if lines.exists() and "://" not in its["path"]:
                with open(lines, encoding="utf-8") as opened:
                    for line in map(json.loads, islice(opened, MOST)):
                        yield join(its["path"], line["file"]), line, (*keys, name, *more)


def find_changed(root: Path, folder: Path, files: Iterator[Listed]) -> tuple[str, tuple[str, ...]] | None:
    """Place and the corpus's keys of the first file that has other bytes than when it was listed, or None.

    Files that are gone are not asked for: what was made from them may be finished. A file that is no younger than the list,
    or that has the date that it had when it was found right, is taken to be right.
    """
    notes = root / NOTES / f"{folder.name}.json"
    try:
        known = read_json(notes)
    except (OSError, ValueError):
        known = {}
    made, dates = (folder / CARD).stat().st_mtime_ns, {}
    for place, line, keys in files:
        try:
            look = Path(place).stat()
        except OSError:
            continue
        # Size first, then date, then hash: most files need no more than one look at their entry in the folder.
        right = look.st_size == line["bytes"]
        if right and look.st_mtime_ns != known.get(place, min(made, look.st_mtime_ns)):
            right = file_hash(Path(place)) == line["sha256"]
        if not right:
            return place, keys
        dates[place] = look.st_mtime_ns
    if dates != known:
        write_text(notes, stable_json(dates))
    return None
