"""Readers of the official file formats: img2dataset tars, LLaVA JSON, and the files of vision benchmarks.

They serve the embedded composed scenes and the real data sets alike. Whatever is missing or malformed raises BadRecord
with one line that names the file, the record and the reason; nothing is skipped. Nothing is unpickled, and no path in a
file may leave the folder that it is relative to. Images are not decoded here: only their first bytes are looked at (and
the header, where a box in px needs the image's size).
"""

from __future__ import annotations

import hashlib
import json
import math
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from PIL import Image

from pipeline.data.records import Caption, Conversation, Question

MAGIC = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"RIFF": "webp"}
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
# The files of each format as the embedded source names them; `files` of read_questions names others.
FILES = {
    "vqav2": {"questions": "questions.json", "annotations": "annotations.json"},
    "pope": {"random": "random.json", "popular": "popular.json", "adversarial": "adversarial.json"},
    "gqa": {"questions": "questions.json"},
    "textvqa": {"questions": "questions.json"},
    "refcoco": {"instances": "instances.json", "refs": "refs.json"},
    "ocid": {"expressions": "expressions.json"},
    "coco_captions": {"captions": "captions.json"},
}
# How an image id becomes a file name, where the format gives an id.
IMAGE_NAMES = {"vqav2": "{:012d}.jpg", "gqa": "{}.jpg", "textvqa": "{}.jpg"}
# OCID counts the objects on the table: up to here they stand free, touch, are stacked.
OCID_CLUTTER = ((9, "minimum"), (16, "medium"), (20, "maximum"))


class BadRecord(ValueError):
    """A file that cannot be read, or a record in it that is missing something."""

    def __init__(self, file: object, record: object, reason: str):
        super().__init__(f"{file}: record {record}: {reason}")
        self.file, self.record, self.reason = str(file), record, reason


# --- small checks -----------------------------------------------------------------------------------------------------


def _load(path: Path) -> object:
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise BadRecord(path, "-", f"cannot be read ({error.strerror})") from None
    except ValueError as error:  # undecodable text as well as undecodable JSON
        raise BadRecord(path, "-", f"is not JSON ({error})") from None


