"""The study: from settings to the jobs that make it, who descends from whom, with which settings.

A job's identity is its settings and its parents' identities; its id is a readable label and a digest of both. Nothing
ever parses an id. Two experiments that need the same model get the same job.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from pipeline import design
from pipeline.config import (
    PAPER,
    PRESET,
    Checkpoints,
    ConfigError,
    Corpora,
    Experiment,
    Located,
    Recipe,
    Settings,
    find_tokenizer,
    preset_value,
    with_changes,
)
from pipeline.files import digest, file_hash
from pipeline.phases import PHASES, STAGES
from pipeline.sections import ModelSize, TextPhase
from pipeline.training.schedule import Schedule, main_schedule, planned_cooldown


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


Evaluated = Literal["model", "blind", "cooldown"]


@dataclass(frozen=True)
class Cell:
    """A model of an experiment whatever its seed, and the state of it that is evaluated.

    "model": fine-tuned; "blind": fine-tuned without images; "cooldown": before fine-tuning.
    """

    recipe: Recipe  # its seed is the recipe's first; runs have their own
    evaluated: Evaluated = "model"
    preset: tuple[tuple[str, Any], ...] = ()  # keys of the preset for which it has another value, and that


@dataclass(frozen=True)
class Table:
    """A result of its own: the experiments that it shows, and the files that it leaves in results/."""

    files: tuple[str, ...]
    experiments: tuple[str, ...] = ()


# The sizes of made data that each part is made from: another number of test images is no other captions.
SCENES = ("seed", "canvas", "concepts", "caption_only_concepts", "words")
MADE = {
    "text": ("seed", "documents", "heldout_documents"),
    "captions": ("captions",),
    "instructions": ("conversations", "turns"),
    "evaluation": ("validation_images", "test_images"),
}
TABLES_ALONE = {"chance", "stable", "stands_for"}  # what tables know of a task, and its questions do not


def both(name: str) -> tuple[str, str]:
    return f"{name}.csv", f"{name}.md"


class Tables(dict[str, Table]):
    """The paper's tables. A table of another name is that of the experiment of this name."""

    def __missing__(self, name: str) -> Table:
        return Table(tuple(f"experiments/{name}.{kind}" for kind in ("csv", "md", "png")), (name,))


TABLES = Tables(
    {
        "table1": Table(
            (*both("table1"), "metrics.json", "figures/timing.png", "figures/timing.csv", "figures/loss.csv"),
            ("timing",),
        ),
        "table2": Table(both("table2"), ("size",)),
        "table3": Table(both("table3"), ("size",)),
        "table4": Table(both("table4"), ("unfrozen",)),
        "table5": Table(both("table5"), ("captions",)),
        "table6": Table(both("table6"), ("encoder",)),
        "table7": Table(both("table7"), ("seeds",)),
        "table8": Table(both("table8")),
        "table9": Table(both("table9"), ("usual",)),
        **{
            name: Table((f"figures/{name}.png", f"figures/{name}.csv"), (name,))
            for name in ("image_fraction", "from_scratch", "instruction_share", "finetune_epochs", "text_budget")
        },
        "controls": Table(
            (*both("controls"), "figures/rewarm.png", "figures/text_only.png"),
            ("rewarm", "text_only", "moments", "blind"),
        ),
        "conditions": Table(
            (*both("conditions"), *both("question_types"), *both("measures")), ("timing", "image_fraction")
        ),
        "drawings": Table(
            ("figures/schedules.png", "figures/schedules.csv", "figures/pipeline.svg", "figures/pipeline.png"),
            ("timing", "rewarm"),
        ),
        "examples": Table(("figures/examples.png", "figures/examples.csv")),
        "claims": Table(both("claims")),  # of all experiments, as are the next two
        "comparison": Table(both("comparison")),
        "report": Table(("report.html",)),  # of all other tables: it comes last
    }
)


