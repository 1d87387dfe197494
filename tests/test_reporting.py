"""Tables and figures from result files made by hand: numbers, `not_run`, the rule behind examples, equal bytes."""

import hashlib
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from conftest import SOURCE
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.text import Text
from PIL import Image
from typed import table_settings

from pipeline.reporting import (
    claims,
    comparison,
    conditions,
    controls,
    drawings,
    examples,
    experiment,
    experiment_tables,
    figures,
    proportions,
    scores,
    signal,
    table1,
    table_rows,
    tables,
)
from pipeline.reporting.measures import DRAWN, MEASURES
from pipeline.reporting.table_list import TABLES, axis_of
from pipeline.reporting.table_rows import Cell, Rows
from pipeline.settings.params import PAPER
from pipeline.statistics import estimates
from pipeline.store.fingerprint import code_fingerprint
from pipeline.study.claims import METRICS
from pipeline.training.schedule import Schedule

TASKS = {
    "vision": {"short_answer": {"chance": 0.0, "stable": True}, "presence": {"chance": 0.5, "stable": True}},
    "text": {"cloze": {"chance": 0.5, "stable": True}},
}
CONDITIONS = {"normal": 0.0, "removed": -0.3, "mean": -0.2, "shuffled": -0.25}
RECIPE = {"branch_percent": 80.0, "image_fraction": 0.1, "finetune_epochs": 2, "cooldown": True}
TOKENS = {"positions": 1000, "text": 800, "image": 100, "image_text": 90, "padding": 10}


@pytest.fixture
def study(tmp_path):
    """Makes Rows of runs (cell, seed, settings, score) whose files it writes."""

    def make(table: str, *runs, experiments=(), published=()) -> Rows:
        listed, inputs = [], {}
        for cell, seed, settings, score in runs:
            name = f"{cell}-{seed}"
            inputs[f"scores/{name}"] = evaluation(tmp_path / name, score)
            for phase in ("pretrain", "cooldown", "finetune"):
                inputs[f"{phase}/{name}"] = training(tmp_path / phase)
            row = {"run": name, "cell": cell, "seed": seed, "evaluated": "model"}
            listed.append(row | {"settings": RECIPE | settings, "experiments": list(experiments)})
        made = Rows(
            table_settings(make=table, tasks=TASKS, recipe=RECIPE, rows=listed, published=list(published)), inputs
        )
        guesses = [{"task": task, "id": f"{n}", "score": 0.25} for task in TASKS["vision"] for n in range(40)]
        made.__dict__["prior"] = pd.DataFrame(guesses).assign(prior="blind")
        return made

    return make


def evaluation(folder, score: float):
    """Files of an evaluation in which the share `score` of every task's 40 questions is right."""
    folder.mkdir(exist_ok=True)
    asked = [
        {"task": task, "condition": condition, "kind": "a" if n % 2 else "b", "id": f"{n}", "image": f"{n}.png"}
        | {"score": float(n < round(40 * (score + change))), "valid": 1}
        for task in TASKS["vision"]
        for condition, change in CONDITIONS.items()
        for n in range(40)
    ]
    pd.DataFrame(asked).to_csv(folder / "vision.csv", index=False)
    pd.DataFrame([{"task": "cloze", "id": f"{n}", "score": n % 2} for n in range(20)]).to_csv(
        folder / "text.csv", index=False
    )
    documents = [{"id": f"{n}", "nats": (100 + n) * math.log(2), "bytes": 50} for n in range(10)]
    pd.DataFrame(documents).to_csv(folder / "heldout.csv", index=False)
    return folder


def right_answers(folder, captions: int = 0, saved: float = 1.0):
    """answers.csv in which the right image saves so many bits of an answer of four or five bytes, and more of later ones."""
    told = [(task, f"{n}", f"{n}.png") for task in TASKS["vision"] for n in range(40)]
    told += [("captioning", f"{n}", f"{n}.png") for n in range(captions)]
    rows = [
        {"task": task, "condition": condition, "id": name, "image": image, "bytes": 4 + int(name) % 2}
        | {"nats": math.log(2) * (20 + (condition == "shuffled") * (saved + int(name) / 40))}
        for task, name, image in told
        for condition in ("normal", "shuffled")
    ]
    rows += [
        {"task": "cloze", "condition": "normal", "id": f"{n}", "image": "", "bytes": 5, "nats": n} for n in range(20)
    ]
    pd.DataFrame(rows).to_csv(folder / "answers.csv", index=False)


def training(folder):
    folder.mkdir(exist_ok=True)
    rates = {"first": 0.001, "last": 0.0, "peak": 0.002}
    measured = {"tokens": TOKENS, "training_flops": 5, "parameters": 7, "learning_rates": rates}
    measured |= {"image_fraction": {"of_sequences": 0.1, "of_positions": 0.1}}
    (folder / "measured.json").write_text(json.dumps(measured))
    return folder


def again(made: Rows, **states: dict) -> Rows:
    """The same Rows with changes to what is listed of some cells: evaluated, experiments."""
    for row in made.settings.rows:
        row |= states.get(row["cell"], {})
    return made


def with_text_run(made: Rows, folder) -> Rows:
    """The same Rows with two states of a text run, listed backwards, and with the losses of every phase."""
    states = {f"text-{n}": {"percent": n, "size": "base", "text_budget": 1.0} for n in (100.0, 50.0)}
    made.told = made.told.model_copy(update={"text": states})
    for run in states:
        made.inputs[f"scores/{run}"] = evaluation(folder / run, 0.0)
        made.inputs[f"pretrain/{run}"] = training(folder / "pretrain")
    losses = pd.DataFrame({"step": range(1, 101), "loss": np.linspace(5, 3, 100)})
    for phase in ("pretrain", "cooldown", "finetune"):
        losses.to_csv(training(folder / phase) / "losses.csv", index=False)
    return made


def vision_average(folders) -> estimates.Estimate:
    found = pd.concat([pd.read_csv(folder / "vision.csv") for folder in folders])
    found = found[found["condition"] == "normal"].groupby(["task", "image"], as_index=False)["score"].mean()
    return estimates.mean_of_means(found["score"].to_numpy(), found["task"].tolist(), found["image"].tolist())


# --- rows ---


def test_one_seed_has_the_interval_of_its_questions(study):
    made = study("table5", ("recipe", 7, {}, 0.6))
    row = made.row(made.cells()[0])
    expected = vision_average([made.folder("recipe-7")])
    found = [row[f"vision_average{end}"] for end in ("", "_low", "_high")]
    assert found == pytest.approx([expected.estimate, expected.low, expected.high])
    assert row["vision_stable"] == pytest.approx(0.6 - 0.25)
    assert row["vision_gain"] == pytest.approx(0.6 - 0.25)
    assert row["vision_average_removed"] == pytest.approx(0.3)
    assert row["bits_per_byte"] == pytest.approx(104.5 / 50)
    assert row["training_flops"] == 15


