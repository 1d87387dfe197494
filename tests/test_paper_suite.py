"""The paper's evaluation suite: its definitions, and a model asked all of it from files in the official formats."""

import csv
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from typed import scenes, vision_task

from pipeline.common.squares import Square
from pipeline.data.formats import question_files
from pipeline.data.packing import prompt_tokens
from pipeline.data.records import Question
from pipeline.data.scenes import write as writer
from pipeline.data.tokenizer import load_tokenizer, train_tokenizer
from pipeline.evaluation import evaluate, metrics, tasks
from pipeline.evaluation.job_settings import EvaluatedModel
from pipeline.evaluation.model import load_model
from pipeline.model.decoder import DecoderShape
from pipeline.model.vision import build_encoder, decode_image
from pipeline.model.vlm import VLM
from pipeline.reporting import scores
from pipeline.settings.errors import ConfigError, parse
from pipeline.settings.tasks import AskedVisionTask, Tasks, check_tasks
from pipeline.settings.types import Encoder
from pipeline.settings.yaml_file import load_yaml

torch.set_num_threads(1)

CONFIGS = Path(__file__).parent.parent / "configs" / "tasks"
PAPER = parse(Tasks, load_yaml(CONFIGS / "paper.yaml", CONFIGS), "paper.yaml")
SETTINGS = PAPER.model_dump()
SHORT = "\nAnswer the question using a single word or phrase."
BOX = 'Please provide the bounding box coordinate of the region this sentence describes: "{}"'


# --- definitions ------------------------------------------------------------------------------------------------------


def test_vision_tasks_are_the_papers():
    """Format, prompt, scorer, threshold, chance and place in the stable score, as vlm-evaluation and the authors have it."""
    unsure = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
    expected = {
        "vqav2": ("vqav2", "{}" + SHORT, "vqa", None, 0.25, True),
        "gqa": ("gqa", "{}" + SHORT, "gqa", None, 0.25, True),
        "vizwiz": ("vizwiz", "{}" + unsure + SHORT, "vqa", None, 0.0, False),
        "textvqa": ("textvqa", "{}" + SHORT, "textvqa", None, 0.0, True),
        "refcoco": ("refcoco", BOX, "box", 0.5, 0.0, True),
        "ocid_ref": ("ocid", BOX, "box", 0.25, 0.0, True),
        "pope": ("pope", "{}" + SHORT, "yes_no", None, 0.5, True),
    }
    for name, task in SETTINGS["vision"].items():
        prompt = tasks.ask(PAPER.vision[name], Question("1", name, Path(), "{What} is it?", (), "", None))
        shape, wanted, scorer, threshold, chance, stable = expected.pop(name)
        assert (task["format"], prompt) == (shape, wanted.replace("{}", "{What} is it?"))
        assert (task["scorer"], task["threshold"], task["chance"], task["stable"]) == (
            scorer,
            threshold,
            chance,
            stable,
        )
        assert task["longest"] == (1 if scorer == "yes_no" else 128) and "items" not in task
    assert not expected
    assert SETTINGS["vision"]["pope"]["options"] == ["Yes", "No"] and SETTINGS["vision"]["pope"]["average"] == "kinds"


def test_text_tasks_are_the_papers():
    chances = {"agieval_sat_en": 0.2, "arc_easy": 0.25, "bigbench_conceptual_combinations": 0.25, "boolq": 0.5}
    chances |= {"copa": 0.5, "hellaswag": 0.25, "mathqa": 0.2, "piqa": 0.5, "pubmedqa": 0.333}
    expected = {name: {"benchmark": name, "chance": chance, "stable": True} for name, chance in chances.items()}
    assert SETTINGS["text"] == expected


