"""The order of the house: data flows one way through the imports, libraries stay in their rooms, everything says what it is."""

import ast
from functools import cache
from pathlib import Path

import pytest

from pipeline.store.fingerprint import module_file

ROOT = Path(__file__).parents[1]
# The rooms, folders of pipeline/: each may import what comes before it. `python -m pipeline` may import all.
ROOMS = (
    "common",
    "statistics",
    "settings",
    "data",
    "model",
    "training",
    "evaluation",
    "reporting",
    "study",
    "store",
    "execution",
    "export",
    "engines",
    "commands",
)
TOP = {"__init__", "__main__"}
LONGEST = 420  # lines of a file; most have fewer than 200
# Libraries that some modules alone import. (Composer's launcher, which pipeline/execution/ranks.py starts, is a program.)
USERS = {
    "composer": ("pipeline.training.",),
    "snakemake": (),  # it calls this project, through the Snakefile; no module calls it
    "dvc": ("pipeline.engines.dvc",),  # its schema of dvc.lock, to know a torn one
    "wandb": ("pipeline.training.",),
    "lm_eval": ("pipeline.evaluation.lm_eval_engine",),
}
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in ROOT.glob("pipeline/**/*.py")
    if file.stem != "__init__"
)
FILES = [file for folder in ("pipeline", "tests", "benchmarks") for file in sorted((ROOT / folder).rglob("*.py"))]


@cache
def imports(module: str) -> frozenset[str]:
    """Dotted names that a module imports anywhere, but for annotations alone."""
    tree = ast.parse(module_file(ROOT, module).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return frozenset(found)


def against_the_order(module: str, imported: frozenset[str]) -> set[str]:
    """What a module imports from a room that comes after its own."""
    room = module.split(".")[1]
    if room in TOP:
        return set()
    later = ROOMS[ROOMS.index(room) + 1 :]
    names = [name.split(".") for name in imported]
    return {".".join(parts) for parts in names if parts[0] == "pipeline" and parts[1:2] and parts[1] in later}


def circles(graph: dict[str, set[str]]) -> list[str]:
    """The nodes of a graph from which a way leads back to them."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [*graph[start]]
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                waiting += graph.get(node, ())
        return found

    return [node for node in graph if node in reached(node)]


def test_there_are_two_files_at_the_top_and_the_rest_has_a_room():
    inside = {path.stem if path.is_file() else path.name for path in (ROOT / "pipeline").iterdir()}
    assert inside - {"__pycache__"} == {*TOP, *ROOMS}


def test_nothing_is_imported_against_the_order():
    found = {module: against_the_order(module, imports(module)) for module in MODULES}
    assert {module: names for module, names in found.items() if names} == {}


def test_an_import_against_the_order_is_seen():
    assert against_the_order("pipeline.data.store", frozenset({"pipeline.common.files", "pipeline.model.vlm"})) == {
        "pipeline.model.vlm"
    }
    assert against_the_order("pipeline.training.train", frozenset({"pipeline.study.job"})) == {"pipeline.study.job"}


def test_no_module_imports_itself_on_a_way_around():
    known = set(MODULES)
    assert circles({module: set(imports(module)) & known for module in MODULES}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


def test_no_file_is_too_long_to_read():
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in (ROOT / "pipeline").rglob("*.py")}
    assert {file: number for file, number in lines.items() if number > LONGEST} == {}


@pytest.mark.parametrize("library", USERS)
def test_libraries_stay_in_their_rooms(library):
    users = {module for module in MODULES if any(name.split(".")[0] == library for name in imports(module))}
    assert {module for module in users if not module.startswith(USERS[library] or ("-",))} == set()
    assert not USERS[library] or users  # a room that stands empty is no rule


def test_every_file_says_what_it_is():
    said = {file: ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) for file in FILES}
    assert [file for file, words in said.items() if not words or len(words.splitlines()[0].split()) < 3] == []


def test_every_folder_of_the_pipeline_says_what_it_is():
    folders = {file.parent for file in ROOT.glob("pipeline/**/*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []
