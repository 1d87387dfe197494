"""Experiments of params.yaml alone: a grid over any keys of the recipe or of the preset, whatever its name."""

import pytest
import yaml
from conftest import SCALE, complaint

from pipeline.settings.errors import ConfigError
from pipeline.study import claims
from pipeline.study.cells import Cell
from pipeline.study.job import lineage
from pipeline.training.schedule import planned_cooldown

PARAMS, CLAIMS = "params.yaml", "configs/claims.yaml"
SAYS = "How long should the cooldown be?"
LENGTHS = {"scale.cooldown.tokens": [5120, 10240]}  # of which the second is the preset's


def add(project, vary: dict, name: str = "mine", **more) -> None:
    project.set(PARAMS, f"experiments.{name}", {"says": SAYS, "vary": vary} | more)


def keys(study) -> set[tuple[str, str]]:
    return {job.key for scores in study.all_runs.values() for job in lineage(scores)}


def cells(study, name: str = "mine") -> list[str]:
    return [study.cell_name(cell) for cell in study.cells(name)]


# --- identities ---


@pytest.mark.parametrize(
    ("vary", "new"),
    [
        ({"scale.cooldown.tokens": [5120]}, {"cooldown": 1, "finetune": 1, "evaluate": 1}),
        ({"scale.finetune.peak_lr": [0.001]}, {"finetune": 1, "evaluate": 1}),
        ({"scale.text.peak_lr": [0.005]}, {"pretrain": 1, "cooldown": 1, "finetune": 1, "evaluate": 1}),
        ({"scale.model.layers": [1]}, {"pretrain": 1, "cooldown": 1, "finetune": 1, "evaluate": 1}),
        ({"scale.data.conversations": [100]}, {"sources": 1, "tokenizer": 1}),  # and all that comes after
        ({"seed": [9]}, {"cooldown": 1, "finetune": 1, "evaluate": 1}),
        ({"cooldown_rate_factor": [0.5]}, {"cooldown": 1, "finetune": 1, "evaluate": 1}),
    ],
    ids=lambda value: next(iter(value)),
)
def test_another_value_adds_its_own_jobs_and_changes_no_other(project, vary, new):
    before = keys(project.study())
    add(project, vary)
    after = keys(project.study())
    assert before < after
    phases = [phase for phase, _ in after - before]
    assert {phase: phases.count(phase) for phase in new} == new


@pytest.mark.parametrize(
    "vary",
    [
        {"scale.cooldown.tokens": [10240]},
        {"scale.text.peak_lr": [0.01], "scale.finetune.floor_lr": [0]},  # an integer where the preset has 0.0
        {"seed": [7]},
        {"cooldown_rate_factor": [1]},
        {"branch_percent": [80], "scale.model.layers": [2]},
        {"scale.cooldown.tokens": []},
    ],
)
def test_what_the_recipe_and_the_preset_have_anyway_is_no_new_identity(project, vary):
    before = keys(project.study())
    add(project, vary)
    study = project.study()
    assert keys(study) == before
    assert cells(study) == (["recipe"] if all(vary.values()) else [])


def test_an_experiment_that_varies_a_presets_key_shares_the_text_run_and_its_states(project):
    add(project, {"branch_percent": [50, 60], "scale.cooldown.tokens": [5120]})
    study = project.study()
    (sixty,) = [job for job in study.jobs.values() if job.phase == "pretrain" and job.card_settings["stop"] == 60]
    assert sixty.continues.card_settings["stop"] == 50
    assert (
        len({job.id for job in study.jobs.values() if job.phase == "pretrain" and job.card_settings["stop"] == 50}) == 1
    )


