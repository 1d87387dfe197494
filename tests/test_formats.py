"""The official formats: what is written has their layout, what is read comes back, and what is wrong is said."""

import io
import json
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from typed import scenes

from pipeline.data.formats import question_files
from pipeline.data.formats.conversations import conversation, is_chat, read_conversations
from pipeline.data.formats.question_files import BadRecord, read_questions, read_splits
from pipeline.data.formats.tars import captions, read_captions
from pipeline.data.questions import read_splits as splits_of_task
from pipeline.data.questions import read_task, read_turns
from pipeline.data.records import LeftOut
from pipeline.data.scenes import render, to_shards
from pipeline.data.scenes import write as writer
from pipeline.data.scenes.captions import keywords, short_caption
from pipeline.data.scenes.evaluation import (
    POPE_SPLITS,
    captioned_images,
    evaluation_items,
    evaluation_scenes,
    image_name,
)
from pipeline.data.tokenizer import train_tokenizer

SETTINGS = SimpleNamespace(
    seed=5,
    canvas=128,
    concepts=16,
    caption_only_concepts=8,
    words=16,
    captions=30,
    conversations=24,
    turns=6,
    validation_images=16,
    test_images=48,
)
TASKS = {
    "short_answer": "vqav2",
    "presence": "pope",
    "relations": "gqa",
    "reading": "textvqa",
    "boxes": "refcoco",
    "clutter": "ocid",
    "novel_names": "vqav2",
}
ALL_TASKS = TASKS | {"captioning": "coco_captions"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("scenes")
    for part in ("captions", "instructions", "evaluation"):
        writer.write_scenes(out, scenes(part, SETTINGS))
    return out


@pytest.fixture
def copy(written, tmp_path):
    """The test split, free to spoil."""
    return Path(shutil.copytree(written / "evaluation" / "test", tmp_path / "test"))


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


# --- captions ---------------------------------------------------------------------------------------------------------


def test_captions_have_the_layout_of_img2dataset(written):
    (path,) = (written / "captions").iterdir()
    assert path.name == "00000.tar"
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        facts = json.load(tar.extractfile("00000007.json"))
    assert [m.name for m in members[:4]] == ["00000000.jpg", "00000000.json", "00000000.txt", "00000001.jpg"]
    assert {(m.mtime, m.uid, m.gid, m.uname) for m in members} == {(0, 0, 0, "")}
    assert {"uid", "key", "url", "caption", "sha256", "width", "height", "status"} <= set(facts)
    assert facts["status"] == "success" and facts["url"] == "" and facts["width"] == 128
    assert len(facts["sha256"]) == 64 and len(facts["uid"]) == 32


def test_captions_round_trip(written):
    read = list(read_captions(written / "captions"))
    assert len(read) == 30 and len({caption.id for caption in read}) == 30
    for index, caption in enumerate(read):
        scene, text = writer.caption_scene(SETTINGS, index)
        assert caption.text == text and caption.image == render.jpeg(render.render(scene))
        with Image.open(io.BytesIO(caption.image)) as image:
            assert image.format == "JPEG" and image.size == (128, 128)


def test_a_tar_holds_at_most_the_samples_it_should(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SAMPLES_A_TAR", 10)
    writer.write_scenes(tmp_path, scenes("captions", SimpleNamespace(**{**vars(SETTINGS), "captions": 25})))
    assert sorted(p.name for p in (tmp_path / "captions").iterdir()) == [
        "00000.tar",
        "00001.tar",
        "00002.tar",
    ]
    assert len(list(read_captions(tmp_path / "captions"))) == 25


JPEG = render.jpeg(Image.new("RGB", (8, 8)))


def tar_of(folder, members):
    """A tar of (name, bytes) or (TarInfo, None)."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for name, data in members:
            if isinstance(name, tarfile.TarInfo):
                tar.addfile(name)
            else:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return folder


def test_a_tar_as_others_write_it(tmp_path):
    link, folder = tarfile.TarInfo("00/b.txt"), tarfile.TarInfo("00")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    folder.type = tarfile.DIRTYPE
    made = [
        (folder, None),
        ("00/a.txt", b"a cat\n"),
        ("00/a.jpg", JPEG),
        (link, None),
        ("00/b.txt", b"x"),
        ("00/b.PNG", b"\x89PNG..."),
    ]
    captions = list(read_captions(tar_of(tmp_path / "x", made)))
    assert [(c.id, c.text) for c in captions] == [("00/a", "a cat"), ("00/b", "x")]


@pytest.mark.parametrize(("field", "text"), [("short_caption", short_caption), ("keywords", keywords)])
def test_the_sidecar_has_other_captions_of_the_same_images(written, field, text):
    full, read = (list(read_captions(written / "captions", field=name)) for name in (None, field))
    assert [(c.id, c.image) for c in read] == [(c.id, c.image) for c in full]
    assert [c.text for c in read] == [text(writer.caption_scene(SETTINGS, index)[0]) for index in range(30)]
    assert all(short.text != long.text for short, long in zip(read, full))


def test_a_sidecar_caption_needs_no_txt(tmp_path):
    members = [("a.jpg", JPEG), ("a.json", b'{"keywords": " dog, cat "}')]
    (caption,) = read_captions(tar_of(tmp_path / "x", members), field="keywords")
    assert caption.text == "dog, cat"


def test_shards_hold_the_captions_that_were_asked_for(written, tmp_path, monkeypatch):
    (tmp_path / "tokenizer").mkdir()
    tokenizer = train_tokenizer(["a picture of two trees"], 300, tmp_path / "tokenizer" / "tokenizer.json")
    samples = []
    monkeypatch.setattr(to_shards, "write_shards", lambda out, columns, made: samples.extend(made) or len(samples))
    for name, field in (("full", None), ("short", "short_caption"), ("keywords", "keywords")):
        settings = {"part": "captions", "sequence": 160, "patches": 4, "captions": name}
        inputs = {"source": written, "tokenizer": tmp_path / "tokenizer"}
        samples.clear()
        counts = to_shards.run(SimpleNamespace(settings=settings, inputs=inputs), tmp_path)
        segments = [s["tokens"][s["segments"] == n] for s in samples for n in range(1, s["segments"].max() + 1)]
        told = [caption.text for caption in read_captions(written / "captions", field=field)]
        assert counts["pieces"] == 30 and sorted(tokenizer.decode(ids.tolist()) for ids in segments) == sorted(told)


@pytest.mark.parametrize(
    "facts, reason",
    [
        (None, "has no 'keywords'"),
        (b'{"short_caption": "a dog"}', "has no 'keywords'"),
        (b'{"keywords": ["dog"]}', "'keywords' is of type list"),
        (b'{"keywords": null}', "'keywords' is of type NoneType"),
        (b'{"keywords": ""}', "'keywords' is empty"),
        (b'{"keywords": " "}', "keywords is empty"),
    ],
)
def test_a_sidecar_without_the_text_is_refused(tmp_path, facts, reason):
    members = [("a.jpg", JPEG), ("a.txt", b"x")] + ([("a.json", facts)] if facts else [])
    with pytest.raises(BadRecord, match=f"00000.tar: record a: {reason}"):
        list(read_captions(tar_of(tmp_path / "x", members), field="keywords"))


@pytest.mark.parametrize(
    "members, reason",
    [
        ([("a.txt", b"x")], "has no image"),
        ([("a.jpg", JPEG)], "has no .txt"),
        ([("a.jpg", b"<html>"), ("a.txt", b"x")], "not a JPEG"),
        ([("a.jpg", JPEG), ("a.txt", b" ")], "caption is empty"),
        ([("a.jpg", JPEG), ("a.txt", b"\xff\xfe")], "cannot be decoded"),
        ([("a.jpg", JPEG), ("a.txt", b"x"), ("a.json", b"{")], "cannot be decoded"),
        ([("a.jpg", JPEG), ("a.txt", b"x"), ("a.json", b"[]")], "not an object"),
        ([("../a.jpg", JPEG), ("../a.txt", b"x")], "leaves its folder"),
        ([("/a.jpg", JPEG), ("/a.txt", b"x")], "leaves its folder"),
    ],
)
def test_bad_samples_are_refused(tmp_path, members, reason):
    with pytest.raises(BadRecord, match=reason) as error:
        list(read_captions(tar_of(tmp_path / "x", members)))
    assert "\n" not in str(error.value) and "00000.tar" in str(error.value)


def test_broken_and_missing_tars_are_refused(written, tmp_path):
    with pytest.raises(BadRecord, match=r"no \.tar"):
        list(read_captions(tmp_path))
    whole = (written / "captions" / "00000.tar").read_bytes()
    with tarfile.open(written / "captions" / "00000.tar") as tar:
        between_samples = tar.getmember("00000007.jpg").offset
    for length in (len(whole) // 2, between_samples):
        (tmp_path / "00000.tar").write_bytes(whole[:length])
        with pytest.raises(BadRecord, match="not a readable tar"):
            list(read_captions(tmp_path))
    (tmp_path / "00000.tar").write_bytes(b"not a tar" * 200)
    with pytest.raises(BadRecord, match="not a readable tar"):
        list(read_captions(tmp_path))


def test_a_wrong_hash_is_found(tmp_path):
    members = [("a.jpg", JPEG), ("a.txt", b"x"), ("a.json", b'{"sha256": "00"}')]
    folder = tar_of(tmp_path / "x", members)
    assert len(list(read_captions(folder))) == 1
    with open(next(folder.glob("*.tar")), "rb") as file:
        (found,) = captions(file, "x", verify=True, field=None)
    assert isinstance(found, BadRecord) and "sha256" in str(found)


def samples_of(made, **options):
    """What is read of a tar: (id, text) of a caption, or (record, reason, records) of what cannot be."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in made:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    file.seek(0)
    found = list(captions(file, "a.tar", False, None, **options))
    return [(c.record, c.reason, c.records) if isinstance(c, BadRecord) else (c.id, c.text) for c in found]


def test_samples_are_webdatasets_and_what_is_none_says_why():
    def pair(key, text=b"x"):
        return [(f"{key}.jpg", JPEG), (f"{key}.txt", text)]

    apple = [
        ("./._0.jpg", b"Mac"),
        *pair("./0"),
        ("./._0.txt", b"Mac"),
        (".DS_Store", b""),
        ("README", b""),
        ("__meta__/b.jpg", b""),
    ]
    assert samples_of(apple) == [("./0", "x")]
    assert samples_of([*pair("v1.0/a"), *pair("v1.0/b")]) == [("v1.0/a", "x"), ("v1.0/b", "x")]
    ((key, reason, records),) = samples_of([member for n in range(4) for member in pair(f"photo.00{n}")])
    assert (key, records) == ("photo", 4) and reason.startswith(
        "has no image: its members' names have dots (.000.jpg, .000.txt, .001.jpg, ...), and a sample's key ends at its first dot"
    )
    found = samples_of([(f"{n}.jpg", JPEG) for n in range(3)] + [(f"{n}.txt", b"x") for n in range(3)])
    assert found[:3] == [(str(n), "has no .txt, only .jpg", 1) for n in range(3)]
    assert [one[2] for one in found[3:]] == [0, 0, 0]
    assert all("its members are not adjacent in the tar, and these (.txt) stand alone" in one[1] for one in found[3:])
    assert samples_of([*pair("0"), *pair("1"), *pair("0", b"y")]) == [("0", "x"), ("1", "x"), ("0", "y")]
    assert samples_of([*pair("0"), ("0.png", JPEG)]) == [("0", "has 2 images (.jpg, .png), one is read", 1)]
    # A caption is about one image: its marker goes, words about one stay.
    texts = {"<image>\nA cat": "A cat", "A cat\n<image>": "A cat", "The tag <image> of SVG": "The tag <image> of SVG"}
    assert [samples_of(pair("0", text.encode()))[0][1] for text in texts] == list(texts.values())
    assert samples_of(pair("0", b"<image>\n<image>\nx")) == [("0", "has 2 <image> and 1 image", 1)]
    assert samples_of(pair("0", b"<image> <image>\nx")) == [("0", "has 2 <image> and 1 image", 1)]
    assert samples_of(pair("0", b"<image>")) == [("0", "has no text beside <image>", 1)]


# --- conversations ------------------------------------------------------------------------------------------------------


def test_conversations_have_the_layout_of_llava(written):
    records = json.loads((written / "instructions" / "conversations.json").read_text())
    assert len(records) == 24
    for record in records:
        assert set(record) == {"id", "image", "conversations"}
        assert [m["from"] for m in record["conversations"]] == ["human", "gpt"] * (len(record["conversations"]) // 2)
        assert record["conversations"][0]["value"].startswith("<image>\n")
        assert sum("<image>" in m["value"] for m in record["conversations"]) == 1
        assert (written / "instructions" / "images" / record["image"]).is_file()


def test_conversations_round_trip(written):
    folder = written / "instructions"
    for index, read in enumerate(read_conversations(folder / "conversations.json", folder / "images")):
        scene, turns = writer.conversation(SETTINGS, index)
        assert read.turns == tuple((human, answer) for _, human, answer in turns)
        assert read.image == render.jpeg(render.render(scene))


def test_conversations_without_an_image_are_read(tmp_path):
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    (tmp_path / "c.json").write_text(json.dumps([{"id": 7, "conversations": turns}]))
    (read,) = read_conversations(tmp_path / "c.json", tmp_path)
    assert (read.id, read.image, read.turns) == ("7", None, (("Hi", "Hello"),))


def record_of(*said, **more):
    """A LLaVA record in which human and gpt say something in turn."""
    turns = [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(said)]
    return {"id": "a", "conversations": turns} | more


def test_markers_and_images_agree():
    """An <image> is taken out where it stands for the image; elsewhere it is a word."""
    has = {"image": "a.jpg"}
    read = [
        (record_of("<image>\nWho?", "A cat.", **has), (("Who?", "A cat."),)),
        (record_of("Who?\n<image>", "A cat.", **has), (("Who?", "A cat."),)),
        (record_of("<image> Who?", "A cat.", image_id="7", **has), (("Who?", "A cat."),)),
        (
            record_of("<image>\nWho?", "A cat.", image_url="http://b/a.jpg", images=["c/a.jpg"], **has),
            (("Who?", "A cat."),),
        ),
        (record_of("Hi ", " Hi\n", "<image>\nWho?", "x", **has), (("Hi ", " Hi\n"), ("Who?", "x"))),
        (record_of("<image>\nWhich tag is it?", "<image>", **has), (("Which tag is it?", "<image>"),)),
        (record_of("Is it <image> or <img>?", "    <image>\n"), (("Is it <image> or <img>?", "    <image>\n"),)),
        (record_of("Mend:\n<rss>\n<image>\n</rss>", "x", source="a.json", image=None, images=[], num_images=0), None),
    ]
    for record, turns in read:
        found = conversation(record, "c.json", 0, lambda image, where: b"...")
        assert found.turns == (turns or (("Mend:\n<rss>\n<image>\n</rss>", "x"),))
        assert is_chat(record) == (record.get("image") is None)
    asked = ("<image>\nWho?", "A cat.")
    bad = [
        (record_of("Who?", "A cat.", **has), "has 1 image and 0 <image> in what human says"),
        (record_of("<image>\n<image>\nWho?", "A cat.", **has), "has 1 image and 2 <image> in what human says"),
        (record_of(*asked, "And <image>?", "x", **has), "has 1 image and 2 <image> in what human says"),
        (record_of(*asked, image=["a.jpg"]), "'image' is of type list"),
        (record_of(*asked), "has <image> at an end of what human says and no 'image'; its other keys: none"),
        (record_of("<image> Who?", "A cat."), "has <image> at an end of what human says and no 'image'"),
        (
            record_of("Hi", "Hi", "Who is in <image>\n", "A cat."),
            "has <image> at an end of what human says and no 'image'",
        ),
        (record_of(*asked, source="coco"), "and no 'image'; its other keys: 'source'"),
    ]
    others = {
        "images": ["a.jpg"],
        "image_path": "a",
        "image_file": "a",
        "video": "a.mp4",
        "img": [{"path": "a"}],
        "file": "a.PNG",
    }
    bad += [
        (record_of(*asked, **{key: value}), f"has no 'image' but '{key}', which is not read")
        for key, value in others.items()
    ]
    others |= {
        "images": ["a.jpg", "b.jpg"],
        "image2": "b",
        "video": {"path": "a"},
        "file": "b.PNG",
        "image_path": "x/b",
    }
    bad += [
        (record_of(*asked, **{key: value}, **has), f"has 'image' and also '{key}', which is not read")
        for key, value in others.items()
    ]
    bad += [(record_of("<video>\nWho?", "A cat.", video="a.mp4"), "has no 'image' but 'video', which is not read")]
    for record, reason in bad:
        with pytest.raises(BadRecord, match="record a: .*" + re.escape(reason)):
            conversation(record, "c.json", 0, lambda image, where: b"...")
        assert not is_chat(record), "it is not dropped as a chat, uncounted among the bad ones"


def test_a_question_is_about_one_image(copy):
    path = copy / "short_answer/questions.json"
    asked = {"<image>\nWho is it?": "Who is it?", "What does <image> mean?": "What does <image> mean?"}
    for text, left in asked.items():
        edit(path, lambda v, text=text: v["questions"][0].update(question=text))
        assert next(iter(read_questions("vqav2", copy / "short_answer"))).text == left
    edit(path, lambda v: v["questions"][0].update(question="<image><image>\nWho?"))
    edit(path, lambda v: v["questions"].append(v["questions"][1]))
    found = LeftOut(2)
    asked = [question.id for question in read_questions("vqav2", copy / "short_answer", left_out=found)]
    assert len(asked) == len(set(asked)) > 0
    assert [error.reason for error in found.found] == ["has 2 <image> and 1 image", "id occurs twice"]
    with pytest.raises(BadRecord, match="has 2 <image> and 1 image"):
        list(read_questions("vqav2", copy / "short_answer"))


@pytest.mark.parametrize(
    "record, reason",
    [
        ({"conversations": []}, "has no 'id'"),
        ({"id": "a"}, "has no 'conversations'"),
        ({"id": "a", "conversations": []}, "not pairs"),
        ({"id": "a", "conversations": [{"from": "gpt", "value": "x"}] * 2}, "is not from human"),
        ({"id": "a", "conversations": [{"from": "human"}] * 2}, "has no 'value'"),
        ({"id": "a", "image": "b.jpg", "conversations": []}, "no image"),
        ({"id": "a", "image": "../b.jpg", "conversations": []}, "leaves its folder"),
        ("a", "is not an object"),
    ],
)
def test_bad_conversations_are_refused(tmp_path, record, reason):
    (tmp_path / "c.json").write_text(json.dumps([record]))
    with pytest.raises(BadRecord, match=reason):
        list(read_conversations(tmp_path / "c.json", tmp_path))


# --- questions: the official layouts --------------------------------------------------------------------------------------


def test_questions_have_the_official_layouts(written):
    folder = written / "evaluation" / "test"

    def load(name):
        return json.loads((folder / name).read_text())

    asked, annotated = load("short_answer/questions.json"), load("short_answer/annotations.json")
    assert asked["task_type"] == "Open-Ended"
    assert {"image_id", "question", "question_id"} <= set(asked["questions"][0])
    assert isinstance(asked["questions"][0]["question_id"], int)
    annotation = annotated["annotations"][0]
    keys = {"question_type", "multiple_choice_answer", "answers", "image_id", "answer_type", "question_id"}
    assert set(annotation) == keys and len(annotation["answers"]) == 10
    assert set(annotation["answers"][0]) == {"answer", "answer_confidence", "answer_id"}
    for name in ("random", "popular", "adversarial"):
        lines = (folder / "presence" / f"{name}.json").read_text().splitlines()
        line = json.loads(lines[0])
        assert {"question_id", "image", "text", "label"} <= set(line) and line["question_id"] == 1
    qid, question = next(iter(load("relations/questions.json").items()))
    keys = {
        "question",
        "answer",
        "fullAnswer",
        "imageId",
        "isBalanced",
        "types",
        "groups",
        "entailed",
        "equivalent",
    }
    assert keys | {"semantic", "semanticStr", "annotations"} <= set(question)
    assert int(qid) and set(question["types"]) == {"structural", "semantic", "detailed"}
    entry = load("reading/questions.json")["data"][0]
    assert {"question_id", "image_id", "question", "answers", "image_width", "set_name"} <= set(entry)
    assert len(entry["answers"]) == 10 and isinstance(entry["image_id"], str)
    instances, refs = load("boxes/instances.json"), load("boxes/refs.json")
    assert {"images", "annotations", "categories"} <= set(instances)
    assert {"id", "file_name", "width", "height"} <= set(instances["images"][0])
    assert {"id", "image_id", "bbox", "category_id", "area", "iscrowd"} <= set(instances["annotations"][0])
    assert {"ref_id", "ann_id", "image_id", "category_id", "split", "sent_ids", "sentences"} <= set(refs[0])
    assert {"sent_id", "sent", "raw", "tokens"} <= set(refs[0]["sentences"][0]) and refs[0]["split"] == "test"
    entry = next(iter(load("clutter/expressions.json").values()))
    assert {"scene_path", "bbox", "sentence", "take_id"} <= set(entry)
    captions = load("captioning/captions.json")
    assert set(captions) == {"info", "licenses", "images", "annotations"}
    assert {"id", "file_name", "width", "height"} <= set(captions["images"][0])
    assert all(set(annotation) == {"id", "image_id", "caption"} for annotation in captions["annotations"])
    assert [annotation["id"] for annotation in captions["annotations"]] == list(
        range(1, 5 * len(captions["images"]) + 1)
    )
    x1, y1, x2, y2 = json.loads(entry["bbox"])
    assert 0 <= x1 < x2 <= 128 and 0 <= y1 < y2 <= 128
    for name, files in (
        ("short_answer", asked["questions"]),
        ("relations", [question]),
        ("clutter", [entry]),
    ):
        assert all(q["split"] in ("seen", "held_out_pair", "held_out_artist") for q in files), name


@pytest.mark.parametrize("task", TASKS)
def test_questions_round_trip(written, task):
    made = evaluation_scenes(SETTINGS, "test")
    items = evaluation_items(SETTINGS, "test", made)
    kinds = [f"presence/{kind}" for kind in POPE_SPLITS] if task == "presence" else [task]
    expected = [item for kind in kinds for item in items[kind]]
    folder = written / "evaluation" / "test"
    read = list(read_questions(TASKS[task], folder / task))
    assert len(read) == len(expected) > 0 and len({q.id for q in read}) == len(read)
    for question, item in zip(read, expected):
        assert question.task == task
        assert question.text == item.asked.text and set(question.answers) == {item.asked.answer}
        assert question.image == folder / "images" / item.file
        assert question.kind == ("medium" if task == "clutter" else item.asked.kind)
        assert len(question.answers) == (10 if TASKS[task] in ("vqav2", "textvqa") else 1)
        if task in ("boxes", "clutter"):
            assert question.box == pytest.approx(item.scene.box(item.asked.about[0]))
        else:
            assert question.box is None
    assert list(read_splits(TASKS[task], folder / task).values()) == [item.split for item in expected]


def test_readers_that_serve_every_source_serve_the_scenes(written):
    folder = written / "evaluation" / "test"
    options = {"images": folder / "images", "task": "boxes"}
    assert list(read_task(written, "test", "boxes", "refcoco", {})) == list(
        read_questions("refcoco", folder / "boxes", **options)
    )
    splits = read_splits("refcoco", folder / "boxes", **options)
    assert splits and splits_of_task(written, "test", "boxes", "refcoco") == splits
    told = list(read_turns(written, {}))
    folder = written / "instructions"
    read = read_conversations(folder / "conversations.json", folder / "images")
    assert [(one.id, one.turns, one.image) for one in told] == [(one.id, one.turns, None) for one in read]


def test_reference_captions_round_trip(written):
    made = evaluation_scenes(SETTINGS, "test")
    folder = written / "evaluation" / "test"
    read = list(read_questions("coco_captions", folder / "captioning"))
    captioned = captioned_images(SETTINGS, "test", made)
    assert [group for group, _ in made].count("plain") == len(captioned) == len(read) > 0
    for question, (image_id, scene, texts) in zip(read, captioned):
        assert made[image_id - 1] == ("plain", scene)
        assert (question.id, question.task, question.kind) == (str(image_id), "captioning", "caption")
        assert question.text == "" and question.answers == tuple(texts) and question.box is None
        assert question.image == folder / "images" / image_name(image_id)


# --- questions: as others write them --------------------------------------------------------------------------------------


def test_official_names_and_ids_are_understood(tmp_path):
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014" / "COCO_val2014_000000000042.jpg").write_bytes(JPEG)
    questions = {
        "questions": [{"image_id": 42, "question": "What is this photo taken looking through?", "question_id": 42000}]
    }
    answers = [{"answer": answer, "answer_id": n} for n, answer in enumerate(["net"] * 7 + ["mesh"] * 3, 1)]
    annotations = {
        "annotations": [{"question_id": 42000, "image_id": 42, "question_type": "what is this", "answers": answers}]
    }
    (tmp_path / "q.json").write_text(json.dumps(questions))
    (tmp_path / "a.json").write_text(json.dumps(annotations))
    (read,) = read_questions(
        "vqav2",
        tmp_path,
        task="vqav2",
        images=tmp_path / "val2014",
        files={"questions": "q.json", "annotations": "a.json"},
        image_name="COCO_val2014_{:012d}.jpg",
    )
    assert read.id == "42000" and read.task == "vqav2" and read.answers == ("net",) * 7 + ("mesh",) * 3


def test_refcoco_splits_and_several_sentences(copy):
    def change(refs):
        refs[0]["split"] = "val"
        refs[0]["sentences"].append({"sent_id": 999, "sent": "the same thing", "raw": "", "tokens": []})

    edit(copy / "boxes" / "refs.json", change)
    val = list(read_questions("refcoco", copy / "boxes", split="val"))
    assert [q.text for q in val][1] == "the same thing" and len(val) == 2 and val[0].box == val[1].box


def test_captions_of_coco_are_read_in_any_order_and_number(copy):
    def change(value):
        value["annotations"].reverse()
        value["annotations"].append({"id": 0, "image_id": value["images"][0]["id"], "caption": "one more"})

    before = list(read_questions("coco_captions", copy / "captioning"))
    edit(copy / "captioning" / "captions.json", change)
    first, *others = read_questions("coco_captions", copy / "captioning")
    assert first.answers == (*before[0].answers[::-1], "one more")
    assert [q.answers[::-1] for q in others] == [q.answers for q in before[1:]]


def test_a_box_that_touches_the_border_is_clipped(copy):
    edit(copy / "boxes" / "instances.json", lambda v: v["annotations"][0].update(bbox=[-0.3, 0.0, 128.5, 64]))
    assert next(read_questions("refcoco", copy / "boxes")).box == (0, 0, 1, 0.5)


@pytest.mark.parametrize(("box", "clipped"), [([-2, -0.2, 131, 64.2], 1), ([-0.5, 0, 128.5, 64], 0)])
def test_a_box_up_to_two_pixels_outside_is_clipped_and_counted(copy, box, clipped):
    edit(copy / "boxes" / "instances.json", lambda v: v["annotations"][0].update(bbox=box))
    found = LeftOut()
    first, *_ = read_questions("refcoco", copy / "boxes", left_out=found)
    assert first.box[:3:2] == (0, 1) and found.clipped == clipped
    edit(copy / "boxes" / "instances.json", lambda v: v["annotations"][0].update(bbox=[-2.1, 0, 64, 64]))
    with pytest.raises(BadRecord, match="outside the 128 x 128 image"):
        list(read_questions("refcoco", copy / "boxes"))


@pytest.mark.parametrize("task", ALL_TASKS)
def test_a_stated_number_of_bad_items_is_left_out(copy, task):
    """An image that is missing stands for whatever is wrong with an item."""
    whole, images = list(read_questions(ALL_TASKS[task], copy / task)), copy / "images"
    gone = whole[0].image.name
    (images / gone).unlink()
    left = [question for question in whole if question.image.name != gone]
    found = LeftOut(len(whole))
    assert list(read_questions(ALL_TASKS[task], copy / task, left_out=found)) == left
    assert 0 < len(found.found) <= len(whole) - len(left)
    with pytest.raises(BadRecord, match=f"no image .*{gone}.*; allowed to be left out: 0 .left_out_at_most"):
        list(read_questions(ALL_TASKS[task], copy / task, left_out=LeftOut(0)))


# --- questions: what is wrong is said -------------------------------------------------------------------------------------


def drop(key, *path):
    def change(value):
        for step in path:
            value = value[step] if not isinstance(value, dict) or step in value else next(iter(value.values()))
        del value[key]

    return change


@pytest.mark.parametrize(
    "task, file, change, reason",
    [
        ("short_answer", "questions.json", drop("question", "questions", 2), "has no 'question'"),
        ("short_answer", "questions.json", drop("questions"), "has no 'questions'"),
        ("short_answer", "annotations.json", lambda v: v["annotations"].pop(), "has no annotation"),
        ("short_answer", "annotations.json", lambda v: v["annotations"][0].update(answers=[]), "no answers"),
        ("short_answer", "questions.json", lambda v: v["questions"][0].update(image_id=999), "no image"),
        (
            "short_answer",
            "questions.json",
            lambda v: v["questions"][0].update(image_id="x"),
            "does not fit the pattern",
        ),
        (
            "short_answer",
            "questions.json",
            lambda v: v["questions"].append(v["questions"][0]),
            "occurs twice",
        ),
        ("relations", "questions.json", drop("answer", "first"), "has no 'answer'"),
        (
            "relations",
            "questions.json",
            lambda v: next(iter(v.values())).update(imageId="../x"),
            "leaves its folder",
        ),
        (
            "reading",
            "questions.json",
            lambda v: v["data"][0].update(answers="open"),
            "'answers' is of type str",
        ),
        ("boxes", "refs.json", lambda v: v[0].update(ann_id=-1), "no such annotation"),
        ("boxes", "instances.json", lambda v: v["annotations"][0].update(bbox=[1, 2, 3]), "not four numbers"),
        (
            "boxes",
            "instances.json",
            lambda v: v["annotations"][0].update(bbox=[1, 2, 0, 5]),
            "empty or outside",
        ),
        (
            "boxes",
            "instances.json",
            lambda v: v["annotations"][0].update(bbox=[90, 2, 50, 5]),
            "empty or outside",
        ),
        ("clutter", "expressions.json", lambda v: next(iter(v.values())).update(bbox="[1, 2"), "not a list"),
        (
            "clutter",
            "expressions.json",
            lambda v: next(iter(v.values())).update(bbox="[9, 9, 4, 4]"),
            "empty or outside",
        ),
        ("clutter", "expressions.json", lambda v: next(iter(v.values())).update(take_id=30), "not in 0..20"),
        ("clutter", "expressions.json", drop("sentence", "first"), "has no 'sentence'"),
        ("captioning", "captions.json", drop("images"), "has no 'images'"),
        ("captioning", "captions.json", drop("annotations"), "has no 'annotations'"),
        ("captioning", "captions.json", drop("file_name", "images", 0), "has no 'file_name'"),
        ("captioning", "captions.json", drop("caption", "annotations", 3), "has no 'caption'"),
        ("captioning", "captions.json", lambda v: v["annotations"][0].update(caption=""), "'caption' is empty"),
        ("captioning", "captions.json", lambda v: v["annotations"][0].update(image_id="1"), "of type str"),
        ("captioning", "captions.json", lambda v: v["annotations"][0].update(image_id=-1), "not listed: -1"),
        ("captioning", "captions.json", lambda v: v["annotations"].clear(), "has no caption"),
        ("captioning", "captions.json", lambda v: v["images"][0].update(file_name="../x.jpg"), "leaves its folder"),
        ("captioning", "captions.json", lambda v: v["images"][0].update(file_name="x.jpg"), "no image"),
        ("captioning", "captions.json", lambda v: v["images"].append(v["images"][0]), "occurs twice"),
    ],
)
def test_bad_questions_are_refused_in_one_line(copy, task, file, change, reason):
    edit(copy / task / file, change)
    with pytest.raises(BadRecord, match=reason) as error:
        list(read_questions(ALL_TASKS[task], copy / task))
    assert ("\n" not in str(error.value) and ".json" in str(error.value)) or "twice" in reason


def test_bad_pope_lines_are_refused(copy):
    path = copy / "presence" / "popular.json"
    good = path.read_text()
    for line, reason in (
        ('{"question_id": 1', "not JSON"),
        (
            '{"question_id": 999, "image": "000000000001.jpg", "text": "x", "label": "maybe"}',
            "neither yes nor no",
        ),
    ):
        path.write_text(good + line + "\n")
        with pytest.raises(BadRecord, match=reason):
            list(read_questions("pope", copy / "presence"))


@pytest.mark.parametrize("task", ALL_TASKS)
def test_files_that_are_not_there_or_not_json_are_refused(copy, task):
    path = copy / task / next(iter(question_files.FORMATS[ALL_TASKS[task]].files.values()))
    for content in (b"{", b"\xff\xfe\x00", b"[]" if task != "presence" else b"[1]", pickle.dumps([])):
        path.write_bytes(content)
        with pytest.raises(BadRecord):
            list(read_questions(ALL_TASKS[task], copy / task))
    path.unlink()
    with pytest.raises(BadRecord, match="cannot be read"):
        list(read_questions(ALL_TASKS[task], copy / task))


def test_images_that_are_none_are_refused(copy):
    for image in (copy / "images").iterdir():
        image.write_bytes(b"<html>")
    with pytest.raises(BadRecord, match="not a JPEG"):
        list(read_questions("pope", copy / "presence"))


def test_unknown_formats_and_files_are_refused(copy):
    with pytest.raises(ValueError, match="unknown format"):
        list(read_questions("nocaps", copy / "presence"))
    with pytest.raises(ValueError, match="unknown files"):
        list(read_questions("pope", copy / "presence", files={"easy": "easy.json"}))


def test_importing_readers_and_writers_is_light():
    code = "import sys, pipeline.data.formats.question_files, pipeline.data.scenes.write; print(set(sys.modules) & {'torch', 'scipy', 'pickle5', 'composer', 'pandas'})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout.strip() == "set()"
