"""Readers of the official file formats: img2dataset tars, LLaVA JSON, and the files of vision benchmarks.

They serve the embedded composed scenes and the real data sets alike. Whatever is missing or malformed raises BadRecord
with one line that names the file, the record and the reason; nothing is skipped. Readers of open files (`captions`,
`tar_samples`) give the BadRecord in the record's place instead, for sources that may have some. No code is executed from
a file, and no path in one may leave the folder that it is relative to. Images are not decoded here: only their first
bytes are looked at (and the header, where a box in px needs the image's size).
"""

from __future__ import annotations

import hashlib
import pickle
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.data.frames import Box, turn_box
from pipeline.data.images import ALLOWED, DAMAGED, is_image, stored_size, turned_size
from pipeline.data.open_text import Stream as Stream
from pipeline.data.open_text import load_json, open_file, read_records
from pipeline.data.records import BadRecord as BadRecord
from pipeline.data.records import Caption, Conversation, LeftOut, Question
from pipeline.data.records import strict as strict
from pipeline.files import parse_json, path_fault

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
MARKER = "<image>"  # stands for the image in LLaVA's texts
LLAVA_KEYS = ("id", "image", "conversations")
# What names an image or a video in records of other layouts than LLaVA's: keys, keys that stand beside `image` without being
# about it (as `image_id` is), and ends of file names.
MEDIA_KEY = re.compile("image|img|picture|photo|video", re.IGNORECASE)
FURTHER_KEY = re.compile(r"(image|img|picture|photo|video)(s|s?_?(path|file|list|\d+)s?)?", re.IGNORECASE)
MEDIA_FILE = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|mp4|webm|avi|mov|mkv)$", re.IGNORECASE)
METADATA = re.compile(r"__[^/]*__(/|$)")  # names in a tar that WebDataset passes over
# The files of each format as the embedded source names them; `files` of read_questions names others.
FILES = {
    "vqav2": {"questions": "questions.json", "annotations": "annotations.json"},
    "pope": {"random": "random.json", "popular": "popular.json", "adversarial": "adversarial.json"},
    "gqa": {"questions": "questions.json"},
    "textvqa": {"questions": "questions.json"},
    "refcoco": {"instances": "instances.json", "refs": "refs.json"},
    "ocid": {"expressions": "expressions.json"},
    "vizwiz": {"questions": "questions.json"},
    "coco_captions": {"captions": "captions.json"},
}
# How an image id becomes a file name, where the format gives an id.
IMAGE_NAMES = {"vqav2": "{:012d}.jpg", "gqa": "{}.jpg", "textvqa": "{}.jpg"}
LARGEST_MEMBER = 1 << 28  # bytes of one file in a tar
LARGEST_SIDE = 1e9  # px; numbers beyond it are no sizes and no places
# OCID counts the objects on the table: up to here they stand free, touch, are stacked.
OCID_CLUTTER = ((9, "minimum"), (16, "medium"), (20, "maximum"))


# --- small checks -----------------------------------------------------------------------------------------------------


def _get(record: object, key: str, kind: type | tuple[type, ...], file: object, where: object) -> Any:
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
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise BadRecord(file, where, f"{key!r} is a number of more than 64 bits")
    if isinstance(value, str) and value != value.encode(errors="replace").decode():
        raise BadRecord(file, where, f"{key!r} has half of a surrogate pair, which is no character")
    return value


def _inside(root: Path, name: str, file: object, where: object) -> Path:
    """The path `name` below `root`. Raises BadRecord for one that leaves it."""
    if fault := path_fault(name):
        raise BadRecord(file, where, fault)
    return Path(root, *PurePosixPath(name).parts)


