"""Real corpora: from files in the official formats to MDS, training batches and questions; and what damaged ones get.

The files are written by tests/official.py, which shares no code with the readers.
"""

import contextlib
import gzip
import importlib.util
import io
import json
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import official
import psutil
import pytest
import torch
import yaml
import zstandard
from conftest import SCALE, SOURCE, Project
from faults.holding import is_gone, wait
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from official import picture, prose, sha256, uid

from pipeline.common.files import folder_hashes, read_json
from pipeline.common.images import undecodable
from pipeline.common.squares import Square
from pipeline.data.corpora import convert
from pipeline.data.corpora.list_files import left_out_of
from pipeline.data.english.corpus import data_folder
from pipeline.data.formats import open_text, question_files
from pipeline.data.formats.documents import read_choices, read_documents
from pipeline.data.formats.documents import token_lists as read_token_lists
from pipeline.data.formats.question_files import BadRecord
from pipeline.data.questions import read_splits, read_task, read_turns
from pipeline.data.records import Use
from pipeline.data.store import is_padding, verify_shards
from pipeline.data.tokenizer import load_tokenizer, train_tokenizer
from pipeline.engines.workflow import Workflow
from pipeline.execution.run import run_job
from pipeline.model.vlm import IGNORE
from pipeline.settings.errors import ConfigError
from pipeline.store.foreign_files import check_foreign, check_paths
from pipeline.study.job import Job
from pipeline.training.batches import Collate, OrderedDataset

DATA, TASKS, SEQUENCE, PATCHES = "configs/data/real.yaml", "configs/tasks/real.yaml", 64, 16
PAPER = yaml.safe_load((SOURCE / "configs/data/paper.yaml").read_text())
BENCHMARKS = PAPER["source"]["evaluation"]["test"]
FORMATS = {name: benchmark["format"] for name, benchmark in BENCHMARKS.items()}
FOLDERS = {name: benchmark["path"] for name, benchmark in BENCHMARKS.items()}
CAPTIONS = {"format": "img2dataset", "path": "cc12m", "revision": "1", "licence": "own", "verify": True}


@pytest.fixture
def real(project, monkeypatch) -> Project:
    """A project of real corpora, of which none is there yet but the tokenizer; jobs run in its folder."""
    monkeypatch.chdir(project.root)
    source = PAPER["source"] | {"root": "corpora", "workers": 1, "bad_records": 0.05, "tokenizer": "tokenizer.json"}
    source["captions"] = {"full": CAPTIONS}
    source["choices"] = None
    tasks = yaml.safe_load((SOURCE / "configs/tasks/scenes.yaml").read_text())
    tasks["vision"] = {
        name: {
            "format": FORMATS[name],
            "prompt": "{question}",
            "scorer": "vqa",
            "chance": 0.0,
            "stable": True,
            "longest": 8,
        }
        for name in official.BENCHMARKS
    }
    project.write(DATA, yaml.safe_dump(PAPER | {"source": source}))
    project.write(TASKS, yaml.safe_dump(tasks))
    project.set("params.yaml", "data", "real")
    project.set("params.yaml", "tasks", "real")
    project.set(SCALE, "data", None)
    (project.root / "corpora").mkdir()
    train_tokenizer(map(prose, range(20)), 300, project.root / "corpora/tokenizer.json")
    return project


@pytest.fixture
def corpora(real) -> Path:
    return real.root / "corpora"


def change(project: Project, **settings) -> None:
    """Settings of the source, by name or path."""
    for key, value in settings.items():
        project.set(DATA, f"source.{key.replace('__', '.')}", value)


def job_of(project: Project, phase: str, part: str) -> Job:
    return next(job for job in project.ledger().jobs if job.phase == phase and job.card_settings.get("part") == part)


def make(project: Project, job: Job) -> str:
    """Carry out a job and those before it; returns what its errors say."""
    ledger = project.ledger()
    ledger.write_jobs()
    for parent in job.parents.values():
        if not ledger.is_current(parent) and (said := make(project, parent)):
            return said
    with contextlib.redirect_stderr(io.StringIO()) as screen:
        code = run_job(ledger.job_file(job), None)
    return screen.getvalue() if code else ""


def made(project: Project, part: str) -> tuple[Path, dict]:
    """The folder of a part's shards, newly made, and what was counted of it."""
    job = job_of(project, "shards", part)
    assert make(project, job) == ""
    return project.root / job.folder, read_json(project.root / job.folder / "measured.json")


def refused(project: Project, phase: str, part: str) -> str:
    """The one line that a part's job ends with."""
    said = [line for line in make(project, job_of(project, phase, part)).splitlines() if line.startswith(f"{phase} ")]
    assert len(said) == 1
    return said[0]


def batches(folders: dict[str, Path], counts: dict[str, int], batch: int = 2) -> list[dict]:
    dataset = OrderedDataset(folders, counts, seed=3, batch=batch)
    collate = Collate(PATCHES, None, pixels=Square(32), blind=False)
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch, collate_fn=collate)
    return list(loader)


def quarantine(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]


def samples(folder: Path) -> list[dict]:
    """All samples of a folder of shards, in order."""
    from streaming import LocalDataset

    return list(LocalDataset(str(folder)))


# --- text -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def heldout(corpora) -> None:
    official.dclm_raw(corpora / "dclm-heldout", files=1, documents=400)


def test_raw_text_becomes_batches(real, corpora, heldout):
    texts = official.dclm_raw(corpora / "dclm-baseline-1.0")
    folder, measured = made(real, "text")
    tokenizer = load_tokenizer(corpora / "tokenizer.json")
    # Every file's whole sequences come first, then the ends of all of them together.
    wholes, rests = [], []
    for mine in texts:
        ids = [i for text in mine for i in [*tokenizer.encode(text), tokenizer.end]]
        whole = len(ids) // (SEQUENCE + 1) * (SEQUENCE + 1)
        wholes, rests = wholes + ids[:whole], rests + ids[whole:]
    left = len(rests) % (SEQUENCE + 1)
    found = [i for sample in samples(folder) for i in sample["tokens"].tolist()]
    assert found == wholes + rests[: len(rests) - left] and measured["unused_tokens"] == left
    assert measured["sequences"] == len(found) // (SEQUENCE + 1)
    (batch,) = batches({"text": folder}, {"text": 2})
    assert batch["tokens"].shape == (2, SEQUENCE) and batch["kinds"]["text"] == 2 * SEQUENCE
    assert (batch["targets"][:, :-1] == batch["tokens"][:, 1:]).all()
    assert measured["corpora"]["dclm"]["records"] == 36 and measured["corpora"]["dclm"].get("bad", 0) == 0


def test_a_source_lists_its_files_and_copies_none(real, corpora, heldout):
    official.dclm_raw(corpora / "dclm-baseline-1.0", files=2)
    job = job_of(real, "sources", "text")
    assert make(real, job) == ""
    folder = real.root / job.folder
    lines = [json.loads(line) for line in (folder / "files/dclm.jsonl").read_text().splitlines()]
    for line in lines:
        data = (corpora / "dclm-baseline-1.0" / line["file"]).read_bytes()
        assert line == {"file": line["file"], "bytes": len(data), "sha256": sha256(data)}
    assert len(lines) == 2
    listed = read_json(folder / "manifest.json")["corpora"]["dclm"]
    assert (listed["files"], listed["licence"]) == (2, "CC-BY-4.0")
    assert listed["digest"] == sha256((folder / "files/dclm.jsonl").read_bytes())
    assert str(real.root) not in "".join(p.read_text() for p in folder.rglob("*.json*") if p.suffix != ".zst")
    heldout_texts = [document.text for document in read_documents(folder / "text/heldout-00000.jsonl.zst")]
    assert heldout_texts == [prose(n) for n in range(300)]  # evaluation.heldout_documents of them


