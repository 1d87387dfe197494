"""A job of the study, and who descends from whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from pipeline.common.files import digest
from pipeline.settings.scale import Hardware
from pipeline.settings.types import Section


@dataclass(frozen=True)
class Job:
    """One step of the study and the folder of files that it makes."""

    phase: str
    label: str
    settings: Section
    parents: dict[str, Job] = field(default_factory=dict)  # by role, e.g. {"tokenizer": ..., "text": ...}
    # An earlier state of the same run to start from. It saves time and changes no bit, so it is no part of the
    # identity.
    continues: Job | None = None
    # What it runs on. Of that only what changes a bit is in its settings; equal jobs may run anywhere.
    hardware: Hardware | None = field(default=None, compare=False)

    @cached_property
    def card_settings(self) -> dict:
        """The settings as cards have them: the keys that the study gave, without defaults.

        A new key with a default therefore leaves the settings of older cards as they are.
        """
        return self.settings.model_dump(exclude_unset=True)

    @cached_property
    def identity(self) -> str:
        """The digest of phase, settings and parents' identities: two jobs with the same one are the same job."""
        return digest([self.phase, self.card_settings, {role: job.identity for role, job in self.parents.items()}])

    @cached_property
    def id(self) -> str:
        """The label with the beginning of the identity. Labels may repeat; nothing ever parses an id."""
        return f"{self.label}-{self.identity[:8]}"

    @property
    def key(self) -> tuple[str, str]:
        """(phase, id)."""
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
        settings = dict(job.card_settings)
        for name, section in job.card_settings.items():
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
            # A state that a run goes on from must be made before it, though it is no parent.
            for parent in (*job.parents.values(), *([job.continues] if job.continues else [])):
                visit(parent)
            found[job.key] = job

    for job in jobs:
        visit(job)
    return list(found.values())