def _get(record: object, key: str, kind: type | tuple[type, ...], file: object, where: object) -> object:
    """`record[key]`, which must be there and of this kind (and, if text, not empty)."""
    if not isinstance(record, dict):
        raise BadRecord(file, where, "is not an object")
    if key not in record:
        raise BadRecord(file, where, f"has no {key!r}")
    value = record[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BadRecord(file, where, f"{key!r} is of type {type(value).__name__}")
    if value == "":
        raise BadRecord(file, where, f"{key!r} is empty")
    return value


def _list(value: object, file: object) -> list:
    if not isinstance(value, list):
        raise BadRecord(file, "-", f"holds {type(value).__name__}, not a list")
    return value


def _is_image(head: bytes) -> bool:
    return any(head.startswith(magic) for magic in MAGIC)


def _inside(root: Path, name: str, file: object, where: object) -> Path:
    """The path `name` below `root`. Refuses absolute paths and any step upwards."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise BadRecord(file, where, f"path leaves its folder: {name}")
    return Path(root, *path.parts)


class _Images:
    """The images of one folder, each looked at once."""

    def __init__(self, root: Path):
        self.root = Path(root)
        self._known: dict[str, Path] = {}
        self._sizes: dict[Path, tuple[int, int]] = {}

    def path(self, name: str, file: object, where: object) -> Path:
        if name not in self._known:
            path = _inside(self.root, name, file, where)
            try:
                with open(path, "rb") as image:
                    head = image.read(4)
            except OSError:
                raise BadRecord(file, where, f"no image {path}") from None
            if not _is_image(head):
                raise BadRecord(file, where, f"not a JPEG, PNG or WebP image: {path}")
            self._known[name] = path
        return self._known[name]

    def size(self, path: Path, file: object, where: object) -> tuple[int, int]:
        """Width and height in px, from the header."""
        if path not in self._sizes:
            try:
                with Image.open(path) as image:
                    self._sizes[path] = image.size
            except OSError as error:
                raise BadRecord(file, where, f"image header of {path} cannot be read ({error})") from None
        return self._sizes[path]


def _box(
    corners: object, width: float, height: float, file: object, where: object
) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 in px of a width x height image -> shares of it. Refuses empty boxes and boxes outside."""
    numbers = isinstance(corners, list | tuple) and all(
        isinstance(side, int | float) and not isinstance(side, bool) and math.isfinite(side) for side in corners
    )
    if not numbers or len(corners) != 4:
        raise BadRecord(file, where, f"box is not four numbers: {corners!r}")
    x1, y1, x2, y2 = corners
    # Half a pixel of tolerance: COCO's boxes are rounded to hundredths and some touch the border.
    if not (-0.5 <= x1 < x2 <= width + 0.5 and -0.5 <= y1 < y2 <= height + 0.5):
        raise BadRecord(file, where, f"box is empty or outside the {width} x {height} image: {corners!r}")
    clipped = (max(x1, 0) / width, max(y1, 0) / height, min(x2, width) / width, min(y2, height) / height)
    return clipped


def _box_text(box: Iterable[float]) -> str:
    return "[" + ", ".join(f"{side:.2f}" for side in box) + "]"


# --- captions: img2dataset tars ---------------------------------------------------------------------------------------


def read_captions(folder: Path, verify: bool = False, field: str | None = None) -> Iterator[Caption]:
    """Samples of all img2dataset tars (KEY.jpg, KEY.txt, optionally KEY.json) in a folder, in order.

    `field` names an entry of KEY.json whose text to take in place of KEY.txt. `verify` compares the image with the
    sidecar's `sha256`; leave it off for downloads that were resized, whose hash is that of the original. Members that
    are not regular files are ignored. Raises BadRecord.
    """
    tars = sorted(Path(folder).glob("*.tar"))
    if not tars:
        raise BadRecord(folder, "-", "no .tar file in this folder")
    for tar in tars:
        for key, members in _samples(tar):
            yield _caption(tar, key, members, verify, field)


def _check_end(path: Path) -> None:
    """Refuse a tar that was cut off: between two members, `tarfile` would take that for its end."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 512))
            whole = size % 512 == 0 and not any(file.read())
    except OSError as error:
        raise BadRecord(path, "-", f"cannot be read ({error.strerror})") from None
    if not whole:
        raise BadRecord(path, "-", "is not a readable tar (it has no end mark: cut off?)")


def _samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, {suffix: bytes}) of every run of members with one key, as WebDataset defines it."""
    key, members = None, {}
    _check_end(path)
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isreg():
                    continue
                _inside(Path("."), member.name, path, member.name)
                parent, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                this = f"{parent}/{stem}" if parent else stem
                if this != key and members:
                    yield key, members
                    members = {}
                key = this
                members[suffix.lower()] = tar.extractfile(member).read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise BadRecord(path, key or "-", f"is not a readable tar ({error})") from None
    if members:
        yield key, members


def _caption(tar: Path, key: str, members: dict[str, bytes], verify: bool, field: str | None) -> Caption:
    image = next((members[suffix] for suffix in IMAGE_SUFFIXES if suffix in members), None)
    if image is None:
        raise BadRecord(tar, key, "has no image")
    if not _is_image(image[:4]):
        raise BadRecord(tar, key, "not a JPEG, PNG or WebP image")
    if field is None and "txt" not in members:
        raise BadRecord(tar, key, "has no .txt")
    try:
        text = members["txt"].decode("utf-8") if field is None else None
        facts = json.loads(members.get("json", b"{}"))
    except ValueError as error:
        raise BadRecord(tar, key, f"text cannot be decoded ({error})") from None
    if not isinstance(facts, dict):
        raise BadRecord(tar, key, "its .json is not an object")
    if text is None:
        text = _get(facts, field, str, tar, key)
    if not text.strip():
        raise BadRecord(tar, key, f"{field or 'caption'} is empty")
    if verify and facts.get("sha256") != hashlib.sha256(image).hexdigest():
        raise BadRecord(tar, key, "image does not have the sha256 of its .json")
    return Caption(str(facts.get("uid") or key), image, text.strip())


# --- instructions: LLaVA JSON -----------------------------------------------------------------------------------------


def read_conversations(json_path: Path, image_root: Path) -> Iterator[Conversation]:
    """Conversations of a LLaVA JSON file; `<image>` is taken out of the text. Raises BadRecord."""
    images = _Images(image_root)
    for number, record in enumerate(_list(_load(json_path), json_path)):
        name = str(_get(record, "id", (str, int), json_path, number))
        image = None
        if record.get("image") is not None:
            path = images.path(_get(record, "image", str, json_path, name), json_path, name)
            image = path.read_bytes()
        messages = _get(record, "conversations", list, json_path, name)
        yield Conversation(name, image, _turns(messages, json_path, name))


def _turns(messages: list, file: Path, where: str) -> tuple[tuple[str, str], ...]:
    if not messages or len(messages) % 2:
        raise BadRecord(file, where, f"has {len(messages)} messages, not pairs of human and gpt")
    texts = []
    for number, message in enumerate(messages):
        speaker = ("human", "gpt")[number % 2]
        if _get(message, "from", str, file, where) != speaker:
            raise BadRecord(file, where, f"message {number} is not from {speaker}")
        texts.append(_get(message, "value", str, file, where).replace("<image>", "").strip())
    return tuple(zip(texts[::2], texts[1::2], strict=True))


# --- questions --------------------------------------------------------------------------------------------------------


def read_questions(
    format: str,
    folder: Path,
    *,
    task: str | None = None,
    images: Path | None = None,
    files: Mapping[str, str] | None = None,
    image_name: str | None = None,
    split: str | None = None,
) -> Iterator[Question]:
    """Questions of a task in one of the formats "vqav2", "pope", "gqa", "textvqa", "refcoco", "ocid", "coco_captions".

    folder      holds the annotation files, named as in FILES unless `files` (role -> name) says otherwise
    task        goes into the records; the folder's name by default
    images      the image root; `folder`/../images by default
    image_name  how an image id becomes a file name, such as "COCO_val2014_{:012d}.jpg" (vqav2, gqa, textvqa)
    split       of RefCOCO: only refer records of this split ("val", "testA", ...)

    Raises ValueError for an unknown format or role, BadRecord for anything wrong in the files.
    """
    for question, _ in _read(format, Path(folder), task, images, files, image_name, split):
        yield question


def read_splits(format: str, folder: Path, **options: object) -> dict[str, str]:
    """Question id -> its extra field `split` ("seen", "held_out_pair", "held_out_artist"), where records have one.

    Takes the options of `read_questions`.
    """
    keys = ("task", "images", "files", "image_name", "split")
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
) -> Iterator[tuple[Question, dict]]:
    """Questions with their records, each question id once."""
    if format not in FILES:
        raise ValueError(f"unknown format {format!r}: one of {', '.join(FILES)}")
    if unknown := set(files or {}) - set(FILES[format]):
        raise ValueError(f"unknown files for {format}: {', '.join(sorted(unknown))}; known: {', '.join(FILES[format])}")
    paths = {role: folder / (files or {}).get(role, name) for role, name in FILES[format].items()}
    look = _Images(images or folder.parent / "images")
    task = task or folder.name
    pattern = image_name or IMAGE_NAMES.get(format, "{}")
    seen: set[str] = set()
    for question, record in READERS[format](paths, task, look, pattern, split):
        if question.id in seen:
            raise BadRecord(folder, question.id, "id occurs twice")
        seen.add(question.id)
        yield question, record


