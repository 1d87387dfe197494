"""The paper's text benchmarks from files in their own layouts: what is asked, and lm-eval's scores item by item."""

import csv
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import official
import pytest
import torch
from safetensors.torch import save_file

from pipeline.data.formats.question_files import BadRecord
from pipeline.data.records import LeftOut
from pipeline.data.tokenizer import load_tokenizer, train_tokenizer
from pipeline.evaluation import benchmarks, evaluate, evaluation, likelihoods
from pipeline.evaluation.benchmarks import BENCHMARKS, read_benchmark, token_pair
from pipeline.evaluation.job_settings import Evaluate, EvaluatedModel
from pipeline.evaluation.model import load_model
from pipeline.model.decoder import DecoderShape
from pipeline.model.vlm import VLM
from pipeline.settings.tasks import TextBenchmark

torch.set_num_threads(1)
needs_lm_eval = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="uv sync --group lm-eval")
needs_pyarrow = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="uv sync --group lm-eval")

ENDINGS = ["drinks the water.", "climbs [substeps] a tree  twice.", " [title] Sleep [step] Lie down.", "sings."]
RECORDS = {
    "agieval_sat_en": [
        {
            "query": "This passage is about whales.\n\nQ: What do whales eat? Answer Choices: (A)krill (B)grass\nA: Among A through B, the answer is",
            "choices": ["(A)krill", "(B)grass"],
            "gold": [0],
        },
        {"query": "Q: Which one? Answer Choices: (A)x (B)y (C)z (D)w\nA: ", "choices": ["(A)x", "(B)y", "(C)z", "(D)w"], "gold": [3]},
    ],
    "arc_easy": [
        {
            "id": "Mercury_1",
            "question": "Which of these is a planet?",
            "choices": {"text": ["Mars", "the Sun", "a comet", "dust"], "label": ["A", "B", "C", "D"]},
            "answerKey": "A",
        },
        {
            "id": "NYSEDREGENTS_2",
            "question": "Water freezes at",
            "choices": {"text": ["0 °C", "50 °C", "100 °C"], "label": ["1", "2", "3"]},
            "answerKey": "1",
        },
    ],
    "bigbench_conceptual_combinations": [
        {
            "idx": 0,
            "inputs": "The word 'binne' means any animal that is furry. Question: Which is a binne?\n  choice: a cat\n  choice: a fish\nA: ",
            "targets": ["a fish"],
            "multiple_choice_targets": ["a cat", "a fish"],
            "multiple_choice_scores": [0, 1],
        },
        {"idx": 1, "inputs": "Which?", "targets": ["yes"], "multiple_choice_targets": ["yes", "no", "so"], "multiple_choice_scores": [1, 0, 0]},
    ],
    "boolq": [
        {"question": "is the sky blue", "passage": "Sky -- It looks blue.", "idx": 0, "label": 1},
        {"question": "do cats swim", "passage": "Cat -- Cats {{rarely}} swim, 50% don't.", "idx": 1, "label": 0},
    ],
    "copa": [
        {"premise": "My body cast a shadow over the grass.", "choice1": "The sun was rising.", "choice2": "The grass was cut.", "question": "cause", "idx": 0, "label": 0},
        {"premise": " The man fell ill. ", "choice1": "He was glad.", "choice2": "I called a doctor.", "question": "effect", "idx": 1, "label": 1},
    ],
    "hellaswag": [
        {"ind": 4, "activity_label": "Running", "ctx_a": "A man runs.", "ctx_b": "he", "ctx": "", "endings": ENDINGS, "label": "3", "split": "val"},
        {"ind": 5, "activity_label": "Home and Garden", "ctx_a": "[header] How to sleep [title] Rest well.", "ctx_b": "", "ctx": "", "endings": ENDINGS[::-1], "label": "0", "split": "val"},
        {"ind": 6, "activity_label": "Running", "ctx_a": "A man runs.", "ctx_b": "he", "ctx": "", "endings": ENDINGS, "label": "3", "split": "val"},
    ],
    "mathqa": [
        {"Problem": "what is 3 times 4 ?", "Rationale": "12", "options": "a ) 38 , b ) 27.675 , c ) 12 , d ) data inadequate , e ) none of these", "correct": "c"},
        {"Problem": "the cost is", "Rationale": "", "options": "a ) rs . 1 , 200 , b ) 45 % , c ) 3 : 4 , d ) √2 , e ) 5 , 6 ,", "correct": "e"},
    ],
    "piqa": [
        {"goal": "To open a jar", "sol1": "tap the lid", "sol2": "  paint the lid\n", "label": 0},
        {"goal": "How do I sew?", "sol1": "with a car", "sol2": "with a needle", "label": 1},
    ],
    "pubmedqa": [
        {"QUESTION": "Does it help?", "CONTEXTS": ["We asked.", "They said so."], "LABELS": ["A", "B"], "final_decision": "maybe"},
        {"QUESTION": "Is it safe?", "CONTEXTS": ["No harm was seen."], "LABELS": ["A"], "final_decision": "yes"},
    ],
}  # fmt: skip
MODEL = {"vocabulary": 400, "layers": 2, "heads": 2, "width": 16, "sequence": 48}  # some contexts are longer


