"""A small project in a temporary folder: the real params.yaml and configs/, with sizes of the tests' own."""

import fcntl
import os
import pickle
import shutil
import signal
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

from pipeline.common.files import stable_json
from pipeline.execution.run import publish
from pipeline.reporting.table_list import TABLES, Tables
from pipeline.settings import claims, load, measures, yaml_file
from pipeline.settings.errors import ConfigError
from pipeline.settings.load import load_settings
from pipeline.settings.yaml_file import load_yaml
from pipeline.store import artifacts, ledger
from pipeline.store.fingerprint import code_fingerprint
from pipeline.store.ledger import Ledger
from pipeline.study import study
from pipeline.study.study import Study

SOURCE = Path(__file__).parent.parent
SCALE = "configs/scale/small.yaml"
SIZES = {
    "repeats": {"primary": 1, "other": 1},
    "model": {"vocabulary": 512, "layers": 2, "heads": 2, "width": 32, "sequence": 64},
    "larger": {"layers": 3, "heads": 2, "width": 48},
    "text": {"tokens": 51200, "batch": 8, "peak_lr": 0.01, "floor_lr": 0.0001, "warmup_steps": 5},  # 100 steps
    "cooldown": {"tokens": 10240, "batch": 8, "peak_lr": 0.003, "floor_lr": 0.0001, "warmup_steps": 2},  # 20 steps
    "finetune": {"batch": 8, "peak_lr": 0.003, "floor_lr": 0.0},
    "hardware": {"threads": 1, "microbatch": 8},
}
SHARDS = {"pieces": 90, "sequences": 10, "positions": 640, "labels": 320, "image_positions": 160, "padding": 0}
RECIPE = {"branch_percent": 80, "image_fraction": 0.1, "finetune_epochs": 2, "seed": 7}


class Project:
    """A project folder whose settings a test edits key by key ("recipe.seed", "licences.0.name")."""

    def __init__(self, root: Path):
        self.root = root
        self.known: tuple[list[str], Study] | None = None  # the last ledger's settings and study

    def write(self, file: str, text: str) -> None:
        (self.root / file).write_text(text, encoding="utf-8")

    def read(self, file: str) -> dict:
        return yaml.load((self.root / file).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)

    def set(self, file: str, key: str, value: object) -> None:
        content = self.read(file)
        section, last = self.section(content, key)
        section[last] = value
        self.write(file, yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False))

    def remove(self, file: str, key: str) -> None:
        content = self.read(file)
        section, last = self.section(content, key)
        del section[last]
        self.write(file, yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False))

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
        """A fresh one, as a ledger looks at each artifact once; its study is made again when the settings changed."""
        files = [self.root / "params.yaml", *sorted((self.root / "configs").rglob("*.yaml"))]
        texts = [file.read_text(encoding="utf-8") for file in files]
        if self.known is None or self.known[0] != texts:
            self.known = texts, self.study()
        return Ledger(self.known[1], self.root)

    def make(self, *phases: str) -> None:
        """Leave the artifacts of all jobs, or of some phases, as the jobs would: small files, list, card."""
        ledger = self.ledger()
        for job in ledger.jobs:
            if phases and job.phase not in phases:
                continue
            folder = self.root / job.folder
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "parts").mkdir(parents=True)
            (folder / "measured.json").write_text(stable_json(SHARDS if job.phase == "shards" else {}))
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

    def with_more_code(self, module: str) -> "Project":
        """A copy of the project, artifacts and dates included, in which a module of the package does something more."""
        copy = Project(self.root.with_name(f"{self.root.name}-changed"))
        shutil.copytree(self.root, copy.root, ignore=shutil.ignore_patterns("__pycache__"))
        with open(copy.root / (module.replace(".", "/") + ".py"), "a", encoding="utf-8") as file:
            file.write("\nMORE = 1\n")
        return copy


def complaint(project: Project) -> str:
    """The one line that the project's settings are refused with."""
    with pytest.raises(ConfigError) as caught:
        project.study()
    line = str(caught.value)
    assert "\n" not in line
    return line


def shared_fingerprint(root: Path, phase: str) -> dict[str, str]:
    """As the real one, but projects whose package is a link to the same folder share what was read of it."""
    return code_fingerprint((root / "pipeline").resolve().parent, phase)


YAML_READ: dict[bytes, bytes] = {}  # the pickled contents of files, by their bytes


def load_yaml_once(path: Path, root: Path) -> dict:
    """As the real one, but equal files of all projects are parsed once: it was half of what most tests took."""
    try:
        text = path.read_bytes()
    except OSError:
        return load_yaml(path, root)
    if text not in YAML_READ:
        contents = load_yaml(path, root)
        if b"${" in text:  # the environment may say something else next time
            return contents
        YAML_READ[text] = pickle.dumps(contents)
    return pickle.loads(YAML_READ[text])


@pytest.fixture(scope="session", autouse=True)
def heed_hangups() -> None:
    """Let what tests start hear of a closed terminal, also where `nohup` or a service has started the tests."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    return new_project(tmp_path / "project", monkeypatch)


def new_project(root: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(ledger, "code_fingerprint", shared_fingerprint)
    for module in (load, claims, measures, yaml_file):
        monkeypatch.setattr(module, "load_yaml", load_yaml_once)
    monkeypatch.setattr(study, "TABLES", Tables(table1=TABLES["table1"]))  # one table, of one experiment
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no test's files need to survive a power cut
    root.mkdir()
    shutil.copytree(SOURCE / "configs", root / "configs")
    (root / "pipeline").symlink_to(SOURCE / "pipeline")
    for file in (root / "configs/scale").iterdir():
        file.unlink()
    made = Project(root)
    made.write(SCALE, small_scale())
    made.write("params.yaml", small_params())
    return made


@cache
def small_scale() -> str:
    scale = yaml.safe_load((SOURCE / "configs/scale/tiny.yaml").read_text(encoding="utf-8"))
    for section, sizes in SIZES.items():
        scale[section] |= sizes
    return yaml.safe_dump(scale)


@cache
def small_params() -> str:
    """The real settings with the tests' recipe and one experiment, timing."""
    params = yaml.safe_load((SOURCE / "params.yaml").read_text(encoding="utf-8")) | {"preset": "small"}
    params["recipe"] |= RECIPE
    for experiment in params["experiments"].values():
        experiment["vary"] = {key: [] for key in experiment["vary"]}
    params["experiments"]["timing"]["vary"] = {"branch_percent": [0, 50, 80, 100]}
    return yaml.safe_dump(params, sort_keys=False)


# Whole studies, of tests marked end_to_end


@pytest.fixture(scope="session", name="study")
def finished_study(tmp_path_factory) -> Path:
    """A finished study from nothing, by Snakemake alone, committed; if the kernel allows it, without a network.

    It is made once; each process of pytest-xdist has a copy. Tests that change it work in a copy of their own.
    """
    from test_end_to_end import KEY, OFFLINE, commit, new_project, run

    own = tmp_path_factory.mktemp("study") / "first"
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    made = shared / "made"
    with open(shared / "made.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            folder = new_project(shared / "making")
            run(folder, *OFFLINE, "snakemake", "--cores", "2", "study", WANDB_API_KEY=KEY)
            commit(folder, "done")
            folder.rename(made)
    subprocess.run(["cp", "-a", made, own], check=True)
    return own


@pytest.fixture
def copy(study, tmp_path) -> Path:
    subprocess.run(["cp", "-a", study, tmp_path / "copy"], check=True)
    return tmp_path / "copy"
