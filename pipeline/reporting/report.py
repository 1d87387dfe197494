"""The report: all results in one HTML file that needs nothing else, each number with a link to what it comes from.

It is made from the files that the other tables leave in results/, and from the settings of the study; the images of the
examples are the evaluation's own, or, where they are not at hand, the contact sheet. The same results give the same bytes.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from pipeline.data.images import decode, open_image
from pipeline.evaluation.metrics import parse_box
from pipeline.files import one_line, read_json, read_records, write_text
from pipeline.reporting import charts
from pipeline.reporting.claims import RULES
from pipeline.reporting.lineage import Lineage
from pipeline.reporting.page import PAGE, SCRIPT, STYLE
from pipeline.reporting.rows import Rows, covered, differing, key_words, setting_names
from pipeline.reporting.sweeps import CONTROLS, FIGURES, LABELS, QUESTIONS, SCORES, TABLES

Row = Mapping[str, str]
MODELS = ("evaluate", "finetune", "cooldown", "pretrain")
DATA = ("shards", "features")  # what models read; sources and tokenizer are their parents
LARGEST = 256  # pixels of an example's longer side
HEADLINE = ("vision_average", "text_stable", "bits_per_byte")
AXES = {"branch_percent": "text run before images come in (%)", "branch": "branch, and its highest learning rate"}
VERDICTS = ("supported", "refuted", "inconclusive", "not testable", "not_run")
CONTROLLED = {"rewarm": "branch", "text_only": "branch_percent", "moments": "moments"}  # what tells their rows apart


@dataclass(frozen=True)
class Value:
    """A cell of a table: what is shown, its interval, and the anchor of what it comes from."""

    text: str
    more: str = ""
    link: str = ""


@dataclass(frozen=True)
class Picture:
    """An image as a data URI, with its size in pixels: its place is kept free before it is loaded."""

    address: str
    width: int
    height: int


@dataclass(frozen=True)
class Grid:
    """A table of the report."""

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Value]]
    files: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """Charts of one experiment: those that matter, and the rest."""

    name: str
    title: str
    panels: Sequence[tuple[str, Markup]]
    more: Sequence[tuple[str, Markup]]
    files: Sequence[str]
    note: str = ""
    legend: Markup = field(default_factory=Markup)


def make(rows: Rows, out: Path) -> None:
    """The job's report.html."""
    settings = rows.settings
    places = {
        file: rows.inputs[f"tables/{name}"] / file for name, files in settings["tables"].items() for file in files
    }
    places |= {f"made_from/{name}.json": rows.inputs[f"tables/{name}"] / "files.json" for name in settings["tables"]}

    def images(keys: set[tuple[str, str]]) -> dict[tuple[str, str], Path]:
        return {
            (name, question.id): question.image
            for name, task in rows.tasks["vision"].items()
            for question in rows.questions(name, task["format"])
            if (name, question.id) in keys
        }

    write_text(out / "report.html", Report(settings, places.__getitem__, images).page())


