"""A micro study, ended at random a hundred times on its way, is the same study: `pytest -m soak -s -n 0`, a quarter of an hour.

SOAK_KILLS and SOAK_SEED choose how often, and which. What is ended is an engine (Snakemake or DVC), one of its jobs or all
of them, by SIGKILL, SIGTERM or SIGINT. When the study is done too early, a third of it is deleted.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from test_end_to_end import new_project, planned, repro, snakemake

from faults.holding import is_gone, wait
from faults.test_engines import begin
from pipeline.common.files import folder_hashes
from pipeline.engines.dvc import DVC_FILES, is_torn

pytestmark = pytest.mark.soak
KILLS, SEED = int(os.environ.get("SOAK_KILLS", 100)), int(os.environ.get("SOAK_SEED", 1))
ENGINES = {"snakemake": ["snakemake", "--cores", "2", "study"], "dvc": ["dvc", "repro"]}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LONGEST = 12.0  # seconds until an engine is ended: it starts its first job after three, and that trains after five more


def end(engine: subprocess.Popen, victim: str, number: signal.Signals, chance: random.Random) -> None:
    """Send a signal to the engine, to one process below it, or to all."""
    if victim == "everything":
        os.killpg(engine.pid, number)
    elif victim == "a job" and (below := psutil.Process(engine.pid).children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended meanwhile
            chance.choice(below).send_signal(number)
    else:
        engine.send_signal(number)


def delete_some(project: Path, chance: random.Random) -> None:
    """Delete a third of the artifacts."""
    made = sorted((project / "artifacts").glob("*/*"))
    for folder in chance.sample(made, len(made) // 3):
        shutil.rmtree(folder)


def test_a_study_that_is_ended_time_after_time_is_the_same_study(study, tmp_path):
    chance, project, log = random.Random(SEED), new_project(tmp_path / "soak"), tmp_path / "log"
    done, began = Counter(), time.monotonic()
    while done["ended"] < KILLS:
        name, victim = chance.choice(list(ENGINES)), chance.choice(["the engine", "a job", "everything"])
        number, moment = chance.choice(SIGNALS), chance.uniform(0, LONGEST)
        engine = begin(ENGINES[name], project, log)
        try:
            code = engine.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            below = psutil.Process(engine.pid).children(recursive=True)
            end(engine, victim, number, chance)
            print(f"{done['ended']}: {name}: {victim} {number.name} after {moment:.1f} s", flush=True)
            done.update(["ended", victim, number.name, name])
            if engine.poll() is None and (victim == "a job" or name == "dvc"):
                engine.terminate()  # it would go on with other jobs; DVC does not listen to Ctrl-C while a stage runs
            engine.wait()
            wait(lambda below=below: all(map(is_gone, below)))
            continue
        torn = [name for name in DVC_FILES if is_torn(project / name)]
        assert code == 0 or torn, log.read_text()[-3000:]
        if torn:  # as the README says
            snakemake(project)
            done.update(f"{name} was torn" for name in torn)
        else:
            done.update(["finished"])
            delete_some(project, chance)
    snakemake(project, "study")
    repro(project)
    print(dict(done), f"{time.monotonic() - began:.0f} s")
    assert (project / "dvc.lock").read_text() == (study / "dvc.lock").read_text()
    assert folder_hashes(project / "results") == folder_hashes(study / "results")
    assert folder_hashes(project / "artifacts") == folder_hashes(study / "artifacts")
    assert planned(project) == planned(project, "study") == {}
    for place in ("resume", "partial", "unrecorded"):
        assert not list((project / ".study").glob(f"{place}/*"))
