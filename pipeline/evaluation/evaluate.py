"""Phase "evaluate": one row an example, from a model's weights and files in the official formats.

`vision.csv`: task, condition, id, image, kind, split, answer, prediction, valid, score (0..1).
`captions.csv`: id, image, reference (the first), prediction, score (CIDEr-D among the split's images, 0..10).
`text.csv`: task, id, answer, prediction, score (0 or 1). `heldout.csv`: id, nats, bytes of held-out documents.

Conditions: "normal"; "removed": the prompt without its image; "mean": the mean features of the task's images in place
of every image's; "shuffled": the image of another question of the same task and type. Greedy answers, fp32, batches of
prompts of one length. Composer is not needed.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.data import formats
from pipeline.data.frames import Square, move_boxes
from pipeline.data.read_text import read_choices, read_documents
from pipeline.data.records import Question
from pipeline.data.shards import prompt_tokens
from pipeline.data.store import FeatureStore, image_id
from pipeline.data.tokenizer import Tokenizer, load_tokenizer
from pipeline.evaluation.metrics import cider_d, tokenise_caption
from pipeline.evaluation.tasks import ask, score_answer, shuffled_images, subset
from pipeline.model.sizes import DecoderShape
from pipeline.model.vision import build_encoder, decode_image
from pipeline.model.vlm import IGNORE, VLM, greedy
from pipeline.sections import Encoder, ModelSize
from pipeline.training.state import load_weights

VISION_COLUMNS = ["task", "condition", "id", "image", "kind", "split", "answer", "prediction", "valid", "score"]
CAPTION_COLUMNS = ["id", "image", "reference", "prediction", "score"]


def load_model(settings: dict, checkpoint: Path) -> VLM:
    """A trained model in evaluation mode, with its encoder if that was trained. Raises ValueError for other weights."""
    size = ModelSize(**settings["model"])
    encoder = Encoder(**settings["encoder"]) if settings["encoder"] else None
    network = build_encoder(encoder) if settings.get("train_encoder") else None
    shape = DecoderShape(size.vocabulary, size.layers, size.heads, size.width)
    model = VLM(shape, encoder.width, network, encoder.projector) if encoder else VLM(shape)
    missing = load_weights(model, checkpoint)
    if missing:
        raise ValueError(f"{checkpoint}: {missing[0]} was never trained")
    return model.eval()


# --- looking at images -----------------------------------------------------------------------------------------------

Look = Callable[[list], Tensor]  # what stands for images (n of them) -> their features [n, patches, width] in fp32
Reply = Callable[[Tensor, Tensor | None, Tensor | None], list[str]]  # tokens, features, slots as in VLM.embed -> texts


class Viewer:
    """Features of image files, each file read once: from the study's cache, or from an encoder and kept in memory."""

    def __init__(self, pixels: Square, store: FeatureStore | None, network: nn.Module | None):
        self.pixels, self.store, self.network = pixels, store, network
        self.known: dict[Path, str | Tensor] = {}  # an image's id in the cache, or its features

    @torch.inference_mode()
    def look(self, files: list[Path]) -> Tensor:
        """[n, patches, width] in fp32."""
        new = [file for file in dict.fromkeys(files) if file not in self.known]
        data = [file.read_bytes() for file in new]
        if self.store is not None:
            self.known |= zip(new, map(image_id, data))
            return torch.from_numpy(self.store.get([self.known[file] for file in files])).float()
        if new:
            self.known |= zip(new, self.network(torch.stack([decode_image(d, self.pixels) for d in data])))
        return torch.stack([self.known[file] for file in files])

    def mean(self, files: list[Path], batch: int) -> Tensor:
        """[patches, width]: the mean over the different ones among the files, looked at `batch` at a time."""
        files = list(dict.fromkeys(files))
        sums = (self.look(files[start : start + batch]).sum(0) for start in range(0, len(files), batch))
        return sum(sums) / len(files)


