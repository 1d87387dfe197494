"""The paper's text benchmarks, read from files in the data sets' own layouts and asked as EleutherAI's lm-eval does.

A benchmark is a folder of .jsonl, .json (a list, one object a line, or an object of them; also compressed: see
pipeline/data/formats/open_text.py) or .parquet files. Definitions are those of
lm-eval 0.4, 0-shot: what stands before the answers, the answers as they follow it, which is right, and the split.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from pipeline.data.formats import open_text
from pipeline.data.formats.documents import text_id
from pipeline.data.formats.open_text import load_json, read_records, suffix_of
from pipeline.data.records import BadRecord, LeftOut, MultipleChoice
from pipeline.data.tokenizer import Tokenizer

SUFFIXES = (*open_text.SUFFIXES, ".parquet")
TEST_IDS = "test_ground_truth.json"  # PubMedQA's: the right answers of its test split, by id
Asked = tuple[str, list[str], int]  # context, answers without what joins them to it, index of the right one


class Benchmark(NamedTuple):
    """Where lm-eval has a task, the split that it scores, and how a record of the data set is asked."""

    harness: str  # lm-eval's file, below its tasks/
    split: str
    ask: Callable[[dict], Asked]
    own: str = "-"  # the data set's own file, where its layout is another than the one lm-eval downloads


def text(doc: dict, key: str) -> str:
    """A text of a record. Raises KeyError if it lacks it, TypeError if it is no text.

    An f-string takes any value: without this a number or a list would be asked as its Python form.
    """
    if not isinstance(doc[key], str):
        raise TypeError(f"{key} is of type {type(doc[key]).__name__}")
    return doc[key]


def texts(doc: dict, key: str) -> list[str]:
    """A list of texts of a record. Raises KeyError or TypeError."""
    if not isinstance(doc[key], list) or not all(isinstance(one, str) for one in doc[key]):
        raise TypeError(f"{key} is no list of texts")
    return doc[key]


def right_one(value: object) -> int:
    """The index of the right answer, which some files have as text or as true and false. Raises ValueError."""
    if not isinstance(value, int | str):
        raise ValueError(f"{value!r} is no whole number")
    return int(value)


def agieval(doc: dict) -> Asked:
    """The question with its passage and lettered options; the answers repeat the options."""
    if "options" in doc and "gold" not in doc:  # AGIEval's own files, of which lm-eval's are made
        options, letters = texts(doc, "options"), "ABCDEFG"
        asked = f"{doc.get('passage') or ''}Q: {text(doc, 'question')} Answer Choices: {' '.join(options)}"
        asked += f"\nA: Among A through {letters[len(options) - 1]}, the answer is"
        return asked, options, letters.index(text(doc, "label"))
    (gold,) = doc["gold"]
    return text(doc, "query"), texts(doc, "choices"), right_one(gold)


def arc(doc: dict) -> Asked:
    """The question; the answers have letters or numbers as labels, and `answerKey` is one of these."""
    options = doc["choices"]
    return (
        f"Question: {text(doc, 'question')}\nAnswer:",
        texts(options, "text"),
        texts(options, "label").index(doc["answerKey"]),
    )


def bigbench(doc: dict) -> Asked:
    """The input as it stands; of the targets lm-eval takes the first as the right answer."""
    answers = texts(doc, "multiple_choice_targets")
    return text(doc, "inputs"), answers, answers.index(texts(doc, "targets")[0])


def boolq(doc: dict) -> Asked:
    """The passage and the question; "no" is the first answer, as its label is 0."""
    asked = f"{text(doc, 'passage')}\nQuestion: {text(doc, 'question')}?\nAnswer:"
    return asked, ["no", "yes"], right_one(doc["label"])


def copa(doc: dict) -> Asked:
    """The premise goes on with its cause or effect. lm-eval puts two spaces before it."""
    # The premise loses its full stop, and an answer its capital: together they are one sentence.
    joint = {"cause": "because", "effect": "therefore"}[doc["question"]]
    answers = [f" {answer[0].lower()}{answer[1:]}" for answer in (text(doc, "choice1"), text(doc, "choice2"))]
    return f"{text(doc, 'premise').strip()[:-1]} {joint}", answers, right_one(doc["label"])


def hellaswag(doc: dict) -> Asked:
    """WikiHow's marks are taken out: a title ends a sentence, and whatever else is in brackets goes."""

    def plain(marked: str) -> str:
        return re.sub(r"\[.*?\]", "", marked.strip().replace(" [title]", ". ")).replace("  ", " ")

    context = f"{text(doc, 'activity_label')}: {text(doc, 'ctx_a')} {text(doc, 'ctx_b').capitalize()}"
    return plain(context), [plain(ending) for ending in texts(doc, "endings")], right_one(doc["label"])


