"""Asking a trained model about pictures: its answers, what is unlike its training, and what is refused."""

import json
import shutil
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from test_export import Workshop

from pipeline.__main__ import main
from pipeline.commands import ask as command
from pipeline.commands.ask import Unread, ask, find_evaluation, find_likeness, on_this_machine, reply
from pipeline.common.files import one_line, stable_json
from pipeline.data.packing import prompt_tokens
from pipeline.data.store import FeatureStore
from pipeline.data.tokenizer import load_tokenizer
from pipeline.engines import workflow
from pipeline.evaluation.job_settings import Evaluate
from pipeline.evaluation.likeness import Likeness
from pipeline.evaluation.model import load_model
from pipeline.model.vision import build_encoder, decode_image
from pipeline.model.vlm import VLM, greedy
from pipeline.settings.types import Encoder
from pipeline.store import artifacts, ledger
from pipeline.store.failed_runs import note_failure
from pipeline.store.fingerprint import code_fingerprint
from pipeline.store.ledger import Ledger
from pipeline.study.cells import Cell
from pipeline.study.job import Job
from pipeline.study.study import Study

PHOTOGRAPH = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
QUESTION = "a text of red words"
torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def fingerprints():
    """A phase's code is read once, and not for every ledger."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "code_fingerprint", cache(code_fingerprint))
        yield


def draw(number: int) -> Image.Image:
    """A picture of some coloured squares on white, 64 x 64 px."""
    random = np.random.default_rng(number)
    image = Image.new("RGB", (64, 64), "white")
    for left, top in random.integers(0, 44, (3, 2)).tolist():
        colour = tuple(random.integers(0, 200, 3).tolist())
        ImageDraw.Draw(image).rectangle((left, top, left + 18, top + 18), fill=colour)
    return image


class Shop(Workshop):
    """A finished model of random weights in which what is seen shows, and the features of its study's pictures."""

    def __init__(self, root: Path):
        super().__init__(root)
        settings = self.study.settings
        more = {"timing": {"branch_percent": [80.0]}, "finetune_epochs": {"finetune_epochs": [1, 2]}}
        params = settings.params.model_dump() | {"experiments": {name: {"vary": vary} for name, vary in more.items()}}
        self.ledger = Ledger(Study(settings.model_copy(update={"params": type(settings.params)(**params)})), root)
        self.study = self.ledger.study
        self.scores = self.study.run(Cell(self.study.recipe), self.study.recipe.seed)
        self.job = self.scores.parents["checkpoint"]
        self.encoder = Encoder(**self.job.card_settings["encoder"])
        self.train(self.job)
        self.features(self.job.parents["features"], range(60))
        self.features(self.scores.parents["features"], range(100, 130))

    def model(self, job: Job) -> VLM:
        model = super().model(job)
        if model.projector:
            torch.nn.init.normal_(model.projector.second.weight, std=2.0)
        return model

    @torch.inference_mode()
    def features(self, job: Job, numbers: range) -> None:
        """Leave the features of drawn pictures as a job's artifact."""
        folder = self.root / job.folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        pixels = [torch.from_numpy(np.array(self.encoder.square.of(draw(n)))).permute(2, 0, 1) for n in numbers]
        np.save(folder / "features.npy", build_encoder(self.encoder)(torch.stack(pixels)).half().numpy())
        self.put(job, {"ids.json": json.dumps([str(n) for n in numbers])}, {})

    @torch.inference_mode()
    def answers(self, file: Path, question: str = QUESTION) -> list[str]:
        """What the model says with a picture and without it, by the parts that the evaluation is made of."""
        settings = Evaluate.model_validate(self.scores.card_settings)
        model = load_model(settings, self.root / self.job.folder)
        tokenizer = load_tokenizer(self.root / self.scores.parents["tokenizer"].folder / "tokenizer.json")
        features = build_encoder(self.encoder)(decode_image(file, self.encoder.square)[None]).half().float()
        text = torch.tensor([prompt_tokens(tokenizer, question)])
        prompt = torch.cat((torch.full((1, self.encoder.patches), tokenizer.image), text), 1)
        assert int((prompt == tokenizer.image).sum()) == self.encoder.patches  # the question has none, whatever it says
        longest, stop = max(task.longest for task in settings.vision.values()), tokenizer.end_assistant
        seen = greedy(model, prompt, stop, longest, features, torch.arange(self.encoder.patches))
        return [one_line(tokenizer.decode(ids).strip()) for (ids,) in (seen, greedy(model, text, stop, longest))]


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Shop:
    return Shop(tmp_path_factory.mktemp("ask"))


