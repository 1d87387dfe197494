"""The scorers against outputs of the public reference scorers, and their corner cases."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation import cider, metrics, vqa
from pipeline.evaluation.tasks import choose

GOLDEN = Path(__file__).parent / "golden"
quick = settings(max_examples=60, deadline=None, database=None, derandomize=True)


def golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def test_import_is_light():
    code = (
        "import sys, pipeline.evaluation.metrics, pipeline.statistics.estimates;"
        "print(*{'torch', 'composer', 'scipy', 'pandas', 'matplotlib'} & set(sys.modules))"
    )
    root = Path(__file__).parent.parent
    assert subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True).strip() == ""


# VQA


@pytest.mark.parametrize("case", golden("vqa_normalise")["cases"], ids=lambda case: ascii(case["text"]))
def test_vqa_normal_form(case):
    assert vqa.normalise_vqa(case["text"]) == case["vqav2_official"]
    assert vqa.normalise_textvqa(case["text"]) == case["textvqa_m4c"] == case["lmms_evalai"]


@pytest.mark.parametrize("case", golden("vqa_accuracy")["cases"], ids=lambda case: f"{case['id']}-{case['tag']}")
def test_vqa_accuracy(case):
    prediction, answers, expected = case["prediction"], case["answers"], case["expected"]
    textvqa = vqa.vqa_accuracy(prediction, answers, vqa.normalise_textvqa)
    assert vqa.vqa_accuracy_official(prediction, answers) == pytest.approx(expected["vqav2_official"])
    assert vqa.vqa_accuracy(prediction, answers) == pytest.approx(expected["vqav2_lmms_eval"])
    assert textvqa == pytest.approx(expected["textvqa_lmms_eval"])
    # M4C takes ten answers and nothing else.
    assert len(answers) != 10 or textvqa == pytest.approx(expected["textvqa_m4c"])


def test_vqa_variants_differ_where_all_humans_agree():
    assert vqa.vqa_accuracy("Yes", ["yes"] * 10) == 1
    assert vqa.vqa_accuracy_official("Yes", ["yes"] * 10) == 0
    assert vqa.vqa_accuracy_official(" yes\n", ["yes\t"] * 10) == 1
    assert vqa.vqa_accuracy_official("Yes", ["yes"] * 9 + ["Yes"]) == 1


@pytest.mark.parametrize(("matches", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1), (10, 1)])
def test_vqa_ladder(matches, expected):
    assert vqa.vqa_accuracy("cat", ["cat"] * matches + ["dog"] * (10 - matches)) == pytest.approx(expected)


def test_vqa_table_entries():
    assert vqa.normalise_vqa("yall'd've y'alldve couldnt've") == "y'all'd've y'alldve couldn't've"
    assert vqa.normalise_vqa("somebody'd shed've ow's'at") == "somebodyd she'd've 'ow's'at"
    assert vqa.normalise_vqa("a." * 40) == "a" * 32 + "a." * 8
    assert vqa.normalise_vqa("none zero ten eleven") == "0 0 10 eleven"


@pytest.mark.parametrize("answers", [[], "yes"])
def test_vqa_needs_a_list_of_answers(answers):
    with pytest.raises(ValueError, match="answers"):
        vqa.vqa_accuracy("yes", answers)
    with pytest.raises(ValueError, match="answers"):
        vqa.vqa_accuracy_official("yes", answers)


@quick
@given(st.sampled_from("abc"), st.lists(st.sampled_from("abcd"), min_size=1, max_size=12))
def test_vqa_accuracy_is_leave_one_out(prediction, answers):
    # "a" is an article and normalises to nothing on both sides.
    one_by_one = [min((answers[:i] + answers[i + 1 :]).count(prediction) / 3, 1) for i in range(len(answers))]
    assert vqa.vqa_accuracy(prediction, answers) == pytest.approx(sum(one_by_one) / len(answers))


@quick
@given(st.text(alphabet="aAnthe bos'.,;/-35\n\t", max_size=30))
def test_vqa_normal_form_has_single_spaces_and_no_articles(text):
    words = vqa.normalise_vqa(text).split(" ")
    assert not {"a", "an", "the"} & set(words)
    assert words == [""] or "" not in words


# GQA


@pytest.mark.parametrize("case", golden("gqa")["cleaning"], ids=lambda case: repr(case["text"]))
def test_gqa_cleaning(case):
    assert vqa.clean_gqa(case["text"]) == case["expected"]


@pytest.mark.parametrize("case", golden("gqa")["cases"], ids=lambda case: f"seed{case['seed']}")
def test_gqa_scores(case):
    expected = case["expected"]
    questions = [(key, question) for key, question in case["questions"].items() if question["isBalanced"]]
    hits = [vqa.gqa_match(case["model_outputs"][key], question["answer"]) for key, question in questions]
    assert {key: vqa.clean_gqa(case["model_outputs"][key]) for key in case["clean_predictions"]} == (
        case["clean_predictions"]
    )
    assert 100 * sum(hits) / len(hits) == pytest.approx(expected["accuracy"], abs=0.005)

    structural = [question["types"]["structural"] for _, question in questions]
    open_hits = [hit for hit, kind in zip(hits, structural) if kind == "query"]
    binary_hits = [hit for hit, kind in zip(hits, structural) if kind != "query"]
    assert 100 * sum(open_hits) / len(open_hits) == pytest.approx(expected["open"], abs=0.005)
    assert 100 * sum(binary_hits) / len(binary_hits) == pytest.approx(expected["binary"], abs=0.005)
    for labels in (structural, [question["types"]["semantic"] for _, question in questions]):
        for group in set(labels):
            members = [hit for hit, label in zip(hits, labels) if label == group]
            assert [round(100 * sum(members) / len(members), 2), len(members)] == expected["breakdown"][group]


@pytest.mark.parametrize(
    ("prediction", "answers", "right"),
    [
        ("lung", ["lung"], True),
        ("Lung.", ["lung"], True),
        ("new york", ["New York, "], True),
        ("t-shirt", ["T-Shirt"], True),
        ("the lung", ["lung"], False),
        ("b", ["a", "b"], True),
        ("", ["?"], True),
        ("lungs", ["lung"], False),
    ],
)
def test_exact_match_takes_case_and_punctuation_out_of_both_sides(prediction, answers, right):
    assert metrics.exact_match(prediction, answers) is right


@pytest.mark.parametrize("case", golden("pope")["sets"], ids=range(len(golden("pope")["sets"])))
def test_detection_is_popes(case):
    found = metrics.detection(*([said == "yes" for said in case[key]] for key in ("predictions", "labels")))
    expected = [case["llava"][key] for key in ("precision", "recall", "f1", "yes_ratio")]
    assert found == pytest.approx(expected, abs=1e-6)
    assert metrics.detection([False], [False]) == (0, 0, 0, 0)


@pytest.mark.parametrize("case", golden("lm_eval_mc")["multiple_choice"], ids=lambda case: case["query"])
def test_choices_are_lm_evals(case):
    best, normed, _ = choose([f" {choice}" for choice in case["choices"]], case["ll"])
    assert (best == case["gold"], normed == case["gold"]) == (case["expected"]["acc"], case["expected"]["acc_norm"])


def test_of_equal_choices_the_first_is_taken_and_counted():
    assert choose([" a", " bb", " c"], [-2.0, -1.0, -1.0]) == (1, 1, True)
    assert choose(["a", "bb"], [-1.0, -1.5]) == (0, 1, False)


# Boxes


@pytest.mark.parametrize("case", golden("boxes")["parse"], ids=lambda case: repr(case["text"]))
def test_box_of_text(case):
    expected = case["vlm_evaluation"]
    assert metrics.parse_box(case["text"]) == (None if expected is None else tuple(expected))
    assert metrics.box_hit(case["text"], expected or [0, 0, 1, 1], 0.5) is (expected is not None)


@pytest.mark.parametrize(
    "text",
    [
        "The box is [0.1, 0.2, 0.5, 0.6]",
        "[0.1, 0.2, 0.5, 0.6].",
        "[0.1, 0.2, 0.5, 0.6, 0.7]",
        "[[0.1, 0.2, 0.5, 0.6]]",
        "['0.1', '0.2', '0.5', '0.6']",
        "[0.1, 0.2, 0.5, [0.6]]",
        "[-0.1, 0.2, 0.5, 0.6]",
        "[0.1, 0.2, 0.5, 1.01]",
        "[" * 5000,
        "-" * 20000 + "1",
        "\x00",
        "__import__('os')",
        "'\\d' is 0",
    ],
    ids=range(13),
)
def test_text_that_is_no_box(text):
    assert metrics.parse_box(text) is None


def test_odd_literals_give_no_warning():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert metrics.parse_box("'\\d'") is None
    assert not caught


@pytest.mark.parametrize("case", golden("boxes")["iou"], ids=lambda case: f"{case['vlm_evaluation']:.3f}")
def test_iou(case):
    result = metrics.iou(case["pred"], case["gt"])
    for reference in ("vlm_evaluation", "lmms_eval", "torchvision"):
        assert result == pytest.approx(case[reference], abs=1e-12)


def test_box_corners():
    assert metrics.iou((0.5, 0.5, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5)) == 0
    assert metrics.iou((0, 0, 0.5, 1), (0.5, 0, 1, 1)) == 0
    # The threshold itself is a hit.
    assert metrics.box_hit("[0, 0, 0.5, 1]", (0, 0, 1, 1), 0.5) is True
    assert metrics.box_hit("[0, 0, 0.5, 0.5]", (0, 0, 1, 1), 0.25) is True
    assert metrics.box_hit("[0, 0, 0.49, 1]", (0, 0, 1, 1), 0.5) is False


def boxes():
    corner, size = st.integers(0, 50), st.integers(1, 50)
    return st.tuples(corner, corner, size, size).map(
        lambda t: (t[0] / 100, t[1] / 100, (t[0] + t[2]) / 100, (t[1] + t[3]) / 100)
    )


@quick
@given(boxes(), boxes())
def test_iou_is_symmetric_and_bounded(a, b):
    assert metrics.iou(a, b) == pytest.approx(metrics.iou(b, a))
    assert 0 <= metrics.iou(a, b) <= 1 + 1e-12
    assert metrics.iou(a, a) == pytest.approx(1)


@quick
@given(boxes())
def test_written_box_reads_back(box):
    assert metrics.parse_box(str(list(box))) == box


# Captions


@pytest.mark.parametrize("case", golden("captions")["sets"], ids=lambda case: case["name"])
def test_captions(case):
    images = list(case["references"])
    references = [[cider.tokenise_caption(text) for text in case["references"][image]] for image in images]
    hypotheses = [cider.tokenise_caption(case["hypotheses"][image]) for image in images]
    assert [[" ".join(words) for words in image] for image in references] == (
        [case["tokenised_references"][image] for image in images]
    )
    assert [" ".join(words) for words in hypotheses] == [case["tokenised_hypotheses"][image] for image in images]

    expected = case["expected"]
    mean, per_image = cider.cider_d(references, hypotheses)
    assert mean == pytest.approx(expected["CIDEr"], abs=1e-9)
    assert per_image == pytest.approx(expected["CIDEr_per_image"], abs=1e-9)


def test_caption_words():
    assert cider.tokenise_caption("The man's T-shirt isn't red, 1,000 times!") == (
        ["the", "man", "'s", "t-shirt", "is", "n't", "red", "1,000", "times"]
    )
    assert cider.tokenise_caption("Can\u2019t. \n 50% & more...") == ["ca", "n't", "50", "%", "&", "more"]
    assert cider.tokenise_caption(". ? !") == []


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("a hat (left)", "a hat -lrb- left -rrb-"),
        ("The man(left)and[right] {here}", "the man -lrb- left -rrb- and -lsb- right -rsb- -lcb- here -rcb-"),
        ("\"quoted\" words and 'single' ones", "quoted words and single ones"),
        ("a cat's toy & a dog -- on the mat - yes", "a cat 's toy & a dog on the mat yes"),
        ("red/blue and/or green; 50% off $5.00 #1 @home", "red/blue and/or green 50 % off $ 5.00 # 1 @home"),
        ('a t-shirt... with "stop" sign, no. 5', "a t-shirt with stop sign no. 5"),
        ("the U.S. flag and Mr. Smith at 10:30 a.m.", "the u.s. flag and mr. smith at 10:30 a.m."),
        ("cannot gonna 'tis can't y'all ma'am o'clock", "can not gon na 't is ca n't y' all ma'am o'clock"),
        ("it's 3,000 people at 1/2 price 3.5 x 10-20 -5", "it 's 3,000 people at 1/2 price 3.5 x 10-20 -5"),
        ("a + b = c * d ^ e ~ f | g _ i ` j", "a + b = c * d ^ e ~ f | g _ i j"),
        ("no parking!? yes !! no! the plan is this.", "no parking !? yes !! no the plan is this"),
        ("1st 2nd '90s 90's AT&T w/o 24/7", "1st 2nd '90s 90 's at&t w/o 24/7"),
    ],
)
def test_caption_words_are_the_official_scorers(text, tokens):
    """What pycocoevalcap 1.2's PTBTokenizer (Java) gave when it was run."""
    assert cider.tokenise_caption(text) == tokens.split()


def test_perfect_and_empty_captions():
    references = [[cider.tokenise_caption(text)] for text in ("one red cat sits here", "two blue dogs run away fast")]
    perfect = [image[0] for image in references]
    assert cider.cider_d(references, perfect)[1] == pytest.approx([10, 10])
    assert cider.cider_d(references, [[], perfect[1]])[1] == pytest.approx([0, 10])


@pytest.mark.parametrize(
    ("references", "hypotheses", "message"),
    [
        ([], [], "images"),
        ([[["a"]]], [["a"], ["b"]], "images"),
        ([[]], [["a"]], "no reference"),
        ([["a cat"]], [["a", "cat"]], "tokenise"),
    ],
    ids=["empty", "mismatch", "no-reference", "text"],
)
def test_captions_reject(references, hypotheses, message):
    with pytest.raises(ValueError, match=message):
        cider.cider_d(references, hypotheses)
