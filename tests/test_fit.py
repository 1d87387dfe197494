"""What fits a device: hardware of the larger size, and a plan that refuses what needs more memory than there is."""

import re

import pytest
from conftest import SCALE, complaint

from pipeline.__main__ import main
from pipeline.commands.fit import TooLarge
from pipeline.commands.plan import Plan, devices
from pipeline.common.files import read_json

TRAINED = ("pretrain", "cooldown", "finetune")


@pytest.fixture
def two_sizes(project):
    """A project that trains both sizes, on two devices."""
    project.set("params.yaml", "experiments.mine", {"says": "Two sizes", "vary": {"size": ["base", "larger"]}})
    project.set(SCALE, "hardware.microbatch", 4)
    project.set(SCALE, "hardware.devices", 2)
    return project


def larger(project) -> set[tuple[str, str]]:
    """The training jobs of the larger size."""
    layers = project.read(SCALE)["larger"]["layers"]
    jobs = [job for job in project.ledger().jobs if job.phase in TRAINED]
    return {job.key for job in jobs if job.settings.model.layers == layers}


def contexts(project) -> dict[tuple[str, str], dict]:
    """What the job files say of where the training jobs run."""
    ledger = project.ledger()
    ledger.write_jobs()
    return {job.key: read_json(ledger.job_file(job))["context"] for job in ledger.jobs if job.phase in TRAINED}


def test_where_the_larger_size_runs_is_its_own_and_changes_no_card(two_sizes):
    ids, of_larger, before = {job.key for job in two_sizes.ledger().jobs}, larger(two_sizes), contexts(two_sizes)
    assert of_larger and of_larger < before.keys()
    own = {"nodes": 2, "devices": 1, "sharding": "fsdp", "checkpoint_activations": True, "save_steps": 7}
    two_sizes.set(SCALE, "larger.hardware", own)
    assert {job.key for job in two_sizes.ledger().jobs} == ids
    for key, context in contexts(two_sizes).items():
        assert context == before[key] | (own if key in of_larger else {})


def test_the_microbatch_of_the_larger_size_is_in_its_cards_alone(two_sizes):
    ids, of_larger = {job.key for job in two_sizes.ledger().jobs}, larger(two_sizes)
    two_sizes.set(SCALE, "larger.hardware", {"microbatch": 2})
    assert not larger(two_sizes) & of_larger
    for job in two_sizes.ledger().jobs:
        if job.phase in TRAINED:
            is_larger = job.key in larger(two_sizes)
            assert job.card_settings["hardware"]["microbatch"] == (2 if is_larger else 4)
            assert is_larger or job.key in ids


def test_hardware_of_the_larger_size_fits_the_batches(two_sizes):
    two_sizes.set(SCALE, "larger.hardware", {"devices": 4})
    line = f"{SCALE}: larger.hardware.microbatch: found 4, allowed: at most text.batch = 8, shared by 4 devices"
    assert complaint(two_sizes) == line
    two_sizes.set(SCALE, "larger.hardware", {"microbatch": 2, "devices": 4})
    two_sizes.settings()


def refusal(project) -> str:
    """The line that the plan of what is to do is refused with."""
    with pytest.raises(TooLarge) as caught:
        Plan(project.ledger()).check(None)
    return str(caught.value)


@pytest.mark.parametrize("room", [0.9, 0.5])
def test_what_fits_no_device_is_refused_and_every_proposed_key_makes_it_fit(two_sizes, monkeypatch, capsys, room):
    """Where the preset says no memory, nothing is refused: there may be no GPU."""
    plan = Plan(two_sizes.ledger())
    plan.check(None)
    most = plan.trained[0]
    assert most.section == "larger.hardware" and most.job.key in larger(two_sizes)
    two_sizes.set(SCALE, "hardware.device_memory_gb", room * most.bytes / 1e9)
    line = refusal(two_sizes)
    assert line.startswith(f"{most.job.phase} {most.job.id}: about ")
    monkeypatch.chdir(two_sizes.root)
    assert main(["plan"]) == 3
    assert line in capsys.readouterr().err
    ways = line.split("it would fit with ")[1].split(" or ")
    assert ways and all(way.startswith("larger.hardware.") for way in ways)
    for way in ways:
        keys = dict(re.findall(r"larger\.hardware\.(\w+): (\w+)", way))
        values = {key: {"true": True, "fsdp": "fsdp"}.get(value) or int(value) for key, value in keys.items()}
        two_sizes.set(SCALE, "larger.hardware", values)
        left = Plan(two_sizes.ledger()).trained
        assert all(t.fits() for t in left if t.job.key in larger(two_sizes))


def test_what_is_done_already_is_not_refused(two_sizes):
    two_sizes.set(SCALE, "hardware.device_memory_gb", 1e-6)
    assert "makes it fit: take devices with more memory, or a smaller model" in refusal(two_sizes)
    two_sizes.make()
    Plan(two_sizes.ledger()).check(None)


def test_a_training_job_is_shared_by_the_devices_of_its_size(two_sizes):
    two_sizes.set(SCALE, "larger.hardware", {"nodes": 2, "microbatch": 2})
    of_larger = larger(two_sizes)
    for job in two_sizes.ledger().jobs:
        assert devices(job) == (4 if job.key in of_larger else 2 if job.phase in TRAINED else 1)
