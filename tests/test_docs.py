"""What the pages say is so: blocks of code run, or are checked to name what there is; files, functions and links exist.

Every block has a comment above it that says how it is tested:

    <!-- fresh -->      run, in a copy of the project where nothing is made yet; what is quoted must come out
    <!-- finished -->   run, in a copy whose jobs look finished; what is quoted must come out
    <!-- micro -->      run in order, in a study at the micro scale (marked end_to_end); of what is quoted, the first line
    <!-- names -->      not run: commands, options, targets and settings must exist
    <!-- names, once there is: COMMAND -->   the same, as soon as `python -m pipeline` has that command
    <!-- python -->     not run: must compile
    <!-- rulegraph -->  drawn by Snakemake
    <!-- text -->       no code

Commands stand behind "$ "; in blocks without one, every line is a command. In what is quoted "..." stands for anything.
A page's blocks run one after the other in the same copy; `uv run` is left out, as tests run in its environment already.
"""

import ast
import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import dvc.cli.parser
import pytest
import snakemake.cli
import yaml
from conftest import SOURCE, Project
from rulegraph import rulegraph, shown
from wandb.cli.cli import cli as wandb_commands

from pipeline.__main__ import main
from pipeline.common.files import stable_json
from pipeline.execution.run import publish
from pipeline.reporting.table_list import TABLES
from pipeline.settings.load import load_settings
from pipeline.settings.params import Params
from pipeline.store import artifacts
from pipeline.study.phases import PHASES, STAGES

PAGES = [SOURCE / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
PAGES += sorted(page for page in (SOURCE / "docs").glob("*.md") if page.name != "bad-input.md")  # tests write that one
PROJECT = tomllib.loads((SOURCE / "pyproject.toml").read_text(encoding="utf-8"))
FENCE = re.compile(r"(?:^<!-- ([^\n]+?) -->\n)?^```(\w*)\n(.*?)^```$", re.M | re.S)
TRAVELS = ("Snakefile", "dvc.yaml", "params.yaml", "configs", "pipeline", "profiles", "docs", "benchmarks", "results")
KINDS = {"fresh", "finished", "micro", "names", "python", "rulegraph", "text"}


class Block(NamedTuple):
    page: str
    kind: str
    needs: str | None  # a command of `python -m pipeline` that may not be there yet
    code: str

    @property
    def commands(self) -> list[tuple[str, list[str]]]:
        """The commands, each with the lines that are quoted of what it prints."""
        lines = self.code.splitlines()
        if not any(line.startswith("$ ") for line in lines):
            return [(line, []) for line in lines if line.strip()]
        found: list[tuple[str, list[str]]] = []
        for line in lines:
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif line.strip():
                found[-1][1].append(line)
        return found


def blocks_of(page: Path) -> list[Block]:
    found = []
    for marker, _, code in FENCE.findall(page.read_text(encoding="utf-8")):
        kind, _, needs = marker.partition(", once there is: ")
        found.append(Block(page.relative_to(SOURCE).as_posix(), kind, needs or None, code))
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def of_kind(*kinds: str) -> list[Block]:
    return [block for block in BLOCKS if block.kind in kinds]


def name_of(value: object) -> str:
    return f"{value.page}: {value.code.splitlines()[0][:50]}" if isinstance(value, Block) else str(value)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_how_it_is_tested(page):
    text = page.read_text(encoding="utf-8")
    assert [block.code for block in blocks_of(page) if block.kind not in KINDS] == []
    assert len(re.findall(r"^```", text, re.M)) == 2 * len(blocks_of(page)), "a block that is not found"


# --- blocks that run --------------------------------------------------------------------------------------------------

ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "300"}


