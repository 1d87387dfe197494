"""Cards: what an artifact was made from, and whether that is still what today's study asks for.

A card is a small JSON in the artifact's folder: phase, settings, parents' cards and the fingerprint of the code. The
artifact is current if and only if its card equals the card that today's study would write.
"""

from __future__ import annotations

import json
import os
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.common.files import clamp_future_mtime, digest, stable_json, write_text
from pipeline.data.job_settings import ListedCorpora
from pipeline.settings.errors import ConfigError
from pipeline.settings.places import find_tokenizer
from pipeline.settings.scale import Hardware
from pipeline.settings.sources import Corpora
from pipeline.store import artifacts
from pipeline.store.changed_corpora import find_changed, listed
from pipeline.store.failed_runs import read_kept
from pipeline.store.fingerprint import code_fingerprint, keep_known_modules, write_if_changed
from pipeline.study.job import Job, lineage
from pipeline.study.phases import STAGES
from pipeline.study.study import Study

OWN_RESULTS = Path("results/experiments/README.md")
KEPT = """\
Tables and figures of the experiments of `params.yaml` that are none of the paper's. This file keeps the folder in git: DVC
looks for it, whether there is such an experiment or not.
"""
LONG_AGO = 946_684_800  # 2000-01-01: older than any output, so it never asks for a rerun
JOBS = Path(".study/jobs")


def placed(hardware: Hardware) -> dict[str, Any]:
    """What a training job has to know of the hardware, although it is not made from it."""
    return hardware.model_dump(include={"save_steps", "nodes", "devices", "sharding", "checkpoint_activations"})


