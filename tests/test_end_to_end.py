"""The whole pipeline for real, at the micro scale, through both engines: what the README promises of them.

One study is built once; each test works in its own copy of it. `dvc.lock` holds the hash of every artifact, so "the
same bits" is "the same dvc.lock".
"""

import contextlib
import csv
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import psutil
import pytest
from faults.holding import held_below, holding, is_gone, wait

from pipeline.common.files import folder_hashes, read_json

ROOT = Path(__file__).parents[1]
TRAVELS = ("Snakefile", "dvc.yaml", "params.yaml", "configs", "pipeline", "profiles", ".dvcignore", ".gitignore")
RULES = ["sources", "tokenizer", "shards", "features", "pretrain", "cooldown", "finetune", "evaluate"]
STAGES = ["prepare", "pretrain", "cooldown", "finetune", "evaluate", "report"]
WHO = {f"GIT_{role}_{what}": "test@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
ENVIRONMENT = (
    os.environ | WHO | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
)
pytestmark = pytest.mark.end_to_end
NIGHTLY = pytest.mark.nightly


def run(folder: Path, *command: str, ok: bool = True, **environment: str) -> str:
    """Run a command in a folder; returns what it printed. Fails the test if it fails (or, with ok=False, if not)."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=ENVIRONMENT | environment)
    assert (done.returncode == 0) == ok, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def snakemake(folder: Path, *arguments: str) -> str:
    return run(folder, "snakemake", "--cores", "2", *arguments)


def without_network() -> list[str]:
    """What runs a command in a network namespace of its own, with nothing but loopback; empty where there is none."""
    alone = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up 2>/dev/null; exec "$@"', "sh"]
    allowed = shutil.which("unshare") and not subprocess.run([*alone, "true"], capture_output=True).returncode
    return alone if allowed else []


OFFLINE = without_network()
KEY = "sk-0123456789abcdef"  # a secret of the environment


def planned(folder: Path, *targets: str) -> dict[str, int]:
    """How many jobs of each rule Snakemake would run: its "job count" table."""
    output = snakemake(folder, "-n", *targets)
    if "Nothing to be done" in output:
        return {}
    stats = re.search(r"^job +count\n[- ]+\n((?:\w+ +\d+\n)+)", output, re.M)[1]
    return {rule: int(count) for rule, count in map(str.split, stats.splitlines()) if rule != "total"}


def repro(folder: Path, *arguments: str) -> list[str]:
    """The stages that `dvc repro` runs; every other one must have been skipped."""
    return ran(run(folder, "dvc", "repro", *arguments))


def ran(output: str) -> list[str]:
    stages = re.findall(r"Running stage '(\w+)'", output)
    skipped = re.findall(r"Stage '(\w+)' didn't change, skipping", output)
    assert sorted(stages + skipped) == sorted(STAGES), output
    return stages


def done_jobs(output: str) -> list[str]:
    """Jobs that did their work, in the order in which they ended: "finetune b50-i10-s7-e2-0123abcd"."""
    return re.findall(r"^\[\S+\] (\S+ \S+)  done in", output, re.M)


def is_clean(folder: Path) -> bool:
    return "up to date" in run(folder, "dvc", "status") and not run(folder, "git", "status", "--short")


def change(folder: Path, old: str, new: str) -> None:
    """Edit params.yaml by hand."""
    params = folder / "params.yaml"
    text = params.read_text()
    assert text.count(old) == 1
    params.write_text(text.replace(old, new))


def artifact(folder: Path, start: str) -> Path:
    """The one artifact whose phase and label are given: "cooldown/b50"."""
    (found,) = (folder / "artifacts").glob(f"{start}*")
    return found


def commit(folder: Path, message: str) -> None:
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", message)


def new_project(folder: Path) -> Path:
    """A git repository with the project's own files, the micro preset and one experiment: timing, two branch points."""
    folder.mkdir()
    ignore = shutil.ignore_patterns("__pycache__")
    for name in TRAVELS:
        source = ROOT / name
        shutil.copytree(source, folder / name, ignore=ignore) if source.is_dir() else shutil.copy(source, folder / name)
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, folder / ".dvc")
    params = (folder / "params.yaml").read_text()
    params = re.sub(r"preset: \w+", "preset: micro", params)
    params = re.sub(r"branch_percent: 80", "branch_percent: 50", params)
    params = re.sub(r"image_fraction: 0.5 ", "image_fraction: 0.1 ", params)
    params = re.sub(r"\[[^\]]*\]", "[]", params)
    params = params.replace("branch_percent: []", "branch_percent: [0, 50]", 1)  # the timing experiment alone
    (folder / "params.yaml").write_text(params)
    run(folder, "git", "init", "-q")
    commit(folder, "start")
    return folder


