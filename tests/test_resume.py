"""Resume is resume: a run stopped after any update, or in the middle of any file operation, ends in the same bytes."""

import os
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import test_training
import torch
from test_training import (
    BATCH,
    COOLDOWN_STEPS,
    MODEL,
    TEXT_STEPS,
    Bench,
    FakeJob,
    Killed,
    Steps,
    state_files,
)

from pipeline.common.files import atomic_folder, read_json
from pipeline.execution.processes import Stopped
from pipeline.store import artifacts
from pipeline.training import state
from pipeline.training.state import find_resumable, save_resumable

data, bench, shared = test_training.data, test_training.bench, test_training.shared  # fixtures
text, parent, cooled = test_training.text, test_training.parent, test_training.cooled
FINETUNE_STEPS = 5  # two epochs of ten samples: a batch holds some of both


@pytest.fixture(scope="module")
def tuned(shared, cooled) -> tuple[Path, dict]:
    """A fine-tuning of the cooldown, in one go, and its summary."""
    return shared.run(shared.finetune(cooled[0]))


# A stop that was asked for


class AskedAt(Steps):
    """Asks its job to stop during an update."""

    def __init__(self, job: FakeJob, step: int):
        super().__init__()
        self.job, self.step, self.before = job, step, 0
        self.given, job.stop.defer = job.stop.defer, self.defer

    def begin_at(self, done: int) -> None:
        self.before = done // (BATCH * MODEL["sequence"])

    def defer(self) -> None:
        """Ask before the first update if that is when."""
        self.given()
        if self.step == self.before + 1:
            self.job.stop.on_signal(signal.SIGTERM, None)

    def update(self, done: int, *rest, **more) -> None:
        super().update(done, *rest, **more)
        if self.seen[-1] == self.step - 1:
            self.job.stop.on_signal(signal.SIGTERM, None)


def stop_at(bench: Bench, job: FakeJob, step: int) -> str:
    """Have a job asked to stop in an update; returns where it says that it stopped."""
    job.stop.process = os.getpid()
    job.progress = AskedAt(job, step)
    with pytest.raises(Stopped) as stopped:
        bench.run(job)
    assert job.progress.seen[-1] == step
    job.progress, job.stop = Steps(), type(job.stop)()
    return str(stopped.value)


@pytest.mark.parametrize("step", range(1, TEXT_STEPS))
def test_a_run_stopped_in_any_update_gives_the_same_bytes(bench, text, step):
    job = bench.text()
    assert stop_at(bench, job, step) == f"after step {step} of {TEXT_STEPS}"
    assert read_json(find_resumable(job.resume) / "state.json")["step"] == step
    assert state_files(bench.run(job)[0]) == state_files(text)
    assert job.progress.seen == list(range(step + 1, TEXT_STEPS + 1))  # nothing is done twice


@pytest.mark.parametrize("step", range(1, COOLDOWN_STEPS))
def test_a_cooldown_stopped_in_any_update_gives_the_same_bytes(bench, parent, cooled, step):
    job = bench.cooldown(parent)
    stop_at(bench, job, step)
    out, summary = bench.run(job)
    assert state_files(out) == state_files(cooled[0])
    assert summary == cooled[1]


@pytest.mark.parametrize("step", range(1, FINETUNE_STEPS))
def test_a_fine_tuning_stopped_in_any_update_gives_the_same_bytes(bench, cooled, tuned, step):
    job = bench.finetune(cooled[0])
    assert stop_at(bench, job, step) == f"after step {step} of {FINETUNE_STEPS}"
    out, summary = bench.run(job)
    assert state_files(out) == state_files(tuned[0])
    assert summary == tuned[1]
    assert job.progress.seen == list(range(step + 1, FINETUNE_STEPS + 1))


def test_a_run_stopped_again_and_again_gives_the_same_bytes(bench, text):
    job = bench.text()
    for step in range(1, TEXT_STEPS):
        stop_at(bench, job, step)
    assert state_files(bench.run(job)[0]) == state_files(text)
    assert job.progress.seen == [TEXT_STEPS]


def test_a_run_asked_to_stop_in_its_last_update_is_done(bench, text):
    job = bench.text()
    job.stop.process = os.getpid()
    job.progress = AskedAt(job, TEXT_STEPS)
    assert state_files(bench.run(job)[0]) == state_files(text)


# A stop in the middle of writing a state


class Dead(BaseException):
    """Every file operation after the process has ended."""


COUNTED = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "open", "half a file"}


