"""Phase "evaluate": one row an example, from a model's weights and files in the official formats.

`vision.csv`: task, condition, id, image, kind, split, answer, prediction, valid, score (0..1), and weight (what the
example counts for in its task's mean) where a task averages over kinds. `measures.csv`: task, condition, kind, measure,
questions, score (0..1): what is measured beside the score (`tasks.measures`), acc_norm of text tasks, and the share of
questions whose best answers were equally likely ("tied"; the first counts as given), where there are any.
`captions.csv`: id, image, reference (the first), prediction, score (CIDEr-D among the split's images, 0..10).
`text.csv`: task, id, answer, prediction, score (0 or 1). `heldout.csv`: id, nats, bytes of held-out documents.

Conditions: "normal"; "removed": the prompt without its image; "mean": the mean features of the task's images in place
of every image's; "shuffled": the image of another question of the same task and type. Greedy answers in batches of
prompts of one length, in fp32 or bf16, on the CPU or on every visible GPU. Composer is not needed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from pipeline.data.corpora import left_out_of, read_splits, read_task
from pipeline.data.frames import Square, move_boxes
from pipeline.data.read_text import read_choices, read_documents
from pipeline.data.records import BadRecord, LeftOut, MultipleChoice, Question
from pipeline.data.shards import prompt_tokens
from pipeline.data.store import FeatureStore, image_id
from pipeline.data.tokenizer import Tokenizer, load_tokenizer
from pipeline.evaluation import tasks
from pipeline.evaluation.answers import Answers, helpers
from pipeline.evaluation.benchmarks import read_benchmark, token_pair
from pipeline.evaluation.metrics import cider_d, tokenise_caption
from pipeline.evaluation.tasks import ask, asked, score_answer, shuffled_images, subset
from pipeline.files import one_line, write_rows
from pipeline.model.huggingface import build_decoder
from pipeline.model.vision import build_encoder, decode_images
from pipeline.model.vlm import IGNORE, VLM, greedy
from pipeline.phase import Job, Progress
from pipeline.sections import Encoder, ModelSize
from pipeline.training.state import load_weights

VISION_COLUMNS = ["task", "condition", "id", "image", "kind", "split", "answer", "prediction", "valid", "score"]
CAPTION_COLUMNS = ["id", "image", "reference", "prediction", "score"]
MEASURE_COLUMNS = ["task", "condition", "kind", "measure", "questions", "score"]
TEXT_COLUMNS = ["task", "id", "answer", "prediction", "score"]
TIED = "tied"  # what stands for an answer while two are equally likely
CPU = torch.device("cpu")
KEPT_BYTES = 1 << 30  # features that a process on the CPU keeps in memory
LOGITS = 512  # positions that have logits at a time: with a vocabulary of 50,000 they are 100 MB


def load_model(settings: dict, checkpoint: Path) -> VLM:
    """A trained model in evaluation mode, with its encoder if that was trained. Raises ValueError for other weights."""
    size = ModelSize(**settings["model"])
    encoder = Encoder(**settings["encoder"]) if settings["encoder"] else None
    network = build_encoder(encoder) if encoder and settings.get("train_encoder") else None
    decoder = build_decoder(size)
    model = VLM(decoder, encoder.width, network, encoder.projector) if encoder else VLM(decoder)
    missing = load_weights(model, checkpoint)
    if missing:
        raise ValueError(f"{checkpoint}: {missing[0]} was never trained")
    return model.eval()


def choose_device(settings: dict, process: int = 0) -> torch.device:
    """The CPU, or the GPU of a process. Raises ValueError where there is none."""
    if settings["hardware"]["device"] == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("hardware.device is gpu, and no GPU is visible here")
    return torch.device("cuda", process % torch.cuda.device_count())


def halve(model: nn.Module) -> nn.Module:
    """Keep the matrices in bfloat16, as autocast would make them of the fp32 ones at every step. The rest stays fp32."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.to(torch.bfloat16)
    return model


# --- looking at images -----------------------------------------------------------------------------------------------

Look = Callable[[list], Tensor]  # what stands for images (n of them) -> their features [n, patches, width] in fp32
Reply = Callable[["Prompt"], list[str]]  # prompts of one length -> texts


