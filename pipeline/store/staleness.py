"""Why an artifact is stale: the setting, the code, the parent or the damage that is at the root of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.common.files import digest
from pipeline.reporting.table_list import TABLES
from pipeline.store import artifacts
from pipeline.store.artifacts import ARTIFACTS, ASIDE, CARD
from pipeline.store.ledger import Ledger
from pipeline.study.job import Job, lineage


def why(ledger: Ledger, target: str) -> str:
    """One line on a file of results/, a folder of artifacts/ or an artifact's id.

    Raises ValueError for a target that is not in today's study.
    """
    job = find(ledger, target)
    if target in results_of(job) and (said := committed(ledger, job)):
        return f"{target}: {said}"
    if ledger.is_current(job):
        failed = ledger.card(job).get("failed")
        more = f"; kept as failed: {failed}" if failed else ""
        if target in results_of(job) and (names := artifacts.other_bytes(ledger.root, job.folder, job.published or "")):
            more = f", but {', '.join(names)}: other bytes than in {job.folder}; one of them was made elsewhere"
        return f"{target}: up to date (card {ledger.digest(job)}){more}{accepted(ledger, job)}"
    # Only what is stale for a reason of its own: everything below it is stale because of it.
    roots = [j for j in lineage(job) if is_root(ledger, j)]
    first = job if job in roots else roots[0]
    name = "" if first is job else f"{first.phase} {first.id}: "
    more = f" (and {len(roots) - 1} more like it)" if len(roots) > 1 else ""
    return f"{target}: stale: {name}{reason(ledger, first)}{more}"


def find(ledger: Ledger, target: str) -> Job:
    """The job that makes a file, a folder or an id."""
    # A folder or a file in one names its artifact by a part of its path.
    parts = Path(target).parts
    for job in ledger.jobs:
        if job.id in parts or target in results_of(job):
            return job
    raise ValueError(f"{target} is not in the study of params.yaml; it has {', '.join(job.id for job in ledger.jobs)}")


def results_of(job: Job) -> list[str]:
    """The files that a table leaves in results/."""
    return [job.published, *(f"results/{file}" for file in TABLES[job.label].files)] if job.published else []


def committed(ledger: Ledger, job: Job) -> str | None:
    """What a table's files in results/ are where no artifact here is what they are copies of: git has brought them."""
    made_from = artifacts.manifest_of(ledger.root / (job.published or ""))["card"]
    folders = [ledger.root / folder / job.phase for folder in (ARTIFACTS, ASIDE)]
    here = [artifacts.manifest_of(file)["card"] for folder in folders for file in folder.glob(f"*/{artifacts.FILES}")]
    if not made_from or made_from in here or ledger.was_here(job):
        return None
    today, absent = ledger.digest(job), "its artifacts are not here"
    if fault := artifacts.find_fault(ledger.root, "results", job.published or "", made_from):
        return f"stale: {fault}; {absent}"
    if made_from == today:
        return f"committed; {absent} (`dvc pull` brings what was pushed). It is of today's study (card {today})"
    return f"committed, of another study (card {made_from}, today's is {today}); {absent}"


def accepted(ledger: Ledger, job: Job) -> str:
    """What is to be said of a current artifact if it, or one that it comes from, was accepted for later code."""
    own = [f"; {acceptance(job.phase, entry)}" for entry in ledger.acceptances(job)[-1:]]
    behind = [other for other in lineage(job) if other is not job and ledger.acceptances(other)]
    return "".join(own) + (f"; accepted among what it comes from: {len(behind)}" if behind else "")


def acceptance(phase: str, entry: dict) -> str:
    """An entry of a card on how it was accepted, in words."""
    old, new = entry["from"], entry["by"]
    commit = f", commit {old['commit']}" if old["commit"] else ""
    if not old["code"]:
        return f"accepted with its parents (card {old['card']} before{commit}): its own code is the same"
    later = f"the code of commit {new['commit']}" if new["commit"] else "later code"
    later += " with uncommitted changes" if new["uncommitted_changes"] else ""
    return f"accepted for {later} (made by other code of {', '.join(old['code'])}{commit}): {proof(phase, entry)}"


