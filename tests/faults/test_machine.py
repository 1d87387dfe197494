"""What else a machine does: too little memory, a clock that is wrong, another copy of the project at work."""

import itertools
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
from test_end_to_end import artifact, done_jobs, is_clean, planned, snakemake

from faults.drills import Drill, copy_of
from faults.holding import SAVED, command
from faults.test_engines import begin

pytestmark = pytest.mark.end_to_end
MINUTE, YEAR = 60, 365 * 24 * 3600


@pytest.mark.nightly
@pytest.mark.parametrize("phase", ["features", "finetune"])
def test_a_job_without_enough_memory_says_so_and_goes_on_when_there_is(drill, phase):
    job = drill(phase)
    line = job.fails(AS=8 << 20)
    assert re.search("memory|Memory|mmap|could not create a primitive", line), line  # the last one is oneDNN's
    job.ends_well()


@pytest.mark.nightly
def test_a_helper_that_the_system_ends_is_named_and_its_work_done_again(drill):
    job = drill("evaluate")
    job.change_context(evaluation_processes=2)
    pid, deadline = job.start(), time.monotonic() + 120
    while not (helpers := [p for p in psutil.Process(pid).children() if "spawn_main" in " ".join(command(p))]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    helpers[0].kill()
    assert job.server.wait(pid) == 1
    assert "process 1 of the evaluation ended with exit code -9" in job.said()
    assert not job.made.exists()
    job.ends_well()


def test_two_clones_at_work_at_once_take_no_notice_of_each_other(warm, study, bench, tmp_path):
    """The same jobs, at the same time, with one temporary folder: one is killed, the other is done; nothing stays there."""
    other = copy_of(study, tmp_path / "other")
    before, shared = os.listdir(warm.scratch), set(os.listdir("/dev/shm"))
    for phase in ("shards", "finetune"):
        first, second = (Drill(warm, study, folder, phase) for folder in (bench, other))
        second.screen = first.screen.with_name("second.txt")
        pid = second.start()
        moment = SAVED if phase == "finetune" else "*/.study/*"
        assert first.end_at(signal.SIGKILL, moment) == -signal.SIGKILL
        assert warm.wait(pid) == 0
        first.ends_well()
        second.ends_well()
    assert os.listdir(warm.scratch) == before
    assert not [name for name in set(os.listdir("/dev/shm")) - shared if name.startswith("0")]  # streaming's


@pytest.mark.nightly
@pytest.mark.parametrize("phase", ["features", "finetune", "evaluate"])
def test_a_clock_that_jumps_while_a_job_works_changes_nothing(drill, phase):
    drill(phase).ends_well(clock=1)


@pytest.mark.nightly
def test_dates_that_jump_while_snakemake_works_change_nothing(copy, tmp_path):
    """What its jobs make is by turns of the far future and of the far past, before the next of them begin."""
    clock = itertools.cycle([10 * YEAR, -20 * YEAR])
    lost = [artifact(copy, name) for name in ("tokenizer/bpe", "shards/captions", "cooldown/b50", "finetune/b50")]
    for folder in lost:
        shutil.rmtree(folder)

    def made() -> set[Path]:
        """Cards of artifacts. One that stands alone is no job's: the plan has put it where an artifact was deleted."""
        return {card for card in (copy / "artifacts").glob("*/*/card.json") if card.with_name("files.json").exists()}

    jumped = made()
    engine = begin(["snakemake", "--cores", "2"], copy, tmp_path / "log")
    while engine.poll() is None:
        for card in made() - jumped:
            jumped.add(card)
            date = time.time() + next(clock)
            for file in card.parent.rglob("*"):
                os.utime(file, (date, date))
        time.sleep(0.005)
    assert engine.returncode == 0, (tmp_path / "log").read_text()
    assert sorted(done_jobs((tmp_path / "log").read_text())) == sorted(f"{p.parent.name} {p.name}" for p in lost)
    assert set(lost) < {card.parent for card in jumped}
    assert planned(copy) == {}
    assert is_clean(copy)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", [1])
def test_dates_of_files_that_a_clock_gone_wrong_has_left_mean_nothing(copy, seed):
    """In the future, in the past, and whatever is made meanwhile is older than what it is made from."""
    clock = random.Random(seed)
    files = [
        p for name in ("artifacts", ".study", "results", "configs") for p in (copy / name).rglob("*") if p.is_file()
    ]
    for file in [*files, copy / "params.yaml"]:
        date = time.time() + clock.choice([-20 * YEAR, -MINUTE, MINUTE, 10 * YEAR])
        os.utime(file, (date, date))
    assert planned(copy) == {}
    shutil.rmtree(artifact(copy, "shards/captions"))
    card = artifact(copy, "tables/table1") / "card.json"
    card.write_text("{}")
    os.utime(card, (time.time() + 10 * YEAR,) * 2)
    (copy / "results/table1.csv").unlink()
    assert planned(copy) == {"shards": 1, "table1": 1}
    assert sorted(job.split()[0] for job in done_jobs(snakemake(copy))) == ["shards", "tables"]
    assert planned(copy) == {}
    assert is_clean(copy)
