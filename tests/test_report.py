"""The report: every number stands in it and leads to what it comes from, it needs nothing else, and it is the same twice."""

import csv
import html
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import SOURCE
from hypothesis import Phase, given
from hypothesis import settings as settings_of
from hypothesis import strategies as st
from PIL import Image
from test_reporting import ANYTHING

from pipeline.__main__ import main
from pipeline.commands import kept_results
from pipeline.common.files import read_records, stable_json
from pipeline.reporting.job_settings import ReportSettings
from pipeline.reporting.lineage import Lineage
from pipeline.reporting.page import charts, forms, report
from pipeline.reporting.page.figures import all_figures
from pipeline.reporting.page.report import render
from pipeline.reporting.page.results import Results
from pipeline.reporting.page.tables import all_grids
from pipeline.reporting.table_list import TABLES
from pipeline.reporting.table_rows import Rows
from pipeline.settings.load import load_settings
from pipeline.study.study import Study
from pipeline.study.tables import report_settings

SMALL = SOURCE / "results/small"


class Page(HTMLParser):
    """What a page has: ids, links, addresses it would load, and its words."""

    def __init__(self, text: str):
        super().__init__()
        self.ids, self.links, self.loads, self.words, self.tags = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" else []
        self.loads += [value for key, value in attrs if key in ("src", "srcset", "data", "poster", "action")]
        self.loads += [found["href"]] if tag == "link" else []

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def study() -> Study:
    """Of the kept results, which no job makes again."""
    return kept_results.study_of(SOURCE, SMALL)


@pytest.fixture(scope="module")
def settings() -> ReportSettings:
    return kept_results.settings_of(SOURCE, SMALL)


@pytest.fixture(scope="module")
def default() -> ReportSettings:
    """Of the default study, all of whose experiments have been run."""
    return report_settings(Study(load_settings(SOURCE)))


@pytest.fixture
def default_copy(tmp_path) -> Path:
    shutil.copytree(SOURCE / "results", tmp_path / "default", ignore=shutil.ignore_patterns("small"))
    return tmp_path / "default"


@pytest.fixture(scope="module")
def text(settings) -> str:
    return render(Results(settings, SMALL.joinpath, notes=(SMALL / "README.md").read_text()))


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


@pytest.fixture
def copy(tmp_path) -> Path:
    """The kept results, for a test to change."""
    return Path(shutil.copytree(SMALL, tmp_path / "small"))


def read(name: str, folder: Path = SMALL) -> list[dict[str, str]]:
    with open(folder / name, newline="") as file:
        return list(csv.DictReader(file))


