"""Phase "sources": write one part of a data source in its official format, or list the files of real corpora."""

from __future__ import annotations

from pathlib import Path

from pipeline.common.files import folder_hashes
from pipeline.common.job_context import Job
from pipeline.data.job_settings import MADE, ListedCorpora, MadeText


def run(job: Job, out: Path) -> dict:
    """Write or list text, captions, instructions or evaluation; returns counts, and hashes of what was written."""
    if job.settings["source"] == "corpora":
        from pipeline.data.corpora.list_files import list_corpora

        return list_corpora(job, ListedCorpora.model_validate(job.settings), out)
    settings = MADE[job.settings["part"]].model_validate(job.settings)
    if isinstance(settings, MadeText):
        from pipeline.data.english.corpus import write_text

        counts = write_text(out, settings)
    else:
        from pipeline.data.scenes.write import write_scenes

        counts = write_scenes(out, settings)
    return counts | {"hashes": folder_hashes(out)}
