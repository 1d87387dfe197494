"""Real corpora where they lie, on disk or S3: their files, listed and hashed; and the questions of their benchmarks.

Phase "sources" of a corpus copies no data. It leaves

    manifest.json                            of every corpus: files, bytes, licence, digest of its list
    files/NAME.jsonl                         the list: {"file", "bytes", "sha256"} a line, and "records" where a sidecar says
    text/heldout-00000.jsonl.zst             documents for bits per byte
    evaluation/text/TASK.jsonl, TASK/...     multiple choice, copied
    evaluation/SPLIT/TASK/questions.jsonl    a benchmark's questions; images are named relative to their folder

A list's digest is the same wherever the files lie. Where that is comes from the job's context.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import zstandard

from pipeline.common.files import join, one_line, path_fault, read_json, stable_json, write_text
from pipeline.common.images import undecodable
from pipeline.common.job_context import Job
from pipeline.common.json_text import parse_json
from pipeline.data.corpora.listed import MANIFEST, image_name, is_corpora, missing, read_bytes
from pipeline.data.formats import question_files
from pipeline.data.formats.documents import choices, documents
from pipeline.data.formats.open_text import SUFFIXES, good, json_records, not_read, said, say_not_read, suffix_of
from pipeline.data.job_settings import ListedCorpora
from pipeline.data.records import BadRecord, LeftOut, strict

CHUNK = 1 << 20  # bytes read at a time
DATA_FILES = {
    "dclm_raw": SUFFIXES,
    "dclm_tokenized": (".tar",),
    "img2dataset": (".tar",),
    "datacompdr": (".tar",),
}


def files_below(place: str, suffixes: tuple[str, ...]) -> tuple[dict[str, int], set[str]]:
    """Bytes of every file below a folder (or of the one file) that ends so, by its name relative to it; the others' names.

    What macOS adds to a file (._NAME) is none of them. Raises ValueError if there is none, or one that is no file or has
    a name that no list can hold.
    """
    system, folder = fsspec.core.url_to_fs(place)
    found = system.find(folder, detail=True)
    # Relative names: lists, digests and cards are the same wherever the corpus lies.
    names = {path: PurePosixPath(path).relative_to(folder).as_posix() for path in found}
    wanted = (path for path in sorted(found) if path.endswith(suffixes) and "/._" not in f"/{names[path]}")
    sizes = {names[path]: found[path]["size"] for path in wanted}
    others = set(names.values()) - set(sizes)
    if not sizes:
        here = "".join(f", but {count:,} {kind}" for kind, count in not_read(others).items())
        raise ValueError(f"{place}: no {said(suffixes)} file here{here}")
    if odd := [name for path, name in names.items() if name in sizes and found[path]["type"] == "other"]:
        raise ValueError(f"{join(place, odd[0])}: is no file, or a link to nothing; take it away")
    # Linux allows any bytes in a name; JSON and UTF-8 cannot hold all of them.
    if odd := [name for name in sizes if name != name.encode(errors="replace").decode()]:
        raise ValueError(f"{place}: the name of {one_line(odd[0])} is not UTF-8; rename the file")
    return {PurePosixPath(folder).name if name == "." else name: size for name, size in sizes.items()}, others


# --- listing ----------------------------------------------------------------------------------------------------------


class Hashes:
    """SHA-256 of files, several at a time; what is known survives a kill."""

    def __init__(self, job: Job, name: str, workers: int):
        self.job, self.workers = job, workers
        self.file = job.resume / f"{name}.hashes.jsonl"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.known: dict[tuple[str, int | None, str], dict] = {}
        for line in self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else ():
            try:
                entry = json.loads(line)
            except ValueError:  # the line that a kill cut off
                continue
            self.known[entry["place"], entry["was"][0], entry["was"][1]] = entry

    def look(self, place: str) -> tuple[str, int | None, str]:
        """What tells a file from a later one in its place: size and date."""
        system, path = fsspec.core.url_to_fs(place)
        info = system.info(path)
        return place, info["size"], str(info.get("mtime", info.get("LastModified")))

    def take(self, place: str, check: Callable[[bytes], str | None] | None) -> dict:
        """Size, hash and fault of a file, from what is known or from the file itself; {"missing"} if there is none."""
        try:
            # Before the file is read: if it changes meanwhile, what is noted is of a size and date that it has no more.
            key = self.look(place)
            if key not in self.known:
                digest, size, whole = hashlib.sha256(), 0, []
                with fsspec.open(place, "rb") as file:
                    while chunk := file.read(CHUNK):
                        digest.update(chunk)
                        size += len(chunk)
                        if check:
                            whole.append(chunk)
                fault = check(b"".join(whole)) if check else None
                found = {"bytes": size, "sha256": digest.hexdigest(), "fault": fault}
                return {"place": place, "was": key[1:], **found}
            return self.known[key]
        except OSError as error:
            if isinstance(missing(error), FileNotFoundError):
                return {"place": place, "missing": True}
            raise

    def of(self, places: Iterable[str], check: Callable[[bytes], str | None] | None = None) -> Iterator[dict]:
        """{"place", "bytes", "sha256", "fault"} of each file, or {"place", "missing"}, in order.

        `check` says what is wrong with a file's bytes, if anything is.
        """
        places = list(places)
        done = size = 0
        # Threads are enough: hashlib and reading both release the interpreter lock.
        with ThreadPoolExecutor(self.workers) as pool, open(self.file, "a", encoding="utf-8") as notes:
            for start in range(0, len(places), 1024):  # no more than so many results wait
                for entry in pool.map(lambda place: self.take(place, check), places[start : start + 1024]):
                    if "was" in entry and (entry["place"], *entry["was"]) not in self.known:
                        notes.write(json.dumps(entry) + "\n")
                        notes.flush()
                    done, size = done + 1, size + entry.get("bytes", 0)
                    self.job.progress.update(done, len(places), "files", f"{size / 1e9:.1f} GB")
                    yield entry


def write_list(out: Path, name: str, corpus: dict, lines: Iterable[dict]) -> dict:
    """Write a corpus's list; returns its entry in the manifest. Raises ValueError for another list than expected."""
    path = out / "files" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, count, size = hashlib.sha256(), 0, 0
    with open(path, "w", encoding="utf-8") as file:
        for line in lines:
            text = json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n"
            file.write(text)
            digest.update(text.encode())
            count, size = count + 1, size + line["bytes"]
    if corpus["file_count"] not in (None, count):
        raise ValueError(f"{name}: has {count:,} files, {corpus['file_count']:,} are expected (file_count)")
    if corpus["digest"] not in (None, digest.hexdigest()):
        raise ValueError(f"{name}: the list of its files has the digest {digest.hexdigest()}, not {corpus['digest']}")
    return {"files": count, "bytes": size, "digest": digest.hexdigest()}


