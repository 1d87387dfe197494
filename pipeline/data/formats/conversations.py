"""Instructions as LLaVA's JSON has them, and the <image> in their texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.data.formats.fields import get_field
from pipeline.data.formats.image_folder import ImageFolder
from pipeline.data.formats.open_text import read_records
from pipeline.data.records import BadRecord as BadRecord
from pipeline.data.records import Conversation

MARKER = "<image>"  # stands for the image in LLaVA's texts
LLAVA_KEYS = ("id", "image", "conversations")
# What names an image or a video in records of other layouts than LLaVA's: keys, keys that stand beside `image` without being
# about it (as `image_id` is), and ends of file names.
MEDIA_KEY = re.compile("image|img|picture|photo|video", re.IGNORECASE)
FURTHER_KEY = re.compile(r"(image|img|picture|photo|video)(s|s?_?(path|file|list|\d+)s?)?", re.IGNORECASE)
MEDIA_FILE = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|mp4|webm|avi|mov|mkv)$", re.IGNORECASE)


def marked(text: str) -> tuple[int, str]:
    """How many <image> stand on lines of their own before and after a text, as in LLaVA's; and the text without these lines.

    An <image> inside of a line, or between lines of text, is text.
    """
    lines = text.strip().split("\n")
    head, tail = (
        list(takewhile(lambda line: not line.replace(MARKER, "").strip(), way)) for way in (lines, lines[::-1])
    )
    # A text of markers alone is all head and all tail; no line may count twice.
    tail = tail[: len(lines) - len(head)]
    left = "\n".join(lines[len(head) : len(lines) - len(tail)])
    return sum(line.count(MARKER) for line in (*head, *tail)), left.strip()


def unmarked(text: str, file: object, where: object) -> str:
    """A text about one image, which goes without saying, less the line that stands for it. Raises BadRecord."""
    found, left = marked(text) if MARKER in text else (0, "")
    if found > 1:
        raise BadRecord(file, where, f"has {found} {MARKER} and 1 image")
    if found and not left:
        raise BadRecord(file, where, f"has no text beside {MARKER}")
    return left if found else text


def read_conversations(json_path: Path, image_root: Path) -> Iterator[Conversation]:
    """Conversations of a LLaVA JSON file, as `conversation`. Raises BadRecord."""
    images = ImageFolder(image_root)

    def look(image: str, where: str) -> bytes:
        return images.path(image, json_path, where).read_bytes()

    for number, record in read_records(json_path):
        yield conversation(record, json_path, number, look)


def conversation(record: Any, file: object, number: int, look: Callable[[str, str], bytes | None]) -> Conversation:
    """A record of a LLaVA JSON file, the `number`th; `look(name, id)` gives its image. Raises BadRecord.

    Of a record with an image, what human says has one <image> in all, which is taken out. All other text stays as it is.
    """
    name = str(get_field(record, "id", (str, int), file, number))
    image, has_image = None, record.get("image") is not None
    # A record of another layout would otherwise train on text about an image that nobody showed.
    if fault := further_images(record) if has_image else lost_image(record):
        raise BadRecord(file, name, fault)
    if has_image:
        image = look(get_field(record, "image", str, file, name), name)
    turns = _turns(get_field(record, "conversations", list, file, name), file, name)
    if not has_image:
        return Conversation(name, None, turns)
    if (markers := sum(asked.count(MARKER) for asked, _ in turns)) != 1:
        raise BadRecord(file, name, f"has 1 image and {markers} {MARKER} in what human says, allowed: 1")
    shown = ((asked.replace(MARKER, "").strip() if MARKER in asked else asked, told) for asked, told in turns)
    return Conversation(name, image, tuple(shown))


def is_chat(record: Any) -> bool:
    """Whether a record of a LLaVA JSON file is about no image, and not about one that is not found where it should be."""
    return isinstance(record, dict) and record.get("image") is None and lost_image(record) is None


def lost_image(record: dict) -> str | None:
    """What says that a record without `image` is about an image or a video all the same, or None.

    A key that names one, or a human's text that begins or ends with <image>. Inside of a text it is text.
    """
    others = [key for key in record if key not in LLAVA_KEYS]
    if media := [key for key in others if any(MEDIA_KEY.search(key) or _is_file(one) for one in _named(record[key]))]:
        return f"has no 'image' but {' and '.join(map(repr, media))}, which is not read; allowed: the name of one file, as 'image'"
    messages = record.get("conversations")
    for message in messages if isinstance(messages, list) else ():
        asked = message.get("value") if isinstance(message, dict) and message.get("from") == "human" else None
        if isinstance(asked, str) and (asked.strip().startswith(MARKER) or asked.strip().endswith(MARKER)):
            keys = ", ".join(map(repr, others)) or "none"
            return f"has {MARKER} at an end of what human says and no 'image'; its other keys: {keys}"
    return None


def further_images(record: dict) -> str | None:
    """What names other images or videos in a record with `image`, or None. Another way to the same file name is the same."""
    name = PurePosixPath(str(record["image"])).name
    further = [
        key
        for key in record
        if key not in LLAVA_KEYS
        and any(
            not (isinstance(one, str) and PurePosixPath(one).name == name)
            and (FURTHER_KEY.fullmatch(key) or _is_file(one))
            for one in _named(record[key])
        )
    ]
    found = " and ".join(map(repr, further))
    return f"has 'image' and also {found}, which is not read; allowed: one image a record" if further else None


def _named(value: object) -> list:
    """What an entry of a record may name files with: texts, lists and objects that hold something."""
    return [
        one for one in (value if isinstance(value, list) else [value]) if one and isinstance(one, str | list | dict)
    ]


def _is_file(one: object) -> bool:
    return isinstance(one, str) and bool(MEDIA_FILE.search(one))


def _turns(messages: list, file: object, where: str) -> tuple[tuple[str, str], ...]:
    if not messages or len(messages) % 2:
        raise BadRecord(file, where, f"has {len(messages)} messages, not pairs of human and gpt")
    texts = []
    for number, message in enumerate(messages):
        speaker = ("human", "gpt")[number % 2]
        if get_field(message, "from", str, file, where) != speaker:
            raise BadRecord(file, where, f"message {number} is not from {speaker}")
        texts.append(get_field(message, "value", str, file, where))
    return tuple(zip(texts[::2], texts[1::2], strict=True))
