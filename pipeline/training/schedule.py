"""Learning rates as pure functions of the optimizer step. This is the one place where a rate is computed.

Main run (DCLM-1B's schedule): linear warm-up to the peak, then a cosine to a floor.
Cooldown (paper, Figure 3): a branch in the middle starts at the main schedule's rate at its point and decays along a
cosine to the floor, with no warm-up; a branch at 0% or 100% has no rate to continue and warms up to its own peak. That
is the cooldown's, or for a re-warmed branch the rate that it is to be compared at. (The authors' scripts warm up every
branch of their small models; a preset says so with `rewarm_all`.)
Steps count from 0: `rate(0)` is used by the first update.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from pipeline.settings.types import TextPhase
from pipeline.training.job_settings import Cooldown


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up over `warmup` steps from 0 to `peak`, then a cosine down to `floor` at step `steps`."""

    peak: float
    floor: float
    warmup: int
    steps: int

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.steps:
            raise ValueError(f"a warm-up of {self.warmup} steps does not fit a schedule of {self.steps} steps")
        if not 0 <= self.floor <= self.peak:
            raise ValueError(f"the floor {self.floor} is not between 0 and the peak {self.peak}")

    def rate(self, step: int) -> float:
        """The learning rate of update number `step` (0-based)."""
        if step < self.warmup:
            # Plus one: an update at rate 0 would change nothing but the moments.
            return self.peak * (step + 1) / self.warmup
        # At most 1: the cosine would rise again after its end.
        progress = min((step - self.warmup) / (self.steps - self.warmup), 1.0)
        return self.floor + 0.5 * (1 + math.cos(math.pi * progress)) * (self.peak - self.floor)

    def describe(self) -> dict:
        """Peak, floor, warmup and steps, as tables and run records have them."""
        return asdict(self)


def main_schedule(text: TextPhase, sequence: int) -> Schedule:
    """The text run's schedule over its whole budget; `text` is the scale's section of that name."""
    return Schedule(
        peak=text.peak_lr,
        floor=text.floor_lr,
        warmup=text.warmup_steps,
        # Whole updates: a budget that ends within one is rounded down.
        steps=text.tokens // (text.batch * sequence),
    )


def cooldown_schedule(
    main: Schedule | None,
    branch_step: int,
    steps: int,
    floor: float,
    peak: float | None,
    warmup: int,
    rewarm: float | None = None,
) -> Schedule:
    """The schedule of a cooldown of `steps` updates that leaves the main run after `branch_step` updates.

    `peak` and `warmup` apply at the two ends of the main run (branch_step 0 and main.steps). `rewarm` is a rate to warm
    up to in place of `peak`; between the ends it takes the place of the rate that would be continued. A branch that
    continues no rate needs no `main`, and one that continues a rate needs no `peak`. Raises ValueError for a branch
    outside the main run, and for one that has no rate.
    """
    if main and not 0 <= branch_step <= main.steps:
        raise ValueError(f"branch step {branch_step} is outside the main run's {main.steps} steps")
    # At the ends of the main run there is nothing to continue: its first rates are the warm-up, its last is the floor.
    own = peak if rewarm is None else rewarm
    if main and rewarm is None and branch_step not in (0, main.steps):
        return Schedule(peak=main.rate(branch_step), floor=floor, warmup=0, steps=steps)
    if own is None:
        raise ValueError(f"the branch at step {branch_step} has neither a rate to continue nor one of its own")
    return Schedule(peak=own, floor=floor, warmup=warmup, steps=steps)


def planned_cooldown(settings: Cooldown) -> Schedule:
    """The schedule that a cooldown's job asks for."""
    own, sequence = settings.optimisation, settings.model.sequence
    return cooldown_schedule(
        main=main_schedule(settings.main, sequence) if settings.main else None,
        branch_step=settings.branch_step,
        steps=own.tokens // (own.batch * sequence),
        floor=own.floor_lr,
        peak=own.peak_lr,
        warmup=own.warmup_steps,
        rewarm=settings.rewarm,
    )