def test_another_list_than_expected_is_refused(real, corpora, heldout):
    official.dclm_raw(corpora / "dclm-baseline-1.0", files=2)
    change(real, text__dclm__file_count=3)
    assert "dclm: has 2 files, 3 are expected (file_count)" in refused(real, "sources", "text")
    change(real, text__dclm__file_count=2, text__dclm__digest="0" * 64)
    assert "dclm: the list of its files has the digest" in refused(real, "sources", "text")
    shutil.rmtree(corpora / "dclm-baseline-1.0")
    (corpora / "dclm-baseline-1.0").mkdir()
    assert "no .jsonl or .json (also with .gz, .zst, .zstd) file here" in refused(real, "sources", "text")


def test_files_of_text_in_every_form_are_listed_and_what_is_not_read_is_said(real, corpora, heldout, capfd):
    folder, text = corpora / "dclm-baseline-1.0", "".join(json.dumps({"text": prose(n)}) + "\n" for n in range(30))
    packed = {"a.jsonl.zst": zstandard.compress, "b.jsonl.gz": gzip.compress, "c.jsonl.zstd": zstandard.compress}
    packed |= {"d.json.gz": gzip.compress, "sub/e.json": bytes, "x.parquet": bytes, "y.parquet": bytes, "z.csv": bytes}
    for name, pack in (packed | {"._a.jsonl.zst": bytes}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(pack(text.encode()))
    _, measured = made(real, "text")
    assert measured["corpora"]["dclm"]["records"] == 150 and measured["corpora"]["dclm"].get("bad", 0) == 0
    source = read_json(real.root / job_of(real, "sources", "text").folder / "measured.json")["corpora"]["dclm"]
    assert (source["files"], source["not_read"]) == (5, {"._* of macOS": 1, ".csv": 1, ".parquet": 2})
    assert "dclm: 4 files are not read: 1 ._* of macOS, 1 .csv, 2 .parquet" in capfd.readouterr().out


def spoil_frame(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4:8] = b"\xff" * 4
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "reason", "bad"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "ends in the middle of a zstandard frame", 1),
        (spoil_frame, "is not readable zstandard", 1),
        (lambda path: lines(path, b'{"text": "a\n{"text": 3}\n[]\n{"body": "x"}\n{"text": ""}\n'), "is not JSON", 5),
        (lambda path: lines(path, b'{"text": "\xff\xfe"}\n'), "is not JSON", 1),
    ],
)
def test_damaged_text_is_quarantined_and_counted(real, corpora, heldout, spoil, reason, bad):
    official.dclm_raw(corpora / "dclm-baseline-1.0", files=4, documents=60)
    path = corpora / "dclm-baseline-1.0/global-shard_01_of_10/local-shard_1_of_10/shard_00000001_processed.jsonl.zst"
    spoil(path)
    change(real, bad_records=0.5)
    folder, measured = made(real, "text")
    found = quarantine(folder)
    assert measured["corpora"]["dclm"]["bad"] == len(found) == bad
    assert reason in found[0]["reason"] and found[0]["corpus"] == "dclm"
    assert found[0]["file"] == path.relative_to(corpora / "dclm-baseline-1.0").as_posix()
    assert measured["sequences"] > 0 and verify_shards(folder) == measured["sequences"]


def lines(path: Path, content: bytes) -> None:
    """Add lines to a file of documents."""
    whole = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
    path.write_bytes(zstandard.compress(whole + content))


def test_too_many_bad_records_stop_the_job_and_more_patience_lets_it_go_on(real, corpora, heldout):
    official.dclm_raw(corpora / "dclm-baseline-1.0", files=2, documents=20)
    path = sorted((corpora / "dclm-baseline-1.0").rglob("*.zst"))[0]
    lines(path, b"{}\n" * 10)
    said = refused(real, "shards", "text")
    assert re.search(r"dclm: 10 of \d+ records and 0 of [\d,]+ bytes cannot be read, allowed: 5.00%", said)
    assert "(source.bad_records); the first: global-shard_01_of_10/local-shard_0" in said
    assert "record 21: has no 'text'; all of them: .study/resume/" in said
    listed = Path(said.rsplit("all of them: ", 1)[1])
    assert len(listed.read_text().splitlines()) == 10
    change(real, bad_records=0.25)  # no new card: the work that is done is kept
    assert made(real, "text")[1]["corpora"]["dclm"]["bad"] == 10


def test_a_broken_end_counts_by_its_bytes(real, corpora, heldout):
    official.dclm_raw(corpora / "dclm-baseline-1.0", files=1, documents=2000)
    path = next((corpora / "dclm-baseline-1.0").rglob("*.zst"))
    data = bytearray(path.read_bytes())
    data[len(data) // 4 : len(data) // 4 + 64] = bytes(64)
    path.write_bytes(data)
    assert re.search(
        r"1 of [\d,]+ records and \d\d,\d+ of [\d,]+ bytes cannot be read", refused(real, "shards", "text")
    )


def token_lists(files: int, each: int) -> list[list[list[int]]]:
    rng = np.random.default_rng(0)
    return [[rng.integers(6, 262, SEQUENCE + 1).tolist() for _ in range(each)] for _ in range(files)]


def tokenized(project, corpora, sequences) -> Path:
    change(project, text={"dclm": PAPER["source"]["text"]["dclm"] | {"format": "dclm_tokenized", "path": "tokens"}})
    official.dclm_tokenized(corpora / "tokens", sequences)
    return corpora / "tokens"


def test_tokenized_text_becomes_batches(real, corpora, heldout):
    sequences = token_lists(2, 8)
    tokenized(real, corpora, sequences)
    folder, measured = made(real, "text")
    assert [s["tokens"].tolist() for s in samples(folder)] == [ids for mine in sequences for ids in mine]
    assert measured["sequences"] == 16 and measured["labels"] == 16 * SEQUENCE
    (batch,) = batches({"text": folder}, {"text": 2})
    assert batch["tokens"].tolist()[0] in [ids[:-1] for mine in sequences for ids in mine]


def test_padding_at_the_end_of_token_lists_is_masked_and_counted(real, corpora, heldout, capfd):
    """As DCLM fills up its last sequence: with ids that the tokenizer does not have."""
    sequences = token_lists(2, 8)
    sequences[0][2][40:], sequences[1][7][-1:] = [302] * (SEQUENCE - 39), [-1]
    tokenized(real, corpora, sequences)
    folder, measured = made(real, "text")
    mine = measured["corpora"]["dclm"]
    assert (mine["padding"], mine["padded_sequences"], mine.get("bad", 0)) == (26, 2, 0)
    assert measured["sequences"] == 16 and measured["labels"] == 16 * SEQUENCE - 26 == mine["labels"]
    assert "dclm: 2 sequences end in padding: 26 ids without loss" in capfd.readouterr().out
    kinds, tokens, targets = zip(
        *((b["kinds"], b["tokens"], b["targets"]) for b in batches({"text": folder}, {"text": 16}))
    )
    assert sum(kind["padding"] for kind in kinds) == 26 and sum(kind["labels"] for kind in kinds) == 16 * SEQUENCE - 26
    assert all(sum(kind[k] for k in ("text", "image", "image_text", "padding")) == kind["positions"] for kind in kinds)
    assert torch.cat(tokens).max() < 300 and (torch.cat(targets) == IGNORE).sum() == 26


def test_dclms_own_padding_is_known(tmp_path):
    """tokshuf fills up with 50256 for GPT-NeoX (its 50254 merged tokens and 2 more), which is also 22 blanks."""
    path = data_folder().parent / "tokenizers" / "allenai_gpt-neox-olmo-dolma-v1_5.json"
    uses = load_tokenizer(path).uses()
    text, length = [510, 5798, 0, 253], 8
    for pads, found in (([50256] * 4, 4), ([50279] * 4, 4), ([-1] * 4, 4), ([50277, 9, 9, 9], None), ([15, 50256], 0)):
        ids = (text * 2)[: length - len(pads)] + pads
        official.dclm_tokenized(tmp_path, [[ids]])
        with open(tmp_path / "00000000.tar", "rb") as file:
            (one,) = read_token_lists(file, "0.tar", length, uses)
        assert isinstance(one, BadRecord) if found is None else is_padding(one).sum() == found


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ([7] * SEQUENCE, f"has {SEQUENCE} tokens, not {SEQUENCE + 1}"),
        ([300] + [7] * SEQUENCE, "has the id 300, which is no token of text"),
        ([-1] + [7] * SEQUENCE, "has the id -1, which is no token of text"),
        ([7] * SEQUENCE + [1], "has the id 1, which is no token of text"),  # the image token
        ([7] * SEQUENCE + [7.5], "is not a list of whole numbers"),
        ({"tokens": [7]}, "is not a list of whole numbers"),
        ([300] * (SEQUENCE + 1), "is padding alone"),
    ],
)
def test_wrong_token_lists_are_quarantined(real, corpora, heldout, wrong, reason):
    sequences = token_lists(2, 20)
    sequences[1][3] = wrong
    tokenized(real, corpora, sequences)
    folder, measured = made(real, "text")
    assert quarantine(folder) == [{"corpus": "dclm", "file": "00000001.tar", "record": "1-3", "reason": reason}]
    assert measured["sequences"] == 39 and measured["corpora"]["dclm"]["records"] == 40


