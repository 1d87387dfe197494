"""Published checkpoints: their files, their names for our tensors, and what fits and what does not.

openlm       OpenLM's own file (`epoch_N.pt`: a torch file with "state_dict"; Adam's moments in `optimizer_N.pt`), or a
             folder as DCLM publishes it: config.json and safetensors, every name with "model." before it.
huggingface  A folder: config.json and safetensors, in one file or several with their index.

Reading runs no code: safetensors, or torch files with `weights_only`. Whatever does not fit raises ValueError with one
line that names the file, the tensor or key, what was found and what is wanted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.files import one_line, parse_json
from pipeline.model.huggingface import FAMILIES, SIZES, effective, network_config
from pipeline.model.torch_file import brief, read_torch
from pipeline.sections import ModelSize

ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
VOCABULARY = ("embedding.weight", "head.weight", "network.embed_in.weight", "network.embed_tokens.weight")
# Tables that older versions of the libraries stored with the weights; they follow from the config.
TABLES = re.compile(r"(rotary_emb|pos_embed)\.inv_freq$|\.attention\.(bias|masked_bias)$")
# What distributed and compiled training, and DCLM's wrapper, put into OpenLM's names.
WRAPPERS = re.compile(r"^(module\.|model\.)+|_orig_mod\.")
# OpenLM's config, where a checkpoint has one: keys, and the values that our decoder stands for.
OPENLM = {
    ("dim", "hidden_dim"): "width",
    ("n_layers",): "layers",
    ("n_heads",): "heads",
    ("vocab_size",): "vocabulary",
    ("qk_norm", "apply_qk_norm"): (True,),
    ("model_norm", "norm_type"): ("gain_only_layer_norm", "gain_only_lp_layer_norm"),
    ("norm_eps",): (1e-5,),
    ("ffn_type",): ("swiglu", "swiglu_torch"),
    ("positional_embedding_type",): ("rotary",),
    ("post_embed_norm",): (False,),
    ("weight_tying",): (False,),
}


# --- files -----------------------------------------------------------------------------------------------------------


def read_json_file(file: Path) -> dict:
    try:
        value = parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read as JSON ({brief(error)})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file}: found a {type(value).__name__}, wanted a JSON object")
    return value


def read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        with_pickle = file.is_file() and file.open("rb").read(2) in (b"PK", b"\x80\x02", b"\x80\x04")
        what = "a pickle, which is not read" if with_pickle else f"not a whole safetensors file ({brief(error)})"
        raise ValueError(f"{file}: {what}") from None


def read_folder(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder: one file, or those that its index names."""
    if not (folder / INDEX).exists():
        if (folder / ONE_FILE).exists():
            return read_safetensors(folder / ONE_FILE)
        pickles = sorted(file.name for file in folder.glob("*.bin"))
        found = f"pickles alone ({', '.join(pickles)})" if pickles else "neither"
        raise ValueError(f"{folder}: found {found}, wanted {ONE_FILE} or {INDEX}")
    places = read_json_file(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise ValueError(f"{folder / INDEX}: weight_map: wanted names of tensors with their files")
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(places.values())):
        if Path(file).name != file:
            raise ValueError(f"{folder / INDEX}: weight_map: found the file {file!r}, wanted names of files beside it")
        tensors |= read_safetensors(folder / file)
    lost = sorted(places.keys() - tensors.keys())
    if lost:
        raise ValueError(f"{folder / places[lost[0]]}: lacks the tensor {lost[0]} that {INDEX} says it has")
    return tensors


# --- what fits -------------------------------------------------------------------------------------------------------


