"""Jobs that a server forks are, to who started them, what processes of their own would be."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from conftest import SOURCE
from faults.holding import is_gone

from pipeline.common.files import digest, read_json
from pipeline.common.parent_watch import ORPHANED, PARENT_VARIABLE
from pipeline.execution import fork_server as server_module
from pipeline.execution import processes
from pipeline.execution.fork_server import LOST, SERVER, SOCKET
from pipeline.execution.processes import STOPPED
from pipeline.store.failed_runs import note
from pipeline.study.phases import PHASES

SOON = 300  # seconds: a test fails after that, and never goes on because of it
JOBS = """
import json, os, signal, sys, time
from pathlib import Path

def main(arguments):
    what, *rest = arguments
    if what == "say":
        print(json.dumps({"pid": os.getpid(), "rest": rest, "colour": os.environ.get("COLOUR"), "imported": "pipeline.data.tokenizer" in sys.modules}))
        print("to the screen", file=sys.stderr, flush=True)
    if what == "read":
        print(sys.stdin.readline().upper(), end="")
    if what == "wait":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(main(["stopped"])))
        Path("worker").write_text(str(os.getpid()))
        time.sleep(100)
    return 3 if what == "fail" else 4 if what == "stopped" else 0
"""
SERVE = JOBS + "\nfrom pipeline.execution.fork_server import serve\nsys.exit(serve(main, int(sys.argv[1])))"
IMPORT = "import sys; from pathlib import Path; from pipeline.execution.fork_server import hand_over; print('asking', flush=True)\n"
ASK = "import sys; from pathlib import Path; from pipeline.execution.fork_server import hand_over; sys.exit(hand_over(sys.argv[1:], Path('none.json'), Path('job.log')))"
# Says when it knows the process that carries out its job, and can pass signals on to it.
ASK_AND_TELL = (
    """
import socket
make = socket.socket.makefile
def makefile(*arguments):
    replies = make(*arguments)
    read = replies.read
    replies.read = lambda: print("knows", flush=True) or read()
    return replies
socket.socket.makefile = makefile
"""
    + ASK
)
ASK_OR_5 = IMPORT + "sys.exit(5 if hand_over(['say'], Path('none.json'), None) is None else 0)"


@pytest.fixture
def start(tmp_path, monkeypatch) -> Iterator[Callable]:
    started: list[subprocess.Popen] = []
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    SOCKET.parent.mkdir()

    def begin(code: str, *arguments: str, pass_fds: tuple[int, ...] = (), **environment: str) -> subprocess.Popen:
        given = {"PYTHONPATH": str(SOURCE), PARENT_VARIABLE: str(os.getpid()), SERVER: str(SOCKET)} | environment
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, "-c", code, *arguments]
        started.append(subprocess.Popen(command, env=os.environ | given, text=True, pass_fds=pass_fds, **pipes))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def start_server(start: Callable, **environment: str) -> subprocess.Popen:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(SOCKET))
        listener.listen()
        return start(SERVE, str(listener.fileno()), pass_fds=(listener.fileno(),), **environment)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def server(start) -> subprocess.Popen:
    return start_server(start)


def worker(folder: Path) -> psutil.Process:
    """The process that carries out the job "wait"."""
    file = folder / "worker"
    wait_for(lambda: file.exists() and file.read_text())
    return psutil.Process(int(file.read_text()))


def test_a_job_has_its_own_process_arguments_environment_and_streams(start, server):
    pids = set()
    for colour in ("red", "blue"):
        output, screen = start(ASK, "say", "a b", COLOUR=colour).communicate(timeout=SOON)
        said = json.loads(output)
        assert (said["rest"], said["colour"], screen) == (["a b"], colour, "to the screen\n")
        pids.add(said["pid"])
    assert len(pids | {server.pid}) == 3
    assert start(ASK, "read").communicate("aloud\n", timeout=SOON)[0] == "ALOUD\n"


@pytest.mark.parametrize(("what", "code"), [("fail", 3), ("say", 0)])
def test_its_exit_code_is_that_of_who_asked(start, server, what, code):
    asker = start(ASK, what)
    asker.communicate(timeout=SOON)
    assert asker.returncode == code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 4), (signal.SIGINT, LOST), (signal.SIGHUP, LOST)])
def test_signals_are_passed_on(start, server, tmp_path, number, code):
    """The job has a way with SIGTERM; a SIGINT is a KeyboardInterrupt, and a SIGHUP the end. None is the server's."""
    asker = start(ASK_AND_TELL, "wait")
    job = worker(tmp_path)
    assert asker.stdout.readline() == "knows\n"
    server.send_signal(signal.SIGHUP)
    asker.send_signal(number)
    assert asker.wait(timeout=SOON) == code
    assert is_gone(job)
    assert server.poll() is None


