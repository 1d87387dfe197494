"""A small project in a temporary folder: the real params.yaml and configs/, with sizes of the tests' own."""

import shutil
from pathlib import Path

import pytest
import yaml

SOURCE = Path(__file__).parent.parent
SCALE = "configs/scale/small.yaml"
SIZES = {
    "model": {"vocabulary": 512, "layers": 2, "heads": 2, "width": 32, "sequence": 64},
    "text": {"tokens": 51200, "batch": 8, "peak_lr": 0.01, "floor_lr": 0.0001, "warmup_steps": 5},  # 100 steps
    "cooldown": {"tokens": 10240, "batch": 8, "peak_lr": 0.003, "floor_lr": 0.0001, "warmup_steps": 2},  # 20 steps
    "finetune": {"batch": 8, "peak_lr": 0.003, "floor_lr": 0.0},
    "hardware": {"threads": 1, "microbatch": 8},
}
RECIPE = {"branch_percent": 80, "image_fraction": 0.1, "finetune_epochs": 2, "seed": 7}


class Project:
    """A project folder whose settings a test edits key by key ("recipe.seed", "licences.0.name")."""

    def __init__(self, root: Path):
        self.root = root

    def write(self, file: str, text: str) -> None:
        (self.root / file).write_text(text, encoding="utf-8")

    def read(self, file: str) -> dict:
        return yaml.safe_load((self.root / file).read_text(encoding="utf-8"))

    def set(self, file: str, key: str, value: object) -> None:
        content = self.read(file)
        section, last = self.section(content, key)
        section[last] = value
        self.write(file, yaml.safe_dump(content, sort_keys=False))

    def remove(self, file: str, key: str) -> None:
        content = self.read(file)
        section, last = self.section(content, key)
        del section[last]
        self.write(file, yaml.safe_dump(content, sort_keys=False))

    @staticmethod
    def section(content, key: str):
        """What holds a key's value, and the last part of the key."""
        *path, last = [int(part) if part.isdigit() else part for part in key.split(".")]
        for part in path:
            content = content[part]
        return content, last

    def settings(self):
        from pipeline.config import load_settings

        return load_settings(self.root)

    def study(self):
        from pipeline.study import Study

        return Study(self.settings())


@pytest.fixture
def project(tmp_path) -> Project:
    root = tmp_path / "project"
    root.mkdir()
    shutil.copytree(SOURCE / "configs", root / "configs")
    shutil.copy(SOURCE / "params.yaml", root)
    (root / "pipeline").symlink_to(SOURCE / "pipeline")
    scale = yaml.safe_load((root / "configs/scale/tiny.yaml").read_text(encoding="utf-8"))
    for file in (root / "configs/scale").iterdir():
        file.unlink()
    for section, sizes in SIZES.items():
        scale[section] |= sizes
    made = Project(root)
    made.write(SCALE, yaml.safe_dump(scale))
    made.set("params.yaml", "preset", "small")
    for key, value in RECIPE.items():
        made.set("params.yaml", f"recipe.{key}", value)
    made.set("params.yaml", "experiments.timing", {"branch_percent": [0, 50, 80, 100]})
    return made
