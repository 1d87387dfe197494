"""What the jobs of a finished study took: FLOP/s of training, seconds of everything else, as medians over its jobs.

    python benchmarks/throughput.py

reads the logs of the study that lies in this folder (`logs/PHASE/ID.json`; params.yaml says which) and the tokens that
its models saw, adds them to benchmarks/results/throughput.json under the preset's name, and prints a table. A job's time
is all of its time: starting Python and saving the state are in it, so a short job is slower than its steps. How many jobs
ran side by side and what else the machine did is in it too: run the study by itself first. `python -m pipeline plan`
reckons with these figures.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import ROOT, machine

from pipeline.commands.costs import THROUGHPUT, TRAINING
from pipeline.commands.plan import Plan
from pipeline.common.files import digest, read_json, stable_json, write_text
from pipeline.settings.load import load_settings
from pipeline.store.ledger import Ledger
from pipeline.study.study import PHASES, Study


def main() -> None:
    ledger = Ledger(Study(load_settings(ROOT)), ROOT)
    plan, preset = Plan(ledger), ledger.study.settings.params.preset
    measured = {phase: found for phase in PHASES if (found := measure(plan, phase))}
    if not measured:
        sys.exit(f"no finished job of today's study (preset {preset}) has left a log in {ROOT / 'logs'}")
    before = read_json(ROOT / THROUGHPUT) if (ROOT / THROUGHPUT).exists() else {"presets": {}}
    before["presets"][preset] = measured | {"measured_on": machine("torch")}
    write_text(ROOT / THROUGHPUT, stable_json(before))
    print("| phase | jobs | seconds, median (min-max) | GFLOP/s, median | tokens/s, median |\n|---|---|---|---|---|")
    for phase, found in measured.items():
        rates = [
            f"{found.get(key, 0) / scale:,.2f}" if key in found else ""
            for key, scale in (("flops_per_second", 1e9), ("tokens_per_second", 1))
        ]
        low, high = found["seconds_range"]
        print(f"| {phase} | {found['jobs']} | {found['seconds']:.1f} ({low:.1f}-{high:.1f}) | {' | '.join(rates)} |")


def measure(plan: Plan, phase: str) -> dict:
    """A phase's medians over its jobs that have a log of the artifact that is there; nothing if none has."""
    seconds, flops, tokens = [], [], []
    for job in plan.jobs:
        log = plan.ledger.root / "logs" / phase / f"{job.id}.json"
        if job.phase != phase or not plan.ledger.is_current(job) or not log.exists():
            continue
        spent = read_json(log)
        if spent["card"] != digest(plan.ledger.card(job)):
            continue
        seconds.append(spent["seconds"])
        flops.append(plan.costs[job.key].flops / spent["seconds"])
        tokens.append(plan.costs[job.key].tokens / spent["seconds"])
    if not seconds:
        return {}
    found = {"jobs": len(seconds), "seconds": statistics.median(seconds), "seconds_range": [min(seconds), max(seconds)]}
    if phase in TRAINING:
        found |= {"flops_per_second": statistics.median(flops), "tokens_per_second": statistics.median(tokens)}
    return found


if __name__ == "__main__":
    main()