class _Images:
    """The images of one folder, each looked at once."""

    def __init__(self, root: Path):
        self.root = Path(root)
        self._known: dict[str, Path] = {}
        self._sizes: dict[Path, tuple[tuple[int, int], int]] = {}

    def path(self, name: str, file: object, where: object) -> Path:
        if name not in self._known:
            path = _inside(self.root, name, file, where)
            try:
                with open(path, "rb") as image:
                    head = image.read(4)
            except OSError:
                raise BadRecord(file, where, f"no image {path}") from None
            if not is_image(head):
                raise BadRecord(file, where, f"not a {ALLOWED} image: {path}")
            self._known[name] = path
        return self._known[name]

    def stored(self, path: Path, file: object, where: object) -> tuple[tuple[int, int], int]:
        """Width and height in px of the pixels as they are stored, and how they are turned upright; from the header."""
        if path not in self._sizes:
            try:
                self._sizes[path] = stored_size(path)
            except DAMAGED as error:
                raise BadRecord(
                    file, where, f"image header of {path} cannot be read ({type(error).__name__})"
                ) from None
        return self._sizes[path]

    def upright(self, box: Box, size: tuple[int, int], path: Path, file: object, where: object) -> Box:
        """A box in shares of an image of `size` px, in shares of the upright image.

        It is of the pixels as they are stored, unless the size is that of the upright image alone.
        """
        stored, turn = self.stored(path, file, where)
        return box if size == turned_size(stored, turn) != stored else turn_box(box, turn)


def _box(
    corners: Any, width: float, height: float, file: object, where: object, left_out: LeftOut
) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 in px of a width x height image -> shares of it. Refuses empty boxes and boxes outside.

    Up to 2 px outside is clipped, and counted beyond half a pixel: COCO's boxes are rounded to hundredths and some touch
    the border.
    """
    numbers = isinstance(corners, list | tuple) and all(
        isinstance(side, int | float) and not isinstance(side, bool) and abs(side) < LARGEST_SIDE for side in corners
    )
    if not numbers or len(corners) != 4:
        raise BadRecord(file, where, f"box is not four numbers: {corners!r}")
    if not (1 <= width < LARGEST_SIDE and 1 <= height < LARGEST_SIDE):
        raise BadRecord(file, where, f"is of an image of {width} x {height} px")
    x1, y1, x2, y2 = corners
    clipped = (max(x1, 0) / width, max(y1, 0) / height, min(x2, width) / width, min(y2, height) / height)
    outside = max(-x1, -y1, x2 - width, y2 - height)
    if outside > 2 or not (clipped[0] < clipped[2] and clipped[1] < clipped[3]):
        raise BadRecord(file, where, f"box is empty or outside the {width} x {height} image: {corners!r}")
    left_out.clipped += outside > 0.5
    return clipped


def box_text(box: Iterable[float]) -> str:
    """x1, y1, x2, y2 in 0..1 as models read and write them: "[0.12, 0.08, 0.45, 0.47]"."""
    return "[" + ", ".join(f"{side:.2f}" for side in box) + "]"


# --- captions: img2dataset tars ---------------------------------------------------------------------------------------


def read_captions(folder: Path, field: str | None = None) -> Iterator[Caption]:
    """Samples of all img2dataset tars (KEY.jpg, KEY.txt, optionally KEY.json) in a folder, in order.

    `field` names an entry of KEY.json whose text to take in place of KEY.txt. Members that are not regular files are
    ignored. Raises BadRecord.
    """
    tars = sorted(Path(folder).glob("*.tar"))
    if not tars:
        raise BadRecord(folder, "-", "no .tar file in this folder")
    for tar in tars:
        with open_file(tar) as file:
            yield from strict(captions(file, tar, False, field))


def marked(text: str) -> tuple[int, str]:
    """How many <image> stand on lines of their own before and after a text, as in LLaVA's; and the text without these lines.

    An <image> inside of a line, or between lines of text, is text.
    """
    lines = text.strip().split("\n")
    head, tail = (
        list(takewhile(lambda line: not line.replace(MARKER, "").strip(), way)) for way in (lines, lines[::-1])
    )
    tail = tail[: len(lines) - len(head)]
    left = "\n".join(lines[len(head) : len(lines) - len(tail)])
    return sum(line.count(MARKER) for line in (*head, *tail)), left.strip()


def unmarked(text: str, file: object, where: object) -> str:
    """A text about one image, which goes without saying, less the line that stands for it. Raises BadRecord."""
    found, left = marked(text) if MARKER in text else (0, "")
    if found > 1:
        raise BadRecord(file, where, f"has {found} {MARKER} and 1 image")
    if found and not left:
        raise BadRecord(file, where, f"has no text beside {MARKER}")
    return left if found else text


def captions(file: Stream, name: object, verify: bool, field: str | None) -> Iterator[Caption | BadRecord]:
    """The samples of an open img2dataset tar; as `read_captions`, with a BadRecord for each that cannot be read.

    `verify` compares the image with the sidecar's `sha256`; leave it off for downloads that were resized, whose hash is
    that of the original.
    """
    for key, members in tar_samples(file, name):
        if isinstance(members, BadRecord):
            yield members
            continue
        try:
            image, facts = image_of(name, key, members), sidecar(name, key, members)
            uid, text = uid_of(name, key, facts), caption_text(name, key, members, facts, field)
            if verify:
                check_image_hash(name, key, image, facts.get("sha256"))
        except BadRecord as error:
            yield error
        else:
            yield Caption(uid, image, text)


class _Counted:
    """A file being read from its beginning, and where the last byte was that is not zero."""

    def __init__(self, file: Stream):
        self.file, self.position, self.last = file, 0, -1

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        if used := data.rstrip(b"\0"):
            self.last = self.position + len(used) - 1
        self.position += len(data)
        return data


class Members(dict[str, bytes]):
    """{suffix: bytes} of a run of a tar's members with one key; `again`: whether there was a run of this key before."""

    again = False