def list_tree(job: Job, out: Path, name: str, corpus: dict, place: str, format: str) -> dict:
    """List the files of a corpus that is a folder of one kind of file."""
    sizes, others = files_below(place, DATA_FILES[format])
    expected = EXPECTED.get(format, lambda *_: {})(place, list(sizes))
    # Sidecars are read, if only for their numbers: they are not among the files that are not read.
    others -= {"manifest.jsonl"} if format == "dclm_tokenized" else {f"{file[:-4]}_stats.json" for file in expected}
    skipped = skip(name, others)
    hashes = Hashes(job, name, job.context["corpora"]["workers"])
    found = zip(sizes, hashes.of(join(place, file) for file in sizes))

    def lines() -> Iterator[dict]:
        for file, entry in found:
            if "missing" in entry:
                raise ValueError(f"{entry['place']}: is not there any more")
            records = {"records": expected[file]} if file in expected else {}
            yield {"file": file, "bytes": entry["bytes"], "sha256": entry["sha256"]} | records

    return write_list(out, name, corpus, lines()) | skipped


def skip(name: str, others: set[str]) -> dict:
    """Say which files of a folder are not read; returns their number by suffix, as what is counted of a corpus has it."""
    say_not_read(name, counts := not_read(others))
    return {"not_read": counts} if counts else {}


def count_of(record: Any, key: str) -> int:
    """A number of things in a sidecar. Raises ValueError, KeyError or TypeError."""
    if type(record[key]) is not int or record[key] < 0:
        raise ValueError(f"{key} is {record[key]!r}")
    return record[key]


def dclm_counts(place: str, names: list[str]) -> dict[str, int]:
    """Sequences in each tar as manifest.jsonl says.

    Raises ValueError for a tar that is on one side alone, or there twice.
    """
    manifest, counts = f"{place}/manifest.jsonl", {}
    try:
        lines = read_bytes(manifest).splitlines()
    except FileNotFoundError:
        raise ValueError(f"{manifest}: is not there") from None
    for number, line in enumerate(lines, 1):
        try:
            entry = parse_json(line)
            tar, count = f"{entry['shard']}.tar", count_of(entry, "num_sequences")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{manifest}: line {number}: no shard and num_sequences ({one_line(error)})") from None
        if tar in counts:
            raise ValueError(f"{manifest}: line {number}: {one_line(tar)} is named twice")
        counts[tar] = count
    if odd := sorted(counts.keys() ^ set(names)):
        found = "named but not there" if odd[0] in counts else "not named"
        raise ValueError(f"{manifest}: {one_line(odd[0])} is {found}")
    return counts


