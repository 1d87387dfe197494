"""What the phase "features" is told. The study makes these settings, cards hold them, the phase reads them."""

from __future__ import annotations

from typing import Literal

from pipeline.settings.types import FeatureEncoder, Section


class FeatureSettings(Section):
    """The network, and the part of a source whose images it encodes."""

    encoder: FeatureEncoder
    part: Literal["captions", "instructions", "evaluation"]