def test_token_tars_are_read_as_other_tars_are():
    def read(*names: str) -> tuple[list, Counter]:
        file, counts, data = io.BytesIO(), Counter(), gzip.compress(b"[7, 7]")
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        file.seek(0)
        found = list(read_token_lists(file, "a.tar", 2, np.full(9, Use.TEXT), counts=counts))
        return [one.reason if isinstance(one, BadRecord) else one.tolist() for one in found], counts

    assert read("./._0.json.gz", "./0.json.gz", "v1.0/0.json.gz") == ([[7, 7], [7, 7]], {"members_not_read": 1})
    ((reason,), _) = read("a.0.json.gz", "a.1.json.gz")
    assert reason.startswith("has no .json.gz: its members' names have dots (.0.json.gz, .1.json.gz)")


def test_damaged_token_tars(real, corpora, heldout):
    sequences = token_lists(2, 30)
    folder = tokenized(real, corpora, sequences)
    change(real, bad_records=0.9)
    data = (folder / "00000001.tar").read_bytes()
    (folder / "00000001.tar").write_bytes(data[: len(data) // 2])
    made_in, measured = made(real, "text")
    first, second = quarantine(made_in)
    assert "is not a readable tar" in first["reason"] and "its sidecar says 30" in second["reason"]
    lost = 60 - measured["sequences"]
    assert (
        10 < lost < 20 and measured["corpora"]["dclm"]["bad"] == lost and measured["corpora"]["dclm"]["records"] == 60
    )


def test_a_manifest_must_fit_its_tars(real, corpora, heldout):
    folder = tokenized(real, corpora, token_lists(2, 3))
    (folder / "00000001.tar").rename(folder / "00000009.tar")
    assert "manifest.jsonl: 00000001.tar is named but not there" in refused(real, "sources", "text")
    (folder / "manifest.jsonl").write_text("{}\n")
    assert "manifest.jsonl: line 1: no shard and num_sequences" in refused(real, "sources", "text")
    (folder / "manifest.jsonl").unlink()
    assert "manifest.jsonl: is not there" in refused(real, "sources", "text")


# --- captions ---------------------------------------------------------------------------------------------------------


def told(sample: dict, tokenizer) -> list[str]:
    """What a sample's segments say."""
    numbers = range(1, sample["segments"].max() + 1)
    return [tokenizer.decode(sample["tokens"][sample["segments"] == number].tolist()) for number in numbers]


def captions_of(folder: Path, corpora: Path) -> dict[str, str]:
    """Caption by the hash of the image that it is about."""
    tokenizer, found = load_tokenizer(corpora / "tokenizer.json"), {}
    for sample in samples(folder):
        texts = told(sample, tokenizer)
        assert len(texts) == len(sample["images"])
        found |= zip((entry["id"] for entry in sample["images"]), texts)
    return found


def test_captions_become_batches(real, corpora):
    official.img2dataset(corpora / "cc12m")
    folder, measured = made(real, "captions")
    assert captions_of(folder, corpora) == {sha256(picture(n)): prose(n, 5 + n % 7) for n in range(60)}
    assert measured["pieces"] == 60 and measured["corpora"]["full"]["verified_images"] == 60
    (batch,) = batches({"captions": folder}, {"captions": 2})
    assert batch["pixels"].shape[1:] == (3, 32, 32) and len(batch["pixels"]) == batch["kinds"]["images"] >= 2
    assert batch["kinds"]["image"] == PATCHES * batch["kinds"]["images"]


def rewrite(path: Path, change_sample, size: int = 20, first: int = 0) -> None:
    """Write an img2dataset tar again, its samples changed."""
    made = [official.img2dataset_sample(n, prose(n, 6), picture(n)) for n in range(first, first + size)]
    official.tar(path, change_sample(made))


def set_of(number: int, **values):
    def change_sample(made: list[dict]) -> list[dict]:
        made[number] |= values
        return made

    return change_sample


def without(number: int, key: str):
    def change_sample(made: list[dict]) -> list[dict]:
        del made[number][key]
        return made

    return change_sample


@pytest.mark.parametrize(
    ("change_sample", "reason"),
    [
        (set_of(5, jpg=picture(5)[:-300]), "image does not have the sha256 of its .json"),
        (set_of(5, jpg=picture(5)[:-300], json=b"{}"), "image cannot be decoded (OSError)"),
        (set_of(5, jpg=b"<html>"), "not a JPEG, PNG, WebP, GIF or BMP image"),
        (set_of(5, json=b"{"), "text cannot be decoded"),
        (set_of(5, txt=b"\xff"), "text cannot be decoded"),
        (set_of(5, txt=b" "), "caption is empty"),
        (without(5, "jpg"), "has no image"),
        (without(5, "txt"), "has no .txt"),
    ],
)
def test_bad_samples_are_quarantined(real, corpora, change_sample, reason):
    official.img2dataset(corpora / "cc12m", files=2)
    rewrite(corpora / "cc12m/00001.tar", change_sample, first=20)
    folder, measured = made(real, "captions")
    (line,) = quarantine(folder)
    assert line["file"] == "00001.tar" and line["reason"].startswith(reason)
    assert line["record"] in ("000000025", uid(25))
    assert measured["pieces"] == 39 and measured["corpora"]["full"]["bad"] == 1


def test_a_long_caption_loses_its_end(real, corpora):
    official.img2dataset(corpora / "cc12m", files=1)
    rewrite(corpora / "cc12m/00000.tar", set_of(3, txt=prose(3, 300).encode()))
    folder, measured = made(real, "captions")
    assert measured["corpora"]["full"]["cut"] == 1
    cut = captions_of(folder, corpora)[sha256(picture(3))]
    assert prose(3, 300).startswith(cut) and len(cut) > 50


def a_header(data: bytes) -> int:
    """The place where a member begins in the middle of a tar: at its header, or at the extended one before it."""
    places = range(len(data) // 2 // 512 * 512, len(data), 512)
    headers = [p for p in places if data[p + 257 : p + 262] == b"ustar"]
    return next((p for p in headers if data[p + 156 : p + 157] == b"x"), headers[0])


def damaged_header(data: bytes) -> bytes:
    return data[: a_header(data) + 148] + b"????????" + data[a_header(data) + 156 :]


def no_header(data: bytes) -> bytes:
    """Zeros in its place, which look like the tar's end."""
    return data[: a_header(data)] + bytes(512) + data[a_header(data) + 512 :]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data[: len(data) // 2], "is not a readable tar"),
        (lambda data: data[: 10 * 2048], "is not a readable tar"),
        (damaged_header, "is not a readable tar (a damaged header)"),
        (no_header, "is not a readable tar (a damaged header)"),
        (lambda data: b"no tar at all" * 100, "is not a readable tar"),
    ],
)
@pytest.mark.parametrize("stats", [True, False])
def test_damaged_tars_are_quarantined(real, corpora, spoil, reason, stats):
    official.img2dataset(corpora / "cc12m", files=2, stats=stats)
    path = corpora / "cc12m/00001.tar"
    path.write_bytes(spoil(path.read_bytes()))
    change(real, bad_records=0.9)
    folder, measured = made(real, "captions")
    counts, lines = measured["corpora"]["full"], quarantine(folder)
    assert lines[0]["reason"].startswith(reason) and lines[0]["file"] == "00001.tar"
    assert counts["broken_files"] == 1 and 20 <= measured["pieces"] < 40
    if stats:  # the sidecar says how many records were lost
        assert counts["bad"] == 40 - measured["pieces"] and counts["records"] == 40


def joined(project, corpora, verify: bool = True, captions=range(2, 34)) -> None:
    """60 images, synthetic captions for 32 (two of which have no image here)."""
    change(
        project,
        captions={
            "full": CAPTIONS
            | {"format": "datacompdr", "path": "dr", "verify": verify}
            | {"images": {"path": "images", "revision": "1", "licence": "own"}}
        },
    )
    official.datacompdr(corpora / "dr", captions)
    official.img2dataset(corpora / "images", files=2, samples=16)


def test_synthetic_captions_are_joined_by_uid(real, corpora, capfd):
    joined(real, corpora)
    folder, measured = made(real, "captions")
    found = captions_of(folder, corpora)
    assert set(found) == {sha256(picture(n)) for n in range(2, 32)}
    chosen = [re.fullmatch(r"synthetic (\d+) caption (\d)", found[sha256(picture(n))]) for n in range(2, 32)]
    assert [int(match[1]) for match in chosen] == list(range(2, 32))
    assert {match[2] for match in chosen} == set("01234")  # every one of the five is chosen for some
    counts = measured["corpora"]["full"]
    assert (counts["captions"], counts["missing_images"], counts["images_without_caption"]) == (32, 2, 2)
    assert counts["verified_images"] == 30 and counts.get("bad", 0) == 0
    assert "full: 2 of 32 captions have no image" in capfd.readouterr().out
    (batch,) = batches({"captions": folder}, {"captions": 2})
    assert batch["kinds"]["images"] >= 2


def test_the_choice_of_a_caption_depends_on_its_uid_alone(real, corpora):
    joined(real, corpora)
    first = captions_of(made(real, "captions")[0], corpora)
    shutil.rmtree(corpora / "dr")
    official.datacompdr(corpora / "dr", reversed(range(2, 34)), files=5)
    change(real, captions__full__revision="2")
    assert captions_of(made(real, "captions")[0], corpora) == first


def test_images_of_other_bytes_than_the_captions_were_made_for(real, corpora):
    joined(real, corpora)
    rewrite(corpora / "images/00000.tar", set_of(7, jpg=picture(900)), size=16)
    folder, measured = made(real, "captions")
    (line,) = quarantine(folder)
    assert (line["record"], line["reason"]) == ("000000007", "image does not have the sha256 of its .json")
    assert measured["corpora"]["full"]["missing_images"] == 2  # it is there, but bad
    change(real, captions__full__verify=False)
    folder, measured = made(real, "captions")
    assert quarantine(folder) == [] and sha256(picture(900)) in captions_of(folder, corpora)


@pytest.mark.parametrize(
    ("change_sample", "reason"),
    [
        (set_of(3, **{"syn.json": b"{"}), "text cannot be decoded"),
        (set_of(3, **{"syn.json": b'{"syn_text": []}'}), "has no syn_text"),
        (set_of(3, **{"syn.json": b'{"syn_text": [1, 2]}'}), "the caption of its syn_text that is chosen is no text"),
        (without(3, "syn.json"), "has no syn_text"),
    ],
)
def test_bad_synthetic_captions_are_quarantined(real, corpora, change_sample, reason):
    joined(real, corpora)
    plain = {"syn.json": b'{"syn_text": ["a"]}', "json": b"{}"}
    official.tar(corpora / "dr/00000007.tar", change_sample([{"__key__": uid(70 + n)} | plain for n in range(9)]))
    folder, measured = made(real, "captions")
    (line,) = quarantine(folder)
    assert (line["file"], line["record"]) == ("00000007.tar", uid(73)) and line["reason"].startswith(reason)
    assert measured["corpora"]["full"]["missing_images"] == 10


def test_a_cut_tar_of_synthetic_captions_is_quarantined(real, corpora):
    joined(real, corpora)
    path = corpora / "dr/00000001.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    change(real, bad_records=0.5)
    folder, measured = made(real, "captions")
    assert quarantine(folder)[0]["file"] == "00000001.tar"
    assert 0 < measured["corpora"]["full"]["images_without_caption"] < 30


def test_uids_that_do_not_match_are_refused_before_the_conversion(real, corpora, monkeypatch):
    joined(real, corpora)
    official.tar(
        corpora / "images/00000.tar", [official.img2dataset_sample(90 + n, "x", picture(n)) for n in range(16)]
    )
    official.tar(
        corpora / "images/00001.tar", [{"__key__": f"k{n}", "jpg": picture(n), "json": b"{}"} for n in range(16)]
    )
    monkeypatch.setattr(convert, "write_part", None)  # nothing is converted
    said = refused(real, "shards", "captions")
    assert "ValueError: full: 0 of 32 uids match: no image has one of the 32 synthetic captions" in said
    assert f"the first image's uid is '{uid(90)}' (00000.tar, as its .json says), a caption's '" in said
    monkeypatch.setattr(convert, "LOOKED_UP", 5)
    assert "full: 0 of 5 uids match" in refused(real, "shards", "captions")


def dotted(first: int) -> list[dict]:
    """What WebDataset takes for one sample: the key of all is `photo`."""
    return [{"__key__": f"photo.{n}", "jpg": picture(n), "txt": b"x"} for n in range(first, first + 4)]


def test_a_refusal_says_why_and_counts_samples(real, corpora, capfd):
    official.img2dataset(corpora / "cc12m", files=1, stats=False)
    official.tar(corpora / "cc12m/1.tar", dotted(0))
    unsorted = [(f"{n}.{end}", data) for end, data in (("jpg", picture(1)), ("txt", b"x")) for n in range(5)]
    with tarfile.open(corpora / "cc12m/2.tar", "w") as tar:
        for name, data in [*unsorted, ("._0.jpg", b"Mac"), ("README", b"")]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    change(real, bad_records=0.25)
    said = refused(real, "shards", "captions")
    assert (
        "full: 9 of 29 records and 0 of" in said
        and "the first: 1.tar: record photo: has no image: its members' n" in said
    )
    assert (
        "; 5 such as 2.tar: record 0: has no .txt, only .jpg; 5 such as 2.tar: record 0: has no image: its mem" in said
    )
    change(real, bad_records=0.5)
    folder, measured = made(real, "captions")
    counts = measured["corpora"]["full"]
    assert (counts["records"], counts["bad"], counts["members_not_read"], len(quarantine(folder))) == (29, 9, 2, 11)
    assert "full: 29 records, 9 that cannot be read, 2 members of tars that are not read" in capfd.readouterr().out
    (corpora / "cc12m/00000.tar").unlink()
    change(real, captions__full__revision="2", bad_records=1.0)
    said = refused(real, "shards", "captions")
    assert "not enough data for one sequence of 64 positions: full: 9 records, 9 that cannot be read" in said
    assert "its members' names have dots" in said


# --- instructions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("without_image", "kept"), [("drop", 24), ("keep", 30)])
def test_instructions_become_batches(real, corpora, without_image, kept):
    change(real, instructions__llava__without_image=without_image)
    records = official.llava(corpora / "llava-v1.5-instruct")
    folder, measured = made(real, "instructions")
    tokenizer = load_tokenizer(corpora / "tokenizer.json")
    counts = measured["corpora"]["llava"]
    assert measured["pieces"] == counts["records"] == kept and counts.get("without_image", 0) == 30 - kept
    said = sorted(text for sample in samples(folder) for text in told(sample, tokenizer))
    wanted = [r for r in records if "image" in r or without_image == "keep"]
    turns = ["".join(m["value"].replace("<image>", "").strip() for m in r["conversations"]) for r in wanted]
    assert len(said) == len(turns)
    assert [a[:40] for a in said] == sorted(t[:40] for t in turns)  # long ones lose their end
    (batch,) = batches({"instructions": folder}, {"instructions": 2})
    assert batch["kinds"]["images"] > 0 and batch["kinds"]["labels"] > 0


def test_what_is_told_in_instructions_can_be_read_without_their_images(real, corpora):
    records = official.llava(corpora / "llava-v1.5-instruct")
    edit_llava(corpora, lambda records: records[0].pop("conversations"))
    job = job_of(real, "sources", "instructions")
    assert make(real, job) == ""
    shutil.rmtree(corpora / "llava-v1.5-instruct/gqa")
    told = list(read_turns(real.root / job.folder, real.ledger().context))
    assert [one.id for one in told] == [r["id"] for r in records[1:] if "image" in r]
    assert told[0].turns[0][0] == records[1]["conversations"][0]["value"].removeprefix("<image>\n")
    assert {one.image for one in told} == {None}


def edit_llava(corpora: Path, change_records) -> None:
    path = corpora / "llava-v1.5-instruct/llava_v1_5_mix665k.json"
    records = json.loads(path.read_text())
    change_records(records)
    path.write_text(json.dumps(records))


@pytest.mark.parametrize(
    ("change_records", "reason"),
    [
        (lambda r: r[7].update(image="coco/train2017/none.jpg"), "no image coco/train2017/none.jpg"),
        (lambda r: r[7].update(image="../../secret.jpg"), "path leaves its folder: ../../secret.jpg"),
        (lambda r: r[7].update(image=7), "'image' is of type int"),
        (lambda r: r[7].pop("conversations"), "has no 'conversations'"),
        (lambda r: r[7]["conversations"].pop(), "messages, not pairs"),
        (lambda r: r.__setitem__(7, [1]), "is not an object"),
    ],
)
def test_bad_conversations_are_quarantined(real, corpora, change_records, reason):
    official.llava(corpora / "llava-v1.5-instruct")
    edit_llava(corpora, change_records)
    folder, measured = made(real, "instructions")
    (line,) = quarantine(folder)
    assert line["file"] == "llava_v1_5_mix665k.json" and reason in line["reason"]
    assert line["record"] in (7, f"{7:012d}") and measured["pieces"] == 23


def test_a_damaged_image_of_a_conversation_is_quarantined(real, corpora):
    official.llava(corpora / "llava-v1.5-instruct")
    path = corpora / f"llava-v1.5-instruct/gqa/images/{7:012d}.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    (line,) = quarantine(made(real, "instructions")[0])
    assert (line["record"], line["reason"]) == (f"{7:012d}", "image cannot be decoded (OSError)")


def test_an_undecodable_list_of_conversations_is_refused(real, corpora):
    official.llava(corpora / "llava-v1.5-instruct")
    path = corpora / "llava-v1.5-instruct/llava_v1_5_mix665k.json"
    path.write_text(path.read_text()[:-300])
    assert "llava_v1_5_mix665k.json: record 29: is not JSON" in refused(real, "sources", "instructions")


@settings(deadline=None)
@given(st.data())
def test_json_lists_are_read_item_by_item(data):
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
    items = data.draw(st.lists(values, max_size=5))
    text = json.dumps(items, indent=data.draw(st.sampled_from([None, 1])), ensure_ascii=False)
    content = data.draw(st.sampled_from(["", " \n"])) + text + data.draw(st.sampled_from(["", "\n"]))
    before = open_text.CHUNK, open_text.JSON_CHUNK
    open_text.CHUNK = open_text.JSON_CHUNK = data.draw(st.integers(1, 40))
    try:
        assert records(content) == list(enumerate(items))
        cut = data.draw(st.integers(1, len(content.rstrip()) - 1))
        assume(content[:cut].strip())
        assert isinstance(records(content[:cut])[-1][1], BadRecord)
    finally:
        open_text.CHUNK, open_text.JSON_CHUNK = before


def bytes_of(text: str) -> io.BytesIO:
    return io.BytesIO(text.encode("utf-8", "surrogatepass"))


def records(text: str) -> list:
    return list(open_text.json_records(bytes_of(text), "x.json"))


@pytest.mark.parametrize("content", ["", " \n", "[1 2]", "[1,,2]", "[1,]", "[1] x", "[,1]", "[1", '["\\ud83d'])
def test_what_is_no_json_list_is_refused(content):
    assert "is not JSON" in records(content)[-1][1].reason


# --- the same bits ----------------------------------------------------------------------------------------------------


def bits(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in folder_hashes(folder).items() if name not in ("card.json", "files.json")}


def test_the_bits_depend_on_neither_workers_nor_machine(real, corpora, tmp_path):
    joined(real, corpora)
    job = job_of(real, "shards", "captions")
    first = bits(made(real, "captions")[0])
    shutil.move(corpora, tmp_path / "elsewhere")
    change(real, workers=3, root=str(tmp_path / "elsewhere"))
    assert job_of(real, "shards", "captions").id == job.id  # where data lies is no part of what it is
    for phase in ("sources", "tokenizer", "shards"):
        shutil.rmtree(real.root / "artifacts" / phase)
    folder, _ = made(real, "captions")
    assert bits(folder) == first


@pytest.mark.parametrize("workers", [1, 3])
def test_a_killed_job_goes_on_and_ends_in_the_same_bits(real, corpora, monkeypatch, workers):
    official.img2dataset(corpora / "cc12m", files=8)
    change(real, workers=workers)
    folder, _ = made(real, "captions")
    whole = bits(folder)
    shutil.rmtree(real.root / "artifacts/shards")
    job = job_of(real, "shards", "captions")
    ledger = real.ledger()
    ledger.write_jobs()
    original = convert.write_part

    def parts():
        return [p for p in (real.root / ".study/resume").glob("*/parts/*/part.json") if not p.parent.suffix]

    def stop_after_two(work, unit, out):
        """No part begins when two are done: each process then waits to be ended."""
        if len(list(parts())) > 1:
            signal.pause()
        original(work, unit, out)

    monkeypatch.setattr(convert, "write_part", stop_after_two)
    process = multiprocessing.get_context("fork").Process(target=run_job, args=(ledger.job_file(job), None))
    process.start()
    wait(lambda: len(parts()) > 1)
    helpers = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    wait(lambda: all(map(is_gone, helpers)))
    done = [path.parent.name for path in parts()]
    assert 2 <= len(done) < 8 and not (real.root / job.card).exists()
    again = []
    monkeypatch.setattr(convert, "write_part", lambda work, unit, out: again.append(unit) or original(work, unit, out))
    change(real, workers=1)
    folder, _ = made(real, "captions")
    assert bits(folder) == whole
    assert len(again) == 8 - len(done)


def test_hashes_that_are_known_are_not_taken_again(real, corpora, monkeypatch):
    from pipeline.data.corpora import list_files as listing

    official.img2dataset(corpora / "cc12m", files=6)
    taken, original = [], listing.hashlib.sha256

    class Counting:
        def __init__(self):
            self.digest = original()
            taken.append(1)
            if len(taken) == 5:  # four files and the list's own
                raise KeyboardInterrupt

        def __getattr__(self, name):
            return getattr(self.digest, name)

    job = job_of(real, "sources", "captions")
    monkeypatch.setattr(listing.hashlib, "sha256", lambda data=None: original(data) if data else Counting())
    with pytest.raises(KeyboardInterrupt):
        make(real, job)
    monkeypatch.setattr(listing.hashlib, "sha256", original)
    notes = next((real.root / ".study/resume").glob("*/full.hashes.jsonl"))
    known = notes.read_text().splitlines()
    assert 1 <= len(known) < 6
    notes.write_text("\n".join(known) + '\n{"place": "cut o')
    asked = []
    monkeypatch.setattr(listing.fsspec, "open", tracking(listing.fsspec.open, asked))
    assert make(real, job) == ""
    assert len([place for place in asked if place.endswith(".tar")]) == 6 - len(known)


def tracking(function, asked: list):
    def tracked(place, *arguments):
        asked.append(place)
        return function(place, *arguments)

    return tracked


def test_a_file_that_changed_since_it_was_listed_is_refused(real, corpora):
    official.img2dataset(corpora / "cc12m", files=2)
    assert make(real, job_of(real, "sources", "captions")) == ""
    rewrite(corpora / "cc12m/00001.tar", lambda made: made)
    said = refused(real, "shards", "captions")
    assert said.endswith(
        "corpora/cc12m/00001.tar: has changed since it was indexed. Increase `revision` for this corpus in"
        " configs/data/real.yaml (source.captions.full) and rerun"
    )


def test_a_plan_notices_files_that_changed_since_they_were_listed(real, corpora):
    """By size, then by date, then by hash; files that are gone, or only have another date, are no matter."""
    joined(real, corpora)
    official.llava(corpora / "llava-v1.5-instruct")
    for part in ("captions", "instructions"):
        assert make(real, job_of(real, "sources", part)) == ""

    def said() -> str:
        try:
            real.ledger().check_unchanged()
        except ConfigError as error:
            return str(error)
        return ""

    assert said() == ""
    for place, key in (
        ("images/00001.tar", "captions.full.images"),
        ("dr/00000000.tar", "captions.full"),
        ("llava-v1.5-instruct/llava_v1_5_mix665k.json", "instructions.llava"),
        ("llava-v1.5-instruct/gqa/images/000000000001.jpg", "instructions.llava"),
    ):
        path = corpora / place
        before, date = path.read_bytes(), path.stat().st_mtime_ns
        os.utime(path, ns=(date, date + 10**10))
        assert said() == "", "the same bytes of another date"
        for after, moved in (
            (before + b"\0", 0),
            (before[:-1] + bytes([before[-1] ^ 1]), 3),
            (before[:-1] + b"?", -(10**12)),
        ):
            path.write_bytes(after)
            os.utime(path, ns=(date, date + moved))
            key_of = f"{DATA}: source.{key}.revision: found "
            assert said().startswith(key_of) and f"as corpora/{place} has changed since it was indexed" in said()
        path.write_bytes(before)
        assert said() == ""
    path.unlink()
    assert said() == ""
    (corpora / "images/00000.tar").write_bytes(b"")
    with pytest.raises(SystemExit):
        Workflow(real.root, {}, main=True)
    change(real, captions__full__images__revision="2")
    assert said() == ""


# --- tokenizer --------------------------------------------------------------------------------------------------------


def test_gpt_neox_is_given(real, corpora):
    change(real, tokenizer="gpt_neox")
    real.set(SCALE, "model.vocabulary", 50432)
    job = next(job for job in real.ledger().jobs if job.phase == "tokenizer")
    assert make(real, job) == "" and job.parents == {}
    tokenizer = load_tokenizer(real.root / job.folder / "tokenizer.json")
    assert (tokenizer.vocabulary, tokenizer.end, tokenizer.image, tokenizer.end_human) == (50282, 0, 50277, 50281)
    assert tokenizer.encode("Hello world!") == [12092, 1533, 2] and tokenizer.encode("  x") == [50276, 89]


def test_a_tokenizer_that_does_not_fit_is_refused(real, corpora):
    change(real, tokenizer="gpt_neox")
    job = next(job for job in real.ledger().jobs if job.phase == "tokenizer")
    assert "has 50282 ids, the model's vocabulary has room for 512" in make(real, job)


def test_a_tokenizer_that_cannot_be_taken_is_refused_before_any_job(real, corpora, capsys):
    official.dclm_raw(corpora / "dclm-baseline-1.0")
    change(real, tokenizer="gpt_neox")
    with pytest.raises(ConfigError, match=r"source.tokenizer: found 'gpt_neox', .*has 50282 ids, .* has room for 512"):
        check_foreign(real.ledger())  # as `plan` does
    change(real, tokenizer="other.json")
    (corpora / "other.json").write_text('{"model": {"type": "Unigram", "vocab": [["a", 0]]}, "added_tokens": []}')
    with pytest.raises(ConfigError, match=r"other.json: not a tokenizer this package can use .*its model is Unigram"):
        check_foreign(real.ledger())  # as `plan` does
    with pytest.raises(SystemExit):
        Workflow(real.root, {}, main=True)  # as `snakemake -n` does
    assert "its model is Unigram" in capsys.readouterr().err
    form = json.loads((corpora / "tokenizer.json").read_text())
    ends = form["added_tokens"][:1]
    ends[0]["content"] = "<stop>"
    form["model"]["vocab"]["<stop>"] = form["model"]["vocab"].pop("<|endoftext|>")
    form["added_tokens"] = ends
    for token in ("<|img_patch|>", "<|a|>", "<|/a|>", "<|h|>", "<|/h|>"):
        del form["model"]["vocab"][token]
    (corpora / "other.json").write_text(json.dumps(form))
    with pytest.raises(ConfigError, match=r"none of the end-of-text tokens .*; set `end`"):
        check_paths(real.ledger())
    change(real, end="<stop>")
    with contextlib.suppress(ConfigError):  # of corpora that are not there
        check_paths(real.ledger())
    job = next(job for job in real.ledger().jobs if job.phase == "tokenizer")
    assert make(real, job) == ""
    tokenizer = load_tokenizer(real.root / job.folder / "tokenizer.json")
    assert (tokenizer.end, tokenizer.image, tokenizer.vocabulary) == (0, 300, 305)


def test_a_changed_tokenizer_is_another_study(real, corpora):
    before = next(job for job in real.ledger().jobs if job.phase == "tokenizer")
    train_tokenizer(map(prose, range(90, 99)), 280, corpora / "tokenizer.json")
    real.known = None
    after = next(job for job in real.ledger().jobs if job.phase == "tokenizer")
    assert after.id != before.id


# --- benchmarks -------------------------------------------------------------------------------------------------------


@pytest.fixture
def benchmarks(corpora) -> Path:
    for name, write in official.BENCHMARKS.items():
        write(corpora / FOLDERS[name])
    return corpora


def questions(project: Project) -> dict[str, list]:
    job = job_of(project, "sources", "evaluation")
    assert make(project, job) == ""
    context = project.ledger().context
    return {
        name: list(read_task(project.root / job.folder, "test", name, FORMATS[name], context))
        for name in official.BENCHMARKS
    }


def test_benchmarks_are_read_from_their_official_files(real, benchmarks):
    found = questions(real)
    first = {name: asked[0] for name, asked in found.items()}
    assert {name: len(asked) for name, asked in found.items()} == {
        "vqav2": 2,
        "gqa": 1,
        "vizwiz": 2,
        "textvqa": 1,
        "refcoco": 2,
        "ocid_ref": 1,
        "pope": 6,
    }
    facts = {name: (q.id, q.text, q.kind, q.answers) for name, q in first.items()}
    assert facts == {
        "vqav2": ("42000", "Is it red?", "is it", ("", *["yes"] * 9)),
        "gqa": ("201307251", "Is it overcast?", "weatherVerify", ("no",)),
        "vizwiz": ("VizWiz_val_00000000", "What is this?", "answerable", ("soup",) * 10),
        "textvqa": ("34602", "What brand is it?", "word", (*["nokia"] * 9, "")),
        "refcoco": ("0-0", "man", "object", ("[0.10, 0.25, 0.60, 0.75]",)),
        "ocid_ref": ("17", "The can.", "medium", ("[0.12, 0.25, 0.38, 0.75]",)),
        "pope": ("random-1", "Is there a snowboard in the image?", "random", ("yes",)),
    }
    assert first["refcoco"].box == pytest.approx((0.1, 0.25, 0.6, 0.75)) and first["gqa"].box is None
    assert [q.kind for q in found["vizwiz"]] == ["answerable", "unanswerable"]
    assert [q.id for q in found["pope"]] == [f"{k}-{n}" for k in ("random", "popular", "adversarial") for n in (1, 2)]
    for asked in found.values():
        assert all(undecodable(question.image.read_bytes()) is None for question in asked)
    assert first["vqav2"].image.name == "COCO_val2014_000000000042.jpg"


def test_no_question_of_a_benchmark_is_known_to_be_seen_or_held_out(real, benchmarks):
    questions(real)
    assert read_splits(real.root / job_of(real, "sources", "evaluation").folder, "test", "gqa", "gqa") == {}


def test_multiple_choice_is_copied(real, corpora, heldout):
    official.dclm_raw(corpora / "dclm-baseline-1.0", files=1)
    change(real, choices=PAPER["source"]["choices"])
    line = {"id": "a", "context": "c", "choices": [" x", " y"], "gold": 1}
    official.dump(corpora / "text-tasks/copa.jsonl", line)
    official.dump(corpora / "text-tasks/piqa/validation.jsonl", {"goal": "g", "sol1": "a", "sol2": "b", "label": 0})
    job = job_of(real, "sources", "text")
    assert make(real, job) == ""
    copied = real.root / job.folder / "evaluation/text"
    assert sorted(p.relative_to(copied).as_posix() for p in copied.rglob("*.jsonl")) == [
        "copa.jsonl",
        "piqa/validation.jsonl",
    ]
    official.dump(corpora / "text-tasks/copa.jsonl", line | {"gold": 2})
    shutil.rmtree(real.root / job.folder)
    assert "copa.jsonl: record 1: 'gold' is 2 with 2 choices" in refused(real, "sources", "text")


def test_a_benchmark_lists_its_files_and_the_images_that_it_uses(real, benchmarks):
    official.images(benchmarks / "vqav2/val2014", ["COCO_val2014_000000009999.jpg"])  # nothing is asked about it
    questions(real)
    folder = real.root / job_of(real, "sources", "evaluation").folder
    listed = [json.loads(line)["file"] for line in (folder / "files/vqav2.jsonl").read_text().splitlines()]
    assert listed == [
        "v2_OpenEnded_mscoco_val2014_questions.json",
        "v2_mscoco_val2014_annotations.json",
        "val2014/COCO_val2014_000000000042.jpg",
        "val2014/COCO_val2014_000000000073.jpg",
    ]
    manifest = read_json(folder / "manifest.json")["corpora"]["vqav2"]
    assert (manifest["questions"], manifest["images"], manifest["files"]) == (2, 2, 4)
    assert str(real.root) not in (folder / "evaluation/test/vqav2/questions.jsonl").read_text()


@pytest.mark.parametrize("reason", ["no image", "image cannot be decoded"])
def test_bad_items_that_may_be_left_out_are_counted(real, benchmarks, heldout, reason):
    official.dclm_raw(benchmarks / "dclm-baseline-1.0", files=1)
    half = benchmarks / FOLDERS["vqav2"] / "val2014/COCO_val2014_000000000042.jpg"
    half.unlink() if reason == "no image" else half.write_bytes(half.read_bytes()[:-200])
    assert reason in (said := refused(real, "sources", "evaluation")) and "allowed to be left out: 0" in said
    change(real, choices=PAPER["source"]["choices"])
    item = {"id": "a", "context": "c", "choices": [" x", " y"], "gold": 1}
    (benchmarks / "text-tasks").mkdir()
    (benchmarks / "text-tasks/copa.json").write_text(json.dumps([item, item | {"id": "b", "gold": 2}]))
    assert "copa.json: record 1: 'gold' is 2 with 2 choices; allowed to be left out: 0" in refused(
        real, "sources", "text"
    )
    real.set(TASKS, "vision.vqav2.left_out_at_most", 1)
    real.set(TASKS, "text.copa.left_out_at_most", 1)
    asked, text = questions(real), job_of(real, "sources", "text")
    assert len(asked["vqav2"]) == 1 and make(real, text) == ""
    assert left_out_of(real.root / job_of(real, "sources", "evaluation").folder) == {"vqav2": {"left_out": 1}}
    assert left_out_of(real.root / text.folder) == {"copa": {"left_out": 1}}
    assert [one.id for one in read_choices(real.root / text.folder / "evaluation/text/copa.jsonl", "copa")] == ["a"]


def no_image(folder: Path) -> None:
    next(folder.rglob("*.jpg")).unlink() if list(folder.rglob("*.jpg")) else next(folder.rglob("*.png")).unlink()


def half_image(folder: Path) -> None:
    path = next(iter([*folder.rglob("*.jpg"), *folder.rglob("*.png")]))
    path.write_bytes(path.read_bytes()[:-200])


def half_file(folder: Path) -> None:
    path = min(folder.glob("*.json"))
    path.write_text(path.read_text()[:-5])


@pytest.mark.parametrize("name", official.BENCHMARKS)
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(no_image, "no image"), (half_image, "image cannot be decoded (OSError)"), (half_file, "is not JSON")],
)
def test_a_damaged_benchmark_is_refused(real, benchmarks, name, spoil, reason):
    spoil(benchmarks / FOLDERS[name])
    said = refused(real, "sources", "evaluation")
    assert "BadRecord" in said and reason in said and FOLDERS[name] in said


