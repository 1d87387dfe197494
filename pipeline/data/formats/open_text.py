"""How text files are read, wherever they are: one way for corpora, instructions, benchmarks and tasks.

Text is UTF-8, with or without a byte order mark, as it is, gzipped (.gz) or in zstandard (.zst, .zstd). Records are JSON
lines (.jsonl, .json), or one JSON list (.json). A file is read once, from its beginning to its end, and never as a whole.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

import zstandard

from pipeline.common.json_text import after_space, decode_json, parse_json
from pipeline.data.records import BadRecord, strict

SUFFIXES = tuple(kind + packed for kind in (".jsonl", ".json") for packed in ("", ".gz", ".zst", ".zstd"))
CHUNK = 1 << 14  # bytes read at a time
PIECE = 1 << 20  # unpacked bytes that are looked at together
BITE = 1 << 10  # compressed bytes that are unpacked at a time: a zstandard block of 4 bytes can hold 128 KB
WINDOW = 1 << 30  # bytes that a zstandard frame may look back: `zstd --long=30`; memory of each process that reads one
LONGEST_LINE = 1 << 26  # bytes; DCLM's longest documents are a few megabytes
JSON_CHUNK = 1 << 20  # bytes of a JSON list that are read at a time
LONGEST_ITEM = 1 << 26  # characters of one item of a JSON list
LARGEST_FILE = 1 << 32  # bytes of a file that is one JSON value


class Stream(Protocol):
    """What can be read from its beginning to its end."""

    def read(self, size: int, /) -> bytes: ...


class Counted:
    """A file being read: its `position`, and where it was `before` the last reading."""

    def __init__(self, file: Stream):
        self.file, self.position, self.before = file, 0, 0

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.before, self.position = self.position, self.position + len(data)
        return data


def open_file(path: Path) -> BinaryIO:
    """A local file, open for reading. Raises BadRecord."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise BadRecord(path, "-", f"cannot be read ({error.strerror})") from None


def suffix_of(name: str) -> str:
    """What says how a file is read: ".jsonl.zst" of "a.b.jsonl.zst"; else its last suffix, or "no suffix"."""
    name = PurePosixPath(name).name
    if name.startswith("._"):
        return "._* of macOS"
    return next(
        (suffix for suffix in SUFFIXES if name.endswith(suffix)), PurePosixPath(name).suffix or "without suffix"
    )


def said(suffixes: tuple[str, ...]) -> str:
    """Suffixes as messages have them: ".jsonl or .json (also with .gz, .zst, .zstd)"."""
    plain = [suffix for suffix in suffixes if suffix.count(".") == 1]
    return " or ".join(plain) + " (also with .gz, .zst, .zstd)" * (len(plain) < len(suffixes))


def not_read(names: Iterable[str]) -> dict[str, int]:
    """How many files of a folder are not read, by their suffixes."""
    return dict(sorted(Counter(map(suffix_of, names)).items()))


def say_not_read(place: str, counts: dict[str, int]) -> None:
    """One line in the job's log, if there are any: "dclm: 3 files are not read: 2 .parquet, 1 .csv"."""
    if total := sum(counts.values()):
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in counts.items())
        print(f"{place}: {total:,} file{'s are' if total > 1 else ' is'} not read: {kinds}", flush=True)


# --- bytes ------------------------------------------------------------------------------------------------------------


def text_chunks(file: Stream, name: object) -> Iterator[bytes]:
    """The bytes of a text file, unpacked and without a byte order mark, piece by piece.

    Raises BadRecord for a damaged file, and for one that is cut off.
    """
    counted = file if isinstance(file, Counted) else Counted(file)
    packed = str(name).rpartition(".")[2]
    unpack = {"gz": _gunzipped, "zst": _unpacked_zst, "zstd": _unpacked_zst}.get(packed, _plain)
    pieces, start = unpack(counted, name), b""
    # The first piece may be shorter than the mark.
    for piece in pieces:
        start += piece
        if len(start) >= len(codecs.BOM_UTF8):
            break
    yield start.removeprefix(codecs.BOM_UTF8)
    yield from pieces


def _plain(file: Counted, name: object) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _gunzipped(file: Counted, name: object) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=file) as unpacked:  # type: ignore[call-overload]  # read() is all that it calls
            while piece := unpacked.read1(PIECE):
                yield piece
        # gzip takes a file of no bytes for an empty text.
        if not file.position:
            raise EOFError
    except EOFError:
        raise BadRecord(name, "-", "ends in the middle of gzipped data", file.position) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BadRecord(name, "-", f"is not readable gzip ({error})", file.before) from None


def _unpacked_zst(file: Counted, name: object) -> Iterator[bytes]:
    """A file that was cut off is an error, which zstandard's own stream reader hides."""
    packer = zstandard.ZstdDecompressor(max_window_size=WINDOW)
    try:
        frame, waiting = packer.decompressobj(), b""
        while chunk := waiting or file.read(CHUNK):
            if frame.eof:  # a file may hold several frames
                frame = packer.decompressobj()
            bite, waiting = chunk[:BITE], chunk[BITE:]
            unpacked = frame.decompress(bite)
            for start in range(0, len(unpacked), PIECE):
                yield unpacked[start : start + PIECE]
            if frame.eof:
                waiting = frame.unused_data + waiting
        if not frame.eof:
            raise BadRecord(name, "-", "ends in the middle of a zstandard frame", file.position)
    except zstandard.ZstdError as error:
        reason = f"is not readable zstandard ({error})"
        if "too much memory" in str(error):
            reason = (
                f"was compressed with a window of more than {WINDOW >> 20:,} MB (zstd --long);"
                " unpack it with `zstd -d --long=31` and compress it with --long=30 or less"
            )
        raise BadRecord(name, "-", reason, file.before) from None


