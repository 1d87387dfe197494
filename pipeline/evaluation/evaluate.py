"""The evaluation phase: every score of one model, an example a row."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from pipeline.common.files import write_rows
from pipeline.common.job_context import Job, Progress
from pipeline.data.corpora.list_files import left_out_of
from pipeline.evaluation.answer_store import Answers, helpers
from pipeline.evaluation.evaluation import Evaluation, check
from pipeline.evaluation.job_settings import Evaluate

COUNTS = {"vision": "vision_rows", "captions": "caption_rows", "text": "text_rows", "heldout": "heldout_rows"}


def answer_share(
    settings: Evaluate,
    inputs: dict[str, Path],
    context: dict,
    folder: Path,
    processes: int,
    progress: Progress,
    process: int,
) -> None:
    """Answer the batches that fall to process number `process` of `processes`, and keep the answers in `folder`."""
    evaluation = Evaluation(settings, inputs, context, Answers(folder, process, processes), progress, process)
    with evaluation.precision():
        # Rows come only where all answers are known; they are asked for because that is what makes a process answer.
        for _, _, rows in evaluation.files():
            for _ in rows:
                pass


def count_processes(settings: Evaluate, context: dict) -> int:
    """How many processes share the evaluation: what the context says, else one for each visible GPU."""
    if said := context.get("evaluation_processes"):
        return said
    return 1 if settings.hardware.device == "cpu" else max(1, torch.cuda.device_count())


def run(job: Job, out: Path) -> dict:
    """Phase "evaluate": score one checkpoint on everything that its card names; returns the counts of rows.

    Raises ValueError, before a model is asked, for what could not be answered or judged.
    """
    settings = Evaluate.model_validate(job.settings)
    # What cannot be answered is found now, and not after hours of answering.
    check(settings, job.inputs, job.context)
    folder, processes = job.resume / "answers", count_processes(settings, job.context)
    # The processes answer and write nothing but answers. Then this one goes through the whole evaluation again, finds
    # all answers and writes the rows: the same files for any number of processes.
    if processes > 1:
        arguments = (settings, job.inputs, job.context, folder, processes)
        with helpers(answer_share, processes - 1, *arguments, Silent()):
            answer_share(*arguments, job.progress, 0)
    evaluation = Evaluation(settings, job.inputs, job.context, Answers(folder), job.progress)
    counts: dict[str, Any] = {}
    with evaluation.precision():
        for name, columns, rows in evaluation.files():
            count = write_rows(out / f"{name}.csv", columns, rows)
            counts |= {COUNTS[name]: count} if name in COUNTS else {}
    left_out = {name: found for name, bad in evaluation.left_out.items() if (found := bad.say(name))}
    for source in (job.inputs[name] for name in ("questions", "text") if name in job.inputs):
        for name, found in left_out_of(source).items():
            left_out[name] = dict(Counter(left_out.get(name, {})) + Counter(found))
    return counts | ({"left_out": left_out} if left_out else {})


class Silent:
    """Progress that is not shown: the first process shows the progress for all."""

    def begin_at(self, done: float) -> None:
        pass

    def update(self, *_: object) -> None:
        pass
