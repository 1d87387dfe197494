"""The configuration, typed and validated: params.yaml and the files of configs/ that it names.

Every key is declared here with its type, range and meaning. Anything else in a file (an unknown key, a wrong type, an
impossible value) raises `ConfigError`: one line with the file, the key, what was found and what is allowed.
"""

from __future__ import annotations

import csv
import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError

from pipeline.sections import (
    Count,
    Encoder,
    Fraction,
    ModelSize,
    Optimisation,
    Percent,
    Section,
    TextPhase,
    find_weights,
    option,
)


class ConfigError(ValueError):
    """One line: file, key, value found, values allowed."""

    def __init__(self, file: str | Path, key: str, found: object, allowed: str):
        super().__init__(f"{file}: {key}: found {found!r}, allowed: {allowed}")
        self.file, self.key, self.found, self.allowed = str(file), key, found, allowed


# --- params.yaml: what a researcher varies ---------------------------------------------------------------------------

Multiple = Annotated[float, Field(gt=0, le=100)]
CaptionText = Literal["full", "short", "keywords"]


class Recipe(Section):
    """The settings of one model, from its branch to its fine-tuning."""

    size: Literal["base", "larger"] = Field(description="model size: `model` or `larger` of configs/scale/")
    text_budget: Multiple = Field(description="tokens of the whole text run, as a multiple of the scale's")
    branch_percent: Percent = Field(description="percent of the text tokens seen before images come in")
    moments: Literal["keep", "fresh"] = Field(description="Adam's moments at the branch: the parent's, or zero")
    rewarm_like: Percent | None = Field(
        description="a branch at 0% or 100% warms up to the text run's rate at this percent; null: to the scale's peak"
    )
    cooldown: bool = Field(
        description="whether there is an image-text phase; without, images first come in fine-tuning"
    )
    image_fraction: Fraction = Field(description="share of the cooldown's sequences that hold images")
    instruction_share: Fraction = Field(description="share of these that are instructions in place of captions")
    captions: CaptionText = Field(description="text of the captions")
    finetune_epochs: Count = Field(description="passes over the instruction data")
    encoder: str = Field(description="image encoder: a file in configs/encoder/")
    train_encoder: bool = Field(description="whether the encoder is trained too, in cooldown and fine-tuning")
    seed: int = Field(ge=0, description="seed of the cooldown's and the fine-tuning's data order and new weights")


# An experiment is a grid: the values that some of the recipe's settings take, the others staying at the recipe's. An
# experiment without values is not run. Seeds are added by configs/scale/, which says how many a scale affords.


class Timing(Section):
    branch_percent: list[Percent] = Field(min_length=1)


class ImageFraction(Section):
    image_fraction: list[Fraction]


class FromScratch(Section):
    branch_percent: list[Percent]
    image_fraction: list[Fraction]


class InstructionShare(Section):
    instruction_share: list[Fraction]


class FinetuneEpochs(Section):
    finetune_epochs: list[Count]


class TextBudget(Section):
    text_budget: list[Multiple]


class Size(Section):
    size: list[Literal["base", "larger"]]
    image_fraction: list[Fraction]


class Unfrozen(Section):
    train_encoder: list[bool]
    image_fraction: list[Fraction]
    finetune_epochs: list[Count]


class Captions(Section):
    captions: list[CaptionText]


class Encoders(Section):
    encoder: list[str]


class Seeds(Section):
    branch_percent: list[Percent]
    image_fraction: list[Fraction]
    finetune_epochs: list[Count]
    seed: list[Annotated[int, Field(ge=0)]]


class UsualWay(Section):
    cooldown: list[bool]
    branch_percent: list[Percent]


class Rewarm(Section):
    branch_percent: list[Percent]
    rewarm_like: list[Percent | None]


class TextOnly(Section):
    branch_percent: list[Percent]


class Moments(Section):
    moments: list[Literal["keep", "fresh"]]


class Blind(Section):
    image_fraction: list[Fraction]


