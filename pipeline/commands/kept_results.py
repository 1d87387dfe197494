"""Results that are kept beside the study's own, with the params.yaml that they were made by: results/small.

Their artifacts are elsewhere. Their report is made from their tables and figures, and from what today's code makes of their
settings; the images of the examples are those of the contact sheet.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.common.files import one_line, read_json, write_text
from pipeline.reporting.job_settings import ReportSettings
from pipeline.reporting.page.report import render
from pipeline.reporting.page.results import Results
from pipeline.settings.load import load_settings
from pipeline.study.study import Study
from pipeline.study.tables import report_settings

PARAMS = "params.yaml"


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


def report(root: Path, folder: Path) -> Path:
    """Write report.html into a folder of kept results. Raises ValueError for a folder or a file that is not there."""
    # Results are of a study only together with the settings that they were made with.
    if not is_kept(root / folder) or root.resolve() not in (root / folder).resolve().parents:
        allowed = "a folder such as results/small, with its own params.yaml; the study's report is `snakemake report`"
        raise ValueError(f"--results: found {one_line(folder)}, allowed: {allowed}")

    def place(name: str) -> Path:
        if not (root / folder / name).is_file():
            raise ValueError(f"{folder / name}: no such file, but the report shows it")
        return root / folder / name

    told = settings_of(root, root / folder)
    readme = root / folder / "README.md"
    notes = readme.read_text(encoding="utf-8") if readme.exists() else ""
    made = root / folder / "report.html"
    write_text(made, render(Results(told, place, notes=notes)))
    return made
