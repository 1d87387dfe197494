"""Artifacts on disk: what damages them, what is read again and what is not, and artifacts set aside and taken back."""

import os
import shutil
from pathlib import Path

import pytest

from pipeline.common.files import digest, file_hash, folder_hashes, read_json, stable_json
from pipeline.store import artifacts
from pipeline.store.artifacts import find_fault, last_verified, make_manifest, record_verified, set_aside, take_back

CARD = {"phase": "shards", "id": "text-1"}
FOLDER = "artifacts/shards/text-1"
MANIFEST = f"{FOLDER}/files.json"
FILES = {"rows.csv": "one,two\n", "parts/0.bin": "0123", "parts/1.bin": ""}


def make(root: Path, folder: str = FOLDER, card: dict = CARD) -> Path:
    for name, text in FILES.items():
        (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
        (root / folder / name).write_text(text)
    make_manifest(root / folder, digest(card))
    (root / folder / "card.json").write_text(stable_json(card))
    return root / folder


def put(file: Path, content: str) -> None:
    """Write a file, and let its date say so even where the clock of the file system is coarse."""
    date = file.stat().st_mtime_ns + 10**9
    file.write_text(content)
    os.utime(file, ns=(date, date))


def fault(root: Path) -> str | None:
    return find_fault(root, FOLDER, MANIFEST, digest(CARD))


@pytest.fixture(params=["new", "remembered"])
def root(request, tmp_path) -> Path:
    """A folder with one whole artifact, which was looked at before or was not."""
    make(tmp_path)
    if request.param == "remembered":
        record_verified(tmp_path, FOLDER, MANIFEST)
    return tmp_path


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """The names of the files whose bytes were read, in the order in which they were."""
    names = []

    def count(path: Path) -> str:
        names.append(path.name)
        return file_hash(path)

    monkeypatch.setattr(artifacts, "file_hash", count)
    return names


# The list of files


def test_a_list_has_every_file_with_its_size_and_hash(tmp_path):
    folder = make(tmp_path)
    manifest = read_json(tmp_path / MANIFEST)
    assert manifest["card"] == digest(CARD)
    hashes = folder_hashes(folder)
    assert manifest["files"] == {n: {"bytes": len(t), "sha256": hashes[n]} for n, t in FILES.items()}


def test_a_list_is_the_same_every_time(tmp_path):
    one, two = make(tmp_path, "one"), make(tmp_path, "two")
    assert (one / "files.json").read_bytes() == (two / "files.json").read_bytes()


# Damage


def test_a_whole_artifact_has_no_fault(root):
    assert fault(root) is None
    assert fault(root) is None


@pytest.mark.parametrize("name", ["rows.csv", "parts/0.bin", "parts/1.bin", "files.json"])
def test_a_missing_file_is_named(root, name):
    (root / FOLDER / name).unlink()
    assert fault(root) == f"{Path(name).name} is missing"


def test_a_missing_folder_is_a_fault(root):
    shutil.rmtree(root / FOLDER)
    assert fault(root) == "files.json is missing"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", "two,one\n"),
        ("rows.csv", "one,two\n\n"),
        ("rows.csv", "one"),
        ("rows.csv", ""),
        ("parts/1.bin", "x"),
    ],
    ids=["same size", "longer", "shorter", "empty", "not empty any more"],
)
def test_a_file_with_other_bytes_is_named(root, name, content):
    put(root / FOLDER / name, content)
    assert fault(root) == f"{name} has other bytes than when it was made"
    assert fault(root) == f"{name} has other bytes than when it was made"


def test_a_file_that_is_mended_is_no_fault_any_more(root):
    put(root / FOLDER / "rows.csv", "two,one\n")
    assert fault(root)
    put(root / FOLDER / "rows.csv", FILES["rows.csv"])
    assert fault(root) is None


def test_files_that_are_not_listed_do_not_matter(root):
    (root / FOLDER / "notes.txt").write_text("looks good")
    assert fault(root) is None


def test_a_list_of_another_card_is_a_fault(root):
    assert find_fault(root, FOLDER, MANIFEST, digest(CARD | {"id": "text-2"})) == "files.json is of another card"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"7",
        b'"files"',
        b"{}",
        b'{"card": "%s"}',
        b'{"files": {}}',
        b'{"card": "%s", "files": []}',
        b'{"card": "%s", "files": null}',
        b'{"card": "%s", "files": {"rows.csv": null}}',
        b'{"card": "%s", "files": {"rows.csv": "abc"}}',
        b'{"card": "%s", "files": {"rows.csv": {"bytes": 8}}}',
        b'{"card": "%s", "files": {"rows.csv": {"sha256": "abc"}}}',
    ],
)
def test_a_bad_list_is_a_fault(root, text):
    (root / MANIFEST).write_bytes(text.replace(b"%s", digest(CARD).encode()))
    assert fault(root) == "files.json is damaged"