class Experiments(Section):
    """The paper's experiments, then the controls that it lacks."""

    timing: Timing = Field(description="table 1, Figures 4 and 9: when should images come in?")
    image_fraction: ImageFraction = Field(description="Figure 5: how many images?")
    from_scratch: FromScratch = Field(description="Figure 6: what if there is no text-only phase?")
    instruction_share: InstructionShare = Field(description="Figure 7: instructions among the images?")
    finetune_epochs: FinetuneEpochs = Field(description="Figure 8: how long to fine-tune?")
    text_budget: TextBudget = Field(description="appendix G: more text tokens a parameter")
    size: Size = Field(description="table 3: with and without images at a larger size")
    unfrozen: Unfrozen = Field(description="table 4: is a frozen encoder better?")
    captions: Captions = Field(description="table 5: which captions?")
    encoder: Encoders = Field(description="table 6: which encoder?")
    seeds: Seeds = Field(description="table 7: how far do seeds differ?")
    usual: UsualWay = Field(description="table 9: the usual way, a finished text model that sees images in fine-tuning")
    rewarm: Rewarm = Field(description="control: is it the learning rate that the 100% branch suffers from?")
    text_only: TextOnly = Field(description="control: the cooldown on text alone; no fine-tuning")
    moments: Moments = Field(description="control: Adam's moments kept or fresh at the branch")
    blind: Blind = Field(description="control: fine-tuned without images")


class Params(Section):
    preset: str = Field(description="scale: a file in configs/scale/")
    data: str = Field(description="data source: a file in configs/data/")
    tasks: str = Field(description="evaluation suite: a file in configs/tasks/")
    text_seed: int = Field(ge=0, description="seed of the text run: its first weights and its data order")
    split: Literal["test", "validation"] = Field(description="evaluation split; validation while tuning")
    recipe: Recipe
    experiments: Experiments
    wandb: Literal["disabled", "offline", "online"] = Field(description="Weights & Biases logging")


# --- configs/scale: what defines a scale -----------------------------------------------------------------------------


class CooldownPhase(Optimisation):
    tokens: Count = Field(description="tokens of one cooldown, text and images")
    warmup_steps: int = Field(ge=0, description="warm-up of the 0% and 100% branches; the others have none")


class FinetunePhase(Optimisation):
    warmup_fraction: Fraction


class DataSize(Section):
    seed: int = Field(ge=0)
    documents: int | None = Field(ge=1, description="cap on training documents; null is all")
    heldout_documents: Count
    canvas: int = Field(ge=32, le=1024, description="pixels a side of a composed scene")
    concepts: int = Field(ge=2, description="object names in captions and instructions")
    caption_only_concepts: int = Field(ge=0, description="object names that occur in captions alone")
    words: int = Field(ge=2, description="words that a scene may show")
    captions: Count = Field(description="captioned training images")
    conversations: Count = Field(description="training images with instructions")
    turns: Count = Field(description="questions a conversation")
    validation_images: Count
    test_images: Count


class EvaluationSize(Section):
    text_items: Count = Field(description="items of each text task, chosen by the hash of their id")
    heldout_documents: Count = Field(description="held-out documents for bits per byte, each cut to one sequence")
    batch: Count = Field(description="prompts a batch, at most")
    batch_tokens: Count | None = option("positions a batch, at most: images, prompts and answers; null: any number")
    precision: Literal["bf16"] | None = option("bf16: matrix products in bfloat16; null: fp32")


class Hardware(Section):
    device: Literal["cpu", "gpu"]
    threads: Count = Field(description="CPU threads a job; results are the same bits for the same number")
    microbatch: Count = Field(description="sequences a forward pass; the rest of the batch accumulates")
    memory_mb: Count = Field(description="memory that a training job asks of the scheduler")
    save_steps: Count = Field(description="steps between resumable states")
    evaluation_processes: Count | None = option(
        "processes that share an evaluation, its bits the same; null: one for each visible GPU"
    )


class LargerSize(Section):
    layers: Count
    heads: Count
    width: int = Field(ge=8, description="d_model")


class Repeats(Section):
    primary: Count = Field(description="seeds of every cell of the experiments that primary claims are about")
    other: Count = Field(description="seeds of every other cell")


