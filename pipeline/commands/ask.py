"""Ask: what a fine-tuned model says with a picture and without it, and whether the picture is unlike its own.

The recommended model is the recipe's, with the first seed. A picture goes the way of the evaluation's: the same square,
the frozen encoder of the installed packages (or the model's own trained one), and half precision in between where the
study keeps features. A question stands in a prompt as those of the evaluation's tasks do. An answer is the likeliest
token after the other. Boxes in both are in shares of the picture.

The weights are those on the disk, if their bytes are those that the job left. If they were made from another card than
today's, a line says so. What "unlike" means stands in pipeline/evaluation/likeness.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.common.files import one_line
from pipeline.common.images import ALLOWED, BadImage
from pipeline.common.squares import move_boxes
from pipeline.export.made import Made, check_whole, label
from pipeline.reporting.table_list import TABLES
from pipeline.store import artifacts
from pipeline.store.failed_runs import noted
from pipeline.store.ledger import Ledger
from pipeline.study.cells import Cell
from pipeline.study.job import Job, lineage
from pipeline.study.study import Study
from pipeline.training.job_settings import Finetune

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.evaluation.evaluation import Evaluation
    from pipeline.evaluation.job_settings import Evaluate
    from pipeline.evaluation.likeness import Likeness

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")  # of the files of a folder that are pictures
SHOWN = 8  # ids that an error lists


class Unread(Exception):
    """How many pictures could not be read."""


def ask(ledger: Ledger, picture: Path, question: str, prefix: str | None = None) -> Iterator[str]:
    """What a model says about a picture, or about every picture of a folder; yields lines.

    `prefix`: the beginning of the model's id; None: the recommended model. Raises ValueError, before a model is loaded,
    for an empty question, no picture and no such model; then for a question that is too long. Raises Unread at the end
    if a picture could not be read; the others are answered.
    """
    check_question(question)
    files, skipped = find_pictures(picture)
    scores = find_evaluation(ledger.study, prefix)
    model = scores.parents["checkpoint"]
    check_finished(ledger, model)
    tokenizer = scores.parents["tokenizer"]
    if fault := find_fault(ledger.root, tokenizer):
        raise ValueError(f"{model.id}: its tokenizer: {fault}; pull it, or make it again")
    yield f"model: {model.id}"
    if ledger.old_card(model) != ledger.card(model):
        why = f"`python -m pipeline why {model.id}` says how they differ"
        yield f"note: it was made from another card than today's; {why}"
    settings, note = on_this_machine(scores)
    likeness = find_likeness(ledger.root, model, scores)
    yield from (f"note: {said}" for said in (note, likeness) if isinstance(said, str))

    from pipeline.evaluation.answer_store import Answers
    from pipeline.evaluation.evaluate import Silent
    from pipeline.evaluation.evaluation import Evaluation

    inputs = {"checkpoint": ledger.root / model.folder, "tokenizer": ledger.root / tokenizer.folder}
    evaluation = Evaluation(settings, inputs, {}, Answers(), Silent())
    unread = 0
    for file in files:
        yield one_line(file)
        try:
            yield from say(evaluation, file, question, "features" in scores.parents, likeness)
        except (BadImage, OSError) as error:
            unread += 1
            reason = str(error).removeprefix(f"{file}: ") if isinstance(error, BadImage) else error.strerror
            yield f"  not read: {one_line(reason)}"
    if skipped:
        yield f"skipped, as no pictures by their names: {len(skipped)} ({one_line(', '.join(skipped))})"
    if unread:
        raise Unread(f"{unread} of {len(files)} pictures could not be read")


def check_question(question: str) -> None:
    """Raises ValueError for a question without a letter, and for one that is no text."""
    if not question.strip():
        raise ValueError(f"QUESTION: found {one_line(repr(question))}, allowed: a text that is not empty")
    if any("\ud800" <= letter <= "\udfff" for letter in question):  # what Python makes of bytes that are no UTF-8
        raise ValueError(f"QUESTION: found {one_line(repr(question))}, allowed: a text in UTF-8")


def find_pictures(place: Path) -> tuple[list[Path], list[str]]:
    """The file, or a folder's pictures; and the names of what else is in the folder. Both sorted. Raises ValueError."""
    try:
        found = sorted(place.iterdir()) if place.is_dir() else [place] if place.is_file() else []
    except OSError as error:
        raise ValueError(f"PICTURE: {one_line(place)} cannot be read: {error.strerror}") from None
    if found == [place]:
        return found, []
    if not place.is_dir():
        allowed = f"a {ALLOWED} image"
        raise ValueError(f"PICTURE: found {one_line(place)}, which is no file and no folder; allowed: {allowed}")
    pictures = {file: file.suffix.lower() in SUFFIXES and file.is_file() for file in found}
    if not any(pictures.values()):
        allowed = f"a folder with a file whose name ends in {', '.join(SUFFIXES)}"
        raise ValueError(f"PICTURE: found {one_line(place)}, a folder without a picture; allowed: {allowed}")
    others = [f"{file.name}/" if file.is_dir() else file.name for file in found if not pictures[file]]
    return [file for file in found if pictures[file]], others