@pytest.fixture
def changed(shop, tmp_path) -> Shop:
    """A copy of the shop to change."""
    copy = object.__new__(Shop)
    copy.__dict__ |= shop.__dict__ | {"root": tmp_path / "shop"}
    shutil.copytree(shop.root, copy.root, symlinks=True)
    copy.ledger = Ledger(shop.study, copy.root)
    return copy


@pytest.fixture
def picture(tmp_path) -> Path:
    draw(200).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def said(lines: list[str]) -> list[str]:
    """What is said with the picture and without it."""
    return [line.partition(":")[2].strip() for line in lines if line.startswith("  with")]


def unlike(shop: Shop, file: Path) -> bool:
    return any("This picture is unlike" in line for line in ask(shop.ledger, file, QUESTION))


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", [QUESTION, "<|/h|> <|img_patch|>"])
def test_the_answers_are_the_evaluations(shop, picture, question):
    """With and without the picture; and what looks like a special token is text."""
    first, *lines = ask(shop.ledger, picture, question)
    wanted = shop.answers(picture, question)
    assert first == f"model: {shop.job.id}"
    assert said(lines) == wanted
    assert wanted[0] != wanted[1]


def test_features_are_rounded_as_those_that_are_kept(shop, picture, monkeypatch):
    seen = []
    monkeypatch.setattr(command, "reply", lambda _, file, question, look: seen.append(look and look([file])))
    list(ask(shop.ledger, picture, QUESTION))
    with torch.inference_mode():
        whole = build_encoder(shop.encoder)(decode_image(picture, shop.encoder.square)[None])
    assert torch.equal(seen[0], whole.half().float()) and not torch.equal(seen[0], whole)
    assert seen[1:] == [None]


def test_pictures_that_look_the_same_are_answered_the_same(shop, tmp_path):
    """Whatever format they are in: transparency is white, grey of 16 bits is grey, and EXIF turns."""
    image, grey = draw(201), np.array(draw(202).convert("L"))
    turn = Image.Exif()
    turn[0x0112] = 3
    clear = image.convert("RGBA")
    clear.putdata([(0, 0, 0, 0) if pixel == (255, 255, 255) else (*pixel, 255) for pixel in image.getdata()])
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.bmp")
    image.save(tmp_path / "c.webp", lossless=True)
    image.rotate(180).save(tmp_path / "d.png", exif=turn)
    clear.save(tmp_path / "e.PNG")
    lines = list(ask(shop.ledger, tmp_path, QUESTION))
    assert said(lines) == 5 * shop.answers(tmp_path / "a.png")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    one, other = (said(list(ask(shop.ledger, tmp_path / name, QUESTION))) for name in ("grey.png", "sixteen.png"))
    assert one == other != said(lines)[:2]


def test_boxes_are_in_shares_of_the_picture(shop, tmp_path):
    """In the question and in the answer, while the model sees the padded square."""
    Image.new("RGB", (100, 50)).save(tmp_path / "wide.png")
    tokenizer = load_tokenizer(shop.root / shop.scores.parents["tokenizer"].folder / "tokenizer.json")
    settings = Evaluate.model_validate(shop.scores.card_settings)
    encoder = settings.encoder.model_copy(update={"fit": "letterbox"})
    sizes = settings.model.model_copy(update={"sequence": 256})
    settings = settings.model_copy(update={"encoder": encoder, "model": sizes})
    asked = []

    def answer(key, prompts, *_):
        asked.append(tokenizer.decode(list(prompts[0])))
        return ["[0.00, 0.25, 0.50, 0.50]"]

    evaluation = SimpleNamespace(settings=settings, tokenizer=tokenizer, model=None, answer=answer)
    assert reply(evaluation, tmp_path / "wide.png", "in [0, 0, 1, 1]?", None) == "[0.00, 0.00, 0.50, 0.50]"
    assert asked == ["in [0.00, 0.25, 1.00, 0.75]?"]


# --- a folder ---------------------------------------------------------------------------------------------------------


def test_a_folder_is_answered_and_what_is_no_picture_is_said(shop, tmp_path, monkeypatch, capsys):
    for name in ("b.png", "a.JPG", "c.gif"):
        draw(203).save(tmp_path / name)
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.JPG").read_bytes()[:300])
    (tmp_path / "d.png").write_text("no picture")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "giant.png")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "x.png").mkdir()
    monkeypatch.setattr(workflow, "open_ledger", lambda *_: shop.ledger)
    assert main(["ask", str(tmp_path), QUESTION]) == 1
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    names = [line.rpartition("/")[2] for line in lines if line.startswith(str(tmp_path))]
    assert names == ["a.JPG", "b.jpg", "b.png", "c.gif", "d.png", "giant.png"]
    assert len(said(lines)) == 6
    assert [line for line in lines if "not read" in line or "skipped" in line] == [
        "  not read: image cannot be decoded (OSError)",
        "  not read: not a JPEG, PNG, WebP, GIF or BMP image",
        "  not read: image has 10000 x 10000 px, more than 89,478,485 in all",
        "skipped, as no pictures by their names: 2 (notes.txt, x.png/)",
    ]
    assert printed.err == "3 of 6 pictures could not be read\n"
    assert main(["ask", str(tmp_path / "c.gif"), QUESTION]) == 0


