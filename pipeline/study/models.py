"""The jobs that make and evaluate models at one preset."""

from __future__ import annotations

from collections.abc import Set
from functools import cache
from typing import Any

from pipeline.common.files import digest, file_hash
from pipeline.data.job_settings import MADE, ListedCorpora, ShardSettings, TokenizerSettings
from pipeline.evaluation.job_settings import Condition, Evaluate
from pipeline.model.job_settings import FeatureSettings
from pipeline.settings.checkpoints import Checkpoints
from pipeline.settings.load import Settings
from pipeline.settings.params import Recipe
from pipeline.settings.places import find_tokenizer
from pipeline.settings.sources import Corpora, Located
from pipeline.settings.tasks import AskedTextTask, AskedVisionTask
from pipeline.settings.types import Encoder, FeatureEncoder, ModelSize, Section, TextPhase
from pipeline.study.cells import Evaluated
from pipeline.study.job import Job
from pipeline.training.job_settings import Cooldown, Finetune, Imported, Pretrain, WithImages
from pipeline.training.schedule import Schedule, main_schedule


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
            # On the instance and not as a decorator: a decorator's cache would be one for all instances, and keep them
            # alive.
            setattr(self, phase.__name__, cache(phase))

    @property
    def recipe(self) -> Recipe:
        return self.settings.params.recipe

    def add(
        self,
        phase: str,
        label: str,
        settings: Section,
        parents: dict[str, Job] | None = None,
        continues: Job | None = None,
        size: str = "base",
    ) -> Job:
        job = Job(phase, label, settings, parents or {}, continues, self.settings.scale.hardware_of(size))
        # The first of equal jobs stands for all, also across presets, which share this dictionary.
        return self.jobs.setdefault(job.key, job)

    # --- data ---

    def source(self, part: str, captions: str | None = None) -> Job:
        """One part of the data in its official format: text, captions, instructions or evaluation.

        Of real corpora, the list of their files; each of their captions is a source of its own.
        """
        if isinstance(self.settings.data.source, Corpora):
            return self.corpora(part, captions)
        assert self.settings.scale.data, "a scale without sizes of made data is refused before"
        known = self.settings.scale.data.model_dump() | {"source": self.settings.data.source, "part": part}
        # Only the sizes of this part: another number of test images then leaves the captions, and what is trained on
        # them, as they are.
        made = MADE[part]
        return self.add("sources", part, made.model_validate({key: known[key] for key in made.model_fields}))

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
        return self.add("sources", f"{part}-{captions}" if captions else part, ListedCorpora.model_validate(settings))

    def left_out_at_most(self, part: str) -> dict[str, int]:
        """How many bad items a source may leave out, by task; of data sets' own folders the evaluation does it."""
        tasks = self.settings.tasks
        vision = {name: task.left_out_at_most for name, task in tasks.vision.items()}
        own = {name: task.left_out_at_most for name, task in tasks.text.items() if task.benchmark is None}
        return {name: most for name, most in {"evaluation": vision, "text": own}.get(part, {}).items() if most}

    def tokenizer(self) -> Job:
        vocabulary = self.settings.scale.model.vocabulary
        if given := self.given_tokenizer:
            # The hash, not the path: the same file in another place gives the same cards.
            settings = {"vocabulary": vocabulary, "given": file_hash(find_tokenizer(given))}
            if isinstance(given, Checkpoints) and given.tokenizer != "gpt_neox":
                settings["end"] = given.end
            if isinstance(given, Corpora) and given.end:
                settings["end"] = given.end
            return self.add("tokenizer", "given", TokenizerSettings.model_validate(settings))
        parents = {part: self.source(part) for part in ("text", "captions", "instructions")}
        return self.add("tokenizer", "bpe", TokenizerSettings(vocabulary=vocabulary), parents)

    @property
    def given_tokenizer(self) -> Checkpoints | Corpora | None:
        """Who brings the tokenizer, if it is not trained here: a published model its own, whatever the data's is."""
        source = self.settings.data.source
        return self.settings.checkpoints or (source if isinstance(source, Corpora) else None)

    def shards(self, part: str, encoder: str | None = None, captions: str | None = None) -> Job:
        """A part as MDS shards of full training sequences; with images, for an encoder's number of patches."""
        settings: dict[str, Any] = {"part": part, "sequence": self.settings.scale.model.sequence}
        if encoder:
            settings["patches"] = self.settings.encoders[encoder].patches
            # Only where the frames differ, and only for texts with boxes: elsewhere nothing is moved.
            if (frames := [self.settings.data.boxes, self.settings.encoders[encoder].fit])[0] != frames[1]:
                settings |= {"boxes": frames} if part == "instructions" else {}
        if captions:
            settings["captions"] = captions
        label = f"{part}-{captions}" if captions else part
        parents = {"source": self.source(part, captions), "tokenizer": self.tokenizer()}
        return self.add("shards", label, ShardSettings.model_validate(settings), parents)

    def features(self, part: str, encoder: str) -> Job:
        """An encoder's features of all images of a part, computed once."""
        # Without the keys that only training uses: features do not depend on them.
        network = self.encoder_settings(encoder, exclude={*Encoder.model_fields} - {*FeatureEncoder.model_fields})
        settings = FeatureSettings.model_validate({"encoder": network, "part": part})
        return self.add("features", f"{part}-{encoder}", settings, {"source": self.source(part)})

    def encoder_settings(self, name: str, exclude: Set[str] = frozenset()) -> dict:
        # The cost of an image is for the plan; it changes no result.
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
        return model.model_copy(update=larger.model_dump(exclude={"hardware"}))

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
        """The rate that a branch warms up to; None if it continues a rate, or warms up to the scale's own peak."""
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
        scale, hardware = self.settings.scale, self.settings.scale.hardware_of(recipe.size)
        optimisation = self.text_phase(recipe.text_budget) if phase == "pretrain" else getattr(scale, phase)
        return {
            "model": self.model_size(recipe.size).model_dump(),
            "optimisation": optimisation.model_dump(exclude={"rewarm_all", *unused}),
            "seed": seed,
            "hardware": hardware.model_dump(include={"device", "threads", "microbatch", "precision", "compile"}),
        }

    def text_settings(self, size: str, budget: float, seed: int) -> dict:
        """What a text run depends on, whenever it is left, as `Pretrain` has it."""
        recipe = self.recipe.model_copy(update={"size": size, "text_budget": budget})
        return self.train_settings("pretrain", recipe, seed)

    def text_run(self, size: str, budget: float, seed: int) -> str:
        """The identity of a text run, whenever it is left; two presets may have the same run."""
        return digest([self.text_settings(size, budget, seed), self.shards("text").identity])

    def pretrain(self, size: str, budget: float, seed: int, step: int) -> Job:
        """A text run after `step` updates, optimizer state included."""
        if self.settings.checkpoints:
            return self.imported(step)
        label = f"text-{step}" + ("-larger" if size == "larger" else "") + (f"-x{budget:g}" if budget != 1 else "")
        label += f"-s{seed}" if seed != self.recipe.text_seed else ""
        settings = Pretrain.model_validate(self.text_settings(size, budget, seed) | {"stop": step})
        # A text run is one chain: each state goes on from the one before it, and no step is trained twice.
        earlier = [s for s in self.text_stops[self.text_run(size, budget, seed)] if s < step]
        return self.add(
            "pretrain",
            label,
            settings,
            {"text": self.shards("text")},
            continues=self.pretrain(size, budget, seed, max(earlier)) if earlier else None,
            size=size,
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
        return self.add("pretrain", f"text-{step}", Imported.model_validate(settings), {"tokenizer": self.tokenizer()})

    def text_state(self, recipe: Recipe) -> Job | None:
        """The state of the text run that a branch starts from; None at 0%."""
        step = self.branch_step(recipe)
        return self.pretrain(recipe.size, recipe.text_budget, recipe.text_seed, step) if step else None

    def continued_rate(self, recipe: Recipe) -> float | None:
        """The rate of the text run that a branch goes on with; None at its two ends, and where every branch warms up."""
        main, step = self.text_schedule(recipe.text_budget), self.branch_step(recipe)
        continues = self.rewarm_peak(recipe) is None and 0 < step < main.steps
        return main.rate(step) if continues else None

    def in_cooldown(self, recipe: Recipe) -> Recipe:
        """A recipe with plain values for what its cooldown does not use. Equal recipes then share the cooldown."""
        unused: dict = {"cooldown": True, "finetune_epochs": 1, "finetune_seed": None}
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
        # The card then has the text run's schedule: the rate to continue is computed from it by the phase.
        if continued and rewarm is None:
            settings["main"] = self.text_phase(recipe.text_budget).model_dump()
        if not step:
            settings["main_seed"] = recipe.text_seed  # the decoder's weights, as this is from scratch
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
        return self.add("cooldown", label, Cooldown.model_validate(settings), parents, size=recipe.size)

    def finetune(self, recipe: Recipe, blind: bool = False) -> Job:
        """Fine-tuning on instructions; `blind` takes the images away: the language prior."""
        seed = recipe.seed if recipe.finetune_seed is None else recipe.finetune_seed
        settings = self.train_settings("finetune", recipe, seed) | {
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
            settings["main_seed"] = recipe.text_seed  # the decoder's weights, as this is from scratch
        start = parents["branch"].label if "branch" in parents else f"b0{suffix(recipe)}"
        label = f"{'blind-' if blind else ''}{start}-e{recipe.finetune_epochs}"
        # A cooldown's label ends in the seed already.
        label = label if recipe.cooldown and seed == recipe.seed else f"{label}-s{seed}"
        return self.add("finetune", label, Finetune.model_validate(settings), parents, size=recipe.size)

    # --- evaluation ---

    @property
    def asked(self) -> tuple:
        """What models are asked: images with questions, texts with held-out documents, and the length of these."""
        return self.source("evaluation"), self.source("text"), self.settings.scale.model.sequence

    def trained(self, recipe: Recipe, evaluated: Evaluated) -> Job:
        """The job that makes what is evaluated."""
        if evaluated == "cooldown":
            return self.cooldown(recipe)
        return self.finetune(recipe, blind=evaluated == "blind")

    def evaluate(self, model: Job, recipe: Recipe) -> Job:
        """Per-example scores of a state: text tasks for all, captions and vision tasks if it was trained on such."""
        tasks, scale, trained = self.settings.tasks, self.settings.scale, model.settings
        vision, blind = isinstance(trained, Finetune), isinstance(trained, Finetune) and trained.blind
        images = vision or (isinstance(trained, Cooldown) and trained.image_fraction > 0)
        all_conditions: list[Condition] = ["normal", "removed", "mean", "shuffled"]
        # Blind models are there for what they answer without images: they are asked nothing else.
        text = tasks.text if not blind else {}
        asked_vision, asked_text = {*AskedVisionTask.model_fields}, {*AskedTextTask.model_fields}
        settings: dict[str, Any] = {
            "model": self.model_size(recipe.size).model_dump(),
            "evaluation": scale.evaluation.model_dump(exclude=set() if text else {"text_items", "heldout_documents"}),
            "hardware": scale.hardware.model_dump(include={"device", "threads"}),
            "encoder": self.encoder_settings(recipe.encoder, {"calibrate", "trained_rate"}) if images else None,
            "train_encoder": isinstance(trained, WithImages) and trained.train_encoder,
            "vision": {n: task.model_dump(include=asked_vision) for n, task in tasks.vision.items()} if vision else {},
            "captioning": tasks.captioning.model_dump() if tasks.captioning and images and not blind else None,
            "text": {name: task.model_dump(include=asked_text) for name, task in text.items()},
            "conditions": [] if not vision else ["removed"] if blind else all_conditions,
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
        label = f"{model.phase}-{model.label}"
        return self.add("evaluate", label, Evaluate.model_validate(settings), parents, size=recipe.size)


def identity(located: Located) -> dict:
    """What data is, apart from where it lies and under which licence."""
    values = located.model_dump(exclude={"path", "licence"})
    inner = {key: identity(part) for key, part in located if isinstance(part, Located)}
    return values | inner


def suffix(recipe: Recipe) -> str:
    """The parts of a label that say how a model differs from the usual one."""
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
