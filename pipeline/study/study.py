"""The study: from settings to the jobs that make it, who descends from whom, with which settings.

A job's identity is its settings and its parents' identities; its id is a readable label and a digest of both. Nothing
ever parses an id. Two experiments that need the same model get the same job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pipeline.reporting.table_list import TABLES
from pipeline.settings.errors import ConfigError
from pipeline.settings.experiments import PRESET, preset_value, with_changes
from pipeline.settings.load import Settings
from pipeline.settings.params import PAPER, Experiment, Recipe
from pipeline.study import claims
from pipeline.study.cells import Cell, Evaluated
from pipeline.study.job import Job, lineage
from pipeline.study.models import Models
from pipeline.study.phases import PHASES, STAGES
from pipeline.study.tables import tables_job


class Study(Models):
    """All jobs of a study, made once and shared by whoever needs them."""

    def __init__(self, settings: Settings):
        super().__init__(settings, {}, {})
        # On the instance, as in Models: the caches end with the study.
        for method in (self.at, self.cells, self.runs):
            setattr(self, method.__name__, cache(method))
        self.check_names()
        self.check()
        self.text_stops |= self.find_text_stops(self.all_cells)
        self.check_own()
        self.tables: dict[str, Job] = {}
        # What is made of all other tables needs their jobs: it comes after them.
        for name in sorted((*TABLES, *self.own), key=lambda name: TABLES[name].of_tables):
            self.tables[name] = tables_job(self, name)

    # --- experiments ---

    @property
    def experiments(self) -> dict[str, Experiment]:
        return self.settings.params.experiments

    @property
    def own(self) -> list[str]:
        """The experiments that have a table of their own: all but the paper's."""
        return [name for name in self.experiments if name not in PAPER]

    def at(self, preset: tuple[tuple[str, Any], ...]) -> Models:
        """What makes models at the preset with other values of some keys."""
        if not preset:
            return self
        # `jobs` and `text_stops` are the study's own: a run that two presets need is made once.
        _, scale = with_changes(self.recipe, self.settings.scale, dict(preset), "params.yaml")
        return Models(self.settings.model_copy(update={"scale": scale}), self.jobs, self.text_stops)

    def cell(self, changes: Mapping[str, Any], evaluated: Evaluated = "model", file: str = "params.yaml") -> Cell:
        """The cell with other values of some keys, of the recipe or of the preset. Raises ConfigError.

        A value that the preset has anyway is no change.
        """
        preset = self.settings.scale
        recipe, scale = with_changes(self.recipe, preset, changes, file)
        # Sorted: the order in which keys are written must not make another cell.
        values = {key: preset_value(scale, key) for key in sorted(changes) if key.startswith(PRESET)}
        others = tuple((key, value) for key, value in values.items() if value != preset_value(preset, key))
        return Cell(recipe, evaluated, others)

    def seeds(self, name: str) -> list[int]:
        """The seeds of an experiment's cells: its own, or the recipe's and those after it, as many as it says."""
        experiment = self.experiments[name]
        repeats = experiment.repeats
        number = repeats if isinstance(repeats, int) else getattr(self.settings.scale.repeats, repeats)
        return experiment.values("seed") or [self.recipe.seed + n for n in range(number)]

    def cells(self, name: str) -> dict[Cell, list[int]]:
        """The cells of an experiment, in the order of its values, and their seeds; none of one that is not there."""
        if name not in self.experiments:
            return {}
        experiment = self.experiments[name]
        return {self.cell(changes, experiment.evaluate): self.seeds(name) for changes in experiment.grid}

    @cached_property
    def all_cells(self) -> list[tuple[str, Cell]]:
        """Every cell of every experiment, after the experiment's name."""
        return [(name, cell) for name in self.experiments for cell in self.cells(name)]

    @cached_property
    def papers_cells(self) -> list[tuple[str, Cell]]:
        """Those of the paper's experiments: no other one changes the paper's tables."""
        return [(name, cell) for name, cell in self.all_cells if name in PAPER]

    @property
    def recipes(self) -> list[Recipe]:
        """Every recipe of the study, the params' own first."""
        return [self.recipe, *(cell.recipe for _, cell in self.all_cells)]

    def seeded(self, recipe: Recipe, seed: int) -> Recipe:
        """A recipe with a seed, and with the text run that falls to this seed."""
        text = (seed - self.recipe.seed) % self.settings.scale.repeats.text
        return recipe.model_copy(update={"seed": seed, "text_seed": recipe.text_seed + text})

    def run(self, cell: Cell, seed: int) -> Job:
        """The evaluation of a cell with one seed."""
        models, recipe = self.at(cell.preset), self.seeded(cell.recipe, seed)
        return models.evaluate(models.trained(recipe, cell.evaluated), recipe)

    def runs(self, name: str) -> dict[tuple[Cell, int], Job]:
        """The evaluations of an experiment, by cell and seed; with `after_cooldown` also those before fine-tuning."""
        found: dict[tuple[Cell, int], Job] = {}
        for cell, seeds in self.cells(name).items():
            cells = [cell]
            if self.experiments[name].after_cooldown and cell.recipe.cooldown:
                cells.append(replace(cell, evaluated="cooldown"))
            found |= {(state, seed): self.run(state, seed) for seed in seeds for state in cells}
        return found

    @cached_property
    def experiment_jobs(self) -> dict[str, set[tuple[str, str]]]:
        """The jobs that each experiment needs."""
        return {name: {job.key for job in lineage(*self.runs(name).values())} for name in self.experiments}

    @cached_property
    def all_runs(self) -> dict[tuple[Cell, int], Job]:
        """The evaluations of all experiments and of the recipe itself."""
        found = {run: job for name in self.experiments for run, job in self.runs(name).items()}
        states: tuple[Evaluated, ...] = ("model", "blind", "cooldown") if self.recipe.cooldown else ("model", "blind")
        for cell in (Cell(self.recipe, state) for state in states):
            found.setdefault((cell, self.recipe.seed), self.run(cell, self.recipe.seed))
        return found

    @cached_property
    def seeds_run(self) -> dict[Cell, set[int]]:
        """The seeds of every cell that is evaluated."""
        found: dict[Cell, set[int]] = {}
        for cell, seed in self.all_runs:
            found.setdefault(cell, set()).add(seed)
        return found

    def find_text_stops(self, cells: list[tuple[str, Cell]]) -> dict[str, list[int]]:
        """Steps at which each text run leaves a checkpoint: the branch points of experiments' cells.

        The recipe's run is trained to its end, whatever branches from it; of a published one the last checkpoint is taken.
        """
        stops: dict[str, set[int]] = {}
        # At 100%: the last state of the text run.
        finished = Cell(self.recipe.model_copy(update={"branch_percent": 100}))
        wanted = [(finished, self.recipe.seed), (Cell(self.recipe), self.recipe.seed)]
        wanted += [(cell, seed) for name, cell in cells for seed in self.seeds(name)]
        for cell, seed in wanted:
            models, recipe = self.at(cell.preset), self.seeded(cell.recipe, seed)
            run = models.text_run(recipe.size, recipe.text_budget, recipe.text_seed)
            stops.setdefault(run, set()).add(models.branch_step(recipe))
        return {run: sorted(steps - {0}) for run, steps in stops.items()}

    def check_names(self) -> None:
        """Refuse an experiment whose table would have a name that something else has: a table, a file of one, a rule."""
        files = {Path(file).stem for table in TABLES.values() for file in table.files}
        taken = files | {*TABLES, *PHASES, *STAGES, "study"} | {f"all_{stage}" for stage in STAGES}
        for name in (name for name in self.own if name in taken or name.startswith("table")):
            allowed = "a name that no table, figure, phase or stage has, and none that begins with 'table'"
            raise ConfigError("params.yaml", f"experiments.{name}", name, allowed)

    def place_of(self, name: str, key: str) -> str:
        """The key of params.yaml that a cell of an experiment has its value of a recipe's key from."""
        varied = name in self.experiments and key in self.experiments[name].vary
        return f"experiments.{name}.vary.{key}" if varied else f"recipe.{key}"

    def check(self) -> None:
        """Refuse branch points on the same step, and a cooldown floor above the rate that a branch continues."""
        seen: dict[tuple, float] = {}
        # Sorted by percent, so that an error names the later of two points that meet.
        for name, cell in sorted([*self.all_cells, ("", Cell(self.recipe))], key=lambda c: c[1].recipe.branch_percent):
            models, recipe, percent = self.at(cell.preset), cell.recipe, cell.recipe.branch_percent
            key, main = self.place_of(name, "branch_percent"), models.text_schedule(recipe.text_budget)
            step = models.branch_step(recipe)
            self.check_published(key, recipe, main.steps)
            run = models.text_run(recipe.size, recipe.text_budget, recipe.text_seed)
            other = seen.setdefault((run, step), percent)
            if other != percent:
                allowed = f"branch points at least one step apart: {other:g} is step {step} of {main.steps} too"
                raise ConfigError("params.yaml", key, percent, allowed)
            self.check_floor(name, cell)

    def check_floor(self, name: str, cell: Cell) -> None:
        """Refuse a cooldown floor above the rate that a branch continues, or is re-warmed to."""
        models, recipe = self.at(cell.preset), cell.recipe
        main, step = models.text_schedule(recipe.text_budget), models.branch_step(recipe)
        floor, peak = models.settings.scale.cooldown.floor_lr, models.rewarm_peak(recipe)
        continued, factor = models.continued_rate(recipe), recipe.cooldown_rate_factor
        if 0 < step < main.steps and main.rate(step) < floor:
            file, key = f"configs/scale/{self.settings.params.preset}.yaml", "cooldown.floor_lr"
            if cell.preset:
                file, key = "params.yaml", f"experiments.{name}.vary"
            allowed = f"at most the rate {main.rate(step):.3g} that the branch at {recipe.branch_percent:g}% continues"
            raise ConfigError(file, key, dict(cell.preset) or floor, allowed)
        if peak is not None and peak < floor:
            key, allowed = self.place_of(name, "rewarm_like"), f"a percent whose rate is at least {floor:g}"
            raise ConfigError("params.yaml", key, recipe.rewarm_like, allowed)
        if continued and continued * factor < floor:
            key, allowed = (
                self.place_of(name, "cooldown_rate_factor"),
                f"at least {floor / continued:.3g}, for the floor",
            )
            raise ConfigError("params.yaml", key, factor, allowed)

    def check_own(self) -> None:
        """Refuse keys of own experiments that change what models are asked, and values that change no model.

        Scores on other questions cannot be compared; the same model twice would be a flat line that means nothing.
        Raises ConfigError.
        """
        for name in self.own:
            experiment = self.experiments[name]
            for changes, key in [(point, key) for point in experiment.grid for key in point]:
                cell = self.cell(changes, experiment.evaluate)
                without = self.cell({k: v for k, v in changes.items() if k != key}, experiment.evaluate)
                if allowed := self.wanted_of(cell, without):
                    raise ConfigError("params.yaml", f"experiments.{name}.vary.{key}", changes[key], allowed)

    def wanted_of(self, cell: Cell, without: Cell) -> str | None:
        """What a value should be that makes `cell` out of `without`; None if it is right, or no change at all."""
        if cell == without:
            return None
        if self.at(cell.preset).asked != self.at(without.preset).asked:
            return "a key that leaves the questions as they are: models are compared on the same ones"
        if self.trained_as(cell) is self.trained_as(without):
            return "a value that this experiment's models are made from: this one makes the same model"
        return None

    def trained_as(self, cell: Cell) -> Job:
        """The job that makes what is evaluated of a cell."""
        return self.at(cell.preset).trained(cell.recipe, cell.evaluated)

    def value(self, cell: Cell, key: str) -> Any:
        """What a cell has for a key of the recipe or of the preset."""
        if key.startswith(PRESET):
            return dict(cell.preset).get(key, preset_value(self.settings.scale, key))
        return getattr(cell.recipe, key)

    def check_published(self, key: str, recipe: Recipe, steps: int) -> None:
        """Refuse a branch where a published run has no checkpoint within a percent, or moments that it does not have."""
        checkpoints, percent = self.settings.checkpoints, recipe.branch_percent
        if not checkpoints or not percent:
            return
        step = self.branch_step(recipe)
        wanted = percent / 100 * steps
        if abs(step - wanted) > steps / 100 or (percent == 100 and step != steps):
            known = ", ".join(f"{100 * step / steps:.4g}" for step in sorted(checkpoints.steps))
            raise ConfigError("params.yaml", key, percent, f"0, or a percent that there is a checkpoint of: {known}")
        if recipe.moments == "keep" and recipe.cooldown and checkpoints.steps[step].optimizer is None:
            key = "recipe.moments" if self.recipe.moments == "keep" else "experiments.moments.vary.moments"
            revision = checkpoints.steps[step].revision
            raise ConfigError("params.yaml", key, "keep", f"fresh: the checkpoint {revision} comes without moments")

    # --- results ---

    @cached_property
    def published(self) -> list[dict]:
        """The paper's figures, each with the name of the cell that answers to it."""
        return [
            row.model_dump() | {"cell": self.cell_name(claims.published_cell(self, row)) if row.cell else ""}
            for row in self.settings.published
        ]

    def describe(self, cell: Cell, seed: int, shown: tuple[str, ...]) -> dict:
        """What a table can group a row by: its cell, seed and settings, and in which of the shown experiments it is."""
        experiments = [name for name in shown if (cell, seed) in self.runs(name)]
        keys = [
            key for name in shown if name in self.experiments for key in self.experiments[name].vary if key != "seed"
        ]
        return {
            "cell": self.cell_name(cell),
            "seed": seed,
            "text_seed": self.seeded(cell.recipe, seed).text_seed,
            "evaluated": cell.evaluated,
            "settings": {key: self.value(cell, key) for key in keys} | cell.recipe.told(),
            "experiments": experiments,
        }

    def cell_name(self, cell: Cell) -> str:
        """How a cell differs from the recipe: "branch_percent=100 evaluated=blind", or "recipe" if in nothing."""
        values = {key: getattr(cell.recipe, key) for key in Recipe.model_fields if key != "seed"}
        changed = [(key, value) for key, value in values.items() if value != getattr(self.recipe, key)]
        state = [] if cell.evaluated == "model" else [f"evaluated={cell.evaluated}"]
        return " ".join([f"{key}={named(value)}" for key, value in (*changed, *cell.preset)] + state) or "recipe"


def named(value: object) -> str:
    """A setting as a word, as YAML writes it: 100, not 100.0."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower()
