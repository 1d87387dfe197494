"""What is read runs nothing, what is loaded calls nobody, and keys are written nowhere."""

import ast
import copyreg
import json
import os
import pickle
import pickletools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import SCALE, SOURCE
from test_config import complaint
from test_training import MODEL, Bench, Killed, data, parent, shared  # noqa: F401

from pipeline.data.formats.question_files import BadRecord
from pipeline.data.formats.refer_records import load_pickle
from pipeline.data.store import TEXT_COLUMNS, FeatureStore, write_shards
from pipeline.model.huggingface import build_decoder, network_config
from pipeline.model.vision import build_encoder, read_transformer
from pipeline.settings.load import load_settings
from pipeline.settings.types import Encoder, ModelSize
from pipeline.settings.vision_transformers import VITS
from pipeline.settings.yaml_file import PLACES, load_yaml
from pipeline.training.batches import OrderedDataset
from pipeline.training.build import build_model
from pipeline.training.checkpoints import read_openlm_moments, read_weights
from pipeline.training.state import load_moments, load_weights

PYTHON = [
    *sorted((SOURCE / "pipeline").rglob("*.py")),
    *sorted((SOURCE / "benchmarks").rglob("*.py")),
]
SHELL = [SOURCE / "Snakefile", SOURCE / ".ci/run", *sorted((SOURCE / "profiles").rglob("*.yaml")), SOURCE / "dvc.yaml"]


# A test that looks: names that run what they read

PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}  # not to be imported
BUILTINS = {"eval", "exec", "compile", "__import__", "breakpoint"}
UNSAFE = {  # full names of what runs, or unpickles, what it reads; not to be referred to
    *BUILTINS,
    *(f"builtins.{name}" for name in BUILTINS),
    *(f"{module}.{name}" for module in PICKLES for name in ("load", "loads", "_load", "_loads", "open")),
    *(f"{module}.{name}" for module in PICKLES for name in ("Unpickler", "_Unpickler")),
    *(f"yaml.{name}" for name in ("load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all")),
    *(f"yaml.{name}Loader" for name in ("", "C", "Full", "CFull", "Unsafe", "CUnsafe")),
    *("os.system", "os.popen", "numpy.load", "pandas.read_pickle", "pandas.io.pickle.read_pickle"),
    *("torch.load", "torch.serialization.load", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"),
}
LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader"}
ASKED = {  # what of it is safe in a call with the right argument: its name, its place, and what it must be
    "torch.load": ("weights_only", None, {"True"}),
    "numpy.load": ("allow_pickle", 2, {"False"}),
    "yaml.load": ("Loader", 1, LOADERS),
    "yaml.load_all": ("Loader", 1, LOADERS),
}
OFF = {"shell", "trust_remote_code", "allow_pickle", "allow_unsafe_types"}  # arguments that may be False alone
# The one use of pickle: a reader that refuses every class and function (see below for tests that try).
ALLOWED = {
    ("pipeline/data/formats/refer_records.py", "import pickle"),
    ("pipeline/data/formats/refer_records.py", "pickle._Unpickler"),
}


def imports(tree: ast.AST) -> dict[str, set[str]]:
    """What the names that a file imports stand for: `import numpy as np` -> {"np": {"numpy"}}."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
            if isinstance(node, ast.ImportFrom):
                here, full = alias.asname or alias.name, f"{'.' * node.level}{node.module or ''}.{alias.name}"
            else:
                here = alias.asname or alias.name.partition(".")[0]
                full = alias.name if alias.asname else here
            found.setdefault(here, set()).add(full)
    return found


def full_names(node: ast.AST, imported: dict[str, set[str]]) -> set[str]:
    """What a name with dots may be, by the imports: `np.load` -> {"numpy.load"}."""
    first, dot, rest = ast.unparse(node).partition(".")
    return {full + dot + rest for full in imported.get(first, {first})}


def is_safe(call: ast.Call, imported: dict[str, set[str]]) -> bool:
    """Whether what is called is unsafe only without an argument (ASKED) that it gets here."""
    functions = full_names(call.func, imported) & UNSAFE
    if not functions <= ASKED.keys():
        return False
    for keyword, place, wanted in (ASKED[function] for function in functions):
        given = [one.value for one in call.keywords if one.arg == keyword]
        given += call.args[place : place + 1] if place else []
        if not any(full_names(value, imported) <= wanted for value in given):
            return False
    return True


def faults(text: str) -> list[str]:
    """What a Python file imports, refers to or calls that could run what it reads."""
    tree = ast.parse(text)
    imported, safe, found = imports(tree), set(), []
    for full in sorted({full for names in imported.values() for full in names}):
        found += [f"import {part}" for part in full.split(".") if part in PICKLES][:1]
        found += [full] if full.endswith(".*") and any(name.startswith(full[:-1]) for name in UNSAFE) else []
    for node in ast.walk(tree):  # a call comes before the name of what it calls
        if isinstance(node, ast.Call):
            safe |= {node.func} if is_safe(node, imported) else set()
            on = [one.arg for one in node.keywords if one.arg in OFF and ast.unparse(one.value) != "False"]
            found += [f"{ast.unparse(node.func)}({name}=...)" for name in on]
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load) and node not in safe:
            found += sorted(full_names(node, imported) & UNSAFE)
    return found


def test_no_code_runs_what_it_reads():
    names = {file.relative_to(SOURCE).as_posix(): file for file in PYTHON}
    found = {(name, fault) for name, file in names.items() for fault in faults(file.read_text(encoding="utf-8"))}
    assert found - set(ALLOWED) == set()


@pytest.mark.parametrize(("name", "fault"), sorted(ALLOWED))
def test_what_is_allowed_is_there(name, fault):
    assert fault in faults((SOURCE / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", SHELL, ids=lambda f: f.relative_to(SOURCE).as_posix())
def test_no_script_runs_what_it_reads_or_downloads(file):
    text = file.read_text(encoding="utf-8")
    assert not re.search(
        r"(?<![-/])\beval\b(?!-)|\bexec\(|curl |wget |trust_remote_code|allow_pickle|shell=True|pickle|joblib", text
    )


UNSAFE_CODE = [  # and what is found in it
    ("import pickle", "import pickle"),
    ("import pickle; pickle.load(f)", "pickle.load"),
    ("import pickle; pickle.loads(b)", "pickle.loads"),
    ("import pickle; class A(pickle.Unpickler): pass", "pickle.Unpickler"),
    ("import pickle; class A(pickle._Unpickler): pass", "pickle._Unpickler"),
    ("import pickle; pickle._Unpickler(f).load()", "pickle._Unpickler"),
    ("import pickle; map(pickle.load, files)", "pickle.load"),
    ("import pickle; read = pickle.loads", "pickle.loads"),
    ("import pickle as p; p.loads(b)", "pickle.loads"),
    ("from pickle import loads; loads(b)", "pickle.loads"),
    ("from pickle import loads as read; read(b)", "pickle.loads"),
    ("from pickle import Unpickler as U; class A(U): pass", "pickle.Unpickler"),
    ("from pickle import *", "import pickle"),
    ("def f(b):\n    from pickle import loads\n    return loads(b)", "pickle.loads"),
    ("from json import load\ndef f(x):\n    from torch import load\n    return load(x)", "torch.load"),
    ("from torch import load\nfrom pickle import load\nload(f, weights_only=True)", "pickle.load"),
    ("from six.moves import cPickle", "import cPickle"),
    ("import _pickle; _pickle.loads(b)", "_pickle.loads"),
    ("import cloudpickle; cloudpickle.load(f)", "cloudpickle.load"),
    ("import dill; dill.load(f)", "dill.load"),
    ("import joblib; joblib.load(f)", "joblib.load"),
    ("import marshal; marshal.loads(b)", "marshal.loads"),
    ("import shelve; shelve.open(f)", "shelve.open"),
    ("import torch; torch.load(f)", "torch.load"),
    ("import torch; torch.load(f, weights_only=False)", "torch.load"),
    ("import torch; torch.load(f, weights_only=flag)", "torch.load"),
    ("import torch; torch.load(f, **options)", "torch.load"),
    ("import torch; map(torch.load, files)", "torch.load"),
    ("import torch; partial(torch.load, weights_only=True)(f, weights_only=False)", "torch.load"),
    ("import torch as t; t.load(f)", "torch.load"),
    ("from torch import load; load(f)", "torch.load"),
    ("from torch import *", "torch.*"),
    ("import torch; torch.jit.load(f)", "torch.jit.load"),
    ("import torch.jit as j; j.load(f)", "torch.jit.load"),
    ("from torch import jit; jit.load(f)", "torch.jit.load"),
    ("import numpy as np; np.load(f)", "numpy.load"),
    ("import numpy as np; np.load(f, allow_pickle=True)", "numpy.load"),
    ("import numpy; numpy.load(f, allow_pickle=1)", "numpy.load"),
    ("import numpy; numpy.load(f, None, True)", "numpy.load"),
    ("from numpy import load as read; read(f)", "numpy.load"),
    ("import pandas as pd; pd.read_pickle(f)", "pandas.read_pickle"),
    ("import pandas; pandas.read_pickle(f)", "pandas.read_pickle"),
    ("from pandas import read_pickle; read_pickle(f)", "pandas.read_pickle"),
    ("import yaml; yaml.load(x)", "yaml.load"),
    ("import yaml; yaml.load(x, yaml.Loader)", "yaml.load"),
    ("import yaml; yaml.load(x, Loader=yaml.UnsafeLoader)", "yaml.UnsafeLoader"),
    ("import yaml; yaml.unsafe_load(x)", "yaml.unsafe_load"),
    ("from yaml import full_load; full_load(x)", "yaml.full_load"),
    ("eval(x)", "eval"),
    ("exec(x)", "exec"),
    ("map(eval, texts)", "eval"),
    ("import builtins; builtins.exec(x)", "builtins.exec"),
    ("import os; os.system(x)", "os.system"),
    ("from os import popen as run; run(x)", "os.popen"),
    ("subprocess.run(x, shell=True)", "subprocess.run(shell=...)"),
    ("subprocess.run(x, shell=flag)", "subprocess.run(shell=...)"),
    ("Model.from_pretrained(x, trust_remote_code=True)", "Model.from_pretrained(trust_remote_code=...)"),
    ("StreamingDataset(x, allow_unsafe_types=1)", "StreamingDataset(allow_unsafe_types=...)"),
]


def test_the_test_that_looks_sees():
    unseen = [(code, fault) for code, fault in UNSAFE_CODE if fault not in faults(code.replace("; class", "\nclass"))]
    assert unseen == []


def test_the_test_that_looks_sees_no_more():
    safe = [
        "import torch; torch.load(f, map_location='cpu', weights_only=True)",
        "from torch import load as read; read(f, weights_only=True)",
        "import numpy as np; np.load(f, mmap_mode='r', allow_pickle=False)",
        "import numpy as np; np.load(f, None, False); np.loadtxt(f)",
        "import yaml; yaml.safe_load(x); yaml.load(x, yaml.CSafeLoader); yaml.compose(x, Loader=yaml.SafeLoader)",
        "from yaml import SafeLoader, load_all; load_all(x, Loader=SafeLoader)",
        "import json; json.load(f); json.loads(b); map(json.loads, lines)",
        "from json import load; load(f)",
        "from re import compile; compile(x)",
        "from safetensors.torch import load, load_file; load(b)",
        "model.eval(); re.compile(x); torch.compile(model); Image.open(f).load()",
        "from pipeline.model import pickles; pickles.load(f)",
        "subprocess.run(x, shell=False); Model.from_pretrained(x, trust_remote_code=False)",
        "class A:\n    compile: bool = True\n    def load(self): ...",
        "import ast; ast.literal_eval(x)",
        "'pickle.load(f)'  # pickle.load(f)",
    ]
    assert [code for code in safe if faults(code)] == []


# A test that tries: files that would leave a mark if anything in them ran


class Evil:
    """Pickled, this makes a file when it is loaded."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path):
    """What exists if something was run."""
    path = tmp_path / "RUN"
    yield path
    assert not path.exists(), "it was run"


def test_the_mark_is_made_by_an_unsafe_reader(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "RUN")))
    assert (tmp_path / "RUN").is_dir()


