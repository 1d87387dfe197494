"""Readers of the official file formats: img2dataset tars, LLaVA JSON, and the files of vision benchmarks.

They serve the embedded composed scenes and the real data sets alike. Whatever is missing or malformed raises BadRecord
with one line that names the file, the record and the reason; nothing is skipped. Readers of open files (`captions`,
`tar_samples`) give the BadRecord in the record's place instead, for sources that may have some. No code is executed from
a file, and no path in one may leave the folder that it is relative to. Images are not decoded here: only their first
bytes are looked at (and the header, where a box in px needs the image's size).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pipeline.common.json_text import parse_json
from pipeline.data.formats.boxes import box_text, corners, read_box
from pipeline.data.formats.conversations import unmarked
from pipeline.data.formats.fields import get_field
from pipeline.data.formats.image_folder import ImageFolder
from pipeline.data.formats.open_text import load_json, read_records
from pipeline.data.formats.refer_records import load_pickle
from pipeline.data.records import BadRecord as BadRecord
from pipeline.data.records import LeftOut, Question

# OCID counts the objects on the table: up to here they stand free, touch, are stacked.
OCID_CLUTTER = ((9, "minimum"), (16, "medium"), (20, "maximum"))


def read_questions(
    format: str,
    folder: Path,
    *,
    task: str | None = None,
    images: Path | None = None,
    files: Mapping[str, str] | None = None,
    image_name: str | None = None,
    split: str | None = None,
    left_out: LeftOut | None = None,
) -> Iterator[Question]:
    """Questions of a task in one of FORMATS: "vqav2", "pope", "gqa", "textvqa", "vizwiz", "refcoco", "ocid", ...

    folder      holds the annotation files, named as in FORMATS unless `files` (role -> name) says otherwise
    task        goes into the records; the folder's name by default
    images      the image root; `folder`/../images by default
    image_name  how an image id becomes a file name, such as "COCO_val2014_{:012d}.jpg" (vqav2, gqa, textvqa)
    split       of RefCOCO: only refer records of this split ("val", "testA", ...)
    left_out    takes the bad items that may be left out, and counts boxes that are clipped; none by default

    Raises ValueError for an unknown format or role, BadRecord for anything wrong in the files.
    """
    for question, _ in _read(format, Path(folder), task, images, files, image_name, split, left_out):
        yield question


def read_splits(format: str, folder: Path, **options: Any) -> dict[str, str]:
    """Question id -> its extra field `split` ("seen", "held_out_pair", "held_out_artist"), where records have one.

    Takes the options of `read_questions`.
    """
    keys = ("task", "images", "files", "image_name", "split", "left_out")
    read = _read(format, Path(folder), *(options.get(key) for key in keys))
    return {question.id: record["split"] for question, record in read if "split" in record}


def _read(
    format: str,
    folder: Path,
    task: str | None,
    images: Path | None,
    files: Mapping[str, str] | None,
    image_name: str | None,
    split: str | None,
    left_out: LeftOut | None,
) -> Iterator[tuple[Question, dict]]:
    """Questions with their records, each question id once."""
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}: one of {', '.join(FORMATS)}")
    layout = FORMATS[format]
    if unknown := set(files or {}) - set(layout.files):
        raise ValueError(f"unknown files for {format}: {', '.join(sorted(unknown))}; known: {', '.join(layout.files)}")
    paths = {role: folder / (files or {}).get(role, name) for role, name in layout.files.items()}
    look = ImageFolder(images or folder.parent / "images")
    task = task or folder.name
    pattern = image_name or layout.image_name
    seen: set[str] = set()
    # Each reader wraps one item in `with left_out:`, so that a bad item is left out by itself and the loop goes on.
    left_out = left_out or LeftOut()
    for question, record in layout.read(paths, task, look, pattern, split, left_out):
        with left_out:
            if question.id in seen:
                raise BadRecord(folder, question.id, "id occurs twice")
            seen.add(question.id)
            yield replace(question, text=unmarked(question.text, folder, question.id)), record


Read = Iterator[tuple[Question, dict]]


def _name(pattern: str, image_id: object, file: Path, where: object) -> str:
    try:
        return pattern.format(image_id)
    except (ValueError, IndexError, KeyError):
        raise BadRecord(file, where, f"image id {image_id!r} does not fit the pattern {pattern!r}") from None


def _vqav2(
    paths: dict[str, Path], task: str, images: ImageFolder, pattern: str, split: str | None, left_out: LeftOut
) -> Read:
    # VQAv2 keeps questions and answers in two files, joined by question_id.
    file, answers_file = paths["questions"], paths["annotations"]
    found = get_field(load_json(answers_file), "annotations", list, answers_file, "-")
    annotations = _by_id(found, "question_id", (int, str), answers_file, "annotation")
    for number, record in enumerate(get_field(load_json(file), "questions", list, file, "-")):
        with left_out:
            where = get_field(record, "question_id", (int, str), file, number)
            if where not in annotations:
                raise BadRecord(answers_file, where, "has no annotation")
            annotation = annotations[where]
            image_id = get_field(record, "image_id", (int, str), file, where)
            question = Question(
                id=str(where),
                task=task,
                image=images.path(_name(pattern, image_id, file, where), file, where),
                text=get_field(record, "question", str, file, where),
                answers=_soft_answers(annotation, answers_file, where),
                kind=get_field(annotation, "question_type", str, answers_file, where),
            )
            yield question, record


def _by_id(entries: list, key: str, kind: type | tuple[type, ...], file: Path, part: str) -> dict[Any, dict]:
    """Records of a list by the value of a key, which each has for itself."""
    found: dict[Any, dict] = {}
    for number, entry in enumerate(entries):
        name = get_field(entry, key, kind, file, f"{part} {number}")
        if name in found:
            raise BadRecord(file, f"{part} {number}", f"{key} {name!r} occurs twice")
        found[name] = entry
    return found


def _pope(
    paths: dict[str, Path], task: str, images: ImageFolder, pattern: str, split: str | None, left_out: LeftOut
) -> Read:
    for kind, file in paths.items():
        for number, record in read_records(file):
            with left_out:
                where = get_field(record, "question_id", (int, str), file, number)
                label = get_field(record, "label", str, file, where)
                # POPE's files have these two words alone; anything else is a damaged or another file.
                if label not in ("yes", "no"):
                    raise BadRecord(file, where, f"label is neither yes nor no: {label!r}")
                # The official ids start again in each of the three files.
                question = Question(
                    id=f"{kind}-{where}",
                    task=task,
                    image=images.path(get_field(record, "image", str, file, where), file, where),
                    text=get_field(record, "text", str, file, where),
                    answers=(label,),
                    kind=kind,
                )
                yield question, record


def _named_records(file: Path) -> dict[str, Any]:
    """Records by id, of a file that is one object of them."""
    found = load_json(file)
    if not isinstance(found, dict):
        raise BadRecord(file, "-", f"holds {type(found).__name__}, not an object")
    return found


def _gqa(
    paths: dict[str, Path], task: str, images: ImageFolder, pattern: str, split: str | None, left_out: LeftOut
) -> Read:
    file = paths["questions"]
    for where, record in _named_records(file).items():
        with left_out:
            image_id = get_field(record, "imageId", str, file, where)
            types = get_field(record, "types", dict, file, where)
            question = Question(
                id=where,
                task=task,
                image=images.path(_name(pattern, image_id, file, where), file, where),
                text=get_field(record, "question", str, file, where),
                answers=(get_field(record, "answer", str, file, where),),
                kind=get_field(types, "detailed" if types.get("detailed") else "structural", str, file, where),
                structure=get_field(types, "structural", str, file, where) if types.get("structural") else "",
            )
            yield question, record


def _textvqa(
    paths: dict[str, Path], task: str, images: ImageFolder, pattern: str, split: str | None, left_out: LeftOut
) -> Read:
    file = paths["questions"]
    for number, record in enumerate(get_field(load_json(file), "data", list, file, "-")):
        with left_out:
            where = get_field(record, "question_id", (int, str), file, number)
            image_id = get_field(record, "image_id", str, file, where)
            answers = get_field(record, "answers", list, file, where)
            if not answers or not all(isinstance(answer, str) for answer in answers):
                raise BadRecord(file, where, "answers are not a list of texts")
            question = Question(
                id=str(where),
                task=task,
                image=images.path(_name(pattern, image_id, file, where), file, where),
                text=get_field(record, "question", str, file, where),
                answers=tuple(answers),
                kind="word",
            )
            yield question, record


def _vizwiz(
    paths: dict[str, Path], task: str, images: ImageFolder, pattern: str, split: str | None, left_out: LeftOut
) -> Read:
    """One question an image; the image's name without its suffix is the id. Every question says if it can be answered."""
    file = paths["questions"]
    for number, record in read_records(file):
        with left_out:
            name = get_field(record, "image", str, file, number)
            answerable = get_field(record, "answerable", (int, float), file, name)
            if answerable not in (0, 1):
                raise BadRecord(file, name, f"answerable is neither 0 nor 1: {answerable!r}")
            question = Question(
                id=PurePosixPath(name).stem,
                task=task,
                image=images.path(name, file, name),
                text=get_field(record, "question", str, file, name),
                answers=_soft_answers(record, file, name),
                kind="answerable" if answerable else "unanswerable",
            )
            yield question, record


