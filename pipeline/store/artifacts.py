"""Artifacts on disk: whole, damaged or gone; set aside when they leave the study and taken back when they return.

An artifact is a folder with the files of a job, `files.json` (the digest of the card that they were made from, and
every file's size and SHA-256) and `card.json`, written in this order. What a finished file looks like from outside
(size, date) is remembered below .study/seen/, as git and DVC do: a file that still looks so is not read again.

A finished artifact that later code was accepted for (pipeline/commands/accept.py) keeps its files and gets that code's card. How that
came about is in the card too, under "accepted". That part says nothing of what the files are: no digest counts it.

Work in progress is in .study/partial/ID, and what a job can resume from in .study/resume/ID-CARD (the digest of its
card: other code or other parents must not go on with it).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.common.files import digest, file_hash, folder_hashes, path_fault, read_json, stable_json, write_text

ARTIFACTS, STATE = Path("artifacts"), Path(".study")
SEEN, ASIDE = STATE / "seen", STATE / "aside"
PARTIAL, RESUME = STATE / "partial", STATE / "resume"
LOCKS = STATE / "locks"  # a file for each job, which the process that carries it out holds a lock on
PROGRESS = STATE / "progress"  # a file for each job at work that says how far it is
CARD, FILES = "card.json", "files.json"
ACCEPTED = "accepted"  # the key of a card that identity leaves out
ACCEPTANCE = {
    "from",
    "by",
    "sample",
    "seed",
    "jobs",
    "at_most_differing",
    "confidence",
}  # what each of its entries says


def read_card(file: Path) -> Any:
    """A card as jobs write it, without what it says of acceptances. Raises OSError or ValueError."""
    card = read_json(file)
    return {key: card[key] for key in card if key != ACCEPTED} if isinstance(card, dict) else card


def acceptances(file: Path) -> list[dict]:
    """How the artifact of a card was accepted, oldest first. Empty for most, and where there is no card."""
    try:
        found = read_json(file).get(ACCEPTED, [])
        return [entry for entry in found if entry.keys() >= ACCEPTANCE]
    except (OSError, ValueError, TypeError, AttributeError):
        return []


def give_card(root: Path, folder: str, published: str | None, card: dict, accepted: list[dict]) -> None:
    """Give a whole artifact another card. Its files stay as they are.

    The lists of its files name the card too, and are written first: after a stop in between the old card is still there,
    and the same command goes on.
    """
    # A table's list in results/ names the card too.
    for place, manifest in ((folder, f"{folder}/{FILES}"), ("results", published)):
        if manifest:
            write_text(root / manifest, stable_json(read_json(root / manifest) | {"card": digest(card)}))
            record_verified(root, place, manifest)
    write_text(root / folder / CARD, stable_json(card | {ACCEPTED: accepted}))


def make_manifest(folder: Path, card_digest: str) -> None:
    """Write `files.json` of a finished folder that has no card yet."""
    hashes = folder_hashes(folder)
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": hashes[name]} for name in hashes}
    write_text(folder / FILES, stable_json({"card": card_digest, "files": files}))


def stat_signature(folder: Path, names: list[str], manifest_file: Path) -> dict[str, list[int]]:
    """[size, date in ns] of each file, and under "" of their manifest. Raises OSError if one is missing."""
    stats = {name: os.stat(folder / name) for name in names} | {"": os.stat(manifest_file)}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def record_verified(root: Path, folder: str, manifest_file: str) -> None:
    """Note how the files of a folder look that have just been found (or made) as its manifest says."""
    manifest = read_json(root / manifest_file)
    look = stat_signature(root / folder, list(manifest["files"]), root / manifest_file)
    write_text(root / SEEN / manifest_file, stable_json({"card": manifest["card"], "looks": look}))


def last_verified(root: Path, manifest_file: str) -> dict:
    """What was last remembered: {"card", "looks"}; empty if the files were never found whole here."""
    try:
        return read_json(root / SEEN / manifest_file)
    except (OSError, ValueError):
        return {}


def find_fault(root: Path, folder: str, manifest_file: str, card_digest: str) -> str | None:
    """What is wrong with a folder's files, or None if every one is as its manifest says and that is of this card.

    Files that look as remembered are taken to be the same; the others are hashed, and remembered if all are right.
    """
    own = Path(manifest_file).name
    try:
        manifest = read_json(root / manifest_file)
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
        made_from = manifest["card"]
        # The list may come from a remote, and its names must not lead out of the folder.
        if any(map(path_fault, files)):
            raise ValueError("a file elsewhere")
        look = stat_signature(root / folder, list(files), root / manifest_file)
        # Asked before any file is read: other artifacts' gigabytes need not be hashed.
        if made_from != card_digest:
            return f"{own} is of another card"
        known = last_verified(root, manifest_file).get("looks", {})
        if look == known:
            return None
        if look[""] != known.get(""):  # another list says something about every file
            known = {}
        for name, (size, sha256) in files.items():
            if look[name] == known.get(name):
                continue
            if look[name][0] != size or file_hash(root / folder / name) != sha256:
                return f"{name} has other bytes than when it was made"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"{Path(error.filename or folder).name} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{own} is damaged"
    record_verified(root, folder, manifest_file)
    return None


def manifest_of(file: Path) -> dict:
    """{"card", "files"} of a list of files; both empty if it is not there or is no such list."""
    try:
        found = read_json(file)
        hashes = {name: entry["sha256"] for name, entry in found["files"].items()}
        return {"card": str(found["card"]), "files": hashes}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {"card": "", "files": {}}


def other_bytes(root: Path, folder: str, published: str) -> list[str]:
    """The files of results/ that are not those of the artifact here, by the lists of both: one was made elsewhere."""
    here, there = (manifest_of(root / file)["files"] for file in (f"{folder}/{FILES}", published))
    return sorted(name for name in here.keys() & there.keys() if here[name] != there[name])


def strays(root: Path, phase: str, ids: set[str]) -> list[Path]:
    """Artifacts of a phase that are not among `ids`."""
    return sorted(p for p in (root / ARTIFACTS / phase).glob("*") if p.is_dir() and p.name not in ids)


def set_aside(root: Path, phase: str, ids: set[str]) -> list[Path]:
    """Move a phase's artifacts that are not among `ids` out of DVC's sight. Returns where they were.

    What an interrupted job left of one, without a list of its files, takes no other's place: it is deleted.
    """
    left = strays(root, phase, ids)
    for folder in left:
        aside = root / ASIDE / phase / folder.name
        if (folder / FILES).exists():
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder, aside)
        else:
            shutil.rmtree(folder)
        # With this note the artifact would count as deleted, not as never made, once the study has it again.
        (root / SEEN / folder.relative_to(root) / FILES).unlink(missing_ok=True)
    return left


def take_back(root: Path, folder: str, card: dict) -> None:
    """Put an artifact that was set aside, and is wanted again with this very card, back in its place."""
    aside, place = root / ASIDE / Path(folder).relative_to(ARTIFACTS), root / folder
    if not aside.exists() or (place / FILES).exists():
        return
    try:
        wanted = read_card(aside / CARD) == card
    except (OSError, ValueError):
        wanted = False
    if wanted:
        # What stands there has no list of files: it is a card alone, or what an interrupted job left.
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside, place)


def resumable(root: Path, place: Path = RESUME) -> dict[Path, str]:
    """The folders that jobs can resume from, and the jobs' ids."""
    return {folder: folder.name.rpartition("-")[0] for folder in sorted((root / place).glob("*-*"))}


