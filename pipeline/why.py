"""Why an artifact is stale: the setting, the code, the parent or the damage that is at the root of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.artifacts import ARTIFACTS, ASIDE, CARD
from pipeline.cards import Ledger
from pipeline.files import read_json
from pipeline.study import TABLES, Job, lineage


def why(ledger: Ledger, target: str) -> str:
    """One line on a file of results/, a folder of artifacts/ or an artifact's id.

    Raises ValueError for a target that is not in today's study.
    """
    job = find(ledger, target)
    if ledger.is_current(job):
        failed = ledger.card(job).get("failed")
        return f"{target}: up to date (card {ledger.digest(job)})" + (f"; kept as failed: {failed}" if failed else "")
    roots = [j for j in lineage(job) if is_root(ledger, j)]
    first = job if job in roots else roots[0]
    name = "" if first is job else f"{first.phase} {first.id}: "
    more = f" (and {len(roots) - 1} more like it)" if len(roots) > 1 else ""
    return f"{target}: stale: {name}{reason(ledger, first)}{more}"


def find(ledger: Ledger, target: str) -> Job:
    """The job that makes a file, a folder or an id."""
    parts = Path(target).parts
    for job in ledger.jobs:
        if job.id in parts or target in results_of(job):
            return job
    raise ValueError(f"{target} is not in the study of params.yaml; it has {', '.join(job.id for job in ledger.jobs)}")


def results_of(job: Job) -> list[str]:
    """The files that a table leaves in results/."""
    return [job.published, *(f"results/{file}" for file in TABLES[job.label].files)] if job.published else []


def is_root(ledger: Ledger, job: Job) -> bool:
    """Stale for a reason of its own: lost or damaged files, or another card though all that it is made from is current."""
    if ledger.is_current(job):
        return False
    broken = ledger.was_here(job) or ledger.old_card(job) == ledger.card(job)
    return broken or all(ledger.is_current(parent) for parent in job.parents.values())


def reason(ledger: Ledger, job: Job) -> str:
    """What the job's own artifact lacks: files, or equality with today's card."""
    card, old = ledger.card(job), ledger.old_card(job)
    if old == card and (fault := ledger.faults[job.key]):
        return fault
    if old is None and ledger.was_here(job):
        return "it was here and has been deleted"
    if old is not None and not is_card(old):
        return f"{CARD} is damaged"
    candidates = [old] if old else list(former(ledger, job.phase))
    found = min((differences(other, card) for other in candidates), key=len, default=[])
    if not found:
        return "not made yet"
    return "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")


def former(ledger: Ledger, phase: str) -> Iterator[dict]:
    """The cards of a phase's artifacts that have left the study: what a changed setting has replaced."""
    today = {job.id for job in ledger.jobs}
    for folder in (ARTIFACTS, ASIDE):
        for file in sorted((ledger.root / folder / phase).glob(f"*/{CARD}")):
            try:
                card = read_json(file)
            except (OSError, ValueError):
                continue  # a damaged card explains nothing
            if is_card(card) and card["id"] not in today:
                yield card


def is_card(card: object) -> bool:
    return isinstance(card, dict) and {"id", "settings", "code", "parents"} <= card.keys()


def differences(old: dict, new: dict) -> list[str]:
    """Settings with their old and new values, changed modules, and other parents, in this order."""
    lines = list(setting_changes(old["settings"], new["settings"]))
    failed = [{"failed": card["failed"]} if "failed" in card else {} for card in (old, new)]
    lines += setting_changes(failed[0], failed[1])
    lines += [f"code of {module} changed" for module in changed(old["code"], new["code"])]
    return lines + [f"parent {role} changed" for role in changed(old["parents"], new["parents"])]


def changed(before: dict, after: dict) -> list[str]:
    return [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]


def setting_changes(before: dict, after: dict, prefix: str = "") -> Iterator[str]:
    """ "optimisation.peak_lr: 0.01 -> 0.02" for every setting; one line for a section that only one side has."""
    for key in changed(before, after):
        old, new = by_name(before.get(key)), by_name(after.get(key))
        if isinstance(old, dict) and isinstance(new, dict):
            yield from setting_changes(old, new, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}: {shown(old, key in before)} -> {shown(new, key in after)}"


def by_name(value: object) -> object:
    """A list of sections that have names (a table's runs, claims) as one section; anything else as it is."""
    if (
        value
        and isinstance(value, list)
        and all(isinstance(item, dict) and {"run", "name"} & item.keys() for item in value)
    ):
        return {item.get("run") or item["name"]: item for item in value}
    return value


def shown(value: object, there: bool) -> str:
    return "a section" if isinstance(value, dict) else repr(value) if there else "nothing"
