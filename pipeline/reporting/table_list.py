"""The results of a study, a row each: all that tells one table or figure from another.

Everything that must know a table reads its row here: the study (which runs the table's job gets), the engines (which files
it leaves in results/), its maker (its title and labels), the page (how it is shown) and the trace (what its rows are
about). A new table is a row of TABLES and its maker.

The study reads this list whenever it plans, so nothing here may import what is slow to load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["model", "blind", "cooldown"]  # of a recipe: fine-tuned; fine-tuned blind; before fine-tuning
RowsAbout = Literal["branch points", "curves", "claims", "the recipe", "nothing"]


@dataclass(frozen=True)
class Sheet:
    """A CSV as the page shows it: a row a row, a column a measure; or one score, with a column a value of `across`."""

    name: str  # of the file, without ".csv"
    title: str
    labels: tuple[str, ...]  # the columns that tell its rows apart
    across: str = ""
    note: str = ""


@dataclass(frozen=True)
class Part:
    """One experiment of a table that shows several, each for itself."""

    title: str
    along: str = ""  # the column that the page draws its scores along; none: they are not drawn


@dataclass(frozen=True)
class Table:
    """A result: its files in results/, who makes them, what its job reads, and how it is shown."""

    maker: str  # MODULE.FUNCTION of this room; gets the job's Rows and the folder for the files
    files: tuple[str, ...]
    title: str = ""

    # Which runs its job gets: those of these experiments, and what else.
    experiments: tuple[str, ...] = ()
    every_experiment: bool = False
    recipe_states: tuple[State, ...] = ()  # of the recipe itself, where the paper's experiments have them
    first_seed_only: bool = False
    text_states: Literal["none", "evaluated", "ends"] = "none"  # of the recipe's text run, or the ends of all text runs
    # What its job is told beside its runs.
    every_published: bool = False  # all figures of the paper, not only those that it prints in this table
    told: Literal["", "claims", "schedules"] = ""
    shards: bool = False  # those of captions and instructions that its models read
    of_tables: bool = False  # it is made of all other tables

    # How it is shown.
    labels: tuple[str, ...] = ()  # the columns that tell its rows apart
    along: str = ""  # the setting that the page draws its scores along; none: it draws none
    parts: Mapping[str, Part] = field(default_factory=dict)
    cooldown_columns: bool = False  # whether the page shows what its models had before fine-tuning
    counts: Mapping[str, str] = field(default_factory=dict)  # column -> title: what the page shows in place of scores
    sheets: tuple[Sheet, ...] = ()  # what the page shows, where that is not the one CSV of the table's name
    note: str = ""
    rows_about: Mapping[str, RowsAbout] = field(default_factory=dict)  # of CSVs whose rows are about no cell

    def shown(self, name: str) -> tuple[Sheet, ...]:
        """The CSVs that the page shows of it, by the table's name."""
        if self.sheets or not self.labels or f"{name}.csv" not in self.files:
            return self.sheets
        return (Sheet(name, self.title, self.labels, note=self.note),)


def both(name: str) -> tuple[str, str]:
    """A table as data and for reading."""
    return f"{name}.csv", f"{name}.md"


def papers_table(
    name: str, title: str, experiment: str, *labels: str, along: str = "", recipe_states: tuple[State, ...] = ()
) -> Table:
    """One of the paper's tables of one experiment, with a row a cell."""
    return Table(
        maker="experiment_tables.table",
        files=both(name),
        title=title,
        experiments=(experiment,),
        recipe_states=recipe_states,
        labels=labels,
        along=along,
    )


def papers_figure(name: str, title: str, along: str) -> Table:
    """One of the paper's figures over the values of one setting: the experiment of its name."""
    return Table(
        maker="experiment_tables.figure",
        files=(f"figures/{name}.png", f"figures/{name}.csv"),
        title=title,
        experiments=(name,),
        labels=(along,),
        along=along,
    )


class Tables(dict[str, Table]):
    """The paper's tables. A table of another name is that of the experiment of this name."""

    def __missing__(self, name: str) -> Table:
        files = tuple(f"experiments/{name}.{kind}" for kind in ("csv", "md", "png"))
        return Table("experiment.make", files, experiments=(name,))


