"""Questions about a scene with their answers."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from pipeline.data.formats.boxes import box_text
from pipeline.data.scenes.captions import POSITIONS, one_thing
from pipeline.data.scenes.glyphs import KIND, PLURAL
from pipeline.data.scenes.render import Scene, Thing

YES, NO = "yes", "no"


@dataclass(frozen=True)
class Asked:
    """A question with its answer and the things that one must recognise to answer it."""

    kind: str
    text: str
    answer: str
    about: tuple[Thing, ...]


def box_prompt(expression: str) -> str:
    """The question for the box of what an expression means."""
    return f"Where is the {expression}?"


def presence_text(name: str) -> str:
    """The question whether something is in the image."""
    return f"Is there {one_thing(name)} in the image?"


def name_questions(scene: Scene) -> list[Asked]:
    """What stands where, one question an object of a plain scene."""
    return [Asked(POSITIONS[t.cell], f"What is at the {POSITIONS[t.cell]}?", t.name, (t,)) for t in scene.objects]


def kind_questions(scene: Scene, names: Container[str]) -> list[Asked]:
    """What kind of thing stands where, one question an object of a plain scene with one of these names."""
    return [
        Asked("kind", f"What kind of thing is at the {POSITIONS[t.cell]}?", KIND[t.name], (t,))
        for t in scene.objects
        if t.name in KIND and t.name in names
    ]


def count_questions(scene: Scene) -> list[Asked]:
    """How many there are, one question a name, the most frequent name first."""
    return [
        Asked(
            "count",
            f"How many {PLURAL[n]} are there?",
            str(k),
            tuple(t for t in scene.objects if t.name == n),
        )
        for n, k in scene.counts.most_common()
    ]


def relation_questions(scene: Scene) -> list[Asked]:
    """What stands next to an object that is the only one of its name, in a plain scene."""
    by_cell = {t.cell: t for t in scene.objects}
    questions = []
    # With two dogs in the image "left of the dog" would have two answers.
    for anchor in scene.unique():
        row, column = divmod(anchor.cell, 2)
        beside, over = by_cell.get(2 * row + 1 - column), by_cell.get(2 * (1 - row) + column)
        if beside:
            kind = "left of" if column else "right of"
            text = f"What is to the {kind} the {anchor.name}?"
            questions.append(Asked(kind, text, beside.name, (anchor, beside)))
        if over:
            kind = "above" if row else "below"
            questions.append(Asked(kind, f"What is {kind} the {anchor.name}?", over.name, (anchor, over)))
    return questions


def reading_questions(scene: Scene) -> list[Asked]:
    """What the sign says, if there is one."""
    if not scene.word:
        return []
    return [Asked("word", "What word is written in the image?", scene.word.name, (scene.word,))]


def box_questions(scene: Scene) -> list[Asked]:
    """Where an object is that is the only one of its name: the name is the expression, the box the answer."""
    return [Asked("object", t.name, box_text(scene.box(t)), (t,)) for t in scene.unique()]
