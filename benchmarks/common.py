"""What every benchmark notes beside its figures."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def machine(*packages: str) -> dict:
    """The machine, the versions of packages, the commit (with "+" if the code is not that commit's) and the time."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    git = lambda *words: subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()  # noqa: E731
    changed = git("status", "--short", "--", "pipeline", "configs", "benchmarks/*.py", "params.yaml", "Snakefile")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "commit": git("rev-parse", "--short", "HEAD") + ("+" if changed else ""),
        "measured": datetime.now(UTC).isoformat(timespec="minutes"),
    }