def tar_samples(
    file: Stream, name: object, wanted: tuple[str, ...] = (), counts: Counter[str] | None = None
) -> Iterator[tuple[str, Members | BadRecord]]:
    """(key, members) of every run of members with one key, as WebDataset defines it: a name up to its first dot.

    `wanted` are the only suffixes whose bytes are read (none: all). Reads the file once, from its beginning to its end.
    Links and devices are not followed. As in WebDataset, members without a suffix, whose names begin with a dot (macOS's
    `._NAME`) or in a folder such as __meta__ are passed over; `counts` says how many ("members_not_read"). A sample of
    nothing else, and one whose members cannot all be taken, is a BadRecord. A tar that breaks off, or that is damaged, ends
    with one; the sample that it breaks off in is not given.
    """
    key, members, fault, counted, end, size = None, Members(), None, _Counted(file), 0, 0
    seen: set[str] = set()
    try:
        with tarfile.open(fileobj=counted, mode="r|", bufsize=1 << 20) as tar:  # type: ignore[call-overload]  # read() is all that it calls
            for member in tar:
                end = tar.offset
                if member.isdir():
                    continue
                folder, slash, base = member.name.rpartition("/")
                stem, dot, suffix = base.partition(".")
                if not (stem and dot) or METADATA.match(member.name):
                    if counts is not None:
                        counts["members_not_read"] += 1
                    continue
                this, suffix = folder + slash + stem, suffix.lower()
                if this != key:
                    if key is not None:
                        yield key, _sample(name, key, members, fault)
                    members, fault, size = Members(), None, 0
                    members.again = this in seen
                    seen.add(this)
                key = this
                if not member.isreg():
                    continue
                size += member.size
                if suffix in members:
                    fault = f"has two members .{suffix}"
                elif member.size > LARGEST_MEMBER:
                    fault = f"its .{suffix} has {member.size:,} bytes, more than {LARGEST_MEMBER:,}"
                elif size > LARGEST_MEMBER:
                    members[suffix] = b""
                    fault = f"its members have more than {LARGEST_MEMBER:,} bytes ({_names(members)})"
                else:
                    content = not wanted or base.lower().endswith(wanted)
                    members[suffix] = tar.extractfile(member).read() if content else b""
        while counted.read(1 << 20):
            pass
        # Only zeros follow the last member. `tarfile` takes a damaged header, and a cut between members, for the end.
        if counted.last >= end or counted.position < end + tarfile.BLOCKSIZE:
            reason = "a damaged header" if counted.last >= end else "it has no end mark: cut off?"
            raise tarfile.ReadError(reason)
    except (tarfile.TarError, EOFError, ValueError, IndexError, OverflowError) as error:  # the last three: its numbers
        yield key or "-", BadRecord(name, key or "-", f"is not a readable tar ({error})", broken_at=end)
        return
    if key is not None:
        yield key, _sample(name, key, members, fault)


