"""The configuration, typed and validated: params.yaml and the files of configs/ that it names.

Every key is declared here with its type, range and meaning. Anything else in a file (an unknown key, a wrong type, an
impossible value) raises `ConfigError`: one line with the file, the key, what was found and what is allowed.
"""

from __future__ import annotations

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
)


class ConfigError(ValueError):
    """One line: file, key, value found, values allowed."""

    def __init__(self, file: str | Path, key: str, found: object, allowed: str):
        super().__init__(f"{file}: {key}: found {found!r}, allowed: {allowed}")


# --- params.yaml: what a researcher varies ---------------------------------------------------------------------------


class Recipe(Section):
    """The settings of one model, from its branch to its fine-tuning."""

    branch_percent: Percent = Field(description="percent of the text tokens seen before images come in")
    image_fraction: Fraction = Field(description="share of the cooldown's sequences that hold images and captions")
    moments: Literal["keep", "fresh"] = Field(description="Adam's moments at the branch: the parent's, or zero")
    finetune_epochs: Count = Field(description="passes over the instruction data")
    encoder: str = Field(description="image encoder: a file in configs/encoder/")
    seed: int = Field(ge=0, description="seed of the cooldown's and the fine-tuning's data order and new weights")


class Timing(Section):
    """Table 1's grid: the values that recipe settings take; the others stay at the recipe's."""

    branch_percent: list[Percent] = Field(min_length=1, description="the branch points, a row each")
    seed: list[Annotated[int, Field(ge=0)]] = Field(
        default=[], description="averaged over, and paired by, branch point"
    )


class Experiments(Section):
    timing: Timing = Field(description="table 1 and the timing figure")


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
    batch: Count = Field(description="prompts a batch")


class Hardware(Section):
    device: Literal["cpu", "gpu"]
    threads: Count = Field(description="CPU threads a job; results are the same bits for the same number")
    microbatch: Count = Field(description="sequences a forward pass; the rest of the batch accumulates")
    memory_mb: Count = Field(description="memory that a training job asks of the scheduler")
    save_steps: Count = Field(description="steps between resumable states")


class Scale(Section):
    model: ModelSize
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


class VisionTask(Section):
    format: Literal["vqav2", "gqa", "pope", "textvqa", "refcoco", "ocid"]
    prompt: str = Field(description="what the model is asked; {question} stands for the question")
    scorer: Literal["vqa", "gqa", "yes_no", "box"]
    threshold: Fraction | None = Field(default=None, description="IoU from which a box counts")
    chance: Fraction
    stable: bool = Field(description="part of the vision stable score")
    longest: Count = Field(description="tokens an answer may have")


class TextTask(Section):
    chance: Fraction
    stable: bool = Field(description="part of the text stable score")


class Tasks(Section):
    vision: dict[str, VisionTask]
    text: dict[str, TextTask]


class Settings(Section):
    """Everything a study is made from."""

    params: Params
    scale: Scale
    data: DataSource
    encoders: dict[str, Encoder]
    tasks: Tasks


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
    name = params.recipe.encoder
    encoders = {
        name: parse(Encoder, choose(root, "encoder", name, file, "recipe.encoder"), f"configs/encoder/{name}.yaml")
    }
    check_scale(scale, scale_file)
    check_tasks(tasks, f"configs/tasks/{params.tasks}.yaml")
    check_encoders(encoders, scale, scale_file)
    return Settings(params=params, scale=scale, data=data, encoders=encoders, tasks=tasks)


def check_scale(scale: Scale, file: str) -> None:
    """What no single key can tell: sizes that must fit each other."""
    model = scale.model
    if model.width % (2 * model.heads):
        raise ConfigError(file, "model.width", model.width, f"a multiple of 2 x heads = {2 * model.heads}")
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
