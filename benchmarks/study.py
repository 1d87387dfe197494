"""From a fresh clone to table 1: how long, and how much of it is not training, features or evaluation.

    uv run python benchmarks/study.py [FOLDER]

clones the committed project into a temporary folder, or into FOLDER, which stays, installs it there (not counted) and
runs the README's command. Wall time is that of the command. A process's CPU time is read twice a second while it lives,
by what it is: Snakemake, the server that jobs are forked from, the commands that wait for jobs, the jobs. "Start-up a
job" is the CPU time of the server and of those that wait, and what the jobs' logs say that their processes spent before
they began, over the number of jobs. (What a process spends after its last reading is missing; of who waits for a job of
less than half a second it may be all.)
Of the cores' time (cores x wall) two shares are taken: what is not training, features or evaluation, and of that what is
in no job at all, not in those for data and the table either: start-up, engine, waiting. Prints a table and writes
benchmarks/results/study.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import ROOT, machine

from pipeline.common.files import read_json, stable_json, write_text

RESULT = ROOT / "benchmarks/results/study.json"
USEFUL = ("features", "pretrain", "cooldown", "finetune", "evaluate")
TARGET = "results/table1.csv"


def role(process: psutil.Process) -> str | None:
    """What a process is; None if it is about to end, and can no longer be told."""
    words = process.cmdline()
    if not words:
        return None
    if "serve" in words:
        parent = process.parent()
        return parent and ("job" if "serve" in parent.cmdline() else "server")
    return "waiting" if "run" in words else "snakemake"


def watch(top: psutil.Process, done: threading.Event, spent: dict) -> None:
    """Note (role, CPU-seconds) of every process below `top` until done."""
    while not done.wait(0.5):
        for process in top.children(recursive=True):
            try:
                times, what = process.cpu_times(), role(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            known = spent.get((process.pid, process.create_time()), ("snakemake", 0.0))
            spent[process.pid, process.create_time()] = what or known[0], times.user + times.system


def summary(wall: float, cores: int, spent: list[tuple[str, float]], logs: list[tuple[str, dict]]) -> dict:
    """The figures, from (role, CPU-seconds) of processes and (phase, log) of jobs."""
    roles, phases = defaultdict(float), defaultdict(lambda: [0, 0.0, 0.0])
    for what, seconds in spent:
        roles[what] += seconds
    for name, log in logs:
        phase = phases[name]
        phase[:] = phase[0] + 1, phase[1] + log["seconds"], phase[2] + log["cpu_seconds"]
    before = [log.get("startup_cpu_seconds") for _, log in logs]
    startup = None  # where logs do not say it
    if None not in before:
        startup = round((roles["server"] + roles["waiting"] + sum(before)) / len(logs), 2)
    useful = sum(phases[phase][1] for phase in USEFUL)
    all_jobs = sum(seconds for _, seconds, _ in phases.values())
    return {
        "wall_seconds": round(wall, 1),
        "jobs": len(logs),
        "not_training_features_evaluation": round(1 - useful / (cores * wall), 3),
        "in_no_job": round(1 - all_jobs / (cores * wall), 3),
        "startup_cpu_seconds_a_job": startup,
        "cpu_seconds": {what: round(seconds, 1) for what, seconds in sorted(roles.items())},
        "phases": {
            name: {"jobs": jobs, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}
            for name, (jobs, seconds, cpu) in sorted(phases.items())
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="where the clone shall be and stay")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as name:
        clone = folder or Path(name) / "clone"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        kept = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
        subprocess.run(["uv", "sync", "--quiet"], cwd=clone, env=kept, check=True)
        (clone / TARGET).unlink(missing_ok=True)
        spent, done = {}, threading.Event()
        start = time.time()
        command = ["uv", "run", "snakemake", "--cores", "all", TARGET]
        run = subprocess.Popen(command, cwd=clone, env=kept, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        watcher = threading.Thread(target=watch, args=(psutil.Process(run.pid), done, spent))
        watcher.start()
        code = run.wait()
        wall = time.time() - start
        done.set()
        watcher.join()
        if code:
            sys.exit(f"{' '.join(command)} ended with exit code {code}")
        logs = [(file.parent.name, read_json(file)) for file in (clone / "logs").glob("*/*.json")]
    found = summary(wall, len(os.sched_getaffinity(0)), list(spent.values()), logs)
    for key, value in found.items():
        if key != "phases":
            print(f"{key}: {value}")
    print("| phase | jobs | seconds | CPU-s |\n|---|---|---|---|")
    for phase, row in found["phases"].items():
        print(f"| {phase} | {row['jobs']} | {row['seconds']} | {row['cpu_seconds']} |")
    write_text(RESULT, stable_json(found | machine("torch", "mosaicml", "snakemake")))


if __name__ == "__main__":
    main()
