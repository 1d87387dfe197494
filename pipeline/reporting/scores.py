"""From per-example rows to means with intervals: tasks, stable scores, the gain over the language prior.

Intervals are 95%, clustered by image (vision) or by item (text). They cover which examples were asked, not which seed
was trained; with several seeds an example's score is its mean over them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.common.files import read_rows
from pipeline.data.records import Conversation, Question
from pipeline.evaluation.tasks import ask, asked, majority_answers, right_answer, score_answer
from pipeline.reporting.measures import ANSWERS, HELDOUT, TEXT, VISION, Measure, averaged, measure_of, stable, tasks_of
from pipeline.settings.tasks import AskedVisionTask
from pipeline.statistics.estimates import Estimate, mean_of_means, wilson

KEY = ["task", "id"]
FREQUENT = 50  # right answers of which one may be the best for all questions: boxes hardly repeat
NUMBERS = {"score": float, "weight": float, "nats": float, "bytes": int, "valid": int, "questions": int}


def read_table(file: Path) -> pd.DataFrame:
    """Rows of an evaluation's file: the columns of NUMBERS as numbers, all others as the texts that they are.

    Raises ValueError for a cell that is no number.
    """
    columns, rows = read_rows(file)
    table = pd.DataFrame(rows, columns=columns, dtype=object)
    for name in NUMBERS.keys() & set(columns):
        try:
            table[name] = np.array([NUMBERS[name](cell) for cell in table[name]], NUMBERS[name])
        except ValueError as error:
            raise ValueError(f"{file}: column {name}: {error}") from None
    return table


def read_scores(folders: list[Path], file: str) -> pd.DataFrame:
    """Rows of one file, scores averaged over the folders (seeds). Raises ValueError if their ids differ."""
    frames = [read_table(folder / file) for folder in folders]
    key = [column for column in ("task", "condition", "id") if column in frames[0]]
    first = frames[0].set_index(key).sort_index()
    scores = []
    for folder, frame in zip(folders, frames):
        frame = frame.set_index(key).sort_index()
        # An average over other examples would look like one over seeds.
        if not frame.index.equals(first.index) or frame.index.has_duplicates:
            raise ValueError(f"{folder / file}: not the same examples as {folders[0] / file}")
        scores.append(frame["score"] if "score" in frame else frame["nats"])
    first["score"] = pd.concat(scores, axis=1).mean(axis=1)
    return first.reset_index()


def was_asked(folder: Path, measure: Measure, tasks: Mapping[str, Mapping]) -> bool:
    """Whether an evaluation was asked for what a measure is the mean of: not every suite wants captions, nor every state images."""
    file = folder / measure.file
    return file.exists() and (measure.file != ANSWERS or tasks_in(file).issuperset(averaged(measure, tasks)))


@cache
def tasks_in(file: Path) -> frozenset[str]:
    """The tasks of an evaluation's file. Read once: an artifact's files do not change."""
    return frozenset(read_table(file)["task"])


def mean(rows: pd.DataFrame) -> Estimate:
    """Mean score over images."""
    return mean_of_means(rows["score"].to_numpy(), ["all"] * len(rows), rows["image"].tolist())


def bits(rows: pd.DataFrame) -> Estimate:
    """Bits a byte of held-out documents: all their bits over all their bytes."""
    return mean_of_means(bits_of(rows), ["all"] * len(rows), rows["id"].tolist())


def bits_of(rows: pd.DataFrame) -> np.ndarray:
    """What each document adds to the bits a byte, so that the mean over documents is all bits over all bytes."""
    return rows["score"].to_numpy() / math.log(2) / rows["bytes"].mean()


def answer_bits(rows: pd.DataFrame, tasks: Iterable[str], looking: bool) -> pd.DataFrame:
    """task, id, image, score of right answers, such that a task's mean is all its bits over all its bytes.

    looking: the bits that an answer's own image saves, compared with another's. Raises ValueError for a task without rows,
    and for an answer that only one of the two images has.
    """
    rows = rows[rows["task"].isin(list(tasks))]
    if missing := set(tasks) - set(rows["task"]):
        raise ValueError(f"no rows of {', '.join(sorted(missing))}")
    bits = rows["score"] / math.log(2) / rows.groupby("task")["bytes"].transform("mean")
    rows = rows.assign(score=bits)
    normal = rows[rows["condition"] == "normal"]
    if not looking:
        return normal[[*KEY, "image", "score"]]
    other = rows.loc[rows["condition"] == "shuffled", [*KEY, "score"]]
    pairs = paired(normal, other)
    return pairs.assign(score=pairs["prior_score"] - pairs["score"])[[*KEY, "image", "score"]]


def majority_scores(
    tasks: Mapping[str, AskedVisionTask],
    questions: Callable[[str, str], Iterable[Question]],
    conversations: Iterable[Conversation],
) -> pd.DataFrame:
    """What the most frequent training answer to the same prompt scores: task, id, score. No answer scores 0.

    `questions(task, format)` gives what a task asks.
    """
    answers = majority_answers(conversations)
    rows = []
    for name, task in tasks.items():
        for question in asked(task, questions(name, task.format)):
            guess = answers.get(ask(task, question), "")
            rows.append((name, question.id, score_answer(task, question, guess)[1]))
    return pd.DataFrame(rows, columns=[*KEY, "score"])


def constant_scores(
    tasks: Mapping[str, AskedVisionTask], questions: Callable[[str, str], Iterable[Question]]
) -> pd.DataFrame:
    """What the same answer to every question of a task scores, chosen as the one that scores most: task, id, score, answer.

    It is chosen among the task's right answers, the FREQUENT most frequent of them: who gives it has seen the questions.
    """
    found = []
    for name, task in tasks.items():
        told = asked(task, questions(name, task.format))
        counts = Counter(right_answer(task, question) for question in told)
        tried = sorted(counts, key=lambda answer: (-counts[answer], answer))[:FREQUENT]
        scored = {answer: [score_answer(task, question, answer)[1] for question in told] for answer in tried}
        best = max(tried, key=lambda answer: sum(scored[answer]))
        about = {"task": name, "id": [question.id for question in told]}
        found.append(pd.DataFrame(about | {"score": scored[best], "answer": best}))
    return pd.concat(found, ignore_index=True)


def language_prior(majority: pd.DataFrame, blind: pd.DataFrame) -> pd.DataFrame:
    """Task by task the stronger of the two answers without looking: task, id, score, prior ("majority" or "blind")."""
    return strongest({"majority": majority, "blind": blind})


def strongest(guesses: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Task by task the guesses that score most, of equals the first: task, id, score, prior (their name).

    A model has to beat whatever needs no image. The tasks are those of the first guesses.
    """
    chosen = []
    for task in sorted({*next(iter(guesses.values()))["task"]}):
        of_task = {name: rows[rows["task"] == task] for name, rows in guesses.items()}
        best = max(of_task, key=lambda name: of_task[name]["score"].mean())
        chosen.append(of_task[best][[*KEY, "score"]].assign(prior=best))
    return pd.concat(chosen, ignore_index=True)