def test_one_broken_picture_is_an_error(shop, tmp_path):
    (tmp_path / "empty.png").touch()
    with pytest.raises(Unread, match="1 of 1 pictures could not be read"):
        list(ask(shop.ledger, tmp_path / "empty.png", QUESTION))


# --- what is unlike the training --------------------------------------------------------------------------------------


def test_a_photograph_is_unlike_and_the_studys_own_pictures_are_not(shop, tmp_path):
    assert unlike(shop, PHOTOGRAPH)
    lines = list(ask(shop.ledger, PHOTOGRAPH, QUESTION))
    assert lines[-1].endswith(
        "(farther from them than all of the study's own 30 evaluation pictures): do not trust the answer."
    )
    for number in range(300, 320):
        draw(number).save(tmp_path / f"{number}.png")
    lines = list(ask(shop.ledger, tmp_path, QUESTION))
    assert (
        len(said(lines)) == 40 and sum("This picture is unlike" in line for line in lines) <= 2
    )  # 20/31 of one are to be expected


def store(folder: Path, features: list) -> FeatureStore:
    folder.mkdir()
    np.save(folder / "features.npy", np.array(features, np.float16))
    (folder / "ids.json").write_text(json.dumps([str(n) for n in range(len(features))]))
    return FeatureStore(folder)


def test_the_measure_is_the_distance_of_mean_patches_to_the_nearest(tmp_path):
    """Means (0, 0) and (10, 0) in training; evaluation pictures are 1, 2, 3 and 4 away."""
    training = store(tmp_path / "training", [[[1, 1], [-1, -1]], [[10, 5], [10, -5]]])
    own = store(tmp_path / "own", [[[0, 1], [0, 1]], [[12, 0], [12, 0]], [[0, 6], [0, 0]], [[14, 0], [14, 0]]])
    likeness = Likeness(training, own)
    assert likeness.distances.tolist() == [1, 2, 3, 4]
    for x, share in ((0, 0.0), (1, 0.0), (1.5, 0.25), (8.5, 0.25), (-4, 0.75), (14.5, 1.0)):
        assert likeness.share_nearer(torch.tensor([[x - 3.0, 0.0], [x + 3.0, 0.0]])) == share
    with pytest.raises(ValueError, match="of no picture"):
        Likeness(training, store(tmp_path / "none", np.zeros((0, 2, 2))))


def test_where_nothing_is_kept_it_is_not_guessed(changed, picture):
    own = changed.scores.parents["features"]
    (changed.root / own.folder / "features.npy").write_bytes(b"other")
    found = [line for line in ask(changed.ledger, PHOTOGRAPH, QUESTION) if "unlike" in line]
    unknown = "whether a picture is unlike those that the model was trained on is not known: "
    assert found == [f"note: {unknown}{own.folder}/features.npy has other bytes than when it was made"]
    shutil.rmtree(changed.root / own.folder)
    assert find_likeness(changed.root, changed.job, changed.scores) == f"{unknown}{own.folder} is not here"
    recipe = changed.study.recipe.model_copy(update={"train_encoder": True})
    model = changed.study.finetune(recipe)
    without = find_likeness(changed.root, model, changed.study.evaluate(model, recipe))
    assert without == f"{unknown}the study keeps no features for this model"


# --- the model --------------------------------------------------------------------------------------------------------


def test_a_model_is_found_by_the_beginning_of_its_id(shop, picture):
    study, whole = shop.study, shop.job.id
    for prefix in (None, whole, whole[:-7], whole.rpartition("-")[0]):
        assert find_evaluation(study, prefix) is shop.scores
    models = ", ".join(sorted(other.id for other in (shop.job, once(shop))))
    for prefix, line in (
        ("b80", f"found 'b80', the beginning of 2 models; allowed: that of one: {models}"),
        ("\x1b[2J", f"found '\\x1b[2J', the beginning of none; allowed: that of one: {models}"),
        (
            "blind",
            f"found {study.finetune(study.recipe, blind=True).id}, which was fine-tuned blind, without images; "
            "allowed: a model that has seen images",
        ),
    ):
        with pytest.raises(ValueError) as caught:
            list(ask(shop.ledger, picture, QUESTION, prefix))
        assert str(caught.value) == f"--model: {line}"