def _soft_answers(record: object, file: Path, where: object) -> tuple[str, ...]:
    """What ten people answered, in VQA's form; some of them said nothing."""
    answers = get_field(record, "answers", list, file, where)
    if not answers:
        raise BadRecord(file, where, "has no answers")
    for answer in answers:
        # Not `get_field`, which refuses an empty text: that is an answer too.
        if not isinstance(answer, dict) or not isinstance(answer.get("answer"), str):
            raise BadRecord(file, where, f"an answer is not a text: {answer!r}")
    return tuple(answer["answer"] for answer in answers)


def _refcoco(
    paths: dict[str, Path], task: str, images: ImageFolder, pattern: str, split: str | None, left_out: LeftOut
) -> Read:
    file = paths["instances"]
    # A refer record has no box of its own: it names an annotation of COCO's.
    instances = load_json(file)
    by_id = {
        part: _by_id(get_field(instances, part, list, file, "-"), "id", int, file, part)
        for part in ("images", "annotations")
    }
    refs_file = paths["refs"]
    for number, ref in _refs(refs_file):
        with left_out:
            ref_id = get_field(ref, "ref_id", int, refs_file, number)
            # One file has the refer records of all splits.
            if split is not None and get_field(ref, "split", str, refs_file, ref_id) != split:
                continue
            annotation = by_id["annotations"].get(get_field(ref, "ann_id", int, refs_file, ref_id))
            image = by_id["images"].get(get_field(ref, "image_id", int, refs_file, ref_id))
            if annotation is None or image is None:
                raise BadRecord(refs_file, ref_id, f"{file.name} has no such {'image' if annotation else 'annotation'}")
            width, height = (get_field(image, side, int, file, ref_id) for side in ("width", "height"))
            box = read_box(
                corners(get_field(annotation, "bbox", list, file, ref_id)), width, height, file, ref_id, left_out
            )
            path = images.path(get_field(image, "file_name", str, file, ref_id), file, ref_id)
            box = images.upright(box, (width, height), path, file, ref_id)
            for sentence in get_field(ref, "sentences", list, refs_file, ref_id):
                sent_id = get_field(sentence, "sent_id", int, refs_file, ref_id)
                text = get_field(sentence, "sent", str, refs_file, ref_id)
                question = Question(f"{ref_id}-{sent_id}", task, path, text, (box_text(box),), "object", box)
                yield question, sentence