def test_several_seeds_widen_the_interval_by_how_they_differ(study):
    made = study("table5", *(("recipe", seed, {}, score) for seed, score in ((7, 0.4), (8, 0.6), (9, 0.8))))
    (cell,) = made.cells()
    assert cell.seeds == [7, 8, 9]
    folders = [made.folder(run) for run in cell.runs.values()]
    each = [vision_average([folder]) for folder in folders]
    expected = estimates.over_seeds([[0.4, 0.6, 0.8]], vision_average(folders), each, careful=False).estimate
    row = made.row(cell)
    found = [row[f"vision_average{end}"] for end in ("", "_low", "_high")]
    assert found == pytest.approx([expected.estimate, expected.low, min(1, expected.high)])
    assert row["vision_average_high"] - row["vision_average_low"] > 0.4  # three seeds: 4.3 standard errors each way
    assert row["seeds"] == 3


def test_no_interval_reaches_beyond_what_a_score_can_be(study):
    made = study("table5", ("recipe", 7, {}, 0.95), ("recipe", 8, {}, 0.5))
    row = made.row(made.cells()[0])
    assert (row["short_answer_low"], row["short_answer_high"]) == (0, 1)
    assert (row["vision_average_low"], row["vision_average_high"]) == (0, 1)
    assert (row["vision_stable_low"], row["vision_stable_high"]) == (
        -0.25,
        0.75,
    )  # chance is 0 in one task, .5 in another
    assert row["vision_gain_high"] > 1  # it is a difference: of its interval more is said than of a share


def test_no_right_answer_in_any_seed_is_not_a_certain_zero(study):
    made = study("table5", ("recipe", 7, {}, 0.0), ("recipe", 8, {}, 0.0))
    row = made.row(made.cells()[0])
    assert row["short_answer"] == 0
    assert row["short_answer_high"] == pytest.approx(estimates.wilson(0, 40)[1])


def test_cells_stand_in_the_order_of_the_study_with_all_their_seeds():
    listed = [("late", 9, "model", ["timing"]), ("early", 7, "model", ["timing", "seeds"]), ("late", 7, "model", [])]
    listed += [("early, before", 7, "cooldown", ["timing"])]
    keys = ("cell", "seed", "evaluated", "experiments")
    rows = [dict(zip(keys, row)) | {"run": f"r{n}", "settings": {}} for n, row in enumerate(listed)]
    made = Rows(table_settings(tasks=TASKS, rows=rows), {})
    late = Cell("late", "model", {}, {9: "r0", 7: "r2"})
    early, before = Cell("early", "model", {}, {7: "r1"}), Cell("early, before", "cooldown", {}, {7: "r3"})
    assert made.cells() == [late, early, before]
    assert late.seeds == [7, 9]
    assert made.cells("timing") == [Cell("late", "model", {}, {9: "r0"}), early, before]
    assert made.cells("timing", "cooldown") == [before]
    assert made.cells("seeds", "model") == [early]
    assert made.cells("size") == []


def test_an_estimate_of_one_folder_is_left_as_it_is_and_of_several_is_widened(study):
    made = study("table5", ("recipe", 7, {}, 0.6), ("recipe", 8, {}, 0.5))

    def share(found: pd.DataFrame) -> estimates.Estimate:
        return estimates.mean_of_means(found["score"], found["task"].tolist(), found["image"].tolist())

    folders = [made.folder("recipe-7"), made.folder("recipe-8")]
    read = [
        pd.read_csv(folder / "vision.csv").query("condition == 'normal' and task == 'presence'") for folder in folders
    ]
    alone = [made.estimate([folder], "vision.csv", share, condition="normal", task="presence") for folder in folders]
    for found, asked in zip(alone, read):
        assert found == pytest.approx(share(asked))
    averaged = share(read[0].assign(score=(read[0]["score"] + read[1]["score"].to_numpy()) / 2))
    both = made.estimate(folders, "vision.csv", share, condition="normal", task="presence")
    each = [share(one) for one in read]
    assert both == pytest.approx(estimates.over_seeds([[0.6, 0.5]], averaged, each, careful=False).estimate)
    assert both.estimate == pytest.approx(0.55)
    assert both.high - both.low > averaged.high - averaged.low


def test_captions_are_a_column_only_where_every_run_has_them(study):
    made = study("table5", ("recipe", 7, {}, 0.6), ("recipe", 8, {}, 0.6))
    folders = [made.folder("recipe-7"), made.folder("recipe-8")]
    captions = pd.DataFrame({"id": ["1", "2", "3"], "image": ["a", "b", "b"], "score": [1.0, 2.0, 6.0]})
    captions.to_csv(folders[0] / "captions.csv", index=False)
    assert made.optional(folders) == {}
    assert made.optional(folders[:1])["cider"] == pytest.approx(3)
    captions.assign(score=1.0).to_csv(folders[1] / "captions.csv", index=False)
    assert made.optional(folders)["cider"] == pytest.approx(2)


def test_costs_are_of_the_whole_ancestry_and_nothing_where_there_is_none(study):
    made = study("table5", ("recipe", 7, {}, 0.6))
    columns = made.cost("recipe-7")
    assert columns["text_run_tokens"] == 1000
    assert columns["cooldown_image_tokens"] == columns["finetune_image_tokens"] == 100
    assert (columns["cooldown_first_lr"], columns["cooldown_peak_lr"]) == (0.001, 0.002)
    assert (columns["parameters"], columns["training_flops"]) == (7, 15)
    del made.inputs["pretrain/recipe-7"], made.inputs["cooldown/recipe-7"]
    columns = made.cost("recipe-7")
    assert columns["text_run_tokens"] == columns["cooldown_image_tokens"] == 0
    assert "cooldown_first_lr" not in columns
    assert columns["training_flops"] == 5


def test_the_interval_of_a_cell_covers_the_truth_as_often_as_it_says():
    noise, hits, studies, seeds, images = np.random.default_rng(0), 0, 400, 4, 60
    for _ in range(studies):
        hard, runs = noise.normal(0, 0.1, images), noise.normal(0, 0.02, seeds)
        values = hard + runs[:, None] + noise.normal(0, 0.1, (seeds, images))
        groups, clusters = ["all"] * images, [f"{n}" for n in range(images)]
        items = estimates.mean_of_means(values.mean(0), groups, clusters)
        each = [estimates.mean_of_means(one, groups, clusters) for one in values]
        found = estimates.over_seeds([values.mean(1)], items, each).estimate
        hits += found.low <= 0 <= found.high
    assert hits / studies >= 0.94  # and mostly more, as the examples are known better than four seeds


def test_percent_shows_an_interval_or_nothing():
    assert table_rows.score_text({"a": 0.25, "a_low": 0.2, "a_high": 0.3}, "a") == "25.0 (20.0 to 30.0)"
    assert table_rows.score_text({"cider": 1.25}, "cider") == "1.25"
    assert table_rows.score_text({"a": math.nan}, "a") == table_rows.score_text({}, "a") == ""