def test_two_keys_are_a_grid(project):
    add(project, {"image_fraction": [0.1, 0.2], **LENGTHS}, repeats=2)
    study = project.study()
    assert cells(study) == [
        "scale.cooldown.tokens=5120",
        "recipe",
        "image_fraction=0.2 scale.cooldown.tokens=5120",
        "image_fraction=0.2",
    ]
    assert {seed for _, seed in study.runs("mine")} == {7, 8}
    tokens = [
        job.parents["checkpoint"].parents["branch"].card_settings["optimisation"]["tokens"]
        for job in study.runs("mine").values()
    ]
    assert tokens == [5120] * 2 + [10240] * 2 + [5120] * 2 + [10240] * 2


def test_an_experiment_may_be_of_another_state_and_of_that_before_fine_tuning(project):
    add(project, LENGTHS, evaluate="blind", after_cooldown=True)
    states = {cell.evaluated for cell, _ in project.study().runs("mine")}
    assert states == {"blind", "cooldown"}
    add(project, LENGTHS, evaluate="cooldown")
    assert {job.parents["checkpoint"].phase for job in project.study().runs("mine").values()} == {"cooldown"}


@pytest.mark.parametrize("vary", [LENGTHS, {"branch_percent": [45]}, {"seed": [7, 8, 9]}])
def test_a_table_is_told_of_the_experiment_and_no_table_of_the_papers_is(project, vary):
    def tables() -> dict[str, str]:
        return {name: job.id for name, job in project.study().tables.items()}

    before = tables()
    add(project, vary)
    after = tables()
    own = {"mine", "report", "claims", "comparison", "drawings"}
    assert {name for name in after if after[name] != before.get(name)} <= own


def test_a_table_is_told_what_is_varied(project):
    add(project, LENGTHS)
    study = project.study()
    table = study.tables["mine"]
    assert table.card_settings["experiment"] == {"says": SAYS, "vary": list(LENGTHS), "evaluated": "model"}
    assert [row["settings"]["scale.cooldown.tokens"] for row in table.card_settings["rows"]] == [5120, 10240]


# --- the rate of a continued cooldown ---


def test_a_factor_multiplies_the_rate_that_a_cooldown_continues_with(project):
    add(project, {"branch_percent": [50], "cooldown_rate_factor": [1.0, 0.5]})
    study = project.study()
    jobs = {study.cell_name(cell): study.trained(cell.recipe, "cooldown") for cell in study.cells("mine")}
    whole, half = (
        planned_cooldown(jobs[name].settings)
        for name in ("branch_percent=50", "branch_percent=50 cooldown_rate_factor=0.5")
    )
    assert (half.peak, half.floor, half.warmup, half.steps) == (whole.peak / 2, whole.floor, 0, whole.steps)
    # At the end of the text run there is no rate to continue.
    end = study.recipe.model_copy(update={"branch_percent": 100})
    assert study.cooldown(end) is study.cooldown(end.model_copy(update={"cooldown_rate_factor": 0.5}))


def test_a_factor_that_ends_below_the_floor_is_refused(project):
    add(project, {"cooldown_rate_factor": [1.0, 0.001]})
    line = complaint(project)
    assert line.startswith(f"{PARAMS}: experiments.mine.vary.cooldown_rate_factor: found 0.001, allowed: at least ")


# --- refusals ---

SAME = "this one makes the same model"
QUESTIONS = "a key that leaves the questions as they are"


