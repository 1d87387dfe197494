"""The jobs of the tables: the runs that each gets, and its other settings.

pipeline/reporting/table_list.py has a row for each table, which says what it asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.data.job_settings import ShardSettings
from pipeline.reporting.job_settings import ReportSettings, TableSettings
from pipeline.reporting.table_list import TABLES, Table
from pipeline.settings.params import PAPER
from pipeline.study import claims
from pipeline.study.cells import Cell
from pipeline.study.job import Job, lineage, lineage_tables, training
from pipeline.training.job_settings import Cooldown
from pipeline.training.schedule import planned_cooldown

if TYPE_CHECKING:
    from pipeline.study.study import Study

Runs = dict[tuple[Cell, int], Job]  # evaluations by cell and seed


def tables_job(study: Study, name: str) -> Job:
    """The job that makes a table. One that is made of all others can be asked for once those have their jobs."""
    return report_job(study, name) if TABLES[name].of_tables else table_job(study, name)


def table_job(study: Study, name: str) -> Job:
    """A table: its rows (runs by cell and seed), and the artifacts that it reads."""
    table = TABLES[name]
    runs = study.all_runs if table.every_experiment else table_runs(study, table)
    settings = common_settings(
        study, name, runs, tuple(study.experiments) if table.every_experiment else table.experiments
    )
    settings["published"] = [row for row in study.published if table.every_published or row["output"] == name]
    parents: dict[str, Job] = {}
    if any(cell.evaluated == "model" for cell, _ in runs):
        # A model's gain is over answers without looking: those of the blind model, and the most frequent training
        # answers.
        parents["blind"] = blind_scores(study)
        parents |= {part: study.source(part) for part in ("evaluation", "instructions")}
    for scores in runs.values():
        parents[f"scores/{scores.id}"] = scores
        parents |= {f"{job.phase}/{scores.id}": job for job in training(scores)}
    if table.shards:
        for job in lineage(*runs.values()):
            if isinstance(job.settings, ShardSettings) and job.settings.part != "text":
                parents[f"shards/{job.settings.part}"] = job
    if table.text_states != "none":
        settings["text"] = text_rows(study, table, parents)
    if table.told == "schedules":
        settings |= schedules(study)
    if table.told == "claims":
        settings["claims"] = claims.resolve(study)
        others = [row for row in study.settings.found if row.study != study.settings.params.preset]
        settings["found"] = [row.model_dump() for row in others]
    # Only there: otherwise an experiment of one's own would change the cards of the paper's tables.
    if name in study.own:
        settings["experiment"] = told_of(study, name)
    return study.add("tables", name, TableSettings.model_validate(settings), parents)


def report_job(study: Study, name: str) -> Job:
    """The report: all that the tables show, and what every number comes from, down to the data."""
    told = {table: job.settings for table, job in study.tables.items() if isinstance(job.settings, TableSettings)}
    settings = common_settings(study, name, study.all_runs, tuple(study.experiments)) | {
        "prior": blind_scores(study).id,
        "text": {},
        "claims": {claim["name"]: claim for claim in told["claims"].claims},
        "tables": {table: list(TABLES[table].files) for table in study.tables},
        "lineage": lineage_tables(*study.tables.values()),
    }
    if study.own:
        settings["experiments"] = {experiment: told_of(study, experiment) for experiment in study.own}
    for one in told.values():
        settings["text"] |= one.text
    parents = {f"tables/{table}": job for table, job in study.tables.items()}
    parents["evaluation"] = study.source("evaluation")
    return study.add("tables", name, ReportSettings.model_validate(settings), parents)


def report_settings(study: Study) -> ReportSettings:
    """What the report of a study is told."""
    settings = study.tables["report"].settings
    assert isinstance(settings, ReportSettings)
    return settings


def common_settings(study: Study, name: str, runs: Runs, shown: tuple[str, ...]) -> dict:
    """What every table is told. shown: the experiments whose settings tell its rows apart."""
    params = study.settings.params
    return {
        "make": name,
        "tasks": study.settings.tasks.model_dump(),
        "split": params.split,
        "preset": params.preset,
        "recipe": study.recipe.told() | {"seed": study.recipe.seed},
        "rows": [{"run": scores.id, **study.describe(*run, shown)} for run, scores in runs.items()],
    }


def blind_scores(study: Study) -> Job:
    """What the recipe's model answers that was fine-tuned without images: half of the language prior."""
    return study.evaluate(study.finetune(study.recipe, blind=True), study.recipe)


