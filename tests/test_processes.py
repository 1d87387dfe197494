"""Who is at work in a folder: the living are seen, the dead are tidied away, and nothing outlives its owner."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from conftest import SOURCE

from pipeline.common.files import read_json
from pipeline.common.parent_watch import ORPHANED
from pipeline.engines.workflow import Workflow, commit
from pipeline.execution.processes import RUNNING, SIGNALS, STOPPED, Presence, remove_stale_locks
from pipeline.store.failed_runs import note_failure

SOON = 300.0  # seconds: a test fails after that, and never goes on because of it

IS_PRESENT = """
import sys, time
from pathlib import Path
from pipeline.execution.processes import Presence
presence = Presence(Path(sys.argv[1]))
print("ready", flush=True)
time.sleep(float(sys.argv[2]))
"""
HAS_A_CHILD = """
import subprocess, sys, time
from pathlib import Path
from pipeline.execution.processes import Presence
presence = Presence(Path(sys.argv[1]))
print(subprocess.Popen(["sleep", "100"], stdout=subprocess.DEVNULL).pid, flush=True)
time.sleep(100)
"""
ENDS_WITH = """
import sys, time
from pipeline.common.parent_watch import end_with
end_with(int(sys.argv[1]))
print("ready", flush=True)
time.sleep(100)
"""
PUTS_INTO_PLACE = """
import sys
from pipeline.common import parent_watch
parent_watch.time.sleep = lambda seconds: parent_watch.threading.Event().wait()  # it looks once, and never again by itself
parent_watch.end_with(int(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
parent_watch.end_if_orphaned()
print("put into place", flush=True)
"""
ENDS_WITH_DVC = """
import os, time
from pipeline.execution.processes import end_with_dvc
end_with_dvc()
print(os.getpid(), flush=True)
time.sleep(100)
"""
COUNTS_THREADS = """
import threading
from pipeline.execution.processes import end_with_dvc
end_with_dvc()
print(threading.active_count())
"""
IS_ASKED = """
import sys, time
from pipeline.execution.processes import STOP
STOP.title, deferred, during = "pretrain text", *map(int, sys.argv[1:])
STOP.listen()
with STOP.signals_blocked():
    import signal
    signal.signal(signal.SIGTERM, lambda *_: print("an answer of its own", flush=True))
    if during:
        print("ready", flush=True)
        sys.stdin.readline()
if deferred:
    STOP.defer()
print("ready", flush=True)
while not STOP.asked:
    time.sleep(0.01)
print("asked by", STOP.asked, flush=True)
if deferred > 1:
    time.sleep(100)
STOP.close()
signal.raise_signal(signal.SIGTERM)
print("done", flush=True)
"""
HAS_JOBS = """
import os, subprocess, sys, time
from pipeline.execution.processes import stop_jobs_below
job = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('ready', flush=True); signal.pause()"
jobs = [subprocess.Popen([sys.executable, "-c", job, *words], stdout=subprocess.PIPE, text=True) for words in (
    ["-m", "pipeline", "run", "job.json"], ["-m", "pipeline", "rank", "job.json"])]
assert [job.stdout.readline() for job in jobs] == ["ready\\n"] * 2
import threading
threading.Thread(target=stop_jobs_below, args=[os.getpid(), 0.05], daemon=True).start()
print(jobs[0].wait(), flush=True)
late = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)", "-m", "pipeline", "run", "late.json"])
print(late.wait(), jobs[1].poll(), flush=True)
jobs[1].kill()
"""
STARTS_A_SHELL = """
import shlex, subprocess, sys
subprocess.run(["sh", "-c", shlex.join([sys.executable, "-c", sys.argv[1]]) + "; true"])
"""


@pytest.fixture
def start() -> Iterator[Callable]:
    """A function that starts Python code in a process of its own, which ends with the test."""
    started = []

    def begin(code: str, *arguments: object, **environment: str) -> subprocess.Popen:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        path = {"PYTHONPATH": str(SOURCE)}
        process = subprocess.Popen(
            command, env=os.environ | path | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def said(process: subprocess.Popen) -> str:
    """The next line that a process writes."""
    return process.stdout.readline().strip()


@pytest.fixture
def neighbour(start, tmp_path) -> Callable:
    """A function that starts another process at work in the folder."""

    def begin(seconds: float = 100) -> subprocess.Popen:
        process = start(IS_PRESENT, tmp_path, seconds)
        assert said(process) == "ready"
        return process

    return begin


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SOON
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def is_gone(pid: int) -> bool:
    """Whether a process has ended, whether or not anybody has asked for its exit code."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# Presence


def entries(root: Path) -> list[str]:
    return sorted(file.name for file in (root / RUNNING).iterdir())


def test_a_process_alone_sees_nobody(tmp_path):
    presence = Presence(tmp_path)
    assert presence.others() == []
    assert entries(tmp_path) == [presence.file.name]


def test_an_entry_says_who_and_since_when(tmp_path):
    presence = Presence(tmp_path)
    entry = json.loads(presence.file.read_text())
    assert (entry["pid"], entry["machine"]) == (os.getpid(), os.uname().nodename)
    assert entry["since"].startswith("20") and entry["command"]


def test_a_living_process_is_seen_however_often_one_looks(tmp_path, neighbour):
    presence = Presence(tmp_path)
    pid = neighbour().pid
    for _ in range(3):
        assert [other["pid"] for other in presence.others()] == [pid]


def test_it_does_not_matter_who_came_first(tmp_path, neighbour):
    pids = {neighbour().pid, neighbour().pid}
    assert {other["pid"] for other in Presence(tmp_path).others()} == pids


def test_a_killed_process_is_not_seen_and_its_entry_goes(tmp_path, neighbour):
    presence = Presence(tmp_path)
    dead, alive = neighbour(), neighbour()
    kill(dead)
    assert len(entries(tmp_path)) == 3
    assert [other["pid"] for other in presence.others()] == [alive.pid]
    assert len(entries(tmp_path)) == 2


def test_an_entry_that_a_switched_off_machine_has_left_empty_goes(tmp_path, neighbour):
    presence = Presence(tmp_path)
    pid = neighbour().pid
    (presence.folder / "node-1.json").write_text("")
    assert [other["pid"] for other in presence.others()] == [pid]
    assert len(entries(tmp_path)) == 2


def test_a_process_that_ends_takes_its_entry_along(tmp_path, neighbour):
    assert neighbour(seconds=0).wait() == 0
    assert entries(tmp_path) == []


def test_the_orphans_of_a_killed_process_do_not_keep_it_alive(tmp_path, start):
    presence = Presence(tmp_path)
    process = start(HAS_A_CHILD, tmp_path)
    orphan = psutil.Process(int(said(process)))
    try:
        assert [other["pid"] for other in presence.others()] == [process.pid]
        kill(process)
        assert presence.others() == []
        assert not is_gone(orphan.pid)
    finally:
        orphan.kill()


def test_a_process_in_another_folder_is_not_seen(tmp_path, neighbour):
    neighbour()
    assert Presence(tmp_path / "elsewhere").others() == []


def test_an_entry_that_another_process_tidies_up_meanwhile_is_none(tmp_path, neighbour, monkeypatch):
    presence = Presence(tmp_path)
    kill(neighbour())
    glob = Path.glob

    def late(folder: Path, pattern: str) -> list[Path]:
        found = list(glob(folder, pattern))
        for file in found:
            if file != presence.file:
                file.unlink()
        return found

    monkeypatch.setattr(Path, "glob", late)
    assert presence.others() == []


def test_an_entry_that_another_process_is_tidying_up_does_no_harm(tmp_path, neighbour, monkeypatch):
    presence = Presence(tmp_path)
    kill(neighbour())

    def another_was_faster(handle, _):
        Path(handle.name).unlink()
        raise BlockingIOError

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.execution.processes.fcntl.flock", another_was_faster)
        assert len(presence.others()) <= 1
    assert presence.others() == []


# Snakemake's locks


@pytest.fixture
def locks(tmp_path) -> Path:
    folder = tmp_path / ".snakemake/locks"
    folder.mkdir(parents=True)
    for name in ("0.input.lock", "0.output.lock"):
        (folder / name).write_text("results/table1.csv\n")
    return folder


def is_locked(locks: Path) -> bool:
    return locks.exists() and any(locks.iterdir())


def test_locks_go_when_nobody_is_there(tmp_path, locks):
    assert remove_stale_locks(tmp_path, Presence(tmp_path)) is None
    assert not is_locked(locks)
    assert locks.parent.exists()


@pytest.mark.parametrize("first", [True, False])
def test_of_two_that_begin_at_once_the_one_that_is_refused_names_the_other(project, start, monkeypatch, capsys, first):
    """Both have looked before either of them had Snakemake's lock."""
    monkeypatch.setattr("pipeline.engines.workflow.end_with_dvc", lambda: None)
    at_exit = []
    monkeypatch.setattr("pipeline.engines.workflow.atexit.register", lambda function, **_: at_exit.append(function))
    workflow = Workflow(project.root, {}, main=True)
    other = start(IS_PRESENT, project.root, 100)
    assert said(other) == "ready"
    (project.root / ".snakemake/locks").mkdir(parents=True)
    (project.root / ".snakemake/locks/0.input.lock").touch()
    workflow.started = first
    for function in at_exit:
        function()
    screen = capsys.readouterr().err
    assert (f"process {other.pid} on " in screen) != first


def test_locks_of_a_killed_process_go(tmp_path, locks, neighbour):
    kill(neighbour())
    assert remove_stale_locks(tmp_path, Presence(tmp_path)) is None
    assert not is_locked(locks)


def test_locks_of_a_living_process_stay_and_it_is_named(tmp_path, locks, neighbour):
    process = neighbour()
    line = remove_stale_locks(tmp_path, Presence(tmp_path), patience=0.1)
    assert f"process {process.pid} on {os.uname().nodename}" in line
    assert line.splitlines() == [line]
    assert len(list(locks.iterdir())) == 2
    kill(process)
    assert remove_stale_locks(tmp_path, Presence(tmp_path), patience=0.1) is None
    assert not is_locked(locks)


def test_a_process_that_is_about_to_end_is_waited_for(tmp_path, locks, neighbour):
    process = neighbour(seconds=0.5)
    assert remove_stale_locks(tmp_path, Presence(tmp_path), patience=SOON) is None
    assert not is_locked(locks)
    assert process.wait() == 0


def test_locks_that_their_owner_removes_are_waited_for(tmp_path, locks, neighbour, monkeypatch):
    neighbour()
    monkeypatch.setattr(time, "sleep", lambda _: shutil.rmtree(locks))
    assert remove_stale_locks(tmp_path, Presence(tmp_path), patience=SOON) is None


@pytest.mark.parametrize("empty", [False, True])
def test_without_locks_nobody_is_waited_for(tmp_path, neighbour, monkeypatch, empty):
    neighbour()
    if empty:
        (tmp_path / ".snakemake/locks").mkdir(parents=True)
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waited"))
    assert remove_stale_locks(tmp_path, Presence(tmp_path)) is None


# Ends


@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "zombie"])
def test_a_process_ends_with_its_owner(start, reaped):
    owner = start("import time; time.sleep(100)")
    process = start(ENDS_WITH, owner.pid)
    assert said(process) == "ready"
    assert process.poll() is None
    owner.kill()
    if reaped:
        owner.wait()
    assert process.wait(timeout=SOON) == ORPHANED


