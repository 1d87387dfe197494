"""The README of an exported model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipeline.data.job_settings import ListedCorpora
from pipeline.evaluation.job_settings import Evaluate
from pipeline.export.made import TRAINED, Made, encoder_of, evaluations, size_of
from pipeline.settings.load import load_settings
from pipeline.settings.types import Encoder
from pipeline.settings.vision_transformers import VITS
from pipeline.training.job_settings import Imported, read

DONE = "<|/a|>"  # ends an answer
COUNTS = {"pieces": "captions or conversations", "sequences": "sequences", "positions": "positions"}


def model_card(root: Path, model: Made, before: list[Made]) -> str:
    """README.md: what it is, how to use it, data, tokens by kind, rates, scores with intervals, licences, limits."""
    parts = [front_matter(model), about(model), usage(model), training(before)]
    parts += [scores(root, model), data(before), limits(model)]
    return "\n\n".join(parts) + "\n"


def front_matter(model: Made) -> str:
    """What the Hugging Face hub reads of a model card."""
    task = "image-text-to-text" if encoder_of(model) else "text-generation"
    return f"---\nlibrary_name: transformers\npipeline_tag: {task}\nlicense: other\ntags: [when-images]\n---"


def about(model: Made) -> str:
    """What the model is: phase, sizes, encoder."""
    size, encoder = size_of(model), encoder_of(model)
    made = {"pretrain": "text pre-training", "cooldown": "the image-text cooldown", "finetune": "instruction tuning"}
    kind = size.family or "OpenLM"
    lines = [
        f"# {model.id}",
        "",
        f"{'An' if kind[0].lower() in 'aeiou' else 'A'} {kind} decoder after {made[model.phase]}: {model.measured['parameters']:,} parameters, {size.layers} layers,"
        f" width {size.width}, {size.heads} heads, {size.vocabulary} tokens, sequences of {size.sequence}.",
    ]
    if encoder:
        names = " and ".join(part.kind for part in encoder.parts) or encoder.kind
        lines += [
            "",
            f"Images come as features of {names} ({encoder.pixels} pixels a side, {encoder.patches} patches of"
            f" {encoder.width} numbers), which is frozen and not in this folder. A projector of {encoder.projector} layers"
            " makes tokens of them.",
        ]
    return "\n".join(lines)


def features(encoder: Encoder) -> list[str]:
    """What `image_features` must be, for whoever has to make them: there is no processor in the folder."""
    squares = {
        "resize": "is stretched",
        "letterbox": f"is padded evenly with the colour {encoder.square.padding} and scaled",
    }
    lines = [
        "This folder has no encoder and no processor: `image_features` are numbers that you make, and a prompt with image"
        " tokens and no features is an error. Other features than these give wrong answers without an error:",
        "",
        f"1. The image, in RGB, {squares[encoder.fit]} to {encoder.pixels} x {encoder.pixels} pixels (bicubic, Pillow).",
    ]
    for number, part in enumerate(encoder.parts or [encoder], 2):
        lines.append(f"{number}. {made_by(part)}")
    if encoder.parts:
        lines.append(f"{2 + len(encoder.parts)}. The numbers of a patch are those of all of these, in this order.")
    lines += [
        "",
        f"The patches stand row by row from the top left: [images, {encoder.patches}, {encoder.width}] in fp32. In the code of"
        " the study `pipeline.model.vision` makes them: `build_encoder` and `decode_image`.",
    ]
    return lines


def made_by(part: Encoder) -> str:
    """How an encoder makes a patch's numbers of pixels."""
    place = f"then its row and its column, each as {math.isqrt(part.patches)} numbers: 4 at its place, 0 elsewhere"
    if part.kind == "patch":
        return f"(pixel - 127) / 128; the numbers of a patch are its pixels (PyTorch's `pixel_unshuffle`), {place}."
    if part.kind in VITS:
        vit, file = VITS[part.kind], Path(part.weights or "").name
        known = f", SHA-256 {part.sha256}" if part.sha256 else ""
        return (
            f"(pixel / 255 - mean) / deviation, with {vit.mean} and {vit.deviation}; timm's `{part.kind}` ({file}{known}): a"
            " patch's numbers after the second-to-last block, without the final norm, class token and registers."
        )
    return (
        f"(pixel - 127) / 128; `{part.kind}` ({Path(part.weights or '').name}): the 1,280 numbers of a cell after the last"
        f" convolution and its batch norm, before the activation, {place}."
    )


