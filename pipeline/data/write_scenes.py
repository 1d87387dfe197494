"""Writes composed scenes in the official formats, so one set of readers serves them and the real data sets.

    captions/00000.tar ...                        img2dataset: KEY.jpg, KEY.txt, KEY.json; at most 1000 samples a tar
    instructions/conversations.json, images/      LLaVA
    evaluation/{validation,test}/images/          000000000001.jpg ...
    evaluation/{validation,test}/TASK/            as below

    short_answer   VQAv2     questions.json, annotations.json
    presence       POPE      random.json, popular.json, adversarial.json (JSON lines)
    relations      GQA       questions.json (counting and relations)
    reading        TextVQA   questions.json
    boxes          RefCOCO   instances.json, refs.json (the refer records, as JSON)
    clutter        OCID-Ref  expressions.json
    novel_names    VQAv2     questions.json, annotations.json (names that no instruction mentions)
    captioning     COCO      captions.json (five references for every plain image)

The same settings give the same bytes. Every evaluation question has an extra field `split`: "held_out_artist" if a thing
that it is about is drawn as in no training scene, else "held_out_pair" if the scene holds a pair that no training scene
holds, else "seen". (In refs.json it stands in the sentence: a refer record has a `split` of its own.)
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from pipeline.data import scenes
from pipeline.data.scenes import Asked, Scene, Vocabulary

SAMPLES_A_TAR = 1000
CLUTTER_QUESTIONS = 2  # boxes asked for in a cluttered image
NOVEL_QUESTIONS = 2  # names asked for in an image of concepts that occur in captions only
CLUTTERED_ONE_IN = 8  # training images; twice as many among captions and in the evaluation
PRESENCE_TURNS = 1
COUNT_SHARE = (
    0.20,
    0.80,
    0.95,
    1.0,
)  # how often to ask how many, by the number there is of the most frequent
OTHER_COUNT_SHARE = 0.2
EXPRESSION_BOXES = 2  # boxes asked for in a cluttered training image, at most
# A box is 18 labels where a name is 2: asked more often, boxes drown what the other questions teach.
PLAIN_BOX_SHARE = 0.3  # of plain training images have a box question
REFERENCES = 5  # captions of an evaluation image, as in COCO
POPE_SPLITS = ("random", "popular", "adversarial")


def write_scenes(out: Path, settings: SimpleNamespace, part: str) -> dict:
    """Write one part ("captions", "instructions" or "evaluation") under `out`/part, a folder that must not exist yet.

    Returns what was written: images, bytes, and either samples, turns by family or questions by split and task.
    Raises ValueError on an unknown part or settings that cannot be met, FileExistsError if the folder is there.
    """
    writers = {
        "captions": _write_captions,
        "instructions": _write_instructions,
        "evaluation": _write_evaluation,
    }
    if part not in writers:
        raise ValueError(f"part must be one of {', '.join(writers)}: {part!r}")
    folder = Path(out) / part
    folder.mkdir(parents=True)
    counts = writers[part](folder, settings)
    counts["bytes"] = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    return counts


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


# --- captions ---------------------------------------------------------------------------------------------------------


def caption_scene(settings: SimpleNamespace, index: int) -> tuple[Scene, str]:
    """Scene and caption number `index`: any concept, also those that occur in captions only."""
    vocabulary = scenes.vocabulary_of(settings)
    rng = scenes.rng_for(settings.seed, "captions", index)
    kind = "cluttered" if index % 4 == 3 else "plain"
    composition = scenes.compose(rng, vocabulary, kind, "train", vocabulary.main + vocabulary.extra)
    scene = scenes.dress(rng, composition, settings.canvas)
    return scene, scenes.caption(rng, scene)


def _caption_members(settings: SimpleNamespace, index: int, key: str) -> list[tuple[str, bytes]]:
    scene, text = caption_scene(settings, index)
    image = scenes.jpeg(scenes.render(scene))
    sha256 = hashlib.sha256(image).hexdigest()
    facts = {
        "uid": hashlib.sha256(f"{index}|{sha256}".encode()).hexdigest()[:32],
        "key": key,
        "url": "",
        "caption": text,
        "status": "success",
        "error_message": None,
        "sha256": sha256,
        "width": scene.canvas,
        "height": scene.canvas,
        "original_width": scene.canvas,
        "original_height": scene.canvas,
        "short_caption": scenes.short_caption(scene),
        "keywords": scenes.keywords(scene),
    }
    return [
        (f"{key}.jpg", image),
        (f"{key}.json", json.dumps(facts).encode()),
        (f"{key}.txt", text.encode()),
    ]


def _write_captions(folder: Path, settings: SimpleNamespace) -> dict:
    for first in range(0, settings.captions, SAMPLES_A_TAR):
        shard = first // SAMPLES_A_TAR
        with tarfile.open(folder / f"{shard:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for index in range(first, min(first + SAMPLES_A_TAR, settings.captions)):
                # img2dataset's key: five digits of the shard, three of the sample.
                for name, data in _caption_members(settings, index, f"{shard:05d}{index - first:03d}"):
                    # TarInfo's defaults (time, owner and group 0) are what makes the tar the same every time.
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return {"images": settings.captions, "samples": settings.captions}


# --- instructions -----------------------------------------------------------------------------------------------------


def _instruction_composition(settings: SimpleNamespace, index: int, rng: random.Random) -> scenes.Composition:
    vocabulary = scenes.vocabulary_of(settings)
    kind = "cluttered" if index // 2 % CLUTTERED_ONE_IN == CLUTTERED_ONE_IN - 1 else "plain"
    return scenes.compose(rng, vocabulary, kind, "train", vocabulary.main)


def _presence_turns(
    settings: SimpleNamespace, index: int, own: scenes.Composition, turns: int
) -> list[tuple[str, str]]:
    """Presence questions of conversation `index`, whose neighbour gets the same questions with the opposite answers.

    Conversations 2k and 2k + 1 are neighbours: something that only one of them shows is asked for in both. So every
    question string is answered yes exactly as often as no. The last conversation of an odd number gets none.
    """
    other = index ^ 1
    if other >= settings.conversations:
        return []
    neighbour = _instruction_composition(settings, other, scenes.rng_for(settings.seed, "instructions", other))
    pair = [own, neighbour] if index % 2 == 0 else [neighbour, own]
    rng = scenes.rng_for(settings.seed, "presence", index // 2)
    asked = []
    for a, b in (pair, pair[::-1]):
        if only := sorted(a.names - b.names):
            asked.append(rng.choice(only))
    asked = asked[:turns]
    return [(scenes.presence_text(name), scenes.YES if name in own.names else scenes.NO) for name in asked]


def conversation(settings: SimpleNamespace, index: int) -> tuple[Scene, list[tuple[str, str, str]]]:
    """Scene and turns (family, human text, answer) of conversation number `index`."""
    rng = scenes.rng_for(settings.seed, "instructions", index)
    composition = _instruction_composition(settings, index, rng)
    scene = scenes.dress(rng, composition, settings.canvas)
    presence = _presence_turns(settings, index, composition, min(PRESENCE_TURNS, settings.turns // 2))
    turns = [("presence", text, answer) for text, answer in presence]
    turns += _other_turns(rng, scene, settings.turns - len(turns))
    rng.shuffle(turns)
    return scene, turns


def _count_turn(rng: random.Random, scene: Scene) -> list[Asked]:
    """At most one counting question, such that the answers 1 to 4 are about equally frequent over many scenes."""
    first, *others = scenes.count_questions(scene)
    # Beside several of a kind, sometimes ask for what there is one of: else "count what there are most of" would do.
    if others and first.answer != "1" and rng.random() < OTHER_COUNT_SHARE:
        return [rng.choice(others)]
    return [first] if rng.random() < COUNT_SHARE[int(first.answer) - 1] else []


def _other_turns(rng: random.Random, scene: Scene, room: int) -> list[tuple[str, str, str]]:
    """Up to `room` turns, from each family in turn until all are used up."""
    families: dict[str, list[Asked]] = {"boxes": scenes.box_questions(scene)}
    if scene.layout == "plain":
        families["short_answer"] = scenes.name_questions(scene)
        families["relations"] = scenes.relation_questions(scene)
        families["reading"] = scenes.reading_questions(scene)
        families["counting"] = _count_turn(rng, scene)
        del families["boxes"][int(rng.random() < PLAIN_BOX_SHARE) :]
    else:
        rng.shuffle(families["boxes"])
        del families["boxes"][EXPRESSION_BOXES:]
        if not families["boxes"]:  # a small vocabulary may leave nothing that there is only one of
            families["counting"] = scenes.count_questions(scene)[:1]
    names = sorted(families)
    rng.shuffle(names)
    # A sign is always asked about: words are the rarest thing to learn.
    names.sort(key=lambda name: name != "reading")
    for questions in families.values():
        rng.shuffle(questions)
    turns: list[tuple[str, str, str]] = []
    while len(turns) < room and any(families.values()):
        for name in names:
            if families[name] and len(turns) < room:
                asked = families[name].pop()
                text = scenes.box_prompt(asked.text) if name == "boxes" else asked.text
                turns.append((name, text, asked.answer))
    return turns


def _write_instructions(folder: Path, settings: SimpleNamespace) -> dict:
    (folder / "images").mkdir()
    records = []
    families: Counter[str] = Counter()
    for index in range(settings.conversations):
        scene, turns = conversation(settings, index)
        name = f"{index:06d}.jpg"
        (folder / "images" / name).write_bytes(scenes.jpeg(scenes.render(scene)))
        families.update(family for family, _, _ in turns)
        messages = []
        for number, (_, human, answer) in enumerate(turns):
            messages.append({"from": "human", "value": "<image>\n" + human if number == 0 else human})
            messages.append({"from": "gpt", "value": answer})
        records.append({"id": f"{index:06d}", "image": name, "conversations": messages})
    _write_json(folder / "conversations.json", records)
    return {"images": settings.conversations, "turns": dict(sorted(families.items()))}


# --- evaluation -------------------------------------------------------------------------------------------------------


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
        return self.image_id * 10 + self.number

    @property
    def file(self) -> str:
        return image_name(self.image_id)


def image_name(image_id: int) -> str:
    return f"{image_id:012d}.jpg"


def evaluation_scenes(settings: SimpleNamespace, split: str) -> list[tuple[str, Scene]]:
    """(group, scene) of every image of "validation" or "test"; image k + 1 is entry k.

    A quarter are "cluttered"; an eighth are "novel" (caption-only concepts, if there are two or more); the rest are
    "plain". In each group every second scene holds a held-out pair and the others hold none.
    """
    vocabulary = scenes.vocabulary_of(settings)
    made = []
    seen: Counter = Counter()
    for index in range(getattr(settings, f"{split}_images")):
        group = "cluttered" if index % 4 == 3 else "plain"
        if index % 8 == 1 and len(vocabulary.extra) > 1:
            group = "novel"
        pool = vocabulary.extra if group == "novel" else vocabulary.main
        rng = scenes.rng_for(settings.seed, split, index)
        kind = "named" if group == "novel" else group
        # The words take turns, so that none is worth guessing.
        turn = seen["sign"] % max(1, len(vocabulary.words))
        composition = scenes.compose(
            rng,
            vocabulary,
            kind,
            split,
            pool,
            held_out_pair=seen[group] % 2 == 0,
            words=vocabulary.words[turn : turn + 1],
        )
        seen.update([group] + ["sign"] * (composition.word is not None))
        made.append((group, scenes.dress(rng, composition, settings.canvas)))
    return made


def question_split(asked: Asked, scene: Scene, vocabulary: Vocabulary) -> str:
    """What is new about a question: "held_out_artist", "held_out_pair" or "seen"."""
    hidden = vocabulary.held_out_drawings
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
    return scenes.count_questions(scene) + scenes.relation_questions(scene)


def evaluation_items(settings: SimpleNamespace, split: str, made: list[tuple[str, Scene]]) -> dict[str, list[Item]]:
    """The questions of every task (presence as "presence/random" and so on) about the scenes of a split."""
    vocabulary = scenes.vocabulary_of(settings)
    groups: dict[str, list[tuple[int, Scene]]] = {"plain": [], "cluttered": [], "novel": []}
    for index, (group, scene) in enumerate(made):
        groups[group].append((index + 1, scene))
    plain = groups["plain"]

    def picker(task: str, share: Callable[[Asked], float] = lambda asked: 1.0) -> _Picker:
        return _Picker(scenes.rng_for(settings.seed, f"{split} {task}", 0), share)

    # Half of the relation task counts: four answers share that half, all names share the other. There is one of
    # something in nearly every scene, so "1" gets less than its share to begin with.
    def share(asked: Asked) -> float:
        if asked.kind == "count":
            return 1 / 14 if asked.answer == "1" else 1 / 8
        return 1 / (2 * len(vocabulary.main))

    items = {
        "short_answer": _one_each(plain, vocabulary, picker("short_answer"), scenes.name_questions),
        "relations": _one_each(
            plain,
            vocabulary,
            picker("relations", share),
            _relation_options,
        ),
        "reading": _one_each(plain, vocabulary, picker("reading"), scenes.reading_questions),
        "boxes": _one_each(plain, vocabulary, picker("boxes"), scenes.box_questions, lambda asked: asked.text),
        "clutter": _one_each(
            groups["cluttered"],
            vocabulary,
            picker("clutter"),
            scenes.box_questions,
            lambda asked: asked.text,
            CLUTTER_QUESTIONS,
        ),
        "novel_names": _one_each(
            groups["novel"], vocabulary, picker("novel_names"), scenes.name_questions, count=NOVEL_QUESTIONS
        ),
    }
    for kind in POPE_SPLITS:
        rng = scenes.rng_for(settings.seed, f"{split} presence {kind}", 0)
        items[f"presence/{kind}"] = _presence_items(rng, plain, vocabulary, kind)
    return items


def _company_rank(scene: Scene, vocabulary: Vocabulary) -> dict[str, int]:
    """Concepts ranked by how often training shows them with what this scene shows, the most frequent first."""
    present = sorted(set(scene.counts))

    def together(name: str) -> float:
        return vocabulary.weights[name] * sum(vocabulary.weights[p] * scenes.company(p, name) for p in present)

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
        items.append((image_id, scene, name, scenes.YES, about))
        items.append((*negatives[row], name, scenes.NO, ()))
    made = []
    for image_id, scene, name, answer, about in sorted(items, key=lambda item: item[0]):
        asked = Asked(kind, scenes.presence_text(name), answer, about)
        made.append(Item(image_id, 0, asked, scene, question_split(asked, scene, vocabulary)))
    return made


def captioned_images(
    settings: SimpleNamespace, split: str, made: list[tuple[str, Scene]]
) -> list[tuple[int, Scene, list[str]]]:
    """(image id, scene, reference captions) of every plain image of a split."""
    captioned = []
    for index, (group, scene) in enumerate(made):
        if group == "plain":
            rng = scenes.rng_for(settings.seed, f"{split} captioning", index)
            captioned.append((index + 1, scene, scenes.references(rng, scene, REFERENCES)))
    return captioned


def _write_evaluation(folder: Path, settings: SimpleNamespace) -> dict:
    counts: dict = {"images": 0, "questions": {}}
    for split in ("validation", "test"):
        made = evaluation_scenes(settings, split)
        (folder / split / "images").mkdir(parents=True)
        for index, (_, scene) in enumerate(made):
            (folder / split / "images" / image_name(index + 1)).write_bytes(scenes.jpeg(scenes.render(scene)))
        items = evaluation_items(settings, split, made)
        write_vqav2(folder / split / "short_answer", items["short_answer"], split)
        for kind in POPE_SPLITS:
            write_pope(folder / split / "presence" / f"{kind}.json", items[f"presence/{kind}"])
        write_gqa(folder / split / "relations", items["relations"])
        write_textvqa(folder / split / "reading", items["reading"], split)
        write_refcoco(folder / split / "boxes", items["boxes"], split)
        write_ocid(folder / split / "clutter", items["clutter"])
        if items["novel_names"]:
            write_vqav2(folder / split / "novel_names", items["novel_names"], split)
        captioned = captioned_images(settings, split, made)
        write_coco_captions(folder / split / "captioning", captioned)
        counts["images"] += len(made)
        counts["questions"][split] = {task: len(asked) for task, asked in items.items()}
        counts["questions"][split]["captioning"] = len(captioned)
    return counts


# --- the official layouts ---------------------------------------------------------------------------------------------


def write_vqav2(folder: Path, items: list[Item], split: str) -> None:
    """VQAv2: open-ended questions and, in a second file, their annotations with ten answers."""
    header = {
        "info": {"description": "composed scenes"},
        "license": {},
        "data_type": "scenes",
        "data_subtype": split,
    }
    questions = [
        {"image_id": i.image_id, "question": i.asked.text, "question_id": i.id, "split": i.split} for i in items
    ]
    annotations = [
        {
            "question_type": i.asked.kind,
            "multiple_choice_answer": i.asked.answer,
            "answers": [{"answer": i.asked.answer, "answer_confidence": "yes", "answer_id": n + 1} for n in range(10)],
            "image_id": i.image_id,
            "answer_type": "other",
            "question_id": i.id,
        }
        for i in items
    ]
    _write_json(folder / "questions.json", {**header, "task_type": "Open-Ended", "questions": questions})
    _write_json(folder / "annotations.json", {**header, "annotations": annotations})


def write_pope(path: Path, items: list[Item]) -> None:
    """POPE: JSON lines, one file a way of choosing what is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "question_id": n + 1,
            "image": i.file,
            "text": i.asked.text,
            "label": i.asked.answer,
            "split": i.split,
        }
        for n, i in enumerate(items)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_gqa(folder: Path, items: list[Item]) -> None:
    """GQA: a dictionary from question id to question."""
    questions = {}
    for i in items:
        counting = i.asked.kind == "count"
        questions[str(i.id)] = {
            "semantic": [],
            "entailed": [],
            "equivalent": [str(i.id)],
            "question": i.asked.text,
            "imageId": Path(i.file).stem,
            "isBalanced": True,
            "groups": {"global": None, "local": None},
            "answer": i.asked.answer,
            "semanticStr": "",
            "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
            "types": {
                "detailed": i.asked.kind,
                "semantic": "global" if counting else "rel",
                "structural": "query",
            },
            "fullAnswer": i.asked.answer,
            "split": i.split,
        }
    _write_json(folder / "questions.json", questions)


