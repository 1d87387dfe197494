"""Readers of text files: DCLM-style documents (jsonl.zst) and lm-eval-like multiple choice (jsonl).

They serve the embedded corpus and real ones alike. Whatever is missing or malformed raises BadRecord with one
line that names the file, the line (from 1) and the reason; nothing is skipped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import zstandard

from pipeline.data.formats import BadRecord
from pipeline.data.records import Document, MultipleChoice

CHUNK = 1 << 14  # compressed bytes read at a time: what bounds memory, together with LONGEST_LINE
LONGEST_LINE = 1 << 26  # bytes; DCLM's longest documents are a few megabytes
SUFFIXES = (".jsonl.zst", ".jsonl")


def read_documents(source: str | Path | Iterable[Path]) -> Iterator[Document]:
    """Documents of a folder's .jsonl.zst and .jsonl files in name order, of one file, or of the given files.

    Only the key `text` is needed (DCLM's own files have no id that is unique); a document's id is its
    `metadata.id` where there is one, else the first 16 hex digits of the SHA-256 of its text. Raises
    BadRecord.
    """
    for path in _paths(source):
        for number, record in _records(path):
            text = _field(record, "text", str, path, number)
            if not text:
                raise BadRecord(path, number, "'text' is empty")
            facts = record.get("metadata")
            name = facts.get("id") if isinstance(facts, dict) else None
            yield Document(str(name) if name else text_id(text), text)


def read_choices(path: str | Path, task: str) -> Iterator[MultipleChoice]:
    """Items of a .jsonl file with the keys id, context, choices, gold (index). Raises BadRecord."""
    path, seen = Path(path), set()
    for number, record in _records(path):
        name = _field(record, "id", str, path, number)
        context = _field(record, "context", str, path, number)
        choices = _field(record, "choices", list, path, number)
        gold = _field(record, "gold", int, path, number)
        if name in seen:
            raise BadRecord(path, number, f"id {name!r} occurs twice")
        if len(choices) < 2 or not all(isinstance(choice, str) and choice for choice in choices):
            raise BadRecord(path, number, "'choices' is not a list of two or more texts")
        if not 0 <= gold < len(choices):
            raise BadRecord(path, number, f"'gold' is {gold} with {len(choices)} choices")
        seen.add(name)
        yield MultipleChoice(name, task, context, tuple(choices), gold)


def text_id(text: str) -> str:
    """First 16 hex digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _paths(source: str | Path | Iterable[Path]) -> list[Path]:
    if not isinstance(source, str | Path):
        paths = [Path(path) for path in source]
        if not paths:
            raise BadRecord("-", "-", "no text files given")
        return paths
    folder = Path(source)
    if not folder.is_dir():
        return [folder]
    paths = sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES))
    if not paths:
        raise BadRecord(folder, "-", f"no {' or '.join(SUFFIXES)} file in this folder")
    return paths


def _records(path: Path) -> Iterator[tuple[int, dict]]:
    """(line number, object) of every line that is not blank."""
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:  # undecodable text as well as undecodable JSON
            raise BadRecord(path, number, f"is not JSON ({error})") from None
        if not isinstance(record, dict):
            raise BadRecord(path, number, "is not an object")
        yield number, record


def _lines(path: Path) -> Iterator[bytes]:
    rest, number = b"", 1
    for chunk in _chunks(path):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
        number += len(lines)
        if len(rest) > LONGEST_LINE:
            raise BadRecord(path, number, f"is longer than {LONGEST_LINE} bytes")
    if rest:
        yield rest


def _chunks(path: Path) -> Iterator[bytes]:
    """Decompressed bytes. A file that was cut off is an error, which zstandard's own stream reader hides."""
    try:
        with open(path, "rb") as file:
            if not path.name.endswith(".zst"):
                while chunk := file.read(CHUNK):
                    yield chunk
                return
            frame, waiting = zstandard.ZstdDecompressor().decompressobj(), b""
            while chunk := waiting or file.read(CHUNK):
                if frame.eof:  # a file may hold several frames
                    frame = zstandard.ZstdDecompressor().decompressobj()
                yield frame.decompress(chunk)
                waiting = frame.unused_data if frame.eof else b""
            if not frame.eof:
                raise BadRecord(path, "-", "ends in the middle of a zstandard frame")
    except OSError as error:
        raise BadRecord(path, "-", f"cannot be read ({error.strerror})") from None
    except zstandard.ZstdError as error:
        raise BadRecord(path, "-", f"is not readable zstandard ({error})") from None


def _field(record: dict, key: str, kind: type, path: Path, number: int) -> object:
    if key not in record:
        raise BadRecord(path, number, f"has no {key!r}")
    value = record[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BadRecord(path, number, f"{key!r} is of type {type(value).__name__}")
    return value
