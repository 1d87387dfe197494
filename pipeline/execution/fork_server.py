"""A server that imports what jobs need once, when the first job needs it, and forks a process for each job.

Importing Composer alone takes some eight CPU-seconds, more than many a job's own work at the smallest scales. Snakemake
starts the server on its own machine before its first job; `python -m pipeline run` hands its job over, passes signals
on, and ends as the job does. Without a server (on a cluster's nodes, for GPUs, by hand) it carries the job out itself.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

SERVER = "WHEN_IMAGES_SERVER"  # environment variable: the server's socket
SOCKET = Path(".study/server.sock")
# As in pipeline/execution/processes.py, which is slow to import for those who only wait, and not to be imported by an answer to a signal.
SIGNALS, STOPPED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP), 85
LOST = 70  # exit code for a job whose process did not live to say one
_connection: socket.socket | None = None  # of a forked process, to those who wait for it; open until it ends


def start() -> None:
    """Start a server for this folder, which ends with this process. Who comes before it is ready waits for it."""
    SOCKET.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(SOCKET))
        listener.listen(64)
        place = listener.fileno()
        subprocess.Popen(
            [sys.executable, "-m", "pipeline", "serve", str(place)], stdin=subprocess.DEVNULL, pass_fds=[place]
        )
    os.environ[SERVER] = str(SOCKET)


def hand_over(arguments: list[str], job: Path, log: Path | None) -> int | None:
    """Have the server run `python -m pipeline ARGUMENTS`, which is about a job. Its exit code; None without a server."""
    workers: list[int] = []

    def on_signal(number: int, _: object) -> None:
        """Pass a signal on; before there is anybody to pass it on to, the job has not begun."""
        if not workers:
            with suppress(OSError):  # a terminal that was closed
                os.write(2, f"{job}: stopped by {signal.Signals(number).name}; the same command goes on\n".encode())
            os._exit(STOPPED)
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(workers[0], number)

    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # ignored: `nohup` has started this
            signal.signal(number, on_signal)
    request = {"arguments": arguments, "job": str(job), "pid": os.getpid(), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile() as replies:
        try:
            connection.connect(os.environ[SERVER])
            socket.send_fds(connection, [b"\n"], [0, 1, 2])
            connection.sendall(json.dumps(request).encode())
            connection.shutdown(socket.SHUT_WR)
            worker = replies.readline()
        except OSError:
            return None
        if not worker:
            return None
        workers.append(int(worker))
        code = replies.read()  # all of it: until the process has ended
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the job has ended, and says how
    if not code:
        say_killed(job, log)
    return int(code or LOST)


def say_killed(job: Path, log: Path | None) -> None:
    """Tell the screen, the log and the tables (see pipeline/store/failed_runs.py) that a job's process did not live to say a word."""
    from pipeline.common.files import digest, read_json
    from pipeline.store.failed_runs import note_failure

    reason = "the process that carried it out was killed (out of memory?)"
    print(f"{job}: {reason}", file=sys.stderr)
    with suppress(OSError):
        if log:
            with open(log, "a") as file:
                file.write(f"{reason}\n")
            note_failure(log, digest(read_json(job)["card"]), reason)


def serve(main: Callable[[list[str]], int], place: int) -> int:
    """Fork a process for every request to the socket that was inherited as file descriptor `place`.

    Returns in that process: the exit code of `main` with the request's arguments.
    """
    import psutil

    from pipeline.common.parent_watch import PARENT_VARIABLE, PARENTS, end_if_orphaned

    before: dict[int, Any] = {}
    # Looked after between requests: a thread for it could hold a lock when the process forks.
    PARENTS.append(psutil.Process(int(os.environ[PARENT_VARIABLE])))
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal's: those who wait for jobs pass it on
        before[number] = signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # none but those who wait for a job ask how it ended
    with socket.socket(fileno=place) as listener:
        while True:
            end_if_orphaned()
            if select.select([listener], [], [], 0.5)[0]:
                connection, _ = listener.accept()
                with suppress(OSError, ValueError):  # who asked was killed meanwhile
                    request, streams = receive(connection)
                    import_phase(Path(request["job"]))
                    if os.fork() == 0:
                        break
                    for stream in streams:
                        os.close(stream)
                connection.close()
    signal.signal(signal.SIGHUP, before[signal.SIGHUP])
    return carry_out(main, connection, request, streams)


def receive(connection: socket.socket) -> tuple[dict, list[int]]:
    """A request and the streams that it came with: standard input, output and error."""
    connection.settimeout(10)
    _, streams, *_ = socket.recv_fds(connection, 1, 3)
    with connection.makefile() as said:
        request = json.load(said)
    connection.settimeout(None)
    return request, streams


def import_phase(job: Path) -> None:
    """Import what a job's phase needs, once and for all. If that fails, the job itself will say why."""
    from pipeline.common.files import read_json
    from pipeline.study.phases import PHASES

    with suppress(OSError, ValueError, LookupError, ImportError):
        importlib.import_module("pipeline.execution.run")
        phase = read_json(job)["card"]["phase"]
        for name in (PHASES[phase].module, *PHASES[phase].preload):
            importlib.import_module(name)
    asks = sys.modules.get("composer.utils.collect_env")
    if asks and not asks.get_cpu_model.cache_info().currsize:
        # Every trainer wants to know, which takes a process and a second. That waits for processes of its own, in vain
        # where nobody is told of their ends.
        ignored = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        asks.get_cpu_model()
        signal.signal(signal.SIGCHLD, ignored)
    gc.collect()
    gc.freeze()  # what is there stays as it is, in memory that all jobs share


def carry_out(main: Callable[[list[str]], int], connection: socket.socket, request: dict, streams: list[int]) -> int:
    """In a forked process: do what a request asks, in the place of who sent it."""
    global _connection
    from pipeline.common.parent_watch import PARENTS, end_with

    _connection = connection
    for number in (signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.default_int_handler)
    os.setpgid(0, 0)  # a terminal's signals come by way of who sent the request, and once
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["environment"])
    del os.environ[SERVER]
    PARENTS.clear()
    connection.sendall(f"{os.getpid()}\n".encode())
    end_with(request["pid"])
    try:
        code = main(request["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    connection.sendall(f"{code}\n".encode())
    return code
