"""The study: from settings to the jobs that make it, who descends from whom, with which settings.

A job's identity is its settings and its parents' identities; its id is a readable label and a digest of both. Nothing
ever parses an id. Two experiments that need the same model get the same job.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import product

from pipeline.config import ConfigError, Recipe, Settings
from pipeline.files import digest
from pipeline.training.schedule import main_schedule

# What carries out each phase: module and function `run(job, out)`. The module and all it imports from this package are
# the code that the phase's cards fingerprint.
PHASES = {
    "sources": "pipeline.data.sources",
    "tokenizer": "pipeline.data.tokenizer",
    "shards": "pipeline.data.shards",
    "features": "pipeline.data.features",
    "pretrain": "pipeline.training.train",
    "cooldown": "pipeline.training.train",
    "finetune": "pipeline.training.train",
    "evaluate": "pipeline.evaluation.evaluate",
    "tables": "pipeline.reporting.table1",
}

# The coarse steps that DVC sees (dvc.yaml), each with the phases whose artifacts it makes.
STAGES = {
    "prepare": ("sources", "tokenizer", "shards", "features"),
    "pretrain": ("pretrain",),
    "cooldown": ("cooldown",),
    "finetune": ("finetune",),
    "evaluate": ("evaluate",),
    "report": ("tables",),
}


@dataclass(frozen=True)
class Job:
    """One step of the study and the folder of files that it makes."""

    phase: str
    label: str
    settings: dict
    parents: dict[str, Job] = field(default_factory=dict)  # by role, e.g. {"tokenizer": ..., "text": ...}
    continues: Job | None = None  # an earlier state of the same run to start from: saves time, changes no bit

    @cached_property
    def identity(self) -> str:
        return digest([self.phase, self.settings, {role: job.identity for role, job in self.parents.items()}])

    @cached_property
    def id(self) -> str:
        return f"{self.label}-{self.identity[:8]}"

    @property
    def key(self) -> tuple[str, str]:
        return self.phase, self.id

    @property
    def folder(self) -> str:
        """Where the job's files go, relative to the project."""
        return f"artifacts/{self.phase}/{self.id}"

    @property
    def card(self) -> str:
        """The path of the card that says what the files were made from."""
        return f"{self.folder}/card.json"

    @property
    def files(self) -> str:
        """The path of the list of the job's files with their hashes."""
        return f"{self.folder}/files.json"

    @property
    def published(self) -> str | None:
        """The path of the list of a table's files that are copied to results/, with what they were made from."""
        return f"results/made_from/{self.label}.json" if self.phase == "tables" else None


def text_steps(settings: Settings) -> int:
    """Updates of the whole text run."""
    return main_schedule(settings.scale.text, settings.scale.model.sequence).steps


def branch_step(settings: Settings, percent: float) -> int:
    """The update of the text run after which a branch leaves it: the nearest whole step."""
    return round(percent / 100 * text_steps(settings))


def grid(recipe: Recipe, experiment) -> list[Recipe]:
    """The recipe with every combination of the values that an experiment lists, in its order."""
    varied = {key: values for key, values in experiment if values}
    return [recipe.model_copy(update=dict(zip(varied, combination))) for combination in product(*varied.values())]