def mathqa(doc: dict) -> Asked:
    """Answers a to d end at their first comma before a space, as lm-eval has it; the last goes on to the line's end."""
    found = re.findall(r"[a-d] \) (.*?), |e \) (.*?)$", doc["options"])
    answers = [(first or last).rstrip(" ,") for first, last in found]
    return f"Question: {text(doc, 'Problem')}\nAnswer:", answers, list("abcde").index(doc["correct"])


def piqa(doc: dict) -> Asked:
    """The goal; the answers are its two solutions."""
    return f"Question: {text(doc, 'goal')}\nAnswer:", [doc["sol1"], doc["sol2"]], right_one(doc["label"])


def pubmedqa(doc: dict) -> Asked:
    """The abstract of the article and its question."""
    answers, abstract = ["yes", "no", "maybe"], "\n".join(texts(doc, "CONTEXTS"))
    return (
        f"Abstract: {abstract}\nQuestion: {text(doc, 'QUESTION')}\nAnswer:",
        answers,
        answers.index(doc["final_decision"]),
    )


BENCHMARKS = {
    "agieval_sat_en": Benchmark("agieval/sat-en.yaml", "test", agieval, "sat-en.jsonl"),
    "arc_easy": Benchmark("arc/arc_easy.yaml", "test", arc),
    "bigbench_conceptual_combinations": Benchmark(
        "bigbench/multiple_choice/conceptual_combinations.yaml", "default", bigbench
    ),
    "boolq": Benchmark("super_glue/boolq/default.yaml", "validation", boolq),
    "copa": Benchmark("super_glue/copa/default.yaml", "validation", copa),
    "hellaswag": Benchmark("hellaswag/hellaswag.yaml", "validation", hellaswag),
    "mathqa": Benchmark("mathqa/mathqa.yaml", "test", mathqa),
    "piqa": Benchmark("piqa/piqa.yaml", "validation", piqa),
    "pubmedqa": Benchmark("pubmedqa/pubmedqa.yaml", "test", pubmedqa, "ori_pqal.json"),
}


def read_benchmark(
    benchmark: str, folder: Path, task: str, pattern: str | None = None, left_out: LeftOut | None = None
) -> list[MultipleChoice]:
    """The items of a benchmark in the order of its files; their choices begin with a space, as they follow the context.

    An item's id is a hash of what is asked; the second of two that ask the same ends in "-2". `left_out` takes the bad
    items that may be left out (none by default). Raises BadRecord.
    """
    items: list[MultipleChoice] = []
    seen: Counter = Counter()
    left_out = left_out or LeftOut()
    for file in benchmark_files(benchmark, folder, pattern):
        for number, doc in read_docs(file):
            with left_out:
                context, choices, gold = asked(benchmark, doc, file, number)
                # Of the content, so that an item has the same id in a file of another format or order.
                name = f"{task}-{text_id(repr((context, choices)))}"
                seen[name] += 1
                items.append(
                    MultipleChoice(f"{name}-{seen[name]}" if seen[name] > 1 else name, task, context, choices, gold)
                )
    if not items:
        raise BadRecord(folder, "-", f"has no items of {benchmark}")
    return items


def asked(benchmark: str, doc: dict, file: Path, number: object) -> tuple[str, tuple[str, ...], int]:
    """Context, choices and the right one of a record. Raises BadRecord."""
    try:
        context, answers, gold = BENCHMARKS[benchmark].ask(doc)
        # lm-eval joins context and answer by a space. It belongs to the answer, as byte-level BPE has the space in the
        # word's token.
        choices = tuple(" " + answer for answer in answers)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise BadRecord(file, number, f"is no record of {benchmark} ({type(error).__name__}: {error})") from None
    if len(choices) < 2 or not all(map(str.strip, choices)) or not 0 <= gold < len(choices):
        raise BadRecord(file, number, f"has the answers {answers} and as the right one number {gold}")
    return context, choices, gold


