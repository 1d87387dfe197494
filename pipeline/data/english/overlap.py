"""Words of texts, and which texts overlap with which."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

WORD = re.compile(r"[A-Za-z0-9]+")
# A run of 13 words in common is the usual mark of contamination (GPT-3). Shorter texts must occur whole;
# those below four words ("Predators eat") say nothing.
RUN = 13
SHORTEST = 4
# A run of 13 words covers 8 words from some position that 6 divides: it is enough to look there.
PROBE, STRIDE = 8, 6


def words_of(text: str) -> list[str]:
    """Runs of ASCII letters and digits: neither punctuation nor other scripts count."""
    return WORD.findall(text)


def plain(text: str) -> str:
    """A text's words in lower case, one blank between them."""
    return " ".join(words_of(text)).lower()


def runs(words: list[str], size: int) -> Iterable[str]:
    """All runs of `size` words."""
    return (" ".join(words[i : i + size]) for i in range(len(words) - size + 1))


class Overlap:
    """Says whether a text shares a run of 13 words with one of `texts`, or holds all of one of 4 to 12."""

    def __init__(self, texts: Iterable[str]):
        self._runs: set[str] = set()
        self._probes: set[str] = set()
        self._short: dict[str, list[str]] = defaultdict(list)
        for text in sorted({plain(text) for text in texts}):
            words = text.split()
            if len(words) >= RUN:
                self._runs.update(runs(words, RUN))
                self._probes.update(runs(words, PROBE))
            elif len(words) >= SHORTEST:
                self._short[max(words, key=len)].append(f" {text} ")  # long words are rare ones

    def found_in(self, text: str) -> bool:
        """`text` must be in plain form."""
        words = text.split()
        probes = (" ".join(words[i : i + PROBE]) for i in range(0, len(words) - PROBE + 1, STRIDE))
        # The probes are a quick first look: only a text that has one is gone through word by word.
        if not self._probes.isdisjoint(probes) and not self._runs.isdisjoint(runs(words, RUN)):
            return True
        keys = self._short.keys() & set(words)
        return bool(keys) and any(short in f" {text} " for key in keys for short in self._short[key])