@pytest.mark.parametrize(
    ("change_record", "reason"),
    [
        (lambda r: r.update(answerable=2), "answerable is neither 0 nor 1: 2"),
        (lambda r: r.update(answers=[]), "has no answers"),
        (lambda r: r.update(answers=[{"answer": 3}]), "an answer is not a text"),
        (lambda r: r.pop("question"), "has no 'question'"),
        (lambda r: r.update(image="../x.jpg"), "path leaves its folder"),
    ],
)
def test_bad_vizwiz_records_are_refused(tmp_path, change_record, reason):
    official.vizwiz(tmp_path)
    records = json.loads((tmp_path / "val.json").read_text())
    change_record(records[1])
    (tmp_path / "val.json").write_text(json.dumps(records))
    with pytest.raises(BadRecord, match=reason):
        list(
            question_files.read_questions("vizwiz", tmp_path, images=tmp_path / "val", files={"questions": "val.json"})
        )


def read_refs(folder: Path, refs: str) -> list:
    options = {"images": folder / "train2014", "files": {"refs": refs}, "split": "val"}
    return [(q.id, q.text, q.box) for q in question_files.read_questions("refcoco", folder, **options)]


# What Python 2 writes: its texts are bytes to Python 3, opcode U (SHORT_BINSTRING) or S (STRING).
PYTHON_2 = b"(lp0\n(dp1\nS'ref_id'\nI0\nsS'ann_id'\nI1719310\nsS'image_id'\nI581857\nsS'split'\nS'val'\ns"
PYTHON_2 += b"S'sentences'\n(lp2\n(dp3\nS'sent_id'\nI0\nsS'sent'\nS'man'\nsasa."


