"""The files that DVC writes, and how to tell that one was cut off while it was written."""

from __future__ import annotations

from pathlib import Path

import yaml

UNRECORDED = Path(".study/unrecorded")  # there from the first job on until what was made is noted in dvc.lock


DVC_FILES = ("dvc.lock", ".dvc/tmp/rwlock")  # what DVC writes without a partial file, and refuses to work without


def is_torn(lock: Path) -> bool:
    """Whether one of DVC_FILES (YAML, or JSON, which is YAML too) is one that DVC refuses: it was ended while it wrote it."""
    try:
        # The loader that is written in C, as this is read at the end of every run.
        content = yaml.load(lock.read_text(encoding="utf-8"), yaml.CSafeLoader)
    except yaml.YAMLError:
        return True
    except OSError:
        return False
    return not isinstance(content, dict) or (lock.suffix == ".lock" and not is_lock_of_dvc(content))


def is_lock_of_dvc(content: dict) -> bool:
    """Whether it is what a dvc.lock holds. One that is cut off can be YAML still."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(content)
    except Invalid:
        return False
    return True