def make_viewer(settings: dict, model: VLM, features: Path | None) -> Viewer | None:
    """How the model sees images: the study's cache, its own encoder, or the frozen one. None if it looks at none."""
    looks = settings["captioning"] or set(settings["conditions"]) - {"removed"}
    if settings["encoder"] is None or not looks:
        return None
    encoder = Encoder(**settings["encoder"])
    if features is not None:
        return Viewer(encoder.square, FeatureStore(features), None)
    return Viewer(encoder.square, None, build_encoder(encoder) if model.encoder is None else model.encoder)


def view(
    condition: str, questions: list[Question], viewer: Viewer | None, batch: int
) -> tuple[list[Path | None], Look | None]:
    """What stands for every question's image under a condition, and how to look at it (None: not at all)."""
    files = [question.image for question in questions]
    if condition == "removed":
        return [None] * len(files), None
    if condition == "mean":
        mean = viewer.mean(files, batch)
        return [None] * len(files), lambda shown: mean.expand(len(shown), -1, -1)
    return files if condition == "normal" else shuffled_images(questions), viewer.look


# --- answering -------------------------------------------------------------------------------------------------------


def by_length(asked: Iterable[tuple[tuple[int, ...], Hashable]], batch: int) -> Iterator[list]:
    """Pairs of (prompt, what is shown) in batches of one length of prompt."""
    groups: dict[int, list] = defaultdict(list)
    for pair in asked:
        groups[len(pair[0])].append(pair)
    for length in sorted(groups):
        members = groups[length]
        for start in range(0, len(members), batch):
            yield members[start : start + batch]


@torch.inference_mode()
def answer(
    prompts: list[tuple[int, ...]], shown: list[Path | None], look: Look | None, reply: Reply, image: int, batch: int
) -> list[str]:
    """A model's replies to prompts, each after the image tokens (of id `image`) of what is shown, or (None) after none.

    The same prompt after the same image is answered once.
    """
    said: dict[tuple, str] = {}
    for pairs in by_length(dict.fromkeys(zip(prompts, shown)), batch):
        tokens = torch.tensor([prompt for prompt, _ in pairs], dtype=torch.long)
        features = slots = None
        if look is not None:
            features = look([what for _, what in pairs])
            patches = features.shape[1]
            tokens = torch.cat((torch.full((len(pairs), patches), image), tokens), dim=1)
            slots = (torch.arange(len(pairs))[:, None] * tokens.shape[1] + torch.arange(patches)).flatten()
        said |= zip(pairs, reply(tokens, features, slots))
    return [said[pair] for pair in zip(prompts, shown)]


def generate(model: VLM, tokenizer: Tokenizer, stop: int, longest: int, tokens: Tensor, features, slots) -> list[str]:
    """The likeliest continuation, token by token, up to `stop`."""
    return [tokenizer.decode(ids) for ids in greedy(model, tokens, stop, longest, features, slots)]


def yes_or_no(model: VLM, tokenizer: Tokenizer, tokens: Tensor, features, slots) -> list[str]:
    """The likelier of "yes" and "no" as the answer's first token (vlm-evaluation's POPE)."""
    hidden = model.decoder(model.embed(tokens, features, slots))[:, -1]
    yes, no = (tokenizer.encode(word)[0] for word in ("yes", "no"))
    logits = model.decoder.logits(hidden)
    return ["yes" if y >= n else "no" for y, n in zip(logits[:, yes].tolist(), logits[:, no].tolist())]


# --- vision ----------------------------------------------------------------------------------------------------------


def read_task(format: str, folder: Path, name: str) -> list[Question]:
    """The questions of a split's task. Raises ValueError if there is none, BadRecord for a bad file."""
    questions = list(formats.read_questions(format, folder / name, images=folder / "images", task=name))
    if not questions:
        raise ValueError(f"{folder / name}: no questions")
    return questions