class Operations:
    """Counts operations on files below a folder, and ends the process, as it were, before one of them.

    From then on no operation does anything: what is written in `finally` would not be written by a dead process.
    """

    def __init__(self):
        self.folder, self.count, self.last = None, 0, None
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple) -> None:
        if self.folder is None or event not in COUNTED or not isinstance(arguments[0], str | os.PathLike):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        inside = str(arguments[0]).startswith(self.folder) or "dir_fd" in event or not os.path.isabs(arguments[0])
        if inside:
            self.count += 1
            if self.last is not None and self.count >= self.last:
                raise Dead

    @contextmanager
    def watched(self, folder: Path, last: int | None = None) -> Iterator[None]:
        self.folder, self.count, self.last = str(folder), 0, last
        try:
            yield
        except Dead:
            pass
        finally:
            self.folder = None


OPERATIONS = Operations()  # an audit hook stays for good


@pytest.fixture
def torn(monkeypatch):
    """safetensors writes without Python's knowledge: half of a file is an operation too."""
    whole = state.save_file

    def in_halves(tensors: dict, file: Path) -> None:
        whole(tensors, file)
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        sys.audit("half a file", file)
        file.write_bytes(content)

    monkeypatch.setattr(state, "save_file", in_halves)
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Saves:
    """A small model whose states are saved one after the other."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.model = torch.nn.Linear(3, 2)
        self.optimizer = torch.optim.AdamW(self.model.parameters())

    def save(self, step: int, last: int | None = None) -> int:
        """Save the state of a step, ending before operation number `last`; returns how many there were."""
        with torch.no_grad():
            self.model.weight.fill_(step)
        with OPERATIONS.watched(self.folder, last):
            save_resumable(self.folder, self.model, self.optimizer, {"step": step}, f"step\n{step}\n")
        return OPERATIONS.count

    def found(self) -> int | None:
        """The step of the state that a run would go on from, which must be whole."""
        place = find_resumable(self.folder)
        if place is None:
            return None
        step = read_json(place / "state.json")["step"]
        assert (place / "losses.csv").read_text() == f"step\n{step}\n"
        model = torch.nn.Linear(3, 2)
        state.load_weights(model, place)
        assert (model.weight == step).all()
        return step


def test_a_save_that_ends_before_any_of_its_file_operations_leaves_a_whole_state(tmp_path, torn):
    count = Saves(tmp_path / "count")
    first, later = count.save(1), [count.save(step) for step in (2, 3)]
    assert min(first, *later) > 10 and later[0] == later[1] > first
    for last in range(1, later[0] + 2):
        saves = Saves(tmp_path / str(last))
        saves.save(1, last)
        assert saves.found() in (None, 1)
        saves.save(2)
        assert saves.found() == 2
        saves.save(3, last)
        assert saves.found() == (3 if last > later[0] else saves.found()) in (2, 3)
        saves.save(4)
        assert saves.found() == 4
        assert [file.name for file in saves.folder.iterdir()] == ["last"]


@pytest.mark.parametrize("seed", range(6))
def test_saves_that_end_anywhere_time_after_time_lose_nothing_that_was_there(tmp_path, torn, seed):
    moments, saves, before = random.Random(seed), Saves(tmp_path / "resume"), None
    for step in range(1, 15):
        saves.save(step, moments.randint(1, 40))
        after = saves.found()
        assert after in (step, before)
        before = after
        assert len(list(saves.folder.iterdir())) <= 3
    saves.save(15)
    assert [file.name for file in saves.folder.iterdir()] == ["last"]


def test_a_folder_that_ends_before_any_file_operation_is_the_old_one_or_the_new_one(tmp_path):
    def write(root: Path, text: str, last: int | None = None) -> int:
        with OPERATIONS.watched(root, last), atomic_folder(root / "made/here", root / "partial") as out:
            for name in "ab":
                (out / name).write_text(text)
        return OPERATIONS.count

    def read(root: Path) -> set[str]:
        whole = [place for place in (root / "made/here", root / "partial.old") if place.exists()]
        return {"".join((whole[0] / name).read_text() for name in "ab")} if whole else set()

    (tmp_path / "count").mkdir()
    count = [write(tmp_path / "count", text) for text in "12"][1]
    for last in range(1, count + 2):
        root = tmp_path / str(last)
        root.mkdir()
        write(root, "1", last)
        assert read(root) <= {"11"}
        write(root, "1")
        write(root, "2", last)
        assert read(root) in ({"11"}, {"22"})
        write(root, "3")
        assert read(root) == {"33"}
        assert {p.name for p in root.iterdir()} == {"made"}


@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_ends_in_the_middle_of_a_save_gives_the_same_bytes(bench, text, torn, seed):
    job, moments = bench.text(), random.Random(seed)
    for _ in range(3):  # three times in a row
        with OPERATIONS.watched(job.resume, moments.randint(1, 60)):
            bench.run(job)
    assert state_files(bench.run(job)[0]) == state_files(text)


# A saved state that is not what was written


def flip(file: Path, place: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[place.randrange(len(content))] ^= 1 << place.randrange(8)
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *(("model.safetensors", "flipped"), ("optimizer.safetensors", "cut"), ("losses.csv", "empty")),
        *(("state.json", how) for how in ("flipped", "cut", "empty")),
    ],
)
def test_a_damaged_state_is_said_and_not_resumed(bench, text, capsys, name, how):
    job = bench.text()
    job.progress.kill_at = 7
    with pytest.raises(Killed):
        bench.run(job)
    file = find_resumable(job.resume) / name
    if how == "flipped":
        flip(file, random.Random(name))
    else:
        file.write_bytes(file.read_bytes()[: -5 if how == "cut" else 0])
    job.progress = Steps()
    assert state_files(bench.run(job)[0]) == state_files(text)
    assert job.progress.seen == list(range(1, TEXT_STEPS + 1))
    assert f"last/{name} is damaged" in capsys.readouterr().out


def test_no_flipped_bit_of_a_states_json_goes_unnoticed(tmp_path):
    Saves(tmp_path).save(1)
    file = tmp_path / "last/state.json"
    content = file.read_bytes()
    for seed in range(24):
        flip(file, random.Random(seed))
        assert find_resumable(tmp_path) is None, seed
        file.write_bytes(content)


def test_ranks_leave_together_when_a_state_is_in_its_place(tmp_path, monkeypatch):
    """The launcher gives the others half a minute once one has ended, and rank 0 may need longer than that."""
    model = torch.nn.Linear(2, 2)
    there = []
    monkeypatch.setattr(state, "wait_for_all", lambda: there.append((tmp_path / "last/state.json").exists()))
    save_resumable(tmp_path, model, torch.optim.AdamW(model.parameters()), {"step": 1}, "")
    assert there == [False, False, True]


# What is left behind


def states(root: Path, *names: str) -> None:
    for name in names:
        folder = root / artifacts.RESUME / name / "last"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(name)


def left(root: Path, place: Path = artifacts.RESUME) -> list[str]:
    return sorted(folder.name for folder in (root / place).glob("*"))


OLDER, OLD, NEW = "7" * 16, "0" * 16, "f" * 16


def test_states_of_jobs_that_are_done_or_gone_do_not_stay(tmp_path):
    states(tmp_path, f"text-1-{NEW}", f"text-1-{OLDER}", f"text-1-{OLD}", f"text-2-{OLD}", f"text-3-{OLD}")
    for name, date in {NEW: 1, OLDER: 2, OLD: 3}.items():
        os.utime(tmp_path / artifacts.RESUME / f"text-1-{name}", (date, date))
    artifacts.tidy(tmp_path, ids={"text-1", "text-2"}, waiting={"text-1": NEW})
    assert left(tmp_path) == [f"text-1-{OLD}", f"text-1-{NEW}"]  # today's, and the newest of those that may come back
    assert left(tmp_path, artifacts.ASIDE / "resume") == [f"text-3-{OLD}"]


def test_a_state_that_was_set_aside_is_taken_back(tmp_path):
    states(tmp_path, f"text-3-{OLD}")
    artifacts.tidy(tmp_path, ids=set(), waiting={})
    artifacts.take_back_states(tmp_path, {"text-4"})
    assert left(tmp_path) == []
    artifacts.take_back_states(tmp_path, {"text-3"})
    assert left(tmp_path) == [f"text-3-{OLD}"]
    assert left(tmp_path, artifacts.ASIDE / "resume") == []
    assert (tmp_path / artifacts.RESUME / f"text-3-{OLD}/last/state.json").read_text() == f"text-3-{OLD}"


def test_half_made_artifacts_stay_only_for_jobs_that_will_make_them(tmp_path):
    for name in ("text-1", "text-1.old", "text-2", "text-2.old", "text-3"):
        (tmp_path / artifacts.PARTIAL / name).mkdir(parents=True)
    artifacts.tidy(tmp_path, ids={"text-1", "text-2"}, waiting={"text-1": NEW})
    assert left(tmp_path, artifacts.PARTIAL) == ["text-1", "text-1.old"]
