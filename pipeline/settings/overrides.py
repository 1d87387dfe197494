"""Other values of some keys of params.yaml, for one command: KEY=VALUE words such as recipe.seed=8."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.common.files import one_line
from pipeline.settings.errors import ConfigError
from pipeline.settings.yaml_file import MOST_VALUES, refuse_references, written_out

COMMAND_LINE = "command line"  # stands in messages where the name of a file stands otherwise


def read_overrides(words: Iterable[str]) -> dict[str, Any]:
    """{key: value} of KEY=VALUE words; keys are dotted, values are YAML. Raises ConfigError.

    A key must be given once, and not together with a section that holds it: which of the two counts would be a guess.
    """
    overrides: dict[str, Any] = {}
    for word in words:
        key, mark, text = word.partition("=")
        # OmegaConf itself takes a word without "=" for KEY=null, and an empty part of a key for a key.
        if not mark or not all(key.split(".")):
            raise ConfigError(COMMAND_LINE, "(override)", word, "KEY=VALUE, such as recipe.seed=8")
        if any(overlap(key, other) for other in overrides):
            raise ConfigError(COMMAND_LINE, key, text, "each key once")
        overrides[key] = read_value(key, text)
    return overrides


def read_value(key: str, text: str) -> Any:
    """A value as OmegaConf's dotlists read it. Raises ConfigError, as for a value of a file."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        if "*" in text and written_out(text) > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values, aliases (*NAME) written out")
        # The key stays outside: OmegaConf would read brackets in it as parts of a path.
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[index,call-overload]
    except (YAMLError, OmegaConfBaseException, RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else one_line(" ".join(str(error).split()))
        raise ConfigError(COMMAND_LINE, key, reason, "valid YAML with unique keys") from None
    refuse_references({key: value}, Path(COMMAND_LINE))
    return value


def with_overrides(settings: dict, overrides: dict[str, Any]) -> dict:
    """A copy of the mapping with other values. A mapping is merged into the one that is there; a list replaces it."""
    for key, value in overrides.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        settings = merge(settings, value)
    return settings


def merge(old: Any, new: Any) -> Any:
    """`new` in the place of `old`; of two mappings, the keys of both."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return old | {key: merge(old.get(key), value) for key, value in new.items()}


def overlap(one: str, other: str) -> bool:
    """Whether two dotted keys are the same, or one lies within the other."""
    parts = list(zip(one.split("."), other.split(".")))
    return all(left == right for left, right in parts)