def told_of(study: Study, name: str) -> dict:
    """What the table and the figure of an own experiment are told: its sentence, what it varies, its state."""
    experiment = study.experiments[name]
    return {"says": experiment.says, "vary": list(experiment.vary), "evaluated": experiment.evaluate}


def table_runs(study: Study, table: Table) -> Runs:
    """The runs that a table shows: its experiments', and the recipe itself where it is what they compare with."""
    runs = {run: job for experiment in table.experiments for run, job in study.runs(experiment).items()}
    if table.recipe_states:
        runs = recipe_runs(study, table) | runs
    if table.first_seed_only:
        runs = {run: job for run, job in runs.items() if run[1] == study.recipe.seed}
    return runs


def recipe_runs(study: Study, table: Table) -> Runs:
    """The recipe's own runs in a table: with its first seed, and with others where an experiment of the paper has them.

    Without the last an experiment of one's own that repeats the recipe would change the paper's tables.
    """
    cells = {Cell(study.recipe, state) for state in table.recipe_states}
    wanted = {run for paper in PAPER for run in study.runs(paper)} | {(cell, study.recipe.seed) for cell in cells}
    return {run: job for run, job in study.all_runs.items() if run[0] in cells and run in wanted}


def text_rows(study: Study, table: Table, parents: dict[str, Job]) -> dict[str, dict]:
    """The text runs' own states, for reference: label -> percent, size and budget; adds them to the parents."""
    rows = {}
    ends = table.text_states == "ends"
    stops = study.find_text_stops(study.papers_cells)
    recipes = [study.recipe, *(cell.recipe for _, cell in study.papers_cells)]
    for size, budget in dict.fromkeys((recipe.size, recipe.text_budget) for recipe in recipes):
        seed = study.recipe.text_seed  # of several text runs the first stands for all
        steps = stops.get(study.text_run(size, budget, seed), [])
        if not ends and (size, budget) != (study.recipe.size, study.recipe.text_budget):
            continue
        for step in steps[-1:] if ends else steps:
            state = study.pretrain(size, budget, seed, step)
            percent = 100 * step / study.text_schedule(budget).steps
            rows[state.id] = {"percent": percent, "size": size, "text_budget": budget}
            parents[f"pretrain/{state.id}"] = state
            if not ends:  # a table with "ends" shows what text runs took, which needs no evaluation
                parents[f"scores/{state.id}"] = study.evaluate(state, study.recipe)
    return rows


def schedules(study: Study) -> dict:
    """What the drawings show: the text run's schedule, the branches', and how many jobs a phase has."""
    scale = study.settings.scale
    branches = {}
    for recipe in dict.fromkeys(cell.recipe for name in ("timing", "rewarm") for cell in study.cells(name)):
        asked = study.cooldown(recipe).settings
        assert isinstance(asked, Cooldown)
        title = f"{recipe.branch_percent:g}%"
        if asked.rewarm and recipe.rewarm_like is not None:
            title += f", re-warmed as at {recipe.rewarm_like:g}%"
        branches[title] = {"step": study.branch_step(recipe), **planned_cooldown(asked).describe()}
    counts: dict[str, int] = {}
    for job in {job.key: job for scores in study.all_runs.values() for job in lineage(scores)}.values():
        counts[job.phase] = counts.get(job.phase, 0) + 1
    return {
        "main": study.text_schedule(study.recipe.text_budget).describe(),
        "branches": branches,
        "tokens_a_step": {
            "main": scale.text.batch * scale.model.sequence,
            "cooldown": scale.cooldown.batch * scale.model.sequence,
        },
        "counts": counts | {"tables": len(TABLES) + len(study.own)},
    }