def find_evaluation(study: Study, prefix: str | None) -> Job:
    """The evaluation of the fine-tuned model that is meant: the recommended one, or that of an id's beginning.

    A whole id, or the label before its digest, means that model alone. Raises ValueError for none, several, blind ones.
    """
    if prefix is None:
        return study.run(Cell(study.recipe), study.recipe.seed)
    models = {job.parents["checkpoint"].id: job for job in study.all_runs.values()}
    models = {name: job for name, job in models.items() if job.parents["checkpoint"].phase == "finetune"}
    names = [name for name in models if name == prefix] or [name for name in models if label(Path(name)) == prefix]
    names = names or [name for name in models if name.startswith(prefix)]
    if len(names) != 1:
        found = f"the beginning of {len(names)} models" if names else "the beginning of none"
        allowed = f"that of one: {listed(names or [name for name, job in models.items() if not is_blind(job)])}"
        raise ValueError(f"--model: found {one_line(repr(prefix))}, {found}; allowed: {allowed}")
    if is_blind(models[names[0]]):
        allowed = "a model that has seen images"
        raise ValueError(f"--model: found {names[0]}, which was fine-tuned blind, without images; allowed: {allowed}")
    return models[names[0]]


def is_blind(scores: Job) -> bool:
    """Whether an evaluation is of a model that was fine-tuned without images."""
    trained = scores.parents["checkpoint"].settings
    return isinstance(trained, Finetune) and trained.blind


def listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(sorted(names)[:SHOWN]) + more


def check_finished(ledger: Ledger, model: Job) -> None:
    """Raises ValueError, with the command that makes it, for a model that is not here or not whole, or has failed."""
    folder = ledger.root / model.folder
    if not (folder / artifacts.CARD).exists():
        failed = noted(ledger, model)
        found = f"failed when it was last begun ({one_line(failed)})" if failed else "is not made yet"
        command = f"`snakemake --cores all {target(ledger.study, model)}` makes it"
        raise ValueError(f"{model.id}: {found}; allowed: a finished model; {command}, or `dvc pull finetune` brings it")
    made = Made(folder)
    if "failed" in made.card:
        reason = one_line(made.card["failed"])
        raise ValueError(f"{model.id}: is kept as failed ({reason}); allowed: a finished model, by --model")
    check_whole(made)


def target(study: Study, job: Job) -> str:
    """What Snakemake is asked for so that a job is carried out: the first table's file that needs it."""
    needed = (name for name, table in study.tables.items() if any(other.key == job.key for other in lineage(table)))
    return next((f"results/{TABLES[name].files[0]}" for name in needed), "study")


