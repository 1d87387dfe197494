"""What a model says is data: any text comes through every file that holds it, to the letter."""

import json

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.common.files import read_records, read_rows, write_rows
from pipeline.evaluation.answer_store import Answers
from pipeline.reporting import examples, figures, scores
from pipeline.reporting.page.examples import example as shown_example
from pipeline.reporting.table_rows import write_table

NASTY = [
    "\r",
    "a\rb",
    "\r\n",
    "\0",
    "x\0y",
    '"',
    '""\n,',
    "\u2028\u2029\x85\x0b\x0c",
    "\ud800",
    "\udc00\ud800",
    "",
    " ",
    "NA",
]
NASTY += [
    "1e5",
    "007",
    "-",
    "$\\frac{",
    "$x$ {y} %s",
    "|",
    "<b>&amp;",
    "\ufeff",
    "\x1b[31m",
    "\\",
    "'",
    "x" * 200_000,
    "é\u0301\U0001f600",
]
texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=20) | st.sampled_from(NASTY)
quick = settings(max_examples=150, deadline=None, database=None, derandomize=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rows")


@quick
@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(texts, min_size=width, max_size=width), min_size=1)))
@example([NASTY, NASTY])
@example([["a"], [""], [""]])
def test_rows_are_read_as_they_were_written(folder, table):
    columns, *rows = table
    assert write_rows(folder / "t.csv", columns, rows) == len(rows)
    assert read_rows(folder / "t.csv") == (columns, rows)


@quick
@given(st.lists(texts, min_size=1, max_size=6))
@example(NASTY)
def test_said_is_said_in_every_file_of_a_study(folder, said):
    """Kept answers, an evaluation's rows, and a table of results."""
    file = folder / "0.jsonl"
    file.unlink(missing_ok=True)
    Answers(folder).get(("task", 0), lambda: said)
    assert Answers(folder).get(("task", 0), lambda: pytest.fail("known")) == said
    ids = [str(n) for n in range(len(said))]
    write_rows(
        folder / "vision.csv", ["task", "id", "prediction", "score"], [["t", n, s, 0.5] for n, s in zip(ids, said)]
    )
    found = scores.read_scores([folder], "vision.csv").set_index("id").loc[ids]
    assert list(found["prediction"]) == said and found["score"].tolist() == [0.5] * len(said)
    write_table(found.reset_index(), folder / "table.csv")
    assert [row["prediction"] for row in read_records(folder / "table.csv")] == said


def test_numbers_are_numbers_and_texts_stay_texts(tmp_path):
    """An answer such as 007 is none, nor is a missing one NaN."""
    write_rows(
        tmp_path / "t.csv",
        ["id", "answer", "score", "valid"],
        [["01", "007", "0.333333", "1"], ["02", "NA", "1e-3", "0"]],
    )
    table = scores.read_table(tmp_path / "t.csv")
    assert table.to_dict("list") == {
        "id": ["01", "02"],
        "answer": ["007", "NA"],
        "score": [0.333333, 0.001],
        "valid": [1, 0],
    }
    (tmp_path / "t.csv").write_text("id,score\n1,\n")
    with pytest.raises(ValueError, match="t.csv: column score: could not convert string to float: ''"):
        scores.read_table(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_bytes(b"id,answer\n1,a\rb\n")  # as csv of Python 3.11 writes it
    with pytest.raises(ValueError, match="t.csv: row 2 has 1 cells, not 2"):
        read_rows(tmp_path / "t.csv")


def test_anything_said_can_be_shown(tmp_path, monkeypatch):
    """On the contact sheet and in the report, where a dollar is no mathematics and nothing is markup."""
    Image.new("RGB", (24, 20)).save(tmp_path / "a.png")
    rows = [
        {"task": "t", "id": str(n), "question": text or "?", "answer": text, "prediction": text, "right": n % 2 == 0}
        for n, text in enumerate(NASTY)
    ]
    for start in range(0, len(rows), 4):
        part = pd.DataFrame(rows[start : start + 4])
        examples.contact_sheet(part, {("t", row["id"]): tmp_path / "a.png" for row in rows}, tmp_path / "sheet.png")
    shown = [shown_example(row | {"right": "True"}, tmp_path / "a.png") for row in rows]
    assert all(json.dumps(one["prediction"], ensure_ascii=False).encode() for one in shown)
    assert all(one["prediction"].isprintable() for one in shown)
    assert max(len(one["prediction"]) for one in shown) < 600
    assert figures.fitted("i " * 100_000, 1.5, 7, 3).count("\n") == 2
    assert figures.fitted("\u0301" * 100_000, 1.5, 7, 3).endswith("…")
