"""Phase "tables": results from scores. Which table a job makes stands in its settings; every file is the same on every run."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.common.job_context import Job
from pipeline.reporting.job_settings import ReportSettings, TableSettings
from pipeline.reporting.table_list import TABLES
from pipeline.reporting.table_rows import Rows

if TYPE_CHECKING:
    # `find_maker` imports by name, which the code fingerprint does not see: it goes by import statements. Without a
    # module's name here a change to it would leave its tables as they are. tests/test_reporting.py says what is missing.
    from pipeline.reporting import (  # noqa: F401
        claims,
        comparison,
        conditions,
        controls,
        drawings,
        examples,
        experiment,
        experiment_tables,
        floors,
        proportions,
        signal,
        table1,
    )
    from pipeline.reporting.page import report  # noqa: F401


def run(job: Job, out: Path) -> dict:
    """Make the job's table in `out`."""
    name = job.settings["make"]
    kind = ReportSettings if TABLES[name].of_tables else TableSettings
    find_maker(name)(Rows(kind.model_validate(job.settings), job.inputs, job.context), out)
    return {}


def find_maker(name: str) -> Callable[[Rows, Path], None]:
    """What makes a table. Imports only what that needs: drawing libraries are slow to load."""
    module, _, function = TABLES[name].maker.rpartition(".")
    maker: Callable[[Rows, Path], None] = getattr(import_module(f"pipeline.reporting.{module}"), function)
    return maker
