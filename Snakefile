"""The study as a workflow: text pre-training -> cooldown branches -> fine-tuning -> evaluation -> tables.

What runs, from which parents and with which settings is params.yaml's and pipeline/study.py's business; here are the
phases. A job's expected card (below .study/jobs/) is its one dated input: see pipeline/cards.py. `snakemake all_STAGE`
makes all artifacts of one of the stages that DVC sees (dvc.yaml).
"""

import sys
from pathlib import Path

sys.path.insert(0, workflow.basedir)

from pipeline.workflow import Workflow

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


rule sources:
    """One part of the data, in its official format."""
    input:
        unpack(study.edges("sources")),
    output:
        "artifacts/sources/{id}/card.json",
    log:
        "logs/sources/{id}.log",
    priority: 100  # the text run waits for the first three phases, and everything else for it
    threads: study.readers
    resources:
        mem_mb=1500 * study.readers,
        runtime=study.minutes,
    message:
        "data: {wildcards.id}"
    shell:
        "python -m pipeline run {input.job} --log {log}"


rule tokenizer:
    """The tokenizer, trained on the study's text."""
    input:
        unpack(study.edges("tokenizer")),
    output:
        "artifacts/tokenizer/{id}/card.json",
    log:
        "logs/tokenizer/{id}.log",
    priority: 100
    threads: 1
    resources:
        mem_mb=1500,
        runtime=study.minutes,
    message:
        "tokenizer: {wildcards.id}"
    shell:
        "python -m pipeline run {input.job} --log {log}"


rule shards:
    """Full training sequences as MDS shards."""
    input:
        unpack(study.edges("shards")),
    output:
        "artifacts/shards/{id}/card.json",
    log:
        "logs/shards/{id}.log",
    priority: 100
    threads: study.readers
    resources:
        mem_mb=1500 * study.readers,
        runtime=study.minutes,
    message:
        "shards: {wildcards.id}"
    shell:
        "python -m pipeline run {input.job} --log {log}"


rule features:
    """The frozen encoder's features of every image, once for all models."""
    input:
        unpack(study.edges("features")),
    output:
        "artifacts/features/{id}/card.json",
    log:
        "logs/features/{id}.log",
    priority: 60  # whatever trains on them should not be left for the end
    threads: 1
    resources:
        mem_mb=2000,
        runtime=study.minutes,
    message:
        "image features: {wildcards.id}"
    shell:
        "python -m pipeline run {input.job} --log {log}"


rule pretrain:
    """The text run, up to one of its branch points."""
    input:
        unpack(study.edges("pretrain")),
    output:
        "artifacts/pretrain/{id}/card.json",
    log:
        "logs/pretrain/{id}.log",
    priority: 100
    threads: study.threads
    resources:
        mem_mb=study.memory_mb,
        runtime=study.minutes,
        nodes=study.nodes,
        gpu=study.gpus,
    message:
        "text pre-training: {wildcards.id}"
    shell:
        "python -m pipeline run {input.job} --log {log}"


rule cooldown:
    """A branch: images and text from a text state, its learning rate continued."""
    input:
        unpack(study.edges("cooldown")),
    output:
        "artifacts/cooldown/{id}/card.json",
    log:
        "logs/cooldown/{id}.log",
    priority: 50
    threads: study.threads
    resources:
        mem_mb=study.memory_mb,
        runtime=study.minutes,
        nodes=study.nodes,
        gpu=study.gpus,
    message:
        "cooldown: {wildcards.id}"
    shell:
        "python -m pipeline run {input.job} --log {log}"


rule finetune:
    """Visual instructions."""
    input:
        unpack(study.edges("finetune")),
    output:
        "artifacts/finetune/{id}/card.json",
    log:
        "logs/finetune/{id}.log",
    priority: 40
    threads: study.threads
    resources:
        mem_mb=study.memory_mb,
        runtime=study.minutes,
        nodes=study.nodes,
        gpu=study.gpus,
    message:
        "fine-tuning: {wildcards.id}"
    shell:
        "python -m pipeline run {input.job} --log {log}"


rule evaluate:
    """Per-example scores of one model."""
    input:
        unpack(study.edges("evaluate")),
    output:
        "artifacts/evaluate/{id}/card.json",
    log:
        "logs/evaluate/{id}.log",
    priority: 30
    threads: study.evaluation_threads
    resources:
        mem_mb=study.memory_mb,
        runtime=study.minutes,
        nodes=study.nodes,
        gpu=study.gpus,
    message:
        "evaluation: {wildcards.id}"
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
