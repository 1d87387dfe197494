"""A trained model for `transformers`: `python -m pipeline export TARGET --to FOLDER`.

OpenLM's decoder is no architecture of the library: its norms have a gain and no bias, and queries and keys are normed
over the full width. (OLMo 2 norms them so, but by root mean square, and its layers afterwards; Cohere norms every head by
itself; MPT's config has the key `qk_ln`, which the library's code does not read.) So the folder brings
`modeling_when_images.py`. A model of one of the library's architectures that has no image input is exported as that, and
needs no code.
"""

from __future__ import annotations

import difflib
import math
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipeline import artifacts
from pipeline.config import load_settings
from pipeline.data.tokenizer import SPECIAL, Tokenizer, load_tokenizer
from pipeline.files import atomic_folder, digest, file_hash, one_line, read_json, stable_json, write_text
from pipeline.model.sizes import DecoderShape
from pipeline.model.vit import VITS
from pipeline.sections import Encoder, ModelSize

TRAINED = ("pretrain", "cooldown", "finetune")
CODE = "modeling_when_images"
DONE = "<|/a|>"  # ends an answer
COUNTS = {"pieces": "captions or conversations", "sequences": "sequences", "positions": "positions"}
CHAT = (
    "{% for message in messages %}"
    "{% if message['role'] not in ('user', 'assistant') %}"
    "{{ raise_exception('turns are of user and assistant alone, not of ' ~ message['role']) }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' and PATCHES %}{{ '<|img_patch|>' * PATCHES }}"
    "{% else %}{{ raise_exception('this model takes no ' ~ part['type']) }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|/h|>' if message['role'] == 'user' else '<|/a|>' }}{% endfor %}"
)


# --- what is exported --------------------------------------------------------------------------------------------------


