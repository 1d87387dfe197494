"""configs/measures.yaml: which measures decide about vision and about text, and what 2 points are like in other units."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from pipeline.settings.errors import parse
from pipeline.settings.types import Section
from pipeline.settings.yaml_file import load_yaml

FILE = "configs/measures.yaml"
JUDGED = ("vision", "text")  # what a claim may be of in place of a measure
TWO_POINTS = 0.02  # of accuracy, as a fraction


class Judged(Section):
    """What a claim of vision, or of text, is judged by."""

    primary: str = Field(description="the measure that decides")
    beside: str = Field(description="another one, whose verdict stands beside it")


class Measures(Section):
    """The measures that decide; declared before the test split is asked."""

    vision: Judged
    text: Judged
    two_points: dict[str, Annotated[float, Field(gt=0)]] = Field(
        description="of measures that are not in points: what 2 points of accuracy are like"
    )

    def chosen(self, metric: str, role: str) -> str:
        """The measure of a claim of `vision` or `text`, as primary or beside; any other metric is itself."""
        return getattr(getattr(self, metric), role) if metric in JUDGED else metric


def load_measures(root: Path) -> Measures:
    """Read and check configs/measures.yaml. Raises ConfigError; what is measured, pipeline/study/claims.py checks."""
    return parse(Measures, load_yaml(root / FILE, root), FILE)