ANYTHING = st.text(
    st.one_of(
        st.sampled_from("|\\\\`*_[]()<>&~$#!\"' \r\n\t\0\x0b\x0c\x1c\x85\u2028\u2029ab1-"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=30,
)


@settings_of(max_examples=200, derandomize=True, deadline=None)
@given(ANYTHING, ANYTHING)
def test_whatever_is_said_is_one_cell_of_a_markdown_table_and_nothing_else(one, other):
    lines = table_rows.markdown_table(
        ["a", "b", "c"], [["x", table_rows.plain(one), table_rows.plain(other)], ["y", "1", "2"]]
    )
    assert len("\n".join(lines).splitlines()) == 4
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse("\n".join(lines))
    cells = [token for token in tokens if token.type == "inline"]
    assert len(cells) == 9

    def shown(said: str) -> str:
        return " ".join("".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in said).split())

    for cell, said in zip(cells[3:6], ("x", one, other)):
        assert {child.type for child in cell.children} <= {"text", "text_special"}
        assert "".join(child.content for child in cell.children) == shown(said)


def test_a_cell_of_markdown_stays_markdown_and_one_cell():
    raw = ["**bold** a|b", "a\\|b", "a\\\\|b", "ends in \\", "two\r\nlines\u2028and three"]
    (_, _, line) = table_rows.markdown_table(["h"] * 5, [raw])
    assert line == r"| **bold** a\|b | a\|b | a\\\|b | ends in \\ | two lines and three |"


@pytest.mark.parametrize(
    ("seeds", "says"),
    [([1, 1], "one seed"), ([1, 5], "and the seeds where there are several"), ([3, 5], "and 3 seeds or more")],
)
def test_what_intervals_cover_is_true_of_every_row(seeds, says):
    assert table_rows.covered(seeds) == f"95% over the questions asked, {says}"


def test_tables_are_written_the_same_everywhere(tmp_path):
    assert table_rows.markdown_table(["", "a"], [["x", "1"], ["y", ""]]) == [
        "|  | a |",
        "| --- | --- |",
        "| x | 1 |",
        "| y |  |",
    ]
    table_rows.write_table(
        pd.DataFrame({"a": [1 / 3, None], "b": ["x, y", "z"], "c": [1, 20]}), tmp_path / "new" / "t.csv"
    )
    assert (tmp_path / "new" / "t.csv").read_bytes() == b'a,b,c\n0.333333,"x, y",1\n,z,20\n'


# --- tables ---


def test_a_table_has_a_row_a_cell_with_the_papers_figures_beside(study, tmp_path):
    printed = {"output": "table5", "setting": "full", "task": "vision", "value": 0.46, "unit": "fraction", "note": "n"}
    published = [
        printed | {"cell": "recipe", "column": "vision_stable"},
        printed | {"cell": "captions=long", "column": "vision_stable"},
        printed | {"cell": "", "column": ""},
    ]
    made = study("table5", ("recipe", 7, {}, 0.6), ("captions=short", 7, {}, 0.5), published=published)
    experiment_tables.table(made, tmp_path)
    table = pd.read_csv(tmp_path / "table5.csv")
    assert list(table["cell"]) == ["recipe", "captions=short"]
    assert list(table["vision_average"]) == [0.6, 0.5]
    beside = comparison.beside(made, table)
    assert list(beside["status"]) == ["ok", "not_run", "not_run"]
    assert beside["published"][0] == pytest.approx(46)  # a fraction, in points
    assert beside["delta"][0] == pytest.approx(35 - 46)
    text = (tmp_path / "table5.md").read_text()
    assert "60.0 (" in text
    assert "-11.0" in text
    assert "not run" in text


def test_seeds_are_shown_one_by_one_where_that_is_the_question(study, tmp_path):
    runs = [(f"finetune_seed={seed}", 7, {"finetune_seed": seed}, score) for seed, score in ((7, 0.6), (365, 0.5))]
    experiment_tables.table(study("table7", *runs, experiments=["seeds"]), tmp_path)
    table = pd.read_csv(tmp_path / "table7.csv")
    assert list(zip(table["finetune_seed"], table["vision_average"])) == [(7, 0.6), (365, 0.5)]


@pytest.mark.parametrize("name", ["table3", "table4", "table5", "table6", "table7", "table9"])
def test_a_table_without_runs_says_so(study, tmp_path, name):
    experiment_tables.table(study(name), tmp_path)
    assert "not_run" in (tmp_path / f"{name}.csv").read_text()
    assert "not run" in (tmp_path / f"{name}.md").read_text()


@pytest.mark.parametrize("name", ["image_fraction", "from_scratch", "finetune_epochs"])
def test_a_figure_without_runs_says_so(study, tmp_path, name):
    experiment_tables.figure(study(name), tmp_path)
    assert "not_run" in (tmp_path / f"figures/{name}.csv").read_text()
    assert (tmp_path / f"figures/{name}.png").stat().st_size > 1000


def test_controls_without_runs_say_so(study, tmp_path):
    controls.make(study("controls"), tmp_path)
    assert "not_run" in (tmp_path / "controls.csv").read_text()
    assert (tmp_path / "controls.md").read_text().count("Not run.") == len(TABLES["controls"].parts)
    assert (tmp_path / "figures/rewarm.png").exists()


def test_conditions_and_question_types(study, tmp_path):
    conditions.make(study("conditions", ("recipe", 7, {}, 0.6)), tmp_path)
    table = pd.read_csv(tmp_path / "conditions.csv").set_index("condition")["score"]
    assert table.to_dict() == pytest.approx({name: 0.6 + change for name, change in CONDITIONS.items()})
    kinds = pd.read_csv(tmp_path / "question_types.csv")
    assert list(kinds["questions"]) == [20] * 4
    assert "short_answer: a" in (tmp_path / "question_types.md").read_text()


def test_measures_are_means_over_seeds(study, tmp_path):
    made = study("conditions", ("a", 7, {}, 0.5), ("a", 365, {}, 0.5), ("b", 7, {}, 0.5))
    for name, f1 in (("a-7", "0.4"), ("a-365", "0.5"), ("b-7", "0.25")):
        rows = [f"presence,{condition},,f1,40,{f1}" for condition in ("normal", "removed")]
        text = "\n".join(["task,condition,kind,measure,questions,score", *rows, f"cloze,,,acc_norm,20,{f1}", ""])
        (tmp_path / name / "measures.csv").write_text(text)
    conditions.make(made, tmp_path)
    assert (tmp_path / "measures.csv").read_text().splitlines()[:4] == [
        "cell,task,condition,kind,measure,questions,seeds,score",
        "a,presence,normal,,f1,40,2,0.45",
        "a,presence,removed,,f1,40,2,0.45",
        "a,cloze,,,acc_norm,20,2,0.45",
    ]
    shown = (tmp_path / "measures.md").read_text().splitlines()
    assert shown[4:8] == [
        "| measure | questions | a | b |",
        "| --- | --- | --- | --- |",
        "| presence: f1 | 40 | 45.0 | 25.0 |",
        "| cloze: acc_norm | 20 | 45.0 | 25.0 |",
    ]


def test_published_points_stay_and_an_output_without_them_gives_no_lines(study, tmp_path):
    printed = {"output": "table4", "setting": "frozen", "task": "VQAv2", "value": 58.7, "unit": "percent", "note": ""}
    cell = {"cell": "recipe", "column": "vision_average"}
    made = study("comparison", ("recipe", 7, {}, 0.6), ("other", 7, {}, 0.1), published=[printed | cell])
    comparison.make(made, tmp_path)
    (row,) = pd.read_csv(tmp_path / "comparison.csv").to_dict("records")
    assert (row["published"], row["unit"], row["ours"], row["status"]) == (58.7, "points", 60, "ok")
    assert row["delta"] == pytest.approx(1.3)
    assert row["ours_low"] < 60 < row["ours_high"]
    assert "| +1.3 |" in (tmp_path / "comparison.md").read_text()
    made.told = made.told.model_copy(update={"published": []})
    beside = comparison.beside(made, pd.DataFrame([{"cell": "recipe", "vision_average": 0.6}]))
    assert list(beside.columns) == comparison.COLUMNS
    assert comparison.comparison_lines(beside) == []


def test_a_figure_of_two_cells_and_two_seeds_has_a_row_a_cell(study, tmp_path):
    longer, shorter = {"finetune_epochs": 2}, {"finetune_epochs": 1}
    runs = [("recipe", 7, longer, 0.6), ("one", 7, shorter, 0.4), ("recipe", 8, longer, 0.5), ("one", 8, shorter, 0.4)]
    made = study("finetune_epochs", *runs, ("after", 7, shorter, 0.0), experiments=["finetune_epochs"])
    experiment_tables.figure(again(made, after={"evaluated": "cooldown"}), tmp_path)
    table = pd.read_csv(tmp_path / "figures/finetune_epochs.csv")
    assert list(table["cell"]) == ["recipe", "one"]
    assert list(table["seeds"]) == [2, 2]
    assert list(table["vision_average"]) == pytest.approx([0.55, 0.4])
    width = table["vision_average_high"] - table["vision_average_low"]
    assert width[0] > width[1]  # its seeds differ
    assert list(table["cooldown_bits_per_byte"].notna()) == [False, True]
    assert table["cooldown_bits_per_byte"][1] == pytest.approx(104.5 / 50, rel=1e-5)


def told(made: Rows, *vary: str, evaluated: str = "model") -> Rows:
    """The same Rows as those of the table of an experiment that varies some keys."""
    told = {"says": "How *long*?", "vary": list(vary), "evaluated": evaluated}
    made.told = made.told.model_copy(update={"experiment": told})
    return made


LENGTH = "scale.cooldown.tokens"


def test_an_experiment_has_a_row_a_model_and_what_it_had_before_fine_tuning(study, tmp_path):
    runs = [("short", 7, {LENGTH: 10}, 0.4), ("recipe", 7, {LENGTH: 20}, 0.6), ("before", 7, {LENGTH: 20}, 0.0)]
    made = told(study("mine", *runs, experiments=["mine"]), LENGTH)
    experiment.make(again(made, before={"evaluated": "cooldown"}), tmp_path)
    table = pd.read_csv(tmp_path / "experiments/mine.csv")
    assert table[LENGTH].to_list() == [10, 20]
    assert table["vision_average"].to_list() == pytest.approx([0.4, 0.6])
    assert table["cooldown_bits_per_byte"].notna().to_list() == [False, True]
    lines = (tmp_path / "experiments/mine.md").read_text().splitlines()
    assert lines[0].startswith("# How \\*long\\*? (preset `x`") and any(line.startswith("| 10 | ") for line in lines)
    assert (tmp_path / "experiments/mine.png").stat().st_size > 10_000


def test_an_experiment_over_seeds_has_a_row_a_run_failed_ones_too(study, tmp_path):
    made = told(study("mine", *[("recipe", seed, {}, 0.5) for seed in (7, 8, 9)], experiments=["mine"]), "seed")
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed/measured.json").write_text('{"failed": "it is out of luck"}')
    made.inputs["scores/recipe-8"] = tmp_path / "failed"
    experiment.make(made, tmp_path)
    table = pd.read_csv(tmp_path / "experiments/mine.csv")
    assert table["seed"].to_list() == [7, 8, 9]
    assert table["status"].to_list() == ["ok", "failed: it is out of luck", "ok"]
    assert table["vision_average"].notna().to_list() == [True, False, True]


@pytest.mark.parametrize(
    ("vary", "values", "x"),
    [
        ((LENGTH, "captions"), [(10, "full"), (20, "full"), (10, "short")], LENGTH),
        (("captions", LENGTH), [("full", 10), ("short", 10)], LENGTH),
        (("captions", "cooldown"), [("full", True), ("short", True)], "model"),
        (("rewarm_like",), [(None,), (60.0,)], "rewarm_like"),
    ],
)
def test_an_experiments_figure_is_along_its_first_key_of_numbers(study, tmp_path, monkeypatch, vary, values, x):
    drawn = {}
    monkeypatch.setattr(experiment, "sweep_figure", lambda rows, **options: drawn.update(options, rows=rows))
    runs = [(f"cell{n}", 7, dict(zip(vary, some)), 0.5) for n, some in enumerate(values)]
    experiment.make(told(study("mine", *runs, experiments=["mine"]), *vary), tmp_path)
    assert drawn["x"] == x
    assert drawn["lines"] == (["captions"] if x == LENGTH else drawn["lines"])
    assert pd.api.types.is_numeric_dtype(drawn["rows"][x]) == (x == LENGTH)


def test_a_blind_experiment_has_what_is_answered_without_the_image(study, tmp_path):
    runs = [("one", 7, {LENGTH: 10}, 0.6), ("two", 7, {LENGTH: 20}, 0.8)]
    made = again(study("mine", *runs, experiments=["mine"]), one={"evaluated": "blind"}, two={"evaluated": "blind"})
    experiment.make(told(made, LENGTH, evaluated="blind"), tmp_path)
    table = pd.read_csv(tmp_path / "experiments/mine.csv")
    assert table["vision_average"].to_list() == pytest.approx([0.3, 0.5])  # with the image removed


def test_an_experiment_that_was_not_run_says_so(study, tmp_path):
    experiment.make(told(study("mine"), LENGTH, "seed"), tmp_path)
    assert pd.read_csv(tmp_path / "experiments/mine.csv")["status"].to_list() == ["not_run"]
    assert "not run" in (tmp_path / "experiments/mine.md").read_text()
    assert (tmp_path / "experiments/mine.png").exists()


def test_conditions_of_two_cells_and_two_seeds_have_a_row_a_cell(study, tmp_path):
    runs = [("recipe", 7, {}, 0.6), ("recipe", 8, {}, 0.5), ("other", 7, {}, 0.4), ("other", 8, {}, 0.4)]
    conditions.make(study("conditions", *runs), tmp_path)
    table = pd.read_csv(tmp_path / "conditions.csv")
    assert list(zip(table["cell"], table["condition"])) == [(c, n) for c in ("recipe", "other") for n in CONDITIONS]
    expected = [score + change for score in (0.55, 0.4) for change in CONDITIONS.values()]
    np.testing.assert_allclose(table["score"], expected, atol=1e-6)
    assert set(table["seeds"]) == {2}
    kinds = pd.read_csv(tmp_path / "question_types.csv")
    assert len(kinds) == 2 * len(TASKS["vision"]) * 2
    assert kinds.groupby("cell")["score"].mean().to_dict() == pytest.approx({"recipe": 0.55, "other": 0.4})
    assert "| image | recipe | other |" in (tmp_path / "conditions.md").read_text()


def test_controls_stand_beside_the_recipe(study, tmp_path):
    made = study(
        "controls",
        ("recipe", 7, {}, 0.6),
        ("end", 7, {"branch_percent": 100.0}, 0.5),
        ("text", 7, {}, 0.0),
        ("blind", 7, {}, 0.5),
    )
    states = {"end": {"experiments": ["rewarm"]}, "text": {"experiments": ["text_only"], "evaluated": "cooldown"}}
    controls.make(again(made, **states, blind={"experiments": ["blind"], "evaluated": "blind"}), tmp_path)
    table = pd.read_csv(tmp_path / "controls.csv").set_index(["control", "cell"])
    assert list(table.index) == [("rewarm", "recipe"), ("rewarm", "end"), ("text_only", "text"), ("blind", "blind")]
    assert list(table["vision_average"][:2]) == [0.6, 0.5]
    assert table["vision_average"][2:].isna().all()
    blind = table.loc[("blind", "blind")]
    assert blind["presence"] == pytest.approx(0.2)  # asked without the image
    assert 0 < blind["presence_low"] < 0.2 < blind["presence_high"] < 1
    text = (tmp_path / "controls.md").read_text()
    assert text.count("Not run.") == 1  # moments
    assert "| blind | 1 | 20.0 (" in text  # asked without the image
    assert {file for file in TABLES["controls"].files if (tmp_path / file).exists()} == set(TABLES["controls"].files)


def test_table_1_has_the_text_run_and_a_row_a_branch_point_in_order(study, tmp_path):
    end, start = {"branch_percent": 100.0}, {"branch_percent": 0.0}
    runs = [("b100", 7, end, 0.4), ("b100", 8, end, 0.4), ("b0", 7, start, 0.6), ("b0", 8, start, 0.5)]
    runs += [("after", 7, start, 0.0)]
    made = with_text_run(study("table1", *runs, experiments=["timing"]), tmp_path)
    left_out = {"cloze": {"left_out": 2}, "presence": {"left_out": 1, "clipped_boxes": 3}}
    (made.folder("text-50.0") / "measured.json").write_text(json.dumps({"left_out": left_out}))
    table1.make(again(made, after={"evaluated": "cooldown"}), tmp_path / "out")
    assert {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.*")} == set(
        TABLES["table1"].files
    )
    table = pd.read_csv(tmp_path / "out" / "table1.csv")
    assert list(table["model"]) == ["text only", "text only", "vlm", "vlm"]
    assert list(table["branch_percent"]) == [50, 100, 0, 100]
    assert list(table["seeds"]) == [1, 1, 2, 2]
    np.testing.assert_allclose(table["vision_average"], [np.nan, np.nan, 0.55, 0.4])
    assert list(table["cooldown_bits_per_byte"].notna()) == [False, False, True, False]
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["vision_stable"] == {"0%": 30, "100%": 15}
    assert found["bits_per_byte"] == {"0%": 2.09, "100%": 2.09}
    runs = pd.read_csv(tmp_path / "out" / "figures/timing_runs.csv")
    found = list(zip(runs["branch_percent"], runs["seed"], runs["cell"], runs["vision_stable"]))
    assert found == [(0, 7, "b0", 0.35), (0, 8, "b0", 0.25), (100, 7, "b100", 0.15), (100, 8, "b100", 0.15)]
    loss = pd.read_csv(tmp_path / "out" / "figures/loss.csv")
    assert list(loss.columns) == ["percent", "text run", "cooldown", "finetune"]
    assert list(loss["percent"]) == list(range(2, 101, 2))
    assert loss["cooldown"].iloc[0] == pytest.approx(np.linspace(5, 3, 100)[:2].mean(), rel=1e-4)
    text = (tmp_path / "out" / "table1.md").read_text()
    assert "those of the models cover their 2 or more training seeds too" in text
    assert "| 0% | 100% | text run at 100% |" in text
    assert "cloze (2 bad items left out)" in text and "presence (1 bad items left out; 3 boxes clipped)" in text


def test_the_first_figures_title_is_the_contrast_with_its_verdict(study):
    scores = {"recipe": (80.0, 0.75), "b100": (100.0, 0.7), "b0": (0.0, 0.5)}
    runs = [(cell, seed, {"branch_percent": at}, score) for cell, (at, score) in scores.items() for seed in range(5)]
    made = study("table1", *runs, experiments=["timing"])
    said = table1.contrast_title(made, made.cells("timing", "model"))
    low, high = map(float, re.search(r"\((\S+) to (\S+)\)", said).groups())
    assert said == f"Images at 80% less images at 100%: +5.0 points of vision average ({low} to {high}), inconclusive."
    assert low < 0 and low + high == pytest.approx(10)
    one = [run for run in runs if run[1] == 0]
    few = study("table1", *one, experiments=["timing"])
    assert table1.contrast_title(few, few.cells("timing", "model")).endswith("not testable.")
    assert table1.contrast_title(few, few.cells("timing", "model")[1:]) == ""  # without the recipe there is none


def test_stages_and_sizes_have_the_text_run_in_front(study, tmp_path):
    runs = [("recipe", 7, {"size": "base", "text_budget": 1.0}, 0.6), ("before", 7, {}, 0.0)]
    made = again(with_text_run(study("table8", *runs), tmp_path), before={"evaluated": "cooldown"})
    experiment_tables.stages(made, tmp_path)
    table = pd.read_csv(tmp_path / "table8.csv")
    # The recipe leaves the text run at 80%: the state at its end is none of its own.
    assert list(table["stage"]) == ["text, 50%", "cooldown", "fine-tuning"]
    assert list(table["vision_average"].notna()) == [False, False, True]
    experiment_tables.sizes(made, tmp_path)
    table = pd.read_csv(tmp_path / "table2.csv").set_index("phase")["training_flops"]
    assert table.to_dict() == {"text run to 100%": 5, "text run to 50%": 5, "whole model (recipe)": 15}


@pytest.mark.parametrize("name", [*TABLES, "an_experiment_of_ones_own"])
def test_the_card_of_a_table_knows_the_code_of_its_maker(name):
    module = f"pipeline.reporting.{TABLES[name].maker.rpartition('.')[0]}"
    assert module in code_fingerprint(SOURCE, "tables"), f"pipeline/reporting/tables.py has to name {module}"
    assert callable(tables.find_maker(name))


def test_the_papers_tables_show_what_their_experiments_vary():
    tables_of_one = {name: table for name, table in TABLES.items() if table.maker == "experiment_tables.table"}
    assert {table.experiments[0]: table.labels for table in tables_of_one.values()} == {
        name: PAPER[name] for name in ("size", "unfrozen", "captions", "encoder", "seeds", "usual")
    }


def test_claims_may_be_about_these_measures_and_every_task():
    assert set(METRICS) == {"vision_average", "text_stable", "cider", *BITS}
    assert not [name for name in METRICS if MEASURES[name].less == "prior"]  # `scores.items` does not pair


BITS = ("looking_bits", "answer_bits", "choice_bits", "bits_per_byte", "caption_bits")


def test_a_difference_in_a_measure_has_the_unit_of_its_row():
    assert {name: claims.unit_of(name).text(0.5) for name in (*METRICS, "reading")} == {
        "vision_average": "50.00 points",
        "text_stable": "50.00 points",
        "cider": "0.500 CIDEr-D",
        "reading": "50.00 points",
        **dict.fromkeys(BITS, "0.500 bits per byte"),
    }


def test_a_claim_is_of_what_the_tables_show(study, tmp_path):
    """One reader of scores: the mean of a measure's items is its column, with weights as without."""
    made = study("table5", ("recipe", 7, {}, 0.6))
    folder = made.folder("recipe-7")
    rows = pd.read_csv(folder / "vision.csv")
    rows.assign(weight=np.where(rows["kind"] == "a", 3.0, 0.5)).to_csv(folder / "vision.csv", index=False)
    pd.DataFrame({"id": ["1", "2"], "image": ["a", "b"], "score": [1.0, 4.0]}).to_csv(
        folder / "captions.csv", index=False
    )
    right_answers(folder, captions=3)
    row = made.row(made.cells()[0])
    for name in (*METRICS, "vision_stable", *TASKS["vision"], *TASKS["text"]):
        items = scores.items(folder, name, "normal", TASKS)
        assert items.groupby("group")["value"].mean().mean() == pytest.approx(row[name]), name
    with pytest.raises(ValueError, match="nothing of presence"):
        scores.items(folder, "presence", "no such condition", TASKS)


def test_bits_of_right_answers_are_all_bits_over_all_bytes(study):
    made = study("table5", ("recipe", 7, {}, 0.6))
    folder = made.folder("recipe-7")
    right_answers(folder)
    row = made.row(made.cells()[0])
    assert row["answer_bits"] == pytest.approx(40 * 20 / (20 * 4 + 20 * 5))
    assert row["looking_bits"] == pytest.approx((40 + sum(range(40)) / 40) / (20 * 4 + 20 * 5))
    assert row["choice_bits"] == pytest.approx(sum(range(20)) / math.log(2) / 100)
    assert row["looking_bits_low"] < row["looking_bits"] < row["looking_bits_high"]
    assert "caption_bits" not in row  # of captions there is nothing in it
    rows = pd.read_csv(folder / "answers.csv", dtype={"id": str})
    rows.drop(index=rows[(rows["condition"] == "shuffled") & (rows["id"] == "7")].index).to_csv(
        folder / "answers.csv", index=False
    )
    made.last.clear()
    with pytest.raises(ValueError, match="2 examples have no partner"):
        made.row(made.cells()[0])


def test_signal_is_between_models_and_noise_within(study, tmp_path):
    scores = {"recipe": (0.6, 0.7), "other": (0.4, 0.5), "alone": (0.9,)}
    runs = [(cell, seed, {}, score) for cell, values in scores.items() for seed, score in enumerate(values)]
    signal.make(study("signal", *runs, experiments=["timing"]), tmp_path)
    table = pd.read_csv(tmp_path / "signal.csv", keep_default_na=False).set_index(["measure", "task"])
    row = table.loc["vision_average", ""]
    assert (row["experiment"], row["state"], row["cells"], row["seeds"]) == ("timing", "model", 2, 2)
    assert row["signal"] == pytest.approx(20, rel=1e-4)
    assert row["noise"] == pytest.approx(10 / math.sqrt(2), rel=1e-4)
    assert float(row["ratio"]) == pytest.approx(20 / row["noise"], rel=1e-4)
    assert row["ratio_without_signal"] == pytest.approx(1.128 / math.sqrt(2), abs=1e-3)
    assert row["noise_low"] < row["noise"] < row["noise_high"]
    assert set(table.loc["vision_average"].index) == {"", *TASKS["vision"]}
    assert ("cider", "") not in table.index  # nobody was asked
    assert "| timing | model | vision average (points) | 2 | 2 | 20 |" in (tmp_path / "signal.md").read_text()


def test_proportions_are_of_what_was_counted(study, tmp_path):
    made = study("proportions", ("recipe", 7, {}, 0.6))
    recipe = RECIPE | {"size": "base", "text_budget": 1.0}
    state = {"percent": 100.0, "size": "base", "text_budget": 1.0}
    told = {"recipe": recipe, "text": {"end": state, "larger": state | {"size": "larger"}}}
    made.told = made.told.model_copy(update=told)
    counts = {
        "pretrain/end": {"tokens": {"positions": 20000}, "steps": 40},
        "cooldown/recipe-7": {"tokens": TOKENS | {"images": 20}, "learning_rates": {"first": 0.002}, "steps": 10},
        "finetune/recipe-7": {"tokens": {"positions": 570, "images": 10}, "learning_rates": {"peak": 0.001}}
        | {"parameters": 10, "steps": 5},
        "shards/captions": {"pieces": 40},
        "shards/instructions": {"pieces": 5},
    }
    for role, measured in counts.items():
        made.inputs[role] = tmp_path / role
        made.inputs[role].mkdir(parents=True, exist_ok=True)
        (made.inputs[role] / "measured.json").write_text(json.dumps(measured))
    proportions.make(made, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out/proportions.csv").set_index("proportion")
    assert table["here"].to_dict() == pytest.approx(
        {
            "text tokens a parameter": 2000,
            "cooldown tokens : text tokens": 0.05,
            "fine-tuning tokens : text tokens": 0.0285,
            "fine-tuning tokens : image-text tokens of the cooldown": 3,  # 100 of images, 90 of their texts
            "images of fine-tuning : of the cooldown": 0.5,
            "fine-tuning rate : first rate of the cooldown": 0.5,
            "passes over the captions": 0.5,
            "passes over the instructions": 2,
            "updates of the text run": 40,
            "updates of the cooldown": 10,
            "updates of fine-tuning": 5,
        }
    )
    assert "| passes over the captions | at most 1 | 0.5 |" in (tmp_path / "out/proportions.md").read_text()


def test_without_repeats_there_is_no_noise_to_speak_of(study, tmp_path):
    signal.make(study("signal", ("a", 7, {}, 0.6), ("b", 7, {}, 0.5), experiments=["timing"]), tmp_path)
    assert len(pd.read_csv(tmp_path / "signal.csv")) == 0
    assert "No experiment here has several seeds" in (tmp_path / "signal.md").read_text()


# --- figures ---


def points(*, seeds: int = 1) -> pd.DataFrame:
    branch = [0.0, 50.0, 100.0]
    table = pd.DataFrame({"branch_percent": branch, "seeds": seeds, "language_prior": 0.1})
    for stem in ("vision_average", "vision_stable", "vision_gain", "looking_bits", "text_stable", "bits_per_byte"):
        table[stem] = [0.3, 0.4, 0.5]
        table[f"{stem}_low"], table[f"{stem}_high"] = table[stem] - 0.05, table[stem] + 0.1
    return table


def captured(monkeypatch, draw):
    """The figure that a function would save."""
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, file: kept.append(figure))
    draw()
    (figure,) = kept
    return figure


def test_equal_data_give_equal_files(tmp_path):
    for name in ("one", "two"):
        figures.sweep_figure(points(), "branch_percent", "x", "title", tmp_path / f"sweep-{name}.png")
        figures.timing_figure(points(seeds=2), several(), points(), "so", tmp_path / f"timing-{name}.png")
        counted = {"branches": {"0%": {}, "50%": {}}, "counts": {"cooldown": 2}}
        drawings.pipeline_figure(table_settings(**counted), tmp_path / f"pipeline-{name}.svg")
    for kind in ("sweep-{}.png", "timing-{}.png", "pipeline-{}.svg"):
        assert (tmp_path / kind.format("one")).read_bytes() == (tmp_path / kind.format("two")).read_bytes()


def test_the_branch_at_the_end_is_hollow_and_intervals_are_the_tables(monkeypatch, tmp_path):
    one = several(seeds=1)
    figure = captured(monkeypatch, lambda: figures.timing_figure(points(), one, points(), "", tmp_path / "x.png"))
    assert len(figure.axes) == len(figures.TIMING)
    assert not dots(figure)  # of one run the mean is the run
    for axis in figure.axes:
        assert "%" in axis.get_xlabel()
        assert any(unit in axis.get_ylabel() for unit in ("points", "bits per byte"))
    axis = figure.axes[0]
    faces = [bar.lines[0].get_markerfacecolor() for bar in axis.containers]
    assert faces == [figures.COLOUR, figures.COLOUR, "white"]
    ends = [bar.lines[2][0].get_segments()[0][:, 1] for bar in axis.containers]
    np.testing.assert_allclose(ends, [[25, 40], [35, 50], [45, 60]])  # points


def several(seeds: int = 2) -> pd.DataFrame:
    """A row a run of `points`, a tenth below the mean and a tenth above."""
    runs = [points().assign(seed=seed) for seed in range(seeds)]
    for seed, run in enumerate(runs):
        run[list(figures.TIMING)] += (seed - (seeds - 1) / 2) / 5
    return pd.concat(runs, ignore_index=True)


def dots(figure) -> list:
    return [line for axis in figure.axes for line in axis.lines if line.get_marker() == "."]


def test_the_first_figure_has_a_dot_a_run_and_says_what_they_show(monkeypatch, tmp_path):
    told = "Images at 80% less images at 100%: +1.0 points of vision average (0.1 to 1.9), supported."
    figure = captured(
        monkeypatch,
        lambda: figures.timing_figure(points(seeds=2), several(), points(), told, tmp_path / "x.png"),
    )
    assert told in " ".join(figure.get_suptitle().split())
    assert "dots: runs" in figure.get_suptitle()
    drawn = dots(figure)
    assert len(drawn) == len(figures.TIMING)
    np.testing.assert_allclose(drawn[0].get_ydata(), [20, 30, 40, 40, 50, 60])  # points


def test_a_sweep_draws_the_tables_values_in_the_units_of_its_labels(monkeypatch, tmp_path):
    table = points(seeds=2).iloc[[2, 0, 1]].assign(image_fraction=[0.5, 0.0, 0.1])
    figure = captured(
        monkeypatch,
        lambda: figures.sweep_figure(table, "image_fraction", "images (%)", "title", tmp_path / "x.png", hollow=[0.5]),
    )
    assert len(figure.axes) == len(DRAWN)
    for axis, (score, measure) in zip(figure.axes, DRAWN.items()):
        label, factor = measure.axis, measure.factor
        assert (axis.get_xlabel(), axis.get_ylabel()) == ("images (%)", label)
        assert any(unit in label for unit in ("%", "points", "bits per byte"))
        drawn = [bar.lines[0].get_xydata()[0] for bar in axis.containers]
        np.testing.assert_allclose(drawn, [[0, 0.3 * factor], [10, 0.4 * factor], [50, 0.5 * factor]])
        assert [bar.lines[0].get_markerfacecolor() for bar in axis.containers] == [figures.COLOUR] * 2 + ["white"]
        ends = [bar.lines[2][0].get_segments()[0][:, 1] for bar in axis.containers]
        ordered = table.sort_values("image_fraction")
        np.testing.assert_allclose(ends, factor * ordered[[f"{score}_low", f"{score}_high"]])
        line = axis.lines[0]  # a hollow one is not joined to the others
        np.testing.assert_allclose(line.get_xdata(), [0, 10])
    prior = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(prior[0].get_ydata(), 10)


def test_words_stand_apart_and_a_score_that_is_not_there_has_no_panel(monkeypatch, tmp_path):
    table = (
        points()
        .drop(columns=["vision_average", "looking_bits", "bits_per_byte"])
        .assign(captions=["short", "full", "none"])
    )
    figure = captured(monkeypatch, lambda: figures.sweep_figure(table, "captions", "x", "title", tmp_path / "x.png"))
    (axis,) = figure.axes
    assert axis.get_ylabel() == DRAWN["text_stable"].axis
    assert [label.get_text() for label in axis.get_xticklabels()] == ["short", "full", "none"]
    assert max(len(line.get_xdata()) for line in axis.lines) == 1


@pytest.mark.parametrize("table", [pd.DataFrame(), points().assign(vision_average=None)[["vision_average"]]])
def test_a_sweep_without_rows_says_that_it_was_not_run(monkeypatch, tmp_path, table):
    figure = captured(monkeypatch, lambda: figures.sweep_figure(table, "x", "x", "How many?", tmp_path / "x.png"))
    assert [text.get_text() for text in figure.axes[0].texts] == ["How many?\nnot run"]


@pytest.mark.parametrize(("seeds", "words"), [(1, "one seed"), (5, "5 seeds")])
def test_a_figure_says_what_its_bars_cover(monkeypatch, tmp_path, seeds, words):
    table = points(seeds=seeds)
    figure = captured(
        monkeypatch, lambda: figures.sweep_figure(table, "branch_percent", "x", "title", tmp_path / "x.png")
    )
    assert words in figure.get_suptitle()


def test_rows_that_differ_in_a_second_setting_are_lines_of_their_own(study, monkeypatch, tmp_path):
    runs = [
        (f"{b}-{f}", 7, {"branch_percent": b, "image_fraction": f}, 0.3 + f + b / 100)
        for f in (0.0, 0.1, 0.5)
        for b in (0.0, 20.0)
    ]
    figure = captured(
        monkeypatch,
        lambda: experiment_tables.figure(study("from_scratch", *runs, experiments=["from_scratch"]), tmp_path),
    )
    for axis in figure.axes:
        joined = [line for line in axis.lines if len(line.get_xdata()) > 2]
        assert [list(line.get_xdata()) for line in joined] == [[0, 10, 50]] * 2
        assert len({line.get_color() for line in joined}) == 2
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "branch percent 0",
        "branch percent 20",
    ]
    one = study("from_scratch", *runs[::2], experiments=["from_scratch"])
    (axis, *_) = captured(monkeypatch, lambda: experiment_tables.figure(one, tmp_path)).axes
    assert axis.get_legend() is None


