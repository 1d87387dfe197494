"""The examples of docs/examples: a study takes each up as docs/your-own.md says, and reads what is in it."""

import shutil

import pytest
import torch
from conftest import SCALE, SOURCE, Project
from streaming import LocalDataset
from test_corpora import job_of, make, quarantine

from pipeline.common.files import read_json
from pipeline.data.formats.documents import read_choices
from pipeline.data.questions import read_task
from pipeline.data.tokenizer import load_tokenizer
from pipeline.evaluation.tasks import ask, score_answer
from pipeline.model.vision import build_encoder, decode_images
from pipeline.settings.errors import ConfigError
from pipeline.study import claims

EXAMPLES = "docs/examples"


@pytest.fixture
def mine(project, monkeypatch) -> Project:
    """A project that has taken up all the examples."""
    monkeypatch.chdir(project.root)
    shutil.copytree(SOURCE / EXAMPLES, project.root / EXAMPLES)
    for kind in ("data", "tasks", "encoder"):
        shutil.copy(SOURCE / EXAMPLES / f"{kind}.yaml", project.root / f"configs/{kind}/mine.yaml")
    claims = project.root / "configs/claims.yaml"
    claims.write_text(claims.read_text() + (SOURCE / EXAMPLES / "claim.yaml").read_text())
    for key in ("data", "tasks", "recipe.encoder"):
        project.set("params.yaml", key, "mine")
    project.set(SCALE, "evaluation.heldout_documents", 4)  # as many as there are
    return project


def made(project: Project, phase: str, part: str):
    """The folder of a part's artifact, newly made, and what was counted of it."""
    job = job_of(project, phase, part)
    assert make(project, job) == ""
    folder = project.root / job.folder
    return folder, read_json(folder / "measured.json")


def test_text(mine):
    folder, measured = made(mine, "shards", "text")
    assert measured["corpora"]["notes"]["records"] == 20
    assert measured["sequences"] > 10 and quarantine(folder) == []
    tokenizer = load_tokenizer(mine.root / EXAMPLES / "tokenizer.json")
    (first, *_) = LocalDataset(str(folder))
    assert "Someone drew a red circle" in tokenizer.decode(list(first["tokens"]))


def test_captions(mine):
    folder, measured = made(mine, "shards", "captions")
    assert measured["corpora"]["full"]["pieces"] == 12 and quarantine(folder) == []


def test_instructions(mine):
    folder, measured = made(mine, "shards", "instructions")
    assert measured["corpora"]["shapes"]["pieces"] == 6 and quarantine(folder) == []
    assert measured["corpora"]["shapes"].get("missing_images", 0) == 0


def test_a_vision_task(mine):
    folder, _ = made(mine, "sources", "evaluation")
    settings = mine.settings()
    task = settings.tasks.vision["shapes"]
    questions = list(read_task(folder, "test", "shapes", "vqav2", {"corpora": settings.data.source.context()}))
    assert len(questions) == 12 and all(question.image.is_file() for question in questions)
    assert ask(task, questions[0]) == "What colour is it?\nAnswer the question using a single word or phrase."
    assert score_answer(task, questions[0], " Red.") == (True, 1.0)
    assert score_answer(task, questions[0], "blue") == (True, 0.0)


def test_a_text_task(mine):
    folder, _ = made(mine, "sources", "text")
    items = list(read_choices(folder / "evaluation/text/corners.jsonl", "corners"))
    assert [item.choices[item.gold] for item in items[:2]] == [" four corners.", " no corners."]
    asked = [job.card_settings for job in mine.ledger().jobs if job.phase == "evaluate"]
    assert {name for settings in asked for name in settings["text"]} == {"corners"}
    assert {name for settings in asked for name in settings["vision"]} == {"shapes"}


def test_an_encoder(mine):
    encoder = mine.settings().encoders["mine"]
    pictures = [(SOURCE / EXAMPLES / f"images/{name}.jpg").read_bytes() for name in ("red-circle", "blue-circle")]
    features = build_encoder(encoder)(decode_images(pictures, encoder.square))
    assert features.shape == (2, encoder.patches, encoder.width) and not torch.equal(features[0], features[1])
    cooldown = next(job for job in mine.ledger().jobs if job.phase == "cooldown")
    assert cooldown.settings.encoder.pixels == 160


def test_a_claim(mine):
    name = "half_is_no_worse_than_a_tenth"
    mine.set("params.yaml", "experiments.image_fraction.vary.image_fraction", [0.1, 0.5])
    claim = mine.settings().claims[name]
    assert (claim.kind, claim.contrast.margin) == ("contrast", 0.01)
    resolved = claims.resolve(mine.study())
    assert name in str(resolved)
    mine.set("configs/claims.yaml", f"{name}.may_differ", ["branch_percent"])
    with pytest.raises(ConfigError, match="image_fraction"):
        claims.resolve(mine.study())
