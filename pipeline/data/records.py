"""What the readers give: one small frozen record a kind of example, whatever file format it came from; or a BadRecord."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TypeVar

from pipeline.common.files import one_line


@dataclass(frozen=True)
class Caption:
    """An image (encoded bytes) and the text that describes it."""

    id: str
    image: bytes
    text: str


@dataclass(frozen=True)
class Conversation:
    """Turns of (human, assistant) text about an image (encoded bytes), or about none."""

    id: str
    image: bytes | None
    turns: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Question:
    """A bare question or referring expression, without any prompt around it; `id` is unique within the task.

    `kind` is the question type ("random", "count", "left of", ...); `box` is x1, y1, x2, y2 in 0..1 of the image;
    `structure` is GQA's structural type ("query", "verify", ...). An image to caption is a question without text, whose
    answers are the reference captions.
    """

    id: str
    task: str
    image: Path
    text: str
    answers: tuple[str, ...]
    kind: str
    box: tuple[float, float, float, float] | None = None
    structure: str = ""


@dataclass(frozen=True)
class MultipleChoice:
    """A context, its possible continuations, and the index of the right one."""

    id: str
    task: str
    context: str
    choices: tuple[str, ...]
    gold: int


@dataclass(frozen=True)
class Document:
    """Plain text."""

    id: str
    text: str


class Use(IntEnum):
    """What an id may be in the token lists of others."""

    NONE, TEXT, ONCE, PADDING = range(4)  # ONCE: text, and padding where several of it end a list


class BadRecord(ValueError):
    """A file that cannot be read, or a record in it that is missing something.

    `broken_at`: the byte from which on nothing of the file could be read, if it breaks off there. `records`: how many
    records it stands for; none if what it is about has been counted before.
    """

    advice = "mend or replace the file, then run the same command again"

    def __init__(self, file: object, record: object, reason: str, broken_at: int | None = None, records: int = 1):
        self.file, self.record = str(file), record if isinstance(record, int) else one_line(record)
        self.reason, self.broken_at, self.records = one_line(reason), broken_at, records
        super().__init__(f"{one_line(file)}: record {self.record}: {self.reason}")

    # An exception is pickled as its class and `args`. Here `args` is the one line, of which the parts cannot be made
    # again.
    def __reduce__(self) -> tuple:
        again = (self.file, self.record, self.reason, self.broken_at, self.records)
        return BadRecord, again  # from one process to another


class LeftOut:
    """A block that reads one item of a benchmark: of bad ones, `most` may be left out, and are kept here.

    One more raises BadRecord, of the first. `before` have been left out elsewhere. None: the item's own BadRecord, as
    nobody may allow any.
    """

    COUNTS = ("left_out", "clipped_boxes")

    def __init__(self, most: int | None = None, before: int = 0):
        self.most, self.before = most, before
        self.found: list[BadRecord] = []
        self.clipped = 0  # boxes that reached over their image by a pixel or two

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, BadRecord) or self.most is None:
            return False
        self.found.append(error)
        if self.before + len(self.found) > self.most:
            first, more = self.found[0], self.before + len(self.found) - 1
            also = f" (and so {more:,} more)" if more else ""
            allowed = f"allowed to be left out: {self.most:,} (left_out_at_most of the task in configs/tasks)"
            raise BadRecord(first.file, first.record, f"{first.reason}{also}; {allowed}") from None
        # The block's error ends here: the item is left out, and the loop around the block goes on.
        return True

    def say(self, task: str) -> dict[str, int]:
        """Say in the job's log what is left out and why; returns what is counted, if anything is."""
        for error in self.found:
            print(f"{task}: left out: {error}", flush=True)
        if self.clipped:
            print(f"{task}: {self.clipped:,} boxes reach over their image by up to 2 px and are clipped", flush=True)
        return {key: count for key, count in zip(self.COUNTS, (len(self.found), self.clipped)) if count}


Found = TypeVar("Found")


def strict(found: Iterable[Found | BadRecord]) -> Iterator[Found]:
    """What was read. Raises the first BadRecord among it."""
    for one in found:
        if isinstance(one, BadRecord):
            raise one
        yield one