@pytest.mark.parametrize(("key", "value"), [("bytes", 9), ("bytes", "8"), ("sha256", "0" * 64), ("sha256", None)])
def test_a_list_that_does_not_fit_its_files_is_a_fault_when_they_are_first_looked_at(tmp_path, key, value):
    make(tmp_path)
    manifest = read_json(tmp_path / MANIFEST)
    manifest["files"]["rows.csv"][key] = value
    (tmp_path / MANIFEST).write_text(stable_json(manifest))
    assert fault(tmp_path) == "rows.csv has other bytes than when it was made"


def test_a_list_may_lie_outside_the_folder_of_its_files(tmp_path):
    make(tmp_path)
    (tmp_path / "lists").mkdir()
    os.replace(tmp_path / MANIFEST, tmp_path / "lists/text.json")
    assert find_fault(tmp_path, FOLDER, "lists/text.json", digest(CARD)) is None
    (tmp_path / "lists/text.json").write_text("{")
    assert find_fault(tmp_path, FOLDER, "lists/text.json", digest(CARD)) == "text.json is damaged"


# What is read again


def test_a_new_artifact_is_read_once(tmp_path, hashed):
    make(tmp_path)
    assert fault(tmp_path) is None
    assert sorted(hashed) == ["0.bin", "1.bin", "rows.csv"]
    hashed.clear()
    assert fault(tmp_path) is None
    assert hashed == []


def test_a_remembered_artifact_is_not_read(tmp_path, hashed):
    make(tmp_path)
    record_verified(tmp_path, FOLDER, MANIFEST)
    assert fault(tmp_path) is None
    assert hashed == []


@pytest.mark.parametrize("names", [["rows.csv"], ["parts/0.bin", "rows.csv"]])
def test_files_with_changed_dates_alone_are_read_once_more(tmp_path, hashed, names):
    make(tmp_path)
    record_verified(tmp_path, FOLDER, MANIFEST)
    for name in names:
        os.utime(tmp_path / FOLDER / name, (1, 1))
    assert fault(tmp_path) is None
    assert sorted(hashed) == sorted(Path(name).name for name in names)
    hashed.clear()
    assert fault(tmp_path) is None
    assert hashed == []


def test_a_file_of_another_size_is_not_read(tmp_path, hashed):
    make(tmp_path)
    put(tmp_path / FOLDER / "parts/0.bin", "01234")
    assert fault(tmp_path)
    assert "0.bin" not in hashed


def test_a_damaged_artifact_is_not_remembered(tmp_path):
    make(tmp_path)
    put(tmp_path / FOLDER / "rows.csv", "two,one\n")
    assert fault(tmp_path)
    assert last_verified(tmp_path, MANIFEST) == {}


def test_what_was_remembered_survives_damage_and_deletion(tmp_path):
    make(tmp_path)
    assert fault(tmp_path) is None
    before = last_verified(tmp_path, MANIFEST)
    assert before["card"] == digest(CARD)
    put(tmp_path / FOLDER / "rows.csv", "two,one\n")
    assert fault(tmp_path)
    shutil.rmtree(tmp_path / FOLDER)
    assert fault(tmp_path)
    assert last_verified(tmp_path, MANIFEST) == before


def test_what_was_made_anew_is_remembered_anew(tmp_path):
    make(tmp_path)
    assert fault(tmp_path) is None
    other = CARD | {"code": "new"}
    shutil.rmtree(tmp_path / FOLDER)
    make(tmp_path, card=other)
    assert find_fault(tmp_path, FOLDER, MANIFEST, digest(other)) is None
    assert last_verified(tmp_path, MANIFEST)["card"] == digest(other)


@pytest.mark.parametrize("text", ["", "{", "{}"])
def test_a_damaged_memory_means_reading_again(tmp_path, hashed, text):
    make(tmp_path)
    record_verified(tmp_path, FOLDER, MANIFEST)
    (memory,) = (file for file in (tmp_path / artifacts.SEEN).rglob("*") if file.is_file())
    memory.write_text(text)
    assert fault(tmp_path) is None
    assert len(hashed) == len(FILES)


def test_only_whole_artifacts_can_be_remembered(tmp_path):
    folder = make(tmp_path)
    (folder / "rows.csv").unlink()
    with pytest.raises(OSError):
        record_verified(tmp_path, FOLDER, MANIFEST)
    assert last_verified(tmp_path, MANIFEST) == {}


# Set aside and taken back