def _refs(path: Path) -> Iterator[tuple[int, Any]]:
    """RefCOCO's refer records, of a pickle or of JSON."""
    if path.suffix not in (".p", ".pkl", ".pickle"):
        return read_records(path)
    found = load_pickle(path)
    if not isinstance(found, list):
        raise BadRecord(path, "-", f"holds {type(found).__name__}, not a list")
    return iter(enumerate(found))


def _ocid(
    paths: dict[str, Path], task: str, images: ImageFolder, pattern: str, split: str | None, left_out: LeftOut
) -> Read:
    file = paths["expressions"]
    for where, record in _named_records(file).items():
        with left_out:
            path = images.path(get_field(record, "scene_path", str, file, where), file, where)
            corners = get_field(record, "bbox", (str, list), file, where)
            if isinstance(corners, str):  # the original stores the list as text
                try:
                    corners = parse_json(corners)
                except ValueError:
                    raise BadRecord(file, where, f"bbox is not a list: {corners!r}") from None
            size, _ = images.stored(path, file, where)
            box = images.upright(read_box(corners, *size, file, where, left_out), size, path, file, where)
            take = get_field(record, "take_id", int, file, where)
            kind = next((name for last, name in OCID_CLUTTER if 0 <= take <= last), None)
            if kind is None:
                raise BadRecord(file, where, f"take_id is not in 0..20: {take}")
            text = get_field(record, "sentence", str, file, where)
            yield Question(where, task, path, text, (box_text(box),), kind, box), record


