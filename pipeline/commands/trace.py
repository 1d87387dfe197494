"""What a number in results/ comes from: row -> evaluation -> checkpoint -> branch -> text run -> shards -> settings.

Also the commit and the machine that each was made with, as far as logs/ has notes of it. No result depends on logs/.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from pipeline.commands.kept_results import is_kept, study_of
from pipeline.common.files import file_hash, one_line, read_json, read_records
from pipeline.execution.provenance import git
from pipeline.reporting.lineage import Lineage
from pipeline.settings.load import load_settings
from pipeline.store.artifacts import manifest_of, other_bytes
from pipeline.store.ledger import Ledger
from pipeline.store.staleness import acceptance
from pipeline.study.job import Job
from pipeline.study.study import Study
from pipeline.study.tables import report_settings

INDENT = "  "


def trace(root: Path, target: str, row: str, column: str) -> Iterator[str]:
    """Lines on a number of a CSV below results/.

    row: its number (the first is 1), COLUMN=VALUE[,COLUMN=VALUE], or a word that one row alone has. Raises ValueError, of one
    line, for what is not there, and ConfigError for settings that are not valid.
    """
    base = results_folder(root, target)
    # Kept results are of another study, whose settings lie beside them.
    study = study_of(root, base) if is_kept(base) else Study(load_settings(root))
    lineage = Lineage(report_settings(study))
    name = (root / target).relative_to(base).as_posix()
    table = table_of(lineage, target, name)
    # Before anything is said: of an edited file every line would be about another number.
    check_bytes(base, table, name, target)
    rows = read_rows(root / target, target)
    number = choose_row(rows, row, target)
    found = rows[number]
    check_column(found, column, target)
    # A claim may have several contrasts, a row each: its rows before this one say which contrast this is.
    parts = [other for other in rows[:number] if other.get("claim") == found.get("claim")]
    subjects = lineage.about(Path(name).stem, found, column, len(parts))
    yield f"{target}, row {number + 1} ({labels(found)}), {column}: {value(found, column)}"
    yield f"{INDENT}{lineage.measured_in(found, column)}"
    # What kept results were made from is not here.
    ledger = None if is_kept(base) else Ledger(study, root)
    yield f"table: tables/{study.tables[table].id}"
    elsewhere = False
    if ledger:
        job = study.tables[table]
        elsewhere = name in other_bytes(root, job.folder, job.published or "")
        yield from (f"{INDENT}{line}" for line in compare(ledger, job, name, number, column, elsewhere))
    # What was noted here is of the artifacts here, and not of a file that came from elsewhere.
    noted = Records(None if elsewhere else ledger, root)
    yield from noted.lines(f"tables/{study.tables[table].id}", INDENT)
    if commit := git(root, "log", "-1", "--format=%H of %cI", "--", target):
        changed = git(root, "status", "--porcelain", "--", target)
        yield f"{INDENT}the file {'has other bytes than in' if changed else 'is of'} commit {commit}"
    if not subjects:
        found_in = "a setting, a schedule, a figure that only the paper has, or a claim that today's list has not"
        yield f"it comes from no run of the study: {found_in}"
    # Sections that many jobs share are listed once, at the end: with all of them in it no job's line could be read.
    shared: dict[str, dict] = {}
    for subject in subjects:
        for seed, key in lineage.evaluations(subject, found.get("seed", "")).items():
            yield f"{subject}{f', {seed}' if seed else ''}"
            for step in lineage.chain(key, depth=1):
                indent = INDENT * step.depth
                yield f"{indent}{step.name}: {step.key}"
                settings = lineage.jobs[step.key]["settings"]
                yield from wrapped(own_settings(settings), f"{indent}    ")
                shared |= {s["section"]: lineage.sections[s["section"]] for s in settings.values() if is_shared(s)}
                yield from noted.lines(step.key, f"{indent}    ")
    if shared:
        yield "settings that are listed above by a digest"
    for key, section in sorted(shared.items()):
        yield from wrapped(f"[{key}] {flat(section)}", INDENT)
    if noted.missing:
        readme = base / "README.md"
        where = f"; {readme.relative_to(root)} has what was written down" if is_kept(base) and readme.exists() else ""
        yield f"commit and machine of {len(noted.missing)} jobs above were not noted here (logs/){where}"


def results_folder(root: Path, target: str) -> Path:
    """The folder of results that a file is in: results/, or one below it with a params.yaml of its own."""
    file = root / target
    if not file.is_file():
        raise ValueError(f"{one_line(target)}: no such file; allowed: a CSV of results/")
    inside = [folder for folder in file.parents if folder == root / "results" or is_kept(folder)]
    if root / "results" not in file.parents:
        raise ValueError(f"{one_line(target)}: found a file elsewhere, allowed: a CSV of results/")
    return inside[0]


def table_of(lineage: Lineage, target: str, name: str) -> str:
    """The table that makes a file."""
    made = {file: table for table, files in lineage.settings.tables.items() for file in files}
    if name not in made or not name.endswith(".csv"):
        known = ", ".join(file for file in made if file.endswith(".csv"))
        raise ValueError(f"{one_line(target)}: no table of the study, which has {known}")
    return made[name]


def check_bytes(base: Path, table: str, name: str, target: str) -> None:
    """Raise ValueError for a file with other bytes than those that were made."""
    made = manifest_of(base / "made_from" / f"{table}.json")["files"].get(name)
    if made is None:
        raise ValueError(
            f"{target}: what it was made from is not known: {base / 'made_from' / table}.json does not list it"
        )
    if made != file_hash(base / name):
        again = "`git diff` shows what git knows of it; `snakemake` makes it anew"
        raise ValueError(f"{target}: is not the file that was made: its bytes are others than made_from says. {again}")


def compare(ledger: Ledger, job: Job, name: str, number: int, column: str, elsewhere: bool) -> Iterator[str]:
    """How a file of results/, the artifact here and today's study differ; no line if they do not.

    `number` and `column` name the value that is traced, `elsewhere` says that the artifact has other bytes.
    """
    made_from, today = manifest_of(ledger.root / (job.published or ""))["card"], ledger.digest(job)
    if made_from != today:
        yield f"the file was made from card {made_from}, and today's study is card {today}: what follows is today's"
    if elsewhere:
        rows = read_rows(ledger.root / job.folder / name, name)
        there = rows[number].get(column, "no such column") if number < len(rows) else "no such row"
        yield f"the artifact here, {job.folder}, has {there}: one of the two was made elsewhere"


def read_rows(file: Path, target: str) -> list[dict[str, str]]:
    """The rows of a CSV by column. Raises ValueError if there are none."""
    rows = read_records(file)
    if not rows:
        raise ValueError(f"{target}: has no rows")
    return rows


def choose_row(rows: list[dict[str, str]], wanted: str, target: str) -> int:
    """The index of the row that is meant. Raises ValueError, with the rows that there are, unless it is exactly one."""
    if wanted.isdigit():
        if not 1 <= int(wanted) <= len(rows):
            raise ValueError(f"{target}: --row: found {wanted}, allowed: 1 to {len(rows)}")
        return int(wanted) - 1
    found = [place for place, row in enumerate(rows) if matches(row, wanted)]
    if len(found) != 1:
        shown = found or range(len(rows))
        known = "; ".join(f"{place + 1} ({labels(rows[place])})" for place in shown[:20])
        what = f"{len(found)} rows have that" if found else "no row has that"
        more = f"; and {len(shown) - 20} more" if len(shown) > 20 else ""
        form = "a row's number, COLUMN=VALUE[,COLUMN=VALUE] or a word that one row alone has"
        raise ValueError(f"{target}: --row: found {one_line(wanted)!r}: {what}; allowed: {form}: {known}{more}")
    return found[0]


def matches(row: dict[str, str], wanted: str) -> bool:
    """Whether a row has all the values that are asked for, or the word in one of its columns."""
    if wanted in row.values():
        return True
    # A word without "=" has an empty sign and fits no row here.
    conditions = [part.partition("=") for part in wanted.split(",")]
    return all(sign and key in row and same(row[key], value) for key, sign, value in conditions)


def same(found: str, wanted: str) -> bool:
    """Whether two values are equal, as numbers if both are: 0.80 is 0.8."""
    try:
        return float(found) == float(wanted)
    except ValueError:
        return found == wanted


def check_column(row: dict[str, str], column: str, target: str) -> None:
    """Raises ValueError, with the columns that there are, for one that a row lacks."""
    if column not in row:
        close = get_close_matches(column, row, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{target}: --column: found {one_line(column)!r}, allowed: {', '.join(row)}{hint}")


def labels(row: dict[str, str]) -> str:
    """The words that tell a row from others, or its first column."""
    keys = (
        "model",
        "stage",
        "phase",
        "control",
        "claim",
        "part",
        "output",
        "setting",
        "task",
        "cell",
        "condition",
        "kind",
        "measure",
    )
    named = [f"{key}={row[key]}" for key in (*keys, "seed") if row.get(key)]
    # A cell's name has its branch point already.
    if "cell" not in row or not row["cell"] or "model" in row:
        named += [f"{key}={row[key]}" for key in ("branch_percent", "percent") if row.get(key)]
    return ", ".join(named) or next(f"{key}={value}" for key, value in row.items())


def value(row: dict[str, str], column: str) -> str:
    """A value with its interval, as the file has them."""
    # Bounds are named after their column, but for the one main value of a table, whose bounds are `low` and `high`.
    stem = "" if column in ("effect", "score") else f"{column}_"
    low, high = (row.get(f"{stem}{end}") or row.get(f"{column}_{end}") for end in ("low", "high"))
    return (one_line(row[column]) or "nothing") + (f" ({low} to {high})" if low and high else "")


def is_shared(setting: object) -> bool:
    """Whether a job's setting is a section that others have too, written as its digest."""
    return isinstance(setting, dict) and setting.keys() == {"section"}


