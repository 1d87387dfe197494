"""Files that end too early, or have a bit turned over, are not taken for whole ones, wherever that is: without a study."""

import random

import pytest
import yaml
from conftest import SOURCE
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from voluptuous import Invalid

from faults.test_damage import cut_off, turn_over
from pipeline.engines.dvc import is_torn

LOCK = (SOURCE / "dvc.lock").read_bytes()


def refused_by_dvc(content: bytes) -> bool:
    """Whether DVC would end with an error that this is no lock file."""
    try:
        COMPILED_LOCKFILE_SCHEMA(yaml.load(content, yaml.CSafeLoader))
    except (yaml.YAMLError, Invalid):
        return True
    return False


def cuts() -> list[int]:
    """Places where dvc.lock may end too early: anywhere, and after words without which what follows would be missing."""
    chance, places = random.Random(1), []
    for words in (b"outs:", b"deps:", b"size:", b"md5: ", b"md5: 0", b"hash: md", b""):
        ends = [place for place in range(1, len(LOCK)) if LOCK.endswith(words, 0, place)]
        places += chance.sample(ends, min(15, len(ends)))
    return places


def test_a_dvc_lock_that_dvc_refuses_is_torn(tmp_path):
    lock, refused = tmp_path / "dvc.lock", 0
    lock.write_bytes(LOCK)
    assert not refused_by_dvc(LOCK) and not is_torn(lock)
    for cut in cuts():
        lock.write_bytes(LOCK[:cut])
        if refused_by_dvc(LOCK[:cut]):
            refused += 1
            assert is_torn(lock), f"after {LOCK[:cut][-40:]}"
    assert refused > 30


@pytest.mark.parametrize("harm", [turn_over, cut_off])
def test_an_artifact_is_not_current_with_a_damaged_card(project, harm):
    project.make("tokenizer")
    job = next(job for job in project.ledger().jobs if job.phase == "tokenizer")
    card = project.root / job.card
    whole = card.read_bytes()
    assert project.ledger().is_current(job)
    for seed in range(20):
        harm(card, f"{seed}")
        assert not project.ledger().is_current(job), card.read_bytes()
        card.write_bytes(whole)
    assert project.ledger().is_current(job)