class Scale(Section):
    model: ModelSize
    larger: LargerSize = Field(description="the second model size; vocabulary and sequence are the first's")
    repeats: Repeats
    text: TextPhase
    cooldown: CooldownPhase
    finetune: FinetunePhase
    data: DataSize
    evaluation: EvaluationSize
    hardware: Hardware


# --- configs/data, configs/encoder, configs/tasks --------------------------------------------------------------------


class Licence(Section):
    name: str
    used_for: str
    licence: str


class DataSource(Section):
    source: Literal["scenes"] = Field(description="which module of pipeline/data writes the official formats")
    licences: list[Licence]


Scorer = Literal["vqa", "vqa_official", "vqa_as_run", "vizwiz", "textvqa", "gqa", "yes_no", "box"]


class VisionTask(Section):
    """A benchmark of questions about images. What is not set is as in the embedded scenes."""

    format: Literal["vqav2", "gqa", "pope", "textvqa", "vizwiz", "refcoco", "ocid"]
    prompt: str = Field(description="what the model is asked; {question} stands for the question")
    scorer: Scorer
    threshold: Fraction | None = Field(default=None, description="IoU from which a box counts")
    chance: Fraction
    stable: bool = Field(description="part of the vision stable score")
    longest: Count = Field(description="tokens an answer may have")
    stands_for: str | None = option(
        "the task of the embedded scenes whose place it has in claims and published figures"
    )
    items: Count | None = option("questions, chosen by the hash of their id; null: all")
    options: list[str] | None = option(
        "of yes_no: the words for yes and no whose first tokens are compared; null: yes, no", min_length=2, max_length=2
    )
    frame: Literal["original", "padded"] | None = option(
        "of box: what the coordinates of an answer are shares of: the image (also null), or the image padded to a square"
    )
    decimals: Count | None = option("of box: decimals to which the true box is rounded; null: not at all")
    average: Literal["kinds"] | None = option(
        "kinds: the score is the mean of the kinds' means; null: of the questions"
    )
    beside: list[Scorer] | None = option("other scorers whose means are reported beside, in conventions.csv")


TextBenchmark = Literal[
    "agieval_sat_en",
    "arc_easy",
    "bigbench_conceptual_combinations",
    "boolq",
    "copa",
    "hellaswag",
    "mathqa",
    "piqa",
    "pubmedqa",
]


class TextTask(Section):
    chance: Fraction
    stable: bool = Field(description="part of the text stable score")
    benchmark: TextBenchmark | None = option(
        "files in this data set's own layout, asked as lm-eval does; null: TASK.jsonl"
    )
    files: str | None = option("of a benchmark: a pattern for its files; null: those named after lm-eval's split")


class Captioning(Section):
    longest: Count = Field(description="tokens a caption may have")


class Tasks(Section):
    vision: dict[str, VisionTask]
    captioning: Captioning | None = option("captions of the images, if any are to be made")
    text: dict[str, TextTask]
    engine: Literal["lm_eval"] | None = option(
        "lm_eval: benchmarks through EleutherAI's lm-eval; null: through our own"
    )


# --- configs/claims.yaml, configs/published.csv ----------------------------------------------------------------------

Metric = Annotated[str, Field(description="a column of the results' tables, such as vision_average")]
Arm = Annotated[
    dict[str, Any],
    Field(
        description="a cell: what differs from params.yaml's recipe; `evaluated` model | blind | cooldown and"
        " `condition` normal | removed | shuffled | mean say what is looked at"
    ),
]


class Contrast(Section):
    """Sum of the arms in `plus` less sum of the arms in `minus`, of one metric."""

    metric: Metric
    plus: list[Arm] = Field(min_length=1)
    minus: list[Arm] = Field(min_length=1)
    direction: Literal["greater", "no_worse"] = Field(
        default="greater", description="greater: above zero; no_worse: above minus the margin"
    )
    margin: Fraction | None = Field(default=None, description="for no_worse: what would be worse, in the metric's unit")


class Optimum(Section):
    """One cell is better than every other."""

    metric: Metric
    best: Arm
    others: list[Arm] = Field(min_length=1)


