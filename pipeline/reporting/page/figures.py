"""The report's charts: every experiment, the training losses and the learning rates."""

from __future__ import annotations

import math
from collections.abc import Iterator

from markupsafe import Markup

from pipeline.reporting.measures import DRAWN, MEASURES, form_of
from pipeline.reporting.page import charts
from pipeline.reporting.page.forms import (
    Figure,
    number_in,
    title_of,
)
from pipeline.reporting.page.results import Results
from pipeline.reporting.table_list import TABLES, Part, Table, axis_of
from pipeline.reporting.table_rows import covered, differing, setting_names


def all_figures(results: Results) -> list[Figure]:
    """Every experiment as charts: a panel a measure."""
    found = [
        experiment_figure(results, experiment, part.title, name, rows, part.along)
        for name, table in charted()
        for experiment, part, rows in charts_of(results, name, table)
    ]
    return found + [own_figure(results, name, told) for name, told in results.own.items()]


def charted() -> list[tuple[str, Table]]:
    """The tables whose scores are drawn: the study's question first, then what is a figure alone, then other tables."""
    return sorted(TABLES.items(), key=lambda item: (item[0] != "table1", bool(item[1].shown(item[0]))))


def charts_of(results: Results, name: str, table: Table) -> Iterator[tuple[str, Part, list[dict[str, str]]]]:
    """Each experiment of a table that is drawn, with its title and setting, and its rows."""
    if table.along:
        rows = [row for row in results.read(main_csv(name, table)) if row.get("model", "vlm") == "vlm"]
        yield table.experiments[0], Part(table.title, table.along), rows
    for experiment, part in table.parts.items():
        if part.along:
            rows = [row for row in results.read(main_csv(name, table)) if row.get("control") == experiment]
            for row in rows:
                row["branch"] = f"{number_in(row, 'branch_percent'):g}% {number_in(row, 'cooldown_peak_lr'):.2g}"
            yield experiment, part, rows


def main_csv(name: str, table: Table) -> str:
    """The file with a table's rows: of its name, and beside the figure where it is one."""
    return next(file for file in table.files if file in (f"{name}.csv", f"figures/{name}.csv"))


def own_figure(results: Results, name: str, told: dict) -> Figure:
    """The charts of such an experiment, along its first key of numbers, or of all its keys in words."""
    rows, varied = results.read(f"experiments/{name}.csv"), told["vary"]
    numbers = [key for key in varied if key != "seed" and all(math.isfinite(number_in(row, key)) for row in rows)]
    setting = (numbers or varied)[0]
    if not numbers:
        rows = [row | {setting: ", ".join(row[key] for key in varied)} for row in rows]
    return experiment_figure(results, name, told["says"], f"experiments/{name}", rows, setting)


def experiment_figure(
    results: Results, name: str, title: str, table: str, rows: list[dict[str, str]], setting: str
) -> Figure:
    """The charts of an experiment. rows: a row a value of `setting`; values that are words stand apart."""
    # A failed run has a row, which would be a place without a mark.
    rows = [row for row in rows if any(math.isfinite(number_in(row, measure)) for measure in DRAWN)]
    file = main_csv(table, TABLES[table]) if table in TABLES else f"{table}.csv"
    measures = list(dict.fromkeys((*DRAWN, *MEASURES, *results.tasks["vision"], *results.tasks["text"])))
    measures = [c for c in measures if any(math.isfinite(number_in(row, c)) for row in rows)]
    lines = lines_of(results, rows, setting)
    panels = [(title_of(c), panel(results, table, rows, setting, c, lines)) for c in measures]
    shown_first = sum(c in DRAWN for c in measures)
    note = f"Bars: {covered(number_in(row, 'seeds') for row in rows)}." if rows else "Not run."
    if name == "timing" and rows:
        note += " Hollow: at the end, where the rate is warmed up again."
    prior = max((number_in(row, "language_prior") for row in rows), default=math.nan)
    if math.isfinite(prior):
        note += f" Answering without looking: {100 * prior:.1f} of the vision average."
    # A legend of one line would only repeat the title.
    names = list(dict.fromkeys(lines))
    numeric = all(math.isfinite(number_in(row, setting)) for row in rows)  # words stand apart, in no line
    legend = charts.listed(names) if numeric and len(names) > 1 else Markup()
    return Figure(name, title, panels[:shown_first], panels[shown_first:], [file], note, legend)


