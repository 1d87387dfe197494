"""Snakemake and DVC told to stop or ended: they say so, their jobs lose nothing, and the same command again is done."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from test_end_to_end import ENVIRONMENT, artifact, is_clean, planned, repro, run

from faults.holding import held_below, holding, is_gone, is_told, wait

pytestmark = pytest.mark.end_to_end
ENGINES = {"snakemake": ["snakemake", "--cores", "2"], "dvc": ["dvc", "repro"]}
LONGEST = 8.0  # seconds until an engine is ended: it starts its first job after three
SEEDS = [int(seed) for seed in os.environ.get("FAULT_SEEDS", "1").split()]


def begin(command: list[str], folder: Path, log: Path, **environment: str) -> subprocess.Popen:
    """Start an engine in a group of its own, as a shell does."""
    with log.open("w") as output:
        return subprocess.Popen(
            command, cwd=folder, env=ENVIRONMENT | environment, stdout=output, stderr=output, start_new_session=True
        )


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("command", "number", "group"),
    [
        (["snakemake", "--cores", "2"], signal.SIGTERM, False),  # `kill`, a scheduler that knows of one process
        (["snakemake", "--cores", "2"], signal.SIGINT, True),  # Ctrl-C
        (["dvc", "repro"], signal.SIGINT, True),  # Ctrl-C
        (["dvc", "repro"], signal.SIGTERM, True),  # systemd, Slurm
    ],
    ids=["snakemake-SIGTERM", "snakemake-SIGINT", "dvc-SIGINT", "dvc-SIGTERM"],
)
def test_an_engine_told_to_stop_has_its_jobs_save_and_says_so(copy, tmp_path, command, number, group):
    lost = artifact(copy, "finetune/b50")
    shutil.rmtree(lost)
    engine = begin(command, copy, tmp_path / "log", **holding(tmp_path))
    log = copy / "logs/finetune" / f"{lost.name}.log"
    job = held_below(engine)  # it trains, and has made its first save
    (os.killpg if group else os.kill)(engine.pid, number)
    wait(lambda: is_told(job.pid, signal.SIGINT, signal.SIGTERM))
    job.resume()
    code = engine.wait()
    wait(lambda: is_gone(job))
    assert code != 0
    step = r"\d+"
    if command[0] == "snakemake" or number == signal.SIGINT:
        said, last = (tmp_path / "log").read_text(), log.read_text().splitlines()[-1]
        stopped = re.fullmatch(rf"stopped by ({number.name}|SIGTERM) after step (\d+) of \d+", last)
        assert stopped, said
        assert f"finetune {lost.name}: {stopped[0]}; the same command goes on" in said
        assert re.search(rf"^Stopped:\n  finetune {lost.name}: .*\nContinue with: {' '.join(command)}$", said, re.M)
        step = stopped[2]
    # DVC has no answer to SIGTERM: it is gone, and its job, an orphan, ends after another save or without one.

    run(copy, *command)
    assert re.search(rf"continuing after step {step}\n", log.read_text())
    assert is_clean(copy)
    assert planned(copy) == {}
    for place in ("resume", "partial"):
        assert not list((copy / ".study" / place).iterdir())


@pytest.mark.nightly
@pytest.mark.parametrize("seed", SEEDS)
def test_engines_ended_at_random_moments_lose_nothing(copy, study, tmp_path, seed):
    """One after the other, by every signal: while they plan, train, note what was made, or are done."""
    moments, log = random.Random(f"engines {seed}"), tmp_path / "log"
    ends = [(name, number) for name in ENGINES for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)]
    shutil.rmtree(artifact(copy, "shards/captions"))
    shutil.rmtree(artifact(copy, "finetune/b50"))
    for name, number in moments.sample(ends, len(ends)):
        engine, moment = begin(ENGINES[name], copy, log), moments.uniform(0, LONGEST)
        with contextlib.suppress(subprocess.TimeoutExpired):
            engine.wait(timeout=moment)
        below = psutil.Process(engine.pid).children(recursive=True) if engine.poll() is None else []
        if engine.poll() is None:
            (os.kill if number == signal.SIGKILL else os.killpg)(engine.pid, number)
        print(f"{name} {number.name} after {moment:.1f} s: exit code {engine.wait()}")
        wait(lambda below=below: all(map(is_gone, below)))
    run(copy, *ENGINES["snakemake"])
    assert repro(copy) == []
    assert planned(copy) == {}
    assert is_clean(copy)
    assert (copy / "dvc.lock").read_bytes() == (study / "dvc.lock").read_bytes()
    for place in ("resume", "partial", "unrecorded"):
        assert not list((copy / ".study").glob(f"{place}/*"))


@pytest.mark.nightly
def test_snakemake_ended_while_dvc_notes_what_was_made_has_it_noted_by_the_next(copy, tmp_path):
    shutil.rmtree(artifact(copy, "tokenizer/bpe"))
    (copy / "dvc.lock").write_text(re.sub("md5: [0-9a-f]{4}", "md5: 0000", (copy / "dvc.lock").read_text()))
    engine = begin(["snakemake", "--cores", "2"], copy, tmp_path / "log", **holding(tmp_path, "*dvc commit*"))
    dvc = held_below(engine)
    engine.kill()
    engine.wait()
    dvc.kill()
    wait(lambda: is_gone(dvc))
    assert planned(copy) == {}
    assert not is_clean(copy)
    run(copy, "snakemake", "--cores", "2")
    assert is_clean(copy)
    assert repro(copy) == []


@pytest.mark.nightly
def test_a_file_that_dvc_was_ended_in_the_middle_of_writing_is_written_anew(copy):
    for left in ('{"artifacts/tokenizer": {"read": [', ""):
        (copy / ".dvc/tmp/rwlock").write_text(left)
        run(copy, "dvc", "repro", ok=False)
        run(copy, "snakemake", "--cores", "2")
    assert repro(copy) == []


@pytest.mark.nightly
@pytest.mark.parametrize("seed", SEEDS)
def test_a_dvc_lock_that_is_cut_off_and_still_yaml_is_written_anew(copy, seed):
    lock, cuts = copy / "dvc.lock", random.Random(f"lock {seed}")
    whole = lock.read_bytes()
    for words in (b"outs:", b"size:"):  # test_torn.py has more of them
        ends = [found.end() for found in re.finditer(words, whole)]
        lock.write_bytes(whole[: cuts.choice(ends)])
        run(copy, "dvc", "status", ok=False)
        run(copy, "snakemake", "--cores", "2")
        assert lock.read_bytes() == whole
    assert repro(copy) == []