class Models:
    """The jobs that make and evaluate models at one preset. Hundreds of models share their ancestors: each is made once."""

    def __init__(self, settings: Settings, jobs: dict[tuple[str, str], Job], text_stops: dict[str, list[int]]):
        self.settings = settings
        self.jobs = jobs
        self.text_stops = text_stops  # steps at which each text run leaves a checkpoint, all presets' together
        for phase in (
            self.source,
            self.tokenizer,
            self.shards,
            self.features,
            self.text_schedule,
            self.text_run,
            self.pretrain,
            self.cooldown,
            self.finetune,
        ):
            setattr(self, phase.__name__, cache(phase))

    @property
    def recipe(self) -> Recipe:
        return self.settings.params.recipe

    def add(
        self,
        phase: str,
        label: str,
        settings: dict,
        parents: dict[str, Job] | None = None,
        continues: Job | None = None,
    ) -> Job:
        job = Job(phase, label, settings, parents or {}, continues)
        return self.jobs.setdefault(job.key, job)

    # --- data ---

    def source(self, part: str, captions: str | None = None) -> Job:
        """One part of the data in its official format: text, captions, instructions or evaluation.

        Of real corpora, the list of their files; each of their captions is a source of its own.
        """
        if isinstance(self.settings.data.source, Corpora):
            return self.corpora(part, captions)
        assert self.settings.scale.data, "a scale without sizes of made data is refused before"
        data = self.settings.scale.data.model_dump()
        chosen = {key: data[key] for key in sorted(MADE[part] + (() if part == "text" else SCENES))}
        return self.add("sources", part, {"source": self.settings.data.source, "part": part, **chosen})

    def corpora(self, part: str, captions: str | None) -> Job:
        """The files of a part of real corpora; of captions, those that a recipe names."""
        source = self.settings.data.source
        assert isinstance(source, Corpora)
        settings: dict = {"source": "corpora", "part": part}
        if part == "evaluation":
            settings["split"] = self.settings.params.split
            corpora = getattr(source.evaluation, self.settings.params.split)
        else:
            corpora = {captions: source.captions[captions]} if captions else getattr(source, part)
        if part == "text":
            settings["heldout"] = {
                **identity(source.heldout),
                "documents": self.settings.scale.evaluation.heldout_documents,
            }
            settings["choices"] = identity(source.choices) if source.choices else None
        settings["corpora"] = {name: identity(corpus) for name, corpus in corpora.items()}
        if may := self.left_out_at_most(part):
            settings["left_out_at_most"] = may
        return self.add("sources", f"{part}-{captions}" if captions else part, settings)

    def left_out_at_most(self, part: str) -> dict[str, int]:
        """How many bad items a source may leave out, by task; of data sets' own folders the evaluation does it."""
        tasks = self.settings.tasks
        vision = {name: task.left_out_at_most for name, task in tasks.vision.items()}
        own = {name: task.left_out_at_most for name, task in tasks.text.items() if task.benchmark is None}
        return {name: most for name, most in {"evaluation": vision, "text": own}.get(part, {}).items() if most}

    def tokenizer(self) -> Job:
        vocabulary = self.settings.scale.model.vocabulary
        if given := self.given_tokenizer:
            settings = {"vocabulary": vocabulary, "given": file_hash(find_tokenizer(given))}
            if isinstance(given, Checkpoints) and given.tokenizer != "gpt_neox":
                settings["end"] = given.end
            if isinstance(given, Corpora) and given.end:
                settings["end"] = given.end
            return self.add("tokenizer", "given", settings)
        parents = {part: self.source(part) for part in ("text", "captions", "instructions")}
        return self.add("tokenizer", "bpe", {"vocabulary": vocabulary}, parents)

    @property
    def given_tokenizer(self) -> Checkpoints | Corpora | None:
        """Who brings the tokenizer, if it is not trained here: a published model its own, whatever the data's is."""
        source = self.settings.data.source
        return self.settings.checkpoints or (source if isinstance(source, Corpora) else None)

    def shards(self, part: str, encoder: str | None = None, captions: str | None = None) -> Job:
        """A part as MDS shards of full training sequences; with images, for an encoder's number of patches."""
        settings = {"part": part, "sequence": self.settings.scale.model.sequence}
        if encoder:
            settings["patches"] = self.settings.encoders[encoder].patches
            if (frames := [self.settings.data.boxes, self.settings.encoders[encoder].fit])[0] != frames[1]:
                settings |= {"boxes": frames} if part == "instructions" else {}
        if captions:
            settings["captions"] = captions
        label = f"{part}-{captions}" if captions else part
        return self.add(
            "shards", label, settings, {"source": self.source(part, captions), "tokenizer": self.tokenizer()}
        )

    def features(self, part: str, encoder: str) -> Job:
        """An encoder's features of all images of a part, computed once."""
        settings = {
            "encoder": self.encoder_settings(encoder, exclude={"cache", "projector", "calibrate", "trained_rate"}),
            "part": part,
        }
        return self.add("features", f"{part}-{encoder}", settings, {"source": self.source(part)})

    def encoder_settings(self, name: str, exclude: Set[str] = frozenset()) -> dict:
        hidden: dict[str, Any] = {"tflops_an_image": True, "parts": {"__all__": {"tflops_an_image"}}}
        return self.settings.encoders[name].model_dump(exclude=hidden | dict.fromkeys(exclude, True))

    def training_encoder(self, recipe: Recipe) -> dict:
        return self.encoder_settings(recipe.encoder, exclude=set() if recipe.train_encoder else {"trained_rate"})

    def cached_features(self, part: str, recipe: Recipe, role: str = "features") -> dict[str, Job]:
        """The features of a part's images as a parent, unless the encoder runs in the model, as with real corpora."""
        corpora = isinstance(self.settings.data.source, Corpora)
        if corpora or recipe.train_encoder or not self.settings.encoders[recipe.encoder].cache:
            return {}
        return {role: self.features(part, recipe.encoder)}

    # --- training ---

    def model_size(self, size: str) -> ModelSize:
        model, larger = self.settings.scale.model, self.settings.scale.larger
        if size == "base":
            return model
        assert larger, "a scale without one is refused before"
        return model.model_copy(update=larger.model_dump())

    def text_phase(self, budget: float) -> TextPhase:
        """The text run's optimisation, with its tokens for a multiple of the scale's budget: whole steps."""
        text = self.settings.scale.text
        step = text.batch * self.settings.scale.model.sequence
        return text.model_copy(update={"tokens": round(budget * text.tokens / step) * step})

    def text_schedule(self, budget: float) -> Schedule:
        return main_schedule(self.text_phase(budget), self.settings.scale.model.sequence)

    def branch_step(self, recipe: Recipe) -> int:
        """The update of the text run after which a branch leaves it: the nearest whole step, or published checkpoint."""
        step = round(recipe.branch_percent / 100 * self.text_schedule(recipe.text_budget).steps)
        return self.settings.checkpoints.nearest(step) if step and self.settings.checkpoints else step

    def rewarm_peak(self, recipe: Recipe) -> float | None:
        """The rate that a branch warms up to, where that is not the scale's peak at an end of the text run."""
        main, cooldown = self.text_schedule(recipe.text_budget), self.settings.scale.cooldown
        if cooldown.rewarm_all and self.branch_step(recipe) not in (0, main.steps):
            return cooldown.peak_lr
        if recipe.rewarm_like is None or self.branch_step(recipe) not in (0, main.steps):
            return None
        return main.rate(round(recipe.rewarm_like / 100 * main.steps))

    def train_settings(self, phase: str, recipe: Recipe, seed: int, unused: Set[str] = frozenset()) -> dict:
        """What every training job depends on: sizes, optimisation, seed; and of the hardware what rounds differently.

        `unused`: keys of the optimisation that this job has no use for.

        On how many devices a job runs is left out: it can go on with more of them or fewer.
        """
        scale = self.settings.scale
        optimisation = self.text_phase(recipe.text_budget) if phase == "pretrain" else getattr(scale, phase)
        return {
            "model": self.model_size(recipe.size).model_dump(),
            "optimisation": optimisation.model_dump(exclude={"rewarm_all", *unused}),
            "seed": seed,
            "hardware": scale.hardware.model_dump(include={"device", "threads", "microbatch", "precision", "compile"}),
        }

    def text_settings(self, size: str, budget: float) -> dict:
        """What a text run depends on, whenever it is left."""
        recipe = self.recipe.model_copy(update={"size": size, "text_budget": budget})
        return self.train_settings("pretrain", recipe, self.settings.params.text_seed)

    def text_run(self, size: str, budget: float) -> str:
        """What tells a text run from others: two presets may have the same one."""
        return digest([self.text_settings(size, budget), self.shards("text").identity])

    def pretrain(self, size: str, budget: float, step: int) -> Job:
        """A text run after `step` updates, optimizer state included."""
        if self.settings.checkpoints:
            return self.imported(step)
        label = f"text-{step}" + ("-larger" if size == "larger" else "") + (f"-x{budget:g}" if budget != 1 else "")
        settings = self.text_settings(size, budget) | {"stop": step}
        earlier = [s for s in self.text_stops[self.text_run(size, budget)] if s < step]
        return self.add(
            "pretrain",
            label,
            settings,
            {"text": self.shards("text")},
            continues=self.pretrain(size, budget, max(earlier)) if earlier else None,
        )

    def imported(self, step: int) -> Job:
        """The state of a published text run after `step` updates."""
        checkpoints = self.settings.checkpoints
        assert checkpoints
        checkpoint = checkpoints.steps[step]
        settings = {
            "model": self.model_size("base").model_dump(),
            "optimisation": self.text_phase(1).model_dump(),
            "stop": step,
            "checkpoint": checkpoint.model_dump(include={"tokens", "revision", "sha256"})
            | {"layout": checkpoints.layout, "moments": checkpoint.optimizer is not None},
        }
        return self.add("pretrain", f"text-{step}", settings, {"tokenizer": self.tokenizer()})

    def text_state(self, recipe: Recipe) -> Job | None:
        """The state of the text run that a branch starts from; None at 0%."""
        step = self.branch_step(recipe)
        return self.pretrain(recipe.size, recipe.text_budget, step) if step else None

    def continued_rate(self, recipe: Recipe) -> float | None:
        """The rate of the text run that a branch goes on with; None at its two ends, and where every branch warms up."""
        main, step = self.text_schedule(recipe.text_budget), self.branch_step(recipe)
        continues = self.rewarm_peak(recipe) is None and 0 < step < main.steps
        return main.rate(step) if continues else None

    def in_cooldown(self, recipe: Recipe) -> Recipe:
        """A recipe without what its cooldown has no use for: two that are the same then have the same cooldown."""
        unused: dict = {"cooldown": True, "finetune_epochs": 1}
        if not recipe.image_fraction:
            unused |= {"captions": "full", "instruction_share": 0.0, "encoder": self.recipe.encoder}
            unused |= {"train_encoder": False}
        elif recipe.instruction_share == 1:
            unused |= {"captions": "full"}
        if not self.branch_step(recipe):
            unused |= {"moments": "fresh"}  # there is nothing to keep before the first step
        if 0 < self.branch_step(recipe) < self.text_schedule(recipe.text_budget).steps:
            unused |= {"rewarm_like": None}  # it is about the two ends
        if self.continued_rate(recipe) is None:
            unused |= {"cooldown_rate_factor": 1.0}
        return recipe.model_copy(update=unused)

    def cooldown(self, recipe: Recipe) -> Job:
        recipe = self.in_cooldown(recipe)
        step, images, rewarm = self.branch_step(recipe), recipe.image_fraction > 0, self.rewarm_peak(recipe)
        continued = self.continued_rate(recipe)
        unused = {"peak_lr", "warmup_steps"} if continued else set() if rewarm is None else {"peak_lr"}
        if continued and recipe.cooldown_rate_factor != 1:
            # A rate of its own, without a warm-up: the phase needs to know no more of it.
            rewarm = recipe.cooldown_rate_factor * continued
        settings = self.train_settings("cooldown", recipe, recipe.seed, unused) | {
            "branch_step": step,
            "moments": recipe.moments,
            "rewarm": rewarm,
            "image_fraction": recipe.image_fraction,
            "instruction_share": recipe.instruction_share,
            "encoder": self.training_encoder(recipe) if images else None,
            "train_encoder": recipe.train_encoder,
        }
        if continued and rewarm is None:
            settings["main"] = self.text_phase(recipe.text_budget).model_dump()
        if not step:
            settings["main_seed"] = self.settings.params.text_seed  # the decoder's weights, as this is from scratch
        parents = {"text": self.shards("text")} if recipe.image_fraction < 1 else {}
        if images and recipe.instruction_share < 1:
            parents["captions"] = self.shards("captions", recipe.encoder, recipe.captions)
            parents |= self.cached_features("captions", recipe)
        if images and recipe.instruction_share:
            parents["instructions"] = self.shards("instructions", recipe.encoder)
            parents |= self.cached_features("instructions", recipe, role="instruction_features")
        if state := self.text_state(recipe):
            parents["branch"] = state
        label = f"b{recipe.branch_percent:g}-i{100 * recipe.image_fraction:g}{suffix(recipe)}-s{recipe.seed}"
        return self.add("cooldown", label, settings, parents)

    def finetune(self, recipe: Recipe, blind: bool = False) -> Job:
        """Fine-tuning on instructions; `blind` takes the images away: the language prior."""
        settings = self.train_settings("finetune", recipe, recipe.seed) | {
            "epochs": recipe.finetune_epochs,
            "encoder": self.training_encoder(recipe),
            "train_encoder": recipe.train_encoder,
            "blind": blind,
        }
        parents = {"instructions": self.shards("instructions", recipe.encoder)}
        if not blind:
            parents |= self.cached_features("instructions", recipe)
        if recipe.cooldown:
            parents["branch"] = self.cooldown(recipe)
        elif state := self.text_state(recipe):
            parents["branch"] = state
        else:
            settings["main_seed"] = self.settings.params.text_seed  # the decoder's weights, as this is from scratch
        start = parents["branch"].label if "branch" in parents else f"b0{suffix(recipe)}"
        label = f"{'blind-' if blind else ''}{start}-e{recipe.finetune_epochs}"
        return self.add("finetune", label if recipe.cooldown else f"{label}-s{recipe.seed}", settings, parents)

    # --- evaluation ---

    @property
    def asked(self) -> tuple:
        """What models are asked: images with questions, texts with held-out documents, and to which length these are cut."""
        return self.source("evaluation"), self.source("text"), self.settings.scale.model.sequence

    def trained(self, recipe: Recipe, evaluated: Evaluated) -> Job:
        """The job that makes what is evaluated."""
        if evaluated == "cooldown":
            return self.cooldown(recipe)
        return self.finetune(recipe, blind=evaluated == "blind")

    def evaluate(self, model: Job, recipe: Recipe) -> Job:
        """Per-example scores of a state: text tasks for all, captions and vision tasks once it has seen their like."""
        tasks, scale = self.settings.tasks, self.settings.scale
        vision, blind = model.phase == "finetune", model.settings.get("blind", False)
        images = vision or bool(model.settings.get("image_fraction"))
        conditions = [] if not vision else ["removed"] if blind else ["normal", "removed", "mean", "shuffled"]
        text = tasks.text if not blind else {}
        settings = {
            "model": self.model_size(recipe.size).model_dump(),
            "evaluation": scale.evaluation.model_dump(exclude=set() if text else {"text_items", "heldout_documents"}),
            "hardware": scale.hardware.model_dump(include={"device", "threads"}),
            "encoder": self.encoder_settings(recipe.encoder, {"calibrate", "trained_rate"}) if images else None,
            "train_encoder": model.settings.get("train_encoder", False),
            "vision": {n: task.model_dump(exclude=TABLES_ALONE) for n, task in tasks.vision.items()} if vision else {},
            "captioning": tasks.captioning.model_dump() if tasks.captioning and images and not blind else None,
            "text": {name: task.model_dump(exclude=TABLES_ALONE) for name, task in text.items()},
            "conditions": conditions,
        }
        settings |= {"engine": tasks.engine} if tasks.engine and text else {}
        parents = {"checkpoint": model, "tokenizer": self.tokenizer()}
        if text:
            parents["text"] = self.source("text")
        if images:
            settings["split"] = self.settings.params.split
            parents["questions"] = self.source("evaluation")
            if not blind:
                parents |= self.cached_features("evaluation", recipe)
        return self.add("evaluate", f"{model.phase}-{model.label}", settings, parents)


