"""Readers of text files: DCLM-style documents (jsonl.zst), DCLM's token lists (tars), lm-eval-like multiple choice (jsonl).

They serve the embedded corpus and real ones alike. Whatever is missing or malformed raises BadRecord with one
line that names the file, the line (from 1) and the reason; nothing is skipped. `documents` and `token_lists` give it
in the record's place instead.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from pipeline.data.formats import BadRecord, Members, Stream, lacking, open_file, strict, tar_samples
from pipeline.data.records import Document, MultipleChoice
from pipeline.files import parse_json

CHUNK = 1 << 14  # bytes read at a time
PIECE = 1 << 20  # bytes that are divided into lines at a time
BITE = 1 << 10  # compressed bytes that are unpacked at a time: a zstandard block of 4 bytes can hold 128 KB
LONGEST_LINE = 1 << 26  # bytes; DCLM's longest documents are a few megabytes
SUFFIXES = (".jsonl.zst", ".jsonl")


def read_documents(source: str | Path | Iterable[Path]) -> Iterator[Document]:
    """Documents of a folder's .jsonl.zst and .jsonl files in name order, of one file, or of the given files.

    Only the key `text` is needed (DCLM's own files have no id that is unique); a document's id is its
    `metadata.id` where there is one, else the first 16 hex digits of the SHA-256 of its text. Raises
    BadRecord.
    """
    for path in _paths(source):
        with open_file(path) as file:
            yield from strict(documents(file, path))


def documents(file: Stream, name: object) -> Iterator[Document | BadRecord]:
    """The documents of an open file, in the place of each that cannot be read a BadRecord.

    `name` (of the file) says whether it is compressed. Nothing follows the BadRecord of a damaged frame.
    """
    for number, record in _records(file, name):
        if isinstance(record, BadRecord):
            yield record
            continue
        try:
            text = _field(record, "text", str, name, number)
            if not text:
                raise BadRecord(name, number, "'text' is empty")
        except BadRecord as error:
            yield error
            continue
        facts = record.get("metadata")
        given = facts.get("id") if isinstance(facts, dict) else None
        yield Document(str(given) if given else text_id(text), text)


def token_lists(
    file: Stream, name: object, length: int, allowed: np.ndarray, counts: Counter[str] | None = None
) -> Iterator[np.ndarray | BadRecord]:
    """The sequences of one of DCLM's tokenized tars, uint16 [length]; a BadRecord for each that cannot be read.

    A member is a gzipped JSON list of `length` ids. `allowed` (bool, by id) says which ids text may have. `counts` as
    of `tar_samples`.
    """
    for key, members in tar_samples(file, name, (".json.gz",), counts):
        if isinstance(members, BadRecord):
            yield members
            continue
        try:
            yield _token_list(key, members, name, length, allowed)
        except BadRecord as error:
            yield error


def _token_list(key: str, members: Members, name: object, length: int, allowed: np.ndarray) -> np.ndarray:
    if "json.gz" not in members:
        raise lacking(name, key, members, ".json.gz", ("json.gz",))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(members["json.gz"])) as unpacked:
            data = unpacked.read(LONGEST_LINE)
            if unpacked.read(1):
                raise ValueError(f"longer than {LONGEST_LINE:,} bytes")
        found = parse_json(data)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise BadRecord(name, key, f"is not gzipped JSON ({error})") from None
    if not isinstance(found, list) or not all(type(one) is int for one in found):
        raise BadRecord(name, key, "is not a list of whole numbers")
    if len(found) != length:
        raise BadRecord(name, key, f"has {len(found)} tokens, not {length}")
    if min(found) < 0 or max(found) >= len(allowed) or not allowed[found].all():
        wrong = next(one for one in found if not 0 <= one < len(allowed) or not allowed[one])
        raise BadRecord(name, key, f"has the id {wrong}, which is no token of text")
    return np.array(found, np.uint16)


def read_choices(path: str | Path, task: str) -> Iterator[MultipleChoice]:
    """Items of a .jsonl file with the keys id, context, choices, gold (index). Raises BadRecord."""
    path, seen = Path(path), set()
    for number, record in _strict_records(path):
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


def _strict_records(path: Path) -> Iterator[tuple[int, dict]]:
    with open_file(path) as file:
        for number, record in _records(file, path):
            if isinstance(record, BadRecord):
                raise record
            yield number, record


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


def _records(file: Stream, name: object) -> Iterator[tuple[int, dict | BadRecord]]:
    """(line number, object) of every line that is not blank."""
    for number, line in enumerate(_lines(file, name), 1):
        if isinstance(line, BadRecord):
            yield number, line
        elif line.strip():
            try:
                record = parse_json(line)
            except ValueError as error:  # undecodable text as well as undecodable JSON
                record = BadRecord(name, number, f"is not JSON ({error})")
            good = isinstance(record, dict | BadRecord)
            yield number, record if good else BadRecord(name, number, "is not an object")


def _lines(file: Stream, name: object) -> Iterator[bytes | BadRecord]:
    """Lines, a BadRecord in the place of one that is too long, and one for the end of a file that breaks off."""
    parts: list[bytes] = []  # of the line that has begun
    size, number = 0, 1
    try:
        for chunk in _chunks(file, name):
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                if size <= LONGEST_LINE:
                    yield b"".join([*parts, end]) if parts else end
                parts, size, number = [], 0, number + 1
            if size <= LONGEST_LINE < size + len(rest):
                yield BadRecord(name, number, f"is longer than {LONGEST_LINE:,} bytes")
                parts = []
            size += len(rest)
            if size <= LONGEST_LINE:
                parts.append(rest)
    except BadRecord as error:
        yield error
        return
    if parts:
        yield b"".join(parts)


def _chunks(file: Stream, name: object) -> Iterator[bytes]:
    """Decompressed bytes. A file that was cut off is an error, which zstandard's own stream reader hides."""
    if not str(name).endswith(".zst"):
        while chunk := file.read(CHUNK):
            yield chunk
        return
    position = 0
    try:
        frame, waiting = zstandard.ZstdDecompressor().decompressobj(), b""
        while chunk := waiting or file.read(CHUNK):
            position += 0 if waiting else len(chunk)
            if frame.eof:  # a file may hold several frames
                frame = zstandard.ZstdDecompressor().decompressobj()
            bite, waiting = chunk[:BITE], chunk[BITE:]
            unpacked = frame.decompress(bite)
            for start in range(0, len(unpacked), PIECE):
                yield unpacked[start : start + PIECE]
            if frame.eof:
                waiting = frame.unused_data + waiting
        if not frame.eof:
            raise BadRecord(name, "-", "ends in the middle of a zstandard frame", position)
    except zstandard.ZstdError as error:
        raise BadRecord(name, "-", f"is not readable zstandard ({error})", max(0, position - CHUNK)) from None


def _field(record: dict, key: str, kind: type, path: object, number: int) -> Any:
    if key not in record:
        raise BadRecord(path, number, f"has no {key!r}")
    value = record[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BadRecord(path, number, f"{key!r} is of type {type(value).__name__}")
    return value