def write(folder: Path, name: str, records: list[dict], suffix: str) -> Path:
    """A benchmark's file as its data set has it; other splits lie beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    split = BENCHMARKS[name].split
    if suffix == ".parquet":
        from pyarrow import Table, parquet

        file = folder / f"{split}-00000-of-00001.parquet"
        parquet.write_table(Table.from_pylist(records), file)
    elif suffix == ".json":
        file = folder / f"{split}.json"
        file.write_text(json.dumps(records), encoding="utf-8")
    else:
        file = folder / f"{split}.jsonl"
        file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    (folder / f"train{suffix}").write_bytes(file.read_bytes())
    return file


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model of random weights with its tokenizer, and every benchmark as JSON lines."""
    root = tmp_path_factory.mktemp("benchmarks")
    for name, records in RECORDS.items():
        write(root / "source" / "evaluation" / "text" / name, name, records, ".jsonl")
    (root / "source" / "text").mkdir()
    (root / "tokenizer").mkdir()
    train_tokenizer([json.dumps(RECORDS)] * 3, MODEL["vocabulary"], root / "tokenizer" / "tokenizer.json")
    torch.manual_seed(0)
    model = VLM(DecoderShape(MODEL["vocabulary"], MODEL["layers"], MODEL["heads"], MODEL["width"]))
    (root / "checkpoint").mkdir()
    save_file(model.state_dict(), root / "checkpoint" / "model.safetensors")
    return root


def make_job(made: Path, out: Path, engine: str | None, items: int) -> SimpleNamespace:
    settings = {
        "model": MODEL,
        "evaluation": {"batch": 5, "text_items": items, "heldout_documents": 1},
        "hardware": {"device": "cpu", "threads": 1},
        "encoder": None,
        "vision": {},
        "captioning": None,
        "text": {name: {"benchmark": name} for name in RECORDS},
        "conditions": [],
        "split": "test",
    }
    return SimpleNamespace(
        settings=settings | ({"engine": engine} if engine else {}),
        inputs={"checkpoint": made / "checkpoint", "tokenizer": made / "tokenizer", "text": made / "source"},
        progress=evaluate.Silent(),
        context={"evaluation_processes": 1},
        resume=out / "resume",
    )


