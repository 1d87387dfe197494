"""Writes composed scenes in the official formats, so one set of readers serves them and the real data sets.

    captions/00000.tar ...                        img2dataset: KEY.jpg, KEY.txt, KEY.json; at most 1000 samples a tar
    instructions/conversations.json, images/      LLaVA
    evaluation/{validation,test}/images/          000000000001.jpg ...
    evaluation/{validation,test}/TASK/            as below

    short_answer   VQAv2     questions.json, annotations.json
    presence       POPE      random.json, popular.json, adversarial.json (JSON lines)
    relations      GQA       questions.json (counting and relations)
    reading        TextVQA   questions.json
    kinds          VQAv2     questions.json, annotations.json (what kind of thing something is)
    boxes          RefCOCO   instances.json, refs.json (the refer records, as JSON)
    clutter        OCID-Ref  expressions.json
    novel_names    VQAv2     questions.json, annotations.json (names that no instruction mentions)
    captioning     COCO      captions.json (five references for every plain image)

The same settings give the same bytes. Every evaluation question has an extra field `split`: "held_out_artist" if a thing
that it is about is drawn as in no training scene, else "held_out_pair" if the scene holds a pair that no training scene
holds, else "seen"; of kinds first "held_out_kind", if no instruction says of what kind such a thing is. (In refs.json it
stands in the sentence: a refer record has a `split` of its own.)
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections import Counter
from pathlib import Path

from pipeline.data.job_settings import MadeCaptions, MadeEvaluation, MadeInstructions, Scenes
from pipeline.data.scenes import chance, compose, render
from pipeline.data.scenes.captions import caption, keywords, short_caption
from pipeline.data.scenes.evaluation import (
    POPE_SPLITS,
    captioned_images,
    evaluation_items,
    evaluation_scenes,
    image_name,
)
from pipeline.data.scenes.layouts import (
    _write_json,
    write_coco_captions,
    write_gqa,
    write_ocid,
    write_pope,
    write_refcoco,
    write_textvqa,
    write_vqav2,
)
from pipeline.data.scenes.questions import (
    NO,
    YES,
    Asked,
    box_prompt,
    box_questions,
    count_questions,
    kind_questions,
    name_questions,
    presence_text,
    reading_questions,
    relation_questions,
)
from pipeline.data.scenes.render import Scene

SAMPLES_A_TAR = 1000
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


def write_scenes(out: Path, settings: Scenes) -> dict:
    """Write the part that the settings are of under `out`/PART, a folder that must not exist yet.

    Returns what was written: images, bytes, and either samples, turns by family or questions by split and task.
    Raises ValueError on settings that cannot be met, FileExistsError if the folder is there.
    """
    folder = Path(out) / settings.part
    folder.mkdir(parents=True)
    if isinstance(settings, MadeCaptions):
        counts = _write_captions(folder, settings)
    elif isinstance(settings, MadeInstructions):
        counts = _write_instructions(folder, settings)
    else:
        assert isinstance(settings, MadeEvaluation), "there are three parts"
        counts = _write_evaluation(folder, settings)
    counts["bytes"] = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    return counts


# --- captions ---------------------------------------------------------------------------------------------------------


def caption_scene(settings: MadeCaptions, index: int) -> tuple[Scene, str]:
    """Scene and caption number `index`: any concept, also those that occur in captions only."""
    vocabulary = compose.vocabulary_of(settings)
    rng = chance.rng_for(settings.seed, "captions", index)
    kind = "cluttered" if index % 4 == 3 else "plain"
    composition = compose.compose(rng, vocabulary, kind, "train", vocabulary.main + vocabulary.extra)
    scene = render.dress(rng, composition, settings.canvas)
    return scene, caption(rng, scene)


def _caption_members(settings: MadeCaptions, index: int, key: str) -> list[tuple[str, bytes]]:
    scene, text = caption_scene(settings, index)
    image = render.jpeg(render.render(scene))
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
        "short_caption": short_caption(scene),
        "keywords": keywords(scene),
    }
    return [
        (f"{key}.jpg", image),
        (f"{key}.json", json.dumps(facts).encode()),
        (f"{key}.txt", text.encode()),
    ]


def _write_captions(folder: Path, settings: MadeCaptions) -> dict:
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


def _instruction_composition(settings: MadeInstructions, index: int, rng: random.Random) -> compose.Composition:
    vocabulary = compose.vocabulary_of(settings)
    # By twos, so that the neighbours that share presence questions have the same layout.
    kind = "cluttered" if index // 2 % CLUTTERED_ONE_IN == CLUTTERED_ONE_IN - 1 else "plain"
    return compose.compose(rng, vocabulary, kind, "train", vocabulary.main)


def _presence_turns(
    settings: MadeInstructions, index: int, own: compose.Composition, turns: int
) -> list[tuple[str, str]]:
    """Presence questions of conversation `index`, whose neighbour gets the same questions with the opposite answers.

    Conversations 2k and 2k + 1 are neighbours: something that only one of them shows is asked for in both. So every
    question string is answered yes exactly as often as no. The last conversation of an odd number gets none.
    """
    other = index ^ 1
    if other >= settings.conversations:
        return []
    # Made again from its own random numbers: no conversation has to wait for another one.
    neighbour = _instruction_composition(settings, other, chance.rng_for(settings.seed, "instructions", other))
    pair = [own, neighbour] if index % 2 == 0 else [neighbour, own]
    rng = chance.rng_for(settings.seed, "presence", index // 2)
    asked = []
    for a, b in (pair, pair[::-1]):
        if only := sorted(a.names - b.names):
            asked.append(rng.choice(only))
    asked = asked[:turns]
    return [(presence_text(name), YES if name in own.names else NO) for name in asked]


def conversation(settings: MadeInstructions, index: int) -> tuple[Scene, list[tuple[str, str, str]]]:
    """Scene and turns (family, human text, answer) of conversation number `index`."""
    rng = chance.rng_for(settings.seed, "instructions", index)
    composition = _instruction_composition(settings, index, rng)
    scene = render.dress(rng, composition, settings.canvas)
    presence = _presence_turns(settings, index, composition, min(PRESENCE_TURNS, settings.turns // 2))
    turns = [("presence", text, answer) for text, answer in presence]
    turns += _other_turns(rng, scene, settings.turns - len(turns), compose.vocabulary_of(settings))
    rng.shuffle(turns)
    return scene, turns


def _count_turn(rng: random.Random, scene: Scene) -> list[Asked]:
    """At most one counting question, such that the answers 1 to 4 are about equally frequent over many scenes."""
    first, *others = count_questions(scene)
    # Beside several of a kind, sometimes ask for what there is one of: else "count what there are most of" would do.
    if others and first.answer != "1" and rng.random() < OTHER_COUNT_SHARE:
        return [rng.choice(others)]
    return [first] if rng.random() < COUNT_SHARE[int(first.answer) - 1] else []


def _other_turns(
    rng: random.Random, scene: Scene, room: int, vocabulary: compose.Vocabulary
) -> list[tuple[str, str, str]]:
    """Up to `room` turns, from each family in turn until all are used up."""
    families: dict[str, list[Asked]] = {"boxes": box_questions(scene)}
    if scene.layout == "plain":
        families["short_answer"] = name_questions(scene)
        families["relations"] = relation_questions(scene)
        families["reading"] = reading_questions(scene)
        families["counting"] = _count_turn(rng, scene)
        families["kinds"] = kind_questions(scene, {*vocabulary.main} - vocabulary.held_out_kinds)
        del families["boxes"][int(rng.random() < PLAIN_BOX_SHARE) :]
    else:
        rng.shuffle(families["boxes"])
        del families["boxes"][EXPRESSION_BOXES:]
        if not families["boxes"]:  # a small vocabulary may leave nothing that there is only one of
            families["counting"] = count_questions(scene)[:1]
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
                text = box_prompt(asked.text) if name == "boxes" else asked.text
                turns.append((name, text, asked.answer))
    return turns


def _write_instructions(folder: Path, settings: MadeInstructions) -> dict:
    (folder / "images").mkdir()
    records = []
    families: Counter[str] = Counter()
    for index in range(settings.conversations):
        scene, turns = conversation(settings, index)
        name = f"{index:06d}.jpg"
        (folder / "images" / name).write_bytes(render.jpeg(render.render(scene)))
        families.update(family for family, _, _ in turns)
        messages = []
        for number, (_, human, answer) in enumerate(turns):
            # LLaVA's form: the image stands once, before the first thing that is said.
            messages.append({"from": "human", "value": "<image>\n" + human if number == 0 else human})
            messages.append({"from": "gpt", "value": answer})
        records.append({"id": f"{index:06d}", "image": name, "conversations": messages})
    _write_json(folder / "conversations.json", records)
    return {"images": settings.conversations, "turns": dict(sorted(families.items()))}


def _write_evaluation(folder: Path, settings: MadeEvaluation) -> dict:
    counts: dict = {"images": 0, "questions": {}}
    for split in ("validation", "test"):
        made = evaluation_scenes(settings, split)
        (folder / split / "images").mkdir(parents=True)
        for index, (_, scene) in enumerate(made):
            (folder / split / "images" / image_name(index + 1)).write_bytes(render.jpeg(render.render(scene)))
        items = evaluation_items(settings, split, made)
        write_vqav2(folder / split / "short_answer", items["short_answer"], split)
        for kind in POPE_SPLITS:
            write_pope(folder / split / "presence" / f"{kind}.json", items[f"presence/{kind}"])
        write_gqa(folder / split / "relations", items["relations"])
        write_textvqa(folder / split / "reading", items["reading"], split)
        write_vqav2(folder / split / "kinds", items["kinds"], split)
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
