"""The decoder with images in it: encoder features -> projector -> image tokens among the text tokens.

An image's tokens stand where the token ids hold its placeholder; text after them attends to them causally.
The loss is computed on labelled positions only: the other logits (96% of a caption sample's) are never formed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.model.decoder import Decoder, draw
from pipeline.model.sizes import DecoderShape, projector_layers

if TYPE_CHECKING:
    from pipeline.model.huggingface import HuggingFaceDecoder

IGNORE = -100  # target of a position without a label; `cross_entropy` leaves this value out by default


class Projector(nn.Module):
    """From the encoder's width to the decoder's: linear layers with a GELU between them.

    Two layers (features -> width -> width) are the paper's (Figure 2), three (features -> 4 x features -> width ->
    width) the fused MLP of Prismatic's scripts.

    Features may first be centred channel by channel and scaled as a whole (`calibrate`), with statistics of the first
    images that the projector is ever trained on. The first layer could undo this: it changes where training starts, not
    what can be learnt. The paper does not do it.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int, width: int, layers: int = 2):
        super().__init__()
        # Buffers, so that states have them: a resumed run, a fine-tuning and the evaluation need the same numbers.
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(()))
        for name, sizes in zip(("first", "second", "third"), projector_layers(features, width, layers)):
            self.add_module(name, nn.Linear(*sizes))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights as the decoder's in-projections have them, with zero biases."""
        for layer in self.linears:
            draw(layer.weight, layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)

    @property
    def linears(self) -> list[nn.Linear]:
        """The layers, first to last."""
        return [layer for layer in self.children() if isinstance(layer, nn.Linear)]

    @property
    def calibrated(self) -> bool:
        """Whether `calibrate` was called: the mean is zeros until then."""
        return bool(self.mean.any())

    def calibrate(self, features: Tensor) -> None:
        """Set the mean of every channel and the one overall deviation from features [N, P, W]."""
        self.mean.copy_(features.mean((0, 1)))
        self.scale.copy_((features - self.mean).std())

    def forward(self, features: Tensor) -> Tensor:
        """[N, P, width] of features [N, P, W]."""
        first, *others = self.linears
        x = first((features - self.mean) / self.scale)
        for layer in others:
            x = layer(F.gelu(x))
        return x


