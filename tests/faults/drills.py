"""A drill makes a job of a finished study again, under a fault, to the same bits."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil

from faults.holding import SAVED, is_gone, is_stopped, wait
from faults.warm import Server
from pipeline.common.files import folder_hashes, read_json, stable_json

PHASES = {  # a job of each, by the start of its id
    "sources": "evaluation",
    "tokenizer": "bpe",
    "shards": "captions",
    "features": "captions",
    "pretrain": "text-20",
    "cooldown": "b50",
    "finetune": "b50",
    "evaluate": "finetune-b50",
    "tables": "table1",
}


class Drill:
    """One job of a finished study, in a copy of its folder."""

    def __init__(self, server: Server, study: Path, folder: Path, phase: str):
        self.server, self.folder, self.phase = server, folder, phase
        (self.job,) = (folder / f".study/jobs/{phase}").glob(f"{PHASES[phase]}*.json")
        self.id = self.job.stem
        self.made = folder / "artifacts" / phase / self.id
        self.log = folder / "logs/drill.log"
        self.screen = server.scratch.with_name("screen.txt")  # not on the drill's disk
        self.right = folder_hashes(study / "artifacts" / phase / self.id)
        self.results = folder_hashes(study / "results")

    def start(self, hold: str | None = None, **limits: int) -> int:
        """Begin the job, its artifact being gone; returns the process id."""
        shutil.rmtree(self.made, ignore_errors=True)
        arguments = ["run", str(self.job), "--log", str(self.log)]
        return self.server.start(self.folder, *arguments, screen=self.screen, hold=hold, **limits)

    def change_context(self, **context: object) -> None:
        """Give the job, in a file of its own, another context: what it may use but is not made from."""
        description = read_json(self.job)
        self.job = self.folder / f".study/jobs/{self.phase}-drill.json"
        self.job.write_text(stable_json(description | {"context": description["context"] | context}))

    def run(self, **limits: int) -> int:
        return self.server.wait(self.start(**limits))

    def hold(self, pattern: str = SAVED) -> int:
        """Begin the job and return, with its process id, when it stands still: where a path that fits is in its place."""
        pid = self.start(hold=pattern)
        process = psutil.Process(pid)
        wait(lambda: is_stopped(process) or is_gone(process))
        assert is_stopped(process), self.screen.read_text()
        return pid

    def end_at(self, number: signal.Signals, pattern: str = SAVED) -> int:
        """Run the job and send it a signal at its first save, or where else it stands still; returns its exit code."""
        pid = self.hold(pattern)
        os.kill(pid, number)
        os.kill(pid, signal.SIGCONT)
        return self.server.wait(pid)

    def states(self) -> list[Path]:
        """The states that the job can resume from."""
        return list(self.folder.glob(f".study/resume/{self.id}-*/last/state.json"))

    def said(self) -> str:
        """The last line on the screen."""
        return self.screen.read_text().splitlines()[-1]

    def fails(self, **limits: int) -> str:
        """Run the job, which must fail, say why in one line, and leave no artifact; returns the line."""
        assert self.run(**limits) not in (0, 85)
        lines = [line for line in self.screen.read_text().splitlines() if not line.startswith("[")]
        assert len(lines) == 1, lines
        assert not self.made.exists()
        return lines[0]

    def ends_well(self, **how: int) -> None:
        """The same command again makes the same bits and leaves nothing behind."""
        assert self.run(**how) == 0, self.screen.read_text() + self.log.read_text()
        assert folder_hashes(self.made) == self.right
        assert folder_hashes(self.folder / "results") == self.results
        for place in ("resume", "partial"):
            assert not [p for p in self.folder.glob(f".study/{place}/*") if p.name.startswith(self.id)]


def copy_of(study: Path, folder: Path) -> Path:
    """What jobs need of a study, in another folder."""
    folder.mkdir(exist_ok=True)
    parts = [study / name for name in ("artifacts", ".study", "configs", "results", "logs", "params.yaml")]
    subprocess.run(["cp", "-a", *parts, folder], check=True)
    return folder