def img2dataset_counts(place: str, names: list[str]) -> dict[str, int]:
    """Samples in each tar as img2dataset's NAME_stats.json says, where there is one."""
    counts = {}
    for name in names:
        try:
            sidecar = parse_json(read_bytes(f"{place}/{name.removesuffix('.tar')}_stats.json"))
            counts[name] = count_of(sidecar, "successes")
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{place}/{name}: its _stats.json has no number of successes ({one_line(error)})"
            ) from None
    return counts


EXPECTED = {"dclm_tokenized": dclm_counts, "img2dataset": img2dataset_counts}


def list_llava(job: Job, out: Path, name: str, corpus: dict, place: str) -> dict:
    """List the JSON file and the images that it names. Images that are missing are counted."""
    json_place, missing = f"{place}/{corpus['file']}", 0
    with fsspec.open(json_place, "rb") as file:
        items = (item for _, value in json_records(file, corpus["file"]) if isinstance(item := good(value), dict))
        # A set: conversations often share an image.
        named = {image for item in items if isinstance(image := item.get("image"), str)}
    # Names that lead out of the folder are left to the conversion, which quarantines their records.
    images = sorted(image for image in named if not path_fault(image))
    hashes = Hashes(job, name, job.context["corpora"]["workers"])

    def lines() -> Iterator[dict]:
        nonlocal missing
        names = [corpus["file"], *(image_name(corpus, image) for image in images)]
        for file, entry in zip(names, hashes.of(f"{place}/{file}" for file in names)):
            if "missing" in entry:
                missing += 1
            else:
                yield {"file": file, "bytes": entry["bytes"], "sha256": entry["sha256"]}

    return write_list(out, name, corpus, lines()) | {"missing_images": missing}


# --- benchmarks -------------------------------------------------------------------------------------------------------


def list_benchmark(job: Job, settings: ListedCorpora, out: Path, name: str, place: str) -> dict:
    """Read a benchmark's questions and every image that they are about: all must be there and whole.

    Raises BadRecord for more questions of which that is not so than may be left out.
    """
    folder, corpus = Path(place), settings.corpora[name]
    images = folder / corpus["images"]
    options = {key: corpus[key] for key in ("files", "image_name", "split")}
    if missing := set(question_files.FORMATS[corpus["format"]].files) - set(corpus["files"]):
        raise ValueError(f"{name}: files names no {' and no '.join(sorted(missing))}")
    left_out = LeftOut(settings.left_out_at_most.get(name, 0))
    found = question_files.read_questions(
        corpus["format"], folder, task=name, images=images, left_out=left_out, **options
    )
    questions = list(found)
    if not questions:
        raise BadRecord(folder, "-", f"has no questions of {name}")
    used = sorted({question.image for question in questions})
    files = sorted({*corpus["files"].values()})
    hashes = Hashes(job, name, job.context["corpora"]["workers"])
    damaged: dict[Path, str] = {}

    def lines() -> Iterator[dict]:
        # Images are decoded once here, so that no damaged one is met after hours of training.
        for paths, check in (([folder / file for file in files], None), (used, undecodable)):
            for path, entry in zip(paths, hashes.of(map(str, paths), check)):
                if entry.get("fault"):
                    damaged[path] = entry["fault"]
                else:
                    yield {"file": os.path.relpath(path, folder), "bytes": entry["bytes"], "sha256": entry["sha256"]}

    listed, whole = write_list(out, name, corpus, lines()), []
    for question in questions:
        with left_out:
            if question.image in damaged:
                raise BadRecord(question.image, question.id, damaged[question.image])
            whole.append(question)
    if not whole:
        raise BadRecord(folder, "-", f"has no questions of {name} about an image that can be decoded")
    records = (asdict(question) | {"image": question.image.relative_to(images).as_posix()} for question in whole)
    text = "".join(json.dumps(record, sort_keys=True, ensure_ascii=False) + "\n" for record in records)
    write_text(out / "evaluation" / str(settings.split) / name / "questions.jsonl", text)
    counts = {"questions": len(whole), "images": len(used) - len(damaged)}
    return listed | counts | left_out.say(name)


# --- the phase --------------------------------------------------------------------------------------------------------


