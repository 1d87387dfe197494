"""Phase "evaluate": one row an example, from a model's weights and files in the official formats.

`vision.csv`: task, condition, id, image, kind, split, answer, prediction, valid, score (0..1).
`text.csv`: task, id, answer, prediction, score (0 or 1). `heldout.csv`: id, nats, bytes of held-out documents.

Conditions: "normal"; "removed": the prompt without its image; "shuffled": the image of another question of the same
task and type. Greedy answers, fp32, batches of prompts of one length. Composer is not needed.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.data import formats
from pipeline.data.read_text import read_choices, read_documents
from pipeline.data.records import Question
from pipeline.data.shards import prompt_tokens
from pipeline.data.store import FeatureStore, image_id
from pipeline.data.tokenizer import Tokenizer, load_tokenizer
from pipeline.evaluation.tasks import ask, score_answer, shuffled_images, subset
from pipeline.model.decoder import DecoderShape
from pipeline.model.vlm import IGNORE, VLM, greedy
from pipeline.sections import ModelSize
from pipeline.training.state import load_weights

VISION_COLUMNS = ["task", "condition", "id", "image", "kind", "split", "answer", "prediction", "valid", "score"]


def load_model(size: ModelSize, features: int | None, checkpoint: Path) -> VLM:
    """A trained model in evaluation mode. Raises ValueError for weights of another model."""
    model = VLM(DecoderShape(size.vocabulary, size.layers, size.heads, size.width), features)
    missing = load_weights(model, checkpoint)
    if missing:
        raise ValueError(f"{checkpoint}: {missing[0]} was never trained")
    return model.eval()


# --- vision ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Viewer:
    """Image features by file: from the study's cache, or from the encoder."""

    store: FeatureStore | None
    encoder: torch.nn.Module | None
    pixels: int
    patches: int

    def look(self, files: list[Path]) -> Tensor:
        """[n, patches, width] in fp32."""
        data = [file.read_bytes() for file in files]
        if self.store is not None:
            return torch.from_numpy(self.store.get([image_id(d) for d in data])).float()
        from pipeline.model.vision import decode_image

        return self.encoder(torch.stack([decode_image(d, self.pixels) for d in data]))


def by_length(prompts: list[list[int]], batch: int) -> Iterator[list[int]]:
    """Indices of prompts in batches of one length."""
    groups: dict[int, list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        groups[len(prompt)].append(number)
    for length in sorted(groups):
        members = groups[length]
        for start in range(0, len(members), batch):
            yield members[start : start + batch]


@torch.inference_mode()
def answer(
    model: VLM, tokenizer: Tokenizer, task: dict, questions: list[Question], images: list[Path] | None, viewer, batch
) -> list[str]:
    """A model's answers to questions of one task, with the images given or (None) without."""
    prompts = [prompt_tokens(tokenizer, ask(task, q)) for q in questions]
    answers = [""] * len(questions)
    for members in by_length(prompts, batch):
        tokens = torch.tensor([prompts[n] for n in members])
        features = slots = None
        if images is not None:
            features = viewer.look([images[n] for n in members])
            tokens = torch.cat((torch.full((len(members), viewer.patches), tokenizer.image), tokens), dim=1)
            starts = torch.arange(len(members))[:, None] * tokens.shape[1]
            slots = (starts + torch.arange(viewer.patches)).flatten()
        if task["scorer"] == "yes_no":
            texts = yes_or_no(model, tokenizer, tokens, features, slots)
        else:
            generated = greedy(model, tokens, tokenizer.end_assistant, task["longest"], features, slots)
            texts = [tokenizer.decode(ids) for ids in generated]
        for number, text in zip(members, texts):
            answers[number] = text
    return answers


def yes_or_no(model: VLM, tokenizer: Tokenizer, tokens: Tensor, features, slots) -> list[str]:
    """The likelier of "yes" and "no" as the answer's first token (vlm-evaluation's POPE)."""
    hidden = model.decoder(model.embed(tokens, features, slots))[:, -1]
    yes, no = (tokenizer.encode(word)[0] for word in ("yes", "no"))
    logits = model.decoder.logits(hidden)
    return ["yes" if y >= n else "no" for y, n in zip(logits[:, yes].tolist(), logits[:, no].tolist())]


def vision_rows(model, tokenizer, settings: dict, folder: Path, viewer: Viewer, progress) -> Iterator[list]:
    """Rows of vision.csv for all tasks and conditions."""
    total = len(settings["vision"]) * len(settings["conditions"])
    done = 0
    for name, task in settings["vision"].items():
        questions = list(formats.read_questions(task["format"], folder / name, images=folder / "images", task=name))
        splits = formats.read_splits(task["format"], folder / name, images=folder / "images", task=name)
        if not questions:
            raise ValueError(f"{folder / name}: no questions")
        views = {"normal": [q.image for q in questions], "removed": None, "shuffled": shuffled_images(questions)}
        for condition in settings["conditions"]:
            answers = answer(
                model, tokenizer, task, questions, views[condition], viewer, settings["evaluation"]["batch"]
            )
            for question, prediction in zip(questions, answers):
                valid, score = score_answer(task, question, prediction)
                truth = question.answers[0] if question.answers else ""
                yield [
                    *(name, condition, question.id, question.image.name, question.kind, splits.get(question.id, "")),
                    *(truth, prediction, int(valid), f"{score:.6g}"),
                ]
            done += 1
            progress.update(done, total, "task conditions", name)


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


def make_viewer(settings: dict, features: Path | None) -> Viewer | None:
    if settings["encoder"] is None:
        return None
    from pipeline.sections import Encoder

    encoder = Encoder(**settings["encoder"])
    if features is not None:
        return Viewer(FeatureStore(features), None, encoder.pixels, encoder.patches)
    network = None
    if settings["conditions"] != ["removed"]:
        from pipeline.model.vision import build_encoder

        network = build_encoder(encoder)
    return Viewer(None, network, encoder.pixels, encoder.patches)


def run(job, out: Path) -> dict:
    """Phase "evaluate": score one checkpoint on everything that its card names."""
    settings, inputs = job.settings, job.inputs
    torch.set_num_threads(settings["hardware"]["threads"])
    size = ModelSize(**settings["model"])
    viewer = make_viewer(settings, inputs.get("features"))
    model = load_model(size, settings["encoder"]["width"] if settings["encoder"] else None, inputs["checkpoint"])
    tokenizer = load_tokenizer(inputs["tokenizer"] / "tokenizer.json")
    counts = {}
    if settings["vision"]:
        folder = inputs["questions"] / "evaluation" / settings["split"]
        rows = vision_rows(model, tokenizer, settings, folder, viewer, job.progress)
        counts["vision_rows"] = write_rows(out / "vision.csv", VISION_COLUMNS, rows)
    if settings["text"]:
        rows = text_rows(model, tokenizer, settings, inputs["text"] / "evaluation" / "text", job.progress)
        counts["text_rows"] = write_rows(out / "text.csv", ["task", "id", "answer", "prediction", "score"], rows)
        heldout = heldout_rows(model, tokenizer, settings, inputs["text"])
        counts["heldout_rows"] = write_rows(out / "heldout.csv", ["id", "nats", "bytes"], heldout)
    return counts
