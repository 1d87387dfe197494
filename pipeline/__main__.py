"""Command line: `python -m pipeline run JOB_FILE` carries out one job of the study."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="carry out one job; Snakemake calls this")
    run.add_argument("job", type=Path, help="a file below .study/jobs/")
    run.add_argument("--log", type=Path, help="file for the job's output; progress still goes to the screen")
    arguments = parser.parse_args(argv)

    from pipeline.run import run_job

    return run_job(arguments.job, arguments.log)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    sys.exit(main())
