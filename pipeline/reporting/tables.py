"""Phase "tables": results from scores. Which table a job makes stands in its settings; every file is the same on every run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.common.job_context import Job
from pipeline.reporting.experiment_tables import FIGURES
from pipeline.reporting.table_rows import Rows


def run(job: Job, out: Path) -> dict:
    """Make the job's table in `out`."""
    maker(job.settings["make"])(Rows(job.settings, job.inputs, job.context), out)
    return {}


def maker(name: str) -> Callable[[Rows, Path], None]:
    """What makes a table. Imports only what that needs: drawing libraries are slow to load."""
    if name == "table1":
        from pipeline.reporting.table1 import make
    elif name == "table2":
        from pipeline.reporting.experiment_tables import sizes as make
    elif name == "table8":
        from pipeline.reporting.experiment_tables import stages as make
    elif name.startswith("table"):
        from pipeline.reporting.experiment_tables import table as make
    elif name == "controls":
        from pipeline.reporting.controls import make
    elif name == "conditions":
        from pipeline.reporting.conditions import make
    elif name == "drawings":
        from pipeline.reporting.drawings import make
    elif name == "examples":
        from pipeline.reporting.examples import make
    elif name == "claims":
        from pipeline.reporting.claims import make
    elif name == "comparison":
        from pipeline.reporting.comparison import make
    elif name == "report":
        from pipeline.reporting.page.report import make
    elif name in FIGURES:
        from pipeline.reporting.experiment_tables import figure as make
    else:
        from pipeline.reporting.experiment import make
    return make
