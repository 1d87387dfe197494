"""Verdicts on claims from result files made by hand: every verdict, and what stands beside it."""

import math

import numpy as np
import pandas as pd
import pytest
from typed import table_settings

from pipeline.commands import kept_scores
from pipeline.reporting import arms, claims, claims_text
from pipeline.reporting.table_rows import Rows
from pipeline.settings.claims import Trend

TASKS = {
    "vision": {"short_answer": {"chance": 0.0, "stable": True}, "presence": {"chance": 0.5, "stable": True}},
    "text": {"cloze": {"chance": 0.5, "stable": True}},
}
IMAGES = 100


class Results:
    """A folder of evaluations: `add` makes those of a cell, one a seed, that score as a test wants."""

    def __init__(self, folder):
        self.folder, self.rows, self.inputs = folder, [], {}
        self.noise = np.random.default_rng(1)

    def add(
        self, cell, score, seeds=5, evaluated="model", run_sd=0.003, bits=2.0, first=0, seed_effect=0.0, text_seeds=None
    ):
        """Runs with this expected score of every task, whose means scatter by run_sd and share a seed's effect.

        text_seeds: of each run's text run; all of one by default. The right image makes an answer 4 * score bits likelier.
        """
        for seed in range(first, first + seeds):
            name = f"{cell}-{evaluated}-{seed}"
            place = self.folder / name
            place.mkdir()
            shared = seed_effect * math.sin(seed)  # what a seed does to every cell
            level = score + shared + self.noise.normal(0, run_sd)
            questions = [
                {"task": task, "condition": condition, "id": f"{n}", "image": f"{n}.png", "score": level + item}
                for task in TASKS["vision"]
                for condition, change in (("normal", 0.0), ("removed", -0.2))
                for n, item in enumerate(np.linspace(-0.1, 0.1, IMAGES) + change)
            ]
            pd.DataFrame(questions).to_csv(place / "vision.csv", index=False)
            text = [{"task": "cloze", "id": f"{n}", "score": score + shared} for n in range(40)]
            pd.DataFrame(text).to_csv(place / "text.csv", index=False)
            nats = [{"id": f"{n}", "nats": bits * 100 * math.log(2), "bytes": 100} for n in range(40)]
            pd.DataFrame(nats).to_csv(place / "heldout.csv", index=False)
            answers = [
                {"task": task, "condition": condition, "id": f"{n}", "image": f"{n}.png", "bytes": 4}
                | {"nats": math.log(2) * 4 * (3 - (level + item) * (condition == "normal"))}
                for task in TASKS["vision"]
                for condition in ("normal", "shuffled")
                for n, item in enumerate(np.linspace(-0.1, 0.1, IMAGES))
            ]
            pd.DataFrame(answers).to_csv(place / "answers.csv", index=False)
            self.inputs[f"scores/{name}"] = place
            row = {"run": name, "cell": cell, "seed": seed, "evaluated": evaluated, "settings": {}, "experiments": []}
            row["text_seed"] = text_seeds[seed - first] if text_seeds else 124
            self.rows.append(row)

    def judge(self, *asked, prior=0.1, found=()) -> pd.DataFrame:
        """claims.csv, with a line a part. prior: what answering without looking scores."""
        settings = table_settings(make="claims", tasks=TASKS, claims=list(asked), rows=self.rows, found=list(found))
        rows = Rows(settings, self.inputs)
        guesses = [{"task": t, "id": f"{n}", "score": prior} for t in TASKS["vision"] for n in range(IMAGES)]
        rows.__dict__["prior"] = pd.DataFrame(guesses).assign(prior="blind")
        out = self.folder / "out"
        claims.make(rows, out)
        self.text = (out / "claims.md").read_text()
        return pd.read_csv(out / "claims.csv")


@pytest.fixture
def results(tmp_path) -> Results:
    return Results(tmp_path)


def arm(cell, condition="normal"):
    return {"cell": cell, "condition": condition}


def difference(plus="recipe", minus="other", metric="vision_average", direction="greater", margin=None):
    plus, minus = ([arm(a) if isinstance(a, str) else a for a in arms] for arms in (listed(plus), listed(minus)))
    told = {"direction": direction, "margin": margin, "two_points": 0.02}
    return {"metric": metric, "plus": plus, "minus": minus, **told}


