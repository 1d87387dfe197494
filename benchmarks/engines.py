"""What Snakemake and DVC cost by themselves: CPU-seconds of runs in which there is nothing to train.

    python benchmarks/engines.py

measures the default study (params.yaml as it is) with everything made, and a study of some 300 models with nothing and
with everything made, each beside a floor: the same engine with a trivial project. The figure is the user and system time
of the command and of the child processes that it waited for, as the median of 3 rounds with their minimum and maximum;
in a round every command runs once, so that a busy machine is busy for all of them. An untimed round comes first, so
bytecode is compiled and files are in the page cache.

Nothing is trained. Artifacts are faked in temporary copies of the project: each is a folder with a file of a few bytes,
its list of hashes and its card. So hashing files of real sizes, which both engines do once for each file that is new or
changed, is NOT in these figures.

Prints a table and writes benchmarks/results/engines.json.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import ROOT, machine

from pipeline.common.files import stable_json, write_text
from pipeline.execution.run import publish
from pipeline.settings.load import load_settings
from pipeline.store import artifacts
from pipeline.store.ledger import Ledger
from pipeline.study.study import Study
from pipeline.study.tables import TABLES

ROUNDS = 3
RESULT = ROOT / "benchmarks/results/engines.json"
PROJECT = ("Snakefile", "dvc.yaml", "params.yaml", "configs", "pipeline", "profiles", ".dvcignore", ".gitignore")
BRANCH_POINTS, SEEDS = [0, 12, 24, 36, 48, 60, 72, 84, 96, 100], 30  # 300 models, the recipe's and the blind one
NOTE = "Artifacts are faked, a few bytes each: hashing files of real sizes is not in these figures."
NOTHING = "Nothing to be done"


@dataclass(frozen=True)
class Case:
    """A command to measure, the text that its output must hold, its budget in CPU-seconds and its floor's name."""

    name: str
    command: list[str]
    folder: Path
    says: str = ""
    budget: float | None = None
    floor: str | None = None
    from_nothing: bool = False  # forget earlier plans before each run


# --- projects --------------------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """This process's environment, with the engines of this Python first, and with bytecode written as it usually is."""
    who = {
        f"GIT_{role}_{what}": "benchmark@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return kept | who | {"PATH": path, "DVC_NO_ANALYTICS": "1"}


def call(folder: Path, *command: str) -> str:
    """Run a command in a folder and return what it printed. Raises CalledProcessError if it fails."""
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
    done.check_returncode()
    return done.stdout


def copy_project(folder: Path) -> Path:
    """A copy of the project as it lies here, without artifacts, results, bytecode and git."""
    folder.mkdir()
    for name in PROJECT:
        source, ignore = ROOT / name, shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, folder / name, ignore=ignore) if source.is_dir() else shutil.copy(source, folder / name)
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, folder / ".dvc")
    return folder


def sweep(folder: Path) -> Path:
    """Make a project's timing experiment one of 300 models, and its only one."""
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    for experiment in params["experiments"].values():
        experiment["vary"] = {key: [] for key in experiment["vary"]}
    params["experiments"]["timing"]["vary"]["branch_percent"] = BRANCH_POINTS
    write_text(folder / "params.yaml", yaml.safe_dump(params, sort_keys=False))
    scale = folder / f"configs/scale/{params['preset']}.yaml"
    sizes = yaml.safe_load(scale.read_text(encoding="utf-8"))
    sizes["repeats"]["primary"] = SEEDS
    write_text(scale, yaml.safe_dump(sizes, sort_keys=False))
    return folder


def fake_artifacts(folder: Path, ledger: Ledger) -> None:
    """Leave what every job would leave, but for the contents: a small file, the list of hashes, the card."""
    for job in ledger.jobs:
        made = folder / job.folder
        for name in ("measured.json", *(TABLES[job.label].files if job.published else ["rows.csv"])):
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_text("{}\n")
        artifacts.make_manifest(made, ledger.digest(job))
        (made / artifacts.CARD).write_text(stable_json(ledger.card(job)))
        if job.published:
            publish(made, folder / job.published)
    call(folder, "snakemake", "study", "--touch", "--forceall")  # leaves the notes on its runs that Snakemake asks for


def commit_all(folder: Path) -> None:
    """Commit what a project has made to DVC and git."""
    call(folder, "git", "init", "-q")
    call(folder, "git", "add", "-A")
    call(folder, "dvc", "commit", "-f", "-q")
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "-qm", "made")


def trivial_snakemake(folder: Path) -> Path:
    """A Snakefile with a rule that does nothing."""
    folder.mkdir()
    (folder / "Snakefile").write_text("rule all:\n")
    return folder


