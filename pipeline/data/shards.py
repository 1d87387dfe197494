"""The shards phase: of a source that was made here, or of corpora."""

from __future__ import annotations

from pathlib import Path

from pipeline.common.job_context import Job
from pipeline.data.corpora.convert import convert_corpora
from pipeline.data.corpora.listed import is_corpora
from pipeline.data.scenes.to_shards import run as write_sequences


def run(job: Job, out: Path) -> dict:
    """Phase "shards": tokenize a part and write its training sequences as MDS; returns what was counted."""
    return convert_corpora(job, out) if is_corpora(job.inputs["source"]) else write_sequences(job, out)
