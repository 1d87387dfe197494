"""Scores of model answers: exact matches, yes and no, boxes.

Pure functions of plain Python values. Every score is a fraction in 0..1. Lists of different lengths raise ValueError: a
missing answer is never skipped.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.evaluation.vqa import clean_gqa

Box = tuple[float, float, float, float]


def exact_match(prediction: str, answers: Sequence[str]) -> bool:
    """Whether a prediction is one of the answers; case and ASCII punctuation do not count, on both sides.

    As lmms-eval scores GQA. Space around a prediction counts, as in `gqa_match`.
    """
    return clean_gqa(prediction) in {clean_gqa(answer.strip()) for answer in answers}


# Yes or no


class Detection(NamedTuple):
    """How well one of two answers is found, 0..1: of the questions with it, and of those that were said to have it."""

    precision: float
    recall: float
    f1: float
    ratio: float


def detection(found: Sequence[bool], true: Sequence[bool]) -> Detection:
    """Precision, recall and F1 of what was found, 0 where nothing can be counted, and the share that was found.

    Of "yes" they are POPE's; F1 of "unanswerable" is VizWiz's. Source: LLaVA's eval_pope.py; vlm-evaluation.
    """
    hits = sum(f and t for f, t in zip(found, true, strict=True))
    precision, recall = ratio(hits, sum(found)), ratio(hits, sum(true))
    return Detection(
        precision, recall, ratio(2 * precision * recall, precision + recall), ratio(sum(found), len(found))
    )


def ratio(part: float, whole: float) -> float:
    """part / whole, and 0 where the whole is 0."""
    return part / whole if whole else 0.0


# Boxes


def parse_box(text: str) -> Box | None:
    """The box (x1, y1, x2, y2) an answer consists of, or None where it is not one.

    The whole text must be a Python list of four numbers in 0..1 with x1 < x2 and y1 < y2: any further word makes it
    invalid. The frame (original or padded image) is the one the model was trained on.

    Source: vlm-evaluation, RefCOCO and OCID-Ref.
    """
    try:
        with warnings.catch_warnings():
            # The parser warns about odd literals in what a model wrote.
            warnings.simplefilter("ignore")
            value = ast.literal_eval(text)
        # The comparison raises TypeError for what is no number.
        if not isinstance(value, list) or len(value) != 4 or not all(0 <= number <= 1 for number in value):
            return None
        x1, y1, x2, y2 = map(float, value)
    # Deeply nested brackets end in MemoryError or RecursionError, and a model may write any text.
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two (x1, y1, x2, y2) boxes of one frame, 0..1; 0 where both have no area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(0.0, width) * max(0.0, height)
    return float(ratio(intersection, _area(a) + _area(b) - intersection))


def box_hit(prediction: str, box: Sequence[float], threshold: float) -> bool:
    """Whether the text's box overlaps the true one with IoU >= threshold: .5 in RefCOCO, .25 in OCID-Ref.

    Both boxes are in fractions of the same frame. Text that is no box is a miss.
    """
    predicted = parse_box(prediction)
    return predicted is not None and iou(predicted, box) >= threshold