def test_refs_are_read_as_a_pickle_and_as_json(tmp_path):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        refs = official.refcoco(tmp_path, protocol)
        assert [q[:2] for q in read_refs(tmp_path, "refs(unc).p")] == [("0-0", "man"), ("0-1", "on the left")]
    (tmp_path / "refs.json").write_text(json.dumps(refs))
    assert read_refs(tmp_path, "refs.json") == read_refs(tmp_path, "refs(unc).p")
    (tmp_path / "old.p").write_bytes(PYTHON_2)
    assert read_refs(tmp_path, "old.p") == read_refs(tmp_path, "refs(unc).p")[:1]


class Harm:
    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_executes_nothing(tmp_path):
    official.refcoco(tmp_path)
    (tmp_path / "bad.p").write_bytes(pickle.dumps([Harm(tmp_path / "harmed")]))
    with pytest.raises(BadRecord, match="only plain data is read"):
        read_refs(tmp_path, "bad.p")
    assert not (tmp_path / "harmed").exists()
    whole = (tmp_path / "refs(unc).p").read_bytes()
    for content in (whole[:-20], b"", b"\x80\x04\xff" + whole[3:], gzip.compress(whole)):
        (tmp_path / "bad.p").write_bytes(content)
        with pytest.raises(BadRecord, match="is not a pickle of plain data"):
            read_refs(tmp_path, "bad.p")