def usage(model: Made) -> str:
    """Python code that loads the model and asks it something."""
    size, encoder = size_of(model), encoder_of(model)
    code = "" if size.family and not encoder else ", trust_remote_code=True"
    question = "What is in the picture?<|/h|>" if model.phase == "finetune" else ""
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        f'model = AutoModelForCausalLM.from_pretrained("FOLDER"{code})',
    ]
    if encoder:
        lines += [
            f'prompt = "<|img_patch|>" * {encoder.patches} + "{question}"',
            'inputs = tokenizer(prompt, return_tensors="pt")',
            f"features = ...  # [1, {encoder.patches}, {encoder.width}]: see below",
            "answer = model.generate(**inputs, image_features=features)",
        ]
    else:
        lines += [
            f'inputs = tokenizer("{question or "Once"}", return_tensors="pt")',
            "answer = model.generate(**inputs)",
        ]
    turns = f"A turn of a human ends in `<|/h|>`, an answer in `{DONE}`; there is no system text." * (
        model.phase == "finetune"
    )
    wanted = ["", "## Images", "", *features(encoder)] if encoder else []
    return "\n".join(["## Use", "", "```python", *lines, "```", *(["", turns] if turns else []), *wanted])


def training(before: list[Made]) -> str:
    """Tokens by kind and learning rates of every phase behind the model."""
    from pipeline.reporting.table_rows import markdown_table

    kinds = {"text": "text tokens", "image": "image tokens", "image_text": "text with image", "padding": "padding"}
    kinds |= {"labels": "labels"}
    header = ["phase", "steps", *kinds.values(), "first rate", "peak", "last"]
    rows, published = [], []
    for made in (made for made in before if made.phase in TRAINED):
        measured, rates = made.measured, made.measured["learning_rates"]
        seen = [f"{measured['tokens'].get(kind, 0):,}" for kind in kinds]
        rows.append(
            [
                f"{made.phase} `{made.id}`",
                f"{measured['steps']:,}",
                *seen,
                *(f"{rates[k]:.3g}" for k in ("first", "peak", "last")),
            ]
        )
        if isinstance(asked := read(made.phase, made.settings), Imported):
            published.append(f"The text run is not ours: published checkpoint {asked.checkpoint.revision}.")
    notes = [
        "An image token stands for a patch of an image; text with image is captions and conversations. The loss is taken"
        " at labels alone.",
        *published,
    ]
    return "\n".join(["## Training", "", *markdown_table(header, rows), "", *notes])


def scores(root: Path, model: Made) -> str:
    """Every task's score with its 95% interval, of the evaluations that are here."""
    from pipeline.reporting.measures import form_of
    from pipeline.reporting.table_rows import markdown_table

    lines, today = ["## Scores"], load_settings(root).tasks
    tasks = {name: task.model_dump() for name, task in (today.vision | today.text).items()}
    for made in evaluations(root, model):
        rows = []
        for name, estimate in estimates(made, tasks):
            # All other scores are shares, which readers know as percent.
            _, factor, _ = form_of(name)
            value = f"{factor * estimate.estimate:.2f} ({factor * estimate.low:.2f} to {factor * estimate.high:.2f})"
            chance = f"{100 * tasks[name]['chance']:.1f}" if name in tasks else ""
            rows.append([name.replace("_", " "), value, chance])
        asked = Evaluate.model_validate(made.settings)
        seen = f"Split {asked.split}" + (", images as they are" if asked.vision else "")
        lines += ["", f"{seen}; percent, but bits a byte and CIDEr-D as they are.", ""]
        lines += markdown_table(["task", "score (95% interval)", "chance"], rows)
    if len(lines) == 1:
        return "\n".join([*lines, "", "This model has not been evaluated here."])
    return "\n".join(
        [*lines, "", "Intervals are of the choice of questions, not of the training seed: there is one model."]
    )


