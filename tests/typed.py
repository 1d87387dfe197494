"""Settings as the study gives them to jobs, from the few keys that a test is about."""

from types import SimpleNamespace

from pipeline.data.job_settings import MADE, Scenes
from pipeline.reporting.job_settings import TableSettings
from pipeline.settings.tasks import AskedVisionTask


def vision_task(**keys) -> AskedVisionTask:
    """A task of questions in VQAv2's layout, but for these keys."""
    usual = {"format": "vqav2", "prompt": "{question}", "scorer": "exact", "longest": 6}
    return AskedVisionTask.model_validate(usual | keys)


def scenes(part: str, sizes: SimpleNamespace) -> Scenes:
    """The settings of one part of the composed scenes, of the sizes of all."""
    known = vars(sizes) | {"source": "scenes", "part": part}
    return MADE[part].model_validate({key: known[key] for key in MADE[part].model_fields})


def table_settings(**keys) -> TableSettings:
    """What a table of no runs is told, but for these keys."""
    usual = {"make": "table1", "tasks": {}, "split": "test", "preset": "x", "recipe": {}, "rows": [], "published": []}
    return TableSettings.model_validate(usual | keys)
