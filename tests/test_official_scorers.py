"""Scores that official scorers gave for hundreds of corner cases (see tests/data/README.md), through a task's settings."""

import json
from pathlib import Path

import pytest
from typed import vision_task

from pipeline.data.records import Question
from pipeline.evaluation import metrics, vqa
from pipeline.evaluation.tasks import score_answer, true_box

DATA = json.loads((Path(__file__).parent / "data" / "official_scorers.json").read_text(encoding="utf-8"))


def question(answers, box=None) -> Question:
    return Question("1", "task", Path("image.jpg"), "What?", tuple(answers), "kind", box)


@pytest.mark.parametrize(("column", "normalise"), [(1, vqa.normalise_vqa), (2, vqa.normalise_textvqa)])
def test_normal_forms(column, normalise):
    cases = DATA["normal_forms"]
    assert len(cases) > 700
    assert [(case[0], normalise(case[0])) for case in cases] == [(case[0], case[column]) for case in cases]


@pytest.mark.parametrize(("scorer", "column"), [("vqa_official", 2), ("vqa_as_run", 3), ("vizwiz", 4), ("textvqa", 5)])
def test_soft_accuracies(scorer, column):
    cases = DATA["accuracies"]
    assert {round(case[column], 6) for case in cases} == {0, 0.3, 0.6, 0.9, 1}
    for prediction, answers, *expected in cases:
        _, score = score_answer(vision_task(scorer=scorer), question(answers), prediction)
        assert score == pytest.approx(expected[column - 2], abs=1e-6), (prediction, answers)


def test_both_sides_normalised_is_the_official_score_wherever_humans_differ():
    for prediction, answers, official, *_ in DATA["accuracies"]:
        if len({answer.replace("\n", " ").replace("\t", " ").strip() for answer in answers}) > 1:
            assert score_answer(vision_task(scorer="vqa"), question(answers), prediction)[1] == pytest.approx(official)


@pytest.mark.parametrize("case", DATA["gqa"], ids=range(len(DATA["gqa"])))
def test_gqa(case):
    """vlm-evaluation's outputs have no space around them; ours are rid of it."""
    rows = [row for row in case["rows"] if row[0] == row[0].strip()]
    hits = [vqa.gqa_match(output, answer) for output, answer, _ in case["rows"]]
    assert 100 * sum(hits) / len(hits) == pytest.approx(case["accuracy"], abs=0.005)
    for name, is_open in (("open", True), ("binary", False)):
        members = [hit for hit, (*_, kind) in zip(hits, case["rows"]) if (kind == "query") == is_open]
        assert 100 * sum(members) / len(members) == pytest.approx(case[name], abs=0.005)
    scored = [score_answer(vision_task(scorer="gqa"), question([answer]), output)[1] for output, answer, _ in rows]
    assert scored == [vqa.gqa_match(output, answer) for output, answer, _ in rows]
    assert score_answer(vision_task(scorer="gqa"), question(["kite"]), "\n Kite. ") == (True, 1.0)


@pytest.mark.parametrize("threshold", [0.5, 0.25])
def test_boxes(threshold):
    task = vision_task(scorer="box", threshold=threshold, decimals=2)
    hits = 0
    for (x, y, w, h), (width, height), gold, text, box, iou in DATA["boxes"]:
        asked = question(["box"], (x / width, y / height, (x + w) / width, (y + h) / height))
        assert list(true_box(task, asked)) == gold
        assert metrics.parse_box(text) == (None if box is None else tuple(box))
        if text != text.strip():  # vlm-evaluation's answers come without space around them
            continue
        assert score_answer(task, asked, text) == (box is not None, float(box is not None and iou >= threshold))
        hits += box is not None and iou >= threshold
    assert 50 < hits < len(DATA["boxes"]) - 50


def test_ocid_boxes():
    for (x1, y1, x2, y2), gold in DATA["ocid_boxes"]:
        asked = question(["box"], (x1 / 640, y1 / 480, x2 / 640, y2 / 480))
        assert list(true_box(vision_task(decimals=2), asked)) == gold
