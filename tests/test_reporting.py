"""Tables and figures from result files made by hand: numbers, `not_run`, the rule behind examples, equal bytes."""

import hashlib
import json
import math

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation import statistics
from pipeline.reporting import claims, comparison, conditions, controls, drawings, examples, figures, rows, sweeps
from pipeline.reporting.rows import Rows
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
        settings = {"make": table, "tasks": TASKS, "preset": "x", "split": "test", "recipe": RECIPE, "text": {}}
        made = Rows(settings | {"rows": listed, "published": list(published)}, inputs)
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


def training(folder):
    folder.mkdir(exist_ok=True)
    rates = {"first": 0.001, "last": 0.0, "peak": 0.002}
    measured = {"tokens": TOKENS, "training_flops": 5, "parameters": 7, "learning_rates": rates}
    measured |= {"image_fraction": {"of_sequences": 0.1, "of_positions": 0.1}}
    (folder / "measured.json").write_text(json.dumps(measured))
    return folder


def vision_average(folders) -> statistics.Estimate:
    found = pd.concat([pd.read_csv(folder / "vision.csv") for folder in folders])
    found = found[found["condition"] == "normal"].groupby(["task", "image"], as_index=False)["score"].mean()
    return statistics.mean_of_means(found["score"].to_numpy(), found["task"].tolist(), found["image"].tolist())


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
    expected = statistics.with_runs(vision_average(folders), [0.4, 0.6, 0.8])
    row = made.row(cell)
    found = [row[f"vision_average{end}"] for end in ("", "_low", "_high")]
    assert found == pytest.approx([expected.estimate, expected.low, expected.high])
    assert row["vision_average_high"] - row["vision_average_low"] > 0.4  # three seeds: 4.3 standard errors each way
    assert row["seeds"] == 3


def test_no_right_answer_in_any_seed_is_not_a_certain_zero(study):
    made = study("table5", ("recipe", 7, {}, 0.0), ("recipe", 8, {}, 0.0))
    row = made.row(made.cells()[0])
    assert row["short_answer"] == 0
    assert row["short_answer_high"] == pytest.approx(statistics.wilson(0, 40)[1])


def test_with_runs_adds_the_variances_of_questions_and_runs():
    items = statistics.t_estimate(0.5, 0.03, 50)
    found = statistics.with_runs(items, [0.4, 0.5, 0.6])
    between = 0.01 / 3
    variance = between + 0.03**2
    assert found.estimate == 0.5
    assert found.se == pytest.approx(math.sqrt(variance))
    assert found.df == pytest.approx(variance**2 / (between**2 / 2 + 0.03**4 / 50))
    with pytest.raises(ValueError, match="1 runs"):
        statistics.with_runs(items, [0.5])


def test_with_runs_covers_the_truth_as_often_as_it_says():
    noise, hits, studies, seeds, images = np.random.default_rng(0), 0, 400, 4, 60
    for _ in range(studies):
        hard, runs = noise.normal(0, 0.1, images), noise.normal(0, 0.02, seeds)
        values = hard + runs[:, None] + noise.normal(0, 0.1, (seeds, images))
        items = statistics.mean_of_means(values.mean(0), ["all"] * images, [f"{n}" for n in range(images)])
        found = statistics.with_runs(items, values.mean(1))
        hits += found.low <= 0 <= found.high
    assert 0.92 <= hits / studies <= 0.985  # two standard errors of the simulation are 0.022


def test_percent_shows_an_interval_or_nothing():
    assert rows.percent({"a": 0.25, "a_low": 0.2, "a_high": 0.3}, "a") == "25.0 (20.0 to 30.0)"
    assert rows.percent({"a": 1.25}, "a", 1, 2) == "1.25"
    assert rows.percent({"a": math.nan}, "a") == rows.percent({}, "a") == ""


# --- tables ---


def test_a_table_has_a_row_a_cell_with_the_papers_figures_beside(study, tmp_path):
    printed = {"output": "table5", "setting": "full", "task": "vision", "value": 0.46, "unit": "fraction", "note": "n"}
    published = [
        printed | {"cell": "recipe", "column": "vision_stable"},
        printed | {"cell": "captions=long", "column": "vision_stable"},
        printed | {"cell": "", "column": ""},
    ]
    made = study("table5", ("recipe", 7, {}, 0.6), ("captions=short", 7, {}, 0.5), published=published)
    sweeps.table(made, tmp_path)
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
    made = study("table7", ("a", 7, {}, 0.6), ("a", 365, {}, 0.5), experiments=["seeds"])
    sweeps.table(made, tmp_path)
    table = pd.read_csv(tmp_path / "table7.csv")
    assert list(zip(table["seed"], table["vision_average"])) == [(7, 0.6), (365, 0.5)]