def beyond(figure) -> list[str]:
    """What is written nearer than two pixels to the edge of a figure, or outside of it."""
    figure.draw_without_rendering()
    ticks = {
        id(label)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        for label in (tick.label1, tick.label2)
    }  # those of them that are drawn are measured with their axis
    renderer = figure.canvas.get_renderer()
    boxes = [
        (text.get_text(), text.get_window_extent(renderer))
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and id(text) not in ticks
    ]
    boxes += [
        (f"{axis.axis_name} of {axes.get_ylabel()}", axis.get_tightbbox(renderer))
        for axes in figure.axes
        if axes.axison
        for axis in (axes.xaxis, axes.yaxis)
    ]
    assert boxes
    page = figure.bbox.padded(-2)
    return [
        name for name, box in boxes if not (page.contains(box.x0, box.y0) and page.contains(box.x1, box.y1)) and box
    ]


LONG = "a name of a data set that is much longer than a figure is wide, " * 4
# What a model or somebody's data may say.
SAID = (LONG, "w" * 300, "5 $ and 6 $", "$\\frac{$ $x^$", "a\nb\rc\u2028d\x00e\ud800", "", "<b>|`*", "图像" * 40)


def figure_cases(folder) -> dict:
    """Every figure that the package draws, with what it may have to show."""
    rates = [("text run" if n == 0 else f"{n}%, re-warmed as at 60%", 100 * n) for n in range(24)]
    curves = pd.DataFrame(
        [(name, start + step, 1e-3 * step) for name, start in rates for step in range(3)],
        columns=["branch", "tokens", "learning_rate"],
    )
    counts = dict.fromkeys(("pretrain", "cooldown", "finetune", "evaluate", "tables"), 12345)
    branches = {f"{n}%": {} for n in range(0, 101, 10)}
    Image.new("RGB", (60, 90), "red").save(folder / "image.png")
    shown = pd.DataFrame(
        [
            {"task": task, "id": f"{n}", "right": n % 4 < 2, "question": said, "answer": said, "prediction": said}
            for task in ("reading", LONG[:60])
            for n, said in enumerate(SAID)
        ]
    )
    images = dict.fromkeys(zip(shown["task"], shown["id"]), folder / "image.png")
    words = points(seeds=3).assign(
        captions=["efficientnet_lite0_and_another_one", LONG, "$x_$"], second=["a", "b", LONG]
    )
    negative = points(seeds=3).assign(bits_per_byte=[-123456.7, 1e-7, 0])
    file = folder / "x.png"
    sheet = shown[shown["task"] == shown["task"]].groupby(["task", "right"]).head(2)
    rest = shown.groupby(["task", "right"]).tail(2)
    return {
        "timing": lambda: figures.timing_figure(points(seeds=5), several(5), points(), LONG, file),
        "timing failed": lambda: figures.timing_figure(points(seeds=0), several(1), points(), "", file),
        "words": lambda: figures.sweep_figure(words, "captions", "x", LONG, file),
        "one panel": lambda: figures.sweep_figure(words[["captions", "text_stable"]], "captions", "x", LONG, file),
        "numbers": lambda: figures.sweep_figure(negative, "branch_percent", "x", "title", file),
        "not run": lambda: figures.sweep_figure(pd.DataFrame(), "x", "x", LONG, file),
        "schedules": lambda: drawings.schedules_figure(curves, file),
        "pipeline": lambda: drawings.pipeline_figure(table_settings(branches=branches, counts=counts), file),
        "examples": lambda: examples.contact_sheet(sheet, images, file),
        "more examples": lambda: examples.contact_sheet(rest, images, file),
        **{
            name: lambda table=table: figures.sweep_figure(
                points(seeds=5), "branch_percent", axis_of(table.along).label, table.title, file
            )
            for name, table in TABLES.items()
            if table.along
        },
    }


