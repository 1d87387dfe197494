"""Settings files as OmegaConf reads them, with unique keys; and which of their values may refer to others."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from pipeline.common.files import one_line
from pipeline.settings.errors import ConfigError

# Keys that say where something lies on this machine: what they hold goes into no card.
PLACES = ("root", "path", "optimizer", "tokenizer")


MOST_VALUES = 100_000  # in a file


def load_yaml(path: Path, root: Path) -> dict:
    """The mapping that a settings file holds, references resolved. Raises ConfigError, which names it relative to `root`."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    file = path.relative_to(root)
    try:
        text = path.read_text(encoding="utf-8")
        # Ten lines of aliases of aliases stand for billions of values, and OmegaConf would write them all out.
        if "*" in text and (size := written_out(text)) > MOST_VALUES:
            raise ValueError(f"{size:,} values, aliases (*NAME) written out: more than {MOST_VALUES:,}")
        # OmegaConf's loader refuses a key that occurs twice; PyYAML's own would keep the last one.
        written = OmegaConf.load(path)
        if "${" in text:  # most files have none, and nothing is to be looked for
            refuse_references(OmegaConf.to_container(written), file)
        value = OmegaConf.to_container(written, resolve=True)
    except ConfigError:
        raise
    except OSError as error:
        found = error.strerror or "a single value"  # OmegaConf says so with an OSError that has no number
        raise ConfigError(file, "(file)", found, "a mapping of keys to values") from None
    except (YAMLError, OmegaConfBaseException, RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else one_line(" ".join(str(error).split()))
        raise ConfigError(file, "(file)", reason, "valid YAML with unique keys") from None
    if not isinstance(value, dict):
        raise ConfigError(file, "(file)", value, "a mapping of keys to values")
    return value


def refuse_references(value: object, file: Path) -> None:
    """Raise ConfigError for a ${...} in a value that goes into a card: it would stand for other things elsewhere."""
    for key, text in references(value):
        if key.rsplit(".", 1)[-1] not in PLACES:
            allowed = f"a plain value; ${{...}} may stand in {', '.join(PLACES)} alone, which go into no card"
            raise ConfigError(file, key, text, allowed)


def written_out(text: str) -> float:
    """How many values a YAML text has with its aliases written out, as they will be; infinity for one within itself."""
    import yaml

    known: dict[int, float] = {}

    def count(node: yaml.Node) -> float:
        if id(node) not in known:
            known[id(node)] = math.inf  # until it is counted
            inner = node.value if isinstance(node, yaml.CollectionNode) else []
            known[id(node)] = 1 + sum(
                map(count, chain.from_iterable(inner) if isinstance(node, yaml.MappingNode) else inner)
            )
        return known[id(node)]

    return count(yaml.compose(text, Loader=yaml.SafeLoader))


def references(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """The values with a ${...} in them, by their keys: another value, or a variable of the environment."""
    if isinstance(value, dict | list):
        for inner, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from references(part, f"{key}.{inner}" if key else str(inner))
    elif isinstance(value, str) and "${" in value:
        yield key, value


def choose(root: Path, folder: str, name: str, file: str, key: str) -> dict:
    """The contents of configs/<folder>/<name>.yaml; an unknown name is an error at the key that gives it."""
    names = sorted(path.stem for path in (root / "configs" / folder).glob("*.yaml"))
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise ConfigError(file, key, name, f"a file of configs/{folder}/: {', '.join(names)}{hint}")
    return load_yaml(root / "configs" / folder / f"{name}.yaml", root)
