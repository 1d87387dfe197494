"""Phase "evaluate": one row an example, from a model's weights and files in the official formats.

`vision.csv`: task, condition, id, image, kind, split, answer, prediction, valid, score (0..1), and weight (what the
example counts for in its task's mean) where a task averages over kinds. `measures.csv`: task, condition, kind, measure,
questions, score (0..1): what is measured beside the score (`tasks.measures`), acc_norm of text tasks, and the share of
questions whose best answers were equally likely ("tied"; the first counts as given), where there are any.
`captions.csv`: id, image, reference (the first), prediction, score (CIDEr-D among the split's images, 0..10).
`answers.csv`: task, condition, id, image, nats, bytes: how unlikely the model finds the right answer (or first reference
caption, as task "captioning") with its own image ("normal") and with another's ("shuffled"); in text tasks the right choice.
Nats are of the text and the token that ends it (of a choice: of the text alone), bytes of the text.
`text.csv`: task, id, answer, prediction, score (0 or 1). `heldout.csv`: id, nats, bytes of held-out documents.

Conditions: "normal"; "removed": the prompt without its image; "mean": the mean features of the task's images in place
of every image's; "shuffled": the image of another question of the same task and type. Greedy answers in batches of
prompts of one length, in fp32 or bf16, on the CPU or on every visible GPU. Composer is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from pipeline.common.files import one_line
from pipeline.common.job_context import Progress
from pipeline.common.squares import Fit, move_boxes
from pipeline.data.corpora.list_files import left_out_of
from pipeline.data.formats.documents import read_choices, read_documents
from pipeline.data.packing import prompt_tokens
from pipeline.data.questions import read_splits, read_task
from pipeline.data.records import BadRecord, LeftOut, MultipleChoice, Question
from pipeline.data.tokenizer import Tokenizer, load_tokenizer
from pipeline.evaluation import tasks
from pipeline.evaluation.answer_store import Answers
from pipeline.evaluation.answering import TIED, Reply, Said, answer, by_length, generate, yes_or_no
from pipeline.evaluation.benchmarks import read_benchmark, token_pair
from pipeline.evaluation.cider import cider_d, tokenise_caption
from pipeline.evaluation.job_settings import Condition, Evaluate
from pipeline.evaluation.likelihoods import Row, log_likelihoods, nats_after, truncate_left
from pipeline.evaluation.model import choose_device, halve, load_model
from pipeline.evaluation.tasks import ask, asked, right_answer, score_answer, subset, yes_no_words
from pipeline.evaluation.viewer import Look, make_viewer, view
from pipeline.settings.tasks import AskedTextTask, AskedVisionTask

VISION_COLUMNS = ["task", "condition", "id", "image", "kind", "split", "answer", "prediction", "valid", "score"]
CAPTION_COLUMNS = ["id", "image", "reference", "prediction", "score"]
MEASURE_COLUMNS = ["task", "condition", "kind", "measure", "questions", "score"]
TEXT_COLUMNS = ["task", "id", "answer", "prediction", "score"]
ANSWER_COLUMNS = ["task", "condition", "id", "image", "nats", "bytes"]
COMPARED: tuple[Condition, ...] = ("normal", "shuffled")  # what an answer owes to its image is the difference


def questions_of(source: Path, split: str, name: str, format: str, context: dict) -> list[Question]:
    """The questions of a split's task. Raises ValueError if there is none, BadRecord for a bad file."""
    questions = list(read_task(source, split, name, format, context))
    if not questions:
        raise ValueError(f"{source}: no questions of {name} in its {split} split")
    return questions


