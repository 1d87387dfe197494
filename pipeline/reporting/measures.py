"""What the study measures, a row a measure: a column of its tables such as CIDEr-D or bits per byte.

Whatever knows a measure reads its row here: tables and figures (how it is called and drawn), claims (its unit, and what it
is the mean of) and the trace (in which file its scores are). A new measure of what an evaluation leaves is a row of MEASURES.

A task is a measure too, one without a row: it is of configs/tasks/, and `measure_of` makes its row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# Files of an evaluation.
VISION, TEXT, HELDOUT, CAPTIONS, ANSWERS = "vision.csv", "text.csv", "heldout.csv", "captions.csv", "answers.csv"
CONDITIONS = ("normal", "removed", "mean", "shuffled")  # of the image, under which vision tasks are asked
WITHOUT_IMAGE = CONDITIONS[1:]


@dataclass(frozen=True)
class Measure:
    """A score of an evaluation: what it is the mean of, and how it is shown."""

    title: str  # in tables for reading and on the page
    file: str  # of the evaluation, whose rows it is the mean of
    averages: Literal["", "vision", "text", "captioning"] = (
        ""  # the stable tasks of one kind, each with the same weight
    )
    less: Literal["", "chance", "prior", "shuffled"] = ""  # what of each task's score is no merit of the model
    after_cooldown: bool = False  # asked of models before fine-tuning too: these have it as "cooldown_NAME"
    optional: bool = False  # not every suite asks for it: an evaluation may lack its file
    needs_images: bool = False  # only who has seen images can have it
    in_claims: bool = False  # whether claims may be about it; not for less="prior", which has no items of its own

    lower_is_better: bool = False
    factor: int = 100  # from the column's value to what is shown: fractions are shown in percent
    digits: int = 1
    unit: str = "points"  # of what is shown, where two of it are compared
    axis: str = ""  # what stands beside it in figures
    drawn: bool = False  # whether every figure over a setting has a panel of it


# In the order of the columns of tables for reading.
MEASURES = {
    "vision_stable": Measure(
        "vision stable score",
        VISION,
        averages="vision",
        less="chance",
        axis="vision stable score\n(accuracy minus chance, points)",
    ),
    "vision_average": Measure(
        "vision average", VISION, averages="vision", in_claims=True, axis="vision average (% correct)", drawn=True
    ),
    "vision_gain": Measure("gain over the language prior", VISION, averages="vision", less="prior"),
    "looking_bits": Measure(
        "bits per byte that looking saves",
        ANSWERS,
        averages="vision",
        less="shuffled",
        optional=True,
        needs_images=True,
        in_claims=True,
        factor=1,
        digits=3,
        unit="bits per byte",
        axis="bits per byte of the right answer\nthat its image saves",
        drawn=True,
    ),
    "answer_bits": Measure(
        "right answers, bits per byte",
        ANSWERS,
        averages="vision",
        optional=True,
        needs_images=True,
        in_claims=True,
        lower_is_better=True,
        factor=1,
        digits=3,
        unit="bits per byte",
    ),
    "text_stable": Measure(
        "text stable score",
        TEXT,
        averages="text",
        less="chance",
        after_cooldown=True,
        in_claims=True,
        axis="text stable score\n(accuracy minus chance, points)",
        drawn=True,
    ),
    "choice_bits": Measure(
        "right choices of text tasks, bits per byte",
        ANSWERS,
        averages="text",
        after_cooldown=True,
        optional=True,
        in_claims=True,
        lower_is_better=True,
        factor=1,
        digits=3,
        unit="bits per byte",
    ),
    "bits_per_byte": Measure(
        "held-out bits per byte",
        HELDOUT,
        after_cooldown=True,
        in_claims=True,
        lower_is_better=True,
        factor=1,
        digits=3,
        unit="bits per byte",
        axis="held-out text, bits per byte\n(lower is better)",
        drawn=True,
    ),
    "cider": Measure(
        "captions, CIDEr-D",
        CAPTIONS,
        after_cooldown=True,
        optional=True,
        needs_images=True,
        in_claims=True,
        factor=1,
        digits=2,
        unit="CIDEr-D",
    ),
    "caption_bits": Measure(
        "reference captions, bits per byte",
        ANSWERS,
        averages="captioning",
        after_cooldown=True,
        optional=True,
        needs_images=True,
        in_claims=True,
        lower_is_better=True,
        factor=1,
        digits=3,
        unit="bits per byte",
    ),
}

PREFIX = "cooldown_"
# What fine-tuned models' rows say of the same models before it; what has to do with images comes first.
BEFORE_TUNING = sorted(
    (name for name, measure in MEASURES.items() if measure.after_cooldown),
    key=lambda name: not MEASURES[name].needs_images,
)
AFTER_COOLDOWN = tuple(f"{PREFIX}{name}" for name in BEFORE_TUNING)
DRAWN = {name: measure for name, measure in MEASURES.items() if measure.drawn}


def measure_of(name: str, tasks: Mapping[str, Mapping] | None = None) -> Measure:
    """The row of a measure or of a task. tasks: {"vision": ..., "text": ...}; what is no measure counts as a vision task."""
    if name in MEASURES:
        return MEASURES[name]
    return Measure(name.replace("_", " "), TEXT if tasks and name in tasks["text"] else VISION)


def tasks_of(name: str, tasks: Mapping[str, Mapping]) -> list[str]:
    """The tasks that a measure averages: of a task, it alone."""
    return averaged(measure_of(name), tasks) or [name]


def averaged(measure: Measure, tasks: Mapping[str, Mapping]) -> list[str]:
    """The tasks that a measure of several averages."""
    if measure.averages == "captioning":
        return ["captioning"]
    return list(stable(tasks[measure.averages])) if measure.averages else []


def stable(tasks: Mapping[str, Mapping]) -> dict[str, float]:
    """Chance level of each task of a stable score."""
    return {name: task["chance"] for name, task in tasks.items() if task["stable"]}


def form_of(column: str) -> tuple[str, int, int]:
    """Title, factor and digits of a column that is a measure, or one of the model before fine-tuning."""
    after = column.startswith(PREFIX)
    measure = measure_of(column.removeprefix(PREFIX) if after else column)
    return f"{measure.title}, after the cooldown" if after else measure.title, measure.factor, measure.digits
