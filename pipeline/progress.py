"""One line now and then that says how far a job is."""

from __future__ import annotations

import time
from typing import TextIO


class Progress:
    """Prints a job's progress at most every `every` seconds; `log` lines go to the job's log each time."""

    def __init__(self, title: str, screen: TextIO, every: float = 10.0):
        self.title, self.screen, self.every = title, screen, every
        self.start = self.last = time.time()
        self.begin = 0

    def begin_at(self, done: int) -> None:
        """Tell that `done` units were there already, so that speed and time left count only new ones."""
        self.start, self.begin = time.time(), done

    def update(self, done: int, total: int, unit: str, note: str = "", log: bool = False) -> None:
        now = time.time()
        if now - self.last < self.every and not log:
            return
        rate = (done - self.begin) / max(now - self.start, 1e-9)
        left = (total - done) / rate if rate else float("inf")
        line = f"{self.title}  {done:,}/{total:,} {unit}  {rate:,.0f}/s  {note}  {left:.0f} s left"
        if log:
            print(line, flush=True)
        if now - self.last >= self.every:
            self.last = now
            print(line, file=self.screen, flush=True)

    def done(self, seconds: float) -> None:
        print(f"{self.title}  done in {seconds:.0f} s", file=self.screen, flush=True)
