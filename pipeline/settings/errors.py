"""What is said of a bad setting: one line with the file, the key, what was found and what is allowed."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pipeline.common.files import one_line
from pipeline.settings.types import Section

MISSING = object()  # what was found of a key that has to be set and is not


class ConfigError(ValueError):
    """One line: file, key, value found, values allowed."""

    def __init__(self, file: str | Path, key: str, found: object, allowed: str):
        said = f"missing; {allowed}" if found is MISSING else f"found {one_line(repr(found))}, allowed: {allowed}"
        super().__init__(f"{file}: {one_line(key)}: {said}")
        self.file, self.key, self.found, self.allowed = str(file), key, found, allowed


def parse(model: type[Section], value: dict, file: str | Path) -> Any:
    """Validate a mapping; the first problem becomes a ConfigError."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        # An unknown key is the likeliest cause of whatever else is wrong beside it.
        problem = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    raise explain(model, problem, file)


def explain(model: type[Section], problem: ErrorDetails, file: str | Path) -> ConfigError:
    """The one-line form of pydantic's description of a problem."""
    where = [part for part in problem["loc"] if not str(part).startswith("(")]  # the tag of a union's member is no key
    key = ".".join(map(str, where))
    kind, found = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        keys = list(section_at(model, where[:-1]).model_fields)
        near = difflib.get_close_matches(str(where[-1]), keys, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        return ConfigError(file, key, found, f"no such key; {hint}keys here are {', '.join(keys)}")
    if kind == "missing":
        return ConfigError(file, key, MISSING, "this key must be set")
    allowed = problem["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    if kind == "literal_error":
        options = [option.strip("'") for option in allowed.replace(" or ", ", ").split(", ")]
        near = difflib.get_close_matches(str(found), options, n=1)
        allowed += f" (did you mean '{near[0]}'?)" if near else ""
    return ConfigError(file, key, found, allowed + bounds(model, where))


def section_at(model: type[Section], where: list) -> type[Section]:
    """The Section that a location inside another one belongs to."""
    for part in where:
        if part in getattr(model, "model_fields", {}):
            annotations = [model.model_fields[part].annotation]
            for annotation in annotations:  # grows
                annotations += get_args(annotation)
            inner = [a for a in annotations if isinstance(a, type) and issubclass(a, Section)]
            model = inner[0] if inner else model
    return model


def bounds(model: type[Section], where: list) -> str:
    """' (from 0 to 1)' for a key whose declaration has both bounds, else nothing."""
    names = [part for part in where if isinstance(part, str)]
    field = section_at(model, names[:-1]).model_fields.get(names[-1]) if names else None
    # A bound stands in the metadata of its key; of `Percent | None` it stands in that of the union's member.
    limits: dict[str, Any] = {}
    metadata = list(field.metadata) if field else []
    for inner in get_args(field.annotation) if field else ():
        metadata += getattr(inner, "__metadata__", ())
    # pydantic keeps a Field's bounds as objects of annotated_types, each with one of these four attributes.
    for constraint in metadata:
        for item in getattr(constraint, "metadata", [constraint]):
            limits |= {name: getattr(item, name) for name in ("ge", "gt", "le", "lt") if hasattr(item, name)}
    low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    return f" (from {low} to {high})" if low is not None and high is not None else ""
