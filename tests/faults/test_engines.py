"""Snakemake and DVC told to stop or ended: they say so, their jobs lose nothing, and the same command again is done."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from test_end_to_end import ENVIRONMENT, artifact, is_clean, job_below, planned, repro, run, wait

pytestmark = pytest.mark.end_to_end
SEEDS = [int(seed) for seed in os.environ.get("FAULT_SEEDS", "1").split()]


def begin(command: list[str], folder: Path, log: Path) -> subprocess.Popen:
    """Start an engine in a group of its own, as a shell does."""
    with log.open("w") as output:
        return subprocess.Popen(
            command, cwd=folder, env=ENVIRONMENT, stdout=output, stderr=output, start_new_session=True
        )


def is_dvc(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return "dvc" in process.cmdline()
    return False


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("command", "number", "group"),
    [
        (["snakemake", "--cores", "2"], signal.SIGTERM, False),  # `kill`, a scheduler that knows of one process
        (["dvc", "repro"], signal.SIGINT, True),  # Ctrl-C
        (["dvc", "repro"], signal.SIGTERM, True),  # systemd, Slurm
    ],
    ids=["snakemake-SIGTERM", "dvc-SIGINT", "dvc-SIGTERM"],
)
def test_an_engine_told_to_stop_has_its_jobs_save_and_says_so(copy, tmp_path, command, number, group, seed):
    moments, lost = random.Random(f"{command} {number} {seed}"), artifact(copy, "finetune/b50")
    shutil.rmtree(lost)
    engine = begin(command, copy, tmp_path / "log")
    log = copy / "logs/finetune" / f"{lost.name}.log"
    log.unlink()
    job = wait(lambda: job_below(engine), engine)
    wait(lambda: log.exists() and "tokens" in log.read_text(), engine)  # it trains; 16 updates are left
    time.sleep(moments.uniform(0, 0.05))
    (os.killpg if group else os.kill)(engine.pid, number)
    code = engine.wait()
    wait(lambda: not job.is_running() or job.status() == psutil.STATUS_ZOMBIE)
    stopped = re.fullmatch(
        rf"stopped by ({number.name}|SIGTERM) after step (\d+) of \d+", log.read_text().splitlines()[-1]
    )
    said = (tmp_path / "log").read_text()
    assert stopped, said
    assert code != 0
    assert f"finetune {lost.name}: {stopped[0]}; the same command goes on" in said
    if command[0] == "snakemake" or number == signal.SIGINT:  # DVC has no answer to SIGTERM: it is gone
        assert re.search(rf"^Stopped:\n  finetune {lost.name}: .*\nContinue with: {' '.join(command)}$", said, re.M)

    run(copy, *command)
    assert f"continuing after step {stopped[2]}\n" in log.read_text()
    assert is_clean(copy)
    assert planned(copy) == {}
    for place in ("resume", "partial"):
        assert not list((copy / ".study" / place).iterdir())


def test_snakemake_ended_while_dvc_notes_what_was_made_has_it_noted_by_the_next(copy, tmp_path):
    shutil.rmtree(artifact(copy, "tokenizer/bpe"))
    (copy / "dvc.lock").write_text(re.sub("md5: [0-9a-f]{4}", "md5: 0000", (copy / "dvc.lock").read_text()))
    engine = begin(["snakemake", "--cores", "2"], copy, tmp_path / "log")

    dvc = wait(lambda: next(filter(is_dvc, psutil.Process(engine.pid).children()), None), engine)
    engine.kill()
    engine.wait()
    wait(lambda: not dvc.is_running() or dvc.kill())
    assert planned(copy) == {}
    assert not is_clean(copy)
    run(copy, "snakemake", "--cores", "2")
    assert is_clean(copy)
    assert repro(copy) == []


def test_a_file_that_dvc_was_ended_in_the_middle_of_writing_is_written_anew(copy):
    for left in ('{"artifacts/tokenizer": {"read": [', ""):
        (copy / ".dvc/tmp/rwlock").write_text(left)
        run(copy, "dvc", "repro", ok=False)
        run(copy, "snakemake", "--cores", "2")
    assert repro(copy) == []
    whole = (copy / "dvc.lock").read_bytes()
    (copy / "dvc.lock").write_bytes(whole[: whole.index(b"md5:", 5000) + 3])
    run(copy, "dvc", "status", ok=False)
    run(copy, "snakemake", "--cores", "2")
    assert (copy / "dvc.lock").read_bytes() == whole