class Report:
    """What the page shows.

    settings: those of the report's job (`Study.report`). place: where a file of results/ lies, by its name there. images:
    the image files of questions by (task, id), if they are at hand. notes: Markdown on how these results were made.
    """

    def __init__(
        self,
        settings: Mapping,
        place: Callable[[str], Path],
        images: Callable[[set[tuple[str, str]]], dict[tuple[str, str], Path]] | None = None,
        notes: str = "",
    ):
        self.settings, self.place, self.images, self.notes = settings, place, images, notes
        self.tasks = settings["tasks"]
        self.lineage = Lineage(settings)

    def page(self) -> str:
        """The whole HTML file."""
        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        claims = self.claims()
        return environment.from_string(PAGE).render(
            style=Markup(STYLE),
            script=Markup(SCRIPT),
            settings=self.settings,
            recipe=self.recipe(),
            counts=self.counts(),
            stands_for={n: t["stands_for"] for n, t in self.tasks["vision"].items() if t.get("stands_for")},
            answer=self.answer(),
            verdicts=[(v, word(v), sum(claim["verdict"] == v for claim in claims)) for v in VERDICTS],
            claims=claims,
            rules=[Markup("<p>{}</p>").format(rule) for line in RULES for rule in paragraphs(line)],
            figures=self.figures(),
            grids=self.grids(),
            paper=self.comparison(),
            examples=self.examples(),
            sheet=self.sheet() if self.images is None else None,
            losses=self.losses(),
            schedules=self.schedules(),
            costs=self.costs(),
            drawing=svg(self.place("figures/pipeline.svg")),
            subjects=self.subjects(),
            jobs=self.jobs(),
            sections=[(key, flat_lines(value)) for key, value in sorted(self.lineage.sections.items())],
            made_from=self.made_from(),
            notes=paragraphs(self.notes),
        )

    # --- reading ---

    def read(self, name: str) -> list[dict[str, str]]:
        """The rows of a CSV of results/ as text; none of an experiment that was not run."""
        rows = read_records(self.place(name))
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

    # --- the question and the verdicts ---

    def recipe(self) -> list[tuple[str, str]]:
        return [(key.replace("_", " "), shown(value)) for key, value in self.settings["recipe"].items()]

    def counts(self) -> dict[str, int]:
        """How many jobs of each phase there are."""
        counts: dict[str, int] = {}
        for key in self.lineage.jobs:
            phase = key.partition("/")[0]
            counts[phase] = counts.get(phase, 0) + 1
        return counts

    def answer(self) -> str:
        """One sentence with the headline of table 1."""
        rows = [r for r in self.read("table1.csv") if r["model"] == "vlm" and number_in(r, "vision_average") >= 0]
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

    def claims(self) -> list[dict]:
        """The claims with their parts, in the order of the table."""
        rows = read_records(self.place("claims.csv"))
        found = []
        for name, group in groupby(rows, key=lambda row: row["claim"]):
            parts = list(group)
            first = parts[0]
            published = number_in(first, "published")
            covers = {(row["seeds"], row["interval_covers"]) for row in parts if row["interval_covers"]}
            found.append(
                {
                    **{key: first[key] for key in ("family", "verdict", "says", "source", "reason", "note")},
                    "name": name,
                    "kind": word(first["verdict"]),
                    "published": f"{published:+g} {first['published_unit']}" if math.isfinite(published) else "",
                    "facts": "; ".join(f"seeds: {seeds}, the interval covers {what}" for seeds, what in sorted(covers)),
                    "parts": self.parts(parts),
                }
            )
        return found

    def parts(self, rows: list[dict[str, str]]) -> list[dict]:
        """The parts of a claim; those of one unit on one scale."""
        several = len(rows) > 1
        published = math.nan if several or rows[0]["unit"] != "points" else number_in(rows[0], "published")
        found = []
        for place, row in enumerate(rows):
            effect, low, high = (number_in(row, key) for key in ("effect", "low", "high"))
            same = [number for number, other in enumerate(rows) if other["unit"] == row["unit"]]
            ends = [number_in(rows[n], key) for n in same for key in ("effect", "low", "high")]
            span = charts.widened([*ends, published, 0.0])
            drawn, digits = math.isfinite(low + high), 2 if row["unit"] == "points" else 3
            sign = "" if row["kind"] == "agreement" else "+"  # a spread has none
            found.append(
                {
                    "compares": self.compares(row, place),
                    "verdict": "" if row["part_verdict"] == row["verdict"] else row["part_verdict"].replace("_", " "),
                    "effect": f"{effect:{sign}.{digits}f}" if math.isfinite(effect) else "",
                    "interval": f"{low:.{digits}f} to {high:.{digits}f}" if drawn else "",
                    "unit": row["unit"],
                    "power": power_of(row),
                    "chart": charts.interval(effect, low, high, span, published, place == same[-1]) if drawn else "",
                }
            )
        return found

    def compares(self, row: Row, number: int) -> Markup:
        """What a part of a claim compares, in words, each model with its link."""
        claim = self.settings["claims"].get(row["claim"])
        if claim is None:
            return Markup(escape(row["part"]))

        def arms(some: list[dict]) -> Markup:
            asked = [f" ({arm['condition']})" if arm["condition"] != "normal" else "" for arm in some]
            return Markup(" + ").join(self.model(arm["cell"]) + more for arm, more in zip(some, asked))

        if agreement := claim.get("agreement"):
            seeds = Markup("{}: seeds {} and {} of ").format(title_of(agreement["metric"]), *agreement["seeds"])
            return seeds + Markup(", ").join(map(self.model, agreement["cells"]))
        contrast = claim["contrasts"][number]
        sides = arms(contrast["plus"]), arms(contrast["minus"])
        return Markup("{}: {} less {}").format(title_of(contrast["metric"]), *sides)

    def model(self, cell: str) -> Markup:
        """A cell's name, with a link if it was run."""
        if cell not in self.lineage.subjects:
            return Markup(escape(cell))
        return Markup('<a href="#{}">{}</a>').format(anchor("cell", cell), cell)

    # --- figures ---

    def figures(self) -> list[Figure]:
        """Every experiment as charts: a panel a measure."""
        models = [row for row in self.read("table1.csv") if row["model"] == "vlm"]
        timing = self.figure("timing", "When should images come in?", "table1", models, "branch_percent")
        found = [timing] + [
            self.figure(name, QUESTIONS[name][0], name, self.read(f"figures/{name}.csv"), QUESTIONS[name][1][0])
            for name in FIGURES
        ]
        tables = {experiment: table for table, experiment in TABLES.items()}
        for name in ("captions", "encoder"):
            question, (setting, *_) = QUESTIONS[name]
            found.append(self.figure(name, question, tables[name], self.read(f"{tables[name]}.csv"), setting))
        controls = self.read("controls.csv")
        for name, setting in CONTROLLED.items():
            rows = [row for row in controls if row.get("control") == name]
            for row in rows:
                row["branch"] = f"{number_in(row, 'branch_percent'):g}% {number_in(row, 'cooldown_peak_lr'):.2g}"
            found.append(self.figure(name, CONTROLS[name], "controls", rows, setting))
        return found + [self.own_figure(name, told) for name, told in self.own.items()]

    @property
    def own(self) -> dict[str, dict]:
        """The experiments that are none of the paper's."""
        return self.settings.get("experiments", {})

    def own_figure(self, name: str, told: dict) -> Figure:
        """The charts of such an experiment, along its first key of numbers, or of all its keys in words."""
        rows, varied = self.read(f"experiments/{name}.csv"), told["vary"]
        numbers = [key for key in varied if key != "seed" and all(math.isfinite(number_in(row, key)) for row in rows)]
        setting = (numbers or varied)[0]
        if not numbers:
            rows = [row | {setting: ", ".join(row[key] for key in varied)} for row in rows]
        return self.figure(name, told["says"], f"experiments/{name}", rows, setting)

    def figure(self, name: str, title: str, table: str, rows: list[dict[str, str]], setting: str) -> Figure:
        """The charts of an experiment. rows: a row a value of `setting`; values that are words stand apart."""
        rows = [row for row in rows if any(math.isfinite(number_in(row, measure)) for measure in HEADLINE)]
        file = f"figures/{table}.csv" if table in FIGURES else f"{table}.csv"
        measures = list(dict.fromkeys((*HEADLINE, *SCORES, *self.tasks["vision"], *self.tasks["text"])))
        measures = [c for c in measures if any(math.isfinite(number_in(row, c)) for row in rows)]
        lines = self.lines(rows, setting)
        panels = [(title_of(c), self.panel(table, rows, setting, c, lines)) for c in measures]
        shown_first = sum(c in HEADLINE for c in measures)
        note = f"Bars: {covered(number_in(row, 'seeds') for row in rows)}." if rows else "Not run."
        if name == "timing" and rows:
            note += " Hollow: at the end, where the rate is warmed up again."
        prior = max((number_in(row, "language_prior") for row in rows), default=math.nan)
        if math.isfinite(prior):
            note += f" Answering without looking: {100 * prior:.1f} of the vision average."
        names = list(dict.fromkeys(lines))
        numeric = all(math.isfinite(number_in(row, setting)) for row in rows)  # words stand apart, in no line
        legend = charts.listed(names) if numeric and len(names) > 1 else Markup()
        return Figure(name, title, panels[:shown_first], panels[shown_first:], [file], note, legend)

    def lines(self, rows: list[dict[str, str]], setting: str) -> list[str]:
        """Of each row the line that it is a point of: where another setting differs too, what that is."""
        keys = dict.fromkeys((*self.settings["recipe"], *(key for told in self.own.values() for key in told["vary"])))
        settings = [{key: row[key] for key in keys if key in row} for row in rows]
        others = differing(settings, but=setting)
        return [setting_names({key: some[key] for key in others}) for some in settings]

    def panel(self, table: str, rows: list[dict[str, str]], setting: str, measure: str, lines: list[str]) -> Markup:
        _, factor, _ = form_of(measure)
        numeric = all(math.isfinite(number_in(row, setting)) for row in rows)
        percents = 100 if setting in ("image_fraction", "instruction_share") else 1
        words = [] if numeric else [row[setting].replace("_", " ") for row in rows]
        named = list(zip(rows, lines))
        order = sorted(named, key=lambda row: number_in(row[0], setting)) if numeric else named
        known = list(dict.fromkeys(lines)) if numeric else [""]
        points = []
        for place, (row, line) in enumerate(order):
            score, low, high = (factor * number_in(row, f"{measure}{end}") for end in ("", "_low", "_high"))
            if not math.isfinite(score):
                continue
            x = percents * number_in(row, setting) if numeric else place
            value = self.value(table, row, measure)
            name = f"{x:g}" if numeric else words[place]
            name = f"{line}: {name}" if len(known) > 1 else name
            says = f"{name}: {value.text}" + (f" ({value.more})" if value.more else "")
            hollow = setting == "branch_percent" and x >= 100
            number = known.index(line) if numeric else 0
            points.append(charts.Point(x, score, low, high, says, value.link, hollow, number))
        label = LABELS.get(setting) or AXES.get(setting) or key_words(setting)
        return charts.panel(points, label, title_of(measure), words)

    # --- tables ---

    def grids(self) -> list[Grid]:
        """The tables, for reading."""
        found = [self.grid("table1", "When should images come in?", ["row"]), self.sizes()]
        for table, experiment in TABLES.items():
            question, varied = QUESTIONS[experiment]
            if table == "table9":
                found.append(self.grid("table8", "The recommended model after each phase", ["stage"]))
            found.append(self.grid(table, question, [*varied, *(["seed"] if table == "table7" else [])]))
        found.append(self.grid("controls", "Controls that the paper lacks", ["control", "cell"]))
        found.append(self.pivot("conditions", "What the answers owe to the image", "cell", "condition"))
        found.append(self.pivot("question_types", "Scores by question type", "kind", "cell"))
        return found + [self.grid(f"experiments/{name}", told["says"], told["vary"]) for name, told in self.own.items()]

    def grid(self, table: str, title: str, labels: list[str]) -> Grid:
        """A row a row of the table, a column a measure; every number with its link."""
        rows = self.read(f"{table}.csv")
        measures = [c for c in (*SCORES, *self.tasks["vision"], *self.tasks["text"]) if any(r.get(c) for r in rows)]
        if table == "table1":
            measures += ["cooldown_cider", "cooldown_text_stable", "cooldown_bits_per_byte"]
            kinds = {"text only": "text run at", "vlm": "images from"}
            rows = [row | {"row": f"{kinds[row['model']]} {number_in(row, 'branch_percent'):g}%"} for row in rows]
        header = [*(key_words(label).replace("row", "") for label in labels), *map(title_of, measures), "seeds"]
        lines = [
            [
                *(Value(shown(row.get(label, "")).replace("text_only", "text only")) for label in labels),
                *(self.value(table, row, measure) for measure in measures),
                Value(shown(row.get("seeds", "")) if row.get("status", "ok") in ("ok", "") else row["status"]),
            ]
            for row in rows
        ]
        number = f"Table {table.removeprefix('table')}. " if table.startswith("table") else ""
        note = "Blind: fine-tuned and asked without any image, the language prior." if table == "controls" else ""
        return Grid(table, number + title, header, lines, [f"{table}.csv", f"{table}.md"], note)

    def sizes(self) -> Grid:
        """Table 2, which has no scores."""
        rows = self.read("table2.csv")
        columns = ["parameters", "text_run_tokens", "training_flops"]
        lines = [
            [
                Value(row["phase"]),
                Value(row["size"]),
                *(Value(big(number_in(row, c)), "", self.link("table2", row, c)) for c in columns),
            ]
            for row in rows
        ]
        header = ["", "size", "parameters", "text tokens", "training FLOPs"]
        note = "The frozen encoder's FLOPs are not in it."
        return Grid(
            "table2", "Table 2. The model sizes and what they take", header, lines, ["table2.csv", "table2.md"], note
        )

    def pivot(self, table: str, title: str, down: str, across: str) -> Grid:
        """A table of one score with a row a value of one column and a column a value of another."""
        rows = self.read(f"{table}.csv")
        if down == "kind":
            rows = [row | {"kind": f"{row['task']}: {row['kind']}".replace("_", " ")} for row in rows]
        columns = list(dict.fromkeys(row[across] for row in rows))
        lines = []
        for name in dict.fromkeys(row[down] for row in rows):
            found = {row[across]: row for row in rows if row[down] == name}
            values = [self.value(table, found[c], "score") if c in found else Value("") for c in columns]
            lines.append([Value(name), *values])
        return Grid(
            table, title, [down.replace("kind", "question type"), *columns], lines, [f"{table}.csv", f"{table}.md"]
        )

    def comparison(self) -> Grid:
        """The paper's figures beside ours."""
        lines = []
        for row in self.read("comparison.csv"):
            ours = [number_in(row, key) for key in ("ours", "ours_low", "ours_high", "delta")]
            ran = row["status"] == "ok"
            value = Value(row["status"].replace("not_run", "not run"))
            if ran:
                link = self.link("comparison", row, row["column"])
                value = Value(f"{ours[0]:.1f}", f"{ours[1]:.1f} to {ours[2]:.1f}", link)
            lines.append(
                [
                    Value(f"{row['output']}: {row['setting']}"),
                    Value(row["task"]),
                    Value(f"{number_in(row, 'published'):.2f}"),
                    value,
                    Value(row["column"].replace("_", " ") if ran else ""),
                    Value(f"{ours[3]:+.1f}" if ran else ""),
                    Value(row["note"]),
                ]
            )
        header = ["the paper's row", "its task", "published", "ours", "our column", "difference", "note"]
        note = (
            "In points. Other data, other tasks and a model a thousand times smaller: levels are not comparable, only"
            " which of two rows is larger."
        )
        return Grid("comparison", "Beside the paper", header, lines, ["comparison.csv", "comparison.md"], note)

    # --- examples ---

    def examples(self) -> list[tuple[str, list[dict]]]:
        """Questions with their images and answers, by task; none where the images are not at hand."""
        rows = [row for row in self.read("figures/examples.csv") if row.get("id")]
        if self.images is None or not rows:
            return []
        files = self.images({(row["task"], row["id"]) for row in rows})
        found = [(row["task"], self.example(row, files[row["task"], row["id"]])) for row in rows]
        return [(task.replace("_", " "), [e for _, e in group]) for task, group in groupby(found, key=lambda f: f[0])]

    def example(self, row: Row, file: Path) -> dict:
        boxes = [(kind, parse_box(row[column])) for kind, column in (("truth", "answer"), ("given", "prediction"))]
        is_box = boxes[0][1] is not None
        return {
            "image": thumbnail(file),
            **{key: one_line(row[key]) for key in ("question", "answer", "prediction")},
            "right": row["right"] == "True",
            "boxes": [(kind, *(100 * v for v in box)) for kind, box in boxes if is_box and box],
        }

    def sheet(self) -> Picture:
        """The contact sheet, for results whose images are elsewhere."""
        return thumbnail(self.place("figures/examples.png"), 2000)

    # --- learning and cost ---

    def losses(self) -> Figure | None:
        """Training loss by percent of each phase."""
        rows = self.read("figures/loss.csv")
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

    def schedules(self) -> Figure | None:
        """Learning rates of the text run and its branches."""
        rows = self.read("figures/schedules.csv")
        series: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            series.setdefault(row["branch"], []).append(
                (number_in(row, "tokens"), 1000 * number_in(row, "learning_rate"))
            )
        if not series:
            return None
        rewarmed = [
            name for name, points in series.items() if name != "text run" and points[0][1] < max(p[1] for p in points)
        ]
        chart = charts.curves(series, "tokens seen, text run and cooldown", "learning rate (thousandths)", rewarmed)
        note = "In thousandths, from the code that trains. Dashed: re-warmed, as there is no rate to continue."
        legend = charts.listed([name if name == "text run" else f"branch at {name}" for name in series])
        return Figure("schedules", "Learning rates", [("", chart)], [], ["figures/schedules.csv"], note, legend)

    def costs(self) -> list[dict]:
        """What the models of table 1 took, and of the recommended one each phase: FLOPs in bars of one scale."""
        table1 = self.read("table1.csv")
        text = {
            number_in(r, "branch_percent"): number_in(r, "training_flops") for r in table1 if r["model"] == "text only"
        }
        found = []
        for row in (row for row in table1 if row["model"] == "vlm"):
            whole, percent = number_in(row, "training_flops"), number_in(row, "branch_percent")
            before = text.get(percent, 0.0 if percent == 0 else math.nan)
            if math.isfinite(whole + before):
                parts = [("text run", before), ("images and fine-tuning", whole - before)]
                found.append(self.cost(f"images from {percent:g}%", whole, parts, "table1", row))
        stages = {row["stage"]: row for row in self.read("table8.csv") if row.get("training_flops")}
        if {"cooldown", "fine-tuning"} <= stages.keys():
            texts = [number_in(r, "training_flops") for name, r in stages.items() if name.startswith("text, ")]
            cooled, tuned = (number_in(stages[name], "training_flops") for name in ("cooldown", "fine-tuning"))
            before = max(texts, default=0.0)
            parts = [("text run", before), ("cooldown", cooled - before), ("fine-tuning", tuned - cooled)]
            found.append(self.cost("the recommended model, by phase", tuned, parts, "table8", stages["fine-tuning"]))
        most = max((cost["flops"] for cost in found), default=1.0)
        for cost in found:
            cost["parts"] = [(name, big(part), 100 * part / most) for name, part in cost["parts"]]
        return found

    def cost(self, name: str, whole: float, parts: list, table: str, row: Row) -> dict:
        return {
            "name": name,
            "flops": whole,
            "total": big(whole),
            "parts": parts,
            "link": self.link(table, row, "training_flops"),
        }

    # --- lineage ---

    def subjects(self) -> list[dict]:
        """What rows are about, with the chain of jobs behind each run."""
        found = []
        for name, runs in self.lineage.subjects.items():
            chains = []
            for seed, key in runs.items():
                steps = [(step.name, step.key, f"#{anchor('job', step.key)}") for step in self.lineage.chain(key)]
                trained = [step for step in steps if step[1].partition("/")[0] in MODELS]
                chains.append((seed, trained, [step for step in steps if step[1].partition("/")[0] in DATA]))
            found.append({"name": name, "anchor": anchor("cell", name), "runs": chains})
        return found

    def jobs(self) -> list[tuple[str, list[dict]]]:
        """Every job of the study by phase, with its settings and parents."""
        found = []
        for key, job in self.lineage.jobs.items():
            phase, _, name = key.partition("/")
            own, shared = [], []
            for setting, value in sorted(job["settings"].items()):
                if isinstance(value, dict) and value.keys() == {"section"}:
                    shared.append((setting, f"#{anchor('settings', value['section'])}"))
                else:
                    own.append(f"{setting}: {shown(value)}")
            parents = [(role, parent, f"#{anchor('job', parent)}") for role, parent in job["parents"].items()]
            found.append(
                {"phase": phase, "id": name, "anchor": anchor("job", key)}
                | {"own": ", ".join(own), "shared": shared, "parents": parents}
            )
        order = [
            phase for phase in dict.fromkeys((*MODELS, *(job["phase"] for job in found))) if phase in self.counts()
        ]
        return [(phase, [job for job in found if job["phase"] == phase]) for phase in order]

    def made_from(self) -> list[tuple[str, Sequence[str], str]]:
        """Each table, its files and the digest of the card that it was made from."""
        found = []
        for name, files in self.settings["tables"].items():
            found.append((name, files, read_json(self.place(f"made_from/{name}.json"))["card"]))
        return found


