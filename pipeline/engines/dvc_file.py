"""dvc.yaml, as far as it follows from the code: stages, what each calls, which code and artifacts it reads, and what it makes.

Descriptions and settings are written there by hand, and stay; tests/test_dvc.py finds by trying whether the settings are right.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from pipeline.common.files import write_text
from pipeline.reporting.table_list import TABLES
from pipeline.store.fingerprint import code_fingerprint
from pipeline.store.ledger import Ledger
from pipeline.study.phases import STAGES

FILE = "dvc.yaml"
SETTINGS_CODE = {"pipeline/settings", "pipeline/study"}  # what turns settings into cards


def write_dvc_file(ledger: Ledger) -> Path:
    """Bring the project's dvc.yaml up to date."""
    path = ledger.root / FILE
    write_text(path, dvc_file(ledger, path.read_text(encoding="utf-8")))
    return path


def dvc_file(ledger: Ledger, text: str) -> str:
    """The text of a dvc.yaml with today's stages. A stage that it does not have yet has no description and no settings."""
    editor = YAML()
    # Otherwise ruamel breaks long lines, and a diff of dvc.yaml shows changes where there are none.
    editor.width = 1000
    editor.indent(mapping=2, sequence=4, offset=2)
    content = editor.load(text)
    before = content["stages"]
    for stage in [stage for stage in before if stage not in STAGES]:
        del before[stage]
    for number, stage in enumerate(STAGES):
        if stage not in before:
            before.insert(number, stage, CommentedMap(desc="", cmd=[], deps=[], params=[], outs=[]))
        written = before[stage]
        # What else a stage depends on stands there by hand, such as the files of configs/.
        settings = [dep for dep in written["deps"] or () if not dep.startswith(("artifacts/", "pipeline/"))]
        follows = {
            "cmd": [f"snakemake all_{stage}", f"python -m pipeline set-aside {stage}"],
            "deps": sorted([*settings, *artifacts(ledger, stage), *code(ledger.root, stage)]),
            "outs": outs(stage),
        }
        # What is right keeps its form.
        written.update({key: wanted for key, wanted in follows.items() if written[key] != wanted})
    out = io.StringIO()
    editor.dump(content, out)
    # An empty line before each stage and section, which YAML has at the end of the list before, if that is still there.
    return re.sub(r"(?<!stages:)\n+(?=(  )?(?!stages:)\w+:)", "\n\n", out.getvalue())


def artifacts(ledger: Ledger, stage: str) -> list[str]:
    """The artifacts of earlier stages that a stage's jobs read."""
    read = {parent.phase for job in ledger.stage_jobs(stage) for parent in ledger.inputs(job)}
    return [f"artifacts/{phase}" for phase in read - set(STAGES[stage])]


def code(root: Path, stage: str) -> list[str]:
    """The modules that a stage's jobs run, and what makes their cards; a folder for all of its modules."""
    names = {name for phase in STAGES[stage] for name in code_fingerprint(root, phase)}
    modules = {name.replace(".", "/") for name in names if "/" not in name}
    files = {f"{module}.py" for module in modules if not (root / module).is_dir()} | {
        name for name in names if "/" in name
    }
    folders = set(SETTINGS_CODE)
    for folder in {str(parent) for file in files for parent in Path(file).parents} - {".", "pipeline"}:
        # A folder of which all modules count is named as a whole: the list stays short, and a new module is in it.
        inside = {str(path.relative_to(root)) for path in (root / folder).rglob("*.py") if path.name != "__init__.py"}
        if inside <= files:
            folders.add(folder)
    return sorted(path for path in folders | files if not folders & set(map(str, Path(path).parents)))


def outs(stage: str) -> list[dict[str, Any]]:
    """What a stage makes. Nothing is deleted before it runs; what the report leaves in results/ is git's to keep."""
    made = [flow(f"artifacts/{phase}", persist=True) for phase in STAGES[stage]]
    if "tables" in STAGES[stage]:
        for name, table in TABLES.items():
            files = [f"made_from/{name}.json", *table.files]
            made += [flow(f"results/{file}", cache=False, persist=True) for file in files]
        made.append(
            flow("results/experiments", cache=False, persist=True)
        )  # of experiments that are none of the paper's
    return made


def flow(path: str, **options: bool) -> dict[str, CommentedMap]:
    """A path with DVC's options, which are written behind it in one line."""
    found = CommentedMap(options)
    found.fa.set_flow_style()
    return {path: found}
