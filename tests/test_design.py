"""The design lint: what a claim compares may differ in nothing but what it declares."""

import dataclasses

import pytest
from conftest import SOURCE

from pipeline.settings.errors import ConfigError
from pipeline.study import claims
from pipeline.study.cells import Cell
from pipeline.study.job import lineage
from pipeline.study.study import Study

CLAIMS = "configs/claims.yaml"
TIMING = {
    "says": "80% is better than 50%.",
    "source": "a test",
    "family": "primary",
    "may_differ": ["branch_percent", "learning_rate"],
    "contrast": {"metric": "vision_average", "plus": [{"branch_percent": 80}], "minus": [{"branch_percent": 50}]},
}


def claim(project, **changes) -> None:
    """Make one claim the only one; a key that is changed to None is left out."""
    kept = {key: value for key, value in (TIMING | changes).items() if value is not None}
    project.write(CLAIMS, "{}")
    project.set(CLAIMS, "the_claim", kept)


def compare(project, plus: dict, minus: dict, *may_differ: str) -> None:
    contrast = {"metric": "vision_average", "plus": [plus], "minus": [minus]}
    claim(project, may_differ=list(may_differ), contrast=contrast)


def sweep(project, name: str, **values: list) -> None:
    project.set("params.yaml", f"experiments.{name}.vary", values)


def refused(project) -> ConfigError:
    with pytest.raises(ConfigError) as error:
        claims.resolve(project.study())
    return error.value


def test_the_claims_of_the_default_study_have_no_confound(project):
    for file in ("params.yaml", "configs/scale/tiny.yaml"):
        project.write(file, (SOURCE / file).read_text())
    resolved = claims.resolve(project.study())
    assert [claim["name"] for claim in resolved if not claim["beside"]] == list(project.read(CLAIMS))


def test_a_claim_of_text_is_judged_twice_and_of_bits_fewer_are_better(project):
    contrast = {"metric": "text", "plus": [{}], "minus": [{"branch_percent": 50}], "direction": "no_worse"}
    claim(project, may_differ=["branch_percent", "learning_rate"], contrast=contrast | {"margin": 0.02})
    primary, beside = claims.resolve(project.study())
    assert (primary["beside"], beside["beside"], beside["family"]) == ("", primary["name"], "beside")
    (bits,), (points,) = primary["contrasts"], beside["contrasts"]
    assert (bits["metric"], points["metric"]) == ("bits_per_byte", "text_stable")
    assert [arm["cell"] for arm in (*points["plus"], *points["minus"])] == ["recipe", "branch_percent=50"]
    assert [arm["cell"] for arm in (*bits["plus"], *bits["minus"])] == ["branch_percent=50", "recipe"]
    # Two points are a margin of 0.05 bits a byte, as configs/measures.yaml says.
    assert (bits["margin"], bits["two_points"]) == pytest.approx((0.05, 0.05))
    assert (points["margin"], points["two_points"]) == pytest.approx((0.02, 0.02))


def test_a_trend_of_text_turns_its_weights_with_its_arms(project):
    trend = {"metric": "text", "over": "branch_percent", "values": [50, 80, 100]}
    claim(project, may_differ=["branch_percent", "learning_rate", "moments"], contrast=None, trend=trend)
    primary, beside = (found["contrasts"][0] for found in claims.resolve(project.study()))
    assert primary["plus"] == beside["minus"] and primary["minus"] == beside["plus"]


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("vision.primary", "text_stable", "vision.primary: found 'text_stable', allowed: vision_average, looking_bits"),
        ("text.beside", "cider", "text.beside: found 'cider', allowed: text_stable, choice_bits, bits_per_byte"),
        ("two_points.vision_average", 0.1, "two_points.vision_average: found 0.1, allowed: looking_bits"),
        ("two_points.cider", 0, "two_points.cider: found 0, allowed"),
    ],
)
def test_measures_that_cannot_decide_are_refused(project, key, value, line):
    project.set("configs/measures.yaml", key, value)
    assert f"configs/measures.yaml: {line}" in str(refused(project))


def test_a_measure_must_say_what_two_points_are_like(project):
    project.remove("configs/measures.yaml", "two_points.cider")
    assert str(refused(project)).startswith("configs/measures.yaml: two_points.cider: found 'nothing'")


def test_a_claim_names_its_cells(project):
    claim(project)
    (resolved,) = claims.resolve(project.study())
    (contrast,) = resolved["contrasts"]
    assert contrast["plus"] == [{"cell": "recipe", "condition": "normal"}]
    assert contrast["minus"] == [{"cell": "branch_percent=50", "condition": "normal"}]
    assert resolved["kind"] == "contrast"


