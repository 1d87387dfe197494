"""Answers to prompts, in batches of prompts of one length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from pipeline.data.tokenizer import Tokenizer
from pipeline.evaluation.answer_store import Answers
from pipeline.evaluation.viewer import Look
from pipeline.model.vlm import VLM, greedy

TIED = "tied"  # what stands for an answer while two are equally likely
Said = TypeVar("Said", str, float)
Reply = Callable[["Prompt"], list[Said]]  # prompts of one length -> texts, or numbers about them


def by_length(
    asked: Iterable[tuple[tuple[int, ...], Hashable]], batch: int, tokens: int | None = None, more: int = 0
) -> Iterator[list]:
    """Pairs of (prompt, what is shown) in batches whose prompts are of one length: nothing is padded.

    A batch has at most `batch` pairs, and at most `tokens` positions if each pair takes `more` than its prompt is long.
    A pair that is longer than `tokens` is a batch by itself.
    """
    groups: dict[int, list] = defaultdict(list)
    for pair in asked:
        groups[len(pair[0])].append(pair)
    for length in sorted(groups):
        members = groups[length]
        size = batch if tokens is None else max(1, min(batch, tokens // (length + more)))
        for start in range(0, len(members), size):
            yield members[start : start + size]


@torch.inference_mode()
def answer(
    batches: list[list],
    look: Look | None,
    reply: Reply[Said],
    image: int,
    answers: Answers,
    key: tuple = (),
    update: Callable[[int], object] = lambda done: None,
) -> dict[tuple, Said] | None:
    """A model's replies to batches of (prompt, what is shown), by these pairs; None if other processes have some left.

    No pair may occur twice. Each prompt stands after the image tokens (of id `image`) of what is shown; without `look`
    there are none. `update` is told how many batches are done.
    """
    said: dict[tuple, Said] = {}

    def reply_to(pairs: list) -> list[Said]:
        tokens = torch.tensor([prompt for prompt, _ in pairs], dtype=torch.long)
        features = slots = None
        if look is not None:
            features = look([what for _, what in pairs])
            patches = features.shape[1]
            tokens = torch.cat((torch.full((len(pairs), patches), image), tokens), dim=1)
            # Flat positions of the image tokens, which are the first ones of each row.
            slots = (torch.arange(len(pairs))[:, None] * tokens.shape[1] + torch.arange(patches)).flatten()
        return reply(Prompt(tokens, features, slots))

    for number, pairs in enumerate(batches):
        said |= zip(pairs, answers.get((*key, number), partial(reply_to, pairs)) or ())
        update(number + 1)
    return said if len(said) == sum(map(len, batches)) else None


class Prompt(NamedTuple):
    """Prompts of one length with their images, as `VLM.embed` takes them: token ids, features and slots."""

    tokens: Tensor
    features: Tensor | None
    slots: Tensor | None

    def to(self, model: VLM) -> Prompt:
        """On the model's device."""
        features, slots = (one if one is None else one.to(place(model)) for one in (self.features, self.slots))
        return Prompt(self.tokens.to(place(model)), features, slots)


def place(model: VLM) -> torch.device:
    """The device that the model is on."""
    return model.decoder.embedding.weight.device


def generate(model: VLM, tokenizer: Tokenizer, stop: int, longest: int, prompt: Prompt) -> list[str]:
    """Texts of at most `longest` tokens: the likeliest token after the other, up to `stop`, for each prompt."""
    tokens, features, slots = prompt.to(model)
    return [tokenizer.decode(ids) for ids in greedy(model, tokens, stop, longest, features, slots)]


def yes_or_no(model: VLM, tokenizer: Tokenizer, words: tuple[str, str], prompt: Prompt) -> list[str]:
    """The likelier of the words for "yes" and "no", by their first tokens (vlm-evaluation's POPE), or TIED."""
    hidden = model.decoder(model.embed(*prompt.to(model)))[:, -1]
    yes, no = (tokenizer.encode(word)[0] for word in words)
    logits = model.decoder.logits(hidden)
    return [
        "yes" if y > n else "no" if y < n else TIED for y, n in zip(logits[:, yes].tolist(), logits[:, no].tolist())
    ]
