"""Learning rates: DCLM's main schedule, the published branch rates, and how cooldowns start and end."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.training.job_settings import Cooldown
from pipeline.training.schedule import Schedule, cooldown_schedule, planned_cooldown

quick = settings(max_examples=60, deadline=None, database=None, derandomize=True)

# DCLM-1B's text run: 4.319T tokens in batches of 512 x 2048.
DCLM = Schedule(peak=1e-2, floor=3e-5, warmup=5000, steps=int(4.319e12) // (512 * 2048))
SMALL = Schedule(peak=1e-2, floor=3e-5, warmup=50, steps=1000)


def leave(step: int, main: Schedule = SMALL, **changes) -> Schedule:
    cooldown = {"steps": 200, "floor": 3e-5, "peak": 3e-3, "warmup": 20} | changes
    return cooldown_schedule(main=main, branch_step=step, **cooldown)


@pytest.mark.parametrize(
    ("share", "published"), [(0.1965, 9.0803e-3), (0.4037, 6.49997e-3), (0.6019, 3.44667e-3), (0.8003, 9.7890e-4)]
)
def test_published_branch_rates(share, published):
    step = round(DCLM.warmup + share * (DCLM.steps - DCLM.warmup))
    assert leave(step, DCLM).rate(0) == pytest.approx(published, rel=1e-3)


def test_warm_up_is_linear_and_ends_at_the_peak():
    rates = [DCLM.rate(step) for step in (0, 1, 2499, 4999)]
    assert rates == pytest.approx([1e-2 / 5000, 2e-2 / 5000, 5e-3, 1e-2], rel=1e-12)


def test_cosine_starts_at_the_peak_right_after_the_warm_up():
    assert SMALL.rate(50) == SMALL.peak
    assert SMALL.rate(51) < SMALL.peak


def test_cosine_follows_the_published_formula():
    for elapsed in (1, 100, 475, 900):
        expected = 3e-5 + 0.5 * (1 + math.cos(math.pi * elapsed / 950)) * (1e-2 - 3e-5)
        assert SMALL.rate(50 + elapsed) == pytest.approx(expected, rel=1e-12)


def test_half_way_down_the_cosine_is_the_mean_of_peak_and_floor():
    assert SMALL.rate(50 + 475) == pytest.approx((1e-2 + 3e-5) / 2)


def test_the_end_is_at_the_floor_and_stays_there():
    assert SMALL.rate(SMALL.steps) == pytest.approx(SMALL.floor, rel=1e-12)
    assert SMALL.rate(SMALL.steps + 500) == SMALL.rate(SMALL.steps)


def test_last_update_is_within_a_hair_of_the_floor():
    assert 0 < DCLM.rate(DCLM.steps - 1) - DCLM.floor < 1e-9


def test_no_warm_up_starts_at_the_peak():
    assert Schedule(peak=1e-3, floor=0, warmup=0, steps=10).rate(0) == 1e-3


def test_a_floor_of_zero_is_reached():
    assert Schedule(peak=1e-3, floor=0, warmup=3, steps=10).rate(10) == pytest.approx(0, abs=1e-18)


@quick
@given(st.integers(1, 400), st.integers(0, 50), st.floats(1e-5, 1), st.floats(0, 1))
def test_rates_stay_between_zero_and_the_peak_and_fall_after_the_warm_up(steps, warmup, peak, floor_share):
    schedule = Schedule(peak=peak, floor=floor_share * peak, warmup=min(warmup, steps - 1), steps=steps)
    rates = [schedule.rate(step) for step in range(steps + 1)]
    assert all(0 < rate <= peak * (1 + 1e-12) or rate == schedule.floor for rate in rates)
    after = rates[schedule.warmup :]
    assert all(a >= b - 1e-15 for a, b in pairwise(after))
    assert all(rate >= schedule.floor - 1e-15 for rate in after)


@quick
@given(st.integers(1, 999))
def test_a_mid_branch_starts_at_the_main_rate(step):
    assert leave(step).rate(0) == SMALL.rate(step)


@quick
@given(st.integers(50, 999))
def test_a_mid_branch_has_no_warm_up(step):
    cooldown = leave(step)
    assert cooldown.rate(1) <= cooldown.rate(0)


@pytest.mark.parametrize("step", [0, 1000])
def test_the_ends_warm_up_to_their_own_peak(step):
    cooldown = leave(step)
    assert cooldown.rate(0) == pytest.approx(3e-3 / 20)
    assert cooldown.rate(19) == pytest.approx(3e-3)
    assert max(cooldown.rate(i) for i in range(200)) == pytest.approx(3e-3)


@pytest.mark.parametrize("step", [0, 1000])
def test_a_re_warmed_end_warms_up_to_the_rate_it_is_given(step):
    again = SMALL.rate(800)
    cooldown = leave(step, rewarm=again)
    assert cooldown.rate(0) == pytest.approx(again / 20)
    assert cooldown.rate(19) == pytest.approx(again)
    assert cooldown.describe() == leave(step).describe() | {"peak": again}


def test_a_branch_in_the_middle_re_warms_only_if_it_is_told_to():
    assert leave(500).rate(0) == SMALL.rate(500)
    again = leave(500, rewarm=1e-3)
    assert again.rate(0) == pytest.approx(1e-3 / 20)
    assert max(again.rate(i) for i in range(200)) == pytest.approx(1e-3)


@pytest.mark.parametrize(("step", "rewarm"), [(0, None), (500, None), (1000, None), (1000, 2e-3)])
def test_a_cooldowns_settings_say_its_schedule(step, rewarm):
    model = {"vocabulary": 300, "layers": 1, "heads": 1, "width": 8, "sequence": 16}
    own = {"weight_decay": 0.1, "decay_vectors": True, "clip_norm": 1.0, "z_loss": 0.0, "batch": 4}
    settings = {
        "model": model,
        "seed": 1,
        "hardware": {"device": "cpu", "threads": 1, "microbatch": 4},
        "moments": "keep",
        "image_fraction": 0.1,
        "main": own | {"tokens": 1000 * 64, "peak_lr": 1e-2, "floor_lr": 3e-5, "warmup_steps": 50},
        "optimisation": own | {"tokens": 200 * 64, "peak_lr": 3e-3, "floor_lr": 3e-5, "warmup_steps": 20},
        "branch_step": step,
        "rewarm": rewarm,
    }
    assert planned_cooldown(Cooldown.model_validate(settings)) == leave(step, rewarm=rewarm)


@pytest.mark.parametrize("step", [0, 200, 400, 600, 800, 1000])
def test_every_branch_ends_at_its_own_floor(step):
    assert leave(step, floor=1e-5).rate(200) == pytest.approx(1e-5)


def test_a_mid_branch_ignores_peak_and_warm_up():
    assert leave(500) == leave(500, peak=1e-4, warmup=77)


def test_describe_rebuilds_the_schedule():
    assert Schedule(**SMALL.describe()) == SMALL


@pytest.mark.parametrize("warmup", [-1, 10, 11])
def test_a_warm_up_that_does_not_fit_is_refused(warmup):
    with pytest.raises(ValueError, match=f"warm-up of {warmup} steps.* 10 steps"):
        Schedule(peak=1e-3, floor=0, warmup=warmup, steps=10)


@pytest.mark.parametrize("floor", [-1e-5, 2e-3, math.nan])
def test_a_floor_outside_zero_and_the_peak_is_refused(floor):
    with pytest.raises(ValueError, match="floor"):
        Schedule(peak=1e-3, floor=floor, warmup=0, steps=10)


@pytest.mark.parametrize("step", [-1, 1001])
def test_a_branch_outside_the_main_run_is_refused(step):
    with pytest.raises(ValueError, match=f"branch step {step} is outside"):
        leave(step)


def test_a_floor_above_the_rate_at_the_branch_is_refused():
    with pytest.raises(ValueError, match="floor"):
        leave(990, floor=2e-3)
