"""Scores of model answers: VQA, GQA, POPE, boxes, captions, multiple choice, bits per byte.

Pure functions of plain Python values. Every score is a fraction in 0..1, except CIDEr-D, which has its own 0..10
scale, and bits per byte. Empty or mismatched input raises ValueError: a missing answer is never skipped.
"""

from __future__ import annotations

import ast
import math
import re
import string
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np

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


def _normalised_words(text: str) -> str:
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def normalise_vqa(text: str) -> str:
    """Normal form of an answer in the VQA challenge.

    Line breaks and tabs become spaces; a punctuation mark is removed where the text has it beside a space (all marks
    are, where the text has a comma between digits) and becomes a space elsewhere; periods not before a digit go; case,
    articles and number words up to ten are normalised; contractions get their apostrophe back.

    Source: https://visualqa.org/evaluation.html and its scorer, github.com/GT-Vision-Lab/VQA, oddities included.
    """
    return _normalised_words(without_punctuation(_without_line_breaks(text)))


def normalise_textvqa(text: str) -> str:
    """Normal form of an answer in TextVQA: commas and question marks go first and "'s" becomes a word of its own.

    Source: the EvalAI answer processor of MMF (github.com/facebookresearch/mmf), then as in `normalise_vqa`.
    """
    return normalise_vqa(text.lower().replace(",", "").replace("?", "").replace("'s", " 's"))


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
    is returned, 0..1. Pass `normalise_textvqa` for TextVQA. `normalise_answer` is for conventions that treat human
    answers otherwise: `without_punctuation` for the paper's VQAv2, `str` (as they are) for VizWiz, whose
    scorer moreover has backticks in its table of contractions; here they are apostrophes.
    Raises ValueError without answers.

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


def mean_by_group(scores: Sequence[float], groups: Sequence[Hashable]) -> dict[Hashable, tuple[float, int]]:
    """Mean score and number of items by group, such as GQA's structural types. Raises ValueError on unequal lengths."""
    if len(scores) != len(groups):
        raise ValueError(f"{len(scores)} scores for {len(groups)} groups")
    members = defaultdict(list)
    for score, group in zip(scores, groups):
        members[group].append(float(score))
    return {group: (math.fsum(values) / len(values), len(values)) for group, values in members.items()}


# POPE


class YesNoMetrics(NamedTuple):
    """Scores of yes/no answers with "yes" as the positive class; `yes_ratio` is the share of predicted "yes"."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_ratio: float


def parse_yes_no(text: str) -> str:
    """Answer of generated text: "no" when its first sentence has the word No, no or not, else "yes".

    Words are what single spaces separate, without commas, so that a line break after "no" hides it.
    Source: LLaVA, llava/eval/eval_pope.py
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def yes_no_from_probabilities(p_yes: float, p_no: float) -> str:
    """The more probable of the two answers, "yes" on a tie. Raises ValueError on NaN. Source: vlm-evaluation."""
    if math.isnan(p_yes) or math.isnan(p_no):
        raise ValueError("a probability is NaN")
    return "yes" if p_yes >= p_no else "no"


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def yes_no_metrics(labels: Sequence[str], predictions: Sequence[str]) -> YesNoMetrics:
    """POPE's scores for equally long sequences of "yes" and "no". A ratio with nothing below the line is 0.

    Raises ValueError on empty input, unequal lengths and any other value. Source: Li et al. 2023 (arXiv:2305.10355)
    """
    if not labels or len(labels) != len(predictions):
        raise ValueError(f"{len(labels)} labels for {len(predictions)} predictions")
    if unknown := {*labels, *predictions} - {"yes", "no"}:
        raise ValueError(f"neither 'yes' nor 'no': {sorted(map(str, unknown))[:3]}")
    count = Counter(zip(labels, predictions))
    true_positives, predicted = count["yes", "yes"], count["yes", "yes"] + count["no", "yes"]
    precision = _ratio(true_positives, predicted)
    recall = _ratio(true_positives, true_positives + count["yes", "no"])
    return YesNoMetrics(
        accuracy=(true_positives + count["no", "no"]) / len(labels),
        precision=precision,
        recall=recall,
        f1=_ratio(2 * precision * recall, precision + recall),
        yes_ratio=predicted / len(labels),
    )


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


def normalise_xywh(box: Sequence[float], width: float, height: float) -> Box:
    """A pixel box (left, top, width, height) as (x1, y1, x2, y2) in fractions of the image, to two decimals.

    Two decimals are what the models are trained to write. Raises ValueError for an image without area.
    """
    if width <= 0 or height <= 0:
        raise ValueError(f"image of {width} x {height} pixels")
    left, top, box_width, box_height = box
    corners = (left / width, top / height, (left + box_width) / width, (top + box_height) / height)
    x1, y1, x2, y2 = (round(float(corner), 2) for corner in corners)
    return x1, y1, x2, y2


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

_CAPTION_TOKEN = re.compile(
    r"\d+(?:[.,:]\d+)+"  # 1,000 and 3.5 and 10:30
    r"|\w+?(?=n't\b)|n't\b|'(?:s|re|ve|ll|d|m)\b"  # contractions split as in the Penn Treebank
    r"|\w+(?:-\w+)*|[&%$#@+=*/]"
)


