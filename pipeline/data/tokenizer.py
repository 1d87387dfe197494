"""Byte-level BPE: trained on the study's own text at small scale, GPT-NeoX's at the paper's scale.

Special tokens are never made from text: a document that contains "<|endoftext|>" gets the tokens of those
characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, pre_tokenizers, trainers

from pipeline.common.files import file_hash, one_line, write_text
from pipeline.common.job_context import Job
from pipeline.common.json_text import parse_json
from pipeline.data.job_settings import TokenizerSettings
from pipeline.data.records import Use

# In the order of their ids: 0..5 in a tokenizer of ours; with GPT-NeoX 0 and then 50277..50281, as the
# authors have them.
END, IMAGE = "<|endoftext|>", "<|img_patch|>"
ASSISTANT, END_ASSISTANT, HUMAN, END_HUMAN = "<|a|>", "<|/a|>", "<|h|>", "<|/h|>"
SPECIAL = (END, IMAGE, ASSISTANT, END_ASSISTANT, HUMAN, END_HUMAN)
# End-of-text tokens of others, the likeliest first: GPT's and dolma2's, Llama 3's, Llama's and Mistral's, Gemma's.
ENDS = (END, "<|end_of_text|>", "</s>", "<eos>")
# Added tokens that only GPT-NeoX's tokenizer has: one of its runs of blanks, and its padding.
NEOX = (" " * 24, "<|padding|>")
# What comes back as it is from every tokenizer that loses nothing: of bytes, or with bytes for what it does not know.
PROBE = "The cat's 12\n\tna\u00efve \u6771\u4eac \U0001f642"
SMALLEST = len(SPECIAL) + 256
# Training text beyond this changes no merge that matters at a few thousand tokens.
TRAINING_BYTES = 4_000_000


class Tokenizer:
    """Text to ids and back. `vocabulary` is the largest id plus one; `end`, `image` and so on are special ids."""

    def __init__(self, engine: Engine):
        engine.encode_special_tokens = True  # special tokens that occur in text are text
        self._engine = engine
        self.vocabulary: int = 1 + max(engine.get_vocab(with_added_tokens=True).values())  # ids, gaps among them
        self.special = [engine.token_to_id(token) for token in SPECIAL]
        self.end, self.image, self.assistant, self.end_assistant, self.human, self.end_human = self.special

    def encode(self, text: str) -> list[int]:
        """Ids of a text as it stands: no special token is made or added."""
        return self._engine.encode(text, add_special_tokens=False).ids

    def uses(self) -> np.ndarray:
        """A `Use` of every id, uint8 [vocabulary]. Padding may be whatever comes after the tokens that merges make."""
        added = self._engine.get_added_tokens_decoder()
        size = 1 + max(one for one in self._engine.get_vocab(with_added_tokens=True).values() if one not in added)
        uses = np.full(self.vocabulary, Use.TEXT, np.uint8)
        uses[size:] = Use.ONCE
        for one in (self.image, self.human, self.end_human, self.assistant, self.end_assistant):
            uses[one] = Use.NONE if one < size else Use.PADDING
        uses[self.end] = Use.TEXT
        return uses

    def to_json(self) -> str:
        """Hugging Face's JSON form, our special tokens in it."""
        return self._engine.to_str()

    def decode(self, ids: list[int]) -> str:
        """The text of ids; special tokens have none. A character that is cut in two becomes U+FFFD."""
        return self._engine.decode(ids, skip_special_tokens=True)