def run(made: Path, out: Path, monkeypatch, engine: str | None = None, items: int = 100) -> list[dict]:
    """Rows of text.csv."""
    monkeypatch.setattr(evaluation.Evaluation, "heldout", lambda self: iter(()))
    out.mkdir(exist_ok=True)
    evaluate.run(make_job(made, out, engine, items), out)
    with open(out / "text.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- definitions ------------------------------------------------------------------------------------------------------


def test_the_configuration_knows_the_same_benchmarks():
    assert set(get_args(TextBenchmark)) == set(BENCHMARKS) == set(RECORDS)


def test_what_is_asked(tmp_path):
    """As lm-eval 0.4.13 asks it; the next test but one compares with lm-eval itself, where it is installed."""
    asked = {}
    for name, records in RECORDS.items():
        write(tmp_path / name, name, records, ".jsonl")
        asked[name] = [(item.context, item.choices, item.gold) for item in read_benchmark(name, tmp_path / name, name)]
    assert asked["arc_easy"][1] == ("Question: Water freezes at\nAnswer:", (" 0 °C", " 50 °C", " 100 °C"), 0)
    assert asked["bigbench_conceptual_combinations"][0][2] == 1
    assert asked["boolq"][0] == ("Sky -- It looks blue.\nQuestion: is the sky blue?\nAnswer:", (" no", " yes"), 1)
    assert asked["copa"] == [
        ("My body cast a shadow over the grass because", ("  the sun was rising.", "  the grass was cut."), 0),
        ("The man fell ill therefore", ("  he was glad.", "  i called a doctor."), 1),
    ]
    running = (" drinks the water.", " climbs a tree twice.", "  Sleep Lie down.", " sings.")
    assert asked["hellaswag"][0] == ("Running: A man runs. He", running, 3)
    assert asked["hellaswag"][1][0] == "Home and Garden: How to sleep. Rest well."
    assert asked["mathqa"][0][1:] == ((" 38", " 27.675", " 12", " data inadequate", " none of these"), 2)
    assert asked["mathqa"][1][1:] == ((" rs . 1", " 45 %", " 3 : 4", " √2", " 5 , 6"), 4)
    assert asked["piqa"][0] == ("Question: To open a jar\nAnswer:", (" tap the lid", "   paint the lid\n"), 0)
    abstract = "Abstract: We asked.\nThey said so.\nQuestion: Does it help?\nAnswer:"
    assert asked["pubmedqa"][0] == (abstract, (" yes", " no", " maybe"), 2)
    assert asked["agieval_sat_en"][1][1:] == ((" (A)x", " (B)y", " (C)z", " (D)w"), 3)


def test_ids_are_of_what_is_asked(tmp_path):
    write(tmp_path / "a", "hellaswag", RECORDS["hellaswag"], ".jsonl")
    write(tmp_path / "b", "hellaswag", RECORDS["hellaswag"][1:], ".json")
    first, second = (read_benchmark("hellaswag", tmp_path / name, "hellaswag") for name in "ab")
    assert [item.id for item in first[:2]] == [item.id for item in second[::-1]]
    assert first[2].id == first[0].id + "-2"


@needs_pyarrow
def test_kinds_of_files_hold_the_same(tmp_path):
    for name, records in RECORDS.items():
        read = []
        for suffix in benchmarks.SUFFIXES:
            write(tmp_path / suffix / name, name, records, suffix)
            read.append(read_benchmark(name, tmp_path / suffix / name, name))
        assert read[0] == read[1] == read[2]


def test_a_pattern_names_other_files(tmp_path):
    write(tmp_path, "piqa", RECORDS["piqa"], ".jsonl").rename(tmp_path / "dev.jsonl")
    assert len(read_benchmark("piqa", tmp_path, "piqa", "dev.json*")) == 2


# --- files that are not what they should be ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("arc_easy", {"answerKey": "E"}, "ValueError"),
        ("arc_easy", {"choices": None}, "TypeError"),
        ("boolq", {"passage": ...}, "KeyError: 'passage'"),
        ("copa", {"question": "reason"}, "KeyError: 'reason'"),
        ("hellaswag", {"label": ""}, "ValueError"),
        ("hellaswag", {"label": "4"}, "the right one number 4"),
        ("mathqa", {"correct": "f"}, "ValueError"),
        ("mathqa", {"options": "38"}, "has the answers \\[\\]"),
        ("piqa", {"sol2": " "}, "has the answers"),
        ("piqa", {"label": -1}, "the right one number -1"),
        ("pubmedqa", {"final_decision": "perhaps"}, "ValueError"),
        ("agieval_sat_en", {"gold": [0, 1]}, "ValueError"),
        ("bigbench_conceptual_combinations", {"multiple_choice_targets": []}, "ValueError"),
    ],
)
def test_a_bad_record_is_named(tmp_path, name, change, reason):
    bad = {key: value for key, value in (RECORDS[name][1] | change).items() if value is not ...}
    write(tmp_path, name, [RECORDS[name][0], bad], ".jsonl")
    with pytest.raises(BadRecord, match=rf"{BENCHMARKS[name].split}.jsonl: record 2: .*{reason}") as error:
        read_benchmark(name, tmp_path, name)
    assert "\n" not in str(error.value)


