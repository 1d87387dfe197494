"""Training sequences as MDS shards, every one with exactly `sequence` positions to train on.

A sample's `tokens` has sequence + 1 ids: position t reads tokens[t] and predicts tokens[t + 1]. Text is documents
joined by the end-of-text token and cut; token lists of others may end in padding (`store.is_padding`). Captions and conversations are packed: several to a sample, each a segment that
sees only itself, image first. Their samples also have `loss` (1 where the token is a label), `segments` (0 for padding,
then 1, 2, ...) and `images` (content hash and first position of each image, and the size of its file in `pixels`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipeline.common.squares import Fit, move_boxes
from pipeline.data.store import image_id
from pipeline.data.tokenizer import Tokenizer

# Where each kind of caption stands in an img2dataset sample: an entry of KEY.json, or None for KEY.txt.
CAPTION_FIELDS = {"full": None, "short": "short_caption", "keywords": "keywords"}
WINDOW = 256  # samples that wait for a place while packing: bounds memory, keeps the order nearly as it was


@dataclass(frozen=True)
class Piece:
    """One caption or conversation: ids, which of them are labels, and the image whose patches come first."""

    tokens: list[int]
    loss: list[int]
    image: bytes | None


def text_sequences(
    documents: Iterable[list[int]],
    end: int,
    sequence: int,
    rest: list[int] | None = None,
    dtype: type[np.unsignedinteger] = np.uint16,
) -> Iterator[np.ndarray]:
    """Documents joined by `end` and cut into ids [sequence + 1]; what is left for an incomplete one goes to `rest`."""
    waiting: list[int] = [] if rest is None else rest
    for document in documents:
        waiting += [*document, end]
        while len(waiting) > sequence:
            yield np.array(waiting[: sequence + 1], dtype)
            del waiting[: sequence + 1]


def caption_piece(tokenizer: Tokenizer, patches: int, image: bytes, text: str) -> Piece:
    """[image] caption <|endoftext|>, the caption and its end being labels."""
    caption = [*tokenizer.encode(text), tokenizer.end]
    return Piece([tokenizer.image] * patches + caption, [0] * patches + [1] * len(caption), image)


def conversation_piece(
    tokenizer: Tokenizer, patches: int, image: bytes | None, turns: Iterable[tuple[str, str]]
) -> Piece:
    """[image] question <|/h|> answer <|/a|> ..., the answers and their ends being labels."""
    tokens = [tokenizer.image] * (patches if image is not None else 0)
    loss = [0] * len(tokens)
    for question, answer in turns:
        asked = prompt_tokens(tokenizer, question)
        told = [*tokenizer.encode(answer), tokenizer.end_assistant]
        tokens += asked + told
        loss += [0] * len(asked) + [1] * len(told)
    return Piece(tokens, loss, image)


def prompt_tokens(tokenizer: Tokenizer, question: str) -> list[int]:
    """A human turn: its text and <|/h|>. Training and evaluation both use this."""
    return [*tokenizer.encode(question), tokenizer.end_human]


def seen_turns(
    turns: Iterable[tuple[str, str]], image: bytes | None, source: Fit, target: Fit
) -> Iterable[tuple[str, str]]:
    """Turns whose texts have boxes in one frame, with the boxes in the frame that the model sees.

    They are of the pixels as they are stored: that is what LLaVA's own code shows.
    """
    if image is None:
        return turns
    move = partial(move_boxes, image=image, source=source, target=target, stored=True)
    return [(move(question), move(answer)) for question, answer in turns]


def pack(pieces: Iterable[Piece], capacity: int) -> Iterator[list[Piece]]:
    """Group pieces so that each group fills at most `capacity` tokens: the oldest, and those that fill the rest best.

    They are taken from a window of pieces that wait. Raises ValueError for a piece that is longer than the capacity.
    """
    waiting: list[Piece] = []
    source = iter(pieces)
    while True:
        for piece in source:
            if len(piece.tokens) > capacity:
                raise ValueError(f"a sample of {len(piece.tokens)} tokens does not fit {capacity} positions")
            waiting.append(piece)
            if len(waiting) >= WINDOW:
                break
        if not waiting:
            return
        group = [waiting.pop(0)]  # so that none waits for ever
        for index in reversed(best_fill([len(piece.tokens) for piece in waiting], capacity - len(group[0].tokens))):
            # From the last to the first, so that no removal moves a place that is still to come.
            group.insert(1, waiting.pop(index))
        yield group


def best_fill(lengths: list[int], room: int) -> list[int]:
    """Which of some lengths add up to as much as `room` has place for, in order; the earlier ones where that is open.

    Subset sums: bit n of a number says whether the lengths up to here can add up to n.
    """
    sums = [1]
    for length in lengths:
        # Bits above `room` stand for sums that do not fit, and are cut off.
        sums.append((sums[-1] | sums[-1] << length) & ((2 << room) - 1))
    left, chosen = sums[-1].bit_length() - 1, []
    for index in reversed(range(len(lengths))):
        if not sums[index] >> left & 1:
            chosen.append(index)
            left -= lengths[index]
    return chosen[::-1]


def packed_sample(group: list[Piece], sequence: int, padding: int, dtype: type[np.unsignedinteger] = np.uint16) -> dict:
    """One MDS sample of a group of pieces."""
    tokens = np.full(sequence + 1, padding, dtype)
    loss = np.zeros(sequence + 1, np.uint8)
    # 0 stays where there is padding, so pieces are numbered from 1.
    segments = np.zeros(sequence + 1, np.uint16)
    images, files, start = [], [], 0
    for number, piece in enumerate(group, 1):
        end = start + len(piece.tokens)
        tokens[start:end], loss[start:end], segments[start:end] = piece.tokens, piece.loss, number
        if piece.image is not None:
            images.append({"id": image_id(piece.image), "start": start, "bytes": len(piece.image)})
            files.append(piece.image)
        start = end
    return {"tokens": tokens, "loss": loss, "segments": segments, "images": images, "pixels": b"".join(files)}
