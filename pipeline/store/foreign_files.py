"""Files that others made (corpora, checkpoints, a tokenizer): whether they are there and fit, before a job reads them."""

from __future__ import annotations

from pathlib import Path

from pipeline.data.job_settings import ListedCorpora
from pipeline.settings.errors import ConfigError
from pipeline.settings.places import find_tokenizer
from pipeline.settings.sources import Corpora
from pipeline.settings.sources import check_paths as check_corpora
from pipeline.store.ledger import Ledger
from pipeline.training.job_settings import Imported


def check_foreign(ledger: Ledger) -> None:
    """Refuse what others have made and does not fit, if it is here and a job is left that reads it.

    That is the config of a checkpoint, and a tokenizer. What is not here is no fault: a study can be planned on a machine
    that has neither. Raises ConfigError.
    """
    check_tokenizer(ledger)
    checkpoints = ledger.study.settings.checkpoints
    for settings in imported(ledger):
        from pipeline.training.checkpoints import check_config  # PyTorch's seconds, for such a study alone

        assert checkpoints
        revision = settings.checkpoint.revision
        path = Path(str(checkpoints.places()[revision]["path"]))
        try:
            if path.exists():
                check_config(checkpoints.layout, path, settings.model)
        except ValueError as error:
            file = f"configs/scale/{ledger.study.settings.params.preset}.yaml"
            raise ConfigError(file, f"text.from: {revision}", str(path), f"a checkpoint that fits; {error}") from None


def imported(ledger: Ledger) -> list[Imported]:
    """What the states of a published text run are made from that are still to be read."""
    asked = [job.settings for job in ledger.jobs if job.phase == "pretrain" and not ledger.is_current(job)]
    return [settings for settings in asked if isinstance(settings, Imported)]


def check_tokenizer(ledger: Ledger) -> None:
    """Refuse a tokenizer that is here and cannot be taken, or that has more ids than the model has rows.

    Only if it is still to be read. Raises ConfigError.
    """
    given = ledger.study.given_tokenizer
    if given is None or not any(job.phase == "tokenizer" and not ledger.is_current(job) for job in ledger.jobs):
        return
    path, own = find_tokenizer(given), given.tokenizer != "gpt_neox"
    if not path.exists():
        return
    # Only now: a plan of a study that trains its own tokenizer need not wait for the library of tokenizers.
    from pipeline.data.tokenizer import check_room, load_tokenizer

    try:
        room = ledger.study.settings.scale.model.vocabulary
        check_room(load_tokenizer(path, given.end if own else None), path, room)
    except ValueError as error:
        name, of_data = ledger.study.settings.params, isinstance(given, Corpora)
        file = f"configs/data/{name.data}.yaml" if of_data else f"configs/scale/{name.preset}.yaml"
        key = "source.tokenizer" if of_data else "text.from: tokenizer"
        raise ConfigError(file, key, given.tokenizer, f"one that can be taken; {error}") from None


def check_paths(ledger: Ledger) -> None:
    """Refuse corpora and checkpoints that are not there, if any job is left that reads them. Raises ConfigError."""
    for state in imported(ledger):
        checkpoints, revision = ledger.study.settings.checkpoints, state.checkpoint.revision
        assert checkpoints
        place = checkpoints.places()[revision]
        for path in (path for path in place.values() if path and not Path(path).exists()):
            key = f"text.from: {revision}"
            file = f"configs/scale/{ledger.study.settings.params.preset}.yaml"
            raise ConfigError(file, key, path, "an existing folder or file (see configs/checkpoints)")
    check_foreign(ledger)
    readers = [job for job in ledger.jobs if job.phase in ("sources", "shards", "evaluate")]
    if all(ledger.is_current(job) for job in readers):
        return
    # Only the corpora that some job names: captions that no recipe uses need not be there.
    keys = {"heldout", "choices"}
    for asked in (job.settings for job in readers if isinstance(job.settings, ListedCorpora)):
        group = f"evaluation.{asked.split}" if asked.split else asked.part
        keys |= {f"{group}.{name}" for name in asked.corpora}
    settings = ledger.study.settings
    check_corpora(settings.data, f"configs/data/{settings.params.data}.yaml", keys)
