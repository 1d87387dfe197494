"""Whether a task is above its floor: the recommended model beside answers that need no image.

floors.csv has rows of every vision task: the scores of the model, of the best constant answer, of the most frequent training
answer to the same prompt and of the recipe fine-tuned without images; and how far the model is above the best of these three,
question by question. Intervals cover the questions, and the seeds of the model; of the blind model there is one run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd

from pipeline.common.files import one_line, write_text
from pipeline.reporting import scores
from pipeline.reporting.experiment_tables import title
from pipeline.reporting.measures import VISION, stable
from pipeline.reporting.table_list import TABLES
from pipeline.reporting.table_rows import (
    Cell,
    Rows,
    failed_lines,
    interval,
    markdown_table,
    plain,
    score_text,
    write_table,
)
from pipeline.statistics.estimates import Estimate

CLEAR = 0.05  # nearer to what needs no image, little room is left to tell a worse model by
MODEL, ABOVE, CONSTANT = "recommended model", "above the best of these", "best constant answer"
COLUMNS = ["task", "in_average", "answers", "seeds", "status", "questions", "score", "score_low", "score_high"]
COLUMNS += ["constant_answer", "at_floor"]


def make(rows: Rows, out: Path) -> None:
    """floors.csv and floors.md; without a model or a blind run they say why there is nothing."""
    cells = rows.cells(evaluated="model")
    table = pd.DataFrame([row for cell in cells for row in cell_rows(rows, cell)], columns=COLUMNS)
    write_table(table, out / "floors.csv")
    write_text(out / "floors.md", markdown(rows, table))


def cell_rows(rows: Rows, cell: Cell) -> Iterator[dict]:
    """The rows of all vision tasks, of the recommended model; of one that failed, or without a blind run, why there are none."""
    in_average = stable(rows.tasks["vision"])
    status = f"no language prior: {rows.no_prior}" if rows.no_prior else cell.status
    about = {name: {"task": name, "in_average": name in in_average, "status": status} for name in rows.tasks["vision"]}
    if not cell.runs or rows.no_prior:
        yield from (one | {"answers": ABOVE, "seeds": 0} for one in about.values())
        return
    constant = rows.constant
    guesses = {CONSTANT: constant, "most frequent training answer": rows.majority, "blind model": rows.blind}
    strongest = scores.strongest(guesses)
    folders = [rows.folder(run) for run in cell.runs.values()]
    for name in about:
        about[name] |= {"questions": int((constant["task"] == name).sum())}
        answer = constant.loc[constant["task"] == name, "answer"].iloc[0]

        def of_model(value: Callable[[pd.DataFrame], Estimate], name: str = name) -> dict:
            found = rows.estimate(folders, VISION, value, condition="normal", task=name)
            return {"seeds": len(folders), **interval("score", found)}

        yield about[name] | {"answers": MODEL} | of_model(partial(scores.average, chance={name: 0.0}))
        for kind, guess in guesses.items():
            of_task = guess[guess["task"] == name].assign(image=lambda found: found["id"])
            score = scores.average(of_task, {name: 0.0}).estimate
            yield (
                about[name]
                | {"answers": kind, "seeds": 1, "score": score}
                | ({"constant_answer": answer} if kind == CONSTANT else {})
            )
        above = of_model(partial(gain, strongest[strongest["task"] == name], name))
        yield about[name] | {"answers": ABOVE} | above | {"at_floor": not is_clear(above)}


def gain(guess: pd.DataFrame, task: str, of_task: pd.DataFrame) -> Estimate:
    """By how much the rows of a task score more than a guess."""
    return scores.average(scores.gains(of_task, guess), {task: 0.0}, "gain")


def is_clear(above: dict) -> bool:
    return above["score"] >= CLEAR and above["score_low"] > 0


def markdown(rows: Rows, table: pd.DataFrame) -> str:
    """The table for reading."""
    failed = table[table["seeds"] == 0]
    asked = table[table["seeds"] > 0]
    kinds = list(dict.fromkeys(asked["answers"]))
    lines = []
    for task, of_task in asked.groupby("task", sort=False):
        by_kind = of_task.set_index("answers")
        constant, above = by_kind.loc[CONSTANT], by_kind.loc[ABOVE]
        texts = {kind: score_text(by_kind.loc[kind], "score") for kind in kinds}
        texts[CONSTANT] += f" ({plain(one_line(constant['constant_answer'], 40))})"
        lines.append(
            [
                f"{plain(str(task))}{rows.left_out.get(str(task), '')}",
                "yes" if above["in_average"] else "no",
                *(f"{above[column]:g}" for column in ("questions", "seeds")),
                *(texts[kind] for kind in kinds),
                "yes" if above["at_floor"] else "no",
            ]
        )
    return "\n".join(
        [
            title(rows, TABLES["floors"].title),
            "",
            "Percent correct with 95% intervals over the questions and the model's seeds. A task is at its floor where the model is"
            f" less than {100 * CLEAR:g}",
            "points above the best answers without looking, or not clear of them: it tells little of a difference between models.",
            "",
            *markdown_table(["task", "in the average", "questions", "seeds", *kinds, "at its floor"], lines),
            "",
            *failed_lines("task", failed["task"], failed["status"]),
        ]
    )
