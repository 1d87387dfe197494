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

from pipeline.model.decoder import Decoder, segment_mask
from pipeline.model.sizes import DecoderShape
from pipeline.sections import ModelSize

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


def config_keys(config: PretrainedConfig) -> set[str]:
    """The keys of an architecture's config that say what is computed."""
    return set(signature(type(config).__init__).parameters) - {"self", "kwargs"} - IDLE


def network_config(size: ModelSize) -> PretrainedConfig:
    """The library's config of a family at a size. Raises ValueError for keys that it does not have."""
    from transformers import AutoConfig

    sizes = {theirs: getattr(size, ours) for theirs, ours in SIZES.items()}
    given = size.config or {}
    assert size.family, "a size without one is OpenLM's"
    config = AutoConfig.for_model(size.family, **sizes, **given)
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

    Its network stops at the hidden states; the head is applied to whichever of them matter. A head that is tied to the
    embedding has no weights of its own. Fresh weights are drawn as the library draws them.
    """

    def __init__(self, size: ModelSize):
        from transformers import AutoModel

        super().__init__()
        config = network_config(size)
        self.shape = DecoderShape.of(size.model_dump())
        self.network = AutoModel.from_config(config, attn_implementation="sdpa")
        self.head = None
        if not config.tie_word_embeddings:
            self.head = nn.Linear(size.width, size.vocabulary, bias=False)
            nn.init.normal_(self.head.weight, std=config.initializer_range)

    @property
    def embedding(self) -> nn.Embedding:
        return self.network.get_input_embeddings()

    @property
    def layers(self) -> nn.ModuleList:
        return self.network.layers

    def new_cache(self) -> Cache:
        """An empty cache for `forward`."""
        from transformers import DynamicCache

        return DynamicCache(config=self.network.config)

    def select_rows(self, cache: Cache, rows: Tensor) -> None:
        """As `Decoder.select_rows`."""
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
    return HuggingFaceDecoder(size) if size.family else Decoder(DecoderShape.of(size.model_dump()))