# --- forms ---


def form_of(measure: str) -> tuple[str, float, int]:
    """Title, factor and digits of a measure."""
    after = measure.startswith("cooldown_")
    stem = measure.removeprefix("cooldown_") if after else measure
    title, factor, digits = SCORES.get(stem, (stem.replace("_", " "), 100, 1))
    return (f"{title}, after the cooldown" if after else title), factor, digits


def title_of(measure: str) -> str:
    return form_of(measure)[0]


def number_in(row: Row, column: str) -> float:
    """A number of a row; NaN if it has none there."""
    try:
        return float(row.get(column) or "nan")
    except ValueError:
        return math.nan


def shown(value: object) -> str:
    """A setting for reading."""
    words = {"True": "yes", "False": "no", "None": "none"}
    if str(value) in words:
        return words[str(value)]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return str(value)


def power_of(row: Row) -> str:
    """What the power of a claim's part is, and how many seeds would do."""
    power, needed = number_in(row, "power"), number_in(row, "seeds_needed")
    if not math.isfinite(power):
        return ""
    unit = "" if row["unit"] == "points" else f" {row['unit']}"
    more = f"; 0.8 takes {needed:g} seeds" if math.isfinite(needed) else ""
    return f"power {power:.2f} to find {number_in(row, 'power_at'):g}{unit}{more}"