def tokenise_caption(text: str) -> list[str]:
    """Lower-case words of a caption without punctuation.

    Stands in for the Java Penn Treebank tokeniser of pycocoevalcap: the same on plain English captions, without its
    rules for abbreviations, quotation marks and rare symbols.
    """
    return _CAPTION_TOKEN.findall(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


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


def bleu(references: Sequence[Sequence[Sequence[str]]], hypotheses: Sequence[Sequence[str]]) -> list[float]:
    """Corpus BLEU-1 to BLEU-4 of tokenised captions (shapes as in `cider_d`), 0..1.

    Clipped n-gram precision and a brevity penalty against the closest reference length. The tiny constants are
    pycocoevalcap's, and show where an order has no match. Raises ValueError on empty or mismatched input.

    Source: Papineni et al. 2002
    """
    _check_captions(references, hypotheses)
    tiny, small = 1e-15, 1e-9
    produced = sum(map(len, hypotheses))
    wanted = 0
    for image, words in zip(references, hypotheses):
        # On a tie the shorter reference counts.
        wanted += min((abs(len(reference) - len(words)), len(reference)) for reference in image)[1]
    ratio = (produced + tiny) / (wanted + small)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for n in (1, 2, 3, 4):
        correct = total = 0
        for image, words in zip(references, hypotheses):
            grams = _ngrams(words, n)
            limit: Counter = Counter()
            for reference in image:
                limit |= _ngrams(reference, n)
            correct += (grams & limit).total()
            total += grams.total()
        product *= (correct + tiny) / (total + small)
        scores.append(product ** (1 / n) * penalty)
    return scores


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    lengths = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for j, other in enumerate(b):
            above = lengths[j + 1]
            lengths[j + 1] = diagonal + 1 if word == other else max(above, lengths[j])
            diagonal = above
    return lengths[-1]


def rouge_l(
    references: Sequence[Sequence[Sequence[str]]], hypotheses: Sequence[Sequence[str]], beta: float = 1.2
) -> tuple[float, list[float]]:
    """ROUGE-L of tokenised captions (shapes as in `cider_d`): the mean and the score of each image, 0..1.

    F-measure of the best precision and the best recall of the longest common subsequence over the references.
    Raises ValueError on empty or mismatched input. Source: Lin 2004, with pycocoevalcap's beta.
    """
    _check_captions(references, hypotheses)
    scores = []
    for image, words in zip(references, hypotheses):
        common = [_common_subsequence(reference, words) for reference in image]
        precision = max(_ratio(length, len(words)) for length in common)
        recall = max(_ratio(length, len(reference)) for length, reference in zip(common, image))
        scores.append(_ratio((1 + beta**2) * precision * recall, recall + beta**2 * precision))
    return sum(scores) / len(scores), scores


# Likelihoods


class ChoiceScores(NamedTuple):
    """Predicted choice of every item and whether it is right, by normalisation; each an array of shape (items,).

    `acc` takes the likeliest choice, `acc_norm` the likeliest by character, `acc_bytes` by UTF-8 byte.
    """

    predictions: dict[str, np.ndarray]
    correct: dict[str, np.ndarray]

    def mean(self, metric: str) -> float:
        """Accuracy over the items, 0..1."""
        return float(self.correct[metric].mean())


def choice_scores(
    logprobs: Sequence[Sequence[float]], choices: Sequence[Sequence[str]], gold: Sequence[int]
) -> ChoiceScores:
    """Score multiple-choice items by the log-likelihood of their choices; ties go to the first choice.

    logprobs: for each item the summed log-likelihood, in nats, of each choice; choices: the choices' text without the
    space that joins it to the question; gold: index of the right choice. Raises ValueError on empty or mismatched
    input, an empty choice, NaN and a gold index out of range. Source: EleutherAI lm-eval 0.4, `multiple_choice`.
    """
    if not len(gold) or not len(logprobs) == len(choices) == len(gold):
        raise ValueError(f"{len(logprobs)} log-likelihoods, {len(choices)} lists of choices, {len(gold)} gold indices")
    predictions: dict[str, list[int]] = {"acc": [], "acc_norm": [], "acc_bytes": []}
    for scores, texts, right in zip(logprobs, choices, gold):
        values = np.asarray(scores, dtype=float)
        if values.shape != (len(texts),) or not all(texts):
            raise ValueError(f"{values.size} log-likelihoods for the choices {list(texts)}")
        if np.isnan(values).any() or not 0 <= right < len(texts):
            raise ValueError(f"log-likelihoods {values.tolist()} with gold index {right}")
        predictions["acc"].append(int(values.argmax()))
        predictions["acc_norm"].append(int((values / [len(text) for text in texts]).argmax()))
        predictions["acc_bytes"].append(int((values / [len(text.encode()) for text in texts]).argmax()))
    arrays = {name: np.array(indices) for name, indices in predictions.items()}
    return ChoiceScores(arrays, {name: indices == np.asarray(gold) for name, indices in arrays.items()})


def bits_per_byte(total_nats: float, total_bytes: int) -> float:
    """Negative log-likelihood of a text, in nats, as bits for each of its UTF-8 bytes.

    Comparable between tokenisers. Raises ValueError without bytes or with a negative or undefined loss.
    """
    if total_bytes <= 0:
        raise ValueError(f"{total_bytes} bytes of text")
    if not total_nats >= 0:
        raise ValueError(f"a negative log-likelihood of {total_nats} nats")
    return total_nats / (math.log(2) * total_bytes)
