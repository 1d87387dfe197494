"""The order of the house: data flows one way through the imports, libraries stay in their rooms, everything says what it is."""

import ast
from functools import cache
from pathlib import Path

import pytest

from pipeline.cards import module_file

ROOT = Path(__file__).parents[1]
FLOW = ("data", "model", "training", "evaluation", "reporting")  # each may use what comes before it
SHARED = {"files", "phase", "processes", "progress", "sections"}  # what every step may use beside that
# Libraries that some modules alone import. (Composer's launcher, which pipeline/ranks.py starts, is a program.)
ROOMS = {
    "composer": ("pipeline.training.",),
    "snakemake": (),  # it calls this project, through the Snakefile; no module calls it
    "dvc": ("pipeline.workflow",),  # its schema of dvc.lock, to know a torn one
    "wandb": ("pipeline.training.",),
    "lm_eval": ("pipeline.evaluation.harness",),
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


def against_the_flow(module: str, imported: frozenset[str]) -> set[str]:
    """What a module of a step imports from a later step, or from what arranges the steps."""
    step = module.split(".")[1]
    if step not in FLOW:
        return set()
    allowed = {*FLOW[: FLOW.index(step) + 1], *SHARED}
    names = [name.split(".") for name in imported]
    return {".".join(parts) for parts in names if parts[0] == "pipeline" and len(parts) > 1 and parts[1] not in allowed}


def test_nothing_is_imported_against_the_flow():
    found = {module: against_the_flow(module, imports(module)) for module in MODULES}
    assert {module: names for module, names in found.items() if names} == {}


def test_an_import_against_the_flow_is_seen():
    assert against_the_flow("pipeline.data.text", frozenset({"pipeline.files", "pipeline.model.vlm"})) == {
        "pipeline.model.vlm"
    }
    assert against_the_flow("pipeline.training.train", frozenset({"pipeline.study"})) == {"pipeline.study"}


@pytest.mark.parametrize("library", ROOMS)
def test_libraries_stay_in_their_rooms(library):
    users = {module for module in MODULES if any(name.split(".")[0] == library for name in imports(module))}
    assert {module for module in users if not module.startswith(ROOMS[library] or ("-",))} == set()
    assert not ROOMS[library] or users  # a room that stands empty is no rule


def test_every_file_says_what_it_is():
    said = {file: ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) for file in FILES}
    assert [file for file, words in said.items() if not words or len(words.splitlines()[0].split()) < 3] == []


def test_every_folder_of_the_pipeline_says_what_it_is():
    folders = {file.parent for file in ROOT.glob("pipeline/**/*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []
