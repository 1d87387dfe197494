"""OpenLM's decoder in plain NumPy, float64, one position at a time: the oracle for pipeline.model.decoder.

Written from the published description: pre-norm, gain-only LayerNorm (eps 1e-5), the same norm over the full width of
queries and keys before the head split, RoPE (base 10000, rotate-half), SwiGLU with gate and up in one matrix, no
biases, an untied head. Matrices are [outputs, inputs].
"""

from dataclasses import dataclass

import numpy as np


@dataclass
class LayerWeights:
    attention_gain: np.ndarray  # [D]
    in_projection: np.ndarray  # [3 D, D]: queries, keys, values
    query_gain: np.ndarray  # [D]
    key_gain: np.ndarray  # [D]
    out_projection: np.ndarray  # [D, D]
    feed_forward_gain: np.ndarray  # [D]
    gate_and_up: np.ndarray  # [2 H, D]
    down: np.ndarray  # [D, H]


@dataclass
class Weights:
    embedding: np.ndarray  # [V, D]
    layers: list[LayerWeights]
    final_gain: np.ndarray  # [D]
    head: np.ndarray  # [V, D]


def norm(vector: np.ndarray, gain: np.ndarray) -> np.ndarray:
    centred = vector - vector.mean()
    return centred / np.sqrt((centred**2).mean() + 1e-5) * gain


def turn(vector: np.ndarray, position: int) -> np.ndarray:
    """RoPE on one head's vector: coordinate i and coordinate i + half turn as a pair."""
    size = len(vector)
    half = size // 2
    turned = np.empty(size)
    for i in range(half):
        angle = position * 10000.0 ** (-2 * i / size)
        turned[i] = vector[i] * np.cos(angle) - vector[i + half] * np.sin(angle)
        turned[i + half] = vector[i + half] * np.cos(angle) + vector[i] * np.sin(angle)
    return turned


def attend(inputs: list[np.ndarray], layer: LayerWeights, heads: int) -> list[np.ndarray]:
    width = len(layer.query_gain)
    size = width // heads
    queries, keys, values = [], [], []
    for position, vector in enumerate(inputs):
        projected = layer.in_projection @ vector
        query = norm(projected[:width], layer.query_gain)
        key = norm(projected[width : 2 * width], layer.key_gain)
        queries.append([turn(query[h * size : (h + 1) * size], position) for h in range(heads)])
        keys.append([turn(key[h * size : (h + 1) * size], position) for h in range(heads)])
        values.append([projected[2 * width + h * size : 2 * width + (h + 1) * size] for h in range(heads)])
    outputs = []
    for position in range(len(inputs)):
        mixed = []
        for h in range(heads):
            scores = np.array([queries[position][h] @ keys[past][h] / np.sqrt(size) for past in range(position + 1)])
            shares = np.exp(scores - scores.max())
            shares /= shares.sum()
            mixed.append(sum(share * values[past][h] for past, share in enumerate(shares)))
        outputs.append(layer.out_projection @ np.concatenate(mixed))
    return outputs


def feed_forward(vector: np.ndarray, layer: LayerWeights) -> np.ndarray:
    gate, up = np.split(layer.gate_and_up @ vector, 2)
    return layer.down @ (gate / (1 + np.exp(-gate)) * up)


def logits(weights: Weights, tokens: list[int], heads: int) -> np.ndarray:
    """[T, V] for one row of token ids."""
    stream = [weights.embedding[token] for token in tokens]
    for layer in weights.layers:
        attended = attend([norm(x, layer.attention_gain) for x in stream], layer, heads)
        stream = [x + y for x, y in zip(stream, attended, strict=True)]
        stream = [x + feed_forward(norm(x, layer.feed_forward_gain), layer) for x in stream]
    return np.stack([weights.head @ norm(x, weights.final_gain) for x in stream])
