"""Files that are either whole or absent: atomic writes, stable JSON, hashes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def stable_json(value: object) -> str:
    """JSON text that is the same for equal values. Raises on NaN and on anything JSON has no form for."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def read_json(path: Path) -> dict:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def digest(value: object) -> str:
    """First 16 hex digits of the SHA-256 of a value as compact JSON, which is the same for equal values.

    Compact because json writes that in C, ten times faster than the indented form: every plan takes thousands of these.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path relative to it."""
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): file_hash(p) for p in files}


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: readers see the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(final: Path, partial: Path) -> Iterator[Path]:
    """A fresh folder to fill, which takes the place of `final` when the block ends without an error.

    The old folder is moved aside before the new one moves in and deleted after; both are on one file system.
    """
    final, partial = Path(final), Path(partial)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    final.parent.mkdir(parents=True, exist_ok=True)
    old = partial.with_name(partial.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.replace(final, old)
    os.replace(partial, final)
    shutil.rmtree(old, ignore_errors=True)