def trivial_dvc(folder: Path) -> Path:
    """A repository with one DVC stage, done."""
    folder.mkdir()
    call(folder, "git", "init", "-q")
    call(folder, "dvc", "init", "-q")
    stages = {"only": {"cmd": "echo made > out", "outs": ["out"]}}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    call(folder, "dvc", "repro", "-q")
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "-qm", "made")
    return folder


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(case: Case) -> tuple[float, float]:
    """CPU-seconds (user and system, children included) and wall seconds of one run."""
    if case.from_nothing:
        for name in (".study", ".snakemake"):
            shutil.rmtree(case.folder / name, ignore_errors=True)
    with tempfile.TemporaryFile("w+") as output:
        start = time.monotonic()
        process = subprocess.Popen(
            case.command, cwd=case.folder, env=environment(), stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read()
    if process.returncode or case.says not in " ".join(said.split()):
        raise RuntimeError(f"{case.name} ended with {process.returncode} and without {case.says!r}:\n{said[-4000:]}")
    return usage.ru_utime + usage.ru_stime, wall


def study_of(folder: Path) -> Ledger:
    return Ledger(Study(load_settings(folder)), folder)


def size(ledger: Ledger) -> dict[str, int]:
    """How many jobs a study has, and how many of them are models (fine-tuned)."""
    return {"jobs": len(ledger.jobs), "models": sum(job.phase == "finetune" for job in ledger.jobs)}


def prepare(folder: Path) -> tuple[list[Case], dict[str, dict[str, int]]]:
    """All cases, floors first, in new projects below a folder; and the sizes of the two studies."""
    default, plan, made = (copy_project(folder / name) for name in ("default", "plan", "made"))
    sweep(plan)
    sweep(made)
    ledger, large = study_of(default), study_of(made)
    fake_artifacts(default, ledger)
    commit_all(default)
    fake_artifacts(made, large)
    empty, stage = trivial_snakemake(folder / "empty"), trivial_dvc(folder / "stage")
    imports, snakemake, dvc = "import of snakemake.cli", "snakemake, empty Snakefile", "dvc repro, one trivial stage"
    jobs, done = len(large.jobs), "Data and pipelines are up to date."
    cases = [
        Case(imports, [sys.executable, "-c", "import snakemake.cli"], empty),
        Case(snakemake, ["snakemake", "--cores", "all"], empty),
        Case(dvc, ["dvc", "repro"], stage, done),
        Case("snakemake no-op, default study", ["snakemake", "study"], default, NOTHING, 4, snakemake),
        Case("snakemake -n, default study", ["snakemake", "-n", "study"], default, NOTHING, 4, snakemake),
        Case("dvc repro no-op, default study", ["dvc", "repro"], default, done, 5, dvc),
        Case(
            "snakemake -n, 300 models, none made",
            ["snakemake", "-n", "study"],
            plan,
            f"total {jobs + 1}",
            6,
            snakemake,
            True,
        ),
        Case("snakemake -n, 300 models, all made", ["snakemake", "-n", "study"], made, NOTHING, 6, snakemake),
    ]
    return cases, {"default": size(ledger), "300 models": size(large)}


def summarise(cases: list[Case], samples: dict[str, list[tuple[float, float]]]) -> list[dict]:
    """A row a case: CPU-seconds, budget, floor and the ratio of the two medians."""
    median = {name: statistics.median(cpu for cpu, _ in runs) for name, runs in samples.items()}
    rows = []
    for case in cases:
        cpu = [round(seconds, 3) for seconds, _ in samples[case.name]]
        row = {
            "name": case.name,
            "command": " ".join(["python" if word == sys.executable else word for word in case.command]),
            "cpu_seconds": {"median": statistics.median(cpu), "min": min(cpu), "max": max(cpu)},
            "budget_cpu_seconds": case.budget,
            "floor": case.floor,
            "times_floor": round(median[case.name] / median[case.floor], 2) if case.floor else None,
            "samples_cpu_seconds": cpu,
            "samples_wall_seconds": [round(wall, 3) for _, wall in samples[case.name]],
        }
        rows.append(row)
    return rows


# --- reporting -------------------------------------------------------------------------------------------------------


def table(rows: list[dict]) -> str:
    """The rows as markdown."""
    lines = [
        f"| what | CPU-s, median of {ROUNDS} (min-max) | budget | floor | times the floor |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cpu, budget = row["cpu_seconds"], row["budget_cpu_seconds"]
        over = budget is not None and cpu["median"] > budget
        cells = [
            row["name"],
            f"{cpu['median']:.2f} ({cpu['min']:.2f}-{cpu['max']:.2f})",
            "" if budget is None else f"{budget:g}, over" if over else f"{budget:g}",
            row["floor"] or "",
            "" if row["times_floor"] is None else f"{row['times_floor']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    source = machine("snakemake", "dvc")  # the commit that the measured copies were made of
    with tempfile.TemporaryDirectory(prefix="engines-") as folder:
        cases, sizes = prepare(Path(folder))
        samples: dict[str, list[tuple[float, float]]] = {case.name: [] for case in cases}
        for number in range(ROUNDS + 1):
            for case in cases:
                seconds = measure(case)
                if number:
                    samples[case.name].append(seconds)
    report = {
        "note": NOTE,
        "load_average_at_end": os.getloadavg(),
        "studies": sizes,
        "cases": summarise(cases, samples),
    } | source
    print(table(report["cases"]), f"\n{NOTE}")
    for name, counts in sizes.items():
        print(f"{name}: {counts['jobs']} jobs, {counts['models']} models fine-tuned")
    write_text(RESULT, stable_json(report))


if __name__ == "__main__":
    main()
