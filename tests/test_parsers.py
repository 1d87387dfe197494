"""What reads others' files gives records or one line that names them, whatever the bytes: never another error."""

import contextlib
import copy
import gzip
import io
import json
import multiprocessing
import pickle
import resource
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import official
import pytest
import torch
import yaml
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save
from test_benchmarks import RECORDS
from test_benchmarks import write as write_benchmark

from pipeline.common.files import path_fault
from pipeline.common.images import undecodable
from pipeline.common.json_text import parse_json
from pipeline.common.squares import Square
from pipeline.data.corpora.list_files import dclm_counts, img2dataset_counts
from pipeline.data.corpora.samples import conversations
from pipeline.data.corpora.synthetic_captions import synthetic
from pipeline.data.corpora.units import Unit
from pipeline.data.formats import tars
from pipeline.data.formats.conversations import read_conversations
from pipeline.data.formats.documents import documents, read_choices, token_lists
from pipeline.data.formats.open_text import json_records
from pipeline.data.formats.question_files import BadRecord, read_questions
from pipeline.data.records import Caption, Conversation, Document, MultipleChoice, Question, strict
from pipeline.data.tokenizer import load_tokenizer, train_tokenizer
from pipeline.evaluation.benchmarks import BENCHMARKS, read_benchmark
from pipeline.model.huggingface import build_decoder
from pipeline.settings.errors import ConfigError
from pipeline.settings.types import ModelSize
from pipeline.settings.yaml_file import load_yaml
from pipeline.store import artifacts
from pipeline.training.checkpoints import check_huggingface_config, read_weights

many = settings(max_examples=60, deadline=None, database=None, derandomize=True)

# --- what is fed ------------------------------------------------------------------------------------------------------

# Halves of surrogate pairs, NUL, line breaks of all kinds, and what looks like a path or an address.
odd = st.sampled_from(
    ["\ud800", "a\udcff", "\0", "a\nb", "\u2028", "\x1b[2J", "../x", "/etc/passwd", "a::b", "s3://b", "."]
)
text = st.one_of(st.text(max_size=8), odd, st.just("x" * 300))
number = st.one_of(
    st.integers(-3, 30), st.floats(), st.sampled_from([10**30, -(10**400), 10**4200, 2**63, 1e308, -0.0])
)
scalar = st.one_of(st.none(), st.booleans(), number, text)
anything = st.recursive(
    scalar,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(text, inner, max_size=4)),
    max_leaves=8,
)
DEEP = "[" * 5000
raw = st.one_of(
    st.binary(max_size=60),
    anything.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(
        [DEEP.encode(), b'{"a":' * 5000, b'{"id": 1, "id": 2}', b'{"text": "\xff"}', b"9" * 5000, b"\xef\xbb\xbf{}"]
    ),
)


def places(value: object, here: tuple = ()) -> Iterator[tuple]:
    """The way to every part of a JSON value."""
    yield here
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*here, key))


@st.composite
def changed(draw, value: object) -> object:
    """A JSON value of which one part is another one, or gone."""
    made = copy.deepcopy(value)
    *way, last = draw(st.sampled_from([place for place in places(value) if place]))
    holder = made
    for key in way:
        holder = holder[key]
    if draw(st.booleans()):
        holder[last] = draw(anything)
    elif isinstance(holder, list):
        holder.insert(last, draw(anything))
    else:
        del holder[last]
    return made


@st.composite
def spoilt(draw, data: bytes) -> bytes:
    """Bytes that are cut off, or of which some are others."""
    if draw(st.booleans()):
        return data[: draw(st.integers(0, len(data)))]
    made, noise = bytearray(data), draw(st.binary(min_size=1, max_size=24))
    place = draw(st.integers(0, len(data) - 1))
    made[place : place + len(noise)] = noise
    return bytes(made)


# --- what must come of it ---------------------------------------------------------------------------------------------


def one_line(error: Exception, name: str) -> None:
    said = str(error)
    assert name in said and said.splitlines() == [said] and len(said) < 1500
    assert said.isprintable() and said.encode()


def read(found: Callable[[], Iterable], name: str, kind: type) -> list:
    """What is read, or what is said of it: every single thing a record whose texts any file can hold, or one line."""
    made = []
    try:
        for one in found():
            if isinstance(one, BadRecord):
                one_line(one, name)
                continue
            assert isinstance(one, kind)
            json.dumps(vars(one), default=repr, ensure_ascii=False).encode()
            made.append(one)
    except ValueError as error:
        one_line(error, name)
    return made


