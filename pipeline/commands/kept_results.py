"""Results that are kept beside the study's own, with the params.yaml that they were made by: results/small.

Their artifacts are elsewhere. Their report is made from their tables and figures, and from what today's code makes of their
settings; the images of the examples are those of the contact sheet. The scores of their runs are kept too, so that their
verdicts can be judged again.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipeline.commands import decisions, kept_scores
from pipeline.common.files import (
    atomic_folder,
    csv_cell,
    file_hash,
    one_line,
    read_json,
    read_records,
    stable_json,
    write_text,
)
from pipeline.reporting.job_settings import ReportSettings, TableSettings
from pipeline.reporting.page.report import render
from pipeline.reporting.page.results import Results
from pipeline.reporting.table_list import both
from pipeline.reporting.table_rows import Rows
from pipeline.reporting.tables import find_maker
from pipeline.settings.claims import load_found
from pipeline.settings.load import load_settings
from pipeline.store.ledger import Ledger
from pipeline.study.study import Study
from pipeline.study.tables import report_settings

PARAMS, RESULTS, MADE_FROM, NOTES = "params.yaml", "results", "made_from", "README.md"
JUDGED = ("claims", "signal")  # the tables that are made from scores alone
DECISIONS = "decisions"
FOUND = "configs/found.csv"
SAME = "the same"
EFFECT = ("effect", "low", "high")


def is_kept(folder: Path) -> bool:
    """Whether a folder has results that were kept with their settings."""
    return (folder / PARAMS).is_file()


def study_of(root: Path, folder: Path) -> Study:
    """The study of kept results. Raises ConfigError for settings that today's code does not know."""
    return Study(load_settings(root, (folder / PARAMS).relative_to(root).as_posix()))


def settings_of(root: Path, folder: Path) -> ReportSettings:
    """What the report of kept results is told. They may be older than a table or a file of today, which is left out."""
    told = report_settings(study_of(root, folder))
    lists = {name: folder / "made_from" / f"{name}.json" for name in told.tables}
    made = {name: read_json(file)["files"] for name, file in lists.items() if file.is_file()}
    tables = {name: [file for file in told.tables[name] if file in files] for name, files in made.items()}
    return told.model_copy(update={"tables": tables})


def table_settings(study: Study, name: str) -> TableSettings:
    settings = study.tables[name].settings
    assert isinstance(settings, TableSettings), "the report has other settings"
    return settings


def keep(ledger: Ledger, folder: Path) -> list[str]:
    """Keep the finished study's results, its params.yaml and its runs' scores in `folder`, a folder of results/.

    Returns what was kept, in words. Raises ValueError for another place and for a result that is not there.
    """
    root, study = ledger.root, ledger.study
    if (root / folder).resolve().parent != (root / RESULTS).resolve():
        raise ValueError(f"{one_line(folder)}: no place for results, allowed: a folder such as {RESULTS}/small")
    lists = [f"{MADE_FROM}/{name}.json" for name in study.tables]
    missing = [name for name in lists if not (root / RESULTS / name).exists()]
    missing += [job.folder for job in study.tables["claims"].parents.values() if not (root / job.folder).exists()]
    if missing:
        raise ValueError(f"{missing[0]}: no such file; the study must be finished (`snakemake study`)")
    files = [*lists, *(name for one in lists for name in read_json(root / RESULTS / one)["files"])]
    sources = {name: root / RESULTS / name for name in files} | {PARAMS: root / PARAMS}
    # What is said of them there is a person's, and stays.
    sources |= {NOTES: root / folder / NOTES} if (root / folder / NOTES).exists() else {}
    scored = {role: root / job.folder for role, job in study.tables["claims"].parents.items()}
    rows = Rows(table_settings(study, "claims"), scored)
    with atomic_folder(root / folder, root / RESULTS / f".{folder.name}.partial") as place:
        for name, source in sources.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place / name)
        kept_scores.keep(rows, place)
    write_found(root, study.settings.params.preset)
    written = report(root, folder)
    return [f"{len(files)} files of {RESULTS}/", f"the scores of {len(rows.told.rows)} evaluations", f"{written.name}"]


