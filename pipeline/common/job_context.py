"""What the `run(job, out)` of every phase gets and gives.

A phase asks for no more than this, so that a test or a notebook can make a job without the workflow around it;
`pipeline.execution.run.JobFile` is the one that the workflow makes. `run` writes the artifact's files into the folder `out` and
returns what it has measured, which becomes `measured.json`.
"""

from pathlib import Path
from typing import Any, Protocol


# Protocols, as phases may not import pipeline/execution: it comes after them in the order of the rooms.
class Progress(Protocol):
    """Shown to whoever looks on: `done` of `total` units, and in `note` what else there is to say."""

    def begin_at(self, done: float) -> None:
        """`done` units were there when the job began: speed and time left count only what comes after."""
        ...

    def update(self, done: float, total: float, unit: str, note: str = "", log: bool = False) -> None:
        """`done` of `total` units are done. `log`: whether the line goes into the job's log too."""
        ...


class Stop(Protocol):
    """Whether the job has been told to stop, and how it ends then."""

    asked: str | None

    def defer(self) -> None:
        """From now on a request to stop waits until the job looks at `asked`."""
        ...

    def raise_stopped(self, where: str) -> Any:
        """End the job, which has saved its state; `where` says how far it came."""
        ...


class Job(Protocol):
    """Settings, the folders of parents by role, and what does not change a bit of the outcome (`context`)."""

    @property
    def phase(self) -> str:
        """The name of the phase: a key of pipeline.study.phases.PHASES."""
        ...

    @property
    def card(self) -> dict:
        """All that the artifact is made from: see docs/card.md."""
        ...

    @property
    def settings(self) -> dict:
        """The settings that the job depends on: a part of its card."""
        ...

    @property
    def inputs(self) -> dict[str, Path]:
        """The folders of the artifacts that it reads, by role."""
        ...

    @property
    def context(self) -> dict:
        """What it uses but is not made from: places of data, numbers of processes, licences."""
        ...

    @property
    def continues(self) -> Path | None:
        """The folder of an earlier state of the same run, if there is one."""
        ...

    @property
    def resume(self) -> Path:
        """The folder for states to go on from after a stop; it may not exist yet."""
        ...

    @property
    def progress(self) -> Progress:
        """Where the job tells how far it is."""
        ...

    @property
    def stop(self) -> Stop:
        """Where the job sees whether it has been told to stop."""
        ...