def copy_project(folder: Path) -> Path:
    """The project as a clone has it, without its history."""
    folder.mkdir()
    for name in TRAVELS:
        source = SOURCE / name
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, folder / name, ignore=ignore) if source.is_dir() else shutil.copy(source, folder / name)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A copy in which every job of the default study has left what looks like its artifact; the tables are those in git."""
    folder = copy_project(tmp_path_factory.mktemp("finished") / "project")
    project = Project(folder)
    project.make()
    ledger = project.ledger()
    for name, table in ledger.study.tables.items():
        made = folder / table.folder
        for file in (artifacts.CARD, artifacts.FILES):
            (made / file).unlink()
        for file in TABLES[name].files:
            (made / file).parent.mkdir(exist_ok=True)
            shutil.copy(folder / "results" / file, made / file)
        artifacts.make_manifest(made, ledger.digest(table))
        (made / artifacts.CARD).write_text(stable_json(ledger.card(table)))
        publish(made, folder / table.published)
    return folder


def without_uv(command: str) -> str:
    """A command as it is called within the environment that `uv run` would set up."""
    return re.sub(r"\buv run (?:--(?:extra|group) \S+ )*", "", command)


def is_quoted(lines: list[str], printed: str) -> bool:
    """Whether a printed text is what a page quotes: runs of blanks count as one, "..." as anything."""
    first, *others = (part.strip() for part in " ".join(" ".join(lines).split()).split("..."))
    rest = " ".join(printed.split())
    if not others:
        return rest == first
    if not rest.startswith(first):
        return False
    rest = rest[len(first) :]
    *between, last = others
    for part in between:
        _, found, rest = rest.partition(part) if part else ("", "...", rest)
        if not found:
            return False
    return rest.endswith(last)


def run(folder: Path, command: str) -> str:
    """What a command prints; quoted errors are part of pages, so that it may fail."""
    done = subprocess.run(
        ["bash", "-c", without_uv(command)], cwd=folder, capture_output=True, text=True, env=ENVIRONMENT, timeout=600
    )
    return done.stdout + done.stderr


def settings_of(folder: Path) -> list[str]:
    return [file.read_text() for file in (folder / "params.yaml", *sorted((folder / "configs").rglob("*.yaml")))]


def runs(folder: Path, blocks: list[Block]) -> None:
    for block in blocks:
        for command, lines in block.commands:
            before = settings_of(folder)
            printed = run(folder, command)
            if lines:
                assert is_quoted(lines, printed), f"{block.page}: {command}\n{printed}"
            else:
                assert not printed, f"{block.page}: {command}\n{printed}"
            if "sed -i" in command:
                assert settings_of(folder) != before, f"{block.page}: {command} changes nothing"


@pytest.mark.parametrize("page", sorted({block.page for block in of_kind("fresh")}))
def test_blocks_run_where_nothing_is_made_yet(page, tmp_path):
    runs(copy_project(tmp_path / "project"), [block for block in of_kind("fresh") if block.page == page])


@pytest.mark.parametrize("page", sorted({block.page for block in of_kind("finished")}))
def test_blocks_run_in_a_finished_study(page, finished, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(finished, folder)  # with its dates
    runs(folder, [block for block in of_kind("finished") if block.page == page])


@pytest.mark.end_to_end
@pytest.mark.nightly
@pytest.mark.parametrize("page", sorted({block.page for block in of_kind("micro")}))
def test_blocks_run_at_the_micro_scale(page, copy):
    """A finished study; its experiments go through DVC. Of what is quoted the first line, a header, must come out."""
    from test_end_to_end import run as run_to_its_end

    for block in (block for block in of_kind("micro") if block.page == page):
        for command, lines in block.commands:
            if "uv sync" in command:  # tests are in its environment
                check(command)
                continue
            printed = " ".join(run_to_its_end(copy, "bash", "-c", without_uv(command)).split())
            if lines:
                assert is_quoted(["...", lines[0], "..."], printed), f"{block.page}: {command}\n{printed}"


def test_the_rulegraph_is_snakemakes(tmp_path):
    assert shown() == rulegraph(copy_project(tmp_path / "project")), "PYTHONPATH=. python tests/rulegraph.py"


@pytest.mark.parametrize("block", of_kind("python"), ids=name_of)
def test_python_compiles(block):
    ast.parse(block.code)


# --- blocks that name -------------------------------------------------------------------------------------------------


@cache
def help_of(command: str) -> str | None:
    """What `python -m pipeline COMMAND --help` prints, or None if there is no such command."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        try:
            main([command, "--help"])
        except SystemExit as end:
            return None if end.code else out.getvalue()
    return None