def own_settings(settings: dict) -> str:
    """A job's settings in a line; a section that others have too, by its digest."""
    return "; ".join(
        f"{name} [{setting['section']}]" if is_shared(setting) else f"{name} {setting}"
        for name, setting in sorted(settings.items())
    )


def flat(section: dict, prefix: str = "") -> str:
    """A section in a line, with dotted keys."""
    parts = [
        flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) and inner else f"{prefix}{key} {inner}"
        for key, inner in sorted(section.items())
    ]
    return "; ".join(parts)


def wrapped(text: str, indent: str) -> list[str]:
    """A text in lines of at most 118 characters."""
    # Not at hyphens: an id with a break in it could not be copied.
    return textwrap.wrap(text, 118, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


class Records:
    """What logs/ notes of jobs that were made here and whose card is still today's; and how some were accepted.

    `ledger`: None for results whose jobs were made elsewhere. `missing`: jobs that were asked for and have no note.
    """

    def __init__(self, ledger: Ledger | None, root: Path):
        self.root = root
        self.ledger = ledger
        self.jobs = {"/".join(job.key): job for job in ledger.jobs} if ledger else {}
        self.missing: set[str] = set()

    def lines(self, key: str, indent: str) -> Iterator[str]:
        """When, of which commit and on which machine a job was made, and for which later code it was accepted."""
        file, job = self.root / "logs" / f"{key}.json", self.jobs.get(key)
        record = read_json(file) if job and file.exists() else {}
        # A note may be of an older artifact with the same id: its card says of which.
        if self.ledger and job and record.get("card") in self.ledger.all_digests(job):
            yield from noted(record, indent)
        else:
            self.missing.add(key)
        for entry in self.ledger.acceptances(job) if self.ledger and job else []:
            yield from wrapped(acceptance(key.partition("/")[0], entry), indent)


def noted(record: dict, indent: str) -> Iterator[str]:
    """What a job noted when it was made."""
    changed = " with uncommitted changes" if record.get("uncommitted_changes") else ""
    yield f"{indent}commit: {record.get('commit') or 'not noted'}{changed}"
    machine, host = record.get("machine"), record.get("host", "")
    if isinstance(machine, dict):
        host = f"{host}, {machine['processor']}, {machine['cores']} cores, {machine['system']}"
    yield f"{indent}machine: {host or machine}; {record['seconds']:g} s, finished {record['finished']}"