def _sample(name: object, key: str, members: Members, fault: str | None) -> Members | BadRecord:
    """The members of a key, or what is wrong with them."""
    fault = path_fault(key) or fault
    if not members and not fault:
        fault = "its members are links or devices, which are not followed"
    if not fault:
        return members
    dots = all("." in suffix for suffix in members)  # several samples of one key, perhaps: see `lacking`
    alike = Counter(suffix.rpartition(".")[2] for suffix in members if dots)
    return BadRecord(name, key, fault, records=0 if members.again else max(alike.values(), default=1))


def _names(members: Members) -> str:
    """What there is of a sample, as messages say it."""
    names = [f".{suffix}" for suffix in members]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def lacking(name: object, key: str, members: Members, what: str, suffixes: tuple[str, ...]) -> BadRecord:
    """A sample that has none of some suffixes, and what may be the cause."""
    if members.again:
        why = f"its members are not adjacent in the tar, and these ({_names(members)}) stand alone; sort them by name"
        return BadRecord(name, key, f"has no {what}: {why}", records=0)
    ends = tuple(f".{suffix}" for suffix in suffixes)
    if inside := sum(suffix.endswith(ends) for suffix in members):
        why = f"names have dots ({_names(members)}), and a sample's key ends at its first dot; name the members KEY{ends[0]}"
        return BadRecord(name, key, f"has no {what}: its members' {why}", records=inside)
    return BadRecord(name, key, f"has no {what}, only {_names(members)}")


def image_of(name: object, key: str, members: Members) -> bytes:
    """The encoded image of a sample. Raises BadRecord."""
    found = [suffix for suffix in IMAGE_SUFFIXES if suffix in members]
    if not found:
        raise lacking(name, key, members, "image", IMAGE_SUFFIXES)
    if len(found) > 1:
        raise BadRecord(name, key, f"has {len(found)} images (.{', .'.join(found)}), one is read")
    image = members[found[0]]
    if not is_image(image[:4]):
        raise BadRecord(name, key, f"not a {ALLOWED} image")
    return image


def sidecar(name: object, key: str, members: Members, suffix: str = "json") -> dict:
    """The sample's KEY.json; empty if it has none. Raises BadRecord."""
    try:
        facts = parse_json(members.get(suffix, b"{}"))
    except ValueError as error:
        raise BadRecord(name, key, f"text cannot be decoded ({error})") from None
    if not isinstance(facts, dict):
        raise BadRecord(name, key, f"its .{suffix} is not an object")
    return facts


def uid_of(name: object, key: str, facts: dict) -> str:
    """The sample's name in all data sets: its sidecar's `uid`, or its key. Raises BadRecord."""
    uid = facts.get("uid") or key
    if not isinstance(uid, str | int) or str(uid).splitlines() != [str(uid)]:
        raise BadRecord(name, key, f"'uid' is neither a number nor a text of one line: {uid!r}")
    return str(uid)


def caption_text(name: object, key: str, members: Members, facts: dict, field: str | None) -> str:
    """The sample's KEY.txt, or an entry of its KEY.json. Raises BadRecord."""
    if field is None and "txt" not in members:
        raise lacking(name, key, members, ".txt", ("txt",))
    try:
        text = members["txt"].decode("utf-8-sig") if field is None else _get(facts, field, str, name, key)
    except UnicodeDecodeError as error:
        raise BadRecord(name, key, f"text cannot be decoded ({error})") from None
    if not text.strip():
        raise BadRecord(name, key, f"{field or 'caption'} is empty")
    return unmarked(text, name, key).strip()