@pytest.fixture(scope="module")
def tmp(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("parsers")


# --- text -------------------------------------------------------------------------------------------------------------

LINES = [json.dumps({"text": official.prose(n), "metadata": {"id": n}}).encode() for n in range(3)]


@many
@given(st.lists(st.one_of(raw, st.sampled_from(LINES)), max_size=5))
def test_documents(lines):
    found = read(lambda: documents(io.BytesIO(b"\n".join(lines)), "a.jsonl"), "a.jsonl", Document)
    assert len(found) >= sum(line in LINES for line in lines)


@many
@given(st.data())
def test_compressed_documents(data):
    packed = zstandard.compress(b"\n".join(LINES)) + zstandard.compress(b"\n" + LINES[0])
    read(lambda: documents(io.BytesIO(data.draw(spoilt(packed))), "a.jsonl.zst"), "a.jsonl.zst", Document)


@many
@given(changed({"id": "a", "context": "c", "choices": [" x", " y"], "gold": 1}))
def test_choices(tmp, record):
    (tmp / "copa.jsonl").write_text(json.dumps(record))
    read(lambda: read_choices(tmp / "copa.jsonl", "copa"), "copa.jsonl: record ", MultipleChoice)


@many
@given(st.one_of(raw, st.lists(number, max_size=4).map(lambda ids: json.dumps(ids).encode())), st.booleans(), st.data())
def test_token_lists(content, whole, data):
    packed = gzip.compress(content, mtime=0)
    file = tar(
        [("7-1.json.gz", packed if whole else data.draw(spoilt(packed))), ("7-2.json.gz", gzip.compress(b"[5, 6]"))]
    )
    found = read(lambda: map(as_record, token_lists(io.BytesIO(file), "0.tar", 2, np.ones(9, bool))), "0.tar", Caption)
    assert [one.text for one in found][-1:] == ["[5, 6]"]


def as_record(found: np.ndarray | BadRecord) -> Caption | BadRecord:
    return found if isinstance(found, BadRecord) else Caption("-", b"", str(found.tolist()))


# --- tars -------------------------------------------------------------------------------------------------------------


def tar(members: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as opened:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            opened.addfile(member, io.BytesIO(data))
    return file.getvalue()


IMAGE = official.picture(1)
SIDECAR = {"uid": official.uid(1), "sha256": official.sha256(IMAGE), "caption": "a cat"}
GOOD = [("000/b.jpg", IMAGE), ("000/b.txt", b"a dog"), ("000/b.json", json.dumps(SIDECAR).encode())]
names = st.sampled_from(
    ["a.jpg", "a.txt", "a.json", "../a.jpg", "/a.txt", "a", ".jpg", "é/a.jpg", "\udcff.txt", "x" * 300]
)


def captions(data: bytes, field: str | None = None) -> list:
    return read(lambda: tars.captions(io.BytesIO(data), "0.tar", True, field), "0.tar", Caption)


@many
@given(st.lists(st.tuples(names, st.one_of(raw, st.just(IMAGE))), max_size=5))
def test_captions_of_any_members(members):
    captions(tar(members))
    (good,) = captions(tar(GOOD))
    assert good.text == "a dog"


@many
@given(st.data(), st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]))
def test_captions_of_spoilt_tars(data, format):
    members = [*GOOD, ("x" * 90 + "/" + "y" * 90 + ".txt", b"z")]
    captions(data.draw(spoilt(tar(members, format))))


@many
@given(changed(SIDECAR), st.sampled_from([None, "caption"]))
def test_captions_of_any_sidecar(sidecar, field):
    captions(tar([*GOOD[:2], ("000/b.json", json.dumps(sidecar).encode())]), field)


@many
@given(changed({"syn": {"syn_text": ["a", "b"]}, "json": SIDECAR}))
def test_synthetic_captions(tmp, record):
    parts = {"syn": "syn.json", "json": "json"}
    members = [(f"a.{parts[key]}", json.dumps(record[key]).encode()) for key in parts if key in record]
    data = tar([*members, ("b.npz", b"x")])
    (tmp / "dr.tar").write_bytes(data)
    rows, bad, records = synthetic(Unit("dr", "dr.tar", str(tmp / "dr.tar"), len(data), official.sha256(data)))
    for error in bad:
        one_line(error, "dr.tar: record ")
    for row in rows:
        json.dumps(row, ensure_ascii=False).encode()
    assert len(rows) + len(bad) == records


