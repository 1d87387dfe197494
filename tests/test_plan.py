"""What a target will cost: jobs, tokens, FLOPs, hours; and the two figures that the paper prints."""

import json

import pytest
from conftest import SCALE, SHARDS, SOURCE
from typed import vision_task

from pipeline.__main__ import main
from pipeline.commands.costs import QUESTIONS, THROUGHPUT, Cost, memory
from pipeline.commands.plan import OverBudget, Plan
from pipeline.settings.errors import parse
from pipeline.settings.scale import Scale
from pipeline.settings.types import ModelSize
from pipeline.settings.yaml_file import load_yaml
from pipeline.study.job import lineage
from pipeline.study.phases import STAGES


@pytest.fixture
def priced(project):
    """A project with the rate of a machine."""
    project.set(SCALE, "expected.tflops", 1.0)
    project.set(SCALE, "expected.mfu", 0.5)
    return project


def test_everything_is_to_do_at_first_and_nothing_when_it_is_made(priced):
    plan = Plan(priced.ledger())
    assert plan.to_do == plan.jobs
    assert {job.phase for job in plan.jobs} == {phase for phases in STAGES.values() for phase in phases}
    priced.make()
    plan = Plan(priced.ledger())
    assert plan.to_do == []
    assert plan.spent(plan.jobs).seconds > 0
    plan.check(0.0)


def test_a_damaged_artifact_is_to_do_by_itself(priced):
    priced.make()
    job = next(job for job in priced.ledger().jobs if job.phase == "cooldown")
    priced.ledger().faults  # noqa: B018 - it is noted as whole
    priced.damage(f"{job.folder}/rows.csv")
    assert [j.key for j in Plan(priced.ledger()).to_do] == [job.key]


def test_only_what_a_changed_setting_reaches_is_to_do(priced):
    priced.make()
    priced.set("params.yaml", "recipe.finetune_epochs", 3)
    plan = Plan(priced.ledger())
    assert {job.phase for job in plan.to_do} == {"finetune", "evaluate", "tables"}
    assert "epochs: 2 -> 3" in str(plan)


@pytest.mark.parametrize("target", ["study", "table1", "all_report", "report", "results/table1.csv"])
def test_targets_that_need_everything(priced, target):
    ledger = priced.ledger()
    assert {job.key for job in Plan(ledger, target).jobs} == {job.key for job in ledger.jobs}


def test_a_stage_and_a_single_artifact_need_their_ancestors_alone(priced):
    ledger = priced.ledger()
    cooldown = next(job for job in ledger.jobs if job.phase == "cooldown")
    assert {j.key for j in Plan(ledger, cooldown.id).jobs} == {j.key for j in lineage(cooldown)}
    phases = {job.phase for job in Plan(ledger, "all_cooldown").jobs}
    assert phases >= {"cooldown", "pretrain", "shards"} and not phases & {"finetune", "evaluate", "tables"}


def test_an_unknown_target_is_refused(priced):
    with pytest.raises(ValueError, match=r"table77 is not in the study"):
        Plan(priced.ledger(), "table77")


def test_tokens_are_those_of_the_settings(priced):
    plan = Plan(priced.ledger())
    by_phase = {
        phase: plan.spent(j for j in plan.jobs if j.phase == phase).tokens for phase in ("pretrain", "cooldown")
    }
    assert by_phase["pretrain"] == 51200  # the text run once, however many branch points it leaves
    assert by_phase["cooldown"] == 10240 * sum(job.phase == "cooldown" for job in plan.jobs)