def check_image_hash(name: object, key: str, image: bytes, sha256: object) -> None:
    """Raises BadRecord for an image of other bytes than its sidecar says."""
    if sha256 != hashlib.sha256(image).hexdigest():
        raise BadRecord(name, key, "image does not have the sha256 of its .json")


# --- instructions: LLaVA JSON -----------------------------------------------------------------------------------------


def read_conversations(json_path: Path, image_root: Path) -> Iterator[Conversation]:
    """Conversations of a LLaVA JSON file, as `conversation`. Raises BadRecord."""
    images = _Images(image_root)

    def look(image: str, where: str) -> bytes:
        return images.path(image, json_path, where).read_bytes()

    for number, record in read_records(json_path):
        yield conversation(record, json_path, number, look)


def conversation(record: Any, file: object, number: int, look: Callable[[str, str], bytes | None]) -> Conversation:
    """A record of a LLaVA JSON file, the `number`th; `look(name, id)` gives its image. Raises BadRecord.

    Of a record with an image, what human says has one <image> in all, which is taken out. All other text stays as it is.
    """
    name = str(_get(record, "id", (str, int), file, number))
    image, has_image = None, record.get("image") is not None
    if fault := further_images(record) if has_image else lost_image(record):
        raise BadRecord(file, name, fault)
    if has_image:
        image = look(_get(record, "image", str, file, name), name)
    turns = _turns(_get(record, "conversations", list, file, name), file, name)
    if not has_image:
        return Conversation(name, None, turns)
    if (markers := sum(asked.count(MARKER) for asked, _ in turns)) != 1:
        raise BadRecord(file, name, f"has 1 image and {markers} {MARKER} in what human says, allowed: 1")
    shown = ((asked.replace(MARKER, "").strip() if MARKER in asked else asked, told) for asked, told in turns)
    return Conversation(name, image, tuple(shown))


def is_chat(record: Any) -> bool:
    """Whether a record of a LLaVA JSON file is about no image, and not about one that is not found where it should be."""
    return isinstance(record, dict) and record.get("image") is None and lost_image(record) is None


def lost_image(record: dict) -> str | None:
    """What says that a record without `image` is about an image or a video all the same, or None.

    A key that names one, or a human's text that begins or ends with <image>. Inside of a text it is text.
    """
    others = [key for key in record if key not in LLAVA_KEYS]
    if media := [key for key in others if any(MEDIA_KEY.search(key) or _is_file(one) for one in _named(record[key]))]:
        return f"has no 'image' but {' and '.join(map(repr, media))}, which is not read; allowed: the name of one file, as 'image'"
    messages = record.get("conversations")
    for message in messages if isinstance(messages, list) else ():
        asked = message.get("value") if isinstance(message, dict) and message.get("from") == "human" else None
        if isinstance(asked, str) and (asked.strip().startswith(MARKER) or asked.strip().endswith(MARKER)):
            keys = ", ".join(map(repr, others)) or "none"
            return f"has {MARKER} at an end of what human says and no 'image'; its other keys: {keys}"
    return None


def further_images(record: dict) -> str | None:
    """What names other images or videos in a record with `image`, or None. Another way to the same file name is the same."""
    name = PurePosixPath(str(record["image"])).name
    further = [
        key
        for key in record
        if key not in LLAVA_KEYS
        and any(
            not (isinstance(one, str) and PurePosixPath(one).name == name)
            and (FURTHER_KEY.fullmatch(key) or _is_file(one))
            for one in _named(record[key])
        )
    ]
    found = " and ".join(map(repr, further))
    return f"has 'image' and also {found}, which is not read; allowed: one image a record" if further else None