# --- confounds that a claim's author makes ---


def test_the_rate_that_comes_with_a_branch_point_must_be_declared(project):
    claim(project, may_differ=["branch_percent"])
    error = refused(project)
    assert error.key == "the_claim.may_differ"
    assert "cooldown.first_rate" in error.allowed
    assert "learning_rate" in error.allowed  # the factor that it belongs to


@pytest.mark.parametrize(
    ("experiment", "values", "arm", "declared", "key"),
    [
        ("finetune_epochs", {"finetune_epochs": [1]}, {"finetune_epochs": 1}, "image_fraction", "finetune.epochs"),
        ("image_fraction", {"image_fraction": [0.2]}, {"image_fraction": 0.2}, "captions", "cooldown.image_fraction"),
        ("captions", {"captions": ["short"]}, {"captions": "short"}, "image_fraction", "shards/captions.captions"),
        ("moments", {"moments": ["fresh"]}, {"moments": "fresh"}, "learning_rate", "cooldown.moments"),
        ("size", {"size": ["larger"], "image_fraction": [0.1]}, {"size": "larger"}, "captions", "model.layers"),
        ("encoder", {"encoder": ["patch"]}, {"encoder": "patch"}, "train_encoder", "cooldown.encoder."),
        ("text_budget", {"text_budget": [0.5]}, {"text_budget": 0.5}, "branch_percent", "cooldown.first_rate"),
    ],
)
def test_a_factor_that_is_not_declared_is_named(project, experiment, values, arm, declared, key):
    sweep(project, experiment, **values)
    compare(project, {}, arm, declared)
    assert key in refused(project).allowed


@pytest.mark.parametrize(
    ("experiment", "values", "arm", "declared"),
    [
        ("finetune_epochs", {"finetune_epochs": [1]}, {"finetune_epochs": 1}, "finetune_epochs"),
        ("image_fraction", {"image_fraction": [0.0]}, {"image_fraction": 0.0}, "image_fraction"),
        ("instruction_share", {"instruction_share": [1.0]}, {"instruction_share": 1.0}, "instruction_share"),
        ("captions", {"captions": ["short"]}, {"captions": "short"}, "captions"),
        ("moments", {"moments": ["fresh"]}, {"moments": "fresh"}, "moments"),
        ("encoder", {"encoder": ["patch"]}, {"encoder": "patch"}, "encoder"),
        ("encoder", {"encoder": ["two_encoders"]}, {"encoder": "two_encoders"}, "encoder"),
    ],
)
def test_a_factor_that_is_declared_may_differ(project, experiment, values, arm, declared):
    sweep(project, experiment, **values)
    compare(project, {}, arm, declared)
    assert len(claims.resolve(project.study())) == 1


def test_a_factor_more_than_declared_is_refused_even_where_one_may_differ(project):
    sweep(project, "seeds", image_fraction=[0.2], finetune_epochs=[1], branch_percent=[80], finetune_seed=[7])
    compare(project, {}, {"image_fraction": 0.2, "finetune_epochs": 1, "finetune_seed": 7}, "image_fraction")
    assert "finetune.epochs is 2 in one run and 1 in another" in refused(project).allowed


# --- confounds planted in the study's own code ---


def plant(monkeypatch, phase: str, change: dict) -> None:
    """Let the models of the 50% branch differ in a setting of a phase, behind the back of params.yaml."""
    honest = getattr(Study, phase)

    def confounded(self, recipe, *arguments, **options):
        job = honest(self, recipe, *arguments, **options)
        if recipe.branch_percent != 50:
            return job
        settings = {k: {**v, **change.get(k, {})} if isinstance(v, dict) else v for k, v in job.card_settings.items()}
        settings |= {key: value for key, value in change.items() if not isinstance(value, dict)}
        return dataclasses.replace(job, settings=type(job.settings).model_validate(settings))

    monkeypatch.setattr(Study, phase, confounded)


@pytest.mark.parametrize(
    ("phase", "change", "key"),
    [
        ("cooldown", {"optimisation": {"tokens": 20480}}, "cooldown.optimisation.tokens"),
        ("cooldown", {"optimisation": {"weight_decay": 0.5}}, "cooldown.optimisation.weight_decay"),
        ("cooldown", {"seed": 8}, "cooldown.seed"),  # data order and new weights
        ("finetune", {"seed": 8}, "finetune.seed"),
        ("finetune", {"optimisation": {"peak_lr": 0.1}}, "finetune.optimisation.peak_lr"),
    ],
)
def test_a_planted_confound_is_named(project, monkeypatch, phase, change, key):
    claim(project)
    assert claims.resolve(project.study())
    plant(monkeypatch, phase, change)
    assert key in refused(project).allowed