@pytest.mark.filterwarnings("ignore:Glyph")
def test_all_that_is_written_in_a_figure_lies_inside_it(monkeypatch, tmp_path):
    kept = []
    for module in (figures, drawings, examples):
        monkeypatch.setattr(module, "save", lambda figure, file: kept.append(figure))
    found = {}
    for name, draw in figure_cases(tmp_path).items():
        draw()
        figure = kept.pop()
        found[name] = beyond(figure)
        figures.plt.close(figure)
    assert {name: texts for name, texts in found.items() if texts} == {}


def test_a_branch_starts_at_the_rate_of_the_text_run():
    main = Schedule(peak=0.01, floor=0.0001, steps=100, warmup=5)
    branch = Schedule(peak=main.rate(80), floor=0.0001, steps=20, warmup=0)
    again = Schedule(peak=0.003, floor=0.0001, steps=20, warmup=4)
    curves = drawings.schedule_curves(
        table_settings(
            tokens_a_step={"main": 10, "cooldown": 20},
            main=main.describe(),
            branches={"100%": {"step": 100, **again.describe()}, "80%": {"step": 80, **branch.describe()}},
        )
    )
    assert list(curves["branch"].unique()) == ["text run", "80%", "100%"]
    first = curves.groupby("branch", sort=False).first()
    assert first.loc["80%", "tokens"] == 800
    assert first.loc["80%", "learning_rate"] == pytest.approx(main.rate(80))
    assert first.loc["100%", "learning_rate"] < 0.003


