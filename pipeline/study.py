"""The study: from settings to the jobs that make it, who descends from whom, with which settings.

A job's identity is its settings and its parents' identities; its id is a readable label and a digest of both. Nothing
ever parses an id. Two experiments that need the same model get the same job.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import product
from typing import Any, Literal

from pipeline import design
from pipeline.config import Checkpoints, ConfigError, Corpora, Located, Recipe, Settings, find_tokenizer
from pipeline.files import digest, file_hash
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


@dataclass(frozen=True)
class Experiment:
    """What an experiment evaluates, how often, and which other state of each model it looks at too."""

    evaluated: Evaluated = "model"
    repeats: Literal["primary", "other"] = "other"
    stages: bool = False  # the model's state after the cooldown is evaluated too


EXPERIMENTS = {
    "timing": Experiment(repeats="primary", stages=True),
    "image_fraction": Experiment(repeats="primary", stages=True),
    "from_scratch": Experiment(repeats="primary"),
    "instruction_share": Experiment(repeats="primary"),
    "finetune_epochs": Experiment(repeats="primary"),
    "text_budget": Experiment(),
    "size": Experiment(),
    "unfrozen": Experiment(),
    "captions": Experiment(stages=True),
    "encoder": Experiment(),
    "seeds": Experiment(),  # it has its own
    "usual": Experiment(),
    "rewarm": Experiment(repeats="primary"),
    "text_only": Experiment(evaluated="cooldown"),
    "moments": Experiment(),
    "blind": Experiment(evaluated="blind", repeats="primary"),
}


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


TABLES = {
    "table1": Table(
        (*both("table1"), "metrics.json", "figures/timing.png", "figures/timing.csv", "figures/loss.csv"), ("timing",)
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
        (*both("controls"), "figures/rewarm.png", "figures/text_only.png"), ("rewarm", "text_only", "moments", "blind")
    ),
    "conditions": Table(
        (*both("conditions"), *both("question_types"), *both("measures")), ("timing", "image_fraction")
    ),
    "drawings": Table(
        ("figures/schedules.png", "figures/schedules.csv", "figures/pipeline.svg", "figures/pipeline.png"),
        ("timing", "rewarm"),
    ),
    "examples": Table(("figures/examples.png", "figures/examples.csv")),
    "claims": Table(both("claims"), tuple(EXPERIMENTS)),
    "comparison": Table(both("comparison"), tuple(EXPERIMENTS)),
    "report": Table(("report.html",)),  # of all others: it comes last
}


def grid(recipe: Recipe, sweep: Iterable[tuple[str, list]]) -> list[Recipe]:
    """The recipe with every combination of the values that a sweep lists, in its order; none if a list is empty."""
    varied = dict(sweep)
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
            self.text_schedule,
            self.pretrain,
            self.cooldown,
            self.finetune,
            self.runs,
        ):
            setattr(self, phase.__name__, cache(phase))
        self.check()
        self.tables: dict[str, Job] = {}
        for name in TABLES:
            self.tables[name] = self.report() if name == "report" else self.table(name)

    @property
    def recipe(self) -> Recipe:
        return self.settings.params.recipe

    # --- experiments ---

    @cached_property
    def sweeps(self) -> dict[str, list[Recipe]]:
        """The recipes of every experiment, in the order of its values."""
        experiments = self.settings.params.experiments
        return {name: grid(self.recipe, getattr(experiments, name)) for name in EXPERIMENTS}

    @property
    def recipes(self) -> list[Recipe]:
        """Every recipe of the study, the params' own first."""
        return [self.recipe, *(recipe for recipes in self.sweeps.values() for recipe in recipes)]

    def seeds(self, name: str) -> list[int]:
        """The seeds of an experiment's cells: the recipe's and those after it, as many as the scale says."""
        own = getattr(getattr(self.settings.params.experiments, name), "seed", None)
        repeats = getattr(self.settings.scale.repeats, EXPERIMENTS[name].repeats)
        return own or [self.recipe.seed + n for n in range(repeats)]

    def cells(self, name: str) -> dict[Cell, list[int]]:
        """The cells of an experiment and their seeds."""
        kind, seeds = EXPERIMENTS[name].evaluated, self.seeds(name)
        recipes = self.sweeps[name]
        if kind == "cooldown":
            recipes = [recipe.model_copy(update={"image_fraction": 0.0}) for recipe in recipes]
        return {Cell(recipe.model_copy(update={"seed": self.recipe.seed}), kind): seeds for recipe in recipes}

    def runs(self, name: str) -> dict[tuple[Cell, int], Job]:
        """The evaluations of an experiment, by cell and seed; those of the state before fine-tuning included."""
        found = {}
        for cell, seeds in self.cells(name).items():
            for seed in seeds:
                recipe = cell.recipe.model_copy(update={"seed": seed})
                found[cell, seed] = self.evaluate(self.trained(recipe, cell.evaluated), recipe)
                if EXPERIMENTS[name].stages and recipe.cooldown:
                    state = self.evaluate(self.cooldown(recipe), recipe)
                    found[Cell(cell.recipe, "cooldown"), seed] = state
        return found

    @cached_property
    def experiment_jobs(self) -> dict[str, set[tuple[str, str]]]:
        """The jobs that each experiment needs."""
        return {name: {job.key for job in lineage(*self.runs(name).values())} for name in EXPERIMENTS}

    def trained(self, recipe: Recipe, evaluated: str) -> Job:
        """The job that makes what a cell evaluates."""
        if evaluated == "cooldown":
            return self.cooldown(recipe)
        return self.finetune(recipe, blind=evaluated == "blind")

    @cached_property
    def all_runs(self) -> dict[tuple[Cell, int], Job]:
        """The evaluations of all experiments and of the recipe itself."""
        found = {run: job for name in EXPERIMENTS for run, job in self.runs(name).items()}
        for evaluated in ("model", "blind", "cooldown"):
            cell = Cell(self.recipe, evaluated)
            if evaluated != "cooldown" or self.recipe.cooldown:
                job = self.trained(self.recipe, evaluated)
                found.setdefault((cell, self.recipe.seed), self.evaluate(job, self.recipe))
        return found

    @cached_property
    def seeds_run(self) -> dict[Cell, set[int]]:
        """The seeds of every cell that is evaluated."""
        found: dict[Cell, set[int]] = {}
        for cell, seed in self.all_runs:
            found.setdefault(cell, set()).add(seed)
        return found

    def check(self) -> None:
        """Refuse branch points on the same step, and a cooldown floor above the rate that a branch continues."""
        recipes = [(f"experiments.{name}.branch_percent", r) for name in EXPERIMENTS for r in self.sweeps[name]]
        seen: dict[tuple, float] = {}
        for key, recipe in sorted(
            [*recipes, ("recipe.branch_percent", self.recipe)], key=lambda r: r[1].branch_percent
        ):
            percent, main = recipe.branch_percent, self.text_schedule(recipe.text_budget)
            step = self.branch_step(recipe)
            self.check_published(key, recipe, main.steps)
            other = seen.setdefault((recipe.text_budget, step), percent)
            if other != percent:
                raise ConfigError(
                    "params.yaml",
                    key,
                    percent,
                    f"branch points at least one step apart: {other:g} is step {step} of {main.steps} too",
                )
            floor = self.settings.scale.cooldown.floor_lr
            if 0 < step < main.steps and main.rate(step) < floor:
                file = f"configs/scale/{self.settings.params.preset}.yaml"
                allowed = f"at most the rate {main.rate(step):.3g} that the branch at {percent:g}% continues"
                raise ConfigError(file, "cooldown.floor_lr", floor, allowed)
            peak = self.rewarm_peak(recipe)
            if peak is not None and peak < floor:
                key = f"{key.rsplit('.', 1)[0]}.rewarm_like"
                raise ConfigError("params.yaml", key, recipe.rewarm_like, f"a percent whose rate is at least {floor:g}")

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
            key = "recipe.moments" if self.recipe.moments == "keep" else "experiments.moments.moments"
            revision = checkpoints.steps[step].revision
            raise ConfigError("params.yaml", key, "keep", f"fresh: the checkpoint {revision} comes without moments")

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

    def pretrain(self, size: str, budget: float, step: int) -> Job:
        """A text run after `step` updates, optimizer state included."""
        if self.settings.checkpoints:
            return self.imported(step)
        recipe = self.recipe.model_copy(update={"size": size, "text_budget": budget})
        label = f"text-{step}" + ("-larger" if size == "larger" else "") + (f"-x{budget:g}" if budget != 1 else "")
        settings = self.train_settings("pretrain", recipe, self.settings.params.text_seed) | {"stop": step}
        earlier = [s for s in self.text_stops[size, budget] if s < step]
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

    @cached_property
    def text_stops(self) -> dict[tuple[str, float], list[int]]:
        """Steps at which each text run (size, budget) leaves a checkpoint: the branch points of all experiments.

        The recipe's run is trained to its end, whatever branches from it; of a published one the last checkpoint is taken.
        """
        stops: dict[tuple[str, float], set[int]] = {}
        finished = self.recipe.model_copy(update={"branch_percent": 100})
        for recipe in (finished, *self.recipes):
            stops.setdefault((recipe.size, recipe.text_budget), set()).add(self.branch_step(recipe))
        return {run: sorted(steps - {0}) for run, steps in stops.items()}

    def text_state(self, recipe: Recipe) -> Job | None:
        """The state of the text run that a branch starts from; None at 0%."""
        step = self.branch_step(recipe)
        return self.pretrain(recipe.size, recipe.text_budget, step) if step else None

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
        return recipe.model_copy(update=unused)

    def cooldown(self, recipe: Recipe) -> Job:
        recipe = self.in_cooldown(recipe)
        step, images, rewarm = self.branch_step(recipe), recipe.image_fraction > 0, self.rewarm_peak(recipe)
        continues = rewarm is None and 0 < step < self.text_schedule(recipe.text_budget).steps
        unused = {"peak_lr", "warmup_steps"} if continues else set() if rewarm is None else {"peak_lr"}
        settings = self.train_settings("cooldown", recipe, recipe.seed, unused) | {
            "branch_step": step,
            "moments": recipe.moments,
            "rewarm": rewarm,
            "image_fraction": recipe.image_fraction,
            "instruction_share": recipe.instruction_share,
            "encoder": self.training_encoder(recipe) if images else None,
            "train_encoder": recipe.train_encoder,
        }
        if continues:
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

    # --- results ---

    def table(self, name: str) -> Job:
        """A table: its rows (runs by cell and seed), and the artifacts that it reads."""
        runs = self.all_runs if name in ("claims", "comparison") else self.table_runs(name)
        settings: dict = {
            "make": name,
            "tasks": self.settings.tasks.model_dump(),
            "split": self.settings.params.split,
            "preset": self.settings.params.preset,
            "recipe": self.recipe.model_dump(),
            "published": [row for row in self.published if name in (row["output"], "comparison")],
            "rows": [],
        }
        parents: dict[str, Job] = {}
        if any(cell.evaluated == "model" for cell, _ in runs):
            parents["blind"] = self.evaluate(self.finetune(self.recipe, blind=True), self.recipe)
            parents |= {part: self.source(part) for part in ("evaluation", "instructions")}
        for (cell, seed), scores in runs.items():
            settings["rows"].append({"run": scores.id, **self.describe(cell, seed, TABLES[name].experiments)})
            parents[f"scores/{scores.id}"] = scores
            parents |= {f"{job.phase}/{scores.id}": job for job in training(scores)}
        if name in ("table1", "table2", "table8", "controls"):
            settings["text"] = self.text_rows(name, parents)
        if name == "drawings":
            settings |= self.drawn()
        if name == "claims":
            settings["claims"] = design.resolve(self)
        return self.add("tables", name, settings, parents)

    def report(self) -> Job:
        """The report: all that the tables show, and what every number comes from, down to the data."""
        settings = {
            "make": "report",
            "tasks": self.settings.tasks.model_dump(),
            "split": self.settings.params.split,
            "preset": self.settings.params.preset,
            "recipe": self.recipe.model_dump(),
            "prior": self.evaluate(self.finetune(self.recipe, blind=True), self.recipe).id,
            "rows": [
                {"run": scores.id, **self.describe(cell, seed, tuple(EXPERIMENTS))}
                for (cell, seed), scores in self.all_runs.items()
            ],
            "text": {},
            "claims": {claim["name"]: claim for claim in self.tables["claims"].settings["claims"]},
            "tables": {name: list(TABLES[name].files) for name in self.tables},
            "lineage": lineage_tables(*self.tables.values()),
        }
        for job in self.tables.values():
            settings["text"] |= job.settings.get("text", {})
        parents = {f"tables/{name}": job for name, job in self.tables.items()}
        return self.add("tables", "report", settings, parents | {"evaluation": self.source("evaluation")})

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
            mine = {run: job for run, job in self.all_runs.items() if run[0] in cells}
            runs = mine | runs
        if name == "examples":
            runs = {run: job for run, job in runs.items() if run[1] == self.recipe.seed}
        return runs

    def describe(self, cell: Cell, seed: int, shown: tuple[str, ...]) -> dict:
        """What a table can group a row by: its cell, seed and settings, and in which of the shown experiments it is."""
        recipe = cell.recipe.model_dump(exclude={"seed"})
        experiments = [name for name in shown if (cell, seed) in self.runs(name)]
        return {
            "cell": self.cell_name(cell),
            "seed": seed,
            "evaluated": cell.evaluated,
            "settings": recipe,
            "experiments": experiments,
        }

    def cell_name(self, cell: Cell) -> str:
        """What a cell has that the recipe has not: "branch_percent=100", or "recipe"; and which state is evaluated."""
        settings = cell.recipe.model_dump(exclude={"seed"})
        changed = [f"{key}={named(value)}" for key, value in settings.items() if value != getattr(self.recipe, key)]
        state = [] if cell.evaluated == "model" else [f"evaluated={cell.evaluated}"]
        return " ".join(changed + state) or "recipe"

    def text_rows(self, name: str, parents: dict[str, Job]) -> dict[str, dict]:
        """The text runs' own states, for reference: label -> percent, size and budget; adds them to the parents."""
        rows = {}
        for (size, budget), steps in self.text_stops.items():
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
        for recipe in dict.fromkeys((*self.sweeps["timing"], *self.sweeps["rewarm"])):
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
            "counts": counts | {"tables": len(TABLES)},
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