@settings(deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP"]), st.integers(0, 10**6), st.binary(min_size=1, max_size=30))
def test_damaged_images_are_found_or_decoded_but_never_an_error(format, place, noise):
    data = bytearray(picture(1, format=format))
    place %= len(data)
    data[place : place + len(noise)] = noise
    said = undecodable(bytes(data)) or "not a JPEG"
    assert said.startswith(("image cannot be decoded (", "image has ", "not a JPEG"))
    assert undecodable(picture(1, format=format)) is None
    assert undecodable(picture(1, format=format)[:60]) is not None


# --- settings ---------------------------------------------------------------------------------------------------------


def complaint(project: Project) -> str:
    with pytest.raises(ConfigError) as caught:
        check_paths(project.ledger())
    line = str(caught.value)
    assert "\n" not in line
    return line


def fill(corpora: Path) -> None:
    for path in ("dclm-baseline-1.0", "dclm-heldout", "cc12m", "llava-v1.5-instruct", *FOLDERS.values()):
        (corpora / path).mkdir(exist_ok=True)


def test_missing_corpora_are_one_line_before_anything_runs(real, corpora, monkeypatch):
    fill(corpora)
    check_paths(real.ledger())
    (corpora / "cc12m").rmdir()
    line = complaint(real)
    assert line == f"{DATA}: source.captions.full.path: found 'corpora/cc12m', allowed: an existing folder or file"
    real.set(DATA, "source.captions.full.path", "s3://bucket/cc12m")  # asked for by the job, not by the settings
    find_spec, found = importlib.util.find_spec, {"s3fs": "a package"}
    monkeypatch.setattr(
        "pipeline.settings.sources.find_spec", lambda name: found[name] if name in found else find_spec(name)
    )
    check_paths(real.ledger())
    found["s3fs"] = None
    line = f"{DATA}: source.captions.full.path: found 's3://bucket/cc12m', allowed: a local path, or `uv sync --extra s3` first"
    assert complaint(real) == line


def test_snakemake_stops_with_the_one_line_of_a_missing_corpus(real, corpora, capsys):
    with pytest.raises(SystemExit):
        Workflow(real.root, {}, main=True).start(here=False)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"{DATA}: source.text.dclm.path: found 'corpora/dclm-baseline-1.0', allowed: an existing folder or file"
    ]
    assert not (real.root / "artifacts").exists()


