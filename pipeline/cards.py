"""Cards: what an artifact was made from, and whether that is still what today's study asks for.

A card is a small JSON in the artifact's folder: phase, settings, parents' cards and the fingerprint of the code. The
artifact is current if and only if its card equals the card that today's study would write.
"""

from __future__ import annotations

import ast
import hashlib
import os
import time
from functools import cache, cached_property
from pathlib import Path

from pipeline.files import digest, read_json, stable_json, write_text
from pipeline.study import PHASES, Job, Study, lineage

LONG_AGO = 946_684_800  # 2000-01-01: older than any output, so it never asks for a rerun
JOBS = Path(".study/jobs")


@cache
def module_file(root: Path, name: str) -> Path | None:
    base = root.joinpath(*name.split("."))
    for file in (base.with_suffix(".py"), base / "__init__.py"):
        if file.exists():
            return file
    return None


@cache
def read_module(root: Path, name: str) -> tuple[str, tuple[str, ...]]:
    """(digest of what a module does, the modules of this package that it imports anywhere).

    Comments, blank lines and docstrings do not count: the digest is over the syntax tree without docstrings.
    """
    tree = ast.parse(module_file(root, name).read_text(encoding="utf-8"))
    imports: set[str] = set()
    for node in ast.walk(tree):
        documented = isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef | ast.Module)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            imports |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    inside = sorted(n for n in imports if n.split(".")[0] == "pipeline" and module_file(root, n))
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16], tuple(inside)


@cache
def code_fingerprint(root: Path, phase: str) -> dict[str, str]:
    """The digest of every module that a phase runs, by name: its entry module and all it imports from here."""
    found: dict[str, str] = {}
    waiting = [PHASES[phase]]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name], imports = read_module(root, name)
            waiting += imports
    return dict(sorted(found.items()))


class Ledger:
    """The cards that today's study would write, and which artifacts on disk carry them."""

    def __init__(self, study: Study, root: Path):
        self.study, self.root = study, root
        self.cards: dict[tuple[str, str], dict] = {}

    def card(self, job: Job) -> dict:
        """The card that the job would write today."""
        if job.key not in self.cards:
            self.cards[job.key] = {
                "phase": job.phase,
                "id": job.id,
                "settings": job.settings,
                "code": code_fingerprint(self.root, job.phase),
                "parents": {
                    role: {"phase": parent.phase, "id": parent.id, "card": digest(self.card(parent))}
                    for role, parent in sorted(job.parents.items())
                },
            }
        return self.cards[job.key]

    def is_current(self, job: Job) -> bool:
        try:
            return read_json(self.root / job.card) == self.card(job)
        except (OSError, ValueError):
            return False

    @cached_property
    def current(self) -> dict[tuple[str, str], bool]:
        return {job.key: self.is_current(job) for job in self.jobs}

    @cached_property
    def jobs(self) -> list[Job]:
        """All jobs, parents first."""
        return lineage(self.study.table1)

    def job_file(self, job: Job) -> Path:
        return self.root / JOBS / job.phase / f"{job.id}.json"

    def inputs(self, job: Job) -> list[Job]:
        """The jobs whose files this one reads."""
        return [*job.parents.values(), *([job.continues] if job.continues else [])]

    def write_jobs(self) -> None:
        """Write what each job must do, dated so that Snakemake reruns exactly the jobs that are not current.

        The date of a job's file is the only file time that Snakemake acts on: long ago for a current artifact, newer
        than the artifact otherwise. Files that already say so are left alone.
        """
        todo = [job for job in self.jobs if not self.current[job.key]]
        for job in self.jobs:
            file = self.job_file(job)
            text = stable_json(
                {
                    "card": self.card(job),
                    "folder": job.folder,
                    "card_path": job.card,
                    "inputs": {role: parent.folder for role, parent in sorted(job.parents.items())},
                    "continues": job.continues.folder if job.continues else None,
                    "place": f"{todo.index(job) + 1}/{len(todo)}" if job in todo else None,
                    "context": self.context(),
                }
            )
            if not file.exists() or file.read_text(encoding="utf-8") != text:
                write_text(file, text)
            artifact = self.root / job.card
            if self.current[job.key]:
                os.utime(file, (LONG_AGO, LONG_AGO))
            elif artifact.exists() and file.stat().st_mtime <= artifact.stat().st_mtime:
                now = max(time.time(), artifact.stat().st_mtime + 1)
                os.utime(file, (now, now))

    def context(self) -> dict:
        """What a job may use but is not made from."""
        hardware = self.study.settings.scale.hardware
        licences = [licence.model_dump() for licence in self.study.settings.data.licences]
        return {
            "wandb": self.study.settings.params.wandb,
            "save_steps": hardware.save_steps,
            "licences": licences,
        }