class Study(Models):
    """All jobs of a study, made once and shared by whoever needs them."""

    def __init__(self, settings: Settings):
        super().__init__(settings, {}, {})
        for method in (self.at, self.cells, self.runs):
            setattr(self, method.__name__, cache(method))
        self.check_names()
        self.check()
        self.text_stops |= self.find_text_stops(self.all_cells)
        self.check_own()
        self.tables: dict[str, Job] = {}
        for name in sorted((*TABLES, *self.own), key=lambda name: name == "report"):
            self.tables[name] = self.report() if name == "report" else self.table(name)

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
        _, scale = with_changes(self.recipe, self.settings.scale, dict(preset), "params.yaml")
        return Models(self.settings.model_copy(update={"scale": scale}), self.jobs, self.text_stops)

    def cell(self, changes: Mapping[str, Any], evaluated: Evaluated = "model", file: str = "params.yaml") -> Cell:
        """The cell with other values of some keys, of the recipe or of the preset. Raises ConfigError.

        A value that the preset has anyway is no change.
        """
        preset = self.settings.scale
        recipe, scale = with_changes(self.recipe, preset, changes, file)
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

    def run(self, cell: Cell, seed: int) -> Job:
        """The evaluation of a cell with one seed."""
        models, recipe = self.at(cell.preset), cell.recipe.model_copy(update={"seed": seed})
        return models.evaluate(models.trained(recipe, cell.evaluated), recipe)

    def runs(self, name: str) -> dict[tuple[Cell, int], Job]:
        """The evaluations of an experiment, by cell and seed; those of the state before fine-tuning included."""
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
        finished = Cell(self.recipe.model_copy(update={"branch_percent": 100}))
        for cell in (finished, Cell(self.recipe), *(cell for _, cell in cells)):
            models = self.at(cell.preset)
            run = models.text_run(cell.recipe.size, cell.recipe.text_budget)
            stops.setdefault(run, set()).add(models.branch_step(cell.recipe))
        return {run: sorted(steps - {0}) for run, steps in stops.items()}

    def check_names(self) -> None:
        """Refuse an experiment whose table would have a name that something else has: a table, a file of one, a rule."""
        files = {Path(file).stem for table in TABLES.values() for file in table.files}
        taken = files | {*TABLES, *PHASES, *STAGES, "study"} | {f"all_{stage}" for stage in STAGES}
        for name in (name for name in self.own if name in taken or name.startswith("table")):
            allowed = "a name that no table, figure, phase or stage has, and none that begins with 'table'"
            raise ConfigError("params.yaml", f"experiments.{name}", name, allowed)

    def place_of(self, name: str, key: str) -> str:
        """Where a cell of an experiment has the value of a key of the recipe from."""
        varied = name in self.experiments and key in self.experiments[name].vary
        return f"experiments.{name}.vary.{key}" if varied else f"recipe.{key}"

    def check(self) -> None:
        """Refuse branch points on the same step, and a cooldown floor above the rate that a branch continues."""
        seen: dict[tuple, float] = {}
        for name, cell in sorted([*self.all_cells, ("", Cell(self.recipe))], key=lambda c: c[1].recipe.branch_percent):
            models, recipe, percent = self.at(cell.preset), cell.recipe, cell.recipe.branch_percent
            key, main = self.place_of(name, "branch_percent"), models.text_schedule(recipe.text_budget)
            step = models.branch_step(recipe)
            self.check_published(key, recipe, main.steps)
            other = seen.setdefault((models.text_run(recipe.size, recipe.text_budget), step), percent)
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
        """Refuse an own experiment's key that changes what models are asked, and a value that changes no model.

        The figure would be a flat line that means nothing.
        """
        for name in self.own:
            experiment = self.experiments[name]
            for changes, key in [(point, key) for point in experiment.grid for key in point]:
                cell = self.cell(changes, experiment.evaluate)
                without = self.cell({k: v for k, v in changes.items() if k != key}, experiment.evaluate)
                if allowed := self.wanted_of(cell, without):
                    raise ConfigError("params.yaml", f"experiments.{name}.vary.{key}", changes[key], allowed)

    def wanted_of(self, cell: Cell, without: Cell) -> str | None:
        """What a value lacks that makes a cell of another one, or None; of the recipe's or the preset's own, nothing."""
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

    def table(self, name: str) -> Job:
        """A table: its rows (runs by cell and seed), and the artifacts that it reads."""
        runs, shown = self.table_runs(name), TABLES[name].experiments
        if name in ("claims", "comparison"):
            runs, shown = self.all_runs, tuple(self.experiments)
        settings: dict = {
            "make": name,
            "tasks": self.settings.tasks.model_dump(),
            "split": self.settings.params.split,
            "preset": self.settings.params.preset,
            "recipe": self.recipe.told() | {"seed": self.recipe.seed},
            "published": [row for row in self.published if name in (row["output"], "comparison")],
            "rows": [],
        }
        parents: dict[str, Job] = {}
        if any(cell.evaluated == "model" for cell, _ in runs):
            parents["blind"] = self.evaluate(self.finetune(self.recipe, blind=True), self.recipe)
            parents |= {part: self.source(part) for part in ("evaluation", "instructions")}
        for (cell, seed), scores in runs.items():
            settings["rows"].append({"run": scores.id, **self.describe(cell, seed, shown)})
            parents[f"scores/{scores.id}"] = scores
            parents |= {f"{job.phase}/{scores.id}": job for job in training(scores)}
        if name in ("table1", "table2", "table8", "controls"):
            settings["text"] = self.text_rows(name, parents)
        if name == "drawings":
            settings |= self.drawn()
        if name == "claims":
            settings["claims"] = design.resolve(self)
        if name in self.own:
            settings["experiment"] = self.told(name)
        return self.add("tables", name, settings, parents)

    def report(self) -> Job:
        """The report: all that the tables show, and what every number comes from, down to the data."""
        settings = {
            "make": "report",
            "tasks": self.settings.tasks.model_dump(),
            "split": self.settings.params.split,
            "preset": self.settings.params.preset,
            "recipe": self.recipe.told() | {"seed": self.recipe.seed},
            "prior": self.evaluate(self.finetune(self.recipe, blind=True), self.recipe).id,
            "rows": [
                {"run": scores.id, **self.describe(cell, seed, tuple(self.experiments))}
                for (cell, seed), scores in self.all_runs.items()
            ],
            "text": {},
            "claims": {claim["name"]: claim for claim in self.tables["claims"].settings["claims"]},
            "tables": {name: list(TABLES[name].files) for name in self.tables},
            "lineage": lineage_tables(*self.tables.values()),
        }
        if self.own:
            settings["experiments"] = {name: self.told(name) for name in self.own}
        for job in self.tables.values():
            settings["text"] |= job.settings.get("text", {})
        parents = {f"tables/{name}": job for name, job in self.tables.items()}
        return self.add("tables", "report", settings, parents | {"evaluation": self.source("evaluation")})

    def told(self, name: str) -> dict:
        """What the table and the figure of an experiment of its own are told of it."""
        experiment = self.experiments[name]
        return {"says": experiment.says, "vary": list(experiment.vary), "evaluated": experiment.evaluate}

    @cached_property
    def published(self) -> list[dict]:
        """The paper's figures, each with the name of the cell that answers to it."""
        return [
            row.model_dump() | {"cell": self.cell_name(design.published_cell(self, row)) if row.cell else ""}
            for row in self.settings.published
        ]

    def table_runs(self, name: str) -> dict[tuple[Cell, int], Job]:
        """The runs that a table shows: its experiments', and the recipe itself where it is what they compare with."""
        runs = {run: job for experiment in TABLES[name].experiments for run, job in self.runs(experiment).items()}
        if name in ("table2", "table8", "table9", "controls", "examples"):
            states: tuple[Evaluated, ...] = ("model", "cooldown") if name == "table8" else ("model",)
            cells = {Cell(self.recipe, state) for state in states}
            papers = {run for paper in PAPER for run in self.runs(paper)} | {(cell, self.recipe.seed) for cell in cells}
            mine = {run: job for run, job in self.all_runs.items() if run[0] in cells and run in papers}
            runs = mine | runs
        if name == "examples":
            runs = {run: job for run, job in runs.items() if run[1] == self.recipe.seed}
        return runs

    def describe(self, cell: Cell, seed: int, shown: tuple[str, ...]) -> dict:
        """What a table can group a row by: its cell, seed and settings, and in which of the shown experiments it is."""
        experiments = [name for name in shown if (cell, seed) in self.runs(name)]
        keys = [
            key for name in shown if name in self.experiments for key in self.experiments[name].vary if key != "seed"
        ]
        return {
            "cell": self.cell_name(cell),
            "seed": seed,
            "evaluated": cell.evaluated,
            "settings": {key: self.value(cell, key) for key in keys} | cell.recipe.told(),
            "experiments": experiments,
        }

    def cell_name(self, cell: Cell) -> str:
        """What a cell has that the recipe and the preset have not: "branch_percent=100", or "recipe"; and which state it is."""
        values = {key: getattr(cell.recipe, key) for key in Recipe.model_fields if key != "seed"}
        changed = [(key, value) for key, value in values.items() if value != getattr(self.recipe, key)]
        state = [] if cell.evaluated == "model" else [f"evaluated={cell.evaluated}"]
        return " ".join([f"{key}={named(value)}" for key, value in (*changed, *cell.preset)] + state) or "recipe"

    def text_rows(self, name: str, parents: dict[str, Job]) -> dict[str, dict]:
        """The text runs' own states, for reference: label -> percent, size and budget; adds them to the parents."""
        rows = {}
        stops = self.find_text_stops(self.papers_cells)
        recipes = [self.recipe, *(cell.recipe for _, cell in self.papers_cells)]
        for size, budget in dict.fromkeys((recipe.size, recipe.text_budget) for recipe in recipes):
            steps = stops.get(self.text_run(size, budget), [])
            if name != "table2" and (size, budget) != (self.recipe.size, self.recipe.text_budget):
                continue
            for step in steps if name != "table2" else steps[-1:]:
                state = self.pretrain(size, budget, step)
                percent = 100 * step / self.text_schedule(budget).steps
                rows[state.id] = {"percent": percent, "size": size, "text_budget": budget}
                parents[f"pretrain/{state.id}"] = state
                if name != "table2":
                    parents[f"scores/{state.id}"] = self.evaluate(state, self.recipe)
        return rows

    def drawn(self) -> dict:
        """What the drawings show: the text run's schedule, the branches', and how many jobs a phase has."""
        scale = self.settings.scale
        branches = {}
        for recipe in dict.fromkeys(cell.recipe for name in ("timing", "rewarm") for cell in self.cells(name)):
            job = self.cooldown(recipe)
            title = f"{recipe.branch_percent:g}%"
            if job.settings["rewarm"] and recipe.rewarm_like is not None:
                title += f", re-warmed as at {recipe.rewarm_like:g}%"
            branches[title] = {"step": self.branch_step(recipe), **planned_cooldown(job.settings).describe()}
        counts: dict[str, int] = {}
        for job in {job.key: job for scores in self.all_runs.values() for job in lineage(scores)}.values():
            counts[job.phase] = counts.get(job.phase, 0) + 1
        return {
            "main": self.text_schedule(self.recipe.text_budget).describe(),
            "branches": branches,
            "tokens_a_step": {
                "main": scale.text.batch * scale.model.sequence,
                "cooldown": scale.cooldown.batch * scale.model.sequence,
            },
            "counts": counts | {"tables": len(TABLES) + len(self.own)},
        }


