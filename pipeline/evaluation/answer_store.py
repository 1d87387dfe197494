"""Answers of batches, shared out over processes and kept until the evaluation is done.

Which prompts make a batch, and in which order batches come, does not depend on who answers them: the answers are the
same bits for any number of processes, and after a restart.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.common.files import ANY_TEXT, digest
from pipeline.common.parent_watch import end_with


class Answers:
    """The answers of every batch that was answered so far, by its key; files of lines {"key", "answers", "digest"}.

    Of the batches that nobody has answered yet, this process answers every `processes`-th, beginning with its own
    number. Without a folder nothing is kept.
    """

    def __init__(self, folder: Path | None = None, process: int = 0, processes: int = 1):
        self.process, self.processes = process, processes
        self.turns: dict[tuple, int] = {}  # keys in the order in which they are first asked for
        self.known: dict[tuple, list] = {}
        self.file: Path | None = None
        if folder:
            self.file = folder / f"{process}.jsonl"
            folder.mkdir(parents=True, exist_ok=True)
            for file in sorted(folder.glob("*.jsonl")):
                self.known |= read_answers(file)
            if self.file.exists():
                with open(self.file, "a", encoding="utf-8") as mine:
                    mine.write("\n")  # ends a line that a kill cut off

    def get(self, key: tuple, answer: Callable[[], list]) -> list | None:
        """A batch's answers (texts or numbers); None if another process is to answer it and has not yet."""
        mine = self.turns.setdefault(key, len(self.turns)) % self.processes == self.process
        # A turn goes to a key when it is first asked for, known or not: otherwise a restarted process would answer
        # batches that fall to another one.
        if key not in self.known and mine:
            self.known[key] = answer()
            if self.file:
                # JSON keeps every bit of a float: Python writes the shortest text that reads back as the same number.
                entry = {"key": key, "answers": self.known[key]}
                with open(self.file, "a", **ANY_TEXT) as file:
                    file.write(json.dumps(entry | {"digest": digest(json.dumps(entry))}, ensure_ascii=False) + "\n")
        return self.known.get(key)


def read_answers(file: Path) -> dict[tuple, list]:
    """Key -> answers of a file's lines; one that a kill cut off or that was damaged counts as not written."""
    found = {}
    # Bytes: a damaged line may be no UTF-8, and must not hide the lines after it.
    with open(file, "rb") as lines:
        for line in lines:
            try:
                entry = json.loads(line.decode(**ANY_TEXT))
                written = entry.pop("digest")
            except (ValueError, KeyError):
                continue
            if digest(json.dumps(entry)) == written:
                found[tuple(entry["key"])] = entry["answers"]
    return found


@contextmanager
def helpers(work: Callable[..., None], count: int, *arguments: object) -> Iterator[None]:
    """Run `work(*arguments, n)` in processes n = 1 ... count beside the block, and wait for them at its end.

    They end when this process ends. Raises RuntimeError if one fails; the reason is in the log.
    """
    # Not forked: CUDA cannot be used in a fork of a process that has used it.
    context = multiprocessing.get_context("spawn")
    started = [
        context.Process(target=_help, args=(work, os.getpid(), *arguments, number), daemon=True)
        for number in range(1, count + 1)
    ]
    for process in started:
        process.start()
    try:
        yield
        for number, process in enumerate(started, 1):
            process.join()
            if process.exitcode:
                raise RuntimeError(f"process {number} of the evaluation ended with exit code {process.exitcode}")
    finally:
        for process in started:
            process.terminate()


def _help(work: Callable[..., None], owner: int, *arguments: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; the owner ends this process
    end_with(owner)
    work(*arguments)
