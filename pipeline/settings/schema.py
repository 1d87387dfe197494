"""The JSON schema of params.yaml, made from the typed configuration: editors complete its keys and mark what is wrong.

params.yaml names the schema in its first line, as yaml-language-server reads it. What only the files of configs/ can tell
(which presets there are, what fits what) is checked when a study is read: see `pipeline.settings.load.load_settings`.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.common.files import write_text
from pipeline.settings.params import Params

FILE = Path("configs/params.schema.json")
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> str:
    """The text of the schema, the same for the same configuration."""
    described = {"$schema": DIALECT} | Params.model_json_schema() | {"title": "params.yaml of a study"}
    recipe, vary = (described["$defs"][name]["properties"] for name in ("Recipe", "Experiment"))
    # What a key of the recipe may be, each value may be that an experiment gives it.
    vary["vary"]["properties"] = {
        key: {"type": "array", "items": {"$ref": f"#/$defs/Recipe/properties/{key}"}} for key in recipe
    }
    vary["vary"]["patternProperties"] = {r"^scale\.[a-z]+\.[a-z_0-9]+$": vary["vary"]["additionalProperties"]}
    # A misspelt key is then marked in the editor, as it would be refused later.
    vary["vary"]["additionalProperties"] = False
    return json.dumps(described, indent=1, sort_keys=True) + "\n"


def write_schema(root: Path) -> Path:
    """Write the schema into a project; returns its path in there."""
    write_text(root / FILE, schema())
    return FILE
