"""Which processes are at work in this folder. Locks of dead ones are removed, and no job outlives its Snakemake.

After `kill -9` of Snakemake its jobs would go on, unknown to the next run, and its lock would refuse that run; after
one of DVC, so would Snakemake. So each job ends with its Snakemake, and Snakemake with its DVC.

SIGTERM (preemption, a time limit), SIGINT (Ctrl-C) and SIGHUP (the terminal was closed) are requests to stop: a job that
trains saves its state after the update it is in, any other ends where it is, and Snakemake waits for its jobs.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import shlex
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import NoReturn, TextIO

import psutil

from pipeline.common.files import stable_json
from pipeline.common.parent_watch import SHELLS, end_with

RUNNING = Path(".study/running")
STOPPED = 85  # exit code of a job that was told to stop (ERESTART: the same job again goes on)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def heeded() -> list[signal.Signals]:
    """The requests to stop that this process heeds: not SIGHUP if `nohup` has started it."""
    return [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def let_go(*descriptors: int) -> None:
    """Send what is written to closed terminals to /dev/null: writing there is an error that would end the process."""
    for descriptor in descriptors:
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


class Stopped(Exception):
    """A job was told to stop and has saved what it needs to go on. Says where it stopped."""


def nothing() -> None:
    """What a job does last that was told to stop, where it need do nothing more."""


class StopRequest:
    """Whether this process has been told to stop.

    It then ends at once, as after `kill -9` but with a line that says so, unless it has said that it would rather
    come to an end by itself (`defer`). A second Ctrl-C ends it in any case.
    """

    def __init__(self) -> None:
        self.asked: str | None = None  # the name of the first signal
        self.deferred = False
        self.interrupts = 0
        self.process: int | None = None
        self.title: str | None = None  # what stops; None: somebody else tells the user
        self.screen: TextIO | None = None  # None: standard error, where otherwise the log is
        self.when_stopped: Callable[[], None] = nothing  # the last thing that a job does which was told to stop

    def listen(self) -> None:
        """From now on signals are requests to stop. Also those that came while they were blocked."""
        self.process = os.getpid()
        for number in heeded():
            signal.signal(number, self.on_signal)
        # A process inherits its starter's mask: `train` blocks signals while it starts the ranks.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    @contextmanager
    def signals_blocked(self) -> Iterator[None]:
        """Hold back requests to stop during an import: Composer installs signal handlers of its own when it is imported.

        Ours are put back before the requests come through.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            if self.process is None:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            else:
                self.listen()

    def on_signal(self, number: int, _: object) -> None:
        if os.getpid() != self.process:
            os._exit(STOPPED)  # a forked helper: it has nothing to save and nothing to say
        self.asked = self.asked or signal.Signals(number).name
        self.interrupts += number == signal.SIGINT
        if number == signal.SIGHUP:
            let_go(1, 2, *([self.screen.fileno()] if self.screen else []))
        if not self.deferred or self.interrupts > 1:
            self.say(f"stopped by {self.asked}")
            self.when_stopped()
            os._exit(STOPPED)

    def close(self) -> None:
        """From now on signals change nothing: the job is done, and the interpreter's own end takes a while."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def say(self, line: str) -> None:
        """Tell the log and the screen. Unbuffered: a signal may come in the middle of another line."""
        if self.title:
            screen = self.screen.fileno() if self.screen else 2
            with suppress(OSError):  # a terminal that was closed
                os.write(screen, f"{self.title}: {line}; the same command goes on\n".encode())
            if screen != 2:
                os.write(2, f"{line}\n".encode())

    def defer(self) -> None:
        """From now on this process goes on when it is told to stop: until it finds that it was `asked`, or is done."""
        self.deferred = True

    def raise_stopped(self, where: str) -> NoReturn:
        """End a job that was asked to stop and has saved its state. `where`: "after step 12 of 40"."""
        raise Stopped(where)


STOP = StopRequest()  # this process's


def stop_jobs_below(pid: int, every: float = 0.5) -> None:
    """Tell all jobs below a process to stop, and those that begin after; for a thread that ends with the process.

    Telling a job twice changes nothing.
    """
    while True:
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    # Jobs alone: what stands between them and this process ends when they have ended.
                    if "-m pipeline run" in " ".join(process.cmdline()):
                        process.terminate()
        time.sleep(every)


def end_with_dvc() -> None:
    """End this process when the `dvc` that started it does, if one did."""
    if "DVC_STAGE" in os.environ:
        # DVC sets this variable for its commands, but not who it is.
        above = [process for process in psutil.Process().parents() if process.name() not in SHELLS]
        if above:
            end_with(above[0].pid)


class Presence:
    """This process's entry among those at work in the folder, for as long as it lives.

    The entry is a file that its process holds a lock on: the system drops the lock when the process dies, however it
    dies, so an entry without a lock is of a dead process. Works across machines where the file system's locks do.
    """

    def __init__(self, root: Path):
        self.folder = root / RUNNING
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / f"{os.uname().nodename}-{os.getpid()}.json"
        partial = self.file.with_suffix(".partial")
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        since = datetime.now().isoformat(sep=" ", timespec="seconds")
        partial.write_text(
            stable_json({"machine": os.uname().nodename, "pid": os.getpid(), "since": since} | {"command": command})
        )
        # Locked before the file has its name, so that nobody finds it without its lock and takes it for a dead
        # process's.
        self.handle = open(partial, "r+")  # noqa: SIM115 (held until the process ends)
        fcntl.flock(self.handle, fcntl.LOCK_EX)
        os.replace(partial, self.file)
        atexit.register(self.file.unlink, missing_ok=True)

    def others(self) -> list[dict]:
        """The other living processes in the folder. Entries of dead ones are deleted."""
        alive = []
        for file in sorted(self.folder.glob("*.json")):
            if file == self.file:
                continue
            try:
                with open(file, "r+") as handle:  # writable: network file systems ask for it
                    try:
                        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        file.unlink()  # unread: what a machine that was switched off has left may be empty
                    except BlockingIOError:
                        alive.append(json.load(handle))
            except FileNotFoundError:
                continue  # it ended, or another process has just tidied up
        return alive


@contextmanager
def alone(lock: Path, patience: float = 5.0) -> Iterator[None]:
    """Be the only process that is in such a block with this file. An orphan leaves within `patience` seconds.

    Raises ValueError that names the process which is there. The file stays: who deletes it would let in a third one.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    give_up = time.monotonic() + patience
    # "a+" makes the file if there is none, and keeps what the process that holds it has written.
    with open(lock, "a+") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    handle.seek(0)
                    raise ValueError(f"already at work: {handle.read() or 'another process'}") from None
                time.sleep(0.1)
        with suppress(OSError):  # a full disk is the job's to find
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {os.uname().nodename}")
            handle.flush()
        yield


def at_work(other: dict) -> str:
    """An entry of a process that is present, in words."""
    return f"at work in this folder since {other['since']}: process {other['pid']} on {other['machine']}: {other['command']}"


def remove_stale_locks(root: Path, presence: Presence, patience: float = 5.0) -> str | None:
    """Remove Snakemake's locks if nobody is left who could hold them; else say who is at work.

    Its marks of incomplete outputs go with them: they would rerun a job that was done just before Snakemake was
    killed, and what is incomplete has no card. A planning run (`-n`) or an orphan is gone within `patience` seconds; a run at work keeps its locks.
    """
    locks = root / ".snakemake" / "locks"
    give_up = time.monotonic() + patience
    while locks.exists() and any(locks.iterdir()):
        others = presence.others()
        if not others:
            shutil.rmtree(locks, ignore_errors=True)
        elif time.monotonic() > give_up:
            return at_work(others[0])
        else:
            time.sleep(0.2)
    shutil.rmtree(root / ".snakemake" / "incomplete", ignore_errors=True)
    return None
