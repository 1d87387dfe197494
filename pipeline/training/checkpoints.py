"""Published checkpoints: their files, their names for our tensors, and what fits and what does not.

openlm       OpenLM's own file (`epoch_N.pt`: a torch file with "state_dict"; Adam's moments in `optimizer_N.pt`), or a
             folder as DCLM publishes it: config.json and safetensors, every name with "model." before it.
huggingface  A folder: config.json and weights, in one file or several with their index: safetensors, or torch's own files
             (pytorch_model.bin) where there are none.

A key of a config.json is compared with ours, or known to change nothing, or refused: an unknown key could change what
is computed. Reading runs no code: safetensors, or torch files with `weights_only`. What does not fit raises ValueError,
whose one line names the file, the tensor or key, what was found and what is wanted.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.common.files import one_line
from pipeline.common.json_text import parse_json
from pipeline.common.torch_file import brief, read_torch
from pipeline.model.huggingface import BESIDES, FAMILIES, IDLE, PLAIN, SIZES, effective, network_config, spelled_alike
from pipeline.model.sizes import DecoderShape
from pipeline.settings.types import ModelSize

# One file or the index of several, in the order in which they are looked for.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
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
    ("n_heads_kv",): "heads",
    ("intermediate_dim_ffn",): "feed_forward",
    ("rotary_base_frequency",): (10_000,),
    ("rotary_scale",): (1.0,),
    ("rotary_old",): (False,),
    ("moe_freq",): (0,),
    ("attn_name",): ("auto", "xformers_attn", "xformers_attn_variable_length", "torch_attn"),
    # Allowed at null alone, the value of a key that is not set.
    ("attn_activation", "attn_seq_scalar", "attn_seq_scalar_alpha", "use_bnb_linear", "hf_model"): (),
}
# What OpenLM's configs say besides: how experts would be mixed, and how the run was trained.
OPENLM_TRAINING = """
  params params_args_dict auto_map model seq_len
  moe_num_experts moe_weight_parallelism moe_expert_model_parallelism moe_capacity_factor moe_loss_weight moe_top_k
  train_data train_data_mix_weights train_data_upsampling_factors val_data data_key val_data_key train_num_samples
  val_num_samples dataset_type dataset_resampled dataset_manifest disable_buffer data_tolerate_error_p
  data_tolerate_num_ckpts multiple_data_passes squash_num_tokens sample_by_tokens shard_shuffle_size skip_tokens
  ignore_parse_errors target_mask_left target_mask_individual workers global_batch_size per_gpu_batch_size
  global_val_batch_size per_gpu_val_batch_size val_max_pop_ci val_iter_ci val_seq_ci val_tok_ci val_frequency
  epochs epochs_cooldown optimizer lr beta1 beta2 eps wd warmup z_loss_coefficient log_logit_mean log_avg_model_training_loss
  use_bn_sync skip_scheduler lr_scheduler lr_cooldown_end lr_cooldown_power force_min_lr grad_clip_norm accum_freq
  precision average average_coefficients averagers distill_model distill_pretrained hf_seq_len hf_fsdp_block
  pretrained load_pretrained_state resume resume_latest save_frequency save_most_recent save_logs max_checkpoints_per_epoch
  delete_previous_checkpoint torchcompile torchscript trace grad_checkpointing seed debug config
  dist_url dist_backend ddp_static_graph no_set_device_rank distributed force_distributed rank local_rank world_size
  preset_world_size device fsdp fsdp_cpu_offload fsdp_use_orig_params fsdp_amp fsdp_pure_bf16 fsdp_backward_prefetch
  fsdp_hybrid fsdp_hybrid_o2 fsdp_checkpoint fsdp_limit_all_gathers experimental_meta_device
  logs log_local log_path log_level log_every_n_steps name report_to wandb wandb_notes wandb_project_name tensorboard
  tensorboard_path checkpoint_path failed_checkpoint_path copy_codebase remote_sync remote_sync_frequency
  remote_sync_protocol
"""
OPENLM_IDLE = BESIDES | set(OPENLM_TRAINING.split())


# --- files -----------------------------------------------------------------------------------------------------------


def read_json_file(file: Path) -> dict:
    """A JSON object of a file. Raises ValueError, of one line, for anything else."""
    try:
        value = parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read as JSON ({brief(error)})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file}: found a {type(value).__name__}, wanted a JSON object")
    return value


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name. Raises ValueError, of one line, for anything else."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        # The first bytes of a zip, as torch writes it, and of pickles of protocol 2 and 4.
        with_pickle = file.is_file() and file.open("rb").read(2) in (b"PK", b"\x80\x02", b"\x80\x04")
        what = "a pickle, which is not read" if with_pickle else f"not a whole safetensors file ({brief(error)})"
        raise ValueError(f"{file}: {what}") from None


def read_folder(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder: one file, or those that its index names."""
    names = [name for one in WEIGHTS for name in (f"{one}.index.json", one)]
    name = next((name for name in names if (folder / name).exists()), None)
    if name is None:
        raise ValueError(f"{folder}: has no weights, wanted one of {', '.join(names)}")
    file = folder / name
    if name in WEIGHTS:
        return read_file(file)
    places = read_json_file(file).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(part, str) for part in places.values()):
        raise ValueError(f"{file}: weight_map: wanted names of tensors with their files")
    tensors: dict[str, Tensor] = {}
    for part in sorted(set(places.values())):
        # An index is data of others: it must not make us read files elsewhere.
        if Path(part).name != part:
            raise ValueError(f"{file}: weight_map: found the file {part!r}, wanted names of files beside it")
        tensors |= read_file(folder / part)
    lost = sorted(places.keys() - tensors.keys())
    if lost:
        raise ValueError(f"{folder / places[lost[0]]}: lacks the tensor {lost[0]} that {name} says it has")
    return tensors


