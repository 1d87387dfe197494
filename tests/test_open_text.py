"""Text is read in one way wherever it is read: byte order marks, compression, JSON lines and lists."""

import codecs
import gzip
import io
import json
from pathlib import Path

import official
import pytest
import zstandard
from official import picture

from pipeline.data.formats import open_text
from pipeline.data.formats.conversations import read_conversations
from pipeline.data.formats.documents import documents, read_choices, read_documents
from pipeline.data.formats.open_text import json_records, load_json
from pipeline.data.formats.question_files import read_questions
from pipeline.data.formats.tars import read_captions
from pipeline.data.records import BadRecord
from pipeline.evaluation.benchmarks import read_benchmark

PACKED = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress, ".zstd": zstandard.compress}
TURNS = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "A cat."}]
VQA_ANSWERS = [{"answer": "yes"}] * 10


def lines(records: list) -> bytes:
    return "".join(json.dumps(record) + "\r\n" for record in records).encode()


def one_list(records: list) -> bytes:
    return json.dumps(records, indent=1).encode()


def pope(folder: Path, name: str) -> list:
    files = dict.fromkeys(("random", "popular", "adversarial"), name)
    return [q.text for q in read_questions("pope", folder, images=folder, files=files)][::3]


READERS = {  # records, and what is read of a file of them
    "documents": ([{"text": "one"}, {"text": "two"}], lambda f, name: [d.text for d in read_documents(f / name)]),
    "choices": (
        [{"id": n, "context": "c", "choices": [" x", " y"], "gold": 1} for n in "ab"],
        lambda f, name: [item.id for item in read_choices(f / name, "t")],
    ),
    "conversations": (
        [{"id": n, "conversations": TURNS} for n in "ab"],
        lambda f, name: [one.id for one in read_conversations(f / name, f)],
    ),
    "pope": (
        [{"question_id": n, "image": "1.jpg", "text": f"Is there {n}?", "label": "yes"} for n in (1, 2)],
        lambda f, name: pope(f, name)[:1],
    ),
    "vizwiz": (
        [{"image": "1.jpg", "answerable": 1, "question": "what?", "answers": VQA_ANSWERS}],
        lambda f, name: [q.text for q in read_questions("vizwiz", f, images=f, files={"questions": name})],
    ),
    "benchmark": (
        [{"goal": f"g{n}", "sol1": "a", "sol2": "b", "label": 1} for n in (1, 2)],
        lambda f, name: [item.context for item in read_benchmark("piqa", f, "piqa", name)],
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_reads_every_form(tmp_path, reader):
    (tmp_path / "1.jpg").write_bytes(picture(1))
    records, read = READERS[reader]
    read_of = []
    for suffix, pack in PACKED.items():
        for kind, content in ((".jsonl", lines(records)), (".json", lines(records)), (".json", one_list(records))):
            for mark in (b"", codecs.BOM_UTF8):
                name = f"x{kind}{suffix}"
                (tmp_path / name).write_bytes(pack(mark + content))
                read_of.append(read(tmp_path, name))
    assert len(read_of) == 24 and read_of[0] and all(found == read_of[0] for found in read_of)


def test_files_that_are_one_object_and_captions_are_read_in_the_same_way(tmp_path):
    official.vqav2(tmp_path)
    files = {
        "questions": "v2_OpenEnded_mscoco_val2014_questions.json",
        "annotations": "v2_mscoco_val2014_annotations.json",
    }
    options = {"images": tmp_path / "val2014", "image_name": "COCO_val2014_{:012d}.jpg"}
    before = list(read_questions("vqav2", tmp_path, files=files, **options))
    for role, name in files.items():
        (tmp_path / f"{role}.json.gz").write_bytes(gzip.compress(codecs.BOM_UTF8 + (tmp_path / name).read_bytes()))
    packed = {role: f"{role}.json.gz" for role in files}
    assert list(read_questions("vqav2", tmp_path, files=packed, **options)) == before
    (tmp_path / "whole.json").write_bytes(codecs.BOM_UTF8 + b'{"a": 1}')
    assert load_json(tmp_path / "whole.json") == {"a": 1}
    sample = {"__key__": "a", "jpg": picture(1), "txt": codecs.BOM_UTF8 + b"a hat", "json": codecs.BOM_UTF8 + b"{}"}
    official.tar(tmp_path / "0.tar", [sample])
    assert [caption.text for caption in read_captions(tmp_path)] == ["a hat"]


# --- what is damaged --------------------------------------------------------------------------------------------------

PLAIN = lines([{"text": "x" * 50_000}, {"text": "y"}])


@pytest.mark.parametrize(
    ("name", "content", "texts", "reason"),
    [
        ("a.jsonl.gz", gzip.compress(PLAIN) + gzip.compress(PLAIN), 4, None),  # several members
        ("a.jsonl.gz", gzip.compress(PLAIN)[:-9], 2, "ends in the middle of gzipped data"),
        ("a.jsonl.gz", b"", 0, "ends in the middle of gzipped data"),
        ("a.jsonl.gz", PLAIN, 0, "is not readable gzip"),
        (
            "a.json.zstd",
            zstandard.compress(PLAIN) + zstandard.compress(PLAIN)[:-3],
            2,
            "ends in the middle of a zstandard frame",
        ),
        ("a.json", one_list([{"text": "a"}, {"text": "b"}])[:-3], 1, "is not JSON"),
        ("a.json", b'[{"text": "a"}, {"text": "\xff"}]', 0, "is not JSON"),
        ("a.json", b"", 0, "is not JSON (it is empty)"),
        ("a.json", b'[{"text": "a", "text": "b"}]', 0, "'text' occurs twice"),
        ("a.jsonl", b'[{"text": "a"}]\n{"text": "b"}', 1, "is not an object"),
    ],
)
def test_damage_is_one_bad_record_and_what_is_whole_is_read(name, content, texts, reason):
    found = list(documents(io.BytesIO(content), name))
    bad = [one for one in found if isinstance(one, BadRecord)]
    assert len(found) - len(bad) == texts and len(bad) == (reason is not None)
    assert not bad or reason in bad[0].reason
    # What is counted by its bytes is all but a single record that is wrong.
    assert not bad or (bad[0].broken_at is None) == (reason == "is not an object" or "empty" in reason)


def frame(data: bytes, window: int) -> bytes:
    """A zstandard frame that may look back 2**window bytes, with one block of bytes as they are."""
    return b"\x28\xb5\x2f\xfd\0" + bytes([window - 10 << 3]) + (1 | len(data) << 3).to_bytes(3, "little") + data


def test_zstandard_with_a_long_window_is_read_up_to_what_is_said(tmp_path):
    for window in (27, 28, 30):
        (found,) = documents(io.BytesIO(frame(b'{"text": "a"}', window)), "a.jsonl.zst")
        assert found.text == "a"
    (bad,) = documents(io.BytesIO(frame(b'{"text": "a"}', 31)), "a.jsonl.zst")
    assert "a window of more than 1,024 MB (zstd --long); unpack it with `zstd -d --long=31`" in bad.reason


def test_memory_of_a_file_that_is_one_value_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(open_text, "LARGEST_FILE", 1000)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b" " * 5_000_000 + b"{}"))
    with pytest.raises(BadRecord, match="holds more than 1,000 bytes"):
        load_json(tmp_path / "a.json.gz")


def test_lines_are_numbered_from_one_and_items_from_nought():
    assert [number for number, _ in json_records(io.BytesIO(b"\n{}\n\n{}"), "a.json")] == [2, 4]
    assert [number for number, _ in json_records(io.BytesIO(b"\n[{},\n{}]"), "a.json")] == [0, 1]
