"""Scores of model answers: VQA, GQA, boxes, captions.

Pure functions of plain Python values. Every score is a fraction in 0..1, except CIDEr-D, which has its own 0..10
scale. Empty or mismatched input raises ValueError: a missing answer is never skipped.
"""

from __future__ import annotations

import ast
import math
import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

Box = tuple[float, float, float, float]


# VQA

_NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBER_WORDS)}
_ARTICLES = frozenset(("a", "an", "the"))
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
# The scorer hands a regex flag (32) over where `re.sub` takes a count: periods after the 32nd stay.
_PERIODS_REMOVED = 32


def _contractions() -> dict[str, str]:
    """The official table, by misspelling, without its entries that have capitals (words are lower-cased first)."""
    one_apostrophe = (
        "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's "
        "isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've "
        "shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd "
        "there're there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've "
        "when's where'd where's where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all "
        "you'd you'll you're you've"
    )
    two_apostrophes = (
        "couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've "
        "something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll y'all'd've you'd've 'ow's'at"
    )
    table = {word.replace("'", ""): word for word in one_apostrophe.split()}
    for word in two_apostrophes.split():
        for i in (i for i, letter in enumerate(word) if letter == "'"):
            table[word[:i] + word[i + 1 :]] = word
    # The one entry that takes an apostrophe away.
    table["somebody'd"] = "somebodyd"
    return table


_CONTRACTIONS = _contractions()


def _vizwiz_contractions() -> dict[str, str]:
    """The table of VizWiz's scorer: most apostrophes are backticks, so that "dont" becomes what no human answer has.

    Its keys with backticks are never met: backticks are punctuation, which goes first.
    """
    right = {"aint", "arent", "cant", "couldve", "couldnt", "weve", "wheres", "whove"}
    plain = {key: word for key, word in _CONTRACTIONS.items() if "'" not in key}
    table = {key: word if key in right else word.replace("'", "`") for key, word in plain.items()}
    return table | {"couldn'tve": "couldn`t`ve", "hadn'tve": "hadn`t`ve"}


_VIZWIZ_CONTRACTIONS = _vizwiz_contractions()


def _without_line_breaks(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def without_punctuation(text: str) -> str:
    """The part of `normalise_vqa` that is about punctuation."""
    grouped_digits = _COMMA_IN_NUMBER.search(text) is not None
    result = text
    for mark in _PUNCTUATION:
        # The tests look at the original text, so the outcome does not depend on the order of the marks.
        detached = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if detached or grouped_digits else " ")
    return _PERIOD.sub("", result, count=_PERIODS_REMOVED)


def _normalised_words(text: str, contractions: dict[str, str] = _CONTRACTIONS) -> str:
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(contractions.get(word, word) for word in words if word not in _ARTICLES)


def normalise_vqa(text: str) -> str:
    """Normal form of an answer in the VQA challenge.

    Line breaks and tabs become spaces; a punctuation mark is removed where the text has it beside a space (all marks
    are, where the text has a comma between digits) and becomes a space elsewhere; periods not before a digit go; case,
    articles and number words up to ten are normalised; contractions get their apostrophe back.

    Source: https://visualqa.org/evaluation.html and its scorer, github.com/GT-Vision-Lab/VQA, oddities included.
    """
    return _normalised_words(without_punctuation(_without_line_breaks(text)))


def normalise_vizwiz(text: str) -> str:
    """Normal form of a prediction in VizWiz: VQA's with another table of contractions. Source: vlm-evaluation."""
    return _normalised_words(without_punctuation(_without_line_breaks(text)), _VIZWIZ_CONTRACTIONS)


def normalise_textvqa(text: str) -> str:
    """Normal form of an answer in TextVQA: commas and question marks go first and "'s" becomes a word of its own.

    Source: the EvalAI answer processor of MMF (github.com/facebookresearch/mmf), then as in `normalise_vqa`.
    """
    return normalise_vqa(text.lower().replace(",", "").replace("?", "").replace("'s", " 's"))


ENOUGH_ANSWERS = 4  # of a question, for its right answer to have a soft accuracy of 1


def _soft_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Mean over the answers of min(matches among the others / 3, 1)."""
    matches = sum(answer == prediction for answer in answers)
    others = len(answers) - matches
    return (matches * min((matches - 1) / 3, 1.0) + others * min(matches / 3, 1.0)) / len(answers)


def _check_answers(answers: Sequence[str]) -> None:
    if isinstance(answers, str) or not answers:
        raise ValueError("answers must be a list of at least one human answer")


def vqa_accuracy(
    prediction: str,
    answers: Sequence[str],
    normalise: Callable[[str], str] = normalise_vqa,
    normalise_answer: Callable[[str], str] | None = None,
) -> float:
    """Soft accuracy of one answer against the human ones (ten in VQAv2), with both sides normalised.

    Each human is left out in turn, the score is min(n/3, 1) with n matches among the others, and the mean over humans
    is returned, 0..1: with fewer than ENOUGH_ANSWERS it cannot be 1. Pass `normalise_textvqa` for TextVQA.
    `normalise_answer` is for conventions that treat human answers otherwise: `without_punctuation` for the paper's
    VQAv2, `str` (as they are) for VizWiz, with `normalise_vizwiz`. Raises ValueError without answers.

    Source: Antol et al. 2015 (arXiv:1505.00468) and https://visualqa.org/evaluation.html; vlm-evaluation
    """
    _check_answers(answers)
    return _soft_accuracy(normalise(prediction), [(normalise_answer or normalise)(answer) for answer in answers])


def vqa_accuracy_official(prediction: str, answers: Sequence[str]) -> float:
    """`vqa_accuracy` as the challenge's scorer computes it: nothing is normalised when all humans wrote the same.

    "Yes" against ten "yes" scores 0. Raises ValueError without answers. Source: github.com/GT-Vision-Lab/VQA
    """
    _check_answers(answers)
    plain = [_without_line_breaks(answer) for answer in answers]
    if len(set(plain)) == 1:
        return _soft_accuracy(_without_line_breaks(prediction), plain)
    return vqa_accuracy(prediction, answers)


# GQA

_NO_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)


def clean_gqa(text: str) -> str:
    """A prediction without ASCII punctuation, in lower case; spaces and articles stay. Source: vlm-evaluation."""
    return text.translate(_NO_ASCII_PUNCTUATION).lower()


def gqa_match(prediction: str, answer: str) -> bool:
    """Whether a cleaned prediction is exactly the answer, which is taken as the data set has it.

    Space around the prediction counts, as in vlm-evaluation: strip decoded text first.
    """
    return clean_gqa(prediction) == answer


def exact_match(prediction: str, answers: Sequence[str]) -> bool:
    """Whether a prediction is one of the answers but for case and ASCII punctuation, on both sides.

    lmms-eval's GQA. Space around a prediction counts, as in `gqa_match`.
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
    """Precision, recall and F1 of what was found, 0 where they are of nothing, and the share of all that was found.

    Of "yes" they are POPE's; F1 of "unanswerable" is VizWiz's. Source: LLaVA's eval_pope.py; vlm-evaluation.
    """
    hits = sum(f and t for f, t in zip(found, true, strict=True))
    precision, recall = _ratio(hits, sum(found)), _ratio(hits, sum(true))
    return Detection(
        precision, recall, _ratio(2 * precision * recall, precision + recall), _ratio(sum(found), len(found))
    )


def _ratio(part: float, whole: float) -> float:
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
        if not isinstance(value, list) or len(value) != 4 or not all(0 <= number <= 1 for number in value):
            return None
        x1, y1, x2, y2 = map(float, value)
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
    return float(_ratio(intersection, _area(a) + _area(b) - intersection))


def box_hit(prediction: str, box: Sequence[float], threshold: float) -> bool:
    """Whether the text's box overlaps the true one with IoU >= threshold: .5 in RefCOCO, .25 in OCID-Ref.

    Both boxes are in fractions of the same frame. Text that is no box is a miss.
    """
    predicted = parse_box(prediction)
    return predicted is not None and iou(predicted, box) >= threshold


# Captions

