"""What the `run(job, out)` of every phase gets and gives.

A phase asks for no more than this, so that a test or a notebook can make a job without the workflow around it;
`pipeline.execution.run.JobFile` is the one that the workflow makes. `run` writes the artifact's files into the folder `out` and
returns what it has measured, which becomes `measured.json`.
"""

from pathlib import Path
from typing import Any, Protocol


class Progress(Protocol):
    """Shown to whoever looks on: `done` of `total` units, and in `note` what else there is to say."""

    def begin_at(self, done: float) -> None: ...

    def update(self, done: float, total: float, unit: str, note: str = "", log: bool = False) -> None: ...


class Stop(Protocol):
    """Whether the job has been told to stop, and how it ends then."""

    asked: str | None

    def defer(self) -> None: ...

    def raise_stopped(self, where: str) -> Any: ...


class Job(Protocol):
    """Settings, the folders of parents by role, and what does not change a bit of the outcome (`context`)."""

    @property
    def phase(self) -> str: ...

    @property
    def card(self) -> dict: ...

    @property
    def settings(self) -> dict: ...

    @property
    def inputs(self) -> dict[str, Path]: ...

    @property
    def context(self) -> dict: ...

    @property
    def continues(self) -> Path | None: ...

    @property
    def resume(self) -> Path: ...

    @property
    def progress(self) -> Progress: ...

    @property
    def stop(self) -> Stop: ...
