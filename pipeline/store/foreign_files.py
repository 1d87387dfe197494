"""Files that others made, and that must fit before a job reads them."""

from __future__ import annotations

from pipeline.settings.checkpoints import Checkpoints
from pipeline.settings.errors import ConfigError
from pipeline.settings.places import find_tokenizer
from pipeline.settings.sources import Corpora


def check_tokenizer(given: Corpora | Checkpoints, room: int, file: str, key: str) -> None:
    """Refuse a tokenizer that cannot be taken, or that has more ids than the model has rows: `room`."""
    from pipeline.data.tokenizer import check_room, load_tokenizer

    path, own = find_tokenizer(given), given.tokenizer != "gpt_neox"
    try:
        check_room(load_tokenizer(path, given.end if own else None), path, room)
    except ValueError as error:
        raise ConfigError(file, key, given.tokenizer, f"one that can be taken; {error}") from None