class Agreement(Section):
    """Two seeds differ by at most a margin, over several cells (root mean square)."""

    metric: Metric
    cells: list[Arm] = Field(min_length=1)
    seeds: list[int] = Field(min_length=2, max_length=2)
    margin: Fraction


class Published(Section):
    effect: float = Field(description="the effect that the paper reports, in the unit")
    unit: str


class Claim(Section):
    """A finding as data: exactly one of contrast, all_of, optimum and agreement."""

    says: str
    source: str = Field(description="where the finding is stated")
    family: Literal["primary", "control"] = Field(description="p-values are adjusted within each")
    may_differ: list[str] = Field(description="factors in which the compared runs may differ; see pipeline/design.py")
    contrast: Contrast | None = None
    all_of: list[Contrast] | None = Field(default=None, min_length=1)
    optimum: Optimum | None = None
    agreement: Agreement | None = None
    published: Published | None = None
    note: str = ""

    @property
    def kind(self) -> str:
        return next(kind for kind in ("contrast", "all_of", "optimum", "agreement") if getattr(self, kind) is not None)

    @property
    def contrasts(self) -> list[Contrast]:
        """What is compared, pair by pair."""
        if self.optimum:
            best = self.optimum
            return [Contrast(metric=best.metric, plus=[best.best], minus=[other]) for other in best.others]
        return [self.contrast] if self.contrast else self.all_of or []

    @property
    def arms(self) -> list[dict[str, Any]]:
        """All cells that it is about."""
        compared = [arm for contrast in self.contrasts for arm in (*contrast.plus, *contrast.minus)]
        return compared + (self.agreement.cells if self.agreement else [])


class PublishedFigure(Section):
    """A number that the paper prints, and the cell and column of this study that answer to it (empty: none does)."""

    output: str
    setting: str
    task: str
    value: float
    unit: Literal["percent", "fraction"]
    cell: str = Field(description="what differs from the recipe, as KEY=VALUE separated by blanks")
    column: str
    note: str


class Settings(Section):
    """Everything a study is made from."""

    params: Params
    scale: Scale
    data: DataSource
    encoders: dict[str, Encoder]
    tasks: Tasks
    claims: dict[str, Claim]
    published: list[PublishedFigure]


# --- loading ---------------------------------------------------------------------------------------------------------


def load_yaml(path: Path, root: Path) -> dict:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        value = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except OSError:
        raise ConfigError(path.relative_to(root), "(file)", "a single value", "a mapping of keys to values") from None
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(path.relative_to(root), "(file)", reason, "valid YAML with unique keys") from None
    if not isinstance(value, dict):
        raise ConfigError(path.relative_to(root), "(file)", value, "a mapping of keys to values")
    return value


def parse(model: type[Section], value: dict, file: str | Path) -> Any:
    """Validate a mapping; the first problem becomes a ConfigError."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        # An unknown key is the likeliest cause of whatever else is wrong beside it.
        problem = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    raise explain(model, problem, file)


def explain(model: type[Section], problem: dict, file: str | Path) -> ConfigError:
    """The one-line form of pydantic's description of a problem."""
    where = list(problem["loc"])
    key = ".".join(map(str, where))
    kind, found = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        keys = list(section_at(model, where[:-1]).model_fields)
        near = difflib.get_close_matches(str(where[-1]), keys, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        return ConfigError(file, key, found, f"no such key; {hint}keys here are {', '.join(keys)}")
    if kind == "missing":
        return ConfigError(file, key, "nothing", "this key must be set")
    allowed = problem["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    if kind == "literal_error":
        options = [option.strip("'") for option in allowed.replace(" or ", ", ").split(", ")]
        near = difflib.get_close_matches(str(found), options, n=1)
        allowed += f" (did you mean '{near[0]}'?)" if near else ""
    return ConfigError(file, key, found, allowed + bounds(model, where))


def section_at(model: type[Section], where: list) -> type[Section]:
    """The Section that a location inside another one belongs to."""
    for part in where:
        if part in getattr(model, "model_fields", {}):
            annotation = model.model_fields[part].annotation
            inner = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, Section)]
            model = inner[0] if inner else model
    return model