# In the order of the page. Who asks of a table by name, asks for one of these names or for that of an experiment.
TABLES = Tables(
    {
        "table1": Table(
            maker="table1.make",
            files=(
                *both("table1"),
                "metrics.json",
                "figures/timing.png",
                "figures/timing.csv",
                "figures/timing_runs.csv",
                "figures/loss.csv",
            ),
            title="When should images come in?",
            experiments=("timing",),
            text_states="evaluated",
            labels=("row",),
            along="branch_percent",
            cooldown_columns=True,
            rows_about={"timing": "branch points", "timing_runs": "branch points", "loss": "curves"},
        ),
        "table2": Table(
            maker="experiment_tables.sizes",
            files=both("table2"),
            title="The model sizes and what they take",
            experiments=("size",),
            recipe_states=("model",),
            text_states="ends",
            labels=("phase", "size"),
            counts={"parameters": "parameters", "text_run_tokens": "text tokens", "training_flops": "training FLOPs"},
            note="The frozen encoder's FLOPs are not in it.",
        ),
        "table3": papers_table(
            "table3", "A larger model, with and without images in pre-training", "size", "size", "image_fraction"
        ),
        "table4": papers_table(
            "table4",
            "Frozen or trained image encoder?",
            "unfrozen",
            *("train_encoder", "image_fraction", "finetune_epochs"),
        ),
        "table5": papers_table("table5", "Which captions?", "captions", "captions", along="captions"),
        "table6": papers_table("table6", "Which image encoder?", "encoder", "encoder", along="encoder"),
        "table7": papers_table(
            "table7",
            "How far do seeds differ?",
            "seeds",
            *("branch_percent", "image_fraction", "finetune_epochs", "finetune_seed"),
        ),
        "table8": Table(
            maker="experiment_tables.stages",
            files=both("table8"),
            title="The recommended model after each phase",
            recipe_states=("model", "cooldown"),
            text_states="evaluated",
            labels=("stage",),
        ),
        "table9": papers_table(
            "table9",
            "The usual way: a finished text model that sees images in fine-tuning",
            "usual",
            *("cooldown", "branch_percent"),
            recipe_states=("model",),
        ),
        "proportions": Table(
            maker="proportions.make",
            files=both("proportions"),
            title="The proportions of a scaled model",
            recipe_states=("model",),
            first_seed_only=True,
            text_states="ends",
            shards=True,
            rows_about={"proportions": "the recipe"},
        ),
        "image_fraction": papers_figure("image_fraction", "How many images?", "image_fraction"),
        "from_scratch": papers_figure(
            "from_scratch", "What if images come in before any text-only training?", "image_fraction"
        ),
        "instruction_share": papers_figure(
            "instruction_share", "Should instructions be among the images?", "instruction_share"
        ),
        "finetune_epochs": papers_figure("finetune_epochs", "How long to fine-tune?", "finetune_epochs"),
        "text_budget": papers_figure("text_budget", "Does it change with more text tokens a parameter?", "text_budget"),
        "controls": Table(
            maker="controls.make",
            files=(*both("controls"), "figures/rewarm.png", "figures/text_only.png"),
            title="Controls that the paper lacks",
            experiments=("rewarm", "text_only", "moments", "blind"),
            recipe_states=("model",),
            text_states="evaluated",
            labels=("control", "cell"),
            parts={
                "rewarm": Part("Is it the learning rate that the 100% branch suffers from?", "branch"),
                "text_only": Part("The cooldown on text alone, not fine-tuned", "branch_percent"),
                "moments": Part("Adam's moments at the branch: kept or fresh", "moments"),
                "blind": Part("Fine-tuned without images"),
            },
            note="Blind: fine-tuned and asked without any image, the language prior.",
        ),
        "conditions": Table(
            maker="conditions.make",
            files=(*both("conditions"), *both("question_types"), *both("measures")),
            experiments=("timing", "image_fraction"),
            sheets=(
                Sheet("conditions", "What the answers owe to the image", ("cell",), across="condition"),
                Sheet("question_types", "Scores by question type", ("kind",), across="cell"),
            ),
        ),
        "floors": Table(
            maker="floors.make",
            files=both("floors"),
            title="Is a task at its floor?",
            recipe_states=("model",),
            sheets=(Sheet("floors", "Is a task at its floor?", ("task",), across="answers"),),
            rows_about={"floors": "the recipe"},
        ),
        "drawings": Table(
            maker="drawings.make",
            files=("figures/schedules.png", "figures/schedules.csv", "figures/pipeline.svg", "figures/pipeline.png"),
            experiments=("timing", "rewarm"),
            told="schedules",
            rows_about={"schedules": "nothing"},
        ),
        "examples": Table(
            maker="examples.make",
            files=("figures/examples.png", "figures/examples.csv"),
            recipe_states=("model",),
            first_seed_only=True,
            rows_about={"examples": "the recipe"},
        ),
        "claims": Table(
            maker="claims.make",
            files=both("claims"),
            title="What these runs say of each claim",
            every_experiment=True,
            told="claims",
            rows_about={"claims": "claims"},
        ),
        "signal": Table(
            maker="signal.make",
            files=both("signal"),
            title="Signal and noise of every measure",
            every_experiment=True,
            rows_about={"signal": "nothing"},
        ),
        "comparison": Table(
            maker="comparison.make",
            files=both("comparison"),
            title="Beside the paper",
            every_experiment=True,
            every_published=True,
        ),
        "report": Table(maker="page.report.make", files=("report.html",), of_tables=True),
    }
)


@dataclass(frozen=True)
class Axis:
    """How figures name a setting, and by what they multiply its values."""

    label: str
    factor: float = 1.0


AXES = {
    "branch_percent": Axis("text run before images come in (%)"),
    "branch": Axis("branch, and its highest learning rate"),
    "image_fraction": Axis("sequences with images in the cooldown (%)", 100.0),
    "instruction_share": Axis("instructions among the image sequences (%)", 100.0),
    "finetune_epochs": Axis("passes over the instruction data"),
    "text_budget": Axis("text tokens, as a multiple of the scale's"),
}


def axis_of(setting: str) -> Axis:
    """The axis of a setting: one without a row is named by its key."""
    return AXES.get(setting, Axis(key_words(setting)))


def key_words(key: str) -> str:
    """A key of the recipe or of the preset for reading: "image fraction", "cooldown tokens"."""
    return key.removeprefix("scale.").replace(".", " ").replace("_", " ")


def number_of(name: str) -> str:
    """The number of one of the numbered tables ("3" of "table3"), or nothing."""
    return name.removeprefix("table") if name.startswith("table") else ""


def heading_of(name: str) -> str:
    """What stands above a numbered table: "Table 5: which captions?"."""
    title = TABLES[name].title
    return f"Table {number_of(name)}: {title[0].lower()}{title[1:]}"