def options(words: list[str]) -> list[str]:
    return [word.split("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]


def check_pipeline(words: list[str]) -> None:
    command, *rest = words
    described = help_of(command)
    assert described, f"python -m pipeline has no {command}"
    for option in options(rest):
        assert re.search(rf"{option}\b", described), f"python -m pipeline {command} has no {option}"


def check_snakemake(words: list[str]) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            parsed = snakemake.cli.get_argument_parser().parse_args(words)
        except SystemExit:
            pytest.fail(f"snakemake {shlex.join(words)}: {said.getvalue()}")
    files = {f"results/{file}" for table in TABLES.values() for file in table.files}
    known = files | set(TABLES) | set(PHASES) | {"study"} | {f"all_{stage}" for stage in STAGES}
    assert set(parsed.targets) <= known
    assert all((SOURCE / profile / "config.yaml").is_file() for profile in parsed.profile or [])


def check_dvc(words: list[str]) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            parsed = dvc.cli.parser.get_main_parser().parse_args(words)
        except (SystemExit, dvc.cli.parser.DvcParserError):
            pytest.fail(f"dvc {shlex.join(words)}: {said.getvalue()}")
    if words[0] in ("pull", "push", "repro"):
        assert set(parsed.targets) <= set(STAGES)
    for setting in getattr(parsed, "set_param", None) or []:
        check_setting(setting.split("=")[0])


def check_setting(key: str) -> None:
    """A key of params.yaml, such as recipe.image_fraction; KEY stands for any."""
    if key == "KEY":
        return
    model = Params
    for part in key.split("."):
        assert part in model.model_fields, f"params.yaml has no {key}"
        model = model.model_fields[part].annotation


def check_uv(words: list[str]) -> None:
    groups, extras = PROJECT["dependency-groups"], PROJECT["project"]["optional-dependencies"]
    command, *rest = words
    assert command in ("run", "sync", "tool", "export")
    while command != "tool" and rest and rest[0].startswith("--"):
        option, value, *rest = rest
        assert option in ("--extra", "--group") and value in (extras if option == "--extra" else groups), words
    if command == "run":
        check_words(rest)


def check_words(words: list[str]) -> None:
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):  # a variable for the command
        words = words[1:]
    first, *rest = words
    if first == "python" and rest[:2] == ["-m", "pipeline"]:
        check_pipeline(rest[2:])
    elif first == "python":
        assert (SOURCE / rest[0]).is_file()
    elif first in CHECKS:
        CHECKS[first](rest)
    else:
        assert first in ("git", "pip", "cp", "cd"), f"a command that is not known here: {first}"


def check_pytest(words: list[str]) -> None:
    markers = [marker.split(":")[0] for marker in PROJECT["tool"]["pytest"]["ini_options"]["markers"]]
    if "-m" in words:
        assert set(re.findall(r"\w+", words[words.index("-m") + 1])) <= {*markers, "and", "or", "not"}


def check_ruff(words: list[str]) -> None:
    assert words[0] in ("check", "format")


def check_snakefmt(words: list[str]) -> None:
    assert words == ["--check", "Snakefile"]


def check_mypy(words: list[str]) -> None:
    assert words == []  # what it checks stands in pyproject.toml


def check_wandb(words: list[str]) -> None:
    command = wandb_commands.commands[words[0]]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options


CHECKS = {
    "snakemake": check_snakemake,
    "dvc": check_dvc,
    "uv": check_uv,
    "pytest": check_pytest,
    "ruff": check_ruff,
    "snakefmt": check_snakefmt,
    "mypy": check_mypy,
    "wandb": check_wandb,
}


def check(line: str) -> None:
    """That every command of a line names what there is."""
    for command in line.split(" && "):
        check_words(shlex.split(command, comments=True))


@pytest.mark.parametrize("block", of_kind("names"), ids=name_of)
def test_commands_that_are_not_run_name_what_there_is(block):
    if block.needs and help_of(block.needs) is None:
        pytest.skip(f"python -m pipeline has no {block.needs} yet")
    for command, _ in block.commands:
        check(command)


@pytest.mark.parametrize(
    "line",
    [
        "uv run snakemake --cores all table99",
        "uv run snakemake --core-count all study",
        "uv run dvc exp run -S recipe.image_fracton=0.2",
        "uv run dvc push --everything",
        "uv run dvc pull reports",
        "uv run python -m pipeline plan --price 3",
        "uv run python -m pipeline planned study",
        "uv sync --extra gpus",
        "uv run pytest -m slow",
        "make all",
    ],
)
def test_what_there_is_not_is_found(line):
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(line)


# Commands in the text itself

INLINE = re.compile(r"`((?:uv run |uv sync |python -m pipeline |snakemake |dvc )[^`]+)`")
SAID = [
    (page.name, " ".join(code.split())) for page in PAGES for code in INLINE.findall(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("page", "line"), SAID)
def test_commands_in_the_text_name_what_there_is(page, line):
    if (words := line.split())[:3] == ["python", "-m", "pipeline"] and help_of(words[3]) is None:
        needed = {block.needs for block in BLOCKS}
        assert words[3] in needed, f"python -m pipeline has no {words[3]}"
        pytest.skip(f"python -m pipeline has no {words[3]} yet")
    check(line)


# --- files, functions, links ------------------------------------------------------------------------------------------

CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FILE = re.compile(r"(?:\.?[\w-]+/)*[\w-][\w.-]*\.(?:py|yaml|yml|md|csv|json|jsonl|lock|toml|png|cff|tar)|(?:[\w.-]+/)+")
MADE = ("artifacts/", ".study/", "logs/", "dvc_plots/", "results/certificate.json")  # by runs
INSIDE = {"card.json", "files.json", "measured.json", "quarantine.jsonl", "measures.csv"}  # of an artifact
OTHERS = {"config.json", "manifest.jsonl", "tokenizer.json", "TASK.jsonl", "NAME.jsonl"}  # of corpora and checkpoints


def named_in(page: Path) -> list[tuple[str, str | None]]:
    """(path, name within it) of all that a page's text names, blocks aside."""
    found = []
    for code in CODE.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        path, _, inner = code.partition(":")
        if FILE.fullmatch(path) and not path.startswith(MADE) and path not in INSIDE | OTHERS:
            found.append((path, inner or None))
    return found


def defined(file: Path) -> set[str]:
    """Functions, classes, their methods, and names that are assigned, of a module."""
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
        for target in node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]:
            if isinstance(target, ast.Name):
                names.add(target.id)
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_functions_that_are_named_exist(page):
    for path, inner in named_in(page):
        if re.search(r"(^|/)[A-Z]+\.|/[A-Z]+/", path) and not (SOURCE / path).exists():
            continue  # NAME.yaml: any
        places = [SOURCE / path, *([] if "/" in path else SOURCE.rglob(f"pipeline/**/{path}"))]
        there = [place for place in places if place.exists()]
        assert there, f"{page.name}: {path}"
        if inner:
            assert inner in defined(there[0]), f"{page.name}: {path} has no {inner}"


def test_the_walks_name_functions():
    walks = (SOURCE / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Five walks")[2].partition("\n## ")[0]
    assert len(re.findall(r"^\*\*[^*]+\?\*\*", walks, re.M)) == 5
    for walk in re.split(r"^(?=\*\*)", walks, flags=re.M)[1:]:
        assert re.search(r"`[\w/]+\.py:\w+", walk)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, SOURCE / "docs/bad-input.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+://", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(place), f"{page.name}: {target}"


def test_every_page_can_be_found_from_the_readme():
    text = (SOURCE / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md|[A-Z]+\.md)", text))
    reached = {page.relative_to(SOURCE).as_posix() for page in PAGES} - {"README.md"}
    assert reached <= linked


# --- cards ------------------------------------------------------------------------------------------------------------


def test_the_model_card_is_of_the_committed_results():
    import pandas as pd

    card = (SOURCE / "docs/model-card.md").read_text(encoding="utf-8")
    runs = pd.read_csv(SOURCE / "results/figures/timing_runs.csv")  # the card is of one run, table 1 of the mean of all
    (row,) = runs[(runs["cell"] == "recipe") & (runs["seed"] == 7)].to_dict("records")
    chance = [task.chance for task in load_settings(SOURCE).tasks.vision.values() if task.stable]
    vision = 100 * (row["vision_stable"] + sum(chance) / len(chance))
    assert f"| vision average | {vision:.2f} (" in card
    assert f"| bits per byte | {row['bits_per_byte']:.2f} (" in card
    table = pd.read_csv(SOURCE / "results/table1.csv")
    (tokens,) = table.loc[(table["model"] == "vlm") & (table["branch_percent"] == 80), "text_run_tokens"]
    assert f"{tokens:,.0f}" in card


def test_the_data_cards_sizes_are_the_presets():
    card = (SOURCE / "docs/data-card.md").read_text(encoding="utf-8")
    sizes = yaml.safe_load((SOURCE / "configs/scale/tiny.yaml").read_text(encoding="utf-8"))["data"]
    for key in (
        "documents",
        "heldout_documents",
        "captions",
        "conversations",
        "validation_images",
        "test_images",
        "canvas",
    ):
        assert f"{sizes[key]:,}" in card, key
    licences = yaml.safe_load((SOURCE / "configs/data/scenes.yaml").read_text(encoding="utf-8"))["licences"]
    for licence in licences:
        assert licence["name"].split(" (")[0].split(" ")[0] in card


@pytest.mark.parametrize(("preset", "place"), [("small", 4), ("tiny", 5)])
def test_the_proportions_of_results_md_are_those_that_were_counted(preset, place):
    folder = SOURCE / "results" / ("small" if preset == "small" else "")
    page = (SOURCE / "docs/results.md").read_text(encoding="utf-8").partition("## Proportions")[2]
    told = {
        cells[1]: cells for line in page.splitlines() if len(cells := [cell.strip() for cell in line.split("|")]) == 7
    }
    for line in (folder / "proportions.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 5 and cells[1] and "---" not in cells[1]:
            assert (told[cells[1]][2], told[cells[1]][place]) == (cells[2], cells[3])
