"""Questions and conversations of a source, whether it was made here or lists corpora."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import fsspec

from pipeline.data.corpora.listed import is_corpora, listed_corpora
from pipeline.data.formats import question_files
from pipeline.data.formats.conversations import conversation, is_chat, read_conversations
from pipeline.data.formats.open_text import good, json_records
from pipeline.data.records import BadRecord, Conversation, Question


def read_task(source: Path, split: str, task: str, format: str, context: dict) -> Iterator[Question]:
    """The questions of a task from a source's artifact, whichever kind of source it is. Raises BadRecord."""
    folder = source / "evaluation" / split
    if not is_corpora(source):
        yield from question_files.read_questions(format, folder / task, images=folder / "images", task=task)
        return
    benchmark = context["corpora"]["evaluation"][split][task]
    images = Path(benchmark["path"], benchmark["images"])
    with open(folder / task / "questions.jsonl", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            box = tuple(record["box"]) if record["box"] else None
            yield Question(
                **record | {"image": images / record["image"], "answers": tuple(record["answers"]), "box": box}
            )


def read_splits(source: Path, split: str, task: str, format: str) -> dict[str, str]:
    """Question id -> whether what it is about was seen in training, which only composed scenes know."""
    folder = source / "evaluation" / split
    if is_corpora(source):
        return {}
    return question_files.read_splits(format, folder / task, images=folder / "images", task=task)


def read_turns(source: Path, context: dict) -> Iterator[Conversation]:
    """The conversations of a source's artifact, whichever kind of source it is, without their images.

    Of corpora, records that cannot be read are left out: phase "shards" has quarantined and counted them.
    """
    if not is_corpora(source):
        folder = source / "instructions"
        for one in read_conversations(folder / "conversations.json", folder / "images"):
            yield replace(one, image=None)
        return
    for name, listed in listed_corpora(source).items():
        corpus, place = listed["settings"], context["corpora"]["instructions"][name]["path"]
        with fsspec.open(f"{place}/{corpus['file']}", "rb") as file:
            for number, value in json_records(file, corpus["file"]):
                record = good(value)
                if corpus["without_image"] == "drop" and is_chat(record):
                    continue
                with suppress(BadRecord):
                    yield conversation(record, corpus["file"], number, lambda image, where: None)
