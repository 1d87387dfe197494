"""How far jobs are: a line now and then on the screen, and a small file each for `python -m pipeline status`."""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import psutil

from pipeline.common.files import read_json
from pipeline.store.artifacts import PROGRESS

NOTED = 2.0  # seconds between two states of a job's file
TERMINAL, LOG = 10.0, 60.0  # seconds between two of a job's lines: where a person looks on, and in a redirected output
SILENT = 600.0  # seconds after which a job on another machine, of which nothing else is known, counts as dead


class Progress:
    """Shows how far a job is. `log` lines go to the job's log each time; a `file` of None is of a job shown elsewhere."""

    def __init__(self, phase: str, id: str, position: str | None, screen: TextIO, file: Path | None = None):
        self.phase, self.id, self.position, self.screen, self.file = phase, id, position, screen, file
        self.every = TERMINAL if screen.isatty() else LOG
        self.since = self.said = self.start = time.time()
        self.noted = 0.0
        self.begin, self.unit = 0.0, ""

    @property
    def title(self) -> str:
        """The job's place among those to do, its phase and its id: [3/171] finetune b80-..."""
        return f"[{self.position or '-'}] {self.phase} {self.id}"

    def begin_at(self, done: float) -> None:
        """Tell that `done` units were there already, so that speed and time left count only new ones."""
        self.start, self.begin = time.time(), done

    def update(self, done: float, total: float, unit: str, note: str = "", log: bool = False) -> None:
        """Tell that `done` of `total` units are done, and in `note` what else there is to say: a loss, a task's name.

        Speed and time left count from the first time on, as start-up says nothing about them, and anew with each unit.
        """
        now = time.time()
        if unit != self.unit:
            if self.unit or not self.begin:
                self.start, self.begin = now, done
            self.unit = unit
        to_say, to_note = now - self.said >= self.every, now - self.noted >= NOTED
        if not (to_say or to_note or log):
            return
        rate = (done - self.begin) / max(now - self.start, 1e-9)
        left = (total - done) / rate if rate > 0 else None
        if to_note:
            self.note(done=done, total=total, unit=unit, note=note, rate=rate, left=left)
        line = "  ".join((self.title, *described(done, total, unit, rate, note, left)))
        if log:
            print(line, flush=True)
        if to_say:
            self.said = now
            self.say(line)

    def note(self, **state: object) -> None:
        """Leave a state of the job in its file, whole or not at all. A disk that is full ends no job here."""
        if self.file is None:
            return
        self.noted = time.time()
        who = {"phase": self.phase, "id": self.id, "since": self.since, "noted": self.noted}
        process = {"machine": platform.node(), "pid": os.getpid(), "born": psutil.Process().create_time()}
        partial = self.file.with_suffix(f".{os.getpid()}.partial")
        with suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(who | process | state), encoding="utf-8")
            os.replace(partial, self.file)

    def close(self) -> None:
        """The job has ended, one way or another."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)

    def done(self, seconds: float) -> None:
        """Show that the job has ended well, and how long it took."""
        self.say(f"{self.title}  done in {seconds:.0f} s")

    def say(self, line: str) -> None:
        """Show a line. A terminal that was closed ends no job: it has a state to save."""
        with suppress(OSError):
            print(line, file=self.screen, flush=True)


def described(done: float, total: float, unit: str, rate: float, note: str, left: float | None) -> tuple[str, ...]:
    """A state in words: what is done, its share, the speed, the note, the time left; what is not known is left out."""
    share = f"{done / total:.0%}" if total else ""
    until = "" if left is None else f"{duration(left)} left"
    cells = f"{amount(done)}/{amount(total)} {unit}", share, speed(rate), note, until
    return tuple(cell for cell in cells if cell)


def speed(rate: float) -> str:
    """Units a second; nothing if that is not known."""
    if rate <= 0:
        return ""
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


def amount(number: float) -> str:
    """A number of units, with a decimal if it is not whole."""
    return f"{number:,.0f}" if number == int(number) else f"{number:,.1f}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 12 min, 1 h 05 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60:,} h {minutes % 60:02} min"


def running(root: Path) -> list[dict]:
    """What the jobs that are at work in a folder last said of themselves. Files of dead ones are passed over."""
    entries = []
    for file in sorted((root / PROGRESS).glob("*.json")):
        with suppress(FileNotFoundError):  # it has just ended
            entry = read_json(file)
            if lives(entry):
                entries.append(entry)
    return entries


def lives(entry: dict) -> bool:
    """Whether the process of an entry is at work: the same one, not a later one with its number."""
    # Another machine's processes cannot be asked, so a job there counts as dead once it has been silent for long.
    if entry["machine"] != platform.node():
        return time.time() - entry["noted"] < SILENT
    try:
        # A number is used again after a while, so the time of birth must be the same too, but for rounding.
        return abs(psutil.Process(entry["pid"]).create_time() - entry["born"]) < 2
    except psutil.NoSuchProcess:
        return False