def write_textvqa(folder: Path, items: list[Item], split: str) -> None:
    """TextVQA: one file with questions and ten answers each."""
    data = [
        {
            "question": i.asked.text,
            "image_id": Path(i.file).stem,
            "image_classes": sorted(i.scene.counts),
            "flickr_original_url": "",
            "flickr_300k_url": "",
            "image_width": i.scene.canvas,
            "image_height": i.scene.canvas,
            "answers": [i.asked.answer] * 10,
            "question_tokens": i.asked.text.lower().rstrip("?").split(),
            "question_id": i.id,
            "set_name": split,
            "split": i.split,
        }
        for i in items
    ]
    header = {"dataset_type": split, "dataset_name": "composed scenes", "dataset_version": "1"}
    _write_json(folder / "questions.json", {**header, "data": data})


def write_refcoco(folder: Path, items: list[Item], split: str) -> None:
    """RefCOCO: COCO instances (bbox = x, y, width, height in px) and refer records (as JSON, not as a pickle)."""
    names = {name: n + 1 for n, name in enumerate(scenes.GLYPH)}
    images, annotations, refs = [], [], []
    for n, i in enumerate(items):
        (thing,) = i.asked.about
        x1, y1, x2, y2 = thing.box
        size = {"height": i.scene.canvas, "width": i.scene.canvas}
        images.append({"id": i.image_id, "file_name": i.file, **size, "license": 0, "coco_url": ""})
        annotations.append(
            {
                "id": i.id,
                "image_id": i.image_id,
                "category_id": names[thing.name],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
                "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
            }
        )
        sentence = {"sent_id": n, "sent": i.asked.text, "raw": i.asked.text, "tokens": i.asked.text.split()}
        refs.append(
            {
                "ref_id": n,
                "ann_id": i.id,
                "image_id": i.image_id,
                "file_name": i.file,
                "category_id": names[thing.name],
                "split": {"validation": "val"}.get(split, split),
                "sent_ids": [n],
                "sentences": [{**sentence, "split": i.split}],
            }
        )
    categories = [{"id": n, "name": name, "supercategory": scenes.category(name)} for name, n in names.items()]
    instances = {"info": {"description": "composed scenes"}, "licenses": [], "categories": categories}
    _write_json(folder / "instances.json", {**instances, "images": images, "annotations": annotations})
    _write_json(folder / "refs.json", refs)


