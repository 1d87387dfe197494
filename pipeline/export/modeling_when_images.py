"""A decoder trained on text and images, for `transformers` (4.57 or later, 5 included).

This file stands by itself: an export ships it as `modeling_when_images.py`, beside weights that have the same names in
training. The decoder is OpenLM's (LayerNorm with a gain and no bias, the same norm over the full width of queries and
keys, RoPE, SwiGLU, an untied head), which no architecture of the library is, or one of the library's. Images come as the
features of their encoder: a prompt holds `config.image_token_id` once for each patch, and `image_features` fill these
places in order. What `transformers` can ask of a model means here what it means there, or is refused.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    Cache,
    DynamicCache,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

EPS = 1e-5
ROPE_BASE = 10_000.0
# What the library calls keys and values of earlier positions: the name changed in one of its versions 5.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
# What the library's own functions hand to `forward` besides its arguments: for the loss, and where a cache ends.
UNDERSTOOD = ("num_items_in_batch", "cache_position")


class WhenImagesConfig(PretrainedConfig):
    """Sizes; `language_model` describes a decoder of the library's, and without it the decoder is OpenLM's."""

    model_type = "when_images"
    keys_to_ignore_at_inference: ClassVar = [CACHE]

    def __init__(
        self,
        vocab_size: int = 50432,
        hidden_size: int = 2048,
        num_hidden_layers: int = 24,
        num_attention_heads: int = 16,
        intermediate_size: int = 5632,
        language_model: dict | None = None,
        image_width: int | None = None,  # numbers a patch; None: there are no images
        image_patches: int | None = None,
        image_token_id: int | None = None,
        projector_layers: int = 2,
        use_cache: bool = True,
        **others: Any,
    ):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.intermediate_size, self.language_model = intermediate_size, language_model
        self.image_width, self.image_patches, self.image_token_id = image_width, image_patches, image_token_id
        self.projector_layers, self.use_cache = projector_layers, use_cache
        # The library would tie head and embedding by default. Here the decoder itself says whether they are one.
        super().__init__(**(others | {"tie_word_embeddings": False}))


class Norm(nn.Module):
    """LayerNorm with a gain and no bias."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, None, EPS)


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """RoPE (rotate-half) on x [B, H, T, head width] at positions [T]."""
    width = x.shape[-1]
    rates = ROPE_BASE ** (-torch.arange(0, width, 2, device=x.device).float() / width)
    angles = torch.outer(positions.float(), rates).repeat(1, 2)
    low, high = x.chunk(2, dim=-1)
    return x * angles.cos().to(x.dtype) + torch.cat((-high, low), dim=-1) * angles.sin().to(x.dtype)


class Attention(nn.Module):
    """Causal attention whose queries and keys are normed over the full width before they are cut into heads."""

    def __init__(self, config: WhenImagesConfig, layer: int):
        super().__init__()
        width = config.hidden_size
        self.heads, self.layer = config.num_attention_heads, layer
        self.in_proj = nn.Linear(width, 3 * width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)
        self.q_norm, self.k_norm = Norm(width), Norm(width)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        past = cache.get_seq_length(self.layer) if cache is not None else 0
        q, k, v = self.in_proj(x).chunk(3, dim=-1)
        # Under autocast a norm gives fp32, and attention wants one type for all three.
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        q, k = rotate(q, positions), rotate(k, positions)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
            if k.shape[2] != past + q.shape[2]:
                raise ValueError(f"a {type(cache).__name__} of fixed length: this model takes a DynamicCache")
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and q.shape[2] > 1)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: WhenImagesConfig):
        super().__init__()
        self.w12 = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.w3 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * up)


class Block(nn.Module):
    """Attention and feed-forward, each after a norm and with a residual."""

    def __init__(self, config: WhenImagesConfig, layer: int):
        super().__init__()
        self.attention_norm, self.ffn_norm = Norm(config.hidden_size), Norm(config.hidden_size)
        self.attention, self.feed_forward = Attention(config, layer), FeedForward(config)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), positions, mask, cache)
        return x + self.feed_forward(self.ffn_norm(x))


