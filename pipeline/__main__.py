"""Command line of the study: what it costs, how far it is, why something is stale, models for others; what Snakemake and DVC call."""

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
    run = commands.add_parser("run", help="carry out one job; Snakemake calls this")
    run.add_argument("job", type=Path, help="a file below .study/jobs/")
    run.add_argument("--log", type=Path, help="file for the job's output; progress still goes to the screen")
    rank = commands.add_parser(
        "rank", help="carry out one rank's part of a job; `run` calls this, by Composer's launcher"
    )
    rank.add_argument("job", type=Path, help="as for run")
    rank.add_argument("out", type=Path, help="the folder of the artifact to be")
    rank.add_argument("--log", type=Path, help="as for run")
    server = commands.add_parser(
        "serve", help="carry out jobs for `run` without their start-up time; Snakemake calls this"
    )
    server.add_argument("socket", type=int, help="file descriptor of the socket that it listens to")
    plan = commands.add_parser("plan", help="say what a target will cost before anything runs")
    plan.add_argument("target", nargs="?", default="study", help="study, a table, a file of results/, an artifact's id")
    plan.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="a preview with other values of keys of params.yaml"
    )
    plan.add_argument(
        "--budget", type=device_hours, help="device-hours; more than that to do is an error (exit code 3)"
    )
    why = commands.add_parser("why", help="say in one line why a file or an artifact is stale, or that it is not")
    why.add_argument("target", help="a file of results/, a folder of artifacts/, or an artifact's id")
    status = commands.add_parser("status", help="say what runs now, how far it is, and what is still to do")
    status.add_argument("--watch", action="store_true", help="in a terminal: keep it up to date until Ctrl-C")
    trace = commands.add_parser("trace", help="say what a number in results/ comes from, down to commit and machine")
    trace.add_argument("target", help="a CSV of results/")
    trace.add_argument("--row", required=True, help="its number (the first is 1), or COLUMN=VALUE[,COLUMN=VALUE]")
    trace.add_argument("--column", required=True)
    report = commands.add_parser("report", help="make report.html of results that were kept with their own params.yaml")
    report.add_argument("--results", type=Path, required=True, help="a folder such as results/small")
    judge = commands.add_parser("judge", help="make the verdicts of kept results again from the scores of their runs")
    judge.add_argument("--results", type=Path, required=True, help="as for report")
    judge.add_argument("--write", action="store_true", help="put them in the place of those that were kept")
    keep = commands.add_parser("keep", help="keep the finished study's results, with its settings and its runs' scores")
    keep.add_argument("folder", type=Path, help="a folder such as results/small")
    export = commands.add_parser("export", help="write a trained model in a layout that transformers loads")
    export.add_argument("target", help="the id or the folder of an artifact of pretrain, cooldown or finetune")
    export.add_argument("--to", type=Path, required=True, help="a new folder")
    ask = commands.add_parser("ask", help="ask a trained model about a picture, or about all pictures of a folder")
    ask.add_argument("picture", type=Path, help="a JPEG, PNG, WebP, GIF or BMP file, or a folder of such files")
    ask.add_argument("question", help="in quotes")
    ask.add_argument(
        "--model", metavar="ID", help="a fine-tuned model, by the beginning of its id (the recommended one)"
    )
    verify = commands.add_parser("verify", help="carry out finished jobs once more and compare their bits")
    verify.add_argument("--sample", type=int, required=True, help="how many, drawn at random")
    verify.add_argument("--seed", type=int, help="of the draw; without it another one every time")
    commands.add_parser("dvc", help="write into dvc.yaml what follows from the code: stages, deps, outs")
    accept = commands.add_parser(
        "accept", help="give finished jobs the card of today's code, if a sample of them comes out with the same bytes"
    )
    accept.add_argument("phases", nargs="+", metavar="PHASE", help="parents first, whatever the order here")
    accept.add_argument("--sample", type=int, required=True, help="how many jobs of each phase, drawn at random")
    accept.add_argument("--seed", type=int, help="of the draw; without it another one every time")
    commands.add_parser("schema", help="write the JSON schema of params.yaml, for editors (configs/params.schema.json)")
    commands.add_parser("keep-failed", help="let runs that have failed be rows of the tables (configs/failed.json)")
    aside = commands.add_parser(
        "set-aside",
        help="move artifacts that left the study to .study/aside/, so that DVC does not store them; DVC calls this",
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
    except OverBudget as error:
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
