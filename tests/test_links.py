"""Artifacts that share their bytes with DVC's cache (`cache.type`): nothing here writes into such a file in place."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import test_run
import yaml
from conftest import SOURCE
from test_run import first, run, stale, work

from pipeline.common.files import read_json
from pipeline.store import artifacts

here, phases = test_run.here, test_run.phases  # fixtures
OPTION = "hardlink,reflink,copy"
STAGE = {"cmd": "true", "outs": [{"artifacts/tokenizer": {"persist": True}}]}


def dvc(root: Path, *words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", *words], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def linked(here, phases) -> Path:
    """The folder of a finished job that DVC has linked to its cache, as the page on repeating says."""
    page = (SOURCE / "docs/rerun.md").read_text(encoding="utf-8")
    assert f"dvc config --local cache.type {OPTION}\n" in page
    phases.does = work
    job = first(here, "tokenizer")
    assert run(here, job) == 0
    subprocess.run(["git", "init", "-q"], cwd=here.root, check=True)
    dvc(here.root, "init", "-q")
    dvc(here.root, "config", "--local", "cache.type", OPTION)
    (here.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"prepare": STAGE}}))
    dvc(here.root, "commit", "--force", "prepare")
    folder = here.root / job.folder
    assert {file.stat().st_nlink for file in folder.iterdir()} == {2}
    return folder


def cached(root: Path) -> dict[Path, str]:
    """The files of DVC's cache, and the hash of what is in each."""
    files = [file for file in (root / ".dvc/cache/files/md5").glob("*/*") if file.suffix != ".dir"]
    return {file: hashlib.md5(file.read_bytes()).hexdigest() for file in files}


def test_a_linked_artifact_is_current_and_making_it_again_leaves_the_cache_as_it_was(here, phases, linked):
    job = first(here, "tokenizer")
    assert job.key not in stale(here)
    before = cached(here.root)
    assert before and all(file.parent.name + file.name == its for file, its in before.items())
    phases.does = lambda made, out: work(made, out) | {"rows": 2}
    assert run(here, job) == 0  # a job that is current was asked for by force
    assert read_json(linked / "measured.json")["rows"] == 2
    assert cached(here.root) == before


def test_a_card_that_is_given_leaves_the_cache_as_it_was(here, linked):
    """`accept` gives a finished artifact another card."""
    before, card = cached(here.root), read_json(linked / artifacts.CARD)
    folder = linked.relative_to(here.root).as_posix()
    artifacts.give_card(here.root, folder, None, card | {"code": {}}, [])
    assert read_json(linked / artifacts.CARD)["code"] == {}
    assert cached(here.root) == before
