"""Evaluation scenes, and the questions asked about them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pipeline.data.job_settings import MadeEvaluation
from pipeline.data.scenes import chance, compose, render
from pipeline.data.scenes.captions import references
from pipeline.data.scenes.compose import Vocabulary
from pipeline.data.scenes.questions import (
    NO,
    YES,
    Asked,
    box_questions,
    count_questions,
    kind_questions,
    name_questions,
    presence_text,
    reading_questions,
    relation_questions,
)
from pipeline.data.scenes.render import Scene

CLUTTER_QUESTIONS = 2  # boxes asked for in a cluttered image
NOVEL_QUESTIONS = 2  # names asked for in an image of concepts that occur in captions only
REFERENCES = 5  # captions of an evaluation image, as in COCO
POPE_SPLITS = ("random", "popular", "adversarial")


@dataclass(frozen=True)
class Item:
    """A question about an evaluation image; `number` tells apart the questions of one task about one image."""

    image_id: int
    number: int
    asked: Asked
    scene: Scene
    split: str

    @property
    def id(self) -> int:
        # The official files have whole numbers as ids. No task asks ten questions about one image.
        return self.image_id * 10 + self.number

    @property
    def file(self) -> str:
        return image_name(self.image_id)


def image_name(image_id: int) -> str:
    """The file name of an evaluation image, in COCO's form."""
    return f"{image_id:012d}.jpg"


def evaluation_scenes(settings: MadeEvaluation, split: str) -> list[tuple[str, Scene]]:
    """(group, scene) of every image of "validation" or "test"; image k + 1 is entry k.

    A quarter are "cluttered"; an eighth are "novel" (caption-only concepts, if there are two or more); the rest are
    "plain". In each group every second scene holds a held-out pair and the others hold none.
    """
    vocabulary = compose.vocabulary_of(settings)
    made = []
    seen: Counter = Counter()
    for index in range(getattr(settings, f"{split}_images")):
        group = "cluttered" if index % 4 == 3 else "plain"
        if index % 8 == 1 and len(vocabulary.extra) > 1:
            group = "novel"
        pool = vocabulary.extra if group == "novel" else vocabulary.main
        rng = chance.rng_for(settings.seed, split, index)
        kind = "named" if group == "novel" else group
        # The words take turns, so that none is worth guessing.
        turn = seen["sign"] % max(1, len(vocabulary.words))
        composition = compose.compose(
            rng,
            vocabulary,
            kind,
            split,
            pool,
            held_out_pair=seen[group] % 2 == 0,
            words=vocabulary.words[turn : turn + 1],
        )
        seen.update([group] + ["sign"] * (composition.word is not None))
        made.append((group, render.dress(rng, composition, settings.canvas)))
    return made


def question_split(asked: Asked, scene: Scene, vocabulary: Vocabulary) -> str:
    """What is new about a question: "held_out_kind", "held_out_artist", "held_out_pair" or "seen"."""
    hidden = vocabulary.held_out_drawings
    if asked.kind == "kind" and any(thing.name in vocabulary.held_out_kinds for thing in asked.about):
        return "held_out_kind"
    if any(hidden.get(thing.name) == thing.artist for thing in asked.about):
        return "held_out_artist"
    return "held_out_pair" if scene.composition.has_held_out_pair else "seen"


class _Picker:
    """Picks the question whose answer has been the right one least often, so that no answer is worth guessing."""

    def __init__(self, rng: random.Random, share: Callable[[Asked], float] = lambda asked: 1.0):
        self.rng, self.share = rng, share
        self.used: Counter = Counter()

    def pick(self, options: Sequence[Asked], key: Callable[[Asked], str] = lambda asked: asked.answer) -> Asked:
        order = list(options)
        # `min` takes the first of equals, so the shuffle makes that a draw.
        self.rng.shuffle(order)
        best = min(order, key=lambda asked: self.used[key(asked)] / self.share(asked))
        self.used[key(best)] += 1
        return best


def _one_each(
    images: Iterable[tuple[int, Scene]],
    vocabulary: Vocabulary,
    picker: _Picker,
    options: Callable[[Scene], list[Asked]],
    key: Callable[[Asked], str] = lambda asked: asked.answer,
    count: int = 1,
) -> list[Item]:
    """Up to `count` questions of one task about every image that has any."""
    items = []
    # Images that leave little choice go first; the others then make up for them.
    choices = sorted(((image_id, scene, options(scene)) for image_id, scene in images), key=lambda c: len(c[2]))
    for image_id, scene, left in choices:
        for number in range(min(count, len(left))):
            asked = picker.pick(left, key)
            left.remove(asked)
            items.append(Item(image_id, number, asked, scene, question_split(asked, scene, vocabulary)))
    return sorted(items, key=lambda item: item.id)


def _relation_options(scene: Scene) -> list[Asked]:
    return count_questions(scene) + relation_questions(scene)