Read = Iterator[tuple[Question, dict]]


def _name(pattern: str, image_id: object, file: Path, where: object) -> str:
    try:
        return pattern.format(image_id)
    except (ValueError, IndexError, KeyError):
        raise BadRecord(file, where, f"image id {image_id!r} does not fit the pattern {pattern!r}") from None


def _vqav2(paths: dict[str, Path], task: str, images: _Images, pattern: str, split: str | None) -> Read:
    file, answers_file = paths["questions"], paths["annotations"]
    annotations = {
        _get(a, "question_id", (int, str), answers_file, n): a
        for n, a in enumerate(_get(_load(answers_file), "annotations", list, answers_file, "-"))
    }
    for number, record in enumerate(_get(_load(file), "questions", list, file, "-")):
        where = _get(record, "question_id", (int, str), file, number)
        if where not in annotations:
            raise BadRecord(answers_file, where, "has no annotation")
        annotation = annotations[where]
        image_id = _get(record, "image_id", (int, str), file, where)
        answers = _get(annotation, "answers", list, answers_file, where)
        texts = tuple(_get(answer, "answer", str, answers_file, where) for answer in answers)
        if not texts:
            raise BadRecord(answers_file, where, "has no answers")
        question = Question(
            id=str(where),
            task=task,
            image=images.path(_name(pattern, image_id, file, where), file, where),
            text=_get(record, "question", str, file, where),
            answers=texts,
            kind=_get(annotation, "question_type", str, answers_file, where),
        )
        yield question, record


