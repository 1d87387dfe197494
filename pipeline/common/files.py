"""Files that are either whole or absent: atomic writes, stable JSON, rows, hashes; and how others' JSON and paths are read."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.common.json_text import parse_json


class Damaged(ValueError):
    """A file of a finished artifact is not what it was when it was made; its `folder` is to be made again."""

    def __init__(self, folder: Path, file: str, reason: str = ""):
        why = f" ({reason})" if reason else ""
        super().__init__(f"{folder / file}: missing or damaged{why}; run again to rebuild {folder}")
        self.folder = folder


def stable_json(value: object) -> str:
    """JSON text that is the same for equal values. Raises on NaN and on anything JSON has no form for."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """A file's JSON value. Raises OSError, and ValueError as `parse_json`."""
    return parse_json(Path(path).read_bytes())


def path_fault(name: str) -> str | None:
    """What keeps a name from being that of a file below the folder that it is relative to, or None."""
    path = PurePosixPath(name)
    # On Windows a backslash separates folders, so that `..\x` would leave the folder there.
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        return f"path leaves its folder: {name}"
    if "\0" in name or "::" in name or "://" in name or name != name.encode(errors="replace").decode():
        return f"is no path of a file: {name}"  # NUL, what fsspec takes for an address, and what is not UTF-8
    return None


def join(place: str, name: str) -> str:
    """Where a listed file lies: `place` is its folder, or the file itself."""
    return place if place.endswith(f"/{name}") and not name.count("/") else f"{place}/{name}"


def one_line(text: object, longest: int = 500) -> str:
    """A text as messages have it: in one line, without what a terminal would obey, and not longer than that."""
    text = str(text)
    # Names and texts come from foreign files; an escape sequence in one could move the cursor or overwrite other lines.
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:longest])
    return shown + ("..." if len(text) > longest else "")


def digest(value: object) -> str:
    """First 16 hex digits of the SHA-256 of a value as compact JSON, which is the same for equal values.

    Compact because json writes that in C, ten times faster than the indented form: every plan takes thousands of these.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    # `file_digest` reads in blocks: the files of a checkpoint can be larger than the memory.
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path relative to it."""
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): file_hash(p) for p in files}


def clamp_future_mtime(path: Path) -> None:
    """Date a file now that a wrong clock has dated later. Snakemake refuses jobs whose outputs are older than their inputs."""
    now = time.time_ns()
    if path.stat().st_mtime_ns > now:
        os.utime(path, ns=(now, now))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: readers see the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, as a rename is atomic only within one file system. With the process's id, as several processes
    # may write the same file at once.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            # Otherwise a power cut soon after the rename can leave the new name with none of the bytes.
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


ANY_TEXT: Any = {
    "encoding": "utf-8",
    "errors": "surrogatepass",
}  # what a model says may be any text, half a surrogate pair too
LONGEST_CELL = 1 << 30  # characters; csv's own limit is 131,072


def csv_cell(value: object) -> str:
    """A value as a CSV has it, nothing for None. Python 3.11's own writer leaves a lone "\\r" bare, which ends a line."""
    text = "" if value is None else str(value)
    return f'"{text.replace(chr(34), chr(34) * 2)}"' if any(mark in text for mark in ',"\r\n') else text


def write_rows(path: Path, columns: Iterable[str], rows: Iterable[Iterable]) -> int:
    """Write a CSV that `read_rows` reads back to the letter, whatever its texts hold; returns the number of rows."""
    count = 0
    with open(path, "w", newline="", **ANY_TEXT) as file:
        for row in chain([columns], rows):
            # A row of one empty cell would be a blank line, and csv's reader takes a blank line for no row at all.
            file.write((",".join(map(csv_cell, row)) or '""') + "\n")
            count += 1
    return count - 1


def read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a CSV, all cells as text.

    Raises OSError, and ValueError for what is no CSV or has a row of another length than the columns'.
    """
    # The limit belongs to the csv module, not to a reader. An answer or an error text can be longer than its default.
    csv.field_size_limit(LONGEST_CELL)
    same: dict[str, str] = {}  # most cells are like others: one text each is kept
    try:
        with open(path, newline="", **ANY_TEXT) as file:
            rows = [[same.setdefault(cell, cell) for cell in row] for row in csv.reader(file) if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is no CSV ({error})") from None
    columns, rows = (rows[0], rows[1:]) if rows else ([], [])
    for number, row in enumerate(rows, 1):
        if len(row) != len(columns):
            raise ValueError(f"{path}: row {number} has {len(row)} cells, not {len(columns)}: {one_line(row, 80)}")
    return columns, rows


def read_records(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV by their columns, as `read_rows` reads them."""
    columns, rows = read_rows(path)
    return [dict(zip(columns, row)) for row in rows]


def sync(folder: Path) -> None:
    """Return once all files below a folder are on the disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())


def share(folder: Path) -> None:
    """Let those read the files below a folder who may read the folder itself: some libraries write for the owner alone."""
    # The folder has what the user's umask allows, and so says what its files should have.
    readers = folder.stat().st_mode & 0o444
    for file in folder.rglob("*"):
        if file.is_file() and (mode := file.stat().st_mode) | readers != mode:
            file.chmod(mode & 0o777 | readers)


@contextmanager
def atomic_folder(final: Path, partial: Path) -> Iterator[Path]:
    """A fresh folder to fill, which takes the place of `final` when the block ends without an error.

    The old folder is moved aside, as `partial`.old, before the new one moves in, and deleted after: whenever this is
    broken off, one of the two names has a whole folder if `final` was one: also when the machine is switched off, as the
    files are on the disk before. All are on one file system.
    """
    final, partial = Path(final), Path(partial)
    old = partial.with_name(partial.name + ".old")
    if final.exists():  # else the old one may be all there is
        shutil.rmtree(old, ignore_errors=True)
    # A job that was killed may have left it half full.
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    share(partial)
    sync(partial)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        os.replace(final, old)
    os.replace(partial, final)
    shutil.rmtree(old, ignore_errors=True)
