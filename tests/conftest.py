"""A small project in a temporary folder: the real params.yaml and configs/, with sizes of the tests' own.

It is made once, with and without artifacts. What a test changes in its folder is put back afterwards, byte by byte and
date by date.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from pipeline import artifacts, cards
from pipeline.cards import Ledger, code_fingerprint, module_file, read_module
from pipeline.config import load_settings
from pipeline.files import stable_json
from pipeline.run import publish
from pipeline.study import Study

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # faster, where PyYAML has it
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
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
        self.studies: dict[tuple[str, ...], Study] = {}  # by the texts of all settings
        self.before: dict[Path, tuple] = {}

    def keep(self) -> None:
        """Note how the folder is now, for `restore`."""
        self.before = state(self.root)

    def restore(self) -> None:
        """Put the folder back into the state that was kept."""
        now = state(self.root)
        for path in reversed(now):  # files before their folders
            if now[path] != self.before.get(path):
                path.rmdir() if now[path] == FOLDER else path.unlink()
                del now[path]
        for path, (kind, *content) in self.before.items():
            if path in now:
                continue
            if kind == "folder":
                path.mkdir()
            elif kind == "link":
                path.symlink_to(*content)
            else:
                date, data = content
                path.write_bytes(data)
                os.utime(path, ns=(date, date))

    def write(self, file: str, text: str) -> None:
        (self.root / file).write_text(text, encoding="utf-8")

    def read(self, file: str) -> dict:
        return yaml.load((self.root / file).read_text(encoding="utf-8"), LOADER)

    def set(self, file: str, key: str, value: object) -> None:
        content = self.read(file)
        section, last = self.section(content, key)
        section[last] = value
        self.write(file, yaml.dump(content, Dumper=DUMPER, sort_keys=False))

    def remove(self, file: str, key: str) -> None:
        content = self.read(file)
        section, last = self.section(content, key)
        del section[last]
        self.write(file, yaml.dump(content, Dumper=DUMPER, sort_keys=False))

    @staticmethod
    def section(content, key: str):
        """What holds a key's value, and the last part of the key."""
        *path, last = [int(part) if part.isdigit() else part for part in key.split(".")]
        for part in path:
            content = content[part]
        return content, last

    def settings(self):
        return load_settings(self.root)

    def study(self) -> Study:
        return Study(self.settings())

    def ledger(self) -> Ledger:
        """A fresh one, as a ledger looks at each artifact once; its study is as before where the settings are."""
        files = [self.root / "params.yaml", *sorted((self.root / "configs").rglob("*.yaml"))]
        texts = tuple(f"{file}\n{file.read_text(encoding='utf-8')}" for file in files)
        if texts not in self.studies:
            self.studies[texts] = self.study()
        return Ledger(self.studies[texts], self.root)

    def make(self, *phases: str) -> None:
        """Leave the artifacts of all jobs, or of some phases, as the jobs would: small files, list, card."""
        ledger = self.ledger()
        for job in ledger.jobs:
            if phases and job.phase not in phases:
                continue
            folder = self.root / job.folder
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "parts").mkdir(parents=True)
            (folder / "measured.json").write_text("{}\n")
            (folder / "rows.csv").write_text(f"made by,{job.id}\n")
            (folder / "parts" / "0.bin").write_bytes(bytes(range(256)))
            artifacts.make_manifest(folder, ledger.digest(job))
            (folder / artifacts.CARD).write_text(stable_json(ledger.card(job)))
            if job.published:
                publish(folder, self.root / job.published)

    def damage(self, file: str) -> None:
        """Turn over a file's bytes, and let its date say so even where the clock of the file system is coarse."""
        path = self.root / file
        date = path.stat().st_mtime_ns + 10**9
        path.write_bytes(path.read_bytes()[::-1])
        os.utime(path, ns=(date, date))

    def change_code(self, module: str | None = None) -> None:
        """Let a module of the package do something more from now on; or, without a name, none."""
        link = self.root / "pipeline"
        link.unlink()
        if module is None:
            link.symlink_to(SOURCE / "pipeline")
            return
        package = self.root.with_name(f"with more {module}") / "pipeline"
        if not package.exists():
            python = shutil.ignore_patterns("__pycache__")
            shutil.copytree(SOURCE / "pipeline", package, ignore=python, copy_function=os.symlink)
            file = package.parent / (module.replace(".", "/") + ".py")
            text = file.read_text(encoding="utf-8")
            file.unlink()
            file.write_text(f"{text}\nMORE = 1\n", encoding="utf-8")
        link.symlink_to(package)


FOLDER = ("folder",)


def state(root: Path) -> dict[Path, tuple]:
    """All that is in a folder: each file's date and bytes, where a link leads, and subfolders before their files."""
    found: dict[Path, tuple] = {}
    for folder, folders, files in os.walk(root):
        for path in (Path(folder, name) for name in [*folders, *files]):
            if path.is_symlink():
                found[path] = ("link", os.readlink(path))
            elif path.is_dir():
                found[path] = FOLDER
            else:
                found[path] = ("file", path.stat().st_mtime_ns, path.read_bytes())
    return found


def shared_fingerprint(root: Path, phase: str) -> dict[str, str]:
    """As the real one, but of the folder that a link to a package leads to: what was read of it is known."""
    return code_fingerprint((root / "pipeline").resolve().parent, phase)


def shared_module(root: Path, name: str) -> tuple[str, tuple[str, ...]]:
    """As the real one, but a module that is a link to the real package's is read as that."""
    return read_module(SOURCE if module_file(root, name).is_symlink() else root, name)


@contextmanager
def shortcuts() -> Iterator[None]:
    """Read the same code once in all tests; and no test's files need to survive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cards, "code_fingerprint", shared_fingerprint)
        patch.setattr(cards, "read_module", shared_module)
        patch.setattr(os, "fsync", lambda _: None)
        yield


def set_up(root: Path) -> Project:
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


@pytest.fixture(scope="session")
def project_to_share(tmp_path_factory) -> Project:
    made = set_up(tmp_path_factory.mktemp("projects") / "bare")
    made.keep()
    return made


@pytest.fixture(scope="session")
def whole_to_share(tmp_path_factory) -> Project:
    made = set_up(tmp_path_factory.mktemp("projects") / "whole")
    with shortcuts():
        made.make()
    made.keep()
    return made


@pytest.fixture
def project(project_to_share) -> Iterator[Project]:
    """A project in which nothing has been made yet."""
    with shortcuts():
        yield project_to_share
    project_to_share.restore()


@pytest.fixture
def whole(whole_to_share) -> Iterator[Project]:
    """A project in which all artifacts have been made, and none was looked at yet."""
    with shortcuts():
        yield whole_to_share
    whole_to_share.restore()
