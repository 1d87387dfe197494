"""JSON as data sets write it: strict, with unique keys, and piece by piece."""

from __future__ import annotations

import json
import re
from typing import Any


def unique(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object's members. Raises ValueError for a key that occurs twice: nobody knows which one is meant."""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice in an object")
    return made


DECODER = json.JSONDecoder(object_pairs_hook=unique)
SPACE = re.compile(r"[ \t\r\n]*")
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a surrogate pair; both halves are one character


def decode_json(text: str, place: int = 0) -> tuple[Any, int]:
    """The JSON value that begins at a place of a text, and where it ends.

    Raises ValueError, of one line, for what is no JSON and for JSON that has no one meaning here: a key twice, half of
    a surrogate pair, lists in lists in lists beyond what Python reads. NaN and infinities are read, as Python and what is
    written with it writes them into fields that nobody needs; whoever uses a number looks at it.
    """
    try:
        value, end = DECODER.raw_decode(text, place)
        # Python reads half of a pair without an error, and fails much later, when the text is to be encoded. Encoding
        # every value to find out would be slow, and only such an escape can make one.
        if HALF.search(text, place, end):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair, which is no character") from None
    return value, end


def after_space(text: str, start: int) -> int:
    """The place of the first character from `start` on that is no white space of JSON's."""
    space = SPACE.match(text, start)
    assert space, "it matches nothing, too"
    return space.end()


def parse_json(data: str | bytes) -> Any:
    """The value of a JSON text in UTF-8. Raises ValueError as `decode_json`."""
    # Files saved on Windows may begin with a byte order mark, which JSON does not allow.
    text = data if isinstance(data, str) else data.decode("utf-8-sig")
    value, end = decode_json(text, after_space(text, 0))
    if (end := after_space(text, end)) < len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value
