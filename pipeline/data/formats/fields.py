"""Fields of foreign records, with errors that say where they stand."""

from __future__ import annotations

from typing import Any

from pipeline.data.records import BadRecord as BadRecord


def get_field(record: object, key: str, kind: type | tuple[type, ...], file: object, where: object) -> Any:
    """`record[key]`, which must be there and of this kind (and, if text, not empty)."""
    if not isinstance(record, dict):
        raise BadRecord(file, where, "is not an object")
    if key not in record:
        raise BadRecord(file, where, f"has no {key!r}")
    value = record[key]
    # To Python True is an int, and would pass as an id.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BadRecord(file, where, f"{key!r} is of type {type(value).__name__}")
    if value == "":
        raise BadRecord(file, where, f"{key!r} is empty")
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise BadRecord(file, where, f"{key!r} is a number of more than 64 bits")
    # Such a text could later be neither hashed nor written as UTF-8.
    if isinstance(value, str) and value != value.encode(errors="replace").decode():
        raise BadRecord(file, where, f"{key!r} has half of a surrogate pair, which is no character")
    return value
