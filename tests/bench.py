"""Where bad input is tried: small whole projects of every kind, and the commands that a user or Snakemake would start.

Files are written by other hands than the readers' (see official.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import official
import pytest
import safetensors.torch
import torch
import transformers
import yaml
import zstandard
from conftest import SCALE, SOURCE, Project, new_project
from official import prose
from test_benchmarks import RECORDS

from pipeline.__main__ import main
from pipeline.common.files import read_json
from pipeline.data.corpora import samples
from pipeline.data.store import verify_shards
from pipeline.data.tokenizer import train_tokenizer
from pipeline.engines.workflow import Workflow
from pipeline.evaluation.benchmarks import BENCHMARKS
from pipeline.store import artifacts

PARAMS, DATA, TASKS = "params.yaml", "configs/data/real.yaml", "configs/tasks/real.yaml"
PAPER = yaml.safe_load((SOURCE / "configs/data/paper.yaml").read_text())["source"]
SEQUENCE, ROWS, SAMPLES = 64, 320, 12
OWN = {"revision": "1", "licence": "own"}
FINETUNED = "FINETUNED"  # stands for the id of a model
MODEL = {"vocabulary": ROWS, "layers": 2, "heads": 2, "width": 32, "sequence": SEQUENCE}


@dataclass(frozen=True)
class Case:
    """What is fed to a command, and what must come of it.

    `ends` is an exit code, "quarantined", or "read" for what looks bad and is not; `says` must be part of the one line
    (of a record that is quarantined: of its file, its name and the reason), or tells what is made of what is read.
    """

    part: str
    fed: str
    feed: Callable[[Path], object]
    says: str
    ends: int | str
    command: tuple[str, ...]

    @property
    def id(self) -> str:
        return f"{self.part}: {self.fed}"


@dataclass
class Outcome:
    """What a command left: its exit code, what was on the screen, the line that counts, and what is in the folder.

    `strays` are files that were made or changed outside the workflow's own folders, but for jobs that were finished.
    """

    code: int
    screen: str
    line: str
    strays: list[str] = field(default_factory=list)
    quarantine: list[dict] = field(default_factory=list)
    measured: dict = field(default_factory=dict)
    sequences: int = 0  # in whole shards


# --- the commands -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def streams(screen: Path) -> Iterator[None]:
    """Standard output and error as a process of its own would have them, in a file."""
    kept = os.dup(1), os.dup(2)
    with open(screen, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        with (
            open(1, "w", closefd=False) as out,
            open(2, "w", closefd=False) as err,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            yield
    finally:
        for number, copy in enumerate(kept, 1):
            os.dup2(copy, number)
            os.close(copy)


def start(arguments: tuple[str, ...], screen: Path) -> tuple[int, str]:
    """The exit code of a command, `python -m pipeline ARGUMENTS` or what Snakemake does first, and what it showed."""
    samples.captions_at.cache_clear()  # it would be a process of its own
    samples.tokenizer_at.cache_clear()
    with streams(screen):
        try:
            if arguments[0] == "snakemake":
                Workflow(Path("."), {}, main=True).start(here=False)
                code = 0
            else:
                code = main(list(arguments))
        except SystemExit as stop:
            code = stop.code
    return code, screen.read_text()


def looks(root: Path) -> dict[str, tuple[int, int]]:
    """Size and date of every file of a project, links as themselves; not the package's."""
    found = {}
    for folder, folders, names in os.walk(root):
        for name in (*names, *(name for name in folders if os.path.islink(os.path.join(folder, name)))):
            stat = os.lstat(path := os.path.join(folder, name))
            found[os.path.relpath(path, root)] = stat.st_size, stat.st_mtime_ns
    return found


def restore(work: Path, base: Path) -> None:
    """Make a copy that was spoilt like what it is a copy of, file by file."""
    now, wanted = looks(work), looks(base)
    for name in now.keys() - wanted.keys():
        (work / name).unlink()
    for name in (name for name in wanted if now.get(name) != wanted[name]):
        if (work / name).is_dir():
            (work / name).rmdir()
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(base / name, work / name, follow_symlinks=False)
    for folder, _, _ in os.walk(work, topdown=False):
        if not os.listdir(folder) and not (base / os.path.relpath(folder, work)).exists():
            os.rmdir(folder)


