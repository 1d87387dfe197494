"""What the jobs of the data phases are told. The study makes these settings, cards hold them, the phases read them.

A source that is made here depends on the sizes of its own part alone: another number of test images changes no
captions.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pipeline.common.squares import Fit
from pipeline.settings.types import Section


class MadeText(Section):
    """The text of the embedded source. `documents`: how many to train on, at most; None: all."""

    source: Literal["scenes"]
    part: Literal["text"]
    seed: int
    documents: int | None
    heldout_documents: int


class Scenes(Section):
    """What all composed scenes have in common: the side of an image in pixels, and how many names and words there are."""

    source: Literal["scenes"]
    part: Literal["captions", "instructions", "evaluation"]
    seed: int
    canvas: int
    concepts: int
    caption_only_concepts: int
    words: int


class MadeCaptions(Scenes):
    """Images with captions. `captions`: how many."""

    part: Literal["captions"]
    captions: int


class MadeInstructions(Scenes):
    """Images with conversations: how many, and with how many turns each."""

    part: Literal["instructions"]
    conversations: int
    turns: int


class MadeEvaluation(Scenes):
    """Images with questions, for both splits."""

    part: Literal["evaluation"]
    validation_images: int
    test_images: int


MADE: dict[str, type[MadeText] | type[Scenes]] = {
    "text": MadeText,
    "captions": MadeCaptions,
    "instructions": MadeInstructions,
    "evaluation": MadeEvaluation,
}


class ListedCorpora(Section):
    """The files of a part of real corpora. Each corpus is as its data source describes it, apart from where it lies."""

    source: Literal["corpora"]
    part: Literal["text", "captions", "instructions", "evaluation"]
    corpora: dict[str, dict[str, Any]]
    split: str | None = None  # of the evaluation
    heldout: dict[str, Any] | None = None  # of the text, as are the choices
    choices: dict[str, Any] | None = None
    left_out_at_most: dict[str, int] = Field(default={})  # bad items, by task


class TokenizerSettings(Section):
    """A vocabulary to train, or the SHA-256 of the tokenizer.json that is `given`, with its end-of-text token."""

    vocabulary: int
    given: str | None = None
    end: str | None = None


class ShardSettings(Section):
    """A part as training sequences. With images: `patches` positions an image."""

    part: Literal["text", "captions", "instructions"]
    sequence: int
    patches: int = 0
    boxes: list[Fit] = Field(default=["resize", "resize"], min_length=2, max_length=2)  # as texts have them, as seen
    captions: str | None = None