def test_a_killed_job_is_named(start, server, tmp_path):
    (tmp_path / "none.json").write_text('{"card": {"id": "b80"}}')
    asker = start(ASK, "wait")
    worker(tmp_path).kill()
    _, screen = asker.communicate(timeout=SOON)
    assert asker.returncode == LOST
    reason = "the process that carried it out was killed (out of memory?)"
    assert screen == f"none.json: {reason}\n"
    assert (tmp_path / "job.log").read_text() == f"{reason}\n"
    assert read_json(note(tmp_path / "job.log")) == {"card": digest({"id": "b80"}), "reason": reason}


@pytest.mark.parametrize("number", processes.SIGNALS)
def test_who_is_told_to_stop_before_its_job_has_begun_says_so(start, server, number):
    server.send_signal(signal.SIGSTOP)  # as if it were importing
    asker = start(ASK_OR_5)
    assert asker.stdout.readline() == "asking\n"
    time.sleep(0.2)
    asker.send_signal(number)
    assert asker.wait(timeout=SOON) == STOPPED
    assert asker.stderr.readline() == f"none.json: stopped by {number.name}; the same command goes on\n"


def test_what_stops_a_job_is_the_same_for_who_waits_and_who_works():
    """The module of those who wait imports nothing heavy, so it says these once more."""
    assert server_module.SIGNALS == processes.SIGNALS
    assert server_module.STOPPED == processes.STOPPED


def test_a_job_ends_with_who_asked(start, server, tmp_path):
    asker = start(ASK, "wait")
    job = worker(tmp_path)
    asker.kill()
    wait_for(lambda: is_gone(job))
    assert start(ASK, "fail").wait(timeout=SOON) == 3  # and the server goes on


def test_a_server_that_dies_takes_no_job_along(start, server, tmp_path):
    asker = start(ASK, "wait")
    job = worker(tmp_path)
    server.kill()
    server.wait()
    job.terminate()
    assert asker.wait(timeout=SOON) == 4


def test_a_server_ends_with_its_owner(start):
    owner = start("import time; time.sleep(100)")
    process = start_server(start, **{PARENT_VARIABLE: str(owner.pid)})
    assert start(ASK, "fail").wait(timeout=SOON) == 3  # it is there
    owner.kill()
    owner.wait()
    assert process.wait(timeout=SOON) == ORPHANED


def test_who_hangs_up_does_no_harm(start, server):
    for said in (b"", b"\n", b"\n{"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(SOCKET))
            connection.sendall(said)
    assert start(ASK, "fail").wait(timeout=SOON) == 3


@pytest.mark.parametrize("left_behind", [True, False])
def test_without_a_server_nobody_is_asked(start, server, left_behind):
    server.kill()
    server.wait()
    if not left_behind:
        SOCKET.unlink()
    assert start(ASK_OR_5).wait(timeout=SOON) == 5


def test_who_waits_for_a_server_that_dies_does_the_job_itself(start, server):
    server.send_signal(signal.SIGSTOP)
    asker = start(ASK_OR_5)
    assert asker.stdout.readline() == "asking\n"
    time.sleep(0.2)
    server.kill()
    assert asker.wait(timeout=SOON) == 5


def test_a_phase_is_imported_once(start, server, tmp_path):
    (tmp_path / "job.json").write_text(json.dumps({"card": {"phase": "tokenizer"}}))
    ask = ASK.replace("none.json", "job.json")
    before, _ = start(ASK, "say").communicate(timeout=SOON)
    start(ask, "say").communicate(timeout=4 * SOON)
    after, _ = start(ASK, "say").communicate(timeout=SOON)
    assert [json.loads(said)["imported"] for said in (before, after)] == [False, True]


@pytest.mark.nightly
@pytest.mark.parametrize("phase", [name for name, phase in PHASES.items() if phase.preload])
def test_what_a_phase_imports_late_is_imported_before_jobs_are_forked(tmp_path, phase):
    """And without threads, which a fork would leave behind: none but the own ones of OpenBLAS and, where it is installed, Arrow."""
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"card": {"phase": phase}}))
    code = f"""
import os, sys, threading
from pathlib import Path
import numpy, pandas, scipy.special
from pipeline.study.phases import PHASES
from pipeline.execution.fork_server import import_phase
threads = lambda: (threading.active_count(), len(os.listdir("/proc/self/task")))
before = threads()
import_phase(Path({str(job)!r}))
assert threads() == before, (before, threads())
assert before[0] == 1
assert sys.modules.keys() >= set(PHASES[{phase!r}].preload), sorted(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=SOURCE, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


@pytest.mark.nightly
def test_what_every_trainer_asks_of_the_machine_is_asked_before_jobs_are_forked(tmp_path):
    """Composer's trainer starts a process that looks at the processor, unless it is known."""
    job = tmp_path / "job.json"
    job.write_text('{"card": {"phase": "cooldown"}}')
    code = f"""
import signal
from pathlib import Path
from pipeline.execution.fork_server import import_phase
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as in the server
import_phase(Path({str(job)!r}))
import subprocess
subprocess.Popen = None
from composer.utils import get_composer_env_dict
print(get_composer_env_dict(), signal.getsignal(signal.SIGCHLD).name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=SOURCE, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