WRITERS = {
    "pickle": lambda value, file: file.write_bytes(pickle.dumps(value)),
    "torch": lambda value, file: torch.save({"state_dict": {"tok_embeddings.weight": value}, "optimizer": value}, file),
    "torch, old": lambda value, file: torch.save({"state_dict": value}, file, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_published_checkpoint_runs_nothing(tmp_path, mark, writer):
    size = ModelSize(**MODEL)
    decoder = build_model(size, None, 1, 1).decoder
    file = tmp_path / "epoch_1.pt"
    WRITERS[writer](Evil(mark), file)
    with pytest.raises(ValueError, match=r"epoch_1\.pt: .*nothing was run"):
        read_weights("openlm", file, decoder, size)
    with pytest.raises(ValueError, match=r"epoch_1\.pt: .*nothing was run"):
        read_openlm_moments(file, file, decoder)
    neox = size.model_copy(update={"family": "gpt_neox", "config": {}})
    configs = {"openlm": {"model_type": "openlm"}, "huggingface": network_config(neox).to_dict()}
    for layout, shape in {"openlm": size, "huggingface": neox}.items():
        folder = tmp_path / layout
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(configs[layout]))
        WRITERS[writer](Evil(mark), folder / "model.safetensors")
        with pytest.raises(
            ValueError, match=r"model\.safetensors: (a pickle, which is not read|not a whole safetensors)"
        ):
            read_weights(layout, folder, build_decoder(shape), shape)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", ["model", "optimizer"])
def test_a_state_of_the_study_runs_nothing(bench, parent, mark, writer, name):  # noqa: F811
    broken = bench.folder / "broken"
    broken.mkdir()
    for file in parent.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    WRITERS[writer](Evil(mark), broken / f"{name}.safetensors")
    model = build_model(ModelSize(**MODEL), None, 1, 1)
    with pytest.raises(ValueError, match=rf"broken/{name}\.safetensors: is not a whole safetensors file"):
        if name == "model":
            load_weights(model, broken)
        else:
            load_moments(model, torch.optim.AdamW(model.parameters()), broken)
    with pytest.raises(ValueError, match=rf"broken/{name}\.safetensors: is not a whole safetensors file"):
        bench.run(bench.cooldown(broken))


@pytest.fixture
def bench(tmp_path, data) -> Bench:  # noqa: F811
    return Bench(tmp_path, data)


@pytest.mark.parametrize("writer", WRITERS)
def test_an_encoders_weights_run_nothing(tmp_path, mark, writer):
    (tmp_path / "weights").mkdir()
    WRITERS[writer](Evil(mark), tmp_path / "weights" / "lite0.pth")
    encoder = Encoder(
        kind="efficientnet_lite0", weights=f"{tmp_path}/weights", pixels=32, patches=1, width=1282, cache=True
    )
    with pytest.raises(ValueError, match=r"lite0\.pth: .*nothing was run"):
        build_encoder(encoder)
    kind, vit = next(iter(VITS.items()))
    WRITERS[writer](Evil(mark), tmp_path / f"{kind}.safetensors")
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        read_transformer(tmp_path / f"{kind}.safetensors", vit, (2, 2))


def test_features_run_nothing(tmp_path, mark):
    np.save(tmp_path / "features.npy", np.array([Evil(mark)], dtype=object), allow_pickle=True)
    (tmp_path / "ids.json").write_text('["a"]')
    with pytest.raises(ValueError, match=r"features\.npy: missing or damaged"):
        FeatureStore(tmp_path)
    (tmp_path / "features.npy").write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(ValueError, match=r"features\.npy: missing or damaged"):
        FeatureStore(tmp_path)


def test_shards_run_nothing(tmp_path, mark):
    """MDS knows a column of pickles: an index that asks for it is refused before a sample is read."""
    columns = {"tokens": "pkl"}
    write_shards(tmp_path / "shards", columns, [{"tokens": Evil(mark)}] * 3)
    with pytest.raises(ValueError, match=r"(?i)unsafe|allow_unsafe_types"):
        OrderedDataset({"text": tmp_path / "shards"}, {"text": 3}, seed=1, batch=1)
    assert TEXT_COLUMNS["tokens"] != "pkl"


def payloads(mark: Path) -> dict[str, bytes]:
    """Pickles that call something, by every opcode that can name or call it."""
    path = str(mark).encode()
    text = b"X" + len(path).to_bytes(4, "little") + path
    return {
        "reduce": b"cos\nmkdir\n(" + text + b"tR.",
        "stack_global": b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93(" + text + b"tR.",
        "inst": b"(" + text + b"ios\nmkdir\n.",
        "obj": b"(cos\nmkdir\n" + text + b"o.",
        "newobj": b"\x80\x02cbuiltins\nobject\n)\x81.",
        "extension": b"\x80\x02\x82\xf0(" + text + b"tR.",
        "persistent": b"Pos.mkdir\n.",
        "build": b"\x80\x02}}X\x0c\x00\x00\x00__setstate__cos\nmkdir\nsb.",
        "nested": pickle.dumps([{"sentences": [Evil(mark)]}]),
    }


@pytest.mark.parametrize("how", payloads(Path("x")))
def test_refcocos_pickle_runs_nothing(tmp_path, mark, how, monkeypatch):
    monkeypatch.setitem(copyreg._inverted_registry, 0xF0, ("os", "mkdir"))
    file = tmp_path / "refs(unc).p"
    file.write_bytes(payloads(mark)[how])
    with pytest.raises(BadRecord, match="is not a pickle of plain data") as error:
        load_pickle(file)
    assert "\n" not in str(error.value)


def test_every_way_for_a_pickle_to_name_something_is_tried():
    names = {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "REDUCE", "BUILD", "EXT1", "PERSID"}
    used = set()
    for payload in payloads(Path("x")).values():
        try:
            used |= {opcode.name for opcode, _, _ in pickletools.genops(payload)}
        except ValueError as error:
            raise AssertionError(f"{payload!r} is no pickle: {error}") from None
    assert names <= used


def test_plain_pickles_are_read(tmp_path):
    refs = [{"ref_id": 1, "sentences": [{"sent": "left", "sent_id": 3}], "box": (1.5, None, True)}]
    for protocol in range(5):
        (tmp_path / "refs.p").write_bytes(pickle.dumps(refs, protocol))
        assert load_pickle(tmp_path / "refs.p") == refs


# Configurations

TAGS = {
    "apply": "preset: !!python/object/apply:os.mkdir ['{mark}']\n",
    "new": "preset: !!python/object/new:os.mkdir ['{mark}']\n",
    "name": "preset: !!python/name:os.mkdir\n",
    "module": "preset: !!python/module:os\n",
    "object": "preset: !!python/object:pathlib.Path {{}}\n",
    "function of lm-eval": "preset: !function os.mkdir\n",
}


@pytest.mark.parametrize("file", ["params.yaml", SCALE])
@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_in_a_configuration_runs_nothing(project, mark, file, tag):
    project.write(file, TAGS[tag].format(mark=mark))
    assert complaint(project).startswith(f"{file}: (file): found 'could not determine a constructor for the tag")


SECRET = "sk-0123456789abcdef"
RESOLVERS = [
    "${oc.env:WANDB_API_KEY}",
    "x${oc.env:NOT_SET,${oc.env:WANDB_API_KEY}}",
    "${oc.decode:${oc.env:WANDB_API_KEY}}",
]


@pytest.mark.parametrize("value", RESOLVERS)
@pytest.mark.parametrize("key", ["preset", "wandb", "recipe.captions", "experiments.captions.vary.captions.0"])
def test_the_environment_stays_out_of_settings(project, monkeypatch, key, value):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    project.set("params.yaml", "experiments.captions.vary.captions", ["full"])
    project.set("params.yaml", key, value)
    line = complaint(project)
    assert line.startswith(f"params.yaml: {key}: found {value!r}, allowed: a plain value; ")
    assert SECRET not in line


def test_a_reference_to_another_value_is_no_way_around(project, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    project.write(
        "configs/data/mine.yaml", "source: {root: '${oc.env:WANDB_API_KEY}', bad_records: '${source.root}'}\n"
    )
    with pytest.raises(ValueError, match=r"source\.bad_records: found '\$\{source\.root\}'"):
        load_yaml(project.root / "configs/data/mine.yaml", project.root)


def test_places_may_come_from_the_environment_and_go_into_no_card(project, monkeypatch):
    monkeypatch.setenv("CORPORA", "/somewhere")
    value = load_yaml(SOURCE / "configs/data/paper.yaml", SOURCE)
    assert value["source"]["root"] == value["source"]["evaluation"]["root"] == "/somewhere"
    used = set()
    for file in sorted((SOURCE / "configs").rglob("*.yaml")):
        used |= {line.split(":")[0].strip() for line in file.read_text().splitlines() if "${" in line}
    assert used == {"root"} <= set(PLACES)


@pytest.mark.parametrize("resolver", ["eval", "now", "hydra:job.name", "python:os.getcwd", "oc.nothing:1"])
def test_there_are_no_other_resolvers(project, resolver):
    params = project.root / "params.yaml"  # where no reference is allowed at all, no resolver is asked
    params.write_text(params.read_text(encoding="utf-8") + f"root: ${{{resolver}}}\n", encoding="utf-8")
    assert complaint(project).startswith("params.yaml: (file): found ")


# Nobody is called

OFFLINE = """
import socket, sys

class Socket(socket.socket):
    def __init__(self, family=-1, *arguments, **options):
        if family in (-1, socket.AF_INET, socket.AF_INET6):
            raise AssertionError("a socket was opened")
        super().__init__(family, *arguments, **options)

def refuse(*arguments, **options):
    raise AssertionError(f"a name was looked up: {arguments}")

socket.socket = Socket
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse
import importlib, pkgutil
import pipeline
for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
    if module.name not in ("pipeline.__main__", "pipeline.export.modeling_when_images"):
        importlib.import_module(module.name)
import composer, wandb
from pathlib import Path
from pipeline.engines.workflow import open_ledger
print(len(open_ledger(Path(".")).jobs))
"""


def test_importing_and_planning_opens_no_socket():
    done = subprocess.run([sys.executable, "-c", OFFLINE], cwd=SOURCE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) > 100


def test_the_guard_sees_a_call():
    code = OFFLINE.split("import importlib")[0] + "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode and "AssertionError" in done.stderr


# Keys


def test_weights_and_biases_is_off_unless_asked_for():
    assert load_settings(SOURCE).params.wandb == "disabled"
    for file in (SOURCE / "configs/studies").glob("*.yaml"):
        assert yaml.safe_load(file.read_text()).get("wandb", "disabled") == "disabled"


@pytest.mark.parametrize("fails", [False, True], ids=["finished", "failed"])
def test_keys_are_written_nowhere_by_a_job_that_logs_offline(bench, parent, monkeypatch, capfd, fails):  # noqa: F811
    keys = {name: f"{SECRET}-{name}" for name in ("WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN")}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(bench.folder)
    job = bench.finetune(parent)
    job.resume = bench.folder / ".study/resume/job"
    job.context |= {"wandb": "offline", "experiments": ["timing"]}
    if fails:
        job.progress.kill_at = 2
        with pytest.raises(Killed):
            bench.run(job)
    else:
        bench.run(job)
    assert list((bench.folder / ".study/wandb").glob("offline-run-*"))
    written = [file for file in bench.folder.rglob("*") if file.is_file()]
    holders = [file for file in written if any(key.encode() in file.read_bytes() for key in keys.values())]
    assert holders == []
    said = "".join(capfd.readouterr())
    assert not any(key in said for key in keys.values())


def test_job_files_and_cards_hold_no_keys(project, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    project.make()
    project.ledger().write_jobs()
    assert not [f for f in project.root.rglob("*") if f.is_file() and SECRET.encode() in f.read_bytes()]


# What is installed


def test_every_package_in_the_lock_has_a_hash():
    lock = tomllib.loads((SOURCE / "uv.lock").read_text(encoding="utf-8"))
    without = []
    for package in lock["package"]:
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        local = "virtual" in package["source"] or "editable" in package["source"]
        if not local and (not files or not all(file.get("hash", "").startswith("sha256:") for file in files)):
            without.append(package["name"])
    assert without == []
    assert len(lock["package"]) > 100


def test_packages_come_from_one_registry():
    lock = tomllib.loads((SOURCE / "uv.lock").read_text(encoding="utf-8"))
    assert {package["source"].get("registry", "here") for package in lock["package"]} == {
        "https://pypi.org/simple",
        "here",
    }
