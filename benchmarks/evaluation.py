"""Evaluating one model of the default study: how long it takes, how sure its scores are, and what batches and the cache save.

    uv run python benchmarks/evaluation.py

in a folder where the study has been made. Takes the recipe's fine-tuned model through the whole evaluation on one thread
(start-up and imports left out, as a run's jobs share them), and asks a sample of the same questions one at a time,
reading the whole prompt again for every token. CPU-seconds of this process, median of the rounds with their range. What
all questions would take one at a time is, summed over tasks and conditions, the sample's mean there times the questions
there. (In the evaluation duplicates, the same prompt about the same image or about none, are asked once; one at a time
every question counts.) The standard error is the largest of all vision and text tasks'. Prints a table and writes
benchmarks/results/evaluation.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import random
import shutil
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import ROOT, machine

from pipeline.common.files import read_json, stable_json, write_text
from pipeline.evaluation import answering, evaluate
from pipeline.evaluation.answer_store import Answers
from pipeline.evaluation.evaluate import Silent
from pipeline.evaluation.evaluation import Evaluation
from pipeline.evaluation.job_settings import Evaluate
from pipeline.execution.run import open_job
from pipeline.settings.load import load_settings
from pipeline.store.ledger import Ledger
from pipeline.study.study import Study

RESULT = ROOT / "benchmarks/results/evaluation.json"
ROUNDS, SAMPLE = 3, 6  # of the sample: questions a task and condition


def find_job(ledger: Ledger):
    """The evaluation of the recipe's fine-tuned model."""
    study = ledger.study
    job = study.evaluate(study.finetune(study.recipe), study.recipe)
    if not ledger.is_current(job):
        sys.exit(f"{job.card}: not made yet, or not of today's code: run `snakemake` first")
    ledger.write_jobs()
    with open(os.devnull, "w") as nowhere:
        return open_job(read_json(ledger.job_file(job)), nowhere, first=False)


def whole(job) -> tuple[float, dict[str, pd.DataFrame]]:
    """CPU-seconds of the whole evaluation, and its rows of vision and text."""
    shutil.rmtree(job.resume, ignore_errors=True)  # the answers of the round before
    with tempfile.TemporaryDirectory() as out:
        start = time.process_time()
        evaluate.run(job, Path(out))
        spent = time.process_time() - start
        shutil.rmtree(job.resume, ignore_errors=True)
        return spent, {name: pd.read_csv(Path(out) / f"{name}.csv") for name in ("vision", "text")}


def vision(job) -> float:
    """CPU-seconds of the vision rows alone."""
    evaluation = Evaluation(Evaluate.model_validate(job.settings), job.inputs, job.context, Answers(), Silent())
    start = time.process_time()
    for _ in evaluation.vision(False):
        pass
    return time.process_time() - start


def one_by_one(job, seed: int) -> float:
    """CPU-seconds of all vision questions, one prompt at a time and without a cache."""
    evaluation = Evaluation(Evaluate.model_validate(job.settings), job.inputs, job.context, Answers(), Silent())
    evaluation.answer = partial(sampled, evaluation, random.Random(seed), spent := [])
    for _ in evaluation.answered():
        pass
    return sum(spent)


def sampled(evaluation: Evaluation, choose: random.Random, spent: list, key, prompts, shown, look, reply, longest, _):
    """Stands in for Evaluation.answer of a task and condition: answers a sample, notes what all would take, says nothing."""
    if look is not None:
        look(shown[:1])  # the mean image is made when it is first looked at, for all questions
    seconds = []
    for prompt, what in choose.sample(list(zip(prompts, shown)), min(SAMPLE, len(prompts))):
        start = time.process_time()
        with torch.inference_mode():
            ask_one(evaluation, list(prompt), what, look, longest if reply.func is answering.generate else 1)
        seconds.append(time.process_time() - start)
    spent.append(statistics.fmean(seconds) * len(prompts))
    return [""] * len(prompts)


def ask_one(evaluation: Evaluation, prompt: list[int], what, look, longest: int) -> None:
    model, tokenizer = evaluation.model, evaluation.tokenizer
    features = slots = None
    if look is not None:
        features = look([what])
        prompt = [tokenizer.image] * features.shape[1] + prompt
        slots = torch.arange(features.shape[1])
    said: list[int] = []
    while len(said) < longest:
        hidden = model.decoder(model.embed(torch.tensor([prompt + said]), features, slots))[:, -1]
        token = int(model.decoder.logits(hidden).argmax())
        if token == tokenizer.end_assistant:
            return
        said.append(token)


def main() -> None:
    torch.set_num_threads(1)
    job = find_job(Ledger(Study(load_settings(ROOT)), ROOT))
    rounds = []
    for number in range(ROUNDS):
        seconds, rows = whole(job)
        rounds.append({"whole": seconds, "vision": vision(job), "one_by_one": one_by_one(job, number)})
    asked = rows["vision"].query("condition == 'normal'")
    error = pd.concat([found.groupby("task")["score"].sem() * 100 for found in (asked, rows["text"])])
    for name, values in (
        ("whole evaluation, CPU-s", [r["whole"] for r in rounds]),
        ("its vision rows, CPU-s", [r["vision"] for r in rounds]),
        ("one by one, without a cache: times as long", [r["one_by_one"] / r["vision"] for r in rounds]),
    ):
        print(f"{name}: {statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})")
    print(
        f"{len(rows['vision'])} vision rows; largest standard error of a task: {error.max():.2f} points ({error.idxmax()})"
    )
    errors = {task: round(value, 3) for task, value in error.items()}
    found = {"rounds": rounds, "vision_rows": len(rows["vision"]), "standard_errors_points": errors}
    write_text(RESULT, stable_json(found | machine("torch")))


if __name__ == "__main__":
    main()
