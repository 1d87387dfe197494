"""What a task asks, of which examples, how an answer is scored, and which answer one would guess without looking."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from pipeline.common.files import one_line
from pipeline.data.formats.boxes import box_text
from pipeline.data.records import Conversation, MultipleChoice, Question
from pipeline.evaluation import metrics, vqa
from pipeline.settings.tasks import AskedVisionTask

Example = TypeVar("Example", Question, MultipleChoice)


def ask(task: AskedVisionTask, question: Question) -> str:
    """A question in its task's prompt."""
    return task.prompt.format(question=question.text)


class FreeText(NamedTuple):
    """A way to score free text: (prediction, answers) -> 0..1. `soft`: it counts how many people gave an answer."""

    score: Callable[[str, Sequence[str]], float]
    soft: bool = False


# Each VQA data set has its own rules to normalise predictions and answers, as in the official scorers and in
# vlm-evaluation.
FREE_TEXT = {
    "vqa": FreeText(vqa.vqa_accuracy, soft=True),
    "vqa_official": FreeText(vqa.vqa_accuracy_official, soft=True),
    "vqa_as_run": FreeText(partial(vqa.vqa_accuracy, normalise_answer=vqa.without_punctuation), soft=True),
    # vlm-evaluation normalises what a model says in VizWiz, and takes the human answers as they are.
    "vizwiz": FreeText(partial(vqa.vqa_accuracy, normalise=vqa.normalise_vizwiz, normalise_answer=str), soft=True),
    "textvqa": FreeText(partial(vqa.vqa_accuracy, normalise=vqa.normalise_textvqa), soft=True),
    "gqa": FreeText(lambda prediction, answers: float(vqa.gqa_match(prediction, answers[0]))),
    "exact": FreeText(lambda prediction, answers: float(metrics.exact_match(prediction, answers))),
}


def check_answers(name: str, task: AskedVisionTask, questions: Sequence[Question]) -> None:
    """Raises ValueError where a scorer of a task can call no answer right."""
    for scorer in (task.scorer, *(task.beside or ())):
        # With three answers that agree, each left-out one has two matches: 2/3 and not 1.
        few = [question for question in questions if len(question.answers) < vqa.ENOUGH_ANSWERS]
        if scorer in FREE_TEXT and FREE_TEXT[scorer].soft and few:
            raise ValueError(
                f"vision.{name}: question {one_line(few[0].id)} has {len(few[0].answers)} answers (and {len(few) - 1:,} more "
                f"questions have so few); the scorer {scorer} needs at least {vqa.ENOUGH_ANSWERS}, or the right answer "
                "scores less than 1; use the scorer exact"
            )
        if scorer == "gqa" and not any(vqa.gqa_match(q.answers[0], q.answers[0]) for q in questions):
            raise ValueError(
                f"vision.{name}: every answer has capitals or punctuation, such as {one_line(repr(questions[0].answers[0]))}, "
                "which the scorer gqa takes out of what a model says: no answer would be right; use the scorer exact"
            )


def measures(
    task: AskedVisionTask, questions: Sequence[Question], predictions: Sequence[str], scores: Sequence[float]
) -> Iterator[tuple[str, str, int, float]]:
    """What a task measures beside its score: kind of question ("": all), name, questions, value in 0..1.

    The means of other scorers; precision, recall and F1 of "yes" with the share that is said to be; F1 of
    "unanswerable" in VizWiz; accuracy of open and binary questions in GQA.
    """
    said = [prediction.strip() for prediction in predictions]
    for scorer in (task.scorer, *task.beside) if task.beside else ():
        values = [FREE_TEXT[scorer].score(text, question.answers) for text, question in zip(said, questions)]
        yield "", scorer, len(values), sum(values) / len(values)
    if task.scorer == "yes_no":
        kinds = sorted({question.kind for question in questions})
        for kind in ("", *(kinds if len(kinds) > 1 else ())):
            pairs = [(s == "yes", q.answers[0] == "yes") for s, q in zip(said, questions) if kind in ("", q.kind)]
            ratios = metrics.detection(*zip(*pairs))
            for measure, value in zip(("precision", "recall", "f1", "yes_ratio"), ratios):
                yield kind, measure, len(pairs), value
    if task.format == "vizwiz":
        found = [vqa.normalise_vizwiz(text) == "unanswerable" for text in said]
        true = [question.kind == "unanswerable" for question in questions]
        yield "", "unanswerable_f1", len(questions), metrics.detection(found, true).f1
    for measure, is_open in (("open", True), ("binary", False)):
        part = [s for s, q in zip(scores, questions) if q.structure and (q.structure == "query") == is_open]
        if part:
            yield "", measure, len(part), sum(part) / len(part)


