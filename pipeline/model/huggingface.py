"""Architectures of `transformers` in the decoder's place: the same interface, the library's own code and names.

A family is listed here once its logits, packing and cached decoding are tested. All of them turn queries and keys by
their position (RoPE), so a packed piece reads the same wherever it stands in its row. Nothing is downloaded, and no code
of a checkpoint is run.
"""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.common.files import one_line
from pipeline.common.torch_file import brief
from pipeline.model.decoder import Decoder, segment_mask
from pipeline.model.sizes import DecoderShape
from pipeline.settings.types import ModelSize

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.cache_utils import Cache


class Names(NamedTuple):
    """What a family's causal language model calls its network and its head."""

    network: str
    head: str


FAMILIES = {
    "gpt_neox": Names("gpt_neox", "embed_out"),
    "olmo": Names("model", "lm_head"),
    "llama": Names("model", "lm_head"),
}
SIZES = {
    "vocab_size": "vocabulary",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "hidden_size": "width",
}
# Keys of config.json that do not change what is computed here: dropout is always off, positions are not limited.
IDLE = {
    *("attention_dropout", "hidden_dropout", "classifier_dropout", "initializer_range", "use_cache"),
    *("max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "pretraining_tp"),
}
# Keys that any config of the library may have besides, and that say nothing of what a network computes.
BESIDES = {
    *(
        "architectures",
        "model_type",
        "transformers_version",
        "_name_or_path",
        "tokenizer_class",
        "torch_dtype",
        "dtype",
    ),
    *("_attn_implementation", "_attn_implementation_autoset", "use_bfloat16", "torchscript", "tf_legacy_loss"),
    *("output_attentions", "output_hidden_states", "output_scores", "return_dict", "return_dict_in_generate"),
    *("id2label", "label2id", "problem_type", "finetuning_task", "task_specific_params", "prefix", "is_decoder"),
    *("sep_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id", "max_sequence_length"),
    *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty"),
    *("temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size"),
    *("encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "remove_invalid_values"),
    *("exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens"),
}
# Keys of any config that would change what is computed, at the values that leave it alone.
PLAIN: dict[str, Any] = {
    **{"is_encoder_decoder": False, "add_cross_attention": False, "cross_attention_hidden_size": None},
    **{"tie_encoder_decoder": False, "chunk_size_feed_forward": 0, "pruned_heads": {}, "partial_rotary_factor": 1.0},
}
# Keys of RoPE's that a family calls by names of its own.
OWN_NAMES = {"gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}}
# Ways to stretch RoPE, with their numbers, and the families that have them. Only ways that treat rows of any length
# alike are here: others would read a packed piece otherwise than the same piece alone.
SCALINGS = {
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
}
SCALED = ("llama", "gpt_neox")


def rope_scaling(value: object, family: str) -> dict[str, Any] | None:
    """A config's `rope_scaling` in one form: None where nothing is scaled. Raises ValueError for what is not known."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"rope_scaling: found {one_line(repr(value))}, wanted null or a mapping")
    numbers = {key: number for key, number in value.items() if key not in ("type", "rope_type")}
    kind = value.get("rope_type", value.get("type", "default"))
    if kind == "default" and not numbers:
        return None
    if not isinstance(kind, str) or kind not in SCALINGS or family not in SCALED:
        known = f"{', '.join(SCALINGS)} in {' and '.join(SCALED)}"
        raise ValueError(f"rope_scaling: found {one_line(repr(kind))} in {family}, known are {known}")
    fits = numbers.keys() == SCALINGS[kind] and all(type(number) in (int, float) for number in numbers.values())
    if not fits:
        wanted = ", ".join(sorted(SCALINGS[kind]))
        raise ValueError(f"rope_scaling: found {one_line(repr(numbers))}, wanted numbers for {kind}: {wanted}")
    return {"rope_type": kind} | {key: float(n) if "factor" in key else n for key, n in numbers.items()}


def spelled_alike(found: dict[str, Any], family: str) -> dict[str, Any]:
    """The keys of a config.json under the names that transformers 4 has for a family.

    Version 5 puts what RoPE has into `rope_parameters`. Raises ValueError where a file says two things of one key.
    """
    rope = found.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise ValueError(f"rope_parameters: found {one_line(repr(rope))}, wanted a mapping")
    # Version 4 has these two as keys of their own, beside `rope_scaling`.
    alone = {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
    said = [*((key, value) for key, value in found.items() if key != "rope_parameters"), *alone.items()]
    if rope:
        said.append(("rope_scaling", {key: value for key, value in rope.items() if key not in alone}))
    spelled: dict[str, Any] = {}
    for key, value in said:
        name = OWN_NAMES.get(family, {}).get(key, key)
        meant = rope_scaling(value, family) if name == "rope_scaling" else value
        # A file may say the same thing in both ways, as long as the two agree.
        if name in spelled and spelled[name] != meant:
            raise ValueError(f"{name}: found both {one_line(repr(spelled[name]))} and {one_line(repr(meant))}")
        spelled[name] = meant
    return spelled


def config_keys(config: PretrainedConfig) -> set[str]:
    """The keys of an architecture's config that say what is computed."""
    # From the signature: as attributes a config also has the keys that every config of the library has.
    return set(signature(type(config).__init__).parameters) - {"self", "kwargs"} - IDLE


def network_config(size: ModelSize) -> PretrainedConfig:
    """The library's config of a family at a size. Raises ValueError for keys that it does not have."""
    from transformers import AutoConfig

    sizes = {theirs: getattr(size, ours) for theirs, ours in SIZES.items()}
    given = dict(size.config or {})
    assert size.family, "a size without one is OpenLM's"
    try:
        if "rope_scaling" in given:
            given["rope_scaling"] = rope_scaling(given["rope_scaling"], size.family)
        config = AutoConfig.for_model(size.family, **sizes, **given)
    except Exception as error:  # the library's own, of any kind, for values that it cannot use
        raise ValueError(f"model.config: not a config of {size.family} ({brief(error)})") from None
    for key in given:
        if key not in config_keys(config) - sizes.keys():
            allowed = ", ".join(sorted(config_keys(config) - sizes.keys()))
            raise ValueError(f"model.config.{key}: no such key of {size.family}; keys here are {allowed}")
    return config


def effective(config: PretrainedConfig) -> dict[str, Any]:
    """What a config says about what is computed, defaults included."""
    return {key: getattr(config, key) for key in sorted(config_keys(config))}


class HuggingFaceDecoder(nn.Module):
    """An architecture of `transformers` behind the interface of `pipeline.model.decoder.Decoder`.

    Its network stops at the hidden states; the caller picks those that `logits` applies the head to. A head that is
    tied to the embedding has no weights of its own. Fresh weights are drawn as the library draws them.
    """

    def __init__(self, size: ModelSize):
        from transformers import AutoModel

        super().__init__()
        config = network_config(size)
        self.shape = DecoderShape.of(size)
        # With "sdpa" a mask of four dimensions is used as it is given: that is how packed pieces are kept apart.
        self.network = AutoModel.from_config(config, attn_implementation="sdpa")
        # A tied head is the embedding. A second copy of it would be trained apart from it, and saved twice.
        self.head = None
        if not config.tie_word_embeddings:
            self.head = nn.Linear(size.width, size.vocabulary, bias=False)
            nn.init.normal_(self.head.weight, std=config.initializer_range)

    @property
    def embedding(self) -> nn.Embedding:
        """Token vectors, under the name that `Decoder` has for them."""
        return self.network.get_input_embeddings()

    @property
    def layers(self) -> nn.ModuleList:
        """The network's blocks, which are compiled, recomputed and sharded one by one."""
        return self.network.layers

    def new_cache(self) -> Cache:
        """An empty cache for `forward`."""
        from transformers import DynamicCache

        return DynamicCache(config=self.network.config)

    def select_rows(self, cache: Cache, rows: Tensor) -> None:
        """Replace a cache's rows by its rows number `rows` [N], in place. A number may come more than once."""
        cache.batch_select_indices(rows)

    def forward(self, x: Tensor, segments: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Hidden states [B, T, D], after the final norm, of input vectors x [B, T, D].

        `segments` and `cache` are as in `Decoder.forward`.
        """
        mask = None if segments is None else segment_mask(segments)
        network = self.network(inputs_embeds=x, attention_mask=mask, past_key_values=cache, use_cache=cache is not None)
        return network.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] in fp32 of hidden states [..., D]."""
        weight = self.embedding.weight if self.head is None else self.head.weight
        return F.linear(hidden, weight).float()


def build_decoder(size: ModelSize) -> Decoder | HuggingFaceDecoder:
    """The decoder that the section "model" of a job's settings describes, with fresh weights."""
    return HuggingFaceDecoder(size) if size.family else Decoder(DecoderShape.of(size))