def test_the_drawings_are_those_that_the_study_publishes_and_branches_that_warm_up_are_hollow(monkeypatch, tmp_path):
    main = Schedule(peak=0.01, floor=0.0001, steps=100, warmup=5)
    kept, warm = (Schedule(0.004, 0.0001, warmup, 20).describe() for warmup in (0, 4))
    # Out of order, and two that leave at the same step.
    branches = {"100%, re-warmed as at 60%": {"step": 100, **warm}, "60%": {"step": 60, **kept}}
    branches |= {"100%": {"step": 100, **warm}, "0%": {"step": 0, **warm}}
    told = {"main": main.describe(), "branches": branches, "counts": {"tables": 20}}
    made = Rows(table_settings(**told, tokens_a_step={"main": 10, "cooldown": 10}), {})
    drawings.make(made, tmp_path)
    assert {f"figures/{file.name}" for file in (tmp_path / "figures").iterdir()} == set(TABLES["drawings"].files)
    curves = pd.read_csv(tmp_path / "figures/schedules.csv")
    assert list(curves["branch"].unique()) == ["text run", "0%", "60%", "100%", "100%, re-warmed as at 60%"]
    kept_figures = []
    monkeypatch.setattr(drawings, "save", lambda figure, file: kept_figures.append(figure))
    drawings.schedules_figure(curves, tmp_path / "x.png")
    (axis,) = kept_figures[0].axes
    assert ("tokens" in axis.get_xlabel(), axis.get_ylabel()) == (True, "learning rate")
    starts = [line for line in axis.lines if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() == "white" for line in starts] == [True, False, True, True]


