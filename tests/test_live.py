"""What a person sees of running jobs: lines on the screen, the status, and Weights & Biases without a network."""

import csv
import io
import json
import os
import platform
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_run import first, here, phases, work  # noqa: F401
from test_run import run as carry_out
from test_training import TEXT_STEPS, Bench, Killed, Steps, bench, data, shared, state_files, text  # noqa: F401

from pipeline.__main__ import main
from pipeline.commands import status
from pipeline.common.files import digest
from pipeline.execution import progress
from pipeline.execution.progress import Progress, duration, running
from pipeline.store.artifacts import PROGRESS


class Screen(io.StringIO):
    def __init__(self, terminal: bool):
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def entry(root: Path, **changes) -> dict:
    """The file of a job at work, as its process leaves it; returns what is in it."""
    shown = Progress("cooldown", changes.pop("id", "b80"), "3/59", Screen(False), root / PROGRESS / "cooldown-b80.json")
    shown.note(done=50, total=200, unit="tokens", note="loss 3.210", rate=10.0, left=15.0)
    (file,) = (root / PROGRESS).iterdir()
    written = json.loads(file.read_text()) | changes
    file.write_text(json.dumps(written))
    return written


# Lines


@pytest.mark.parametrize("terminal, lines", [(True, 11), (False, 1)])
def test_a_terminal_gets_a_line_every_ten_seconds_and_a_log_every_minute(clock, terminal, lines):
    screen = Screen(terminal)
    shown = Progress("cooldown", "b80", "3/59", screen)
    for second in range(119):
        clock[0] += 1
        shown.update(second, 119, "tokens", "loss 3.210")
    said = screen.getvalue().splitlines()
    assert len(said) == lines
    assert said[-1].startswith("[3/59] cooldown b80  ") and "loss 3.210" in said[-1]


def test_a_line_says_share_speed_and_time_left(clock):
    screen = Screen(True)
    shown = Progress("pretrain", "text", None, screen)
    shown.update(1_000_000, 2_000_000, "tokens")  # there already, or done while starting up
    clock[0] += 20
    shown.update(1_500_000, 2_000_000, "tokens", "loss 3.210")
    assert screen.getvalue() == (
        "[-] pretrain text  1,500,000/2,000,000 tokens  75%  25,000/s  loss 3.210  20 s left\n"
    )


def test_each_part_of_a_job_has_its_own_speed(clock):
    screen = Screen(True)
    shown = Progress("evaluate", "b80", None, screen)
    shown.update(0.5, 4, "conditions")
    clock[0] += 1000
    shown.update(1, 9, "text tasks")
    clock[0] += 10
    shown.update(3, 9, "text tasks")
    assert screen.getvalue().splitlines()[-1].endswith("3/9 text tasks  33%  0.2/s  30 s left")


def test_lines_for_the_log_come_every_time(clock, capsys):
    shown = Progress("pretrain", "text", None, Screen(False))
    for step in (1, 2):
        shown.update(step, 9, "tokens", log=True)
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    "seconds, words", [(0.2, "0 s"), (99, "99 s"), (100, "2 min"), (5940, "99 min"), (7500, "2 h 05 min")]
)
def test_durations_are_words(seconds, words):
    assert duration(seconds) == words


# Files


def test_a_job_has_a_file_while_it_runs_and_none_after(here, phases):  # noqa: F811
    seen = []

    def look(job, out: Path) -> dict:
        seen.extend(running(here.root))
        job.progress.noted = 0
        job.progress.update(3, 4, "tokens", "loss 2.000")
        seen.extend(running(here.root))
        return work(job, out)

    phases.does = look
    job = first(here, "pretrain")
    assert carry_out(here, job) == 0
    assert [(e["phase"], e["id"], e.get("done")) for e in seen] == [(*job.key, None), (*job.key, 3)]
    assert list((here.root / PROGRESS).iterdir()) == []


def test_a_failed_job_leaves_no_file(here, phases):  # noqa: F811
    assert carry_out(here, first(here, "pretrain")) == 1
    assert list((here.root / PROGRESS).iterdir()) == []


