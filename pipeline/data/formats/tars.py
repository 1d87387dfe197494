"""Tars of images with captions, as img2dataset and WebDataset write them."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipeline.common.files import path_fault
from pipeline.common.images import ALLOWED, is_image
from pipeline.common.json_text import parse_json
from pipeline.data.formats.conversations import unmarked
from pipeline.data.formats.fields import get_field
from pipeline.data.formats.open_text import Stream as Stream
from pipeline.data.formats.open_text import open_file
from pipeline.data.records import BadRecord as BadRecord
from pipeline.data.records import Caption
from pipeline.data.records import strict as strict

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
METADATA = re.compile(r"__[^/]*__(/|$)")  # names in a tar that WebDataset passes over
LARGEST_MEMBER = 1 << 28  # bytes of one file in a tar


def read_captions(folder: Path, field: str | None = None) -> Iterator[Caption]:
    """Samples of all img2dataset tars (KEY.jpg, KEY.txt, optionally KEY.json) in a folder, in order.

    `field` names an entry of KEY.json whose text to take in place of KEY.txt. Members that are not regular files are
    ignored. Raises BadRecord.
    """
    # Sorted: the order in which a folder lists its files differs between file systems.
    tars = sorted(Path(folder).glob("*.tar"))
    if not tars:
        raise BadRecord(folder, "-", "no .tar file in this folder")
    for tar in tars:
        with open_file(tar) as file:
            yield from strict(captions(file, tar, False, field))


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
        # "r|": as a stream, since a file on S3 is read from its beginning to its end.
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
                # WebDataset reads suffixes in small letters.
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
        text = members["txt"].decode("utf-8-sig") if field is None else get_field(facts, field, str, name, key)
    except UnicodeDecodeError as error:
        raise BadRecord(name, key, f"text cannot be decoded ({error})") from None
    if not text.strip():
        raise BadRecord(name, key, f"{field or 'caption'} is empty")
    return unmarked(text, name, key).strip()


def check_image_hash(name: object, key: str, image: bytes, sha256: object) -> None:
    """Raises BadRecord for an image of other bytes than its sidecar says."""
    if sha256 != hashlib.sha256(image).hexdigest():
        raise BadRecord(name, key, "image does not have the sha256 of its .json")
