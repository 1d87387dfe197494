"""A trained model for `transformers`: `python -m pipeline export TARGET --to FOLDER`.

OpenLM's decoder is no architecture of the library: its norms have a gain and no bias, and queries and keys are normed
over the full width. (OLMo 2 norms them so, but by root mean square, and its layers afterwards; Cohere norms every head by
itself; MPT's config has the key `qk_ln`, which the library's code does not read.) So the folder brings
`modeling_when_images.py`. A model of one of the library's architectures that has no image input is exported as that, and
needs no code.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pipeline.common.files import atomic_folder, stable_json, write_text
from pipeline.data.tokenizer import SPECIAL, Tokenizer, load_tokenizer
from pipeline.export.made import Made, encoder_of, find_model, made_before, size_of
from pipeline.export.model_card import model_card
from pipeline.model.sizes import DecoderShape
from pipeline.settings.types import ModelSize

CODE = "modeling_when_images"
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


def export(root: Path, target: str, to: Path) -> Path:
    """Write the model that `target` names into the new (or empty) folder `to`. Raises ValueError with one line."""
    model = find_model(root, target)
    # atomic_folder would replace what is there, and it may be somebody's only copy of something.
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
    size = size_of(model)
    if size.family and not any(name.startswith("projector.") for name in tensors):
        write_native(size, tokenizer, tensors, out)
    else:
        write_text(out / "config.json", stable_json(config(model, size, tokenizer)))
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        shutil.copyfile(Path(__file__).with_name(f"{CODE}.py"), out / f"{CODE}.py")
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
    # The family's defaults are ids of another tokenizer.
    settings.bos_token_id, settings.eos_token_id, settings.pad_token_id = None, tokenizer.end, None
    network = AutoModelForCausalLM.from_config(settings)
    named = {rename(name.removeprefix("decoder."), *FAMILIES[size.family]): t for name, t in tensors.items()}
    # Not strict: a tied head has no tensor of its own, and that one alone may be missing.
    missing = network.load_state_dict(named, strict=False)
    tied = {f"{FAMILIES[size.family].head}.weight"} if settings.tie_word_embeddings else set()
    if missing.unexpected_keys or set(missing.missing_keys) - tied:
        raise ValueError(f"{size.family}: {[*missing.unexpected_keys, *missing.missing_keys][0]} does not fit")
    network.save_pretrained(out)


def config(model: Made, size: ModelSize, tokenizer: Tokenizer) -> dict:
    """config.json of a model whose code is shipped."""
    shape = DecoderShape.of(size)
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


def write_tokenizer(model: Made, tokenizer: Tokenizer, out: Path) -> None:
    """tokenizer.json and its config; a fine-tuned model's has the form of its turns."""
    write_text(out / "tokenizer.json", tokenizer.to_json())
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIAL[0],
        "pad_token": SPECIAL[0],
        "additional_special_tokens": list(SPECIAL[1:]),
        "model_max_length": size_of(model).sequence,
        # Without token_type_ids, which the library's tokenizers add by default and the model's forward refuses.
        "model_input_names": ["input_ids", "attention_mask"],
        # generate() continues each row at its end, so padding must stand before the text.
        "padding_side": "left",
        # Otherwise the library takes out blanks before punctuation when it decodes.
        "clean_up_tokenization_spaces": False,
    }
    if model.phase == "finetune":
        encoder = encoder_of(model)
        settings["chat_template"] = CHAT.replace("PATCHES", str(encoder.patches if encoder else 0))
    write_text(out / "tokenizer_config.json", stable_json(settings))