def test_captions_that_no_run_uses_need_not_be_there(real, corpora):
    fill(corpora)
    change(real, captions__other=CAPTIONS | {"path": "nowhere"})
    check_paths(real.ledger())


def test_corpora_are_not_asked_for_when_nothing_is_left_to_do(real, corpora):
    real.make()
    check_paths(real.ledger())


@pytest.mark.parametrize(
    ("file", "key", "value", "line"),
    [
        ("params.yaml", "recipe.captions", "short", "params.yaml: recipe.captions: found 'short', allowed: full (of "),
        (
            DATA,
            "source.captions.full.images",
            {"path": "x", "revision": "1", "licence": "y"},
            "for format 'datacompdr'",
        ),
        (
            DATA,
            "source.captions.full.format",
            "datacompdr",
            "source.captions.full.images: found None, allowed: a value",
        ),
        (DATA, "source.text.dclm.formt", "x", "did you mean 'format'?"),
        (DATA, "source.text.dclm.format", "dclm", "source.text.dclm.format: found 'dclm', allowed: 'dclm_raw' or"),
        (DATA, "source.bad_records", 2, "source.bad_records: found 2, allowed: less than or equal to 1 (from 0 to 1)"),
        (DATA, "source.text.dclm.digest", "abc", "source.text.dclm.digest: found 'abc'"),
        (
            DATA,
            "source.tokenizer",
            "none.json",
            "source.tokenizer: found 'none.json', allowed: gpt_neox or a tokenizer",
        ),
        (
            DATA,
            "source.evaluation.test.gqa.format",
            "vqav2",
            "source.evaluation.test.gqa: found 'vqav2', allowed: the ",
        ),
        (DATA, "source.evaluation.test.gqa.path", "s3://b/gqa", "allowed: a local folder"),
        ("params.yaml", "split", "validation", "source.evaluation.validation.gqa: found None"),
        (DATA, "source", "laion", "source: found 'laion', allowed: 'scenes'"),
        (DATA, "source", "scenes", "data: found None, allowed: sizes for the source of"),
    ],
)
def test_bad_settings_are_one_line(real, corpora, file, key, value, line):
    real.set(file, key, value)
    assert line in complaint(real)


