"""Commands of the study: what it will cost, how far it is, why a result is stale, what a model says; and those that Snakemake and DVC call."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Everything else is imported where it is needed. Snakemake starts this once for each job, and mostly just to hand the
# job to the server: that must not cost seconds of imports.
from pipeline.execution.fork_server import SERVER, hand_over, serve


def device_hours(text: str) -> float:
    hours = float(text)
    if not hours >= 0:  # NaN would allow everything
        raise ValueError
    return hours


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run one job (Snakemake calls this)")
    run.add_argument("job", type=Path, help="a file below .study/jobs/")
    run.add_argument("--log", type=Path, help="write the job's output to this file; progress still goes to the screen")
    rank = commands.add_parser(
        "rank", help="run one process (rank) of a job (`run` calls this, through Composer's launcher)"
    )
    rank.add_argument("job", type=Path, help="as for run")
    rank.add_argument("out", type=Path, help="the folder in which the artifact is made")
    rank.add_argument("--log", type=Path, help="as for run")
    server = commands.add_parser(
        "serve", help="stay in memory and run the jobs of `run` without their start-up time (Snakemake calls this)"
    )
    server.add_argument("socket", type=int, help="file descriptor of the socket to listen to")
    plan = commands.add_parser("plan", help="show what a target will cost, before anything runs")
    plan.add_argument(
        "target",
        nargs="?",
        default="study",
        help="study (the default), a table, a file of results/, or an artifact's id",
    )
    plan.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="plan with other values for keys of params.yaml; the file is not changed",
    )
    plan.add_argument(
        "--budget",
        type=device_hours,
        help="device-hours that are allowed; if the target costs more, the exit code is 3",
    )
    why = commands.add_parser(
        "why", help="say in one line why a file or an artifact is stale (must be made again), or that it is not"
    )
    why.add_argument("target", help="a file of results/, a folder of artifacts/, or an artifact's id")
    status = commands.add_parser("status", help="show what runs now, how far it is, and what is still to do")
    status.add_argument("--watch", action="store_true", help="in a terminal: show it continuously, until Ctrl-C")
    trace = commands.add_parser(
        "trace", help="show what a number in results/ was made from, back to commit and machine"
    )
    trace.add_argument("target", help="a CSV file of results/")
    trace.add_argument(
        "--row", required=True, help="the number of the row (the first is 1), or COLUMN=VALUE[,COLUMN=VALUE]"
    )
    trace.add_argument("--column", required=True, help="the name of the column")
    report = commands.add_parser(
        "report", help="make report.html from results that `keep` has kept, with their own params.yaml"
    )
    report.add_argument("--results", type=Path, required=True, help="a folder such as results/small")
    judge = commands.add_parser(
        "judge", help="make the verdicts of kept results again, with today's code, from the scores of their runs"
    )
    judge.add_argument("--results", type=Path, required=True, help="as for report")
    judge.add_argument("--write", action="store_true", help="replace the kept verdicts")
    keep = commands.add_parser(
        "keep", help="copy the results of the finished study to a folder, with its settings and the scores of its runs"
    )
    keep.add_argument("folder", type=Path, help="a folder such as results/small")
    export = commands.add_parser("export", help="write a trained model as a folder that transformers can load")
    export.add_argument("target", help="the id or the folder of a model: an artifact of pretrain, cooldown or finetune")
    export.add_argument("--to", type=Path, required=True, help="a new folder")
    ask = commands.add_parser("ask", help="ask a fine-tuned model about a picture, or about all pictures of a folder")
    ask.add_argument("picture", type=Path, help="a JPEG, PNG, WebP, GIF or BMP file, or a folder of such files")
    ask.add_argument("question", help="the question, in quotes")
    ask.add_argument(
        "--model", metavar="ID", help="the beginning of a fine-tuned model's id; without it the recommended model"
    )
    verify = commands.add_parser("verify", help="run finished jobs once more and compare their bytes")
    verify.add_argument("--sample", type=int, required=True, help="how many jobs, drawn at random")
    verify.add_argument("--seed", type=int, help="seed of the draw; without it every draw is another one")
    commands.add_parser("dvc", help="write stages, deps and outs into dvc.yaml, as they follow from the code")
    accept = commands.add_parser(
        "accept",
        help="after a refactoring: make finished jobs current again, if a sample of them comes out with the same bytes",
    )
    accept.add_argument(
        "phases", nargs="+", metavar="PHASE", help="phases of the study, in any order: parents are accepted first"
    )
    accept.add_argument("--sample", type=int, required=True, help="how many jobs of each phase, drawn at random")
    accept.add_argument("--seed", type=int, help="seed of the draw; without it every draw is another one")
    commands.add_parser("schema", help="write the JSON schema of params.yaml, for editors (configs/params.schema.json)")
    commands.add_parser(
        "keep-failed", help="let the tables show runs that have failed as failed (noted in configs/failed.json)"
    )
    aside = commands.add_parser(
        "set-aside",
        help="move artifacts that are no longer in the study to .study/aside/, so that DVC does not store them (DVC calls this)",
    )
    aside.add_argument("stage", help="a stage of dvc.yaml")
    arguments = parser.parse_args(argv)

    if arguments.command == "serve":
        return serve(main, arguments.socket)
    # None means that no server answers; then this process carries out the job itself.
    if arguments.command == "run" and SERVER in os.environ:
        code = hand_over(argv or sys.argv[1:], arguments.job, arguments.log)
        if code is not None:
            return code
    if arguments.command in ("run", "rank"):
        from pipeline.common.parent_watch import PARENT_VARIABLE, end_with
        from pipeline.execution.processes import STOP

        STOP.title = str(arguments.job) if arguments.command == "run" else None
        STOP.listen()
        from pipeline.execution.run import run_job, run_rank

        # Slurm's processes other than the first may be on a machine that has no such process; they end with the first.
        if PARENT_VARIABLE in os.environ and (
            arguments.command == "rank" or os.environ.get("SLURM_PROCID", "0") == "0"
        ):
            end_with(int(os.environ[PARENT_VARIABLE]))
        if arguments.command == "rank":
            code = run_rank(arguments.job, arguments.out, arguments.log)
        else:
            code = run_job(arguments.job, arguments.log)
        STOP.close()
        return code

    if arguments.command == "schema":
        from pipeline.settings.schema import write_schema

        print(f"wrote {write_schema(Path('.'))}")
        return 0

    if arguments.command == "export":
        from pipeline.export.export import export as export_model

        try:
            print(f"exported to {export_model(Path('.'), arguments.target, arguments.to)}")
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        return 0

    if arguments.command in ("trace", "report", "judge"):
        return show(arguments)

    from pipeline.common.files import one_line
    from pipeline.engines.workflow import open_ledger
    from pipeline.study.phases import STAGES

    # Asked before the settings are read, so that a bad name costs no time.
    if arguments.command == "set-aside" and arguments.stage not in STAGES:
        print(f"{one_line(arguments.stage)}: no stage of dvc.yaml, which has {', '.join(STAGES)}", file=sys.stderr)
        return 2
    words: list[str] = []
    if arguments.command == "plan":
        words = arguments.overrides
        if "=" in arguments.target:  # no target has one, so that the target can be left out
            words, arguments.target = [arguments.target, *words], "study"
    ledger = open_ledger(Path("."), words)
    if arguments.command == "dvc":
        from pipeline.engines.dvc_file import write_dvc_file

        print(f"wrote {write_dvc_file(ledger)}")
        return 0
    if arguments.command == "set-aside":
        for folder in ledger.set_aside(arguments.stage):
            print(f"set aside, as it is not in the study any more: {folder}")
        return 0
    if arguments.command == "status":
        from pipeline.commands import status as live

        if arguments.watch and sys.stdout.isatty():
            live.watch(ledger.study, ledger.root)
        else:
            print("\n".join(live.status(ledger.study, ledger.root)))
        return 0
    if arguments.command == "ask":
        from pipeline.commands.ask import Unread
        from pipeline.commands.ask import ask as ask_model

        try:
            for line in ask_model(ledger, arguments.picture, arguments.question, arguments.model):
                print(line, flush=True)
        except (Unread, ValueError) as error:
            print(error, file=sys.stderr)
            return 1 if isinstance(error, Unread) else 2
        return 0
    if arguments.command in ("verify", "accept"):
        from pipeline.commands.accept import accept as accept_code
        from pipeline.commands.verify import NotReproduced
        from pipeline.commands.verify import verify as carry_out_again

        try:
            if arguments.command == "verify":
                lines = carry_out_again(ledger, arguments.sample, arguments.seed)
            else:
                lines = accept_code(ledger, arguments.phases, arguments.sample, arguments.seed)
            for line in lines:
                print(line, flush=True)
        except NotReproduced as error:
            print(error, file=sys.stderr)
            return 1
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        return 0
    from pipeline.commands.fit import TooLarge
    from pipeline.commands.plan import OverBudget, Plan
    from pipeline.store.foreign_files import check_foreign
    from pipeline.store.staleness import why as explain

    try:
        if arguments.command in ("plan", "why"):
            ledger.check_unchanged()
        if arguments.command == "plan":
            check_foreign(ledger)
            costs = Plan(ledger, arguments.target, words, open_ledger(Path(".")) if words else None)
            print(costs)
            costs.check(arguments.budget)
        elif arguments.command == "keep":
            from pipeline.commands.kept_results import keep as keep_results

            print(f"kept in {arguments.folder}: {', '.join(keep_results(ledger, arguments.folder))}")
        elif arguments.command == "keep-failed":
            from pipeline.commands.keep_failed import keep_failed

            for failed, reason in keep_failed(ledger).items():
                print(f"kept as failed: {failed}: {reason}")
        else:
            print(explain(ledger, arguments.target))
    except (OverBudget, TooLarge) as error:
        print(error, file=sys.stderr)
        return 3
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def show(arguments: argparse.Namespace) -> int:
    """Print what a number comes from, or make the report or the verdicts of kept results. Returns the exit code."""
    from pipeline.settings.errors import ConfigError

    try:
        if arguments.command == "trace":
            from pipeline.commands.trace import trace

            for line in trace(Path("."), arguments.target, arguments.row, arguments.column):
                print(line)
        elif arguments.command == "judge":
            from pipeline.commands.kept_results import SAME, judge

            found = list(judge(Path("."), arguments.results, arguments.write))
            print("\n".join(f"{file}: {what}" for file, what in found))
            return int(not arguments.write and any(what != SAME for _, what in found))
        else:
            from pipeline.commands.kept_results import report

            print(f"written: {report(Path('.'), arguments.results)}")
    except (ConfigError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    # Too late for this process, which has read it at its start, but not for those that it starts.
    os.environ.setdefault("PYTHONHASHSEED", "0")
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # `... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