def test_a_process_whose_owner_is_gone_ends_at_once(start):
    owner = start("")
    owner.wait()
    process = start(ENDS_WITH, owner.pid)
    assert process.wait(timeout=SOON) == ORPHANED
    assert said(process) == ""


@pytest.mark.parametrize("killed", [False, True])
def test_an_orphan_puts_nothing_into_place(start, killed):
    owner = start("import time; print('ready', flush=True); time.sleep(100)")
    assert said(owner) == "ready"
    process = start(PUTS_INTO_PLACE, owner.pid)
    assert said(process) == "ready"
    if killed:
        kill(owner)
    output, _ = process.communicate("go on\n", timeout=SOON)
    assert (process.returncode, output) == ((ORPHANED, "") if killed else (0, "put into place\n"))


def test_under_dvc_a_process_ends_with_what_started_the_shell(start):
    dvc = start(STARTS_A_SHELL, ENDS_WITH_DVC, DVC_STAGE="pretrain")
    pid = int(said(dvc))
    assert not is_gone(pid)
    kill(dvc)
    assert wait_for(lambda: is_gone(pid))


def test_without_dvc_a_process_ends_when_it_likes(start, monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    assert said(start(COUNTS_THREADS)) == "1"  # none waits for another process


# Stops


@pytest.mark.parametrize("number", SIGNALS)
def test_a_process_that_is_told_to_stop_says_so_and_ends(start, number):
    process = start(IS_ASKED, 0, 0)
    assert said(process) == "ready"
    process.send_signal(number)
    assert process.wait(timeout=SOON) == STOPPED
    assert said(process) == ""


@pytest.mark.parametrize(("deferred", "code"), [("0", STOPPED), ("1", 0)])
def test_a_process_whose_terminal_is_closed_stops_or_first_comes_to_a_good_point(deferred, code):
    """What it then says goes nowhere: it is no error."""
    process, terminal = pty.fork()
    if process == 0:
        os.execve(
            sys.executable, [sys.executable, "-c", IS_ASKED, deferred, "0"], os.environ | {"PYTHONPATH": str(SOURCE)}
        )
    with open(terminal, "rb", buffering=0, closefd=False) as screen:
        assert screen.read(5) == b"ready"
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == code


def test_a_process_that_nohup_started_goes_on_when_the_terminal_is_closed(start):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start(IS_ASKED, 1, 0)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert said(process) == "ready"
    process.send_signal(signal.SIGHUP)
    process.terminate()
    assert said(process) == "asked by SIGTERM"


def test_it_says_who_stopped_and_that_the_same_command_goes_on(start, tmp_path):
    with open(tmp_path / "screen", "w") as screen:
        process = subprocess.Popen(
            [sys.executable, "-c", IS_ASKED, "0", "0"],
            env=os.environ | {"PYTHONPATH": str(SOURCE)},
            stdout=subprocess.PIPE,
            stderr=screen,
            text=True,
        )
        assert said(process) == "ready"
        process.terminate()
        process.communicate()
    assert (tmp_path / "screen").read_text() == "pretrain text: stopped by SIGTERM; the same command goes on\n"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_process_may_first_come_to_a_good_point_and_is_not_stopped_after_it(start, number):
    process = start(IS_ASKED, 1, 0)
    assert said(process) == "ready"
    process.send_signal(number)
    assert said(process) == f"asked by {number.name}"
    assert said(process) == "done"
    assert process.wait(timeout=SOON) == 0


@pytest.mark.parametrize(
    ("first", "second", "ends"),
    [
        ("SIGINT", "SIGINT", True),
        ("SIGTERM", "SIGTERM", False),
        ("SIGINT", "SIGTERM", False),
        ("SIGTERM", "SIGINT", False),
    ],
)
def test_a_second_ctrl_c_alone_ends_it_at_once(start, first, second, ends):
    process = start(IS_ASKED, 2, 0)
    assert said(process) == "ready"
    process.send_signal(signal.Signals[first])
    assert said(process) == f"asked by {first}"
    process.send_signal(signal.Signals[second])
    if ends:
        assert process.wait(timeout=SOON) == STOPPED
    else:
        time.sleep(0.3)
        assert process.poll() is None


def test_what_is_imported_answers_no_signal_in_its_own_way(start):
    process = start(IS_ASKED, 1, 1)
    assert said(process) == "ready"
    process.terminate()
    process.stdin.write("go on\n")
    process.stdin.flush()
    process.wait(timeout=SOON)
    assert process.returncode == STOPPED  # it was not deferred yet
    assert "an answer of its own" not in process.stdout.read()


def test_all_jobs_below_a_process_are_told_also_those_that_begin_later_and_no_others(start):
    process = start(HAS_JOBS)
    assert said(process) == "7"
    assert said(process) == f"-{int(signal.SIGTERM)} None"


# What Snakemake is told


@pytest.fixture
def workflow(project, monkeypatch) -> Callable[..., Workflow]:
    """A workflow of a finished study whose cards have dates that say nothing, as after `dvc pull`."""
    monkeypatch.setattr("pipeline.engines.workflow.end_with_dvc", lambda: None)
    monkeypatch.setattr("pipeline.engines.workflow.atexit.register", lambda *_, **__: None)
    project.make()
    for job in project.ledger().jobs:
        os.utime(project.root / job.card, (time.time() - len(job.id), time.time()))
    return lambda *options, **more: Workflow(project.root, {}, main=True, forced=lambda: list(options), **more)


def test_what_is_forced_sees_all_that_it_is_made_from_and_nothing_of_it_is_older(project, workflow):
    """`snakemake --forceall`, `--force` and `--forcerun`; without them nothing that is there asks for anything."""
    idle, forced = workflow(False, False, set()), workflow(False, False, {"cooldown"})
    root = project.root
    for job in project.ledger().jobs:
        assert idle.parents(job) == []
        assert forced.parents(job) == sorted({parent.card for parent in forced.ledger.inputs(job)})
        for file in (job.card, *forced.parents(job), forced.job_file(job)):
            assert (root / file).stat().st_mtime <= (root / job.card).stat().st_mtime
        description = read_json(Path(forced.job_file(job)))
        assert description["position"] is None  # so that its artifact is made anew, not found to be there
    assert forced.table_edges("table1")(None)["parents"] == forced.parents(forced.tables["table1"])


@pytest.mark.parametrize("words", [["--delete-all-output"], ["--delete-all"], ["--touch"], ["--to"], ["-t", "study"]])
def test_what_cards_give_no_meaning_is_refused_in_a_line(workflow, monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", ["snakemake", *words])
    with pytest.raises(SystemExit):
        workflow()
    assert capsys.readouterr().err.startswith("command line: --") and not capsys.readouterr().out


def test_another_folder_than_the_snakefiles_is_refused_in_a_line(workflow, capsys):
    with pytest.raises(SystemExit):
        workflow(home=SOURCE)
    assert f"a study is made in the folder of its Snakefile, {SOURCE}" in capsys.readouterr().err


def test_what_failed_is_said_whole_and_not_by_the_last_of_its_lines(project, workflow, monkeypatch):
    monkeypatch.chdir(project.root)
    job = next(job for job in project.ledger().jobs if job.phase == "tokenizer")
    shutil.rmtree(project.root / job.folder)
    log = project.root / f"logs/tokenizer/{job.id}.log"
    log.parent.mkdir(parents=True)
    log.write_text("Traceback ...\nValueError: what went wrong\n    and where to look\n")
    told = workflow()
    assert "and where to look   (" in (before := told.failures()) and "what went wrong" not in before
    note_failure(log, told.ledger.digest(job), "ValueError: what went wrong and where to look")
    assert f"tokenizer {job.id}: ValueError: what went wrong and where to look   (" in told.failures()


def test_why_dvc_noted_nothing_is_said(project, workflow, monkeypatch, capsys):
    done = subprocess.CompletedProcess(
        [], 1, "", "\nERROR: failed to commit - output 'x' does not exist\n\nHaving ...\n"
    )
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    told = workflow()
    shutil.rmtree(project.root / "artifacts/features")  # as of a study without cached features
    told.ledger.set_aside("prepare")
    assert (project.root / "artifacts/features").is_dir()
    project.make("features")
    assert not commit(told.study, project.root)
    assert capsys.readouterr().err == "dvc.lock was not updated: ERROR: failed to commit - output 'x' does not exist\n"
