"""Readers of text files: DCLM-style documents, DCLM's token lists (tars), lm-eval-like multiple choice.

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

from pipeline.common.json_text import parse_json
from pipeline.data.formats.open_text import LONGEST_LINE, SUFFIXES, Stream, json_records, open_file, read_records, said
from pipeline.data.formats.tars import Members, lacking, tar_samples
from pipeline.data.records import BadRecord, Document, LeftOut, MultipleChoice, Use, strict


def read_documents(source: str | Path | Iterable[Path]) -> Iterator[Document]:
    """Documents of a folder's files of JSON (see `open_text.SUFFIXES`) in name order, of one file, or of the given files.

    Only the key `text` is needed (DCLM's own files have no id that is unique); a document's id is its
    `metadata.id` where there is one, else the first 16 hex digits of the SHA-256 of its text. Raises
    BadRecord.
    """
    for path in _paths(source):
        with open_file(path) as file:
            yield from strict(documents(file, path))


def documents(file: Stream, name: object) -> Iterator[Document | BadRecord]:
    """The documents of an open file, in the place of each that cannot be read a BadRecord.

    `name` (of the file) says how it is read: see `open_text`. Nothing follows the BadRecord of a damaged file.
    """
    for number, record in json_records(file, name):
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
        # What is not needed is not checked: a document is read whatever its metadata look like.
        given = facts.get("id") if isinstance(facts, dict) else None
        yield Document(str(given) if given else text_id(text), text)


def token_lists(
    file: Stream,
    name: object,
    length: int,
    uses: np.ndarray,
    dtype: type[np.unsignedinteger] = np.uint16,
    counts: Counter[str] | None = None,
) -> Iterator[np.ndarray | BadRecord]:
    """The sequences of one of DCLM's tokenized tars, `dtype` [length]; a BadRecord for each that cannot be read.

    A member is a gzipped JSON list of `length` ids. `uses` says by id what each may be: see `records.Use`. Padding at
    a list's end becomes the largest number of the type. `counts` as of `tar_samples`.
    """
    for key, members in tar_samples(file, name, (".json.gz",), counts):
        if isinstance(members, BadRecord):
            yield members
            continue
        try:
            yield _token_list(key, members, name, length, uses, dtype)
        except BadRecord as error:
            yield error


def _token_list(
    key: str,
    members: Members,
    name: object,
    length: int,
    uses: np.ndarray,
    dtype: type[np.unsignedinteger],
) -> np.ndarray:
    if "json.gz" not in members:
        raise lacking(name, key, members, ".json.gz", ("json.gz",))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(members["json.gz"])) as unpacked:
            # A few kilobytes of gzip can stand for gigabytes, so no more is unpacked than a list can need.
            data = unpacked.read(LONGEST_LINE)
            if unpacked.read(1):
                raise ValueError(f"longer than {LONGEST_LINE:,} bytes")
        found = parse_json(data)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise BadRecord(name, key, f"is not gzipped JSON ({error})") from None
    # Not isinstance: to Python True is an int.
    if not isinstance(found, list) or not all(type(one) is int for one in found):
        raise BadRecord(name, key, "is not a list of whole numbers")
    if len(found) != length:
        raise BadRecord(name, key, f"has {len(found)} tokens, not {length}")
    text = found[: length - _padding(found, uses)]
    if not text:
        raise BadRecord(name, key, "is padding alone")
    # Each different id once: most occur many times in a list.
    for one in dict.fromkeys(text):
        if not 0 <= one < len(uses) or uses[one] in (Use.NONE, Use.PADDING):
            raise BadRecord(name, key, f"has the id {one}, which is no token of text")
    return np.array(text + [np.iinfo(dtype).max] * (length - len(text)), dtype)


def _padding(ids: list[int], uses: np.ndarray) -> int:
    """How many ids at the end of a list are padding: of one that no text has, or several of one that text may have once.

    DCLM fills the last sequence of a run with the id after its count of tokens: of GPT-NeoX 50256, which is 22 blanks.
    """
    last = ids[-1]
    count = next((place for place, one in enumerate(reversed(ids)) if one != last), len(ids))
    use = uses[last] if 0 <= last < len(uses) else Use.PADDING
    return count if use == Use.PADDING or (use == Use.ONCE and count > 1) else 0


def read_choices(path: str | Path, task: str) -> Iterator[MultipleChoice]:
    """Items of a file of JSON with the keys id, context, choices, gold (index). Raises BadRecord."""
    yield from choices(read_records(Path(path)), path, task)


def choices(
    records: Iterable[tuple[int, Any]], path: object, task: str, left_out: LeftOut | None = None
) -> Iterator[MultipleChoice]:
    """Items of records of a file: see `read_choices`. `left_out` takes the bad ones that may be left out."""
    seen = set()
    left_out = left_out or LeftOut()
    for number, record in records:
        with left_out:
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
    # Sorted: the order in which a folder lists its files differs between file systems.
    paths = sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES))
    if not paths:
        raise BadRecord(folder, "-", f"no {said(SUFFIXES)} file in this folder")
    return paths


def _field(record: Any, key: str, kind: type, path: object, number: int) -> Any:
    if not isinstance(record, dict):
        raise BadRecord(path, number, "is not an object")
    if key not in record:
        raise BadRecord(path, number, f"has no {key!r}")
    value = record[key]
    # To Python True is an int, and would pass as an index.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BadRecord(path, number, f"{key!r} is of type {type(value).__name__}")
    return value