def listed(value):
    return value if isinstance(value, list) else [value]


def claim(*contrasts, kind="contrast", name="the_claim", family="primary", **more):
    about = {"says": "One is better.", "source": "a test", "published": None, "note": ""}
    return {"name": name, "beside": "", "family": family, "kind": kind, "contrasts": list(contrasts), **about, **more}


@pytest.mark.parametrize(
    ("effect", "direction", "margin", "verdict"),
    [
        (0.04, "greater", None, "supported"),
        (-0.04, "greater", None, "refuted"),
        (0.0, "greater", None, "refuted"),  # surely less than half a point
        (0.0, "no_worse", 0.02, "supported"),
        (-0.04, "no_worse", 0.02, "refuted"),
    ],
)
def test_an_effect_far_larger_than_the_scatter_decides(results, effect, direction, margin, verdict):
    results.add("recipe", 0.6 + effect, run_sd=0.001)
    results.add("other", 0.6, run_sd=0.001)
    (row,) = results.judge(claim(difference(direction=direction, margin=margin))).to_dict("records")
    assert row["verdict"] == row["part_verdict"] == verdict
    assert row["low"] < 100 * effect < row["high"]  # in points
    assert row["interval_covers"] == "examples and seeds"
    assert row["power"] > 0.99
    assert row["seeds_needed"] <= 5
    assert f"**{verdict}**" in results.text


def test_an_effect_within_the_scatter_is_inconclusive_and_says_how_many_seeds_it_takes(results):
    results.add("recipe", 0.61, run_sd=0.03)
    results.add("other", 0.6, run_sd=0.03)
    (row,) = results.judge(claim(difference())).to_dict("records")
    assert row["verdict"] == "inconclusive"
    assert row["low"] < 0 < row["high"]
    assert row["power"] < 0.8
    assert row["seeds_needed"] > 5
    assert row["p"] > 0.05


def test_one_seed_supports_nothing_however_large_its_effect(results):
    results.add("recipe", 0.9, seeds=1)
    results.add("other", 0.5, seeds=1)
    (row,) = results.judge(claim(difference())).to_dict("records")
    assert row["verdict"] == "not testable"
    assert row["effect"] == pytest.approx(40, abs=2)
    assert row["interval_covers"] == "examples"
    assert "1 of the 5 shared seeds" in row["reason"]


def test_only_seeds_that_both_sides_have_are_compared(results):
    results.add("recipe", 0.9, seeds=6)
    results.add("other", 0.5, seeds=6, first=2)
    (row,) = results.judge(claim(difference())).to_dict("records")
    assert (row["verdict"], row["seeds"]) == ("not testable", 4)


def test_models_that_do_no_better_than_guessing_are_not_testable(results):
    results.add("recipe", 0.6, run_sd=0.001)
    results.add("other", 0.5, run_sd=0.001)
    guessing = results.judge(claim(difference()), prior=0.7)
    assert list(guessing["verdict"]) == ["not testable"]
    assert "language prior" in guessing["reason"][0]
    assert list(results.judge(claim(difference()), prior=0.3)["verdict"]) == ["supported"]


def test_a_cell_that_the_study_lacks_is_not_run(results):
    results.add("recipe", 0.6)
    (row,) = results.judge(claim(difference())).to_dict("records")
    assert row["verdict"] == "not_run"
    assert math.isnan(row["effect"])
    assert "not_run" in results.text


def test_all_parts_must_hold_and_one_that_fails_decides(results):
    for cell, score in (("recipe", 0.6), ("worse", 0.5), ("better", 0.7)):
        results.add(cell, score, run_sd=0.001)
    both = claim(difference(minus="worse"), difference(minus="better"), kind="all_of")
    table = results.judge(both)
    assert list(table["verdict"]) == ["refuted", "refuted"]
    assert list(table["part_verdict"]) == ["supported", "refuted"]
    table = results.judge(claim(difference(minus="worse"), difference(minus="absent"), kind="all_of"))
    assert set(table["verdict"]) == {"not_run"}


def test_an_optimum_holds_if_it_beats_every_other(results):
    for cell, score in (("recipe", 0.6), ("a", 0.5), ("b", 0.55)):
        results.add(cell, score, run_sd=0.001)
    asked = claim(difference(minus="a"), difference(minus="b"), kind="optimum")
    assert set(results.judge(asked)["verdict"]) == {"supported"}