def test_what_a_dead_job_left_is_passed_over_and_put_away(project):
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    entry(project.root)
    assert len(running(project.root)) == 1
    entry(project.root, pid=child)
    assert running(project.root) == []
    entry(project.root, born=0.0)  # another process has its number
    assert running(project.root) == []
    project.ledger().tidy()
    assert not (project.root / PROGRESS).exists()


def test_a_job_on_another_machine_lives_while_it_is_heard_of(project):
    entry(project.root, machine=f"not-{platform.node()}", pid=1)
    assert len(running(project.root)) == 1
    entry(project.root, machine=f"not-{platform.node()}", noted=time.time() - progress.SILENT - 1)
    assert running(project.root) == []


def test_a_disk_without_room_ends_no_job(tmp_path):
    (tmp_path / "progress").write_text("a file where the folder should be")
    shown = Progress("cooldown", "b80", None, Screen(False), tmp_path / "progress" / "job.json")
    shown.update(1, 2, "tokens")
    assert (tmp_path / "progress").is_file()


# Status


def test_the_status_is_of_the_study_and_of_each_job_at_work(project, monkeypatch, capsys):
    monkeypatch.chdir(project.root)
    project.make()
    job = first(project, "cooldown")
    project.damage(f"{job.folder}/rows.csv")
    entry(project.root, id=job.id, left=1500.0)
    assert main(["status"]) == 0
    head, _, titles, line = capsys.readouterr().out.splitlines()
    jobs = len(project.ledger().jobs)
    assert head.startswith(f"study: {jobs - 1} of {jobs} jobs done, 1 running, 0 waiting")
    assert titles.split() == ["phase", "job", "done", "speed", "now", "time", "left"]
    assert line.split() == ["cooldown", job.id, "50/200", "tokens", "25%", "10/s", "loss", "3.210", "25", "min"]


def test_the_status_of_a_finished_study_and_of_one_that_rests(project, monkeypatch, capsys):
    monkeypatch.chdir(project.root)
    assert main(["status"]) == 0
    jobs = len(project.ledger().jobs)
    assert capsys.readouterr().out.startswith(f"study: 0 of {jobs} jobs done, {jobs} to do; nothing is running")
    project.make()
    assert main(["status", "--watch"]) == 0  # no terminal: once
    assert capsys.readouterr().out == f"study: {jobs} of {jobs} jobs done\n"


def test_who_reads_no_further_gets_no_traceback(project):
    """`python -m pipeline status | head -1`"""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "pipeline", "status"]
    done = subprocess.run(command, cwd=project.root, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_the_time_left_counts_what_runs_and_how_fast_this_machine_is(project):
    job = first(project, "cooldown")
    own = entry(project.root, id=job.id)
    plan = status.Plan(project.ledger())
    whole = sum(cost.seconds for cost in plan.costs.values())
    assert status.time_left(plan, [own]) == pytest.approx(whole - plan.costs[job.key].seconds / 4)
    project.make()
    plan = status.Plan(project.ledger())  # shards that are there say more than is usual
    slow = {"card": project.ledger().digest(job), "seconds": 3 * plan.costs[job.key].seconds}
    log = project.root / "logs/cooldown" / f"{job.id}.json"
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps(slow))
    assert status.pace(status.Plan(project.ledger())) == pytest.approx(3)
    log.write_text(json.dumps(slow | {"card": "another"}))
    assert status.pace(status.Plan(project.ledger())) == 1


def test_watching_draws_over_what_is_there_until_ctrl_c(project, monkeypatch, capsys):
    naps = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            raise KeyboardInterrupt

    # Its own clock alone: threads of other tests sleep too.
    monkeypatch.setattr(status, "time", SimpleNamespace(sleep=sleep, time=time.time, monotonic=time.monotonic))
    entry(project.root)
    status.watch(project.study(), project.root)
    clear, *pictures = capsys.readouterr().out.split("\x1b[H")
    assert clear == "\x1b[2J" and len(pictures) == 2
    assert all(picture.count("\n") == 4 and picture.endswith("\x1b[J") for picture in pictures)