def test_fine_tuning_reckons_with_the_shards_that_are_there(priced):
    before = Plan(priced.ledger())
    priced.make("sources", "tokenizer", "shards")
    plan = Plan(priced.ledger())
    job = next(job for job in plan.jobs if job.phase == "finetune")
    steps = -(-SHARDS["sequences"] * 2 // 8)
    assert plan.costs[job.key].tokens == steps * 8 * 64 != before.costs[job.key].tokens
    assert plan.seen(job)["labels"] == pytest.approx(plan.costs[job.key].tokens * 320 / 640)


def test_fine_tuning_sees_whole_batches_of_its_passes(priced):
    ledger = priced.ledger()
    job = next(job for job in ledger.jobs if job.phase == "finetune")
    expected = ledger.study.settings.scale.expected.pass_tokens // 64
    steps = -(-expected * 2 // 8)
    assert Plan(ledger).costs[job.key].tokens == steps * 8 * 64


def test_questions_are_those_of_the_scenes_or_as_many_as_a_task_asks(priced):
    plan = Plan(priced.ledger())
    (some, *_) = [job.settings for job in plan.jobs if job.phase == "evaluate" and job.settings.vision]
    tasks = {"all": vision_task(), "few": vision_task(items=3), "many": vision_task(items=50_000)}
    settings = some.model_copy(update={"vision": tasks})
    images = plan.scale.data.test_images
    assert plan.questions(settings) == 2 * images + 3
    plan.scale = plan.scale.model_copy(update={"data": None})
    assert plan.questions(settings) == QUESTIONS + 3 + 50_000


def test_a_blind_model_costs_less_than_one_that_sees(priced):
    plan = Plan(priced.ledger())
    jobs = [job for job in plan.jobs if job.phase == "finetune"]
    blind = [plan.costs[job.key].flops for job in jobs if job.card_settings["blind"]]
    seeing = [plan.costs[job.key].flops for job in jobs if not job.card_settings["blind"]]
    assert blind and max(blind) < min(seeing)


def test_hours_are_operations_over_the_expected_rate(priced):
    plan = Plan(priced.ledger())
    for job in plan.jobs:
        if job.phase in ("pretrain", "cooldown", "finetune"):
            cost = plan.costs[job.key]
            assert cost.seconds == pytest.approx(cost.flops / 0.5e12)


def test_a_measured_rate_is_preferred(priced):
    rates = {"pretrain": {"flops_per_second": 2e9}, "evaluate": {"seconds": 7.0}, "tables": {"seconds": 3.0}}
    (priced.root / THROUGHPUT).parent.mkdir(parents=True)
    (priced.root / THROUGHPUT).write_text(json.dumps({"presets": {"small": rates}}))
    plan = Plan(priced.ledger())
    for job in plan.jobs:
        cost = plan.costs[job.key]
        if job.phase == "pretrain":
            assert cost.seconds == pytest.approx(cost.flops / 2e9)
        if job.phase in ("evaluate", "tables"):
            assert cost.seconds == rates[job.phase]["seconds"]
    assert "measured" in str(plan)


def test_the_longest_chain_is_a_chain_and_no_other_is_longer(priced):
    plan = Plan(priced.ledger())
    seconds, chain = plan.longest_chain
    assert seconds == pytest.approx(plan.spent(chain).seconds)
    for earlier, later in zip(chain, chain[1:]):
        assert earlier in plan.ledger.inputs(later)
    for job in plan.jobs:
        if job.phase == "evaluate":
            assert plan.spent([job, job.parents["checkpoint"]]).seconds <= seconds


def test_a_chain_is_shorter_where_training_jobs_have_more_devices(priced):
    priced.set(SCALE, "hardware.microbatch", 1)
    one, chain = Plan(priced.ledger()).longest_chain
    priced.set(SCALE, "hardware.devices", 2)
    plan = Plan(priced.ledger())
    training = sum(plan.costs[job.key].seconds for job in chain if job.phase in ("pretrain", "cooldown", "finetune"))
    assert plan.longest_chain[0] == pytest.approx(one - training / 2)
    assert "with 2 devices a training job" in str(plan)


def test_sharing_saves_what_models_have_in_common(priced):
    plan = Plan(priced.ledger())
    ends = {job.parents["checkpoint"].key: job for job in plan.jobs if job.phase == "evaluate"}
    trained = ("pretrain", "cooldown", "finetune")
    by_hand = sum(
        plan.costs[j.key].seconds
        for job in ends.values()
        if job.parents["checkpoint"].phase == "finetune"
        for j in lineage(job)
        if j.phase in trained
    )
    assert plan.alone == pytest.approx(by_hand)
    assert plan.shared == pytest.approx(sum(plan.costs[j.key].seconds for j in plan.jobs if j.phase in trained))
    assert plan.alone > plan.shared


def test_a_budget_refuses_and_starts_nothing(priced, monkeypatch, capsys):
    plan = Plan(priced.ledger())
    hours = plan.spent(plan.to_do).seconds / 3600
    plan.check(None)
    plan.check(hours * 1.01)
    with pytest.raises(OverBudget, match="device-hours to do"):
        plan.check(hours * 0.99)
    monkeypatch.chdir(priced.root)
    assert main(["plan", "study", "--budget", str(hours * 2)]) == 0
    assert main(["plan", "study", "--budget", str(hours / 2)]) == 3
    assert "allowed; nothing was started" in capsys.readouterr().err
    assert main(["plan", "table77"]) == 2


def looks(root):
    """Size and date of every file, but of the memory of which finished files were found whole."""
    files = [file for file in root.rglob("*") if not file.is_dir() and not file.is_relative_to(root / ".study/seen")]
    return {file: (file.lstat().st_size, file.lstat().st_mtime_ns) for file in files}


def test_a_preview_is_the_plan_of_the_edited_file_and_writes_nothing(priced, monkeypatch, capsys):
    priced.make()
    monkeypatch.chdir(priced.root)
    before = looks(priced.root)
    words = ["recipe.finetune_epochs=3", "experiments.timing.vary.branch_percent=[0, 80]"]
    assert main(["plan", *words]) == 0
    shown = capsys.readouterr().out
    assert looks(priced.root) == before
    priced.set("params.yaml", "recipe.finetune_epochs", 3)
    priced.set("params.yaml", "experiments.timing.vary.branch_percent", [0, 80])
    edited = priced.ledger()
    head, told, *lines = shown.splitlines()
    assert head == f"preview: params.yaml with {' '.join(words)}; no file is changed"
    assert shown.endswith(f"\n\n{Plan(edited)}\n")
    new = [job for job in edited.jobs if not edited.is_current(job)]  # all of params.yaml's own were made
    assert told == f"{len(new)} of its jobs are not in the study of params.yaml:"
    assert {line.split(":")[0].strip() for line in lines[: lines.index("")]} == {job.phase for job in new}


def test_a_preview_of_todays_values_has_nothing_new(priced, monkeypatch, capsys):
    monkeypatch.chdir(priced.root)
    assert main(["plan", "table1", "recipe.seed=7", "--budget", "1000"]) == 0
    assert "0 of its jobs are not in the study of params.yaml\n\nphase" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("recipe.image_fraction=10", "command line: recipe.image_fraction: found 10, allowed: less than or equal to 1"),
        ("preset.name=small", "command line: preset: found {'name': 'small'}, allowed: string"),
        ("preset=nano", "command line: preset: found 'nano', allowed: a file of configs/scale/: small"),
        ("recipe.seed=[1", "command line: recipe.seed: found 'while parsing a flow sequence"),
        ("recipe={seed: 1, seed: 2}", "command line: recipe: found 'while constructing a mapping"),
        (
            "recipe.seed=7; recipe={finetune_epochs: 2}",
            "command line: recipe: found '{finetune_epochs: 2}', allowed: each key",
        ),
        ("recipe.seed=[&a [*a]]", "command line: recipe.seed: found 'more than 100,000 values, aliases"),
        ("seed=8", "command line: seed: found 8, allowed: no such key; "),
        ("recipe.=8", "command line: (override): found 'recipe.=8', allowed: KEY=VALUE"),
        ("experiments.size.vary.size=[huge]", "command line: experiments.size.vary.size.0: found 'huge', allowed: "),
    ],
)
def test_a_preview_is_checked_as_the_file_is(priced, monkeypatch, capsys, words, line):
    monkeypatch.chdir(priced.root)
    with pytest.raises(SystemExit) as stopped:
        main(["plan", *words.split("; ")])
    assert stopped.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(line)


