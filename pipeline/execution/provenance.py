"""Where and of which commit something was made: what goes beside results, never into them, as it is not the same twice."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("torch", "numpy", "mosaicml", "mosaicml-streaming", "safetensors", "tokenizers", "pandas", "matplotlib")


def provenance(root: Path) -> dict:
    """The commit of a folder (None outside git) and whether files that git has differ from it; the machine, and versions."""
    changed = git(root, "status", "--porcelain", "--untracked-files=no")
    return {
        "commit": git(root, "rev-parse", "HEAD"),
        "uncommitted_changes": None if changed is None else bool(changed),
        "machine": {"system": platform.platform(), "processor": processor(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def git(root: Path, *arguments: str) -> str | None:
    """What git answers, or None where there is none or it knows nothing of the folder."""
    if shutil.which("git") is None:
        return None
    # Jobs that run at once must not wait for each other's lock on the index.
    done = subprocess.run(["git", "--no-optional-locks", *arguments], cwd=root, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def processor() -> str:
    """What the machine calls its processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