def identity(located: Located) -> dict:
    """What data is, apart from where it lies and under which licence."""
    values = located.model_dump(exclude={"path", "licence"})
    inner = {key: identity(part) for key, part in located if isinstance(part, Located)}
    return values | inner


def named(value: object) -> str:
    """A setting as a word, as YAML writes it: 100, not 100.0."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def suffix(recipe: Recipe) -> str:
    """The parts of a label that say in what a model is not the usual one."""
    parts = {
        "larger": recipe.size == "larger",
        f"x{recipe.text_budget:g}": recipe.text_budget != 1,
        "fresh": recipe.moments == "fresh" and recipe.branch_percent > 0,
        f"like{recipe.rewarm_like or 0:g}": recipe.rewarm_like is not None,
        f"n{100 * recipe.instruction_share:g}": recipe.instruction_share > 0,
        recipe.captions: recipe.captions != "full",
        recipe.encoder: recipe.encoder != "efficientnet_lite0",
        "unfrozen": recipe.train_encoder,
        f"lr{recipe.cooldown_rate_factor:g}": recipe.cooldown and recipe.cooldown_rate_factor != 1,
    }
    return "".join(f"-{part}" for part, shown in parts.items() if shown)


def training(scores: Job) -> list[Job]:
    """The training jobs behind an evaluation, the text run's state first."""
    found: list[Job] = []
    job = scores.parents.get("checkpoint")
    while job:
        found.insert(0, job)
        job = job.parents.get("branch")
    return found


