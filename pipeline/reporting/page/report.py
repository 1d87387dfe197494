"""The report: all results in one HTML file that needs nothing else, each number with a link to what it comes from.

It is made from the files that the other tables leave in results/, and from the settings of the study; the images of the
examples are the evaluation's own, or, where they are not at hand, the contact sheet. The same results give the same bytes.

The template, style and script are the files of the same name beside this one. The page may load nothing: its own policy
forbids it. Without the script everything can be read; it adds what a mark says when it is touched, opens what a link leads
to, and filters.
"""

from __future__ import annotations

import re
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from pipeline.common.files import write_text
from pipeline.reporting.claims_text import RULES
from pipeline.reporting.job_settings import ReportSettings
from pipeline.reporting.page.examples import all_examples, contact_sheet
from pipeline.reporting.page.figures import all_figures, loss_figure, schedule_figure
from pipeline.reporting.page.forms import (
    Picture,
    embedded,
    flat_lines,
    paragraphs,
    shown,
    word,
)
from pipeline.reporting.page.jobs import all_costs, all_jobs, all_subjects, made_from_table
from pipeline.reporting.page.results import Results
from pipeline.reporting.page.tables import all_grids, paper_grid
from pipeline.reporting.page.verdicts import all_claims, headline
from pipeline.reporting.table_rows import Rows

VERDICTS = ("supported", "refuted", "inconclusive", "not testable", "not_run")


def make(rows: Rows, out: Path) -> None:
    """The job's report.html."""
    settings = rows.told
    assert isinstance(settings, ReportSettings)
    places = {file: rows.inputs[f"tables/{name}"] / file for name, files in settings.tables.items() for file in files}
    places |= {f"made_from/{name}.json": rows.inputs[f"tables/{name}"] / "files.json" for name in settings.tables}

    def images(keys: set[tuple[str, str]]) -> dict[tuple[str, str], Path]:
        return {key: question.image for key, question in rows.chosen_questions(keys).items()}

    write_text(out / "report.html", render(Results(settings, places.__getitem__, images)))


def render(results: Results) -> str:
    """The whole HTML file."""
    # Names, answers and errors are what anybody may have written, so all text is escaped; and a name that the
    # template gets wrong is an error here, not an empty place on the page.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    claims = all_claims(results)
    return environment.from_string(beside("html.j2")).render(
        style=Markup(beside("css")),
        script=Markup(beside("js")),
        settings=results.settings,
        recipe=[(key.replace("_", " "), shown(value)) for key, value in results.settings.recipe.items()],
        counts=results.counts(),
        stands_for={n: t["stands_for"] for n, t in results.tasks["vision"].items() if t.get("stands_for")},
        answer=headline(results),
        verdicts=[(v, word(v), sum(claim["verdict"] == v for claim in claims)) for v in VERDICTS],
        claims=claims,
        rules=[Markup("<p>{}</p>").format(rule) for line in RULES for rule in paragraphs(line)],
        figures=all_figures(results),
        grids=all_grids(results),
        paper=paper_grid(results),
        examples=all_examples(results),
        sheet=contact_sheet(results) if results.images is None else None,
        losses=loss_figure(results),
        schedules=schedule_figure(results),
        costs=all_costs(results),
        drawing=svg(results.place("figures/pipeline.svg")),
        subjects=all_subjects(results),
        jobs=all_jobs(results),
        sections=[(key, flat_lines(value)) for key, value in sorted(results.lineage.sections.items())],
        made_from=made_from_table(results),
        notes=paragraphs(results.notes),
    )


def beside(suffix: str) -> str:
    """The text of this file's neighbour with another suffix."""
    return Path(__file__).with_suffix(f".{suffix}").read_text(encoding="utf-8")


def svg(file: Path) -> Picture:
    """A drawing as a data URI. Raises ValueError if it does not say how large it is."""
    data = file.read_bytes()
    box = re.search(rb'viewBox="[\d.]+ [\d.]+ ([\d.]+) ([\d.]+)"', data)
    if box is None:
        raise ValueError(f"{file}: an SVG without a viewBox")
    return Picture(embedded("image/svg+xml", data), *(round(float(side)) for side in box.groups()))