_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_ABBREVIATIONS = "mr|mrs|ms|dr|prof|st|ave|blvd|rd|jr|sr|vs|etc|inc|corp|co|ltd|gen|gov|sen|rep|capt|lt|sgt|mt|ft"
_CAPTION_TOKEN = re.compile(
    r"(?<!\S)[-+]?\d+(?:[.,:/]\d+)*(?![\w-])|\d+(?:[.,:/]\d+)+(?![\w-])"  # -5 and 1,000 and 3.5 and 10:30 and 1/2
    r"|(?<!\w)(?:[a-z]\.)+[a-z](?!\w)\.?"  # u.s. and a.m.
    rf"|(?<!\w)(?:(?:{_ABBREVIATIONS})\.|no\.(?= \d))"
    r"|(?<!\w)(?:can(?=not\b)|gon(?=na\b)|wan(?=na\b)|got(?=ta\b)|lem(?=me\b)|gim(?=me\b)|'t(?=is\b|was\b))"
    r"|\w+?(?=n't\b)|n't\b|'(?:s|re|ve|ll|d|m)\b|(?<!\w)'\d0s\b|o'clock|ma'am|y'(?=all\b)"  # as in the Penn Treebank
    r"|(?<!\S)[#@][a-z]\w*|[^\W_]+(?:[-/&_][^\W_]+)*|[!?]{2,}|[&%$#@+=*/^~|\\_<>°]|[][(){}]"
)


def tokenise_caption(text: str) -> list[str]:
    """Lower-case words of a caption without punctuation; brackets stay, by their names in the Penn Treebank ("-lrb-").

    Stands in for the Java tokeniser of pycocoevalcap, which means to take brackets out and, in lower case, does not: the
    same on plain English captions, without its rules for addresses, smileys, rare abbreviations and symbols, and a letter that ends a sentence.
    """
    found = _CAPTION_TOKEN.findall(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    return [_BRACKETS.get(token, token) for token in found]


def _check_captions(references: Sequence[Sequence[Sequence[str]]], hypotheses: Sequence[Sequence[str]]) -> None:
    if not hypotheses or len(references) != len(hypotheses):
        raise ValueError(f"references of {len(references)} images for {len(hypotheses)} captions")
    if not all(references):
        raise ValueError("an image has no reference caption")
    if any(isinstance(caption, str) for caption in (*hypotheses, *(r for image in references for r in image))):
        raise ValueError("a caption is a list of words: tokenise it first")


def _ngrams(words: Sequence[str], n: int) -> Counter:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _tf_idf(grams: Counter, frequency: Counter, log_images: float) -> dict:
    return {gram: count * (log_images - math.log(max(1, frequency[gram]))) for gram, count in grams.items()}


def _cosine_clipped(hypothesis: dict, reference: dict) -> float:
    """Cosine of two tf-idf vectors, the hypothesis' weights clipped at the reference's."""
    overlap = sum(
        min(weight, reference.get(gram, 0.0)) * reference.get(gram, 0.0) for gram, weight in hypothesis.items()
    )
    norms = [math.sqrt(sum(weight * weight for weight in vector.values())) for vector in (hypothesis, reference)]
    return _ratio(overlap, norms[0] * norms[1])


def cider_d(
    references: Sequence[Sequence[Sequence[str]]], hypotheses: Sequence[Sequence[str]], sigma: float = 6.0
) -> tuple[float, list[float]]:
    """CIDEr-D of captions: the mean and the score of each image, 0..10.

    references: for each image a list of tokenised captions; hypotheses: one tokenised caption for each image. The
    document frequencies are those of the references given, so a score holds for its set of images alone, and a single
    image scores 0. Raises ValueError on empty or mismatched input.

    Source: Vedantam et al. 2015 (arXiv:1411.5726), with pycocoevalcap's length penalty, which counts bigrams.
    """
    _check_captions(references, hypotheses)
    log_images = math.log(len(references))
    per_order = []
    for n in (1, 2, 3, 4):
        counts = [[_ngrams(words, n) for words in image] for image in references]
        frequency = Counter(gram for image in counts for gram in set().union(*image))
        image_scores = []
        for image_words, image_counts, words in zip(references, counts, hypotheses):
            vector = _tf_idf(_ngrams(words, n), frequency, log_images)
            total = 0.0
            for reference_words, grams in zip(image_words, image_counts):
                gap = max(len(words) - 1, 0) - max(len(reference_words) - 1, 0)
                similarity = _cosine_clipped(vector, _tf_idf(grams, frequency, log_images))
                total += similarity * math.exp(-gap * gap / (2 * sigma * sigma))
            image_scores.append(total / len(image_counts))
        per_order.append(image_scores)
    per_image = [10.0 * sum(orders) / 4 for orders in zip(*per_order)]
    return sum(per_image) / len(per_image), per_image