def vision_rows(model, tokenizer, settings: dict, folder: Path, viewer: Viewer | None, progress) -> Iterator[list]:
    """Rows of vision.csv for all tasks and conditions."""
    total = len(settings["vision"]) * len(settings["conditions"])
    batch, fit, done = settings["evaluation"]["batch"], Encoder(**settings["encoder"]).fit, 0
    for name, task in settings["vision"].items():
        questions = read_task(task["format"], folder, name)
        splits = formats.read_splits(task["format"], folder / name, images=folder / "images", task=name)
        # What is asked, and said of boxes, is in the frame that the model sees; rows are in shares of the image.
        asked = [move_boxes(ask(task, question), question.image, "resize", fit) for question in questions]
        prompts = [tuple(prompt_tokens(tokenizer, text)) for text in asked]
        reply = partial(generate, model, tokenizer, tokenizer.end_assistant, task["longest"])
        if task["scorer"] == "yes_no":
            reply = partial(yes_or_no, model, tokenizer)
        for condition in settings["conditions"]:
            shown, look = view(condition, questions, viewer, batch)
            answers = [
                move_boxes(said, file or question.image, fit, "resize", decimals=6)
                for said, file, question in zip(
                    answer(prompts, shown, look, reply, tokenizer.image, batch), shown, questions
                )
            ]
            for question, prediction in zip(questions, answers):
                valid, score = score_answer(task, question, prediction)
                truth = question.answers[0] if question.answers else ""
                yield [
                    *(name, condition, question.id, question.image.name, question.kind, splits.get(question.id, "")),
                    *(truth, prediction, int(valid), f"{score:.6g}"),
                ]
            done += 1
            progress.update(done, total, "task conditions", name)


def caption_rows(model, tokenizer, settings: dict, folder: Path, viewer: Viewer) -> Iterator[list]:
    """Rows of captions.csv: what the model says after the image tokens alone, as caption samples of training begin."""
    questions = read_task("coco_captions", folder, "captioning")
    reply = partial(generate, model, tokenizer, tokenizer.end, settings["captioning"]["longest"])
    files = [question.image for question in questions]
    predictions = answer([()] * len(files), files, viewer.look, reply, tokenizer.image, settings["evaluation"]["batch"])
    references = [[tokenise_caption(text) for text in question.answers] for question in questions]
    _, scores = cider_d(references, [tokenise_caption(text) for text in predictions])
    for question, prediction, score in zip(questions, predictions, scores):
        yield [question.id, question.image.name, question.answers[0], prediction, f"{score:.6g}"]


# --- text ------------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def log_likelihoods(model: VLM, pairs: list[tuple[list[int], list[int]]], sequence: int, batch: int) -> np.ndarray:
    """Sums of log-probabilities [len(pairs)], in nats, of continuations after contexts (token ids).

    Contexts longer than the model's sequence lose their beginning. A batch's rows are padded on the right, which
    causal attention never looks at.
    """
    rows = []
    for context, continuation in pairs:
        whole = (context + continuation)[-(sequence + 1) :]
        rows.append((whole, min(len(continuation), len(whole) - 1)))
    out = np.zeros(len(rows))
    order = sorted(range(len(rows)), key=lambda n: len(rows[n][0]))
    for start in range(0, len(order), batch):
        members = order[start : start + batch]
        width = max(len(rows[n][0]) for n in members) - 1
        tokens = torch.zeros((len(members), width), dtype=torch.long)
        targets = torch.full((len(members), width), IGNORE)
        for row, number in enumerate(members):
            ids, told = torch.tensor(rows[number][0]), rows[number][1]
            tokens[row, : len(ids) - 1] = ids[:-1]
            targets[row, len(ids) - 1 - told : len(ids) - 1] = ids[-told:]
        logits = model({"tokens": tokens, "targets": targets})
        labels = targets[targets != IGNORE]
        nats = torch.log_softmax(logits, -1).gather(1, labels[:, None])[:, 0].double()
        rows_of_labels = torch.arange(len(members))[:, None].expand_as(targets)[targets != IGNORE]
        out[members] = torch.zeros(len(members), dtype=torch.double).index_add(0, rows_of_labels, nats).numpy()
    return out