# --- records ----------------------------------------------------------------------------------------------------------


def json_records(file: Stream, name: object) -> Iterator[tuple[int, Any | BadRecord]]:
    """The records of an open file: (line from 1, value) of JSON lines, (place from 0, value) of a JSON list.

    A file is a list if it begins with "[" and is not called .jsonl. In the place of a line that is no JSON stands a
    BadRecord. Nothing follows that of a damaged file, or of a place from which on a list is none.
    """
    counted = Counted(file)
    chunks = text_chunks(counted, name)
    try:
        start = b""
        while not start.strip() and len(start) < PIECE and (chunk := next(chunks, None)) is not None:
            start += chunk
    except BadRecord as error:
        yield 1, error
        return
    lines = suffix_of(str(name)).startswith(".jsonl")
    if not lines and not start.strip():
        yield 0, BadRecord(name, "-", "is not JSON (it is empty)")
    is_list = not lines and start.lstrip()[:1] == b"["
    read = _list_records if is_list else _line_records
    yield from read(_again(start, chunks), name, counted)


def read_records(path: Path) -> Iterator[tuple[int, Any]]:
    """The records of a local file, as `json_records` numbers them. Raises BadRecord for the first that is none."""
    with open_file(path) as file:
        for number, value in json_records(file, path):
            yield number, good(value)


def good(value: Any | BadRecord) -> Any:
    """What was read. Raises it if it is a BadRecord."""
    (value,) = strict([value])
    return value


def _again(start: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield start
    yield from chunks


def _line_records(chunks: Iterator[bytes], name: object, file: Counted) -> Iterator[tuple[int, Any | BadRecord]]:
    """(line number, value) of every line that is not blank."""
    for number, line in enumerate(_lines(chunks, name), 1):
        if isinstance(line, BadRecord):
            yield number, line
        elif line.strip():
            try:
                yield number, parse_json(line)
            except ValueError as error:  # undecodable text as well as undecodable JSON
                yield number, BadRecord(name, number, f"is not JSON ({error})")


def _lines(chunks: Iterator[bytes], name: object) -> Iterator[bytes | BadRecord]:
    """Lines, a BadRecord in the place of one that is too long, and one for the end of a file that breaks off."""
    parts: list[bytes] = []  # of the line that has begun
    size, number = 0, 1
    try:
        for chunk in chunks:
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


def _list_records(chunks: Iterator[bytes], name: object, file: Counted) -> Iterator[tuple[int, Any | BadRecord]]:
    number = 0
    try:
        for item in _items(chunks):
            yield number, item
            number += 1
    except BadRecord as error:
        yield number, error
    except ValueError as error:
        yield number, BadRecord(name, number, f"is not JSON ({error})", file.before)


def _items(chunks: Iterator[bytes]) -> Iterator[Any]:
    """The items of a JSON list, one by one: LLaVA's is a gigabyte. Raises ValueError for what is not such a list."""
    text, rest, place, first = codecs.getincrementaldecoder("utf-8")(), "", 0, True
    while True:
        data = _gather(chunks, max(JSON_CHUNK, len(rest) - place))  # twice as much each time that it is not enough
        rest, place = rest[place:] + text.decode(data, final=not data), 0
        try:
            while found := _json_item(rest, place, first):
                item, place = found
                yield item
                first = False
        except ValueError:
            # What is no item yet may be one when more of it is read.
            if not data or len(rest) - place > LONGEST_ITEM:
                raise
        else:
            break
    if any(map(bytes.strip, chunks)):
        raise ValueError("something follows the list")


def _gather(chunks: Iterator[bytes], wanted: int) -> bytes:
    """The next chunks, as many as have `wanted` bytes together, or all that are left."""
    parts, size = [], 0
    while size < wanted and (chunk := next(chunks, None)) is not None:
        parts.append(chunk)
        size += len(chunk)
    return b"".join(parts)


def _json_item(text: str, place: int, first: bool) -> tuple[object, int] | None:
    """The item of a JSON list after its "[" or a ",", and the place of the next "," or "]"; None at the list's end.

    Raises ValueError if there is no whole item.
    """
    place, opening = after_space(text, place), "[" if first else ","
    if not first and text[place:] and text[place] == "]" and not text[place + 1 :].strip():
        return None
    if text[place : place + 1] != opening:
        raise json.JSONDecodeError(f"Expecting {opening!r}", text, place)
    place = after_space(text, place + 1)
    if first and text[place:].rstrip() == "]":
        return None
    item, end = decode_json(text, place)
    end = after_space(text, end)
    if text[end : end + 1] not in (",", "]"):  # a number may go on
        raise json.JSONDecodeError("Expecting ',' or ']'", text, end)
    return item, end


# --- a file as one value ----------------------------------------------------------------------------------------------


def load_json(path: Path) -> Any:
    """A local file's one JSON value. Raises BadRecord."""
    with open_file(path) as file:
        data = io.BytesIO()
        for chunk in text_chunks(file, path):
            data.write(chunk)
            if data.tell() > LARGEST_FILE:
                raise BadRecord(path, "-", f"holds more than {LARGEST_FILE:,} bytes")
    try:
        return parse_json(data.getvalue())
    except ValueError as error:  # undecodable text as well as undecodable JSON
        raise BadRecord(path, "-", f"is not JSON ({error})") from None