class Study:
    """All jobs of a study, made once and shared by whoever needs them."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.jobs: dict[tuple[str, str], Job] = {}
        # Hundreds of models share their ancestors: each is made once.
        for phase in (
            self.source,
            self.tokenizer,
            self.shards,
            self.features,
            self.pretrain,
            self.cooldown,
            self.finetune,
        ):
            setattr(self, phase.__name__, cache(phase))
        self.check()
        self.table1 = self.make_table1()

    def check(self) -> None:
        """Refuse branch points on the same step, and a cooldown floor above the rate that a branch continues."""
        seen: dict[int, float] = {}
        for percent in sorted(r.branch_percent for r in self.timing):
            step = branch_step(self.settings, percent)
            if seen.setdefault(step, percent) != percent:
                raise ConfigError(
                    "params.yaml",
                    "experiments.timing.branch_percent",
                    percent,
                    f"branch points at least one step apart: {seen[step]} is step {step} of"
                    f" {text_steps(self.settings)} too",
                )
        floor = self.settings.scale.cooldown.floor_lr
        main = main_schedule(self.settings.scale.text, self.settings.scale.model.sequence)
        for step in seen:
            if 0 < step < main.steps and main.rate(step) < floor:
                file = f"configs/scale/{self.settings.params.preset}.yaml"
                allowed = f"at most the rate {main.rate(step):.3g} that the branch at {seen[step]:g}% continues"
                raise ConfigError(file, "cooldown.floor_lr", floor, allowed)

    def add(self, phase: str, label: str, settings: dict, parents: dict[str, Job] | None = None, **context) -> Job:
        job = Job(phase, label, settings, parents or {}, **context)
        return self.jobs.setdefault(job.key, job)

    @cached_property
    def timing(self) -> list[Recipe]:
        """A recipe a model of table 1."""
        return grid(self.settings.params.recipe, self.settings.params.experiments.timing)

    # --- data ---

    def source(self, part: str) -> Job:
        """One part of the data in its official format: text, captions, instructions or evaluation."""
        data = self.settings.scale.data.model_dump()
        text_keys = {"seed", "documents", "heldout_documents"}
        keys = text_keys if part == "text" else set(data) - (text_keys - {"seed"})
        chosen = {key: data[key] for key in sorted(keys)}
        return self.add("sources", part, {"source": self.settings.data.source, "part": part, **chosen})

    def tokenizer(self) -> Job:
        parents = {part: self.source(part) for part in ("text", "captions", "instructions")}
        return self.add("tokenizer", "bpe", {"vocabulary": self.settings.scale.model.vocabulary}, parents)

    def shards(self, part: str, encoder: str | None = None) -> Job:
        """A part as MDS shards of full training sequences; with images, for an encoder's number of patches."""
        settings = {"part": part, "sequence": self.settings.scale.model.sequence}
        if encoder:
            settings["patches"] = self.settings.encoders[encoder].patches
        return self.add("shards", part, settings, {"source": self.source(part), "tokenizer": self.tokenizer()})

    def features(self, part: str, encoder: str) -> Job:
        """An encoder's features of all images of a part, computed once."""
        settings = {"encoder": self.settings.encoders[encoder].model_dump(exclude={"cache"}), "part": part}
        return self.add("features", f"{part}-{encoder}", settings, {"source": self.source(part)})

    # --- training ---

    def train_settings(self, phase: str, seed: int) -> dict:
        """What every training job depends on: sizes, optimisation, seed; and threads, which change the last bits."""
        scale = self.settings.scale
        optimisation = getattr(scale, {"pretrain": "text"}.get(phase, phase)).model_dump()
        hardware = scale.hardware.model_dump(include={"device", "threads", "microbatch"})
        return {"model": scale.model.model_dump(), "optimisation": optimisation, "seed": seed, "hardware": hardware}

    def pretrain(self, step: int) -> Job:
        """The text run after `step` updates, optimizer state included."""
        settings = self.train_settings("pretrain", self.settings.params.text_seed) | {"stop": step}
        earlier = [s for s in self.text_stops if s < step]
        return self.add(
            "pretrain",
            f"text-{step}",
            settings,
            {"text": self.shards("text")},
            continues=self.pretrain(max(earlier)) if earlier else None,
        )

    @cached_property
    def text_stops(self) -> list[int]:
        """Steps at which the text run leaves a checkpoint: the branch points of all experiments, and its end."""
        percents = [r.branch_percent for r in self.timing] + [self.settings.params.recipe.branch_percent, 100]
        return sorted({branch_step(self.settings, p) for p in percents} - {0})

    def cooldown(self, recipe: Recipe) -> Job:
        step = branch_step(self.settings, recipe.branch_percent)
        settings = self.train_settings("cooldown", recipe.seed) | {
            "branch_step": step,
            "main": self.settings.scale.text.model_dump(),
            "main_seed": self.settings.params.text_seed,
            "image_fraction": recipe.image_fraction,
            "moments": recipe.moments if step else "fresh",  # nothing to keep before the first step
            "encoder": self.settings.encoders[recipe.encoder].model_dump(),
        }
        parents = {"text": self.shards("text")}
        if recipe.image_fraction:
            parents["captions"] = self.shards("captions", recipe.encoder)
            parents |= self.cached_features("captions", recipe.encoder)
        if step:
            parents["branch"] = self.pretrain(step)
        label = f"b{recipe.branch_percent:g}-i{100 * recipe.image_fraction:g}-s{recipe.seed}"
        return self.add("cooldown", label, settings, parents)

    def cached_features(self, part: str, encoder: str) -> dict[str, Job]:
        if not self.settings.encoders[encoder].cache:
            return {}
        return {"features": self.features(part, encoder)}

    def finetune(self, recipe: Recipe, blind: bool = False) -> Job:
        """Fine-tuning on instructions; `blind` takes the images away: the language prior."""
        settings = self.train_settings("finetune", recipe.seed) | {
            "epochs": recipe.finetune_epochs,
            "encoder": self.settings.encoders[recipe.encoder].model_dump(),
            "blind": blind,
        }
        parents = {
            "instructions": self.shards("instructions", recipe.encoder),
            "branch": self.cooldown(recipe),
        } | ({} if blind else self.cached_features("instructions", recipe.encoder))
        label = f"{'blind-' if blind else ''}{parents['branch'].label}-e{recipe.finetune_epochs}"
        return self.add("finetune", label, settings, parents)

    # --- evaluation and results ---

    def evaluate(self, model: Job, recipe: Recipe) -> Job:
        """Per-example scores of a model: text tasks for all, vision tasks once it has seen instructions."""
        tasks, scale = self.settings.tasks, self.settings.scale
        vision = model.phase == "finetune"
        blind = model.settings.get("blind", False)
        conditions = [] if not vision else ["removed"] if blind else ["normal", "removed", "shuffled"]
        settings = {
            "model": scale.model.model_dump(),
            "evaluation": scale.evaluation.model_dump(),
            "hardware": scale.hardware.model_dump(include={"device", "threads"}),
            "encoder": self.settings.encoders[recipe.encoder].model_dump() if vision else None,
            "vision": {name: task.model_dump() for name, task in tasks.vision.items()} if vision else {},
            "text": {name: task.model_dump() for name, task in tasks.text.items()} if not blind else {},
            "conditions": conditions,
            "split": self.settings.params.split,
        }
        parents = {"checkpoint": model, "tokenizer": self.tokenizer(), "text": self.source("text")}
        if vision:
            parents["questions"] = self.source("evaluation")
            if not blind:
                parents |= self.cached_features("evaluation", recipe.encoder)
        return self.add("evaluate", f"{model.phase}-{model.label}", settings, parents)

    def make_table1(self) -> Job:
        """The timing table: a row a branch point, with the text run's checkpoints and a blind model for reference."""
        recipe = self.settings.params.recipe
        rows = {}
        parents = {
            "blind": self.evaluate(self.finetune(recipe, blind=True), recipe),
            "questions": self.source("evaluation"),
            "instructions": self.source("instructions"),
        }
        for variant in self.timing:
            model = self.finetune(variant)
            name = model.id
            rows[name] = {"branch_percent": variant.branch_percent, "seed": variant.seed}
            parents[f"scores/{name}"] = self.evaluate(model, variant)
            parents[f"finetune/{name}"] = model
            parents[f"cooldown/{name}"] = model.parents["branch"]
            if "branch" in model.parents["branch"].parents:
                parents[f"pretrain/{name}"] = model.parents["branch"].parents["branch"]
        checkpoints = {}
        for step in self.text_stops:
            checkpoint = self.pretrain(step)
            checkpoints[checkpoint.label] = step / text_steps(self.settings) * 100
            parents[f"scores/{checkpoint.label}"] = self.evaluate(checkpoint, recipe)
            parents[f"pretrain/{checkpoint.label}"] = checkpoint
        settings = {
            "rows": rows,
            "checkpoints": checkpoints,
            "tasks": self.settings.tasks.model_dump(),
            "split": self.settings.params.split,
            "preset": self.settings.params.preset,
        }
        return self.add("tables", "table1", settings, parents)


def lineage(job: Job) -> list[Job]:
    """A job's ancestors and itself, each once, parents first."""
    found: dict[tuple[str, str], Job] = {}

    def visit(job: Job) -> None:
        if job.key not in found:
            for parent in (*job.parents.values(), *([job.continues] if job.continues else [])):
                visit(parent)
            found[job.key] = job

    visit(job)
    return list(found.values())