@pytest.mark.parametrize(
    ("vary", "key", "found", "allowed"),
    [
        (
            {"scale.cooldown.tokns": [1]},
            "scale.cooldown.tokns",
            [1],
            "did you mean 'scale.cooldown.tokens'? keys here are scale.cooldown.batch",
        ),
        ({"scale.cooldwn.tokens": [1]}, "scale.cooldwn.tokens", [1], "did you mean 'scale.cooldown.tokens'?"),
        ({"cooldown.tokens": [1]}, "cooldown.tokens", [1], "did you mean 'scale.cooldown.tokens'?"),
        ({"image_fractions": [0.1]}, "image_fractions", [0.1], "did you mean 'image_fraction'?"),
        ({"scale.repeats.primary": [1]}, "scale.repeats.primary", [1], "no such key; "),
        ({"scale.evaluation.text_items": [1]}, "scale.evaluation.text_items", [1], "no such key; "),
        ({"image_fraction": [0.1, 1.1]}, "image_fraction.1", 1.1, "(from 0 to 1)"),
        ({"encoder": ["patch", "pach"]}, "encoder.1", "pach", "did you mean 'patch'?"),
        ({"captions": ["fulll"]}, "captions.0", "fulll", "full, short, keywords"),
        ({"seed": [-1]}, "seed.0", -1, "greater than or equal to 0"),
        ({"seed": 7}, "seed", 7, "list"),
        ({"scale.cooldown.tokens": [5120, 0]}, "scale.cooldown.tokens.1", 0, "greater than or equal to 1"),
        ({"scale.cooldown.tokens": [5120.0]}, "scale.cooldown.tokens.0", 5120.0, "integer"),
        ({"scale.cooldown.peak_lr": [2]}, "scale.cooldown.peak_lr.0", 2, "(from 0 to 1)"),
        ({"scale.cooldown.tokens": [300]}, "scale.cooldown.tokens", 300, "at least one batch of 8 x 64 = 512"),
        (
            {"scale.text.batch": [4]},
            "",
            {"scale.text.batch": 4},
            "hardware.microbatch = 8, which must be at most text.batch = 4",
        ),
        ({"scale.model.sequence": [24]}, "scale.model.sequence", 24, "patches + 16 for text"),
        (
            {"scale.cooldown.peak_lr": [0.001, 0.002]},
            "scale.cooldown.peak_lr",
            0.001,
            SAME,
        ),
        ({"scale.hardware.memory_mb": [1]}, "scale.hardware.memory_mb", 1, SAME),
        ({"rewarm_like": [None, 20]}, "rewarm_like", 20, SAME),
        ({"branch_percent": [100], "cooldown_rate_factor": [0.5]}, "cooldown_rate_factor", 0.5, SAME),
        ({"image_fraction": [0.0], "instruction_share": [0.5]}, "instruction_share", 0.5, SAME),
        ({"scale.data.test_images": [10]}, "scale.data.test_images", 10, QUESTIONS),
        ({"scale.data.heldout_documents": [10]}, "scale.data.heldout_documents", 10, QUESTIONS),
        ({"scale.model.sequence": [128]}, "scale.model.sequence", 128, QUESTIONS),
        ({"image_fraction": [0.3, 0.3]}, "image_fraction.1", 0.3, "each value once"),
        ({"seed": [2**31]}, "seed.0", 2**31, "less than or equal to 2147483647"),
        ({"scale.cooldown.floor_lr": [0.003]}, "", {"scale.cooldown.floor_lr": 0.003}, "at most the rate 0.0"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_bad_key_or_value_is_one_line(project, vary, key, found, allowed):
    add(project, vary)
    line = complaint(project)
    place = f"experiments.mine.vary.{key}".removesuffix(".")
    assert line.startswith(f"{PARAMS}: {place}: found {found!r}, allowed: ")
    assert allowed in line


@pytest.mark.parametrize(
    ("name", "more", "line"),
    [
        ("mine", {"says": None}, "experiments.mine.says: missing; this key must be set: the title"),
        ("mine", {"says": ""}, "experiments.mine.says: found '', allowed: "),
        ("mine", {"repeats": 0}, "experiments.mine.repeats: found 0, allowed: "),
        (
            "mine",
            {"repeats": "primry"},
            "experiments.mine.repeats: found 'primry', allowed: 'primary' or 'other' (did you mean 'primary'?)",
        ),
        ("mine", {"evaluate": "modl"}, "experiments.mine.evaluate: found 'modl', allowed: "),
        (
            "mine",
            {"evalate": "model"},
            "experiments.mine.evalate: found 'model', allowed: no such key; did you mean 'evaluate'?",
        ),
        ("mine", {"vary": {}}, "experiments.mine.vary: found {}, allowed: "),
        ("../mine", {}, "experiments.../mine: found '../mine', allowed: a name of small letters"),
        ("mine", {"repeats": 600}, "experiments.mine: found '1,200 models', allowed: at most 1,000"),
        ("mine", {"vary": {"seed": [7, 8]}, "repeats": 2}, "experiments.mine.repeats: found 2, allowed: nothing, as"),
        (
            "timings",
            {"says": None},
            "experiments.timings.says: missing; this key must be set: the title of its table and figure; did you mean the experiment 'timing'?",
        ),
        ("table_lengths", {}, "experiments.table_lengths: found 'table_lengths', allowed: a name that no"),
        ("table1", {}, "experiments.table1: found 'table1', allowed: a name that no"),
        ("finetune", {}, "experiments.finetune: found 'finetune', allowed: a name that no"),
        ("loss", {}, "experiments.loss: found 'loss', allowed: a name that no"),
        ("captions", {}, "experiments.captions.says: found 'How long should the cooldown be?', allowed: nothing: "),
        (
            "captions",
            {"says": None},
            "experiments.captions.vary.scale.cooldown.tokens: found [5120, 10240], allowed: its table shows captions",
        ),
    ],
)
def test_a_bad_name_or_block_is_one_line(project, name, more, line):
    content = project.read(PARAMS)
    block = {key: value for key, value in ({"says": SAYS, "vary": LENGTHS} | more).items() if value is not None}
    content["experiments"][name] = block
    project.write(PARAMS, yaml.safe_dump(content, sort_keys=False))
    assert complaint(project).startswith(f"{PARAMS}: {line}")


def test_an_experiment_that_is_not_there_is_not_run(project):
    project.remove(PARAMS, "experiments.captions")
    assert project.study().runs("captions") == {}


# --- claims ---


def claim(project, plus: dict, minus: dict, *may_differ: str) -> None:
    project.write(CLAIMS, "{}")
    contrast = {"metric": "bits_per_byte", "plus": [plus], "minus": [minus]}
    whole = {"says": "x", "source": "a test", "family": "control", "may_differ": list(may_differ), "contrast": contrast}
    project.set(CLAIMS, "the_claim", whole)


def test_a_claim_names_a_presets_key_and_declares_it(project):
    add(project, LENGTHS)
    claim(project, {"scale.cooldown.tokens": 10240}, {"scale.cooldown.tokens": 5120}, "scale.cooldown.tokens")
    (resolved,) = claims.resolve(project.study())
    assert resolved["contrasts"][0]["plus"][0]["cell"] == "recipe"
    assert resolved["contrasts"][0]["minus"][0]["cell"] == "scale.cooldown.tokens=5120"
    project.set(CLAIMS, "the_claim.may_differ", ["image_fraction"])
    with pytest.raises(ConfigError, match=r"cooldown.optimisation.tokens is 10240 .* factor scale.cooldown.tokens"):
        claims.resolve(project.study())


@pytest.mark.parametrize(
    ("vary", "more"),
    [
        ({"scale.cooldown.weight_decay": [0.2]}, ()),
        ({"scale.text.peak_lr": [0.005]}, ("learning_rate",)),
        ({"scale.text.tokens": [25600]}, ("learning_rate",)),
        ({"scale.text.batch": [16]}, ("learning_rate",)),
        ({"scale.finetune.warmup_fraction": [0.5]}, ()),
        ({"scale.model.layers": [1]}, ()),
        ({"scale.model.vocabulary": [400]}, ()),
        ({"scale.data.captions": [100]}, ()),
        ({"scale.hardware.threads": [2]}, ()),
        ({"cooldown_rate_factor": [0.5]}, ()),
    ],
    ids=lambda value: next(iter(value), "alone"),
)
def test_the_lint_knows_what_a_key_changes(project, vary, more):
    add(project, vary)
    ((key, (value,)),) = vary.items()
    claim(project, {}, {key: value}, key, *more)
    study = project.study()
    assert study.cell({key: value}) in study.seeds_run and Cell(study.recipe) in study.seeds_run
    assert len(claims.resolve(study)) == 1
    project.set(CLAIMS, "the_claim.may_differ", ["blind"])
    with pytest.raises(ConfigError, match=r"the_claim\.may_differ"):
        claims.resolve(project.study())


@pytest.mark.parametrize(
    ("arm", "key", "allowed"),
    [
        ({"scale.cooldown.tokns": 1}, "scale.cooldown.tokns", "did you mean 'scale.cooldown.tokens'?"),
        ({"scale.cooldown.tokens": 0}, "scale.cooldown.tokens", "greater than or equal to 1"),
    ],
)
def test_a_claim_about_no_such_cell_is_one_line(project, arm, key, allowed):
    claim(project, {}, arm, "scale.cooldown.tokens")
    with pytest.raises(ConfigError) as caught:
        claims.resolve(project.study())
    assert (caught.value.file, caught.value.key) == (CLAIMS, f"the_claim: {key}")
    assert allowed in caught.value.allowed


def test_the_presets_file_is_named_where_it_is_at_fault(project):
    project.set(SCALE, "cooldown.floor_lr", 0.009)
    project.set(SCALE, "cooldown.peak_lr", 0.01)
    assert complaint(project).startswith(f"{SCALE}: cooldown.floor_lr: found 0.009, allowed: at most the rate")


# --- text runs ---


def text_seeds(study, name: str = "timing") -> dict[int, set[int]]:
    """The seeds of the text runs, or of first weights in their place, that an experiment's models of each seed descend from."""
    found: dict[int, set[int]] = {}
    for (_, seed), scores in study.runs(name).items():
        for job in lineage(scores):
            told = job.card_settings
            if job.phase == "pretrain" or "main_seed" in told:
                found.setdefault(seed, set()).add(told["seed"] if job.phase == "pretrain" else told["main_seed"])
    return found


def test_seeds_are_dealt_to_the_text_runs_that_a_preset_asks_for(project):
    before = keys(project.study())
    project.set(SCALE, "repeats", {"primary": 3, "other": 1, "text": 2})
    study = project.study()
    assert text_seeds(study) == {7: {124}, 8: {125}, 9: {124}}
    assert before < keys(study)  # the first seed has the text run that it had
    rows = {row["seed"]: row["text_seed"] for row in study.tables["table1"].settings.rows}
    assert rows == {7: 124, 8: 125, 9: 124}
    # The states of the first text run stand for all in the tables.
    states = study.tables["table1"].settings.text.values()
    assert sorted(state["percent"] for state in states) == [50, 80, 100]
    project.set(SCALE, "repeats", {"primary": 3, "other": 1})
    assert text_seeds(project.study()) == {7: {124}, 8: {124}, 9: {124}}


def test_the_seed_of_the_text_run_and_of_the_fine_tuning_may_be_varied(project):
    add(project, {"text_seed": [124, 125], "finetune_seed": [365]})
    study = project.study()
    first, second = (study.run(cell, 7) for cell in study.cells("mine"))
    assert first.parents["checkpoint"].card_settings["seed"] == 365
    assert {job.card_settings["seed"] for job in lineage(second) if job.phase == "pretrain"} == {125}
    assert {job.card_settings["seed"] for job in lineage(second) if job.phase == "cooldown"} == {7}
    project.set(SCALE, "repeats", {"primary": 2, "other": 2, "text": 2})
    allowed = r"vary.text_seed: found \[124, 125\], allowed: nothing: the preset deals the seeds to 2 text runs"
    with pytest.raises(ConfigError, match=allowed):
        project.study()