def write_heldout(place: str, wanted: int, out: Path) -> dict:
    """The first `wanted` held-out documents, as one file; all of them must be whole."""
    lines: list[str] = []
    names, others = files_below(place, DATA_FILES["dclm_raw"])
    skipped = skip("heldout", others)
    for name in names:
        with fsspec.open(join(place, name), "rb") as file:
            for document in strict(documents(file, name)):
                if len(lines) == wanted:
                    break
                lines.append(json.dumps({"text": document.text, "metadata": {"id": document.id}}, ensure_ascii=False))
    if len(lines) < wanted:
        raise ValueError(f"{place}: has {len(lines)} documents, {wanted} are held out")
    data = zstandard.ZstdCompressor().compress("".join(line + "\n" for line in lines).encode())
    (out / "text").mkdir()
    (out / "text" / "heldout-00000.jsonl.zst").write_bytes(data)
    return {"documents": len(lines)} | skipped


def copy_choices(place: str, may_be_left_out: dict[str, int], out: Path, left_out: dict[str, dict[str, int]]) -> dict:
    """The multiple-choice files: a task's own as TASK.jsonl; folders TASK of a data set's, as they are.

    A task's own must be whole, but for items that may be left out, which are counted in `left_out`.
    """
    counts = {}
    names, others = files_below(place, (*SUFFIXES, ".parquet"))
    for name in names:
        path = out / "evaluation" / "text" / name
        suffix = suffix_of(name)
        # At the top a file is a task of our form; in a folder it is a data set's, in a layout of its own.
        own = name == path.name and suffix in SUFFIXES
        if own and (path := path.with_name(name.removesuffix(suffix) + ".jsonl")).exists():
            raise ValueError(f"{join(place, name)}: there is another file of the task {path.stem}; take one away")
        path.parent.mkdir(parents=True, exist_ok=True)
        if not own:
            path.write_bytes(read_bytes(join(place, name)))
            counts[name] = path.stat().st_size
            continue
        with fsspec.open(join(place, name), "rb") as file:
            records = ((number, good(value)) for number, value in json_records(file, join(place, name)))
            bad = LeftOut(may_be_left_out.get(path.stem, 0))
            items = list(choices(records, join(place, name), path.stem, bad))
        if found := bad.say(path.stem):
            left_out[path.stem] = found
        # As it is, byte for byte, where nothing has to be left out.
        if suffix == ".jsonl" and not found:
            path.write_bytes(read_bytes(join(place, name)))
        else:
            made = ({key: value for key, value in asdict(item).items() if key != "task"} for item in items)
            write_text(path, "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in made))
        counts[name] = len(items)
    return counts | skip("choices", others)


def list_corpora(job: Job, settings: ListedCorpora, out: Path) -> dict:
    """Phase "sources" of real corpora: list a part's files, and write what evaluation needs of it."""
    part, places, listed = settings.part, job.context["corpora"], {}
    where = places[part][settings.split] if part == "evaluation" else places[part]
    for name, corpus in settings.corpora.items():
        place, licence = where[name]["path"], where[name]["licence"]
        if part == "evaluation":
            found = list_benchmark(job, settings, out, name, place)
        elif corpus["format"] == "llava":
            found = list_llava(job, out, name, corpus, place)
        else:
            found = list_tree(job, out, name, corpus, place, corpus["format"])
        listed[name] = found | {"settings": corpus, "licence": licence}
        if corpus["format"] == "datacompdr":
            images = where[name]["images"]
            found = list_tree(job, out, f"{name}.images", corpus["images"], images["path"], "img2dataset")
            listed[name]["images"] = found | {"licence": images["licence"]}
    counts: dict = {"corpora": listed}
    if part == "text":
        assert settings.heldout, "the text of corpora has held-out documents"
        counts["heldout"] = write_heldout(places["heldout"]["path"], settings.heldout["documents"], out)
        left_out: dict[str, dict[str, int]] = {}
        may = settings.left_out_at_most
        counts["choices"] = copy_choices(places["choices"]["path"], may, out, left_out) if settings.choices else {}
        counts |= {"left_out": left_out} if left_out else {}
    write_text(out / MANIFEST, stable_json(counts))
    return counts


def left_out_of(source: Path) -> dict[str, dict[str, int]]:
    """How many items of tasks a source has left out, and boxes it has clipped, by task: see `LeftOut.say`."""
    if not is_corpora(source):
        return {}
    manifest = read_json(source / MANIFEST)
    tasks = manifest["corpora"] | manifest.get("left_out", {})
    counts = {name: {key: n for key, n in one.items() if key in LeftOut.COUNTS} for name, one in tasks.items()}
    return {name: count for name, count in counts.items() if count}
