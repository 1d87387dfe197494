"""Answers compared as the VQA data sets' official scripts compare them."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence

# VQA

_NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBER_WORDS)}
_ARTICLES = frozenset(("a", "an", "the"))
# The list of the official scorer: other characters, such as * and #, stay in an answer.
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
    # The table has these words with one apostrophe missing, and not with all of them missing.
    for word in two_apostrophes.split():
        for i in (i for i, letter in enumerate(word) if letter == "'"):
            table[word[:i] + word[i + 1 :]] = word
    # The one entry that takes an apostrophe away.
    table["somebody'd"] = "somebodyd"
    return table


_CONTRACTIONS = _contractions()


def _vizwiz_contractions() -> dict[str, str]:
    """The table of VizWiz's scorer. Most of its apostrophes are backticks: "dont" becomes "don`t", which nobody wrote.

    Its keys with backticks never occur in a text here: backticks are punctuation, which is removed first.
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
        # The tests look at the text as it came in, so the order of the marks makes no difference.
        detached = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if detached or grouped_digits else " ")
    return _PERIOD.sub("", result, count=_PERIODS_REMOVED)


def _normalised_words(text: str, contractions: dict[str, str] = _CONTRACTIONS) -> str:
    # The order of the official scorer: "none" becomes 0 before articles and contractions are looked at.
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
    # Each human is left out in turn: for one who gave this answer a match less is left.
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
