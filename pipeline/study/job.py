"""A job of the study, and who descends from whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from pipeline.common.files import digest


@dataclass(frozen=True)
class Job:
    """One step of the study and the folder of files that it makes."""

    phase: str
    label: str
    settings: dict
    parents: dict[str, Job] = field(default_factory=dict)  # by role, e.g. {"tokenizer": ..., "text": ...}
    continues: Job | None = None  # an earlier state of the same run to start from: saves time, changes no bit

    @cached_property
    def identity(self) -> str:
        return digest([self.phase, self.settings, {role: job.identity for role, job in self.parents.items()}])

    @cached_property
    def id(self) -> str:
        return f"{self.label}-{self.identity[:8]}"

    @property
    def key(self) -> tuple[str, str]:
        return self.phase, self.id

    @property
    def folder(self) -> str:
        """Where the job's files go, relative to the project."""
        return f"artifacts/{self.phase}/{self.id}"

    @property
    def card(self) -> str:
        """The path of the card that says what the files were made from."""
        return f"{self.folder}/card.json"

    @property
    def files(self) -> str:
        """The path of the list of the job's files with their hashes."""
        return f"{self.folder}/files.json"

    @property
    def published(self) -> str | None:
        """The path of the list of a table's files that are copied to results/, with what they were made from."""
        return f"results/made_from/{self.label}.json" if self.phase == "tables" else None


def training(scores: Job) -> list[Job]:
    """The training jobs behind an evaluation, the text run's state first."""
    found: list[Job] = []
    job = scores.parents.get("checkpoint")
    while job:
        found.insert(0, job)
        job = job.parents.get("branch")
    return found


def lineage_tables(*tables: Job) -> dict[str, dict]:
    """Who descends from whom below some tables, for those who read no jobs: what the report and a trace go by.

    {"jobs": {"PHASE/ID": {"settings", "parents": {role: "PHASE/ID"}}}, "sections": {digest: settings}}: a section of
    settings that many jobs share is listed once, and stands in their settings as {"section": digest}.
    """
    jobs, sections = {}, {}
    for job in lineage(*tables):
        if job.phase == "tables":
            continue
        settings = dict(job.settings)
        for name, section in job.settings.items():
            if section and isinstance(section, dict):
                settings[name] = {"section": digest(section)}
                sections[digest(section)] = section
        parents = {role: "/".join(parent.key) for role, parent in sorted(job.parents.items())}
        jobs["/".join(job.key)] = {"settings": settings, "parents": parents}
    return {"jobs": jobs, "sections": sections}


def lineage(*jobs: Job) -> list[Job]:
    """Jobs and their ancestors, each once, parents first."""
    found: dict[tuple[str, str], Job] = {}

    def visit(job: Job) -> None:
        if job.key not in found:
            for parent in (*job.parents.values(), *([job.continues] if job.continues else [])):
                visit(parent)
            found[job.key] = job

    for job in jobs:
        visit(job)
    return list(found.values())