# Weights & Biases, offline


def records(file: Path) -> list:
    """The records of a run that wandb has written offline: LevelDB's log format after seven bytes, protobuf inside."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, found, part = file.read_bytes(), 7, [], b""
    while place + 7 <= len(content):
        if (room := 32768 - place % 32768) < 7:
            place += room
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + 7])
        part += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            found.append(Record.FromString(part))
            part = b""
    return found


def offline_runs(folder: Path) -> list[tuple]:
    """(run, its config, {step: metrics}) of every run below a folder, in the order of their making."""
    found = []
    for file in sorted((folder / ".study/wandb").glob("offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime):
        written = records(file)
        run = next(record.run for record in written if record.HasField("run"))
        config = {update.key: json.loads(update.value_json) for update in run.config.update}
        rows: dict[int, dict] = {}
        for record in (record for record in written if record.HasField("history")):
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows.setdefault(record.history.step.num, {}).update(items)
        found.append((run, config, rows))
    return found


def logged(bench: Bench, monkeypatch):  # noqa: F811
    """A text run that is logged offline."""
    monkeypatch.chdir(bench.folder)
    job = bench.text()
    job.resume = bench.folder / ".study/resume/job"
    job.resume.parent.mkdir(parents=True)
    job.context |= {"wandb": "offline", "experiments": ["timing", "captions"]}
    return job


def test_a_resumed_run_is_the_same_run_of_wandb_with_the_whole_curve_and_the_same_bits(bench, text, monkeypatch):  # noqa: F811
    job = logged(bench, monkeypatch)
    job.progress.kill_at = 7
    with pytest.raises(Killed):
        bench.run(job)
    job.progress = Steps()
    out, _ = bench.run(job)
    assert state_files(out) == state_files(text)
    (before, config, early), (after, again, late) = offline_runs(bench.folder)
    assert before.run_id == after.run_id == digest(job.card)
    assert config["card"] == digest(job.card) and config["settings"] == job.settings
    assert {key: config[key] for key in ("phase", "id", "experiments")} == {
        "phase": "pretrain",
        "id": "test",
        "experiments": ["timing", "captions"],
    }
    assert "commit" in config and {**again, "_wandb": None} == {**config, "_wandb": None}
    assert (before.project, before.run_group, before.job_type) == ("when-images", "shared", "pretrain")
    assert before.display_name == "pretrain test" and set(before.tags) == {"pretrain", "timing", "captions"}
    assert min(step for step, row in late.items() if "loss" in row) == 7  # the last state was saved after 6 updates
    curve = {step: row for rows in (early, late) for step, row in rows.items() if "loss" in row}
    rows = list(csv.DictReader((out / "losses.csv").open()))
    assert sorted(curve) == list(range(1, TEXT_STEPS + 1)) == [int(row["step"]) for row in rows]
    for row in rows:
        assert curve[int(row["step"])]["loss"] == float(row["loss"])
        assert curve[int(row["step"])]["learning_rate"] == pytest.approx(float(row["learning_rate"]), rel=1e-5)
        assert curve[int(row["step"])]["tokens"] == int(row["tokens"])


def test_a_run_of_one_experiment_is_in_its_group(bench, monkeypatch):  # noqa: F811
    job = logged(bench, monkeypatch)
    job.context["experiments"] = ["captions"]
    bench.run(job)
    ((run, _, _),) = offline_runs(bench.folder)
    assert run.run_group == "captions"


def test_a_logged_job_knows_its_experiments(project):
    ledger = project.ledger()
    assert ledger.used_by(ledger.jobs[-1]) == {}
    project.set("params.yaml", "wandb", "offline")
    ledger = project.ledger()
    study = ledger.study
    scores = next(iter(study.runs("timing").values()))
    for job in (scores, *scores.parents.values()):
        assert "timing" in ledger.used_by(job)["experiments"]
    unused = {job.key for job in ledger.jobs} - set().union(*study.experiment_jobs.values())
    assert all(ledger.used_by(job) == {"experiments": []} for job in ledger.jobs if job.key in unused)
