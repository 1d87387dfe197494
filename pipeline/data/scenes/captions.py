"""Captions of a scene: full, short and as keywords; and references in other words."""

from __future__ import annotations

import random
from collections.abc import Sequence

from pipeline.data.scenes.glyphs import PLURAL, SIGNS
from pipeline.data.scenes.render import Scene

POSITIONS = ("top left", "top right", "bottom left", "bottom right")
NUMBERS = {2: "two", 3: "three", 4: "four"}


def one_thing(name: str) -> str:
    """A name with its article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _some(name: str, count: int) -> str:
    return one_thing(name) if count == 1 else f"{NUMBERS[count]} {PLURAL[name]}"


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _where(cells: tuple[int, ...]) -> str:
    """Where a group of like objects stands in a plain scene."""
    groups = {(0, 1): "at the top", (2, 3): "at the bottom", (0, 2): "on the left", (1, 3): "on the right"}
    if len(cells) == 1:
        return f"at the {POSITIONS[cells[0]]}"
    if len(cells) == 2:
        return groups.get(cells, "in opposite corners")
    if len(cells) == 3:
        return f"everywhere but at the {POSITIONS[(set(range(4)) - set(cells)).pop()]}"
    return "in the four corners"


def _by_place(scene: Scene) -> str:
    # One part a name, however many there are of it, in reading order of the first of each.
    cells: dict[str, list[int]] = {}
    for thing in scene.objects:
        cells.setdefault(thing.name, []).append(thing.cell)
    parts = [f"{_some(name, len(where))} {_where(tuple(where))}" for name, where in cells.items()]
    if scene.word:
        parts.append(f"a sign that says {scene.word.name} {_where((scene.word.cell,))}")
    return _join(parts)


def _by_row(scene: Scene) -> str:
    rows = []
    for row, where in ((0, "at the top"), (1, "at the bottom")):
        things = sorted((t for t in scene.things if t.cell // 2 == row), key=lambda t: t.cell)
        signs = [f"a sign that says {t.name}" if t.artist in SIGNS else one_thing(t.name) for t in things]
        # "a dog and a dog" is no English.
        if len(things) == 2 and things[0].name == things[1].name:
            signs = [_some(things[0].name, 2)]
        if signs:
            rows.append(f"{_join(signs)} {where}")
    return ", and ".join(rows)


def _by_neighbour(scene: Scene) -> str | None:
    """Two things and how they stand to each other; None unless they are exactly two and in one row or column."""
    if len(scene.things) != 2:
        return None
    first, second = sorted(scene.things, key=lambda t: t.cell)
    relation = {(0, 1): "to the left of", (2, 3): "to the left of", (0, 2): "above", (1, 3): "above"}.get(
        (first.cell, second.cell)
    )
    names = [f"a sign that says {t.name}" if t.artist in SIGNS else one_thing(t.name) for t in (first, second)]
    return f"{names[0]} {relation} {names[1]}" if relation else None


def short_caption(scene: Scene) -> str:
    """The names alone: "a dog, two apples and a sign that says open"."""
    parts = [_some(name, count) for name, count in scene.counts.items()]
    return _join(parts + ([f"a sign that says {scene.word.name}"] if scene.word else []))


def keywords(scene: Scene) -> str:
    """Every name once: "dog, apple, open"."""
    return ", ".join([*scene.counts, *([scene.word.name] if scene.word else [])])


OPENINGS = (
    "{}",
    "a picture of {}",
    "an image with {}",
    "this picture shows {}",
    "we can see {}",
    "here we have {}",
)
CROWDED = (
    "a cluttered scene with {}",
    "many things close together: {}",
    "a crowded picture of {}",
    "a pile of {}",
)


def _captions(scene: Scene) -> list[str]:
    """All sentences of 8 to 25 words that tell a plain scene; two ways of telling it may come to the same."""
    bodies = [body for body in (_by_place(scene), _by_row(scene), _by_neighbour(scene)) if body]
    texts = [opening.format(body) for body in bodies for opening in OPENINGS]
    return [text for text in texts if 8 <= len(text.split()) <= 25]


def caption(rng: random.Random, scene: Scene) -> str:
    """A sentence of 8 to 25 words with names, places and words."""
    if scene.layout == "cluttered":
        return rng.choice(CROWDED).format(short_caption(scene))
    return rng.choice(_captions(scene))


def references(rng: random.Random, scene: Scene, count: int) -> list[str]:
    """So many different captions of a plain scene. Raises ValueError if it cannot be told in so many ways."""
    # Not a set: its order differs between processes, and with it the draw would.
    return rng.sample(list(dict.fromkeys(_captions(scene))), count)