def attention_mask(padding: Tensor | None, past: int, positions: Tensor) -> Tensor | None:
    """What each position sees, or None for plain causal attention; `padding` [B, past + T] is 0 at padding."""
    if padding is not None and padding.dim() != 2:
        raise ValueError(f"attention_mask has the shape {tuple(padding.shape)}, wanted [rows, positions]")
    keys = torch.arange(past + len(positions), device=positions.device)
    if padding is None or bool(padding.all()):
        return keys[None, :] <= positions[:, None] if past and len(positions) > 1 else None
    seen = (keys[None, :] <= positions[:, None]) & padding[:, None, None, :].bool()
    return seen | (keys[None, :] == positions[:, None])  # padding sees itself: a softmax over nothing is not a number


class Decoder(nn.Module):
    """OpenLM's: input vectors -> hidden states: after the last layer and norm, and with `every` all before them."""

    def __init__(self, config: WhenImagesConfig):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = Norm(config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, x: Tensor, padding: Tensor | None, cache: Cache | None, every: bool) -> tuple[Tensor, ...]:
        past = cache.get_seq_length() if cache is not None else 0
        positions = torch.arange(past, past + x.shape[1], device=x.device)
        mask, states = attention_mask(padding, past, positions), []
        for block in self.layers:
            states += [x] if every else []
            x = block(x, positions, mask, cache)
        return *states, self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden).float()


class LibraryDecoder(nn.Module):
    """An architecture of the library's, as `config.language_model` describes it."""

    def __init__(self, config: WhenImagesConfig):
        super().__init__()
        described: dict[str, Any] = config.language_model or {}
        # Mappings are copied, as the library writes into those that it is given.
        given: dict[str, Any] = {key: dict(v) if isinstance(v, dict) else v for key, v in described.items()}
        text = AutoConfig.for_model(**given)
        self.network = AutoModel.from_config(text)
        self.head = None if text.tie_word_embeddings else nn.Linear(text.hidden_size, text.vocab_size, bias=False)

    @property
    def embedding(self) -> nn.Embedding:
        return self.network.get_input_embeddings()

    def forward(self, x: Tensor, padding: Tensor | None, cache: Cache | None, every: bool) -> tuple[Tensor, ...]:
        known = {"attention_mask": padding, CACHE: cache, "use_cache": cache is not None}
        found = self.network(inputs_embeds=x, output_hidden_states=every, return_dict=True, **known)
        return tuple(found.hidden_states) if every else (found.last_hidden_state,)

    def logits(self, hidden: Tensor) -> Tensor:
        # fp32 logits: a softmax over tens of thousands of ids loses too much in bf16.
        return F.linear(hidden, self.embedding.weight if self.head is None else self.head.weight).float()