def content(folder: Path) -> dict[str, str]:
    return {file.relative_to(folder).as_posix(): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_what_is_not_wanted_is_set_aside(tmp_path):
    folder = make(tmp_path)
    kept = make(tmp_path, "artifacts/shards/text-2")
    elsewhere = make(tmp_path, "artifacts/features/text-1")
    before = content(folder)
    assert set_aside(tmp_path, "shards", {"text-2", "text-3"}) == [folder]
    assert (folder.exists(), kept.exists(), elsewhere.exists()) == (False, True, True)
    assert content(tmp_path / ".study/aside/shards/text-1") == before


def test_a_phase_without_artifacts_has_none_to_set_aside(tmp_path):
    assert set_aside(tmp_path, "shards", {"text-1"}) == []


def test_a_file_among_artifacts_stays(tmp_path):
    make(tmp_path)
    (tmp_path / "artifacts/shards/.gitignore").write_text("*\n")
    set_aside(tmp_path, "shards", set())
    assert [file.name for file in (tmp_path / "artifacts/shards").iterdir()] == [".gitignore"]


def test_what_is_set_aside_counts_as_never_seen(tmp_path):
    make(tmp_path)
    make(tmp_path, "artifacts/shards/text-2")
    for id in ("text-1", "text-2"):
        record_verified(tmp_path, f"artifacts/shards/{id}", f"artifacts/shards/{id}/files.json")
    set_aside(tmp_path, "shards", {"text-2"})
    assert last_verified(tmp_path, MANIFEST) == {}
    assert last_verified(tmp_path, "artifacts/shards/text-2/files.json")["card"] == digest(CARD)


def test_what_is_set_aside_later_replaces_what_was_before(tmp_path):
    make(tmp_path)
    set_aside(tmp_path, "shards", set())
    folder = make(tmp_path, card=CARD | {"code": "new"})
    before = content(folder)
    (tmp_path / ".study/aside/shards/text-1/left.txt").write_text("of the first")
    set_aside(tmp_path, "shards", set())
    assert content(tmp_path / ".study/aside/shards/text-1") == before


def test_what_is_wanted_again_is_taken_back_whole(tmp_path):
    before = content(make(tmp_path))
    set_aside(tmp_path, "shards", set())
    take_back(tmp_path, FOLDER, CARD)
    assert content(tmp_path / FOLDER) == before
    assert not (tmp_path / ".study/aside/shards/text-1").exists()
    assert fault(tmp_path) is None


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"phase": "shards", "id": "text-2"}'])
def test_what_has_another_card_stays_aside(tmp_path, text):
    make(tmp_path)
    set_aside(tmp_path, "shards", set())
    card = tmp_path / ".study/aside/shards/text-1/card.json"
    card.unlink() if text is None else card.write_text(text)
    take_back(tmp_path, FOLDER, CARD)
    assert not (tmp_path / FOLDER).exists()
    assert (card.parent / "rows.csv").exists()


def test_taking_back_never_overwrites_a_finished_artifact(tmp_path):
    make(tmp_path)
    set_aside(tmp_path, "shards", set())
    aside = content(tmp_path / ".study/aside/shards/text-1")
    before = content(make(tmp_path, card=CARD | {"code": "new"}))
    take_back(tmp_path, FOLDER, CARD)
    assert content(tmp_path / FOLDER) == before
    assert content(tmp_path / ".study/aside/shards/text-1") == aside


@pytest.mark.parametrize("left", [[], ["card.json"], ["rows.csv", "parts/0.bin"]], ids=str)
def test_what_an_interrupted_job_left_does_not_count(tmp_path, left):
    good = content(make(tmp_path))
    set_aside(tmp_path, "shards", set())
    for leave in (take_back, lambda *_: set_aside(tmp_path, "shards", set())):
        (tmp_path / FOLDER).mkdir(parents=True, exist_ok=True)
        for name in left:
            (tmp_path / FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / FOLDER / name).write_text("half")
        leave(tmp_path, FOLDER, CARD)
        taken = leave is take_back
        assert content(tmp_path / (FOLDER if taken else ".study/aside/shards/text-1")) == good
        if taken:
            set_aside(tmp_path, "shards", set())
    assert not (tmp_path / FOLDER).exists()


def test_an_edited_list_of_files_is_noticed_though_its_files_are_remembered(tmp_path):
    make(tmp_path)
    record_verified(tmp_path, FOLDER, MANIFEST)
    file = tmp_path / MANIFEST
    file.write_text(file.read_text().replace('"sha256": "', '"sha256": "0', 1))
    assert "has other bytes" in fault(tmp_path)


def test_a_folder_in_the_place_of_a_file_is_damage(tmp_path):
    folder = make(tmp_path)
    (folder / "rows.csv").unlink()
    (folder / "rows.csv").mkdir()
    assert "rows.csv" in fault(tmp_path)


def test_taking_back_what_was_never_set_aside_does_nothing(tmp_path):
    take_back(tmp_path, FOLDER, CARD)
    assert list(tmp_path.iterdir()) == []
