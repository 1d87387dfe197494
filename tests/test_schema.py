"""The JSON schema that editors read: it is the configuration's, and says what `load_settings` says of params.yaml alone."""

import json

import jsonschema
import pytest
import yaml
from conftest import SOURCE

from pipeline.__main__ import main
from pipeline.settings.errors import ConfigError, parse
from pipeline.settings.params import Params
from pipeline.settings.schema import FILE, schema

PARAMS = (SOURCE / "params.yaml").read_text(encoding="utf-8")
SCHEMA = json.loads((SOURCE / FILE).read_text(encoding="utf-8"))


def faults(params: dict) -> list[str]:
    """Where the schema finds something wrong."""
    return [error.json_path for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(params)]


def test_the_schema_is_the_configurations():
    assert (SOURCE / FILE).read_text(encoding="utf-8") == schema(), "python -m pipeline schema"


def test_the_command_writes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["schema"]) == 0
    assert (tmp_path / FILE).read_text(encoding="utf-8") == schema()
    assert capsys.readouterr().out == f"wrote {FILE}\n"


def test_params_name_it_in_their_first_line():
    assert PARAMS.splitlines()[0] == f"# yaml-language-server: $schema={FILE}"


@pytest.mark.parametrize("file", ["params.yaml", "configs/studies/paper.yaml", "results/small/params.yaml"])
def test_studies_are_valid(file):
    assert faults(yaml.safe_load((SOURCE / file).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("section", "key", "value", "where"),
    [
        ("recipe", "image_fracton", 0.1, "$.recipe"),
        ("recipe", "image_fraction", 1.1, "$.recipe.image_fraction"),
        ("recipe", "moments", "kept", "$.recipe.moments"),
        ("recipe", "finetune_epochs", 0, "$.recipe.finetune_epochs"),
        ("recipe", "rewarm_like", "80", "$.recipe.rewarm_like"),
        ("recipe", "seed", 1.5, "$.recipe.seed"),
        ("experiments", "timing", {"vary": {}}, "$.experiments.timing.vary"),
        ("experiments", "mine", {"vary": {"seed": [7]}, "evaluate": "models"}, "$.experiments.mine.evaluate"),
    ],
)
def test_what_the_configuration_refuses_the_schema_refuses(section, key, value, where):
    params = yaml.safe_load(PARAMS)
    params[section][key] = value
    assert faults(params) == [where]
    with pytest.raises(ConfigError):
        parse(Params, params, "params.yaml")


def test_every_setting_has_a_description():
    recipe = SCHEMA["$defs"]["Recipe"]["properties"]
    assert all("description" in setting for setting in recipe.values())
