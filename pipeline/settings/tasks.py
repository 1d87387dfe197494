"""configs/tasks: what models are asked, and how their answers are scored."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.settings.errors import ConfigError
from pipeline.settings.types import Count, Fraction, Section, added_key, optional_key

VisionFormat = Literal["vqav2", "gqa", "pope", "textvqa", "vizwiz", "refcoco", "ocid"]


Scorer = Literal["vqa", "vqa_official", "vqa_as_run", "vizwiz", "textvqa", "gqa", "exact", "yes_no", "box"]


LEFT_OUT = "bad items of the files that may be left out (they are counted and listed in the job's log); 0: none"


class AskedVisionTask(Section):
    """What a model is asked of a benchmark of images, and how its answers are scored."""

    format: VisionFormat
    prompt: str = Field(description="what the model is asked; {question} stands for the question")
    scorer: Scorer
    threshold: Fraction | None = Field(default=None, description="IoU from which a box counts")
    longest: Count = Field(description="tokens an answer may have")
    items: Count | None = optional_key("questions, chosen by the hash of their id; null: all")
    options: list[str] | None = optional_key(
        "of yes_no: the words for yes and no whose first tokens are compared; null: yes, no", min_length=2, max_length=2
    )
    decimals: Count | None = optional_key("of box: decimals to which the true box is rounded; null: not at all")
    average: Literal["kinds"] | None = optional_key(
        "kinds: the score is the mean of the kinds' means; null: of the questions"
    )
    left_out_at_most: int = added_key(0, ge=0, description=LEFT_OUT)
    beside: list[Scorer] | None = optional_key("other scorers whose means are reported beside, in measures.csv")


class VisionTask(AskedVisionTask):
    """A benchmark of questions about images, and its place in tables. What is not set is as in the embedded scenes."""

    chance: Fraction
    stable: bool = Field(description="part of the vision stable score")
    stands_for: str | None = optional_key(
        "the task of the embedded scenes whose place it has in claims and published figures"
    )


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


class AskedTextTask(Section):
    """What a model is asked of a text benchmark."""

    benchmark: TextBenchmark | None = optional_key(
        "files in this data set's own layout, asked as lm-eval does; null: TASK.jsonl"
    )
    left_out_at_most: int = added_key(0, ge=0, description=LEFT_OUT)
    files: str | None = optional_key("of a benchmark: a pattern for its files; null: those named after lm-eval's split")


class TextTask(AskedTextTask):
    """A text benchmark, and its place in tables."""

    chance: Fraction
    stable: bool = Field(description="part of the text stable score")


class Captioning(Section):
    """How evaluation images are captioned."""

    longest: Count = Field(description="tokens a caption may have")


class Tasks(Section):
    """A file of configs/tasks/: the evaluation suite."""

    vision: dict[str, VisionTask]
    captioning: Captioning | None = optional_key("captions of the images, if any are to be made")
    text: dict[str, TextTask]
    engine: Literal["lm_eval"] | None = optional_key(
        "lm_eval: benchmarks through EleutherAI's lm-eval; null: through our own"
    )


def check_tasks(tasks: Tasks, file: str) -> None:
    """A prompt must hold the question and a box task its threshold."""
    for name, task in tasks.vision.items():
        try:
            # Filled with a text that no prompt has, so that braces that stand for nothing are found before a model is
            # asked.
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
            # These two score no text: one compares two probabilities, the other two boxes.
            if {task.scorer, other} & {"yes_no", "box"}:
                raise ConfigError(file, f"vision.{name}.beside", other, "scorers of free text, beside one of free text")
    for name, text in tasks.text.items():
        if text.files is not None and text.benchmark is None:
            raise ConfigError(file, f"text.{name}.files", text.files, "nothing: it is of a benchmark alone")
        if tasks.engine and text.left_out_at_most:
            allowed = "0: the engine lm_eval asks all items"
            raise ConfigError(file, f"text.{name}.left_out_at_most", text.left_out_at_most, allowed)
        # lm-eval has its own tasks, which are found by the benchmark's name.
        if tasks.engine and text.benchmark is None:
            raise ConfigError(file, f"text.{name}.benchmark", None, "a benchmark, as the engine is lm_eval")