def _coco_captions(
    paths: dict[str, Path], task: str, images: ImageFolder, pattern: str, split: str | None, left_out: LeftOut
) -> Read:
    """An image a question without text; its captions are the answers."""
    file = paths["captions"]
    content = load_json(file)
    images_by_id = _by_id(get_field(content, "images", list, file, "-"), "id", int, file, "images")
    captions: dict[int, list[str]] = {image_id: [] for image_id in images_by_id}
    for number, annotation in enumerate(get_field(content, "annotations", list, file, "-")):
        with left_out:
            where = get_field(annotation, "id", int, file, f"annotations {number}")
            image_id = get_field(annotation, "image_id", int, file, where)
            if image_id not in captions:
                raise BadRecord(file, where, f"is of an image that is not listed: {image_id}")
            captions[image_id].append(get_field(annotation, "caption", str, file, where))
    for where, record in images_by_id.items():
        with left_out:
            if not captions[where]:
                raise BadRecord(file, where, "has no caption")
            path = images.path(get_field(record, "file_name", str, file, where), file, where)
            yield Question(str(where), task, path, "", tuple(captions[where]), "caption"), record


class Layout(NamedTuple):
    """A format: its reader, its files as the embedded source names them, and how an image id becomes a file name."""

    read: Callable[..., Read]
    files: dict[str, str]  # name by role
    image_name: str = "{}"


FORMATS = {
    "vqav2": Layout(_vqav2, {"questions": "questions.json", "annotations": "annotations.json"}, "{:012d}.jpg"),
    "pope": Layout(_pope, {"random": "random.json", "popular": "popular.json", "adversarial": "adversarial.json"}),
    "gqa": Layout(_gqa, {"questions": "questions.json"}, "{}.jpg"),
    "textvqa": Layout(_textvqa, {"questions": "questions.json"}, "{}.jpg"),
    "vizwiz": Layout(_vizwiz, {"questions": "questions.json"}),
    "refcoco": Layout(_refcoco, {"instances": "instances.json", "refs": "refs.json"}),
    "ocid": Layout(_ocid, {"expressions": "expressions.json"}),
    "coco_captions": Layout(_coco_captions, {"captions": "captions.json"}),
}
