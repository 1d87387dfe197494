"""What the code of a phase does, as digests of its modules."""

from __future__ import annotations

import ast
import hashlib
import json
from functools import cache
from pathlib import Path

from pipeline.common.files import file_hash, read_json, write_text
from pipeline.study.phases import PHASES

MODULES = Path(".study/modules.json")
DOCUMENTED = ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef | ast.Module


@cache
def module_file(root: Path, name: str) -> Path | None:
    """The file of a module of this package, or None if there is none of this name."""
    base = root.joinpath(*name.split("."))
    for file in (base.with_suffix(".py"), base / "__init__.py"):
        if file.exists():
            return file
    return None


@cache
def known_modules(root: Path) -> dict[str, dict]:
    """What is known of modules, by name: the hash of their text, what it does, what it imports.

    Kept between processes, as parsing the package takes half of a second, a fifth of what Snakemake needs to find
    nothing to do.
    """
    try:
        # Notes of another version of this file may mean something else, so they count only if it is the same.
        known = read_json(root / MODULES)
        return known["modules"] if known["reader"] == file_hash(Path(__file__)) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def keep_known_modules(root: Path) -> None:
    """Write down what was read of modules, for the next process."""
    known = {"reader": file_hash(Path(__file__)), "modules": known_modules(root)}
    write_if_changed(root / MODULES, json.dumps(known, sort_keys=True))


def write_if_changed(file: Path, text: str) -> None:
    """Write a file, unless it says so already: its date stays."""
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        write_text(file, text)


@cache
def read_module(root: Path, name: str) -> tuple[str, tuple[str, ...]]:
    """(digest of what a module does, the modules of this package that it imports anywhere)."""
    file = module_file(root, name)
    assert file, f"{name} is no module of this package"
    text, known = file.read_text(encoding="utf-8"), known_modules(root)
    its = hashlib.sha256(text.encode()).hexdigest()
    if known.get(name, {}).get("text") != its:
        known[name] = {"text": its} | parse_module(name, text)
    return known[name]["does"], tuple(other for other in known[name]["imports"] if module_file(root, other))


def parse_module(name: str, text: str) -> dict[str, str | list[str]]:
    """{"does": digest of what a module does, "imports": what in this package it imports anywhere, modules or not}.

    Comments, blank lines, docstrings and the types of functions do not count: the digest is over the syntax tree
    without them.
    """
    tree = ast.parse(text)
    imports: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # Types of arguments and results say nothing about what is computed; a class's own annotations do (pydantic,
            # dataclasses).
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".")[: -node.level] if node.level else []
            # Whether an imported name is a module or something in one is not asked here: `read_module` looks for the
            # file.
            base = ".".join([*package, *([node.module] if node.module else [])])
            imports |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    inside = sorted(other for other in imports if other.split(".")[0] == "pipeline")
    return {"does": hashlib.sha256(dump(tree).encode()).hexdigest()[:16], "imports": inside}


def dump(node: object) -> str:
    """A syntax tree as text. Unlike ast.dump's it is the same for every version of Python that parses the same code."""
    if isinstance(node, ast.AST):
        # Empty fields are left out: newer versions of Python add such fields, as 3.12 did with `type_params`.
        fields = (f"{name}={dump(value)}" for name, value in ast.iter_fields(node) if value not in (None, []))
        return f"{type(node).__name__}({', '.join(fields)})"
    if isinstance(node, list):
        return f"[{', '.join(map(dump, node))}]"
    return repr(node)


@cache
def files_beside(root: Path, name: str) -> dict[str, str]:
    """The hashes of a module's own files that are no Python, by path: report.css lies beside report.py."""
    module = module_file(root, name)
    assert module, f"{name} is no module of this package"
    files = [file for file in module.parent.glob(f"{module.stem}.*") if file.suffix != ".py"]
    return {file.relative_to(root).as_posix(): file_hash(file)[:16] for file in files}


@cache
def code_fingerprint(root: Path, phase: str) -> dict[str, str]:
    """The digest of every module that a phase runs, by name: its entry module and all it imports from here.

    And of the files beside these modules that belong to them, by path.
    """
    found: dict[str, str] = {}
    waiting = [PHASES[phase].module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name], imports = read_module(root, name)
            # A template or a style sheet decides what a job writes as much as its code does.
            found |= files_beside(root, name)
            waiting += imports
    return dict(sorted(found.items()))


def does_the_same(root: Path, code: dict[str, str]) -> bool:
    """Whether the modules of a fingerprint, read once more, still do what it says."""
    try:
        return all(digest_again(root, name) == its for name, its in code.items())
    except (OSError, ValueError, SyntaxError):
        return False


def digest_again(root: Path, name: str) -> str:
    """The digest of an entry of a fingerprint: of a module, or of a file beside one."""
    if "/" in name:
        return file_hash(root / name)[:16]
    return str(parse_module(name, (module_file(root, name) or root).read_text(encoding="utf-8"))["does"])
