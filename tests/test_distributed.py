"""Training on two ranks (CPU, gloo): the same sequences, losses and weights as on one, states that any number of ranks can go on from."""

import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest
import test_training
import torch
from conftest import SOURCE
from faults.holding import command, held_below, holding, is_gone, is_told, wait
from safetensors.torch import load_file, save_file
from test_training import (
    BATCH,
    BRANCH_STEP,
    COOLDOWN_STEPS,
    HARDWARE,
    MODEL,
    TEXT_STEPS,
    Bench,
    Convolution,
    FakeJob,
    Killed,
    Steps,
    losses,
    state_files,
)

from pipeline.common.files import read_json, stable_json
from pipeline.execution.processes import STOPPED
from pipeline.model import vision
from pipeline.model.decoder import Block
from pipeline.training import composer, train
from pipeline.training.batches import OrderedDataset
from pipeline.training.health import PATIENCE
from pipeline.training.state import find_resumable

RANKS = 2
data = test_training.data  # the fixture
SHARDINGS = ("ddp", "fsdp")


def carry_out(job: FakeJob, out: Path) -> tuple[list[list[bytes]] | None, dict | None]:
    """One rank's part: the sequences that it read, step by step, and the summary; None of a job that was killed."""
    read: list[bytes] = []
    given = OrderedDataset.__iter__

    def noted(dataset):
        for sample in given(dataset):
            read.append(sample["tokens"].tobytes())
            yield sample

    OrderedDataset.__iter__ = noted
    try:
        summary = train.run(job, out)
    except Killed:
        return None, None
    finally:
        OrderedDataset.__iter__ = given
    share = BATCH // int(os.environ.get("WORLD_SIZE", 1))
    return [read[start : start + share] for start in range(0, len(read), share)], summary


def be_rank(rank: int, port: int, jobs: Connection) -> None:
    """A rank's process: carries out what it is sent, one job after the other, until it is ended."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": RANKS, "LOCAL_WORLD_SIZE": RANKS, "NODE_RANK": 0}
    os.environ |= {name: str(value) for name, value in places.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    vision.build_encoder = lambda encoder, trained=False: Convolution().requires_grad_(trained)
    torch.compile = compile_to_graph
    while True:
        sent = jobs.recv()
        try:
            jobs.send(carry_out(*sent))
        except Exception as error:
            jobs.send(error)


class Ranks:
    """Two processes that carry out jobs together."""

    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        self.ends, self.processes = [], []
        for rank in range(RANKS):
            mine, its = context.Pipe()
            self.ends.append(mine)
            self.processes.append(context.Process(target=be_rank, args=(rank, port, its), daemon=True))
            self.processes[-1].start()

    def run(self, job: FakeJob, out: Path) -> tuple[list[list[bytes]] | None, dict | None]:
        """The sequences of each step, and the summary, which is every rank's."""
        for end in self.ends:
            end.send((job, out))
        replies = [end.recv() for end in self.ends]
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        (first, summary), (second, other) = replies
        assert summary == other
        return first and [ours + theirs for ours, theirs in zip(first, second, strict=True)], summary

    def close(self) -> None:
        for process in self.processes:
            process.kill()  # at once: a trainer that is told to stop takes its time
            process.join()


@pytest.fixture(scope="module")
def ranks():
    made = Ranks()
    yield made
    made.close()


class Pair(Bench):
    """Carries out jobs alone, in this process, or together, on two ranks."""

    def __init__(self, folder: Path, data: dict[str, Path], ranks: Ranks):
        super().__init__(folder, data)
        self.ranks = ranks
        self.sequences: dict[Path, list[list[bytes]]] = {}

    def new_out(self) -> Path:
        self.count += 1
        out = self.folder / f"out{self.count}"
        out.mkdir()
        return out

    def alone(self, job: FakeJob) -> tuple[Path, dict | None]:
        out = self.new_out()
        self.sequences[out], summary = carry_out(job, out)
        return out, summary

    def together(self, job: FakeJob, sharding: str) -> tuple[Path, dict | None]:
        out = self.new_out()
        self.sequences[out], summary = self.ranks.run(replace(job, context=job.context | {"sharding": sharding}), out)
        return out, summary


@pytest.fixture(scope="module")
def pair(tmp_path_factory, data, ranks) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"), data, ranks)


@pytest.fixture
def convolution(monkeypatch) -> None:
    """The ranks' encoder, here too."""
    monkeypatch.setattr(vision, "build_encoder", lambda encoder, trained=False: Convolution().requires_grad_(trained))


def assert_same_run(one: tuple[Path, dict], other: tuple[Path, dict], tolerance: float = 2e-5) -> None:
    """Equal but for rounding: every loss, weight and moment; and exactly: steps, rates, what was seen, the summary."""
    (folder, summary), (second, other_summary) = one, other
    assert summary == other_summary
    assert (folder / "state.json").read_bytes() == (second / "state.json").read_bytes()
    for row, its in zip(losses(folder), losses(second), strict=True):
        assert row == pytest.approx(its, abs=tolerance)
    for kind in ("model", "optimizer"):
        tensors, others = load_file(folder / f"{kind}.safetensors"), load_file(second / f"{kind}.safetensors")
        assert set(tensors) == set(others)
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, others[name], atol=tolerance, rtol=1e-3, msg=name)


@pytest.fixture(scope="module")
def text(pair) -> tuple[Path, dict]:
    """The whole text run, alone."""
    return pair.alone(pair.text())


@pytest.fixture(scope="module")
def parent(pair) -> Path:
    """The text run's state at the branch point, alone."""
    return pair.alone(pair.text(stop=BRANCH_STEP))[0]


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_text_is_the_same_run(pair, text, sharding):
    both = pair.together(pair.text(), sharding)
    assert_same_run(text, both)
    assert pair.sequences[both[0]] == pair.sequences[text[0]]
    assert len(pair.sequences[both[0]]) == TEXT_STEPS
    assert set(state_files(both[0])) == {"model.safetensors", "optimizer.safetensors", "state.json", "losses.csv"}


@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize(("images", "microbatch"), [(0.1, 2), (0.25, 1)])
def test_a_mixture_is_the_same_run_with_images_on_some_ranks_or_none(pair, parent, sharding, images, microbatch):
    hardware = HARDWARE | {"microbatch": microbatch}
    one = pair.alone(pair.cooldown(parent, images))
    both = pair.together(pair.cooldown(parent, images, hardware=hardware), sharding)
    assert_same_run(one, both)
    assert pair.sequences[both[0]] == pair.sequences[one[0]]
    steps = load_file(both[0] / "optimizer.safetensors")["projector.first.weight.step"]
    assert steps == (2 if images == 0.1 else COOLDOWN_STEPS)  # an update without images is none of the projector's


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_fine_tuning_is_the_same_run(pair, parent, sharding):
    assert_same_run(pair.alone(pair.finetune(parent)), pair.together(pair.finetune(parent), sharding))


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_blind_fine_tuning_leaves_the_projector_alone(pair, parent, sharding):
    cooled, _ = pair.alone(pair.cooldown(parent))
    one, both = pair.alone(pair.finetune(cooled, blind=True)), pair.together(pair.finetune(cooled, True), sharding)
    assert_same_run(one, both)
    before, after = (load_file(folder / "model.safetensors") for folder in (cooled, both[0]))
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("projector."))


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_an_encoder_is_trained_the_same(pair, parent, convolution, sharding):
    job = {"train_encoder": True, "hardware": HARDWARE | {"microbatch": 1}}
    one = pair.alone(pair.cooldown(parent, 0.1, **job))
    assert_same_run(one, pair.together(pair.cooldown(parent, 0.1, **job), sharding))