def lineage_tables(*tables: Job) -> dict[str, dict]:
    """Who descends from whom below some tables, for those who read no jobs: what the report and a trace go by.

    {"jobs": {"PHASE/ID": {"settings", "parents": {role: "PHASE/ID"}}}, "sections": {digest: settings}}: a section of
    settings that many jobs share is listed once, and stands in their settings as {"section": digest}.
    """
    jobs, sections = {}, {}
    for job in lineage(*tables):
        if job.phase == "tables":
            continue
        settings = dict(job.settings)
        for name, section in job.settings.items():
            if section and isinstance(section, dict):
                settings[name] = {"section": digest(section)}
                sections[digest(section)] = section
        parents = {role: "/".join(parent.key) for role, parent in sorted(job.parents.items())}
        jobs["/".join(job.key)] = {"settings": settings, "parents": parents}
    return {"jobs": jobs, "sections": sections}


def lineage(*jobs: Job) -> list[Job]:
    """Jobs and their ancestors, each once, parents first."""
    found: dict[tuple[str, str], Job] = {}

    def visit(job: Job) -> None:
        if job.key not in found:
            for parent in (*job.parents.values(), *([job.continues] if job.continues else [])):
                visit(parent)
            found[job.key] = job

    for job in jobs:
        visit(job)
    return list(found.values())
