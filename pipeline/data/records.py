"""What the readers give: one small frozen record a kind of example, whatever file format it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