class Viewer:
    """Features of image files: from the study's cache, or from an encoder when they are needed.

    What an encoder gives for an image depends, in the last bit, on the images that it is given along. On the CPU these
    are the ones that were first looked at (or noted) together, and features stay in memory while there is room. On a
    GPU, or where a task has more images than there is room for, each batch is looked at `alone` and nothing is kept.
    Either way the same batches get the same features, whichever of them this process answers.
    """

    def __init__(
        self,
        square: Square,
        store: FeatureStore | None,
        network: nn.Module | None,
        device: torch.device = CPU,
        image_bytes: int = 0,
    ):
        self.square, self.store, self.network, self.device = square, store, network, device
        self.image_bytes = image_bytes
        self.alone = device.type != "cpu"
        self.ids: dict[Path, str] = {}
        self.groups: dict[Path, tuple[Path, ...]] = {}  # an image's companions, itself among them
        self.kept: dict[Path, Tensor] = {}

    def prepare(self, files: Iterable[Path]) -> None:
        """The images of the next task: batches are looked at alone on a GPU, and where not all features fit in memory."""
        self.alone = self.device.type != "cpu" or len(set(files)) * self.image_bytes > KEPT_BYTES

    def note(self, files: Iterable[Path]) -> None:
        """Images that will be looked at together, by this process or by another one."""
        new = tuple(file for file in dict.fromkeys(files) if file not in self.groups)
        self.groups |= dict.fromkeys(new, new)

    @torch.inference_mode()
    def look(self, files: list[Path]) -> Tensor:
        """[n, patches, width] in fp32."""
        if self.store is not None:
            self.ids |= {file: image_id(file.read_bytes()) for file in dict.fromkeys(files) if file not in self.ids}
            return torch.from_numpy(self.store.get([self.ids[file] for file in files])).float()
        if self.alone:
            unique = list(dict.fromkeys(files))
            found = dict(zip(unique, self.encode(unique)))
        else:
            self.note(files)
            found = {file: self.kept[file] for file in files if file in self.kept}
            for file in files:
                if file not in found:
                    found |= zip(self.groups[file], self.encode(self.groups[file]))
            self.keep(found)
        return torch.stack([found[file] for file in files])

    def encode(self, files: Iterable[Path]) -> Tensor:
        """[n, patches, width] in fp32 of images encoded together."""
        assert self.network is not None, "features that are not stored are a network's"
        pixels = decode_images(files, self.square)
        return self.network(pixels.to(self.device)).float()

    def keep(self, found: dict[Path, Tensor]) -> None:
        """Remember features, and forget the oldest where there is no room for all."""
        self.kept |= found
        size = next(iter(found.values())).nbytes if found else 0
        for file in list(self.kept)[: max(0, len(self.kept) - KEPT_BYTES // max(size, 1))]:
            del self.kept[file]

    def mean(self, files: list[Path], batch: int) -> Tensor:
        """[patches, width]: the mean over the different ones among the files, looked at `batch` at a time."""
        files = list(dict.fromkeys(files))
        total = sum(self.look(files[start : start + batch]).sum(0) for start in range(0, len(files), batch))
        assert isinstance(total, Tensor), "there is a file"
        return total / len(files)


def make_viewer(settings: dict, model: VLM, features: Path | None, device: torch.device = CPU) -> Viewer | None:
    """How the model sees images: the study's cache, its own encoder, or the frozen one. None if it looks at none."""
    looks = settings["captioning"] or set(settings["conditions"]) - {"removed"}
    if settings["encoder"] is None or not looks:
        return None
    encoder = Encoder(**settings["encoder"])
    if features is not None:
        return Viewer(encoder.square, FeatureStore(features), None)
    network = build_encoder(encoder) if model.encoder is None else model.encoder
    return Viewer(encoder.square, None, network.to(device), device, 4 * encoder.patches * encoder.width)


def view(
    condition: str, questions: list[Question], viewer: Viewer | None, batch: int
) -> tuple[list[Path | None], Look | None]:
    """What stands for every question's image under a condition, and how to look at it (None: not at all)."""
    files = [question.image for question in questions]
    if condition == "removed":
        return [None] * len(files), None
    assert viewer, "only of removed images there is nothing to look at"
    if condition == "mean":
        unique = list(dict.fromkeys(files))
        for start in range(0, len(unique), batch):
            viewer.note(unique[start : start + batch])
        mean = cache(partial(viewer.mean, files, batch))  # not before it is needed
        return [None] * len(files), lambda shown: mean().expand(len(shown), -1, -1)
    shown: list[Path | None] = [*(files if condition == "normal" else shuffled_images(questions))]
    return shown, viewer.look


# --- answering -------------------------------------------------------------------------------------------------------


def by_length(
    asked: Iterable[tuple[tuple[int, ...], Hashable]], batch: int, tokens: int | None = None, more: int = 0
) -> Iterator[list]:
    """Pairs of (prompt, what is shown) in batches of one length of prompt.

    At most `batch` of them, and at most `tokens` positions where each takes `more` than its prompt has.
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
    reply: Reply,
    image: int,
    answers: Answers,
    key: tuple = (),
    update: Callable[[int], object] = lambda done: None,
) -> dict[tuple, str] | None:
    """A model's replies to batches of different (prompt, what is shown), by these.

    Each prompt stands after the image tokens (of id `image`) of what is shown, or without `look` after none. `update`
    is told how many batches are done. None if some are left to other processes.
    """
    said: dict[tuple, str] = {}

    def reply_to(pairs: list) -> list[str]:
        tokens = torch.tensor([prompt for prompt, _ in pairs], dtype=torch.long)
        features = slots = None
        if look is not None:
            features = look([what for _, what in pairs])
            patches = features.shape[1]
            tokens = torch.cat((torch.full((len(pairs), patches), image), tokens), dim=1)
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
    return model.decoder.embedding.weight.device


def generate(model: VLM, tokenizer: Tokenizer, stop: int, longest: int, prompt: Prompt) -> list[str]:
    """The likeliest continuation, token by token, up to `stop`."""
    tokens, features, slots = prompt.to(model)
    return [tokenizer.decode(ids) for ids in greedy(model, tokens, stop, longest, features, slots)]


def yes_no_words(task: dict) -> tuple[str, str]:
    yes, no = task.get("options") or ("yes", "no")
    return yes, no


def yes_or_no(model: VLM, tokenizer: Tokenizer, words: tuple[str, str], prompt: Prompt) -> list[str]:
    """The likelier of the words for "yes" and "no", by their first tokens (vlm-evaluation's POPE), or TIED."""
    hidden = model.decoder(model.embed(*prompt.to(model)))[:, -1]
    yes, no = (tokenizer.encode(word)[0] for word in words)
    logits = model.decoder.logits(hidden)
    return [
        "yes" if y > n else "no" if y < n else TIED for y, n in zip(logits[:, yes].tolist(), logits[:, no].tolist())
    ]


# --- one model's evaluation -------------------------------------------------------------------------------------------


def questions_of(source: Path, split: str, name: str, format: str, context: dict) -> list[Question]:
    """The questions of a split's task. Raises ValueError if there is none, BadRecord for a bad file."""
    questions = list(read_task(source, split, name, format, context))
    if not questions:
        raise ValueError(f"{source}: no questions of {name} in its {split} split")
    return questions


class Evaluation:
    """A model, what it is asked, and its answers so far.

    Rows come where all of their answers are known; with other processes at work, they come when those are done.
    """

    def __init__(
        self,
        settings: dict,
        inputs: dict[str, Path],
        context: dict,
        answers: Answers,
        progress: Progress,
        process: int = 0,
    ):
        self.settings, self.inputs, self.context = settings, inputs, context
        self.answers, self.progress = answers, progress
        torch.set_num_threads(settings["hardware"]["threads"])
        self.device = choose_device(settings, process)
        self.model = load_model(settings, inputs["checkpoint"]).to(self.device)
        self.viewer = make_viewer(settings, self.model, inputs.get("features"), self.device)
        self.half = settings["evaluation"].get("precision") == "bf16"
        if self.half:
            halve(self.model)
            if self.viewer and self.viewer.network:
                halve(self.viewer.network)
        self.tokenizer = load_tokenizer(inputs["tokenizer"] / "tokenizer.json")
        self.measures: list[list] = []  # rows of measures.csv
        self.left_out: dict[str, LeftOut] = {}  # bad items by task
        self.batch, self.room = settings["evaluation"]["batch"], settings["evaluation"].get("batch_tokens")

    def files(self) -> Iterator[tuple[str, list[str], Iterator[list]]]:
        """Name, columns and rows of every file of the evaluation."""
        settings = self.settings
        if settings["encoder"] and settings["vision"]:
            weighted = any(task.get("average") for task in settings["vision"].values())
            yield "vision", [*VISION_COLUMNS, *(["weight"] if weighted else [])], self.vision(weighted)
        if settings["encoder"] and settings["captioning"]:
            yield "captions", CAPTION_COLUMNS, self.captions()
        if settings["text"]:
            yield "text", TEXT_COLUMNS, self.text()
            yield "heldout", ["id", "nats", "bytes"], self.heldout()
        if self.measures:
            yield "measures", MEASURE_COLUMNS, iter(self.measures)

    def measure(self, task: str, condition: str, kind: str, measure: str, questions: int, value: float) -> None:
        self.measures.append([task, condition, kind, measure, questions, f"{value:.6g}"])

    def precision(self) -> torch.autocast:
        """The context in which answers have the evaluation's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)

    # --- vision ---

    def questions(self, name: str, format: str) -> list[Question]:
        return questions_of(self.inputs["questions"], self.settings["split"], name, format, self.context)

    def answer(
        self,
        key: tuple,
        prompts: Sequence[tuple[int, ...]],
        shown: Sequence[Path | None],
        look: Look | None,
        reply: Reply,
        longest: int,
        update: Callable[[float], object] = lambda done: 0,
    ) -> list[str] | None:
        """Replies to prompts about what is shown, or None (see the function)."""
        more = longest + (self.settings["encoder"]["patches"] if look else 0)
        batches = list(by_length(dict.fromkeys(zip(prompts, shown)), self.batch, self.room, more))
        if look is not None:
            assert self.viewer
            for pairs in batches:
                self.viewer.note(file for _, file in pairs if file is not None)
        said = answer(
            batches, look, reply, self.tokenizer.image, self.answers, key, lambda done: update(done / len(batches))
        )
        return None if said is None else [said[pair] for pair in zip(prompts, shown)]

    def answered(self) -> Iterator[tuple[str, dict, str, list[Question], list[str]]]:
        """Task, its settings, condition, questions and answers, as far as answers are known."""
        settings, done = self.settings, 0
        fit = Encoder(**settings["encoder"]).fit
        total = len(settings["vision"]) * len(settings["conditions"])
        for name, task in settings["vision"].items():
            questions = asked(task, self.questions(name, task["format"]))
            if self.viewer:
                self.viewer.prepare(question.image for question in questions)
            # What is asked, and said of boxes, is in the frame that the model sees; rows are in shares of the image.
            texts = [move_boxes(ask(task, question), question.image, "resize", fit) for question in questions]
            prompts = [tuple(prompt_tokens(self.tokenizer, text)) for text in texts]
            reply = partial(generate, self.model, self.tokenizer, self.tokenizer.end_assistant, task["longest"])
            if task["scorer"] == "yes_no":
                reply = partial(yes_or_no, self.model, self.tokenizer, yes_no_words(task))
            for condition in settings["conditions"]:

                def update(share: float, before: int = done, name: str = name) -> None:
                    self.progress.update(before + share, total, "conditions", name)

                shown, look = view(condition, questions, self.viewer, self.batch)
                answers = self.answer(("vision", name, condition), prompts, shown, look, reply, task["longest"], update)
                done += 1
                if answers is not None:
                    if tied := answers.count(TIED) if task["scorer"] == "yes_no" else 0:
                        self.measure(name, condition, "", TIED, len(answers), tied / len(answers))
                        answers = ["yes" if a == TIED else a for a in answers]  # as vlm-evaluation has it
                    seen = [file or question.image for file, question in zip(shown, questions)]
                    answers = [move_boxes(a, file, fit, "resize", decimals=6) for a, file in zip(answers, seen)]
                    yield name, task, condition, questions, answers

    def vision(self, weighted: bool) -> Iterator[list]:
        """Rows of vision.csv for all tasks and conditions."""
        splits_of = cache(partial(read_splits, self.inputs["questions"], self.settings["split"]))
        for name, task, condition, questions, answers in self.answered():
            splits = splits_of(name, task["format"])
            judged = [score_answer(task, question, text) for question, text in zip(questions, answers)]
            for row in tasks.measures(task, questions, answers, [score for _, score in judged]):
                self.measure(name, condition, *row)
            weights = tasks.weights(task, questions)
            for question, prediction, (valid, score), weight in zip(questions, answers, judged, weights):
                truth = question.answers[0] if question.answers else ""
                yield [
                    *(name, condition, question.id, question.image.name, question.kind, splits.get(question.id, "")),
                    *(truth, prediction, int(valid), f"{score:.6g}"),
                    *([f"{weight:.9g}"] if weighted else []),
                ]

    def captions(self) -> Iterator[list]:
        """Rows of captions.csv: what the model says after the image tokens alone, as training's captions begin."""
        questions = self.questions("captioning", "coco_captions")
        longest = self.settings["captioning"]["longest"]
        reply = partial(generate, self.model, self.tokenizer, self.tokenizer.end, longest)
        files = [question.image for question in questions]
        assert self.viewer, "captions are of what is looked at"
        self.viewer.prepare(files)
        predictions = self.answer(("captions",), [()] * len(files), files, self.viewer.look, reply, longest)
        if predictions is None:
            return
        references = [[tokenise_caption(text) for text in question.answers] for question in questions]
        _, scores = cider_d(references, [tokenise_caption(text) for text in predictions])
        for question, prediction, score in zip(questions, predictions, scores):
            yield [question.id, question.image.name, question.answers[0], prediction, f"{score:.6g}"]

    # --- text ---

    def log_likelihoods(self, key: tuple, pairs: list[tuple[list[int], list[int]]]) -> np.ndarray | None:
        sequence = self.settings["model"]["sequence"]
        return log_likelihoods(self.model, pairs, sequence, self.batch, self.room, self.answers, key)

    def text(self) -> Iterator[list]:
        """Rows of text.csv: multiple choice by log-likelihood (lm-eval's `acc`, 0-shot)."""
        for done, (name, task) in enumerate(self.settings["text"].items(), 1):
            normed, tied = [], 0
            for item, nats in self.likelihoods(name, task):
                best, best_normed, is_tied = tasks.choose(item.choices, nats)
                normed.append(best_normed == item.gold)
                tied += is_tied
                yield [name, item.id, item.gold, best, int(best == item.gold)]
            if normed:
                self.measure(name, "", "", "acc_norm", len(normed), sum(normed) / len(normed))
            if tied:
                self.measure(name, "", "", TIED, len(normed), tied / len(normed))
            self.progress.update(done, len(self.settings["text"]), "text tasks", name)

    def likelihoods(self, name: str, task: dict) -> Iterator[tuple[MultipleChoice, list[float]]]:
        """A text task's items with the log-likelihoods of their choices; none while answers are missing."""
        place, items, numbers, self.left_out[name] = text_items(self.settings, self.inputs, self.tokenizer, name, task)
        if self.settings.get("engine") == "lm_eval" and task.get("benchmark"):
            from pipeline.evaluation.harness import benchmark_likelihoods

            yield from benchmark_likelihoods(self, name, task, place, items, numbers)
            return
        chosen = [items[number] for number in numbers]
        pairs = [pair for item in chosen for pair in choice_tokens(self.tokenizer, task, item)]
        found = self.log_likelihoods(("text", name), pairs)
        left = iter(() if found is None else found.tolist())
        for item in chosen if found is not None else ():
            yield item, list(islice(left, len(item.choices)))

    def heldout(self) -> Iterator[list]:
        """Rows of heldout.csv: each held-out document's negative log-likelihood and size, cut to one sequence each."""
        documents = list(read_documents(sorted((self.inputs["text"] / "text").glob("heldout-*.jsonl.zst"))))
        documents = documents[: self.settings["evaluation"]["heldout_documents"]]
        pairs, sizes = [], []
        for document in documents:
            ids = self.tokenizer.encode(document.text)[: self.settings["model"]["sequence"]]
            pairs.append(([self.tokenizer.end], ids))
            sizes.append(len(self.tokenizer.decode(ids).encode()))
        found = self.log_likelihoods(("heldout",), pairs)
        for document, nats, size in zip(documents, found, sizes) if found is not None else ():
            yield [document.id, f"{-nats:.6f}", size]


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

    Contexts longer than the model's sequence lose their beginning. A context that several continuations have is read
    once. A batch has contexts of one length, at most `batch` rows and at most `tokens` positions; its continuations are
    padded on the right, which causal attention never looks at. None if some batches are left to other processes.
    """
    answers = answers or Answers()
    rows = [cut(context, continuation, sequence) for context, continuation in pairs]
    out, missing = np.zeros(len(rows)), False
    for number, members in enumerate(alike(rows, batch, tokens)):
        found = answers.get((*key, number), partial(batch_likelihoods, model, [rows[n] for n in members]))
        missing |= found is None
        out[members] = 0.0 if found is None else found
    return None if missing else out


Row = tuple[tuple[int, ...], tuple[int, ...]]  # token ids of a context, and of the continuation that is told


def cut(context: list[int], continuation: list[int], sequence: int) -> Row:
    """The last `sequence` + 1 tokens, of which the first is of the context: nothing tells it."""
    whole = tuple(context + continuation)[-(sequence + 1) :]
    start = max(1, len(whole) - len(continuation))
    return whole[:start], whole[start:]


def alike(rows: list[Row], batch: int, tokens: int | None) -> Iterator[list[int]]:
    """Numbers of rows in batches: contexts of one length, equal ones side by side."""
    members: list[int] = []
    longest = 0
    for n in sorted(range(len(rows)), key=lambda n: (len(rows[n][0]), rows[n][0], len(rows[n][1]))):
        context, told = map(len, rows[n])
        positions = (len(members) + 1) * (context + max(longest, told) - 1)
        full = len(members) == batch or (tokens is not None and positions > tokens)
        if members and (full or len(rows[members[0]][0]) != context):
            yield members
            members, longest = [], 0
        members.append(n)
        longest = max(longest, told)
    if members:
        yield members


def batch_likelihoods(model: VLM, rows: list[Row]) -> list[float]:
    """For rows with contexts of one length: the log-probability of each continuation, in nats."""
    contexts = {context: number for number, context in enumerate(dict.fromkeys(context for context, _ in rows))}
    told = [torch.tensor(told, dtype=torch.long) for _, told in rows]
    tokens = pad_sequence([ids[:-1] for ids in told], batch_first=True)
    targets = pad_sequence(told, batch_first=True, padding_value=IGNORE)
    read, of = torch.tensor(list(contexts)), torch.tensor([contexts[context] for context, _ in rows])
    read, of, tokens, targets = (ids.to(place(model)) for ids in (read, of, tokens, targets))
    cache: Any = model.decoder.new_cache()
    hidden = model.decoder(model.embed(read), cache=cache)[:, -1:][of]
    if tokens.shape[1]:
        model.decoder.select_rows(cache, of)
        hidden = torch.cat((hidden, model.decoder(model.embed(tokens), cache=cache)), dim=1)
    wanted = targets != IGNORE
    pieces = zip(hidden[:, : targets.shape[1]][wanted].split(LOGITS), targets[wanted].split(LOGITS))
    losses = [F.cross_entropy(model.decoder.logits(h), ids, reduction="none") for h, ids in pieces]
    nats = torch.zeros(targets.shape, dtype=torch.double, device=targets.device)
    nats[wanted] = -torch.cat(losses).double()
    return nats.sum(1).tolist()


def text_items(
    settings: dict, inputs: dict[str, Path], tokenizer: Tokenizer, name: str, task: dict
) -> tuple[Path, list[MultipleChoice], list[int], LeftOut]:
    """Where a text task's items lie, all of them, the numbers of those that are asked, in their order, and the bad ones.

    A benchmark's are asked in the order of its files, those of TASK.jsonl in that of a hash. Raises BadRecord for more
    bad items than may be left out: those that the source has left out count.
    """
    folder, count = inputs["text"] / "evaluation" / "text", settings["evaluation"]["text_items"]
    most = task.get("left_out_at_most", 0)
    if task.get("benchmark"):
        place, left_out = folder / name, LeftOut(most)
        items = read_benchmark(task["benchmark"], place, name, task.get("files"), left_out)
        chosen = {item.id for item in subset(items, count)}
        numbers = [number for number, item in enumerate(items) if item.id in chosen]
    else:
        place = folder / f"{name}.jsonl"
        left_out = LeftOut(most, left_out_of(inputs["text"]).get(name, {}).get("left_out", 0))
        items = subset(list(read_choices(place, name)), count)
        numbers = list(range(len(items)))
    asked = []
    for number in numbers:
        with left_out:
            pairs = choice_tokens(tokenizer, task, items[number])
            check_choices(place, items[number], [cut(*pair, settings["model"]["sequence"]) for pair in pairs])
            asked.append(number)
    if not asked:
        raise BadRecord(place, "-", f"none of its {len(numbers):,} items can be asked")
    return place, items, asked, left_out


def choice_tokens(tokenizer: Tokenizer, task: dict, item: MultipleChoice) -> list[tuple[list[int], list[int]]]:
    """Token ids of the context and of each choice. Only a benchmark's contexts do not begin with end-of-text."""
    return [token_pair(tokenizer, item.context, choice, not task.get("benchmark")) for choice in item.choices]


def check_choices(place: Path, item: MultipleChoice, rows: list[Row]) -> None:
    """Raises BadRecord for an item whose likelihoods say nothing of the choice that they are of."""
    for number, (choice, row) in enumerate(zip(item.choices, rows)):
        shown = f"choice {number} ({one_line(repr(choice), 80)})"
        if not row[1]:
            reason = f"{shown} has no token of its own: its first letters make one token with the context's last"
            raise BadRecord(place, item.id, f"{reason}; begin it with a space, or end the context before a whole word")
        if number != item.gold and row == rows[item.gold]:
            raise BadRecord(place, item.id, f"{shown} and the right one, choice {item.gold}, are the same tokens")


def check_words(name: str, words: Sequence[str], tokenizer: Tokenizer) -> None:
    """Raises ValueError for words for yes and no that begin with the same token, or have none."""
    yes, no = (tokenizer.encode(word)[:1] for word in words)
    if not yes or not no or yes == no:
        what = f"begin with the same token ({yes[0]})" if yes and no else "do not both have a token"
        raise ValueError(
            f"vision.{name}.options: {words[0]!r} and {words[1]!r} {what} in this tokenizer, so that nothing tells them "
            "apart; name two words whose first tokens differ"
        )


def check(settings: dict, inputs: dict[str, Path], context: dict) -> None:
    """Look, before anything is asked, whether all that will be asked can be answered. Raises ValueError."""
    tokenizer = load_tokenizer(inputs["tokenizer"] / "tokenizer.json")
    for name, task in settings["vision"].items() if settings["encoder"] else ():
        if task["scorer"] == "yes_no":
            check_words(name, yes_no_words(task), tokenizer)
        questions = questions_of(inputs["questions"], settings["split"], name, task["format"], context)
        tasks.check_answers(name, task, asked(task, questions))
    for name, task in settings["text"].items():
        text_items(settings, inputs, tokenizer, name, task)


# --- the phase -------------------------------------------------------------------------------------------------------

COUNTS = {"vision": "vision_rows", "captions": "caption_rows", "text": "text_rows", "heldout": "heldout_rows"}


def answer_share(
    settings: dict,
    inputs: dict[str, Path],
    context: dict,
    folder: Path,
    processes: int,
    progress: Progress,
    process: int,
) -> None:
    """Answer what falls to one of several processes."""
    evaluation = Evaluation(settings, inputs, context, Answers(folder, process, processes), progress, process)
    with evaluation.precision():
        for _, _, rows in evaluation.files():
            for _ in rows:
                pass


def count_processes(job: Job) -> int:
    """How many processes share the evaluation: what the context says, else one for each visible GPU."""
    if job.settings["hardware"]["device"] == "cpu":
        return job.context.get("evaluation_processes") or 1
    return job.context.get("evaluation_processes") or max(1, torch.cuda.device_count())


def run(job: Job, out: Path) -> dict:
    """Phase "evaluate": score one checkpoint on everything that its card names."""
    check(job.settings, job.inputs, job.context)
    folder, processes = job.resume / "answers", count_processes(job)
    if processes > 1:
        arguments = (job.settings, job.inputs, job.context, folder, processes)
        with helpers(answer_share, processes - 1, *arguments, Silent()):
            answer_share(*arguments, job.progress, 0)
    evaluation = Evaluation(job.settings, job.inputs, job.context, Answers(folder), job.progress)
    counts: dict[str, Any] = {}
    with evaluation.precision():
        for name, columns, rows in evaluation.files():
            count = write_rows(out / f"{name}.csv", columns, rows)
            counts |= {COUNTS[name]: count} if name in COUNTS else {}
    left_out = {name: found for name, bad in evaluation.left_out.items() if (found := bad.say(name))}
    for source in (job.inputs[name] for name in ("questions", "text") if name in job.inputs):
        for name, found in left_out_of(source).items():
            left_out[name] = dict(Counter(left_out.get(name, {})) + Counter(found))
    return counts | ({"left_out": left_out} if left_out else {})


class Silent:
    """Progress that nobody is told of."""

    def begin_at(self, done: float) -> None:
        pass

    def update(self, *_: object) -> None:
        pass