def tidy(root: Path, ids: set[str], waiting: Mapping[str, str]) -> None:
    """Put away what ended jobs left. waiting: {id: digest of its card} of those still to be done, among all `ids`.

    A waiting job keeps two states: its own, and the newest that it has of other code or parents, which may come back.
    """
    # Nobody is at work here (see `Ledger.tidy`), so these files are of jobs that were killed.
    shutil.rmtree(root / PROGRESS, ignore_errors=True)
    for folder in (root / PARTIAL).glob("*"):
        if folder.name.removesuffix(".old") not in waiting:
            shutil.rmtree(folder, ignore_errors=True)
    states = resumable(root)
    # A setting that is tried and taken back should not cost a half-finished run its state.
    others: dict[str, list[Path]] = {}
    for folder, owner in states.items():
        if folder.name != f"{owner}-{waiting.get(owner)}":
            others.setdefault(owner, []).append(folder)
    newest = {max(folders, key=lambda folder: folder.stat().st_mtime_ns) for folders in others.values()}
    for folder, owner in states.items():
        if owner not in ids:
            aside = root / ASIDE / RESUME.name / folder.name
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder, aside)
        elif owner not in waiting or (folder in others.get(owner, ()) and folder not in newest):
            shutil.rmtree(folder, ignore_errors=True)


def take_back_states(root: Path, ids: set[str]) -> None:
    """Put what jobs can resume from back in its place if they are in the study again."""
    for folder, owner in resumable(root, ASIDE / RESUME.name).items():
        place = root / RESUME / folder.name
        if owner in ids and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder, place)


def invalidate(root: Path, folder: Path) -> None:
    """Trust the files of a folder no more: the next plan reads them."""
    (root / SEEN / folder / FILES).unlink(missing_ok=True)


def changed(folder: Path) -> str | None:
    """Which file of a folder is not as its manifest says, all of them read; None if there is none, or no manifest."""
    if not (folder / FILES).exists():
        return None
    for name, entry in read_json(folder / FILES)["files"].items():
        file = folder / name
        if not file.exists() or file.stat().st_size != entry["bytes"] or file_hash(file) != entry["sha256"]:
            return name
    return None