def estimates(made: Made, tasks: dict[str, dict]) -> Iterator[tuple]:
    """(name, estimate) of every task and average of an evaluation; `tasks` as today's settings have them, by name."""
    from pipeline.reporting import scores as means
    from pipeline.reporting.job_settings import ResultSettings
    from pipeline.reporting.table_rows import Rows, stable

    asked = Evaluate.model_validate(made.settings)
    vision, text = made.settings["vision"], made.settings["text"]
    both = {"vision": vision, "text": text}
    rows = Rows(ResultSettings(make="", split="", preset="", recipe={}, rows=[], tasks=both), {})  # it is no table
    zero = dict.fromkeys(stable({name: tasks[name] for name in vision if name in tasks}), 0.0)
    if vision and "normal" in asked.conditions:
        normal = partial(rows.estimate, [made.folder], "vision.csv", condition="normal")
        for name in vision:
            yield name, normal(partial(means.average, chance={name: 0.0}))
        if zero:
            yield "vision_average", normal(partial(means.average, chance=zero))
    if (made.folder / "captions.csv").exists():
        yield "cider", rows.estimate([made.folder], "captions.csv", means.mean)
    for name in text:
        yield name, rows.estimate([made.folder], "text.csv", partial(means.average, chance={name: 0.0}, cluster="id"))
    if text:
        yield "bits_per_byte", rows.estimate([made.folder], "heldout.csv", means.bits)


def data(before: list[Made]) -> str:
    """Data by stream; and the licences of data, tokenizer, encoder and text run, as the artifacts note them."""
    from pipeline.reporting.table_rows import markdown_table

    rows: dict[tuple, list[str]] = {}
    for made in before:
        for one in made.measured.get("licences", []):
            row = [one["name"], one["used_for"], one["licence"]]
            # Several artifacts note the same licence, which is shown once.
            rows.setdefault(tuple(row), row)
    licences = markdown_table(["what", "used for", "licence"], rows.values())
    streams = [
        [made.settings["part"], ", ".join(origin(made, before)), *(f"{made.measured.get(k, 0):,}" for k in COUNTS)]
        for made in before
        if made.phase == "shards"
    ]
    table = [*markdown_table(["stream", "from", *COUNTS.values()], streams), "", *licences]
    note = "The code of the study is under the Apache License 2.0; what these licences ask of the weights is yours to judge."
    return "\n".join(["## Data and licences", "", *table, "", note])


def origin(shards: Made, before: list[Made]) -> list[str]:
    """What a stream is made from: corpora with their revisions, or the module that composes it."""
    parent = shards.card["parents"]["source"]["id"]
    settings = next((made.settings for made in before if made.id == parent), {"source": parent})
    if settings["source"] != "corpora":
        return [settings["source"]]
    corpora = ListedCorpora.model_validate(settings).corpora
    return [f"{name} {corpus['revision']}" for name, corpus in corpora.items()]


def limits(model: Made) -> str:
    """What the model is not for."""
    encoder = encoder_of(model)
    lines = [
        "A model of a study of training recipes, made to be compared, not to be used: it has had no safety training, and",
        "what it says may be false, offensive or copied from its training data.",
        f"It has never seen more than {size_of(model).sequence} positions at once"
        + (", images among them." if encoder else ", nor an image."),
    ]
    if model.phase != "finetune":
        lines.append("It continues text; it was not trained to answer.")
    return "\n".join(["## Limits", "", *lines])