# --- examples ---


def test_examples_are_picked_by_the_hash_of_their_ids():
    ids = [f"{n}" for n in range(30)]
    table = pd.DataFrame({"task": "short_answer", "id": ids, "score": [float(n % 3 == 0) for n in range(30)]})
    picked = examples.pick(table, right=2, wrong=3)
    order = sorted(ids, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert list(picked[picked["right"]]["id"]) == [name for name in order if int(name) % 3 == 0][:2]
    assert list(picked[~picked["right"]]["id"]) == [name for name in order if int(name) % 3][:3]
    pd.testing.assert_frame_equal(picked, examples.pick(table.sample(frac=1, random_state=1), right=2, wrong=3))


def test_a_task_without_right_answers_shows_its_wrong_ones():
    table = pd.DataFrame({"task": "boxes", "id": ["1", "2", "3"], "score": 0.0})
    assert len(examples.pick(table, right=2, wrong=2)) == 2


def test_every_task_has_at_most_so_many_examples_of_each_kind():
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"task": ["a"] * 20 + ["b"] * 20, "id": [f"{n % 20}" for n in range(40)], "valid": 1})
    table["score"] = [*rng.random(20), *([1.0] + [0.0] * 19)]
    picked = examples.pick(table, right=2, wrong=1)
    assert picked.groupby(["task", "right"]).size().to_dict() == {
        ("a", False): 1,
        ("a", True): 2,
        ("b", False): 1,
        ("b", True): 1,
    }
    assert (picked["right"] == (picked["score"] >= 0.5)).all()
    assert list(picked.columns) == ["task", "id", "score", "right"]


def test_seeds_that_cancel_question_by_question_are_no_certainty(study):
    made = study("table5", ("recipe", 7, {}, 0.0), ("recipe", 8, {}, 1.0))
    row = made.row(made.cells()[0])
    assert row["short_answer"] == 0.5
    assert row["short_answer_low"] == 0
    assert row["short_answer_high"] == 1
