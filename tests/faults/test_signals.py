"""A job of every phase, ended at random moments, ends in the same bits when the same command goes on.

`FAULT_SEEDS="3 4 5"` chooses other moments than the gate's: shares of the time that the job takes undisturbed.
"""

import os
import random
import re
import signal
import time

import pytest

from faults.drills import PHASES
from faults.holding import is_told, wait
from pipeline.execution.processes import STOPPED

SEEDS = [int(seed) for seed in os.environ.get("FAULT_SEEDS", "1").split()]
STOP_LINE = r"({0} {1}|\S+{0}/{1}.json): stopped by {2}( after step \d+ of \d+)?; the same command goes on"
pytestmark = pytest.mark.end_to_end
TRAINED = ("pretrain", "cooldown", "finetune")


@pytest.mark.nightly
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("phase", PHASES)
def test_a_job_ended_at_random_moments_goes_on_to_the_same_bits(drill, phase, seed):
    moments, job = random.Random(f"{phase} {seed}"), drill(phase)
    began = time.monotonic()
    assert job.run() == 0
    seconds = time.monotonic() - began
    for number in moments.sample([signal.SIGKILL, signal.SIGTERM, signal.SIGINT], 3):
        moment = moments.uniform(0, seconds)
        pid = job.start()
        time.sleep(moment)
        os.kill(pid, number)
        code = job.server.wait(pid)
        print(f"{number.name} after {moment:.2f} of {seconds:.2f} s: exit code {code}")
        if number == signal.SIGKILL:
            assert code in (0, -number)
        else:
            assert code in (0, STOPPED)
        if code == STOPPED:
            assert re.fullmatch(STOP_LINE.format(phase, job.id, number.name), job.said())
        assert code == 0 or not job.made.exists()
    job.ends_well()


@pytest.mark.parametrize("phase", TRAINED)
def test_a_job_that_trains_loses_no_update_when_it_is_told_to_stop(drill, phase):
    job, steps, done = drill(phase), [], 0
    job.change_context(save_steps=3)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        job.log.unlink(missing_ok=True)
        assert job.end_at(number) == STOPPED
        log = job.log.read_text()
        continued = re.search(r"continuing after step (\d+)", log)
        assert int(continued[1] if continued else 0) == done
        done = int(re.search(r"stopped by \w+ after step (\d+) of", log)[1])
        steps.append(done)
    assert steps == sorted(set(steps))
    job.ends_well()
    assert f"continuing after step {done}\n" in job.log.read_text()


def test_a_second_ctrl_c_ends_a_job_at_once(drill):
    job = drill("finetune")
    pid = job.hold()
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGCONT)
    wait(lambda: not is_told(pid, signal.SIGINT))
    os.kill(pid, signal.SIGINT)
    assert job.server.wait(pid) == STOPPED
    job.ends_well()
