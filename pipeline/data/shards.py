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
from pathlib import Path

import numpy as np

from pipeline.data.frames import Fit, move_boxes
from pipeline.data.store import PACKED_COLUMNS, TEXT_COLUMNS, image_id, token_type, with_tokens, write_shards
from pipeline.data.tokenizer import Tokenizer, load_tokenizer
from pipeline.files import folder_hashes
from pipeline.phase import Job

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
            group.insert(1, waiting.pop(index))
        yield group


def best_fill(lengths: list[int], room: int) -> list[int]:
    """Which of some lengths add up to as much as `room` has place for, in order; the earlier ones where that is open.

    Subset sums: bit n of a number says whether the lengths up to here can add up to n.
    """
    sums = [1]
    for length in lengths:
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


def run(job: Job, out: Path) -> dict:
    """Tokenize a part of the composed scenes' source and write its training sequences."""
    settings, source = job.settings, job.inputs["source"]
    tokenizer = load_tokenizer(job.inputs["tokenizer"] / "tokenizer.json")
    dtype = token_type(tokenizer.vocabulary)
    counts = {"sequences": 0, "positions": 0, "pieces": 0, "labels": 0, "image_positions": 0, "padding": 0}

    def text_samples() -> Iterator[dict]:
        from pipeline.data.read_text import read_documents

        documents = read_documents(sorted((source / "text").glob("train-*.jsonl.zst")))
        texts = (tokenizer.encode(document.text) for document in documents)
        for tokens in text_sequences(texts, tokenizer.end, settings["sequence"], dtype=dtype):
            counts["labels"] += settings["sequence"]
            yield {"tokens": tokens}

    def pieces() -> Iterator[Piece]:
        from pipeline.data import formats

        if settings["part"] == "captions":
            field = CAPTION_FIELDS[settings["captions"]]
            for caption in formats.read_captions(source / "captions", field=field):
                yield caption_piece(tokenizer, settings["patches"], caption.image, caption.text)
        else:
            folder = source / "instructions"
            for item in formats.read_conversations(folder / "conversations.json", folder / "images"):
                turns = seen_turns(item.turns, item.image, *settings.get("boxes", ("resize", "resize")))
                yield conversation_piece(tokenizer, settings["patches"], item.image, turns)

    def packed_samples() -> Iterator[dict]:
        for group in pack(pieces(), settings["sequence"] + 1):
            sample = packed_sample(group, settings["sequence"], tokenizer.end, dtype)
            counts["pieces"] += len(group)
            counts["labels"] += int(sample["loss"].sum())
            counts["image_positions"] += len(sample["images"]) * settings["patches"]
            counts["padding"] += int((sample["segments"] == 0).sum())
            yield sample

    is_text = settings["part"] == "text"
    columns, samples = (TEXT_COLUMNS, text_samples()) if is_text else (PACKED_COLUMNS, packed_samples())
    counts["sequences"] = write_shards(out, with_tokens(columns, tokenizer.vocabulary), samples)
    counts["positions"] = counts["sequences"] * settings["sequence"]
    if not counts["sequences"]:
        raise ValueError(f"{settings['part']}: not enough data for one sequence of {settings['sequence']} positions")
    return counts | {"hashes": folder_hashes(out)}