def test_more_claims_in_a_family_ask_for_more_evidence(results):
    results.add("recipe", 0.62, run_sd=0.0)
    results.add("other", 0.6, run_sd=0.0)
    for seed in range(5):  # by hand, so that p is between .01 and .05: supported alone, and not among ten
        file = results.folder / f"recipe-model-{seed}" / "vision.csv"
        rows = pd.read_csv(file)
        rows.assign(score=rows["score"] + (0.012, -0.012, 0.015, -0.015, 0.0)[seed]).to_csv(file, index=False)
    alone = results.judge(claim(difference()))
    assert list(alone["verdict"]) == ["supported"]
    assert 0.01 < alone["p"][0] < 0.05
    nulls = [claim(difference("other", "recipe"), name=f"null_{n}") for n in range(9)]
    among = results.judge(claim(difference()), *nulls).set_index("claim")
    assert among.loc["the_claim", "verdict"] == "inconclusive"
    assert among.loc["the_claim", "p_holm"] > 0.05
    in_another_family = [null | {"family": "control"} for null in nulls]
    assert results.judge(claim(difference()), *in_another_family)["verdict"][0] == "supported"


def test_a_seed_effect_that_all_cells_share_makes_nothing_surer(results):
    # In these five seeds it cancels, and five are too few to rely on that.
    results.add("recipe", 0.61, run_sd=0.001, seed_effect=0.02)
    results.add("other", 0.6, run_sd=0.001, seed_effect=0.02)
    (row,) = results.judge(claim(difference())).to_dict("records")
    assert row["verdict"] == "inconclusive"
    assert row["seed_sd"] == pytest.approx(100 * 0.02 * np.std(np.sin(range(5)), ddof=1) * math.sqrt(2), rel=0.1)


def test_seeds_of_one_text_run_count_once_where_there_are_several(results):
    for cell, score in (("recipe", 0.64), ("other", 0.6)):
        results.add(cell, score, run_sd=0.001, seeds=10, text_seeds=[124, 125, 126, 127, 128] * 2)
    (row,) = results.judge(claim(difference())).to_dict("records")
    assert (row["verdict"], row["seeds"]) == ("supported", 5)
    assert row["interval_covers"] == "examples, seeds and text runs"
    results.rows.clear()
    for cell, score in (("first", 0.64), ("second", 0.6)):
        results.add(cell, score, run_sd=0.001, seeds=6, text_seeds=[124, 125, 126] * 2)
    (row,) = results.judge(claim(difference("first", "second"))).to_dict("records")
    assert (row["verdict"], row["seeds"]) == ("not testable", 3)


def test_a_study_without_claims_has_a_page_that_says_so(results):
    settings = table_settings(make="claims", tasks=TASKS)
    claims.make(Rows(settings, {}), results.folder / "none")
    assert "has no claim" in (results.folder / "none" / "claims.md").read_text()


def test_two_text_runs_compared_are_no_repeats_of_text_runs(results):
    """Every seed has the same two: how far another text run would move the difference, nobody can say."""
    results.add("recipe", 0.64, run_sd=0.001)
    results.add("text_seed=125", 0.6, run_sd=0.001, text_seeds=[125] * 5)
    (row,) = results.judge(claim(difference("recipe", "text_seed=125"))).to_dict("records")
    assert (row["verdict"], row["seeds"], row["interval_covers"]) == ("supported", 5, "examples and seeds")


def test_a_trend_is_the_slope_times_the_range(results):
    for percent, score in ((0, 0.5), (40, 0.52), (80, 0.54)):
        results.add(f"branch_percent={percent}", score, run_sd=0.0005)
    asked = Trend(metric="vision_average", over="branch_percent", values=[0, 40, 80])
    assert asked.weights == pytest.approx([-1, 0, 1])
    sides = [[arm("branch_percent=80") | {"weight": 1.0}], [arm("branch_percent=0") | {"weight": 1.0}]]
    contrast = difference() | {"plus": sides[0], "minus": sides[1], "over": "branch_percent"}
    (row,) = results.judge(claim(contrast, kind="trend")).to_dict("records")
    assert row["effect"] == pytest.approx(4, abs=0.2)
    assert row["verdict"] == "supported"
    assert row["part"] == "vision average: rise over branch_percent"
    # Of values that are not evenly spaced: against a least-squares line.
    asked = Trend(metric="vision_average", over="branch_percent", values=[0, 10, 60, 100])
    scores = np.array([0.3, 0.1, 0.4, 0.2])
    assert np.dot(asked.weights, scores) == pytest.approx(100 * np.polyfit([0, 10, 60, 100], scores, 1)[0])