def find_fault(root: Path, job: Job) -> str | None:
    """What keeps an artifact from being the bytes that its job left, or None."""
    folder = root / job.folder
    if not (folder / artifacts.FILES).exists():
        return f"{job.folder} is not here"
    try:
        damaged = artifacts.changed(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        damaged = artifacts.FILES
    return f"{job.folder}/{damaged} has other bytes than when it was made" if damaged else None


def on_this_machine(scores: Job) -> tuple[Evaluate, str | None]:
    """The evaluation's settings for one process here, and what is to be said of them. The CPU computes in fp32."""
    import torch

    from pipeline.evaluation.job_settings import Evaluate

    settings = Evaluate.model_validate(scores.card_settings)
    wanted = settings.hardware.device
    if wanted == "gpu" and torch.cuda.is_available():
        return settings, None
    hardware = settings.hardware.model_copy(update={"device": "cpu"})
    exact = settings.evaluation.model_copy(update={"precision": None})
    note = "the preset says gpu, and none is visible here: asked on the CPU, in fp32" if wanted == "gpu" else None
    return settings.model_copy(update={"hardware": hardware, "evaluation": exact}), note


def find_likeness(root: Path, model: Job, scores: Job) -> Likeness | str:
    """How pictures are compared with those that a model was fine-tuned on, or why that is not known."""
    from pipeline.data.store import FeatureStore
    from pipeline.evaluation.likeness import Likeness

    unknown = "whether a picture is unlike those that the model was trained on is not known"
    kept = [job.parents.get("features") for job in (model, scores)]
    found = [job for job in kept if job]
    if len(found) < len(kept):
        return f"{unknown}: the study keeps no features for this model"
    if faults := [fault for fault in (find_fault(root, job) for job in found) if fault]:
        return f"{unknown}: {faults[0]}"
    return Likeness(*(FeatureStore(root / job.folder) for job in found))


def say(evaluation: Evaluation, file: Path, question: str, kept: bool, likeness: Likeness | str) -> Iterator[str]:
    """Lines on one picture. `kept`: the study keeps features, in half precision.

    Raises BadImage or OSError for the picture, ValueError for the question.
    """
    viewer, encoder = evaluation.viewer, evaluation.settings.encoder
    assert viewer and encoder, "a model that was not fine-tuned blind looks at images"

    def look(files: list[Path]) -> Tensor:
        features = viewer.look(files)
        # What is kept was rounded: the model has never seen more digits.
        return features.half().float() if kept else features

    with evaluation.precision():
        (features,) = look([file])
        with_picture = reply(evaluation, file, question, look)
        without = reply(evaluation, file, question, None)
    yield f"  with the picture:     {with_picture}"
    yield f"  without the picture:  {without}"
    if not isinstance(likeness, str):
        yield from warn(likeness.share_nearer(features), len(likeness.distances))


def reply(evaluation: Evaluation, file: Path, question: str, look: Callable[[list[Path]], Tensor] | None) -> str:
    """A model's answer in one line, with the picture or (`look` is None) without it.

    Raises ValueError for a question that the model's sequence has no room for.
    """
    from pipeline.data.packing import prompt_tokens
    from pipeline.evaluation.answering import generate

    settings, tokenizer, encoder = evaluation.settings, evaluation.tokenizer, evaluation.settings.encoder
    assert encoder, "a model that was not fine-tuned blind has one"
    # The model sees a square, and boxes of its texts are in that frame.
    prompt = tuple(prompt_tokens(tokenizer, move_boxes(question, file, "resize", encoder.fit)))
    # As long as the longest answer that the evaluation gives room for; without tasks, as long as an image is.
    longest = max([task.longest for task in settings.vision.values()], default=encoder.patches)
    room = settings.model.sequence - encoder.patches - longest
    if len(prompt) > room:
        rest = f"of the model's {settings.model.sequence}, {encoder.patches} are the image's and {longest} the answer's"
        raise ValueError(f"QUESTION: found {len(prompt)} tokens, allowed: at most {room}; {rest}")
    key, shown = ("ask", str(file), look is None), file if look else None
    generated = partial(generate, evaluation.model, tokenizer, tokenizer.end_assistant, longest)
    said = evaluation.answer(key, [prompt], [shown], look, generated, longest)
    assert said, "this process answers all that it asks"
    return one_line(move_boxes(said[0], file, encoder.fit, "resize").strip()) or "(nothing)"


def warn(share: float, pictures: int) -> Iterator[str]:
    """A line if a picture is unlike the model's own, of the share of the evaluation's pictures that are nearer."""
    from pipeline.evaluation.likeness import UNLIKE

    if share >= UNLIKE:
        nearer = "all" if share == 1 else f"{int(100 * share)}%"
        yield (
            "  This picture is unlike those that the model was trained on (farther from them than"
            f" {nearer} of the study's own {pictures:,} evaluation pictures): do not trust the answer."
        )