def bounds(model: type[Section], where: list) -> str:
    """' (from 0 to 1)' for a key whose declaration has both bounds, else nothing."""
    names = [part for part in where if isinstance(part, str)]
    field = section_at(model, names[:-1]).model_fields.get(names[-1]) if names else None
    limits: dict[str, Any] = {}
    metadata = list(field.metadata) if field else []
    for inner in get_args(field.annotation) if field else ():
        metadata += getattr(inner, "__metadata__", ())
    for constraint in metadata:
        for item in getattr(constraint, "metadata", [constraint]):
            limits |= {name: getattr(item, name) for name in ("ge", "gt", "le", "lt") if hasattr(item, name)}
    low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    return f" (from {low} to {high})" if low is not None and high is not None else ""


def choose(root: Path, folder: str, name: str, file: str, key: str) -> dict:
    """The contents of configs/<folder>/<name>.yaml; an unknown name is an error at the key that gives it."""
    names = sorted(path.stem for path in (root / "configs" / folder).glob("*.yaml"))
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise ConfigError(file, key, name, f"a file of configs/{folder}/: {', '.join(names)}{hint}")
    return load_yaml(root / "configs" / folder / f"{name}.yaml", root)


def load_settings(root: Path) -> Settings:
    """Read and check params.yaml and all that it names. Raises ConfigError; takes well under a second."""
    file = "params.yaml"
    if not (root / file).exists():
        raise ConfigError(file, "(file)", "no such file", "a params.yaml in the working folder")
    params: Params = parse(Params, load_yaml(root / file, root), file)
    scale_file = f"configs/scale/{params.preset}.yaml"
    scale: Scale = parse(Scale, choose(root, "scale", params.preset, file, "preset"), scale_file)
    data = parse(DataSource, choose(root, "data", params.data, file, "data"), f"configs/data/{params.data}.yaml")
    tasks = parse(Tasks, choose(root, "tasks", params.tasks, file, "tasks"), f"configs/tasks/{params.tasks}.yaml")
    named = {params.recipe.encoder: "recipe.encoder"}
    for place, name in enumerate(params.experiments.encoder.encoder):
        named.setdefault(name, f"experiments.encoder.encoder.{place}")
    encoders = {
        name: parse(Encoder, choose(root, "encoder", name, file, key), f"configs/encoder/{name}.yaml")
        for name, key in named.items()
    }
    check_scale(scale, scale_file)
    check_tasks(tasks, f"configs/tasks/{params.tasks}.yaml")
    check_encoders(encoders, scale, scale_file)
    names = {task.stands_for: name for name, task in tasks.vision.items() if task.stands_for}
    return Settings(
        params=params,
        scale=scale,
        data=data,
        encoders=encoders,
        tasks=tasks,
        claims=load_claims(root, names),
        published=load_published(root, names),
    )


def renamed(value: object, names: dict[str, str]) -> object:
    """A claim, or part of one, with other names for the tasks that it is about."""
    if isinstance(value, list):
        return [renamed(part, names) for part in value]
    if not isinstance(value, dict):
        return value
    parts = {key: renamed(part, names) for key, part in value.items()}
    return parts | (
        {"metric": names.get(parts["metric"], parts["metric"])} if isinstance(parts.get("metric"), str) else {}
    )


def load_claims(root: Path, names: dict[str, str]) -> dict[str, Claim]:
    """configs/claims.yaml: claims by their name, each of exactly one kind; `names` of tasks take the place of others."""
    file, kinds = "configs/claims.yaml", ("contrast", "all_of", "optimum", "agreement")
    claims = {}
    for name, value in load_yaml(root / file, root).items():
        if not isinstance(value, dict):
            raise ConfigError(file, name, value, "a mapping of keys to values")
        given = [kind for kind in kinds if value.get(kind) is not None]
        if len(given) != 1:
            raise ConfigError(file, name, given, f"exactly one of {', '.join(kinds)}")
        try:
            claims[name] = parse(Claim, renamed(value, names), file)
        except ConfigError as error:
            raise ConfigError(file, f"{name}.{error.key}", error.found, error.allowed) from None
    return claims