def _named(value: object) -> list:
    """What an entry of a record may name files with: texts, lists and objects that hold something."""
    return [
        one for one in (value if isinstance(value, list) else [value]) if one and isinstance(one, str | list | dict)
    ]


def _is_file(one: object) -> bool:
    return isinstance(one, str) and bool(MEDIA_FILE.search(one))


def _turns(messages: list, file: object, where: str) -> tuple[tuple[str, str], ...]:
    if not messages or len(messages) % 2:
        raise BadRecord(file, where, f"has {len(messages)} messages, not pairs of human and gpt")
    texts = []
    for number, message in enumerate(messages):
        speaker = ("human", "gpt")[number % 2]
        if _get(message, "from", str, file, where) != speaker:
            raise BadRecord(file, where, f"message {number} is not from {speaker}")
        texts.append(_get(message, "value", str, file, where))
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
    left_out: LeftOut | None = None,
) -> Iterator[Question]:
    """Questions of a task in one of the formats of FILES: "vqav2", "pope", "gqa", "textvqa", "vizwiz", "refcoco", "ocid", ...

    folder      holds the annotation files, named as in FILES unless `files` (role -> name) says otherwise
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
    if format not in FILES:
        raise ValueError(f"unknown format {format!r}: one of {', '.join(FILES)}")
    if unknown := set(files or {}) - set(FILES[format]):
        raise ValueError(f"unknown files for {format}: {', '.join(sorted(unknown))}; known: {', '.join(FILES[format])}")
    paths = {role: folder / (files or {}).get(role, name) for role, name in FILES[format].items()}
    look = _Images(images or folder.parent / "images")
    task = task or folder.name
    pattern = image_name or IMAGE_NAMES.get(format, "{}")
    seen: set[str] = set()
    left_out = left_out or LeftOut()
    for question, record in READERS[format](paths, task, look, pattern, split, left_out):
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
    paths: dict[str, Path], task: str, images: _Images, pattern: str, split: str | None, left_out: LeftOut
) -> Read:
    file, answers_file = paths["questions"], paths["annotations"]
    found = _get(load_json(answers_file), "annotations", list, answers_file, "-")
    annotations = _by_id(found, "question_id", (int, str), answers_file, "annotation")
    for number, record in enumerate(_get(load_json(file), "questions", list, file, "-")):
        with left_out:
            where = _get(record, "question_id", (int, str), file, number)
            if where not in annotations:
                raise BadRecord(answers_file, where, "has no annotation")
            annotation = annotations[where]
            image_id = _get(record, "image_id", (int, str), file, where)
            question = Question(
                id=str(where),
                task=task,
                image=images.path(_name(pattern, image_id, file, where), file, where),
                text=_get(record, "question", str, file, where),
                answers=_soft_answers(annotation, answers_file, where),
                kind=_get(annotation, "question_type", str, answers_file, where),
            )
            yield question, record


def _by_id(entries: list, key: str, kind: type | tuple[type, ...], file: Path, part: str) -> dict[Any, dict]:
    """Records of a list by the value of a key, which each has for itself."""
    found: dict[Any, dict] = {}
    for number, entry in enumerate(entries):
        name = _get(entry, key, kind, file, f"{part} {number}")
        if name in found:
            raise BadRecord(file, f"{part} {number}", f"{key} {name!r} occurs twice")
        found[name] = entry
    return found


def _pope(
    paths: dict[str, Path], task: str, images: _Images, pattern: str, split: str | None, left_out: LeftOut
) -> Read:
    for kind, file in paths.items():
        for number, record in read_records(file):
            with left_out:
                where = _get(record, "question_id", (int, str), file, number)
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


def _named_records(file: Path) -> dict[str, Any]:
    """Records by id, of a file that is one object of them."""
    found = load_json(file)
    if not isinstance(found, dict):
        raise BadRecord(file, "-", f"holds {type(found).__name__}, not an object")
    return found


def _gqa(
    paths: dict[str, Path], task: str, images: _Images, pattern: str, split: str | None, left_out: LeftOut
) -> Read:
    file = paths["questions"]
    for where, record in _named_records(file).items():
        with left_out:
            image_id = _get(record, "imageId", str, file, where)
            types = _get(record, "types", dict, file, where)
            question = Question(
                id=where,
                task=task,
                image=images.path(_name(pattern, image_id, file, where), file, where),
                text=_get(record, "question", str, file, where),
                answers=(_get(record, "answer", str, file, where),),
                kind=_get(types, "detailed" if types.get("detailed") else "structural", str, file, where),
                structure=_get(types, "structural", str, file, where) if types.get("structural") else "",
            )
            yield question, record


def _textvqa(
    paths: dict[str, Path], task: str, images: _Images, pattern: str, split: str | None, left_out: LeftOut
) -> Read:
    file = paths["questions"]
    for number, record in enumerate(_get(load_json(file), "data", list, file, "-")):
        with left_out:
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


def _vizwiz(
    paths: dict[str, Path], task: str, images: _Images, pattern: str, split: str | None, left_out: LeftOut
) -> Read:
    """One question an image; the image's name without its suffix is the id. Every question says if it can be answered."""
    file = paths["questions"]
    for number, record in read_records(file):
        with left_out:
            name = _get(record, "image", str, file, number)
            answerable = _get(record, "answerable", (int, float), file, name)
            if answerable not in (0, 1):
                raise BadRecord(file, name, f"answerable is neither 0 nor 1: {answerable!r}")
            question = Question(
                id=PurePosixPath(name).stem,
                task=task,
                image=images.path(name, file, name),
                text=_get(record, "question", str, file, name),
                answers=_soft_answers(record, file, name),
                kind="answerable" if answerable else "unanswerable",
            )
            yield question, record