def test_of_a_claim_that_one_is_best_the_table_says_which_may_be(results):
    for cell, score in (("recipe", 0.6), ("near", 0.5995), ("far", 0.5)):
        results.add(cell, score, run_sd=0.004)
    asked = claim(difference(minus="near"), difference(minus="far"), kind="optimum")
    table = results.judge(asked)
    assert set(table["may_be_best"]) == {"recipe; near"}
    assert "The best may be any of: recipe; near." in results.text
    results.rows.clear()
    for cell, score in (("first", 0.6), ("second", 0.5)):
        results.add(cell, score, run_sd=0.001, seeds=4)
    few = claim(difference("first", "second"), kind="optimum")
    assert results.judge(few)["may_be_best"].isna().all()  # no verdict, and no list either
    results.add("alone", 0.6)
    assert results.judge(claim(difference("alone", "absent"), kind="optimum"))["may_be_best"].isna().all()


def test_bits_that_looking_saves_and_bits_of_right_answers(results):
    results.add("recipe", 0.6, run_sd=0.001)
    results.add("other", 0.5, run_sd=0.001)
    asked = [claim(difference(metric=metric), name=metric) for metric in ("looking_bits", "answer_bits")]
    looking, answers = results.judge(*asked).to_dict("records")
    assert looking["effect"] == pytest.approx(
        0.1, abs=0.002
    )  # a quarter of 4 times the score, as a byte has 4 bits of it
    assert answers["effect"] == pytest.approx(-0.1, abs=0.002)
    assert looking["unit"] == answers["unit"] == "bits per byte"
    assert (looking["verdict"], answers["verdict"]) == ("supported", "refuted")


def test_models_that_answer_no_better_with_their_image_are_not_testable(results):
    results.add("recipe", -0.1, run_sd=0.001)
    results.add("other", -0.2, run_sd=0.001)
    (row,) = results.judge(claim(difference(metric="looking_bits"))).to_dict("records")
    assert row["verdict"] == "not testable"


def test_seeds_agree_within_a_margin_or_do_not(results):
    for cell in "abcd":
        results.add(f"{cell}7", 0.6, run_sd=0.0, seeds=1)
        results.add(f"{cell}365", 0.61, run_sd=0.0, seeds=1)
    pairs = [[f"{cell}7", f"{cell}365"] for cell in "abcd"]
    agreement = {"metric": "short_answer", "over": "finetune_seed", "values": [7, 365], "margin": 0.03, "pairs": pairs}
    asked = claim(kind="agreement", agreement=agreement)
    (row,) = results.judge(asked).to_dict("records")
    assert row["effect"] == pytest.approx(1, abs=1e-6)  # no example differs from the others in it: nothing is taken off
    assert row["verdict"] == "supported"
    assert row["part"] == "short_answer: finetune_seed 7 and 365"
    agreement["margin"] = 0.001
    assert results.judge(asked)["verdict"][0] == "refuted"
    # The rules above the table are true of this row too: it is refuted at an effect far above zero, and says why.
    above, _, below = results.text.partition("| claim |")
    assert "agree is of a spread" in above and "refuted if it starts above it" in above
    assert "| **refuted** | 1.00 (" in below
    assert "above 0.10 points" in below
    assert results.judge(asked, prior=0.9)["verdict"][0] == "not testable"
    agreement["pairs"] = [["a7", "absent"]]
    assert results.judge(asked)["verdict"][0] == "not_run"


def test_examples_alone_do_not_refute_that_seeds_agree(results):
    """Two runs of one quality that err on other questions: their scores differ by chance alone."""
    noise = np.random.default_rng(3)
    for cell in "abcdefgh":
        for value in (7, 365):
            results.add(f"{cell}{value}", 0.6, run_sd=0.0, seeds=1)
            file = results.folder / f"{cell}{value}-model-0" / "vision.csv"
            rows = pd.read_csv(file)
            rows.assign(score=(noise.random(len(rows)) < 0.6).astype(float)).to_csv(file, index=False)
    pairs = [[f"{cell}7", f"{cell}365"] for cell in "abcdefgh"]
    agreement = {"metric": "short_answer", "over": "finetune_seed", "values": [7, 365], "margin": 0.006, "pairs": pairs}
    (row,) = results.judge(claim(kind="agreement", agreement=agreement)).to_dict("records")
    assert row["verdict"] != "refuted"
    assert 5 < row["item_se"] < 9  # two shares of a hundred questions each


