"""Bits that turn over where nobody looks, and ends that are gone: in what a job reads, in cards, in what it resumes from."""

import os
import random
import signal
from pathlib import Path

import pytest
from test_end_to_end import artifact, done_jobs, is_clean, planned, run, snakemake

pytestmark = pytest.mark.end_to_end
NIGHTLY = pytest.mark.nightly


def turn_over(file: Path, seed: str) -> None:
    """Flip one bit of a file, whose size and date stay as they were."""
    stat, place = file.stat(), random.Random(seed)
    content = bytearray(file.read_bytes())
    content[place.randrange(len(content))] ^= 1 << place.randrange(8)
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def cut_off(file: Path, seed: str) -> None:
    """Take away the end of a file."""
    os.truncate(file, random.Random(seed).randrange(file.stat().st_size))


def when_read(file: Path) -> str:
    return f"{file}: missing or damaged; run again"


def by_its_size(file: Path) -> str:
    """Before the job begins."""
    folder = Path(*file.parts[:3])
    return f"{folder}: {file.relative_to(folder)} has other bytes than when it was made"


@pytest.mark.parametrize(
    ("phase", "read", "harm", "says"),
    [
        pytest.param("shards", "tokenizer/*/tokenizer.json", turn_over, when_read, marks=NIGHTLY),
        pytest.param("features", "sources/captions-*/captions/*.tar", turn_over, when_read, marks=NIGHTLY),
        ("pretrain", "shards/text-*/shard.*.mds", turn_over, when_read),
        pytest.param("pretrain", "shards/text-*/shard.*.mds", cut_off, by_its_size, marks=NIGHTLY),
        pytest.param("cooldown", "features/captions-*/features.npy", turn_over, when_read, marks=NIGHTLY),
        ("cooldown", "features/captions-*/features.npy", cut_off, by_its_size),
        pytest.param("cooldown", "pretrain/text-20-*/optimizer.safetensors", turn_over, when_read, marks=NIGHTLY),
        pytest.param("evaluate", "finetune/b50-*/model.safetensors", turn_over, when_read, marks=NIGHTLY),
        pytest.param("evaluate", "finetune/b50-*/model.safetensors", cut_off, by_its_size, marks=NIGHTLY),
        ("tables", "evaluate/finetune-b50-*/vision.csv", turn_over, when_read),
    ],
)
def test_damage_to_what_a_job_reads_is_named(drill, phase, read, harm, says):
    job = drill(phase)
    file = next((job.folder / "artifacts").glob(read))
    whole, stat = file.read_bytes(), file.stat()
    harm(file, f"{phase} {read}")
    try:
        assert says(file.relative_to(job.folder)) in job.fails()
    finally:
        file.write_bytes(whole)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    job.ends_well()


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("model.safetensors", turn_over),
        pytest.param("optimizer.safetensors", turn_over, marks=NIGHTLY),
        ("state.json", turn_over),
        pytest.param("model.safetensors", cut_off, marks=NIGHTLY),
    ],
)
def test_a_damaged_state_is_said_and_left(drill, name, harm):
    job = drill("finetune")
    assert job.end_at(signal.SIGKILL) == -signal.SIGKILL
    (state,) = job.states()
    harm(state.with_name(name), name)
    job.ends_well()
    log = job.log.read_text()
    assert f"last/{name} is damaged" in log
    assert "continuing after" not in log


def test_the_same_command_again_makes_what_was_found_damaged(copy):
    """A damage that no date tells of: found by the job that reads the file, and made good by the run after."""
    turn_over(artifact(copy, "tokenizer/bpe") / "tokenizer.json", "again")
    (artifact(copy, "shards/captions") / "index.json").unlink()
    assert planned(copy) == {"shards": 1}
    assert "tokenizer.json: missing or damaged" in run(copy, "snakemake", "--cores", "2", ok=False)
    assert sorted(job.split()[0] for job in done_jobs(snakemake(copy))) == ["shards", "tokenizer"]
    assert is_clean(copy)
    assert planned(copy) == {}


@pytest.mark.nightly
def test_artifacts_whose_cards_are_damaged_are_made_again(copy):
    cut_off(artifact(copy, "tokenizer/bpe") / "card.json", "tokenizer")
    turn_over(artifact(copy, "tables/table1") / "card.json", "table1")
    assert planned(copy) == {"tokenizer": 1, "table1": 1}
    assert sorted(job.split()[0] for job in done_jobs(snakemake(copy))) == ["tables", "tokenizer"]
    assert is_clean(copy)
    assert planned(copy) == {}