@pytest.fixture(scope="module")
def remote(study, tmp_path_factory) -> Path:
    """A folder as DVC remote with everything in it, as the README says."""
    folder = tmp_path_factory.mktemp("remote")
    run(study, "dvc", "remote", "add", "--local", "--default", "store", str(folder))
    run(study, "dvc", "push")
    return folder


def clone(study: Path, folder: Path, remote: str, link: str = "copy") -> Path:
    """A git clone elsewhere that knows the remote and has nothing pulled yet."""
    run(folder.parent, "git", "clone", "-q", str(study), str(folder))
    run(folder, "dvc", "config", "--local", "cache.type", link)
    run(folder, "dvc", "remote", "add", "--local", "--default", "store", remote)
    return folder


# --- the study itself ---


def table(folder: Path) -> list[dict]:
    with (folder / "results" / "table1.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_table_has_a_row_a_branch_point_and_the_text_run(study):
    rows = table(study)
    assert [(r["model"], float(r["branch_percent"])) for r in rows] == [
        ("text only", 50.0),
        ("text only", 100.0),
        ("vlm", 0.0),
        ("vlm", 50.0),
    ]
    for row in rows[2:]:
        for column in ("vision_stable", "text_stable", "vision_gain", "language_prior"):
            assert -1 <= float(row[column]) <= 1
        assert float(row["vision_gain_low"]) <= float(row["vision_gain"]) <= float(row["vision_gain_high"])
        assert float(row["cooldown_image_tokens"]) > 0
    assert (study / "results" / "table1.md").read_text().startswith("# Table 1")
    assert (study / "results" / "figures" / "timing.png").stat().st_size > 10_000
    assert set(read_json(study / "results" / "metrics.json")["vision_gain"]) == {"0%", "50%"}


def test_the_text_run_and_its_branches_count_tokens_exactly(study):
    rows = {(r["model"], float(r["branch_percent"])): r for r in table(study)}
    assert [int(float(rows["text only", p]["text_run_tokens"])) for p in (50.0, 100.0)] == [10_240, 20_480]
    assert float(rows["vlm", 50.0]["image_fraction_of_sequences"]) == pytest.approx(0.1, abs=0.5 / 80)


def test_config_on_the_command_line_is_refused(study):
    assert "params.yaml" in run(study, "snakemake", "-n", "--config", "image_fraction=0.2", ok=False)


# --- both engines agree ---


def test_after_snakemake_neither_engine_has_anything_to_do(study):
    assert planned(study) == planned(study, "results/table1.csv", "results/claims.csv", "study") == {}
    assert is_clean(study)
    assert repro(study) == []
    assert is_clean(study)


def test_dvc_from_nothing_makes_the_same_bits_and_leaves_nothing_to_snakemake(study, tmp_path):
    other = new_project(tmp_path / "other")
    assert repro(other) == STAGES
    assert (other / "dvc.lock").read_text() == (study / "dvc.lock").read_text()
    assert folder_hashes(other / "results") == folder_hashes(study / "results")
    assert planned(other) == planned(other, "all_prepare", "all_evaluate", "study") == {}
    assert repro(other) == []


@pytest.mark.parametrize(
    "link", ["copy", pytest.param("hardlink", marks=NIGHTLY), pytest.param("symlink", marks=NIGHTLY)]
)
def test_a_clone_that_pulls_has_nothing_to_do(study, remote, tmp_path, link):
    folder = clone(study, tmp_path / "clone", str(remote), link)
    assert planned(folder)["pretrain"] == 2  # without a pull it is a fresh start
    run(folder, "dvc", "pull")
    assert artifact(folder, "cooldown/b50").joinpath("model.safetensors").is_symlink() == (link == "symlink")
    dates = random.Random(link)
    for file in (p for p in folder.rglob("*") if p.is_file() and ".git" not in p.parts and "cache" not in p.parts):
        date = dates.randint(10**9, 17 * 10**8)
        os.utime(file, (date, date))
    assert planned(folder) == planned(folder, "all_prepare", "all_evaluate", "all_report") == {}
    assert repro(folder) == []
    assert is_clean(folder)


def test_pulling_the_results_alone_is_enough_to_have_nothing_to_do(study, remote, tmp_path):
    folder = clone(study, tmp_path / "clone", str(remote))
    run(folder, "dvc", "pull", "report")
    assert [p.name for p in (folder / "artifacts").iterdir()] == ["tables"]
    assert planned(folder) == planned(folder, "results/table1.csv") == {}
    assert repro(folder, "--allow-missing") == []


@pytest.mark.nightly
def test_an_s3_remote_takes_its_credentials_from_the_environment(study, tmp_path, monkeypatch):
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    secret = {"AWS_ACCESS_KEY_ID": "key-of-the-test", "AWS_SECRET_ACCESS_KEY": "secret-of-the-test"}
    secret |= {"AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in secret.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket="studies")
    try:
        folders = [clone(study, tmp_path / name, "s3://studies/micro") for name in ("one", "two")]
        for folder in folders:
            run(folder, "dvc", "remote", "modify", "--local", "store", "endpointurl", address)
        shutil.copytree(study / ".dvc" / "cache", folders[0] / ".dvc" / "cache")
        run(folders[0], "dvc", "push", **secret)
        run(folders[1], "dvc", "pull", **secret)
    finally:
        server.stop()
    assert planned(folders[1]) == {}
    assert is_clean(folders[1])
    for file in (p for folder in folders for p in (folder / ".dvc").rglob("*") if p.is_file()):
        assert b"of-the-test" not in file.read_bytes(), file


def test_kept_results_are_judged_again_to_the_same_bytes(copy):
    folder = "results/kept"
    assert "the scores of" in run(copy, "python", "-m", "pipeline", "keep", folder)
    assert "scores/vision.csv.xz" in folder_hashes(copy / folder)
    said = run(copy, "python", "-m", "pipeline", "judge", "--results", folder, "--write")
    for file in ("claims.csv", "claims.md", "signal.csv", "signal.md"):
        assert f"{folder}/{file}: the same" in said
    assert f"{folder}/decisions.csv: was not kept" in said
    said = run(copy, "python", "-m", "pipeline", "judge", "--results", folder)
    assert said.count(": the same") == len(said.splitlines()) == 6


# --- what changes, and nothing else ---


def test_one_changed_setting_plans_its_descendants_alone(copy):
    change(copy, "finetune_epochs: 2", "finetune_epochs: 1")
    assert planned(copy) == {"finetune": 3, "evaluate": 3, "table1": 1}
    line = run(copy, "python", "-m", "pipeline", "why", "results/table1.csv")
    assert "epochs: 2 -> 1" in line
    change(copy, "finetune_epochs: 1", "finetune_epochs: 2")
    change(copy, "image_fraction: 0.1", "image_fraction: 0.2")
    assert planned(copy) == {"cooldown": 2, "finetune": 3, "evaluate": 5, "table1": 1}
    change(copy, "image_fraction: 0.2", "image_fraction: 0.1")
    assert planned(copy) == {}


@pytest.mark.nightly
def test_what_if_the_image_fraction_is_twenty_percent(copy):
    before = folder_hashes(copy / "results")
    output = run(copy, "dvc", "exp", "run", "-S", "recipe.image_fraction=0.2")
    assert ran(output) == ["cooldown", "finetune", "evaluate", "report"]
    assert sorted({job.split()[0] for job in done_jobs(output)}) == ["cooldown", "evaluate", "finetune", "tables"]
    assert planned(copy) == {}
    assert re.search(r"recipe.image_fraction +0.1 +0.2", run(copy, "dvc", "params", "diff"))
    difference = run(copy, "dvc", "metrics", "diff", "--all")
    assert re.search(r"results/metrics.json +vision_gain.50% +-?[\d.]+ +-?[\d.]+ +-?[\d.]+", difference)
    shown = run(copy, "dvc", "exp", "show", "--only-changed", "--md", "--drop", "artifacts|pipeline|configs")
    assert "recipe.image_fraction" in shown
    assert "recipe.finetune_epochs" not in shown
    run(copy, "dvc", "plots", "diff", "-o", "plots")
    page = (copy / "plots" / "index.html").read_text()
    assert all(text in page for text in ("gain over the language prior", "training loss", "workspace", "HEAD"))
    # Back again: what was set aside is taken back, and no model is trained.
    change(copy, "image_fraction: 0.2", "image_fraction: 0.1")
    assert not [job for job in done_jobs(snakemake(copy, "study")) if not job.startswith("tables")]
    assert folder_hashes(copy / "results") == before
    assert run(copy, "git", "status", "--short").split() == ["M", "params.yaml", "??", "plots/"]  # lists one a line
    assert repro(copy) == []


@pytest.mark.nightly
def test_an_experiment_elsewhere_leaves_the_workspace_alone_until_it_is_applied(copy):
    output = run(copy, "dvc", "exp", "run", "--temp", "--name", "one-pass", "-S", "recipe.finetune_epochs=1")
    assert ran(output) == ["finetune", "evaluate", "report"]
    assert is_clean(copy)
    assert planned(copy) == {}
    run(copy, "dvc", "exp", "apply", "one-pass")
    assert "finetune_epochs: 1" in (copy / "params.yaml").read_text()
    assert planned(copy) == {}
    assert repro(copy) == []


@pytest.mark.nightly
def test_a_sweep_that_narrows_and_widens_trains_only_what_is_new(copy):
    change(copy, "branch_percent: [0, 50]", "branch_percent: [50]")
    assert planned(copy) == {"table1": 1}
    output = run(copy, "dvc", "repro")
    assert ran(output) == STAGES
    assert {job.split()[0] for job in done_jobs(output)} == {"tables"}
    assert not list((copy / "artifacts").glob("*/b0-*"))
    change(copy, "branch_percent: [50]", "branch_percent: [0, 50, 75]")
    before = {p: folder_hashes(p) for p in (copy / "artifacts").glob("*/*")}
    assert planned(copy) == {"pretrain": 1, "cooldown": 1, "finetune": 1, "evaluate": 3, "table1": 1}
    made = [job.split()[0] for job in done_jobs(snakemake(copy, "study"))]
    assert sorted(job for job in made if job != "tables") == ["cooldown", *["evaluate"] * 3, "finetune", "pretrain"]
    (log,) = (copy / "logs" / "pretrain").glob("text-30-*.log")
    assert "continuing after step 20" in log.read_text()
    assert all(folder_hashes(p) == hashes for p, hashes in before.items() if p.parent.name != "tables")
    assert "up to date" in run(copy, "dvc", "status")


# --- experiments of params.yaml alone ---

BLOCKS = """
  cooldown_length:
    says: How long should the cooldown be?
    vary: {scale.cooldown.tokens: [5120, 10240]}
    after_cooldown: true
  seeds_again:
    says: How far do two seeds differ?
    vary: {seed: [7, 8]}
  passes_and_rates:
    says: Do more passes want a lower rate?
    vary: {finetune_epochs: [1, 2], scale.finetune.peak_lr: [0.001, 0.003]}

wandb"""
CLAIMS = """
longer_is_better:
  says: A cooldown of twice the length leaves fewer bits a byte.
  source: a test
  family: control
  may_differ: [scale.cooldown.tokens]
  contrast: {metric: bits_per_byte, plus: [{scale.cooldown.tokens: 5120}], minus: [{scale.cooldown.tokens: 10240}]}
lengths_agree:
  says: Twice the cooldown makes no difference.
  source: a test
  family: control
  may_differ: [scale.cooldown.tokens]
  agreement: {metric: presence, cells: [{}], over: scale.cooldown.tokens, values: [5120, 10240], margin: 0.9}
"""


@pytest.mark.nightly
def test_new_experiments_over_a_presets_key_seeds_and_two_keys_need_no_code(copy):
    change(copy, "\nwandb", BLOCKS)
    with open(copy / "configs/claims.yaml", "a") as file:
        file.write(CLAIMS)
    plan = planned(copy, "study")
    assert {rule: plan[rule] for rule in RULES if rule in plan} == {"cooldown": 2, "finetune": 5, "evaluate": 6}
    assert {"cooldown_length", "seeds_again", "passes_and_rates", "claims", "report"} <= set(plan)
    assert not {"table1", "table7", "image_fraction"} & set(plan)  # the paper's have no part in it
    snakemake(copy, "study")
    results = copy / "results/experiments"
    lengths, seeds, grid = (
        pd.read_csv(results / f"{name}.csv") for name in ("cooldown_length", "seeds_again", "passes_and_rates")
    )
    assert list(lengths["scale.cooldown.tokens"]) == [5120, 10240]
    assert list(lengths["cell"]) == ["scale.cooldown.tokens=5120", "recipe"]
    assert (lengths["cooldown_text_tokens"].diff().iloc[1] > 0) and lengths["cooldown_bits_per_byte"].notna().all()
    assert list(seeds["seed"]) == [7, 8] and list(seeds["seeds"]) == [1, 1]
    keys = ["finetune_epochs", "scale.finetune.peak_lr"]
    assert grid[keys].values.tolist() == [[1, 0.001], [1, 0.003], [2, 0.001], [2, 0.003]]
    for name in ("cooldown_length", "seeds_again", "passes_and_rates"):
        assert (results / f"{name}.png").stat().st_size > 10_000
    assert (results / "seeds_again.md").read_text().startswith("# How far do two seeds differ?")
    verdicts = pd.read_csv(copy / "results/claims.csv").set_index("claim")["verdict"]
    assert verdicts[["longer_is_better", "lengths_agree"]].to_list() == ["not testable"] * 2
    page = (copy / "results/report.html").read_text()
    places = [f'id="{place}"' in page for place in ("figure-cooldown_length", "table-experiments/cooldown_length")]
    assert places == [True, True]
    row = "scale.cooldown.tokens=5120"
    file = "results/experiments/cooldown_length.csv"
    told = run(copy, "python", "-m", "pipeline", "trace", file, "--row", row, "--column", "bits_per_byte")
    assert "cooldown/b50-i10-s7-" in told
    assert "up to date" in run(copy, "python", "-m", "pipeline", "why", file)
    # DVC keeps them as it keeps all others, and takes them away and back.
    commit(copy, "experiments")
    assert planned(copy, "study") == {} and repro(copy) == [] and is_clean(copy)
    change(copy, "scale.cooldown.tokens: [5120, 10240]", "scale.cooldown.tokens: [10240]")
    assert {rule for rule in planned(copy, "study") if rule in RULES} == set()


# --- the whole study ---


@pytest.mark.nightly
def test_every_experiment_shares_what_it_can_and_an_empty_one_is_not_run(copy):
    values = {
        "image_fraction": {"image_fraction": "[0.0, 0.1]"},
        "instruction_share": {"instruction_share": "[1.0]"},
        "size": {"size": "[larger]", "image_fraction": "[0.1]"},
        "unfrozen": {"train_encoder": "[true]", "image_fraction": "[0.1]", "finetune_epochs": "[2]"},
        "captions": {"captions": "[full, short]"},
        "encoder": {"encoder": "[efficientnet_lite0, patch]"},
        "usual": {"cooldown": "[false]", "branch_percent": "[100]"},
        "rewarm": {"branch_percent": "[100]", "rewarm_like": "[50]"},
        "text_only": {"branch_percent": "[0]", "image_fraction": "[0.0]"},
        "moments": {"moments": "[fresh]"},
    }
    for experiment, lists in values.items():
        set_lists(copy, experiment, lists)
    new = {"shards": 1, "pretrain": 1, "cooldown": 9, "finetune": 9, "evaluate": 12}
    assert {rule: count for rule, count in planned(copy, "study").items() if rule in RULES} == new
    snakemake(copy, "study")
    results = copy / "results"
    for number in range(1, 10):
        assert len((results / f"table{number}.csv").read_text().splitlines()) >= 2
    claims = pd.read_csv(results / "claims.csv").set_index("claim")
    assert set(claims["verdict"]) == {"not testable", "not_run"}  # a single seed supports nothing
    assert claims.loc["more_epochs_help", "verdict"] == "not_run"
    assert claims.loc["patches_alone_fail", "verdict"] == "not testable"
    assert "not_run" in (results / "table7.csv").read_text()
    published = pd.read_csv(results / "comparison.csv")
    assert set(published["status"]) == {"ok", "not_run"}
    assert planned(copy, "study") == {}
    assert repro(copy) == []

    # One more value trains its own descendants alone.
    before = {p: folder_hashes(p) for p in (copy / "artifacts").glob("*/*")}
    set_lists(copy, "finetune_epochs", {"finetune_epochs": "[1, 2]"})
    plan = planned(copy, "study")
    assert {rule: count for rule, count in plan.items() if rule in RULES} == {"finetune": 1, "evaluate": 1}
    assert set(plan) - set(RULES) == {"study", "finetune_epochs", "claims", "comparison", "drawings", "report"}
    snakemake(copy, "study")
    assert all(folder_hashes(p) == hashes for p, hashes in before.items() if p.parent.name != "tables")


def set_lists(folder: Path, experiment: str, lists: dict[str, str]) -> None:
    """Set the lists of an experiment in params.yaml."""
    head, section, tail = re.split(rf"(\n  {experiment}:.*\n(?:    .*\n)+)", (folder / "params.yaml").read_text())
    for key, values in lists.items():
        section, count = re.subn(rf"([ {{]{key}: )\[[^\]]*\]", rf"\g<1>{values}", section)
        assert count == 1
    (folder / "params.yaml").write_text(head + section + tail)


# --- loss and damage ---


def corrupt(file: Path) -> None:
    """Flip a bit, in a new file: the old one may be linked to the cache."""
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.unlink()
    file.write_bytes(data)


@pytest.mark.parametrize("engine", ["snakemake", "dvc"])
def test_a_lost_and_a_damaged_artifact_are_made_again_and_nothing_else(copy, engine):
    shutil.rmtree(artifact(copy, "tokenizer/bpe"))
    corrupt(artifact(copy, "evaluate/pretrain-text-20") / "heldout.csv")
    assert "other bytes" in run(
        copy, "python", "-m", "pipeline", "why", artifact(copy, "evaluate/pretrain-text-20").name
    )
    assert planned(copy) == {"tokenizer": 1, "evaluate": 1}
    if engine == "snakemake":
        output = snakemake(copy)
    else:
        output = run(copy, "dvc", "repro")
        assert ran(output) == ["prepare", "evaluate"]
    assert sorted(job.split()[0] for job in done_jobs(output)) == ["evaluate", "tokenizer"]
    assert is_clean(copy)
    assert planned(copy) == {}


def test_an_edited_result_is_made_again(copy):
    (copy / "results" / "table1.csv").write_text("vision_gain\n0.99\n")
    assert planned(copy) == {"table1": 1}
    snakemake(copy)
    assert is_clean(copy)


@pytest.mark.parametrize("engine", ["snakemake", pytest.param("dvc", marks=NIGHTLY)])
def test_a_killed_engine_goes_on_where_it_was_and_ends_in_the_same_bits(copy, tmp_path, engine):
    lost = artifact(copy, "finetune/b50")
    shutil.rmtree(lost)
    command = ["snakemake"] if engine == "snakemake" else ["dvc", "repro"]
    with (copy / "killed.log").open("w") as log:
        environment = ENVIRONMENT | holding(tmp_path)
        process = subprocess.Popen(command, cwd=copy, env=environment, stdout=log, stderr=log)
    job = held_below(process)  # it trains, and has made its first save
    below = psutil.Process(process.pid).children(recursive=True)
    # A second run says who is at work and touches nothing.
    assert "at work in this folder" in run(copy, "snakemake", ok=False)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    # Snakemake notices within a second that its DVC is gone; a job of this size would be done by then.
    wait(lambda: all(is_gone(p) for p in below if is_snakemake(p)))
    job.resume()
    wait(lambda: all(map(is_gone, below)))  # nothing goes on behind the back of the next run
    # A kill between two renames leaves the state under its old name.
    (resume,) = (copy / ".study" / "resume").iterdir()
    places = [resume / name / "state.json" for name in ("last", "next.old")]
    saved = read_json(next(place for place in places if place.exists()))["step"]
    assert not lost.joinpath("model.safetensors").exists()

    run(copy, *command)
    (copy / "killed.log").unlink()
    log = (copy / "logs" / "finetune" / f"{lost.name}.log").read_text()
    assert int(re.search(r"continuing after step (\d+)", log)[1]) == saved >= 10
    assert is_clean(copy)
    assert planned(copy) == {}
    assert repro(copy) == []
    assert not list((copy / ".study" / "resume").glob("*"))


def is_snakemake(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and any(part.endswith("/snakemake") for part in process.cmdline())
    return False


# --- no network, no keys, failed runs, audits ---


def test_the_study_was_made_without_a_network(study):
    """The whole of it, and so is every other test's: the same bits come out of runs that have one."""
    if not OFFLINE:
        pytest.skip("the kernel gives no network namespace here")
    reach = "import socket; socket.create_connection(('192.0.2.1', 443), 2)"
    assert "unreachable" in run(study, *OFFLINE, sys.executable, "-c", reach, ok=False)


def test_no_key_of_the_environment_is_in_anything_that_the_study_wrote(study):
    files = [file for file in study.rglob("*") if file.is_file() and not file.is_symlink()]
    assert len(files) > 500
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []


@pytest.mark.nightly
def test_a_failed_run_is_a_row_once_it_is_kept_and_a_model_once_it_is_tried_again(copy):
    lost = artifact(copy, "cooldown/b50")
    shutil.rmtree(lost)
    obstacle = copy / ".study" / "partial" / lost.name  # where the job would make its artifact
    obstacle.parent.mkdir(exist_ok=True)
    obstacle.write_text("in the way")
    before = folder_hashes(copy / "results")
    output = snakemake_fails(copy, "study")
    assert f"cooldown {lost.name}: FileExistsError: " in output
    assert "python -m pipeline keep-failed, and the same command\n" in output
    assert folder_hashes(copy / "results") == before  # nothing is said of a run that may be tried again

    assert f"kept as failed: cooldown/{lost.name}: FileExistsError" in run(
        copy, "python", "-m", "pipeline", "keep-failed"
    )
    obstacle.unlink()
    assert set(planned(copy, "study")) > {"cooldown", "finetune", "evaluate", "table1", "claims"}
    snakemake(copy, "study")
    rows = {(r["model"], float(r["branch_percent"])): r for r in table(copy)}
    failed = rows["vlm", 50.0]
    assert failed["status"].startswith(f"failed: cooldown {lost.name}: FileExistsError")
    assert failed["vision_stable"] == failed["text_stable"] == "" and failed["seeds"] == "0"
    whole = rows["vlm", 0.0]  # the blind run, which the gain is against, comes from the one that failed
    assert whole["status"].startswith(f"ok; no language prior: cooldown {lost.name}: FileExistsError")
    assert -100 <= float(whole["vision_stable"]) <= 100 and whole["vision_gain"] == ""
    assert f"Failed: recipe: cooldown {lost.name}: " in (copy / "results" / "claims.md").read_text()
    assert planned(copy) == {}
    assert repro(copy) == []
    commit(copy, "a failed run")
    assert is_clean(copy)

    (copy / "configs" / "failed.json").write_text("{}\n")
    snakemake(copy, "study")
    assert folder_hashes(copy / "results") == before
    assert repro(copy) == []


def snakemake_fails(folder: Path, *arguments: str) -> str:
    return run(folder, "snakemake", "--cores", "2", *arguments, ok=False)


def replace_code(folder: Path, module: str, old: str, new: str) -> None:
    file = folder / "pipeline" / module
    text = re.sub(old, new, file.read_text())
    assert text != file.read_text()
    file.write_text(text)


@pytest.mark.nightly
def test_a_renamed_variable_is_accepted_and_a_changed_constant_is_refused(copy):
    """Nothing but the report is made again: it shows which cards the tables have."""
    results = folder_hashes(copy / "results")
    accept = ("python", "-m", "pipeline", "accept")
    phases = ("features", "pretrain", "cooldown", "finetune", "evaluate")
    replace_code(copy, "model/vision.py", r"\brow\b", "line")
    commit(copy, "a refactoring")
    assert planned(copy, "study")["evaluate"] > 3
    output = run(copy, *accept, *phases, "--sample", "1", "--seed", "1")
    assert output.count("  same bits  (") == len(phases)
    assert re.search(
        r"^evaluate: accepted \d jobs \(--seed 1\): 1 of \d evaluate jobs, drawn at random, were", output, re.M
    )
    assert planned(copy) == {} and planned(copy, "study") == {"report": 1, "study": 1}
    finetune = artifact(copy, "finetune/b50").name
    assert " (made by other code of pipeline.model.vision, commit " in why(copy, finetune)
    number = ("results/table1.csv", "--row", "model=vlm,branch_percent=50", "--column", "vision_gain")
    assert "accepted for the code of commit " in run(copy, "python", "-m", "pipeline", "trace", *number)
    assert repro(copy) == ["report"]  # the other stages were noted in dvc.lock by accept
    assert planned(copy, "study") == {} and "up to date" in run(copy, "dvc", "status")
    changed = {name for name, its in folder_hashes(copy / "results").items() if its != results[name]}
    assert {name for name in changed if not name.startswith("made_from/")} == {"report.html"}

    commit(copy, "accepted")
    replace_code(copy, "model/vision.py", r"PLACE_SCALE = 4.0", "PLACE_SCALE = 3.0")
    before = folder_hashes(copy / "artifacts")
    output = run(copy, *accept, *phases, "--sample", "1", ok=False)
    assert re.search(r"^refused: with today's code features \S+ differs in \S+; no card of features was", output, re.M)
    assert folder_hashes(copy / "artifacts") == before and not run(copy, "git", "diff", "--", "results", "dvc.lock")
    assert "code of pipeline.model.vision changed (and " in why(copy, "results/table1.csv")


def why(folder: Path, target: str) -> str:
    return run(folder, "python", "-m", "pipeline", "why", target)


@pytest.mark.nightly
def test_an_audit_finds_the_same_bits_and_a_changed_one(copy):
    before = folder_hashes(copy / "artifacts")
    audit = ("python", "-m", "pipeline", "verify", "--sample", "4", "--seed", "1")
    output = run(copy, *audit)
    certificate = read_json(copy / "results" / "certificate.json")
    assert output.count("  same bits  (") == certificate["sample"] == 4
    assert certificate["population"] == certificate["finished_jobs"] > 30
    assert 0.3 < certificate["at_most_not_reproducing"]["share"] < 0.6
    assert certificate["commit"] == run(copy, "git", "rev-parse", "HEAD").strip()
    assert folder_hashes(copy / "artifacts") == before
    # It is git's to keep, and nobody's to make.
    assert run(copy, "git", "status", "--short").split() == ["??", "results/certificate.json"]
    assert "up to date" in run(copy, "dvc", "status")
    assert planned(copy) == {}
    assert repro(copy) == []

    job = certificate["jobs"][0]
    folder = copy / "artifacts" / job["phase"] / job["id"]
    file = max((f for f in folder.rglob("*") if f.is_file() and "json" not in f.suffix), key=lambda f: f.stat().st_size)
    dates, data = file.stat(), bytearray(file.read_bytes())
    data[-1] ^= 1
    file.unlink()  # it may be a link into DVC's cache
    file.write_bytes(data)
    os.utime(file, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    output = run(copy, *audit, ok=False)
    assert (
        f"{job['phase']} {job['id']}  differs in {file.relative_to(folder)}; on the disk it is not what was made"
        in output
    )
    assert f"{job['phase']} {job['id']}" in output.splitlines()[-1]