def choose(choices: Sequence[str], nats: Sequence[float]) -> tuple[int, int, bool]:
    """The likeliest choice, the likeliest for its length (lm-eval's acc_norm), and whether the first is one of equals.

    Of equals the first is chosen. A length is in characters, without the space that joins a choice to its context.
    """
    # Characters and not tokens, as in lm-eval: acc_norm is then the same for any tokenizer.
    lengths = [max(1, len(choice.removeprefix(" "))) for choice in choices]
    best = max(range(len(choices)), key=lambda n: nats[n])
    normed = max(range(len(choices)), key=lambda n: nats[n] / lengths[n])
    return best, normed, list(nats).count(nats[best]) > 1


def score_answer(task: AskedVisionTask, question: Question, prediction: str) -> tuple[bool, float]:
    """(whether the answer has the right form, its score in 0..1). Space around an answer does not count."""
    prediction = prediction.strip()
    if task.scorer == "box":
        assert task.threshold is not None, "check_tasks has looked"
        valid = metrics.parse_box(prediction) is not None
        return valid, float(valid and metrics.box_hit(prediction, true_box(task, question), task.threshold))
    if task.scorer == "yes_no":
        return True, float(prediction == question.answers[0].lower())
    return bool(prediction), float(FREE_TEXT[task.scorer].score(prediction, question.answers))


def right_answer(task: AskedVisionTask, question: Question) -> str:
    """The answer that counts as the right one where one is needed: of people's answers the most frequent.

    The first of equals counts. A box is written as models write it.
    """
    if task.scorer == "box":
        assert question.box, "a question of a box task has one"
        return box_text(question.box)
    if task.scorer == "yes_no":
        return yes_no_words(task)[question.answers[0].lower() != "yes"]
    counts = Counter(question.answers)
    return max(counts, key=lambda answer: counts[answer])


def yes_no_words(task: AskedVisionTask) -> tuple[str, str]:
    """The words that a task has for yes and no."""
    yes, no = task.options or ("yes", "no")
    return yes, no


def true_box(task: AskedVisionTask, question: Question) -> metrics.Box:
    """A question's box with the decimals that its task asks for, in shares of the image, as answers are."""
    assert question.box, "a question of a box task has one"
    if decimals := task.decimals:
        left, top, right, bottom = (round(side, decimals) for side in question.box)
        return left, top, right, bottom
    return question.box


def subset(items: list[Example], count: int | None) -> list[Example]:
    """At most `count` items (None: all), chosen and ordered by the hash of their id.

    The same for every model, machine and order; a larger subset has the smaller one at its beginning.
    """
    # Not by drawing: a seed's choice would change with the number of items.
    return sorted(items, key=lambda item: hashlib.sha256(item.id.encode()).digest())[:count]


def asked(task: AskedVisionTask, questions: Iterable[Question]) -> list[Question]:
    """The questions of a task that are asked, in their own order."""
    questions, count = list(questions), task.items
    if count is None or count >= len(questions):
        return questions
    chosen = {question.id for question in subset(questions, count)}
    return [question for question in questions if question.id in chosen]


def weights(task: AskedVisionTask, questions: list[Question]) -> list[float]:
    """What each question counts for in its task's mean: 1 on average. If kinds are averaged, all count the same."""
    if task.average != "kinds":
        return [1.0] * len(questions)
    sizes = Counter(question.kind for question in questions)
    return [len(questions) / (len(sizes) * sizes[question.kind]) for question in questions]


def shuffled_images(questions: list[Question]) -> list[Path]:
    """For each question the image of another one of its task and type: never its own, if there are two images.

    Questions are taken around a circle in the order of a hash, each getting the next different image.
    """
    groups: dict[tuple, list[int]] = defaultdict(list)
    for number, question in enumerate(questions):
        groups[question.task, question.kind].append(number)
    images: list[Path] = [question.image for question in questions]
    for members in groups.values():
        circle = sorted(members, key=lambda n: hashlib.sha256(questions[n].id.encode()).digest())
        for place, number in enumerate(circle):
            others = (circle[(place + step) % len(circle)] for step in range(1, len(circle)))
            own = questions[number].image
            images[number] = next((questions[o].image for o in others if questions[o].image != own), own)
    return images


def majority_answers(conversations: Iterable[Conversation]) -> dict[str, str]:
    """The most frequent training answer to every prompt (the first of equals in alphabetical order)."""
    seen: dict[str, Counter] = defaultdict(Counter)
    for conversation in conversations:
        for prompt, answer in conversation.turns:
            seen[prompt][answer] += 1
    return {prompt: min(answers, key=lambda a: (-answers[a], a)) for prompt, answers in seen.items()}