def benchmark_files(benchmark: str, folder: Path, pattern: str | None = None) -> list[Path]:
    """A benchmark's files in name order, all of one kind: those that a pattern fits, or whose names begin with its split.

    Where neither is there, the data set's own file. Raises BadRecord.
    """
    definition = BENCHMARKS[benchmark]
    below = {path: suffix_of(path.name) for path in sorted(Path(folder).rglob("*")) if path.is_file()}
    below = {path: suffix for path, suffix in below.items() if suffix in SUFFIXES and path.name != TEST_IDS}
    patterns = [pattern] if pattern else [f"{definition.split}*", definition.own, f"{definition.own}.*"]
    files = next((fit for one in patterns if (fit := [path for path in below if fnmatch(path.name, one)])), [])
    # Files of two kinds may be two copies of the same items.
    if len({below[path] for path in files}) != 1:
        found = ", ".join(path.name for path in (files or list(below))[:3]) or "nothing"
        raise BadRecord(
            folder, "-", f"files {patterns[0]} of one of the kinds {open_text.said(SUFFIXES)} wanted; found {found}"
        )
    return files


def read_docs(file: Path) -> Iterator[tuple[object, dict]]:
    """The records of a file with their numbers or names. Raises BadRecord."""
    if file.suffix == ".parquet":
        yield from enumerate(parquet_docs(file), 1)
    elif (named := named_docs(file)) is not None:
        yield from named.items()
    else:
        yield from enumerate((doc for _, doc in read_records(file)), 1)


def parquet_docs(file: Path) -> list[dict]:
    """The records of a Parquet file. Raises BadRecord."""
    try:
        from pyarrow import parquet  # not a dependency of the package: it comes with the group lm-eval

        return parquet.read_table(file).to_pylist()
    except ImportError:
        raise BadRecord(file, "-", "is Parquet, which needs pyarrow: uv sync --group lm-eval") from None
    except (OSError, ValueError, NotImplementedError) as error:  # damaged Parquet
        raise BadRecord(file, "-", f"cannot be read ({' '.join(str(error).split())})") from None


def named_docs(file: Path) -> dict | None:
    """The records of a file that is one object of them, as PubMedQA has it; None of another one. Raises BadRecord.

    Of `ori_pqal.json`, which is training, validation and test together, those that TEST_IDS beside it names.
    """
    if suffix_of(file.name).startswith(".jsonl"):
        return None
    try:
        docs = load_json(file)
    except BadRecord:
        return None  # lines, or damaged: whoever reads its lines will say
    if not isinstance(docs, dict) or not all(isinstance(doc, dict) for doc in docs.values()):
        return None
    if not file.name.startswith("ori_"):
        return docs
    try:
        test = load_json(file.with_name(TEST_IDS))
    except BadRecord as error:
        reason = f"holds all splits; {TEST_IDS} beside it has to name the questions of the test ({error.reason})"
        raise BadRecord(file, "-", reason) from None
    if missing := [name for name in test if name not in docs] if isinstance(test, dict) else ["an object"]:
        raise BadRecord(file.with_name(TEST_IDS), "-", f"names {missing[0]}, which {file.name} does not have")
    return {name: docs[name] for name in test}


def token_pair(tokenizer: Tokenizer, context: str, continuation: str, end: bool = False) -> tuple[list[int], list[int]]:
    """Context and continuation ids as lm-eval splits them for a model without a BOS.

    The two are encoded together and cut where the context's own tokens end; space at the end of the context belongs to
    the continuation. A context without text is end-of-text; with `end`, every context begins with it, as documents do.
    """
    # Two texts that are encoded apart may have other tokens at their joint than the two together. The model was trained
    # on the latter.
    head = tokenizer.encode(context.rstrip())
    tail = tokenizer.encode(context + continuation)[len(head) :]
    return ([tokenizer.end, *head] if end or not head else head), tail