def test_unset_options_are_in_no_card():
    """So that what they add asks for no old result to be made again."""
    scenes = parse(Tasks, load_yaml(CONFIGS / "scenes.yaml", CONFIGS), "scenes.yaml").model_dump()
    assert set(scenes) == {"vision", "captioning", "text"}
    keys = {"format", "prompt", "scorer", "threshold", "chance", "stable", "longest"}
    assert all(set(task) == keys for task in scenes["vision"].values())
    assert all(set(task) == {"chance", "stable"} for task in scenes["text"].values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision.gqa.options": ["Yes", "No"]}, r"vision.gqa.options: found \['Yes', 'No'\], allowed: nothing: it is of yes_no"),
        ({"vision.pope.decimals": 2}, "vision.pope.decimals: found 2, allowed: nothing: it is of box alone"),
        ({"vision.gqa.beside": ["box"]}, "vision.gqa.beside: found 'box', allowed: scorers of free text"),
        ({"vision.refcoco.beside": ["vqa"]}, "vision.refcoco.beside: found 'vqa', allowed: scorers of free text"),
        ({"vision.pope.options": ["Yes"]}, "vision.pope.options: found"),
        ({"vision.vqav2.items": 0}, "vision.vqav2.items: found 0"),
        ({"vision.vqav2.scorer": "bleu"}, "vision.vqav2.scorer: found 'bleu', allowed: 'vqa'"),
        ({"text.piqa.benchmark": "piqua"}, "text.piqa.benchmark: found 'piqua', .*did you mean 'piqa'"),
        ({"text.piqa.benchmark": None, "text.piqa.files": "*"}, "text.piqa.files: found .*: it is of a benchmark alone"),
        ({"text.piqa.benchmark": None, "engine": "lm_eval"}, "text.piqa.benchmark: found None, .*the engine is lm_eval"),
        ({"engine": "harness"}, "engine: found 'harness', allowed: 'lm_eval'"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(change, message):
    value = json.loads(json.dumps(SETTINGS))
    for key, found in change.items():
        *path, last = key.split(".")
        section = value
        for part in path:
            section = section[part]
        section[last] = found
    with pytest.raises(ConfigError, match=rf"paper.yaml: {message}"):
        check_tasks(parse(Tasks, value, "paper.yaml"), "paper.yaml")


def test_claims_and_published_figures_are_about_the_papers_own_tasks(project):
    """What they say of an embedded task is said of the benchmark that it stands for."""
    before = project.settings()
    project.set("params.yaml", "tasks", "paper")
    settings = project.settings()
    names = {task.stands_for: name for name, task in PAPER.vision.items() if task.stands_for}
    # The scenes' kinds have no benchmark there, and their names of the novel concepts neither.
    assert set(names) == before.tasks.vision.keys() - {"kinds", "novel_names"}
    assert before.claims["seeds_agree"].agreement.metric == "short_answer"
    assert settings.claims["seeds_agree"].agreement.metric == "vqav2"
    assert settings.claims.keys() == before.claims.keys()
    columns = [(a.column, b.column) for a, b in zip(before.published, settings.published, strict=True)]
    assert ("relations", "gqa") in columns and all(b == names.get(a, a) for a, b in columns)
    (card, *_) = [
        job for job in project.study().jobs.values() if job.phase == "evaluate" and job.card_settings["vision"]
    ]
    asked = {
        name: {k: v for k, v in task.items() if k in AskedVisionTask.model_fields}
        for name, task in SETTINGS["vision"].items()
    }
    assert card.card_settings["vision"] == asked and card.card_settings["captioning"] is None


# --- slim subsets -----------------------------------------------------------------------------------------------------


def questions(count: int, kinds: tuple[str, ...] = ("kind",)) -> list[Question]:
    return [Question(f"{n}", "task", Path("x.jpg"), "?", ("yes",), kinds[n % len(kinds)]) for n in range(count)]


def test_slim_subsets_are_the_same_everywhere_and_within_each_other():
    everything = questions(4000)
    small, large = (tasks.asked(vision_task(items=count), everything) for count in (64, 1024))
    # sha256sum of each id, the first 64 in its order
    assert [question.id for question in small[:8]] == ["51", "55", "178", "245", "286", "327", "342", "344"]
    assert set(small) < set(large) < set(everything) and len(small) == 64 and len(large) == 1024
    assert small == [question for question in everything if question in set(small)]
    assert {q.id for q in tasks.asked(vision_task(items=64), everything[::-1])} == {q.id for q in small}
    assert tasks.asked(vision_task(items=5000), everything) == tasks.asked(vision_task(), everything) == everything
    assert 0.4 < np.mean([int(question.id) for question in large]) / 4000 < 0.6


# --- scores -----------------------------------------------------------------------------------------------------------


def test_the_mean_of_splits_is_not_the_mean_of_questions():
    kinds = ["adversarial"] * 30 + ["popular"] * 30 + ["random"] * 20
    asked = [Question(f"{n}", "pope", Path(f"{n}.jpg"), "?", ("yes",), kind) for n, kind in enumerate(kinds)]
    rng = np.random.default_rng(2)
    rows = pd.DataFrame({"task": "pope", "id": [q.id for q in asked], "image": [q.image.name for q in asked]})
    rows = rows.assign(kind=kinds, score=rng.integers(0, 2, len(kinds)) * np.repeat([1, 0, 1], [30, 30, 20]))
    splits = rows.groupby("kind")["score"].mean()
    assert abs(splits.mean() - rows["score"].mean()) > 0.01
    weighted = rows.assign(weight=tasks.weights(vision_task(average="kinds"), asked), condition="normal")
    assert weighted["weight"].mean() == pytest.approx(1)
    assert scores.average(weighted, {"pope": 0.5}).estimate == pytest.approx(splits.mean() - 0.5)
    assert scores.average(rows, {"pope": 0.5}).estimate == pytest.approx(rows["score"].mean() - 0.5)
    one = weighted[weighted["kind"] == "random"]
    assert scores.average(one, {"pope": 0.0}).estimate == pytest.approx(splits["random"])
    assert tasks.weights(vision_task(), asked) == [1.0] * len(asked)


def test_a_claims_items_are_weighted_too(tmp_path):
    rows = pd.DataFrame(
        {"task": "pope", "condition": "normal", "id": ["1", "2", "3"], "image": "x", "score": [1, 1, 0]}
    )
    rows.assign(weight=[0.75, 0.75, 1.5]).to_csv(tmp_path / "vision.csv", index=False)
    items = scores.items(tmp_path, "pope", "normal", SETTINGS)
    assert items["value"].mean() == pytest.approx(0.5)


def test_a_true_box_has_the_decimals_that_the_task_asks_for():
    asked = Question("1", "refcoco", Path("image.png"), "it", ("",), "object", (0.123, 0.25, 0.5, 0.756))
    task = PAPER.vision["refcoco"]
    assert tasks.true_box(task, asked) == (0.12, 0.25, 0.5, 0.76)
    assert tasks.true_box(task.model_copy(update={"decimals": None}), asked) == asked.box
    assert tasks.score_answer(task.model_copy(update={"threshold": 0.99}), asked, " [0.12, 0.25, 0.50, 0.76]\n") == (
        True,
        1.0,
    )


# --- a model asked all of it ------------------------------------------------------------------------------------------

SCENES = SimpleNamespace(
    seed=5, canvas=64, concepts=16, caption_only_concepts=8, words=16, captions=2, validation_images=10, test_images=1
)
LIKE = {"vqav2": "short_answer", "gqa": "relations", "textvqa": "reading", "refcoco": "boxes", "ocid_ref": "clutter"}
ENCODER = {"kind": "patch", "pixels": 64, "patches": 4, "width": 3 * 32 * 32 + 4, "cache": False}
MODEL = {"vocabulary": 400, "layers": 2, "heads": 2, "width": 16, "sequence": 128}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Composed scenes in the official formats, under the names of the paper's tasks; a model of random weights."""
    root = tmp_path_factory.mktemp("suite")
    writer.write_scenes(root / "scenes", scenes("evaluation", SCENES))
    folder = root / "source" / "evaluation" / "validation"
    shutil.copytree(root / "scenes" / "evaluation" / "validation", folder)
    for name, like in (LIKE | {"pope": "presence"}).items():
        (folder / like).rename(folder / name)
    # POPE's random split is smaller than the others.
    lines = (folder / "pope" / "random.json").read_text().splitlines(keepends=True)
    (folder / "pope" / "random.json").write_text("".join(lines[: len(lines) // 2]))
    (root / "tokenizer").mkdir()
    words = "Yes No yes no Answer the question using a single word or phrase [0.1, 0.25, 0.5, 0.9]"
    train_tokenizer([words] * 20, MODEL["vocabulary"], root / "tokenizer" / "tokenizer.json")
    torch.manual_seed(0)
    shape = DecoderShape(MODEL["vocabulary"], MODEL["layers"], MODEL["heads"], MODEL["width"])
    model = VLM(shape, ENCODER["width"])
    torch.nn.init.normal_(model.projector.second.weight, std=2.0)
    (root / "checkpoint").mkdir()
    save_file(model.state_dict(), root / "checkpoint" / "model.safetensors")
    return root


@pytest.fixture(scope="module")
def rows(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("rows")
    vision = {name: task for name, task in SETTINGS["vision"].items() if task["format"] in question_files.FORMATS}
    vision = {name: task | {"longest": min(task["longest"], 6)} for name, task in vision.items() if name != "vizwiz"}
    vision["gqa"] |= {"items": 5}
    vision = {name: {k: task[k] for k in task if k in AskedVisionTask.model_fields} for name, task in vision.items()}
    settings = {
        "model": MODEL,
        "evaluation": {"batch": 8, "batch_tokens": 600, "text_items": 1, "heldout_documents": 1},
        "hardware": {"device": "cpu", "threads": 1},
        "encoder": ENCODER,
        "vision": vision,
        "captioning": None,
        "text": {},
        "conditions": ["normal", "removed"],
        "split": "validation",
    }
    inputs = {"checkpoint": made / "checkpoint", "tokenizer": made / "tokenizer", "questions": made / "source"}
    job = SimpleNamespace(
        settings=settings, inputs=inputs, progress=evaluate.Silent(), context={}, resume=out / "resume"
    )
    evaluate.run(job, out)

    def read(name: str) -> list[dict]:
        with open(out / f"{name}.csv", newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    return read("vision"), read("measures")


def test_all_tasks_are_asked(rows):
    asked = pd.DataFrame(rows[0]).groupby(["task", "condition"]).size().unstack()
    assert set(asked.index) == {*LIKE, "pope"}
    assert (asked["normal"] == asked["removed"]).all()
    assert asked.loc["gqa", "normal"] == 5


def test_splits_count_alike(rows):
    pope = pd.DataFrame(rows[0]).astype({"weight": float}).query("task == 'pope' and condition == 'normal'")
    weights = pope.groupby("kind")["weight"].agg(["sum", "size"])
    assert weights["size"].nunique() > 1
    np.testing.assert_allclose(weights["sum"], len(pope) / 3, rtol=1e-6)
    others = [row["weight"] for row in rows[0] if row["task"] != "pope"]
    assert set(others) == {"1"}


def test_conventions_stand_beside_the_score(rows):
    found = {(row["task"], row["condition"], row["measure"]): float(row["score"]) for row in rows[1]}
    measured = {task: [row["measure"] for row in rows[1] if row["task"] == task] for task in ("vqav2", "gqa", "pope")}
    assert measured["vqav2"] == ["vqa", "vqa_official", "vqa_as_run"] * 2
    assert [*dict.fromkeys(measured["gqa"])][:2] == ["gqa", "exact"]
    assert [*dict.fromkeys(measured["pope"])] == ["precision", "recall", "f1", "yes_ratio"]
    assert {row["kind"] for row in rows[1] if row["task"] == "pope"} == {"", "adversarial", "popular", "random"}
    vision = pd.DataFrame(rows[0]).astype({"score": float})
    for condition in ("normal", "removed"):
        mine = vision.query("task == 'vqav2' and condition == @condition")
        assert found["vqav2", condition, "vqa"] == pytest.approx(mine["score"].mean(), abs=1e-6)


def test_yes_and_no_are_weighed_as_the_first_token(made, rows):
    tokenizer = load_tokenizer(made / "tokenizer" / "tokenizer.json")
    words = [tokenizer.encode(word)[0] for word in ("Yes", "No")]
    assert words != [tokenizer.encode(word)[0] for word in ("yes", "no")]
    model = load_model(EvaluatedModel.model_validate({"model": MODEL, "encoder": ENCODER}), made / "checkpoint")
    encoder = build_encoder(Encoder(**ENCODER))
    folder = made / "source" / "evaluation" / "validation"
    said = {row["id"]: row["prediction"] for row in rows[0] if row["task"] == "pope" and row["condition"] == "normal"}
    assert set(said.values()) <= {"yes", "no"}
    for question in question_files.read_questions("pope", folder / "pope", images=folder / "images"):
        prompt = prompt_tokens(tokenizer, question.text + SHORT)
        tokens = torch.tensor([[tokenizer.image] * 4 + prompt])
        pixels = decode_image(question.image.read_bytes(), Square(64))[None]
        with torch.no_grad():
            hidden = model.decoder(model.embed(tokens, encoder(pixels), torch.arange(4)))[:, -1]
            yes, no = model.decoder.logits(hidden)[0, words].tolist()
        assert said[question.id] == ("yes" if yes >= no else "no")


def test_box_answers_are_boxes_or_wrong(rows):
    boxes = [row for row in rows[0] if row["task"] in ("refcoco", "ocid_ref")]
    assert boxes
    for row in boxes:
        assert row["valid"] == str(int(metrics.parse_box(row["prediction"].strip()) is not None))
        assert re.fullmatch(r"\[\d\.\d\d(, \d\.\d\d){3}\]", row["answer"])
