"""CIDEr-D of captions (Vedantam et al., 2015), as pycocoevalcap computes it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from pipeline.evaluation.metrics import ratio

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

    Stands in for the Java tokeniser of pycocoevalcap. That one removes brackets by their names in capitals but writes
    the names in lower case, so it keeps them. On plain English captions both give the same; its rules for addresses,
    smileys, rare abbreviations and symbols, and for a letter that ends a sentence, are not here.
    """
    found = _CAPTION_TOKEN.findall(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    return [_BRACKETS.get(token, token) for token in found]


def _check_captions(references: Sequence[Sequence[Sequence[str]]], hypotheses: Sequence[Sequence[str]]) -> None:
    """Raises ValueError for what would be scored as something else than was meant."""
    if not hypotheses or len(references) != len(hypotheses):
        raise ValueError(f"references of {len(references)} images for {len(hypotheses)} captions")
    if not all(references):
        raise ValueError("an image has no reference caption")
    if any(isinstance(caption, str) for caption in (*hypotheses, *(r for image in references for r in image))):
        raise ValueError("a caption is a list of words: tokenise it first")


def _ngrams(words: Sequence[str], n: int) -> Counter:
    """How often each run of n words occurs."""
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _tf_idf(grams: Counter, frequency: Counter, log_images: float) -> dict:
    """Weights of n-grams: count * log(images / images whose references have the n-gram)."""
    # A word that no reference has counts as one that a single image has, as in pycocoevalcap: no division by zero.
    return {gram: count * (log_images - math.log(max(1, frequency[gram]))) for gram, count in grams.items()}


def _cosine_clipped(hypothesis: dict, reference: dict) -> float:
    """Cosine of two tf-idf vectors, the hypothesis' weights clipped at the reference's."""
    # Clipped (the D of CIDEr-D): a word that is said again and again earns no more than the reference has of it.
    overlap = sum(
        min(weight, reference.get(gram, 0.0)) * reference.get(gram, 0.0) for gram, weight in hypothesis.items()
    )
    norms = [math.sqrt(sum(weight * weight for weight in vector.values())) for vector in (hypothesis, reference)]
    return ratio(overlap, norms[0] * norms[1])


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
                # Numbers of bigrams, which pycocoevalcap takes for the lengths, for all orders n.
                gap = max(len(words) - 1, 0) - max(len(reference_words) - 1, 0)
                similarity = _cosine_clipped(vector, _tf_idf(grams, frequency, log_images))
                total += similarity * math.exp(-gap * gap / (2 * sigma * sigma))
            image_scores.append(total / len(image_counts))
        per_order.append(image_scores)
    per_image = [10.0 * sum(orders) / 4 for orders in zip(*per_order)]
    return sum(per_image) / len(per_image), per_image
