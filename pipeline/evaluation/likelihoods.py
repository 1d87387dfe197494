"""Log-likelihoods of continuations."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pipeline.evaluation.answer_store import Answers
from pipeline.evaluation.answering import Prompt, place
from pipeline.model.vlm import IGNORE, VLM

LOGITS = 512  # positions whose logits exist at a time: with a vocabulary of 50,000 they take 100 MB


@torch.inference_mode()
def log_likelihoods(
    model: VLM,
    pairs: list[tuple[list[int], list[int]]],
    sequence: int,
    batch: int,
    tokens: int | None = None,
    answers: Answers | None = None,
    key: tuple = (),
) -> np.ndarray | None:
    """Sums of log-probabilities [len(pairs)], in nats, of continuations after contexts (token ids).

    Contexts longer than the model's sequence lose their beginning. A context with several continuations is read once. A
    batch has contexts of one length, at most `batch` rows and at most `tokens` positions. Continuations are padded on
    the right, where causal attention never looks. None if other processes have some batches left.
    """
    answers = answers or Answers()
    rows = [truncate_left(context, continuation, sequence) for context, continuation in pairs]
    out, missing = np.zeros(len(rows)), False
    for number, members in enumerate(batches_by_context_length(rows, batch, tokens)):
        found = answers.get((*key, number), partial(batch_likelihoods, model, [rows[n] for n in members]))
        missing |= found is None
        out[members] = 0.0 if found is None else found
    return None if missing else out


Row = tuple[tuple[int, ...], tuple[int, ...]]  # token ids of a context, and of its continuation


def truncate_left(context: list[int], continuation: list[int], sequence: int) -> Row:
    """The last `sequence` + 1 tokens, cut in context and continuation.

    At least one token stays in the context: there is nothing before the first token to predict it from.
    """
    whole = tuple(context + continuation)[-(sequence + 1) :]
    start = max(1, len(whole) - len(continuation))
    return whole[:start], whole[start:]


def batches_by_context_length(rows: list[Row], batch: int, tokens: int | None) -> Iterator[list[int]]:
    """Numbers of rows in batches: contexts of one length, equal ones side by side."""
    members: list[int] = []
    longest = 0
    # By length; then by content, so that equal contexts meet in one batch; then by the length of the continuation, so
    # that little is padded.
    for n in sorted(range(len(rows)), key=lambda n: (len(rows[n][0]), rows[n][0], len(rows[n][1]))):
        context, continuation = map(len, rows[n])
        positions = (len(members) + 1) * (context + max(longest, continuation) - 1)
        full = len(members) == batch or (tokens is not None and positions > tokens)
        if members and (full or len(rows[members[0]][0]) != context):
            yield members
            members, longest = [], 0
        members.append(n)
        longest = max(longest, continuation)
    if members:
        yield members


def batch_likelihoods(model: VLM, rows: list[Row]) -> list[float]:
    """For rows with contexts of one length: the log-probability of each continuation, in nats."""
    contexts = {context: number for number, context in enumerate(dict.fromkeys(context for context, _ in rows))}
    continuations = [torch.tensor(continuation, dtype=torch.long) for _, continuation in rows]
    tokens = pad_sequence([ids[:-1] for ids in continuations], batch_first=True)
    targets = pad_sequence(continuations, batch_first=True, padding_value=IGNORE)
    # Equal contexts are read once; `context_row` says which of them each row continues.
    read, context_row = torch.tensor(list(contexts)), torch.tensor([contexts[context] for context, _ in rows])
    read, context_row, tokens, targets = (ids.to(place(model)) for ids in (read, context_row, tokens, targets))
    cache: Any = model.decoder.new_cache()
    # The last position of a context predicts the first token of the continuation, and so on: the last token is never
    # read.
    hidden = model.decoder(model.embed(read), cache=cache)[:, -1:][context_row]
    if tokens.shape[1]:
        model.decoder.select_rows(cache, context_row)
        hidden = torch.cat((hidden, model.decoder(model.embed(tokens), cache=cache)), dim=1)
    return (-sum_of_nats(model, hidden[:, : targets.shape[1]], targets)).tolist()


def sum_of_nats(model: VLM, hidden: Tensor, targets: Tensor) -> Tensor:
    """[B] in double: how unlikely each row of token ids `targets` [B, T] is after `hidden` [B, T, D], in nats.

    Where `targets` is IGNORE nothing is counted.
    """
    wanted = targets != IGNORE
    pieces = zip(hidden[wanted].split(LOGITS), targets[wanted].split(LOGITS))
    losses = [F.cross_entropy(model.decoder.logits(h), ids, reduction="none") for h, ids in pieces]
    # Sums in double: they have many terms, and the likelihoods of two choices may differ by little.
    nats = torch.zeros(targets.shape, dtype=torch.double, device=targets.device)
    nats[wanted] = torch.cat(losses).double()
    return nats.sum(1)


@torch.inference_mode()
def nats_after(model: VLM, marks: tuple[int, ...], prompt: Prompt) -> list[float]:
    """How unlikely a model finds what stands behind the last of some marks (token ids) in each text, in nats."""
    tokens, features, slots = prompt.to(model)
    marked = torch.isin(tokens, torch.tensor(marks, device=tokens.device))
    # How many marks there are from a position on: behind the last one there is none.
    targets = tokens.masked_fill(marked.flip(1).cumsum(1).flip(1) > 0, IGNORE)[:, 1:]
    hidden = model.decoder(model.embed(tokens, features, slots))[:, :-1]
    return sum_of_nats(model, hidden, targets).tolist()
