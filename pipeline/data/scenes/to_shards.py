"""Shards of a source that was made here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.common.files import folder_hashes
from pipeline.common.job_context import Job
from pipeline.data.job_settings import ShardSettings
from pipeline.data.packing import (
    CAPTION_FIELDS,
    Piece,
    caption_piece,
    conversation_piece,
    pack,
    packed_sample,
    seen_turns,
    text_sequences,
)
from pipeline.data.store import PACKED_COLUMNS, TEXT_COLUMNS, token_type, with_tokens, write_shards
from pipeline.data.tokenizer import load_tokenizer


def run(job: Job, out: Path) -> dict:
    """Tokenize a part of a source that was made here and write its training sequences into `out`; returns the counts.

    Raises ValueError for data that do not fill one sequence.
    """
    settings, source = ShardSettings.model_validate(job.settings), job.inputs["source"]
    tokenizer = load_tokenizer(job.inputs["tokenizer"] / "tokenizer.json")
    dtype = token_type(tokenizer.vocabulary)
    counts = {"sequences": 0, "positions": 0, "pieces": 0, "labels": 0, "image_positions": 0, "padding": 0}

    def text_samples() -> Iterator[dict]:
        from pipeline.data.formats.documents import read_documents

        documents = read_documents(sorted((source / "text").glob("train-*.jsonl.zst")))
        texts = (tokenizer.encode(document.text) for document in documents)
        for tokens in text_sequences(texts, tokenizer.end, settings.sequence, dtype=dtype):
            # Counted as the writer takes the samples: they are never in memory all at once.
            counts["labels"] += settings.sequence
            yield {"tokens": tokens}

    def pieces() -> Iterator[Piece]:
        from pipeline.data.formats import tars
        from pipeline.data.formats.conversations import read_conversations

        if settings.part == "captions":
            field = CAPTION_FIELDS[str(settings.captions)]
            for caption in tars.read_captions(source / "captions", field=field):
                yield caption_piece(tokenizer, settings.patches, caption.image, caption.text)
        else:
            folder = source / "instructions"
            for item in read_conversations(folder / "conversations.json", folder / "images"):
                turns = seen_turns(item.turns, item.image, *settings.boxes)
                yield conversation_piece(tokenizer, settings.patches, item.image, turns)

    def packed_samples() -> Iterator[dict]:
        # One more id than positions: each position predicts the next id.
        for group in pack(pieces(), settings.sequence + 1):
            sample = packed_sample(group, settings.sequence, tokenizer.end, dtype)
            counts["pieces"] += len(group)
            counts["labels"] += int(sample["loss"].sum())
            counts["image_positions"] += len(sample["images"]) * settings.patches
            counts["padding"] += int((sample["segments"] == 0).sum())
            yield sample

    is_text = settings.part == "text"
    columns, samples = (TEXT_COLUMNS, text_samples()) if is_text else (PACKED_COLUMNS, packed_samples())
    counts["sequences"] = write_shards(out, with_tokens(columns, tokenizer.vocabulary), samples)
    counts["positions"] = counts["sequences"] * settings.sequence
    if not counts["sequences"]:
        raise ValueError(f"{settings.part}: not enough data for one sequence of {settings.sequence} positions")
    return counts | {"hashes": folder_hashes(out)}