def change(file: Path, change_row) -> None:
    """Pass every row of a CSV through a function."""
    rows = [change_row(dict(row)) for row in read(file.name, file.parent)]
    with open(file, "w", newline="") as out:
        writer = csv.DictWriter(out, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def with_images(folder: Path) -> Results:
    """The kept results' report with images of some sizes in the place of the study's own."""
    shown = read("figures/examples.csv")
    files = {(row["task"], row["id"]): folder / f"{number}.png" for number, row in enumerate(shown)}
    for number, file in enumerate(files.values()):
        Image.new("RGB", (120 + 40 * (number % 3), 200), "red").save(file)
    return Results(kept_results.settings_of(SOURCE, SMALL), SMALL.joinpath, lambda keys: files)


# The page


def test_every_link_leads_to_one_place_of_the_page(page):
    assert [name for name, times in Counter(page.ids).items() if times > 1] == []
    assert {link for link in page.links if not link.startswith("#")} == set()
    assert {link[1:] for link in page.links} - set(page.ids) == set()
    assert len(page.links) > 1000


def test_the_page_loads_nothing(page, text):
    assert page.loads and all(address.startswith("data:") for address in page.loads)
    assert "default-src 'none'" in text  # and its browser is told so
    assert not re.search(r"url\(|@import|https?://", text)


def test_verdicts_come_first_and_all_of_them(page, text):
    claims = {row["claim"]: row for row in read("claims.csv") if not row["beside"]}
    assert {f"claim-{name}" for name in claims} <= set(page.ids)
    for verdict, count in Counter(row["verdict"].replace("_", " ") for row in claims.values()).items():
        assert f">{count} {verdict}</button>" in text
    sections = [name for name in page.ids if f'<section id="{name}"' in text]
    assert sections[0] == "verdicts" and len(sections) == 9


@pytest.mark.parametrize("measure", ["vision_average", "vision_gain", "text_stable", "reading"])
def test_a_number_stands_in_its_table_with_its_interval_and_its_link(text, measure):
    for row in (row for row in read("table1.csv") if row["model"] == "vlm"):
        score, low, high = (f"{100 * float(row[measure + end]):.1f}" for end in ("", "_low", "_high"))
        score, low, high = (re.sub("^-0.0$", "0.0", value) for value in (score, low, high))
        link = f'href="#cell-{row["cell"]}">{score}</a>'
        assert re.search(f"{re.escape(link)}\\s*<small>{low} to {high}</small>", text)


def test_every_experiment_is_drawn_or_said_not_to_be_run(settings, copy):
    found = {figure.name: figure for figure in all_figures(Results(settings, copy.joinpath))}
    sweeps = {name for name, table in TABLES.items() if table.maker == "experiment_tables.figure"}
    assert len(sweeps) == 5
    own = set(settings.experiments)
    assert set(found) == {"timing", *sweeps, *own, "captions", "encoder", "rewarm", "text_only", "moments"}
    experiments = yaml.safe_load((SMALL / "params.yaml").read_text(encoding="utf-8"))["experiments"]
    run = {name for name, experiment in experiments.items() if all(experiment["vary"].values())}
    assert {name for name, figure in found.items() if figure.panels} == run & set(found)
    assert all(figure.note == "Not run." for figure in found.values() if not figure.panels)
    assert str(found["timing"].panels[0][1]).count('<circle class="mark') == 6


def test_rows_that_differ_in_a_second_setting_are_lines_of_their_own(default, default_copy):
    """from_scratch at two branch points: a line each, and a legend that tells them apart."""
    rows = read_records(default_copy / "figures/from_scratch.csv")
    with open(default_copy / "figures/from_scratch.csv", "w", newline="") as out:
        writer = csv.DictWriter(out, rows[0])
        writer.writeheader()
        writer.writerows([*rows, *(row | {"branch_percent": "20"} for row in rows)])
    found = {figure.name: figure for figure in all_figures(Results(default, default_copy.joinpath))}
    drawing = str(found["from_scratch"].panels[0][1])
    lines = re.findall('<polyline class="curve (s[0-9])" points="([^"]*)"', drawing)
    assert [name for name, _ in lines] == ["s0", "s1"]
    for _, points in lines:
        across = [float(point.partition(",")[0]) for point in points.split()]
        assert len(across) == len(rows) and across == sorted(set(across))
    assert drawing.count("branch percent 20: ") == 2 * len(rows)  # in the tip and in the title
    assert (
        "branch percent 0</li>" in found["from_scratch"].legend
        and "branch percent 20</li>" in found["from_scratch"].legend
    )
    assert not any(figure.legend for name, figure in found.items() if name != "from_scratch")


def test_what_blind_models_answer_stands_among_the_controls(default, default_copy):
    def measured(row):
        return row | (
            {"reading": "0.125", "reading_low": "0.085", "reading_high": "0.165"} if row["control"] == "blind" else {}
        )

    change(default_copy / "controls.csv", measured)
    grid = next(grid for grid in all_grids(Results(default, default_copy.joinpath)) if grid.name == "controls")
    column = list(grid.header).index("reading")
    shown = {row[1].text: row[column] for row in grid.rows if row[0].text == "blind"}
    assert {(value.text, value.more) for value in shown.values()} == {("12.5", "8.5 to 16.5")}
    assert shown["evaluated=blind"].link == "#cell-evaluated=blind"


def test_what_fails_is_named(settings, copy):
    lost = "finetune b100: ValueError: the loss is not finite"

    def fail(row):
        if row["cell"] == "branch_percent=100":
            row |= {key: "" for key in row if key.startswith(("vision", "text_stable", "bits"))}
            row |= {"status": f"failed: {lost}", "seeds": "0"}
        return row

    change(copy / "table1.csv", fail)
    made = Results(settings, copy.joinpath)
    assert f"failed: {lost}" in [row[-1].text for row in all_grids(made)[0].rows]
    assert str(all_figures(made)[0].panels[0][1]).count('<circle class="mark') == 5
    assert lost in render(made)


def test_nothing_that_a_model_says_becomes_a_part_of_the_page(settings, copy):
    change(copy / "claims.csv", lambda row: row | {"says": "<script>alert(1)</script>"})
    made = Page(render(Results(settings, copy.joinpath)))
    assert made.tags.count("script") == 1
    assert "<script>alert(1)</script>" in [word.strip() for word in made.words]


def tags(page: Page) -> list[str]:
    return [tag for tag in page.tags if tag != "rect"]  # what is no box any more is not drawn


@settings_of(max_examples=3, derandomize=True, deadline=None, phases=[Phase.generate])  # a page takes a second
@given(said=st.lists(ANYTHING, min_size=60, max_size=60))
def test_whatever_is_said_is_words_of_the_page(tmp_path_factory, said):
    """Of models, data sets and errors, wherever the page shows them: the same tags, and the words as they are."""
    folder = tmp_path_factory.mktemp("said")
    texts = iter([text + f" {number}" for number, text in enumerate(said)] * 20)
    made = with_images(folder)
    plain_tags = tags(Page(render(made)))
    used = []

    def says(name: str, *columns: str) -> list[dict]:
        rows = [row | {column: next(texts) for column in columns if row.get(column)} for row in read(name)]
        shown = {row.get("claim") or n: row for n, row in reversed([*enumerate(rows)])}  # a claim's first row speaks
        used.extend(row[column] for row in shown.values() for column in columns if row.get(column))
        return rows

    said_rows = {
        "figures/examples.csv": says("figures/examples.csv", "question", "prediction"),
        "claims.csv": says("claims.csv", "says", "source", "reason", "note"),
        "comparison.csv": says("comparison.csv", "setting", "note"),
    }
    reading = made.read
    made.read = lambda name: said_rows.get(name) or reading(name)
    with open(folder / "claims.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, said_rows["claims.csv"][0], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(said_rows["claims.csv"])
    made.place = lambda name: (folder if name == "claims.csv" else SMALL) / name
    page = Page(render(made))
    assert tags(page) == plain_tags
    words = "".join(page.words)
    assert used and [text for text in used if text not in words] == []


# The same bytes


def test_the_kept_report_is_what_its_results_make(text):
    assert (SMALL / "report.html").read_text() == text, "run `python -m pipeline report --results results/small`"


def test_the_command_makes_it(tmp_path, monkeypatch, capsys, text):
    for name in ("configs", "pipeline"):
        (tmp_path / name).symlink_to(SOURCE / name)
    shutil.copytree(SMALL, tmp_path / "results/small", ignore=shutil.ignore_patterns("report.html"))
    monkeypatch.chdir(tmp_path)
    assert main(["report", "--results", "results/small"]) == 0
    assert (tmp_path / "results/small/report.html").read_text() == text
    assert main(["report", "--results", "results"]) == 2
    assert "allowed: a folder such as results/small, with its own params.yaml" in capsys.readouterr().err
    (tmp_path / "results/small/table5.csv").unlink()
    assert main(["report", "--results", "results/small"]) == 2
    assert capsys.readouterr().err == "results/small/table5.csv: no such file, but the report shows it\n"


def test_the_job_makes_it_from_the_tables_artifacts_with_the_images(settings, text, tmp_path, monkeypatch):
    inputs = {}
    for name, files in settings.tables.items():
        inputs[f"tables/{name}"] = tmp_path / name
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(SMALL / file, tmp_path / name / file)
        shutil.copy(SMALL / f"made_from/{name}.json", tmp_path / name / "files.json")
    rows = Rows(settings, inputs)
    shown = read("figures/examples.csv")
    for row in shown:
        Image.new("RGB", (600, 300), "red").save(tmp_path / row["image"])

    def questions(task, format):
        return [SimpleNamespace(id=r["id"], image=tmp_path / r["image"]) for r in shown if r["task"] == task]

    monkeypatch.setattr(rows, "questions", questions)
    report.make(rows, tmp_path)
    made = (tmp_path / "report.html").read_text()
    assert made.count('<figure class="example') == len(shown)
    assert made.count("data:image/jpeg") == len(shown)  # and no contact sheet
    assert made.count('<rect class="truth"') == sum(row["task"] in ("boxes", "clutter") for row in shown)
    same = [part.partition('id="learning"')[2].partition('class="notes') for part in (made, text)]
    assert same[0][0].partition('id="made"')[0] == same[1][0].partition('id="made"')[0]


def test_a_large_image_is_made_smaller_and_a_small_one_stays_as_it_is(tmp_path):
    Image.new("RGB", (600, 300), "red").save(tmp_path / "large.png")
    Image.new("RGB", (60, 30), "red").save(tmp_path / "small.png")
    small, large = (forms.thumbnail(tmp_path / f"{name}.png") for name in ("small", "large"))
    assert small == forms.Picture(forms.embedded("image/png", (tmp_path / "small.png").read_bytes()), 60, 30)
    assert large.address.startswith("data:image/jpeg") and (large.width, large.height) == (256, 128)


def test_every_image_says_its_size_before_it_is_loaded(tmp_path, text):
    """A click lands where it should only if nothing moves afterwards: tests/test_browser.py looks at that."""
    for made in (text, render(with_images(tmp_path))):
        tags = re.findall("<img [^>]*>", made)
        assert tags and all(re.search(r' width="\d+" height="\d+"', tag) for tag in tags)


# Lineage


@pytest.fixture(scope="module")
def lineage(settings) -> Lineage:
    return Lineage(settings)


def test_the_chain_of_a_number_ends_in_its_data(lineage, study):
    (evaluation,) = lineage.evaluations("branch_percent=40", "7").values()
    names = [(step.depth, step.name, step.key.partition("/")[0]) for step in lineage.chain(evaluation)]
    assert names[:5] == [
        (0, "evaluation", "evaluate"),
        (1, "checkpoint: fine-tuning", "finetune"),
        (2, "branch: cooldown", "cooldown"),
        (3, "text run", "pretrain"),
        (4, "shards (text)", "shards"),
    ]
    jobs = {"/".join(key): job for key, job in study.jobs.items()}
    for step in lineage.chain(evaluation):
        job = jobs[step.key]
        assert lineage.jobs[step.key]["parents"] == {role: "/".join(p.key) for role, p in job.parents.items()}
        found = lineage.jobs[step.key]["settings"]
        whole = {k: lineage.sections[v["section"]] if isinstance(v, dict) and v else v for k, v in found.items()}
        assert whole == job.card_settings
    branched = next(job for job in (jobs[s.key] for s in lineage.chain(evaluation)) if job.phase == "cooldown")
    assert branched.card_settings["branch_step"] == 0.4 * 9000


@pytest.mark.parametrize(
    ("table", "place", "column", "found"),
    [
        ("table1", {"model": "vlm", "branch_percent": "40"}, "vision_gain", ["branch_percent=40"]),
        ("table1", {"model": "vlm", "branch_percent": "80"}, "cooldown_cider", ["evaluated=cooldown"]),
        ("table1", {"model": "vlm", "branch_percent": "0"}, "cooldown_cider", ["branch_percent=0 evaluated=cooldown"]),
        ("table1", {"model": "text only", "branch_percent": "60"}, "text_stable", ["text run at 60%"]),
        ("table2", {"phase": "text run to 100%"}, "training_flops", ["text run at 100%"]),
        ("table2", {"phase": "whole model (recipe)"}, "parameters", ["recipe"]),
        ("table8", {"stage": "text, 40%"}, "bits_per_byte", ["text run at 40%"]),
        ("figures/timing", {"branch_percent": "100"}, "vision_stable", ["branch_percent=100"]),
        ("figures/timing_runs", {"branch_percent": "60", "seed": "8"}, "vision_stable", ["branch_percent=60"]),
        ("figures/loss", {"percent": "50"}, "text run", ["text run at 100%"]),
        ("figures/schedules", {"branch": "80%"}, "learning_rate", []),
        ("claims", {"claim": "rate_matched"}, "effect", ["recipe", "branch_percent=100 rewarm_like=80"]),
        ("comparison", {"status": "not_run"}, "ours", []),
    ],
)
def test_a_number_is_about_the_model_whose_row_it_is_in(lineage, table, place, column, found):
    row = next(row for row in read(f"{table}.csv") if place.items() <= row.items())
    assert lineage.about(Path(table).name, row, column) == found


def test_a_loss_curve_is_about_all_models_that_it_averages(lineage):
    row = read("figures/loss.csv")[0]
    assert lineage.about("loss", row, "cooldown") == [
        "branch_percent=0",
        *("branch_percent=20", "branch_percent=40", "branch_percent=60", "recipe", "branch_percent=100"),
    ]


def test_every_row_of_every_table_with_a_model_of_the_study_leads_to_it(lineage, settings):
    """But for those of schedules, which no run makes, of signal, which is of many, and of the paper's figures that nothing answers to."""
    lost = []
    for files in settings.tables.values():
        for file in (
            file for file in files if file.endswith(".csv") and Path(file).stem not in ("schedules", "signal")
        ):
            for row in read(file):
                if row.get("status") == "not_run" or row.get("verdict") == "not_run":
                    continue
                column = [column for column in row if row[column]][-1]
                if not lineage.about(Path(file).stem, row, "ours" if "ours" in row else column):
                    lost.append((file, row))
    assert lost == []


# Charts


def test_ticks_are_round_and_inside():
    assert charts.ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert charts.ticks(-0.013, 0.021, 4) == [-0.01, 0.0, 0.01, 0.02]
    assert charts.ticks(3, 3) == [3]


def places(drawing: str, kind: str, *keys: str) -> list[tuple[float, ...]]:
    """The coordinates of a drawing's elements of a class."""
    found = re.findall(f'<\\w+ class="{kind}" ([^/]*)/>', drawing)
    return [tuple(float(re.search(f'{key}="([^"]*)"', one)[1]) for key in keys) for one in found]


def test_a_panel_draws_each_score_between_the_ends_of_its_interval():
    rows = [charts.Point(n, 10 * n, 10 * n - 2, 10 * n + 5, f"{n}<", "#there", hollow=n == 2) for n in range(3)]
    drawing = str(charts.panel(rows, "x", "y"))
    marks = places(drawing, "mark", "cx", "cy") + places(drawing, "mark hollow", "cx", "cy")
    whiskers = [w for w in places(drawing, "whisker", "x1", "y1", "x2", "y2") if w[0] == w[2]]
    assert len(marks) == len(whiskers) == 3
    assert [x for x, _ in marks] == sorted(x for x, _ in marks)
    assert [y for _, y in marks] == sorted((y for _, y in marks), reverse=True)
    for (x, y), (at, bottom, _, top) in zip(marks, whiskers):
        assert at == x and (bottom - y) / (y - top) == pytest.approx(2 / 5, abs=0.03)
    assert 'data-tip="0&lt;"' in drawing and drawing.count('href="#there"') == 3


def test_an_interval_has_zero_and_the_papers_effect_on_its_scale():
    drawing = str(charts.interval(2.0, 1.0, 3.0, (-1.0, 4.0), published=4.0))
    ((zero, _),) = places(drawing, "zero", "x1", "x2")
    ((middle,),) = places(drawing, "mark", "cx")
    assert (middle - zero) / (300 - 16) == pytest.approx(2 / 5, abs=0.001)
    assert 'class="published"' in drawing and "the paper: +4" in drawing


# Forms


@pytest.mark.parametrize(("value", "text"), [(-0.0004, "0.00"), (0.005, "0.01"), (-1.234, "-1.23")])
def test_what_rounds_to_nothing_has_no_sign(value, text):
    assert forms.fixed(value, 2) == text


def test_notes_become_paragraphs_without_links():
    notes = "# Title\n\nOne `a < b`\nline.\n\n- **Made**: by [it](x.md)\n  here\n- two"
    assert forms.paragraphs(notes) == [
        "One <code>a &lt; b</code> line.",
        "<strong>Made</strong>: by it here",
        "two",
    ]
    assert html.unescape(str(forms.paragraphs("a & b")[0])) == "a & b"


def test_the_reports_settings_are_stable_json(settings):
    assert len(stable_json(settings.model_dump())) < 1_000_000
