"""What stops a training run that has gone wrong, in one line that names the step, and the key or the file to look at.

    loss not finite      at any step
    loss exploded        the median of the last PATIENCE losses is more than RISE nats above the lowest such median, or
                         above the first loss
    weights not finite   before a state is saved: the update after the last finite loss may have spoilt them
    projector dead       over PATIENCE updates with images its output was the same for every patch of every image, or no
                         gradient reached its first layer

A rise of 2 nats is e^2 = 7.4 times less probability for each label than the run has given before. Medians, because healthy
runs have single losses far above the others, and rises, because fine-tuning starts above what guessing would give: of
the 76 runs of the study at the scale `tiny` and 206 at `small`, none has a median that rises by more than 0.23 nats,
and single losses rise by up to 1.3. Loss spikes of large models are shorter than PATIENCE / 2 updates or recover as well.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.training.state import local

PATIENCE = 25  # updates
RISE = 2.0  # nats
SAME = 1e-6  # difference between outputs, as a share of the largest, that is none: of the order of fp32's rounding


class LossWatch:
    """Looks at every loss. Raises FloatingPointError for one that is not finite, and for a loss that has exploded.

    `key`: the setting with the learning rate's peak.
    """

    def __init__(self, key: str):
        self.key = key
        self.recent: deque[float] = deque(maxlen=PATIENCE)
        self.lowest = math.inf

    def look(self, step: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {step}; lower the peak learning rate ({self.key})")
        # Until there is a median, the first loss stands for the lowest one: a run that explodes at once is noticed too.
        if not self.recent:
            self.lowest = loss
        self.recent.append(loss)
        if len(self.recent) < PATIENCE:
            return
        median = sorted(self.recent)[PATIENCE // 2]
        self.lowest = min(self.lowest, median)
        if median > self.lowest + RISE:
            raise FloatingPointError(
                f"the loss has exploded from {self.lowest:.2f} to {median:.2f} (medians of {PATIENCE} steps) at step"
                f" {step}; lower the peak learning rate ({self.key})"
            )


def check_weights(model: nn.Module, step: int, key: str) -> None:
    """Raises FloatingPointError for a parameter that is not finite; of a sharded one this rank looks at its rows."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(local(parameter)).all():
            raise FloatingPointError(f"{name} is not finite after step {step}; lower the peak learning rate ({key})")


class ProjectorWatch:
    """Looks, after updates with images, whether a projector's outputs differ and whether a gradient reaches it.

    It stops looking when it has seen both, and starts anew every PATIENCE updates: a healthy run pays for few of them.
    """

    def __init__(self, projector: nn.Module):
        self.projector = projector
        self.updates, self.varies, self.reached, self.judged = 0, False, False, False
        projector.register_forward_hook(self.see)

    def see(self, projector: nn.Module, features: tuple[Tensor, ...], output: Tensor) -> None:
        """Whether the patches [N, P, width] of a forward pass differ."""
        if not self.varies and output.numel():
            output = output.detach().float()
            # Against one patch, the first: comparing all pairs would say the same.
            apart = (output - output[:1, :1]).abs().amax()
            self.varies = bool(apart > SAME * output.abs().amax())

    def look(self, step: int, everywhere: Callable[[Tensor], None]) -> None:
        """After the backward pass of an update with images. Arguments and errors are those of `judge`."""
        weight = next(self.projector.parameters())  # of the first layer: a gradient there has passed all other layers
        gradient = weight.grad
        if not self.reached and gradient is not None:
            self.reached = bool(local(gradient).any())
        self.updates += 1
        if self.updates == PATIENCE:
            self.judge(step, everywhere)

    def close(self, step: int, everywhere: Callable[[Tensor], None]) -> None:
        """At the end of a run, or of what a resumed one had left, that was too short to be judged on its way."""
        if self.updates and not self.judged:
            self.judge(step, everywhere)

    def judge(self, step: int, everywhere: Callable[[Tensor], None]) -> None:
        """Decide on what was seen since the last time. `everywhere` sums a tensor over all ranks, in place.

        Raises RuntimeError for a dead projector.
        """
        device = next(self.projector.parameters()).device
        alive = torch.tensor([self.varies, self.reached], dtype=torch.int64, device=device)
        # A projector lives if any rank has seen it live: a rank may have had no image.
        everywhere(alive)
        varies, reached = alive.tolist()
        if not (varies and reached):
            what = "no gradient has reached the projector" if varies else "the projector's output has not varied"
            raise RuntimeError(f"{what} in the last {self.updates} updates with images, at step {step}: it has died")
        self.updates, self.varies, self.reached, self.judged = 0, False, False, True
