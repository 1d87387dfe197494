"""The results of a study, by their names, and the files that each leaves in results/."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A result of its own: the experiments that it shows, and the files that it leaves in results/."""

    files: tuple[str, ...]
    experiments: tuple[str, ...] = ()


def both(name: str) -> tuple[str, str]:
    return f"{name}.csv", f"{name}.md"


class Tables(dict[str, Table]):
    """The paper's tables. A table of another name is that of the experiment of this name."""

    def __missing__(self, name: str) -> Table:
        return Table(tuple(f"experiments/{name}.{kind}" for kind in ("csv", "md", "png")), (name,))


TABLES = Tables(
    {
        "table1": Table(
            (*both("table1"), "metrics.json", "figures/timing.png", "figures/timing.csv", "figures/loss.csv"),
            ("timing",),
        ),
        "table2": Table(both("table2"), ("size",)),
        "table3": Table(both("table3"), ("size",)),
        "table4": Table(both("table4"), ("unfrozen",)),
        "table5": Table(both("table5"), ("captions",)),
        "table6": Table(both("table6"), ("encoder",)),
        "table7": Table(both("table7"), ("seeds",)),
        "table8": Table(both("table8")),
        "table9": Table(both("table9"), ("usual",)),
        **{
            name: Table((f"figures/{name}.png", f"figures/{name}.csv"), (name,))
            for name in ("image_fraction", "from_scratch", "instruction_share", "finetune_epochs", "text_budget")
        },
        "controls": Table(
            (*both("controls"), "figures/rewarm.png", "figures/text_only.png"),
            ("rewarm", "text_only", "moments", "blind"),
        ),
        "conditions": Table(
            (*both("conditions"), *both("question_types"), *both("measures")), ("timing", "image_fraction")
        ),
        "drawings": Table(
            ("figures/schedules.png", "figures/schedules.csv", "figures/pipeline.svg", "figures/pipeline.png"),
            ("timing", "rewarm"),
        ),
        "examples": Table(("figures/examples.png", "figures/examples.csv")),
        "claims": Table(both("claims")),  # of all experiments, as are the next two
        "comparison": Table(both("comparison")),
        "report": Table(("report.html",)),  # of all other tables: it comes last
    }
)