def test_an_encoder_that_runs_with_the_model_gives_the_same_run(pair, parent, convolution):
    def job() -> FakeJob:
        made = pair.cooldown(parent, 0.1, hardware=HARDWARE | {"microbatch": 1})
        del made.inputs["features"]
        return made

    assert_same_run(pair.alone(job()), pair.together(job(), "fsdp"))


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_a_rank_without_labels_takes_part(pair, parent, sharding):
    """The mean is over all labels of a step, wherever they are: half of these sequences have none."""
    samples, *_ = test_training.packed_samples(10, 0)
    folder = pair.new_out()
    for sample in samples[::2]:
        sample["loss"][:] = 0
    test_training.write_shards(folder / "captions", test_training.PACKED_COLUMNS, samples)

    def job() -> FakeJob:
        made = pair.cooldown(parent, 1.0, hardware=HARDWARE | {"microbatch": 1})
        made.inputs["captions"] = folder / "captions"
        return made

    both = pair.together(job(), sharding)
    assert_same_run(pair.alone(job()), both)
    without = {sample["tokens"].tobytes() for sample in samples[::2]}
    shares = [half for step in pair.sequences[both[0]] for half in (step[:2], step[2:])]
    assert any(without.issuperset(share) for share in shares)


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_all_ranks_together_watch_the_projector(pair, parent, sharding):
    """Long enough to be looked at: alive it trains to its end, and with dead units on every rank it is stopped."""
    epochs = {"epochs": (PATIENCE + 5) * BATCH // 10}
    alive, _ = pair.together(pair.finetune(parent, **epochs), sharding)
    dead = pair.new_out()
    weights = load_file(alive / "model.safetensors")
    weights["projector.first.bias"].fill_(-1e4)
    save_file(weights, dead / "model.safetensors")
    with pytest.raises(RuntimeError, match=f"output has not varied .* at step {PATIENCE}:"):
        pair.together(pair.finetune(dead, **epochs), sharding)


# Going on with another number of ranks


def killed_at(step: int, job: FakeJob) -> FakeJob:
    return replace(job, progress=Steps(kill_at=step))


def test_a_sharded_state_is_in_parts(pair):
    job = pair.text()
    assert pair.together(killed_at(7, job), "fsdp")[1] is None
    names = {file.name for file in find_resumable(job.resume).iterdir()}
    parts = {f"{kind}-0000{n}-of-00002.safetensors" for kind in ("model", "optimizer") for n in (1, 2)}
    assert names == {"state.json", "losses.csv", *parts}
    first, second = (load_file(find_resumable(job.resume) / name) for name in sorted(parts)[:2])
    embedding = "decoder.embedding.weight"
    assert len(first[embedding]) + len(second[embedding]) == MODEL["vocabulary"]


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_a_killed_run_of_two_ranks_gives_the_same_bytes(pair, sharding):
    straight, _ = pair.together(pair.text(), sharding)
    job = pair.text()
    pair.together(killed_at(7, job), sharding)
    out, _ = pair.together(job, sharding)
    assert state_files(out) == state_files(straight)
    assert len(pair.sequences[out]) == TEXT_STEPS - 6  # the last state was saved after 6 updates


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_one_rank_goes_on_where_two_were(pair, parent, sharding):
    straight, job = pair.alone(pair.cooldown(parent)), pair.cooldown(parent)
    pair.together(killed_at(3, job), sharding)
    resumed = pair.alone(job)
    assert_same_run(straight, resumed)
    assert pair.sequences[resumed[0]] == pair.sequences[straight[0]][2:]


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_two_ranks_go_on_where_one_was(pair, parent, sharding):
    straight, job = pair.alone(pair.cooldown(parent)), pair.cooldown(parent)
    assert pair.alone(killed_at(3, job))[1] is None
    resumed = pair.together(job, sharding)
    assert_same_run(straight, resumed)
    assert pair.sequences[resumed[0]] == pair.sequences[straight[0]][2:]


def test_ranks_may_be_sharded_where_they_were_not(pair, text):
    job = pair.text()
    pair.together(killed_at(5, job), "fsdp")
    assert pair.together(killed_at(9, job), "ddp")[1] is None
    assert_same_run(text, pair.together(job, "fsdp"))


def test_a_state_that_lacks_a_part_is_refused_by_name(pair):
    job = pair.text()
    pair.together(killed_at(7, job), "fsdp")
    (find_resumable(job.resume) / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"last/model\.safetensors: missing, or not all of its parts"):
        pair.alone(job)


def test_a_branch_from_a_sharded_run_is_the_same_branch(pair, parent):
    sharded, _ = pair.together(pair.text(stop=BRANCH_STEP), "fsdp")
    one = pair.alone(pair.cooldown(parent))
    assert_same_run(one, pair.together(pair.cooldown(sharded), "fsdp"))
    assert_same_run(one, pair.alone(pair.cooldown(sharded)))


# Precision, recomputed activations, compilation


def test_matrix_products_in_bfloat16_leave_loss_and_weights_in_fp32(pair, text, monkeypatch):
    dtypes = set()
    given = composer.label_loss

    def noted(logits, *rest):
        dtypes.add((logits.dtype, given(logits, *rest).dtype))
        return given(logits, *rest)

    monkeypatch.setattr(composer, "label_loss", noted)
    half = HARDWARE | {"precision": "bf16"}
    one = pair.alone(pair.text(hardware=half))
    assert dtypes == {(torch.float32, torch.float32)}
    assert {tensor.dtype for tensor in load_file(one[0] / "model.safetensors").values()} == {torch.float32}
    ddp, fsdp = (pair.together(pair.text(hardware=half), sharding) for sharding in SHARDINGS)
    # A sharded model rounds where one that is not does, and nowhere else; but the clipping norm is summed in another order,
    # and what differs in fp32's last bit may be rounded to two neighbours in bfloat16.
    assert_same_run(ddp, fsdp, tolerance=5e-4)
    for other, least, most in ((text, 1e-4, 0.03), (ddp, 0, 0.01)):
        rows = zip(losses(one[0]), losses(other[0]), strict=True)
        assert least <= max(abs(row["loss"] - its["loss"]) for row, its in rows) < most


def test_recomputed_activations_change_no_bit(pair, parent, monkeypatch):
    plain, _ = pair.alone(pair.cooldown(parent))
    calls = []
    given = Block.forward
    monkeypatch.setattr(Block, "forward", lambda self, *rest: calls.append(self) or given(self, *rest))
    job = pair.cooldown(parent)
    job.context["checkpoint_activations"] = True
    assert state_files(pair.alone(job)[0]) == state_files(plain)
    assert len(calls) == 2 * COOLDOWN_STEPS * MODEL["layers"]


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_recomputed_activations_change_no_bit_of_two_ranks(pair, parent, sharding):
    plain, _ = pair.together(pair.cooldown(parent), sharding)
    job = pair.cooldown(parent)
    job.context["checkpoint_activations"] = True
    assert state_files(pair.together(job, sharding)[0]) == state_files(plain)


COMPILED = HARDWARE | {"compile": True}
# Traced, differentiated and run as one graph, but without the C++ that takes minutes to compile.
compile_to_graph = partial(torch.compile, backend="aot_eager", fullgraph=True)


@pytest.mark.nightly
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_compiled_blocks_give_the_same_run(pair, parent, monkeypatch, sharding):
    plain = pair.alone(pair.cooldown(parent))
    monkeypatch.setattr(torch, "compile", compile_to_graph)
    job = pair.cooldown(parent, hardware=COMPILED)
    job.context["checkpoint_activations"] = True
    assert_same_run(plain, pair.together(job, sharding))


@pytest.mark.nightly
def test_compiled_blocks_give_the_same_run_of_one_process(pair, parent, monkeypatch):
    plain = pair.alone(pair.cooldown(parent))
    monkeypatch.setattr(torch, "compile", compile_to_graph)
    assert_same_run(plain, pair.alone(pair.cooldown(parent, hardware=COMPILED)))


@pytest.mark.end_to_end
@pytest.mark.nightly
def test_blocks_compiled_to_machine_code_give_the_same_run(pair, parent):
    assert_same_run(pair.alone(pair.cooldown(parent)), pair.alone(pair.cooldown(parent, hardware=COMPILED)))


# The command


TRAIN = [sys.executable, "-m", "pipeline", "run", "job.json", "--log", "logs/text.log"]
STEPS = 150


def make_project(folder: Path, text: Path) -> Path:
    """A folder with the job file of a text run on two ranks of one node, and the package."""
    folder.mkdir(exist_ok=True)
    (folder / "pipeline").symlink_to(SOURCE / "pipeline")
    tokens = STEPS * BATCH * MODEL["sequence"]
    settings = {
        "model": MODEL,
        "optimisation": test_training.optimisation(tokens=tokens, warmup_steps=3),
        "seed": 124,
        "hardware": HARDWARE,
        "stop": STEPS,
    }
    context = {"wandb": "disabled", "save_steps": 10, "nodes": 1, "devices": 2, "jobs_a_device": 1}
    write_job(
        folder,
        card={"phase": "pretrain", "id": "text", "settings": settings, "code": {}, "parents": {}},
        folder="artifacts/pretrain/text",
        published=None,
        inputs={"text": str(text)},
        continues=None,
        position="1/1",
        context=context | {"sharding": "fsdp", "checkpoint_activations": False},
    )
    return folder


@pytest.fixture
def project(tmp_path, data) -> Path:
    return make_project(tmp_path, data["text"])


@pytest.fixture(scope="module")
def straight(tmp_path_factory, data) -> dict[str, bytes]:
    """What the job leaves if nothing comes between."""
    project = make_project(tmp_path_factory.mktemp("straight"), data["text"])
    job = begin(project)
    _, screen = job.communicate()
    assert job.returncode == 0, screen
    assert screen.splitlines()[-1].startswith("[1/1] pretrain text  done in ")
    assert read_json(project / "artifacts/pretrain/text/measured.json")["steps"] == STEPS
    return trained(project)


def write_job(project: Path, **changes) -> None:
    file = project / "job.json"
    job = read_json(file) if file.exists() else {}
    job |= changes | {"context": job.get("context", {}) | changes.get("context", {})}
    file.write_text(stable_json(job))


def begin(project: Path, **environment: str) -> subprocess.Popen:
    nowhere = {"NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID", "SLURM_STEP_NUM_NODES"}
    given = {name: value for name, value in os.environ.items() if name not in nowhere}
    return subprocess.Popen(TRAIN, cwd=project, env=given | environment, stderr=subprocess.PIPE, text=True)


def trained(project: Path) -> dict[str, bytes]:
    """The files of the artifact, without the card, which is the job's."""
    files = state_files(project / "artifacts/pretrain/text")
    return {name: files[name] for name in ("model.safetensors", "optimizer.safetensors", "state.json", "losses.csv")}


def below(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.end_to_end
@pytest.mark.nightly
def test_a_killed_job_takes_its_ranks_along_and_goes_on_to_the_same_bytes(project, straight):
    job = begin(project, **holding(project))
    saved = held_below(job)
    ranks = [process for process in below(job) if "rank" in command(process)]
    assert len(ranks) >= RANKS
    job.kill()
    job.wait()
    saved.resume()
    wait(lambda: all(map(is_gone, ranks)))
    assert not (project / "artifacts").exists()

    assert begin(project).wait() == 0
    assert (project / "logs/text.log").read_text().count("continuing after step") == 1  # only rank 0 is heard
    assert trained(project) == straight


@pytest.mark.end_to_end
@pytest.mark.nightly
def test_ranks_stop_together_after_an_update_while_others_on_the_machine_go_on(tmp_path, data, straight):
    first, second = (make_project(tmp_path / name, data["text"]) for name in ("first", "second"))
    jobs = [begin(first, **holding(first)), begin(second)]
    saved = held_below(jobs[0])
    jobs[0].terminate()
    wait(lambda: is_told(saved.pid, signal.SIGTERM))
    saved.resume()
    _, screen = jobs[0].communicate()
    assert jobs[0].returncode == STOPPED
    said = re.fullmatch(
        r"pretrain text: (stopped by SIGTERM after step (\d+) of 150); the same command goes on",
        screen.splitlines()[-1],
    )
    assert (first / "logs/text.log").read_text().splitlines()[-1] == said[1]
    assert not (first / "artifacts").exists()
    _, screen = jobs[1].communicate()
    assert jobs[1].returncode == 0, screen
    assert trained(second) == straight
    assert begin(first).wait() == 0
    assert f"continuing after step {said[2]}\n" in (first / "logs/text.log").read_text()
    assert trained(first) == straight


@pytest.mark.end_to_end
@pytest.mark.nightly
def test_a_rank_that_fails_is_named_and_ends_the_others(project, data, tmp_path):
    shutil.copytree(data["text"], tmp_path / "damaged")
    (tmp_path / "damaged/shard.00000.mds").write_bytes(b"")
    write_job(project, inputs={"text": "damaged"})
    job = begin(project)
    _, screen = job.communicate()
    assert job.returncode == 1
    assert screen.splitlines()[-1].startswith(
        "pretrain text: rank 0: Damaged: damaged/shard.00000.mds: missing or damaged"
    ), screen
    assert not (project / "artifacts").exists()


SRUN = """#!/usr/bin/env python3
import os, subprocess, sys
nodes = next(int(word.split("=")[1]) for word in sys.argv if word.startswith("--nodes="))
command = sys.argv[sys.argv.index("-m") - 1:]
steps = {"SLURM_STEP_NUM_NODES": str(nodes), "SLURM_STEP_NODELIST": "localhost,localhost"}
places = [steps | {"SLURM_NODEID": str(node), "SLURM_PROCID": str(node)} for node in range(nodes)]
tasks = [subprocess.Popen(command, env=os.environ | place) for place in places]
sys.exit(max(task.wait() for task in tasks))
"""


@pytest.mark.end_to_end
@pytest.mark.nightly
def test_a_slurm_job_of_two_nodes_runs_on_both(project, straight):
    """Slurm's commands are stand-ins that do on this machine what theirs do on two."""
    tools = project / "bin"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", "#!/bin/sh\necho localhost\n")):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    write_job(project, context={"nodes": 2, "devices": 1})
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    job = begin(project, PATH=path, SLURM_JOB_ID=str(os.getpid()), SLURM_STEP_NUM_NODES="1")
    _, screen = job.communicate()
    assert job.returncode == 0, screen
    assert trained(project) == straight
    assert {file.name for file in (project / "logs").iterdir()} == {"text.log", "text.json", "text.node1.log"}


def test_a_job_of_several_nodes_asks_which_of_them_it_is_on(project):
    write_job(project, context={"nodes": 2})
    job = begin(project, MASTER_PORT="1")
    _, screen = job.communicate()
    assert job.returncode == 2
    assert screen == "job.json: the preset asks for 2 nodes, and NODE_RANK, MASTER_ADDR are not set\n"