def word(verdict: str) -> str:
    """A verdict as the name of a class."""
    return verdict.replace(" ", "-").replace("_", "-")


def fixed(value: float, digits: int) -> str:
    """A number with so many digits; what rounds to nothing has no sign."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def big(value: float) -> str:
    return f"{value:.3g}".replace("e+", "e") if value >= 1e9 else f"{value:,.0f}" if math.isfinite(value) else ""


def anchor(kind: str, name: str) -> str:
    """The id of an element that stands for something with a name."""
    return f"{kind}-{re.sub('[^A-Za-z0-9_=.-]+', '-', name)}"


def flat_lines(section: Mapping, prefix: str = "") -> list[str]:
    """A section of settings, a line a value."""
    lines: list[str] = []
    for key, value in sorted(section.items()):
        if isinstance(value, Mapping) and value:
            lines += flat_lines(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}: {shown(value)}")
    return lines


def embedded(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def svg(file: Path) -> Picture:
    """A drawing as a data URI. Raises ValueError if it does not say how large it is."""
    data = file.read_bytes()
    box = re.search(rb'viewBox="[\d.]+ [\d.]+ ([\d.]+) ([\d.]+)"', data)
    if box is None:
        raise ValueError(f"{file}: an SVG without a viewBox")
    return Picture(embedded("image/svg+xml", data), *(round(float(side)) for side in box.groups()))


def thumbnail(file: Path, largest: int = LARGEST) -> Picture:
    """An image as a data URI: as it is if it is small, else a JPEG whose longer side has so many pixels."""
    with open_image(file) as image:
        if max(image.size) <= largest and image.format in ("JPEG", "PNG", "WEBP"):
            return Picture(embedded(f"image/{image.format.lower()}", file.read_bytes()), *decode(file).size)
    smaller = decode(file)
    smaller.thumbnail((largest, largest))
    buffer = io.BytesIO()
    smaller.save(buffer, "JPEG", quality=80)
    return Picture(embedded("image/jpeg", buffer.getvalue()), *smaller.size)


INLINE = (
    (r"`([^`]+)`", r"<code>\1</code>"),
    (r"\*\*([^*]+)\*\*", r"<strong>\1</strong>"),
    (r"\[([^\]]+)\]\([^)]*\)", r"\1"),
)


def paragraphs(markdown: str) -> list[Markup]:
    """The paragraphs and list items of a short Markdown text; a link becomes its words, as the report stands alone."""
    blocks = re.split(r"\n\n|\n(?=- )", markdown.strip())
    texts = [str(escape(" ".join(block.removeprefix("- ").split()))) for block in blocks if not block.startswith("#")]
    for pattern, form in INLINE:
        texts = [re.sub(pattern, form, text) for text in texts]
    return [Markup(text) for text in texts]