def write_coco_captions(folder: Path, captioned: list[tuple[int, Scene, list[str]]]) -> None:
    """COCO captions: images, and in a list of their own the captions of all of them."""
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, scene, captions in captioned:
        size = {"height": scene.canvas, "width": scene.canvas}
        images.append({"id": image_id, "file_name": image_name(image_id), **size, "license": 0, "coco_url": ""})
        for text in captions:
            annotations.append({"image_id": image_id, "id": len(annotations) + 1, "caption": text})
    header = {"info": {"description": "composed scenes"}, "licenses": []}
    _write_json(folder / "captions.json", {**header, "images": images, "annotations": annotations})


def write_ocid(folder: Path, items: list[Item]) -> None:
    """OCID-Ref: a dictionary of expressions; bbox is the *text* of a list x1, y1, x2, y2 in px, as in the original."""
    expressions = {}
    for i in items:
        (thing,) = i.asked.about
        expressions[str(i.id)] = {
            # OCID counts objects as they are put on a table: 10 to 16 is its "medium", touching, clutter.
            "take_id": min(16, 5 + len(i.scene.objects)),
            "scene_path": i.file,
            "scene_id": i.image_id,
            "bbox": json.dumps(list(thing.box)),
            "class": thing.name,
            "sentence": i.asked.text,
            "tokens": i.asked.text.split(),
            "split": i.split,
        }
    _write_json(folder / "expressions.json", expressions)