@pytest.mark.parametrize("name", ["table3", "table4", "table5", "table6", "table7", "table9"])
def test_a_table_without_runs_says_so(study, tmp_path, name):
    sweeps.table(study(name), tmp_path)
    assert "not_run" in (tmp_path / f"{name}.csv").read_text()
    assert "not run" in (tmp_path / f"{name}.md").read_text()


@pytest.mark.parametrize("name", ["image_fraction", "from_scratch", "finetune_epochs"])
def test_a_figure_without_runs_says_so(study, tmp_path, name):
    sweeps.figure(study(name), tmp_path)
    assert "not_run" in (tmp_path / f"figures/{name}.csv").read_text()
    assert (tmp_path / f"figures/{name}.png").stat().st_size > 1000


def test_controls_without_runs_say_so(study, tmp_path):
    controls.make(study("controls"), tmp_path)
    assert "not_run" in (tmp_path / "controls.csv").read_text()
    assert (tmp_path / "controls.md").read_text().count("Not run.") == len(controls.CONTROLS)
    assert (tmp_path / "figures/rewarm.png").exists()


def test_conditions_and_question_types(study, tmp_path):
    conditions.make(study("conditions", ("recipe", 7, {}, 0.6)), tmp_path)
    table = pd.read_csv(tmp_path / "conditions.csv").set_index("condition")["score"]
    assert table.to_dict() == pytest.approx({name: 0.6 + change for name, change in CONDITIONS.items()})
    kinds = pd.read_csv(tmp_path / "question_types.csv")
    assert list(kinds["questions"]) == [20] * 4
    assert "short_answer: a" in (tmp_path / "question_types.md").read_text()


def test_what_names_a_metric_in_claims_is_what_the_design_allows():
    from pipeline import design

    assert set(claims.UNITS) | {"vision_average", "text_stable"} == set(design.METRICS)


# --- figures ---


def points(*, seeds: int = 1) -> pd.DataFrame:
    branch = [0.0, 50.0, 100.0]
    table = pd.DataFrame({"branch_percent": branch, "seeds": seeds, "language_prior": 0.1})
    for stem in ("vision_average", "vision_stable", "vision_gain", "text_stable", "bits_per_byte"):
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
        figures.timing_figure(points(), points(), tmp_path / f"timing-{name}.png")
        counted = {"branches": {"0%": {}, "50%": {}}, "counts": {"cooldown": 2}}
        drawings.pipeline_figure(counted, tmp_path / f"pipeline-{name}.svg")
    for kind in ("sweep-{}.png", "timing-{}.png", "pipeline-{}.svg"):
        assert (tmp_path / kind.format("one")).read_bytes() == (tmp_path / kind.format("two")).read_bytes()


def test_the_branch_at_the_end_is_hollow_and_intervals_are_the_tables(monkeypatch, tmp_path):
    figure = captured(monkeypatch, lambda: figures.timing_figure(points(), points(), tmp_path / "x.png"))
    for axis in figure.axes:
        assert "%" in axis.get_xlabel()
        assert any(unit in axis.get_ylabel() for unit in ("points", "bits per byte"))
    axis = figure.axes[0]
    faces = [bar.lines[0].get_markerfacecolor() for bar in axis.containers]
    assert faces == [figures.COLOUR, figures.COLOUR, "white"]
    ends = [bar.lines[2][0].get_segments()[0][:, 1] for bar in axis.containers]
    np.testing.assert_allclose(ends, [[25, 40], [35, 50], [45, 60]])  # points


@pytest.mark.parametrize(("seeds", "words"), [(1, "one seed"), (5, "5 seeds")])
def test_a_figure_says_what_its_bars_cover(monkeypatch, tmp_path, seeds, words):
    table = points(seeds=seeds)
    figure = captured(
        monkeypatch, lambda: figures.sweep_figure(table, "branch_percent", "x", "title", tmp_path / "x.png")
    )
    assert words in figure.get_suptitle()


def test_a_branch_starts_at_the_rate_of_the_text_run():
    main = Schedule(peak=0.01, floor=0.0001, steps=100, warmup=5)
    branch = Schedule(peak=main.rate(80), floor=0.0001, steps=20, warmup=0)
    again = Schedule(peak=0.003, floor=0.0001, steps=20, warmup=4)
    curves = drawings.schedule_curves(
        {
            "tokens_a_step": {"main": 10, "cooldown": 20},
            "main": main.describe(),
            "branches": {"100%": {"step": 100, **again.describe()}, "80%": {"step": 80, **branch.describe()}},
        }
    )
    assert list(curves["branch"].unique()) == ["text run", "80%", "100%"]
    first = curves.groupby("branch", sort=False).first()
    assert first.loc["80%", "tokens"] == 800
    assert first.loc["80%", "learning_rate"] == pytest.approx(main.rate(80))
    assert first.loc["100%", "learning_rate"] < 0.003


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