BAD = {"mathqa": {"options": "a ) 1 ; b ) 2 ; c ) 3 ; d ) 4 ; e ) 5"}, "agieval_sat_en": {"gold": [4]}}


@pytest.mark.parametrize("name", BAD)
def test_a_stated_number_of_bad_items_is_left_out_and_counted(tmp_path, name, capsys):
    good, bad = RECORDS[name][0], RECORDS[name][1] | BAD[name]
    write(tmp_path, name, [good, bad, RECORDS[name][1], bad], ".jsonl")
    found = LeftOut(2)
    assert [item.context for item in read_benchmark(name, tmp_path, name, left_out=found)] == [
        BENCHMARKS[name].ask(record)[0] for record in RECORDS[name]
    ]
    assert found.say(name) == {"left_out": 2} and f"{name}: left out: " in capsys.readouterr().out
    for most, also in ((0, ""), (1, r" \(and so 1 more\)")):
        said = rf"test.jsonl: record 2: has the answers .*{also}; allowed to be left out: {most} \(left_out_at_most of"
        with pytest.raises(BadRecord, match=said):
            read_benchmark(name, tmp_path, name, left_out=LeftOut(most))


def test_the_data_sets_own_files_are_read(tmp_path):
    """AGIEval's sat-en.jsonl and PubMedQA's ori_pqal.json ask what lm-eval's copies of them ask."""
    passage, options = "This passage is about whales.\n\n", ["(A)krill", "(B)grass"]
    own = {"passage": passage, "question": "What do whales eat?", "options": options, "label": "A", "other": None}
    official.dump(tmp_path / "agieval/sat-en.jsonl", own)
    write(tmp_path / "lm-eval", "agieval_sat_en", RECORDS["agieval_sat_en"][:1], ".jsonl")
    mine, theirs = (read_benchmark("agieval_sat_en", tmp_path / name, "t") for name in ("agieval", "lm-eval"))
    assert mine == theirs
    first, second = RECORDS["pubmedqa"]
    official.dump(tmp_path / "pubmedqa/ori_pqal.json", {"11": first, "22": second, "33": first})
    with pytest.raises(BadRecord, match="ori_pqal.json: record -: holds all splits; test_ground_truth.json beside it"):
        read_benchmark("pubmedqa", tmp_path / "pubmedqa", "t")
    official.dump(tmp_path / "pubmedqa/test_ground_truth.json", {"11": "maybe", "22": "yes"})
    write(tmp_path / "lists", "pubmedqa", RECORDS["pubmedqa"], ".json")
    theirs = read_benchmark("pubmedqa", tmp_path / "lists", "t")
    assert read_benchmark("pubmedqa", tmp_path / "pubmedqa", "t") == theirs
    (tmp_path / "pubmedqa/ori_pqal.json").rename(tmp_path / "pubmedqa/test_set.json")  # what its own script makes
    assert len(read_benchmark("pubmedqa", tmp_path / "pubmedqa", "t")) == 3


def test_bad_files_are_named(tmp_path):
    with pytest.raises(BadRecord, match=r"validation\* of one of the kinds .*; found nothing"):
        read_benchmark("piqa", tmp_path, "piqa")
    file = write(tmp_path, "piqa", RECORDS["piqa"], ".jsonl")
    with pytest.raises(BadRecord, match=r"files test\* .*; found train.jsonl, validation.jsonl"):
        read_benchmark("piqa", tmp_path, "piqa", "test*")
    file.write_text('{"goal": "To', encoding="utf-8")
    with pytest.raises(BadRecord, match="validation.jsonl: record 1: is not JSON"):
        read_benchmark("piqa", tmp_path, "piqa")
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(BadRecord, match="has no items of piqa"):
        read_benchmark("piqa", tmp_path, "piqa")
    (tmp_path / "validation.json").write_text("[]", encoding="utf-8")
    with pytest.raises(BadRecord, match="of one of the kinds"):
        read_benchmark("piqa", tmp_path, "piqa")


# --- scores -----------------------------------------------------------------------------------------------------------