def test_what_data_is_and_where_it_lies(real, corpora):
    before = {job.key for job in real.ledger().jobs}
    change(real, root="elsewhere", workers=7, bad_records=0.5, text__dclm__path="x", text__dclm__licence="y")
    shutil.copytree(corpora, real.root / "elsewhere")
    assert {job.key for job in real.ledger().jobs} == before
    change(real, text__dclm__revision="2.0")
    assert len({job.key for job in real.ledger().jobs} & before) < len(before)


def test_the_papers_settings_load(real, corpora):
    shutil.copy(SOURCE / "configs/data/paper.yaml", real.root / "configs/data/paper.yaml")
    real.set("params.yaml", "data", "paper")
    real.set("params.yaml", "recipe.captions", "datacompdr")
    assert real.study().settings.data.source.root == "corpora"
    assert {job.label for job in real.study().jobs.values() if job.phase == "shards"} >= {"captions-datacompdr"}


# --- S3 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.end_to_end
@pytest.mark.nightly
def test_corpora_on_s3_give_the_same_bits(real, corpora, monkeypatch):
    import boto3
    from moto.server import ThreadedMotoServer

    official.llava(corpora / "llava-v1.5-instruct")
    joined(real, corpora)
    parts = ("captions", "instructions")
    local = {part: bits(made(real, part)[0]) for part in parts}
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        address = "http://{}:{}".format(*server.get_host_and_port())
        secret = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in (secret | {"AWS_ENDPOINT_URL": address}).items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=address)
        client.create_bucket(Bucket="corpora")
        for path in (p for p in corpora.rglob("*") if p.is_file()):
            client.upload_file(str(path), "corpora", f"data/{path.relative_to(corpora).as_posix()}")
        tokenizer = real.root / "tokenizer.json"
        shutil.copy(corpora / "tokenizer.json", tokenizer)
        change(real, root="s3://corpora/data", evaluation__root="corpora", tokenizer=str(tokenizer), workers=2)
        for phase in ("sources", "tokenizer", "shards"):
            shutil.rmtree(real.root / "artifacts" / phase)
        assert {part: bits(made(real, part)[0]) for part in parts} == local
    finally:
        server.stop()
