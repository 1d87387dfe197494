"""Jobs in processes that have imported what they need: `python -m pipeline run` without the seconds that it takes to begin.

Run as a program it is their server: it imports, then forks a process for each job that it is asked for. What a job does
from then on (its signals, limits, files and exit code) is what it does when Snakemake starts it.
"""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

YEAR = 365 * 24 * 3600
ROOT = Path(__file__).parents[2]
HOLD = ROOT / "tests/faults/hold"
MODULES = (
    "pipeline.execution.run",
    "pipeline.data.scenes.write",
    "pipeline.model.features",
    "pipeline.model.vision",
    "pipeline.training.train",
    "pipeline.evaluation.evaluate",
    "pipeline.reporting.table1",
    "scipy.stats",
    "pandas",
    "matplotlib.pyplot",
)


class Server:
    """Starts jobs and waits for them."""

    def __init__(self):
        command = [sys.executable, __file__]
        self.home = tempfile.TemporaryDirectory(prefix="drills-")
        self.scratch = Path(self.home.name) / "scratch"  # the jobs' temporary folder, which they leave empty
        self.scratch.mkdir()
        self.process = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{HOLD}", "TMPDIR": str(self.scratch)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert json.loads(self.process.stdout.readline()) == "ready"

    def ask(self, **question) -> int:
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(
        self,
        folder: Path,
        *arguments: str,
        screen: Path,
        clock: int | None = None,
        hold: str | None = None,
        **limits: int,
    ) -> int:
        """Begin `python -m pipeline ARGUMENTS` in a folder; returns its process id. `limits`: by name of resource.RLIMIT_*.

        An address space ("AS") is limited to what the process has and as much more. `clock` is the seed of a clock that jumps.
        `hold` is a pattern of paths: the job stands still once it has put such a file or folder into its place.
        """
        token = self.scratch.with_name("hold")
        token.touch()
        how = {"clock": clock, "hold": hold and [hold, str(token)], "limits": limits}
        return self.ask(folder=str(folder), arguments=arguments, screen=str(screen), **how)

    def wait(self, pid: int) -> int:
        """A job's exit code when it has ended, or minus the signal that ended it."""
        return self.ask(wait=pid)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.home.cleanup()


def serve() -> None:
    for module in MODULES:
        __import__(module)
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))  # until the job listens
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        if "wait" in question:
            answer = os.waitstatus_to_exitcode(os.waitpid(question["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                become(**question)
        print(json.dumps(answer), flush=True)


def jumping(seed: int) -> Callable[[], float]:
    """What takes the place of `time.time`: every tenth look or so, the clock is set by minutes or years, either way."""
    jumps, state, now = random.Random(seed), {"ahead": 0.0}, time.time

    def look() -> float:
        if jumps.random() < 0.1:
            state["ahead"] = jumps.choice([-20 * YEAR, -60, 0, 60, 10 * YEAR])
        return now() + state["ahead"]

    return look


def become(
    folder: str, arguments: list[str], screen: str, clock: int | None, hold: list[str] | None, limits: dict[str, int]
) -> None:
    """Go on as a job in a folder, whose output goes to a file."""
    from pipeline.__main__ import main

    os.chdir(folder)
    nothing, output = os.open(os.devnull, os.O_RDONLY), os.open(screen, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, file in enumerate((nothing, output, output)):
        os.dup2(file, number)
    if clock is not None:
        time.time = jumping(clock)
    if hold:
        from sitecustomize import hold_at

        hold_at(*hold)
    code = 1
    try:
        for name, limit in limits.items():
            if name == "AS":
                limit += int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
        code = main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve()