def load_published(root: Path, names: dict[str, str]) -> list[PublishedFigure]:
    """configs/published.csv: the paper's numbers; `names` of columns take the place of others."""
    file = "configs/published.csv"
    try:
        with open(root / file, encoding="utf-8", newline="") as table:
            rows = list(csv.DictReader(table))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(file, "(file)", type(error).__name__, "a readable CSV table") from None
    found = []
    for number, row in enumerate(rows, 2):
        try:
            row = row | {"value": float(row["value"]), "column": names.get(row["column"], row["column"])}
        except (KeyError, TypeError, ValueError):
            raise ConfigError(file, f"line {number}.value", row.get("value"), "a number") from None
        try:
            found.append(parse(PublishedFigure, row, file))
        except ConfigError as error:
            raise ConfigError(file, f"line {number}.{error.key}", error.found, error.allowed) from None
    return found


def check_scale(scale: Scale, file: str) -> None:
    """What no single key can tell: sizes that must fit each other."""
    model = scale.model
    for name, size in (("model", scale.model), ("larger", scale.larger)):
        if size.width % (2 * size.heads):
            raise ConfigError(file, f"{name}.width", size.width, f"a multiple of 2 x heads = {2 * size.heads}")
    for name, phase in (("text", scale.text), ("cooldown", scale.cooldown)):
        step = phase.batch * model.sequence
        if phase.tokens < step:
            raise ConfigError(
                file, f"{name}.tokens", phase.tokens, f"at least one batch of {phase.batch} x {model.sequence} = {step}"
            )
        if phase.warmup_steps >= phase.tokens // step:
            raise ConfigError(
                file,
                f"{name}.warmup_steps",
                phase.warmup_steps,
                f"fewer than the phase's {phase.tokens // step} steps",
            )
    for name, phase in (("text", scale.text), ("cooldown", scale.cooldown), ("finetune", scale.finetune)):
        if phase.floor_lr > phase.peak_lr:
            raise ConfigError(file, f"{name}.floor_lr", phase.floor_lr, f"at most peak_lr = {phase.peak_lr}")
        if scale.hardware.microbatch > phase.batch:
            raise ConfigError(
                file, "hardware.microbatch", scale.hardware.microbatch, f"at most {name}.batch = {phase.batch}"
            )


def check_tasks(tasks: Tasks, file: str) -> None:
    """A prompt must hold the question and a box task its threshold."""
    for name, task in tasks.vision.items():
        try:
            asked = task.prompt.format(question="?!")
        except (KeyError, IndexError, ValueError):
            asked = ""
        if "?!" not in asked:
            raise ConfigError(file, f"vision.{name}.prompt", task.prompt, "a text with {question} and no other braces")
        if task.scorer == "box" and task.threshold is None:
            raise ConfigError(file, f"vision.{name}.threshold", None, "an IoU from 0 to 1 for the scorer box")
        for key, scorer in (("options", "yes_no"), ("frame", "box"), ("decimals", "box")):
            if getattr(task, key) is not None and task.scorer != scorer:
                raise ConfigError(file, f"vision.{name}.{key}", getattr(task, key), f"nothing: it is of {scorer} alone")
        for other in task.beside or []:
            if {task.scorer, other} & {"yes_no", "box"}:
                raise ConfigError(file, f"vision.{name}.beside", other, "scorers of free text, beside one of free text")
    for name, task in tasks.text.items():
        if task.files is not None and task.benchmark is None:
            raise ConfigError(file, f"text.{name}.files", task.files, "nothing: it is of a benchmark alone")
        if tasks.engine and task.benchmark is None:
            raise ConfigError(file, f"text.{name}.benchmark", None, "a benchmark, as the engine is lm_eval")


def check_encoders(encoders: dict[str, Encoder], scale: Scale, scale_file: str) -> None:
    """An encoder's weights must exist and its image tokens must leave room for text."""
    for name, encoder in encoders.items():
        if encoder.patches + 16 > scale.model.sequence:
            raise ConfigError(
                scale_file, "model.sequence", scale.model.sequence, f"at least {name}'s patches + 16 for text"
            )
        if find_weights(encoder) is None:
            raise ConfigError(
                f"configs/encoder/{name}.yaml", "weights", encoder.weights, "an installed package or an existing folder"
            )
