"""Torch's own files (.pt, .pth), which are pickles: read by its unpickler for tensors and plain values, which runs no code."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from pipeline.common.files import one_line


def read_torch(file: Path, mmap: bool = False) -> dict[str, Any]:
    """A torch file's dictionary of tensors and plain values. Raises ValueError for a file with anything else in it."""
    try:
        # torch.load maps zip archives alone; what it says of others is no help to a user.
        if mmap and not zipfile.is_zipfile(file):
            raise ValueError("it is none, or cut off, or older than PyTorch 1.6")
        # weights_only: the usual unpickler calls whatever function a file names.
        value = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a damaged file fails in whatever its bytes stand for
        raise ValueError(
            f"{file}: not a torch file of tensors and plain values alone ({brief(error)}); nothing was run"
        ) from None
    if not isinstance(value, dict):
        raise ValueError(f"{file}: found a {type(value).__name__}, wanted a dictionary")
    return value


def brief(error: Exception) -> str:
    """The first sentence of an error."""
    return one_line(re.split(r"\.\s|\n", str(error).strip())[0], 200) or type(error).__name__
