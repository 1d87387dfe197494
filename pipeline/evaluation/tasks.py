"""What a task asks, which examples it takes, how an answer counts, and what one would answer without looking."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from pipeline.data.records import Conversation, MultipleChoice, Question
from pipeline.evaluation import metrics


def ask(task: dict, question: Question) -> str:
    """A question in its task's prompt."""
    return task["prompt"].format(question=question.text)


def score_answer(task: dict, question: Question, prediction: str) -> tuple[bool, float]:
    """(whether the answer is of the right form, its score in 0..1)."""
    if task["scorer"] == "box":
        valid = metrics.parse_box(prediction) is not None
        return valid, float(valid and metrics.box_hit(prediction, question.box, task["threshold"]))
    if task["scorer"] == "yes_no":
        return True, float(prediction == question.answers[0].lower())
    valid = bool(prediction.strip())
    if task["scorer"] == "gqa":
        return valid, float(metrics.gqa_match(prediction, question.answers[0]))
    return valid, float(metrics.vqa_accuracy(prediction, question.answers))


def subset(items: list[MultipleChoice], count: int) -> list[MultipleChoice]:
    """At most `count` items, chosen by the hash of their id: the same for every model, whatever the order."""
    return sorted(items, key=lambda item: hashlib.sha256(item.id.encode()).digest())[:count]


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
            others = circle[place + 1 :] + circle[:place]
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