class Evaluation:
    """A model, what it is asked, and its answers so far.

    Rows of a part (a task under a condition, say) come once all its answers are known. While other processes have some
    of them left, that part has no rows.
    """

    def __init__(
        self,
        settings: Evaluate,
        inputs: dict[str, Path],
        context: dict,
        answers: Answers,
        progress: Progress,
        process: int = 0,
    ):
        self.settings, self.inputs, self.context = settings, inputs, context
        self.answers, self.progress = answers, progress
        # The bits depend on the number of threads.
        torch.set_num_threads(settings.hardware.threads)
        self.device = choose_device(settings.hardware.device, process)
        self.model = load_model(settings, inputs["checkpoint"]).to(self.device)
        self.viewer = make_viewer(settings, self.model, inputs.get("features"), self.device)
        self.half = settings.evaluation.precision == "bf16"
        if self.half:
            halve(self.model)
            if self.viewer and self.viewer.network:
                halve(self.viewer.network)
        self.tokenizer = load_tokenizer(inputs["tokenizer"] / "tokenizer.json")
        self.measures: list[list] = []  # rows of measures.csv
        self.right_choices: list[list] = []  # those of text tasks in answers.csv
        self.left_out: dict[str, LeftOut] = {}  # bad items by task
        self.batch, self.room = settings.evaluation.batch, settings.evaluation.batch_tokens

    def files(self) -> Iterator[tuple[str, list[str], Iterator[list]]]:
        """Name, columns and rows of every file of the evaluation."""
        settings = self.settings
        if settings.encoder and settings.vision:
            # Where no kinds are averaged every weight would be 1.
            weighted = any(task.average for task in settings.vision.values())
            yield "vision", [*VISION_COLUMNS, *(["weight"] if weighted else [])], self.vision(weighted)
        if settings.encoder and settings.captioning:
            yield "captions", CAPTION_COLUMNS, self.captions(settings.captioning.longest)
        if settings.text:
            yield "text", TEXT_COLUMNS, self.text()
            yield "heldout", ["id", "nats", "bytes"], self.heldout()
        # Last: what the text tasks leave for it is there by then.
        if settings.text or (settings.encoder and settings.captioning) or {*COMPARED} <= {*settings.conditions}:
            yield "answers", ANSWER_COLUMNS, self.right_answers()
        if self.measures:
            yield "measures", MEASURE_COLUMNS, iter(self.measures)

    def measure(self, task: str, condition: str, kind: str, measure: str, questions: int, value: float) -> None:
        """Note a row of measures.csv."""
        self.measures.append([task, condition, kind, measure, questions, f"{value:.6g}"])

    def precision(self) -> torch.autocast:
        """The context in which answers have the evaluation's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)

    # --- vision ---

    def questions(self, name: str, format: str) -> list[Question]:
        """The questions of a task, in the split that the settings name."""
        return questions_of(self.inputs["questions"], str(self.settings.split), name, format, self.context)

    def answer(
        self,
        key: tuple,
        prompts: Sequence[tuple[int, ...]],
        shown: Sequence[Path | None],
        look: Look | None,
        reply: Reply[Said],
        longest: int = 0,
        update: Callable[[float], object] = lambda done: 0,
    ) -> list[Said] | None:
        """A reply to each prompt about what is shown; None if other processes have some left.

        `longest`: tokens that a reply may have. `update` is told the share that is done.
        """
        more = longest + (self.settings.encoder.patches if look and self.settings.encoder else 0)
        # The same prompt about the same image is asked once: questions repeat, and without an image more so.
        batches = list(by_length(dict.fromkeys(zip(prompts, shown)), self.batch, self.room, more))
        if look is not None:
            assert self.viewer
            for pairs in batches:
                # Before any batch is answered: which images are encoded together must not depend on who answers which
                # batch.
                self.viewer.note(file for _, file in pairs if file is not None)
        said = answer(
            batches, look, reply, self.tokenizer.image, self.answers, key, lambda done: update(done / len(batches))
        )
        return None if said is None else [said[pair] for pair in zip(prompts, shown)]

    def answered(self) -> Iterator[tuple[str, AskedVisionTask, str, list[Question], list[str]]]:
        """Task, its settings, condition, questions and answers, as far as answers are known."""
        settings, done = self.settings, 0
        assert settings.encoder, "questions about images are for models that have seen some"
        fit = settings.encoder.fit
        total = len(settings.vision) * len(settings.conditions)
        for name, task in settings.vision.items():
            questions = asked(task, self.questions(name, task.format))
            if self.viewer:
                self.viewer.prepare(question.image for question in questions)
            # Boxes in questions and answers are in the frame of the square that the model sees; rows have them in
            # shares of the image.
            texts = [self.framed(ask(task, question), question, fit) for question in questions]
            prompts = [tuple(prompt_tokens(self.tokenizer, text)) for text in texts]
            reply = partial(generate, self.model, self.tokenizer, self.tokenizer.end_assistant, task.longest)
            if task.scorer == "yes_no":
                reply = partial(yes_or_no, self.model, self.tokenizer, yes_no_words(task))
            for condition in settings.conditions:
                # Defaults and not the loop's variables, which would have their last values whenever it is called.
                def update(share: float, before: int = done, name: str = name) -> None:
                    self.progress.update(before + share, total, "conditions", name)

                shown, look = view(condition, questions, self.viewer, self.batch)
                answers = self.answer(("vision", name, condition), prompts, shown, look, reply, task.longest, update)
                done += 1
                if answers is not None:
                    if tied := answers.count(TIED) if task.scorer == "yes_no" else 0:
                        self.measure(name, condition, "", TIED, len(answers), tied / len(answers))
                        answers = ["yes" if a == TIED else a for a in answers]  # as vlm-evaluation has it
                    # A shuffled image has a frame of its own: the answer is about the image that was shown.
                    seen = [file or question.image for file, question in zip(shown, questions)]
                    answers = [move_boxes(a, file, fit, "resize", decimals=6) for a, file in zip(answers, seen)]
                    yield name, task, condition, questions, answers

    def vision(self, weighted: bool) -> Iterator[list]:
        """Rows of vision.csv for all tasks and conditions."""
        splits_of = cache(partial(read_splits, self.inputs["questions"], str(self.settings.split)))
        for name, task, condition, questions, answers in self.answered():
            splits = splits_of(name, task.format)
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

    def captions(self, longest: int) -> Iterator[list]:
        """Rows of captions.csv: what the model says after the image tokens alone, as training's captions begin.

        `longest`: tokens that a caption may have.
        """
        questions = self.questions("captioning", "coco_captions")
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

    def right_answers(self) -> Iterator[list]:
        """Rows of answers.csv: vision tasks and captions with their own images and with others', then the text tasks."""
        settings, total = self.settings, len(self.settings.vision) + 1
        if settings.encoder and {*COMPARED} <= {*settings.conditions}:
            for done, (name, task) in enumerate(settings.vision.items(), 1):
                questions = asked(task, self.questions(name, task.format))
                frame, end = settings.encoder.fit, [self.tokenizer.end_assistant]
                prompts = [prompt_tokens(self.tokenizer, self.framed(ask(task, q), q, frame)) for q in questions]
                told = [self.tokenizer.encode(self.framed(right_answer(task, q), q, frame)) + end for q in questions]
                yield from self.likely(name, questions, prompts, told, [right_answer(task, q) for q in questions])
                self.progress.update(done, total, "right answers", name)
        if settings.encoder and settings.captioning:
            questions = self.questions("captioning", "coco_captions")
            texts = [question.answers[0] for question in questions]
            told = [[*self.tokenizer.encode(text), self.tokenizer.end] for text in texts]
            yield from self.likely("captioning", questions, [[] for _ in questions], told, texts)
        self.progress.update(total, total, "right answers")
        yield from self.right_choices

    def framed(self, text: str, question: Question, frame: Fit) -> str:
        """A text with its boxes in the frame of the square that the model sees."""
        return move_boxes(text, question.image, "resize", frame)

    def likely(
        self,
        name: str,
        questions: list[Question],
        prompts: list[list[int]],
        told: list[list[int]],
        texts: list[str],
    ) -> Iterator[list]:
        """Rows of answers.csv of one task: prompts and what should be told after them as token ids, and as texts."""
        if self.viewer:
            self.viewer.prepare(question.image for question in questions)
        whole = [(*prompt, *answer) for prompt, answer in zip(prompts, told, strict=True)]
        reply = partial(nats_after, self.model, (self.tokenizer.image, self.tokenizer.end_human))
        for condition in COMPARED:
            shown, look = view(condition, questions, self.viewer, self.batch)
            found = self.answer(("right", name, condition), whole, shown, look, reply)
            for question, nats, text in zip(questions, found or (), texts):
                yield [name, condition, question.id, question.image.name, f"{nats:.6f}", len(text.encode())]

    # --- text ---

    def log_likelihoods(self, key: tuple, pairs: list[tuple[list[int], list[int]]]) -> np.ndarray | None:
        """Sums of log-probabilities of continuations after contexts; None if other processes have some left."""
        return log_likelihoods(
            self.model, pairs, self.settings.model.sequence, self.batch, self.room, self.answers, key
        )

    def text(self) -> Iterator[list]:
        """Rows of text.csv: multiple choice by log-likelihood (lm-eval's `acc`, 0-shot)."""
        for done, (name, task) in enumerate(self.settings.text.items(), 1):
            normed, tied = [], 0
            for item, nats in self.likelihoods(name, task):
                best, best_normed, is_tied = tasks.choose(item.choices, nats)
                normed.append(best_normed == item.gold)
                tied += is_tied
                right = item.choices[item.gold].removeprefix(" ")  # the space joins it to its context
                self.right_choices.append([name, "normal", item.id, "", f"{-nats[item.gold]:.6f}", len(right.encode())])
                yield [name, item.id, item.gold, best, int(best == item.gold)]
            if normed:
                self.measure(name, "", "", "acc_norm", len(normed), sum(normed) / len(normed))
            if tied:
                self.measure(name, "", "", TIED, len(normed), tied / len(normed))
            self.progress.update(done, len(self.settings.text), "text tasks", name)

    def likelihoods(self, name: str, task: AskedTextTask) -> Iterator[tuple[MultipleChoice, list[float]]]:
        """A text task's items with the log-likelihoods of their choices; none while answers are missing."""
        place, items, numbers, self.left_out[name] = text_items(self.settings, self.inputs, self.tokenizer, name, task)
        if self.settings.engine == "lm_eval" and task.benchmark:
            from pipeline.evaluation.lm_eval_engine import benchmark_likelihoods

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
        documents = documents[: self.settings.evaluation.heldout_documents]
        pairs, sizes = [], []
        for document in documents:
            ids = self.tokenizer.encode(document.text)[: self.settings.model.sequence]
            pairs.append(([self.tokenizer.end], ids))
            sizes.append(len(self.tokenizer.decode(ids).encode()))
        found = self.log_likelihoods(("heldout",), pairs)
        for document, nats, size in zip(documents, found, sizes) if found is not None else ():
            yield [document.id, f"{-nats:.6f}", size]