def test_the_rules_above_the_table_are_those_of_the_verdicts(results):
    """A claim of every kind on both sides of its bound, and what the rules say of it."""
    for cell, score in (("same", 0.6), ("low", 0.5), ("high", 0.7), ("a bit", 0.6005)):
        results.add(cell, score, run_sd=0.0001)
    judged = {
        name: results.judge(asked).to_dict("records")
        for name, asked in {
            "above 0": claim(difference("high", "same")),
            "below the trivial": claim(difference("a bit", "same")),  # surely above 0, surely too small
            "above minus the margin": claim(difference("same", "a bit", direction="no_worse", margin=0.02)),
            "below minus the margin": claim(difference("low", "same", direction="no_worse", margin=0.02)),
            "best": claim(difference("high", "same"), difference("high", "low"), kind="optimum"),
            "not best": claim(difference("low", "same"), difference("low", "high"), kind="optimum"),
            "one part": claim(difference("high", "same"), difference("low", "same"), kind="all_of"),
        }.items()
    }
    assert {name: rows[0]["verdict"] for name, rows in judged.items()} == {
        "above 0": "supported",
        "below the trivial": "refuted",
        "above minus the margin": "supported",
        "below minus the margin": "refuted",
        "best": "supported",
        "not best": "refuted",
        "one part": "refuted",
    }
    (small,) = judged["below the trivial"]
    assert small["high"] < 0.5
    assert all(f"- {rule}" in results.text for rule in claims_text.RULES)


def test_bits_per_byte_are_shown_as_they_are(results):
    results.add("recipe", 0.6, bits=2.1)
    results.add("other", 0.6, bits=2.0)
    (row,) = results.judge(claim(difference(metric="bits_per_byte"))).to_dict("records")
    assert row["effect"] == pytest.approx(0.1)
    assert row["unit"] == "bits per byte"


def test_a_difference_in_differences_takes_the_guessing_out(results):
    results.add("recipe", 0.7, run_sd=0.001)
    results.add("none", 0.6, run_sd=0.001)
    results.add("recipe blind", 0.55, evaluated="blind", run_sd=0.001)
    results.add("none blind", 0.52, evaluated="blind", run_sd=0.001)
    blind = [arm("none blind", "removed"), arm("recipe blind", "removed")]
    contrast = difference([arm("recipe"), blind[0]], [blind[1], arm("none")])
    (row,) = results.judge(claim(contrast)).to_dict("records")
    assert row["effect"] == pytest.approx(10 - 3, abs=0.5)
    assert row["verdict"] == "supported"


def test_the_claims_stand_in_their_order_with_the_published_effect_beside_ours(results):
    results.add("recipe", 0.63)
    results.add("other", 0.6)
    published = {"effect": 2.0, "unit": "points of vision average"}
    names = ["zebra", "apple", "mango"]
    table = results.judge(*(claim(difference(), name=name, published=published) for name in names))
    assert list(table["claim"]) == names
    assert list(table["published"]) == [2.0] * 3
    assert list(table["power_at"]) == [2.0] * 3
    assert "+2 points of vision average" in results.text
    assert results.text.index("zebra") < results.text.index("apple") < results.text.index("mango")


def test_no_verdict_is_stronger_than_its_interval(results):
    levels = (0.55, 0.58, 0.6, 0.605, 0.61, 0.63, 0.66)
    for number, level in enumerate(levels):
        results.add(f"cell{number}", level, run_sd=0.008)
    asked = [
        claim(difference(f"cell{a}", f"cell{b}"), name=f"{a}-{b}")
        for a in range(len(levels))
        for b in range(len(levels))
        if a != b
    ]
    table = results.judge(*asked)
    assert {"supported", "refuted", "inconclusive"} <= set(table["verdict"])
    assert (table.loc[table["verdict"] == "supported", "low"] > 0).all()
    assert (table.loc[table["verdict"] == "refuted", "high"] < 0.5).all()
    assert (table.loc[table["verdict"] == "supported", "p_holm"] <= 0.05).all()
    assert ((table["low"] < table["effect"]) & (table["effect"] < table["high"])).all()