class Made:
    """An artifact on disk: its folder, its card, and what its job measured. Raises ValueError for a damaged card."""

    def __init__(self, folder: Path):
        try:
            self.folder, self.card = folder, artifacts.read_card(folder / artifacts.CARD)
            self.phase, self.id, self.settings = (self.card[key] for key in ("phase", "id", "settings"))
            self.parents = [Path(parent["phase"], parent["id"]) for parent in self.card["parents"].values()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{folder}: has no card that can be read; pull it, or make it again") from None

    @property
    def measured(self) -> dict:
        return read_json(self.folder / "measured.json")


def find_model(root: Path, target: str) -> Made:
    """The training artifact that `target` names: an id, the label before its digest, the beginning of one, or a folder.

    Raises ValueError for anything else, and for what several have in common.
    """
    folders = [Path(target)] if (Path(target) / artifacts.CARD).is_file() else []
    here = sorted((root / artifacts.ARTIFACTS).glob("*/*"))
    trained = [folder for folder in here if folder.parent.name in TRAINED]
    folders = folders or [folder for folder in here if folder.name == target]
    folders = folders or [folder for folder in trained if label(folder) == target]
    folders = folders or [folder for folder in trained if target and folder.name.startswith(f"{target}-")]
    if len({folder.name for folder in folders}) > 1:
        raise ValueError(f"{target}: which of {', '.join(folder.name for folder in folders)}?")
    if not folders:
        named = {label(folder): folder.name for folder in trained} | {folder.name: folder.name for folder in trained}
        near = difflib.get_close_matches(target, named, n=1)
        hint = f"; did you mean {named[near[0]]}?" if near else ""
        raise ValueError(f"{target}: neither the id nor the folder of an artifact that is here{hint}")
    model = Made(folders[0])
    if model.phase not in TRAINED:
        raise ValueError(f"{target}: made by the phase {model.phase}, not a trained model ({', '.join(TRAINED)})")
    check_whole(model)
    return model


def label(folder: Path) -> str:
    """What an artifact's id says before its digest."""
    return folder.name.rpartition("-")[0]


def check_whole(model: Made) -> None:
    """Raises ValueError unless the weights and what was measured are the bytes that the job left."""
    try:
        manifest = read_json(model.folder / artifacts.FILES)
        wanted = {name: manifest["files"][name]["sha256"] for name in ("model.safetensors", "measured.json")}
        made_from = manifest["card"]
        changed = [name for name in wanted if file_hash(model.folder / name) != wanted[name]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{model.folder}: not whole ({one_line(error)}); pull it, or make it again") from None
    if made_from != digest(model.card):
        raise ValueError(f"{model.folder}: {artifacts.FILES} is of another card")
    if changed:
        raise ValueError(f"{model.folder}: {changed[0]} has other bytes than when it was made")


def made_before(root: Path, model: Made) -> list[Made]:
    """The artifacts that a model is made from, as far as they are here, parents first, itself last."""
    found: dict[Path, Made] = {}

    def visit(made: Made) -> None:
        for parent in made.parents:
            folder = root / artifacts.ARTIFACTS / parent
            if folder not in found and (folder / artifacts.CARD).is_file():
                visit(Made(folder))
        found.setdefault(made.folder, made)

    visit(model)
    return list(found.values())


def evaluations(root: Path, model: Made) -> Iterator[Made]:
    """The evaluations of this very model that are here."""
    for file in sorted((root / artifacts.ARTIFACTS / "evaluate").glob(f"*/{artifacts.CARD}")):
        made = Made(file.parent)
        checkpoint = made.card["parents"].get("checkpoint", {})
        if checkpoint.get("id") == model.id and checkpoint.get("card") == digest(model.card):
            yield made


# --- files -------------------------------------------------------------------------------------------------------------


def export(root: Path, target: str, to: Path) -> Path:
    """Write the model that `target` names into the new (or empty) folder `to`. Raises ValueError with one line."""
    model = find_model(root, target)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ValueError(f"{to}: already there and not an empty folder; nothing is overwritten")
    root = model.folder.resolve().parents[2]  # root/artifacts/phase/id
    before = made_before(root, model)
    tokenizers = [made.folder for made in before if made.phase == "tokenizer"]
    if not tokenizers:
        raise ValueError(f"{model.folder}: its tokenizer is not here: `dvc pull` the stage prepare first")
    tokenizer = load_tokenizer(tokenizers[0] / "tokenizer.json")
    partial_folder = to.with_name(f".{to.name}.{os.getpid()}.partial")
    try:
        with atomic_folder(to, partial_folder) as out:
            write_model(model, tokenizer, out)
            write_tokenizer(model, tokenizer, out)
            write_text(out / "README.md", model_card(root, model, before))
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
    return to


def write_model(model: Made, tokenizer: Tokenizer, out: Path) -> None:
    """config.json, weights and generation settings; and the code, where the library has none."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(model.folder / "model.safetensors")
    if any(name.startswith("encoder.") for name in tensors):
        raise ValueError(
            f"{model.id}: its encoder was trained along (train_encoder: true), and an export has no encoder: nobody could"
            " make the features that this model has learnt to read; export one with a frozen encoder"
        )
    size = ModelSize(**model.settings["model"])
    if size.family and not any(name.startswith("projector.") for name in tensors):
        write_native(size, tokenizer, tensors, out)
    else:
        write_text(out / "config.json", stable_json(config(model, size, tokenizer)))
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        shutil.copyfile(Path(__file__).with_name("exported_model.py"), out / f"{CODE}.py")
    ends = [tokenizer.end_assistant, tokenizer.end] if model.phase == "finetune" else [tokenizer.end]
    # No max_new_tokens: it would go before a max_length that a user gives.
    settings = {"do_sample": False, "max_length": size.sequence, "eos_token_id": ends, "pad_token_id": tokenizer.end}
    write_text(out / "generation_config.json", stable_json(settings))


def write_native(size: ModelSize, tokenizer: Tokenizer, tensors: dict, out: Path) -> None:
    """The model in the library's own architecture, under its own names."""
    from transformers import AutoModelForCausalLM

    from pipeline.model.huggingface import FAMILIES, network_config
    from pipeline.training.checkpoints import rename

    assert size.family, "one of OpenLM's has its own layout"
    settings = network_config(size)
    settings.bos_token_id, settings.eos_token_id, settings.pad_token_id = None, tokenizer.end, None
    network = AutoModelForCausalLM.from_config(settings)
    named = {rename(name.removeprefix("decoder."), *FAMILIES[size.family]): t for name, t in tensors.items()}
    missing = network.load_state_dict(named, strict=False)
    tied = {f"{FAMILIES[size.family].head}.weight"} if settings.tie_word_embeddings else set()
    if missing.unexpected_keys or set(missing.missing_keys) - tied:
        raise ValueError(f"{size.family}: {[*missing.unexpected_keys, *missing.missing_keys][0]} does not fit")
    network.save_pretrained(out)


def config(model: Made, size: ModelSize, tokenizer: Tokenizer) -> dict:
    """config.json of a model whose code is shipped."""
    shape = DecoderShape.of(model.settings["model"])
    made = {
        "model_type": "when_images",
        "architectures": ["WhenImagesForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{CODE}.WhenImagesConfig",
            "AutoModelForCausalLM": f"{CODE}.WhenImagesForCausalLM",
        },
        "torch_dtype": "float32",
        "vocab_size": size.vocabulary,
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": shape.hidden,
        "max_position_embeddings": size.sequence,
        "eos_token_id": tokenizer.end,
        "pad_token_id": tokenizer.end,
        "image_token_id": tokenizer.image,
    }
    if size.family:
        from pipeline.model.huggingface import effective, network_config

        made["language_model"] = {"model_type": size.family} | effective(network_config(size))
    if encoder := encoder_of(model):
        made |= {"image_width": encoder.width, "image_patches": encoder.patches, "projector_layers": encoder.projector}
    return made


def encoder_of(model: Made) -> Encoder | None:
    return Encoder(**model.settings["encoder"]) if model.settings.get("encoder") else None


def write_tokenizer(model: Made, tokenizer: Tokenizer, out: Path) -> None:
    """tokenizer.json and its config; a fine-tuned model's has the form of its turns."""
    write_text(out / "tokenizer.json", tokenizer.to_json())
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIAL[0],
        "pad_token": SPECIAL[0],
        "additional_special_tokens": list(SPECIAL[1:]),
        "model_max_length": model.settings["model"]["sequence"],
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
    }
    if model.phase == "finetune":
        encoder = encoder_of(model)
        settings["chat_template"] = CHAT.replace("PATCHES", str(encoder.patches if encoder else 0))
    write_text(out / "tokenizer_config.json", stable_json(settings))


# --- the model card ----------------------------------------------------------------------------------------------------


def model_card(root: Path, model: Made, before: list[Made]) -> str:
    """README.md: what it is, how to use it, data, tokens by kind, rates, scores with intervals, licences, limits."""
    parts = [front_matter(model), about(model), usage(model), training(before)]
    parts += [scores(root, model), data(before), limits(model)]
    return "\n\n".join(parts) + "\n"


def front_matter(model: Made) -> str:
    task = "image-text-to-text" if encoder_of(model) else "text-generation"
    return f"---\nlibrary_name: transformers\npipeline_tag: {task}\nlicense: other\ntags: [when-images]\n---"


def about(model: Made) -> str:
    size, encoder = ModelSize(**model.settings["model"]), encoder_of(model)
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
    size, encoder = ModelSize(**model.settings["model"]), encoder_of(model)
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
    from pipeline.reporting.rows import markdown_table

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
        if checkpoint := made.settings.get("checkpoint"):
            published.append(f"The text run is not ours: published checkpoint {checkpoint['revision']}.")
    notes = [
        "An image token stands for a patch of an image; text with image is captions and conversations. The loss is taken"
        " at labels alone.",
        *published,
    ]
    return "\n".join(["## Training", "", *markdown_table(header, rows), "", *notes])


def scores(root: Path, model: Made) -> str:
    """Every task's score with its 95% interval, of the evaluations that are here."""
    from pipeline.reporting.rows import markdown_table

    lines, today = ["## Scores"], load_settings(root).tasks
    tasks = {name: task.model_dump() for name, task in (today.vision | today.text).items()}
    for made in evaluations(root, model):
        rows = []
        for name, estimate in estimates(made, tasks):
            factor = 1 if name in ("bits_per_byte", "cider") else 100
            value = f"{factor * estimate.estimate:.2f} ({factor * estimate.low:.2f} to {factor * estimate.high:.2f})"
            chance = f"{100 * tasks[name]['chance']:.1f}" if name in tasks else ""
            rows.append([name.replace("_", " "), value, chance])
        seen = f"Split {made.settings['split']}" + (", images as they are" if made.settings["vision"] else "")
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
    from pipeline.reporting.rows import Rows, stable

    vision, text = made.settings["vision"], made.settings["text"]
    rows = Rows({"tasks": {"vision": vision, "text": text}}, {})
    zero = dict.fromkeys(stable({name: tasks[name] for name in vision if name in tasks}), 0.0)
    if vision and "normal" in made.settings["conditions"]:
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
    from pipeline.reporting.rows import markdown_table

    rows: dict[tuple, list[str]] = {}
    for made in before:
        for one in made.measured.get("licences", []):
            row = [one["name"], one["used_for"], one["licence"]]
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
    corpora = settings.get("corpora", {})
    return [f"{name} {corpus['revision']}" for name, corpus in corpora.items()] or [settings["source"]]


def limits(model: Made) -> str:
    encoder = encoder_of(model)
    lines = [
        "A model of a study of training recipes, made to be compared, not to be used: it has had no safety training, and",
        "what it says may be false, offensive or copied from its training data.",
        f"It has never seen more than {model.settings['model']['sequence']} positions at once"
        + (", images among them." if encoder else ", nor an image."),
    ]
    if model.phase != "finetune":
        lines.append("It continues text; it was not trained to answer.")
    return "\n".join(["## Limits", "", *lines])