def test_a_study_that_has_only_one_of_the_arms_is_no_error(project):
    sweep(project, "timing", branch_percent=[80])
    claim(project)
    assert len(claims.resolve(project.study())) == 1


# --- what cannot be understood ---


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"may_differ": ["weather"]}, "the_claim.may_differ"),
        ({"contrast": {"metric": "vision_average", "plus": [{"branch": 80}], "minus": [{}]}}, "branch"),
        (
            {"contrast": {"metric": "vision_average", "plus": [{"branch_percent": 180}], "minus": [{}]}},
            "branch_percent",
        ),
        ({"contrast": {"metric": "vision_average", "plus": [{"seed": 7}], "minus": [{}]}}, "seed"),
        ({"contrast": {"metric": "vision_average", "plus": [{"evaluated": "mind"}], "minus": [{}]}}, "evaluated"),
        ({"contrast": {"metric": "vision_average", "plus": [{"condition": "dark"}], "minus": [{}]}}, "condition"),
        ({"contrast": {"metric": "beauty", "plus": [{"branch_percent": 50}], "minus": [{}]}}, "metric"),
        ({"contrast": None}, "the_claim"),
        ({"optimum": {"metric": "cider", "best": {}, "others": [{"moments": "fresh"}]}}, "the_claim"),
        ({"family": "secret"}, "family"),
        (
            {"contrast": None, "optimum": {"metric": "bits_per_byte", "best": {}, "others": [{"branch_percent": 50}]}},
            "the_claim.optimum.metric",
        ),
        (
            {"contrast": None, "trend": {"metric": "cider", "over": "branch_percent", "values": [50, 80, 50]}},
            "the_claim.trend.values",
        ),
        (
            {"contrast": None, "trend": {"metric": "vision_average", "over": "branch", "values": [50, 60, 80]}},
            "branch",
        ),
        ({"contrast": {"metric": "looking_bits", "plus": [{"evaluated": "cooldown"}], "minus": [{}]}}, "looking_bits"),
    ],
)
def test_a_claim_that_cannot_be_understood_is_refused(project, changes, key):
    claim(project, **changes)
    error = refused(project)
    assert error.file == CLAIMS
    assert key in error.key


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("finetune_epochs=1", "finetune_epoch=1", "finetune_epoch"),
        ("finetune_epochs=1", "finetune_epochs", "KEY=VALUE"),
        (",percent,", ",parrots,", "parrots"),
    ],
)
def test_a_published_figure_that_cannot_be_understood_is_refused(project, old, new, word):
    file = project.root / "configs/published.csv"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=word) as error:
        _ = project.study().published
    assert error.value.file == "configs/published.csv"


# --- sharing ---


def test_a_run_that_two_experiments_share_is_one_job(project):
    sweep(project, "finetune_epochs", finetune_epochs=[1, 2])
    sweep(project, "image_fraction", image_fraction=[0.1, 0.2])
    study = project.study()
    recipe = Cell(study.recipe)
    jobs = {study.runs(name)[recipe, 7].key for name in ("timing", "finetune_epochs", "image_fraction")}
    assert len(jobs) == 1
    models = {key for key in keys(study) if key[0] == "finetune" and not key[1].startswith("blind")}
    assert len(models) == 4 + 1 + 1  # four branch points, one more number of epochs, one more fraction


def test_one_more_value_adds_its_descendants_alone(project):
    sweep(project, "finetune_epochs", finetune_epochs=[2])
    before = keys(project.study())
    sweep(project, "finetune_epochs", finetune_epochs=[2, 3])
    after = keys(project.study())
    assert before < after
    assert sorted(phase for phase, _ in after - before) == ["evaluate", "finetune"]


def test_more_repeats_add_seeds_and_change_no_run(project):
    before = keys(project.study())
    project.set("configs/scale/small.yaml", "repeats.primary", 3)
    study = project.study()
    assert before < keys(study)
    assert study.seeds("timing") == [7, 8, 9]
    assert study.seeds("captions") == [7]


def keys(study: Study) -> set[tuple[str, str]]:
    return {job.key for scores in study.all_runs.values() for job in lineage(scores)}
