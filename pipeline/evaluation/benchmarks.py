"""The paper's text benchmarks, read from files in the data sets' own layouts and asked as EleutherAI's lm-eval does.

A benchmark is a folder of .jsonl, .json (a list, or one object a line) or .parquet files. Definitions are those of
lm-eval 0.4, 0-shot: what stands before the answers, the answers as they follow it, which is right, and the split.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from pipeline.data.formats import BadRecord
from pipeline.data.read_text import text_id
from pipeline.data.records import MultipleChoice
from pipeline.data.tokenizer import Tokenizer
from pipeline.files import parse_json

SUFFIXES = (".jsonl", ".json", ".parquet")
Asked = tuple[str, list[str], int]  # context, answers without what joins them to it, index of the right one


class Benchmark(NamedTuple):
    """Where lm-eval has a task, the split that it scores, and how a record of the data set is asked."""

    harness: str  # lm-eval's file, below its tasks/
    split: str
    ask: Callable[[dict], Asked]


def text(doc: dict, key: str) -> str:
    """A text of a record, which would be asked as whatever else it is too. Raises KeyError or TypeError."""
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
    (gold,) = doc["gold"]
    return text(doc, "query"), texts(doc, "choices"), right_one(gold)


def arc(doc: dict) -> Asked:
    options = doc["choices"]
    return (
        f"Question: {text(doc, 'question')}\nAnswer:",
        texts(options, "text"),
        texts(options, "label").index(doc["answerKey"]),
    )


def bigbench(doc: dict) -> Asked:
    answers = texts(doc, "multiple_choice_targets")
    return text(doc, "inputs"), answers, answers.index(texts(doc, "targets")[0])


def boolq(doc: dict) -> Asked:
    asked = f"{text(doc, 'passage')}\nQuestion: {text(doc, 'question')}?\nAnswer:"
    return asked, ["no", "yes"], right_one(doc["label"])


def copa(doc: dict) -> Asked:
    """The premise goes on with its cause or effect. lm-eval puts two spaces before it."""
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
    return f"Question: {text(doc, 'goal')}\nAnswer:", [doc["sol1"], doc["sol2"]], right_one(doc["label"])


def pubmedqa(doc: dict) -> Asked:
    answers, abstract = ["yes", "no", "maybe"], "\n".join(texts(doc, "CONTEXTS"))
    return (
        f"Abstract: {abstract}\nQuestion: {text(doc, 'QUESTION')}\nAnswer:",
        answers,
        answers.index(doc["final_decision"]),
    )


BENCHMARKS = {
    "agieval_sat_en": Benchmark("agieval/sat-en.yaml", "test", agieval),
    "arc_easy": Benchmark("arc/arc_easy.yaml", "test", arc),
    "bigbench_conceptual_combinations": Benchmark(
        "bigbench/multiple_choice/conceptual_combinations.yaml", "default", bigbench
    ),
    "boolq": Benchmark("super_glue/boolq/default.yaml", "validation", boolq),
    "copa": Benchmark("super_glue/copa/default.yaml", "validation", copa),
    "hellaswag": Benchmark("hellaswag/hellaswag.yaml", "validation", hellaswag),
    "mathqa": Benchmark("mathqa/mathqa.yaml", "test", mathqa),
    "piqa": Benchmark("piqa/piqa.yaml", "validation", piqa),
    "pubmedqa": Benchmark("pubmedqa/pubmedqa.yaml", "test", pubmedqa),
}


def read_benchmark(benchmark: str, folder: Path, task: str, pattern: str | None = None) -> list[MultipleChoice]:
    """The items of a benchmark in the order of its files; their choices begin with a space, as they follow the context.

    An item's id is a hash of what is asked; the second of two that ask the same ends in "-2". Raises BadRecord.
    """
    items: list[MultipleChoice] = []
    seen: Counter = Counter()
    for file in benchmark_files(benchmark, folder, pattern):
        for number, doc in enumerate(read_records(file), 1):
            try:
                context, answers, gold = BENCHMARKS[benchmark].ask(doc)
                choices = tuple(" " + answer for answer in answers)
            except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
                raise BadRecord(
                    file, number, f"is no record of {benchmark} ({type(error).__name__}: {error})"
                ) from None
            if len(choices) < 2 or not all(map(str.strip, choices)) or not 0 <= gold < len(choices):
                raise BadRecord(file, number, f"has the answers {answers} and as the right one number {gold}")
            name = f"{task}-{text_id(repr((context, choices)))}"
            seen[name] += 1
            items.append(
                MultipleChoice(f"{name}-{seen[name]}" if seen[name] > 1 else name, task, context, choices, gold)
            )
    if not items:
        raise BadRecord(folder, "-", f"has no items of {benchmark}")
    return items


def benchmark_files(benchmark: str, folder: Path, pattern: str | None = None) -> list[Path]:
    """A benchmark's files in name order, all of one kind: those that a pattern fits, or whose names begin with its split.

    Raises BadRecord.
    """
    pattern = pattern or f"{BENCHMARKS[benchmark].split}*"
    below = sorted(path for path in Path(folder).rglob("*") if path.suffix in SUFFIXES)
    files = [path for path in below if fnmatch(path.name, pattern)]
    if len({path.suffix for path in files}) != 1:
        found = ", ".join(path.name for path in (files or below)[:3]) or "nothing"
        raise BadRecord(folder, "-", f"files {pattern} of one of the kinds {', '.join(SUFFIXES)} wanted; found {found}")
    return files


def read_records(file: Path) -> Iterator[dict]:
    """The records of a file. Raises BadRecord."""
    where = ""
    try:
        if file.suffix == ".parquet":
            from pyarrow import parquet  # comes with the dependency group lm-eval

            yield from parquet.read_table(file).to_pylist()
            return
        content = file.read_text(encoding="utf-8")
        if content.lstrip().startswith("["):
            yield from parse_json(content)
            return
        for number, line in enumerate(content.split("\n"), 1):
            if line.strip():
                where = f"line {number}: "
                yield parse_json(line)
    except ImportError:
        raise BadRecord(file, "-", "is Parquet, which needs pyarrow: uv sync --group lm-eval") from None
    except (OSError, ValueError, NotImplementedError) as error:  # undecodable text and JSON, damaged Parquet
        raise BadRecord(file, "-", f"cannot be read ({where}{' '.join(str(error).split())})") from None


def token_pair(tokenizer: Tokenizer, context: str, continuation: str, end: bool = False) -> tuple[list[int], list[int]]:
    """Context and continuation ids as lm-eval splits them for a model without a BOS.

    The two are encoded together and cut where the context's own tokens end; space at the end of the context belongs to
    the continuation. A context without text is end-of-text; with `end`, every context begins with it, as documents do.
    """
    head = tokenizer.encode(context.rstrip())
    tail = tokenizer.encode(context + continuation)[len(head) :]
    return ([tokenizer.end, *head] if end or not head else head), tail
