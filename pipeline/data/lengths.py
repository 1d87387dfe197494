"""How long the documents of a text source are."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pipeline.common.files import write_rows
from pipeline.common.job_context import Job
from pipeline.data.formats.documents import read_documents
from pipeline.settings.types import Section


class LengthSettings(Section):
    part: Literal["text"]


def run(job: Job, out: Path) -> dict:
    """Phase "lengths": id and characters of every training document."""
    documents = read_documents(sorted((job.inputs["source"] / "text").glob("train-*.jsonl.zst")))
    rows = ([document.id, len(document.text)] for document in documents)
    return {"documents": write_rows(out / "lengths.csv", ["id", "characters"], rows)}