class Ledger:
    """The cards that today's study would write, and which artifacts on disk carry them."""

    def __init__(self, study: Study, root: Path):
        self.study, self.root = study, root
        self.cards: dict[tuple[str, str], dict] = {}
        self.digests: dict[tuple[str, str], str] = {}
        self.kept = read_kept(root)

    def card(self, job: Job) -> dict:
        """The card that the job would write today."""
        if job.key not in self.cards:
            card = {
                "phase": job.phase,
                "id": job.id,
                "settings": job.card_settings,
                "code": code_fingerprint(self.root, job.phase),
                # What a job continues is no parent: it is an earlier state of the same run, and any way to it gives the
                # same bits.
                "parents": {
                    role: {"phase": parent.phase, "id": parent.id, "card": self.digest(parent)}
                    for role, parent in sorted(job.parents.items())
                },
            }
            self.cards[job.key] = card | self.failure(job, card)
        return self.cards[job.key]

    def failure(self, job: Job, card: dict) -> dict[str, str]:
        """{"failed": why} if a run, or one that it comes from, is kept as failed. A table is made all the same."""
        if not self.kept or job.phase == "tables":
            return {}
        for earlier in self.inputs(job):
            # What descends from a failed run cannot be made, and its card says why.
            if "failed" in self.card(earlier):
                return {"failed": self.card(earlier)["failed"]}
        entry = self.kept.get(f"{job.phase}/{job.id}")
        return {"failed": f"{job.phase} {job.id}: {entry['reason']}"} if entry and entry["card"] == digest(card) else {}

    def digest(self, job: Job) -> str:
        """The digest of the job's card."""
        if job.key not in self.digests:
            self.digests[job.key] = digest(self.card(job))
        return self.digests[job.key]

    def old_card(self, job: Job) -> dict | None:
        """The card in the artifact's folder, if there is one; without what it says of acceptances."""
        try:
            return artifacts.read_card(self.root / job.card)
        except (OSError, ValueError):
            return None

    def acceptances(self, job: Job) -> list[dict]:
        """How the artifact came to today's card without being made again (pipeline/commands/accept.py), oldest first."""
        return artifacts.acceptances(self.root / job.card) if self.old_card(job) == self.card(job) else []

    def all_digests(self, job: Job) -> set[str]:
        """The digests of today's card and of those that the artifact had before it was accepted."""
        return {self.digest(job), *(entry["from"]["card"] for entry in self.acceptances(job))}

    def fault(self, job: Job) -> str | None:
        """What keeps the artifact from being what today's study asks for, or None."""
        card = self.old_card(job)
        if card is None:
            return "deleted" if self.was_here(job) else "not made yet"
        if card != self.card(job):
            return "made from another card"
        damaged = artifacts.find_fault(self.root, job.folder, job.files, self.digest(job))
        if damaged is None and job.published:
            damaged = artifacts.find_fault(self.root, "results", job.published, self.digest(job))
        return damaged

    def was_here(self, job: Job) -> bool:
        """Whether the artifact, from today's card, was once found whole in this folder."""
        return artifacts.last_verified(self.root, job.files).get("card") == self.digest(job)

    @cached_property
    def faults(self) -> dict[tuple[str, str], str | None]:
        """What is wrong with each job's artifact, by the job's key; None for a current one. Each is looked at once."""
        return {job.key: self.fault(job) for job in self.jobs}

    def is_current(self, job: Job) -> bool:
        """Whether the artifact is there, whole, and has today's card."""
        return self.faults[job.key] is None

    @cached_property
    def broken(self) -> list[Job]:
        """Artifacts that were here as today's study wants them, and are now damaged or gone.

        Nothing that is made from them asks for them, so they must be asked for by name. An artifact that was never
        here (not pulled) is not broken: it is made when something needs it.
        """
        faulty = [job for job in self.jobs if not self.is_current(job) and not job.published]
        return [job for job in faulty if self.was_here(job) or self.old_card(job) == self.card(job)]

    @cached_property
    def jobs(self) -> list[Job]:
        """All jobs, parents first."""
        return lineage(*self.study.tables.values())

    def stage_jobs(self, stage: str) -> list[Job]:
        """The jobs of a stage of dvc.yaml, parents first."""
        return [job for job in self.jobs if job.phase in STAGES[stage]]

    def job_file(self, job: Job) -> Path:
        """Where the job's file is, which `python -m pipeline run` reads."""
        return self.root / JOBS / job.phase / f"{job.id}.json"

    def inputs(self, job: Job) -> list[Job]:
        """The jobs whose files this one reads."""
        return [*job.parents.values(), *([job.continues] if job.continues else [])]

    def mark_deleted(self) -> None:
        """Give artifacts that are gone their card alone: damaged, in place of missing.

        Snakemake's ancient() keeps the rebuilding of a file from spreading to what was made from it, but only if the
        file exists.
        """
        for job in self.broken:
            if not (self.root / job.card).exists():
                write_text(self.root / job.card, stable_json(self.card(job)))

    def take_back(self) -> None:
        """Put artifacts that were set aside and are in the study again back in their places."""
        for job in self.jobs:
            artifacts.take_back(self.root, job.folder, self.card(job))
        artifacts.take_back_states(self.root, {job.id for job in self.jobs})

    def tidy(self) -> None:
        """Put away what ended jobs left of the work in progress, when nobody is at work here.

        States to resume from are kept for jobs that are still to be done, the newest of other code included until these
        are; those of jobs that left the study go aside with their artifacts.
        """
        ids = {job.id for job in self.jobs}
        waiting = {job.id: self.digest(job) for job in self.jobs if not self.is_current(job)}
        artifacts.tidy(self.root, ids, waiting)

    def set_aside(self, stage: str) -> list[Path]:
        """Move a stage's artifacts that are not in the study out of DVC's sight.

        A phase that the study has no job of gets an empty folder: DVC wants all that dvc.yaml names.
        """
        for phase in STAGES[stage]:
            (self.root / artifacts.ARTIFACTS / phase).mkdir(parents=True, exist_ok=True)
        if "tables" in STAGES[stage]:
            write_if_changed(self.root / OWN_RESULTS, KEPT)
        ids = {phase: {job.id for job in self.jobs if job.phase == phase} for phase in STAGES[stage]}
        return [folder for phase in ids for folder in artifacts.set_aside(self.root, phase, ids[phase])]

    def write_jobs(self) -> None:
        """Write what each job must do, dated so that Snakemake reruns exactly the jobs that are not current.

        The date of a job's file is the only file time that Snakemake acts on: long ago for a current artifact, newer
        than the artifact otherwise. Files that already say so are left alone.
        """
        stale = [job for job in self.jobs if not self.is_current(job)]
        position = {job.key: f"{number}/{len(stale)}" for number, job in enumerate(stale, 1)}
        for job in self.jobs:
            file = self.job_file(job)
            outputs = [self.root / path for path in (job.card, job.published) if path]
            made = max((path.stat().st_mtime_ns for path in outputs if path.exists()), default=None)
            text = json.dumps(  # compact: hundreds of these are made for every plan
                {
                    "card": self.card(job),
                    "folder": job.folder,
                    "published": job.published,
                    "inputs": {role: parent.folder for role, parent in sorted(job.parents.items())},
                    "continues": job.continues.folder if job.continues else None,
                    "position": position.get(job.key),
                    # Snakemake takes no notice of a new date if the contents are those of the job's last run.
                    "rerun_token": made if job.key in position else None,
                    "context": self.context_of(job) | self.used_by(job),
                },
                sort_keys=True,
            )
            write_if_changed(file, text)
            if job.key not in position:
                os.utime(file, (LONG_AGO, LONG_AGO))
                for path in outputs:
                    clamp_future_mtime(path)
            elif made is not None and file.stat().st_mtime_ns <= made:
                # Later than the artifact even where this machine's clock is behind the one that dated it.
                now = max(time.time_ns(), made + 10**9)
                os.utime(file, ns=(now, now))
        keep_known_modules(self.root)

    def date_long_ago(self) -> None:
        """Date the cards of current artifacts so that none is newer than what was made from it."""
        for job in filter(self.is_current, self.jobs):
            os.utime(self.root / job.card, (LONG_AGO, LONG_AGO))

    def used_by(self, job: Job) -> dict[str, list[str]]:
        """For a job that is logged to Weights & Biases: the experiments that it is part of."""
        # Without logging nothing needs the names, and a job's file stays as it is when an experiment is added.
        if self.study.settings.params.wandb == "disabled":
            return {}
        return {"experiments": [name for name, jobs in self.study.experiment_jobs.items() if job.key in jobs]}

    def context_of(self, job: Job) -> dict[str, Any]:
        """What a job may use but is not made from: a larger model may need more devices than the others."""
        return self.context | (placed(job.hardware) if job.hardware else {})

    @cached_property
    def context(self) -> dict:
        """What a job of the usual model size may use but is not made from."""
        hardware, data = self.study.settings.scale.hardware, self.study.settings.data
        context: dict[str, Any] = {
            "wandb": self.study.settings.params.wandb,
            **placed(hardware),
            "jobs_a_device": hardware.jobs_a_device,
            "evaluation_processes": hardware.evaluation_processes,
            "licences": [licence.model_dump() for licence in data.every_licence],
        }
        if isinstance(data.source, Corpora):
            file = f"configs/data/{self.study.settings.params.data}.yaml"
            context["corpora"] = data.source.context() | {"file": file}
        if self.study.given_tokenizer:
            context["tokenizer"] = str(find_tokenizer(self.study.given_tokenizer))
        if checkpoints := self.study.settings.checkpoints:
            context["checkpoints"] = checkpoints.places()
            licence = {"name": "the text run", "used_for": "pretrain", "licence": checkpoints.licence}
            context["licences"].append(licence)
        return context

    def check_unchanged(self) -> None:
        """Refuse corpora of which a file was changed after it was listed. Raises ConfigError."""
        for job in self.jobs:
            if isinstance(job.settings, ListedCorpora) and self.is_current(job):
                folder, where = self.root / job.folder, self.context["corpora"]
                if found := find_changed(self.root, folder, listed(folder, job.settings, where)):
                    place, keys = found
                    section = where
                    for key in keys:
                        section = section[key]
                    allowed = f"another one, as {place} has changed since it was indexed; increase it and rerun"
                    raise ConfigError(where["file"], f"source.{'.'.join(keys)}.revision", section["revision"], allowed)
