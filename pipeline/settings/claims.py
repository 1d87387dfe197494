"""configs/claims.yaml and configs/published.csv: the paper's findings and figures as data."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.common.files import read_records
from pipeline.settings.errors import ConfigError, parse
from pipeline.settings.types import Fraction, Section
from pipeline.settings.yaml_file import load_yaml

Metric = Annotated[
    str,
    Field(
        description="vision | text: by the measures of configs/measures.yaml; or a measure, such as cider; or a task"
    ),
]
Arm = Annotated[
    # Any: keys may be of the recipe, of the preset, or say what is looked at. pipeline/study/claims.py checks them.
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
    margin: Fraction | None = Field(
        default=None,
        description="for no_worse: what would be worse, in points of accuracy; 0.02 is 2 points or their like",
    )


class Optimum(Section):
    """One cell is better than every other."""

    metric: Metric
    best: Arm
    others: list[Arm] = Field(min_length=1)


class Trend(Section):
    """A metric rises with a setting: the slope of the least-squares line, times the range of the setting's values."""

    metric: Metric
    over: str = Field(description="the setting: a key of the recipe or of the preset (scale.SECTION.KEY)")
    values: list[int | float] = Field(min_length=3, description="its values; at least three, or it would be a contrast")
    others: Arm = Field(default={}, description="what else of these cells differs from the recipe")

    @property
    def weights(self) -> list[float]:
        """Of each value's cell: the slope of the line times the range of the values is the sum of the scores by them."""
        middle = sum(self.values) / len(self.values)
        squares = sum((value - middle) ** 2 for value in self.values)
        span = max(self.values) - min(self.values)
        found = [(value - middle) / squares * span for value in self.values]
        return [
            0.0 if abs(weight) < 1e-9 else weight for weight in found
        ]  # rounding would ask for a cell in the middle

    @property
    def contrast(self) -> Contrast:
        """The cells that weigh something, apart by the sign of their weight."""
        cells = list(zip(self.weights, (self.others | {self.over: value} for value in self.values), strict=True))
        plus, minus = ([cell for weight, cell in cells if weight * sign > 0] for sign in (1, -1))
        return Contrast(metric=self.metric, plus=plus, minus=minus)


class Agreement(Section):
    """Two values of a setting differ by at most a margin, over several cells (root mean square).

    Such as two seeds of the fine-tuning. (Arms have no seed of their own: they are compared seed by seed.)
    """

    metric: Metric
    cells: list[Arm] = Field(min_length=1, description="what else the compared cells have, a pair of cells each")
    over: str = Field(description="the setting: a key of the recipe or of the preset (scale.SECTION.KEY)")
    values: list[Any] = Field(min_length=2, max_length=2)
    margin: Fraction = Field(description="how far they may differ, what their examples add not counted")

    @property
    def pairs(self) -> list[list[dict[str, Any]]]:
        """The two arms of every cell."""
        return [[cell | {self.over: value} for value in self.values] for cell in self.cells]


class Published(Section):
    """What the paper reports of a finding."""

    effect: float = Field(description="the effect that the paper reports, in the unit")
    unit: str


KINDS = ("contrast", "all_of", "optimum", "trend", "agreement")


class Claim(Section):
    """A finding as data: exactly one of contrast, all_of, optimum, trend and agreement."""

    says: str
    source: str = Field(description="where the finding is stated")
    family: Literal["primary", "control"] = Field(description="p-values are adjusted within each")
    may_differ: list[str] = Field(
        description="factors in which the compared runs may differ; see pipeline/study/comparisons.py"
    )
    contrast: Contrast | None = None
    all_of: list[Contrast] | None = Field(default=None, min_length=1)
    optimum: Optimum | None = None
    trend: Trend | None = None
    agreement: Agreement | None = None
    published: Published | None = None
    note: str = ""

    @property
    def kind(self) -> str:
        """Which of the kinds it is: the name of the key that is set."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def contrasts(self) -> list[Contrast]:
        """What is compared, pair by pair."""
        if self.optimum:
            best = self.optimum
            return [Contrast(metric=best.metric, plus=[best.best], minus=[other]) for other in best.others]
        if self.trend:
            return [self.trend.contrast]
        return [self.contrast] if self.contrast else self.all_of or []

    @property
    def metrics(self) -> list[str]:
        """What its parts are about, in order."""
        return [contrast.metric for contrast in self.contrasts] + ([self.agreement.metric] if self.agreement else [])

    @property
    def arms(self) -> list[dict[str, Any]]:
        """All cells that it is about."""
        compared = [arm for contrast in self.contrasts for arm in (*contrast.plus, *contrast.minus)]
        return compared + [arm for pair in (self.agreement.pairs if self.agreement else []) for arm in pair]


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


class Found(Section):
    """What another study of these claims found, of one claim: `python -m pipeline keep` writes it."""

    study: str = Field(description="the study's preset")
    claim: str
    verdict: str
    effect: str = Field(description="with its interval and unit; nothing of a claim of several parts")


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
    file = "configs/claims.yaml"
    claims = {}
    for name, value in load_yaml(root / file, root).items():
        if not isinstance(value, dict):
            raise ConfigError(file, name, value, "a mapping of keys to values")
        # Asked here and not by the model: "exactly one of these keys" is no rule of a single key, and the line shall
        # name the claim.
        given = [kind for kind in KINDS if value.get(kind) is not None]
        if len(given) != 1:
            raise ConfigError(file, name, given, f"exactly one of {', '.join(KINDS)}")
        try:
            claims[name] = parse(Claim, renamed(value, names), file)
        except ConfigError as error:
            raise ConfigError(file, f"{name}.{error.key}", error.found, error.allowed) from None
        trend = claims[name].trend
        if trend and len(set(trend.values)) < len(trend.values):
            raise ConfigError(file, f"{name}.trend.values", trend.values, "each value once")
    return claims


def load_found(root: Path) -> list[Found]:
    """configs/found.csv: the verdicts of results that were kept; none without the file."""
    file = "configs/found.csv"
    if not (root / file).exists():
        return []
    try:
        rows = read_records(root / file)
    except (OSError, ValueError) as error:
        raise ConfigError(file, "(file)", str(error), "a readable CSV table") from None
    return [parse(Found, row, file) for row in rows]


def load_published(root: Path, names: dict[str, str]) -> list[PublishedFigure]:
    """configs/published.csv: the paper's numbers; `names` of columns take the place of others."""
    file = "configs/published.csv"
    try:
        # Spreadsheets save a byte order mark, which would become part of the first column's name.
        with open(root / file, encoding="utf-8-sig", newline="") as table:
            rows = list(csv.DictReader(table))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(file, "(file)", str(error), "a readable CSV table") from None
    found = []
    # Line 1 has the names of the columns.
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