def lines_of(results: Results, rows: list[dict[str, str]], setting: str) -> list[str]:
    """Of each row the line that it is a point of: where another setting differs too, what that is."""
    keys = dict.fromkeys((*results.settings.recipe, *(key for told in results.own.values() for key in told["vary"])))
    settings = [{key: row[key] for key in keys if key in row} for row in rows]
    others = differing(settings, but=setting)
    return [setting_names({key: some[key] for key in others}) for some in settings]


def panel(
    results: Results, table: str, rows: list[dict[str, str]], setting: str, measure: str, lines: list[str]
) -> Markup:
    _, factor, _ = form_of(measure)
    numeric = all(math.isfinite(number_in(row, setting)) for row in rows)
    words = [] if numeric else [row[setting].replace("_", " ") for row in rows]
    named = list(zip(rows, lines))
    order = sorted(named, key=lambda row: number_in(row[0], setting)) if numeric else named
    known = list(dict.fromkeys(lines)) if numeric else [""]
    points = []
    for place, (row, line) in enumerate(order):
        score, low, high = (factor * number_in(row, f"{measure}{end}") for end in ("", "_low", "_high"))
        if not math.isfinite(score):
            continue
        x = axis_of(setting).factor * number_in(row, setting) if numeric else place
        value = results.value(table, row, measure)
        name = f"{x:g}" if numeric else words[place]
        name = f"{line}: {name}" if len(known) > 1 else name
        says = f"{name}: {value.text}" + (f" ({value.more})" if value.more else "")
        hollow = setting == "branch_percent" and x >= 100
        number = known.index(line) if numeric else 0
        points.append(charts.Point(x, score, low, high, says, value.link, hollow, number))
    return charts.panel(points, axis_of(setting).label, title_of(measure), words)


def loss_figure(results: Results) -> Figure | None:
    """Training loss by percent of each phase."""
    rows = results.read("figures/loss.csv")
    names = [name for name in (rows[0] if rows else {}) if name != "percent"]
    if not names:
        return None
    series = {
        name: [(number_in(r, "percent"), number_in(r, name)) for r in rows if math.isfinite(number_in(r, name))]
        for name in names
    }
    chart = charts.curves(series, "percent of the phase", "training loss (nats a token)")
    note = (
        "The text run's own, and the average over the models of table 1. The phases predict different tokens: in"
        " fine-tuning the answers alone, so levels are not to be compared."
    )
    return Figure("loss", "Training loss", [("", chart)], [], ["figures/loss.csv"], note, charts.listed(names))


def schedule_figure(results: Results) -> Figure | None:
    """Learning rates of the text run and its branches."""
    rows = results.read("figures/schedules.csv")
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        series.setdefault(row["branch"], []).append((number_in(row, "tokens"), 1000 * number_in(row, "learning_rate")))
    if not series:
        return None
    rewarmed = [
        name for name, points in series.items() if name != "text run" and points[0][1] < max(p[1] for p in points)
    ]
    chart = charts.curves(series, "tokens seen, text run and cooldown", "learning rate (thousandths)", rewarmed)
    note = "In thousandths, from the code that trains. Dashed: re-warmed, as there is no rate to continue."
    legend = charts.listed([name if name == "text run" else f"branch at {name}" for name in series])
    return Figure("schedules", "Learning rates", [("", chart)], [], ["figures/schedules.csv"], note, legend)
