"""What jobs ask of a cluster: nodes and GPUs for those that use them, and no more."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import SCALE

from pipeline.engines.resources import Share, share
from pipeline.engines.workflow import Workflow
from pipeline.settings.scale import PhaseMinutes
from pipeline.study.job import Job
from pipeline.study.phases import PHASES
from pipeline.training.job_settings import Imported

TRAINED = ("pretrain", "cooldown", "finetune")
PLACES = {"device": "gpu", "threads": 3, "nodes": 2, "devices": 4, "microbatch": 1, "memory_mb": 5000, "minutes": 90}


@pytest.fixture
def on_gpus(project):
    """A project whose training jobs take two nodes of four GPUs, those of the larger size one node of two."""
    project.set("params.yaml", "experiments.mine", {"says": "Two sizes", "vary": {"size": ["base", "larger"]}})
    for key, value in PLACES.items():
        project.set(SCALE, f"hardware.{key}", value)
    project.set(SCALE, "larger.hardware", {"nodes": 1, "devices": 2, "memory_mb": 7000})
    return project


def shares(project) -> dict[tuple[str, bool], set[Share]]:
    """What jobs take, by phase and whether they are of the larger size."""
    found: dict[tuple[str, bool], set[Share]] = {}
    for job in project.ledger().jobs:
        found.setdefault((job.phase, job.hardware.memory_mb == 7000), set()).add(share(job, readers=6))
    return found


def test_training_takes_all_nodes_and_evaluation_one(on_gpus):
    found = shares(on_gpus)
    for phase in TRAINED:
        assert found[phase, False] == {Share(threads=12, memory_mb=5000, minutes=90, nodes=2, gpus=8)}
        assert found[phase, True] == {Share(threads=6, memory_mb=7000, minutes=90, nodes=1, gpus=2)}
    assert found["evaluate", False] == {Share(threads=12, memory_mb=5000, minutes=90, nodes=1, gpus=4)}
    assert found["evaluate", True] == {Share(threads=6, memory_mb=7000, minutes=90, nodes=1, gpus=2)}
    assert found["tokenizer", False] == {Share(threads=1, memory_mb=1500, minutes=90)}
    assert found["shards", False] == {Share(threads=6, memory_mb=9000, minutes=90)}


@pytest.mark.parametrize(("processes", "gpus"), [(1, 1), (3, 3), (9, 4)])
def test_an_evaluation_takes_a_gpu_for_each_of_its_processes(on_gpus, processes, gpus):
    on_gpus.set(SCALE, "hardware.evaluation_processes", processes)
    (of_base,) = shares(on_gpus)["evaluate", False]
    assert (of_base.nodes, of_base.gpus, of_base.threads) == (1, gpus, 3 * processes)


def test_a_state_that_others_have_trained_takes_no_gpu(on_gpus):
    hardware = on_gpus.settings().scale.hardware
    job = Job("pretrain", "text-9", Imported.model_construct(), hardware=hardware)
    assert share(job, readers=6) == Share(threads=3, memory_mb=5000, minutes=90)


def test_without_gpus_none_is_asked_for(on_gpus):
    on_gpus.set(SCALE, "hardware.device", "cpu")
    found = shares(on_gpus)
    assert {each.gpus for of_phase in found.values() for each in of_phase} == {0}
    assert found["cooldown", False] == {Share(threads=12, memory_mb=5000, minutes=90, nodes=2)}
    assert found["evaluate", False] == {Share(threads=3, memory_mb=5000, minutes=90)}


def test_snakemake_asks_for_what_each_job_takes(on_gpus):
    workflow = Workflow(Path(on_gpus.root), {}, main=False)
    for job in on_gpus.ledger().jobs:
        if job.phase == "tables":
            continue
        wildcards, own = SimpleNamespace(id=job.id), share(job, readers=1)
        asked = {name: function(wildcards) for name, function in workflow.resources(job.phase).items()}
        assert workflow.threads(job.phase)(wildcards) == own.threads
        assert asked.pop("mem_mb") == own.memory_mb and asked.pop("runtime") == own.minutes
        assert asked in ({}, {"nodes": own.nodes, "gpu": own.gpus})
        assert bool(asked) == (job.phase in (*TRAINED, "evaluate"))


def test_a_phase_may_have_a_time_limit_of_its_own(on_gpus):
    on_gpus.set(SCALE, "hardware.minutes_of", {"cooldown": 30, "shards": 2000})
    found = {phase: {each.minutes for each in of_phase} for (phase, _), of_phase in shares(on_gpus).items()}
    assert found.pop("cooldown") == {30} and found.pop("shards") == {2000}
    assert all(minutes == {90} for minutes in found.values())


def test_every_phase_of_a_cluster_can_have_one():
    assert set(PhaseMinutes.model_fields) == set(PHASES) - {"tables"}  # those are made where Snakemake runs
