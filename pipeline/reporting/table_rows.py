"""Rows of tables: a row a cell (a model whatever its seed), with scores, intervals and costs as columns.

Scores are fractions (0..1) with 95% intervals. With one seed an interval covers which examples were asked, clustered by
image (vision) or item (text); with several it covers the seeds too (`statistics.estimates.over_seeds`).

A run that is kept as failed (pipeline/store/failed_runs.py) has no scores: its cell's row is of the other seeds, and its status says
why. Without other seeds the row has no figures.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.common.files import read_json, write_rows
from pipeline.data.questions import read_task, read_turns
from pipeline.data.records import Question
from pipeline.reporting import scores
from pipeline.reporting.job_settings import ResultSettings, TableSettings
from pipeline.reporting.measures import ANSWERS, CAPTIONS, HELDOUT, MEASURES, TEXT, VISION, WITHOUT_IMAGE, form_of
from pipeline.reporting.measures import stable as stable
from pipeline.reporting.table_list import key_words
from pipeline.settings.tasks import VisionTask
from pipeline.statistics.estimates import Estimate, over_seeds

SHARE = (0.0, 1.0)
UNKNOWN = Estimate(*[np.nan] * len(Estimate._fields))


@dataclass(frozen=True)
class Cell:
    """A model of the study whatever its seed: its settings, which state is evaluated, and its runs by seed.

    `failed` says of the seeds that are not among `runs` why.
    """

    name: str
    evaluated: str
    settings: dict
    runs: dict[int, str]
    failed: dict[int, str] = field(default_factory=dict)

    def of(self, seed: int) -> Cell:
        """The same with one seed alone."""
        runs, failed = ({s: what for s, what in whole.items() if s == seed} for whole in (self.runs, self.failed))
        return replace(self, runs=runs, failed=failed)

    @property
    def failures(self) -> str:
        """Why seeds failed, in one line."""
        several = len(self.runs) + len(self.failed) > 1
        return "; ".join(f"seed {seed}: {why}" if several else why for seed, why in sorted(self.failed.items()))

    @property
    def status(self) -> str:
        if not self.failed:
            return "ok"
        return f"{'without what failed' if self.runs else 'failed'}: {self.failures}"

    @property
    def seeds(self) -> list[int]:
        return sorted(self.runs)


class Rows:
    """What a table's job knows of its runs: cells, score files and costs."""

    def __init__(self, told: ResultSettings, inputs: dict[str, Path], context: dict | None = None):
        self.told, self.inputs, self.context = told, inputs, context or {}
        self.tasks = told.tasks
        self.last: dict[tuple, tuple[pd.DataFrame, list[pd.DataFrame]]] = {}  # what `scored` has read last

    @property
    def settings(self) -> TableSettings:
        assert isinstance(self.told, TableSettings), "the report has other settings"
        return self.told

    def cells(self, experiment: str | None = None, evaluated: str | None = None) -> list[Cell]:
        """The cells in the order of the study; of one experiment, or of one state."""
        found: dict[str, Cell] = {}
        for row in self.told.rows:
            if experiment not in (None, *row["experiments"]) or evaluated not in (None, row["evaluated"]):
                continue
            cell = found.setdefault(row["cell"], Cell(row["cell"], row["evaluated"], row["settings"], {}))
            if why := self.failure(f"scores/{row['run']}"):
                cell.failed[row["seed"]] = why
            else:
                cell.runs[row["seed"]] = row["run"]
        return list(found.values())

    def failure(self, role: str) -> str | None:
        """Why the artifact in a role is kept as failed, or None."""
        measured = self.inputs.get(role, Path()) / "measured.json"
        return read_json(measured).get("failed") if measured.exists() else None

    def measured(self, role: str) -> dict:
        """What the job in a role measured; nothing if there is none, or it failed."""
        if role not in self.inputs or self.failure(role):
            return {}
        return read_json(self.inputs[role] / "measured.json")

    def folder(self, run: str) -> Path:
        return self.inputs[f"scores/{run}"]

    @cached_property
    def vision_tasks(self) -> dict[str, VisionTask]:
        return {name: VisionTask.model_validate(task) for name, task in self.tasks["vision"].items()}

    def questions(self, task: str, format: str) -> Iterator[Question]:
        """What a task's models were asked."""
        return read_task(self.inputs["evaluation"], self.told.split, task, format, self.context)

    def chosen_questions(self, keys: set[tuple[str, str]]) -> dict[tuple[str, str], Question]:
        """The questions of these tasks and ids."""
        return {
            (name, question.id): question
            for name, task in self.tasks["vision"].items()
            for question in self.questions(name, task["format"])
            if (name, question.id) in keys
        }

    @cached_property
    def no_prior(self) -> str | None:
        """Why there is no language prior, if its blind run failed."""
        return self.failure("blind")

    @cached_property
    def left_out(self) -> dict[str, str]:
        """What a task's name is followed by where bad items of its files were left out, or boxes clipped."""
        runs = [self.inputs[role] / "measured.json" for role in self.inputs if role.startswith("scores/")]
        found: dict[str, dict[str, int]] = {}
        for file in (file for file in runs if file.exists()):
            found |= read_json(file).get("left_out", {})
        kinds = {"left_out": "bad items left out", "clipped_boxes": "boxes clipped"}
        said = {
            name: "; ".join(f"{counts[k]:,} {kinds[k]}" for k in kinds if k in counts) for name, counts in found.items()
        }
        return {name: f" ({text})" for name, text in said.items()}

    @cached_property
    def prior(self) -> pd.DataFrame:
        """Task by task what answering without looking scores: the stronger of majority and blind-trained."""
        return scores.language_prior(self.majority, self.blind)

    @cached_property
    def constant(self) -> pd.DataFrame:
        """What the best constant answer to each task scores."""
        return scores.constant_scores(self.vision_tasks, self.questions)

    @cached_property
    def majority(self) -> pd.DataFrame:
        """What the most frequent training answer to every prompt scores."""
        turns = read_turns(self.inputs["instructions"], self.context)
        return scores.majority_scores(self.vision_tasks, self.questions, turns)

    @cached_property
    def blind(self) -> pd.DataFrame:
        """What the recipe scores that was fine-tuned and is asked without images."""
        return scores.read_scores([self.inputs["blind"]], VISION)

    def estimate(
        self,
        folders: list[Path],
        file: str,
        value: Callable[[pd.DataFrame], Estimate],
        bounds: tuple[float, float] = (-math.inf, math.inf),
        **where: object,
    ) -> Estimate:
        """An estimate from rows averaged over runs, its interval widened by how the runs differ.

        bounds: between which it must be, whatever the t interval says: no share is above 1.
        """

        def of(rows: pd.DataFrame) -> Estimate:
            for column, wanted in where.items():
                rows = rows[rows[column] == wanted]
            return value(rows)

        averaged, each = self.scored(folders, file)
        whole = of(averaged)
        # One run says nothing of how runs differ.
        if len(each) > 1:
            runs = [of(rows) for rows in each]
            scores = [run.estimate for run in runs]
            # Without any scatter its interval is Wilson's.
            if max(whole.se, max(scores) - min(scores)) >= 1e-12:
                whole = over_seeds([scores], whole, runs, careful=False).estimate
        # With NumPy, which leaves an end that is not known as it is.
        low, high = np.maximum(whole.low, bounds[0]), np.minimum(whole.high, bounds[1])
        return whole._replace(low=float(low), high=float(high))

    def scored(self, folders: list[Path], file: str) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
        """Rows of a file averaged over runs, and every run's own; not to be changed.

        A table's row is some twenty estimates of the same file: it is read once, and no other is kept beside it.
        """
        key = (*folders, file)
        if key not in self.last:
            averaged = scores.read_scores(folders, file)
            each = [scores.read_scores([folder], file) for folder in folders] if len(folders) > 1 else [averaged]
            self.last = {key: (averaged, each)}
        return self.last[key]

    # --- columns ---

    def row(self, cell: Cell) -> dict:
        """All columns of a cell."""
        folders = [self.folder(run) for run in cell.runs.values()]
        columns: dict = {"cell": cell.name, "status": cell.status, "seeds": len(folders), **cell.settings}
        # Empty columns, not a missing row: the table still shows that the model was to be made.
        if not folders:
            return columns
        if cell.evaluated == "model" and self.no_prior:
            columns["status"] += f"; no language prior: {self.no_prior}"
        if cell.evaluated == "model":
            columns |= self.vision(folders)
        if cell.evaluated != "blind":
            columns |= self.text(folders) | self.optional(folders)
        return columns | self.cost(next(iter(cell.runs.values())))

    def table(self, cells: Iterable[Cell]) -> pd.DataFrame:
        return pd.DataFrame([self.row(cell) for cell in cells])

    def text_state(self, run: str) -> dict:
        """The columns of a state of the text run; nothing of one that failed, whose status says so."""
        failed = self.failure(f"pretrain/{run}") or self.failure(f"scores/{run}")
        if failed:
            return {"status": f"failed: {failed}", "seeds": 0}
        return {"seeds": 1, **self.text([self.folder(run)]), **self.cost(run)}

    def estimate_of(self, folders: list[Path], name: str) -> Estimate:
        """A measure of some evaluations; nothing but NaN for what is less a prior that failed."""
        measure = MEASURES[name]
        if measure.less == "prior" and self.no_prior:
            return UNKNOWN
        condition = {"condition": "normal"} if measure.file == VISION else {}
        bounds = scores.bounds(measure, self.tasks)
        return self.estimate(folders, measure.file, self.estimator(name), bounds, **condition)

    def estimator(self, name: str) -> Callable[[pd.DataFrame], Estimate]:
        """What makes a measure's estimate of rows of its file."""
        return scores.estimator(MEASURES[name], self.tasks, lambda: self.prior)

    def measures(self, folders: list[Path], *files: str) -> dict:
        """The columns of all measures of these files."""
        columns: dict = {}
        for name, measure in MEASURES.items():
            if measure.file not in files:
                continue
            # What is not optional and not there is a damaged evaluation: reading it raises the error.
            if measure.optional and not all(scores.was_asked(folder, measure, self.tasks) for folder in folders):
                continue
            if measure.less == "prior":
                columns |= {"language_prior": self.prior_average()}
            columns |= interval(name, self.estimate_of(folders, name))
        return columns

    def text(self, folders: list[Path]) -> dict:
        """Accuracy of every text task, the measures that need no image to be asked, and the bits of right answers."""
        columns: dict = {}
        for name in self.tasks["text"]:
            accuracy = partial(scores.average, chance={name: 0.0}, cluster="id")
            columns |= interval(name, self.estimate(folders, TEXT, accuracy, SHARE))
        return columns | self.measures(folders, TEXT, HELDOUT, ANSWERS)

    def vision(self, folders: list[Path]) -> dict:
        """Accuracy of every vision task, the measures of all of them, and the average under each other condition."""
        columns: dict = {}
        for name in self.tasks["vision"]:
            accuracy = partial(scores.average, chance={name: 0.0})
            columns |= interval(name, self.estimate(folders, VISION, accuracy, SHARE, condition="normal"))
        columns |= self.measures(folders, VISION)
        for condition in WITHOUT_IMAGE:
            other = self.estimate(folders, VISION, self.estimator("vision_average"), condition=condition)
            columns[f"vision_average_{condition}"] = other.estimate
        rows, _ = self.scored(folders, VISION)
        asked = rows[(rows["condition"] == "normal") & rows["task"].isin(list(stable(self.tasks["vision"])))]
        return columns | {"valid_answers": float(asked["valid"].mean())}

    def prior_average(self) -> float:
        """The language prior's score, averaged over tasks."""
        if self.no_prior:
            return np.nan
        # The prior is of questions, not of images; only the mean is used, which no cluster changes.
        return self.estimator("vision_average")(self.prior.assign(image=self.prior["id"])).estimate

    def optional(self, folders: list[Path]) -> dict:
        """What not every suite asks for, such as CIDEr-D of captions, where it was asked for."""
        return self.measures(folders, CAPTIONS)

    def cost(self, run: str) -> dict:
        """Tokens by kind and FLOPs of a run's whole ancestry."""
        measured = {
            phase: read_json(self.inputs[f"{phase}/{run}"] / "measured.json")
            for phase in ("pretrain", "cooldown", "finetune")
            if f"{phase}/{run}" in self.inputs
        }
        text = measured.get("pretrain", {})
        columns: dict = {"text_run_tokens": text.get("tokens", {}).get("positions", 0)}
        for phase in ("cooldown", "finetune"):
            for kind in ("text", "image", "image_text", "padding"):
                columns[f"{phase}_{kind}_tokens"] = measured.get(phase, {}).get("tokens", {}).get(kind, 0)
        if "cooldown" in measured:
            cooldown = measured["cooldown"]
            columns["image_fraction_of_sequences"] = cooldown["image_fraction"]["of_sequences"]
            columns["image_fraction_of_tokens"] = cooldown["image_fraction"]["of_positions"]
            columns["cooldown_first_lr"] = cooldown["learning_rates"]["first"]
            columns["cooldown_peak_lr"] = cooldown["learning_rates"]["peak"]
        columns["parameters"] = max((part["parameters"] for part in measured.values()), default=0)
        return columns | {"training_flops": sum(part["training_flops"] for part in measured.values())}


