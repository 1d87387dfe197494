"""Command line of the study: carry out a job, say why something is stale, set aside what left the study."""

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
    why = commands.add_parser("why", help="say in one line why a file or an artifact is stale, or that it is not")
    why.add_argument("target", help="a file of results/, a folder of artifacts/, or an artifact's id")
    aside = commands.add_parser(
        "set-aside", help="move artifacts that left the study out of DVC's sight; DVC calls this"
    )
    aside.add_argument("stage", help="a stage of dvc.yaml")
    arguments = parser.parse_args(argv)

    if arguments.command == "run":
        from pipeline.processes import OWNER, end_with
        from pipeline.run import run_job

        if OWNER in os.environ:
            end_with(int(os.environ[OWNER]))
        return run_job(arguments.job, arguments.log)

    from pipeline.workflow import open_ledger

    ledger = open_ledger(Path("."))
    if arguments.command == "set-aside":
        for folder in ledger.set_aside(arguments.stage):
            print(f"set aside, as it is not in the study any more: {folder}")
        return 0
    from pipeline.why import why as explain

    try:
        print(explain(ledger, arguments.target))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    sys.exit(main())