def paired(rows: pd.DataFrame, prior: pd.DataFrame) -> pd.DataFrame:
    """Rows with the prior's score beside theirs. Raises ValueError unless both have the same examples."""
    merged = rows.merge(prior.rename(columns={"score": "prior_score"}), on=KEY, how="outer", indicator=True)
    if (merged["_merge"] != "both").any():
        raise ValueError(f"{(merged['_merge'] != 'both').sum()} examples have no partner in the prior's scores")
    return merged


def average(rows: pd.DataFrame, chance: Mapping[str, float], column: str = "score", cluster: str = "image") -> Estimate:
    """Mean over the tasks of `chance` of (task mean - chance), where rows may have a `weight` within their task.

    Where every answer scores 0 (or 1) there is no spread to make an interval of, and Wilson's takes its place, with
    one trial a cluster. Raises ValueError for a task without rows.
    """
    rows = rows[rows["task"].isin(list(chance))]
    # A mean over fewer tasks would be another measure under the same name.
    missing = set(chance) - set(rows["task"])
    if missing:
        raise ValueError(f"no rows of {', '.join(sorted(missing))}")
    values = weighted(rows, chance, column)
    result = mean_of_means(values.to_numpy(), rows["task"].tolist(), rows[cluster].tolist())
    if rows[column].nunique() == 1 and rows[column].iloc[0] in (0, 1):
        trials, level = rows[cluster].nunique(), sum(chance.values()) / len(chance)
        low, high = wilson(int(rows[column].iloc[0]) * trials, trials)
        result = result._replace(low=low - level, high=high - level)
    return result