def read_file(file: Path) -> dict[str, Tensor]:
    """One file of a folder, by its suffix."""
    # PyTorch maps only files in its zip form into memory; older ones are read whole.
    return read_torch(file, mmap=zipfile.is_zipfile(file)) if file.suffix == ".bin" else read_safetensors(file)


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
            # The mean for weights; zeros for moments, as no gradient has reached these rows.
            row = tensor.mean(0, keepdim=True) if added == "mean" else torch.zeros_like(tensor[:1])
            tensor = torch.cat((tensor, row.expand(more, *row.shape[1:])))
        if tensor.shape != wanted:
            raise ValueError(f"{source}: {theirs} has the shape {tuple(tensor.shape)}, wanted {tuple(wanted)}")
        if not tensor.isfinite().all():
            raise ValueError(
                f"{source}: {theirs} has {int((~tensor.isfinite()).sum())} numbers that are NaN or infinite"
            )
        fitted[ours] = tensor.contiguous()
    # A tensor that is left over would be a part of the network that is silently not computed.
    strange = [name for name in tensors if name not in names.values()]
    if strange:
        raise ValueError(f"{source}: has the tensor {one_line(strange[0])}, which this architecture does not have")
    return fitted


def shapes_of(decoder: nn.Module) -> dict[str, torch.Size]:
    """Shapes of all tensors by name."""
    return {name: tensor.shape for name, tensor in decoder.state_dict().items()}


# --- OpenLM ----------------------------------------------------------------------------------------------------------


def openlm_names(decoder: nn.Module) -> dict[str, str]:
    """OpenLM's names of our decoder's tensors: the layers' are the same."""
    others = {"embedding.weight": "tok_embeddings.weight", "head.weight": "output.weight"}
    return {name: others.get(name, name) for name in decoder.state_dict()}


def unwrapped(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors by names without wrappers, in the order of the file; tables that follow from the config are left out."""
    named = {WRAPPERS.sub("", str(name)): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in named.items() if not TABLES.search(name)}


def read_openlm_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file or folder in OpenLM's layout, by names without wrappers."""
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
    sizes = size.model_dump() | {"feed_forward": DecoderShape.of(size).hidden}
    known = {key: wanted for keys, wanted in OPENLM.items() for key in keys}
    for key, value in [*config.items(), *arguments.items()]:
        if key not in known:
            refuse_unknown(file, key, value, OPENLM_IDLE, "OpenLM")
        elif value is not None:
            wanted = known[key]
            allowed: Collection[Any] = (sizes[wanted],) if isinstance(wanted, str) else wanted
            # A smaller vocabulary fits: `fit` adds the rows that it lacks.
            rows = key == "vocab_size" and isinstance(value, int) and value <= size.vocabulary
            if value not in allowed and not rows:
                raise ValueError(
                    f"{file}: {key}: found {one_line(repr(value))}, wanted {' or '.join(map(repr, allowed)) or 'null'}"
                )


def refuse_unknown(file: Path, key: str, value: object, idle: Collection[str], what: str) -> None:
    """Raises ValueError for a key of a config that is not among those which change nothing, or has not their value."""
    if key in PLAIN:
        if value != PLAIN[key]:
            raise ValueError(f"{file}: {key}: found {one_line(repr(value))}, wanted {PLAIN[key]!r}")
    elif key not in idle:
        raise ValueError(
            f"{file}: {key}: found {one_line(repr(value))}, and nothing here knows this key of {what}; if it does not"
            " change what the model computes, take it out of the file"
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

    FSDP's files name the parameters. PyTorch's number them in the order of the model, which the weights' torch file has
    too; safetensors files have no such order. Raises ValueError for moments that do not fit, or have no known order.
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
    """Our adapter's name of a tensor, with the family's word in place of its first part."""
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
    config = network_config(size)
    wanted = effective(config)
    try:
        found = spelled_alike(found, size.family)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    for key, value in found.items():
        if key not in wanted:
            refuse_unknown(file, key, value, IDLE | BESIDES, size.family)
    try:
        theirs = effective(CONFIG_MAPPING[size.family].from_dict({key: v for key, v in found.items() if key in wanted}))
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
        raise ValueError(f"{path}: not a folder, wanted one with config.json and weights")
    assert size.family, "a size without one is OpenLM's"
    check_huggingface_config(path / "config.json", size)
    tensors = {name: tensor for name, tensor in read_folder(path).items() if not TABLES.search(name)}
    if "head.weight" not in decoder.state_dict():  # a tied head is stored once or twice
        tensors.pop(f"{FAMILIES[size.family].head}.weight", None)
    return fit(tensors, huggingface_names(decoder, size.family), shapes_of(decoder), path)


def check_config(layout: str, path: Path, size: ModelSize) -> None:
    """Raises ValueError for a checkpoint whose config does not fit, before its weights are read."""
    if layout == "huggingface":
        check_huggingface_config(path / "config.json", size)
    elif path.is_dir():
        check_openlm_config(path / "config.json", size)


def read_weights(layout: str, path: Path, decoder: nn.Module, size: ModelSize) -> dict[str, Tensor]:
    """The decoder's state dict from a checkpoint in a layout, "openlm" or "huggingface"."""
    if not path.exists():
        raise ValueError(f"{path}: no such checkpoint")
    return {"openlm": read_openlm, "huggingface": read_huggingface}[layout](path, decoder, size)
