"""Questions and captions written as the files of the official data sets."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.data.scenes import glyphs
from pipeline.data.scenes.evaluation import Item, image_name
from pipeline.data.scenes.render import Scene


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


def write_vqav2(folder: Path, items: list[Item], split: str) -> None:
    """VQAv2: open-ended questions and, in a second file, their annotations with ten answers."""
    header = {
        "info": {"description": "composed scenes"},
        "license": {},
        "data_type": "scenes",
        "data_subtype": split,
    }
    questions = [
        {"image_id": i.image_id, "question": i.asked.text, "question_id": i.id, "split": i.split} for i in items
    ]
    annotations = [
        {
            "question_type": i.asked.kind,
            "multiple_choice_answer": i.asked.answer,
            # VQAv2 has ten people's answers, and its scorer counts how many agree; here all ten do.
            "answers": [{"answer": i.asked.answer, "answer_confidence": "yes", "answer_id": n + 1} for n in range(10)],
            "image_id": i.image_id,
            "answer_type": "other",
            "question_id": i.id,
        }
        for i in items
    ]
    _write_json(folder / "questions.json", {**header, "task_type": "Open-Ended", "questions": questions})
    _write_json(folder / "annotations.json", {**header, "annotations": annotations})


def write_pope(path: Path, items: list[Item]) -> None:
    """POPE: JSON lines, one file a way of choosing what is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "question_id": n + 1,
            "image": i.file,
            "text": i.asked.text,
            "label": i.asked.answer,
            "split": i.split,
        }
        for n, i in enumerate(items)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_gqa(folder: Path, items: list[Item]) -> None:
    """GQA: a dictionary from question id to question."""
    questions = {}
    for i in items:
        counting = i.asked.kind == "count"
        questions[str(i.id)] = {
            "semantic": [],
            "entailed": [],
            "equivalent": [str(i.id)],
            "question": i.asked.text,
            "imageId": Path(i.file).stem,
            "isBalanced": True,
            "groups": {"global": None, "local": None},
            "answer": i.asked.answer,
            "semanticStr": "",
            "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
            "types": {
                "detailed": i.asked.kind,
                "semantic": "global" if counting else "rel",
                "structural": "query",
            },
            "fullAnswer": i.asked.answer,
            "split": i.split,
        }
    _write_json(folder / "questions.json", questions)


def write_textvqa(folder: Path, items: list[Item], split: str) -> None:
    """TextVQA: one file with questions and ten answers each."""
    data = [
        {
            "question": i.asked.text,
            "image_id": Path(i.file).stem,
            "image_classes": sorted(i.scene.counts),
            "flickr_original_url": "",
            "flickr_300k_url": "",
            "image_width": i.scene.canvas,
            "image_height": i.scene.canvas,
            "answers": [i.asked.answer] * 10,
            "question_tokens": i.asked.text.lower().rstrip("?").split(),
            "question_id": i.id,
            "set_name": split,
            "split": i.split,
        }
        for i in items
    ]
    header = {"dataset_type": split, "dataset_name": "composed scenes", "dataset_version": "1"}
    _write_json(folder / "questions.json", {**header, "data": data})


def write_refcoco(folder: Path, items: list[Item], split: str) -> None:
    """RefCOCO: COCO instances (bbox = x, y, width, height in px) and refer records (as JSON, not as a pickle)."""
    names = {name: n + 1 for n, name in enumerate(glyphs.GLYPH)}
    images, annotations, refs = [], [], []
    for n, i in enumerate(items):
        (thing,) = i.asked.about
        x1, y1, x2, y2 = thing.box
        size = {"height": i.scene.canvas, "width": i.scene.canvas}
        images.append({"id": i.image_id, "file_name": i.file, **size, "license": 0, "coco_url": ""})
        annotations.append(
            {
                "id": i.id,
                "image_id": i.image_id,
                "category_id": names[thing.name],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
                # COCO has an outline for each object; here it is the box.
                "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
            }
        )
        sentence = {"sent_id": n, "sent": i.asked.text, "raw": i.asked.text, "tokens": i.asked.text.split()}
        refs.append(
            {
                "ref_id": n,
                "ann_id": i.id,
                "image_id": i.image_id,
                "file_name": i.file,
                "category_id": names[thing.name],
                # RefCOCO's own word for it.
                "split": {"validation": "val"}.get(split, split),
                "sent_ids": [n],
                "sentences": [{**sentence, "split": i.split}],
            }
        )
    categories = [{"id": n, "name": name, "supercategory": glyphs.category(name)} for name, n in names.items()]
    instances = {"info": {"description": "composed scenes"}, "licenses": [], "categories": categories}
    _write_json(folder / "instances.json", {**instances, "images": images, "annotations": annotations})
    _write_json(folder / "refs.json", refs)


def write_coco_captions(folder: Path, captioned: list[tuple[int, Scene, list[str]]]) -> None:
    """COCO captions: images, and in a list of their own the captions of all of them."""
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, scene, captions in captioned:
        size = {"height": scene.canvas, "width": scene.canvas}
        images.append({"id": image_id, "file_name": image_name(image_id), **size, "license": 0, "coco_url": ""})
        for text in captions:
            annotations.append({"image_id": image_id, "id": len(annotations) + 1, "caption": text})
    header = {"info": {"description": "composed scenes"}, "licenses": []}
    _write_json(folder / "captions.json", {**header, "images": images, "annotations": annotations})


def write_ocid(folder: Path, items: list[Item]) -> None:
    """OCID-Ref: a dictionary of expressions; bbox is the *text* of a list x1, y1, x2, y2 in px, as in the original."""
    expressions = {}
    for i in items:
        (thing,) = i.asked.about
        expressions[str(i.id)] = {
            # OCID counts objects as they are put on a table: 10 to 16 is its "medium", touching, clutter.
            "take_id": min(16, 5 + len(i.scene.objects)),
            "scene_path": i.file,
            "scene_id": i.image_id,
            # A text in a text: the reader must be tried on what the original has.
            "bbox": json.dumps(list(thing.box)),
            "class": thing.name,
            "sentence": i.asked.text,
            "tokens": i.asked.text.split(),
            "split": i.split,
        }
    _write_json(folder / "expressions.json", expressions)