class VLM(nn.Module):
    """A decoder that may have a projector. Without one it is the text model, weight for weight.

    An encoder that is trained is a part of the model. A frozen one is not: the model is given the features that it
    made.
    """

    decoder: Decoder | HuggingFaceDecoder
    projector: Projector | None
    encoder: nn.Module | None

    def __init__(
        self,
        decoder: DecoderShape | Decoder | HuggingFaceDecoder,
        features: int | None = None,
        encoder: nn.Module | None = None,
        layers: int = 2,
    ):
        """`decoder` is one, or the sizes of OpenLM's; `features` the encoder's width, `layers` the projector's number."""
        super().__init__()
        self.decoder = Decoder(decoder) if isinstance(decoder, DecoderShape) else decoder
        self.projector = None if features is None else Projector(features, self.decoder.shape.width, layers)
        self.encoder = encoder

    def embed(self, tokens: Tensor, features: Tensor | None = None, slots: Tensor | None = None) -> Tensor:
        """Input vectors [B, T, D] of token ids [B, T].

        `features` [N, P, W] are the encoder's patches of N images, `slots` [N * P] the flat positions (row * T +
        column) that they fill, in order. Features of no images (N = 0) leave the tokens' vectors as they are and give
        the projector a gradient of zeros: on several ranks one may have images and another none.
        """
        x = self.decoder.embedding(tokens)
        if features is None:
            return x
        assert self.projector is not None and slots is not None
        image = self.projector(features).flatten(0, 1).to(x.dtype)
        return x.flatten(0, 1).index_copy(0, slots, image).view_as(x)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits [L, V] in fp32 at the labelled positions only, in row-major order.

        `batch` has "tokens" and "targets" [B, T], and may have "features" and "slots" (see `embed`) and "segments"
        (see `Decoder.forward`). A model with an encoder takes "pixels" [N, 3, side, side] in place of features.
        """
        features = batch.get("features")
        if self.encoder is not None and "pixels" in batch:
            features = self.encode(batch["pixels"])
        x = self.embed(batch["tokens"], features, batch.get("slots"))
        # Hidden states are picked before the head. With small widths and a vocabulary of 50,000 this trains 2.4 to 3.6
        # times as fast as public code that computes the logits of all positions, with the same loss and gradients.
        hidden = self.decoder(x, batch.get("segments"))
        return self.decoder.logits(hidden[batch["targets"] != IGNORE])

    def encode(self, pixels: Tensor) -> Tensor:
        """Features [N, P, W] of pixels [N, 3, side, side], by the encoder that is a part of the model."""
        assert self.encoder is not None
        if len(pixels):
            return self.encoder(pixels)
        # Without images the encoder sees one black image, of which nothing is used: its gradient is then zeros, and not
        # missing, as on the ranks that have images.
        return self.encoder(pixels.new_zeros(1, *pixels.shape[1:]))[:0]


def label_loss(logits: Tensor, targets: Tensor, z_weight: float = 0.0) -> Tensor:
    """Mean cross-entropy in nats over labelled positions, plus z_weight * mean(logsumexp(logits) ** 2).

    `logits` [L, V] as `VLM.forward` gives them, `targets` [B, T] with IGNORE where there is no label. A batch without
    labels gives 0.
    """
    targets = targets[targets != IGNORE]
    if z_weight:
        total = CrossEntropyWithZ.apply(logits, targets, z_weight)
    else:
        total = F.cross_entropy(logits, targets, reduction="sum")
    # A microbatch may have no label. Composer weighs microbatches by their labels, so its 0 counts for nothing, and 0 /
    # 0 would make the whole step NaN.
    return total / max(len(targets), 1)


class CrossEntropyWithZ(torch.autograd.Function):
    """Sum of cross-entropy and z_weight * logsumexp ** 2 of logits [L, V]: as its two parts, but in half the passes over memory.

    Both need the logsumexp, and their gradients are multiples of the same softmax.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, z_weight: float) -> Tensor:
        total = logits.logsumexp(-1)
        ctx.save_for_backward(logits, targets, total)
        ctx.z_weight = z_weight
        return (total - logits.gather(1, targets[:, None])[:, 0]).sum() + z_weight * total.square().sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        logits, targets, total = ctx.saved_tensors
        grad = torch.sub(logits, total[:, None]).exp_()
        grad.mul_((gradient * (1 + 2 * ctx.z_weight * total))[:, None])
        grad[torch.arange(len(targets), device=targets.device), targets] -= gradient
        return grad, None, None


@torch.no_grad()
def greedy(
    model: VLM,
    prefix: Tensor,
    stop: int,
    longest: int,
    features: Tensor | None = None,
    slots: Tensor | None = None,
) -> list[list[int]]:
    """Greedy continuations of prompts of one length: token ids without the stop token, at most `longest` each.

    prefix [B, T] token ids; features and slots as in `VLM.embed`.
    """
    cache = model.decoder.new_cache()
    x = model.embed(prefix, features, slots)
    said: list[Tensor] = []
    ended = torch.zeros(len(prefix), dtype=torch.bool, device=prefix.device)
    while len(said) < longest:
        token = model.decoder.logits(model.decoder(x, cache=cache)[:, -1]).argmax(-1)
        # Rows that have ended go on with the others; what they say after the stop token is cut off at the end.
        ended |= token == stop
        if ended.all():
            break
        said.append(token)
        x = model.decoder.embedding(token[:, None])
    rows = torch.stack(said, dim=1).tolist() if said else [[] for _ in prefix]
    return [row[: row.index(stop)] if stop in row else row for row in rows]
