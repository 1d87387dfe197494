"""Phase "sources": write one part of a data source in its official format, or list the files of real corpora."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from pipeline.common.files import folder_hashes
from pipeline.common.job_context import Job


def run(job: Job, out: Path) -> dict:
    """Text, captions, instructions or evaluation; returns the counts and the files' hashes."""
    settings = SimpleNamespace(**job.settings)
    if settings.source == "corpora":
        from pipeline.data.corpora.list_files import list_corpora

        return list_corpora(job, out)
    if settings.part == "text":
        from pipeline.data.english.corpus import write_text

        counts = write_text(out, settings)
    else:
        from pipeline.data.scenes.write import write_scenes

        counts = write_scenes(out, settings, settings.part)
    return counts | {"hashes": folder_hashes(out)}