def _lines(path: Path) -> Iterator[tuple[int, dict]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadRecord(path, "-", f"cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise BadRecord(path, "-", f"is not text ({error})") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise BadRecord(path, f"line {number}", f"is not JSON ({error})") from None


def _pope(paths: dict[str, Path], task: str, images: _Images, pattern: str, split: str | None) -> Read:
    for kind, file in paths.items():
        for number, record in _lines(file):
            where = _get(record, "question_id", (int, str), file, f"line {number}")
            label = _get(record, "label", str, file, where)
            if label not in ("yes", "no"):
                raise BadRecord(file, where, f"label is neither yes nor no: {label!r}")
            # The official ids start again in each of the three files.
            question = Question(
                id=f"{kind}-{where}",
                task=task,
                image=images.path(_get(record, "image", str, file, where), file, where),
                text=_get(record, "text", str, file, where),
                answers=(label,),
                kind=kind,
            )
            yield question, record


def _gqa(paths: dict[str, Path], task: str, images: _Images, pattern: str, split: str | None) -> Read:
    file = paths["questions"]
    questions = _load(file)
    if not isinstance(questions, dict):
        raise BadRecord(file, "-", f"holds {type(questions).__name__}, not an object")
    for where, record in questions.items():
        image_id = _get(record, "imageId", str, file, where)
        types = _get(record, "types", dict, file, where)
        question = Question(
            id=where,
            task=task,
            image=images.path(_name(pattern, image_id, file, where), file, where),
            text=_get(record, "question", str, file, where),
            answers=(_get(record, "answer", str, file, where),),
            kind=types.get("detailed") or _get(types, "structural", str, file, where),
        )
        yield question, record


def _textvqa(paths: dict[str, Path], task: str, images: _Images, pattern: str, split: str | None) -> Read:
    file = paths["questions"]
    for number, record in enumerate(_get(_load(file), "data", list, file, "-")):
        where = _get(record, "question_id", (int, str), file, number)
        image_id = _get(record, "image_id", str, file, where)
        answers = _get(record, "answers", list, file, where)
        if not answers or not all(isinstance(answer, str) for answer in answers):
            raise BadRecord(file, where, "answers are not a list of texts")
        question = Question(
            id=str(where),
            task=task,
            image=images.path(_name(pattern, image_id, file, where), file, where),
            text=_get(record, "question", str, file, where),
            answers=tuple(answers),
            kind="word",
        )
        yield question, record


def _refcoco(paths: dict[str, Path], task: str, images: _Images, pattern: str, split: str | None) -> Read:
    file = paths["instances"]
    instances = _load(file)
    by_id = {
        part: {
            _get(entry, "id", int, file, f"{part} {n}"): entry
            for n, entry in enumerate(_get(instances, part, list, file, "-"))
        }
        for part in ("images", "annotations")
    }
    refs_file = paths["refs"]
    for number, ref in enumerate(_list(_load(refs_file), refs_file)):
        ref_id = _get(ref, "ref_id", int, refs_file, number)
        if split is not None and _get(ref, "split", str, refs_file, ref_id) != split:
            continue
        annotation = by_id["annotations"].get(_get(ref, "ann_id", int, refs_file, ref_id))
        image = by_id["images"].get(_get(ref, "image_id", int, refs_file, ref_id))
        if annotation is None or image is None:
            raise BadRecord(refs_file, ref_id, f"{file.name} has no such {'image' if annotation else 'annotation'}")
        width, height = (_get(image, side, int, file, ref_id) for side in ("width", "height"))
        box = _box(_corners(_get(annotation, "bbox", list, file, ref_id)), width, height, file, ref_id)
        path = images.path(_get(image, "file_name", str, file, ref_id), file, ref_id)
        for sentence in _get(ref, "sentences", list, refs_file, ref_id):
            sent_id = _get(sentence, "sent_id", int, refs_file, ref_id)
            text = _get(sentence, "sent", str, refs_file, ref_id)
            question = Question(f"{ref_id}-{sent_id}", task, path, text, (_box_text(box),), "object", box)
            yield question, sentence


def _corners(bbox: list) -> object:
    """COCO's x, y, width, height -> corners; what is not four numbers is left for `_box` to refuse."""
    try:
        x, y, width, height = bbox
        return [x, y, x + width, y + height]
    except (TypeError, ValueError):
        return bbox


def _ocid(paths: dict[str, Path], task: str, images: _Images, pattern: str, split: str | None) -> Read:
    file = paths["expressions"]
    expressions = _load(file)
    if not isinstance(expressions, dict):
        raise BadRecord(file, "-", f"holds {type(expressions).__name__}, not an object")
    for where, record in expressions.items():
        path = images.path(_get(record, "scene_path", str, file, where), file, where)
        corners = _get(record, "bbox", (str, list), file, where)
        if isinstance(corners, str):  # the original stores the list as text
            try:
                corners = json.loads(corners)
            except ValueError:
                raise BadRecord(file, where, f"bbox is not a list: {corners!r}") from None
        box = _box(corners, *images.size(path, file, where), file, where)
        take = _get(record, "take_id", int, file, where)
        kind = next((name for last, name in OCID_CLUTTER if 0 <= take <= last), None)
        if kind is None:
            raise BadRecord(file, where, f"take_id is not in 0..20: {take}")
        text = _get(record, "sentence", str, file, where)
        yield Question(where, task, path, text, (_box_text(box),), kind, box), record


def _coco_captions(paths: dict[str, Path], task: str, images: _Images, pattern: str, split: str | None) -> Read:
    """An image a question without text; its captions are the answers."""
    file = paths["captions"]
    content = _load(file)
    captions: dict[int, list[str]] = {
        _get(image, "id", int, file, f"images {n}"): []
        for n, image in enumerate(_get(content, "images", list, file, "-"))
    }
    for number, annotation in enumerate(_get(content, "annotations", list, file, "-")):
        where = _get(annotation, "id", int, file, f"annotations {number}")
        image_id = _get(annotation, "image_id", int, file, where)
        if image_id not in captions:
            raise BadRecord(file, where, f"is of an image that is not listed: {image_id}")
        captions[image_id].append(_get(annotation, "caption", str, file, where))
    for record in content["images"]:
        where = record["id"]
        if not captions[where]:
            raise BadRecord(file, where, "has no caption")
        path = images.path(_get(record, "file_name", str, file, where), file, where)
        yield Question(str(where), task, path, "", tuple(captions[where]), "caption"), record


READERS: dict[str, Callable[..., Read]] = {
    "vqav2": _vqav2,
    "pope": _pope,
    "gqa": _gqa,
    "textvqa": _textvqa,
    "refcoco": _refcoco,
    "ocid": _ocid,
    "coco_captions": _coco_captions,
}
