"""Reading and checking all settings of a study.

Every key is declared in this folder with its type, range and meaning. Anything else in a file (an unknown key, a wrong
type, an impossible value) raises `ConfigError`: one line with the file, the key, what was found and what is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from pipeline.settings.checkpoints import Checkpoints, check_checkpoints, with_published_run
from pipeline.settings.claims import Claim, Found, PublishedFigure, load_claims, load_found, load_published
from pipeline.settings.errors import ConfigError, parse
from pipeline.settings.experiments import PRESET, check_experiments, given, with_changes
from pipeline.settings.measures import Measures, load_measures
from pipeline.settings.overrides import COMMAND_LINE, overlap, read_overrides, with_overrides
from pipeline.settings.params import Params
from pipeline.settings.scale import Scale, check_scale
from pipeline.settings.sources import DataSource, check_data
from pipeline.settings.tasks import Tasks, check_tasks
from pipeline.settings.types import Encoder, Section, find_weights
from pipeline.settings.vision_transformers import VITS, find_fault
from pipeline.settings.yaml_file import choose, load_yaml


class Settings(Section):
    """Everything a study is made from."""

    params: Params
    scale: Scale
    checkpoints: Checkpoints | None = None
    data: DataSource
    encoders: dict[str, Encoder]
    tasks: Tasks
    measures: Measures
    claims: dict[str, Claim]
    published: list[PublishedFigure]
    found: list[Found]


def load_settings(root: Path, file: str = "params.yaml", words: Sequence[str] = ()) -> Settings:
    """Read and check params.yaml and all that it names. Raises ConfigError; takes well under a second.

    `words` are KEY=VALUE, other values of keys of params.yaml (pipeline/settings/overrides.py). They pass the same
    checks as the file. An error at one of their keys names the command line as its place.
    """
    if not (root / file).exists():
        raise ConfigError(file, "(file)", "no such file", "a params.yaml in the working folder")
    written, overrides = load_yaml(root / file, root), read_overrides(words)
    try:
        return check_settings(root, with_overrides(written, overrides), file)
    except ConfigError as error:
        if error.file == file and any(overlap(key, error.key) for key in overrides):
            raise ConfigError(COMMAND_LINE, error.key, error.found, error.allowed) from None
        raise


def check_settings(root: Path, written: dict, file: str) -> Settings:
    """The checked settings of what stands in params.yaml, and of the files of configs/ that it names."""
    params: Params = parse(Params, written, file)
    scale_file = f"configs/scale/{params.preset}.yaml"
    value = choose(root, "scale", params.preset, file, "preset")
    # Key by key first, then what several keys must fit: a message about two keys is of no use while one of them is
    # wrong.
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
        measures=load_measures(root),
        claims=load_claims(root, names),
        published=load_published(root, names),
        found=load_found(root),
    )


def check_presets(params: Params, scale: Scale, encoders: dict[str, Encoder], file: str) -> None:
    """What no single key can tell of a preset must hold with an experiment's values too. Raises ConfigError."""
    for name, experiment in params.experiments.items():
        # A key that an experiment varies can break what another key of the preset asks for: heads must divide a new
        # width.
        for changes in experiment.grid:
            varied = {key: value for key, value in changes.items() if key.startswith(PRESET)}
            _, changed = with_changes(params.recipe, scale, varied, file)
            try:
                check_scale(changed, file)
                check_encoders(encoders, changed, file)
            except ConfigError as error:
                where, key = f"experiments.{name}.vary", PRESET + error.key
                # The fault is named where a user can mend it: at the varied key if it is that one, else at the whole of
                # what is varied.
                if key in varied:
                    raise ConfigError(file, f"{where}.{key}", error.found, error.allowed) from None
                allowed = f"what fits the preset's {error.key} = {error.found}, which must be {error.allowed}"
                raise ConfigError(file, where, varied, allowed) from None


def load_scale(root: Path, value: dict, file: str) -> tuple[Scale, Checkpoints | None]:
    """A preset, and the published text run that it takes over, if it does."""
    checkpoints = load_checkpoints(root, value, file)
    return parse(Scale, with_published_run(value, checkpoints) if checkpoints else value, file), checkpoints


def load_checkpoints(root: Path, scale: dict, scale_file: str) -> Checkpoints | None:
    """The published text run that a preset names in the place of a text phase: `text: {from: NAME}`."""
    # This runs before the preset is checked, so `text` may be anything.
    text = scale.get("text")
    if not isinstance(text, dict) or "from" not in text:
        return None
    if beside := [key for key in text if key != "from"]:
        allowed = "nothing beside `from`: the published run's are in its own file"
        raise ConfigError(scale_file, f"text.{beside[0]}", text[beside[0]], allowed)
    name = str(text["from"])
    value = choose(root, "checkpoints", name, scale_file, "text.from")
    return parse(Checkpoints, value, f"configs/checkpoints/{name}.yaml")


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
