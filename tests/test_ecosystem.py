"""Files that other tools read: pre-commit's hooks, the workflow catalog's entry, and who is cited as what version."""

import re
import subprocess
import tomllib

import pytest
import yaml
from conftest import SOURCE

LOCK = tomllib.loads((SOURCE / "uv.lock").read_text(encoding="utf-8"))
LOCKED = {package["name"]: package.get("version") for package in LOCK["package"]}
HOOKS = yaml.safe_load((SOURCE / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
LISTED = subprocess.run(["git", "ls-files"], cwd=SOURCE, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_hooks_are_pinned_to_the_versions_of_the_lock(hook):
    (pinned,) = hook["additional_dependencies"]
    name, version = pinned.split("==")
    assert LOCKED.get(name, version) == version
    assert hook["language"] == "python"


def test_hooks_are_those_of_the_gate():
    gate = (SOURCE / ".ci/run").read_text(encoding="utf-8")
    for command in ("ruff check", "ruff format", "snakefmt"):
        assert f"uv run {command}" in gate
        assert any(hook["entry"].startswith(command) for hook in HOOKS)


def test_hooks_accept_what_is_here():
    """All files are below the limit on large ones; YAML that is not configuration for a template is readable."""
    (large,) = (hook for hook in HOOKS if hook["id"] == "check-added-large-files")
    limit = 1024 * int(re.search(r"--maxkb=(\d+)", large["entry"])[1])
    bound = [name for name in LISTED if (SOURCE / name).is_file() and not re.search(large["exclude"], name)]
    assert len(bound) > 0.9 * len(LISTED)
    assert [name for name in bound if (SOURCE / name).stat().st_size > limit] == []
    (snakefmt,) = (hook for hook in HOOKS if hook["id"] == "snakefmt")
    assert [name for name in LISTED if re.search(snakefmt["files"], name)] == ["Snakefile"]
    for name in LISTED:
        if name.endswith((".yaml", ".yml")):
            yaml.safe_load((SOURCE / name).read_text(encoding="utf-8"))


def test_the_catalogs_entry_is_one_that_it_takes():
    """https://github.com/snakemake/snakemake-workflow-catalog, "Adding workflows"."""
    usage = yaml.safe_load((SOURCE / ".snakemake-workflow-catalog.yml").read_text(encoding="utf-8"))["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    deployment = usage["software-stack-deployment"]
    assert set(deployment) == {"conda", "apptainer", "apptainer+conda"} and set(map(type, deployment.values())) == {
        bool
    }
    readme = (SOURCE / "README.md").read_text(encoding="utf-8").lower()
    assert "snakemake" in readme and "workflow" in readme and (SOURCE / "Snakefile").is_file()


def test_the_version_is_the_same_everywhere():
    version = tomllib.loads((SOURCE / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    citation = yaml.safe_load((SOURCE / "CITATION.cff").read_text(encoding="utf-8"))
    changes = re.findall(r"^## \[(\S+)\]", (SOURCE / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert str(citation["version"]) == version == next(name for name in changes if name != "Unreleased")


@pytest.mark.parametrize("name", ["gate", "nightly"])
def test_github_runs_the_same_scripts(name):
    """With actions that nobody can change behind their names, and no right but to read."""
    flow = yaml.safe_load((SOURCE / f".github/workflows/{name}.yml").read_text(encoding="utf-8"))
    (steps,) = (job["steps"] for job in flow["jobs"].values())
    script = ".ci/run" if name == "gate" else ".ci/nightly"
    assert (SOURCE / script).stat().st_mode & 0o111 and steps[-1]["run"].split("#")[0].split()[-1] == script
    assert all(re.fullmatch(r"\S+@[0-9a-f]{40}", step["uses"]) for step in steps if "uses" in step)
    assert flow["permissions"] == {"contents": "read"}


def test_make_runs_what_the_gate_runs():
    make = (SOURCE / "Makefile").read_text(encoding="utf-8")
    recipes = [re.search(rf"^{name}:.*\n\t(.*)", make, re.M)[1] for name in ("check", "test", "end-to-end")]
    commands = [command.strip() for recipe in recipes for command in recipe.split("&&")]
    gate = re.sub(r" *[#&].*", "", (SOURCE / ".ci/run").read_text(encoding="utf-8"), flags=re.M).splitlines()
    assert len(commands) == 7 and set(commands) <= set(gate)
