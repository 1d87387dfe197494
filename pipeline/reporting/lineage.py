"""What a number in a table comes from: row -> evaluation -> checkpoint -> branch -> text run -> shards -> sources.

A row is about a cell (a model whatever its seed) or a state of the text run; a column says whether it was measured in
the evaluation, in training, or is a setting. All that is needed stands in the settings of the report's job
(`pipeline/study/tables.py:report_job`), so it is the same for a finished study and for results whose artifacts are elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from pipeline.reporting.job_settings import ReportSettings
from pipeline.reporting.measures import AFTER_COOLDOWN, PREFIX, measure_of
from pipeline.reporting.table_list import TABLES

STEPS = {  # phase and role -> what a step on the way is called
    ("finetune", "checkpoint"): "checkpoint: fine-tuning",
    ("cooldown", "checkpoint"): "checkpoint: cooldown",
    ("pretrain", "checkpoint"): "checkpoint: text run",
    ("cooldown", "branch"): "branch: cooldown",
    ("pretrain", "branch"): "text run",
}
TRAINING = {  # columns measured in training, by the phase whose measured.json has them
    "text_run": ("pretrain",),
    "cooldown": ("cooldown",),
    "image_fraction_of": ("cooldown",),
    "finetune": ("finetune",),
    "parameters": ("finetune", "cooldown", "pretrain"),
    "training_flops": ("finetune", "cooldown", "pretrain"),
}

ROWS_ABOUT = {csv: about for table in TABLES.values() for csv, about in table.rows_about.items()}


@dataclass(frozen=True)
class Step:
    """A job on the way from a number to the data; `depth` is how far down."""

    depth: int
    name: str
    key: str


class Lineage:
    """Who descends from whom, by the names that tables use.

    settings: those of the report's job.
    """

    def __init__(self, settings: ReportSettings):
        self.settings = settings
        self.jobs: dict[str, dict] = settings.lineage["jobs"]
        self.sections: dict[str, dict] = settings.lineage["sections"]

    @cached_property
    def subjects(self) -> dict[str, dict[str, str]]:
        """What rows are about, each with its evaluations by seed ("" where there is none of its own).

        Cells by their names; states of the text run as "text run at 80%". A state that no table evaluates is its own.
        """
        found: dict[str, dict[str, str]] = {}
        for row in self.settings.rows:
            found.setdefault(row["cell"], {})[f"seed {row['seed']}"] = f"evaluate/{row['run']}"
        evaluated = {
            job["parents"]["checkpoint"]: key for key, job in self.jobs.items() if "checkpoint" in job["parents"]
        }
        for run, state in self.settings.text.items():
            key = f"pretrain/{run}"
            found[state_name(state)] = {"": evaluated.get(key, key)}
        return found

    def about(self, table: str, row: Mapping[str, str], column: str, number: int = 0) -> list[str]:
        """The subjects of a number: one, but for a claim (its arms) and a loss curve (all that it averages).

        row: a row of the table's CSV as text. number: for claims, which part of its claim it is.
        """
        about = ROWS_ABOUT.get(table)
        if about == "claims":
            # Of kept results a claim may be older than today's list, which alone says what it compares.
            claim = self.settings.claims.get(row["claim"])
            return self.arms(claim, number) if claim else []
        if about == "curves":
            timing = [cell["cell"] for cell in self.rows("timing") if cell["evaluated"] == "model"]
            return list(dict.fromkeys(timing)) if column != "text run" else [self.last_state]
        # A schedule is computed from settings: no run is behind it.
        if about in ("the recipe", "nothing"):
            return ["recipe"] if about == "the recipe" else []
        if row.get("stage", "").startswith("text, ") or row.get("model") == "text only" or "phase" in row:
            return self.text_state(row)
        if about == "branch points":
            percent = float(row["branch_percent"])
            found = [c for c in self.rows("timing") if c["settings"]["branch_percent"] == percent]
            cell = next((c["cell"] for c in found if c["evaluated"] == "model"), "")
        else:
            cell = row.get("cell", "")
        if cell and column in AFTER_COOLDOWN:
            cell = "evaluated=cooldown" if cell == "recipe" else f"{cell} evaluated=cooldown"
        return [cell] if cell in self.subjects else []

    def rows(self, experiment: str) -> list[dict]:
        return [row for row in self.settings.rows if experiment in row["experiments"]]

    @property
    def last_state(self) -> str:
        """The end of the recipe's text run."""
        recipe = self.settings.recipe
        same = [s for s in self.settings.text.values() if all(s[key] == recipe[key] for key in ("size", "text_budget"))]
        return state_name(max(same, key=lambda state: state["percent"]))

    def text_state(self, row: Mapping[str, str]) -> list[str]:
        """The state of a text run, or the model, that a row of table 1, 2 or 8 is about."""
        phase = row.get("phase", "")
        if phase.startswith("whole model ("):
            cell = phase.removeprefix("whole model (").removesuffix(")")
            return [cell] if cell in self.subjects else []
        words = phase or row.get("stage", "")
        percent = row["branch_percent"] if row.get("model") else words.rpartition(" ")[2].removesuffix("%")
        recipe = self.settings.recipe
        state = {"percent": float(percent), "size": row.get("size") or recipe["size"]}
        budget = row.get("text_budget") or recipe["text_budget"]
        name = state_name(state | {"text_budget": float(budget)})
        return [name] if name in self.subjects else []

    def arms(self, claim: dict, number: int) -> list[str]:
        """The cells that a part of a claim compares."""
        if claim.get("agreement"):
            return [cell for pair in claim["agreement"]["pairs"] for cell in pair]
        contrast = claim["contrasts"][number]
        return list(dict.fromkeys(arm["cell"] for arm in (*contrast["plus"], *contrast["minus"])))

    def evaluations(self, subject: str, seed: str = "") -> dict[str, str]:
        """A subject's evaluations by seed; of one seed alone if a row says so."""
        runs = self.subjects[subject]
        return {f"seed {seed}": runs[f"seed {seed}"]} if f"seed {seed}" in runs else runs

    def chain(self, key: str, depth: int = 0, name: str = "") -> Iterator[Step]:
        """The jobs behind one, each before what it was made from; data that several need, under the first."""
        seen: set[str] = set()

        def walk(key: str, depth: int, name: str) -> Iterator[Step]:
            if key in seen:
                return
            seen.add(key)
            yield Step(depth, name, key)
            parents = self.jobs[key]["parents"]
            first = [role for role in ("checkpoint", "branch") if role in parents]
            for role in (*first, *(role for role in parents if role not in first)):
                phase = parents[role].partition("/")[0]
                title = STEPS.get((phase, role)) or (phase if phase == role else f"{phase} ({role.replace('_', ' ')})")
                yield from walk(parents[role], depth + 1, title)

        yield from walk(key, depth, name or ("evaluation" if key.startswith("evaluate/") else "text run"))

    def measured_in(self, row: Mapping[str, str], column: str) -> str:
        """In which file of which artifact a number was found, in words. What a claim or a comparison is of, its row says."""
        if "claim" in row or column.startswith(("ours", "delta")):
            return self.found_in(row.get("metric") or row["column"])
        if "measure" in row and column in ("score", "questions"):
            return "measures.csv of the evaluation"
        return "the paper (configs/published.csv)" if column.startswith("published") else self.found_in(column)

    def found_in(self, column: str) -> str:
        """The same for a column that is a measure or a setting."""
        stem = column.removesuffix("_low").removesuffix("_high")
        # First, since these scores are named like the columns that training measures in the cooldown.
        if stem in AFTER_COOLDOWN:
            return self.found_in(stem.removeprefix(PREFIX))
        if stem in ("seeds", "status"):
            return "how many runs the row is of, and what is said of those that it lacks"
        # Before the columns of training: the recipe has a key `cooldown`, as their names begin.
        if any(stem in row["settings"] for row in self.settings.rows[:1]):
            return "a setting of the row"
        for start, phases in TRAINING.items():
            if stem.startswith(start):
                return f"measured in training: measured.json of {', '.join(phases)}"
        measure = measure_of(stem, self.settings.tasks)
        text = f"scores in {measure.file} of the evaluation"
        if measure.less == "prior" or stem == "language_prior":
            text += f", and of the blind model's (evaluate/{self.settings.prior})"
        return text


def state_name(state: Mapping) -> str:
    """A state of a text run: "text run at 80%", with what tells it from the usual one."""
    other = ["larger"] if state["size"] == "larger" else []
    other += [f"{state['text_budget']:g} of the tokens"] if state["text_budget"] != 1 else []
    return ", ".join([f"text run at {state['percent']:g}%", *other])