class Bench:
    """Whole projects, each made once, and copies of them to spoil."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch):
        self.folder, self.patch = folder, patch
        self.outcomes: dict[str, Outcome] = {}

    def outcome(self, case: Case) -> Outcome:
        if case.id not in self.outcomes:
            self.outcomes[case.id] = self.carry_out(case)
        return self.outcomes[case.id]

    def carry_out(self, case: Case) -> Outcome:
        base, *command = case.command
        root = self.copy(getattr(self, base))
        self.patch.chdir(root)
        case.feed(root)
        before = looks(root)
        if " " in command[0]:
            outcome = self.run_jobs(root, command)
        else:
            if FINETUNED in command:
                command[command.index(FINETUNED)] = min(file.name for file in (root / "artifacts/finetune").iterdir())
            code, screen = start(tuple(command), self.folder / "screen")
            outcome = Outcome(code, screen, screen.splitlines()[-1] if screen else "")
        done = tuple(f"{card.parent.relative_to(root)}/" for card in (root / "artifacts").rglob("card.json"))
        own = (".study/", "logs/") + (done if " " in command[0] else ())
        now = looks(root)
        outcome.strays = sorted(name for name in now if now[name] != before.get(name) and not name.startswith(own))
        self.patch.chdir(self.folder)
        outcome.line = plain(outcome.line, root)
        return outcome

    def copy(self, base: Path) -> Path:
        """A copy of a project, to be spoilt."""
        root = base.with_name(f"{base.name}-copy")
        if root.exists():
            restore(root, base)
        else:
            shutil.copytree(base, root, symlinks=True)
        return root

    def run_jobs(self, root: Path, names: list[str]) -> Outcome:
        """Carry out jobs, "PHASE LABEL" each, until one fails."""
        for name in names:
            phase, label = name.split()
            (job,) = (root / ".study/jobs" / phase).glob(f"{label}-????????.json")
            arguments = ("run", str(job.relative_to(root)), "--log", f"logs/{phase}.log")
            code, screen = start(arguments, self.folder / "screen")
            outcome = Outcome(code, screen, screen.splitlines()[-1] if screen else "")
            if code:
                return outcome
        folder = root / read_json(job)["folder"]
        outcome.measured = read_json(folder / "measured.json")
        if (folder / "quarantine.jsonl").exists():
            outcome.sequences = verify_shards(folder)
            outcome.quarantine = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
            if outcome.quarantine:
                outcome.line = "{file}: record {record}: {reason}".format(**outcome.quarantine[0])
        return outcome

    # --- the projects ---

    @cached_property
    def empty(self) -> Path:
        (self.folder / "empty").mkdir()
        return self.folder / "empty"

    @cached_property
    def project(self) -> Path:
        """The study of composed scenes, and a fine-tuned model's artifact of which nothing is real but the lists."""
        project = new_project(self.folder / "project", self.patch)
        project.make()
        for job in project.ledger().jobs:
            artifacts.record_verified(project.root, job.folder, job.files)
        return project.root

    @cached_property
    def real(self) -> Path:
        """A project of real corpora of every kind, and its tokenizer."""
        project = new_project(self.folder / "real", self.patch)
        root = project.root
        official.dclm_raw(root / "corpora/dclm", files=2, documents=SAMPLES)
        official.dclm_raw(root / "corpora/heldout", files=1, documents=4)
        official.dclm_tokenized(root / "corpora/tokens", [[[7 + n % 9] * (SEQUENCE + 1) for n in range(4)]])
        official.img2dataset(root / "corpora/cc12m", files=1, samples=SAMPLES)
        official.datacompdr(root / "corpora/dr", range(SAMPLES), files=1)
        official.llava(root / "corpora/llava", records=SAMPLES)
        for name, write in official.BENCHMARKS.items():
            write(root / "corpora" / name)
        choices = [{"id": str(n), "context": "c", "choices": [" x", " y"], "gold": 1} for n in range(3)]
        (root / "corpora/choices").mkdir()
        (root / "corpora/choices/copa.jsonl").write_text("".join(json.dumps(one) + "\n" for one in choices))
        train_tokenizer(map(prose, range(20)), 300, root / "corpora/tokenizer.json")
        images = OWN | {"path": "cc12m"}
        benchmarks = {name: made | {"path": name} for name, made in PAPER["evaluation"]["test"].items()}
        source = {
            **{"root": "corpora", "workers": 1, "bad_records": 0.6, "tokenizer": "tokenizer.json"},
            "text": {
                "dclm": OWN | {"path": "dclm", "format": "dclm_raw"},
                "tokens": OWN | {"path": "tokens", "format": "dclm_tokenized"},
            },
            "heldout": OWN | {"path": "heldout"},
            "choices": OWN | {"path": "choices"},
            "captions": {
                "full": OWN | {"path": "cc12m", "format": "img2dataset", "verify": True},
                "dr": OWN | {"path": "dr", "format": "datacompdr", "verify": True, "images": images},
            },
            "instructions": {"llava": PAPER["instructions"]["llava"] | {"path": "llava"}},
            "evaluation": {"test": benchmarks},
        }
        tasks = yaml.safe_load((SOURCE / "configs/tasks/scenes.yaml").read_text())
        plain = {"prompt": "{question}", "scorer": "vqa", "chance": 0.0, "stable": True, "longest": 8}
        tasks["vision"] = {name: plain | {"format": made["format"]} for name, made in benchmarks.items()}
        project.write(DATA, yaml.safe_dump({"source": source, "boxes": "resize", "licences": []}))
        project.write(TASKS, yaml.safe_dump(tasks))
        project.set(PARAMS, "data", "real")
        project.set(PARAMS, "tasks", "real")
        project.set(SCALE, "data", None)
        project.set(SCALE, "evaluation.heldout_documents", 4)
        self.patch.chdir(root)
        for captions in ("dr", "full"):
            project.set(PARAMS, "recipe.captions", captions)
            project.ledger().write_jobs()
        self.make(root, "tokenizer")
        return root

    @cached_property
    def huggingface(self) -> Path:
        config = {"intermediate_size": 64}
        made = transformers.GPTNeoXConfig(
            **{"vocab_size": ROWS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
            **config,
            pad_token_id=None,
        )
        torch.manual_seed(1)
        model = transformers.GPTNeoXForCausalLM(made)
        place = {"path": "step100"}
        project = self.published(
            "huggingface", place, {"layout": "huggingface", "family": "gpt_neox", "config": config}
        )
        model.save_pretrained(project.root / "weights/step100")
        return project.root

    @cached_property
    def openlm(self) -> Path:
        place = {"path": "epoch_1.pt", "optimizer": "optimizer_1.pt"}
        project = self.published("openlm", place, {"layout": "openlm"})
        tensors = openlm_tensors()
        moments = {
            n: {"exp_avg": t * 0, "exp_avg_sq": t * 0, "step": torch.tensor(9.0)}
            for n, t in enumerate(tensors.values())
        }
        torch.save({"epoch": 1, "state_dict": tensors}, project.root / "weights/epoch_1.pt")
        torch.save({"optimizer": {"state": moments, "param_groups": []}}, project.root / "weights/optimizer_1.pt")
        return project.root

    def published(self, name: str, place: dict, layout: dict) -> Project:
        """A project whose text run is one published state, which is still to be written."""
        project = new_project(self.folder / name, self.patch)
        (project.root / "weights").mkdir()
        schedule = {"tokens": 100 * 8 * SEQUENCE, "batch": 8, "peak_lr": 0.01, "floor_lr": 0.0001, "warmup_steps": 5}
        schedule |= {"weight_decay": 0.1, "decay_vectors": True, "clip_norm": 1.0, "z_loss": 0.0}
        checkpoints = {
            **{"root": "weights", "licence": "theirs", "tokenizer": "tokenizer.json", "sequence": SEQUENCE},
            **{"end": "<|endoftext|>", "schedule": schedule},
            "checkpoints": [{"tokens": 100 * 8 * SEQUENCE, "revision": "last", **place}],
        }
        project.write("configs/checkpoints/theirs.yaml", yaml.safe_dump(checkpoints | layout))
        train_tokenizer(map(prose, range(20)), 300, project.root / "weights/tokenizer.json")
        for key, value in (("text", {"from": "theirs"}), ("larger", None), ("model", MODEL)):
            project.set(SCALE, key, value)
        project.set(PARAMS, "recipe.moments", "keep" if "optimizer" in place else "fresh")
        project.set(PARAMS, "recipe.branch_percent", 100)
        project.set(PARAMS, "experiments.timing.vary.branch_percent", [0, 100])
        self.patch.chdir(project.root)
        project.ledger().write_jobs()
        return project

    @cached_property
    def evaluate(self) -> Path:
        """A text model with its tokenizer and every text benchmark, and the job that evaluates it."""
        from pipeline.model.decoder import DecoderShape
        from pipeline.model.vlm import VLM

        root = self.folder / "evaluate"
        for name, records in RECORDS.items():
            official.dump(root / f"source/evaluation/text/{name}/{BENCHMARKS[name].split}.json", records)
        (root / "source/text").mkdir()
        (root / "source/text/heldout-00000.jsonl.zst").write_bytes(zstandard.compress(b'{"text": "a cat"}\n'))
        (root / "checkpoint").mkdir()
        (root / "tokenizer").mkdir()
        train_tokenizer([json.dumps(RECORDS)] * 3, ROWS, root / "tokenizer/tokenizer.json")
        model = VLM(DecoderShape(*(MODEL[key] for key in ("vocabulary", "layers", "heads", "width"))))
        safetensors.torch.save_file(model.state_dict(), root / "checkpoint/model.safetensors")
        settings = {
            **{"model": MODEL, "encoder": None, "vision": {}, "captioning": None, "conditions": [], "split": "test"},
            "evaluation": {"batch": 5, "text_items": 9, "heldout_documents": 1},
            "hardware": {"device": "cpu", "threads": 1},
            "text": {name: {"benchmark": name} for name in RECORDS},
        }
        job = {
            "card": {"phase": "evaluate", "id": "model-00000000", "settings": settings, "code": {}, "parents": {}},
            "inputs": {"checkpoint": "checkpoint", "tokenizer": "tokenizer", "text": "source"},
            **{"folder": "artifacts/evaluate/model", "published": None, "continues": None, "position": None},
            "context": {"evaluation_processes": 1},
        }
        official.dump(root / ".study/jobs/evaluate/model-00000000.json", job)
        return root

    @cached_property
    def captioning(self) -> Path:
        """The same with a model that looks at images, and the job that has it caption two of COCO's."""
        from pipeline.model.decoder import DecoderShape
        from pipeline.model.vlm import VLM

        root = self.folder / "captioning"
        shutil.copytree(self.evaluate, root)
        folder = root / "corpora/coco/evaluation/test"
        official.coco_captions(folder / "captioning", folder / "images")
        (folder / "captioning/captions_val2014.json").rename(folder / "captioning/captions.json")
        encoder = {"kind": "patch", "pixels": 64, "patches": 4, "width": 3 * 32 * 32 + 4, "cache": False}
        shape = DecoderShape(*(MODEL[key] for key in ("vocabulary", "layers", "heads", "width")))
        safetensors.torch.save_file(VLM(shape, encoder["width"]).state_dict(), root / "checkpoint/model.safetensors")
        file = root / ".study/jobs/evaluate/model-00000000.json"
        job = read_json(file)
        job["inputs"]["questions"] = "corpora/coco"
        job["card"]["settings"] |= {"encoder": encoder, "captioning": {"longest": 3}, "text": {}}
        official.dump(file, job)
        return root

    def make(self, root: Path, phase: str) -> None:
        for job in (root / ".study/jobs" / phase).iterdir():
            code, screen = start(("run", str(job), "--log", "logs/made.log"), self.folder / "screen")
            assert code == 0, screen


def openlm_tensors() -> dict[str, torch.Tensor]:
    """Weights of an OpenLM model by its names; sizes as in MODEL."""
    width, hidden = MODEL["width"], 256
    torch.manual_seed(2)
    made = {"tok_embeddings.weight": torch.randn(ROWS, width)}
    for n in range(MODEL["layers"]):
        layer = {
            "attention.in_proj.weight": (3 * width, width),
            "attention.out_proj.weight": (width, width),
            "attention.q_norm.weight": (width,),
            "attention.k_norm.weight": (width,),
            "feed_forward.w12.weight": (2 * hidden, width),
            "feed_forward.w3.weight": (width, hidden),
            "attention_norm.weight": (width,),
            "ffn_norm.weight": (width,),
        }
        made |= {f"layers.{n}.{name}": torch.randn(shape) for name, shape in layer.items()}
    return made | {"norm.weight": torch.ones(width), "output.weight": torch.randn(ROWS, width)}


def plain(line: str, root: Path) -> str:
    """A line without what is of this machine, and without the hashes in names."""
    line = line.replace(f"{root}/", "").replace(str(root), ".")
    line = re.sub(r"-[0-9a-f]{8}(-[0-9a-f]{16})?(?=[:/\s,]|$)", "", line)
    return re.sub(r"\b[0-9a-f]{64}\b", "SHA256", line)