def weighted(rows: pd.DataFrame, less: Mapping[str, float], column: str = "score") -> pd.Series:
    """What each row adds to its task's mean: its score less what `less` has for the task, with the row's weight."""
    values = rows[column] - rows["task"].map(less)
    if "weight" in rows:  # relative to the rows at hand, which may be of one kind alone
        values *= rows["weight"] / rows.groupby("task")["weight"].transform("mean")
    return values


def one_item_one_task(rows: pd.DataFrame) -> pd.Series:
    """The cluster of each row of a text task: an item belongs to one task, and its id alone may recur in another."""
    return rows["task"] + "/" + rows["id"]


# --- measures --------------------------------------------------------------------------------------------------------


def estimator(
    measure: Measure, tasks: Mapping[str, Mapping], prior: Callable[[], pd.DataFrame]
) -> Callable[[pd.DataFrame], Estimate]:
    """What makes a measure's estimate of the rows of its file. prior: called by a measure that is less the prior."""
    if not measure.averages:
        return bits if measure.file == HELDOUT else mean
    if measure.file == ANSWERS:
        named, looking = averaged(measure, tasks), measure.less == "shuffled"

        def mean_bits(rows: pd.DataFrame) -> Estimate:
            found = clustered(answer_bits(rows, named, looking), measure)
            return mean_of_means(found["score"].to_numpy(), found["task"].tolist(), found["cluster"].tolist())

        return mean_bits
    chance = stable(tasks[measure.averages])
    zero = dict.fromkeys(chance, 0.0)
    if measure.less == "prior":
        return lambda rows: average(gains(rows, prior()), zero, "gain")
    taken = chance if measure.less == "chance" else zero
    if measure.file == TEXT:
        return lambda rows: average(rows.assign(item=one_item_one_task(rows)), taken, cluster="item")
    return partial(average, chance=taken)


def bounds(measure: Measure, tasks: Mapping[str, Mapping]) -> tuple[float, float]:
    """Between which values a measure is: a mean of shares, less their chance, is bounded; all others are not below 0."""
    if measure.less in ("prior", "shuffled"):
        return -math.inf, math.inf
    if measure.file not in (VISION, TEXT):
        return 0.0, math.inf
    chance = list(stable(tasks[measure.averages]).values()) if measure.less == "chance" else [0.0]
    level = sum(chance) / max(len(chance), 1)
    return -level, 1 - level


def clustered(rows: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Rows with what they are clustered by: the image; of text, the item."""
    return rows.assign(cluster=one_item_one_task(rows) if measure.averages == "text" else rows["image"])


def gains(rows: pd.DataFrame, prior: pd.DataFrame) -> pd.DataFrame:
    """Rows with their gain over the prior. Raises ValueError unless both have the same examples."""
    pairs = paired(rows, prior)
    return pairs.assign(gain=pairs["score"] - pairs["prior_score"])


def items(folder: Path, name: str, condition: str, tasks: Mapping[str, Mapping]) -> pd.DataFrame:
    """group, id, cluster, value of what a measure is the mean of in one evaluation. Raises ValueError if there is nothing.

    The mean over groups of the mean over their items is the column of the same name in tables: claims, which compare
    item by item, weigh as the tables do.
    """
    measure = measure_of(name, tasks)
    rows = read_scores([folder], measure.file)
    if measure.file in (VISION, TEXT):
        rows = rows[rows["task"].isin(tasks_of(name, tasks))]
        if measure.file == VISION:
            rows = rows[rows["condition"] == condition]
        chance = stable(tasks[measure.averages]) if measure.less == "chance" else {}
        group = rows["task"]
        cluster = one_item_one_task(rows) if measure.file == TEXT else rows["image"]
        value = weighted(rows, {task: chance.get(task, 0.0) for task in group.unique()})
    elif measure.file == ANSWERS:
        rows = clustered(answer_bits(rows, tasks_of(name, tasks), measure.less == "shuffled"), measure)
        group, cluster, value = rows["task"], rows["cluster"], rows["score"]
    elif measure.file == HELDOUT:
        group, cluster, value = "all", rows["id"], bits_of(rows)
    else:
        group, cluster, value = "all", rows["image"], rows["score"]
    if not len(rows):
        raise ValueError(f"{folder / measure.file}: nothing of {name} ({condition})")
    return pd.DataFrame({"group": group, "id": rows["id"], "cluster": cluster, "value": value})
