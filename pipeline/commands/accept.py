"""Accept: finished jobs that only changed code has made stale get today's card, if a sample of them proves the same bytes.

The fingerprint of code is of its syntax: a renamed variable makes all jobs stale that run it. Here a random sample of a
phase's jobs is made again with today's code, in folders of their own, and every byte is compared with the artifact. If all
bytes are the same, the artifacts of all these jobs get the card that today's study would write; if one byte differs,
none does. The card says from which card and code it was accepted, by which commit, with which sample, and what that
proves: n of N jobs are drawn without replacement, and how many could still differ follows from the exact hypergeometric
bound of pipeline/commands/verify.py.

Phases go from parents to children. A job is a candidate if its settings are today's and its card names its parents as they
are, or as they were before they were accepted. If its own code is the same, it needs no sample: it follows its parents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pipeline.commands.verify import CONFIDENCE, NotReproduced, draw, make_again, most_bad
from pipeline.common.files import digest, one_line, read_json, write_text
from pipeline.engines.dvc import UNRECORDED
from pipeline.engines.workflow import record
from pipeline.execution.processes import Presence, at_work
from pipeline.execution.provenance import provenance
from pipeline.store import artifacts
from pipeline.store.fingerprint import does_the_same
from pipeline.store.ledger import Ledger
from pipeline.store.staleness import changed, is_card, proof
from pipeline.study.job import Job, lineage
from pipeline.study.phases import PHASES

CURRENT = "up to date"
REPORT = "that shows the cards of the others (the report): snakemake makes it again"


def accept(ledger: Ledger, phases: list[str], sample: int, seed: int | None = None) -> Iterator[str]:
    """Accept today's code for phases, parents first, by `sample` jobs of each; yields what is done, line by line.

    Raises ValueError for a phase that has nothing to accept but is not up to date, and if somebody else is at work here;
    NotReproduced if a job comes out with other bytes. A phase that raises stays as it was.
    """
    if unknown := [phase for phase in phases if phase not in PHASES]:
        raise ValueError(f"{one_line(unknown[0])}: no phase of the study, which has {', '.join(PHASES)}")
    if sample < 1:
        raise ValueError(f"--sample: found {sample}, allowed: a number of jobs, 1 or more")
    presence, study, root = Presence(ledger.root), ledger.study, ledger.root
    # Whoever is at work here may put artifacts into place meanwhile.
    for other in presence.others()[:1]:
        raise ValueError(f"{at_work(other)}; accept when it has ended")
    try:
        for phase in PHASES:
            # A new one: a ledger remembers the cards that it has read, and parents have new ones.
            ledger = Ledger(study, root)
            obstacles = {job.id: obstacle(ledger, job) for job in ledger.jobs if job.phase == phase}
            candidates = [job for job in ledger.jobs if job.phase == phase and obstacles[job.id] is None]
            followers = [job for job in candidates if same_code(ledger, job)]
            yield from follow(ledger, phase, followers)
            if phase in phases:
                rest = [job for job in candidates if not same_code(ledger, job)]
                others = Counter(why for why in obstacles.values() if why)
                if rest or not followers:
                    yield from accept_phase(ledger, phase, rest, others, sample, seed)
    finally:
        # Also after an error: the phases before it have new cards, and dvc.lock must know them.
        if (root / UNRECORDED).exists():
            record(study, root)


def follow(ledger: Ledger, phase: str, jobs: list[Job]) -> Iterator[str]:
    """Give today's card to jobs that are stale by nothing but the new cards of their parents."""
    if jobs:
        give_todays_cards(ledger, jobs, {"seed": None, **proven([], 0)})
        yield f"{phase}: {len(jobs)} jobs follow their parents, as their own code is the same"


def accept_phase(
    ledger: Ledger, phase: str, candidates: list[Job], others: Counter, sample: int, seed: int | None
) -> Iterator[str]:
    """Accept today's code for the candidates of a phase, or raise as `accept` does.

    `others`: why other jobs of the phase are no candidates, and how many each.
    """
    rest = "".join(f"; {number} {why}" for why, number in others.items())
    yield f"{phase}: {len(candidates)} jobs are stale by their code alone{rest}"
    if (reasons := [why for why in others if why not in (CURRENT, REPORT)]) and not candidates:
        raise ValueError(f"{phase}: nothing to accept; {'; '.join(reasons)}")
    if not candidates:
        return
    seed, chosen = draw(candidates, sample, seed)
    # Making the sample again takes long: code or artifacts may change meanwhile, and then it proves nothing.
    before = [ledger.old_card(job) for job in candidates]
    for line, found in make_again(ledger, chosen):
        yield line
        if found["differing"]:
            raise NotReproduced(refusal(phase, found))
    check_still(ledger, candidates, before)
    entry = {"seed": seed, **proven(chosen, len(candidates))}
    give_todays_cards(ledger, candidates, entry)
    yield f"{phase}: accepted {len(candidates)} jobs (--seed {seed}): {proof(phase, entry)}"


