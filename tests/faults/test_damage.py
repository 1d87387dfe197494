"""Bits that turn over where nobody looks: in what a job reads, and in the state that it resumes from."""

import os
import random
import signal
from pathlib import Path

import pytest
from test_end_to_end import artifact, done_jobs, is_clean, planned, run, snakemake

pytestmark = pytest.mark.end_to_end


def turn_over(file: Path, seed: str) -> None:
    """Flip one bit of a file, whose size and date stay as they were."""
    stat, place = file.stat(), random.Random(seed)
    content = bytearray(file.read_bytes())
    content[place.randrange(len(content))] ^= 1 << place.randrange(8)
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    ("phase", "read"),
    [
        ("shards", "tokenizer/*/tokenizer.json"),
        ("features", "sources/captions-*/captions/*.tar"),
        ("pretrain", "shards/text-*/shard.*.mds"),
        ("cooldown", "features/captions-*/features.npy"),
        ("cooldown", "pretrain/text-20-*/optimizer.safetensors"),
        ("evaluate", "finetune/b50-*/model.safetensors"),
        ("tables", "evaluate/finetune-b50-*/vision.csv"),
    ],
)
def test_a_bit_that_has_turned_over_in_what_a_job_reads_is_named(drill, phase, read):
    job = drill(phase)
    file = next((job.folder / "artifacts").glob(read))
    whole, stat = file.read_bytes(), file.stat()
    turn_over(file, f"{phase} {read}")
    try:
        line = job.fails()
        assert f"{file.relative_to(job.folder)}: missing or damaged; run again" in line
    finally:
        file.write_bytes(whole)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    job.ends_well()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_state_with_a_bit_turned_over_is_said_and_left(drill, name):
    job = drill("finetune")
    assert job.end_when(signal.SIGKILL, job.states) == -signal.SIGKILL
    (state,) = job.states()
    turn_over(state.with_name(name), name)
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
