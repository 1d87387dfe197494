"""Reads the artifact of a source that lists the files of corpora."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import fsspec

from pipeline.common.files import read_json

MANIFEST = "manifest.json"


def is_corpora(source: Path) -> bool:
    """Whether a source's artifact lists corpora. Otherwise it holds data in the official formats itself."""
    return (source / MANIFEST).exists()


def read_bytes(place: str) -> bytes:
    """A whole file. Raises FileNotFoundError, also for what can be no file: a folder, a name that is too long."""
    try:
        with fsspec.open(place, "rb") as file:
            return file.read()
    except OSError as error:
        raise missing(error) from None


def missing(error: OSError) -> OSError:
    """The error as FileNotFoundError if no file can be there, else itself."""
    # A name comes from a data set and may be anything. Other errors, such as a missing permission, must not be taken
    # for a missing file.
    if isinstance(error, IsADirectoryError | NotADirectoryError) or error.errno == errno.ENAMETOOLONG:
        return FileNotFoundError(errno.ENOENT, error.strerror, error.filename)
    return error


def image_name(corpus: dict, image: str) -> str:
    """Where an image of a LLaVA corpus lies, relative to the corpus."""
    return PurePosixPath(corpus["images"], image).as_posix()


def read_list(source: Path, name: str) -> Iterator[dict]:
    """The lines of a corpus's list: "file", "bytes", "sha256", and "records" where a sidecar says."""
    with open(source / "files" / f"{name}.jsonl", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def listed_corpora(source: Path) -> dict[str, dict]:
    """The corpora of a source's artifact, as its manifest has them."""
    return read_json(source / MANIFEST)["corpora"]
