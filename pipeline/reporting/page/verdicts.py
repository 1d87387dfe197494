"""The question, its answer and the verdicts on the paper's claims."""

from __future__ import annotations

import math
from itertools import groupby

from markupsafe import Markup, escape

from pipeline.common.files import read_records
from pipeline.reporting.arms import say
from pipeline.reporting.page import charts
from pipeline.reporting.page.forms import (
    Row,
    anchor,
    number_in,
    power_of,
    title_of,
    word,
)
from pipeline.reporting.page.results import Results
from pipeline.reporting.table_list import key_words


def headline(results: Results) -> str:
    """One sentence with the headline of table 1."""
    # The comparison is false for NaN too, so it leaves out failed runs.
    rows = [r for r in results.read("table1.csv") if r["model"] == "vlm" and number_in(r, "vision_average") >= 0]
    if not rows:
        return "The experiment on timing has no results here."
    best = max(rows, key=lambda row: number_in(row, "vision_average"))
    worst = min(rows, key=lambda row: number_in(row, "vision_average"))
    seeds = min(int(float(row["seeds"])) for row in rows)
    covered = (
        "with one seed a branch point: differences between neighbours are not evidence"
        if seeds == 1
        else f"with {seeds} seeds or more a branch point"
    )
    return (
        f"In these runs the vision average is highest with images from {float(best['branch_percent']):g}% of the text"
        f" run on ({100 * number_in(best, 'vision_average'):.1f}) and lowest from"
        f" {float(worst['branch_percent']):g}% on ({100 * number_in(worst, 'vision_average'):.1f}), {covered}."
    )


def all_claims(results: Results) -> list[dict]:
    """The claims with their parts, in the order of the table."""
    rows = read_records(results.place("claims.csv"))
    found: list[dict] = []
    for name, group in groupby(rows, key=lambda row: row["claim"]):
        parts = list(group)
        first = parts[0]
        published = number_in(first, "published")
        covers = {(row["seeds"], row["interval_covers"]) for row in parts if row["interval_covers"]}
        entry = {
            **{key: first[key] for key in ("family", "verdict", "says", "source", "reason", "note")},
            "name": name,
            "kind": word(first["verdict"]),
            "published": f"{published:+g} {first['published_unit']}" if math.isfinite(published) else "",
            "facts": "; ".join(f"seeds: {seeds}, the interval covers {what}" for seeds, what in sorted(covers)),
            "parts": parts_of(results, parts),
            "metric": title_of(first["metric"]),
            "elsewhere": first.get("found_elsewhere", ""),
            "beside": None,
        }
        # The same claim by another measure follows it, and stands beside it.
        if first.get("beside"):
            found[-1]["beside"] = entry
        else:
            found.append(entry)
    return found


def parts_of(results: Results, rows: list[dict[str, str]]) -> list[dict]:
    """The parts of a claim; those of one unit on one scale."""
    several = len(rows) > 1
    published = math.nan if several or rows[0]["unit"] != "points" else number_in(rows[0], "published")
    found = []
    for place, row in enumerate(rows):
        effect, low, high = (number_in(row, key) for key in ("effect", "low", "high"))
        same = [number for number, other in enumerate(rows) if other["unit"] == row["unit"]]
        ends = [number_in(rows[n], key) for n in same for key in ("effect", "low", "high")]
        # Zero is always on the line: whether the interval crosses it is what one looks for.
        span = charts.widened([*ends, published, 0.0])
        drawn, digits = math.isfinite(low + high), 2 if row["unit"] == "points" else 3
        sign = "" if row["kind"] == "agreement" else "+"  # a spread has none
        found.append(
            {
                "compares": compares(results, row, place),
                "verdict": "" if row["part_verdict"] == row["verdict"] else row["part_verdict"].replace("_", " "),
                "effect": f"{effect:{sign}.{digits}f}" if math.isfinite(effect) else "",
                "interval": f"{low:.{digits}f} to {high:.{digits}f}" if drawn else "",
                "unit": row["unit"],
                "power": power_of(row),
                "chart": charts.interval(effect, low, high, span, published, place == same[-1]) if drawn else "",
            }
        )
    return found


def compares(results: Results, row: Row, number: int) -> Markup:
    """What a part of a claim compares, in words, each model with its link."""
    claim = results.settings.claims.get(row["claim"])
    if claim is None:
        return Markup(escape(row["part"]))

    if agreement := claim.get("agreement"):
        over = key_words(agreement["over"])
        said = Markup("{}: {} {} and {} of ").format(title_of(agreement["metric"]), over, *agreement["values"])
        return said + Markup(", ").join(model_link(results, cell) for pair in agreement["pairs"] for cell in pair)
    contrast = claim["contrasts"][number]
    if over := contrast.get("over"):
        cells = Markup(", ").join(model_link(results, arm["cell"]) for arm in (*contrast["minus"], *contrast["plus"]))
        return Markup("{}: rise over {}, of {}").format(title_of(contrast["metric"]), key_words(over), cells)
    asked = [*contrast["plus"], *contrast["minus"]]
    compared = say(asked, results.settings.recipe)
    links = [model_link(results, arm["cell"], words) for arm, words in zip(asked, compared.arms)]
    plus, minus = links[: len(contrast["plus"])], links[len(contrast["plus"]) :]
    sides = Markup("; plus ").join(plus), Markup("; minus ").join(minus)
    return Markup("{}: {} minus {}{}").format(title_of(contrast["metric"]), *sides, compared.shared)


def model_link(results: Results, cell: str, words: str = "") -> Markup:
    """A cell in words, or by its name, with a link if it was run."""
    if cell not in results.lineage.subjects:
        return Markup(escape(words or cell))
    return Markup('<a href="#{}">{}</a>').format(anchor("cell", cell), words or cell)