def write_found(root: Path, study: str) -> None:
    """Write what the study in results/ found into configs/found.csv, for the claims of other studies."""
    rows = [row for row in read_records(root / RESULTS / "claims.csv") if not row["beside"]]
    parts = Counter(row["claim"] for row in rows)
    kept = [(row.study, row.claim, row.verdict, row.effect) for row in load_found(root) if row.study != study]
    for row in {row["claim"]: row for row in rows}.values():
        known = parts[row["claim"]] == 1 and row["effect"]
        effect = "{:.3g} ({:.3g} to {:.3g})".format(*(float(row[key]) for key in EFFECT)) if known else ""
        kept.append((study, row["claim"], row["verdict"], f"{effect} {row['unit']}" if effect else ""))
    lines = [",".join(map(csv_cell, row)) for row in [("study", "claim", "verdict", "effect"), *kept]]
    write_text(root / FOUND, "\n".join([*lines, ""]))


def judge(root: Path, folder: Path, write: bool) -> Iterator[tuple[Path, str]]:
    """Make the verdicts of kept results again from their scores, by today's code: every file, and whether it is the SAME.

    Beside them stands how often the study's own results rank models as these do.

    write: put what was made in the place of what was kept. Raises ValueError for a folder without scores.
    """
    check_kept(root, folder)
    if not (root / folder / kept_scores.SCORES).is_dir():
        raise ValueError(f"{folder / kept_scores.SCORES}: no such folder: the scores of these runs were not kept")
    study = study_of(root, root / folder)
    tables = {name: table_settings(study, name) for name in JUDGED}
    runs = {row["run"]: row for told in tables.values() for row in told.rows}
    with tempfile.TemporaryDirectory() as place:
        inputs = kept_scores.unpack(runs.values(), root / folder, Path(place) / "runs")
        for name, told in tables.items():
            find_maker(name)(kept_scores.rows_of(told, root / folder, inputs), Path(place) / name)
        decisions.make(root / folder, root / RESULTS, (folder.name, "the default"), Path(place) / DECISIONS)
        for file in sorted((Path(place) / name / file) for name in (*JUDGED, DECISIONS) for file in both(name)):
            kept = root / folder / file.name
            if kept.exists() and kept.read_bytes() == file.read_bytes():
                yield folder / file.name, SAME
                continue
            yield folder / file.name, "other than what was kept" if kept.exists() else "was not kept"
            if write:
                write_text(kept, file.read_text(encoding="utf-8"))
                if file.parent.name in JUDGED:
                    note_hash(root / folder / MADE_FROM / f"{file.parent.name}.json", kept)


def note_hash(manifest: Path, file: Path) -> None:
    """Write the hash of a file that was made again into the list of its table's files."""
    listed = read_json(manifest)
    listed["files"][file.name] = {"bytes": file.stat().st_size, "sha256": file_hash(file)}
    write_text(manifest, stable_json(listed))


def check_kept(root: Path, folder: Path) -> None:
    """Raises ValueError unless a folder has results with the settings that they were made with."""
    if not is_kept(root / folder) or root.resolve() not in (root / folder).resolve().parents:
        allowed = "a folder such as results/small, with its own params.yaml; the study's report is `snakemake report`"
        raise ValueError(f"--results: found {one_line(folder)}, allowed: {allowed}")


def report(root: Path, folder: Path) -> Path:
    """Write report.html into a folder of kept results. Raises ValueError for a folder or a file that is not there."""
    check_kept(root, folder)

    def place(name: str) -> Path:
        if not (root / folder / name).is_file():
            raise ValueError(f"{folder / name}: no such file, but the report shows it")
        return root / folder / name

    told = settings_of(root, root / folder)
    readme = root / folder / NOTES
    notes = readme.read_text(encoding="utf-8") if readme.exists() else ""
    made = root / folder / "report.html"
    write_text(made, render(Results(told, place, notes=notes)))
    return made
