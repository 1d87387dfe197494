"""Scores of all runs of a study in a few small files, so that its verdicts can be judged again without its artifacts.

    scores/runs.csv        a row a run: its cell and its seed, and why it failed, if it did
    scores/measured.json   what the jobs behind each run counted
    scores/prior.csv.xz    the language prior's score of every question
    scores/FILE.csv.xz     of each file of an evaluation: a row a question, and a column a run

What models said is left out; scores stand as they were written, digit by digit.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from pipeline.common.files import atomic_folder, read_json, stable_json
from pipeline.reporting.job_settings import TableSettings
from pipeline.reporting.measures import ANSWERS, CAPTIONS, HELDOUT, TEXT, VISION
from pipeline.reporting.table_rows import Rows

SCORES = "scores"
VALUES = {VISION: "score", TEXT: "score", CAPTIONS: "score", HELDOUT: "nats", ANSWERS: "nats"}
# What a model said, or what only a reader of its answers wants.
LEFT_OUT = ["answer", "prediction", "reference", "valid"]
RUNS, PRIOR, MEASURED = "runs.csv", "prior.csv", "measured.json"
TRAINING = ("cooldown", "finetune")


def keep(rows: Rows, folder: Path) -> None:
    """Write the scores of a study's runs into `folder`/scores, in the place of what is there."""
    runs: list[dict] = []
    counts: dict[str, dict] = {}
    columns: dict[str, dict[str, pd.Series]] = {file: {} for file in VALUES}
    for row in rows.told.rows:
        label, evaluated = label_of(row), rows.folder(row["run"])
        runs.append({"run": label, "failed": rows.failure(f"scores/{row['run']}") or ""})
        counts[label] = {phase: rows.measured(f"{phase}/{row['run']}") for phase in TRAINING}
        for file, value in VALUES.items():
            if (evaluated / file).exists():
                # As texts: a number that is read and written again may be another one.
                table = pd.read_csv(evaluated / file, dtype=str, keep_default_na=False)
                named = [name for name in table.columns if name not in (value, *LEFT_OUT)]
                columns[file][label] = table.set_index(named)[value]
    with atomic_folder(folder / SCORES, folder / f".{SCORES}.partial") as place:
        write(pd.DataFrame(runs), place / RUNS)
        (place / MEASURED).write_text(stable_json(counts), encoding="utf-8")
        for file, found in columns.items():
            if found:
                write(pd.concat(found, axis=1, sort=False).reset_index().fillna(""), place / file)
        if not rows.no_prior:
            write(rows.prior, place / PRIOR)


def unpack(runs: Iterable[dict], folder: Path, out: Path) -> dict[str, Path]:
    """What `keep` wrote of some runs (rows of `Rows.told.rows`), as folders below `out`, by their roles.

    `out` must not exist. Raises ValueError for a run that is not there.
    """
    runs = list(runs)
    kept = read(folder / SCORES / RUNS).set_index("run")["failed"]
    counts = read_json(folder / SCORES / MEASURED)
    inputs: dict[str, Path] = {}
    for row in runs:
        if label_of(row) not in kept:
            raise ValueError(f"{folder / SCORES}: no scores of {label_of(row)}")
        place = inputs[f"scores/{row['run']}"] = out / row["run"]
        place.mkdir(parents=True)
        if failed := kept[label_of(row)]:
            (place / MEASURED).write_text(stable_json({"failed": failed}), encoding="utf-8")
        for phase, measured in counts[label_of(row)].items():
            if measured:
                trained = inputs[f"{phase}/{row['run']}"] = out / phase / row["run"]
                trained.mkdir(parents=True)
                (trained / MEASURED).write_text(stable_json(measured), encoding="utf-8")
    for file, value in VALUES.items():
        if not packed(folder / SCORES / file).exists():
            continue
        table = read(folder / SCORES / file)
        about = table[[name for name in table.columns if name not in kept.index]]
        for row in runs:
            if label_of(row) in table.columns:
                own = table[label_of(row)]
                about.assign(**{value: own})[own != ""].to_csv(out / row["run"] / file, index=False)
    return inputs


def rows_of(told: TableSettings, folder: Path, inputs: dict[str, Path]) -> Rows:
    """What a table's job knows of runs that `unpack` has unpacked."""
    rows = Rows(told, inputs)
    if packed(folder / SCORES / PRIOR).exists():
        prior = read(folder / SCORES / PRIOR)
        rows.__dict__["prior"] = prior.assign(score=prior["score"].astype(float))
    return rows


def label_of(row: dict) -> str:
    """How a run's column is called: ids of runs change with the code, its cell and seed do not."""
    return f"{row['cell']} seed={row['seed']}"


def packed(file: Path) -> Path:
    """Where a file lies: the list of runs is short, and to be read."""
    return file if file.name == RUNS else file.with_name(f"{file.name}.xz")


def write(table: pd.DataFrame, file: Path) -> None:
    data = table.to_csv(index=False, lineterminator="\n").encode()
    packed(file).write_bytes(data if packed(file) == file else lzma.compress(data, preset=9))


def read(file: Path) -> pd.DataFrame:
    """Every cell as the text that it is."""
    return pd.read_csv(packed(file), dtype=str, keep_default_na=False)