# --- instructions -----------------------------------------------------------------------------------------------------

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]


@pytest.fixture(scope="module")
def llava(tmp) -> Path:
    (tmp / "llava/coco").mkdir(parents=True)
    (tmp / "llava/coco/1.jpg").write_bytes(IMAGE)
    return tmp / "llava"


@many
@given(changed([{"id": "1", "image": "coco/1.jpg", "conversations": TURNS}, {"id": 2, "conversations": TURNS}]))
def test_conversations(llava, records):
    (llava / "all.json").write_text(json.dumps(records))
    read(lambda: read_conversations(llava / "all.json", llava), "all.json: record ", Conversation)
    corpus = {"file": "all.json", "images": ".", "without_image": "keep"}
    work = SimpleNamespace(corpora={"llava": corpus}, places={"llava": str(llava)})
    lines = io.StringIO("".join(json.dumps(item) + "\n" for item in enumerate(records)))
    read(lambda: conversations(work, Unit("llava", "-", "-", 0, None), lines, None), "all.json: record ", Conversation)


@many
@given(st.one_of(raw, spoilt(json.dumps([TURNS, 1.5, "x"]).encode())))
def test_json_lists_of_any_bytes(content):
    with contextlib.suppress(BadRecord):
        list(strict(value for _, value in json_records(io.BytesIO(content), "all.json")))


@many
@given(raw)
def test_json_of_any_bytes_has_one_meaning_or_one_line(content):
    try:
        value = parse_json(content)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1
    else:
        json.dumps(value, ensure_ascii=False).encode()


@many
@given(text)
def test_names_that_are_paths_stay_in_their_folder(tmp, name):
    if path_fault(name) is None:
        assert (tmp / name).resolve().is_relative_to(tmp.resolve())
        assert "://" not in name and "::" not in name


# --- benchmarks -------------------------------------------------------------------------------------------------------

FILES = {
    "vqav2": ("vqav2", {"questions": "v2_OpenEnded_mscoco_val2014_questions.json", "annotations": "v2_mscoco_val2014_annotations.json"}, "val2014", "COCO_val2014_{:012d}.jpg"),
    "gqa": ("gqa", {"questions": "testdev_balanced_questions.json"}, "images", None),
    "vizwiz": ("vizwiz", {"questions": "val.json"}, "val", None),
    "textvqa": ("textvqa", {"questions": "TextVQA_0.5.1_val.json"}, "train_images", None),
    "refcoco": ("refcoco", {"instances": "instances.json", "refs": "refs.json"}, "train2014", None),
    "ocid_ref": ("ocid", {"expressions": "val_expressions.json"}, "OCID-dataset", None),
    "coco_captions": ("coco_captions", {"captions": "captions_val2014.json"}, "val2014", None),
    "pope": ("pope", {kind: f"coco_pope_{kind}.json" for kind in ("random", "popular", "adversarial")}, "val2014", None),
}  # fmt: skip


@pytest.fixture(scope="module")
def benchmarks(tmp) -> Path:
    for name, write in official.BENCHMARKS.items():
        write(tmp / name)
    official.coco_captions(tmp / "coco_captions")
    refs = official.refcoco(tmp / "refcoco")
    (tmp / "refcoco/refs.json").write_text(json.dumps(refs))
    return tmp


@pytest.mark.parametrize("name", FILES)
@many
@given(st.data())
def test_questions(benchmarks, name, data):
    format, files, images, pattern = FILES[name]
    folder, options = benchmarks / name, {"images": benchmarks / name / images, "image_name": pattern}
    file = folder / data.draw(st.sampled_from(sorted(files.values())))
    before = file.read_text()
    if name == "pope":
        lines = [json.loads(line) for line in before.splitlines()]
        after = "\n".join(map(json.dumps, data.draw(changed(lines)))).encode()
    else:
        after = json.dumps(data.draw(changed(json.loads(before)))).encode()
    if data.draw(st.integers(0, 3)) == 0:
        after = data.draw(st.one_of(raw, spoilt(after)))
    file.write_bytes(after)
    try:
        read(lambda: read_questions(format, folder, files=files, **options), str(folder), Question)
    finally:
        file.write_text(before)