def continuation_tokens(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Context and continuation ids, split as lm-eval does: the two are encoded together. The context is never empty."""
    head = tokenizer.encode(context)
    whole = tokenizer.encode(context + continuation)
    return [tokenizer.end, *head], whole[len(head) :]


def text_rows(model, tokenizer, settings: dict, folder: Path, progress) -> Iterator[list]:
    """Rows of text.csv: multiple choice by log-likelihood (lm-eval's `acc`, 0-shot)."""
    sizes = settings["evaluation"]
    for done, name in enumerate(settings["text"], 1):
        items = subset(list(read_choices(folder / f"{name}.jsonl", name)), sizes["text_items"])
        pairs = [continuation_tokens(tokenizer, item.context, choice) for item in items for choice in item.choices]
        scores = log_likelihoods(model, pairs, settings["model"]["sequence"], sizes["batch"])
        start = 0
        for item in items:
            mine = scores[start : start + len(item.choices)]
            start += len(item.choices)
            best = int(mine.argmax())
            yield [name, item.id, item.gold, best, int(best == item.gold)]
        progress.update(done, len(settings["text"]), "text tasks", name)


def heldout_rows(model, tokenizer, settings: dict, folder: Path) -> Iterator[list]:
    """Rows of heldout.csv: each held-out document's negative log-likelihood and size, cut to one sequence each."""
    documents = list(read_documents(sorted((folder / "text").glob("heldout-*.jsonl.zst"))))
    documents = documents[: settings["evaluation"]["heldout_documents"]]
    pairs, sizes = [], []
    for document in documents:
        ids = tokenizer.encode(document.text)[: settings["model"]["sequence"]]
        pairs.append(([tokenizer.end], ids))
        sizes.append(len(tokenizer.decode(ids).encode()))
    nats = -log_likelihoods(model, pairs, settings["model"]["sequence"], settings["evaluation"]["batch"])
    for document, loss, size in zip(documents, nats, sizes):
        yield [document.id, f"{loss:.6f}", size]


# --- the phase -------------------------------------------------------------------------------------------------------


def write_rows(path: Path, columns: list[str], rows: Iterable[list]) -> int:
    """Write a CSV; returns the number of rows."""
    count = 0
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow(row)
            count += 1
    return count


def run(job, out: Path) -> dict:
    """Phase "evaluate": score one checkpoint on everything that its card names."""
    settings, inputs = job.settings, job.inputs
    torch.set_num_threads(settings["hardware"]["threads"])
    model = load_model(settings, inputs["checkpoint"])
    viewer = make_viewer(settings, model, inputs.get("features"))
    tokenizer = load_tokenizer(inputs["tokenizer"] / "tokenizer.json")
    counts = {}
    if settings["encoder"]:
        folder = inputs["questions"] / "evaluation" / settings["split"]
        if settings["vision"]:
            rows = vision_rows(model, tokenizer, settings, folder, viewer, job.progress)
            counts["vision_rows"] = write_rows(out / "vision.csv", VISION_COLUMNS, rows)
        if settings["captioning"]:
            rows = caption_rows(model, tokenizer, settings, folder, viewer)
            counts["caption_rows"] = write_rows(out / "captions.csv", CAPTION_COLUMNS, rows)
    if settings["text"]:
        rows = text_rows(model, tokenizer, settings, inputs["text"] / "evaluation" / "text", job.progress)
        counts["text_rows"] = write_rows(out / "text.csv", ["task", "id", "answer", "prediction", "score"], rows)
        heldout = heldout_rows(model, tokenizer, settings, inputs["text"])
        counts["heldout_rows"] = write_rows(out / "heldout.csv", ["id", "nats", "bytes"], heldout)
    return counts