def fit(
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
    shapes: Mapping[str, torch.Size],
    source: Path,
    added: str = "mean",
) -> dict[str, Tensor]:
    """A checkpoint's `tensors` in fp32 under our names; `names` gives theirs by ours, `shapes` our shapes.

    Where our vocabulary has more rows than the checkpoint, rows are added: the mean of the others, or (`added` "zero")
    zeros. Raises ValueError for a missing tensor, one too many, another shape, or a larger vocabulary.
    """
    fitted = {}
    for ours, theirs in names.items():
        if theirs not in tensors:
            raise ValueError(f"{source}: lacks the tensor {theirs} of shape {tuple(shapes[ours])}")
        found, wanted = tensors[theirs], shapes[ours]
        if not isinstance(found, Tensor) or (wanted and not found.is_floating_point()):
            kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"{source}: {theirs} is of {kind}, wanted numbers with a fraction")
        tensor = found.float()
        more = wanted[0] - tensor.shape[0] if tensor.dim() and ours in VOCABULARY else 0
        if more < 0:
            raise ValueError(f"{source}: {theirs} has {tensor.shape[0]} rows, more than model.vocabulary = {wanted[0]}")
        if more:
            row = tensor.mean(0, keepdim=True) if added == "mean" else torch.zeros_like(tensor[:1])
            tensor = torch.cat((tensor, row.expand(more, *row.shape[1:])))
        if tensor.shape != wanted:
            raise ValueError(f"{source}: {theirs} has the shape {tuple(tensor.shape)}, wanted {tuple(wanted)}")
        if not tensor.isfinite().all():
            raise ValueError(
                f"{source}: {theirs} has {int((~tensor.isfinite()).sum())} numbers that are NaN or infinite"
            )
        fitted[ours] = tensor.contiguous()
    strange = [name for name in tensors if name not in names.values()]
    if strange:
        raise ValueError(f"{source}: has the tensor {one_line(strange[0])}, which this architecture does not have")
    return fitted


def shapes_of(decoder: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in decoder.state_dict().items()}


# --- OpenLM ----------------------------------------------------------------------------------------------------------


def openlm_names(decoder: nn.Module) -> dict[str, str]:
    """OpenLM's names of our decoder's tensors: the layers' are the same."""
    others = {"embedding.weight": "tok_embeddings.weight", "head.weight": "output.weight"}
    return {name: others.get(name, name) for name in decoder.state_dict()}