@many
@given(st.data())
def test_refs_of_any_pickle(benchmarks, data):
    folder, protocol = benchmarks / "refcoco", data.draw(st.integers(0, 5))
    refs = json.loads((folder / "refs.json").read_text())
    packed = pickle.dumps(data.draw(changed(refs)), protocol)
    (folder / "any.p").write_bytes(data.draw(st.one_of(st.just(packed), spoilt(packed), st.binary(max_size=40))))
    options = {"images": folder / "train2014", "files": {"refs": "any.p"}}
    read(lambda: read_questions("refcoco", folder, **options), str(folder), Question)


@pytest.mark.parametrize("name", BENCHMARKS)
@many
@given(st.data())
def test_text_benchmarks(tmp, name, data):
    folder = tmp / f"text-{name}"
    folder.mkdir(exist_ok=True)
    records = data.draw(changed(RECORDS[name]))
    content = "\n".join(map(json.dumps, records)) if data.draw(st.booleans()) else json.dumps(records)
    data_bytes = (
        content.encode() if data.draw(st.integers(0, 3)) else data.draw(st.one_of(raw, spoilt(content.encode())))
    )
    (folder / f"{BENCHMARKS[name].split}.json").write_bytes(data_bytes)
    read(lambda: read_benchmark(name, folder, name), f"text-{name}", MultipleChoice)


@pytest.mark.parametrize("name", ["hellaswag", "piqa", "pubmedqa"])
@many
@given(st.data())
def test_damaged_parquet(tmp, name, data):
    pytest.importorskip("pyarrow", reason="comes with the dependency group lm-eval")
    file = write_benchmark(tmp / f"parquet-{name}", name, RECORDS[name], ".parquet")
    file.write_bytes(data.draw(st.one_of(raw, spoilt(file.read_bytes()))))
    read(lambda: read_benchmark(name, file.parent, name), f"parquet-{name}", MultipleChoice)


# --- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@many
@given(st.data())
def test_images(format, data):
    fault = undecodable(data.draw(spoilt(official.picture(1, format=format))))
    assert fault is None or fault.startswith(("image ", "not a JPEG"))


@pytest.fixture(scope="module")
def tokenizer(tmp) -> dict:
    train_tokenizer(map(official.prose, range(20)), 300, tmp / "tokenizer.json")
    return json.loads((tmp / "tokenizer.json").read_text())


@many
@given(st.data())
def test_tokenizers(tmp, tokenizer, data):
    (tmp / "other.json").write_text(json.dumps(data.draw(changed(tokenizer))))
    with contextlib.suppress(ValueError):
        load_tokenizer(tmp / "other.json").encode("a cat")


@many
@given(anything)
def test_sidecars_of_tars(tmp, value):
    (tmp / "manifest.jsonl").write_text(json.dumps(value))
    (tmp / "0_stats.json").write_text(json.dumps(value))
    for counts in (dclm_counts, img2dataset_counts):
        try:
            counts(str(tmp), ["0.tar"])
        except ValueError as error:
            one_line(error, str(tmp))


@many
@given(changed({"card": "0123456789abcdef", "files": {"rows.csv": {"bytes": 2, "sha256": "0" * 64}}}))
def test_lists_of_files(tmp, manifest):
    folder = tmp / "artifacts/finetune/x"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "files.json").write_text(json.dumps(manifest))
    fault = artifacts.find_fault(tmp, "artifacts/finetune/x", "artifacts/finetune/x/files.json", "0123456789abcdef")
    assert fault is None or "\n" not in fault


@settings(many, max_examples=20)
@given(st.one_of(raw, anything.map(lambda value: yaml.safe_dump(value, allow_unicode=True).encode(errors="replace"))))
def test_settings_of_any_bytes(tmp, content):
    (tmp / "any.yaml").write_bytes(content)
    try:
        assert isinstance(load_yaml(tmp / "any.yaml", tmp), dict)
    except ConfigError as error:
        one_line(error, "any.yaml")


# --- checkpoints ------------------------------------------------------------------------------------------------------

SIZE = ModelSize(vocabulary=300, layers=1, heads=2, width=8, sequence=16)