def evaluation_items(settings: MadeEvaluation, split: str, made: list[tuple[str, Scene]]) -> dict[str, list[Item]]:
    """The questions of every task (presence as "presence/random" and so on) about the scenes of a split."""
    vocabulary = compose.vocabulary_of(settings)
    groups: dict[str, list[tuple[int, Scene]]] = {"plain": [], "cluttered": [], "novel": []}
    for index, (group, scene) in enumerate(made):
        groups[group].append((index + 1, scene))
    plain = groups["plain"]

    def picker(task: str, share: Callable[[Asked], float] = lambda asked: 1.0) -> _Picker:
        return _Picker(chance.rng_for(settings.seed, f"{split} {task}", 0), share)

    # Half of the relation task counts: four answers share that half, all names share the other. There is one of
    # something in nearly every scene, so "1" gets less than its share to begin with.
    def share(asked: Asked) -> float:
        if asked.kind == "count":
            return 1 / 14 if asked.answer == "1" else 1 / 8
        return 1 / (2 * len(vocabulary.main))

    items = {
        "short_answer": _one_each(plain, vocabulary, picker("short_answer"), name_questions),
        "relations": _one_each(
            plain,
            vocabulary,
            picker("relations", share),
            _relation_options,
        ),
        "reading": _one_each(plain, vocabulary, picker("reading"), reading_questions),
        "kinds": _one_each(plain, vocabulary, picker("kinds"), lambda scene: kind_questions(scene, vocabulary.main)),
        "boxes": _one_each(plain, vocabulary, picker("boxes"), box_questions, lambda asked: asked.text),
        "clutter": _one_each(
            groups["cluttered"],
            vocabulary,
            picker("clutter"),
            box_questions,
            lambda asked: asked.text,
            CLUTTER_QUESTIONS,
        ),
        "novel_names": _one_each(
            groups["novel"], vocabulary, picker("novel_names"), name_questions, count=NOVEL_QUESTIONS
        ),
    }
    for kind in POPE_SPLITS:
        rng = chance.rng_for(settings.seed, f"{split} presence {kind}", 0)
        items[f"presence/{kind}"] = _presence_items(rng, plain, vocabulary, kind)
    return items


def _company_rank(scene: Scene, vocabulary: Vocabulary) -> dict[str, int]:
    """Concepts ranked by how often training shows them with what this scene shows, the most frequent first."""
    # Sorted, as a set's order differs between processes and a sum of floats depends on its order.
    present = sorted(set(scene.counts))

    def together(name: str) -> float:
        return vocabulary.weights[name] * sum(vocabulary.weights[p] * compose.company(p, name) for p in present)

    order = sorted(vocabulary.main, key=lambda name: (-together(name), name))
    return {name: rank for rank, name in enumerate(order)}


def _presence_items(
    rng: random.Random, images: list[tuple[int, Scene]], vocabulary: Vocabulary, kind: str
) -> list[Item]:
    """One yes/no question an image; every question string is answered yes exactly as often as no.

    Half of the images are asked for something they show. The same names are then dealt out to the other half so that
    the sum of costs is least: chance for random, the rank in company with what is shown for adversarial. Popular uses
    popular names only. A name that fits no image is dropped along with one image that shows it.
    """
    from scipy.optimize import linear_sum_assignment

    asked_for = vocabulary.popular if kind == "popular" else vocabulary.main
    shuffled = rng.sample(images, len(images))
    # Images that show nothing on the list can only be asked the "no" way, so they go last.
    shuffled.sort(key=lambda image: not set(image[1].counts) & set(asked_for))
    half = len(images) // 2
    used: Counter = Counter()
    positives: list[tuple[int, Scene, str]] = []
    for image_id, scene in shuffled[:half]:
        names = [name for name in scene.counts if name in asked_for]
        if names:
            name = min(rng.sample(names, len(names)), key=lambda n: used[n])
            used[name] += 1
            positives.append((image_id, scene, name))
    negatives = shuffled[half:]
    # Not infinity, for which SciPy raises an error if every assignment has such a pair. It is far above any real price.
    impossible = 1e6
    costs = []
    for _, scene in negatives:
        rank = _company_rank(scene, vocabulary)
        row = []
        for _, _, name in positives:
            price = 10.0 * rank[name] if kind == "adversarial" else 0.0
            row.append(impossible if name in scene.counts else price + rng.random())
        costs.append(row)
    items = []
    for row, column in zip(*linear_sum_assignment(costs) if costs and positives else ((), ())):
        if costs[row][column] >= impossible:
            continue
        image_id, scene, name = positives[column]
        about = tuple(thing for thing in scene.objects if thing.name == name)
        items.append((image_id, scene, name, YES, about))
        items.append((*negatives[row], name, NO, ()))
    made = []
    for image_id, scene, name, answer, about in sorted(items, key=lambda item: item[0]):
        asked = Asked(kind, presence_text(name), answer, about)
        made.append(Item(image_id, 0, asked, scene, question_split(asked, scene, vocabulary)))
    return made


def captioned_images(
    settings: MadeEvaluation, split: str, made: list[tuple[str, Scene]]
) -> list[tuple[int, Scene, list[str]]]:
    """(image id, scene, reference captions) of every plain image of a split."""
    captioned = []
    for index, (group, scene) in enumerate(made):
        if group == "plain":
            rng = chance.rng_for(settings.seed, f"{split} captioning", index)
            captioned.append((index + 1, scene, references(rng, scene, REFERENCES)))
    return captioned
