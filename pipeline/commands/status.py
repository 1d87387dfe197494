"""What runs now and what is still to do: the tables of `python -m pipeline status`."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from pipeline.commands.plan import Plan, devices
from pipeline.common.files import read_json
from pipeline.execution.progress import amount, duration, running, speed
from pipeline.store.ledger import Ledger
from pipeline.study.job import Job
from pipeline.study.phases import PHASES
from pipeline.study.study import Study

COLUMNS = ("phase", "job", "done", "", "speed", "now", "time left")


def job_table(entries: list[dict]) -> list[str]:
    """One line for each job that runs, phase by phase, below a line of titles."""
    order = list(PHASES)
    rows = [COLUMNS, *(row(entry) for entry in sorted(entries, key=lambda e: (order.index(e["phase"]), e["id"])))]
    widths = [max(len(cells[n]) for cells in rows) for n in range(len(COLUMNS))]
    right = {"", "speed", "time left"}
    return [
        "  ".join(
            cell.rjust(w) if title in right else cell.ljust(w) for title, cell, w in zip(COLUMNS, cells, widths)
        ).rstrip()
        for cells in rows
    ]


def row(entry: dict) -> tuple[str, ...]:
    """The cells of a job. One that has not yet told how far it is shows how long it has been at work."""
    name = entry["phase"], entry["id"]
    if "done" not in entry:
        return (*name, "", "", "", f"for {duration(time.time() - entry['since'])}", "")
    done, total, unit, rate = (entry[key] for key in ("done", "total", "unit", "rate"))
    left = entry["left"]
    if left is not None:
        # The state may be some time old: a job notes it between two steps, at most once in two seconds.
        left = max(left - (time.time() - entry["noted"]), 0)
    return (
        *name,
        f"{amount(done)}/{amount(total)} {unit}",
        f"{done / total:.0%}" if total else "",
        speed(rate),
        entry["note"],
        "" if left is None else duration(left),
    )


def study_line(plan: Plan, entries: list[dict]) -> str:
    """How many of the study's jobs are done, and how long the others will take if as many run at a time as now."""
    to_do = len(plan.to_do)
    said = f"study: {len(plan.jobs) - to_do} of {len(plan.jobs)} jobs done"
    if not to_do:
        return said
    if not entries:
        return f"{said}, {to_do} to do; nothing is running (python -m pipeline plan says what it will cost)"
    seconds = time_left(plan, entries)
    left = f"; about {duration(seconds)} left" if seconds else ""
    return f"{said}, {len(entries)} running, {max(to_do - len(entries), 0)} waiting{left}"


def time_left(plan: Plan, entries: list[dict]) -> float:
    """Seconds until the study is done, by the plan's costs and by how these compare with what finished jobs took."""
    own = {(entry["phase"], entry["id"]): entry for entry in entries}

    def rest(job: Job) -> float:
        entry = own.get(job.key, {})
        return wall_seconds(plan, job) * (1 - entry["done"] / entry["total"] if entry.get("total") else 1)

    # As many jobs at a time as run now. The longest chain is a lower bound, however many run.
    work = sum(map(rest, plan.to_do)) / len(entries)
    return pace(plan) * max(work, plan.longest_chain[0] if len(entries) > 1 else 0.0)


def wall_seconds(plan: Plan, job: Job) -> float:
    """Seconds that the plan reckons for a job on all of its devices."""
    return plan.costs[job.key].seconds / devices(job)


def pace(plan: Plan) -> float:
    """What the finished jobs took here, as a multiple of what the plan says; 1 if there are none."""
    planned = taken = 0.0
    for job in plan.jobs:
        file = plan.ledger.root / "logs" / job.phase / f"{job.id}.json"
        expected = wall_seconds(plan, job)
        if expected and plan.ledger.is_current(job) and file.exists():
            spent = read_json(file)
            # The log may be of an earlier run with other settings.
            if spent["card"] in plan.ledger.all_digests(job):
                planned, taken = planned + expected, taken + spent["seconds"]
    return taken / planned if planned else 1.0


def status(study: Study, root: Path) -> list[str]:
    """The study's line and, if any job runs, the table of those that do."""
    entries = running(root)
    lines = [study_line(Plan(Ledger(study, root)), entries)]
    return [*lines, "", *job_table(entries)] if entries else lines


def watch(study: Study, root: Path, every: float = 2.0, study_every: float = 30.0) -> None:
    """Show the status in a terminal, in place, until Ctrl-C. The study's line, which costs CPU time, changes less often."""
    counted, line = float("-inf"), ""
    # Clears the terminal once. Later frames are written over what is there: clearing each time would flicker.
    sys.stdout.write("\x1b[2J")
    try:
        while True:
            entries = running(root)
            if time.monotonic() - counted > study_every:
                line, counted = study_line(Plan(Ledger(study, root)), entries), time.monotonic()
            lines = [line, "", *job_table(entries)] if entries else [line]
            columns, height = shutil.get_terminal_size()
            # Written over what is there, in one go: nothing flickers.
            shown = "".join(f"{text[: columns - 1]}\x1b[K\n" for text in lines[: height - 1])
            sys.stdout.write(f"\x1b[H{shown}\x1b[J")
            sys.stdout.flush()
            time.sleep(every)
    except KeyboardInterrupt:
        return
