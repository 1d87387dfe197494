"""OpenLM's decoder: pre-norm, gain-only LayerNorm, full-width QK-norm, RoPE, SwiGLU, untied head.

Source: the published OpenLM "1b" configuration that DCLM-1B and the paper train. Nothing but PyTorch in here.
Shapes: B rows, T positions, D width, H heads.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.model.sizes import DecoderShape

# Constants and not settings: an OpenLM checkpoint whose config has other values is refused
# (pipeline/training/checkpoints.py).
EPS = 1e-5
ROPE_BASE = 10_000.0


class Norm(nn.Module):
    """LayerNorm with a gain and no bias."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, None, EPS)


def rope_tables(positions: Tensor, head_width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, head_width] for `positions` [T], in fp32."""
    # In fp32 whatever the precision of the model: bfloat16 has each whole number up to 256 only, and positions go
    # further.
    rates = ROPE_BASE ** (-torch.arange(0, head_width, 2, device=positions.device).float() / head_width)
    angles = torch.outer(positions.float(), rates)
    # Rotate-half pairs number i of a head with number i + head_width / 2: both halves have the same angles.
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE (rotate-half) on x [B, H, T, head_width]."""
    low, high = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat((-high, low), dim=-1) * sin.to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention: queries and keys are normalised over the full width and turned by RoPE."""

    def __init__(self, shape: DecoderShape):
        super().__init__()
        self.heads = shape.heads
        self.in_proj = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.out_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.q_norm = Norm(shape.width)
        self.k_norm = Norm(shape.width)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None, cache: list | None) -> Tensor:
        """[B, T, D] of x [B, T, D].

        `rope`: the tables of `rope_tables`. `mask`: bool or additive, broadcast to [B, H, T, keys]; None is plain
        causal attention. `cache`: this layer's, extended in place.
        """
        rows, length, width = x.shape
        q, k, v = self.in_proj(x).chunk(3, dim=-1)
        # QK-norm spans all heads at once, before the head split and before RoPE. Autocast on a GPU makes norms fp32,
        # and attention takes queries, keys and values of one type only: hence the conversion.
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        q, k, v = (t.view(rows, length, self.heads, -1).transpose(1, 2) for t in (q, k, v))
        q, k = rotate(q, *rope), rotate(k, *rope)
        if cache is not None:
            k, v = cache_append(cache, k, v)
        # `is_causal` aligns its triangle to the top left. A single position after a prefix would then see the first key
        # alone; it may see all keys, so it gets no mask.
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and length > 1)
        return self.out_proj(y.transpose(1, 2).reshape(rows, length, width))


def cache_append(cache: list, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Append keys and values to one layer's cache ([] or [keys, values]); return all so far."""
    if cache:
        k, v = torch.cat((cache[0], k), dim=2), torch.cat((cache[1], v), dim=2)
    cache[:] = [k, v]
    return k, v


class FeedForward(nn.Module):
    """SwiGLU: [B, T, D] -> [B, T, D], through `shape.hidden` numbers."""

    def __init__(self, shape: DecoderShape):
        super().__init__()
        # Both factors in one matrix, under these names: OpenLM has its checkpoints like this, and layers are read
        # without renaming (pipeline/training/checkpoints.py).
        self.w12 = nn.Linear(shape.width, 2 * shape.hidden, bias=False)
        self.w3 = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * up)


class Block(nn.Module):
    """One layer: attention, then the feed-forward part. Each reads a normalised x and adds to it (pre-norm)."""

    def __init__(self, shape: DecoderShape):
        super().__init__()
        self.attention_norm = Norm(shape.width)
        self.attention = Attention(shape)
        self.ffn_norm = Norm(shape.width)
        self.feed_forward = FeedForward(shape)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None, cache: list | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rope, mask, cache)
        return x + self.feed_forward(self.ffn_norm(x))


def segment_mask(segments: Tensor) -> Tensor:
    """Causal attention within a segment: bool [B, 1, T, T] from segment numbers [B, T]."""
    same = segments[:, None, :, None] == segments[:, None, None, :]
    return same & torch.ones(same.shape[-2:], dtype=torch.bool, device=segments.device).tril()


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask as numbers to add to attention scores: 0, or minus infinity.

    `scaled_dot_product_attention` makes the same of a boolean mask by itself, in every call.
    """
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -math.inf)


class Decoder(nn.Module):
    """From input vectors to hidden states; `logits` applies the head to those that the caller picks.

    Raises ValueError for a width that RoPE cannot divide into pairs in every head.
    """

    def __init__(self, shape: DecoderShape):
        super().__init__()
        if shape.width % (2 * shape.heads):
            raise ValueError(f"width {shape.width} is not a multiple of twice the heads ({shape.heads})")
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """OpenLM's init: normal cut at 3 sigma; output projections shrink with depth."""
        d, h = self.shape.width, self.shape.hidden
        draw(self.embedding.weight, d**-0.5)
        draw(self.head.weight, d**-0.5)
        for index, block in enumerate(self.layers):
            # Each layer adds to the stream twice. Smaller additions in deeper layers keep its size in bounds at the
            # start.
            depth = math.sqrt(2 * (index + 1))
            draw(block.attention.in_proj.weight, d**-0.5)
            draw(block.attention.out_proj.weight, d**-0.5 / depth)
            draw(block.feed_forward.w12.weight, d**-0.5)
            draw(block.feed_forward.w3.weight, h**-0.5 / depth)

    def new_cache(self) -> list[list]:
        """An empty cache for `forward`."""
        return [[] for _ in self.layers]

    def select_rows(self, cache: list[list], rows: Tensor) -> None:
        """Replace a filled cache's rows by its rows number `rows` [N], in place. A number may come more than once."""
        for layer in cache:
            layer[:] = [filled[rows] for filled in layer]

    def forward(self, x: Tensor, segments: Tensor | None = None, cache: list[list] | None = None) -> Tensor:
        """Hidden states [B, T, D] (before the final norm) of input vectors x [B, T, D].

        `segments` [B, T] keeps packed samples from seeing each other; None is plain causal attention.
        `cache` is a list of one list a layer, filled and extended in place (decoding one position at a time
        after a prefix; segments do not apply then).
        """
        past = cache[0][0].shape[2] if cache and cache[0] else 0
        positions = torch.arange(past, past + x.shape[1], device=x.device)
        rope = rope_tables(positions, self.shape.width // self.shape.heads)
        mask = None if segments is None else segment_mask(segments)
        if past and x.shape[1] > 1:
            # SDPA's is_causal aligns to the top left corner; a block after a prefix needs the bottom right one.
            keys = torch.arange(past + x.shape[1], device=x.device)
            mask = keys[None, :] <= positions[:, None]
        if mask is not None and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
            # Once a step and not once a layer, with the same bits: a fine-tuning step takes 0.985 times as long, and
            # one copy is kept for the backward pass (benchmarks/NOTES.md). Measured, and so done, on the CPU in fp32
            # only.
            mask = additive(mask, x.dtype)
        for index, block in enumerate(self.layers):
            x = block(x, rope, mask, None if cache is None else cache[index])
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] in fp32 of hidden states [..., D]."""
        return self.head(self.norm(hidden)).float()


def draw(weight: Tensor, std: float) -> None:
    """Fill a weight, in place, from a normal distribution cut at 3 standard deviations."""
    nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std)