def test_a_model_that_is_not_made_is_said_with_what_makes_it(changed, picture):
    other = once(changed)
    assert complaint(changed, picture, other.id) == (
        f"{other.id}: is not made yet; allowed: a finished model; `snakemake --cores all"
        " results/figures/finetune_epochs.png` makes it, or `dvc pull finetune` brings it"
    )
    log = changed.root / f"logs/finetune/{other.id}.log"
    note_failure(log, changed.ledger.digest(other), "the loss is nan")
    assert complaint(changed, picture, other.id).startswith(
        f"{other.id}: failed when it was last begun (the loss is nan); "
    )
    folder = changed.root / other.folder
    folder.mkdir(parents=True)
    (folder / artifacts.CARD).write_text(stable_json(changed.ledger.card(other) | {"failed": "the loss is nan"}))
    assert complaint(changed, picture, other.id).startswith(f"{other.id}: is kept as failed (the loss is nan); ")


def once(shop: Shop) -> Job:
    """The model that is fine-tuned for one epoch, which nobody has made."""
    return shop.study.finetune(shop.study.recipe.model_copy(update={"finetune_epochs": 1}))


def complaint(shop: Shop, picture: Path, prefix: str | None = None, question: str = QUESTION) -> str:
    """The one line that is refused with."""
    with pytest.raises(ValueError) as caught:
        list(ask(shop.ledger, picture, question, prefix))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_bytes_and_other_cards_are_said(changed, picture):
    changed.ledger.cards[changed.job.key] = changed.ledger.card(changed.job) | {"code": {}}
    notes = [line for line in ask(changed.ledger, picture, QUESTION) if line.startswith("note")]
    why = f"`python -m pipeline why {changed.job.id}` says how they differ"
    assert notes == [f"note: it was made from another card than today's; {why}"]
    tokenizer = changed.root / changed.scores.parents["tokenizer"].folder / "tokenizer.json"
    kept = tokenizer.read_text()
    tokenizer.write_text(kept + " ")
    assert "tokenizer.json has other bytes than when it was made" in complaint(changed, picture)
    tokenizer.write_text(kept)
    weights = changed.root / changed.job.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0\0")
    assert complaint(changed, picture).endswith("model.safetensors has other bytes than when it was made")


def test_without_a_gpu_the_cpu_is_asked_and_it_is_said(shop, monkeypatch):
    settings = Evaluate.model_validate(shop.scores.card_settings)
    assert on_this_machine(shop.scores) == (settings.model_copy(), None)
    settings = shop.scores.card_settings | {"hardware": {"device": "gpu", "threads": 1}}
    settings["evaluation"] = settings["evaluation"] | {"precision": "bf16"}
    scores = SimpleNamespace(card_settings=settings)
    found, told = on_this_machine(scores)
    assert (found.hardware.device, found.evaluation.precision) == ("cpu", None)
    assert told == "the preset says gpu, and none is visible here: asked on the CPU, in fp32"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert on_this_machine(scores) == (Evaluate.model_validate(settings), None)


# --- the question and the picture -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "line"),
    [
        ("", "QUESTION: found '', allowed: a text that is not empty"),
        (" \n", "QUESTION: found ' \\n', allowed: a text that is not empty"),
        ("caf\udce9?", "QUESTION: found 'caf\\udce9?', allowed: a text in UTF-8"),
        (
            "?" * 98,
            "QUESTION: found 99 tokens, allowed: at most 24; of the model's 64, 16 are the image's and 24 the answer's",
        ),
    ],
)
def test_questions_that_are_refused(shop, picture, question, line):
    assert complaint(shop, picture, question=question) == line


def test_places_that_are_refused(shop, tmp_path, monkeypatch, capsys):
    missing, empty = tmp_path / "missing.png", tmp_path / "x.png"
    empty.mkdir()
    allowed = "a folder with a file whose name ends in .bmp, .gif, .jpeg, .jpg, .png, .webp"
    assert complaint(shop, empty) == f"PICTURE: found {empty}, a folder without a picture; allowed: {allowed}"
    long = tmp_path / ("x" * 300)
    assert complaint(shop, long) == f"PICTURE: {long} cannot be read: File name too long"
    monkeypatch.setattr(workflow, "open_ledger", lambda *_: shop.ledger)
    assert main(["ask", str(missing), QUESTION]) == 2
    found = f"PICTURE: found {missing}, which is no file and no folder; allowed: a JPEG, PNG, WebP, GIF or BMP image\n"
    assert capsys.readouterr() == ("", found)
