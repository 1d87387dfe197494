"""The results that the report shows, as its parts read them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from pipeline.common.files import read_records
from pipeline.reporting.job_settings import ReportSettings
from pipeline.reporting.lineage import Lineage
from pipeline.reporting.measures import form_of
from pipeline.reporting.page.forms import (
    Row,
    Value,
    anchor,
    fixed,
    number_in,
)


class Results:
    """The files of results/ and what they come from.

    settings: those of the report's job (`pipeline/study/tables.py:report_job`). place: where a file of results/ lies, by its name there. images:
    the image files of questions by (task, id), if they are at hand. notes: Markdown on how these results were made.
    """

    def __init__(
        self,
        settings: ReportSettings,
        place: Callable[[str], Path],
        images: Callable[[set[tuple[str, str]]], dict[tuple[str, str], Path]] | None = None,
        notes: str = "",
    ):
        self.settings, self.place, self.images, self.notes = settings, place, images, notes
        self.tasks = settings.tasks
        self.lineage = Lineage(settings)

    def read(self, name: str) -> list[dict[str, str]]:
        """The rows of a CSV of results/ as text; none of an experiment that was not run."""
        rows = read_records(self.place(name))
        # Of the paper's figures those that were not run stay: the reader looks for the paper's rows.
        return [row for row in rows if row.get("status") != "not_run" or name == "comparison.csv"]

    def link(self, table: str, row: Row, column: str, number: int = 0) -> str:
        """The anchor of what a number comes from, or nothing."""
        found = self.lineage.about(table, row, column, number)
        return f"#{anchor('cell', found[0])}" if len(found) == 1 else ""

    def value(self, table: str, row: Row, column: str) -> Value:
        """A score with its interval, in the form that its measure has."""
        _, factor, digits = form_of(column)
        score, low, high = (number_in(row, f"{column}{end}") for end in ("", "_low", "_high"))
        if not math.isfinite(score):
            return Value("")
        more = f"{fixed(factor * low, digits)} to {fixed(factor * high, digits)}" if math.isfinite(low) else ""
        return Value(fixed(factor * score, digits), more, self.link(table, row, column))

    @property
    def own(self) -> dict[str, dict]:
        """The experiments that are none of the paper's."""
        return self.settings.experiments

    def counts(self) -> dict[str, int]:
        """How many jobs of each phase there are."""
        counts: dict[str, int] = {}
        for key in self.lineage.jobs:
            phase = key.partition("/")[0]
            counts[phase] = counts.get(phase, 0) + 1
        return counts