def _soft_answers(record: object, file: Path, where: object) -> tuple[str, ...]:
    """What ten people answered, in VQA's form; some of them said nothing."""
    answers = _get(record, "answers", list, file, where)
    if not answers:
        raise BadRecord(file, where, "has no answers")
    for answer in answers:
        if not isinstance(answer, dict) or not isinstance(answer.get("answer"), str):
            raise BadRecord(file, where, f"an answer is not a text: {answer!r}")
    return tuple(answer["answer"] for answer in answers)


def _refcoco(
    paths: dict[str, Path], task: str, images: _Images, pattern: str, split: str | None, left_out: LeftOut
) -> Read:
    file = paths["instances"]
    instances = load_json(file)
    by_id = {
        part: _by_id(_get(instances, part, list, file, "-"), "id", int, file, part)
        for part in ("images", "annotations")
    }
    refs_file = paths["refs"]
    for number, ref in _refs(refs_file):
        with left_out:
            ref_id = _get(ref, "ref_id", int, refs_file, number)
            if split is not None and _get(ref, "split", str, refs_file, ref_id) != split:
                continue
            annotation = by_id["annotations"].get(_get(ref, "ann_id", int, refs_file, ref_id))
            image = by_id["images"].get(_get(ref, "image_id", int, refs_file, ref_id))
            if annotation is None or image is None:
                raise BadRecord(refs_file, ref_id, f"{file.name} has no such {'image' if annotation else 'annotation'}")
            width, height = (_get(image, side, int, file, ref_id) for side in ("width", "height"))
            box = _box(_corners(_get(annotation, "bbox", list, file, ref_id)), width, height, file, ref_id, left_out)
            path = images.path(_get(image, "file_name", str, file, ref_id), file, ref_id)
            box = images.upright(box, (width, height), path, file, ref_id)
            for sentence in _get(ref, "sentences", list, refs_file, ref_id):
                sent_id = _get(sentence, "sent_id", int, refs_file, ref_id)
                text = _get(sentence, "sent", str, refs_file, ref_id)
                question = Question(f"{ref_id}-{sent_id}", task, path, text, (box_text(box),), "object", box)
                yield question, sentence