def train_tokenizer(texts: Iterable[str], vocabulary: int, out_file: Path) -> Tokenizer:
    """Train on the first TRAINING_BYTES of text and write Hugging Face's JSON form.

    The same texts give the same file. `vocabulary` counts the special tokens and 256 bytes; texts too small
    for so many merges give fewer tokens. Raises ValueError for a vocabulary that cannot hold those.
    """
    if vocabulary < SMALLEST:
        raise ValueError(f"a vocabulary of {vocabulary} has no room for {SMALLEST} bytes and special tokens")
    engine = Engine(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        # All 256 bytes, so that any text can be encoded; sorted, as the library gives them in no fixed order.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    engine.train_from_iterator(first_bytes(texts, TRAINING_BYTES), trainer)
    write_text(out_file, engine.to_str())
    return Tokenizer(engine)


def first_bytes(texts: Iterable[str], limit: int) -> Iterator[str]:
    """Texts up to and including the one that reaches `limit` bytes."""
    for text in texts:
        yield text
        limit -= len(text.encode())
        if limit <= 0:
            return


def load_tokenizer(path: Path, end: str | None = None) -> Tokenizer:
    """Read a tokenizer.json: ours, GPT-NeoX's (EleutherAI's or OLMo's), or another model's. Raises ValueError.

    Another model's gets the special tokens that it lacks after its own ids, which stay what they are; `end` is the name
    of its end-of-text token (None: one of ENDS). One that loses text is refused.
    """
    try:
        form = parse_json(Path(path).read_bytes())
        tokenizer = Tokenizer(Engine.from_str(json.dumps(with_special_tokens(form, end))))
        if None in tokenizer.special or len(set(tokenizer.special)) < len(SPECIAL):
            raise ValueError(f"it has no place for {', '.join(SPECIAL)}")
        if (told := tokenizer.decode(tokenizer.encode(PROBE))) != PROBE:
            raise ValueError(f"it loses text: {PROBE!r} comes back as {one_line(told)!r}")
        return tokenizer
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:
        raise ValueError(f"{path}: not a tokenizer this package can use ({one_line(error)})") from None


def with_special_tokens(form: dict, end: str | None) -> dict:
    """A tokenizer's JSON with all of our special tokens: as it is, as EleutherAI has GPT-NeoX's, or with its ids kept."""
    if not isinstance(form["model"]["vocab"], dict):
        raise ValueError(f"its model is {form['model'].get('type')}, not BPE")
    names = {*form["model"]["vocab"], *(token["content"] for token in form["added_tokens"])} if end is None else set()
    if names >= set(SPECIAL):
        return form
    if end is None and names >= {END, *NEOX} and not names & set(SPECIAL[1:]):
        return as_neox(form)
    return with_ids_kept(form, end)


def as_neox(form: dict) -> dict:
    """GPT-NeoX's JSON with end-of-text at id 0 and the other special tokens after the vocabulary.

    OLMo's puts tokens for masked personal data at ids 0, 50277 and 50278 and end-of-text at 50279; without those it is
    EleutherAI's again, in which end-of-text is 0 and 50277 is the first free id.
    """
    vocab, added = form["model"]["vocab"], form["added_tokens"]
    masked = {token for token in vocab if token.startswith("|||") and token.endswith("|||")}
    vocab = {token: i for token, i in vocab.items() if token not in masked and token != END}
    added = [token for token in added if token["content"] not in masked and token["content"] != END]
    free = 1 + max([*vocab.values(), *(token["id"] for token in added)])
    return with_added(form, vocab, added, {END: 0} | {token: free + i for i, token in enumerate(SPECIAL[1:])})


def with_ids_kept(form: dict, end: str | None) -> dict:
    """A tokenizer's JSON in which the token `end` is called <|endoftext|>, and our other special tokens come last."""
    vocab, added = form["model"]["vocab"], form["added_tokens"]
    ids = vocab | {token["content"]: token["id"] for token in added}
    if end == END and set(SPECIAL) <= ids.keys():  # of a model of this package
        return form
    if end is None and (end := next((name for name in ENDS if name in ids), None)) is None:
        raise ValueError(f"it has none of the end-of-text tokens {', '.join(ENDS)}; set `end` to the name of its own")
    taken = ({END} - {end} | set(SPECIAL[1:])) & ids.keys()
    if end not in ids or taken:
        raise ValueError(f"{sorted(taken)[0]} is in it already" if taken else f"it has no token {end!r}")
    free = 1 + max(ids.values())
    new = {END: ids[end]} | {token: free + i for i, token in enumerate(SPECIAL[1:])}
    vocab = {token: i for token, i in vocab.items() if token != end}
    return with_added(form, vocab, [token for token in added if token["content"] != end], new)


def with_added(form: dict, vocab: dict[str, int], added: list[dict], new: dict[str, int]) -> dict:
    """A tokenizer's JSON with another vocabulary and more special tokens, whose ids are told in both places."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [*added, *({"id": i, "content": token} | flags for token, i in new.items())]
    model = form["model"] | {"vocab": vocab | new}
    return form | {"model": model, "added_tokens": sorted(added, key=lambda token: token["id"])}


def run(job: Job, out: Path) -> dict:
    """Phase "tokenizer": train on the text and on a sample of the captions and instructions, or take the given one."""
    settings = TokenizerSettings.model_validate(job.settings)
    if settings.given:
        return give_tokenizer(Path(job.context["tokenizer"]), settings, out / "tokenizer.json")
    tokenizer = train_tokenizer(study_texts(job.inputs), settings.vocabulary, out / "tokenizer.json")
    return {"vocabulary": tokenizer.vocabulary}


def give_tokenizer(path: Path, settings: TokenizerSettings, out_file: Path) -> dict:
    """Copy the tokenizer that corpora or published checkpoints come with; a checkpoint's own keeps all its ids.

    Raises ValueError for another file than the card's, or too many ids.
    """
    tokenizer = load_tokenizer(path, settings.end)
    if file_hash(path) != settings.given:
        raise ValueError(f"{path}: is not the file that the study was planned with (sha256)")
    check_room(tokenizer, path, settings.vocabulary)
    write_text(out_file, tokenizer.to_json() if settings.end else path.read_text(encoding="utf-8"))
    return {"vocabulary": tokenizer.vocabulary}


def check_room(tokenizer: Tokenizer, path: Path, room: int) -> None:
    """Raises ValueError for a tokenizer of more ids, with our special tokens, than the model has rows."""
    if tokenizer.vocabulary > room:
        raise ValueError(
            f"{path}: has {tokenizer.vocabulary} ids, the model's vocabulary has room for {room} (model.vocabulary of the preset)"
        )


def study_texts(inputs: dict[str, Path], samples: int = 2000) -> Iterator[str]:
    """Captions and conversations first, few as they are, so that the limit on bytes cuts the text alone."""
    from pipeline.data.formats.conversations import read_conversations
    from pipeline.data.formats.documents import read_documents
    from pipeline.data.formats.tars import read_captions

    for caption in islice(read_captions(inputs["captions"] / "captions"), samples):
        yield caption.text
    folder = inputs["instructions"] / "instructions"
    for item in islice(read_conversations(folder / "conversations.json", folder / "images"), samples):
        for turn in item.turns:
            yield from turn
    for document in read_documents(sorted((inputs["text"] / "text").glob("train-*.jsonl.zst"))):
        yield document.text