def test_a_fault_of_the_file_itself_is_the_files_in_a_preview_too(priced, monkeypatch, capsys):
    priced.set("params.yaml", "recipe.seed", "seven")
    monkeypatch.chdir(priced.root)
    with pytest.raises(SystemExit):
        main(["plan", "recipe.image_fraction=0.3"])
    assert capsys.readouterr().err.startswith("params.yaml: recipe.seed: found 'seven'")


def test_the_printed_plan_has_a_line_a_phase_and_its_remarks(priced):
    text = str(Plan(priced.ledger()))
    for word in ("pretrain", "cooldown", "device-hours", "longest chain", "sharing", "memory", "disk", "rates", "why"):
        assert word in text
    assert "50% MFU, as the preset expects; nothing was measured" in text


def test_memory_holds_weights_gradients_and_moments():
    size = ModelSize(vocabulary=300, layers=2, heads=2, width=64, sequence=128)
    small = memory(size, 1, 1_000_000)
    assert small > 16_000_000
    assert memory(size, 2, 1_000_000) - small == small - 16_000_000


def test_sharding_shares_the_state_and_recomputation_keeps_little_more_than_inputs():
    size = ModelSize(vocabulary=300, layers=10, heads=2, width=64, sequence=128)
    alone = memory(size, 1, 1_000_000)
    assert alone - memory(size, 1, 1_000_000, shares=4) == 12_000_000
    kept = 128 * 64 * 10 * 36 * 2
    assert alone - memory(size, 1, 1_000_000, recomputed=True) == kept - kept // 10 - 128 * 64 * 10 * 4


def test_costs_add_up():
    assert Cost(1, 2.0, 3.0, 4) + Cost(10, 20.0, 30.0, 40) == Cost(11, 22.0, 33.0, 44)


@pytest.mark.parametrize(("preset", "a100_hours"), [("79m", 1_200), ("1b", 106_000)])
def test_the_papers_hours_follow_from_the_mfu_that_they_imply(project, preset, a100_hours):
    """The presets state that share of an A100's peak; the arithmetic must give the printed hours within 5%."""
    file = f"configs/scale/{preset}.yaml"
    scale = parse(Scale, load_yaml(SOURCE / file, SOURCE), file)
    ledger = project.ledger()
    settings = ledger.study.settings
    sizes = {"model": scale.model, "text": scale.text, "expected": scale.expected}
    ledger.study.settings = settings.model_copy(update={"scale": settings.scale.model_copy(update=sizes)})
    plan = Plan(type(ledger)(type(ledger.study)(ledger.study.settings), project.root))
    text = plan.spent(job for job in plan.jobs if job.phase == "pretrain")
    assert text.tokens == pytest.approx(scale.text.tokens, rel=1e-6)
    assert text.seconds / 3600 == pytest.approx(a100_hours, rel=0.05)
