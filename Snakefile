"""The study as a workflow: text pre-training -> cooldown branches -> fine-tuning -> evaluation -> tables.

params.yaml and pipeline/study/ say which jobs there are, from which parents and with which settings. Here are only the
phases. A job's expected card (below .study/jobs/) is its one dated input: see pipeline/store/ledger.py. `snakemake all_STAGE`
makes all artifacts of one of the stages that DVC sees (dvc.yaml).
"""

import sys
from pathlib import Path

sys.path.insert(0, workflow.basedir)

from pipeline.engines.workflow import Workflow

study = Workflow(
    Path("."),
    config,
    main=workflow.is_main_process,
    dry=lambda: workflow.dryrun,
    forced=lambda: [workflow.dag_settings.forceall, workflow.dag_settings.forcetargets, workflow.dag_settings.forcerun],
    home=Path(workflow.basedir),
)


# A job takes the place of its shell, which would not outlive a signal that the job has an answer to.
shell.prefix("set -euo pipefail; exec ")


# Read only under --software-deployment-method apptainer: replace it by an image in which `uv sync` was run.
container: "docker://python:3.11-bookworm"


report: "pipeline/reporting/captions/study.rst"


wildcard_constraints:
    id="[^/]+",


# Tables, figures and claims, each buildable by itself: `snakemake table7` or `snakemake results/table7.csv`.
for table in study.tables:

    rule:
        name:
            table
        input:
            unpack(study.table_edges(table)),
            # For a table that must be made anyway: an ancient input that is made anew would hide that.
            broken=ancient(study.broken(table)) if study.has(table) else study.broken(table),
        output:
            study.table_cards(table),
            [
                report(file, caption="pipeline/reporting/captions/result.rst", category=category)
                for file, category in study.table_files(table).items()
            ],
        log:
            f"logs/tables/{study.tables[table].id}.log",
        localrule: True
        threads: 1
        resources:
            mem_mb=1000,
        message:
            f"results: {table}"
        shell:
            "python -m pipeline run {input.job} --log {log}"


rule study:
    """Every table, figure and claim."""
    input:
        study.stage("report"),


# The phases: pipeline/study/phases.py says what their jobs take.
for phase, about in study.phases.items():

    rule:
        name:
            phase
        input:
            unpack(study.edges(phase)),
        output:
            f"artifacts/{phase}/{{id}}/card.json",
        log:
            f"logs/{phase}/{{id}}.log",
        priority: about.priority
        threads: study.threads(phase)
        resources:
            **study.resources(phase),
        message:
            f"{about.message}: {{wildcards.id}}"
        shell:
            "python -m pipeline run {input.job} --log {log}"


for stage in study.stages:

    rule:
        name:
            f"all_{stage}"
        input:
            study.stage(stage),


onstart:
    if workflow.local_exec:
        # The limit on submissions is for clusters. Here it would look through the queue once a second for every job that
        # has finished, and cost more CPU time with each: a fifth of a core after a hundred jobs.
        workflow.scheduler.job_rate_limiter = None
    study.start(here=workflow.local_exec)


onsuccess:
    study.record()


onerror:
    print(study.failures())