def text_items(
    settings: Evaluate, inputs: dict[str, Path], tokenizer: Tokenizer, name: str, task: AskedTextTask
) -> tuple[Path, list[MultipleChoice], list[int], LeftOut]:
    """Where a text task's items lie, all of them, the numbers of those that are asked, in their order, and the bad ones.

    A benchmark's are asked in the order of its files, those of TASK.jsonl in that of a hash. Raises BadRecord for more
    bad items than may be left out: those that the source has left out count.
    """
    folder, count = inputs["text"] / "evaluation" / "text", settings.evaluation.text_items
    most = task.left_out_at_most
    if task.benchmark:
        place, left_out = folder / name, LeftOut(most)
        items = read_benchmark(task.benchmark, place, name, task.files, left_out)
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
            check_choices(place, items[number], [truncate_left(*pair, settings.model.sequence) for pair in pairs])
            asked.append(number)
    if not asked:
        raise BadRecord(place, "-", f"none of its {len(numbers):,} items can be asked")
    return place, items, asked, left_out


def choice_tokens(tokenizer: Tokenizer, task: AskedTextTask, item: MultipleChoice) -> list[tuple[list[int], list[int]]]:
    """Token ids of the context and of each choice. Only a benchmark's contexts do not begin with end-of-text."""
    return [token_pair(tokenizer, item.context, choice, task.benchmark is None) for choice in item.choices]


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


def check(settings: Evaluate, inputs: dict[str, Path], context: dict) -> None:
    """Look, before anything is asked, whether all that will be asked can be answered. Raises ValueError."""
    tokenizer = load_tokenizer(inputs["tokenizer"] / "tokenizer.json")
    for name, task in settings.vision.items() if settings.encoder else ():
        if task.scorer == "yes_no":
            check_words(name, yes_no_words(task), tokenizer)
        questions = questions_of(inputs["questions"], str(settings.split), name, task.format, context)
        tasks.check_answers(name, task, asked(task, questions))
    for name, text in settings.text.items():
        text_items(settings, inputs, tokenizer, name, text)