def unwrapped(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Without wrappers in the names and without tables, in the order of the file."""
    named = {WRAPPERS.sub("", str(name)): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in named.items() if not TABLES.search(name)}


def read_openlm_tensors(path: Path) -> dict[str, Tensor]:
    if path.is_dir():
        return unwrapped(read_folder(path))
    if path.suffix == ".safetensors":
        return unwrapped(read_safetensors(path))
    found = read_torch(path, mmap=True)
    return unwrapped(found["state_dict"] if isinstance(found.get("state_dict"), dict) else found)


def check_openlm_config(file: Path, size: ModelSize) -> None:
    """Compare a wrapped checkpoint's config with our decoder and its sizes, as far as it says something."""
    config = read_json_file(file)
    if config.get("model_type") not in ("openlm", "open_lm"):
        raise ValueError(f"{file}: model_type: found {config.get('model_type')!r}, wanted 'openlm'")
    arguments = config.get("params_args_dict") or {}
    if not isinstance(arguments, dict):
        raise ValueError(f"{file}: params_args_dict: found a {type(arguments).__name__}, wanted a JSON object")
    said = config | arguments
    for keys, wanted in OPENLM.items():
        allowed = (getattr(size, wanted),) if isinstance(wanted, str) else wanted
        for key in keys:
            rows = key == "vocab_size" and isinstance(said.get(key), int) and said[key] <= allowed[0]
            if said.get(key) is not None and said[key] not in allowed and not rows:
                raise ValueError(
                    f"{file}: {key}: found {one_line(repr(said[key]))}, wanted {' or '.join(map(repr, allowed))}"
                )


def read_openlm(path: Path, decoder: nn.Module, size: ModelSize) -> dict[str, Tensor]:
    """Our decoder's tensors from an OpenLM checkpoint: a file, or a folder as DCLM publishes it.

    A bare file does not say how many heads there are: `size` must.
    """
    if path.is_dir():
        check_openlm_config(path / "config.json", size)
    return fit(read_openlm_tensors(path), openlm_names(decoder), shapes_of(decoder), path)


def read_openlm_moments(weights: Path, file: Path, decoder: nn.Module) -> dict[str, Tensor]:
    """Adam's moments `NAME.exp_avg`, `NAME.exp_avg_sq`, `NAME.step` by our decoder's names, from `optimizer_N.pt`.

    PyTorch numbers parameters in the order of the model, which is that of the weights' torch file; FSDP names them.
    """
    state = read_torch(file, mmap=True).get("optimizer", {})
    state = state.get("state") if isinstance(state, dict) else None
    if not isinstance(state, dict) or not state:
        raise ValueError(f"{file}: found no optimizer.state, wanted Adam's moments by parameter")
    if all(isinstance(key, int) for key in state):
        if weights.is_dir() or weights.suffix == ".safetensors":
            raise ValueError(f"{file}: numbers its parameters, and {weights} does not say in which order they are")
        order = list(read_openlm_tensors(weights))
        state = {order[key]: moments for key, moments in state.items() if 0 <= key < len(order)}
    named, names, shapes = unwrapped(state), openlm_names(decoder), shapes_of(decoder)
    found: dict[str, Tensor] = {}
    for key in ("exp_avg", "exp_avg_sq", "step"):
        held = {name: moments[key] for name, moments in named.items() if isinstance(moments, dict) and key in moments}
        tensors = {name: torch.as_tensor(one) if isinstance(one, int | float) else one for name, one in held.items()}
        wanted = dict.fromkeys(shapes, torch.Size()) if key == "step" else shapes
        fitted = fit(tensors, names, wanted, file, added="zero")
        found |= {f"{name}.{key}": tensor for name, tensor in fitted.items()}
    return found


# --- Hugging Face ----------------------------------------------------------------------------------------------------


def huggingface_names(decoder: nn.Module, family: str) -> dict[str, str]:
    """The names that a family's causal language model has for our adapter's tensors."""
    theirs = FAMILIES[family]
    return {name: rename(name, theirs.network, theirs.head) for name in decoder.state_dict()}


def rename(name: str, network: str, head: str) -> str:
    part, rest = name.split(".", 1)
    return f"{network if part == 'network' else head}.{rest}"


def check_huggingface_config(file: Path, size: ModelSize) -> None:
    """Compare a checkpoint's config.json with the family, its sizes and its config, defaults included."""
    from transformers import CONFIG_MAPPING

    assert size.family, "a size without one is OpenLM's"
    found = read_json_file(file)
    if found.get("model_type") != size.family:
        known = ", ".join(FAMILIES)
        raise ValueError(
            f"{file}: model_type: found {found.get('model_type')!r}, wanted {size.family!r} (known are {known})"
        )
    wanted = effective(network_config(size))
    try:
        theirs = effective(CONFIG_MAPPING[size.family].from_dict(found))
    except Exception as error:  # the library's own, of any kind, for values that it cannot use
        raise ValueError(f"{file}: not a config of {size.family} ({brief(error)})") from None
    for key, value in wanted.items():
        rows = key == "vocab_size" and isinstance(theirs[key], int) and theirs[key] <= value
        if theirs[key] != value and not rows:
            ours = f"model.{SIZES[key]}" if key in SIZES else f"config.{key}"
            raise ValueError(
                f"{file}: {key}: found {one_line(repr(theirs[key]))}, wanted {value!r} (the study's {ours})"
            )


def read_huggingface(path: Path, decoder: nn.Module, size: ModelSize) -> dict[str, Tensor]:
    """Our adapter's tensors from a folder in the Hugging Face layout."""
    if not path.is_dir():
        raise ValueError(f"{path}: not a folder, wanted one with config.json and {ONE_FILE}")
    assert size.family, "a size without one is OpenLM's"
    check_huggingface_config(path / "config.json", size)
    tensors = {name: tensor for name, tensor in read_folder(path).items() if not TABLES.search(name)}
    if "head.weight" not in decoder.state_dict():  # a tied head is stored once or twice
        tensors.pop(f"{FAMILIES[size.family].head}.weight", None)
    return fit(tensors, huggingface_names(decoder, size.family), shapes_of(decoder), path)


def read_weights(layout: str, path: Path, decoder: nn.Module, size: ModelSize) -> dict[str, Tensor]:
    """The decoder's state dict from a checkpoint in a layout, "openlm" or "huggingface"."""
    if not path.exists():
        raise ValueError(f"{path}: no such checkpoint")
    return {"openlm": read_openlm, "huggingface": read_huggingface}[layout](path, decoder, size)