def test_what_another_study_found_stands_beside_a_claim(results):
    results.add("recipe", 0.64, seeds=1)
    results.add("other", 0.6, seeds=1)
    found = [{"study": "small", "claim": "the_claim", "verdict": "supported", "effect": "4 (3 to 5) points"}]
    (row,) = results.judge(claim(difference()), found=found).to_dict("records")
    assert row["found_elsewhere"] == "small: supported, 4 (3 to 5) points"
    assert "small: supported, 4 (3 to 5) points |" in results.text and "(small/claims.md)" in results.text


def test_kept_scores_give_the_same_verdicts(results, tmp_path):
    results.add("recipe", 0.64)
    results.add("other", 0.6)
    asked = [
        claim(difference(metric=metric), name=metric) for metric in ("vision_average", "looking_bits", "bits_per_byte")
    ]
    results.judge(*asked)
    settings = table_settings(make="claims", tasks=TASKS, claims=asked, rows=results.rows)
    rows = Rows(settings, results.inputs)
    rows.__dict__["prior"] = pd.DataFrame(
        [{"task": t, "id": f"{n}", "score": 0.1, "prior": "blind"} for t in TASKS["vision"] for n in range(IMAGES)]
    )
    kept_scores.keep(rows, tmp_path / "kept")
    kept_scores.keep(rows, tmp_path / "kept")  # in the place of what is there
    inputs = kept_scores.unpack(settings.rows, tmp_path / "kept", tmp_path / "runs")
    claims.make(kept_scores.rows_of(settings, tmp_path / "kept", inputs), tmp_path / "again")
    for file in ("claims.csv", "claims.md"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "out" / file).read_bytes()


def test_kept_scores_of_another_study_are_refused(results, tmp_path):
    results.add("recipe", 0.64, seeds=1)
    settings = table_settings(make="claims", tasks=TASKS, claims=[], rows=results.rows)
    rows = Rows(settings, results.inputs)
    rows.__dict__["prior"] = pd.DataFrame({"task": [], "id": [], "score": [], "prior": []})
    kept_scores.keep(rows, tmp_path / "kept")
    results.rows[0]["seed"] = 9
    other = table_settings(make="claims", tasks=TASKS, claims=[], rows=results.rows)
    with pytest.raises(ValueError, match="no scores of recipe seed=9"):
        kept_scores.unpack(other.rows, tmp_path / "kept", tmp_path / "runs")


# --- in words ---

RECIPE = {
    "branch_percent": 80.0,
    "image_fraction": 0.5,
    "captions": "full",
    "rewarm_like": None,
    "train_encoder": False,
}


@pytest.mark.parametrize(
    ("plus", "minus", "said"),
    [
        ("recipe", "branch_percent=100", "images at 80% minus images at 100%"),
        (
            "branch_percent=0 image_fraction=0.1",
            "branch_percent=0 image_fraction=0",
            "images in 10% of the sequences minus no images in the cooldown (both: branch at 0%)",
        ),
        ("train_encoder=true", "recipe", "encoder trained minus encoder frozen"),
        (
            "branch_percent=100 rewarm_like=60",
            "recipe",
            "images at 100%, warmed up to the rate at 60% minus images at 80%, the rate continued",
        ),
        ("evaluated=cooldown", "evaluated=blind", "before fine-tuning minus fine-tuned without images"),
        ("scale.cooldown.tokens=9", "recipe", "cooldown tokens 9 minus cooldown tokens as it is"),
        ("recipe (removed)", "recipe", "asked without the image minus asked with the image"),
    ],
)
def test_a_contrast_in_words_names_what_its_arms_differ_in_and_what_they_share(plus, minus, said):
    sides = [
        [{"cell": name, "condition": condition.strip("()") or "normal"}]
        for name, _, condition in (arm.partition(" (") if arm.endswith(")") else (arm, "", "") for arm in (plus, minus))
    ]
    contrast = {"metric": "vision_average", "plus": sides[0], "minus": sides[1]}
    assert arms.contrast_words(contrast, RECIPE) == f"vision average: {said}"