class Projector(nn.Module):
    """Encoder features [N, P, width] -> vectors among the text's: centred, scaled, linear layers with GELU between."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: WhenImagesConfig):
        super().__init__()
        features = config.image_width or 0
        # In the state dictionary, as training saves them: features mean nothing without these statistics.
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(()))
        inner = [4 * features] if config.projector_layers == 3 else []
        widths = [features, *inner, config.hidden_size, config.hidden_size]
        for name, sizes in zip(("first", "second", "third"), zip(widths, widths[1:])):
            self.add_module(name, nn.Linear(*sizes))

    def forward(self, features: Tensor) -> Tensor:
        first, *others = self.children()
        x = first((features - self.mean) / self.scale)
        for layer in others:
            x = layer(F.gelu(x))
        return x


class WhenImagesForCausalLM(PreTrainedModel, GenerationMixin):
    """The language model, with a projector if it takes images."""

    config_class = WhenImagesConfig
    _supports_sdpa = True

    def __init__(self, config: WhenImagesConfig):
        super().__init__(config)
        self.decoder = LibraryDecoder(config) if config.language_model else Decoder(config)
        self.projector = Projector(config) if config.image_width else None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """All weights come from the file."""

    def get_input_embeddings(self) -> nn.Embedding:
        return self.decoder.embedding

    def get_output_embeddings(self) -> nn.Linear | None:
        return self.decoder.head

    def images_of_rows(self, input_ids: Tensor, image_features: Tensor) -> list[int]:
        """How many images each prompt has. Raises ValueError unless `image_features` [N, P, width] are those."""
        patches, width = self.config.image_patches, self.config.image_width
        if self.projector is None:
            raise ValueError("image_features for a model without image input")
        if tuple(image_features.shape[1:]) != (patches, width) or image_features.dim() != 3:
            raise ValueError(f"image_features: found {list(image_features.shape)}, wanted [images, {patches}, {width}]")
        counts = (input_ids == self.config.image_token_id).sum(1)
        found, given = int(counts.sum()), patches * len(image_features)
        if found != given:
            raise ValueError(f"{found} image tokens in the prompts, {given} patches in image_features")
        if bool((counts % patches).any()):
            raise ValueError(f"{counts.tolist()} image tokens in the prompts, wanted {patches} for each image")
        return (counts // patches).tolist()

    def embed(self, input_ids: Tensor, image_features: Tensor | None, past: int = 0) -> Tensor:
        """Input vectors [B, T, D], image features [N, P, width] in the places of the image tokens.

        After `past` positions a single token is the model's own, whatever it is; all others have their features.
        """
        x = self.decoder.embedding(input_ids)
        places = input_ids == self.config.image_token_id
        if image_features is None:
            if bool(places.any()) and not (past and input_ids.shape[1] == 1):
                lacking = "a model without image input" if self.projector is None else "no image_features"
                raise ValueError(f"{int(places.sum())} image tokens in the prompts, and {lacking}")
            return x
        self.images_of_rows(input_ids, image_features)
        assert self.projector is not None, "images_of_rows has looked"
        return x.masked_scatter(places[..., None], self.projector(image_features.to(x.dtype)).flatten(0, 1))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        image_features: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple:
        config = self.config
        if unknown := [name for name in kwargs if name not in UNDERSTOOD and kwargs[name] is not None]:
            raise ValueError(f"{', '.join(unknown)}: this model has no such input")
        if config.output_attentions if output_attentions is None else output_attentions:
            raise ValueError("output_attentions: this model does not keep its attention weights")
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds must be given")
        if inputs_embeds is not None and image_features is not None:
            raise ValueError("image_features go with input_ids: inputs_embeds have no places for them")
        if cache is None:
            cache = past_key_values
        elif past_key_values is not None:
            raise ValueError("cache and past_key_values are two names of one input: give one")
        if (config.use_cache if use_cache is None else use_cache) and cache is None:
            cache = DynamicCache()
        past = cache.get_seq_length() if cache is not None else 0
        x = inputs_embeds if input_ids is None else self.embed(input_ids, image_features, past)
        every = bool(config.output_hidden_states if output_hidden_states is None else output_hidden_states)
        states = self.decoder(x, attention_mask, cache, every)
        # The library's convention: 0 keeps all, as slice(-0, None) does.
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.decoder.logits(states[-1][:, kept])
        loss: Any = None
        if labels is not None:  # the library's own, which knows how a Trainer counts over several batches
            loss = self.loss_function(logits, labels, vocab_size=config.vocab_size, **kwargs)
        given: dict[str, Any] = {CACHE: cache, "hidden_states": states if every else None}
        found = CausalLMOutputWithPast(loss=loss, logits=logits, **given)
        return found if (config.return_dict if return_dict is None else return_dict) else found.to_tuple()

    def prepare_inputs_for_generation(
        self, *args: Any, image_features: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Images are looked at once, with the prompt. (The library's versions differ in the order of their arguments.)"""
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)
        cache = inputs.get(CACHE)
        seen = cache is not None and cache.get_seq_length() > 0
        return inputs | {"image_features": None if seen else image_features}

    def _expand_inputs_for_generation(  # there a static method, which sees no images
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Any = None,
        image_features: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Every prompt as many times as there are beams or answers of it; its images with it, all of them together."""
        ids, inputs = super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **kwargs)
        if image_features is not None:
            rows = image_features.split(self.images_of_rows(input_ids, image_features))
            inputs["image_features"] = torch.cat([row.repeat(expand_size, 1, 1) for row in rows])
        return ids, inputs
