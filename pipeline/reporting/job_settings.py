"""What the jobs of results are told. The study makes these settings, cards hold them, tables and the report read them."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pipeline.settings.types import Section


class ResultSettings(Section):
    """What tables and the report are told alike: which result to make, and of which runs.

    `rows`: a run each ("run", its id, with what it is); `text`: the text runs' states, by id.
    """

    make: str
    tasks: dict[str, Any]
    split: str
    preset: str
    recipe: dict[str, Any]
    rows: list[dict[str, Any]]
    text: dict[str, dict[str, Any]] = Field(default={})


class TableSettings(ResultSettings):
    """A table. `published`: the paper's figures.

    The other keys are of one table alone: claims (with what another study found of them), an experiment of its own, and the
    drawings.
    """

    published: list[dict[str, Any]]
    claims: list[dict[str, Any]] = Field(default=[])
    found: list[dict[str, str]] = Field(default=[])
    experiment: dict[str, Any] = Field(default={})
    main: dict[str, Any] = Field(default={})
    branches: dict[str, dict[str, Any]] = Field(default={})
    tokens_a_step: dict[str, int] = Field(default={})
    counts: dict[str, int] = Field(default={})


class ReportSettings(ResultSettings):
    """The report: what all tables show, and what every number comes from.

    `prior` is the blind model's evaluation, `claims` are by name, `tables` are the files of each, and `experiments` are
    those that have a table of their own.
    """

    prior: str
    claims: dict[str, dict[str, Any]]
    tables: dict[str, list[str]]
    lineage: dict[str, dict[str, dict[str, Any]]]
    experiments: dict[str, dict[str, Any]] = Field(default={})