def obstacle(ledger: Ledger, job: Job) -> str | None:
    """Why a job cannot be accepted, or None for one that only changed code has made stale."""
    if ledger.is_current(job):
        return CURRENT
    old, new = ledger.old_card(job), ledger.card(job)
    if old is None or not is_card(old):
        return "not finished"
    if "failed" in old or "failed" in new:
        return "kept as failed"
    # The report shows cards, so its bytes change with them: a comparison would always find a difference.
    if any(parent.phase == "tables" for parent in job.parents.values()):
        return REPORT
    # A card names the cards of its parents: those have to be today's before its own can be.
    if not all(map(ledger.is_current, job.parents.values())):
        stale = {before.phase for before in lineage(job) if before.phase != job.phase and not ledger.is_current(before)}
        first = min(stale, key=list(PHASES).index)
        return f"made from stale {first}: accept {first} first, or make it"
    if other(old) != other(new):
        return "with other settings"
    for role, parent in job.parents.items():
        # Made from other bytes than the parent now has: with these, the same code could make other bytes too.
        if old["parents"].get(role, {}).get("card") not in ledger.all_digests(parent):
            return f"whose {parent.phase} was made again and not accepted"
    return "damaged" if is_damaged(ledger, job, old) else None


def other(card: dict) -> dict:
    """The parts of a card that must be the same in both: all but its code and its parents, which have codes too."""
    return {key: value for key, value in card.items() if key not in ("code", "parents")}


def is_damaged(ledger: Ledger, job: Job, old: dict) -> bool:
    """Whether files are not as they were made. Their list may be of today's card already, if an accept was ended there."""
    lists = [(job.folder, job.files), *([("results", job.published)] if job.published else [])]
    digests = digest(old), ledger.digest(job)
    return any(all(artifacts.find_fault(ledger.root, *where, card) for card in digests) for where in lists)


def same_code(ledger: Ledger, job: Job) -> bool:
    """Whether the artifact was made by the code of today, as far as its own phase runs it."""
    return (ledger.old_card(job) or {}).get("code") == ledger.card(job)["code"]


def check_still(ledger: Ledger, jobs: list[Job], before: list[dict | None]) -> None:
    """Raise ValueError if code or artifacts are not what they were when the first job of the sample began."""
    fresh = Ledger(ledger.study, ledger.root)
    touched = [job.folder for job, card in zip(jobs, before) if fresh.old_card(job) != card or obstacle(fresh, job)]
    # Read from the files again: a ledger remembers what it knows of the code.
    if not does_the_same(ledger.root, ledger.card(jobs[0])["code"]):
        touched = ["the code"]
    if touched:
        raise ValueError(f"{touched[0]} was changed while jobs were made again: nothing was accepted; start again")


def refusal(phase: str, found: dict) -> str:
    """The error's text for a job that came out with other bytes; `found` as `make_again` has it."""
    return (
        f"refused: with today's code {phase} {found['id']} differs in {', '.join(found['differing'])}; no card of"
        f" {phase} was changed. Undo what changes bytes, or let snakemake make these jobs again"
    )


def proven(sample: list[Job], jobs: int) -> dict:
    """What an acceptance notes of a sample without a difference out of `jobs` jobs (0: nothing had to be proved)."""
    most = most_bad(jobs, len(sample), 0) if jobs else 0
    return {
        "sample": sorted(job.id for job in sample),
        "jobs": jobs,
        "at_most_differing": {"jobs": most, "share": round(most / max(jobs, 1), 6)},
        "confidence": CONFIDENCE,
    }


def give_todays_cards(ledger: Ledger, jobs: list[Job], entry: dict) -> None:
    """Give artifacts today's cards, each with one more entry on how it was accepted."""
    root = ledger.root
    write_text(root / UNRECORDED, "")  # whoever ends this: the next Snakemake run notes the cards in dvc.lock
    today = provenance(root)
    by = {key: today[key] for key in ("commit", "uncommitted_changes")}
    for job in jobs:
        old, new = ledger.old_card(job), ledger.card(job)
        assert old
        earlier = artifacts.acceptances(root / job.card)
        # Only modules that changed: cards would grow by all modules with each accept.
        code = {module: old["code"].get(module) for module in changed(old["code"], new["code"])}
        before = {"card": digest(old), "code": code, "commit": commit_before(root, job, old, earlier)}
        accepted = [*earlier, {"from": before, "by": by, **entry}]
        artifacts.give_card(root, job.folder, job.published, new, accepted)


def commit_before(root: Path, job: Job, old: dict, earlier: list[dict]) -> str | None:
    """The commit whose code a card is of, if that was noted: when the artifact was last accepted, or made."""
    if earlier:
        return earlier[-1]["by"]["commit"]
    with suppress(OSError, ValueError, KeyError):
        made = read_json(root / "logs" / job.phase / f"{job.id}.json")
        return made["commit"] if made["card"] == digest(old) else None
    return None
