"""From rows to means: tasks weigh the same, pairs must be complete, and the prior is the stronger one, task by task."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typed import vision_task

from pipeline.data.records import Conversation, Question
from pipeline.evaluation.tasks import majority_answers, shuffled_images
from pipeline.reporting import scores
from pipeline.statistics.estimates import mean_of_means, wilson


def rows(**tasks) -> pd.DataFrame:
    made = [
        {"task": task, "id": f"{task}-{n}", "image": f"{n}.jpg", "score": score}
        for task, values in tasks.items()
        for n, score in enumerate(values)
    ]
    return pd.DataFrame(made)


def test_tasks_weigh_the_same_whatever_their_size():
    frame = rows(a=[1, 1, 1, 1], b=[0, 1])
    assert scores.average(frame, {"a": 0.0, "b": 0.5}).estimate == pytest.approx((1.0 + 0.0) / 2)


def test_an_image_asked_about_in_two_tasks_is_one_cluster():
    same, rng = [0.0, 1.0] * 20, np.random.default_rng(0)
    together = scores.average(rows(a=same, b=same), {"a": 0.0, "b": 0.0})
    alone = scores.average(rows(a=same), {"a": 0.0})
    assert together.se == pytest.approx(alone.se)
    assert mean_of_means(rng.random(80), ["a"] * 40 + ["b"] * 40, range(80)).se < 0.06


def test_the_interval_of_a_mean_of_means_covers_at_its_level():
    rng = np.random.default_rng(1)
    groups, clusters = ["a"] * 60 + ["b"] * 60, [*range(60), *range(60)]
    hits = 0
    for _ in range(400):
        image = rng.normal(size=60)
        values = np.concatenate([0.3 + image + rng.normal(size=60), image + rng.normal(size=60)])
        estimate = mean_of_means(values, groups, clusters)
        hits += estimate.low <= 0.15 <= estimate.high
    assert 0.92 <= hits / 400 <= 0.98


def test_all_wrong_still_has_an_interval():
    result = scores.average(rows(a=[0] * 30), {"a": 0.0})
    assert (result.estimate, result.low, result.high) == (0.0, *wilson(0, 30))
    assert result.high > 0.1


def test_a_task_without_rows_is_an_error():
    with pytest.raises(ValueError, match="no rows of b"):
        scores.average(rows(a=[1, 0]), {"a": 0.0, "b": 0.0})


def test_the_prior_is_the_stronger_one_task_by_task():
    prior = scores.language_prior(rows(a=[1, 0], b=[0, 0]), rows(a=[0, 0], b=[1, 0]))
    assert dict(prior.groupby("task")["prior"].first()) == {"a": "majority", "b": "blind"}
    assert dict(prior.groupby("task")["score"].mean()) == {"a": 0.5, "b": 0.5}


def test_the_best_constant_answer_is_the_one_that_scores_most():
    animals = [("cat", "dog"), ("dog",), ("cow",), ("cow",), ("bird", "dog")]
    boxes = [(0.5, 0.5, 1.0, 1.0), (0.0, 0.0, 0.5, 0.5), (0.0, 0.0, 0.5, 0.45)]
    told = {
        "animals": [Question(str(n), "animals", Path("a.png"), "?", one, "a") for n, one in enumerate(animals)],
        "boxes": [Question(str(n), "boxes", Path("a.png"), "?", (), "a", box) for n, box in enumerate(boxes)],
    }
    asked = {"animals": vision_task(), "boxes": vision_task(scorer="box", threshold=0.5)}
    found = scores.constant_scores(asked, lambda name, format: told[name]).groupby("task")
    # Of "cow" more are the first right answer; "dog" is right more often.
    assert dict(found["answer"].first()) == {"animals": "dog", "boxes": "[0.00, 0.00, 0.50, 0.45]"}
    assert dict(found["score"].mean()) == pytest.approx({"animals": 3 / 5, "boxes": 2 / 3})
    guesses = {"majority": rows(animals=[1] * 2 + [0] * 3), "constant": rows(animals=[0] * 2 + [1] * 3)}
    assert {*scores.strongest(guesses)["prior"]} == {"constant"}


def test_pairs_must_be_complete():
    with pytest.raises(ValueError, match="1 examples have no partner"):
        scores.paired(rows(a=[1, 0, 1]), rows(a=[1, 0]))


def test_scores_are_averaged_over_seeds_and_must_be_of_the_same_examples(tmp_path):
    for name, values in (("one", [1, 0]), ("two", [1, 1]), ("short", [1])):
        (tmp_path / name).mkdir()
        rows(a=values).assign(condition="normal").to_csv(tmp_path / name / "vision.csv", index=False)
    both = scores.read_scores([tmp_path / "one", tmp_path / "two"], "vision.csv")
    assert both.set_index("id")["score"].to_dict() == {"a-0": 1.0, "a-1": 0.5}
    with pytest.raises(ValueError, match="not the same examples"):
        scores.read_scores([tmp_path / "one", tmp_path / "short"], "vision.csv")


def test_the_majority_answer_is_the_most_frequent_one():
    turns = [("Q?", "b"), ("Q?", "a"), ("Q?", "b"), ("R?", "z"), ("R?", "y")]
    assert majority_answers([Conversation("1", None, tuple(turns))]) == {"Q?": "b", "R?": "y"}


def test_shuffled_images_are_of_the_same_task_and_type_and_never_ones_own(tmp_path):
    questions = [
        Question(str(n), "t", tmp_path / f"{n % 7}.jpg", "?", ("a",), kind=("x", "y")[n % 2]) for n in range(28)
    ]
    images = shuffled_images(questions)
    by_kind = {kind: {q.image for q in questions if q.kind == kind} for kind in "xy"}
    for question, image in zip(questions, images):
        assert image != question.image
        assert image in by_kind[question.kind]