def _refs(path: Path) -> Iterator[tuple[int, Any]]:
    """RefCOCO's refer records, of a pickle or of JSON."""
    if path.suffix not in (".p", ".pkl", ".pickle"):
        return read_records(path)
    found = _load_pickle(path)
    if not isinstance(found, list):
        raise BadRecord(path, "-", f"holds {type(found).__name__}, not a list")
    return iter(enumerate(found))


class _DataUnpickler(pickle._Unpickler):
    """Reads lists, dictionaries, texts and numbers. What names any class or function is refused: nothing is executed.

    It is the one that is written in Python: ten bytes can make the one in C take all memory (a memo's number is its size).
    """

    def find_class(self, module: str, name: str) -> object:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}; only plain data is read")


def _load_pickle(path: Path) -> Any:
    """RefCOCO's `refs(unc).p`, which Python 2 wrote. Raises BadRecord."""
    with open_file(path) as file:
        try:
            return _DataUnpickler(file, encoding="utf-8", errors="replace").load()
        # A damaged pickle fails in whatever operation its bytes stand for.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise BadRecord(path, "-", f"is not a pickle of plain data ({reason})") from None


def _corners(bbox: list) -> Any:
    """COCO's x, y, width, height -> corners; what is not four numbers is left for `_box` to refuse."""
    try:
        x, y, width, height = bbox
        return [x, y, x + width, y + height]
    except (TypeError, ValueError, OverflowError):
        return bbox


def _ocid(
    paths: dict[str, Path], task: str, images: _Images, pattern: str, split: str | None, left_out: LeftOut
) -> Read:
    file = paths["expressions"]
    for where, record in _named_records(file).items():
        with left_out:
            path = images.path(_get(record, "scene_path", str, file, where), file, where)
            corners = _get(record, "bbox", (str, list), file, where)
            if isinstance(corners, str):  # the original stores the list as text
                try:
                    corners = parse_json(corners)
                except ValueError:
                    raise BadRecord(file, where, f"bbox is not a list: {corners!r}") from None
            size, _ = images.stored(path, file, where)
            box = images.upright(_box(corners, *size, file, where, left_out), size, path, file, where)
            take = _get(record, "take_id", int, file, where)
            kind = next((name for last, name in OCID_CLUTTER if 0 <= take <= last), None)
            if kind is None:
                raise BadRecord(file, where, f"take_id is not in 0..20: {take}")
            text = _get(record, "sentence", str, file, where)
            yield Question(where, task, path, text, (box_text(box),), kind, box), record


def _coco_captions(
    paths: dict[str, Path], task: str, images: _Images, pattern: str, split: str | None, left_out: LeftOut
) -> Read:
    """An image a question without text; its captions are the answers."""
    file = paths["captions"]
    content = load_json(file)
    images_by_id = _by_id(_get(content, "images", list, file, "-"), "id", int, file, "images")
    captions: dict[int, list[str]] = {image_id: [] for image_id in images_by_id}
    for number, annotation in enumerate(_get(content, "annotations", list, file, "-")):
        with left_out:
            where = _get(annotation, "id", int, file, f"annotations {number}")
            image_id = _get(annotation, "image_id", int, file, where)
            if image_id not in captions:
                raise BadRecord(file, where, f"is of an image that is not listed: {image_id}")
            captions[image_id].append(_get(annotation, "caption", str, file, where))
    for where, record in images_by_id.items():
        with left_out:
            if not captions[where]:
                raise BadRecord(file, where, "has no caption")
            path = images.path(_get(record, "file_name", str, file, where), file, where)
            yield Question(str(where), task, path, "", tuple(captions[where]), "caption"), record


READERS: dict[str, Callable[..., Read]] = {
    "vqav2": _vqav2,
    "pope": _pope,
    "gqa": _gqa,
    "textvqa": _textvqa,
    "vizwiz": _vizwiz,
    "refcoco": _refcoco,
    "ocid": _ocid,
    "coco_captions": _coco_captions,
}