def proof(phase: str, entry: dict) -> str:
    """What the sample of an acceptance proves, in words."""
    jobs, drawn, most = entry["jobs"], len(entry["sample"]), entry["at_most_differing"]
    if drawn == jobs:
        return f"all {jobs} {phase} jobs were made again to the same bytes"
    return (
        f"{drawn} of {jobs} {phase} jobs, drawn at random, were made again to the same bytes; at {entry['confidence']:.0%}"
        f" confidence at most {most['jobs']} of the {jobs} ({most['share']:.1%}) would differ"
    )


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
    found = differences(old, card, ledger) if old else nearest(ledger, job)
    if not found:
        return "not made yet"
    # One line: the card of another study differs in dozens of settings.
    return "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")


def nearest(ledger: Ledger, job: Job) -> list[str]:
    """How a job that was never made differs from the artifact here that is most like it: see `differences`.

    One of the same kind is preferred (a model that sees images is unlike a blind one), then one that has left the study,
    as a changed setting has replaced it. Empty if no artifact has left the study.
    """
    today = {other.id for other in ledger.jobs}
    found = [
        (kind(card["id"]) != kind(job.id), card["id"] in today, len(lines), lines)
        for card in cards_here(ledger, job.phase)
        if (lines := differences(card, ledger.card(job), ledger))
    ]
    # If no artifact has left the study, no setting was changed: the job is simply new.
    left = [entry for entry in found if not entry[1]]
    return min(found, default=(0, 0, 0, []))[3] if left else []


def kind(id: str) -> str:
    """A job's label without its numbers: "blind-b-i-s-e"."""
    return re.sub(r"[\d.]+", "", id.rpartition("-")[0])


def cards_here(ledger: Ledger, phase: str) -> Iterator[dict]:
    """The cards of a phase's artifacts, in the study or not."""
    for folder in (ARTIFACTS, ASIDE):
        for file in sorted((ledger.root / folder / phase).glob(f"*/{CARD}")):
            if card := read_card(file):  # a damaged card explains nothing
                yield card


def read_card(file: Path) -> dict | None:
    """A card, or None for a file that is not there or holds none."""
    try:
        card = artifacts.read_card(file)
    except (OSError, ValueError):
        return None
    return card if is_card(card) else None


def is_card(card: object) -> bool:
    """Whether a JSON value has the parts of a card."""
    return isinstance(card, dict) and {"id", "settings", "code", "parents"} <= card.keys()


def differences(old: dict, new: dict, ledger: Ledger) -> list[str]:
    """Settings with their old and new values, changed modules, and other parents, in this order.

    Of another parent what it differs in itself, if both are known.
    """
    lines = list(setting_changes(old["settings"], new["settings"]))
    failed = [{"failed": card["failed"]} if "failed" in card else {} for card in (old, new)]
    lines += setting_changes(failed[0], failed[1])
    lines += [f"code of {module} changed" for module in changed(old["code"], new["code"])]
    for role in changed(old["parents"], new["parents"]):
        before, after = (parent_card(ledger, card["parents"].get(role)) for card in (old, new))
        inner = differences(before, after, ledger) if before and after else []
        # One "parent" is enough: the one in which the change itself lies.
        lines += [line if line.startswith("parent ") else f"parent {role}: {line}" for line in inner]
        lines += [] if inner else [f"parent {role} changed"]
    return list(dict.fromkeys(lines))


def parent_card(ledger: Ledger, parent: dict | None) -> dict | None:
    """The card of a parent that a card names, if it is here or of today's study."""
    if parent is None:
        return None
    today = [ledger.card(job) for job in ledger.jobs if job.key == (parent["phase"], parent["id"])]
    folders = [ledger.root / folder / parent["phase"] / parent["id"] / CARD for folder in (ARTIFACTS, ASIDE)]
    for card in (*today, *(card for card in map(read_card, folders) if card)):
        if digest(card) == parent["card"]:
            return card
    return None


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
    """A setting's value as messages have it; "nothing" for a key that is not there."""
    return "a section" if isinstance(value, dict) else repr(value) if there else "nothing"
