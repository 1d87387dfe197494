"""Training samples out of the records of corpora."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TextIO
from urllib.parse import quote

from pipeline.common.files import path_fault
from pipeline.common.images import undecodable
from pipeline.data.corpora.listed import image_name, read_bytes
from pipeline.data.corpora.units import Tally, Unit, Work
from pipeline.data.formats import tars
from pipeline.data.formats.conversations import conversation, is_chat
from pipeline.data.formats.documents import documents, token_lists
from pipeline.data.formats.open_text import Stream
from pipeline.data.packing import (
    Piece,
    caption_piece,
    conversation_piece,
    pack,
    packed_sample,
    seen_turns,
    text_sequences,
)
from pipeline.data.records import BadRecord, Caption, Conversation
from pipeline.data.store import is_padding, token_type
from pipeline.data.tokenizer import Tokenizer, load_tokenizer

Pair = Caption | Conversation  # texts and their image; a conversation may have none


@cache
def tokenizer_at(path: Path) -> Tokenizer:
    """The tokenizer of a file, read once a process."""
    return load_tokenizer(path)


@cache
def captions_at(path: Path) -> sqlite3.Connection:
    """A connection of this process to a finished data base of captions, given by its absolute path.

    Processes must not share one. `immutable` spares SQLite its locks: nobody writes to the data base any more.
    """
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)


def raw_text(work: Work, unit: Unit, file: Stream, tally: Tally, rest: list[int]) -> Iterator[dict]:
    """Text samples of documents; what is left for no whole sequence goes to `rest`."""
    tokenizer = tokenizer_at(work.tokenizer)
    texts = (tokenizer.encode(document.text) for document in tally.good(documents(file, unit.file)))
    for tokens in text_sequences(texts, tokenizer.end, work.sequence, rest, token_type(tokenizer.vocabulary)):
        yield {"tokens": tokens}


def tokenized_text(work: Work, unit: Unit, file: Stream, tally: Tally, rest: list[int]) -> Iterator[dict]:
    """Text samples of token lists; the padding of their last ones is counted."""
    tokenizer = tokenizer_at(work.tokenizer)
    dtype = token_type(tokenizer.vocabulary)
    # One more id than positions: each position predicts the next id.
    for tokens in tally.good(token_lists(file, unit.file, work.sequence + 1, tokenizer.uses(), dtype, tally.counts)):
        padding = int(is_padding(tokens).sum())
        tally.counts["padding"] += padding
        tally.counts["padded_sequences"] += padding > 0
        yield {"tokens": tokens}


def captioned(work: Work, unit: Unit, file: Stream, tally: Tally, uids: TextIO) -> Iterator[Caption | BadRecord]:
    """The images of a tar with their captions: their own, or the synthetic ones of the same uid.

    Images without a synthetic caption are counted and left out; the uids of the others are noted.
    """
    corpus = work.corpora[unit.corpus]
    joined = corpus["format"] == "datacompdr"
    known = captions_at(work.captions(unit.corpus).resolve()) if joined else None
    for key, members in tars.tar_samples(file, unit.file, counts=tally.counts):
        if isinstance(members, BadRecord):
            yield members
            continue
        try:
            image, facts = tars.image_of(unit.file, key, members), tars.sidecar(unit.file, key, members)
            uid, sha256 = tars.uid_of(unit.file, key, facts), facts.get("sha256")
            if known is not None:
                row = known.execute("SELECT text, sha256 FROM captions WHERE uid = ?", [uid]).fetchone()
                if row is None:
                    tally.counts["images_without_caption"] += 1
                    tally.counts["records"] += 1
                    continue
                uids.write(f"{uid}\n")
                text, sha256 = row[0], row[1] or sha256
            else:
                text = tars.caption_text(unit.file, key, members, facts, corpus["field"])
            # An image behind a link may have been replaced since its caption was made.
            if corpus["verify"] and sha256:
                tars.check_image_hash(unit.file, key, image, sha256)
                tally.counts["verified_images"] += 1
        except BadRecord as error:
            yield error
        else:
            yield Caption(uid, image, text)


def conversations(work: Work, unit: Unit, file: Iterable[bytes], tally: Tally) -> Iterator[Conversation | BadRecord]:
    """The conversations of a stretch of a LLaVA file. Those without an image are left out where the settings say so."""
    corpus, place = work.corpora[unit.corpus], work.places[unit.corpus]

    def look(image: str, where: str) -> bytes:
        if fault := path_fault(image):
            raise BadRecord(corpus["file"], where, fault)
        try:
            return read_bytes(f"{place}/{image_name(corpus, image)}")
        except FileNotFoundError:
            raise BadRecord(corpus["file"], where, f"no image {image}") from None

    for line in file:
        number, record = json.loads(line)
        # Counted and not a bad record: such chats are part of LLaVA's instructions, and the settings ask for their
        # absence.
        if corpus["without_image"] == "drop" and is_chat(record):
            tally.counts["without_image"] += 1
            continue
        try:
            yield conversation(record, corpus["file"], number, look)
        except BadRecord as error:
            yield error


def whole(found: Iterable[Pair | BadRecord], file: str) -> Iterator[Pair | BadRecord]:
    """Captions and conversations, those with an image that cannot be decoded replaced by a BadRecord."""
    for one in found:
        fault = None if isinstance(one, BadRecord) or one.image is None else undecodable(one.image)
        yield BadRecord(file, one.id, fault) if fault and not isinstance(one, BadRecord) else one


def pieces(work: Work, unit: Unit, found: Iterable[Pair | BadRecord], tally: Tally) -> Iterator[Piece]:
    """Captions or conversations as tokens. Those that are longer than a sequence lose their end, as in Prismatic."""
    tokenizer, room = tokenizer_at(work.tokenizer), work.sequence + 1
    whole_ones: Iterator[Pair] = tally.good(whole(found, unit.file))
    for one in whole_ones:
        if isinstance(one, Caption):
            piece = caption_piece(tokenizer, work.patches, one.image, one.text)
        else:
            turns = seen_turns(one.turns, one.image, *work.boxes)
            piece = conversation_piece(tokenizer, work.patches, one.image, turns)
        if len(piece.tokens) > room:
            piece = Piece(piece.tokens[:room], piece.loss[:room], piece.image)
            tally.counts["cut"] += 1
        # The first token is never predicted, so a label there counts for nothing.
        if not any(piece.loss[1:]):
            tally.bad(BadRecord(unit.file, one.id, f"nothing to learn from in its first {room} tokens"))
            continue
        yield piece


def packed(work: Work, tally: Tally, found: Iterable[Piece]) -> Iterator[dict]:
    """Samples of several captions or conversations each, and what they hold in the tally."""
    tokenizer = tokenizer_at(work.tokenizer)
    for group in pack(found, work.sequence + 1):
        sample = packed_sample(group, work.sequence, tokenizer.end, token_type(tokenizer.vocabulary))
        tally.counts["pieces"] += len(group)
        tally.counts["labels"] += int(sample["loss"].sum())
        tally.counts["image_positions"] += len(sample["images"]) * work.patches
        tally.counts["padding"] += int((sample["segments"] == 0).sum())
        yield sample


TEXT = {"dclm_raw": raw_text, "dclm_tokenized": tokenized_text}