def test_space_before_an_answer_belongs_to_it(made):
    tokenizer = load_tokenizer(made / "tokenizer" / "tokenizer.json")
    for context, tail in (("the answer is", " x"), ("the answer is ", " x"), ("Question: why\n\n", " because")):
        head, continuation = token_pair(tokenizer, context, tail)
        assert tokenizer.decode(head) == context.rstrip()
        assert tokenizer.decode(head + continuation) == context + tail
        assert tokenizer.end not in head
    assert token_pair(tokenizer, "", " x") == ([tokenizer.end], tokenizer.encode(" x"))


def test_scores_are_those_of_one_answer_at_a_time(made, tmp_path, monkeypatch):
    rows = run(made, tmp_path / "out", monkeypatch)
    tokenizer = load_tokenizer(made / "tokenizer" / "tokenizer.json")
    model = load_model(EvaluatedModel.model_validate({"model": MODEL, "encoder": None}), made / "checkpoint")
    expected = []
    for name in RECORDS:
        for item in read_benchmark(name, made / "source" / "evaluation" / "text" / name, name):
            scores = []
            for choice in item.choices:
                head, tail = token_pair(tokenizer, item.context, choice)
                ids = torch.tensor((head + tail)[-(MODEL["sequence"] + 1) :])
                with torch.no_grad():
                    logits = model.decoder.logits(model.decoder(model.decoder.embedding(ids[None, :-1])))[0]
                told = torch.log_softmax(logits, -1).gather(1, ids[1:, None])[:, 0]
                scores.append(told[-len(tail) :].sum().item())
            best = max(range(len(scores)), key=scores.__getitem__)
            expected.append([name, item.id, str(item.gold), str(best), str(int(best == item.gold))])
    assert [list(row.values()) for row in rows] == expected


def test_a_subset_keeps_the_order_of_the_file(made, tmp_path, monkeypatch):
    whole, few = run(made, tmp_path / "a", monkeypatch), run(made, tmp_path / "b", monkeypatch, items=2)
    kept = {(row["task"], row["id"]) for row in few}
    assert len(few) == 2 * len(RECORDS) < len(whole)
    assert [row["id"] for row in whole if (row["task"], row["id"]) in kept] == [row["id"] for row in few]


@needs_lm_eval
@pytest.mark.parametrize("items", [100, 2])
def test_lm_eval_gives_the_same_rows(made, tmp_path, monkeypatch, items):
    ours = run(made, tmp_path / "ours", monkeypatch, items=items)
    assert run(made, tmp_path / "theirs", monkeypatch, engine="lm_eval", items=items) == ours
    files = [tmp_path / name / "resume" / "answers" / "0.jsonl" for name in ("ours", "theirs")]
    assert files[0].read_text() == files[1].read_text()  # log-likelihoods to the last bit
    assert 0 < sum(int(row["score"]) for row in ours) < len(ours)


@needs_lm_eval
def test_lm_eval_is_shared_out_too(made, tmp_path, monkeypatch):
    alone = run(made, tmp_path / "alone", monkeypatch, engine="lm_eval")  # without held-out text from here on
    folder = tmp_path / "shared" / "resume" / "answers"
    for process in (0, 1):
        job = make_job(made, tmp_path / "shared", "lm_eval", 100)
        evaluate.answer_share(
            Evaluate.model_validate(job.settings), job.inputs, job.context, folder, 2, evaluate.Silent(), process
        )
    written = [file.read_text().splitlines() for file in sorted(folder.iterdir())]
    assert len(written) == 2 and all(written)
    monkeypatch.setattr(likelihoods, "batch_likelihoods", lambda *_: pytest.fail("answered again"))
    assert run(made, tmp_path / "shared", monkeypatch, engine="lm_eval") == alone


@needs_lm_eval
def test_lm_eval_that_asks_something_else_is_noticed(made, tmp_path, monkeypatch):
    other = BENCHMARKS["piqa"]._replace(ask=lambda doc: (doc["goal"], [doc["sol1"], doc["sol2"]], doc["label"]))
    monkeypatch.setitem(BENCHMARKS, "piqa", other)
    with pytest.raises(ValueError, match="lm-eval asks something else than piqa-"):
        run(made, tmp_path / "out", monkeypatch, engine="lm_eval")


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_without_lm_eval_the_error_says_how_to_get_it(made, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="engine lm_eval: No module named 'lm_eval'; install it with uv sync"):
        run(made, tmp_path / "out", monkeypatch, engine="lm_eval")