@pytest.fixture(scope="module")
def checkpoint() -> tuple[torch.nn.Module, bytes, bytes]:
    """A decoder, and its weights as OpenLM has them: as safetensors, and as a torch file."""
    decoder, file = build_decoder(SIZE), io.BytesIO()
    others = {"embedding.weight": "tok_embeddings.weight", "head.weight": "output.weight"}
    tensors = {others.get(name, name): tensor for name, tensor in decoder.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": tensors}, file)
    return decoder, save(tensors), file.getvalue()


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@many
@given(st.data())
def test_checkpoints(tmp, checkpoint, suffix, data):
    decoder, *stored = checkpoint
    content = stored[suffix == "pt"]
    read_weights("openlm", write(tmp / f"whole.{suffix}", content), decoder, SIZE)
    # Where the names and shapes are; what is further back are numbers.
    head = (
        data.draw(spoilt(content[:1200])) + content[1200:] if data.draw(st.booleans()) else data.draw(spoilt(content))
    )
    try:
        read_weights("openlm", write(tmp / f"spoilt.{suffix}", head), decoder, SIZE)
    except ValueError as error:
        one_line(error, f"spoilt.{suffix}")


def write(file: Path, content: bytes) -> Path:
    file.unlink(missing_ok=True)  # the one before may still be mapped into memory
    file.write_bytes(content)
    return file


CONFIG = {"model_type": "gpt_neox", "hidden_size": 8, "num_hidden_layers": 1, "rope_scaling": None, "rotary_pct": 0.25}


@many
@given(st.one_of(changed(CONFIG), st.dictionaries(st.sampled_from(["torch_dtype", *CONFIG]), anything)))
def test_configs_of_checkpoints(tmp, config):
    (tmp / "config.json").write_text(json.dumps(config))
    size = SIZE.model_copy(update={"family": "gpt_neox", "config": {}})
    with pytest.raises(ValueError) as caught:  # no sizes fit these
        check_huggingface_config(tmp / "config.json", size)
    one_line(caught.value, "config.json: ")


# --- memory: what is small and would be large; it is made, and then read with little room -------------------------------

ROOM = 400 << 20  # bytes beyond what this process has


def packed_zst(data: bytes, times: int) -> bytes:
    packer = zstandard.ZstdCompressor().compressobj()
    return b"".join(packer.compress(data) for _ in range(times)) + packer.flush()


def long_line() -> Callable[[], None]:
    packed = packed_zst(b"x" * (1 << 20), 600)

    def read() -> None:
        (bad,) = documents(io.BytesIO(packed), "a.jsonl.zst")
        assert isinstance(bad, BadRecord) and "is longer than" in bad.reason

    return read


def long_list() -> Callable[[], None]:
    packer = zlib.compressobj(1, wbits=31)
    ids = b"".join(packer.compress(b"1," * (1 << 19)) for _ in range(600)) + packer.flush()
    file = tar([("a.json.gz", ids)])

    def read() -> None:
        (bad,) = token_lists(io.BytesIO(file), "0.tar", 9, np.ones(9, bool))
        assert "longer than" in bad.reason

    return read


def long_item() -> Callable[[], None]:
    content = io.BytesIO(b'["' + b"x" * (1 << 28))

    def read() -> None:
        with pytest.raises(BadRecord, match="record 0: is not JSON"):
            list(strict(value for _, value in json_records(content, "all.json")))

    return read


def large_memo() -> Callable[[], None]:
    folder = Path(tempfile.mkdtemp())
    official.refcoco(folder)
    (folder / "any.p").write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")

    def read() -> None:
        assert list(read_questions("refcoco", folder, images=folder, files={"refs": "any.p"})) == []

    return read


def large_image() -> Callable[[], None]:
    data = official.large_png(20_000)

    def read() -> None:
        assert undecodable(data) == "image cannot be decoded (DecompressionBombError)"

    return read


def long_strip() -> Callable[[], None]:
    image = Image.new("RGB", (65_000, 1))

    def read() -> None:
        assert Square(32, "letterbox").of(image).size == (32, 32)

    return read


def aliases() -> Callable[[], None]:
    folder = Path(tempfile.mkdtemp())
    lines = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    (folder / "any.yaml").write_text("a0: &a0 [x]\n" + lines)

    def read() -> None:
        with pytest.raises(ConfigError, match="aliases"):
            load_yaml(folder / "any.yaml", folder)

    return read


BOMBS = [long_line, long_list, long_item, large_memo, large_image, long_strip, aliases]


def with_little_room(read: Callable[[], None]) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    read()


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.__name__)
def test_memory_is_bounded(bomb):
    process = multiprocessing.get_context("fork").Process(target=with_little_room, args=(bomb(),))
    process.start()
    process.join()
    assert process.exitcode == 0