def interval(name: str, estimate: Estimate) -> dict[str, float]:
    """Three columns: the estimate and its interval's ends."""
    return {name: estimate.estimate, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def write_table(table: pd.DataFrame, file: Path, float_format: str = "%.6g") -> None:
    """A table as CSV; numbers as pandas writes them, texts as `write_rows` does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = table.to_csv(index=False, float_format=float_format, lineterminator="\r\n")  # so that each "\r" is quoted
    columns, *lines = csv.reader(io.StringIO(text, newline=""))
    write_rows(file, columns, lines)


def runs_of(row: pd.Series | dict) -> str:
    """How many seeds a row is of, or why it is of none or not of all."""
    if row["status"] == "not_run":
        return "not run"
    seeds = f"{row['seeds']:g}"
    return seeds if row["status"] == "ok" else f"{seeds}, {plain(row['status'])}".removeprefix("0, ")


def number(row: pd.Series | dict, name: str, form: str) -> str:
    """A number of a row, or nothing if it has none."""
    value = row.get(name)
    return "" if value is None or not np.isfinite(value) else format(value, form)


def failed_lines(title: str, names: Iterable[str], statuses: Iterable[str]) -> list[str]:
    """A Markdown list of what failed, and why; nothing where all is well."""
    lines = [f"- {title} {name}: {plain(status)}" for name, status in zip(names, statuses) if status != "ok"]
    return ["Failed:", "", *lines, ""] if lines else []


def made(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with figures: those of failed runs, if there are any, left out."""
    return table[table["seeds"] > 0] if "seeds" in table else table


def differing(settings: Sequence[Mapping], but: str) -> list[str]:
    """The settings that have several values, but for one: rows that differ in them are not points of one line."""
    keys = [key for key in (settings[0] if settings else {}) if key != but]
    return [key for key in keys if len({str(some.get(key)) for some in settings}) > 1]


def setting_names(settings: Mapping) -> str:
    """Settings for reading: "branch percent 20"."""
    shown = {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in settings.items()}
    return ", ".join(f"{key_words(key)} {value}" for key, value in shown.items())


def score_text(row: pd.Series | dict, column: str) -> str:
    """`41.2 (38.0 to 44.4)`: a score with its interval in the form of its measure, or nothing."""
    value = row.get(column)
    if value is None or not np.isfinite(value):
        return ""
    _, factor, digits = form_of(column)
    text = f"{factor * value:.{digits}f}"
    low: Any = row.get(f"{column}_low")
    high: Any = row.get(f"{column}_high")
    if low is None or not np.isfinite(low):
        return text
    return f"{text} ({factor * low:.{digits}f} to {factor * high:.{digits}f})"


def covered(seeds: Iterable[float]) -> str:
    """What the intervals of rows of so many seeds each cover."""
    fewest, most = min(seeds := [int(n) for n in seeds], default=1), max(seeds, default=1)
    several = "and the seeds where there are several" if fewest <= 1 else f"and {fewest} seeds or more"
    return f"95% over the questions asked, {'one seed' if most <= 1 else several}"


def markdown_table(header: list[str], rows: Iterable[list[str]]) -> list[str]:
    """Lines of a Markdown table; the first column is what a row is about.

    A cell is Markdown, and stays one cell of one line whatever is in it.
    """
    lines = ([cell_of(str(cell)) for cell in cells] for cells in (header, ["---"] * len(header), *rows))
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def cell_of(text: str) -> str:
    """Markdown as one cell of a table: no line break of any kind, and no bar that is not escaped."""
    line = " ".join(text.split())
    line = re.sub(r"(\\*)\|", lambda bar: bar[0] if len(bar[1]) % 2 else f"{bar[1]}\\|", line)
    return line if not (len(line) - len(line.rstrip("\\"))) % 2 else f"{line}\\"


def plain(text: object) -> str:
    """Text as Markdown of one line that shows just it, whatever a model, a data set or an error says."""
    shown = "".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in str(text))
    line = re.sub(r"([\\`*\[\]<>~|$&])", r"\\\1", " ".join(shown.split()))
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)  # between letters it is just itself
