"""What a job costs: operations, memory and disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.settings.types import Encoder, ModelSize

THROUGHPUT = Path("benchmarks/results/throughput.json")
TRAINING = ("pretrain", "cooldown", "finetune")
# Tokens of text with an image where no shards say it: DataCompDR's captions are that short, LLaVA's turns that long.
TEXT_WITH_IMAGE = {"captions": 32, "instructions": 250}
QUESTIONS = 10_000  # of a benchmark, where neither its task nor the preset says how many are asked
ANSWER_TOKENS = 64  # a question with its answer, or a context with one of its choices
CHOICES = 4
IMAGE_BYTES = 40_000  # an encoded image of about 384 px
STATE_BYTES, TRAINING_BYTES = 12, 16  # a parameter: fp32 weight and two moments; and its gradient


@dataclass(frozen=True)
class Cost:
    """What one job takes: tokens are positions trained on or read, `seconds` those of one device."""

    tokens: float = 0
    flops: float = 0.0
    seconds: float = 0.0
    disk: int = 0  # bytes

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.tokens + other.tokens,
            self.flops + other.flops,
            self.seconds + other.seconds,
            self.disk + other.disk,
        )


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of costs."""
    return sum(costs, Cost())


def projector(encoder: Encoder | None) -> tuple[int | None, int]:
    """The width of what a projector is given, if there is one, and its layers."""
    return (encoder.width, encoder.projector) if encoder else (None, 2)


def memory(size: ModelSize, microbatch: int, parameters: int, shares: int = 1, recomputed: bool = False) -> int:
    """Bytes for training on one device, which holds one of `shares` of the weights, gradients and moments: an estimate.

    Per position and layer some 36 numbers of the width are kept for the backward pass (two bytes each; if they are
    `recomputed`, those of one layer and the inputs of all in fp32), and per label the logits, their gradient and their
    softmax in fp32.
    """
    positions = microbatch * size.sequence
    kept, inputs = 36 * 2, 4
    # With checkpointing the backward pass keeps each layer's input, and one layer's activations at a time.
    per_position = kept + size.layers * inputs if recomputed else kept * size.layers
    logits = positions * size.vocabulary * 3 * 4
    return TRAINING_BYTES * parameters // shares + positions * size.width * per_position + logits
